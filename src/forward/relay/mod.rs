//! Moves bytes between the two legs of a connection until it ends, and ends it truthfully: a half-close stays
//! a half-close, a reset stays a reset.
//!
//! One task moves both directions. How a direction moves its bytes is its path's affair ([`path`]: [`copy`] or
//! [`splice`], as suits what comes). This module knows neither listeners nor targets.

mod copy;
mod ending;
mod leg;
mod pace;
mod path;
mod pipes;
mod splice;
mod vigil;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

pub(crate) use self::ending::{Outcome, is_after_end};
pub(crate) use self::leg::Leg;
pub(crate) use self::path::Allowed;
pub(crate) use self::pipes::PipePool;

use self::copy::{Failure, Step};
use self::ending::{DELIVERY, Patience, all_delivered, delivered, is_all_delivered};
use self::path::Path;
use self::vigil::Vigil;
use crate::forward::meter::Direction;
use crate::forward::registry::{OpenConnection, Record};
use crate::model::event::{CloseReason, ConnectionState, Side};

/// How often within a timeout the send queues are looked at: so much of it later than due a stuck peer is given up.
const LOOKS: u32 = 4;

/// When a silent connection ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Without a byte for that long; `None`: never.
    pub(crate) idle: Option<Duration>,
    /// Half-closed and without a byte for that long.
    pub(crate) half_close: Duration,
}

impl Timeouts {
    /// How long the other side may take nothing of what a broken side had sent before. One that had sent all, and its
    /// end, is owed as much patience as any half-closed one.
    fn delivery(&self, error: &io::Error) -> Patience {
        if is_after_end(error) { Patience { within: self.half_close, is_renewed: true } } else { DELIVERY }
    }
}

/// Relays until the connection has ended or is killed.
// Not an `async fn`: the future of one keeps each argument twice, and there is one for each connection.
pub(crate) fn run<'a>(
    legs: &'a [Leg; 2],
    connection: &'a OpenConnection,
    timeouts: &'a Timeouts,
    pipes: &'a PipePool,
) -> impl Future<Output = Outcome> + Send + use<'a> {
    until_end(Relay::new(legs, connection, timeouts, pipes), legs)
}

/// As [`run`], behind what was read of the client and of the target before: `ahead` is passed on first.
pub(crate) fn run_behind<'a>(
    ahead: [Vec<u8>; 2],
    legs: &'a [Leg; 2],
    connection: &'a OpenConnection,
    timeouts: &'a Timeouts,
    pipes: &'a PipePool,
) -> impl Future<Output = Outcome> + Send + use<'a> {
    let mut relay = Relay::new(legs, connection, timeouts, pipes);
    let [inward, outward] = ahead;
    relay.inward.path.begin_with(inward);
    relay.outward.path.begin_with(outward);
    until_end(relay, legs)
}

fn until_end<'a>(mut relay: Relay<'a>, legs: &'a [Leg; 2]) -> impl Future<Output = Outcome> + Send + use<'a> {
    // A leg that was broken before tells no error any more: only an end, which would be taken for its peer's.
    for (side, leg) in [Side::Client, Side::Target].into_iter().zip(legs) {
        if let Some(kind) = leg.broken() {
            relay.break_at(side, kind.into());
        }
    }
    async move {
        let end = poll_fn(|cx| relay.poll(cx)).await;
        let broken = relay.broken.take();
        relay.let_go();
        let (connection, timeouts) = (relay.connection, relay.timeouts);
        match (end, broken) {
            (End::Killed, _) => Outcome::killed(connection.record()),
            (End::TimedOut(reason), None) => Outcome::from(reason),
            (_, None) if is_all_delivered(legs.each_ref()) => CloseReason::Finished.into(),
            // What waits for delivery has room of its own: few do.
            (end, broken) => Box::pin(conclude(legs, connection, timeouts, end, broken)).await,
        }
    }
}

/// Waits until what was sent is delivered, as far as it is owed that, and says how the connection has ended.
async fn conclude(
    legs: &[Leg; 2],
    connection: &OpenConnection,
    timeouts: &Timeouts,
    end: End,
    broken: Option<(Side, io::Error)>,
) -> Outcome {
    let record = connection.record();
    let [client, target] = legs;
    let delivery = async {
        match (end, broken) {
            // Both ends are sent, but a byte counts when its destination has it, and a reset may still come instead.
            (_, None) => match all_delivered([client, target], timeouts.half_close, connection).await {
                Ok(()) => Outcome::from(CloseReason::Finished),
                Err((side, error)) => {
                    delivered(if side == Side::Client { target } else { client }, DELIVERY).await;
                    Outcome::broken(side, &error)
                }
            },
            (end, Some((side, error))) => {
                if matches!(end, End::Drained) {
                    let other = if side == Side::Client { target } else { client };
                    delivered(other, timeouts.delivery(&error)).await;
                }
                Outcome::broken(side, &error)
            }
        }
    };
    tokio::select! {
        biased;
        () = record.kill.heard() => Outcome::killed(record),
        outcome = delivery => outcome,
    }
}

