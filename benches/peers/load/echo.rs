//! UDP echo: as many datagrams as come back with a bounded number of them under way.
//!
//! The bound keeps what is under way within the socket buffers that the kernel gives by default: a proxy that keeps
//! those is measured by its pace, not by what it drops. What is lost all the same is sent anew after a while.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::datagrams::{BATCH, Client, Mark, send_back, socket};
use super::pingpong::{nanoseconds, of_samples};
use super::{Clock, Figures, Order, WARM_UP, figures};

/// Datagrams of a flow that follow each other, where there are many flows.
const BURST: usize = 8;

/// What has not come back after that long is lost.
const LOST_AFTER: Duration = Duration::from_millis(40);

/// Longest time in which every flow must have been answered once.
const FIRST_ANSWERS: Duration = Duration::from_secs(10);

/// Datagrams under way: so many fit into a receive buffer of 212,992 bytes, by what the kernel counts for each.
fn window(size: usize) -> usize {
    if size > 512 { 64 } else { 192 }
}

/// What came of a span of time.
#[derive(Debug, Default)]
struct Tally {
    returned: u64,
    lost: u64,
}

impl Tally {
    fn figures(&self, seconds: f64, cpu: Option<f64>) -> Figures {
        let returned = self.returned as f64;
        figures([
            ("packets_per_s", Some(returned / seconds)),
            ("cpu_s_per_million", cpu.map(|cpu| cpu * 1e6 / returned)),
            ("lost_percent", Some(100.0 * self.lost as f64 / (returned + self.lost as f64))),
        ])
    }
}

/// Runs `client` beside a target that sends back what it gets.
fn beside_target<T>(order: &Order, client: impl FnOnce() -> Result<T>) -> Result<T> {
    let target = socket(Some(order.target), None)?;
    let (is_over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let target = scope.spawn(|| send_back(order, &target, 2_048, &count, &is_over));
        let found = client();
        is_over.store(true, Ordering::Relaxed);
        target.join().map_err(|_| anyhow!("the target panicked"))??;
        found
    })
}

/// One flow: for each datagram that comes back, another one goes out.
pub(super) fn run_one(order: &Order, size: usize) -> Result<Figures> {
    beside_target(order, || {
        let socket = socket(None, Some(order.client))?;
        let mut flow = OneFlow { client: Client::new(size), socket, next: 0, under_way: 0 };
        flow.answered_once()?;
        flow.run(order, WARM_UP)?;
        let clock = Clock::start(&order.cpu)?;
        let tally = flow.run(order, order.duration())?;
        let (seconds, cpu) = clock.stop()?;
        Ok(tally.figures(seconds, cpu))
    })
}

struct OneFlow {
    client: Client,
    socket: UdpSocket,
    next: u32,
    under_way: usize,
}

impl OneFlow {
    /// A first datagram may meet a proxy that is not ready yet.
    fn answered_once(&mut self) -> Result<()> {
        let (start, mut answers) = (Instant::now(), 0);
        while answers == 0 {
            ensure!(start.elapsed() < FIRST_ANSWERS, "no datagram came back");
            self.client.send(&self.socket, Mark { flow: 0, nth: 0 }, 1)?;
            self.client.receive(&self.socket, true, |_| answers += 1)?;
        }
        Ok(())
    }

    fn run(&mut self, order: &Order, duration: Duration) -> Result<Tally> {
        let mut tally = Tally::default();
        let (start, mut last) = (Instant::now(), Instant::now());
        while start.elapsed() < duration {
            let room = window(64) - self.under_way;
            // Calls for one datagram each would make the load the bottleneck.
            if room >= BATCH / 4 {
                let sent = self.client.send(&self.socket, Mark { flow: 0, nth: self.next }, room)?;
                self.next = self.next.wrapping_add(u32::try_from(sent)?);
                self.under_way += sent;
            }
            let mut returned = 0;
            self.client.receive(&self.socket, order.is_check, |_| returned += 1)?;
            self.under_way = self.under_way.saturating_sub(returned);
            tally.returned += returned as u64;
            if returned > 0 {
                last = Instant::now();
            } else if last.elapsed() > LOST_AFTER {
                tally.lost += self.under_way as u64;
                self.under_way = 0;
            }
        }
        Ok(tally)
    }
}

/// Many flows: bursts of one flow after the other, some under way at once, until all had their turn, and anew.
pub(super) fn run_many(order: &Order, flows: usize, size: usize) -> Result<Figures> {
    beside_target(order, || {
        let mut flows = Flows::new(order, flows, size)?;
        flows.answered_once(order)?;
        flows.run(order, WARM_UP)?;
        let clock = Clock::start(&order.cpu)?;
        let tally = flows.run(order, order.duration())?;
        let (seconds, cpu) = clock.stop()?;
        Ok(tally.figures(seconds, cpu))
    })
}

