//! Bulk: as many bytes as go through, in one direction.
//!
//! The timed receiver lets the kernel discard what has arrived instead of copying it once more, so that the load takes
//! as little as it can from a machine that it shares with the proxy. Bytes sent and received are compared exactly; that
//! they are the right ones is the business of [`check`].

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;

use anyhow::{Result, anyhow, ensure};
use nix::sys::socket::{MsgFlags, recv};

use super::told::accept;
use super::{Clock, Figures, Order, WARM_UP, figures, listen};
use crate::cases::Direction;

/// Bytes of one call.
pub(super) const CHUNK: usize = 256 * 1024;

/// Bytes of one stream that are compared.
const CHECKED: usize = 24 << 20;

/// Length of the pattern, a prime: no buffer of a proxy divides it, so a byte that moved is not the byte expected.
pub(super) const PATTERN: usize = 1_000_003;

/// Both ends of every stream.
struct Streams {
    senders: Vec<TcpStream>,
    receivers: Vec<TcpStream>,
}

fn connect(order: &Order, streams: usize, direction: Direction) -> Result<Streams> {
    let listener = listen(order)?;
    let clients = (0..streams).map(|_| TcpStream::connect(order.client)).collect::<std::io::Result<Vec<_>>>()?;
    let targets = (0..streams).map(|_| accept(order, &listener)).collect::<Result<Vec<_>>>()?;
    Ok(match direction {
        Direction::Up => Streams { senders: clients, receivers: targets },
        Direction::Down => Streams { senders: targets, receivers: clients },
    })
}

/// As fast as it goes for the time ordered.
pub(super) fn run(order: &Order, streams: usize, direction: Direction) -> Result<Figures> {
    let Streams { senders, receivers } = connect(order, streams, direction)?;
    let is_over = AtomicBool::new(false);
    let received = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let senders: Vec<_> = senders.iter().map(|stream| scope.spawn(|| send(stream, &is_over))).collect();
        let receivers: Vec<_> = receivers.iter().map(|stream| scope.spawn(|| discard(stream, &received))).collect();
        std::thread::sleep(WARM_UP);
        let (clock, before) = (Clock::start(&order.cpu)?, received.load(Ordering::Relaxed));
        std::thread::sleep(order.duration());
        let gigabytes = (received.load(Ordering::Relaxed) - before) as f64 / 1e9;
        let (seconds, cpu) = clock.stop()?;
        is_over.store(true, Ordering::Relaxed);
        let (sent, arrived) = (joined(senders)?, joined(receivers)?);
        ensure!(sent == arrived, "{sent} bytes were sent, and {arrived} arrived");
        Ok(figures([("gb_per_s", Some(gigabytes / seconds)), ("cpu_s_per_gb", cpu.map(|cpu| cpu / gigabytes))]))
    })
}

/// Sends until it is over, then an end; says how much.
fn send(mut stream: &TcpStream, is_over: &AtomicBool) -> Result<u64> {
    let chunk = vec![0x5a; CHUNK];
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) {
        sent += stream.write(&chunk)? as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(sent)
}

/// Takes what comes until the end; says how much.
fn discard(stream: &TcpStream, all: &AtomicU64) -> Result<u64> {
    // With MSG_TRUNC on TCP, the kernel counts and discards; the buffer's length is all that is used of it.
    let mut chunk = vec![0; 4 * CHUNK];
    let mut received = 0;
    loop {
        let count = recv(stream.as_raw_fd(), &mut chunk, MsgFlags::MSG_TRUNC)? as u64;
        if count == 0 {
            return Ok(received);
        }
        received += count;
        all.fetch_add(count, Ordering::Relaxed);
    }
}

/// A fixed amount in each stream, of which every byte is compared.
pub(super) fn check(order: &Order, streams: usize, direction: Direction) -> Result<Figures> {
    let Streams { senders, receivers } = connect(order, streams, direction)?;
    let pattern = pattern();
    std::thread::scope(|scope| {
        let pattern = &pattern;
        let senders: Vec<_> = (senders.iter().enumerate())
            .map(|(nth, stream)| scope.spawn(move || send_pattern(stream, pattern, nth * 7_919)))
            .collect();
        let receivers: Vec<_> = receivers.iter().map(|stream| scope.spawn(|| compare(stream, pattern))).collect();
        let (sent, arrived) = (joined(senders)?, joined(receivers)?);
        ensure!(sent == arrived, "{sent} bytes were sent, and {arrived} arrived");
        Ok(Figures::new())
    })
}

/// Bytes of a xorshift generator.
pub(super) fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(PATTERN).collect()
}

/// Sends where in the pattern the stream starts, then the pattern over and over.
fn send_pattern(mut stream: &TcpStream, pattern: &[u8], start: usize) -> Result<u64> {
    stream.write_all(&start.to_le_bytes())?;
    let (mut at, mut left) = (start, CHECKED);
    while left > 0 {
        let chunk = &pattern[at..pattern.len().min(at + left.min(CHUNK))];
        stream.write_all(chunk)?;
        left -= chunk.len();
        at = (at + chunk.len()) % pattern.len();
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(CHECKED as u64)
}

fn compare(mut stream: &TcpStream, pattern: &[u8]) -> Result<u64> {
    let mut start = [0; size_of::<usize>()];
    stream.read_exact(&mut start)?;
    let mut at = usize::from_le_bytes(start);
    ensure!(at < pattern.len(), "the first bytes of a stream are not those sent");
    let (mut chunk, mut received) = (vec![0; CHUNK], 0);
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Ok(received);
        }
        let mut rest = &chunk[..count];
        while !rest.is_empty() {
            let expected = &pattern[at..pattern.len().min(at + rest.len())];
            ensure!(rest.starts_with(expected), "wrong bytes after {received} right ones");
            rest = &rest[expected.len()..];
            received += expected.len() as u64;
            at = (at + expected.len()) % pattern.len();
        }
    }
}

fn joined(threads: Vec<ScopedJoinHandle<'_, Result<u64>>>) -> Result<u64> {
    threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread of the load panicked"))?).sum()
}
