//! What one end sees of an operation, and the socket calls that tell it: plain blocking sockets with deadlines.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockRef, Socket, Type};

use crate::script::{Pace, Side};

/// A small receive buffer. The kernel doubles it.
pub(crate) const SMALL_BUFFER: usize = 16 * 1024;
/// A slow reader pauses so often, and so long.
const PAUSES: (usize, Duration) = (8, Duration::from_millis(2));

/// What an operation came to at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Done,
    Failed(Failure),
    /// The target takes no connections: refused, or let in and then reset without a byte.
    Refused,
    /// Bytes (`None` where the number is left to chance), whether they are those that were sent, and what came then.
    Took {
        bytes: Option<usize>,
        as_sent: bool,
        then: Then,
    },
}

/// What comes after bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// As many as were asked for; whether there are more was not asked.
    More,
    End,
    Failed(Failure),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Reset,
    /// EPIPE.
    BrokenPipe,
    NotConnected,
    Refused,
    /// Nothing happened for as long as one waits.
    Late,
    Other(ErrorKind),
}

/// What was seen, in which operation, and where.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Saw {
    pub(crate) op: usize,
    pub(crate) side: Side,
    pub(crate) seen: Seen,
}

impl fmt::Debug for Saw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {:?}", self.op, self.side, self.seen)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset => Self::Reset,
            ErrorKind::BrokenPipe => Self::BrokenPipe,
            ErrorKind::NotConnected => Self::NotConnected,
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Late,
            other => Self::Other(other),
        }
    }
}

impl From<io::Result<()>> for Seen {
    fn from(result: io::Result<()>) -> Self {
        result.map_or_else(|error| Self::Failed(error.into()), |()| Self::Done)
    }
}

/// The bytes that are sent: a place in a long row of noise for each seed and side.
pub(crate) struct Payload(Vec<u8>);

impl Payload {
    /// A prime, so that no buffer's size comes round to the same bytes.
    pub(crate) const LENGTH: usize = 1_000_003;

    pub(crate) fn new(noise: Vec<u8>) -> Self {
        assert_eq!(noise.len(), Self::LENGTH);
        Self(noise)
    }

    pub(crate) fn stream(&self, seed: u64, from: Side, offset: usize) -> Stream<'_> {
        let start = usize::try_from(seed.wrapping_mul(7_919) % 500_000).expect("small") + from.index() * 123_457;
        Stream { noise: &self.0, at: (start + offset) % Self::LENGTH }
    }
}

/// What one side sends, from some byte on.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    noise: &'a [u8],
    at: usize,
}

impl<'a> Stream<'a> {
    /// Some of what comes next, at most `length` bytes.
    fn peek(&self, length: usize) -> &'a [u8] {
        &self.noise[self.at..self.noise.len().min(self.at.saturating_add(length))]
    }

    fn advance(&mut self, length: usize) {
        self.at = (self.at + length) % self.noise.len();
    }

    /// Whether `bytes` are what comes next; goes on behind them.
    fn matches(&mut self, mut bytes: &[u8]) -> bool {
        let mut same = true;
        while !bytes.is_empty() {
            let expected = self.peek(bytes.len());
            let (now, later) = bytes.split_at(expected.len());
            same &= now == expected;
            self.advance(expected.len());
            bytes = later;
        }
        same
    }
}

/// Connects. A forwarder takes everybody, so that a refusal is the door's own.
pub(crate) fn connect(door: SocketAddr, small_buffer: bool, patience: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(door), Type::STREAM, None)?;
    if small_buffer {
        socket.set_recv_buffer_size(SMALL_BUFFER)?;
    }
    socket.connect_timeout(&door.into(), patience)?;
    prepared(socket.into(), patience)
}

/// The target's next connection. Its listener does not block.
pub(crate) fn accept(target: &TcpListener, patience: Duration) -> io::Result<TcpStream> {
    wait_for(target, PollFlags::POLLIN, patience)?;
    let (stream, _) = target.accept()?;
    stream.set_nonblocking(false)?;
    prepared(stream, patience)
}

fn prepared(stream: TcpStream, patience: Duration) -> io::Result<TcpStream> {
    // What is written leaves at once: a reset right after it would meet bytes that Nagle holds back.
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// Writes so many bytes, or until it fails.
pub(crate) fn write(mut socket: &TcpStream, mut stream: Stream<'_>, length: usize) -> Seen {
    let mut rest = length;
    while rest > 0 {
        match socket.write(stream.peek(rest.min(256 * 1024))) {
            Ok(count) => {
                stream.advance(count);
                rest -= count;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Seen::Failed(error.into()),
        }
    }
    Seen::Done
}

/// Reads so many bytes (`None`: all), or until no more come.
pub(crate) fn read(mut socket: &TcpStream, mut stream: Stream<'_>, length: Option<usize>, pace: Pace) -> Seen {
    let mut buffer = vec![0; if pace == Pace::Small { 1_500 } else { 64 * 1024 }];
    let (mut bytes, mut as_sent) = (0, true);
    let mut pauses = if pace == Pace::Slow { PAUSES.0 } else { 0 };
    let then = loop {
        if pauses > 0 {
            pauses -= 1;
            thread::sleep(PAUSES.1);
        }
        let wanted = length.map_or(buffer.len(), |length| (length - bytes).min(buffer.len()));
        if wanted == 0 {
            break Then::More;
        }
        match socket.read(&mut buffer[..wanted]) {
            Ok(0) => break Then::End,
            Ok(count) => {
                bytes += count;
                as_sent &= stream.matches(&buffer[..count]);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => break Then::Failed(error.into()),
        }
    };
    Seen::Took { bytes: Some(bytes), as_sent, then }
}

/// Waits until the kernel knows the connection to be broken.
pub(crate) fn wait_for_error(socket: &TcpStream, patience: Duration) -> Seen {
    wait_for(socket, PollFlags::empty(), patience).into()
}

fn wait_for(socket: &impl AsFd, what: PollFlags, patience: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(patience).expect("not a month");
    match poll(&mut [PollFd::new(socket.as_fd(), what)], timeout)? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Waits until so many bytes have come and not been read.
pub(crate) fn wait_for_unread(socket: &TcpStream, count: usize, patience: Duration) -> Seen {
    if count == 0 {
        return Seen::Done;
    }
    let mut buffer = vec![0; count];
    let end = Instant::now() + patience;
    loop {
        match socket.peek(&mut buffer) {
            Ok(got) if got == count => return Seen::Done,
            // Less, or the end too early.
            Ok(_) if Instant::now() < end => thread::sleep(Duration::from_micros(200)),
            Ok(_) => return Seen::Failed(Failure::Late),
            Err(error) => return Seen::Failed(error.into()),
        }
    }
}

/// Closes by a reset.
pub(crate) fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("it can be set");
    drop(socket);
}