/// Closes both sockets in order: what was sent is still delivered, then the ends.
pub(crate) fn finish(legs: [Leg; 2]) {
    legs.into_iter().for_each(Leg::finish);
}

/// Resets both sockets, or the client's where there is no other. What is still queued in them is thrown away by that; it
/// was counted when they took it, and is taken back.
pub(crate) async fn reset(client: Leg, target: Option<Leg>, connection: &OpenConnection) {
    leg::silence([Some(&client), target.as_ref()]).await;
    let record = connection.record();
    if let Some(target) = target {
        reset_now(target, Direction::In, record);
    }
    reset_now(client, Direction::Out, record);
}

/// Resets a socket to which bytes went in this direction, and takes back what is still queued in it.
pub(crate) fn reset_now(leg: Leg, direction: Direction, record: &Record) {
    record.counters.take_back(direction, leg.reset());
}

/// Why moving bytes has stopped.
#[derive(Debug)]
enum End {
    /// Both sides have ended, and all was sent.
    Finished,
    /// One side is broken, and what it had sent before was passed on.
    Drained,
    /// Nothing moved for too long.
    TimedOut(CloseReason),
    /// Somebody wants it to end.
    Killed,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    path: Path,
    done: bool,
}

struct Relay<'a> {
    client: &'a Leg,
    target: &'a Leg,
    connection: &'a OpenConnection,
    timeouts: &'a Timeouts,
    pipes: &'a PipePool,
    inward: Flow,
    outward: Flow,
    /// The side that broke first, and how.
    broken: Option<(Side, io::Error)>,
    /// Bytes have moved, or the timeout that applies is another, since the timer was last looked at.
    stirred: bool,
    last_stir: Instant,
    /// What each kernel had not acknowledged when that was last looked at.
    queued: [u64; 2],
    timer: Option<Pin<Box<Sleep>>>,
    /// Silent peers are probed.
    is_kept_alive: bool,
    vigil: Vigil,
    /// Of the client and the target, once it is needed.
    failures: [Option<Failing<'a>>; 2],
}

/// Completes when a leg has failed.
type Failing<'a> = Pin<Box<dyn Future<Output = io::Error> + Send + 'a>>;

/// However it ends, pipes go back to their pool.
impl Drop for Relay<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl<'a> Relay<'a> {
    fn new(
        [client, target]: &'a [Leg; 2],
        connection: &'a OpenConnection,
        timeouts: &'a Timeouts,
        pipes: &'a PipePool,
    ) -> Self {
        Self {
            pipes,
            client,
            target,
            connection,
            timeouts,
            inward: Flow::default(),
            outward: Flow::default(),
            broken: None,
            stirred: true,
            last_stir: Instant::now(),
            queued: [0; 2],
            timer: None,
            is_kept_alive: false,
            vigil: Vigil::default(),
            failures: [None, None],
        }
    }

