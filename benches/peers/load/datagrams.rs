//! Datagrams in batches: the sockets of the UDP tests, and their target.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use super::{Order, told};
use crate::mode::Told;

/// Datagrams of one call.
pub(super) const BATCH: usize = 64;

/// Socket buffers of the load: what is lost is lost by others.
const BUFFER: usize = 4 << 20;

/// How often whoever waits for a datagram looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// A socket of the load, bound or connected.
pub(super) fn socket(bound: Option<SocketAddr>, connected: Option<SocketAddr>) -> Result<UdpSocket> {
    let address = bound.or(connected).expect("one of them is given");
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    // As root beyond the limit of the machine, else up to it.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    if setsockopt(&socket, sockopt::SndBufForce, &BUFFER).is_err() {
        socket.set_send_buffer_size(BUFFER)?;
    }
    socket.set_read_timeout(Some(LOOK))?;
    if let Some(address) = bound {
        socket.bind(&address.into())?;
    }
    if let Some(address) = connected {
        socket.connect(&address.into())?;
    }
    Ok(socket.into())
}

/// Says which flow and which datagram of it this is, at the start of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) flow: u32,
    pub(super) nth: u32,
}

impl Mark {
    const LENGTH: usize = 8;

    fn write(self, datagram: &mut [u8]) {
        datagram[..4].copy_from_slice(&self.flow.to_le_bytes());
        datagram[4..8].copy_from_slice(&self.nth.to_le_bytes());
    }

    fn read(datagram: &[u8]) -> Self {
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        Self { flow: number(&datagram[..4]), nth: number(&datagram[4..8]) }
    }
}

/// What follows the mark, the same in every datagram.
fn body(size: usize) -> Vec<u8> {
    (Mark::LENGTH..size).map(|at| u8::try_from(at * 31 % 251).expect("below 251")).collect()
}

/// Room for the datagrams of one call, and the headers to send and receive them.
pub(super) struct Client {
    size: usize,
    sent: Vec<u8>,
    received: Vec<u8>,
    body: Vec<u8>,
    send_headers: MultiHeaders<()>,
    receive_headers: MultiHeaders<()>,
}

impl Client {
    /// For datagrams of that size.
    pub(super) fn new(size: usize) -> Self {
        let body = body(size);
        let mut sent = Vec::new();
        for _ in 0..BATCH {
            sent.extend([0; Mark::LENGTH]);
            sent.extend(&body);
        }
        let (send_headers, receive_headers) =
            (MultiHeaders::preallocate(BATCH, None), MultiHeaders::preallocate(BATCH, None));
        Self { size, sent, received: vec![0; BATCH * (size + 1)], body, send_headers, receive_headers }
    }

    /// Sends `count` datagrams of a flow, the first with that number; says how many went out.
    pub(super) fn send(&mut self, socket: &UdpSocket, first: Mark, count: usize) -> Result<usize> {
        let count = count.min(BATCH);
        for (datagram, nth) in self.sent.chunks_exact_mut(self.size).take(count).zip(0..) {
            Mark { nth: first.nth.wrapping_add(nth), ..first }.write(datagram);
        }
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|nth| [IoSlice::new(&self.sent[nth * self.size..][..self.size])]);
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut self.send_headers,
            &slices[..count],
            [None; BATCH],
            [],
            MsgFlags::empty(),
        );
        match sent {
            Ok(sent) => Ok(sent.count()),
            // A refusal that an earlier datagram met while a proxy was not ready, or a full queue: nothing went out.
            Err(Errno::ECONNREFUSED | Errno::EAGAIN | Errno::ENOBUFS) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for datagrams, at most [`LOOK`], and gives the mark of each; every byte is compared if `is_check`.
    pub(super) fn receive(&mut self, socket: &UdpSocket, is_check: bool, mut each: impl FnMut(Mark)) -> Result<()> {
        let mut slots = self.received.chunks_exact_mut(self.size + 1);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(slots.next().expect("a slot for each"))]);
        let mut lengths = [0; BATCH];
        let received =
            recvmmsg(socket.as_raw_fd(), &mut self.receive_headers, &mut slices, MsgFlags::MSG_WAITFORONE, None);
        let mut count = 0;
        match received {
            Ok(received) => {
                for datagram in received {
                    lengths[count] = datagram.bytes;
                    count += 1;
                }
            }
            Err(Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        for (datagram, length) in self.received.chunks_exact(self.size + 1).zip(&lengths[..count]) {
            ensure!(*length == self.size, "a datagram of {} bytes came back with {length}", self.size);
            ensure!(
                !is_check || datagram[Mark::LENGTH..self.size] == self.body,
                "a datagram came back with wrong bytes"
            );
            each(Mark::read(datagram));
        }
        Ok(())
    }
}

/// Sends back whatever comes, without what stands ahead of the payload, until it is over.
pub(super) fn send_back(
    order: &Order,
    socket: &UdpSocket,
    size: usize,
    count: &AtomicU64,
    is_over: &AtomicBool,
) -> Result<()> {
    let mut room = vec![0; BATCH * size];
    let mut receive_headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut send_headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    while !is_over.load(Ordering::Relaxed) {
        let mut addresses = [None; BATCH];
        let mut lengths = [0; BATCH];
        let received = receive_into(socket, &mut room, size, &mut receive_headers, &mut addresses, &mut lengths)?;
        count.fetch_add(received as u64, Ordering::Relaxed);
        let mut starts = [0; BATCH];
        if order.told != Told::Nothing {
            for nth in 0..received {
                let peer = addresses[nth].map_or(Ipv4Addr::UNSPECIFIED, |address| address.ip());
                starts[nth] = told::ahead(order, &room[nth * size..][..lengths[nth]], peer.into())?;
            }
        }
        let mut done = 0;
        while done < received {
            let slices: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|nth| {
                let nth = (done + nth).min(BATCH - 1);
                [IoSlice::new(&room[nth * size..][starts[nth]..lengths[nth]])]
            });
            let (slices, addresses) = (&slices[..received - done], &addresses[done..received]);
            match sendmmsg(socket.as_raw_fd(), &mut send_headers, slices, addresses, [], MsgFlags::empty()) {
                Ok(sent) => done += sent.count().max(1),
                // The refusal of an earlier datagram is told by the next call; it is no datagram of this one.
                Err(Errno::ECONNREFUSED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn receive_into(
    socket: &UdpSocket,
    room: &mut [u8],
    size: usize,
    headers: &mut MultiHeaders<SockaddrIn>,
    addresses: &mut [Option<SockaddrIn>; BATCH],
    lengths: &mut [usize; BATCH],
) -> Result<usize> {
    let mut slots = room.chunks_exact_mut(size);
    let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
        std::array::from_fn(|_| [IoSliceMut::new(slots.next().expect("a slot for each"))]);
    match recvmmsg(socket.as_raw_fd(), headers, &mut slices, MsgFlags::MSG_WAITFORONE, None) {
        Ok(received) => {
            let mut count = 0;
            for datagram in received {
                addresses[count] = datagram.address;
                lengths[count] = datagram.bytes;
                count += 1;
            }
            Ok(count)
        }
        Err(Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EINTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
