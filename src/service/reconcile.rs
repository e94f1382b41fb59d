//! Brings what runs in line with what is desired, and tells what came of it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::core::Service;
use super::desired::Entry;
use super::known::Known;
use super::resolve::Wanted;
use crate::forward::context::Addresses;
use crate::forward::engine::{Engine, Notice, StateReason};
use crate::model::cycle;
use crate::model::event::{EventKind, MappingState};
use crate::model::id::MappingId;
use crate::model::mapping::{Mapping, TargetHost};
use crate::model::untrusted::SafeText;
use crate::model::update::MappingRow;

impl Service {
    /// Makes the engine run the desired state. What is the same in both is not touched.
    pub(super) async fn reconcile(&mut self) {
        self.look_at_this_machine();
        let entries = self.desired.entries().to_vec();
        let hosts: HashSet<_> = entries.iter().map(|entry| &entry.config.mapping.target.host).collect();
        self.kept.retain(|(host, _), _| hosts.contains(host));
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
        self.open_alias_pools().await;
        let routes = self.routes();
        let route = |entry: &Entry| {
            // Every entry has one; without, it would wait.
            routes.get(&entry.id).cloned().unwrap_or(Addresses::Waiting { reason: "not resolved yet".into() })
        };
        let mut busy = Vec::new();
        for entry in changed {
            self.apply(entry, route(entry)).await;
            let Some(known) = self.known.get(&entry.id) else { return };
            if known.missed().next().is_some() {
                busy.push(entry);
            }
        }
        // Two mappings that changed places: the port that the first one missed is free now.
        for entry in busy {
            self.apply(entry, route(entry)).await;
        }
        // A mapping that stayed may lead elsewhere now: out of a circle, or into one.
        self.readdress(routes);
        for entry in &entries {
            self.tell_status(entry.id);
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
        let config = Arc::clone(&entry.config);
        match self.known.get_mut(&entry.id) {
            // What was told of the listeners stays told where they stayed.
            Some(known) => {
                (known.config, known.addresses) = (config, addresses);
                known.set_status(status);
            }
            None => drop(self.known.insert(entry.id, Box::new(Known::new(config, addresses, status)))),
        }
    }

    /// Where each mapping's connections go now; refused where they would come back to it, or could not go as aliases.
    fn routes(&mut self) -> HashMap<MappingId, Addresses> {
        let entries = self.desired.entries().to_vec();
        let mut found: HashMap<Wanted, Addresses> = HashMap::new();
        let mut routes: HashMap<MappingId, Addresses> = HashMap::new();
        for entry in &entries {
            let wanted = Wanted::from(&*entry.config);
            let addresses = if let Some(addresses) = found.get(&wanted) {
                addresses.clone()
            } else {
                let addresses = self.addresses(&wanted);
                found.insert(wanted, addresses.clone());
                addresses
            };
            let addresses = self.aliases.judged(entry, addresses, &entries);
            routes.insert(entry.id, addresses);
        }
        let enabled: Vec<&Entry> = entries.iter().filter(|entry| entry.config.enabled).collect();
        let mappings: Vec<&Mapping> = enabled.iter().map(|entry| &entry.config.mapping).collect();
        let resolved = |index: usize| {
            let id = enabled.get(index).map(|entry| entry.id);
            id.and_then(|id| routes.get(&id)).map(Addresses::ips).unwrap_or_default()
        };
        let cycles = cycle::find_cycles(&mappings, &self.own_ips(), resolved);
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
        let routes = self.routes();
        self.readdress(routes);
    }

    fn readdress(&mut self, mut routes: HashMap<MappingId, Addresses>) {
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
            // Where the target is does not change by a mapping that must not go there, or may again.
            let is_refused = |addresses: &Addresses| matches!(addresses, Addresses::Refused { .. });
            let is_moved = first(&known.addresses) != first(&addresses)
                && !is_refused(&known.addresses)
                && !is_refused(&addresses);
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
    pub(super) fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::Changed(id) => {
                self.observe(id);
                self.tell_ready();
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

    /// Takes in a mapping's status as it is now, and tells what is new.
    fn observe(&mut self, id: MappingId) {
        let status = self.engine.as_ref().and_then(|engine| engine.status_of(id));
        if let (Some(status), Some(known)) = (status, self.known.get_mut(&id)) {
            known.set_status(status);
            self.tell_status(id);
        }
    }

    /// Says by events what is new of a mapping, once it is known who holds the ports that it misses.
    pub(super) fn tell_status(&mut self, id: MappingId) {
        let Some(known) = self.known.get_mut(&id) else { return };
        if known.is_unexplained() {
            self.ask_holders();
            return;
        }
        for event in known.news() {
            self.tell(event);
        }
    }

    /// Looks at everything again: a port may have changed hands, and a notice may have been dropped.
    pub(super) async fn look_again(&mut self) {
        for id in self.known.keys().copied().collect::<Vec<_>>() {
            self.observe(id);
        }
        let is_faulty = |known: &Known| matches!(known.status().reason, Some(StateReason::Fault));
        let faulty: Vec<MappingId> =
            self.known.iter().filter(|(_, known)| is_faulty(known)).map(|(id, _)| *id).collect();
        for id in faulty {
            let Some(entry) = self.desired.entry(id).cloned() else { continue };
            let Some(addresses) = self.known.get(&id).map(|known| known.addresses.clone()) else { continue };
            self.apply(&entry, addresses).await;
            self.tell_status(id);
        }
        self.tell_ready();
        self.ask_holders();
    }

    /// Says `ready`, once, when every enabled mapping has bound or failed.
    pub(super) fn tell_ready(&mut self) {
        let enabled = || self.desired.entries().iter().filter(|entry| entry.config.enabled);
        let state = |entry: &Entry| match self.known.get(&entry.id) {
            Some(known) if !known.is_unexplained() => known.status().state,
            _ => MappingState::Starting,
        };
        if self.is_ready || enabled().any(|entry| state(entry) == MappingState::Starting) {
            return;
        }
        let mappings = enabled().count();
        let failed = enabled().filter(|entry| state(entry) == MappingState::Failed).count();
        self.is_ready = true;
        self.registry.tell(|| EventKind::Ready { mappings, listening: mappings - failed, failed });
        let unasked = self.engine.as_ref().map(Engine::unasked_handed_in).unwrap_or_default();
        if !unasked.is_empty() {
            tracing::warn!("no mapping listens where sockets were handed in: {}", unasked.join(", "));
        }
    }

    pub(super) fn mapping_rows(&self) -> Vec<MappingRow> {
        let known: Vec<_> =
            self.desired.entries().iter().filter_map(|entry| Some((entry, self.known.get(&entry.id)?))).collect();
        let meters: Vec<_> = known.iter().map(|(_, known)| Arc::clone(&known.status().meter)).collect();
        let totals = self.registry.totals_of(&meters);
        let rows = known.into_iter().zip(totals).map(|((entry, known), counts)| known.row(entry, counts));
        if !self.is_ending {
            return rows.collect();
        }
        // Nothing listens any more, whatever was last said of it.
        let ending =
            |row| MappingRow { state: MappingState::Stopped, reason: Some("the engine is ending".into()), ..row };
        rows.map(ending).collect()
    }
}

fn dns_name(mapping: &Mapping) -> Option<String> {
    match &mapping.target.host {
        TargetHost::Dns(name) => Some(name.clone()),
        _ => None,
    }
}
