//! The story: mappings, their connections, and what happens as time goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use jiff::{SignedDuration, Timestamp};

use super::cast::{self, PARTS};
use super::rows::addresses;
use crate::model::event::{CloseReason, Connection, ConnectionState, Event, EventKind, Side};
use crate::model::id::{ConnectionId, MappingId, Revision};
use crate::model::mapping::Mapping;
use crate::model::profile::{MappingConfig, WrittenMapping};
use crate::model::untrusted::SafeText;
use crate::model::update::{ConnectionRow, LastOutcome, LastResult, MappingRow};

/// The story goes on in steps of so many milliseconds.
pub const STEP_MS: u64 = 250;
/// Where the story begins, in the service's clock: some were there before.
pub const BEGINNING_MS: u64 = 600_000;
/// Where the screen comes in.
pub const PRESENT_MS: u64 = 660_000;
/// Closed connections remembered.
const RECENT: usize = 5_000;

/// A mapping of the story.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    pub(super) id: MappingId,
    pub(super) config: MappingConfig,
    pub(super) written: WrittenMapping,
    /// Of its closed connections: count, failures, bytes.
    pub(super) total: u64,
    pub(super) errors: u64,
    pub(super) closed_bytes: (u64, u64),
    pub(super) last_result: Option<LastResult>,
}

/// The simulated service's state.
#[derive(Clone, Debug)]
pub struct Story {
    pub(super) now_ms: u64,
    pub(super) revision: Revision,
    pub(super) actors: Vec<Actor>,
    /// What was done, how it was before, and whether connections were dropped by it.
    pub(super) undo: Vec<(SafeText, Vec<Actor>, bool)>,
    pub(super) profile: String,
    next_mapping: u64,
    next_connection: u64,
    next_port: u16,
    pub(super) connections: BTreeMap<ConnectionId, ConnectionRow>,
    rates: BTreeMap<ConnectionId, (u64, u64)>,
    closed: Vec<ConnectionId>,
    // What the next update tells.
    pub(super) changed: BTreeSet<ConnectionId>,
    pub(super) removed: Vec<MappingId>,
    pub(super) events: Vec<Event>,
    pub(super) told: BTreeMap<MappingId, MappingRow>,
    pub(super) overview_changed: bool,
    /// The moment of which what Docker publishes was told last.
    pub(super) published_ms: u64,
}

impl Default for Story {
    fn default() -> Self {
        Self::new()
    }
}

impl Story {
    /// The story at its beginning.
    pub fn new() -> Self {
        let mut story = Self {
            now_ms: BEGINNING_MS,
            revision: Revision(1),
            actors: Vec::new(),
            undo: Vec::new(),
            profile: "dev".to_owned(),
            next_mapping: 1,
            next_connection: 1,
            next_port: 40_112,
            connections: BTreeMap::new(),
            rates: BTreeMap::new(),
            closed: Vec::new(),
            changed: BTreeSet::new(),
            removed: Vec::new(),
            events: Vec::new(),
            told: BTreeMap::new(),
            overview_changed: true,
            published_ms: BEGINNING_MS,
        };
        for (name, text, enabled) in cast::MAPPINGS {
            let mapping: Mapping = text.parse().expect("the cast is valid");
            let mut config = MappingConfig::new(name, mapping);
            config.enabled = enabled;
            story.add(config);
        }
        for part in &PARTS {
            let opened_ms = PRESENT_MS - part.age_ms;
            let id = story.open_as(part.mapping, part.client, part.listener, part.process, opened_ms);
            if let Some(row) = id.and_then(|id| story.connections.get_mut(&id)) {
                (row.connection.bytes_in, row.connection.bytes_out) = part.bytes;
                if part.is_half {
                    row.connection.state = ConnectionState::HalfClosed;
                    row.connection.closed_side = Some(Side::Client);
                }
                story.rates.insert(row.connection.id, part.rates);
            }
        }
        for (name, result) in
            [("web", (LastOutcome::Ok, 0)), ("api", (LastOutcome::Ok, 0)), ("web-tls", (LastOutcome::Refused, 3))]
        {
            if let Some(actor) = story.actors.iter_mut().find(|actor| actor.config.name == name) {
                actor.last_result =
                    Some(LastResult { outcome: result.0, took_us: 400, failures: result.1, attempts: 3 });
                actor.errors = u64::from(result.1);
                actor.total = u64::from(result.1);
            }
        }
        story.events.clear();
        story.tell(EventKind::MappingFailed {
            mapping: "api".to_owned(),
            listener: "[::1]:9000".to_owned(),
            error: SafeText::new("in use by node (pid 812)"),
        });
        story.tell(EventKind::Ready { mappings: 3, listening: 3, failed: 0 });
        story.revision = Revision(1);
        story
    }

