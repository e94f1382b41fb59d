//! What the parts of one proxied connection tell each other: whose fault an end was, what is refused, what has moved.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::task::AtomicWaker;

use super::hop::strip_hop_of_interim;
use super::turn::Silencer;
use crate::forward::registry::Record;
use crate::model::event::Side;
use crate::wire::http::{MAX_HEAD, Refusal};

/// One connection's notes. Its task alone writes and reads them, or its lane for it ([`super::channel`]), so no lock is ever
/// waited for.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) record: Arc<Record>,
    /// Bytes have moved since this was last looked at.
    stirred: AtomicBool,
    /// Requests that have reached the service.
    requests: AtomicU64,
    /// Requests whose responses are not passed on whole.
    pub(super) in_flight: AtomicU64,
    /// Requests of which the library has not taken all to be sent.
    pub(super) bodies: AtomicU64,
    /// Another protocol was agreed on.
    is_upgraded: AtomicBool,
    has_own_streams: AtomicBool,
    /// There is something of the target's to be forgotten.
    may_forget: AtomicBool,
    has_heard: AtomicBool,
    takes_interim: AtomicBool,
    has_interim: AtomicBool,
    is_refused: AtomicBool,
    notes: Mutex<Notes>,
    target_silencer: OnceLock<Silencer>,
}

#[derive(Debug, Default)]
struct Notes {
    refused: Option<Refused>,
    malformed: Option<Refusal>,
    failed: Option<(Side, io::ErrorKind)>,
    /// Heads of interim responses on their way to the client.
    interim: Vec<u8>,
    expectation: Option<Arc<Expectation>>,
}

/// A request of the client that is not passed on.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// Which of them, from 1 on.
    pub(super) nth: u64,
    pub(super) status: u16,
    pub(super) why: String,
}

impl Refused {
    pub(super) fn by(nth: u64, refusal: Refusal) -> Self {
        Self { nth, status: refusal.status(), why: refusal.to_string() }
    }

    pub(super) fn slow(nth: u64) -> Self {
        Self { nth, status: 408, why: "the head took too long".to_owned() }
    }
}

/// A client waits for leave to send its body (`Expect: 100-continue`).
#[derive(Debug, Default)]
pub(super) struct Expectation {
    pub(super) is_granted: AtomicBool,
    /// The request was answered without: the body will not be asked for.
    pub(super) is_off: AtomicBool,
    pub(super) waker: AtomicWaker,
}

impl Expectation {
    pub(super) fn grant(&self) {
        self.is_granted.store(true, Relaxed);
        self.waker.wake();
    }

    /// True where it was granted before.
    pub(super) fn call_off(&self) -> bool {
        self.is_off.store(true, Relaxed);
        self.waker.wake();
        self.is_granted.load(Relaxed)
    }
}

impl Common {
    pub(super) fn new(record: Arc<Record>) -> Arc<Self> {
        Arc::new(Self {
            record,
            stirred: AtomicBool::new(true),
            requests: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            bodies: AtomicU64::new(0),
            is_upgraded: AtomicBool::new(false),
            has_own_streams: AtomicBool::new(false),
            may_forget: AtomicBool::new(false),
            has_heard: AtomicBool::new(false),
            takes_interim: AtomicBool::new(false),
            has_interim: AtomicBool::new(false),
            is_refused: AtomicBool::new(false),
            notes: Mutex::default(),
            target_silencer: OnceLock::new(),
        })
    }

    pub(super) fn stir(&self) {
        self.stirred.store(true, Relaxed);
    }

    pub(super) fn take_stirred(&self) -> bool {
        self.stirred.swap(false, Relaxed)
    }

    /// The target is about to be asked.
    pub(super) fn ask(&self) {
        self.has_heard.store(false, Relaxed);
    }

    /// The target has said something.
    pub(super) fn hear(&self) {
        self.has_heard.store(true, Relaxed);
    }

