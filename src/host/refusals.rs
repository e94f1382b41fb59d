//! Hears what routers and firewalls on the way say when they refuse to pass a packet on (ICMP, "administratively
//! prohibited"). A TCP socket is told only that its target cannot be reached, so this needs root.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

/// Most messages that are read.
const MOST: usize = 256;

/// Hears from now on. It belongs to the network namespace in which it was opened.
#[derive(Debug)]
pub struct Refusals(Socket);

impl Refusals {
    /// Listens for refusals of packets of that family.
    pub fn listen(target: SocketAddr) -> io::Result<Self> {
        let (domain, protocol) =
            if target.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
        let socket = Socket::new(domain, Type::from(libc::SOCK_RAW).nonblocking(), Some(protocol))?;
        Ok(Self(socket))
    }

    /// Who has refused a packet to `target` since.
    pub fn of(&mut self, target: SocketAddr) -> Option<IpAddr> {
        let mut buffer = [0; 2048];
        for _ in 0..MOST {
            let found = match target {
                SocketAddr::V4(_) => {
                    let count = self.0.read(&mut buffer).ok()?;
                    v4(&buffer[..count], target)
                }
                SocketAddr::V6(_) => {
                    let (count, from) = self.peer_read(&mut buffer)?;
                    v6(&buffer[..count], target).then_some(from.into())
                }
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// IPv6 sockets give no header, but say who sent.
    fn peer_read(&self, buffer: &mut [u8]) -> Option<(usize, Ipv6Addr)> {
        use std::os::fd::AsRawFd;
        let (count, from) =
            nix::sys::socket::recvfrom::<nix::sys::socket::SockaddrIn6>(self.0.as_raw_fd(), buffer).ok()?;
        Some((count, from?.ip()))
    }
}

/// An IPv4 packet of ICMP that holds the start of the packet that was refused.
pub(super) fn v4(packet: &[u8], target: SocketAddr) -> Option<IpAddr> {
    let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let message = packet.get(usize::from(packet.first()? & 0x0f) * 4..)?;
    // Unreachable: network, host or communication prohibited.
    let is_refusal = message.first() == Some(&3) && matches!(message.get(1), Some(9 | 10 | 13));
    let refused = message.get(8..)?;
    let to: [u8; 4] = refused.get(16..20)?.try_into().ok()?;
    let payload = refused.get(usize::from(refused.first()? & 0x0f) * 4..)?;
    (is_refusal && IpAddr::from(to) == target.ip() && port(payload) == Some(target.port())).then(|| from.into())
}

/// A message of ICMP for IPv6 that holds the start of the packet that was refused.
pub(super) fn v6(message: &[u8], target: SocketAddr) -> bool {
    // Unreachable: prohibited, failed a policy, or a route that rejects.
    let is_refusal = message.first() == Some(&1) && matches!(message.get(1), Some(1 | 5 | 6));
    let to = message.get(8 + 24..8 + 40).and_then(|to| <[u8; 16]>::try_from(to).ok());
    let payload = message.get(8 + 40..).unwrap_or_default();
    is_refusal && to.map(IpAddr::from) == Some(target.ip()) && port(payload) == Some(target.port())
}

/// The destination port of TCP, UDP and SCTP.
fn port(payload: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(payload.get(2..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_who_refused_and_of_which_packet() {
        let target: SocketAddr = "192.0.2.7:80".parse().expect("address");
        let header = |from: [u8; 4], to: [u8; 4]| [&[0x45][..], &[0; 11], &from, &to].concat();
        let refused = [header([192, 0, 2, 1], [192, 0, 2, 7]), vec![0x90, 0, 0, 80]].concat();
        let message = |code: u8| {
            [header([203, 0, 113, 5], [192, 0, 2, 1]), vec![3, code, 0, 0, 0, 0, 0, 0], refused.clone()].concat()
        };
        assert_eq!(v4(&message(13), target), Some("203.0.113.5".parse().expect("address")));
        assert_eq!(v4(&message(1), target), None);
        assert_eq!(v4(&message(13), "192.0.2.7:81".parse().expect("address")), None);
        for cut in 0..message(13).len() {
            assert_eq!(v4(&message(13)[..cut], target), None, "{cut}");
        }

        let target: SocketAddr = "[2001:db8::7]:80".parse().expect("address");
        let SocketAddr::V6(v6_target) = target else { panic!("{target}") };
        let refused = [&[0x60][..], &[0; 23], &v6_target.ip().octets(), &[0x90, 0, 0, 80]].concat();
        let message = [&[1, 1, 0, 0, 0, 0, 0, 0][..], &refused].concat();
        assert!(v6(&message, target));
        for cut in 0..message.len() {
            assert!(!v6(&message[..cut], target), "{cut}");
        }
    }
}
