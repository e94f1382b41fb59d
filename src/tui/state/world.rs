//! What the service has told: mappings, connections, events, each with the figures that are shown of it.
//!
//! Counters arrive four times a second; the figures beside them are taken over once a second
//! ([`World::take_figures`]), so numbers can be read. Everything is bounded.

use std::collections::{HashMap, VecDeque};

use crate::model::container::Container;
use crate::model::event::{ConnectionState, Event, MappingState};
use crate::model::id::{ConnectionId, MappingId};
use crate::model::mapping::Family;
use crate::model::rate::RateMeter;
use crate::model::untrusted::SafeText;
use crate::model::update::{ConnectionRow, LastOutcome, MappingRow, Overview};

/// Closed connections kept; the oldest gives way.
pub const HISTORY: usize = 5_000;
/// Events kept; the oldest gives way.
pub const EVENTS: usize = 2_000;
/// A closed row stays in place for so long.
pub const CLOSED_STAYS_MS: u64 = 10_000;
/// Rates are made over so long.
const RATE_WINDOW_MS: u64 = 1_000;
/// A sample may be so much late,
const LATE_MS: u64 = RATE_WINDOW_MS / 2;
/// and one of what goes through Docker by a whole look more.
const LOOK_MS: u64 = 2_000;
/// Samples kept of one connection: a minute at one a second.
const CONNECTION_SAMPLES: usize = 66;

/// Everything that was told, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The service's clock at the last update, and the screen's at that moment.
    pub at: Moment,
    /// State of the whole.
    pub overview: Overview,
    /// Every mapping.
    pub mappings: HashMap<MappingId, MappingItem>,
    /// Every container, by its id.
    pub containers: HashMap<SafeText, Container>,
    /// Every open connection and the last closed ones.
    pub connections: HashMap<ConnectionId, ConnectionItem>,
    /// Closed connections, the oldest first.
    pub closed: VecDeque<ConnectionId>,
    /// Events, the oldest first, numbered from 1.
    pub events: VecDeque<EventItem>,
    /// Events so far.
    pub event_count: u64,
    /// Errors among the events that nobody has looked at.
    pub errors_unseen: u64,
    /// Sums as shown in the first line.
    pub sums: Sums,
}

/// One moment in two clocks, both in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// The service's ([`crate::model::update::Update::at_ms`]).
    pub service_ms: u64,
    /// The screen's.
    pub screen_ms: u64,
}

/// What the first line says. What Docker publishes is counted by itself: it is not ours to forward.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Open connections of IPv6 clients.
    pub v6: u64,
    /// Open connections of IPv4 clients.
    pub v4: u64,
    /// Bytes a second from clients.
    pub in_rate: f64,
    /// Bytes a second to clients.
    pub out_rate: f64,
    /// Sessions of ports that Docker publishes, as far as they can be seen.
    pub docker: u64,
}

/// Figures that change once a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Bytes a second from the client; `None`: idle.
    pub in_rate: Option<f64>,
    /// Bytes a second to the client; `None`: idle.
    pub out_rate: Option<f64>,
}

/// The past of two counters.
#[derive(Clone, Debug)]
pub struct Meters {
    /// From the client.
    pub r#in: RateMeter,
    /// To the client.
    pub out: RateMeter,
    /// Samples are at least so far apart.
    pause_ms: u64,
    /// The next sample may be so much late before the rate counts as over.
    late_ms: u64,
    sampled_ms: u64,
    /// Nothing new for a while: the figures are as they will stay.
    is_settled: bool,
}

/// A mapping with its past.
#[derive(Clone, Debug)]
pub struct MappingItem {
    /// As told.
    pub row: MappingRow,
    /// As shown.
    pub figures: Figures,
    /// For rates and graphs.
    pub meters: Meters,
}

/// A connection with its past.
#[derive(Clone, Debug)]
pub struct ConnectionItem {
    /// As told.
    pub row: ConnectionRow,
    /// As shown.
    pub figures: Figures,
    /// For rates and graphs.
    pub meters: Meters,
    /// Its state before it closed, by which it keeps its place.
    pub stood: ConnectionState,
}

