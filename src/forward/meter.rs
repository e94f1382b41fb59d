//! Exact counters. A byte counts when the destination's kernel has taken it; payload only.
//!
//! Counters of a connection are relaxed atomics that its task alone writes and anybody reads. Counters of a
//! mapping hold what its closed connections carried; what the open ones carry is added when somebody looks,
//! so a busy mapping has no contended cache line.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::outcomes::Outcomes;
use crate::model::event::CloseReason;
use crate::model::id::MappingId;
use crate::model::metrics::ConnectionMetrics;
use crate::model::profile::MappingConfig;
use crate::model::speech::Conversation;
use crate::model::update::{LastOutcome, LastResult};

/// Connect times remembered for the median.
const CONNECT_TIMES: usize = 64;
/// Attempts remembered for `refused 3/3`.
const ATTEMPTS: usize = 3;
/// Conversations of closed connections remembered: what a misunderstanding is seen by.
const CONVERSATIONS: usize = 8;

/// What one connection carried. `in` is from the client to the target.
#[derive(Debug, Default)]
pub struct Counters {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    datagrams_in: AtomicU64,
    datagrams_out: AtomicU64,
}

/// Counters read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Payload bytes towards the target.
    pub bytes_in: u64,
    /// Payload bytes towards the client.
    pub bytes_out: u64,
    /// Datagrams towards the target.
    pub datagrams_in: u64,
    /// Datagrams towards the client.
    pub datagrams_out: u64,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the target.
    In,
    /// From the target to the client.
    Out,
}

impl Counters {
    /// The target's (`In`) or the client's (`Out`) kernel has taken so many bytes.
    pub fn add_bytes(&self, direction: Direction, count: u64) {
        match direction {
            Direction::In => &self.bytes_in,
            Direction::Out => &self.bytes_out,
        }
        .fetch_add(count, Relaxed);
    }

    /// So many of the counted bytes were thrown away by a reset before they left this host.
    pub fn take_back(&self, direction: Direction, count: u64) {
        let counter = match direction {
            Direction::In => &self.bytes_in,
            Direction::Out => &self.bytes_out,
        };
        // Never below zero: a header ahead of the payload may be among what was thrown away.
        let _ = counter.fetch_update(Relaxed, Relaxed, |bytes| Some(bytes.saturating_sub(count)));
    }

    /// So many datagrams, of so many bytes in all, were taken.
    pub fn add_datagrams(&self, direction: Direction, datagrams: u64, bytes: u64) {
        self.add_bytes(direction, bytes);
        match direction {
            Direction::In => &self.datagrams_in,
            Direction::Out => &self.datagrams_out,
        }
        .fetch_add(datagrams, Relaxed);
    }

    /// All of them.
    pub fn read(&self) -> Counts {
        Counts {
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            datagrams_in: self.datagrams_in.load(Relaxed),
            datagrams_out: self.datagrams_out.load(Relaxed),
        }
    }
}

/// What a mapping's closed connections carried, and how its target has answered lately.
#[derive(Debug)]
pub struct MappingMeter {
    id: MappingId,
    dropped: AtomicU64,
    runs: Runs,
    config: Mutex<Arc<MappingConfig>>,
    tally: Mutex<Tally>,
}

/// Datagrams of one flow and size that could leave together: how often they did, and how often they did not.
#[derive(Debug, Default)]
struct Runs {
    together: AtomicU64,
    singly: AtomicU64,
}

/// The totals of a mapping without its open connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) open: u64,
    pub(crate) total: u64,
    pub(crate) errors: u64,
    pub(crate) closed: Counts,
    /// None before the first connection has ended or was dialled.
    outcomes: Option<Box<Outcomes>>,
    conversations: VecDeque<Conversation>,
    attempts: VecDeque<(LastOutcome, Duration)>,
    connect_times: VecDeque<Duration>,
}

impl MappingMeter {
    /// A mapping that has seen nothing yet.
    pub fn new(id: MappingId, config: Arc<MappingConfig>) -> Arc<Self> {
        Arc::new(Self {
            id,
            dropped: AtomicU64::new(0),
            runs: Runs::default(),
            config: Mutex::new(config),
            tally: Mutex::default(),
        })
    }

