//! Who listens in a network namespace: sockets with their queues, by `sock_diag` in this namespace or, as root, in
//! another one; else by the tables in `/proc/PID/net`, which anybody may read but which say less.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use nix::libc;

use super::namespace::within;
use super::netlink::{Netlink, attribute, ip, u32_at};
use super::processes::owners;
use crate::model::container::InsideListener;
use crate::model::mapping::{Family, Protocol};
use crate::model::untrusted::SafeText;

/// Most listeners that are told of one namespace.
const MOST: usize = 1_024;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// `inet_diag_req_v2` and `inet_diag_msg`, up to their end.
const REQUEST: usize = 56;
const MESSAGE: usize = 72;

/// A listening socket (TCP), or a bound one that takes from anybody (UDP).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where, by which protocol, and who.
    pub listener: InsideListener,
    /// TCP: connections that wait to be accepted.
    pub waiting: u32,
    /// TCP: how many may wait; `None` where the source does not tell.
    pub most_waiting: Option<u32>,
    pub(super) inode: u64,
}

impl Listening {
    /// One of which no more is known.
    pub fn new(listener: InsideListener) -> Self {
        Self { listener, waiting: 0, most_waiting: None, inode: 0 }
    }
}

/// Those of this network namespace. Without process names: [`name`] adds them.
pub fn here(protocol: Protocol) -> io::Result<Vec<Listening>> {
    match by_netlink(protocol) {
        Ok(found) => Ok(found),
        Err(_) => by_proc(std::process::id(), protocol),
    }
}

/// Those of the network namespace of process `pid`; with less detail where this user may not enter it.
pub fn of(pid: u32, protocol: Protocol) -> io::Result<Vec<Listening>> {
    match within(pid, || by_netlink(protocol)) {
        Ok(Ok(found)) => Ok(found),
        _ => by_proc(pid, protocol),
    }
}

/// Adds the process of each, as far as this user may see it.
pub fn name(found: &mut [Listening]) {
    let inodes: HashSet<u64> = found.iter().map(|listening| listening.inode).filter(|inode| *inode != 0).collect();
    let owners = owners(&inodes);
    for listening in found {
        let owner = owners.get(&listening.inode);
        listening.listener.process = owner.map(|owner| SafeText::new(&format!("{} (pid {})", owner.name, owner.pid)));
    }
}

