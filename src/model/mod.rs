//! What everybody may know: plain data, no I/O, no tokio, nothing of ours imported.
//!
//! Everything that crosses the line between the service and its clients (the screen, `run`, later the
//! control socket) is declared here and is serialisable, so a client in another process sees the same.

pub mod container;
pub mod event;
mod event_text;
pub mod grammar;
pub mod id;
pub mod mapping;
pub mod problem;
pub mod profile;
pub mod rate;
pub mod request;
pub mod untrusted;
pub mod update;
