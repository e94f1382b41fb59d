//! Many datagrams in one call: recvmmsg and sendmmsg with control messages of their own for each datagram.
//!
//! nix wraps both calls, but its headers serve for one receive only (lengths that the kernel has overwritten stay as
//! they are), and all datagrams of a send share their control messages. Here lengths are set anew for each call, and
//! what the kernel has written is read into plain data ([`Datagram`]) before the call returns: no pointer outlives it.

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

/// Bytes of a slot. No datagram is longer, so none is cut off: IPv6 without jumbograms carries 65,527 bytes. What the
/// kernel has merged (`UDP_GRO`) is no longer either.
pub(crate) const SLOT: usize = 64 << 10;

/// Room for the control messages of one datagram: packet info of IPv6 and a segment size, in either direction.
const CONTROL: usize = space(size_of::<libc::in6_pktinfo>()) + space(size_of::<libc::c_int>());

/// What a control message of `size` bytes takes, padding included.
const fn space(size: usize) -> usize {
    // SAFETY: CMSG_SPACE only calculates. The sizes here are a few bytes.
    #[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
    unsafe {
        libc::CMSG_SPACE(size as libc::c_uint) as usize
    }
}

/// What has arrived in one slot: one datagram, or several of one sender that the kernel has merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Bytes of payload; none is a datagram too.
    pub(crate) length: usize,
    /// Bytes of each datagram but the last, where several were merged.
    pub(crate) segment: Option<usize>,
    /// It did not fit into its slot, or what the kernel tells beside it into its place.
    pub(crate) is_truncated: bool,
    /// Who has sent it; `None` where that is no internet address.
    pub(crate) from: Option<SocketAddr>,
    /// The address to answer from, and the interface index of IPv6, where the socket was asked to tell.
    pub(crate) dialled: Option<(IpAddr, u32)>,
}

/// Where datagrams are received: slots of 64 KiB, of which only the pages that were once written to are in memory.
pub(crate) struct Inbox {
    payload: Box<[u8]>,
    notes: Box<[Note]>,
    headers: Box<[libc::mmsghdr]>,
    datagrams: Box<[Datagram]>,
}

/// What the kernel writes, or reads, beside the payload.
struct Note {
    name: MaybeUninit<libc::sockaddr_storage>,
    control: Control,
    payload: libc::iovec,
}

/// Control messages, aligned as the kernel's macros expect.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl Note {
    fn new() -> Self {
        let payload = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self { name: MaybeUninit::uninit(), control: Control([0; CONTROL]), payload }
    }
}

/// A header that points nowhere.
fn no_header() -> libc::mmsghdr {
    // SAFETY: all zeros are null pointers and lengths of none.
    unsafe { mem::zeroed() }
}

impl Inbox {
    /// With so many slots.
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            payload: vec![0; slots * SLOT].into_boxed_slice(),
            notes: (0..slots).map(|_| Note::new()).collect(),
            headers: (0..slots).map(|_| no_header()).collect(),
            datagrams: vec![Datagram::default(); slots].into_boxed_slice(),
        }
    }

    /// Receives without waiting into `slots`, one after the other; returns how many were filled: one, or an error.
    pub(crate) fn receive(&mut self, socket: impl AsFd, slots: Range<usize>) -> io::Result<usize> {
        let headers = &mut self.headers[slots.clone()];
        let payloads = self.payload.chunks_exact_mut(SLOT).skip(slots.start);
        for ((header, note), payload) in headers.iter_mut().zip(&mut self.notes[slots.clone()]).zip(payloads) {
            note.payload = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
            let header = &mut header.msg_hdr;
            header.msg_name = note.name.as_mut_ptr().cast();
            header.msg_namelen = length_of(size_of::<libc::sockaddr_storage>());
            header.msg_iov = &raw mut note.payload;
            header.msg_iovlen = 1;
            header.msg_control = note.control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
            header.msg_flags = 0;
        }
        let (fd, count) = (socket.as_fd().as_raw_fd(), length_of(headers.len()));
        // SAFETY: each of the `count` headers points to a payload, a name and control messages of its own, of the
        // lengths that it says, all of them parts of `self`, which nobody else touches during the call.
        let received =
            unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _, ptr::null_mut()) };
        let received = usize::try_from(Errno::result(received)?).unwrap_or(0);
        for (header, datagram) in headers.iter().zip(&mut self.datagrams[slots]).take(received) {
            // SAFETY: the kernel has filled the first `received` headers, with names and control messages within the
            // lengths that it has set, and what they point to is still there.
            *datagram = unsafe { read(header) };
        }
        Ok(received)
    }

    /// What was last received into a slot.
    pub(crate) fn datagram(&self, slot: usize) -> Datagram {
        self.datagrams[slot]
    }

    /// Its payload.
    pub(crate) fn payload(&self, slot: usize) -> &[u8] {
        &self.payload[slot * SLOT..][..self.datagrams[slot].length.min(SLOT)]
    }
}

