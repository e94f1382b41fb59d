//! One mapping as it runs: a task that owns its listeners, binds and rebinds them, and publishes its status.
//!
//! Desired state comes in as commands and as addresses; nothing here knows of other mappings, so changing one
//! cannot disturb another.

mod binding;

use self::binding::Reset;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::context::{Addresses, Route};
use super::descriptors::DescriptorPermit;
use super::engine::{Notice, Shared};
use super::handed::Lease;
use super::listen::{self, Wanted};
use super::meter::MappingMeter;
use super::status::{Facts, FamilyState, ListenError, ListenerStatus, MappingStatus, derive};
use super::tcp::{ListenerEvent, MappingLinks};
use crate::model::event::MappingState;
use crate::model::id::MappingId;
use crate::model::mapping::{Family, HostPort};
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
    /// Panic: for the test of what happens then.
    #[cfg(test)]
    Panic,
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
    events: mpsc::Receiver<Box<ListenerEvent>>,
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
    /// Given back when the socket is closed.
    _lease: Option<Lease>,
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
        let links = MappingLinks::new(&shared, events_in);
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
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Box<Command>>) {
        let links = Arc::clone(&self.links);
        let mut addresses = self.handle.addresses.subscribe();
        loop {
            let retry_at = self.retry.map(|retry| retry.at);
            tokio::select! {
                command = commands.recv() => match command.map(|command| *command) {
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
                    #[cfg(test)]
                    Some(Command::Panic) => panic!("injected"),
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
                    self.heed(*event).await;
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
        let gone = old.into_iter().map(|family| (family.wanted.family, family.sockets)).collect();
        self.close(gone, Reset::TheirOwn).await;

        self.meter.set_config(Arc::clone(&config));
        self.config = config;
        self.reset_strangers();
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
            let _ = self.shared.notices.try_send(Notice::Changed(self.id));
        }
        status
    }
}

impl FamilyListeners {
    /// Whether who dialled `address` has come to this family's listeners.
    fn is_dialled_at(&self, address: SocketAddr) -> bool {
        let is_ip = self.wanted.ip.ip == address.ip() || self.wanted.ip.ip.is_unspecified();
        let is_port = match self.wanted.port {
            HostPort::Auto => self.sockets.contains_key(&address.port()),
            HostPort::Ports(_) => self.wanted.covers(address.port()),
        };
        self.wanted.family == Family::of(address.ip()) && is_ip && is_port
    }

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
