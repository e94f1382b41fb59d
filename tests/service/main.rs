//! The service as its clients see it: requests in, updates out, the profile always as desired.

#[path = "../common/docker_fake.rs"]
mod docker_fake;

mod changes;
mod rows;
mod world;
