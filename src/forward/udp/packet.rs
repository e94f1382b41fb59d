//! The listening socket: how it is bound, and datagrams with the address that the client dialled.
//!
//! A reply must leave from that address, on a link-local one through that interface too, or the client's
//! connected socket drops it. The kernel tells the address with each datagram and takes it back with each reply.
//! What a datagram means is decided elsewhere.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::ops::Range;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use super::runs::Run;
use super::table::{FlowId, FlowKey};
use crate::forward::sys::datagrams::{Datagram, Inbox, Outbox, Outgoing};

/// Wished for the listening socket's queues: a burst waits there while we serve another flow. Limits: they take no
/// memory.
const LISTEN_BUFFER: usize = 4 << 20;

/// Datagrams, or runs of them, handled in one go.
pub(super) const SLOTS: usize = 64;

/// Tries of one send. A pending error (of an earlier datagram) is told in place of sending and is gone then.
pub(super) const SEND_TRIES: u32 = 3;

/// A bound socket, ready for [`serve`](super::serve): IPv6 without IPv4, no other may share its address, it tells
/// where datagrams were sent to, and fragments as the kernel does by default.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    prepare(&socket, address.is_ipv6())?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// What a listening socket is to have, whoever has bound it.
pub(in crate::forward) fn prepare(socket: &Socket, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    merge_arrivals(socket);
    // Who has bound it may have given it more than we could. Beyond what `net.core.rmem_max` allows for those with
    // `CAP_NET_ADMIN` alone.
    if socket.recv_buffer_size()? < LISTEN_BUFFER && setsockopt(socket, sockopt::RcvBufForce, &LISTEN_BUFFER).is_err() {
        socket.set_recv_buffer_size(LISTEN_BUFFER)?;
    }
    if socket.send_buffer_size()? < LISTEN_BUFFER && setsockopt(socket, sockopt::SndBufForce, &LISTEN_BUFFER).is_err() {
        socket.set_send_buffer_size(LISTEN_BUFFER)?;
    }
    Ok(())
}

/// Lets the kernel hand out datagrams of one sender and size as one (`UDP_GRO`, Linux 5.0). Without it they come singly.
pub(super) fn merge_arrivals(socket: &impl AsFd) {
    let _ = setsockopt(socket, sockopt::UdpGroSegment, &true);
}

/// What a thread handles datagrams with. It belongs to the thread and not to a flow or listener, of which there may
/// be thousands.
pub(super) struct Scratch {
    /// What was received.
    pub(super) inbox: Inbox,
    /// For what is sent.
    pub(super) outbox: Outbox,
    /// Replies in the inbox that are still to be sent.
    pub(super) replies: Vec<Reply>,
    /// Flows that have something to read.
    pub(super) ready: Vec<FlowId>,
    /// Of the datagrams that are about to be forwarded, what is behind the PROXY header of each. Where there are any,
    /// the slots of a run of theirs are places in here.
    pub(super) pieces: Vec<Piece>,
}

/// A part of what a slot holds.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) slot: usize,
    pub(super) bytes: Range<usize>,
}

/// Replies of one flow that leave together.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) flow: FlowId,
    pub(super) key: FlowKey,
    pub(super) run: Run,
}

/// Lends this thread's scratch. Not to be nested, and never held across an await.
pub(super) fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
            inbox: Inbox::new(SLOTS),
            outbox: Outbox::new(SLOTS),
            replies: Vec::with_capacity(SLOTS),
            ready: Vec::with_capacity(SLOTS),
            pieces: Vec::new(),
        });
    }
    SCRATCH.with_borrow_mut(work)
}

/// The flow of a datagram that has arrived at the socket that is bound to `bound`; `None` for one without a sender
/// that could be answered.
pub(super) fn key_of(datagram: &Datagram, bound: SocketAddr) -> Option<FlowKey> {
    // Nobody can answer from a group's address: the kernel chooses then.
    let dialled = datagram.dialled.filter(|(ip, _)| !ip.is_multicast());
    let local = dialled.map_or(bound, |(ip, interface)| at_port(ip, bound.port(), interface));
    Some(FlowKey { client: datagram.from?, local, told: None })
}

/// What `slots` hold, from the first place on.
pub(super) fn parts(inbox: &Inbox, slots: Range<usize>) -> [IoSlice<'_>; SLOTS] {
    let mut parts = [IoSlice::new(&[]); SLOTS];
    for (part, slot) in parts.iter_mut().zip(slots) {
        *part = IoSlice::new(inbox.payload(slot));
    }
    parts
}

/// As [`parts`], of datagrams without their PROXY headers.
pub(super) fn parts_of_pieces<'a>(inbox: &'a Inbox, pieces: &[Piece]) -> [IoSlice<'a>; SLOTS] {
    let mut parts = [IoSlice::new(&[]); SLOTS];
    for (part, Piece { slot, bytes }) in parts.iter_mut().zip(pieces) {
        *part = IoSlice::new(&inbox.payload(*slot)[bytes.clone()]);
    }
    parts
}

/// A run of datagrams to a client, from the address that it dialled.
pub(super) fn to_client<'a>(key: &FlowKey, parts: &'a [IoSlice<'a>], run: &Run) -> Outgoing<'a> {
    Outgoing {
        parts,
        to: Some(key.client),
        from: (!key.local.ip().is_unspecified()).then_some(key.local),
        segment: segment_of(run),
    }
}

/// The segment size to tell the kernel; a single datagram needs none.
pub(super) fn segment_of(run: &Run) -> Option<u16> {
    if run.datagrams > 1 { u16::try_from(run.segment).ok() } else { None }
}

/// Sends one datagram, or one run, of which a pending error may take the place at first.
pub(super) fn send_one(outbox: &mut Outbox, socket: &impl AsFd, datagram: &Outgoing<'_>) -> nix::Result<()> {
    let mut tries = 1;
    loop {
        match outbox.send(socket, std::slice::from_ref(datagram)) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno)
                if tries == SEND_TRIES || is_full(errno) || (datagram.segment.is_some() && is_too_much(errno)) =>
            {
                return Err(errno);
            }
            Err(_) => tries += 1,
        }
    }
}

/// Whether the kernel has no room for the datagram now; trying again at once would spin.
pub(super) fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM)
}

/// Whether the kernel may send, one by one, the datagrams that it refuses as a run: a segment is longer than the
/// path's MTU (EINVAL, EMSGSIZE), or the device cannot work out their checksums (EIO), or it knows no runs.
pub(super) fn is_too_much(errno: Errno) -> bool {
    matches!(errno, Errno::EINVAL | Errno::EMSGSIZE | Errno::EIO | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT)
}

/// Only a link-local address needs its interface; with any other, replies may take another one.
fn at_port(ip: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, interface).into(),
        ip => SocketAddr::new(ip, port),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn tells_the_address_dialled_and_answers_from_it() {
        let listener = bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
        let bound = listener.local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dialled = SocketAddr::from(([127, 3, 2, 1], bound.port()));
        client.send_to(b"ping", dialled).unwrap();
        // Loopback delivers within the send.
        let mut inbox = Inbox::new(1);
        assert_eq!(inbox.receive(&listener, 0..1).unwrap(), 1);
        assert_eq!(inbox.payload(0), b"ping");
        let key = key_of(&inbox.datagram(0), bound).unwrap();
        assert_eq!(key, FlowKey { client: client.local_addr().unwrap(), local: dialled, told: None });
        let reply = to_client(&key, &[], &Run::new(0, 0, None));
        send_one(&mut Outbox::new(1), &listener, &reply).unwrap();
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
