//! The clients that lease updates, and what each of them has seen.
//!
//! A subscriber gets the difference between what it has and what is. While its channel is full nothing is
//! built for it: rows are compared again later, so it gets the newest figures and no backlog; events wait in
//! the registry's ring, and what falls out of that is counted as `lost`.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::broadcast::{self, error::TryRecvError};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use super::published::PublishedView;
use crate::forward::meter::Counts;
use crate::forward::registry::{RECENT, Record, Registry};
use crate::model::container::Container;
use crate::model::event::{ConnectionState, Event, Side};
use crate::model::id::{ConnectionId, MappingId};
use crate::model::profile::MappingConfig;
use crate::model::untrusted::SafeText;
use crate::model::update::{ConnectionRow, Interest, MappingRow, Overview, Update};

/// Events in one update; more of them make more updates.
const EVENTS_AT_ONCE: usize = 512;
/// How often counters are sampled unless the interest says otherwise.
const SAMPLE: Duration = Duration::from_millis(250);
/// How soon a sample is tried again for a client that has not taken the one before; each time twice as long.
const RETRY: Duration = Duration::from_millis(10);

/// Rows as they are at one moment, made once for all subscribers.
pub(crate) struct Snapshot {
    pub(crate) at_ms: u64,
    pub(crate) overview: Overview,
    pub(crate) mappings: Vec<MappingRow>,
    pub(crate) open: Vec<Arc<Record>>,
    pub(crate) containers: Arc<Vec<Container>>,
    pub(crate) published: Arc<PublishedView>,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Subscriber {
    interest: Interest,
    updates: mpsc::Sender<Update>,
    events: Option<broadcast::Receiver<Arc<Event>>>,
    seq: u64,
    next_sample: Instant,
    /// How soon it is tried again when there is no room.
    retry: Duration,
    overview: Option<Overview>,
    mappings: HashMap<MappingId, Box<MappingRow>>,
    connections: HashMap<ConnectionId, Seen>,
    containers: Arc<Vec<Container>>,
    published: Arc<PublishedView>,
    closed_seen: u64,
    /// A task waits for room in its channel.
    is_waiting: bool,
}

/// What a client knows of a connection.
#[derive(Clone, Debug)]
struct Seen {
    counts: Counts,
    state: (ConnectionState, Option<Side>),
    has_process: bool,
    /// Of its client, as it was told and as it appears to the target, and of its requests.
    identity: (SocketAddr, Option<IpAddr>, u64),
    config: Arc<MappingConfig>,
}

/// Processes of local clients, as far as they were found.
pub(crate) type Processes = HashMap<ConnectionId, SafeText>;

impl Subscriber {
    pub(crate) fn new(interest: Interest, updates: mpsc::Sender<Update>, registry: &Registry) -> Self {
        Self {
            events: interest.events.then(|| registry.listen()),
            interest,
            updates,
            seq: 0,
            next_sample: Instant::now(),
            retry: RETRY,
            overview: None,
            mappings: HashMap::new(),
            connections: HashMap::new(),
            containers: Arc::default(),
            published: Arc::default(),
            closed_seen: 0,
            is_waiting: false,
        }
    }

    /// Whether its lease has ended.
    pub(crate) fn is_gone(&self) -> bool {
        self.updates.is_closed()
    }

    /// When it wants its next sample.
    pub(crate) fn next_sample(&self) -> Instant {
        self.next_sample
    }

    /// There is news that it should not wait for.
    pub(crate) fn hurry(&mut self) {
        self.next_sample = Instant::now();
    }

    /// Whether it looks at single connections.
    pub(crate) fn wants_connections(&self) -> bool {
        self.interest.connections
    }

    /// Whether it asks who the local clients are.
    pub(crate) fn wants_processes(&self) -> bool {
        self.interest.connections && self.interest.processes
    }

    /// Whether it looks at what Docker publishes.
    pub(crate) fn wants_published(&self) -> bool {
        self.interest.published
    }

    /// Sends what changed, if it has room; then it is due again after its interval.
    pub(crate) fn sample(&mut self, now: Instant, snapshot: &Snapshot, registry: &Registry, processes: &Processes) {
        let every = match self.interest.sample_ms {
            0 => SAMPLE,
            ms => Duration::from_millis(ms.max(20)),
        };
        self.next_sample = now + every;
        let sender = self.updates.clone();
        let Ok(permit) = sender.try_reserve() else {
            // A client that is about to take the one before should not wait a whole interval for this one.
            self.next_sample = now + self.retry.min(every);
            self.retry = (self.retry * 2).min(SAMPLE);
            return;
        };
        self.retry = RETRY;
        let mut update = Update { at_ms: snapshot.at_ms, is_full: self.must_be_full(registry), ..Update::default() };
        if update.is_full {
            self.overview = None;
            self.mappings.clear();
            self.connections.clear();
            self.containers = Arc::default();
            self.published = Arc::default();
        }
        if self.overview.as_ref() != Some(&snapshot.overview) {
            update.overview = Some(snapshot.overview.clone());
            self.overview.clone_from(&update.overview);
        }
        if self.interest.mappings {
            self.changed_mappings(snapshot, &mut update);
        }
        if self.interest.connections {
            let none = Processes::new();
            let processes = if self.wants_processes() { processes } else { &none };
            self.changed_connections(snapshot, registry, processes, &mut update);
        }
        if self.interest.published && self.interest.connections {
            snapshot.published.changes(&self.published, &mut update);
        }
        self.published = Arc::clone(&snapshot.published);
        if self.interest.containers {
            self.changed_containers(snapshot, &mut update);
        }
        self.take_events(&mut update);
        let is_news = update.is_full
            || update.overview.is_some()
            || !update.mappings.is_empty()
            || !update.mappings_removed.is_empty()
            || !update.connections.is_empty()
            || !update.connections_removed.is_empty()
            || !update.containers.is_empty()
            || !update.containers_removed.is_empty()
            || !update.events.is_empty()
            || update.lost > 0;
        if is_news {
            self.seq += 1;
            update.seq = self.seq;
            permit.send(update);
        }
    }

