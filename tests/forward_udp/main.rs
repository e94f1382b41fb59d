//! UDP forwarding over real sockets, both families.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod bursts;
mod delivery;
mod headed;
mod lifetime;
mod limits;
mod runs;
mod support;
