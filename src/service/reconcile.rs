//! Brings what runs in line with what is desired, and tells what came of it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::core::{Known, Service};
use super::desired::Entry;
use crate::forward::context::Addresses;
use crate::forward::engine::{ListenError, Notice};

use crate::host;
use crate::host::addresses::OwnAddresses;
use crate::model::cycle;
use crate::model::event::{EventKind, MappingState};
use crate::model::id::MappingId;
use crate::model::mapping::{Mapping, TargetHost};
use crate::model::untrusted::SafeText;
use crate::model::update::{ListenerRow, MappingRow};

impl Service {
    /// Makes the engine run the desired state. What is the same in both is not touched.
    pub(super) async fn reconcile(&mut self) {
        if let Ok(own) = OwnAddresses::read() {
            self.own = own;
        }
        let entries = self.desired.entries().to_vec();
        let wanted: HashSet<_> = entries.iter().map(|entry| entry.id).collect();
        // Listeners that go make room for those that come.
        let gone: Vec<MappingId> = self.known.keys().filter(|id| !wanted.contains(id)).copied().collect();
        for id in gone {
            self.forget(id).await;
        }
        let names: BTreeSet<_> = entries.iter().filter_map(|entry| dns_name(&entry.config.mapping)).collect();
        self.resolver.want(names);
        let changed: Vec<&Entry> = entries
            .iter()
            .filter(|entry| self.known.get(&entry.id).is_none_or(|known| known.config != entry.config))
            .collect();
        let routes = self.routes();
        let route = |entry: &Entry| {
            // Every entry has one; without, it would wait.
            routes.get(&entry.id).cloned().unwrap_or(Addresses::Waiting { reason: "not resolved yet".into() })
        };
        let mut busy = Vec::new();
        for entry in changed {
            self.apply(entry, route(entry)).await;
            let Some(known) = self.known.get(&entry.id) else { return };
            if known.status.listeners.iter().any(|listener| matches!(listener.error, Some(ListenError::InUse { .. }))) {
                busy.push(entry.clone());
            }
        }
        // Two mappings that changed places: the port that the first one missed is free now.
        for entry in busy {
            self.apply(&entry, route(&entry)).await;
        }
        for entry in &entries {
            self.tell_status(entry.id).await;
        }
        self.tell_ready();
    }

    async fn forget(&mut self, id: MappingId) {
        let Some(known) = self.known.remove(&id) else { return };
        if let Some(engine) = &self.engine {
            engine.remove(id).await;
        }
        self.registry.tell(|| EventKind::Removed { mapping: known.config.name.clone() });
    }

    async fn apply(&mut self, entry: &Entry, addresses: Addresses) {
        let Some(engine) = &self.engine else { return };
        let status = engine.apply(entry.id, Arc::clone(&entry.config), addresses.clone()).await;
        let (reason, errors, told) = match self.known.remove(&entry.id) {
            // What was told of the listeners stays told where they stayed.
            Some(known) => (known.reason, known.errors, Some(known.told)),
            None => (None, Vec::new(), None),
        };
        let told = told.unwrap_or_default();
        self.known
            .insert(entry.id, Known { config: Arc::clone(&entry.config), addresses, status, reason, errors, told });
    }

    /// Where each mapping's connections go now; refused where they would come back to it.
    fn routes(&mut self) -> HashMap<MappingId, Addresses> {
        let entries = self.desired.entries().to_vec();
        let mut by_host: HashMap<TargetHost, Addresses> = HashMap::new();
        for entry in &entries {
            let host = &entry.config.mapping.target.host;
            if !by_host.contains_key(host) {
                let addresses = self.addresses(host);
                by_host.insert(host.clone(), addresses);
            }
        }
        let enabled: Vec<&Entry> = entries.iter().filter(|entry| entry.config.enabled).collect();
        let mappings: Vec<&Mapping> = enabled.iter().map(|entry| &entry.config.mapping).collect();
        let resolved = |host: &TargetHost| by_host.get(host).map(Addresses::ips).unwrap_or_default();
        let cycles = cycle::find_cycles(&mappings, &self.own_ips(), resolved);
        let mut routes: HashMap<MappingId, Addresses> = entries
            .iter()
            .filter_map(|entry| Some((entry.id, by_host.get(&entry.config.mapping.target.host)?.clone())))
            .collect();
        for cycle in cycles {
            for member in &cycle.members {
                if let Some(entry) = enabled.get(*member) {
                    routes.insert(entry.id, Addresses::Refused { reason: SafeText::new(&cycle.to_string()) });
                }
            }
        }
        routes
    }

