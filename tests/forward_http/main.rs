//! Requests passed on one by one (`identity: http`), over real sockets and against servers that do exactly as they are
//! told: who says what, in which order, and how it ends.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod bodies;
mod ends;
mod http2;
mod http2_requests;
mod http2_resets;
mod inspect;
mod requests;
#[path = "../common/sockets.rs"]
mod sockets;
mod support;
mod upgrades;
