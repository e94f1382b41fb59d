//! What `portolan run --json` tells of 10,000 TCP and 10,000 UDP peers, held against what they received themselves,
//! some of them reset, stopped or evicted midway (fault 24).

#[path = "../common/mod.rs"]
mod common;
mod ledger;
#[path = "../common/sockets.rs"]
mod sockets;
mod tcp;
mod udp;
