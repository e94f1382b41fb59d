//! UDP: datagrams from clients to the target and back, as flows.
//!
//! A flow is a client's address and the address that it dialled. One task for each listening socket owns all of
//! its flows and their sockets ([`serve`]); what a flow may cost and who gives way is decided by a table without
//! sockets or clock. It knows where the target is from its context alone and binds nothing but what it is told.
//!
//! - Datagrams are received many at a time, and those of one flow and size leave in one send ([`runs`]), with the help
//!   of the kernel where it has it (`UDP_GRO`, `UDP_SEGMENT`) and singly where it has not. Boundaries are kept either way.
//! - A flow keeps the target that it was opened with. When that address is no longer the mapping's **and** the
//!   target fails, or leaves the client without a reply for two seconds, or never answered at all, the client's
//!   next datagram closes the flow (`target_unreachable`) and opens another towards the new address: UDP has no
//!   reset, so a client that keeps its port would else speak to a dead address for ever.
//! - While the target has no address, datagrams without a flow are dropped and counted.
//! - The source port of a flow that ends while a reply may be on its way to it is kept from others for a second, as
//!   far as descriptors allow ([`held`]), or the reply would reach another client.
//! - A mapping with the identity `proxy-v2` puts a PROXY header ahead of each datagram to the target, made once for each
//!   flow; a flow keeps the one that it was opened with. Replies have none, either way.
//! - A mapping with `accept_proxy` takes the header off each datagram ([`headed`]): what one has to begin with is the
//!   mapping's word as of its arrival, also where its flow has stood before.
//! - Draining keeps the listening socket, since the replies of its flows leave from it; new clients are dropped.

mod admit;
mod flow;
mod headed;
mod held;
mod packet;
mod poller;
mod replies;
mod runs;
mod sending;
mod serve;
mod sources;
mod table;

pub use held::HeldPorts;
pub use packet::bind;
pub(super) use packet::prepare;
pub use serve::{Trouble, serve};
pub use sources::FlowSources;
