//! Lists the HTTP requests of a connection without changing a byte of it (`inspect: http`).
//!
//! A [`Tap`] that reads along. It follows HTTP/1.x as far as that can be followed and gives up on all else, HTTP/2 and TLS
//! included: then no more requests are listed, and the connection is moved as suits it again. It does the same once
//! another protocol is agreed on (status 101). It holds at most one head of each direction.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::forward::exchanges::ExchangeId;
use crate::forward::meter::Direction;
use crate::forward::registry::Record;
use crate::forward::tap::Tap;
use crate::model::speech::Said;
use crate::model::untrusted::SafeText;
use crate::wire::http::{Follower, H2_PREFACE, MAX_CHUNK_LINE, MAX_HEAD, Refusal, Seen, Strictness};

/// Requests that wait for their responses; no client sends so many ahead.
const MOST_PENDING: usize = 1_000;

/// Reads along with one connection.
#[derive(Debug)]
pub(crate) struct Inspector {
    /// Which holds this, too.
    record: Weak<Record>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    requests: Half,
    responses: Half,
    /// Whose responses are not over, the first one first.
    pending: VecDeque<ExchangeId>,
}

#[derive(Debug)]
struct Half {
    follower: Follower,
    /// The beginning of a head, or what waits for the answer to a request for another protocol.
    kept: Vec<u8>,
}

/// Why it does not read on.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("another protocol was agreed on")]
    Upgraded,
    #[error("the client speaks TLS")]
    Tls,
    #[error("the client speaks HTTP/2")]
    Http2,
    #[error("too many requests are not answered")]
    TooMany,
    #[error("it cannot be followed as HTTP/1.x ({0})")]
    NotHttp(#[from] Refusal),
}

impl Inspector {
    /// Has the requests of a connection listed, from its first byte on.
    pub(crate) fn watch(record: &Arc<Record>) {
        record.exchanges();
        let half = |follower| Half { follower, kept: Vec::new() };
        let state = State {
            requests: half(Follower::requests(Strictness::Onlooker)),
            responses: half(Follower::responses(Strictness::Onlooker)),
            pending: VecDeque::new(),
        };
        record.tap(Some(Arc::new(Self { record: Arc::downgrade(record), state: Mutex::new(state) })));
    }
}

impl Tap for Inspector {
    fn saw(&self, direction: Direction, bytes: &[u8]) {
        let Some(record) = self.record.upgrade() else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(reason) = state.saw(direction, bytes, &record) {
            let State { pending, .. } = std::mem::replace(&mut *state, State::over());
            for id in pending {
                record.exchanges().ended(id);
            }
            record.exchanges().stop(SafeText::new(&reason.to_string()));
            record.tap(None);
        }
    }
}

impl State {
    /// Holds nothing.
    fn over() -> Self {
        let opaque = |mut follower: Follower| {
            follower.become_opaque();
            Half { follower, kept: Vec::new() }
        };
        Self {
            requests: opaque(Follower::requests(Strictness::Onlooker)),
            responses: opaque(Follower::responses(Strictness::Onlooker)),
            pending: VecDeque::new(),
        }
    }

    fn saw(&mut self, direction: Direction, bytes: &[u8], record: &Record) -> Result<(), Reason> {
        match direction {
            Direction::In => self.saw_requests(bytes, record),
            Direction::Out => self.saw_responses(bytes, record),
        }
    }

    fn saw_requests(&mut self, bytes: &[u8], record: &Record) -> Result<(), Reason> {
        let Self { requests, responses, pending } = self;
        if record.exchanges().total() == 0 && requests.kept.is_empty() {
            // Known by its first bytes, which mostly come together.
            if Said::of(bytes) == Some(Said::Tls) {
                return Err(Reason::Tls);
            } else if bytes.starts_with(H2_PREFACE) {
                return Err(Reason::Http2);
            }
        }
        requests.follow(bytes, |seen| {
            if let Seen::Request { method, target, asked } = seen {
                pending.push_back(record.exchanges().begin(method, target));
                responses.follower.ask(asked);
            }
        })?;
        if pending.len() > MOST_PENDING { Err(Reason::TooMany) } else { Ok(()) }
    }

    fn saw_responses(&mut self, bytes: &[u8], record: &Record) -> Result<(), Reason> {
        let Self { requests, responses, pending } = self;
        let mut has_answered = false;
        responses.follow(bytes, |seen| {
            let Some(id) = pending.front().copied() else { return };
            match seen {
                Seen::Response(status) => {
                    record.exchanges().answered(id, status);
                    // One that was sent behind it may still ask for another protocol.
                    has_answered |= pending.len() == 1;
                }
                Seen::End => {
                    record.exchanges().ended(id);
                    pending.pop_front();
                }
                Seen::Request { .. } | Seen::Interim(..) => {}
            }
        })?;
        if responses.follower.is_opaque() {
            return Err(Reason::Upgraded);
        }
        if has_answered {
            requests.follower.stay();
            if !requests.kept.is_empty() {
                return self.saw_requests(&[], record);
            }
        }
        Ok(())
    }
}

impl Half {
    /// Follows what comes, and keeps the head that is not whole yet.
    fn follow(&mut self, bytes: &[u8], mut see: impl FnMut(Seen<'_>)) -> Result<(), Refusal> {
        let Self { follower, kept } = self;
        let is_alone = kept.is_empty();
        if !is_alone {
            kept.extend_from_slice(bytes);
        }
        let at_hand = if is_alone { bytes } else { &*kept };
        let mut passed = 0;
        // What is wrong behind something that is not is told when it is looked at by itself.
        loop {
            match follower.follow(&at_hand[passed..], &mut see)? {
                0 => break,
                count => passed += count,
            }
        }
        if is_alone {
            kept.extend_from_slice(&bytes[passed..]);
        } else {
            kept.drain(..passed);
        }
        if kept.len() > MAX_HEAD + MAX_CHUNK_LINE { Err(Refusal::TooLong) } else { Ok(()) }
    }
}
