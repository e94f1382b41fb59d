//! Every connection that is open, and the last ones that closed.
//!
//! A connection enters once by [`Registry::open`] and leaves once: by [`OpenConnection::close`], or, when its
//! task panics or is dropped, as a `fault`. Its events are made only while somebody listens.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};

use super::alias::Aliases;
use super::exchanges::Exchanges;
use super::kill::Kill;
use super::meter::{Counters, Counts, Direction, MappingMeter};
use super::relay::Allowed;
use super::tap::Tap;
use super::udp::{FlowSources, HeldPorts};
use crate::model::event::{CloseReason, Connection, ConnectionState, Event, EventKind, Side, to_the_millisecond};
use crate::model::id::ConnectionId;
use crate::model::mapping::Protocol;
use crate::model::speech::{Conversation, Said};
use crate::model::untrusted::SafeText;
use crate::model::update::ConnectionRow;

/// Closed connections remembered; the oldest gives way.
pub const RECENT: usize = 5_000;
/// Events a subscriber may lag behind before it loses the oldest (and is told how many).
pub const EVENTS: usize = 8_192;

/// All connections of the engine.
#[derive(Debug)]
pub struct Registry {
    /// From which addresses the open UDP flows speak.
    pub(super) flow_sources: Arc<FlowSources>,
    /// As which addresses clients appear to their targets.
    pub(super) aliases: Arc<Aliases>,
    /// Of UDP flows that have ended.
    pub(super) held_ports: Arc<HeldPorts>,
    started: Instant,
    started_at: Timestamp,
    next_id: AtomicU64,
    open: Mutex<HashMap<ConnectionId, Arc<Record>>>,
    recent: Mutex<Recent>,
    events: broadcast::Sender<Arc<Event>>,
    events_wait: Notify,
    /// The first id of the connections that were young when [`Registry::note_lasting`] was last called, and the first
    /// of those to come then.
    young: Mutex<(u64, u64)>,
}

/// The last closed connections and how many ever closed.
#[derive(Debug, Default)]
struct Recent {
    records: VecDeque<Arc<Record>>,
    closed: u64,
}

/// One connection or flow, as its task writes it and anybody may read it.
#[derive(Debug)]
pub struct Record {
    /// Which.
    pub id: ConnectionId,
    /// Its mapping.
    pub mapping: Arc<MappingMeter>,
    /// The other end of the client's socket: the client, or a proxy in front of us.
    pub peer: SocketAddr,
    /// The address of ours that it dialled.
    pub listener: SocketAddr,
    /// The target as written, with this connection's port.
    pub target: Arc<str>,
    /// What it carried.
    pub counters: Counters,
    /// Why its bytes are copied, if they are to be ([`COPY_ONLY`], [`TAPPED`]): one figure, since each step asks.
    copied_for: AtomicU8,
    is_lasting: AtomicBool,
    /// Its event has been told.
    is_announced: AtomicBool,
    tap: Mutex<Option<Arc<dyn Tap>>>,
    /// Said when the connection is to be reset.
    pub(super) kill: Kill,
    protocol: Protocol,
    opened: Instant,
    opened_at: Timestamp,
    /// Our address towards the target, and the target's.
    target_leg: Mutex<Option<(SocketAddr, SocketAddr)>>,
    state: AtomicU8,
    /// What the client and the target have said first.
    said: [OnceLock<Said>; 2],
    /// Who the client is and what it dialled, where a PROXY header told it. Apart, since few have one.
    told: OnceLock<Box<(SocketAddr, SocketAddr)>>,
    /// As which address the client appears to the target.
    alias: OnceLock<IpAddr>,
    /// Its HTTP requests, where they are looked for.
    exchanges: OnceLock<Box<Exchanges>>,
    /// Apart, since those that stand have none.
    end: OnceLock<Box<End>>,
}

#[derive(Debug)]
struct End {
    at: Instant,
    reason: CloseReason,
    error: Option<SafeText>,
}

/// The right to say how a connection goes on and that it has ended. Dropped unclosed, it was a fault.
#[derive(Debug)]
pub struct OpenConnection {
    registry: Arc<Registry>,
    record: Arc<Record>,
}