    /// Steady milliseconds of the simulated service.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Whether somebody has changed the desired state, so that it is no longer the story as written.
    pub fn is_changed(&self) -> bool {
        self.revision != Revision(1)
    }

    /// Lets time go on to a moment, in whole steps.
    pub fn advance_to(&mut self, to_ms: u64) {
        while self.now_ms + STEP_MS <= to_ms {
            self.now_ms += STEP_MS;
            self.step();
        }
    }

    fn step(&mut self) {
        let now_ms = self.now_ms;
        for (id, (rate_in, rate_out)) in &self.rates {
            if let Some(row) = self.connections.get_mut(id)
                && row.connection.state != ConnectionState::Closed
                && rate_in + rate_out > 0
            {
                let bytes = |rate: u64, shift: u64| rate * cast::swing(now_ms, id.0 * 5 + shift) / 100 * STEP_MS / 1000;
                row.connection.bytes_in += bytes(*rate_in, 3);
                row.connection.bytes_out += bytes(*rate_out, 0);
                self.changed.insert(*id);
            }
        }
        let since = now_ms - BEGINNING_MS;
        if now_ms == PRESENT_MS - 3_000 {
            self.close_client("[2001:db8:9::7]:40022", CloseReason::TargetReset);
        }
        // A script fetches a page every few seconds, over IPv6 and IPv4 in turn.
        if since % 7_000 == 5_000 {
            let is_v6 = (since / 7_000).is_multiple_of(2);
            let port = 52_000 + since / 7_000 % 9_000;
            let (client, listener) = if is_v6 {
                (format!("[::1]:{port}"), "[::1]:8080")
            } else {
                (format!("127.0.0.1:{port}"), "127.0.0.1:8080")
            };
            let process = format!("curl {}", 4_300 + since / 7_000);
            if let Some(id) = self.open_as("web", &client, listener, Some(&process), now_ms) {
                self.rates.insert(id, (320, 96_000));
            }
        }
        if since % 7_000 == 6_500 {
            let finished: Vec<_> = self
                .connections
                .values()
                .filter(|row| row.opened_at_ms + 1_500 == now_ms && row.connection.state == ConnectionState::Open)
                .map(|row| row.connection.id)
                .collect();
            for id in finished {
                self.close(id, CloseReason::Finished);
            }
        }
        // Somebody keeps trying a port on which nothing listens.
        if since % 23_000 == 11_000 {
            let client = format!("198.51.100.9:{}", 33_000 + since / 23_000 % 9_000);
            if let Some(id) = self.open_as("web-tls", &client, "192.0.2.10:8443", None, now_ms) {
                if let Some(row) = self.connections.get_mut(&id) {
                    row.connection.source = None;
                    row.connection.target_address = None;
                }
                self.close(id, CloseReason::TargetRefused);
            }
        }
    }

    pub(super) fn tell(&mut self, kind: EventKind) {
        let event = Event::new(time(self.now_ms), kind);
        self.events.push(event);
    }

