//! A TCP (or SCTP) connection's life, as a pipeline with one place for each stage:
//!
//! accept ([`listener`]) → gate ([`gate`]) → address ([`gate`]) → read identity ([`incoming`]) → dial ([`dial`]),
//! perhaps as an alias ([`super::alias`]) → prelude ([`prelude`]) → relay ([`super::relay`]), or HTTP ([`super::http`]).
//!
//! What is known of a connection stands in the registry; this module holds sockets and decides how it ends.

mod gate;
mod http;
mod incoming;
pub(crate) mod listener;
mod prelude;

pub mod dial;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use socket2::SockRef;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::dial::{Caller, DialError, Dialed, Endpoint, Underway};
use self::prelude::{Sending, Unsent};
use super::alias::{AliasLease, Aliases, Client};
use super::context::Route;
use super::descriptors::DescriptorPermit;
use super::engine::{Notice, Shared, TestHook};
use super::lanes::Lanes;
use super::own::{OwnConnections, OwnSource};
use super::pressure::{Limit, Pressure};
use super::registry::{OpenConnection, Record};
use super::relay::{self, Leg, Outcome, PipePool, Timeouts};
use crate::model::event::{CloseReason, Side};
use crate::model::id::MappingId;
use crate::model::identity::Identity;
use crate::model::mapping::Protocol;
use crate::model::update::LastOutcome;

/// Failed dials of one mapping are told at most once in so long.
const TELL_FAILURE: Duration = Duration::from_secs(1);

/// What the listeners of one mapping share beside their context.
#[derive(Debug)]
pub(crate) struct MappingLinks {
    /// Our connections and ports.
    pub(crate) own: Arc<OwnConnections>,
    /// Limits that clients meet.
    pub(crate) pressure: Pressure,
    /// Where the owner of the mapping listens. Boxed, since tokio takes room for 32 at once.
    pub(crate) events: mpsc::Sender<Box<ListenerEvent>>,
    /// Where the engine's owner listens.
    pub(crate) notices: mpsc::Sender<Notice>,
    /// For tests; see [`TestHook`].
    pub(crate) hook: Option<TestHook>,
    /// For bulk.
    pub(crate) pipes: Arc<PipePool>,
    /// For HTTP.
    pub(crate) lanes: Arc<Lanes>,
    admitted: AtomicU32,
    /// The address that worked last.
    preferred: Mutex<Option<IpAddr>>,
    failure_told: Mutex<Option<Instant>>,
}

/// What a listener tells the owner of its mapping.
#[derive(Debug)]
pub(crate) enum ListenerEvent {
    /// Its socket is of no use any more and is closed.
    Broken(String),
    /// A connection of the mapping has come back to it; the way it took.
    SelfForwarding(String),
}

/// What a connection holds until it has ended.
#[derive(Debug)]
struct Admitted {
    links: Arc<MappingLinks>,
    timeouts: Timeouts,
    /// Where each request is to say who the client is. Apart, since few do.
    http: Option<Box<http::Wanted>>,
    /// Its requests are listed, and nothing else is done with them.
    is_inspected: bool,
    _place: Place,
    _descriptors: DescriptorPermit,
}

/// What it takes to reach the target; of no use once the target is reached, but for HTTP.
#[derive(Debug)]
struct Errand {
    caller: Caller,
    /// Where the client's alias comes from, if it is to have one.
    aliases: Option<(Arc<Aliases>, IpNet)>,
    alias: Option<AliasLease>,
    targets: Vec<Endpoint>,
    /// Whether the target is a container, whose addresses come and go.
    is_container: bool,
    protocol: Protocol,
    connect_within: Duration,
    /// How the target learns who the client is.
    identity: Identity,
    /// Whether a PROXY header comes first.
    accepts_proxy: bool,
}

/// One of a mapping's `max_connections`.
#[derive(Debug)]
struct Place(Arc<MappingLinks>);

