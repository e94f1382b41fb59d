//! What everybody may know: plain data, no I/O, no tokio, nothing of ours imported.
//!
//! Everything that crosses the line between the service and its clients (the screen, `run`, later the
//! control socket) is declared here and is serialisable, so a client in another process sees the same.

pub mod alias;
pub mod assemble;
pub mod cidr;
pub mod config;
pub mod container;
pub mod count;
pub mod cycle;
pub mod duration;
pub mod engine;
pub mod event;
mod event_text;
pub mod exchange;
pub mod filter;
pub mod format;
pub(crate) mod fuzzing;
pub mod grammar;
pub mod id;
pub mod identity;
pub mod listeners;
pub mod mapping;
pub mod metrics;
pub mod name;
pub mod narrator;
pub mod paste;
pub mod pattern;
pub mod problem;
pub mod profile;
pub mod profile_read;
pub mod profile_write;
pub mod rate;
pub mod report;
pub mod request;
pub mod row;
pub mod schema;
pub mod speech;
mod syntax;
mod text_schema;
pub mod untrusted;
pub mod update;
