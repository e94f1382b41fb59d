//! The task of one listening socket: waits for what comes next and passes it on.
//!
//! It owns the socket, the flows and their order of ending. Everything between two waits is system calls that
//! never block, so one flow cannot hold up another; each kind of event is handled in bounded batches.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Sleep;

use super::admit::Refusals;
use super::flow::{Flow, Received, errno};
use super::packet::{self, Arrived, Scratch, with_scratch};
use super::poller::Poller;
use super::table::{FlowId, FlowKey, FlowTable};
use crate::forward::context::{Addresses, ListenerContext};
use crate::forward::meter::Direction;
use crate::forward::pressure::Limit;
use crate::model::event::CloseReason;
use crate::model::untrusted::SafeText;

/// Datagrams of clients forwarded before the targets' turn.
const BATCH: usize = 64;
/// Replies of one flow forwarded before the next flow's turn.
const BATCH_OF_A_FLOW: usize = 16;
/// Errors of the listening socket without a datagram between them, after which it is taken for dead.
const ERRORS: u32 = 64;

/// Forwards what arrives at `socket`, which is bound as by [`bind`](super::bind).
///
/// Ends well once `context.drain` is cancelled and the last flow is gone; then its sockets are closed. Ends with
/// an error when the listening socket is dead: its flows are closed, and another one is to be bound.
///
/// `tell` hears of [`Trouble`]. The datagram that met it goes no further; what becomes of the mapping is its
/// owner's business.
pub async fn serve(
    socket: std::net::UdpSocket,
    context: ListenerContext,
    tell: impl Fn(Trouble) + Send + 'static,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let bound = socket.local_addr()?;
    let mut listener = Listener {
        socket: UdpSocket::from_std(socket)?,
        bound,
        context,
        table: FlowTable::new(),
        poller: None,
        kills: FuturesUnordered::new(),
        route: 0,
        route_may_change: true,
        draining: false,
        errors: 0,
        refusals: Refusals::default(),
        tell: Box::new(tell),
    };
    let ended = listener.run().await;
    if let Err(error) = &ended {
        listener.close_all(&format!("the listening socket failed: {error}"));
    }
    ended
}

/// A listening socket and its flows.
pub(super) struct Listener {
    socket: UdpSocket,
    bound: SocketAddr,
    pub(super) context: ListenerContext,
    pub(super) table: FlowTable<Flow>,
    /// Only while there are flows: an idle listener holds one descriptor.
    pub(super) poller: Option<Poller>,
    /// One for each flow, ready when its record is killed (or has been closed).
    pub(super) kills: FuturesUnordered<Pin<Box<dyn Future<Output = FlowId> + Send>>>,
    /// Counts the changes of the route, so that a flow knows whether its target is still right.
    pub(super) route: u64,
    route_may_change: bool,
    draining: bool,
    errors: u32,
    pub(super) refusals: Refusals,
    pub(super) tell: Box<dyn Fn(Trouble) + Send>,
}

/// What a client's first datagram can meet that concerns the whole mapping.
#[derive(Debug)]
pub enum Trouble {
    /// The mapping has sent it to itself; the way it took, such as `:5353 -> :5353`.
    Circle(String),
    /// A limit: there is no place for the client.
    Limit(Limit),
}

enum Event {
    Drain,
    Route { more: bool },
    Kill(FlowId),
    Arrived,
    Replies,
    Expiry,
}

impl Listener {
    async fn run(&mut self) -> io::Result<()> {
        let mut expiry = pin!(tokio::time::sleep(Duration::ZERO));
        let mut armed = false;
        while !(self.draining && self.table.is_empty()) {
            if !armed {
                armed = self.arm(expiry.as_mut());
            }
            match self.next(expiry.as_mut(), armed).await? {
                Event::Drain => self.draining = true,
                Event::Route { more } => {
                    self.route += 1;
                    self.route_may_change = more;
                    // The idle timeout may be shorter now.
                    armed = false;
                }
                Event::Kill(id) => {
                    self.kill(id, CloseReason::Killed);
                    // All that are ready, since a flood that evicts flows makes them faster than one at a time.
                    while let Some(Some(id)) = self.kills.next().now_or_never() {
                        self.kill(id, CloseReason::Killed);
                    }
                }
                Event::Arrived => with_scratch(|scratch| self.take_arrived(scratch, now()))?,
                Event::Replies => with_scratch(|scratch| self.take_replies(scratch, now()))?,
                Event::Expiry => {
                    armed = false;
                    with_scratch(|scratch| self.expire(scratch, now()));
                }
            }
        }
        Ok(())
    }

