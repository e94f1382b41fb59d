//! How one connection of the mixed load goes: what its client does, and what its target does at the other end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use crate::sockets::reset;

/// The longest message.
pub(crate) const LONGEST: usize = 4 << 20;
/// What a slow reader is sent, and how much of it he takes at a time.
const SLOW: usize = 1 << 20;
const SIP: usize = 64 << 10;
/// When something has not happened by then, it never will, however busy the machine is.
const LATEST: Duration = Duration::from_mins(1);
/// How long an idle connection stands with nothing said.
const STANDING: Duration = Duration::from_secs(10);
/// What both ends of a connection that is to be cut send, again and again.
const PULSE: (usize, Duration) = (16 << 10, Duration::from_millis(10));

/// How a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Way {
    /// Both send, end, and read to the end.
    Whole,
    /// As `Whole`, with so much that it is spliced.
    Bulk,
    /// As `Whole`, after a while of silence.
    Standing,
    /// As `Whole`, and the client reads slowly.
    SlowReader,
    /// The client ends before the target says anything.
    ClientEndsFirst,
    /// The target ends before the client says anything but what it wants.
    TargetEndsFirst,
    /// The client resets after the exchange.
    ClientResets,
    /// The client resets while it sends.
    ClientResetsMidway,
    /// The target resets while it sends.
    TargetResetsMidway,
    /// The client resets without a word.
    AtOnce,
    /// Nobody listens at the target.
    Refused,
    /// The target's kernel never answers.
    Swallowed,
    /// Nobody says anything until the idle timeout.
    Mute,
    /// The client ends, the target never does.
    HalfClosed,
    /// Both send until the mapping is taken away.
    Cut,
    /// Datagrams there and back.
    Datagrams,
    /// Datagrams to a port where nobody is, which the kernel says by ICMP.
    DatagramsRefused,
}

impl Way {
    /// Those that a target is told of, in the order of their numbers.
    const TOLD: [Self; 10] = [
        Self::Whole,
        Self::Bulk,
        Self::Standing,
        Self::SlowReader,
        Self::ClientEndsFirst,
        Self::TargetEndsFirst,
        Self::ClientResets,
        Self::ClientResetsMidway,
        Self::TargetResetsMidway,
        Self::Cut,
    ];

    /// The way of the `number`-th connection.
    pub(crate) fn of(number: u64) -> Self {
        match number % 20 {
            0..=4 => Self::Whole,
            5 => Self::ClientEndsFirst,
            6 => Self::TargetEndsFirst,
            7 => Self::ClientResets,
            8 => Self::ClientResetsMidway,
            9 => Self::TargetResetsMidway,
            10 => Self::AtOnce,
            11 => Self::Refused,
            12 => Self::Swallowed,
            13 => Self::Mute,
            14 => Self::HalfClosed,
            15 => Self::Datagrams,
            16 => Self::DatagramsRefused,
            17 => Self::Cut,
            _ => match number / 20 % 6 {
                0 => Self::SlowReader,
                1 | 2 => Self::Bulk,
                3 => Self::Standing,
                _ => Self::Whole,
            },
        }
    }

    /// Whether the client is reset though it does nothing but connect.
    fn is_reset_unasked(self) -> bool {
        matches!(self, Self::Refused | Self::Swallowed | Self::Mute)
    }

    /// The mapping that it goes through.
    pub(crate) fn mapping(self, number: u64) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Swallowed => "swallowed",
            Self::Mute => "mute",
            Self::HalfClosed => "half-closed",
            Self::Cut => "cut",
            Self::Datagrams => "datagrams",
            Self::DatagramsRefused => "datagrams-refused",
            _ if number.is_multiple_of(3) => "to-v6",
            _ => "to-v4",
        }
    }
}

/// What a client says first: how it will go, and the lengths of request and reply.
#[derive(Clone, Copy, Debug)]
struct Head {
    way: Way,
    request: u32,
    reply: u32,
}

const HEAD: usize = 9;

impl Head {
    fn of(number: u64, way: Way) -> Self {
        let below = |factor: u64, limit: u64| u32::try_from(number.wrapping_mul(factor) % limit).expect("below");
        let (request, reply) = match way {
            Way::Bulk => (LONGEST / 2, LONGEST),
            Way::SlowReader => (1, SLOW),
            Way::TargetResetsMidway => (20_000, 300_000),
            _ => return Self { way, request: below(7_919, 60_000), reply: 1 + below(104_729, 30_000) },
        };
        let length = |length| u32::try_from(length).expect("small");
        Self { way, request: length(request), reply: length(reply) }
    }

