//! The sockets of this network namespace, out of `sock_diag` or, where there is none, out of `/proc/net`.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::sock_diag::SockDiag;
use crate::model::mapping::{Family, Protocol};

/// A socket as the kernel's tables tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) local: SocketAddr,
    /// Port 0 while it has no peer.
    pub(super) remote: SocketAddr,
    pub(super) state: State,
    pub(super) uid: u32,
    /// 0 for a socket of the kernel itself, and for TCP's leftovers (`TIME_WAIT`).
    pub(super) inode: u64,
    /// Of an IPv6 socket: whether it leaves IPv4 alone. `None` where the source does not tell.
    pub(super) is_v6_only: Option<bool>,
    /// It takes only what arrives by this interface.
    pub(super) interface: Option<u32>,
}

/// The states that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Listen,
    TimeWait,
    Other,
}

impl State {
    pub(super) fn from_kernel(number: u8) -> Self {
        match number {
            10 => Self::Listen,
            6 => Self::TimeWait,
            _ => Self::Other,
        }
    }
}

/// Which sockets to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Those that hold their port against a new listener for sure: listening ones for TCP, bound ones for UDP.
    Holding,
    /// Every one; among TCP connections are those whose port a bind may be refused for.
    All,
}

/// Sockets of both families; only those of one local port when `port` is given.
pub(super) fn list(protocol: Protocol, which: Which, port: Option<u16>) -> io::Result<Vec<Socket>> {
    match list_by_netlink(protocol, which, port) {
        Ok(sockets) => Ok(sockets),
        // Neither table is there: this kernel has no SCTP, so nobody holds a port of it.
        Err(_) if protocol == Protocol::Sctp => Ok(Vec::new()),
        Err(_) => list_by_proc(protocol, which, port),
    }
}