/// One client socket and its present burst.
struct Flow {
    socket: UdpSocket,
    /// The number of the burst's first datagram: answers to earlier ones come too late to count.
    first: u32,
    under_way: usize,
    sent_at: Instant,
    was_answered: bool,
}

struct Flows {
    client: Client,
    epoll: Epoll,
    all: Vec<Flow>,
    /// Flows with a burst under way, the oldest first; one that has had all its answers may still be in it.
    active: VecDeque<usize>,
    under_way: usize,
    turn: usize,
    window: usize,
}

impl Flows {
    fn new(order: &Order, count: usize, size: usize) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut all = Vec::new();
        for nth in 0..count {
            let socket = socket(None, Some(order.client))?;
            socket.set_nonblocking(true)?;
            epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, nth as u64))?;
            all.push(Flow { socket, first: 0, under_way: 0, sent_at: Instant::now(), was_answered: false });
        }
        let (client, window) = (Client::new(size), window(size));
        Ok(Self { client, epoll, all, active: VecDeque::new(), under_way: 0, turn: 0, window })
    }

    /// Lets every flow have its turn, so that each is known to the proxy before the clock starts.
    fn answered_once(&mut self, order: &Order) -> Result<()> {
        let start = Instant::now();
        while !self.all.iter().all(|flow| flow.was_answered) {
            ensure!(start.elapsed() < FIRST_ANSWERS, "some flows had no answer");
            self.run(order, Duration::from_millis(20))?;
        }
        Ok(())
    }

    fn run(&mut self, order: &Order, duration: Duration) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut events = [EpollEvent::empty(); BATCH];
        let start = Instant::now();
        while start.elapsed() < duration {
            self.fill()?;
            let count = self.epoll.wait(&mut events, EpollTimeout::from(10_u8))?;
            for event in &events[..count] {
                let nth = usize::try_from(event.data())?;
                tally.returned += self.take(nth, order.is_check)?;
            }
            if count < BATCH {
                tally.lost += self.give_up_old();
            }
        }
        Ok(tally)
    }

    /// Sends bursts of the flows whose turn it is, as many as may be under way.
    fn fill(&mut self) -> Result<()> {
        while self.under_way + BURST <= self.window {
            let nth = self.turn;
            self.turn = (self.turn + 1) % self.all.len();
            let flow = &mut self.all[nth];
            if flow.under_way > 0 {
                continue;
            }
            flow.first = flow.first.wrapping_add(u32::try_from(BURST)?);
            let mark = Mark { flow: u32::try_from(nth)?, nth: flow.first };
            flow.under_way = self.client.send(&flow.socket, mark, BURST)?;
            flow.sent_at = Instant::now();
            self.under_way += flow.under_way;
            self.active.push_back(nth);
        }
        Ok(())
    }

    /// Takes the answers of a flow; says how many were due.
    fn take(&mut self, nth: usize, is_check: bool) -> Result<u64> {
        let flow = &mut self.all[nth];
        let (mut due, mut is_strange) = (0, false);
        self.client.receive(&flow.socket, is_check, |mark| {
            is_strange |= mark.flow as usize != nth;
            due += usize::from(mark.nth.wrapping_sub(flow.first) < 1 << 31);
        })?;
        ensure!(!is_strange, "a datagram came back to another flow than its own");
        let due = due.min(flow.under_way);
        flow.under_way -= due;
        flow.was_answered |= due > 0;
        self.under_way -= due;
        Ok(due as u64)
    }

    fn give_up_old(&mut self) -> u64 {
        let mut lost = 0;
        while let Some(nth) = self.active.front() {
            let flow = &mut self.all[*nth];
            if flow.under_way > 0 && flow.sent_at.elapsed() < LOST_AFTER {
                break;
            }
            lost += flow.under_way;
            self.under_way -= flow.under_way;
            flow.under_way = 0;
            self.active.pop_front();
        }
        lost as u64
    }
}

/// One datagram at a time.
pub(super) fn round_trips(order: &Order) -> Result<Figures> {
    beside_target(order, || {
        let socket = socket(None, Some(order.client))?;
        let mut flow = OneFlow { client: Client::new(64), socket, next: 0, under_way: 0 };
        flow.answered_once()?;
        let (mut samples, start) = (Vec::with_capacity(1 << 18), Instant::now());
        let clock = Clock::start(&order.cpu)?;
        for nth in 1.. {
            if start.elapsed() >= order.duration() {
                break;
            }
            let sent_at = Instant::now();
            flow.client.send(&flow.socket, Mark { flow: 0, nth }, 1)?;
            let mut is_back = false;
            while !is_back && sent_at.elapsed() < LOST_AFTER {
                flow.client.receive(&flow.socket, true, |mark| is_back |= mark.nth == nth)?;
            }
            if is_back {
                samples.push(nanoseconds(sent_at.elapsed()));
            }
        }
        let (seconds, cpu) = clock.stop()?;
        Ok(of_samples(&mut samples, seconds, cpu))
    })
}
