//! What ends a proxied connection besides its messages: silence, a client that is gone, a word to end.
//!
//! It is looked at when the connection has nothing to do, and costs a timer only where there is a limit.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::channel::{Channel, Spoken};
use super::exchange::Proxy;
use crate::forward::registry::OpenConnection;
use crate::forward::relay::Timeouts;
use crate::model::event::{CloseReason, ConnectionState, Side};

/// How long a head may take from its first byte to its last one, or from when the request before it was answered.
pub(super) const HEAD: Duration = Duration::from_mins(1);
/// How often within a timeout the send queues are looked at.
const LOOKS: u32 = 4;

/// Watches over one connection.
pub(super) struct Watch<'a> {
    proxy: &'a Proxy,
    connection: &'a OpenConnection,
    timeouts: &'a Timeouts,
    last_stir: Instant,
    queued: u64,
    timer: Option<Pin<Box<Sleep>>>,
    /// The head that the client is about to send, by when it began, and since when it has had our whole attention.
    slow: Option<(Instant, Instant)>,
    /// A request was being answered when this was last looked at, or since a head has begun.
    was_busy: bool,
    is_half_closed: bool,
    is_end_passed: bool,
    is_kept_alive: bool,
    /// Waits for a reset, once that had to be done.
    reset: Option<Pin<Box<dyn Future<Output = io::Error> + Send>>>,
}

/// What it has seen.
pub(super) enum Sight {
    /// Nothing moved for too long.
    Silence(CloseReason),
    /// The client is gone, as was noted.
    Gone,
    /// Something was done about what it saw: look at everything again.
    Stir,
}

impl<'a> Watch<'a> {
    pub(super) fn new(proxy: &'a Proxy, connection: &'a OpenConnection, timeouts: &'a Timeouts) -> Self {
        Self {
            proxy,
            connection,
            timeouts,
            last_stir: Instant::now(),
            queued: 0,
            timer: None,
            slow: None,
            was_busy: false,
            is_half_closed: false,
            is_end_passed: false,
            is_kept_alive: false,
            reset: None,
        }
    }

    /// Looks around while nothing else is to be done. Pending means that a wake-up is arranged for: of `reader` by what
    /// comes from the client, since who reads it next is woken by the same event.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, reader: &Waker) -> Poll<Sight> {
        let Proxy { client, target, common, .. } = self.proxy;
        if !self.is_kept_alive && self.connection.record().is_lasting() {
            self.is_kept_alive = true;
            client.leg.start_keepalive();
            target.with_leg(|target| target.leg.start_keepalive());
        }
        // Between requests the library reads, and reading tells.
        if common.in_flight.load(Relaxed) > 0 {
            let closing = client.poll_closing(reader);
            let failed = match closing {
                Poll::Ready(true) => client.leg.take_error(),
                Poll::Ready(false) => self.poll_reset(cx),
                Poll::Pending => None,
            };
            if let Some(error) = failed {
                common.fail(Side::Client, &error);
                return Poll::Ready(Sight::Gone);
            }
            // HTTP/2 has ends of its own, and its library always reads.
            if self.proxy.spoken == Spoken::Http1 && closing == Poll::Ready(true) {
                self.pass_end();
            }
        }
        self.poll_timer(cx)
    }

    /// Waits for a reset of a client that has sent more than is read: what waits there tells nothing, and nobody would read
    /// it before the target moves.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        let client = &self.proxy.client;
        let reset = self.reset.get_or_insert_with(|| {
            let client = Arc::clone(client);
            Box::pin(async move { client.leg.failed().await })
        });
        match reset.as_mut().poll(cx) {
            Poll::Ready(error) => Some(error),
            Poll::Pending => None,
        }
    }

    /// Passes on the end of a client that has asked its last request: as it would come without us, a target may answer
    /// nevertheless, or be glad to know that nobody waits any more.
    fn pass_end(&mut self) {
        let Proxy { client, target, common, .. } = self.proxy;
        if !self.is_half_closed && client.leg.has_ended() {
            self.is_half_closed = true;
            self.connection.set_state(ConnectionState::HalfClosed, Some(Side::Client));
        }
        if self.is_half_closed
            && !self.is_end_passed
            && common.bodies.load(Relaxed) == 0
            && client.is_last(common.requests())
        {
            let pass = |target: &Channel| {
                target.send_deferred();
                // Where this fails, reading tells.
                target.is_flushed() && target.leg.shutdown_write().is_ok()
            };
            self.is_end_passed = target.with_leg(pass).unwrap_or(false);
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Sight> {
        let head = self.head_awaited();
        let limit = self.limit();
        if head.is_none() && limit.is_none() {
            return Poll::Pending;
        }
        if self.proxy.common.take_stirred() {
            self.last_stir = Instant::now();
        }
        loop {
            let now = Instant::now();
            let silence = limit.and_then(|(limit, reason)| Some((self.last_stir.checked_add(limit)?, reason)));
            let slow = head.map(|since| since + HEAD);
            if slow.is_some_and(|due| now >= due) {
                self.proxy.client.refuse_slow();
                return Poll::Ready(Sight::Stir);
            }
            if let Some((due, reason)) = silence
                && now >= due
            {
                return Poll::Ready(Sight::Silence(reason));
            }
            let look = limit.map(|(limit, _)| now + limit / LOOKS);
            let Some(next) = [silence.map(|(due, _)| due), slow, look].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
            if timer.deadline() > next || timer.is_elapsed() {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // A slow reader takes bytes without a word.
            let queued = self.proxy.client.leg.unacknowledged()
                + self.proxy.target.with_leg(|target| target.leg.unacknowledged()).unwrap_or(0);
            if queued < std::mem::replace(&mut self.queued, queued) {
                self.last_stir = Instant::now();
            }
        }
    }

    /// Since when a head has been waited for: not while an earlier request is being answered, when nobody reads it.
    fn head_awaited(&mut self) -> Option<Instant> {
        let is_free = self.proxy.common.in_flight.load(Relaxed) == 0;
        let begun = self.proxy.client.head_since().filter(|_| is_free);
        self.slow = begun.map(|begun| match self.slow {
            Some((before, since)) if before == begun => (before, since),
            _ if self.was_busy => (begun, Instant::now()),
            _ => (begun, begun),
        });
        self.was_busy = !is_free || (self.was_busy && begun.is_some());
        self.slow.map(|(_, since)| since)
    }

    fn limit(&self) -> Option<(Duration, CloseReason)> {
        let idle = self.timeouts.idle.map(|idle| (idle, CloseReason::IdleTimeout));
        if self.is_half_closed {
            let half = (self.timeouts.half_close, CloseReason::HalfCloseTimeout);
            return Some(idle.filter(|idle| idle.0 < half.0).unwrap_or(half));
        }
        idle
    }
}