/// An event with its number, by which it is selected.
#[derive(Clone, Debug)]
pub struct EventItem {
    /// Counts from 1.
    pub number: u64,
    /// What happened.
    pub event: Event,
}

/// How much a row wants to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Fine.
    #[default]
    None,
    /// `!`
    Warn,
    /// `!!`
    Error,
}

impl Meters {
    fn new(samples: usize, pause_ms: u64, late_ms: u64) -> Self {
        Self {
            pause_ms,
            late_ms,
            r#in: RateMeter::with_capacity(samples),
            out: RateMeter::with_capacity(samples),
            sampled_ms: 0,
            is_settled: false,
        }
    }

    /// Notes both counters, unless that was done a moment ago. `quiet_until` is the last moment at which they were known not to have changed:
    /// without it, the first bytes after a silence would be spread over the silence.
    pub fn sample(&mut self, at_ms: u64, quiet_until: u64, before: (u64, u64), now: (u64, u64)) {
        self.is_settled = false;
        if self.sampled_ms != 0 && at_ms < self.sampled_ms + self.pause_ms {
            return;
        }
        if self.sampled_ms != 0 && quiet_until > self.sampled_ms + RATE_WINDOW_MS && quiet_until < at_ms {
            self.r#in.sample(quiet_until, before.0);
            self.out.sample(quiet_until, before.1);
        }
        self.r#in.sample(at_ms, now.0);
        self.out.sample(at_ms, now.1);
        self.sampled_ms = at_ms;
    }