    /// Which mapping.
    pub fn id(&self) -> MappingId {
        self.id
    }

    /// Its configuration now.
    pub fn config(&self) -> Arc<MappingConfig> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its configuration changed (a new name, other timeouts).
    pub fn set_config(&self, config: Arc<MappingConfig>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Connections open now.
    pub fn open_connections(&self) -> u64 {
        self.tally(|tally| tally.open)
    }

    /// Connections open now, since the start, and ended for a reason that is not fine.
    pub fn connections(&self) -> (u64, u64, u64) {
        self.tally(|tally| (tally.open, tally.total, tally.errors))
    }

    /// How its connections have gone since the start.
    pub fn connection_metrics(&self) -> ConnectionMetrics {
        self.tally(|tally| {
            let nothing = ConnectionMetrics { open: tally.open, total: tally.total, ..ConnectionMetrics::default() };
            tally.outcomes.as_ref().map_or(nothing, |outcomes| outcomes.metrics(tally.open, tally.total))
        })
    }

    /// Datagrams that we received went no further: no flow for them, no room in the kernel, no such size.
    pub fn drop_datagrams(&self, count: u64) {
        self.dropped.fetch_add(count, Relaxed);
    }

    /// Datagrams that were received and went no further.
    pub fn dropped_datagrams(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Several datagrams have left in one send, or had to leave one by one.
    pub(crate) fn count_run(&self, is_together: bool) {
        let Runs { together, singly } = &self.runs;
        (if is_together { together } else { singly }).fetch_add(1, Relaxed);
    }

    /// How often several datagrams have left in one send, and how often they had to leave one by one since the kernel
    /// did not take them together.
    pub fn runs(&self) -> (u64, u64) {
        (self.runs.together.load(Relaxed), self.runs.singly.load(Relaxed))
    }

    /// A real attempt to reach the target has ended.
    pub fn attempted(&self, outcome: LastOutcome, took: Duration) {
        self.tally(|tally| {
            if tally.attempts.len() == ATTEMPTS {
                tally.attempts.pop_front();
            }
            tally.attempts.push_back((outcome, took));
            tally.outcomes.get_or_insert_default().attempted(outcome, took);
            if outcome == LastOutcome::Ok {
                if tally.connect_times.len() == CONNECT_TIMES {
                    tally.connect_times.pop_front();
                }
                tally.connect_times.push_back(took);
            }
        });
    }

    /// The last attempts in short.
    pub fn last_result(&self) -> Option<LastResult> {
        self.tally(|tally| {
            let &(outcome, took) = tally.attempts.back()?;
            let failures = tally.attempts.iter().filter(|(outcome, _)| *outcome != LastOutcome::Ok).count();
            Some(LastResult {
                outcome,
                took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                failures: u32::try_from(failures).unwrap_or(u32::MAX),
                attempts: u32::try_from(tally.attempts.len()).unwrap_or(u32::MAX),
            })
        })
    }

    /// What both sides of the last closed connections have said first, the newest last.
    pub fn conversations(&self) -> Vec<Conversation> {
        self.tally(|tally| tally.conversations.iter().copied().collect())
    }

    /// Median of the last connect times, in microseconds.
    pub fn connect_p50_us(&self) -> Option<u64> {
        let mut times: Vec<_> = self.tally(|tally| tally.connect_times.iter().copied().collect());
        times.sort_unstable();
        times.get(times.len() / 2).map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
    }

    pub(crate) fn tally<R>(&self, read: impl FnOnce(&mut Tally) -> R) -> R {
        read(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tally {
    /// A connection has ended: what it carried, and why.
    pub(super) fn close(&mut self, reason: CloseReason, carried: Counts) {
        self.open -= 1;
        self.errors += u64::from(!reason.is_fine());
        self.closed.add(carried);
        self.outcomes.get_or_insert_default().closed(reason);
    }

    /// A connection has closed in which this was said.
    pub(crate) fn remember(&mut self, conversation: Option<Conversation>) {
        let Some(conversation) = conversation else { return };
        if self.conversations.len() == CONVERSATIONS {
            self.conversations.pop_front();
        }
        self.conversations.push_back(conversation);
    }
}