    /// Waits for the next event. Dropping any of these waits loses nothing: data stays in the kernel.
    async fn next(&mut self, expiry: Pin<&mut Sleep>, armed: bool) -> io::Result<Event> {
        let Self { socket, context, poller, kills, route_may_change, draining, .. } = self;
        Ok(tokio::select! {
            () = context.drain.cancelled(), if !*draining => Event::Drain,
            changed = context.route.changed(), if *route_may_change => Event::Route { more: changed.is_ok() },
            Some(id) = kills.next() => Event::Kill(id),
            ready = socket.readable() => { ready?; Event::Arrived }
            ready = Poller::readable(poller.as_ref()) => { ready?; Event::Replies }
            () = expiry, if armed => Event::Expiry,
        })
    }

    /// Sets the alarm for the first flow that expires if it stays quiet. Flows in use only make it ring early.
    fn arm(&self, expiry: Pin<&mut Sleep>) -> bool {
        let next = self.idle_timeout().and_then(|timeout| self.table.next_expiry(timeout));
        if let Some(next) = next {
            expiry.reset(next.into());
        }
        next.is_some()
    }

    fn take_arrived(&mut self, scratch: &mut Scratch, now: Instant) -> io::Result<()> {
        for _ in 0..BATCH {
            let (socket, bound) = (&self.socket, self.bound);
            match socket.try_io(Interest::READABLE, || packet::receive(socket, bound, scratch)) {
                Ok(arrived) => {
                    self.errors = 0;
                    let key = FlowKey { client: arrived.client, local: arrived.local };
                    if fenced(|| self.forward(&arrived, &scratch.payload, now)).is_none() {
                        self.fault(self.table.find(&key));
                    }
                }
                Err(error) => match errno(&error) {
                    // `try_io` makes a WouldBlock of its own when the socket was not ready at all.
                    _ if error.kind() == io::ErrorKind::WouldBlock => break,
                    Errno::EINTR => {}
                    Errno::EBADF | Errno::ENOTSOCK | Errno::ENOTCONN | Errno::EINVAL | Errno::EOPNOTSUPP => {
                        return Err(error);
                    }
                    _ => {
                        // For example the ICMP refusal of a client that is gone: it must not cost the others.
                        self.errors += 1;
                        tracing::debug!(listener = %self.bound, %error, "an error in place of a datagram");
                        if self.errors == ERRORS {
                            return Err(error);
                        }
                    }
                },
            }
        }
        Ok(())
    }

    fn forward(&mut self, arrived: &Arrived, payload: &[u8], now: Instant) {
        if arrived.truncated {
            self.context.meter.drop_datagram();
            return;
        }
        let key = FlowKey { client: arrived.client, local: arrived.local };
        let standing = self.table.find(&key).filter(|id| !self.gives_up(*id, now));
        let Some(id) = standing.or_else(|| self.admit(key, now)) else {
            return;
        };
        if let Some((_, flow)) = self.table.get_mut(id) {
            flow.send(&payload[..arrived.length], &self.context.meter, now);
            self.table.touch(id, Direction::In, now);
        } else {
            self.context.meter.drop_datagram();
        }
    }