    /// This host's addresses, for the cycle check.
    pub(super) fn own_ips(&self) -> Vec<IpAddr> {
        self.own.0.iter().map(|own| own.ip).collect()
    }

    /// Docker or DNS says something new: the engine hears it where it matters.
    pub(super) fn addresses_changed(&mut self) {
        let mut routes = self.routes();
        for entry in self.desired.entries().to_vec() {
            let Some(addresses) = routes.remove(&entry.id) else { continue };
            let Some(known) = self.known.get_mut(&entry.id) else { continue };
            if known.addresses == addresses {
                continue;
            }
            let first = |addresses: &Addresses| match addresses {
                Addresses::Known(list) => list.first().copied(),
                _ => None,
            };
            let is_moved = first(&known.addresses) != first(&addresses);
            known.addresses = addresses.clone();
            if let Some(engine) = &self.engine {
                engine.set_addresses(entry.id, addresses.clone());
            }
            if is_moved {
                let port = entry.config.mapping.target.ports.first();
                self.registry.tell(|| EventKind::TargetChanged {
                    mapping: entry.config.name.clone(),
                    target: entry.config.mapping.target.to_string(),
                    target_address: first(&addresses).map(|mut address| {
                        address.set_port(port);
                        address.to_string()
                    }),
                });
            }
        }
    }

    /// The engine says something of a mapping.
    pub(super) async fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::Changed(status) => {
                let id = status.id;
                if let Some(known) = self.known.get_mut(&id) {
                    known.status = status;
                    self.tell_status(id).await;
                    self.tell_ready();
                }
            }
            Notice::TargetFailed(id) => {
                if let Some(name) = self.desired.entry(id).and_then(|entry| dns_name(&entry.config.mapping)) {
                    self.resolver.refresh(&name);
                }
            }
            Notice::SelfForwarding(id) => {
                if let Some(entry) = self.desired.entry(id) {
                    let name = &entry.config.name;
                    let message =
                        SafeText::new(&format!("{name} forwards to itself and was stopped: change its target"));
                    self.registry.tell(|| EventKind::Warning { message });
                }
            }
        }
    }

    /// Makes events out of what changed in a mapping's status since they were last made.
    async fn tell_status(&mut self, id: MappingId) {
        let Some(known) = self.known.get(&id) else { return };
        let status = known.status.clone();
        let mut errors = Vec::with_capacity(status.listeners.len());
        for listener in &status.listeners {
            errors.push(match &listener.error {
                Some(error) => Some(explained(error).await),
                None => None,
            });
        }
        let reason = errors
            .iter()
            .flatten()
            .next()
            .cloned()
            .or_else(|| status.reason.as_ref().map(|reason| SafeText::new(&reason.to_string())));
        let Some(known) = self.known.get_mut(&id) else { return };
        let (name, mapping) = (known.config.name.clone(), known.config.mapping.clone());
        let mut events = Vec::new();
        for (listener, error) in status.listeners.iter().zip(&errors) {
            let told = (listener.wanted.clone(), listener.bound.is_some(), error.clone());
            if known.told.listeners.contains(&told) {
                continue;
            }
            if listener.bound.is_some() {
                events.push(EventKind::Listening {
                    mapping: name.clone(),
                    listener: listener.wanted.clone(),
                    protocol: mapping.protocol,
                    target: mapping.target.to_string(),
                });
            } else if let Some(error) = error {
                events.push(EventKind::MappingFailed {
                    mapping: name.clone(),
                    listener: listener.wanted.clone(),
                    error: error.clone(),
                });
            }
        }
        known.told.listeners = status
            .listeners
            .iter()
            .zip(&errors)
            .map(|(listener, error)| (listener.wanted.clone(), listener.bound.is_some(), error.clone()))
            .collect();
        if known.told.state != Some((status.state, reason.clone())) {
            // A mapping that simply came up has said so by `listening`.
            if known.told.state.is_some() || status.state != MappingState::Up {
                events.push(EventKind::MappingState { mapping: name, state: status.state, reason: reason.clone() });
            }
            known.told.state = Some((status.state, reason.clone()));
        }
        known.reason = reason;
        known.errors = errors;
        for event in events {
            self.registry.tell(|| event);
        }
    }

    /// Who holds a port that a mapping misses may be another process by now.
    pub(super) async fn look_again(&mut self) {
        let is_busy = |known: &&Known| {
            known.status.listeners.iter().any(|listener| matches!(listener.error, Some(ListenError::InUse { .. })))
        };
        let busy: Vec<MappingId> = self.known.values().filter(is_busy).map(|known| known.status.id).collect();
        for id in busy {
            self.tell_status(id).await;
        }
    }

    /// Says `ready`, once, when every enabled mapping has bound or failed.
    fn tell_ready(&mut self) {
        let enabled = || self.desired.entries().iter().filter(|entry| entry.config.enabled);
        let state =
            |entry: &Entry| self.known.get(&entry.id).map_or(MappingState::Starting, |known| known.status.state);
        if self.is_ready || enabled().any(|entry| state(entry) == MappingState::Starting) {
            return;
        }
        let mappings = enabled().count();
        let failed = enabled().filter(|entry| state(entry) == MappingState::Failed).count();
        self.is_ready = true;
        self.registry.tell(|| EventKind::Ready { mappings, listening: mappings - failed, failed });
    }

    pub(super) fn mapping_rows(&self) -> Vec<MappingRow> {
        let known: Vec<_> =
            self.desired.entries().iter().filter_map(|entry| Some((entry, self.known.get(&entry.id)?))).collect();
        let meters: Vec<_> = known.iter().map(|(_, known)| Arc::clone(&known.status.meter)).collect();
        let totals = self.registry.totals_of(&meters);
        known.into_iter().zip(totals).map(|((entry, known), counts)| row(entry, known, counts)).collect()
    }
}

