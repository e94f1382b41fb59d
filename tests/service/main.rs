//! The service as its clients see it: requests in, updates out, the profile always as desired.

#[path = "../common/docker_fake.rs"]
mod docker_fake;
#[path = "../common/echo.rs"]
mod echo;
#[path = "../common/ports.rs"]
mod ports;

mod changes;
mod file;
mod handed;
mod metrics;
mod place;
mod rows;
mod starts;
mod world;
