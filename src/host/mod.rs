//! What this machine says of itself: who holds a port, which process a local client is, which addresses there
//! are, and what the kernel allows.
//!
//! It knows `model` alone. Everything here only reads: no function binds, connects or sends to anybody (fault 28),
//! so asking about a port can neither take it nor touch who serves there. All of it is synchronous and may take
//! some milliseconds on a busy machine: the service calls it from `spawn_blocking`.

pub mod addresses;
pub mod bound;
pub mod conntrack;
pub mod holders;
pub mod limits;
pub mod machine;
mod netlink;
pub mod processes;
pub mod proxies;
mod sock_diag;
mod sockets;
pub mod tcp;