    fn to_bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        let number = Way::TOLD.iter().position(|way| *way == self.way).expect("targets are told of it");
        bytes[0] = u8::try_from(number).expect("few");
        bytes[1..5].copy_from_slice(&self.request.to_be_bytes());
        bytes[5..].copy_from_slice(&self.reply.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; HEAD]) -> Self {
        let figure = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Self { way: Way::TOLD[usize::from(bytes[0])], request: figure(1), reply: figure(5) }
    }
}

/// Reads to the end, which may be a reset; gives the count of bytes. They must be those that `expected` begins with.
async fn to_the_end(stream: &mut (impl AsyncRead + Unpin), expected: &[u8]) -> u64 {
    let mut buffer = vec![0; SIP];
    let mut count = 0;
    while let Ok(got @ 1..) = stream.read(&mut buffer).await {
        assert!(expected[count..].starts_with(&buffer[..got]), "other bytes than were sent, at {count}");
        count += got;
    }
    count as u64
}

/// Reads to a clean end all of `expected`, and no more; gives its length.
async fn all_of(stream: &mut (impl AsyncRead + Unpin), expected: &[u8], pause: Option<Duration>) -> u64 {
    let mut buffer = vec![0; SIP];
    let mut rest = expected;
    while let got @ 1.. = stream.read(&mut buffer).await.expect("bytes or an end") {
        rest = rest.strip_prefix(&buffer[..got]).expect("the bytes that were sent");
        if let Some(pause) = pause {
            sleep(pause).await;
        }
    }
    assert!(rest.is_empty(), "{} bytes are missing", rest.len());
    expected.len() as u64
}

/// Reads as much as `expected` has.
async fn exactly(stream: &mut TcpStream, expected: &[u8]) -> u64 {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).await.expect("all of it");
    assert!(got == expected, "other bytes than were sent");
    expected.len() as u64
}

/// Sends `part` now and then until the peer is gone, and counts what comes.
async fn pulse(stream: &mut TcpStream, part: &[u8]) -> u64 {
    let (mut read, mut write) = stream.split();
    let writing = async {
        while write.write_all(part).await.is_ok() {
            sleep(PULSE.1).await;
        }
    };
    let reading = async {
        let (mut buffer, mut count) = (vec![0; SIP], 0);
        while let Ok(got @ 1..) = read.read(&mut buffer).await {
            count += got as u64;
        }
        count
    };
    tokio::join!(reading, writing).0
}

/// The target's side; gives what it received.
pub(crate) async fn answer(mut stream: TcpStream, payload: &[u8]) -> u64 {
    let mut head = [0; HEAD];
    if stream.read_exact(&mut head).await.is_err() {
        // The way of those who say nothing.
        return 0;
    }
    let head = Head::from_bytes(head);
    let (request, reply) = (&payload[..head.request as usize], &payload[..head.reply as usize]);
    let count = match head.way {
        Way::ClientEndsFirst => {
            let count = all_of(&mut stream, request, None).await;
            stream.write_all(reply).await.expect("the client still reads");
            stream.shutdown().await.expect("ended");
            count
        }
        Way::TargetEndsFirst => {
            stream.write_all(reply).await.expect("taken");
            stream.shutdown().await.expect("ended");
            all_of(&mut stream, request, None).await
        }
        Way::ClientResets | Way::ClientResetsMidway => {
            let count = exactly(&mut stream, request).await;
            stream.write_all(reply).await.expect("taken");
            count + to_the_end(&mut stream, payload).await
        }
        Way::TargetResetsMidway => {
            let count = exactly(&mut stream, request).await;
            stream.write_all(reply).await.expect("taken");
            reset(stream);
            count
        }
        Way::Cut => pulse(&mut stream, &payload[..PULSE.0]).await,
        _ => {
            let (mut read, mut write) = stream.split();
            let writing = async {
                write.write_all(reply).await.expect("taken");
                write.shutdown().await.expect("ended");
            };
            tokio::join!(all_of(&mut read, request, None), writing).0
        }
    };
    HEAD as u64 + count
}

/// A target that never ends: it reads to the client's end, and then waits until it is reset.
pub(crate) async fn hold(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let _ = stream.ready(Interest::ERROR).await;
}

