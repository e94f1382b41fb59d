//! Look-ups in this machine's tables that run beside the owner: who holds the ports that mappings miss, and the
//! processes of local clients. Each kind is under way once at a time and answers for all who ask in one pass.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use tokio::task::spawn_blocking;

use super::core::{Job, Service};
use super::known::{Holders, Missed};
use super::subscribers::{Processes, Snapshot};
use crate::host;
use crate::model::event::ConnectionState;
use crate::model::id::{ConnectionId, MappingId};
use crate::model::mapping::Protocol;
use crate::model::untrusted::SafeText;

/// What was looked up, and what is.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    is_asking_holders: bool,
    is_asking_processes: bool,
    processes_asked: HashSet<ConnectionId>,
    /// Of local clients, as far as they were found.
    pub(super) processes: Processes,
}

impl Service {
    /// Looks who holds the ports that mappings miss.
    pub(super) fn ask_holders(&mut self) {
        if self.lookups.is_asking_holders {
            return;
        }
        let missed: Vec<Missed> = self.known.values().flat_map(|known| known.missed()).collect();
        if missed.is_empty() {
            return;
        }
        self.lookups.is_asking_holders = true;
        self.jobs.spawn(async move {
            let asked = missed.clone();
            let looked = spawn_blocking(move || host::holders::holders_of(&asked)).await;
            // Without an answer it is in use all the same.
            let found = looked.ok().and_then(Result::ok).unwrap_or_default();
            let names = found.into_iter().map(|conflict| conflict.map(|conflict| conflict.holder));
            Job::Holders(missed.into_iter().zip(names.chain(std::iter::repeat(None))).collect())
        });
    }

    /// The answer to [`Service::ask_holders`].
    pub(super) fn holders_found(&mut self, found: &Holders) {
        self.lookups.is_asking_holders = false;
        for known in self.known.values_mut() {
            known.learn(found);
        }
        let missing: Vec<MappingId> =
            self.known.iter().filter(|(_, known)| known.missed().next().is_some()).map(|(id, _)| *id).collect();
        for id in missing {
            self.tell_status(id);
        }
        self.tell_ready();
    }

    /// Looks up the processes of new local clients.
    pub(super) fn ask_processes(&mut self, snapshot: &Snapshot) {
        let lookups = &mut self.lookups;
        if lookups.processes_asked.len() > snapshot.open.len() * 2 + 64 {
            let open: HashSet<_> = snapshot.open.iter().map(|record| record.id).collect();
            lookups.processes_asked.retain(|id| open.contains(id));
            lookups.processes.retain(|id, _| open.contains(id));
        }
        if lookups.is_asking_processes {
            return;
        }
        let new: Vec<_> = snapshot
            .open
            .iter()
            .filter(|record| record.state().0 != ConnectionState::Closed && self.own.contains(record.peer.ip()))
            .filter(|record| lookups.processes_asked.insert(record.id))
            .map(|record| (record.id, record.peer, record.listener, record.protocol()))
            .collect();
        if new.is_empty() {
            return;
        }
        lookups.is_asking_processes = true;
        self.jobs.spawn(async move {
            let found = spawn_blocking(move || processes(&new)).await;
            Job::Processes(found.unwrap_or_default())
        });
    }

    /// Nobody asks for them any more.
    pub(super) fn forget_processes(&mut self) {
        self.lookups.processes_asked.clear();
        self.lookups.processes.clear();
    }

    /// The answer to [`Service::ask_processes`].
    pub(super) fn processes_found(&mut self, found: HashMap<ConnectionId, SafeText>) {
        self.lookups.is_asking_processes = false;
        self.lookups.processes.extend(found);
    }
}

/// The processes of local clients, as far as they can be seen.
fn processes(new: &[(ConnectionId, SocketAddr, SocketAddr, Protocol)]) -> HashMap<ConnectionId, SafeText> {
    let mut found = HashMap::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let of_protocol: Vec<_> = new.iter().filter(|(.., of)| *of == protocol).collect();
        let pairs: Vec<_> = of_protocol.iter().map(|(_, client, listener, _)| (*client, *listener)).collect();
        // Without an answer the column stays empty: it is help, not a duty.
        let names = host::processes::clients(protocol, &pairs).unwrap_or_default();
        found.extend(of_protocol.iter().zip(names).filter_map(|((id, ..), name)| Some((*id, name?))));
    }
    found
}