/// Dials the target and relays until the end. Completes when both sockets are closed.
#[expect(
    clippy::manual_async_fn,
    reason = "the future of an `async fn` keeps each argument twice, for each connection"
)]
fn serve(
    connection: OpenConnection,
    client: Leg,
    mut admitted: Admitted,
    errand: Box<Errand>,
    route: watch::Receiver<Arc<Route>>,
) -> impl Future<Output = ()> + Send + use<> {
    async move {
        if let Some(hook) = admitted.links.hook {
            hook(connection.record());
        }
        if errand.accepts_proxy
            && let Err(outcome) = Box::pin(incoming::read(&client, connection.record())).await
        {
            drop(client);
            return end(connection, admitted, outcome);
        }
        let http = (admitted.http.take())
            .map(|wanted| Box::new(http::plan(*wanted, &errand, &route, &admitted.links, &connection)));
        let identity = errand.identity;
        let reached = match start_reaching(&connection, &client, &admitted.links, errand, route) {
            Reaching::Over(reached) => reached,
            Reaching::Underway(reaching) => reaching.await,
        };
        let mut standing = match Standing::new(reached, client, &connection) {
            Ok(standing) => standing,
            Err(outcome) => return end(connection, admitted, outcome),
        };
        if admitted.is_inspected {
            http::Inspector::watch(connection.record());
        }
        if let Some(plan) = http {
            let outcome = Box::pin(http::run(standing, *plan, &connection, &admitted)).await;
            return end(connection, admitted, outcome);
        }
        if let Some(header) = prelude::header(identity, &connection) {
            let sent = match prelude::start(header, &standing.legs[1], connection.record()) {
                Sending::Over(sent) => sent,
                Sending::Underway(sending) => sending.await,
            };
            match sent {
                Ok(()) => {}
                Err(Unsent::Broken(kind)) => standing = standing.target_broken(kind),
                Err(Unsent::Over(outcome)) => {
                    drop(standing);
                    return end(connection, admitted, outcome);
                }
            }
        }
        let outcome = relay::run(&standing.legs, &connection, &admitted.timeouts, &admitted.links.pipes).await;
        let Standing { legs, own, alias } = standing;
        if outcome.reason == CloseReason::Finished {
            relay::finish(legs);
        } else {
            let [client, target] = legs;
            Box::pin(relay::reset(client, Some(target), &connection)).await;
        }
        drop((own, alias));
        end(connection, admitted, outcome);
    }
}

fn end(connection: OpenConnection, admitted: Admitted, outcome: Outcome) {
    drop(admitted);
    connection.close(outcome.reason, outcome.error);
}

/// A connection with both of its legs.
struct Standing {
    legs: [Leg; 2],
    own: Option<OwnSource>,
    alias: Option<AliasLease>,
}

impl Standing {
    fn new(reached: Result<Reached, Outcome>, client: Leg, connection: &OpenConnection) -> Result<Self, Outcome> {
        let Reached { target: Dialed { fd, source, target, broken, own }, client_broken, alias } = reached?;
        connection.connected(source, target);
        let target = Leg::from_registered(fd, connection.record().protocol()).broken_by(broken);
        Ok(Self { legs: [client.broken_by(client_broken), target], own, alias })
    }

    /// The target has gone before it was told who its client is. What it had said before is for the client all the same.
    fn target_broken(self, kind: io::ErrorKind) -> Self {
        let Self { legs: [client, target], own, alias } = self;
        Self { legs: [client, target.broken_by(Some(kind))], own, alias }
    }
}

/// A target that was reached, for a client that may be gone.
struct Reached {
    target: Dialed,
    /// By which error the client has reset meanwhile; what it had sent before is for the target.
    client_broken: Option<io::ErrorKind>,
    alias: Option<AliasLease>,
}

/// The way to the target.
enum Reaching<'a> {
    /// It is at its end already.
    Over(Result<Reached, Outcome>),
    /// It takes time. Apart, so that a connection that stands does not keep the room that waiting takes.
    Underway(Pin<Box<dyn Future<Output = Result<Reached, Outcome>> + Send + 'a>>),
}

