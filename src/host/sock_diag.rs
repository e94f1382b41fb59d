//! The kernel's socket tables over netlink (`sock_diag`), as `ss` reads them.
//!
//! It says three things that `/proc/net` does not: whether an IPv6 socket takes IPv4 too, to which interface a
//! socket is bound, and the answer for one connection without walking every other. Where the kernel or a sandbox
//! has no `sock_diag`, [`super::sockets`] falls back to `/proc/net`. Messages are built and read byte by byte
//! (`linux/inet_diag.h`), so no `unsafe` is needed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::libc;

use super::netlink::{Attributes, Netlink, u32_at};
use super::sockets::{Socket, State};
use super::tcp::{Condition, TcpSocket, program};
use crate::model::mapping::{Family, Protocol};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// `inet_diag_req_v2` and `inet_diag_msg`, up to their end.
const REQUEST: usize = 56;
const MESSAGE: usize = 72;

/// An open netlink socket.
pub(super) struct SockDiag(Netlink);

impl SockDiag {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(Netlink::open(libc::NETLINK_SOCK_DIAG)?))
    }

    /// Every socket of a family in one of `states` (a bit each), of one local port if `port` is given.
    pub(super) fn dump(
        &mut self,
        family: Family,
        protocol: Protocol,
        states: u32,
        port: Option<u16>,
    ) -> io::Result<Vec<Socket>> {
        let mut request = Request::new(family, protocol, states);
        request.port(port.unwrap_or(0));
        let mut sockets = Vec::new();
        self.0.dump(SOCK_DIAG_BY_FAMILY, &request.0, |message| {
            sockets.push(socket(message).ok_or_else(unknown_form)?);
            Ok(())
        })?;
        Ok(sockets)
    }

    /// TCP sockets of a family in one of `states` (a bit each) for which one of `conditions` holds, with their
    /// counters. The kernel leaves the others out.
    pub(super) fn dump_tcp(
        &mut self,
        family: Family,
        states: u32,
        conditions: &[Condition],
    ) -> io::Result<Vec<TcpSocket>> {
        let mut request = Request::new(family, Protocol::Tcp, states);
        request.0[2] = 1 << (INET_DIAG_INFO - 1);
        let mut body = request.0.to_vec();
        if let Some(program) = program(conditions) {
            body.extend(u16::try_from(program.len() + 4).unwrap_or(u16::MAX).to_ne_bytes());
            body.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
            body.extend(program);
        }
        let mut sockets = Vec::new();
        self.0.dump(SOCK_DIAG_BY_FAMILY, &body, |message| {
            sockets.push(tcp_socket(message).ok_or_else(unknown_form)?);
            Ok(())
        })?;
        Ok(sockets)
    }

    /// The socket on this machine with these two ends.
    pub(super) fn find(
        &mut self,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> io::Result<Option<Socket>> {
        let mut request = Request::new(Family::of(local.ip()), protocol, u32::MAX);
        // For UDP the kernel reads the two ends the other way round ("swapped for historical reasons").
        if protocol == Protocol::Udp {
            request.ends(remote, local);
        } else {
            request.ends(local, remote);
        }
        let found = match self.0.ask(SOCK_DIAG_BY_FAMILY, &request.0) {
            Ok(Some(message)) => socket(message).ok_or_else(unknown_form)?,
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => return Ok(None),
        };
        // A lookup that finds no connection goes on to listeners and unconnected sockets.
        let is_it = found.local.port() == local.port()
            && (found.remote.port() == remote.port() || (protocol == Protocol::Udp && found.remote.port() == 0));
        Ok(is_it.then_some(found))
    }
}

/// `inet_diag_req_v2`.
struct Request([u8; REQUEST]);

impl Request {
    fn new(family: Family, protocol: Protocol, states: u32) -> Self {
        let mut bytes = [0; REQUEST];
        bytes[0] = u8::try_from(if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or(0);
        bytes[1] = u8::try_from(match protocol {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
            Protocol::Sctp => libc::IPPROTO_SCTP,
        })
        .unwrap_or(0);
        bytes[4..8].copy_from_slice(&states.to_ne_bytes());
        // INET_DIAG_NOCOOKIE: any socket of that address.
        bytes[48..56].fill(0xff);
        Self(bytes)
    }

    fn port(&mut self, port: u16) {
        self.0[8..10].copy_from_slice(&port.to_be_bytes());
    }

    fn ends(&mut self, source: SocketAddr, destination: SocketAddr) {
        self.port(source.port());
        self.0[10..12].copy_from_slice(&destination.port().to_be_bytes());
        for (at, ip) in [(12, source.ip()), (28, destination.ip())] {
            match ip {
                IpAddr::V4(ip) => self.0[at..at + 4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => self.0[at..at + 16].copy_from_slice(&ip.octets()),
            }
        }
        if let SocketAddr::V6(v6) = source {
            self.0[44..48].copy_from_slice(&v6.scope_id().to_ne_bytes());
        }
    }
}

fn unknown_form() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a sock_diag message of unknown form")
}

/// Reads an `inet_diag_msg` with its attributes.
pub(super) fn socket(message: &[u8]) -> Option<Socket> {
    let family = i32::from(*message.first()?);
    let interface = u32_at(message, 40)?;
    let end = |port_at: usize, ip_at: usize| -> Option<SocketAddr> {
        let port = u16::from_be_bytes(message.get(port_at..port_at + 2)?.try_into().ok()?);
        let ip = if family == libc::AF_INET {
            Ipv4Addr::from(<[u8; 4]>::try_from(message.get(ip_at..ip_at + 4)?).ok()?).into()
        } else {
            Ipv6Addr::from(<[u8; 16]>::try_from(message.get(ip_at..ip_at + 16)?).ok()?).into()
        };
        Some(SocketAddr::new(ip, port))
    };
    let mut socket = Socket {
        local: end(4, 8)?,
        remote: end(6, 24)?,
        state: State::from_kernel(*message.get(1)?),
        uid: u32_at(message, 64)?,
        inode: u64::from(u32_at(message, 68)?),
        is_v6_only: None,
        interface: (interface != 0).then_some(interface),
    };
    let attributes = message.get(MESSAGE..)?;
    if let Some((_, flag)) = Attributes(attributes).find(|(kind, _)| *kind == INET_DIAG_SKV6ONLY) {
        socket.is_v6_only = flag.first().map(|flag| *flag != 0);
    }
    Some(socket)
}

/// The same with what was counted.
pub(super) fn tcp_socket(message: &[u8]) -> Option<TcpSocket> {
    let socket = socket(message)?;
    let info = Attributes(message.get(MESSAGE..)?).find(|(kind, _)| *kind == INET_DIAG_INFO).map(|(_, info)| info);
    let cookie = u64::from(u32_at(message, 44)?) | u64::from(u32_at(message, 48)?) << 32;
    Some(TcpSocket::read(&socket, *message.get(1)?, cookie, info))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_messages_are_errors_and_never_a_panic() {
        let mut whole = vec![0; MESSAGE + 8];
        whole[0] = 2;
        assert!(socket(&whole).is_some());
        for cut in 0..MESSAGE {
            assert!(socket(&whole[..cut]).is_none(), "{cut}");
        }
    }
}
