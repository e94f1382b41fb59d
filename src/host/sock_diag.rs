//! The kernel's socket tables over netlink (`sock_diag`), as `ss` reads them.
//!
//! It says three things that `/proc/net` does not: whether an IPv6 socket takes IPv4 too, to which interface a
//! socket is bound, and the answer for one connection without walking every other. Where the kernel or a sandbox
//! has no `sock_diag`, [`super::sockets`] falls back to `/proc/net`. Messages are built and read byte by byte
//! (`linux/inet_diag.h`), so no `unsafe` is needed.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol as SocketProtocol, Socket as RawSocket, Type};

use super::sockets::{Socket, State};
use crate::model::mapping::{Family, Protocol};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// `nlmsghdr`.
const HEADER: usize = 16;
/// `inet_diag_req_v2` and `inet_diag_msg`, up to their end.
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
/// The kernel fills at most 32 KiB a message; a larger buffer is never cut.
const BUFFER: usize = 64 * 1024;
/// The kernel answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// An open netlink socket.
pub(super) struct SockDiag {
    socket: RawSocket,
    buffer: Vec<u8>,
}

impl SockDiag {
    pub(super) fn open() -> io::Result<Self> {
        let socket = RawSocket::new(
            Domain::from(libc::AF_NETLINK),
            Type::DGRAM,
            Some(SocketProtocol::from(libc::NETLINK_SOCK_DIAG)),
        )?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
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
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
        self.send(&request, flags)?;
        let mut sockets = Vec::new();
        loop {
            let read = self.socket.read(&mut self.buffer)?;
            for message in Messages(&self.buffer[..read]) {
                match message? {
                    Message::Socket(socket) => sockets.push(socket),
                    Message::Done => return Ok(sockets),
                }
            }
        }
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
        self.send(&request, libc::NLM_F_REQUEST)?;
        let read = self.socket.read(&mut self.buffer)?;
        let found = match Messages(&self.buffer[..read]).next() {
            Some(Ok(Message::Socket(socket))) => socket,
            Some(Err(error)) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => return Ok(None),
        };
        // A lookup that finds no connection goes on to listeners and unconnected sockets.
        let is_it = found.local.port() == local.port()
            && (found.remote.port() == remote.port() || (protocol == Protocol::Udp && found.remote.port() == 0));
        Ok(is_it.then_some(found))
    }

    fn send(&mut self, request: &Request, flags: i32) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + REQUEST);
        message.extend(u32::try_from(HEADER + REQUEST).unwrap_or(u32::MAX).to_ne_bytes());
        message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend(u16::try_from(flags).unwrap_or(0).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(request.0);
        self.socket.write_all(&message)
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

enum Message {
    Socket(Socket),
    Done,
}

/// The messages in one datagram of the kernel.
struct Messages<'a>(&'a [u8]);

impl Iterator for Messages<'_> {
    type Item = io::Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32_at(self.0, 0)? as usize;
        let kind = u16_at(self.0, 4)?;
        let message = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(match i32::from(kind) {
            libc::NLMSG_DONE => Ok(Message::Done),
            libc::NLMSG_ERROR => {
                let code = u32_at(message, 0).unwrap_or(0).cast_signed();
                if code == 0 { Ok(Message::Done) } else { Err(io::Error::from_raw_os_error(-code)) }
            }
            _ => socket(message)
                .map(Message::Socket)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a sock_diag message of unknown form")),
        })
    }
}

/// Reads an `inet_diag_msg` with its attributes.
fn socket(message: &[u8]) -> Option<Socket> {
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
    let mut attributes = message.get(MESSAGE..)?;
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        if kind == INET_DIAG_SKV6ONLY {
            socket.is_v6_only = attributes.get(4).map(|flag| *flag != 0);
        }
        let next = usize::from(length).max(4).next_multiple_of(4);
        attributes = attributes.get(next..).unwrap_or_default();
    }
    Some(socket)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_and_absurd_messages_are_errors_and_never_a_panic() {
        let mut whole = vec![0; HEADER + MESSAGE + 8];
        let length = u32::try_from(whole.len()).expect("small");
        whole[..4].copy_from_slice(&length.to_ne_bytes());
        whole[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        whole[HEADER] = 2;
        assert!(matches!(Messages(&whole).next(), Some(Ok(Message::Socket(_)))));
        for cut in 0..whole.len() {
            assert!(!matches!(Messages(&whole[..cut]).next(), Some(Ok(_))), "{cut}");
        }
        for length in [0u32, 1, 15, 16, 17, 26, u32::MAX] {
            whole[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(!matches!(Messages(&whole).next(), Some(Ok(_))), "{length}");
        }
    }
}