/// Reads what the kernel has written beside the payload.
///
/// # Safety
///
/// The header must have been filled by recvmmsg, and what it points to must still be there.
unsafe fn read(header: &libc::mmsghdr) -> Datagram {
    let mut datagram = Datagram {
        length: header.msg_len as usize,
        segment: None,
        is_truncated: header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        from: None,
        dialled: None,
    };
    let header = &header.msg_hdr;
    // SAFETY: the kernel has written the name, of the length that it has set; `from_raw` copies no more than that into a
    // name of zeros.
    let name = unsafe { SockaddrStorage::from_raw(header.msg_name.cast(), Some(header.msg_namelen)) };
    datagram.from = name.and_then(|name| {
        let v4 = name.as_sockaddr_in().map(|name| SocketAddr::from(*name));
        v4.or_else(|| name.as_sockaddr_in6().map(|name| SocketAddr::from(*name)))
    });
    // SAFETY: the macros stay within the control messages, each of which the kernel has written; one that was cut off for
    // want of room has a length that says so, and is left out.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = control.as_ref() {
            let data = libc::CMSG_DATA(control);
            let holds = |size: usize| message.cmsg_len >= libc::CMSG_LEN(length_of(size)) as usize;
            match (message.cmsg_level, message.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if holds(size_of::<libc::in_pktinfo>()) => {
                    let info: libc::in_pktinfo = ptr::read_unaligned(data.cast());
                    // It differs from the destination of a broadcast.
                    let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                    datagram.dialled = Some((ip.into(), 0));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if holds(size_of::<libc::in6_pktinfo>()) => {
                    let info: libc::in6_pktinfo = ptr::read_unaligned(data.cast());
                    datagram.dialled = Some((Ipv6Addr::from(info.ipi6_addr.s6_addr).into(), info.ipi6_ifindex));
                }
                (libc::SOL_UDP, libc::UDP_GRO) if holds(size_of::<libc::c_int>()) => {
                    let size: libc::c_int = ptr::read_unaligned(data.cast());
                    datagram.segment = usize::try_from(size).ok().filter(|size| *size > 0);
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    datagram
}

/// One datagram to send, or several of one size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    /// The payload.
    pub(crate) parts: &'a [IoSlice<'a>],
    /// Where to; `None` over a connected socket.
    pub(crate) to: Option<SocketAddr>,
    /// The address to send from, where it is not left to the kernel.
    pub(crate) from: Option<SocketAddr>,
    /// Bytes after which the next datagram begins (`UDP_SEGMENT`).
    pub(crate) segment: Option<u16>,
}

/// Headers for [`Outbox::send`].
pub(crate) struct Outbox {
    notes: Box<[Control]>,
    names: Vec<SockaddrStorage>,
    headers: Box<[libc::mmsghdr]>,
}

impl Outbox {
    /// For so many datagrams at once.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            notes: (0..most).map(|_| Control([0; CONTROL])).collect(),
            names: Vec::with_capacity(most),
            headers: (0..most).map(|_| no_header()).collect(),
        }
    }

    /// Sends without waiting. At least the first one is sent, or its error told; those behind it may be left over.
    pub(crate) fn send(&mut self, socket: impl AsFd, datagrams: &[Outgoing<'_>]) -> nix::Result<usize> {
        let datagrams = &datagrams[..datagrams.len().min(self.headers.len())];
        self.names.clear();
        self.names.extend(datagrams.iter().filter_map(|datagram| datagram.to).map(SockaddrStorage::from));
        let mut names = self.names.iter();
        for ((datagram, header), control) in datagrams.iter().zip(&mut self.headers).zip(&mut self.notes) {
            let name = datagram.to.and_then(|_| names.next());
            let header = &mut header.msg_hdr;
            header.msg_name = name.map_or(ptr::null_mut(), |name| name.as_ptr().cast_mut().cast());
            header.msg_namelen = name.map_or(0, SockaddrLike::len);
            // The kernel only reads through these two, whatever their type says.
            header.msg_iov = datagram.parts.as_ptr().cast_mut().cast();
            header.msg_iovlen = datagram.parts.len() as _;
            let used = write(datagram, control);
            header.msg_control = if used == 0 { ptr::null_mut() } else { control.0.as_mut_ptr().cast() };
            header.msg_controllen = used as _;
        }
        let (fd, count) = (socket.as_fd().as_raw_fd(), length_of(datagrams.len()));
        // SAFETY: each of the `count` headers points to a name, a payload and control messages, of the lengths that it
        // says, which are borrowed or owned until after the call. `IoSlice` has the layout of iovec, as std promises.
        let sent = unsafe { libc::sendmmsg(fd, self.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _) };
        Ok(usize::try_from(Errno::result(sent)?).unwrap_or(0))
    }
}

