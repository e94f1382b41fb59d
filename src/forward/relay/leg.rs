//! One end of a connection: a connected, non-blocking stream socket.
//!
//! Dropped, a leg is reset, so that no fault on our side ever looks like a clean end to a peer; a clean end
//! is asked for by [`Leg::finish`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use socket2::{SockFilter, SockRef, TcpKeepalive};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::time::{Instant, sleep};

use crate::forward::sys;
use crate::model::mapping::Protocol;

/// `BPF_RET | BPF_K`: a filter's verdict, how much of a packet to keep.
const RETURN_CONSTANT: u16 = 0x06;

/// A peer that is gone without a word is noticed after some such spans.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(15);

/// Without a byte sent for so long, a deaf leg sends none any more.
const STILL: Duration = Duration::from_millis(25);
/// Time between two looks,
const LOOK: Duration = Duration::from_millis(5);
/// and how many there are at most.
const LOOKS: usize = 20;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Leg {
    fd: AsyncFd<OwnedFd>,
    /// We have ended our sending, so the kernel's counts of what is on its way include the end.
    ended: AtomicBool,
    /// The kernel's error, where the peer had reset it before it became a leg and the error was taken.
    broken: Option<io::ErrorKind>,
    /// Whether it is a stream of bytes (TCP), and not of messages (SCTP).
    is_tcp: bool,
    clean: bool,
}

/// What waits to be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// So many bytes, of those that there was room for.
    pub(crate) count: usize,
    /// The peer has ended, or is gone.
    pub(crate) is_all: bool,
}

impl Leg {
    /// Takes over a connected, non-blocking socket.
    pub(crate) fn new(fd: OwnedFd, protocol: Protocol) -> io::Result<Self> {
        Ok(Self::from_registered(sys::register(fd)?, protocol))
    }

    /// Takes over a socket that is registered already.
    pub(crate) fn from_registered(fd: AsyncFd<OwnedFd>, protocol: Protocol) -> Self {
        let is_tcp = protocol == Protocol::Tcp;
        Self { fd, ended: AtomicBool::new(false), broken: None, is_tcp, clean: false }
    }

    /// Says by which error the peer has reset it already. What it had sent before can still be received.
    pub(crate) fn broken_by(mut self, error: Option<io::ErrorKind>) -> Self {
        self.broken = error;
        self
    }

    /// By which error it was broken before it became a leg.
    pub(crate) fn broken(&self) -> Option<io::ErrorKind> {
        self.broken
    }

    /// Whether there are bytes to receive. The leg is broken already: else its error would be lost here.
    pub(crate) fn has_unread(&self) -> bool {
        matches!(self.peek(), Ok(1))
    }

    /// What receiving one byte would say, which stays where it is. An error is told only once, here as elsewhere.
    pub(super) fn peek(&self) -> nix::Result<usize> {
        recv(self.fd.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK)
    }