    fn open_as(
        &mut self,
        mapping: &str,
        client: &str,
        listener: &str,
        process: Option<&str>,
        opened_ms: u64,
    ) -> Option<ConnectionId> {
        let actor = self.actors.iter().find(|actor| actor.config.name == mapping && actor.config.enabled)?;
        let (mapping_id, target) = (actor.id, actor.config.mapping.target.clone());
        let protocol = actor.config.mapping.protocol;
        let address = addresses(&target.host).first().copied().map(|ip| SocketAddr::new(ip, target.ports.first()));
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.next_port = if self.next_port == u16::MAX { 40_000 } else { self.next_port + 1 };
        let source = address.map(|address| match address {
            SocketAddr::V4(_) => SocketAddr::new([172, 17, 0, 1].into(), self.next_port),
            SocketAddr::V6(_) => SocketAddr::new([0xfd00_u16, 0, 0, 0, 0, 0, 0, 1].into(), self.next_port),
        });
        let connection = Connection {
            id,
            mapping: mapping.to_owned(),
            protocol,
            client: client.parse().ok()?,
            listener: listener.parse().ok()?,
            source,
            target: target.to_string(),
            target_address: address,
            state: ConnectionState::Open,
            closed_side: None,
            opened_at: time(opened_ms),
            duration_ms: self.now_ms.saturating_sub(opened_ms),
            bytes_in: 0,
            bytes_out: 0,
            datagrams_in: None,
            datagrams_out: None,
            peer: None,
            alias: None,
            requests: None,
            reason: None,
            error: None,
        };
        self.tell(EventKind::Opened { connection: connection.clone() });
        let row = ConnectionRow {
            mapping_id,
            opened_at_ms: opened_ms,
            closed_at_ms: None,
            process: process.map(SafeText::new),
            observed: None,
            exchanges: Vec::new(),
            exchanges_end: None,
            connection,
        };
        self.connections.insert(id, row);
        self.changed.insert(id);
        Some(id)
    }

    fn close_client(&mut self, client: &str, reason: CloseReason) {
        let id = self.connections.values().find(|row| row.connection.client.to_string() == client);
        if let Some(id) = id.map(|row| row.connection.id) {
            self.close(id, reason);
        }
    }

    /// Ends a connection; false when it is not open.
    pub(super) fn close(&mut self, id: ConnectionId, reason: CloseReason) -> bool {
        let now_ms = self.now_ms;
        let Some(row) = self.connections.get_mut(&id).filter(|row| row.closed_at_ms.is_none()) else { return false };
        row.closed_at_ms = Some(now_ms);
        row.connection.state = ConnectionState::Closed;
        row.connection.reason = Some(reason);
        row.connection.duration_ms = now_ms.saturating_sub(row.opened_at_ms);
        let connection = row.connection.clone();
        let mapping_id = row.mapping_id;
        if let Some(actor) = self.actors.iter_mut().find(|actor| actor.id == mapping_id) {
            actor.total += 1;
            actor.errors += u64::from(!reason.is_fine());
            actor.closed_bytes.0 += connection.bytes_in;
            actor.closed_bytes.1 += connection.bytes_out;
        }
        self.rates.remove(&id);
        self.changed.insert(id);
        self.tell(EventKind::Closed { connection });
        self.closed.push(id);
        if self.closed.len() > RECENT {
            let oldest = self.closed.remove(0);
            self.connections.remove(&oldest);
        }
        true
    }

    /// Ends every connection of a mapping.
    pub(super) fn close_all(&mut self, id: MappingId, reason: CloseReason) {
        let open: Vec<_> = self
            .connections
            .values()
            .filter(|row| row.mapping_id == id && row.closed_at_ms.is_none())
            .map(|row| row.connection.id)
            .collect();
        for connection in open {
            self.close(connection, reason);
        }
    }

    /// Adds a mapping.
    pub(super) fn add(&mut self, config: MappingConfig) -> MappingId {
        let id = MappingId(self.next_mapping);
        self.next_mapping += 1;
        let written = config.to_written();
        self.actors.push(Actor { id, config, written, total: 0, errors: 0, closed_bytes: (0, 0), last_result: None });
        self.changed_state();
        id
    }

    /// The desired state has changed.
    pub(super) fn changed_state(&mut self) {
        self.revision.0 += 1;
        self.overview_changed = true;
    }

    /// Puts other mappings in place of those there are.
    pub(super) fn replace(&mut self, actors: Vec<Actor>) {
        let gone: Vec<_> =
            self.actors.iter().map(|actor| actor.id).filter(|id| !actors.iter().any(|actor| actor.id == *id)).collect();
        for id in gone {
            self.close_all(id, CloseReason::MappingRemoved);
            self.removed.push(id);
            self.told.remove(&id);
        }
        self.actors = actors;
        self.changed_state();
    }
}

/// A moment of the service's clock on the wall: the present is 2026-01-31T10:00:00Z.
pub(super) fn time(at_ms: u64) -> Timestamp {
    let present = Timestamp::from_second(1_769_853_600).expect("a time");
    let from_present = i64::try_from(at_ms).unwrap_or(0) - i64::try_from(PRESENT_MS).unwrap_or(0);
    present + SignedDuration::from_millis(from_present)
}