fn by_netlink(protocol: Protocol) -> io::Result<Vec<Listening>> {
    // UDP has no state but this one (7, CLOSE) for a socket without a peer.
    let (number, states) = match protocol {
        Protocol::Tcp => (libc::IPPROTO_TCP, 1u32 << 10),
        Protocol::Udp => (libc::IPPROTO_UDP, 1u32 << 7),
        Protocol::Sctp => (libc::IPPROTO_SCTP, 1u32 << 10),
    };
    let mut netlink = Netlink::open(libc::NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut body = [0u8; REQUEST];
        body[0] = u8::try_from(family).unwrap_or(0);
        body[1] = u8::try_from(number).unwrap_or(0);
        body[4..8].copy_from_slice(&states.to_ne_bytes());
        // INET_DIAG_NOCOOKIE: any socket of that address.
        body[48..56].fill(0xff);
        match netlink.table(SOCK_DIAG_BY_FAMILY, &body) {
            Ok(messages) => found.extend(messages.iter().filter_map(|message| listening(message, protocol))),
            // A kernel without IPv6 or without this protocol has no such table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sorted(found))
}

/// Reads an `inet_diag_msg` with its attributes.
pub(super) fn listening(message: &[u8], protocol: Protocol) -> Option<Listening> {
    let size = if i32::from(*message.first()?) == libc::AF_INET { 4 } else { 16 };
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let address = SocketAddr::new(ip(message.get(8..8 + size)?)?, port);
    let (waiting, most) = (u32_at(message, 56)?, u32_at(message, 60)?);
    let inode = u64::from(u32_at(message, 68)?);
    let flag = attribute(message.get(MESSAGE..)?, INET_DIAG_SKV6ONLY).and_then(<[u8]>::first);
    let listener = InsideListener { address, protocol, is_v6_only: flag.map(|flag| *flag != 0), process: None };
    let is_stream = protocol != Protocol::Udp;
    Some(Listening {
        listener,
        waiting: if is_stream { waiting } else { 0 },
        most_waiting: is_stream.then_some(most),
        inode,
    })
}

fn by_proc(pid: u32, protocol: Protocol) -> io::Result<Vec<Listening>> {
    let process = i32::try_from(pid).ok().and_then(|pid| procfs::process::Process::new(pid).ok());
    let process = process.ok_or(io::ErrorKind::NotFound)?;
    let entry = |address: SocketAddr, waiting: u32, inode: u64| {
        let listener = InsideListener { address, protocol, is_v6_only: None, process: None };
        Listening { waiting, inode, ..Listening::new(listener) }
    };
    let found = match protocol {
        Protocol::Tcp => {
            let v4 = process.tcp().map_err(io::Error::other)?;
            let all = v4.into_iter().chain(process.tcp6().unwrap_or_default());
            let listening = all.filter(|socket| socket.state == procfs::net::TcpState::Listen);
            listening.map(|socket| entry(socket.local_address, socket.rx_queue, socket.inode)).collect()
        }
        Protocol::Udp => {
            let v4 = process.udp().map_err(io::Error::other)?;
            let all = v4.into_iter().chain(process.udp6().unwrap_or_default());
            let without_peer = all.filter(|socket| socket.remote_address.port() == 0);
            without_peer.map(|socket| entry(socket.local_address, 0, socket.inode)).collect()
        }
        Protocol::Sctp => Vec::new(),
    };
    Ok(sorted(found))
}

fn sorted(mut found: Vec<Listening>) -> Vec<Listening> {
    found.sort_by_key(|listening| (listening.listener.address.port(), listening.listener.address));
    found.truncate(MOST);
    found
}

/// Whether a socket that listens at `listener` takes what is sent to `target`; `None` where it cannot be told.
pub fn takes(listener: &InsideListener, target: SocketAddr) -> Option<bool> {
    if listener.address.port() != target.port() {
        return Some(false);
    }
    let (theirs, ip) = (listener.address.ip(), target.ip());
    match (Family::of(theirs), Family::of(ip)) {
        (Family::V4, Family::V4) | (Family::V6, Family::V6) => Some(theirs.is_unspecified() || theirs == ip),
        (Family::V6, Family::V4) if theirs.to_canonical() != theirs => Some(theirs.to_canonical() == ip),
        (Family::V6, Family::V4) if theirs.is_unspecified() => listener.is_v6_only.map(|only| !only),
        (Family::V4, Family::V6) | (Family::V6, Family::V4) => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn both_sources_find_a_listener_and_the_queue_that_waits_for_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let client = TcpStream::connect(address).expect("connect");
        let udp = UdpSocket::bind("[::1]:0").expect("bind");
        for found in [here(Protocol::Tcp), by_proc(std::process::id(), Protocol::Tcp)] {
            let mut found = found.expect("tables");
            found.retain(|listening| listening.listener.address == address);
            assert_eq!((found.len(), found[0].waiting), (1, 1), "{found:?}");
            assert!(found[0].most_waiting.is_none_or(|most| most >= 1), "{found:?}");
            name(&mut found);
            let process = found[0].listener.process.clone().expect("this process");
            assert!(process.as_str().ends_with(&format!("(pid {})", std::process::id())), "{process}");
        }
        for found in [here(Protocol::Udp), by_proc(std::process::id(), Protocol::Udp)] {
            let found = found.expect("tables");
            assert!(found.iter().any(|one| Some(one.listener.address) == udp.local_addr().ok()), "{found:?}");
        }
        drop(client);
    }

    #[test]
    fn what_a_listener_takes_depends_on_its_address_and_on_v6only() {
        let cases = [
            ("0.0.0.0:80", None, "192.0.2.1:80", Some(true)),
            ("0.0.0.0:80", None, "192.0.2.1:81", Some(false)),
            ("0.0.0.0:80", None, "[2001:db8::1]:80", Some(false)),
            ("127.0.0.1:80", None, "192.0.2.1:80", Some(false)),
            ("[::]:80", Some(false), "192.0.2.1:80", Some(true)),
            ("[::]:80", Some(true), "192.0.2.1:80", Some(false)),
            ("[::]:80", None, "192.0.2.1:80", None),
            ("[::]:80", None, "[2001:db8::1]:80", Some(true)),
            ("[::ffff:192.0.2.1]:80", None, "192.0.2.1:80", Some(true)),
            ("[::1]:80", None, "192.0.2.1:80", Some(false)),
        ];
        for (address, is_v6_only, target, expected) in cases {
            let listener = InsideListener {
                address: address.parse().expect("address"),
                protocol: Protocol::Tcp,
                is_v6_only,
                process: None,
            };
            assert_eq!(takes(&listener, target.parse().expect("address")), expected, "{address} {target}");
        }
    }

    #[test]
    fn cut_messages_are_no_listeners() {
        let whole = vec![2; MESSAGE];
        assert!(listening(&whole, Protocol::Tcp).is_some());
        for cut in 0..MESSAGE {
            assert_eq!(listening(&whole[..cut], Protocol::Tcp), None, "{cut}");
        }
    }
}
