//! What stands on the wire, as types: bytes in, a verdict out. No sockets, no clock.

pub mod http;