    /// Receives into `buffer`, once something is there.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let size = buffer.len();
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| retried(|| recv(fd.as_raw_fd(), buffer, MsgFlags::empty()))) {
                // A short read has emptied the queue; without the flag the next poll saves a call that would
                // find nothing. The end of the stream (a flag of its own) cannot be cleared, so is not missed.
                // A mark of urgent data, and the end of a message of SCTP, cut a read short while more waits behind it.
                let is_short = matches!(result, Ok(count) if 0 < count && count < size);
                if is_short && self.is_tcp && !self.was_urgent() {
                    guard.clear_ready_matching(Ready::READABLE);
                }
                return Poll::Ready(result);
            }
        }
    }

    /// Looks at what has come, once it is more than `seen` bytes, or there is no room for more in `buffer`, or no more
    /// can come. It stays where it is.
    pub(crate) async fn peek_beyond(&self, seen: usize, buffer: &mut [u8]) -> io::Result<Arrived> {
        loop {
            let mut guard = self.fd.readable().await?;
            // In this order: what came before the end is there once the end is.
            let is_all = self.has_peer_ended();
            match guard.try_io(|fd| retried(|| recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_PEEK))) {
                // The next edge tells of more.
                Ok(Ok(count)) if count <= seen && count < buffer.len() && !is_all => guard.clear_ready(),
                Ok(result) => return result.map(|count| Arrived { count, is_all }),
                Err(_) => {}
            }
        }
    }

    /// Takes away as much of what has come as `buffer` holds, which is no more than what was looked at.
    pub(crate) fn take(&self, buffer: &mut [u8]) -> io::Result<()> {
        let mut taken = 0;
        while taken < buffer.len() {
            match retried(|| recv(self.fd.as_raw_fd(), &mut buffer[taken..], MsgFlags::empty()))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => taken += count,
            }
        }
        Ok(())
    }

    /// Whether urgent data has come at any time.
    fn was_urgent(&self) -> bool {
        self.fd.try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
    }

    /// Whether reading tells of each failure, as long as it goes on: Linux wakes readers for a reset of TCP, and for an
    /// abort of SCTP writers alone.
    pub(super) fn does_reading_tell(&self) -> bool {
        self.is_tcp
    }

    /// Sends what the kernel takes of `data`, once it takes something.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |socket| send(socket.as_raw_fd(), data, MsgFlags::MSG_NOSIGNAL))
    }

    /// Sends what the kernel takes of `data` at once; none is an error.
    pub(crate) fn send_now(&self, data: &[u8]) -> io::Result<usize> {
        retried(|| send(self.fd.as_raw_fd(), data, MsgFlags::MSG_NOSIGNAL))
    }

    /// Receives by `receive`, once something is there.
    pub(super) fn poll_read_with(
        &self,
        cx: &mut Context<'_>,
        mut receive: impl FnMut(BorrowedFd<'_>) -> nix::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| retried(|| receive(fd.as_fd()))) {
                return Poll::Ready(result);
            }
        }
    }

    /// Sends by `send`, once the kernel takes something.
    pub(super) fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(BorrowedFd<'_>) -> nix::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| retried(|| send(fd.as_fd()))) {
                return Poll::Ready(result);
            }
        }
    }

    /// Completes when the kernel has an error for this socket; not at an orderly end.
    pub(crate) async fn failed(&self) -> io::Error {
        if let Some(kind) = self.broken {
            return kind.into();
        }
        loop {
            match self.fd.ready(Interest::ERROR).await {
                Err(error) => return error,
                Ok(mut guard) => match SockRef::from(self).take_error() {
                    Ok(Some(error)) | Err(error) => return error,
                    Ok(None) => guard.clear_ready_matching(Ready::ERROR),
                },
            }
        }
    }

    /// The kernel's error for this socket, which it tells once.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        SockRef::from(self).take_error().unwrap_or_else(Some)
    }

    /// Ends our sending; what was sent before is still delivered.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        shutdown(self.fd.as_raw_fd(), Shutdown::Write)?;
        self.ended.store(true, Relaxed);
        Ok(())
    }

    /// Whether the peer's end has arrived, though what came before it may not have been received yet.
    pub(super) fn has_peer_ended(&self) -> bool {
        let mut look = [PollFd::new(self.as_fd(), PollFlags::from_bits_retain(libc::POLLRDHUP))];
        matches!(poll(&mut look, PollTimeout::ZERO), Ok(1))
    }

    /// Whether a connection of TCP of which we have not ended our side stands no more, even where its error was told
    /// before (`tcp_poll` says so of a socket in `CLOSE`); an end alone leaves it standing.
    pub(super) fn is_gone(&self) -> bool {
        let mut look = [PollFd::new(self.as_fd(), PollFlags::empty())];
        self.is_tcp && matches!(poll(&mut look, PollTimeout::ZERO), Ok(1))
    }

    /// Whether an end or a reset of the peer has come, though what came before it may not have been received yet. Pending
    /// where nothing has come: then the task is woken by either.
    pub(crate) fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<bool> {
        self.fd.poll_read_ready(cx).map(|guard| guard.is_ok_and(|guard| guard.ready().is_read_closed()))
    }

    /// Whether the peer has ended and nothing of it is unread.
    pub(crate) fn has_ended(&self) -> bool {
        self.peek() == Ok(0)
    }

    /// Probes a silent peer from now on.
    pub(crate) fn start_keepalive(&self) {
        // SCTP has heartbeats of its own. It fails on a socket that is broken, which needs none.
        if self.is_tcp {
            let probes = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
            let _ = SockRef::from(self).set_tcp_keepalive(&probes);
        }
    }

    /// Sends no more probes to a peer that has nothing more to say (see [`super::vigil`]).
    pub(super) fn stop_keepalive(&self) {
        // Fails on a socket that is broken, which sends none either.
        let _ = SockRef::from(self).set_keepalive(false);
    }

    /// Bytes, and an end, that the peer's kernel has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> u64 {
        // Other protocols than TCP cannot tell; for them nothing is waited for.
        sys::unacknowledged(self).unwrap_or(0)
    }

    /// Payload bytes that have not left this host.
    fn unsent(&self) -> u64 {
        // Other protocols than TCP cannot tell; what they had queued stays counted.
        sys::unsent(self).unwrap_or(0).saturating_sub(u64::from(self.ended.load(Relaxed)))
    }

    /// Lets nothing in any more: an acknowledgement would let the kernel send some of what is unsent.
    fn go_deaf(&self) {
        let drop_all = SockFilter::new(RETURN_CONSTANT, 0, 0, 0);
        // Fails at most for want of memory; then more is on its way when the reset comes.
        let _ = SockRef::from(self).attach_filter(&[drop_all]);
    }

    /// Resets the connection, and tells how many payload bytes have not left this host and never will.
    ///
    /// To read the figure first and reset then would miss what the kernel sends between the two. A reset that leaves
    /// the socket open settles both at once. It moves the end of the queue on, by the same step each time
    /// (`tcp_disconnect`: the largest window that the peer has offered, and 2), so a second one tells by how much.
    pub(super) fn reset(self) -> u64 {
        let before = self.unsent();
        if before == 0 {
            return 0;
        }
        let moved_on = || sys::disconnect(&self).ok().map(|()| self.unsent());
        let settled = moved_on().zip(moved_on()).and_then(|(once, twice)| (2 * once).checked_sub(twice));
        // Nothing was added meanwhile. Another kernel's arithmetic is none of ours.
        settled.filter(|unsent| *unsent <= before).unwrap_or(before)
    }

    /// Closes in order: what was sent is still delivered, then the end.
    pub(crate) fn finish(mut self) {
        self.clean = true;
    }
}