/// Sets out to the target. One on this host or in a container has mostly answered when this returns.
fn start_reaching<'a>(
    connection: &'a OpenConnection,
    client: &'a Leg,
    links: &'a MappingLinks,
    mut errand: Box<Errand>,
    route: watch::Receiver<Arc<Route>>,
) -> Reaching<'a> {
    let record = connection.record();
    if record.kill_reason().is_some() {
        return Reaching::Over(Err(Outcome::killed(record)));
    }
    if errand.has_lost_all(&route.borrow()) {
        return Reaching::Over(Err(CloseReason::TargetUnreachable.into()));
    }
    if let Err(refused) = errand.take_alias(record, links) {
        return Reaching::Over(Err(refused));
    }
    // By now it is known who the client is, and as whom it appears.
    connection.announce();
    let started = Instant::now();
    let first = match dial::set_out(&errand.targets, errand.protocol, &errand.caller) {
        Ok(attempt) if attempt.has_arrived() => match attempt.arrived() {
            Ok(dialed) => {
                let settled = errand.settle(Ok(dialed), record, links, started, &route.borrow());
                let alias = errand.alias.take();
                return Reaching::Over(settled.map(|target| Reached { target, client_broken: None, alias }));
            }
            Err(error) => Err(error),
        },
        first => first,
    };
    Reaching::Underway(Box::pin(reach(record, client, links, errand, route, first, started)))
}

/// Waits for the target, unless the client goes, or the mapping's target, or the connection is killed.
async fn reach(
    record: &Record,
    client: &Leg,
    links: &MappingLinks,
    mut errand: Box<Errand>,
    mut route: watch::Receiver<Arc<Route>>,
    first: Result<Underway, DialError>,
    started: Instant,
) -> Result<Reached, Outcome> {
    let alias = errand.alias.take();
    let Errand { targets, protocol, connect_within, caller, .. } = &*errand;
    let mut dialing = pin!(dial::dial(first, targets, *protocol, *connect_within, caller));
    let mut client_broken = None;
    let dialed = loop {
        tokio::select! {
            biased;
            () = record.kill.heard() => return Err(Outcome::killed(record)),
            // What it has sent before its reset, be it its end alone, is still for the target.
            error = client.failed(), if client_broken.is_none() => {
                if !client.has_unread() && !relay::is_after_end(&error) {
                    return Err(Outcome::broken(Side::Client, &error));
                }
                client_broken = Some(error.kind());
            }
            // Our first packet may have been lost with a container that was stopped just then. Sent again, it would be
            // answered by whoever has the address by now.
            Ok(()) = route.changed() => if errand.has_lost_all(&route.borrow_and_update()) {
                return Err(CloseReason::TargetUnreachable.into());
            },
            dialed = &mut dialing => break dialed,
        }
    };
    let dialed = errand.settle(dialed, record, links, started, &route.borrow());
    dialed.map(|target| Reached { target, client_broken, alias })
}

impl Errand {
    /// The same once more, for HTTP, which goes out as this host: an alias belongs to one connection.
    fn again(&self) -> Self {
        Self {
            caller: self.caller.clone(),
            aliases: None,
            alias: None,
            targets: self.targets.clone(),
            is_container: self.is_container,
            protocol: self.protocol,
            connect_within: self.connect_within,
            identity: self.identity,
            accepts_proxy: self.accepts_proxy,
        }
    }

    /// From here on the client has its alias, if it is to have one.
    fn take_alias(&mut self, record: &Record, links: &MappingLinks) -> Result<(), Outcome> {
        let Some((aliases, pool)) = self.aliases.take() else { return Ok(()) };
        match aliases.lease(pool, record.client().ip(), Client::Known) {
            Ok((alias, lease)) => {
                record.set_alias(alias);
                self.caller.source = Some(alias);
                self.alias = Some(lease);
                Ok(())
            }
            Err(none) => {
                let (reason, limit) = none.ends_as();
                if let Some(limit) = limit {
                    links.pressure.press(limit);
                }
                Err(Outcome { reason, error: Some(none.into()) })
            }
        }
    }

