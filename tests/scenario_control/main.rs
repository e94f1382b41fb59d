//! The control socket of a running program, and whoever means ill by it: other users, what they plant in its place,
//! engines that come and go, and clients that stall, flood and never read. Forwarding does not notice.

mod beside;
mod bounds;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod crowd;
mod engines;
mod ill;
mod planted;
mod strangers;