    /// At first; and when connections closed unseen and are forgotten already, so that what the client has
    /// cannot be mended row by row.
    fn must_be_full(&self, registry: &Registry) -> bool {
        self.seq == 0 || (self.interest.connections && registry.closed_count() - self.closed_seen > RECENT as u64)
    }

    /// Sends waiting events, without rows. False when it has no room or nothing to send.
    pub(crate) fn flush_events(&mut self, at_ms: u64) -> bool {
        let sender = self.updates.clone();
        let Ok(permit) = sender.try_reserve() else { return false };
        // Whatever the room is used for, who waited for it has come back.
        self.is_waiting = false;
        if self.seq == 0 || !self.has_events() {
            return false;
        }
        let mut update = Update { at_ms, ..Update::default() };
        self.take_events(&mut update);
        self.seq += 1;
        update.seq = self.seq;
        permit.send(update);
        true
    }

    /// Whether events wait for it.
    pub(crate) fn has_events(&self) -> bool {
        self.events.as_ref().is_some_and(|events| !events.is_empty())
    }

    /// Waits until its channel has room again, or it has gone.
    pub(crate) fn room(&self) -> impl Future<Output = ()> + Send + 'static {
        let updates = self.updates.clone();
        async move {
            let _ = updates.reserve().await;
        }
    }

    /// The wait for room, if events wait and nobody waits for it yet.
    pub(crate) fn wait_for_room(&mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let must_wait = self.has_events() && self.seq > 0 && !self.is_waiting;
        self.is_waiting |= must_wait;
        must_wait.then(|| self.room())
    }

    fn take_events(&mut self, update: &mut Update) {
        let Some(events) = &mut self.events else { return };
        while update.events.len() < EVENTS_AT_ONCE {
            match events.try_recv() {
                Ok(event) => update.events.push(Arc::unwrap_or_clone(event)),
                // What was lost lies before what comes next: it must stand in front of its update.
                Err(TryRecvError::Lagged(count)) if update.events.is_empty() => update.lost += count,
                Err(TryRecvError::Lagged(count)) => {
                    update.lost += count;
                    break;
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
    }

    fn changed_mappings(&mut self, snapshot: &Snapshot, update: &mut Update) {
        let published = if self.interest.published { snapshot.published.mappings.as_slice() } else { &[] };
        let rows = || snapshot.mappings.iter().chain(published);
        for row in rows() {
            if self.mappings.get(&row.id).is_none_or(|known| **known != *row) {
                self.mappings.insert(row.id, Box::new(row.clone()));
                update.mappings.push(row.clone());
            }
        }
        if self.mappings.len() != snapshot.mappings.len() + published.len() {
            let present: HashSet<_> = rows().map(|row| row.id).collect();
            update.mappings_removed = self.mappings.keys().filter(|id| !present.contains(id)).copied().collect();
            self.mappings.retain(|id, _| present.contains(id));
        }
    }

    fn changed_containers(&mut self, snapshot: &Snapshot, update: &mut Update) {
        if Arc::ptr_eq(&self.containers, &snapshot.containers) {
            return;
        }
        let before: HashMap<_, _> = self.containers.iter().map(|container| (&container.id, container)).collect();
        let is_new = |container: &&Container| before.get(&container.id) != Some(container);
        update.containers = snapshot.containers.iter().filter(is_new).cloned().collect();
        let now: HashSet<_> = snapshot.containers.iter().map(|container| &container.id).collect();
        update.containers_removed = before.keys().filter(|id| !now.contains(*id)).map(|id| (*id).clone()).collect();
        self.containers = Arc::clone(&snapshot.containers);
    }

    fn changed_connections(
        &mut self,
        snapshot: &Snapshot,
        registry: &Registry,
        processes: &Processes,
        update: &mut Update,
    ) {
        let row =
            |record: &Record| ConnectionRow { process: processes.get(&record.id).cloned(), ..registry.row(record) };
        for record in &snapshot.open {
            let seen = Seen::of(record, processes);
            // It may have closed since the snapshot; then it comes below, once.
            if seen.state.0 != ConnectionState::Closed
                && self.connections.get(&record.id).is_none_or(|old| !old.is_same(&seen))
            {
                self.connections.insert(record.id, seen);
                update.connections.push(row(record));
            }
        }
        let (closed, count) = registry.closed_since(self.closed_seen);
        self.closed_seen = count;
        for record in closed {
            self.connections.remove(&record.id);
            update.connections.push(row(&record));
        }
    }
}

impl Seen {
    fn of(record: &Record, processes: &Processes) -> Self {
        Self {
            counts: record.counters.read(),
            state: record.state(),
            has_process: processes.contains_key(&record.id),
            identity: (record.client(), record.alias(), record.exchanges_version()),
            config: record.mapping.config(),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.counts == other.counts
            && self.state == other.state
            && self.has_process == other.has_process
            && self.identity == other.identity
            && (Arc::ptr_eq(&self.config, &other.config) || self.config.name == other.config.name)
    }
}

#[cfg(test)]
mod tests;
