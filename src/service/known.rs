//! What the service knows of a mapping that runs, and what it has told of it.
//!
//! The engine says that an address is in use, this machine says by whom; the words for users are made of both
//! when they are asked for, so that they never outlive either.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::desired::Entry;
use crate::forward::context::Addresses;
use crate::forward::engine::{ListenError, MappingStatus, StateReason};
use crate::forward::meter::Counts;
use crate::model::event::{EventKind, MappingState};
use crate::model::mapping::Protocol;
use crate::model::profile::MappingConfig;
use crate::model::untrusted::SafeText;
use crate::model::update::{ListenerRow, MappingRow, Owner};

/// An address that a mapping could not have.
pub(super) type Missed = (SocketAddr, Protocol);
/// Who holds each, as far as it can be seen.
pub(super) type Holders = HashMap<Missed, Option<SafeText>>;

/// A mapping that the engine runs.
#[derive(Debug)]
pub(super) struct Known {
    /// As it was last given to the engine.
    pub(super) config: Arc<MappingConfig>,
    pub(super) addresses: Addresses,
    status: MappingStatus,
    /// Of the addresses that it misses now.
    holders: Holders,
    told: Told,
}

/// What events have said of a mapping.
#[derive(Debug, Default)]
struct Told {
    listeners: Vec<(String, bool, Option<SafeText>)>,
    state: Option<(MappingState, Option<SafeText>)>,
}

impl Known {
    pub(super) fn new(config: Arc<MappingConfig>, addresses: Addresses, status: MappingStatus) -> Self {
        Self { config, addresses, status, holders: Holders::new(), told: Told::default() }
    }

    pub(super) fn status(&self) -> &MappingStatus {
        &self.status
    }

    /// Takes in the engine's word. Who held an address that it no longer misses is forgotten.
    pub(super) fn set_status(&mut self, status: MappingStatus) {
        self.status = status;
        let missed: Vec<Missed> = self.missed().collect();
        self.holders.retain(|address, _| missed.contains(address));
    }

    /// The addresses that somebody else has.
    pub(super) fn missed(&self) -> impl Iterator<Item = Missed> + '_ {
        self.status.listeners.iter().filter_map(|listener| match &listener.error {
            Some(ListenError::InUse { address, protocol }) => Some((*address, *protocol)),
            _ => None,
        })
    }

    /// Whether it is not known yet who holds what it misses: too soon to speak of it.
    pub(super) fn is_unexplained(&self) -> bool {
        self.missed().any(|address| !self.holders.contains_key(&address))
    }

    /// Takes in who holds what.
    pub(super) fn learn(&mut self, found: &Holders) {
        let missed: Vec<Missed> = self.missed().collect();
        let known = missed.into_iter().filter_map(|address| Some((address, found.get(&address)?.clone())));
        self.holders.extend(known);
    }

    /// The events that say what has changed since they were last made.
    pub(super) fn news(&mut self) -> Vec<EventKind> {
        let (name, mapping) = (&self.config.name, &self.config.mapping);
        let mut events = Vec::new();
        let mut listeners = Vec::with_capacity(self.status.listeners.len());
        for listener in &self.status.listeners {
            let error = listener.error.as_ref().map(|error| self.failure(&listener.wanted, error));
            let now = (listener.wanted.clone(), listener.bound.is_some(), error);
            if !self.told.listeners.contains(&now) {
                if listener.bound.is_some() {
                    events.push(EventKind::Listening {
                        mapping: name.clone(),
                        listener: listener.wanted.clone(),
                        protocol: mapping.protocol,
                        target: mapping.target.to_string(),
                    });
                } else if let Some(error) = &now.2 {
                    events.push(EventKind::MappingFailed {
                        mapping: name.clone(),
                        listener: listener.wanted.clone(),
                        error: error.clone(),
                    });
                }
            }
            listeners.push(now);
        }
        let state = (self.status.state, self.reason());
        // A mapping that simply came up has said so by `listening`.
        let is_said = self.told.state.is_none() && state == (MappingState::Up, None);
        if !is_said && self.told.state.as_ref() != Some(&state) {
            events.push(EventKind::MappingState { mapping: name.clone(), state: state.0, reason: state.1.clone() });
        }
        self.told = Told { listeners, state: Some(state) };
        events
    }

    /// The row that clients see.
    pub(super) fn row(&self, entry: &Entry, counts: Counts) -> MappingRow {
        let meter = &self.status.meter;
        let (connections, connections_total, errors) = meter.connections();
        let listeners = self.status.listeners.iter().map(|listener| ListenerRow {
            family: listener.family,
            address: listener.wanted.clone(),
            bound: listener.bound,
            error: listener.error.as_ref().map(|error| self.explained(error)),
        });
        MappingRow {
            id: entry.id,
            owner: Owner::Portolan,
            name: entry.config.name.clone(),
            mapping: entry.config.mapping.clone(),
            written: entry.config.to_written(),
            is_session: entry.is_session,
            state: self.status.state,
            reason: self.reason(),
            listeners: listeners.collect(),
            target_addresses: self.addresses.ips(),
            connections,
            connections_total,
            errors,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            last_result: meter.last_result(),
            connect_p50_us: meter.connect_p50_us(),
        }
    }

    /// Why it is not wholly up.
    fn reason(&self) -> Option<SafeText> {
        Some(match self.status.reason.as_ref()? {
            StateReason::NotBound(error) => self.explained(error),
            other => SafeText::new(&other.to_string()),
        })
    }

    /// The same for who has been told the listener already, and need not be told it again.
    fn failure(&self, listener: &str, error: &ListenError) -> SafeText {
        let whole = self.explained(error);
        match error {
            // Of a range, the port that is busy is the news.
            ListenError::InUse { address, protocol } if listener == address.to_string() => {
                let rest = whole.as_str().strip_prefix(&format!("{address}/{protocol} is "));
                rest.map_or_else(|| whole.clone(), SafeText::new)
            }
            _ => whole,
        }
    }

    /// Who holds an address that it misses, as far as it is known.
    pub(super) fn holder(&self, missed: Missed) -> Option<SafeText> {
        self.holders.get(&missed).cloned().flatten()
    }

    /// The engine's error with what only this machine knows: who holds the port.
    pub(super) fn explained(&self, error: &ListenError) -> SafeText {
        let holder = match error {
            ListenError::InUse { address, protocol } => self.holders.get(&(*address, *protocol)),
            _ => None,
        };
        match holder {
            Some(Some(holder)) => SafeText::new(&format!("{error} by {holder}")),
            _ => SafeText::new(&error.to_string()),
        }
    }
}
