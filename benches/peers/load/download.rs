//! Large answers to HTTP requests, one after the other on each connection: bulk as HTTP has it.
//!
//! As in [`bulk`](super::bulk), the timed client lets the kernel discard a body; that it is the right one is compared
//! where nothing is timed.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Scope;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use nix::sys::socket::{MsgFlags, recv};

use super::bulk::{CHUNK, PATTERN, pattern};
use super::http_text::{Head, MOST, answer, refusal, request};
use super::{Clock, Figures, Order, WARM_UP, figures, listen};
use crate::mode::Told;

/// Bytes of an answer's body.
const BODY: usize = 8 << 20;

/// How often a thread of the target that has nothing to do looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// What both ends know.
struct Work<'a> {
    order: &'a Order,
    pattern: Vec<u8>,
    received: AtomicU64,
    /// No more requests.
    is_over: AtomicBool,
    /// No more answers.
    is_closed: AtomicBool,
}

impl Work<'_> {
    /// The body of an answer from that byte on, as far as it stands in one piece.
    fn piece(&self, nth: u64, from: usize) -> &[u8] {
        let start = usize::try_from(nth % PATTERN as u64).expect("below the length of a slice") * 7_919 % PATTERN;
        let at = (start + from) % PATTERN;
        &self.pattern[at..PATTERN.min(at + CHUNK.min(BODY - from))]
    }
}

/// As fast as it goes for the time ordered.
pub(super) fn run(order: &Order, streams: usize) -> Result<Figures> {
    let listener = listen(order)?;
    let work = Work {
        order,
        pattern: pattern(),
        received: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        is_closed: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let target = scope.spawn(|| accept(scope, &work, &listener));
        let found = ask(&work, streams);
        work.is_closed.store(true, Ordering::Relaxed);
        while !target.is_finished() {
            // Wakes the one that waits for connections.
            TcpStream::connect(order.target)?;
        }
        target.join().map_err(|_| anyhow!("the target panicked"))??;
        found
    })
}

fn ask(work: &Work<'_>, streams: usize) -> Result<Figures> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..streams).map(|nth| scope.spawn(move || client(work, (nth as u64) << 40))).collect();
        std::thread::sleep(WARM_UP);
        let (clock, before) = (Clock::start(&work.order.cpu)?, work.received.load(Ordering::Relaxed));
        std::thread::sleep(work.order.duration());
        let gigabytes = (work.received.load(Ordering::Relaxed) - before) as f64 / 1e9;
        let (seconds, cpu) = clock.stop()?;
        work.is_over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(figures([("gb_per_s", Some(gigabytes / seconds)), ("cpu_s_per_gb", cpu.map(|cpu| cpu / gigabytes))]))
    })
}

fn client(work: &Work<'_>, first: u64) -> Result<()> {
    let mut stream = TcpStream::connect(work.order.client)?;
    let mut room = vec![0; 4 * CHUNK];
    for nth in first.. {
        if work.is_over.load(Ordering::Relaxed) {
            break;
        }
        stream.write_all(request(nth).as_bytes())?;
        let (mut filled, mut received) = (0, 0);
        while received < BODY {
            if received == 0 {
                let count = stream.read(&mut room[filled..MOST])?;
                ensure!(count > 0, "a connection ended early");
                filled += count;
                let Some((head, start)) = Head::split(&room[..filled])? else { continue };
                let length = head.answered()?;
                ensure!(length == BODY, "an answer of {BODY} bytes came with {length}");
                received = filled - start;
                compare(work, nth, 0, &room[start..filled])?;
                work.received.fetch_add(received as u64, Ordering::Relaxed);
                if received == 0 {
                    // A head by itself: what comes now is body.
                    received = rest(work, &mut stream, nth, 0, &mut room)?;
                }
            } else {
                received += rest(work, &mut stream, nth, received, &mut room)?;
            }
        }
    }
    Ok(())
}

/// Takes what there is of a body of which some bytes have come; says how much.
fn rest(work: &Work<'_>, stream: &mut TcpStream, nth: u64, from: usize, room: &mut [u8]) -> Result<usize> {
    let most = room.len().min(BODY - from);
    let count = if work.order.is_check {
        stream.read(&mut room[..most])?
    } else {
        // With MSG_TRUNC on TCP, the kernel counts and discards.
        recv(stream.as_raw_fd(), &mut room[..most], MsgFlags::MSG_TRUNC)?
    };
    ensure!(count > 0, "an answer ended after {from} bytes");
    compare(work, nth, from, &room[..count])?;
    work.received.fetch_add(count as u64, Ordering::Relaxed);
    Ok(count)
}

fn compare(work: &Work<'_>, nth: u64, mut from: usize, mut bytes: &[u8]) -> Result<()> {
    while work.order.is_check && !bytes.is_empty() {
        let piece = work.piece(nth, from);
        let count = piece.len().min(bytes.len());
        ensure!(bytes[..count] == piece[..count], "wrong bytes after {from} right ones");
        (from, bytes) = (from + count, &bytes[count..]);
    }
    Ok(())
}

fn accept<'scope>(scope: &'scope Scope<'scope, '_>, work: &'scope Work<'_>, listener: &TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        if work.is_closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        // A proxy may end a connection as it likes; a client that misses something tells of it.
        scope.spawn(move || drop(serve(work, stream)));
    }
}

fn serve(work: &Work<'_>, mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(LOOK))?;
    let mut room = vec![0; MOST];
    let mut filled = 0;
    while !work.is_closed.load(Ordering::Relaxed) {
        match stream.read(&mut room[filled..]) {
            Ok(0) => return Ok(()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        let Some((head, _)) = Head::split(&room[..filled])? else { continue };
        filled = 0;
        let found = head.requested().and_then(|nth| {
            if work.order.is_check && work.order.told == Told::Field {
                head.ensure_names(work.order.client.ip())?;
            }
            Ok(nth)
        });
        match found {
            Ok(nth) => {
                stream.write_all(answer(BODY).as_bytes())?;
                let mut sent = 0;
                while sent < BODY {
                    let piece = work.piece(nth, sent);
                    stream.write_all(piece)?;
                    sent += piece.len();
                }
            }
            // The client tells of it.
            Err(error) => stream.write_all(refusal(&error).as_bytes())?,
        }
    }
    Ok(())
}