    /// Whether the target has said anything since it was asked last.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard.load(Relaxed)
    }

    /// Requests so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// One more request, and which it is.
    pub(super) fn next_request(&self) -> u64 {
        count(&self.requests, 1)
    }

    /// By what the target's side is kept from needless turns.
    pub(super) fn silence_target_by(&self, silencer: Silencer) {
        // It is the same for good.
        let _ = self.target_silencer.set(silencer);
    }

    /// Takes a frame of a response; where it says that it was the last one, the target's side is not woken for it: it has
    /// nothing to do, unless a request is still being taken.
    pub(super) fn take_frame<R>(&self, take: impl FnOnce() -> (R, bool)) -> R {
        match self.target_silencer.get().filter(|_| self.bodies.load(Relaxed) == 0) {
            Some(silencer) => silencer.silence(take),
            None => take().0,
        }
    }

    pub(super) fn upgrade(&self) {
        self.is_upgraded.store(true, Relaxed);
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.is_upgraded.load(Relaxed)
    }

    /// From now on each request is a stream of its own (HTTP/2): the client hears of it there where the target fails, and
    /// its connection goes on.
    pub(super) fn have_own_streams(&self) {
        self.has_own_streams.store(true, Relaxed);
    }

    /// A side has failed; the first one matters. What the target does between two requests concerns no connection.
    pub(super) fn fail(&self, side: Side, error: &io::Error) {
        if side == Side::Target && self.has_own_streams.load(Relaxed) {
            return;
        }
        self.may_forget.store(true, Relaxed);
        let failed = &mut self.notes().failed;
        let is_past = matches!(failed, Some((Side::Target, _))) && self.in_flight.load(Relaxed) == 0;
        if is_past || failed.is_none() {
            *failed = Some((side, error.kind()));
        }
    }

    pub(super) fn failed(&self) -> Option<(Side, io::Error)> {
        self.notes().failed.map(|(side, kind)| (side, kind.into()))
    }

    /// The target's failure was answered for (502), or lies behind an answer that was passed on whole, and concerns the
    /// connection no more.
    pub(super) fn forget_target(&self) {
        if !self.may_forget.swap(false, Relaxed) {
            return;
        }
        let mut notes = self.notes();
        notes.malformed = None;
        if matches!(notes.failed, Some((Side::Target, _))) {
            notes.failed = None;
        }
    }

    pub(super) fn refuse(&self, refused: Refused) {
        self.is_refused.store(true, Relaxed);
        self.notes().refused.get_or_insert(refused);
    }

    pub(super) fn refused(&self) -> Option<Refused> {
        self.is_refused.load(Relaxed).then(|| self.notes().refused.clone()).flatten()
    }

    /// The target has sent something that is not passed on.
    pub(super) fn malformed(&self, refusal: Refusal) {
        self.may_forget.store(true, Relaxed);
        self.notes().malformed.get_or_insert(refusal);
    }

    pub(super) fn malformation(&self) -> Option<Refusal> {
        self.notes().malformed
    }

    /// The target has sent an interim response. One of more than are ever sent in earnest is forgotten.
    pub(super) fn interim(&self, status: u16, head: &[u8]) {
        let mut notes = self.notes();
        if status == 100 {
            if let Some(expectation) = notes.expectation.take() {
                expectation.grant();
            }
        } else if self.takes_interim.load(Relaxed)
            && (notes.interim.is_empty() || notes.interim.len() + head.len() <= MAX_HEAD)
        {
            strip_hop_of_interim(head, &mut notes.interim);
            self.has_interim.store(true, Relaxed);
        }
    }

    /// Whether interim responses wait for the client.
    pub(super) fn has_interim(&self) -> bool {
        self.has_interim.load(Relaxed)
    }

    /// Whether the client understands interim responses, which HTTP/1.0 has not and our HTTP/2 does not pass on.
    pub(super) fn take_to_interim(&self, does: bool) {
        self.takes_interim.store(does, Relaxed);
    }

    pub(super) fn take_interim(&self) -> Vec<u8> {
        self.has_interim.store(false, Relaxed);
        std::mem::take(&mut self.notes().interim)
    }

    pub(super) fn expect(&self, expectation: Option<Arc<Expectation>>) {
        self.notes().expectation = expectation;
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds to a figure of one connection's, and gives the new one. As its task alone writes it, that needs no exclusive access.
pub(super) fn count(figure: &AtomicU64, by: i64) -> u64 {
    let now = figure.load(Relaxed).wrapping_add_signed(by);
    figure.store(now, Relaxed);
    now
}
