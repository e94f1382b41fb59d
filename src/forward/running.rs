//! One mapping as it runs: a task that owns its listeners, binds and rebinds them, and publishes its status.
//!
//! Desired state comes in as commands and as addresses; nothing here knows of other mappings, so changing one
//! cannot disturb another.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::context::{Addresses, ListenerContext, Route};
use super::descriptors::DescriptorPermit;
use super::engine::{Notice, Shared};
use super::listen::{self, Bound, BoundSocket, Wanted};
use super::meter::MappingMeter;
use super::status::{Facts, FamilyState, ListenError, ListenerStatus, MappingStatus, derive};
use super::tcp::listener::Listener;
use super::tcp::{ListenerEvent, MappingLinks, listener};
use super::{sys, udp};
use crate::model::event::{CloseReason, MappingState};
use crate::model::id::MappingId;
use crate::model::mapping::{Family, HostPort, Protocol};
use crate::model::profile::MappingConfig;

/// Listeners may tell so much before they are heard; more of the same is of no use.
const EVENTS: usize = 16;
/// First and longest pause before a family that could not be bound is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How often closing asks again that every connection end.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// What a mapping is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Be this.
    Apply(Arc<MappingConfig>, Addresses, oneshot::Sender<MappingStatus>),
    /// Close everything and reset every connection.
    Remove(oneshot::Sender<()>),
    /// Close listeners, let connections go on until the moment given, then reset the rest.
    Shutdown(Instant),
}

/// What a mapping's task and the engine share.
#[derive(Debug)]
pub(super) struct MappingHandle {
    /// Where the target is; `None` until first told.
    pub(super) addresses: watch::Sender<Option<Addresses>>,
    /// As last published.
    pub(super) status: Mutex<MappingStatus>,
}

/// A mapping's task.
pub(super) struct Running {
    id: MappingId,
    shared: Arc<Shared>,
    handle: Arc<MappingHandle>,
    links: Arc<MappingLinks>,
    events: mpsc::Receiver<ListenerEvent>,
    config: Arc<MappingConfig>,
    addresses: Addresses,
    meter: Arc<MappingMeter>,
    route: watch::Sender<Arc<Route>>,
    families: Vec<FamilyListeners>,
    /// The listeners' tasks; those of closed listeners go on while they have connections.
    tasks: JoinSet<()>,
    self_forwarding: Option<String>,
    retry: Option<Retry>,
}

#[derive(Debug)]
struct FamilyListeners {
    wanted: Wanted,
    /// By port: all that are wanted, or none.
    sockets: BTreeMap<u16, Listening>,
    error: Option<ListenError>,
}

/// A socket in the hands of its task.
#[derive(Debug)]
struct Listening {
    drain: CancellationToken,
    /// Ends when the socket is closed.
    closed: oneshot::Receiver<()>,
    _descriptor: Option<DescriptorPermit>,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    pause: Duration,
}

impl Running {
    /// A mapping that does not listen yet, and how to reach it.
    pub(super) fn new(
        id: MappingId,
        config: Arc<MappingConfig>,
        addresses: Addresses,
        shared: Arc<Shared>,
    ) -> (Self, Arc<MappingHandle>) {
        let meter = MappingMeter::new(id, Arc::clone(&config));
        let status = MappingStatus {
            id,
            config: Arc::clone(&config),
            state: MappingState::Starting,
            reason: None,
            listeners: Vec::new(),
            addresses: addresses.clone(),
            meter: Arc::clone(&meter),
        };
        let handle = Arc::new(MappingHandle { addresses: watch::Sender::new(None), status: Mutex::new(status) });
        let (events_in, events) = mpsc::channel(EVENTS);
        let links = MappingLinks::new(Arc::clone(&shared.own), events_in, shared.notices.clone(), shared.hook);
        let route = Route { config: Arc::clone(&config), addresses: addresses.clone() };
        let running = Self {
            id,
            links,
            events,
            config,
            addresses,
            meter,
            route: watch::Sender::new(Arc::new(route)),
            families: Vec::new(),
            tasks: JoinSet::new(),
            self_forwarding: None,
            retry: None,
            handle: Arc::clone(&handle),
            shared,
        };
        (running, handle)
    }