    /// What came of dialling, noted for who asks how the target does.
    fn settle(
        &self,
        dialed: Result<Dialed, DialError>,
        record: &Record,
        links: &MappingLinks,
        started: Instant,
        route: &Route,
    ) -> Result<Dialed, Outcome> {
        let took = started.elapsed();
        match dialed {
            Ok(Dialed { target, fd, .. }) if self.has_lost(target.ip(), route) => {
                // Whoever has the address now is not to take it for a client that came and left in order.
                let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
                Err(CloseReason::TargetUnreachable.into())
            }
            Ok(target) => {
                record.mapping.attempted(LastOutcome::Ok, took);
                links.prefer(target.target.ip());
                Ok(target)
            }
            Err(error) => {
                record.mapping.attempted(error.outcome(), took);
                links.dial_failed(record.mapping.id());
                Err(match error {
                    DialError::Refused => CloseReason::TargetRefused.into(),
                    DialError::Unreachable(_) => CloseReason::TargetUnreachable.into(),
                    DialError::Timeout => CloseReason::ConnectTimeout.into(),
                    DialError::Exhausted(_) => {
                        links.pressure.press(Limit::OutOfDescriptors);
                        CloseReason::Limit.into()
                    }
                    DialError::Other(error) => Outcome::error("cannot connect to the target", &error),
                })
            }
        }
    }

    /// Whether `address` may have become somebody else's since: it was the container's, and is no more. What was written
    /// as an address, and what a DNS name has meant, is not given away like that.
    fn has_lost(&self, address: IpAddr, route: &Route) -> bool {
        self.is_container && !route.addresses.ips().contains(&address)
    }

    /// Whether none of the addresses that are tried can be the container's any more.
    fn has_lost_all(&self, route: &Route) -> bool {
        self.targets.iter().all(|Endpoint::Inet(address)| self.has_lost(address.ip(), route))
    }
}

impl MappingLinks {
    pub(super) fn new(shared: &Shared, events: mpsc::Sender<Box<ListenerEvent>>) -> Arc<Self> {
        Arc::new(Self {
            own: Arc::clone(&shared.own),
            pressure: Pressure::default(),
            events,
            notices: shared.notices.clone(),
            hook: shared.hook,
            pipes: Arc::clone(&shared.pipes),
            lanes: Arc::clone(&shared.lanes),
            admitted: AtomicU32::new(0),
            preferred: Mutex::default(),
            failure_told: Mutex::default(),
        })
    }

    /// One of `most` places, while there is one.
    fn place(self: &Arc<Self>, most: Option<u32>) -> Option<Place> {
        self.admitted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(1).filter(|sum| most.is_none_or(|most| *sum <= most))
            })
            .ok()
            .map(|_| Place(Arc::clone(self)))
    }

    fn prefer(&self, ip: IpAddr) {
        *self.preferred.lock().unwrap_or_else(PoisonError::into_inner) = Some(ip);
    }

    /// `addresses` with `port`, the one that worked last first.
    fn in_order(&self, addresses: &[SocketAddr], port: u16) -> Vec<Endpoint> {
        let mut targets: Vec<_> = addresses.to_vec();
        for target in &mut targets {
            target.set_port(port);
        }
        if targets.len() > 1 {
            let preferred = *self.preferred.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = targets.iter().position(|target| Some(target.ip()) == preferred) {
                targets[..=at].rotate_right(1);
            }
        }
        targets.into_iter().map(Endpoint::from).collect()
    }

    fn dial_failed(&self, mapping: MappingId) {
        let now = Instant::now();
        let mut told = self.failure_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| now - told >= TELL_FAILURE) {
            *told = Some(now);
            // When the queue is full its reader is behind, and will resolve every name soon anyway.
            let _ = self.notices.try_send(Notice::TargetFailed(mapping));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, Ordering::Relaxed);
    }
}