impl Registry {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        let (events, _) = broadcast::channel(EVENTS);
        Arc::new(Self {
            flow_sources: Arc::default(),
            aliases: Arc::default(),
            held_ports: Arc::default(),
            started: Instant::now(),
            started_at: Timestamp::now(),
            next_id: AtomicU64::new(1),
            open: Mutex::default(),
            recent: Mutex::default(),
            events,
            events_wait: Notify::new(),
            young: Mutex::new((1, 1)),
        })
    }

    /// The aliases that connections have.
    pub fn aliases(&self) -> &Arc<Aliases> {
        &self.aliases
    }

    /// Steady milliseconds since the engine started.
    pub fn now_ms(&self) -> u64 {
        self.since_start(Instant::now())
    }

    /// A client was accepted (TCP) or sent the first datagram of a flow (UDP).
    /// `target` is the target as written, with this connection's port.
    pub fn open(
        self: &Arc<Self>,
        mapping: &Arc<MappingMeter>,
        protocol: Protocol,
        client: SocketAddr,
        listener: SocketAddr,
        target: Arc<str>,
    ) -> OpenConnection {
        let connection = self.enter(mapping, protocol, client, listener, target);
        connection.announce();
        connection
    }

    /// As [`Registry::open`], of a peer that is yet to say who the client is: nobody is told of it before
    /// [`OpenConnection::announce`], or its end.
    pub fn enter(
        self: &Arc<Self>,
        mapping: &Arc<MappingMeter>,
        protocol: Protocol,
        peer: SocketAddr,
        listener: SocketAddr,
        target: Arc<str>,
    ) -> OpenConnection {
        let record = Arc::new(Record {
            id: ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed)),
            mapping: Arc::clone(mapping),
            peer,
            listener,
            target,
            counters: Counters::default(),
            copied_for: AtomicU8::new(0),
            is_lasting: AtomicBool::new(false),
            is_announced: AtomicBool::new(false),
            tap: Mutex::default(),
            kill: Kill::default(),
            protocol,
            opened: Instant::now(),
            opened_at: to_the_millisecond(Timestamp::now()),
            target_leg: Mutex::new(None),
            state: AtomicU8::new(0),
            said: Default::default(),
            told: OnceLock::new(),
            alias: OnceLock::new(),
            exchanges: OnceLock::new(),
            end: OnceLock::new(),
        });
        mapping.tally(|tally| {
            tally.open += 1;
            tally.total += 1;
        });
        lock(&self.open).insert(record.id, Arc::clone(&record));
        OpenConnection { registry: Arc::clone(self), record }
    }

    /// Names a connection to others, as no connection of an earlier engine was named: `portolan-`, when this engine
    /// started (microseconds of Unix time, in hexadecimal), `-`, and the id that events have.
    pub fn unique_id(&self, id: ConnectionId) -> String {
        format!("portolan-{:x}-{}", self.started_at.as_microsecond(), id.0)
    }

    /// Every open connection, in no order.
    pub fn open_connections(&self) -> Vec<Arc<Record>> {
        lock(&self.open).values().cloned().collect()
    }

    /// How many connections are open.
    pub fn open_count(&self) -> u64 {
        lock(&self.open).len() as u64
    }

    /// How many connections there have ever been.
    pub fn opened_count(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed) - 1
    }

    /// How many connections ever closed.
    pub fn closed_count(&self) -> u64 {
        lock(&self.recent).closed
    }

    /// Those of the last [`RECENT`] closed ones that closed after the first `seen`, oldest first, and how many
    /// ever closed: `seen` of the next call.
    pub fn closed_since(&self, seen: u64) -> (Vec<Arc<Record>>, u64) {
        let recent = lock(&self.recent);
        let new = usize::try_from(recent.closed.saturating_sub(seen)).unwrap_or(usize::MAX);
        let skip = recent.records.len().saturating_sub(new);
        (recent.records.iter().skip(skip).cloned().collect(), recent.closed)
    }

    /// Notes of the connections that have been open since the last call but one that they last: see
    /// [`Record::is_lasting`]. To be called in steady intervals.
    pub(super) fn note_lasting(&self) {
        let next = self.next_id.load(Ordering::Relaxed);
        let was_young = {
            let mut young = lock(&self.young);
            let (first, end) = *young;
            *young = (end, next);
            first..end
        };
        let lasting: Vec<_> = {
            let open = lock(&self.open);
            // Whichever are fewer are gone through.
            if was_young.end - was_young.start < open.len() as u64 {
                was_young.filter_map(|id| open.get(&ConnectionId(id)).cloned()).collect()
            } else {
                open.values().filter(|record| was_young.contains(&record.id.0)).cloned().collect()
            }
        };
        // Datagrams know no keepalive.
        for record in lasting.into_iter().filter(|record| record.protocol != Protocol::Udp) {
            record.is_lasting.store(true, Ordering::Relaxed);
            record.kill.nudge();
        }
    }

    /// Resets an open connection; false when there is none of that id.
    pub fn kill(&self, id: ConnectionId, reason: CloseReason) -> bool {
        let record = lock(&self.open).get(&id).cloned();
        record.is_some_and(|record| {
            record.kill(reason);
            true
        })
    }

    /// Resets every open connection that `which` picks.
    pub fn kill_where(&self, reason: CloseReason, which: impl Fn(&Record) -> bool) {
        let records: Vec<_> = lock(&self.open).values().filter(|record| which(record)).cloned().collect();
        for record in records {
            record.kill(reason);
        }
    }

    /// Totals of a mapping, open connections included.
    pub fn totals(&self, mapping: &Arc<MappingMeter>) -> Counts {
        self.totals_of(std::slice::from_ref(mapping)).pop().unwrap_or_default()
    }

    /// Totals of each of `mappings`, open connections included, in one pass.
    pub fn totals_of(&self, mappings: &[Arc<MappingMeter>]) -> Vec<Counts> {
        // The lock order is open, then tally, as in `close`, so nothing is counted twice or missed.
        let open = lock(&self.open);
        let index: HashMap<_, _> = mappings.iter().enumerate().map(|(at, meter)| (meter.id(), at)).collect();
        let mut sums: Vec<_> = mappings.iter().map(|meter| meter.tally(|tally| tally.closed)).collect();
        for record in open.values() {
            if let Some(&at) = index.get(&record.mapping.id()) {
                sums[at].add(record.counters.read());
            }
        }
        sums
    }

    /// Publishes an event, if anybody listens.
    pub fn tell(&self, make: impl FnOnce() -> EventKind) {
        if self.events.receiver_count() > 0 {
            // An error means that the last listener has just left.
            let _ = self.events.send(Arc::new(Event::new(Timestamp::now(), make())));
            self.events_wait.notify_one();
        }
    }

    /// Listens to events from now on; see [`EVENTS`] for what happens to a slow listener.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    /// Waits until something was told since the last call. For one waiter: the service.
    pub async fn event_told(&self) {
        self.events_wait.notified().await;
    }

    /// Ends the wait of [`Registry::event_told`]: events that waited for room can go now.
    pub fn wake(&self) {
        self.events_wait.notify_one();
    }

    /// A moment in the clock of [`Registry::now_ms`].
    pub fn since_start(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// The row that clients see.
    pub fn row(&self, record: &Record) -> ConnectionRow {
        ConnectionRow {
            mapping_id: record.mapping.id(),
            opened_at_ms: self.since_start(record.opened),
            closed_at_ms: record.end.get().map(|end| self.since_start(end.at)),
            process: None,
            observed: None,
            exchanges: record.exchanges.get().map(|exchanges| exchanges.latest()).unwrap_or_default(),
            exchanges_end: record.exchanges.get().and_then(|exchanges| exchanges.end()),
            connection: record.connection(),
        }
    }

    fn announce(&self, record: &Record) {
        if !record.is_announced.swap(true, Ordering::Relaxed) {
            self.tell(|| EventKind::Opened { connection: record.connection() });
        }
    }

    fn close(&self, record: &Arc<Record>, reason: CloseReason, error: Option<SafeText>) {
        self.announce(record);
        if record.end.set(Box::new(End { at: Instant::now(), reason, error })).is_err() {
            return;
        }
        record.state.store(CLOSED, Ordering::Relaxed);
        record.kill.forget();
        {
            let mut open = lock(&self.open);
            record.mapping.tally(|tally| {
                tally.close(reason, record.counters.read());
                tally.remember(record.conversation());
            });
            open.remove(&record.id);
        }
        {
            let mut recent = lock(&self.recent);
            if recent.records.len() == RECENT {
                recent.records.pop_front();
            }
            recent.records.push_back(Arc::clone(record));
            recent.closed += 1;
        }
        self.tell(|| EventKind::Closed { connection: record.connection() });
    }
}

