//! The listening socket: how it is bound, and datagrams with the address that the client dialled.
//!
//! A reply must leave from that address, on a link-local one through that interface too, or the client's
//! connected socket drops it. The kernel tells the address with each datagram and takes it back with each reply.
//! What a datagram means is decided elsewhere.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockaddrLike, SockaddrStorage, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use socket2::{Domain, Socket, Type};

/// Asked of the kernel for the listening socket, which grants what `net.core.rmem_max` allows: a burst waits
/// here while we serve another flow.
const LISTEN_BUFFER: usize = 4 << 20;

/// No datagram is longer, so none can be cut off: IPv6 without jumbograms carries 65,527 bytes.
pub(super) const LONGEST: usize = 64 << 10;

/// Tries of one send. A pending error (of an earlier datagram) is told in place of sending and is gone then.
pub(super) const SEND_TRIES: u32 = 3;

/// A bound socket, ready for [`serve`](super::serve): IPv6 without IPv4, no other may share its address, it tells
/// where datagrams were sent to, and fragments as the kernel does by default.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    socket.set_recv_buffer_size(LISTEN_BUFFER)?;
    socket.set_send_buffer_size(LISTEN_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Where a thread puts the one datagram that it handles. It belongs to the thread and not to a flow or listener,
/// of which there may be thousands.
pub(super) struct Scratch {
    /// The payload.
    pub(super) payload: Box<[u8]>,
    control: Vec<u8>,
}

/// A datagram at the listening socket; its payload is in the scratch buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    /// Bytes of payload; none is a datagram too.
    pub(super) length: usize,
    /// It did not fit in the scratch buffer.
    pub(super) truncated: bool,
    /// Who sent it.
    pub(super) client: SocketAddr,
    /// The address dialled; the wildcard where the kernel did not tell one that we could answer from.
    pub(super) local: SocketAddr,
}

/// Lends this thread's scratch buffer. Not to be nested, and never held across an await.
pub(super) fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
            payload: vec![0; LONGEST].into_boxed_slice(),
            control: cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo),
        });
    }
    SCRATCH.with_borrow_mut(work)
}

/// Takes one datagram from the listening socket that is bound to `bound`.
pub(super) fn receive(socket: &impl AsRawFd, bound: SocketAddr, scratch: &mut Scratch) -> io::Result<Arrived> {
    let mut parts = [IoSliceMut::new(&mut scratch.payload)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut scratch.control), MsgFlags::MSG_DONTWAIT)?;
    let client = message.address.as_ref().and_then(address_of).ok_or(Errno::EAFNOSUPPORT)?;
    let dialled = message.cmsgs().ok().and_then(|mut controls| controls.find_map(|control| dialled(&control)));
    let local = dialled.map_or(bound, |(ip, interface)| at_port(ip, bound.port(), interface));
    Ok(Arrived { length: message.bytes, truncated: message.flags.contains(MsgFlags::MSG_TRUNC), client, local })
}

/// Sends `payload` to a client from the address that it dialled.
pub(super) fn reply(socket: &impl AsRawFd, payload: &[u8], client: SocketAddr, local: SocketAddr) -> io::Result<()> {
    let parts = [IoSlice::new(payload)];
    let client = SockaddrStorage::from(client);
    let send = |controls: &[ControlMessage<'_>]| {
        let mut tries = 1;
        loop {
            match sendmsg(socket.as_raw_fd(), &parts, controls, MsgFlags::MSG_DONTWAIT, Some(&client)) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) if tries == SEND_TRIES || is_full(errno) => return Err(errno.into()),
                Err(_) => tries += 1,
            }
        }
    };
    match local {
        local if local.ip().is_unspecified() => send(&[]),
        SocketAddr::V4(local) => {
            // No interface: routing chooses it, as for any reply.
            let source = libc::in_addr { s_addr: u32::from_ne_bytes(local.ip().octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: libc::in_addr { s_addr: 0 } };
            send(&[ControlMessage::Ipv4PacketInfo(&info)])
        }
        SocketAddr::V6(local) => {
            let source = libc::in6_addr { s6_addr: local.ip().octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: local.scope_id() };
            send(&[ControlMessage::Ipv6PacketInfo(&info)])
        }
    }
}

/// Whether the kernel has no room for the datagram now; trying again at once would spin.
pub(super) fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM)
}

/// The address and interface index that a control message tells.
fn dialled(control: &ControlMessageOwned) -> Option<(IpAddr, u32)> {
    let (ip, interface) = match control {
        // `ipi_spec_dst` is the address to answer from; it differs from the destination of a broadcast.
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            (IpAddr::V4(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes())), 0)
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            (IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)), info.ipi6_ifindex)
        }
        _ => return None,
    };
    // Nobody can answer from a group's address.
    (!ip.is_multicast()).then_some((ip, interface))
}

/// Only a link-local address needs its interface; with any other, replies may take another one.
fn at_port(ip: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, interface).into(),
        ip => SocketAddr::new(ip, port),
    }
}

fn address_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    match address.family()? {
        AddressFamily::Inet => Some(SocketAddr::from(*address.as_sockaddr_in()?)),
        AddressFamily::Inet6 => Some(SocketAddr::from(*address.as_sockaddr_in6()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_address_dialled_and_answers_from_it() {
        let listener = bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
        let bound = listener.local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dialled = SocketAddr::from(([127, 3, 2, 1], bound.port()));
        client.send_to(b"ping", dialled).unwrap();
        // Loopback delivers within the send.
        let arrived = with_scratch(|scratch| receive(&listener, bound, scratch)).unwrap();
        let expected = Arrived { length: 4, truncated: false, client: client.local_addr().unwrap(), local: dialled };
        assert_eq!(arrived, expected);
        reply(&listener, b"", arrived.client, arrived.local).unwrap();
        assert_eq!(client.recv_from(&mut [0; 9]).unwrap(), (0, dialled));
    }

    #[test]
    fn leaves_both_families_to_two_sockets_that_nobody_shares() {
        let v6 = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
        let port = v6.local_addr().unwrap().port();
        let v4 = bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).unwrap();
        for taken in [v4.local_addr().unwrap(), v6.local_addr().unwrap()] {
            assert_eq!(bind(taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn an_interface_is_kept_for_link_local_addresses_alone() {
        let scope = |ip: &str| match at_port(ip.parse().unwrap(), 1, 7) {
            SocketAddr::V6(address) => address.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        assert_eq!((scope("fe80::1"), scope("2001:db8::1"), scope("127.0.0.1")), (7, 0, 0));
    }
}