    /// Runs until removed, shut down or forgotten by the engine.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let links = Arc::clone(&self.links);
        let mut addresses = self.handle.addresses.subscribe();
        loop {
            let retry_at = self.retry.map(|retry| retry.at);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Apply(config, at, reply)) => {
                        addresses.mark_unchanged();
                        self.apply(config, at).await;
                        // An engine that no longer waits for the answer still sees the status.
                        let _ = reply.send(self.publish(false));
                    }
                    Some(Command::Remove(reply)) => {
                        self.remove().await;
                        let _ = reply.send(());
                        return;
                    }
                    Some(Command::Shutdown(deadline)) => return self.shut_down(deadline).await,
                    None => return self.remove().await,
                },
                Ok(()) = addresses.changed() => {
                    let now = addresses.borrow_and_update().clone();
                    if let Some(now) = now.filter(|now| *now != self.addresses) {
                        self.readdress(now).await;
                        self.publish(true);
                    }
                }
                Some(event) = self.events.recv() => {
                    self.heed(event).await;
                    self.publish(true);
                }
                () = links.pressure.changed() => {
                    self.publish(true);
                }
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    self.bind_missing().await;
                    self.publish(true);
                }
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(mapping = %self.config.name, %error, "the task of a listener has panicked");
                    }
                    if self.give_up_broken("the listening socket has failed").await {
                        self.publish(true);
                    }
                }
            }
        }
    }

    async fn apply(&mut self, config: Arc<MappingConfig>, addresses: Addresses) {
        let (protocol, before) = (config.mapping.protocol, self.config.mapping.protocol);
        let wanted = if config.enabled { listen::wanted(&config.mapping.listen) } else { Vec::new() };
        let mut old = std::mem::take(&mut self.families);
        self.families = wanted
            .into_iter()
            .map(|wanted| {
                let mut sockets = BTreeMap::new();
                // What stays as it is stays open, whatever else changes.
                if let Some(old) = old.iter_mut().find(|old| protocol == before && old.wanted.ip == wanted.ip) {
                    let auto = old.wanted.port == HostPort::Auto && wanted.port == HostPort::Auto;
                    let stays = |port: &u16| auto || wanted.covers(*port);
                    let (kept, gone) = std::mem::take(&mut old.sockets).into_iter().partition(|(port, _)| stays(port));
                    (sockets, old.sockets) = (kept, gone);
                }
                FamilyListeners { wanted, sockets, error: None }
            })
            .collect();
        self.close(old.into_iter().map(|family| (family.wanted.family, family.sockets)).collect(), true).await;

        self.meter.set_config(Arc::clone(&config));
        self.config = config;
        self.retry = None;
        self.readdress(addresses).await;
    }

    /// The target is elsewhere, or the route has changed otherwise.
    async fn readdress(&mut self, addresses: Addresses) {
        self.self_forwarding = None;
        self.addresses = addresses;
        let route = Route { config: Arc::clone(&self.config), addresses: self.addresses.clone() };
        self.route.send_replace(Arc::new(route));
        if self.listens() {
            self.bind_missing().await;
        } else {
            self.close_all().await;
        }
    }

    /// Whether there is anything to listen for.
    fn listens(&self) -> bool {
        let refused = matches!(self.addresses, Addresses::Refused { .. });
        self.config.enabled && !refused && self.self_forwarding.is_none()
    }

    async fn heed(&mut self, event: ListenerEvent) {
        match event {
            ListenerEvent::Broken(text) => {
                self.give_up_broken(&text).await;
            }
            ListenerEvent::SelfForwarding(way) => {
                // A late word of a circle that is closed already.
                if self.self_forwarding.is_some() || !self.listens() {
                    return;
                }
                tracing::warn!(mapping = %self.config.name, way, "the mapping forwards to itself");
                self.self_forwarding = Some(way);
                self.retry = None;
                self.close_all().await;
                let _ = self.shared.notices.try_send(Notice::SelfForwarding(self.id));
            }
        }
    }
}

// Binding and closing.
impl Running {
    /// Binds what is wanted and not bound; arranges for another try if some of it fails.
    async fn bind_missing(&mut self) {
        let protocol = self.config.mapping.protocol;
        let missing: u64 = self.families.iter().map(FamilyListeners::missing).sum();
        if missing > 0 {
            match self.shared.descriptors.require(missing) {
                Ok(permit) => self.bind_with(protocol, permit).await,
                Err(shortage) => {
                    for family in self.families.iter_mut().filter(|family| family.missing() > 0) {
                        family.error = Some(shortage.clone().into());
                    }
                }
            }
        }
        self.drain_partial().await;
        let failed = self.families.iter().any(|family| matches!(family.state(), FamilyState::NotBound(_)));
        self.retry = failed.then(|| {
            let pause = self.retry.map_or(RETRY.0, |retry| (retry.pause * 2).min(RETRY.1));
            Retry { at: Instant::now() + pause, pause }
        });
    }