impl OpenConnection {
    /// What is written about it.
    pub fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// From which addresses the open flows speak.
    pub(super) fn flow_sources(&self) -> &Arc<FlowSources> {
        &self.registry.flow_sources
    }

    /// Names it to others: see [`Registry::unique_id`].
    pub fn unique_id(&self) -> String {
        self.registry.unique_id(self.record.id)
    }

    /// It is known who the client is: those who listen are told that it is open.
    pub fn announce(&self) {
        self.registry.announce(&self.record);
    }

    /// Both legs stand.
    pub fn connected(&self, source: SocketAddr, target: SocketAddr) {
        self.record.redialled(source, target);
        self.set_state(ConnectionState::Open, None);
    }

    /// A new state; `side` says who has finished sending when it is half-closed.
    pub fn set_state(&self, state: ConnectionState, side: Option<Side>) {
        let code = match (state, side) {
            (ConnectionState::Connecting, _) => 0,
            (ConnectionState::Open, _) => 1,
            (ConnectionState::HalfClosed, Some(Side::Target)) => 3,
            (ConnectionState::HalfClosed, _) => 2,
            (ConnectionState::Closing, _) => 4,
            (ConnectionState::Closed, _) => CLOSED,
        };
        self.record.state.store(code, Ordering::Relaxed);
    }