    /// Moves bytes both ways, turn by turn, until neither can or the end has come.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.connection.record().kill.poll_heard(cx).is_ready() {
            return Poll::Ready(End::Killed);
        }
        if !self.is_kept_alive && self.connection.record().is_lasting() {
            self.keep_alive();
        }
        let mut in_waits = false;
        let mut out_waits = false;
        loop {
            if let Some(end) = self.end() {
                return Poll::Ready(end);
            }
            in_waits = in_waits || self.inward.done || self.step(cx, Direction::In).is_pending();
            out_waits = out_waits || self.outward.done || self.step(cx, Direction::Out).is_pending();
            if in_waits && out_waits {
                // A step may have been the last one.
                if let Some(end) = self.end() {
                    return Poll::Ready(end);
                }
                if self.poll_failures(cx) {
                    (in_waits, out_waits) = (false, false);
                    continue;
                }
                let waiting = [(&self.inward, self.client), (&self.outward, self.target)];
                self.vigil.poll(cx, waiting.map(|(flow, leg)| (!flow.path.is_empty()).then_some(leg)));
                return self.poll_timer(cx).map(End::TimedOut);
            }
        }
    }

    fn step(&mut self, cx: &mut Context<'_>, direction: Direction) -> Poll<()> {
        let (client, target) = (self.client, self.target);
        let (flow, back, from, to, side, other) = match direction {
            Direction::In => (&mut self.inward, &self.outward, client, target, Side::Client, Side::Target),
            Direction::Out => (&mut self.outward, &self.inward, target, client, Side::Target, Side::Client),
        };
        let record = self.connection.record();
        let allowed = record.allowed_path();
        let saw = |bytes: &[u8]| {
            if allowed == Allowed::Copy
                && let Some(tap) = record.tapped()
            {
                tap.saw(direction, bytes);
            }
        };
        match flow.path.poll_step(cx, from, to, self.pipes, allowed, saw) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Step::Moved(count))) => {
                record.counters.add_bytes(direction, count);
                if let Some(said) = flow.path.take_first() {
                    record.heard(direction, said);
                }
                self.stirred = true;
            }
            Poll::Ready(Ok(Step::Ended)) => {
                flow.done = true;
                self.stirred = true;
                match &self.broken {
                    // Reset as well, or alone: a call that leaves a rest may have swallowed the error (see `splice`),
                    // and receiving says "end" after that. What is still to be told says which it was.
                    None if !back.path.is_empty() && from.is_gone() => {
                        let error = from.take_error().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
                        if is_after_end(&error) {
                            // Fails only where that peer is gone as well.
                            let _ = to.shutdown_write();
                        }
                        self.break_at(side, error);
                    }
                    None => {
                        // Who has ended may have closed, and be forgotten soon. One that goes on reading is not probed
                        // either: what is sent to it, or the timeout of the half-closed, finds out that it is gone.
                        if !back.done && self.is_kept_alive {
                            from.stop_keepalive();
                        }
                        match to.shutdown_write() {
                            Ok(()) => self.connection.set_state(ConnectionState::HalfClosed, Some(side)),
                            // The call says only that there is no connection any more; the kernel may know why.
                            Err(error) => self.break_at(other, to.take_error().unwrap_or(error)),
                        }
                    }
                    // It has ended and then reset: what it sent is whole, and its peer is to see that before the reset.
                    Some((broken, error)) if *broken == side && is_after_end(error) => {
                        // Fails only where that peer is gone as well.
                        let _ = to.shutdown_write();
                    }
                    // An end that follows an error is the kernel's, not the peer's.
                    Some(_) => {}
                }
            }
            Poll::Ready(Err(Failure::Source(error))) => {
                flow.done = true;
                self.break_at(side, error);
            }
            Poll::Ready(Err(Failure::Destination(error))) => self.break_at(other, error),
        }
        Poll::Ready(())
    }

    /// Forgets what is unsent, and waits for nothing.
    fn let_go(&mut self) {
        self.inward.path.discard(self.pipes);
        self.outward.path.discard(self.pipes);
        self.failures = [None, None];
        (self.timer, self.vigil) = (None, Vigil::default());
    }

    /// Has silent peers probed, but for one that has ended. It takes calls that a connection which ends soon is spared.
    fn keep_alive(&mut self) {
        self.is_kept_alive = true;
        for (flow, leg) in [(&self.inward, self.client), (&self.outward, self.target)] {
            // The end may have come and wait to be read (see `vigil`).
            if !flow.done && !leg.has_peer_ended() {
                leg.start_keepalive();
            }
        }
    }

    /// Looks for failures of legs of which reading does not tell: their direction is finished, or held up by its
    /// destination. True when there was one.
    fn poll_failures(&mut self, cx: &mut Context<'_>) -> bool {
        let legs = [(Side::Client, self.client), (Side::Target, self.target)];
        let is_read = [&self.inward, &self.outward].map(|flow| !flow.done && flow.path.is_empty());
        for (at, (side, leg)) in legs.into_iter().enumerate() {
            if (is_read[at] && leg.does_reading_tell()) || self.broken.is_some() {
                continue;
            }
            let failing = self.failures[at].get_or_insert_with(|| Box::pin(leg.failed()));
            if let Poll::Ready(error) = failing.as_mut().poll(cx) {
                self.break_at(side, error);
                return true;
            }
        }
        false
    }

    /// One side is broken: nothing more can be sent to it, and what came from it is still to be passed on.
    fn break_at(&mut self, side: Side, error: io::Error) {
        let towards = if side == Side::Client { &mut self.outward } else { &mut self.inward };
        towards.path.discard(self.pipes);
        towards.done = true;
        self.stirred = true;
        if self.broken.is_none() {
            self.broken = Some((side, error));
            self.connection.set_state(ConnectionState::Closing, None);
        }
    }

    fn end(&self) -> Option<End> {
        match self.broken {
            None => (self.inward.done && self.outward.done).then_some(End::Finished),
            Some((Side::Client, _)) => self.inward.done.then_some(End::Drained),
            Some((Side::Target, _)) => self.outward.done.then_some(End::Drained),
        }
    }

    /// Ready when nothing has moved for as long as the state of the connection allows.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let Some((limit, reason)) = self.limit() else { return Poll::Pending };
        if std::mem::take(&mut self.stirred) {
            self.last_stir = Instant::now();
        }
        // A limit of years is none.
        let Some(due) = self.last_stir.checked_add(limit) else { return Poll::Pending };
        let look = due.min(Instant::now() + limit / LOOKS);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(look)));
        // Moved only when it fires or the limit has shrunk, not for each byte.
        if due < timer.deadline() {
            timer.as_mut().reset(due);
        }
        while timer.as_mut().poll(cx).is_ready() {
            // What a slow reader takes out of our send queue moves, too, though no step of ours does.
            let now = Instant::now();
            let queued = [self.client.unacknowledged(), self.target.unacknowledged()];
            let before = std::mem::replace(&mut self.queued, queued);
            if queued.iter().zip(before).any(|(now, before)| *now < before) {
                self.last_stir = now;
            }
            let Some(due) = self.last_stir.checked_add(limit) else { return Poll::Pending };
            if now >= due {
                return Poll::Ready(reason);
            }
            timer.as_mut().reset(due.min(now + limit / LOOKS));
        }
        Poll::Pending
    }

    fn limit(&self) -> Option<(Duration, CloseReason)> {
        let idle = self.timeouts.idle.map(|idle| (idle, CloseReason::IdleTimeout));
        if let Some((_, error)) = &self.broken {
            // The reason is the break; the limit keeps a peer that does not read from holding the rest.
            Some((self.timeouts.delivery(error).within, CloseReason::Error))
        } else if self.inward.done || self.outward.done {
            let half = (self.timeouts.half_close, CloseReason::HalfCloseTimeout);
            Some(idle.filter(|idle| idle.0 < half.0).unwrap_or(half))
        } else {
            idle
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::Arc;

    use socket2::SockRef;

    use super::*;
    use crate::forward::descriptors::DescriptorBudget;
    use crate::forward::meter::MappingMeter;
    use crate::forward::registry::Registry;
    use crate::model::id::MappingId;
    use crate::model::mapping::Protocol;
    use crate::model::profile::MappingConfig;

    /// What the target sees of a client that has reset its connection, after an end or not, while something waits to be
    /// sent to it; and how the connection has ended.
    async fn seen_of_a_reset(ends_first: bool) -> (io::Result<usize>, CloseReason) {
        let config = MappingConfig::from_argument("8080:192.0.2.1:80").expect("a mapping");
        let meter = MappingMeter::new(MappingId(1), Arc::new(config));
        let (at, port) = (([127, 0, 0, 1], 40_000).into(), ([127, 0, 0, 1], 8080).into());
        let connection = Registry::new().open(&meter, Protocol::Tcp, at, port, "192.0.2.1:80".into());
        let timeouts = Timeouts { idle: None, half_close: Duration::from_secs(20) };
        let pipes = PipePool::new(&DescriptorBudget::new(100));

        let ((client, peer), (target, mut server)) = (leg::tests::pair(), leg::tests::pair());
        if ends_first {
            peer.shutdown(std::net::Shutdown::Write).expect("it stands");
        }
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("it can be set");
        drop(peer);
        if !ends_first {
            // As a call does that sends in pieces and has sent some.
            client.failed().await;
        }
        let legs = [client, target];
        let outcome = run_behind([Vec::new(), vec![7; 10]], &legs, &connection, &timeouts, &pipes).await;
        let [client, target] = legs;
        reset(client, Some(target), &connection).await;
        connection.close(outcome.reason, outcome.error);
        (server.read(&mut [0]), outcome.reason)
    }

    #[tokio::test]
    async fn a_reset_that_a_call_has_swallowed_is_no_end() {
        let (seen, reason) = seen_of_a_reset(false).await;
        assert_eq!(seen.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
        assert_eq!(reason, CloseReason::ClientReset);
    }

    #[tokio::test]
    async fn an_end_that_came_before_a_reset_is_passed_on_before_it() {
        let (seen, reason) = seen_of_a_reset(true).await;
        assert_eq!(seen.map_err(|error| error.kind()), Ok(0));
        assert_eq!(reason, CloseReason::ClientReset);
    }
}