/// One client; gives its address and what it received.
pub(crate) async fn client(listener: SocketAddr, number: u64, way: Way, payload: &[u8]) -> Option<(SocketAddr, u64)> {
    match way {
        Way::Datagrams => return Some(datagrams(listener, number, payload).await),
        Way::DatagramsRefused => return Some(refused_datagrams(listener).await),
        _ => {}
    }
    let socket = if listener.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.expect("a socket");
    if way == Way::SlowReader {
        socket.set_recv_buffer_size(u32::try_from(SIP).expect("small")).expect("it can be set");
    }
    let connected = timeout(LATEST, socket.connect(listener)).await.expect("an answer to connect");
    let mut stream = match connected {
        // The mapping may have been taken away by now.
        Err(_) if way == Way::Cut => return None,
        // All may have happened before this task even looks at the outcome of its connect.
        Err(error) if way.is_reset_unasked() && error.kind() == ErrorKind::ConnectionReset => {
            return Some((listener, 0));
        }
        connected => connected.unwrap_or_else(|error| panic!("{way:?} to {listener}: {error}")),
    };
    let local = stream.local_addr().expect("an address");
    match way {
        Way::AtOnce => {
            reset(stream);
            return Some((local, 0));
        }
        _ if way.is_reset_unasked() => {
            expect_reset(&mut stream, way).await;
            return Some((local, 0));
        }
        Way::HalfClosed => {
            stream.write_all(b"and nothing more").await.expect("taken");
            stream.shutdown().await.expect("ended");
            expect_reset(&mut stream, way).await;
            return Some((local, 0));
        }
        _ => {}
    }
    let head = Head::of(number, way);
    if stream.write_all(&head.to_bytes()).await.is_err() {
        assert_eq!(way, Way::Cut, "the first bytes are taken");
        return Some((local, 0));
    }
    Some((local, talk(stream, head, payload).await))
}

/// What follows the first bytes; gives what it received.
async fn talk(mut stream: TcpStream, head: Head, payload: &[u8]) -> u64 {
    let (request, reply) = (&payload[..head.request as usize], &payload[..head.reply as usize]);
    match head.way {
        Way::ClientEndsFirst => {
            stream.write_all(request).await.expect("taken");
            stream.shutdown().await.expect("ended");
            all_of(&mut stream, reply, None).await
        }
        Way::TargetEndsFirst => {
            let count = all_of(&mut stream, reply, None).await;
            stream.write_all(request).await.expect("the target still reads");
            stream.shutdown().await.expect("ended");
            count
        }
        Way::ClientResets | Way::ClientResetsMidway => {
            stream.write_all(request).await.expect("taken");
            let count = exactly(&mut stream, reply).await;
            if head.way == Way::ClientResetsMidway {
                // With bytes on their way, in every buffer between here and the target.
                stream.write_all(&payload[..=300_000 * (head.reply as usize % 8) / 8]).await.expect("taken");
            }
            reset(stream);
            count
        }
        Way::TargetResetsMidway => {
            stream.write_all(request).await.expect("taken");
            to_the_end(&mut stream, reply).await
        }
        Way::Cut => pulse(&mut stream, &payload[..PULSE.0]).await,
        way => {
            if way == Way::Standing {
                sleep(STANDING).await;
            }
            let pause = (way == Way::SlowReader).then_some(Duration::from_millis(30));
            let (mut read, mut write) = stream.split();
            let writing = async {
                write.write_all(request).await.expect("taken");
                write.shutdown().await.expect("ended");
            };
            tokio::join!(all_of(&mut read, reply, pause), writing).0
        }
    }
}

async fn expect_reset(stream: &mut TcpStream, way: Way) {
    let end = timeout(LATEST, stream.read(&mut [0])).await;
    let end = end.unwrap_or_else(|_| panic!("{way:?}: no end")).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset), "{way:?}");
}

async fn datagrams(listener: SocketAddr, number: u64, payload: &[u8]) -> (SocketAddr, u64) {
    let socket = UdpSocket::bind((listener.ip(), 0)).await.expect("a free port");
    socket.connect(listener).await.expect("a way to loopback");
    let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
    for round in 0..3 {
        let length = usize::try_from((number * 31 + round * 997) % 1_400).expect("short");
        let length = if number.is_multiple_of(400) { length + 8_000 } else { length };
        socket.send(&payload[..length]).await.expect("sent");
        let got = timeout(LATEST, socket.recv(&mut buffer)).await.expect("a reply in time").expect("no refusal");
        assert!(buffer[..got] == payload[..length], "{got} bytes came back of {length}, or others");
        bytes += got as u64;
    }
    (socket.local_addr().expect("an address"), bytes)
}

async fn refused_datagrams(listener: SocketAddr) -> (SocketAddr, u64) {
    let socket = UdpSocket::bind((listener.ip(), 0)).await.expect("a free port");
    socket.connect(listener).await.expect("a way to loopback");
    for _ in 0..3 {
        socket.send(b"anybody?").await.expect("sent");
        let answer = timeout(Duration::from_millis(20), socket.recv(&mut [0])).await;
        assert!(answer.is_err(), "nobody is there, and nobody says so: {answer:?}");
    }
    (socket.local_addr().expect("an address"), 0)
}
