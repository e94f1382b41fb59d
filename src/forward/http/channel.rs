//! One leg as an HTTP library reads and writes it, with the gate in its way.
//!
//! What comes in is looked at before the library sees any of it: a head only when it is whole and in order, a body as far
//! as it is. A client's head that is not is taken out of the stream, and a request that was never sent stands in its
//! place: the library has an answer of ours written to that, and the connection ends. What a target sends wrong is an
//! error of its connection. So the library stays the only one that frames, and can at most be asked for less.
//!
//! What the library writes goes by [`outgoing`].
//!
//! Bytes are counted here, as the kernels take them, and both sides' failures are noted as the kernel tells them: the
//! library's errors do not say whose they are.

mod outgoing;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::Instant;

use self::outgoing::Outgoing;
use super::common::{Common, Refused};
use super::readiness::Readiness;
use crate::forward::meter::Direction;
use crate::forward::relay::Leg;
use crate::model::event::Side;
use crate::model::speech::Said;
use crate::wire::http::{Asked, Follower, H2_PREFACE, MAX_HEAD, Refusal, Seen, Strictness};

/// Size of a thread's buffer, and so the most that is read at once.
const SCRATCH: usize = 64 * 1024;
/// Stands for a request that is refused.
const INSTEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
}

/// One leg and what is on its way through us. Shared by the library, which moves the bytes, and us, who watch.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) leg: Leg,
    side: Side,
    common: Arc<Common>,
    /// Who is woken by what comes, where that is not who reads it.
    reader: OnceLock<Waker>,
    readiness: Readiness,
    /// As [`State::kept_since`]: it has begun.
    has_begun: AtomicBool,
    outgoing: Outgoing,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// None where the library's own framing is strict (HTTP/2), or is none.
    gate: Option<Follower>,
    /// Received, and not let through yet.
    kept: Vec<u8>,
    /// Since when `kept` has waited to become a head.
    kept_since: Option<Instant>,
    /// What is kept is to be looked at again, though nothing has come to it.
    looks_again: bool,
    /// Let through, and not read yet.
    ready: Vec<u8>,
    /// Requests whose heads were let through.
    heads: u64,
    is_ended: bool,
    is_refused: bool,
    was_first_told: bool,
}

impl Channel {
    pub(super) fn new(leg: Leg, side: Side, spoken: Spoken, common: Arc<Common>) -> Arc<Self> {
        let gate = (spoken == Spoken::Http1).then(|| match side {
            Side::Client => Follower::requests(Strictness::Gate),
            Side::Target => Follower::responses(Strictness::Gate),
        });
        let state = State {
            gate,
            kept: Vec::new(),
            kept_since: None,
            looks_again: false,
            ready: Vec::new(),
            heads: 0,
            is_ended: false,
            is_refused: false,
            was_first_told: false,
        };
        Arc::new(Self {
            leg,
            side,
            common,
            reader: OnceLock::new(),
            readiness: Readiness::new(),
            has_begun: AtomicBool::new(false),
            outgoing: Outgoing::new(),
            state: Mutex::new(state),
        })
    }