/// Writes the control messages of a datagram; returns how many bytes they take.
fn write(datagram: &Outgoing<'_>, control: &mut Control) -> usize {
    let mut used = 0;
    match datagram.from {
        Some(SocketAddr::V4(from)) => {
            // No interface: routing chooses it, as for any reply.
            let source = libc::in_addr { s_addr: u32::from_ne_bytes(from.ip().octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: libc::in_addr { s_addr: 0 } };
            used += put(control, used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(SocketAddr::V6(from)) => {
            let source = libc::in6_addr { s6_addr: from.ip().octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: from.scope_id() };
            used += put(control, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        None => {}
    }
    if let Some(segment) = datagram.segment {
        used += put(control, used, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    }
    used
}

/// Writes one control message at `at`; returns what it takes.
fn put<T: Copy>(control: &mut Control, at: usize, level: libc::c_int, kind: libc::c_int, data: T) -> usize {
    let room = &mut control.0[at..][..space(size_of::<T>())];
    // SAFETY: `room` is as long as header, data and padding (the slicing has checked that), and begins aligned, since
    // the buffer does and each message is padded. All zeros are a valid header.
    unsafe {
        let mut header: libc::cmsghdr = mem::zeroed();
        header.cmsg_len = libc::CMSG_LEN(length_of(size_of::<T>())) as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        let start: *mut libc::cmsghdr = room.as_mut_ptr().cast();
        ptr::write_unaligned(start, header);
        ptr::write_unaligned(libc::CMSG_DATA(start).cast(), data);
    }
    room.len()
}

/// A length that fits, as the kernel takes it.
fn length_of(length: usize) -> libc::c_uint {
    libc::c_uint::try_from(length).expect("lengths here are those of a few datagrams")
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let (one, two) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        one.connect(two.local_addr().unwrap()).unwrap();
        (one, two)
    }

    #[test]
    fn the_same_inbox_serves_for_one_receive_after_the_other() {
        let (client, server) = pair();
        setsockopt(&server, sockopt::Ipv4PacketInfo, &true).unwrap();
        let mut inbox = Inbox::new(4);
        for round in 0..3 {
            for text in ["", "one", "longer"] {
                client.send(text.as_bytes()).unwrap();
            }
            // Loopback delivers within the send.
            assert_eq!(inbox.receive(&server, 1..4).unwrap(), 3);
            let received = [1, 2, 3].map(|slot| inbox.datagram(slot));
            let expected = ["", "one", "longer"].map(|text| Datagram {
                length: text.len(),
                segment: None,
                is_truncated: false,
                from: Some(client.local_addr().unwrap()),
                dialled: Some((Ipv4Addr::LOCALHOST.into(), 0)),
            });
            assert_eq!(received, expected, "round {round}");
            assert_eq!((inbox.payload(2), inbox.payload(3)), (&b"one"[..], &b"longer"[..]));
        }
        assert_eq!(inbox.receive(&server, 0..4).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn several_of_one_size_go_out_and_come_in_as_one() {
        let (client, server) = pair();
        setsockopt(&server, sockopt::UdpGroSegment, &true).unwrap();
        let payload: Vec<u8> = (0..250).collect();
        let parts = [IoSlice::new(&payload[..100]), IoSlice::new(&payload[100..])];
        let many = Outgoing { parts: &parts, to: None, from: None, segment: Some(100) };
        let single = Outgoing { parts: &parts[..1], segment: None, ..many };
        assert_eq!(Outbox::new(2).send(&client, &[many, single]), Ok(2));
        let mut inbox = Inbox::new(4);
        assert_eq!(inbox.receive(&server, 0..4).unwrap(), 2);
        let told = [0, 1].map(|slot| (inbox.datagram(slot).length, inbox.datagram(slot).segment));
        assert_eq!(told, [(250, Some(100)), (100, None)]);
        assert_eq!(inbox.payload(0), payload);
    }

    #[test]
    fn each_datagram_of_a_send_has_its_own_source_and_destination() {
        for (wild, sources) in [("0.0.0.0:0", ["127.0.0.2", "127.0.0.3"]), ("[::]:0", ["::1", "::1"])] {
            let server = UdpSocket::bind(wild).unwrap();
            let clients =
                sources.map(|_| UdpSocket::bind(wild.replace("0.0.0.0", "127.0.0.1").replace("::", "::1")).unwrap());
            let payload = [IoSlice::new(b"reply")];
            let port = server.local_addr().unwrap().port();
            let from = sources.map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
            let send = [0, 1].map(|at| Outgoing {
                parts: &payload,
                to: Some(clients[at].local_addr().unwrap()),
                from: Some(from[at]),
                segment: (at == 1).then_some(9),
            });
            assert_eq!(Outbox::new(2).send(&server, &send), Ok(2));
            for at in [0, 1] {
                assert_eq!(clients[at].recv_from(&mut [0; 9]).unwrap(), (5, from[at]));
            }
        }
    }
}