    /// Closes a flow that its client's datagram should not take any more (see the module's words on routes).
    fn gives_up(&mut self, id: FlowId, now: Instant) -> bool {
        let current = self.route;
        let Some((_, flow)) = self.table.get_mut(id) else { return true };
        if self.draining || (flow.route == current && !flow.is_broken()) {
            return false;
        }
        let route = self.context.route.borrow().clone();
        let Addresses::Known(addresses) = &route.addresses else { return false };
        let port = self.target_port(&route);
        let Some((_, flow)) = self.table.get_mut(id) else { return true };
        let target = flow.target();
        if addresses.iter().any(|address| address.ip() == target.ip()) && port == target.port() {
            flow.route = current;
        }
        let stale = flow.route != current && !addresses.is_empty();
        let gives_up = flow.is_broken() || (stale && flow.is_unanswered(now));
        if gives_up {
            self.close(id, CloseReason::TargetUnreachable, None);
        }
        gives_up
    }

    fn take_replies(&mut self, scratch: &mut Scratch, now: Instant) -> io::Result<()> {
        let ready = self.poller.as_ref().map_or_else(|| Ok(Vec::new()), Poller::ready)?;
        for id in ready {
            if fenced(|| self.forward_replies(id, scratch, now)).is_none() {
                self.fault(Some(id));
            }
        }
        Ok(())
    }

    /// The work for one flow has panicked: it ends, and no other.
    fn fault(&mut self, id: Option<FlowId>) {
        tracing::error!(listener = %self.bound, "the work for a flow has panicked; that flow alone has ended");
        if let Some(id) = id {
            self.close(id, CloseReason::Fault, Some("its task panicked".into()));
        }
        if self.table.is_empty() {
            self.poller = None;
        }
    }

    fn forward_replies(&mut self, id: FlowId, scratch: &mut Scratch, now: Instant) {
        let Some((key, flow)) = self.table.get_mut(id) else { return };
        let meter = &self.context.meter;
        let mut replied = 0;
        for _ in 0..BATCH_OF_A_FLOW {
            match flow.receive(&mut scratch.payload, meter, now) {
                Received::Nothing => break,
                Received::Error => {}
                Received::Reply(length) => {
                    replied += 1;
                    match packet::reply(&self.socket, &scratch.payload[..length], key.client, key.local) {
                        Ok(()) => flow.record().record().counters.add_datagram(Direction::Out, length as u64),
                        Err(error) => {
                            meter.drop_datagram();
                            tracing::debug!(client = %key.client, %error, "a reply was not sent");
                        }
                    }
                }
            }
        }
        for _ in 0..replied {
            self.table.touch(id, Direction::Out, now);
        }
    }

    fn expire(&mut self, scratch: &mut Scratch, now: Instant) {
        let Some(timeout) = self.idle_timeout() else { return };
        while let Some(id) = self.table.expired(now, timeout) {
            // A reply may wait already, if this task had much to do.
            if fenced(|| self.forward_replies(id, scratch, now)).is_none() {
                self.fault(Some(id));
            }
            if self.table.expired(now, timeout) == Some(id) {
                self.close(id, CloseReason::IdleTimeout, None);
            }
        }
    }

    /// Ends a flow for the reason that its record was killed with, or else for this one.
    pub(super) fn kill(&mut self, id: FlowId, otherwise: CloseReason) {
        if let Some((_, flow)) = self.table.get_mut(id) {
            let reason = flow.record().record().kill_reason().unwrap_or(otherwise);
            self.close(id, reason, None);
        }
    }

    /// Ends a flow: out of the table, its sockets closed, its record closed.
    pub(super) fn close(&mut self, id: FlowId, reason: CloseReason, error: Option<SafeText>) {
        let Some((_, flow)) = self.table.remove(id) else { return };
        flow.close(reason, error);
        if self.table.is_empty() {
            self.poller = None;
        }
    }

    fn close_all(&mut self, error: &str) {
        for id in self.table.ids() {
            self.close(id, CloseReason::Error, Some(SafeText::new(error)));
        }
    }

    fn idle_timeout(&self) -> Option<Duration> {
        self.context.route.borrow().config.idle_timeout
    }
}

/// Runs the work for one flow; `None` when it panicked. One task serves all flows of a socket, so a fault of one would
/// otherwise be the end of all. What a panic can leave half done is that flow's, which is closed for it.
fn fenced<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}

/// The runtime's clock, which tests can hold still.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