    /// Waits for what tells what the client speaks; `None` where it has ended before.
    pub(super) fn poll_spoken(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Spoken>>> {
        let mut state = self.state();
        loop {
            let kept = state.kept.len().min(H2_PREFACE.len());
            let may_be_2 = state.kept[..kept] == H2_PREFACE[..kept];
            if kept == H2_PREFACE.len() && may_be_2 {
                let kept = std::mem::take(&mut state.kept);
                (state.ready, state.gate, state.kept_since) = (kept, None, None);
                return Poll::Ready(Ok(Some(Spoken::Http2)));
            }
            if !may_be_2 || state.is_ended {
                state.looks_again = true;
                return Poll::Ready(Ok((kept > 0).then_some(Spoken::Http1)));
            }
            ready!(BUFFER.with_borrow_mut(|buffer| {
                let count = ready!(self.poll_receive(cx, &mut state, buffer))?;
                if count > 0 {
                    state.kept.extend_from_slice(&buffer[..count]);
                    state.kept_since.get_or_insert_with(Instant::now);
                    self.has_begun.store(true, Relaxed);
                }
                Poll::Ready(io::Result::Ok(()))
            }))?;
        }
    }

    /// Waits until anything has come.
    pub(super) fn poll_begun(&self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        if self.state().kept.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// A request is about to be sent to this target.
    pub(super) fn ask(&self, asked: Asked) {
        self.common.ask();
        if let Some(gate) = &mut self.state().gate {
            gate.ask(asked);
        }
    }

    /// This client's request, the `nth` one, was answered, and not with another protocol. One that was sent behind it may
    /// still ask for one.
    pub(super) fn stay(&self, nth: u64) {
        let mut state = self.state();
        let State { gate: Some(gate), heads, kept, looks_again, .. } = &mut *state else { return };
        if *heads == nth {
            *looks_again |= gate.is_held() && !kept.is_empty();
            gate.stay();
            self.readiness.disarm();
        }
    }

    /// Since when this client has been about to send a head.
    pub(super) fn head_since(&self) -> Option<Instant> {
        if !self.has_begun.load(Relaxed) {
            return None;
        }
        let state = self.state();
        state.kept_since.filter(|_| state.gate.as_ref().is_none_or(|gate| gate.is_between() && !gate.is_held()))
    }

    /// This client has been about to send a head for too long.
    pub(super) fn refuse_slow(&self) {
        let mut state = self.state();
        let nth = state.heads + 1;
        state.refuse();
        self.readiness.disarm();
        self.common.refuse(Refused::slow(nth));
    }

    /// Whether another protocol has taken the place of HTTP.
    pub(super) fn is_opaque(&self) -> bool {
        self.state().gate.as_ref().is_some_and(Follower::is_opaque)
    }

    /// Whether the client has ended, as far as was read.
    pub(super) fn is_ended(&self) -> bool {
        self.state().is_ended
    }

    /// Whether this client's requests, `known` of them, are all that there will be, and whole.
    pub(super) fn is_last(&self, known: u64) -> bool {
        let state = self.state();
        let is_between = state.gate.as_ref().is_some_and(Follower::is_between);
        state.kept.is_empty() && state.ready.is_empty() && state.heads == known && is_between
    }

    /// Has `reader` woken by what comes, from the first call on; whoever reads wants to be woken otherwise.
    pub(super) fn read_by(&self, reader: &Waker) {
        self.reader.get_or_init(|| reader.clone());
    }

    /// Whether an end or a reset of the peer has come, though what came before it may not have been read yet. Pending where
    /// it may yet come: then `reader` is woken, who is to be the one that reads. Not so while something waits to be read.
    pub(super) fn poll_closing(&self, reader: &Waker) -> Poll<bool> {
        if self.readiness.is_quiet(reader) {
            return Poll::Pending;
        }
        let closing = self.readiness.poll(reader, |cx| self.leg.poll_closing(cx));
        let state = self.state();
        if !state.ready.is_empty() || state.looks_again {
            self.readiness.disarm();
        }
        closing
    }

    /// Whether all that came was a whole number of messages.
    pub(super) fn is_between(&self) -> bool {
        let state = self.state();
        state.kept.is_empty() && !state.is_refused && state.gate.as_ref().is_none_or(Follower::is_between)
    }

    /// The leg, and what came by it that was not read.
    pub(super) fn into_parts(self) -> (Leg, Vec<u8>) {
        let State { mut ready, kept, .. } = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        ready.extend_from_slice(&kept);
        (self.leg, ready)
    }

    fn poll_receive(&self, cx: &mut Context<'_>, state: &mut State, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let reader = self.reader.get().unwrap_or(cx.waker());
        let received = self.readiness.poll(reader, |cx| self.leg.poll_recv(cx, buffer));
        let count = match ready!(received) {
            Ok(count) => count,
            Err(error) => {
                self.common.fail(self.side, &error);
                return Poll::Ready(Err(error));
            }
        };
        if self.side == Side::Target && count > 0 {
            self.common.hear();
        }
        if count == 0
            && let Some(error) = self.failed_to_send()
        {
            // The kernel has told of the reset by sending, and now calls it an end.
            return Poll::Ready(Err(error));
        }
        state.is_ended |= count == 0;
        self.common.stir();
        if !state.was_first_told
            && let Some(said) = Said::of(&buffer[..count])
        {
            state.was_first_told = true;
            self.common.record.heard(self.comes(), said);
        }
        Poll::Ready(Ok(count))
    }

    /// Has the library read, though nothing has come since it did.
    fn stir_reader(&self) {
        self.readiness.disarm();
        if let Some(reader) = self.reader.get() {
            reader.wake_by_ref();
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, mut cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        // Nothing has come since, and nothing that came before can be given yet.
        if self.readiness.is_quiet(self.reader.get().unwrap_or(cx.waker())) {
            return Poll::Pending;
        }
        let mut state = self.state();
        loop {
            if !state.ready.is_empty() {
                let count = state.ready.len().min(cursor.remaining());
                cursor.put_slice(&state.ready[..count]);
                state.ready.drain(..count);
                return Poll::Ready(Ok(()));
            }
            if state.is_refused || state.is_ended {
                return Poll::Ready(Ok(()));
            }
            if std::mem::take(&mut state.looks_again) {
                self.look(&mut state, &[], None)?;
                continue;
            }
            if state.kept.len() > MAX_HEAD && state.gate.as_ref().is_some_and(Follower::is_held) {
                // The rest waits in the kernel; once it is answered, the library reads again.
                return Poll::Pending;
            }
            let was_passed = BUFFER.with_borrow_mut(|buffer| {
                let size = buffer.len().min(cursor.remaining());
                let count = ready!(self.poll_receive(cx, &mut state, &mut buffer[..size]))?;
                if count == 0 {
                    self.note_end(&mut state);
                    return Poll::Ready(Ok(true));
                }
                Poll::Ready(self.look(&mut state, &buffer[..count], Some(&mut cursor)))
            });
            if ready!(was_passed)? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Looks at what has come: lets through what is in order, into `cursor` where that can be done at once (then this
    /// is true), and keeps the rest.
    fn look(&self, state: &mut State, bytes: &[u8], cursor: Option<&mut ReadBufCursor<'_>>) -> io::Result<bool> {
        let State { gate, kept, kept_since, ready, heads, .. } = state;
        let Some(gate) = gate else {
            match cursor {
                Some(cursor) => cursor.put_slice(bytes),
                None => ready.extend_from_slice(bytes),
            }
            return Ok(!bytes.is_empty());
        };
        let is_at_once = kept.is_empty() && cursor.is_some();
        if !is_at_once {
            kept.extend_from_slice(bytes);
        }
        let at_hand: &[u8] = if is_at_once { bytes } else { &*kept };
        let looked = gate.follow(at_hand, |seen| match seen {
            Seen::Request { .. } => *heads += 1,
            Seen::Interim(status, head) => self.common.interim(status, head),
            Seen::Response(_) | Seen::End => {}
        });
        let passed = match looked {
            Ok(passed) => passed,
            Err(refusal) => return self.refuse(state, refusal).map(|()| false),
        };
        match cursor {
            Some(cursor) if is_at_once => {
                cursor.put_slice(&bytes[..passed]);
                kept.extend_from_slice(&bytes[passed..]);
            }
            _ => {
                ready.extend_from_slice(&kept[..passed]);
                kept.drain(..passed);
            }
        }
        // What is left may be wrong, which is told when it is looked at by itself.
        state.looks_again = passed > 0 && !state.kept.is_empty();
        if state.kept.is_empty() {
            *kept_since = None;
        } else if passed > 0 || kept_since.is_none() {
            *kept_since = Some(Instant::now());
        }
        self.has_begun.store(kept_since.is_some(), Relaxed);
        Ok(is_at_once && passed > 0)
    }

    fn refuse(&self, state: &mut State, refusal: Refusal) -> io::Result<()> {
        let is_of_head = state.gate.as_ref().is_none_or(Follower::is_between);
        match self.side {
            Side::Client if is_of_head => {
                self.common.refuse(Refused::by(state.heads + 1, refusal));
                state.refuse();
                Ok(())
            }
            Side::Client => {
                state.is_refused = true;
                self.common.refuse(Refused::by(state.heads, refusal));
                Err(io::Error::new(io::ErrorKind::InvalidData, refusal))
            }
            Side::Target => {
                self.common.malformed(refusal);
                Err(io::Error::new(io::ErrorKind::InvalidData, refusal))
            }
        }
    }

    /// The library decides what an end means; ours is only to say that it came amid a message.
    fn note_end(&self, state: &mut State) {
        let State { gate, kept, .. } = state;
        if self.side == Side::Target
            && let Some(gate) = gate
            && gate.unanswered() > 0
            && let Err(refusal) = gate.end(kept, |_| {})
        {
            self.common.malformed(refusal);
        }
    }

    /// Which way that goes which comes from here.
    fn comes(&self) -> Direction {
        if self.side == Side::Client { Direction::In } else { Direction::Out }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Has the request that stands for a refused one read, and nothing behind it.
    fn refuse(&mut self) {
        self.ready.extend_from_slice(INSTEAD);
        self.is_refused = true;
        (self.kept, self.kept_since, self.looks_again) = (Vec::new(), None, false);
    }
}

/// A channel as the library holds it.
#[derive(Debug)]
pub(super) struct Wire(pub(super) Arc<Channel>);

impl Read for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, cursor)
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    /// Ends are ours to send: see [`super::parting`].
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush_all(cx)
    }
}