/// Again and again while a signal interrupts it.
fn retried(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(nix::Error::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// If anything is unsent, makes the legs deaf and gives what is on its way time to arrive: a reset may overtake it
/// between two processors.
pub(super) async fn silence(legs: [Option<&Leg>; 2]) {
    let count = || legs.map(|leg| leg.map_or(0, Leg::unsent));
    let mut unsent = count();
    if unsent == [0; 2] {
        return;
    }
    legs.into_iter().flatten().for_each(Leg::go_deaf);
    // An acknowledgement may have come in just before and be worked off by another processor just now, and one
    // segment more may go out as a probe (RFC 8985, section 7). A later probe is counted by the reset itself.
    let mut last_moved = Instant::now();
    for _ in 0..LOOKS {
        sleep(LOOK).await;
        let before = std::mem::replace(&mut unsent, count());
        if before != unsent {
            last_moved = Instant::now();
        } else if last_moved.elapsed() >= STILL {
            break;
        }
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.clean {
            // Fails on a socket that is broken already, which is as good.
            let _ = SockRef::from(&*self).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsFd for Leg {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A leg and the other end of its connection.
    pub(in crate::forward::relay) fn pair() -> (Leg, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let stream = TcpStream::connect(listener.local_addr().expect("it has one")).expect("it listens");
        stream.set_nonblocking(true).expect("it can");
        let (peer, _) = listener.accept().expect("it has come");
        (Leg::new(stream.into(), Protocol::Tcp).expect("room in the reactor"), peer)
    }

    #[tokio::test]
    async fn a_leg_is_gone_by_a_reset_that_was_told_and_not_by_an_end() {
        let (leg, peer) = pair();
        assert!(!leg.is_gone());
        peer.shutdown(std::net::Shutdown::Write).expect("it stands");
        assert_eq!(leg.peek_beyond(0, &mut [0]).await.map(|arrived| arrived.is_all).ok(), Some(true));
        assert!(!leg.is_gone(), "an end leaves the other direction");

        let (leg, peer) = pair();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("it can be set");
        drop(peer);
        leg.failed().await;
        assert_eq!(leg.peek(), Ok(0), "it was told, and looks like an end from now on");
        assert!(leg.is_gone());
    }

    #[tokio::test]
    async fn a_reset_tells_what_never_left() {
        for (writes, reads, ends) in [(0, 0, false), (1, 0, false), (1, 1, true), (400, 0, false), (400, 30, true)] {
            let (leg, mut peer) = pair();
            let mut stream = TcpStream::from(leg.as_fd().try_clone_to_owned().expect("a descriptor is free"));
            let mut room = vec![7; 20_000];
            let written: usize = (0..writes).map_while(|_| stream.write(&room).ok()).sum();
            drop(stream);
            let mut received: usize = (0..reads).map(|_| peer.read(&mut room).expect("it is there")).sum();
            if ends {
                leg.shutdown_write().expect("it stands");
            }
            let unsent = usize::try_from(leg.reset()).expect("it fits");
            let error = loop {
                match peer.read(&mut room) {
                    Ok(0) => break None,
                    Ok(count) => received += count,
                    Err(error) => break Some(error.kind()),
                }
            };
            assert_eq!(unsent + received, written, "{writes} writes, {reads} reads, {ends}");
            // An end that was on its way already has arrived, and the reset behind it.
            let is_end_seen = ends && unsent == 0;
            assert_eq!(error, (!is_end_seen).then_some(io::ErrorKind::ConnectionReset));
            assert!(unsent > 0 || writes < 400, "more than fits was written");
        }
    }
}
