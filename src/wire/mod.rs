//! Bytes as others send and expect them, to types and back. Pure: it knows no socket, no clock and no engine.

pub(crate) mod fuzzing;
pub mod http;
pub mod proxy;
