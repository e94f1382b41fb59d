//! HTTP with connections that stay, each with one small request under way: one epoll loop on either end. The target
//! takes connections whenever they come: a proxy has its own idea of how many it needs.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::http_text::{Head, MOST, answer, refusal, request};
use super::pingpong::{nanoseconds, of_samples};
use super::{Clock, Figures, Order, WARM_UP, listen};
use crate::mode::Told;

/// Bytes of an answer's body.
const BODY: usize = 128;

/// Events of one call.
const EVENTS: usize = 64;

/// How often each end looks whether it is over.
const LOOK: u8 = 20;

/// The event of the target's listener; connections have theirs below.
const LISTENER: u64 = u64::MAX;

/// A body that no other request has.
fn body(nth: u64) -> [u8; BODY] {
    let mut body = [b'.'; BODY];
    let digits = nth.to_string();
    body[..digits.len()].copy_from_slice(digits.as_bytes());
    body[BODY - digits.len()..].copy_from_slice(digits.as_bytes());
    body
}

/// One end of a connection, and what has arrived of the next message.
struct End {
    stream: TcpStream,
    bytes: Box<[u8]>,
    filled: usize,
    nth: u64,
    sent_at: Instant,
}

impl End {
    fn new(stream: TcpStream, nth: u64) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let bytes = vec![0; MOST + BODY].into_boxed_slice();
        Ok(Self { stream, bytes, filled: 0, nth, sent_at: Instant::now() })
    }

    /// Reads once; false at the end.
    fn read(&mut self) -> Result<bool> {
        match self.stream.read(&mut self.bytes[self.filled..]) {
            Ok(count) => {
                self.filled += count;
                Ok(count > 0)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn request(&mut self) -> Result<()> {
        self.nth += 1;
        self.sent_at = Instant::now();
        Ok(self.stream.write_all(request(self.nth).as_bytes())?)
    }

    /// True once the whole answer is there, and is the right one.
    fn has_answer(&mut self) -> Result<bool> {
        let bytes = &self.bytes[..self.filled];
        let Some((head, start)) = Head::split(bytes)? else { return Ok(false) };
        let length = head.answered()?;
        ensure!(length == BODY, "an answer of {BODY} bytes came with {length}");
        if bytes.len() < start + length {
            return Ok(false);
        }
        ensure!(bytes[start..] == body(self.nth), "an answer is not the one to its request");
        self.filled = 0;
        Ok(true)
    }

    /// Answers the request, if it is all there.
    fn answer(&mut self, order: &Order) -> Result<()> {
        let Some((head, length)) = Head::split(&self.bytes[..self.filled])? else { return Ok(()) };
        let found = head.requested().and_then(|nth| {
            ensure!(length == self.filled, "more came than a request");
            if order.is_check && order.told == Told::Field {
                head.ensure_names(order.client.ip())?;
            }
            Ok(nth)
        });
        match found {
            Ok(nth) => self.stream.write_all(&[answer(BODY).as_bytes(), &body(nth)].concat())?,
            // The client tells of it.
            Err(error) => self.stream.write_all(refusal(&error).as_bytes())?,
        }
        self.filled = 0;
        Ok(())
    }
}

/// Runs it for the time ordered.
pub(super) fn run(order: &Order, connections: usize) -> Result<Figures> {
    let listener = listen(order)?;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let target = scope.spawn(|| serve(order, &listener, &is_over));
        let found = ask(order, connections);
        is_over.store(true, Ordering::Relaxed);
        target.join().map_err(|_| anyhow!("the target panicked"))??;
        found
    })
}

fn serve(order: &Order, listener: &TcpListener, is_over: &AtomicBool) -> Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    // A place is not given again: there are few more connections than the client has.
    let mut ends: Vec<Option<End>> = Vec::new();
    let mut events = [EpollEvent::empty(); EVENTS];
    while !is_over.load(Ordering::Relaxed) {
        let count = epoll.wait(&mut events, EpollTimeout::from(LOOK))?;
        for event in &events[..count] {
            if event.data() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, ends.len() as u64))?;
                    ends.push(Some(End::new(stream, 0)?));
                }
                continue;
            }
            let place = &mut ends[usize::try_from(event.data())?];
            let Some(end) = place else { continue };
            // A proxy may end a connection as it likes, by a reset too; closed, it is watched no more.
            if !matches!(end.read(), Ok(true)) || end.answer(order).is_err() {
                *place = None;
            }
        }
    }
    Ok(())
}

fn ask(order: &Order, connections: usize) -> Result<Figures> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut ends = Vec::new();
    for nth in 0..connections {
        let end = End::new(TcpStream::connect(order.client)?, (nth as u64) << 40)?;
        epoll.add(end.stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, nth as u64))?;
        ends.push(end);
    }
    ends.iter_mut().try_for_each(End::request)?;
    exchange(&epoll, &mut ends, WARM_UP)?;
    let clock = Clock::start(&order.cpu)?;
    let mut samples = exchange(&epoll, &mut ends, order.duration())?;
    let (seconds, cpu) = clock.stop()?;
    Ok(of_samples(&mut samples, seconds, cpu))
}

fn exchange(epoll: &Epoll, ends: &mut [End], duration: Duration) -> Result<Vec<u32>> {
    let mut samples = Vec::with_capacity(1 << 20);
    let mut events = [EpollEvent::empty(); EVENTS];
    let start = Instant::now();
    while start.elapsed() < duration {
        let count = epoll.wait(&mut events, EpollTimeout::from(LOOK))?;
        for event in &events[..count] {
            let end = &mut ends[usize::try_from(event.data())?];
            ensure!(end.read()?, "a connection ended early");
            if end.has_answer()? {
                samples.push(nanoseconds(end.sent_at.elapsed()));
                end.request()?;
            }
        }
    }
    ensure!(!samples.is_empty(), "no answer came in {duration:?}");
    Ok(samples)
}