fn row(entry: &Entry, known: &Known, counts: crate::forward::meter::Counts) -> MappingRow {
    let meter = &known.status.meter;
    let (connections, connections_total, errors) = meter.connections();
    MappingRow {
        id: entry.id,
        name: entry.config.name.clone(),
        mapping: entry.config.mapping.clone(),
        written: entry.config.to_written(),
        is_session: entry.is_session,
        state: known.status.state,
        reason: known.reason.clone(),
        listeners: known
            .status
            .listeners
            .iter()
            .zip(known.errors.iter().cloned().chain(std::iter::repeat(None)))
            .map(|(listener, error)| ListenerRow {
                family: listener.family,
                address: listener.wanted.clone(),
                bound: listener.bound,
                error,
            })
            .collect(),
        target_addresses: known.addresses.ips(),
        connections,
        connections_total,
        errors,
        bytes_in: counts.bytes_in,
        bytes_out: counts.bytes_out,
        last_result: meter.last_result(),
        connect_p50_us: meter.connect_p50_us(),
    }
}

fn dns_name(mapping: &Mapping) -> Option<String> {
    match &mapping.target.host {
        TargetHost::Dns(name) => Some(name.clone()),
        _ => None,
    }
}

/// The engine's error with what only this machine knows: who holds the port.
async fn explained(error: &ListenError) -> SafeText {
    let text = error.to_string();
    let ListenError::InUse { address, protocol } = error else { return SafeText::new(&text) };
    let (address, protocol) = (*address, *protocol);
    let looked = tokio::task::spawn_blocking(move || host::holders::holder_of(address, protocol)).await;
    match looked.ok().and_then(Result::ok).flatten() {
        Some(conflict) => SafeText::new(&format!("{text} by {}", conflict.holder)),
        None => SafeText::new(&text),
    }
}

/// Keeps what was told apart from what is.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) listeners: Vec<(String, bool, Option<SafeText>)>,
    pub(super) state: Option<(MappingState, Option<SafeText>)>,
}