    async fn bind_with(&mut self, protocol: Protocol, mut permit: DescriptorPermit) {
        let chosen = self.families.iter().find_map(FamilyListeners::chosen);
        let is_auto = |family: &FamilyListeners| family.wanted.port == HostPort::Auto;
        let mut results: Vec<(usize, Result<Vec<Bound>, ListenError>)> = Vec::new();
        if chosen.is_none() && self.families.iter().all(is_auto) {
            let wanted: Vec<_> = self.families.iter().map(|family| family.wanted.clone()).collect();
            let bound = listen::bind_auto(protocol, &wanted).into_iter();
            results.extend(bound.map(|result| result.map(|bound| vec![bound])).enumerate());
        } else {
            for (at, family) in self.families.iter().enumerate().filter(|(_, family)| family.missing() > 0) {
                let ports = family.ports(chosen).filter(|port| !family.sockets.contains_key(port));
                results.push((at, listen::bind_all(protocol, &family.wanted, ports).await));
            }
        }
        for (at, result) in results {
            let served = result.and_then(|bound| {
                let serve = |bound: Bound| Ok((bound.address.port(), self.serve(bound, permit.split_one())?));
                bound.into_iter().map(serve).collect::<Result<Vec<_>, ListenError>>()
            });
            let family = &mut self.families[at];
            match served {
                Ok(served) => {
                    family.sockets.extend(served);
                    family.error = None;
                }
                Err(error) => family.error = Some(error),
            }
        }
    }

    /// Starts the task of a bound socket.
    fn serve(&mut self, bound: Bound, descriptor: Option<DescriptorPermit>) -> Result<Listening, ListenError> {
        let address = bound.address;
        let drain = CancellationToken::new();
        let (closing, closed) = oneshot::channel();
        let context = ListenerContext {
            meter: Arc::clone(&self.meter),
            registry: Arc::clone(&self.shared.registry),
            route: self.route.subscribe(),
            port: address.port(),
            descriptors: Arc::clone(&self.shared.descriptors),
            drain: drain.clone(),
        };
        match bound.socket {
            BoundSocket::Stream(fd) => {
                let fd = sys::register(fd).map_err(|error| ListenError::Other { address, error: error.to_string() })?;
                let protocol = self.config.mapping.protocol;
                let listener = Listener { fd, bound: address, protocol, closed: closing };
                self.tasks.spawn(listener::run(listener, context, Arc::clone(&self.links)));
            }
            BoundSocket::Datagram(socket) => {
                let events = self.links.events.clone();
                self.tasks.spawn(async move {
                    let result = udp::serve(socket, context).await;
                    drop(closing);
                    if let Err(error) = result {
                        let text = format!("the listening socket on {address} has failed: {error}");
                        // When the queue is full, the end of this task tells it with less to say.
                        let _ = events.try_send(ListenerEvent::Broken(text));
                    }
                });
            }
        }
        Ok(Listening { drain, closed, _descriptor: descriptor })
    }

    /// A family binds whole or not at all: where some of it failed, the rest no longer listens either. Its
    /// connections go on, since an edit that fails should cost none.
    async fn drain_partial(&mut self) {
        let mut gone = Vec::new();
        for family in &mut self.families {
            if family.error.is_some() {
                gone.push((family.wanted.family, std::mem::take(&mut family.sockets)));
            }
        }
        self.close(gone, false).await;
    }

    /// Takes families with a closed socket for broken. True when there was one.
    async fn give_up_broken(&mut self, text: &str) -> bool {
        let mut found = false;
        for family in &mut self.families {
            let is_closed = |listening: &mut Listening| {
                matches!(listening.closed.try_recv(), Err(oneshot::error::TryRecvError::Closed))
            };
            if family.sockets.values_mut().any(is_closed) {
                family.error = Some(ListenError::Broken(text.to_owned()));
                found = true;
            }
        }
        if found {
            self.drain_partial().await;
            let at = Instant::now() + RETRY.0;
            self.retry.get_or_insert(Retry { at, pause: RETRY.0 });
        }
        found
    }

    async fn close_all(&mut self) {
        let families = self.families.iter_mut();
        let all = families.map(|family| (family.wanted.family, std::mem::take(&mut family.sockets))).collect();
        self.retry = None;
        self.close(all, true).await;
    }

