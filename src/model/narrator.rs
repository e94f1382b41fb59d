//! Events as a reader of lines gets them: what happened, and between it `traffic`, made of rows that changed.
//!
//! `run` prints them, the control socket streams them. Pure: the moment is handed in.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::event::{Connection, ConnectionState, Event, EventKind, MappingTraffic, Side};
use super::id::{ConnectionId, MappingId};
use super::update::{ConnectionRow, MappingRow, Update};

/// Makes events (contract §5) out of the updates of one subscription.
#[derive(Debug, Default)]
pub struct Narrator {
    traffic: Traffic,
}

impl Narrator {
    /// `follows_connections`: `traffic` tells of each connection that changed, and the interest brings their rows.
    /// `comes_late`: there may be connections whose `opened` was told before.
    pub fn new(follows_connections: bool, comes_late: bool) -> Self {
        Self { traffic: Traffic { follows: follows_connections, is_patchy: comes_late, ..Traffic::default() } }
    }

    /// What an update has to say, oldest first.
    pub fn hear(&mut self, update: Update, now: Timestamp) -> Vec<Event> {
        let Update { mut events, lost, mappings, connections, .. } = update;
        self.traffic.is_patchy |= lost > 0;
        for event in &events {
            self.traffic.heard(&event.kind);
        }
        if lost > 0 {
            events.insert(0, Event::new(now, EventKind::Lost { count: lost }));
        }
        self.traffic.note(&mappings, &connections);
        events
    }

    /// What changed since the last call; `None` when nothing did.
    pub fn traffic(&mut self, now: Timestamp) -> Option<Event> {
        self.traffic.take().map(|kind| Event::new(now, kind))
    }
}

/// What was said of mappings and connections, and what changed since.
#[derive(Debug, Default)]
struct Traffic {
    /// Single connections are spoken of, too.
    follows: bool,
    /// Open connections and bytes.
    mappings: HashMap<MappingId, (u64, u64, u64)>,
    /// Connections between their `opened` and their `closed`: only those are spoken of.
    connections: HashMap<ConnectionId, Said>,
    changed_mappings: BTreeMap<MappingId, MappingTraffic>,
    changed_connections: BTreeMap<ConnectionId, Connection>,
    opened: u64,
    closed: u64,
    /// Some `opened` was lost or came before, so an unknown id may well be open.
    is_patchy: bool,
}

/// What of a connection changes while it is open. Its age does so all the time and is no news.
#[derive(Debug, PartialEq)]
struct Said {
    counts: (u64, u64, u64, u64),
    state: (ConnectionState, Option<Side>),
    /// It comes once, and stays.
    has_target_leg: bool,
}

impl Traffic {
    fn heard(&mut self, kind: &EventKind) {
        match kind {
            EventKind::Opened { connection } => {
                self.opened += 1;
                if self.follows {
                    self.connections.insert(connection.id, Said::of(connection));
                }
            }
            EventKind::Closed { connection } => {
                self.connections.remove(&connection.id);
                self.changed_connections.remove(&connection.id);
                self.closed += 1;
            }
            _ => {}
        }
    }

    fn note(&mut self, mappings: &[MappingRow], connections: &[ConnectionRow]) {
        for row in mappings {
            let now = (row.connections, row.bytes_in, row.bytes_out);
            if self.mappings.insert(row.id, now).unwrap_or_default() != now {
                let traffic = MappingTraffic {
                    mapping: row.name.clone(),
                    connections: row.connections,
                    bytes_in: row.bytes_in,
                    bytes_out: row.bytes_out,
                };
                self.changed_mappings.insert(row.id, traffic);
            }
        }
        for connection in connections.iter().map(|row| &row.connection).filter(|c| c.reason.is_none()) {
            let now = Said::of(connection);
            let is_news = match self.connections.get_mut(&connection.id) {
                Some(said) if *said == now => false,
                Some(said) => {
                    *said = now;
                    true
                }
                None if self.is_patchy => {
                    self.connections.insert(connection.id, now);
                    true
                }
                None => false,
            };
            if is_news {
                self.changed_connections.insert(connection.id, connection.clone());
            }
        }
    }

    /// What changed since the last call; `None` when nothing did.
    fn take(&mut self) -> Option<EventKind> {
        let mappings: Vec<_> = std::mem::take(&mut self.changed_mappings).into_values().collect();
        let connections: Vec<_> = std::mem::take(&mut self.changed_connections).into_values().collect();
        // Who came and went is counted with the totals that tell of it.
        if mappings.is_empty() && connections.is_empty() {
            return None;
        }
        let (opened, closed) = (std::mem::take(&mut self.opened), std::mem::take(&mut self.closed));
        Some(EventKind::Traffic { mappings, connections, opened, closed })
    }
}

impl Said {
    fn of(connection: &Connection) -> Self {
        let Connection { bytes_in, bytes_out, datagrams_in, datagrams_out, .. } = connection;
        Self {
            counts: (*bytes_in, *bytes_out, datagrams_in.unwrap_or(0), datagrams_out.unwrap_or(0)),
            state: (connection.state, connection.closed_side),
            has_target_leg: connection.source.is_some(),
        }
    }
}