    fn figures(&mut self, now_ms: u64, bytes: (u64, u64)) -> Figures {
        // A rate holds for the time between samples; that the next one is still to come does not lower it.
        let is_current = now_ms < self.sampled_ms + self.pause_ms + self.late_ms;
        let at_ms = if is_current { self.sampled_ms } else { now_ms };
        let rate = |meter: &RateMeter| meter.per_second(at_ms, RATE_WINDOW_MS).filter(|rate| *rate >= 0.5);
        let figures =
            Figures { bytes_in: bytes.0, bytes_out: bytes.1, in_rate: rate(&self.r#in), out_rate: rate(&self.out) };
        self.is_settled =
            figures.in_rate.is_none() && figures.out_rate.is_none() && now_ms > self.sampled_ms + 3 * RATE_WINDOW_MS;
        figures
    }
}

impl MappingItem {
    /// A mapping seen for the first time.
    pub fn new(row: MappingRow) -> Self {
        let figures = Figures { bytes_in: row.bytes_in, bytes_out: row.bytes_out, ..Figures::default() };
        let late_ms = if row.owner.is_docker() { LOOK_MS } else { LATE_MS };
        Self { row, figures, meters: Meters::new(256, 200, late_ms) }
    }

    /// How much it wants to be looked at.
    pub fn severity(&self) -> Severity {
        let target = match self.row.last_result {
            Some(result) if result.outcome == LastOutcome::Ok => Severity::None,
            Some(result) if result.failures >= result.attempts => Severity::Error,
            Some(_) => Severity::Warn,
            None => Severity::None,
        };
        let state = match self.row.state {
            MappingState::Failed => Severity::Error,
            MappingState::Half | MappingState::Waiting | MappingState::Degraded => Severity::Warn,
            MappingState::Stopped => return Severity::None,
            MappingState::Starting | MappingState::Up => Severity::None,
        };
        target.max(state)
    }
}

impl ConnectionItem {
    /// A connection seen for the first time.
    pub fn new(row: ConnectionRow) -> Self {
        let figures =
            Figures { bytes_in: row.connection.bytes_in, bytes_out: row.connection.bytes_out, ..Figures::default() };
        let stood = match row.connection.state {
            // Closed before anybody looked.
            ConnectionState::Closed => ConnectionState::Open,
            state => state,
        };
        let late_ms = if row.observed.is_some() { LOOK_MS } else { LATE_MS };
        Self { row, figures, meters: Meters::new(CONNECTION_SAMPLES, 950, late_ms), stood }
    }

    /// Which.
    pub fn id(&self) -> ConnectionId {
        self.row.connection.id
    }

    /// Takes over the figures, once a second. A closed one keeps the rates that it had last: they are not shown,
    /// they are its place in the list.
    fn take_figures(&mut self, now_ms: u64) {
        let connection = &self.row.connection;
        let bytes = (connection.bytes_in, connection.bytes_out);
        let last = (self.figures.in_rate, self.figures.out_rate);
        self.figures = self.meters.figures(now_ms, bytes);
        if self.row.is_closed() {
            (self.figures.in_rate, self.figures.out_rate) = last;
        }
    }
}

impl World {
    /// The service's clock when the screen's stands at `screen_ms`.
    pub fn service_ms(&self, screen_ms: u64) -> u64 {
        self.at.service_ms + screen_ms.saturating_sub(self.at.screen_ms)
    }

    /// Takes the counters over into the figures, and makes the sums. False when nothing could have changed.
    pub fn take_figures(&mut self, screen_ms: u64) -> bool {
        let mut changed = false;
        let now_ms = self.service_ms(screen_ms);
        let mut sums = Sums::default();
        for item in self.mappings.values_mut() {
            if !item.meters.is_settled {
                let bytes = (item.row.bytes_in, item.row.bytes_out);
                item.figures = item.meters.figures(now_ms, bytes);
                changed = true;
            }
            if !item.row.is_docker() {
                sums.in_rate += item.figures.in_rate.unwrap_or(0.0);
                sums.out_rate += item.figures.out_rate.unwrap_or(0.0);
            }
        }
        for item in self.connections.values_mut() {
            if !item.meters.is_settled {
                item.take_figures(now_ms);
                changed = true;
            }
            if !item.row.is_closed() {
                match item.row.family() {
                    _ if item.row.is_docker() => sums.docker += 1,
                    Some(Family::V6) => sums.v6 += 1,
                    Some(Family::V4) => sums.v4 += 1,
                    None => {}
                }
            }
        }
        self.sums = sums;
        changed
    }

    /// Open connections of a mapping, as the rows tell.
    pub fn open_of(&self, mapping: MappingId) -> u64 {
        self.mappings.get(&mapping).map_or(0, |item| item.row.connections)
    }

    /// Mappings of ours.
    pub fn ours(&self) -> impl Iterator<Item = &MappingItem> {
        self.mappings.values().filter(|item| !item.row.is_docker())
    }

    /// Open connections of all mappings of ours.
    pub fn open(&self) -> u64 {
        self.ours().map(|item| item.row.connections).sum()
    }

    /// Mappings of ours that listen now.
    pub fn listening(&self) -> usize {
        self.ours().filter(|item| item.row.is_listening()).count()
    }

    /// Whether a closed connection still stands in its place.
    pub fn is_fresh(&self, item: &ConnectionItem, screen_ms: u64) -> bool {
        item.row.closed_at_ms().is_none_or(|at| at + CLOSED_STAYS_MS > self.service_ms(screen_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_after_a_silence_are_not_spread_over_the_silence() {
        let mut meters = Meters::new(64, 200, LATE_MS);
        meters.sample(1_000, 0, (0, 0), (0, 0));
        meters.sample(61_000, 60_000, (0, 0), (10, 5_000));
        assert_eq!(meters.figures(61_100, (10, 5_000)).out_rate, Some(5_000.0));
        assert_eq!(meters.figures(64_000, (10, 5_000)).out_rate, None, "idle again");
    }

    #[test]
    fn a_steady_connection_has_its_rate_between_samples_too() {
        let mut meters = Meters::new(64, 950, LATE_MS);
        for step in 0_u64..20 {
            let (before, now) = (step.saturating_sub(1) * 250, step * 250);
            meters.sample(1_000 + now, 1_000 + before, (before, before * 4), (now, now * 4));
        }
        for now_ms in [5_000, 5_250, 5_500, 5_750] {
            assert_eq!(meters.figures(now_ms, (0, 0)).out_rate, Some(4_000.0), "{now_ms}");
        }
    }
}