    /// Closes sockets; with `kill`, resets their connections too. Returns when the addresses are free.
    async fn close(&mut self, families: Vec<(Family, BTreeMap<u16, Listening>)>, kill: bool) {
        let ports: HashSet<_> =
            families.iter().flat_map(|(family, sockets)| sockets.keys().map(|port| (*family, *port))).collect();
        if ports.is_empty() {
            return;
        }
        // The flows of a UDP socket live on it and cannot outlast it.
        let kill = kill || self.config.mapping.protocol == Protocol::Udp;
        let mut sockets: Vec<_> = families.into_iter().flat_map(|(_, sockets)| sockets.into_values()).collect();
        for listening in &sockets {
            listening.drain.cancel();
        }
        let id = self.id;
        let registry = Arc::clone(&self.shared.registry);
        let reset = || {
            if kill {
                registry.kill_where(CloseReason::MappingRemoved, |record| {
                    let at = record.listener;
                    record.mapping.id() == id && ports.contains(&(Family::of(at.ip()), at.port()))
                });
            }
        };
        let mut all_closed = std::pin::pin!(async {
            for listening in &mut sockets {
                // An error is what is waited for: the other end was dropped with the socket.
                let _ = (&mut listening.closed).await;
            }
        });
        reset();
        while timeout(ASK_AGAIN, &mut all_closed).await.is_err() {
            reset();
        }
        // Nobody can come any more, so this finds the last ones.
        reset();
    }

    async fn remove(&mut self) {
        self.close_all().await;
        self.end_tasks(CloseReason::MappingRemoved).await;
    }

    async fn shut_down(&mut self, deadline: Instant) {
        for family in &self.families {
            for listening in family.sockets.values() {
                listening.drain.cancel();
            }
        }
        tokio::select! {
            () = sleep_until(deadline) => {}
            () = async { while self.tasks.join_next().await.is_some() {} } => return,
        }
        self.end_tasks(CloseReason::Shutdown).await;
    }

    /// Resets what is left of this mapping and joins every task.
    async fn end_tasks(&mut self, reason: CloseReason) {
        loop {
            self.shared.registry.kill_where(reason, |record| record.mapping.id() == self.id);
            tokio::select! {
                ended = self.tasks.join_next() => if ended.is_none() { return },
                () = sleep(ASK_AGAIN) => {}
            }
        }
    }
}

// Telling.
impl Running {
    /// Brings the published status up to date; with `tell`, a change is told to the engine's owner.
    fn publish(&mut self, tell: bool) -> MappingStatus {
        let families: Vec<_> = self.families.iter().map(FamilyListeners::state).collect();
        let (state, reason) = derive(&Facts {
            enabled: self.config.enabled,
            families: &families,
            addresses: &self.addresses,
            self_forwarding: self.self_forwarding.as_deref(),
            limit: self.links.pressure.bites(),
        });
        let status = MappingStatus {
            id: self.id,
            config: Arc::clone(&self.config),
            state,
            reason,
            listeners: self.families.iter().filter_map(FamilyListeners::status).collect(),
            addresses: self.addresses.clone(),
            meter: Arc::clone(&self.meter),
        };
        let before =
            std::mem::replace(&mut *self.handle.status.lock().unwrap_or_else(PoisonError::into_inner), status.clone());
        if tell && status.differs(&before) {
            // A reader that is behind sees the change in the next `Engine::status`.
            let _ = self.shared.notices.try_send(Notice::Changed(status.clone()));
        }
        status
    }
}

impl FamilyListeners {
    /// Sockets that are wanted and not bound.
    fn missing(&self) -> u64 {
        let all = match self.wanted.port {
            HostPort::Auto => 1,
            HostPort::Ports(range) => u64::from(range.count()),
        };
        all.saturating_sub(self.sockets.len() as u64)
    }

    /// The number that `auto` took.
    fn chosen(&self) -> Option<u16> {
        (self.wanted.port == HostPort::Auto).then(|| self.sockets.keys().next().copied())?
    }

    fn ports(&self, chosen: Option<u16>) -> impl Iterator<Item = u16> + use<> {
        match self.wanted.port {
            HostPort::Auto => {
                let port = chosen.unwrap_or(0);
                port..=port
            }
            HostPort::Ports(range) => range.first()..=range.last(),
        }
    }

    fn state(&self) -> FamilyState {
        match &self.error {
            Some(error) if self.wanted.is_absent(error) => FamilyState::Absent,
            Some(error) => FamilyState::NotBound(error.clone()),
            None => FamilyState::Bound,
        }
    }

    fn status(&self) -> Option<ListenerStatus> {
        let error = match self.state() {
            FamilyState::Absent => return None,
            FamilyState::NotBound(error) => Some(error),
            FamilyState::Bound => None,
        };
        let first = self.sockets.keys().next().copied();
        Some(ListenerStatus {
            family: self.wanted.family,
            wanted: self.wanted.text(first),
            bound: first.and_then(|port| self.wanted.address(port).ok()),
            error,
        })
    }
}