    /// It has ended. Call after its sockets are closed and its last byte is counted.
    pub fn close(self, reason: CloseReason, error: Option<SafeText>) {
        self.registry.close(&self.record, reason, error);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        // Does nothing after `close`.
        let reason = self.record.kill_reason().unwrap_or(CloseReason::Fault);
        let error = std::thread::panicking().then(|| SafeText::new("its task panicked"));
        self.registry.close(&self.record, reason, error);
    }
}

const CLOSED: u8 = 5;

/// Somebody has asked for copying.
const COPY_ONLY: u8 = 1;
/// Somebody sees the bytes.
const TAPPED: u8 = 2;

impl Record {
    /// A PROXY header has told who the client is, and what it dialled at whoever sent the header.
    pub fn tell_client(&self, client: SocketAddr, dialled: SocketAddr) {
        let _ = self.told.set(Box::new((client, dialled)));
    }

    /// Whether a PROXY header has told who the client is.
    pub fn is_client_told(&self) -> bool {
        self.told.get().is_some()
    }

    /// The client: as it was told, else the peer.
    pub fn client(&self) -> SocketAddr {
        self.told.get().map_or(self.peer, |told| told.0)
    }

    /// What the client dialled: as it was told, else our address.
    pub fn dialled(&self) -> SocketAddr {
        self.told.get().map_or(self.listener, |told| told.1)
    }

    /// The target's leg is another: the one before had ended between two requests.
    pub(super) fn redialled(&self, source: SocketAddr, target: SocketAddr) {
        *lock(&self.target_leg) = Some((source, target));
    }

    /// As which address the client appears to the target from now on.
    pub fn set_alias(&self, alias: IpAddr) {
        let _ = self.alias.set(alias);
    }

    /// As which address the client appears to the target, if not as this host.
    pub fn alias(&self) -> Option<IpAddr> {
        self.alias.get().copied()
    }

    /// Its HTTP requests; from the first call on, they are listed.
    pub fn exchanges(&self) -> &Exchanges {
        self.exchanges.get_or_init(Box::default)
    }

    /// A figure that is another when its HTTP requests have changed.
    pub fn exchanges_version(&self) -> u64 {
        self.exchanges.get().map_or(0, |exchanges| exchanges.version())
    }

    /// Asks its task to reset it; the first reason stays.
    pub fn kill(&self, reason: CloseReason) {
        self.kill.say(reason);
    }

