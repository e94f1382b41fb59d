//! Bound sockets without connections of their own, such as those of UDP, and who holds a socket.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use super::processes::owners;
use super::sockets::{Which, list};
use crate::model::mapping::Protocol;
use crate::model::untrusted::SafeText;

/// A socket that is bound, and perhaps connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// This end.
    pub local: SocketAddr,
    /// The other end; port 0 while there is none.
    pub remote: SocketAddr,
    /// The number under which a process holds it.
    pub inode: u64,
    /// Whether it leaves IPv4 alone, of an IPv6 one.
    pub is_v6_only: Option<bool>,
}

/// The process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its command name.
    pub name: SafeText,
}

impl Holder {
    /// Whether it is this program itself.
    pub fn is_this_program(&self) -> bool {
        self.pid == std::process::id()
    }
}

/// Listeners of TCP; every bound socket of other protocols.
pub fn bound(protocol: Protocol) -> io::Result<Vec<Bound>> {
    let sockets = list(protocol, Which::Holding, None)?.into_iter();
    let bound = sockets.map(|socket| Bound {
        local: socket.local,
        remote: socket.remote,
        inode: socket.inode,
        is_v6_only: socket.is_v6_only,
    });
    Ok(bound.collect())
}

/// Who holds each of these sockets, as far as this user may see it.
pub fn holders(inodes: impl IntoIterator<Item = u64>) -> HashMap<u64, Holder> {
    let owners = owners(&inodes.into_iter().collect()).into_iter();
    owners.map(|(inode, process)| (inode, Holder { pid: process.pid, name: process.name })).collect()
}
