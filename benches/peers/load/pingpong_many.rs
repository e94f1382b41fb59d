//! Many connections, each with one request under way: one epoll loop on either end.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::pingpong::{MESSAGE, message, nanoseconds, of_samples};
use super::told::accept;
use super::{Clock, Figures, Order, WARM_UP, listen};

/// One end of a connection, and how much of the next message has arrived.
struct End {
    stream: TcpStream,
    filled: usize,
    message: [u8; MESSAGE],
    nth: u64,
    sent_at: Instant,
}

impl End {
    fn new(stream: TcpStream, nth: u64) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, filled: 0, message: [0; MESSAGE], nth, sent_at: Instant::now() })
    }

    /// Reads once.
    fn read(&mut self) -> Result<Arrived> {
        match self.stream.read(&mut self.message[self.filled..]) {
            Ok(0) => Ok(Arrived::End),
            Ok(count) => {
                self.filled += count;
                if self.filled < MESSAGE {
                    return Ok(Arrived::Part);
                }
                self.filled = 0;
                Ok(Arrived::Whole)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Arrived::Part),
            Err(error) => Err(error.into()),
        }
    }

    fn request(&mut self) -> Result<()> {
        self.nth += 1;
        self.sent_at = Instant::now();
        self.stream.write_all(&message(self.nth))?;
        Ok(())
    }
}

#[derive(PartialEq, Eq)]
enum Arrived {
    Whole,
    Part,
    End,
}

/// Runs it for the time ordered.
pub(super) fn run(order: &Order, connections: usize) -> Result<Figures> {
    let listener = listen(order)?;
    let mut clients = Vec::new();
    let mut targets = Vec::new();
    for nth in 0..connections {
        clients.push(End::new(TcpStream::connect(order.client)?, (nth as u64) << 40)?);
        targets.push(End::new(accept(order, &listener)?, 0)?);
    }
    std::thread::scope(|scope| {
        let target = scope.spawn(|| answer(targets));
        let client = watch(&clients)?;
        clients.iter_mut().try_for_each(End::request)?;
        exchange(&client, &mut clients, WARM_UP)?;
        let clock = Clock::start(&order.cpu)?;
        let mut samples = exchange(&client, &mut clients, order.duration())?;
        let (seconds, cpu) = clock.stop()?;
        drop(clients);
        target.join().map_err(|_| anyhow!("the target panicked"))??;
        Ok(of_samples(&mut samples, seconds, cpu))
    })
}

fn watch(ends: &[End]) -> Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (nth, end) in ends.iter().enumerate() {
        epoll.add(&end.stream, EpollEvent::new(EpollFlags::EPOLLIN, nth as u64))?;
    }
    Ok(epoll)
}

/// The ends that are ready.
fn ready<'a>(epoll: &Epoll, events: &'a mut [EpollEvent]) -> Result<impl Iterator<Item = usize> + use<'a>> {
    let count = epoll.wait(events, EpollTimeout::NONE)?;
    Ok(events[..count].iter().map(|event| usize::try_from(event.data()).expect("an index was put in")))
}

fn answer(mut ends: Vec<End>) -> Result<()> {
    let epoll = watch(&ends)?;
    let mut events = vec![EpollEvent::empty(); ends.len()];
    let mut open = ends.len();
    while open > 0 {
        for nth in ready(&epoll, &mut events)? {
            let end = &mut ends[nth];
            match end.read() {
                Ok(Arrived::Whole) => end.stream.write_all(&end.message)?,
                Ok(Arrived::Part) => {}
                // The client leaves in the middle of an exchange: some proxies make a reset of that.
                Ok(Arrived::End) | Err(_) => {
                    epoll.delete(&end.stream)?;
                    open -= 1;
                }
            }
        }
    }
    Ok(())
}

fn exchange(epoll: &Epoll, ends: &mut [End], duration: Duration) -> Result<Vec<u32>> {
    let mut samples = Vec::with_capacity(1 << 20);
    let mut events = vec![EpollEvent::empty(); ends.len()];
    let start = Instant::now();
    while start.elapsed() < duration {
        for nth in ready(epoll, &mut events)? {
            let end = &mut ends[nth];
            let read = end.read()?;
            ensure!(read != Arrived::End, "a connection ended early");
            if read == Arrived::Whole {
                ensure!(end.message == message(end.nth), "an answer is not the one to its request");
                samples.push(nanoseconds(end.sent_at.elapsed()));
                end.request()?;
            }
        }
    }
    Ok(samples)
}