    /// Whether it has been open for some seconds. Its task is woken when this becomes true.
    pub(super) fn is_lasting(&self) -> bool {
        self.is_lasting.load(Ordering::Relaxed)
    }

    /// Why it was to be reset.
    pub fn kill_reason(&self) -> Option<CloseReason> {
        self.kill.reason()
    }

    /// One side has said something for the first time.
    pub fn heard(&self, direction: Direction, said: Said) {
        let _ = self.said[usize::from(direction == Direction::Out)].set(said);
    }

    /// What both sides have said first; `None` while the client has said nothing, or the target may yet answer.
    pub fn conversation(&self) -> Option<Conversation> {
        let [client, target] = [&self.said[0], &self.said[1]].map(|said| said.get().copied());
        let is_over = target.is_some() || self.end.get().is_some();
        (client.is_some() && is_over).then_some(Conversation { client, target })
    }

    /// Has its bytes copied through user memory from its next step on, or moved as suits them again.
    pub fn copy_only(&self, is_wanted: bool) {
        self.copy_for(COPY_ONLY, is_wanted);
    }

    /// Shows its bytes to `tap` from its next step on, or to nobody any more. What has gone into the kernel before, and
    /// has not come out of it yet, is not seen.
    pub fn tap(&self, tap: Option<Arc<dyn Tap>>) {
        let is_wanted = tap.is_some();
        *lock(&self.tap) = tap;
        self.copy_for(TAPPED, is_wanted);
    }

    /// Who sees its bytes now, of those that are copied.
    pub(super) fn tapped(&self) -> Option<Arc<dyn Tap>> {
        lock(&self.tap).clone()
    }

    /// Which paths its relay may take now.
    pub(super) fn allowed_path(&self) -> Allowed {
        if self.copied_for.load(Ordering::Relaxed) == 0 { Allowed::Any } else { Allowed::Copy }
    }

    fn copy_for(&self, reason: u8, is_wanted: bool) {
        if is_wanted {
            self.copied_for.fetch_or(reason, Ordering::Relaxed);
        } else {
            self.copied_for.fetch_and(!reason, Ordering::Relaxed);
        }
    }

    /// Our address towards the target, once connected.
    pub fn source(&self) -> Option<SocketAddr> {
        lock(&self.target_leg).map(|leg| leg.0)
    }

    /// Its protocol.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// State now, and who has finished sending.
    pub fn state(&self) -> (ConnectionState, Option<Side>) {
        match self.state.load(Ordering::Relaxed) {
            0 => (ConnectionState::Connecting, None),
            1 => (ConnectionState::Open, None),
            2 => (ConnectionState::HalfClosed, Some(Side::Client)),
            3 => (ConnectionState::HalfClosed, Some(Side::Target)),
            4 => (ConnectionState::Closing, None),
            _ => (ConnectionState::Closed, None),
        }
    }

    /// As the event stream shows it now.
    pub fn connection(&self) -> Connection {
        let end = self.end.get();
        let counts = self.counters.read();
        let (state, closed_side) = self.state();
        let udp = self.protocol == Protocol::Udp;
        let target_leg = *lock(&self.target_leg);
        let age = end.map_or_else(|| self.opened.elapsed(), |end| end.at.saturating_duration_since(self.opened));
        Connection {
            id: self.id,
            mapping: self.mapping.config().name.clone(),
            protocol: self.protocol,
            client: self.client(),
            peer: self.told.get().map(|_| self.peer),
            alias: self.alias(),
            listener: self.listener,
            source: target_leg.map(|leg| leg.0),
            target: self.target.to_string(),
            target_address: target_leg.map(|leg| leg.1),
            state,
            closed_side,
            opened_at: self.opened_at,
            duration_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            datagrams_in: udp.then_some(counts.datagrams_in),
            datagrams_out: udp.then_some(counts.datagrams_out),
            requests: self.exchanges.get().map(|exchanges| exchanges.total()),
            reason: end.map(|end| end.reason),
            error: end.and_then(|end| end.error.clone()),
        }
    }
}

impl Counts {
    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.datagrams_in += other.datagrams_in;
        self.datagrams_out += other.datagrams_out;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
