//! The task of one listening socket: waits for what comes next and passes it on.
//!
//! It owns the socket, the flows and their order of ending. Everything between two waits is system calls that
//! never block, so one flow cannot hold up another; each kind of event is handled in bounded batches.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Sleep;

use super::admit::Refusals;
use super::flow::{Flow, errno};
use super::held::HeldPorts;
use super::packet::{SLOTS, Scratch, key_of, parts, parts_of_pieces, with_scratch};
use super::poller::Poller;
use super::runs::Run;
use super::table::{FlowId, FlowKey, FlowTable};
use crate::forward::context::{Addresses, ListenerContext};
use crate::forward::meter::Direction;
use crate::forward::pressure::Limit;
use crate::model::event::CloseReason;
use crate::model::profile::MappingConfig;
use crate::model::untrusted::SafeText;

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
    let reads_headers = reads_headers(&context);
    let mut listener = Listener {
        socket: UdpSocket::from_std(socket)?,
        bound,
        context,
        table: FlowTable::new(),
        poller: None,
        kills: FuturesUnordered::new(),
        route: 0,
        route_may_change: true,
        reads_headers,
        draining: false,
        more_waits: false,
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
    pub(super) socket: UdpSocket,
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
    /// Where each datagram is to begin with a PROXY header: whose is believed.
    reads_headers: Option<Arc<MappingConfig>>,
    draining: bool,
    /// The last batch of clients' datagrams was a full one.
    more_waits: bool,
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

/// Datagrams of one client that are about to be forwarded.
pub(super) struct Pending {
    pub(super) key: FlowKey,
    id: FlowId,
    pub(super) run: Run,
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
                    self.reads_headers = reads_headers(&self.context);
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
                Event::Arrived => with_scratch(|scratch| {
                    if self.more_waits {
                        self.take_replies_first(scratch, now())?;
                    }
                    self.take_arrived(scratch, now())
                })?,
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
        let (socket, inbox) = (&self.socket, &mut scratch.inbox);
        let mut received = 0;
        let looked = socket.try_io(Interest::READABLE, || {
            received = inbox.receive(socket, 0..SLOTS)?;
            // Fewer than there is room for are all that there were: saying so saves the call that would find none.
            if received < SLOTS { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        self.more_waits = received == SLOTS;
        if received > 0 {
            self.errors = 0;
        } else if let Err(error) = looked {
            return self.not_received(error);
        }
        let mut pending: Option<Pending> = None;
        let reads_headers = self.reads_headers.clone();
        for slot in 0..received {
            let datagram = scratch.inbox.datagram(slot);
            let run = Run::new(slot, datagram.length, datagram.segment);
            let key = key_of(&datagram, self.bound).filter(|_| !datagram.is_truncated);
            let Some(key) = key else {
                self.context.meter.drop_datagrams(run.datagrams as u64);
                continue;
            };
            if let Some(config) = &reads_headers {
                self.take_headed(config, key, &run, &mut pending, scratch, now);
                continue;
            }
            if pending.as_mut().is_some_and(|pending| pending.key == key && pending.run.extend(&run)) {
                continue;
            }
            // Before another flow may push this one out.
            self.forward(pending.take(), scratch, now);
            pending = self.pending(key, run, now);
        }
        self.forward(pending, scratch, now);
        Ok(())
    }

    /// Datagrams with the flow that they take; without one, they are dropped and counted.
    pub(super) fn pending(&mut self, key: FlowKey, run: Run, now: Instant) -> Option<Pending> {
        match fenced(|| self.flow_for(key, now)) {
            Some(Some(id)) => return Some(Pending { key, id, run }),
            Some(None) => self.context.meter.drop_datagrams(run.datagrams as u64),
            None => self.fault(self.table.find(&key)),
        }
        None
    }

    /// Nothing was received. An error of the socket itself is its end.
    fn not_received(&mut self, error: io::Error) -> io::Result<()> {
        match errno(&error) {
            // `try_io` makes a WouldBlock of its own when the socket was not ready at all.
            _ if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Errno::EINTR => Ok(()),
            Errno::EBADF | Errno::ENOTSOCK | Errno::ENOTCONN | Errno::EINVAL | Errno::EOPNOTSUPP => Err(error),
            _ => {
                // For example the ICMP refusal of a client that is gone: it must not cost the others.
                self.errors += 1;
                tracing::debug!(listener = %self.bound, %error, "an error in place of a datagram");
                if self.errors == ERRORS { Err(error) } else { Ok(()) }
            }
        }
    }

    /// The flow that a datagram takes: the one of its key, or a new one; `None` when it is refused.
    fn flow_for(&mut self, key: FlowKey, now: Instant) -> Option<FlowId> {
        let standing = self.table.find(&key).filter(|id| !self.gives_up(*id, now));
        standing.or_else(|| self.admit(key, now))
    }

    pub(super) fn forward(&mut self, pending: Option<Pending>, scratch: &mut Scratch, now: Instant) {
        let Some(Pending { id, run, .. }) = pending else { return };
        let Scratch { inbox, outbox, pieces, .. } = scratch;
        let sent = fenced(|| {
            let Some((_, flow)) = self.table.get_mut(id) else {
                return self.context.meter.drop_datagrams(run.datagrams as u64);
            };
            if run.datagrams == 1 && pieces.is_empty() {
                flow.send(inbox.payload(run.slots.start), &self.context.meter, now);
            } else {
                let parts = if pieces.is_empty() {
                    parts(inbox, run.slots.clone())
                } else {
                    parts_of_pieces(inbox, &pieces[run.slots.clone()])
                };
                flow.send_run(&run, &parts[..run.slots.len()], outbox, &self.context.meter, now);
            }
            self.table.touch(id, Direction::In, now);
        });
        pieces.clear();
        if sent.is_none() {
            self.fault(Some(id));
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

    /// The work for one flow has panicked: it ends, and no other.
    pub(super) fn fault(&mut self, id: Option<FlowId>) {
        tracing::error!(listener = %self.bound, "the work for a flow has panicked; that flow alone has ended");
        if let Some(id) = id {
            self.close(id, CloseReason::Fault, Some("its task panicked".into()));
        }
        if self.table.is_empty() {
            self.poller = None;
        }
    }

    fn expire(&mut self, scratch: &mut Scratch, now: Instant) {
        let Some(timeout) = self.idle_timeout() else { return };
        while let Some(id) = self.table.expired(now, timeout) {
            // A reply may wait already, if this task had much to do.
            scratch.ready.clear();
            scratch.ready.push(id);
            self.forward_replies(scratch, now);
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

    /// Ends a flow: out of the table, its socket closed or held for a moment, its record closed.
    pub(super) fn close(&mut self, id: FlowId, reason: CloseReason, error: Option<SafeText>) {
        let (last_used, now) = (self.table.last_used(id), now());
        let Some((_, flow)) = self.table.remove(id) else { return };
        let may_hear = last_used.is_some_and(|used| HeldPorts::may_hear(used, now));
        // One that is still watched cannot be kept: its replies would wake us for nothing.
        let is_kept = may_hear && self.poller.as_ref().is_none_or(|poller| poller.remove(&flow).is_ok());
        flow.close(reason, error, is_kept.then_some((&self.context.registry.held_ports, now)));
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

/// The mapping's configuration, where datagrams have PROXY headers.
fn reads_headers(context: &ListenerContext) -> Option<Arc<MappingConfig>> {
    let route = context.route.borrow();
    route.config.accept_proxy.then(|| Arc::clone(&route.config))
}

/// Runs the work for one flow; `None` when it panicked. One task serves all flows of a socket, so a fault of one would
/// otherwise be the end of all. What a panic can leave half done is that flow's, which is closed for it. Sending the
/// replies of many flows together is outside: it does nothing for a flow but count.
pub(super) fn fenced<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}

/// The runtime's clock, which tests can hold still.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