fn list_by_netlink(protocol: Protocol, which: Which, port: Option<u16>) -> io::Result<Vec<Socket>> {
    const LISTEN: u32 = 1 << 10;
    let states = if which == Which::Holding && protocol == Protocol::Tcp { LISTEN } else { u32::MAX };
    let mut diag = SockDiag::open()?;
    let mut sockets = diag.dump(Family::V4, protocol, states, port)?;
    match diag.dump(Family::V6, protocol, states, port) {
        Ok(v6) => sockets.extend(v6),
        // A kernel without IPv6 has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

pub(super) fn list_by_proc(protocol: Protocol, which: Which, port: Option<u16>) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    if protocol == Protocol::Tcp {
        for entry in
            procfs::net::tcp().map_err(io::Error::other)?.into_iter().chain(procfs::net::tcp6().unwrap_or_default())
        {
            sockets.push(Socket {
                local: entry.local_address,
                remote: entry.remote_address,
                state: State::from_kernel(entry.state.to_u8()),
                uid: entry.uid,
                inode: entry.inode,
                is_v6_only: None,
                interface: None,
            });
        }
    } else {
        for entry in
            procfs::net::udp().map_err(io::Error::other)?.into_iter().chain(procfs::net::udp6().unwrap_or_default())
        {
            sockets.push(Socket {
                local: entry.local_address,
                remote: entry.remote_address,
                state: State::Other,
                uid: entry.uid,
                inode: entry.inode,
                is_v6_only: None,
                interface: None,
            });
        }
    }
    sockets.retain(|socket| {
        port.is_none_or(|port| socket.local.port() == port)
            && (which == Which::All || protocol != Protocol::Tcp || socket.state == State::Listen)
    });
    guess_v6_only(&mut sockets);
    Ok(sockets)
}

/// `/proc/net` does not say V6ONLY. A wildcard IPv6 socket takes IPv4 too unless a wildcard IPv4 socket stands
/// beside it on the same port, which the kernel allows only when the IPv6 one leaves IPv4 alone. (A V6ONLY
/// socket that stands alone is thereby taken for one in the way: the safe side, since the bind itself decides.)
fn guess_v6_only(sockets: &mut [Socket]) {
    let v4_wildcards: Vec<u16> = sockets
        .iter()
        .filter(|socket| socket.local.ip() == IpAddr::from([0, 0, 0, 0]))
        .map(|socket| socket.local.port())
        .collect();
    for socket in sockets {
        if socket.local.is_ipv6() && socket.local.ip().is_unspecified() {
            socket.is_v6_only = Some(v4_wildcards.contains(&socket.local.port()));
        }
    }
}

/// Looks single connections up.
pub(super) enum Finder {
    Netlink(SockDiag),
    Proc(Vec<Socket>),
}

impl Finder {
    pub(super) fn open(protocol: Protocol) -> io::Result<Self> {
        match SockDiag::open() {
            Ok(diag) => Ok(Self::Netlink(diag)),
            Err(_) => Ok(Self::Proc(list_by_proc(protocol, Which::All, None)?)),
        }
    }

    /// The socket on this machine with these two ends.
    pub(super) fn find(&mut self, protocol: Protocol, local: SocketAddr, remote: SocketAddr) -> Option<Socket> {
        if let Self::Netlink(diag) = self {
            match diag.find(protocol, local, remote) {
                Ok(found) => return found,
                Err(_) => *self = Self::Proc(list_by_proc(protocol, Which::All, None).unwrap_or_default()),
            }
        }
        let Self::Proc(table) = self else { return None };
        table.iter().find(|socket| has_ends(socket, local, remote)).cloned()
    }
}

fn has_ends(socket: &Socket, local: SocketAddr, remote: SocketAddr) -> bool {
    let same = |seen: SocketAddr, asked: SocketAddr| {
        seen.port() == asked.port() && seen.ip().to_canonical() == asked.ip().to_canonical()
    };
    let unbound = |seen: SocketAddr, asked: SocketAddr| seen.port() == asked.port() && seen.ip().is_unspecified();
    (same(socket.local, local) && same(socket.remote, remote))
        || (socket.remote.port() == 0 && (same(socket.local, local) || unbound(socket.local, local)))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn both_sources_tell_the_same_of_a_listener() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("bind");
            let local = listener.local_addr().expect("address");
            let netlink = list_by_netlink(Protocol::Tcp, Which::Holding, Some(local.port()));
            let proc = list_by_proc(Protocol::Tcp, Which::Holding, Some(local.port())).expect("proc");
            assert_eq!(proc.len(), 1, "{proc:?}");
            assert_eq!(proc[0].local, local);
            if let Ok(netlink) = netlink {
                assert_eq!(netlink.len(), 1, "{netlink:?}");
                assert_eq!((netlink[0].local, netlink[0].inode), (proc[0].local, proc[0].inode));
            }
        }
    }

    #[test]
    fn finds_the_clients_end_by_either_source() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (local, remote) = (client.local_addr().expect("local"), client.peer_addr().expect("peer"));
        let by_proc = Finder::Proc(list_by_proc(Protocol::Tcp, Which::All, None).expect("proc"))
            .find(Protocol::Tcp, local, remote)
            .expect("in /proc/net/tcp");
        assert_eq!(by_proc.local, local);
        let found = Finder::open(Protocol::Tcp).expect("open").find(Protocol::Tcp, local, remote).expect("found");
        assert_eq!((found.local, found.remote, found.inode), (local, remote, by_proc.inode));
        // A connection that does not exist is not answered with the listener.
        let nobody = SocketAddr::new(local.ip(), 1);
        assert_eq!(Finder::open(Protocol::Tcp).expect("open").find(Protocol::Tcp, remote, nobody), None);
    }

    #[test]
    fn finds_udp_clients_connected_or_not() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
        for connected in [true, false] {
            let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
            if connected {
                client.connect(server).expect("connect");
            }
            let local = client.local_addr().expect("local");
            let found = Finder::open(Protocol::Udp).expect("open").find(Protocol::Udp, local, server);
            assert_eq!(found.expect("found").local, local, "connected: {connected}");
        }
    }

    #[test]
    fn a_lone_wildcard_is_taken_for_dual_stack_and_one_beside_ipv4_is_not() {
        let socket = |local: &str| Socket {
            local: local.parse().expect("address"),
            remote: "0.0.0.0:0".parse().expect("address"),
            state: State::Listen,
            uid: 0,
            inode: 1,
            is_v6_only: None,
            interface: None,
        };
        let mut sockets = [socket("[::]:80"), socket("[::]:81"), socket("0.0.0.0:81"), socket("[::1]:82")];
        guess_v6_only(&mut sockets);
        assert_eq!(sockets.map(|socket| socket.is_v6_only), [Some(false), Some(true), None, None]);
    }
}
