//! What this machine says of itself: who holds a port, which process a local client is, which addresses there
//! are, what the kernel allows, and what becomes of packets: routes, drops, the rules of the packet filter, and who
//! listens inside a container.
//!
//! It knows `model` alone. Everything here only reads: no function binds, connects or sends to anybody (fault 28),
//! so asking about a port can neither take it nor touch who serves there. What is changed, on demand, is the one route of
//! [`alias_route`]. All of it is synchronous and may take
//! some milliseconds on a busy machine: the service calls it from `spawn_blocking`, but for [`addresses`] and the two
//! small files of [`machine`], which are read in place.

pub mod addresses;
pub mod alias_route;
pub mod bound;
pub mod conntrack;
pub mod drops;
pub(crate) mod fuzzing;
pub mod holders;
pub mod inside;
pub mod limits;
pub mod listeners;
pub mod machine;
pub mod namespace;
mod netlink;
pub mod packet_filter;
pub mod processes;
pub mod proxies;
pub mod refusals;
pub mod routes;
mod sock_diag;
mod sockets;
pub mod tcp;
