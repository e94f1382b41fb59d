//! The control socket: HTTP and JSON over a unix socket, for screens and scripts in other processes.
//!
//! [`place`] says where the socket of an engine lies and who may lie there; [`server`] takes clients in, within
//! bounds: [`seats`] knows who has a place and who makes way, [`stage`] what each is at, [`lists`] whose turn it is to
//! be told of thousands of connections. [`routes`] are the resources, made of the types of `model`, and [`document`]
//! says so to programs, as `OpenAPI`; [`stream`] sends updates and events as they come; [`metrics_port`] is the one of
//! them that speaks TCP, if that is asked for, to those whom [`scrapers`] lets in. On the other side [`client`] makes a
//! [`crate::service::Handle`] of a socket, which behaves as the one in the engine's own process does.
//!
//! All of it is one more client of the service, on a thread of its own: whatever comes over the socket, the
//! forwarder's threads do not wait for it.

pub mod client;
mod document;
mod door_error;
mod extract;
mod lists;
pub mod metrics_port;
pub mod place;
mod refused;
mod routes;
mod rows;
mod scrapers;
mod seats;
pub mod server;
mod stage;
mod stream;

pub use client::{Attached, attach};
pub use metrics_port::serve_metrics;
pub use place::{Door, DoorError, Folder};
pub use routes::openapi;
pub use server::{CLIENTS, serve};
