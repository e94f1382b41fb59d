//! What a client's first datagram must pass to become a flow: a target, no cycle, room, a descriptor.
//!
//! A refusal costs its datagram alone, and is counted. Its record is made at most ten times a second, so that a
//! flood does not wash everything else out of the recent closings and the events.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::flow::{self, Flow, errno, outcome};
use super::poller::Poller;
use super::serve::{Listener, Trouble};
use super::table::{FlowId, FlowKey, Full};
use crate::forward::alias::{AliasLease, Client};
use crate::forward::context::{Addresses, ListenerContext, Route};
use crate::forward::descriptors::DescriptorPermit;
use crate::forward::pressure::Limit;
use crate::forward::registry::OpenConnection;
use crate::model::event::CloseReason;
use crate::model::identity::Identity;
use crate::model::mapping::Protocol;
use crate::model::untrusted::SafeText;
use crate::wire::proxy::{Told, Transport, version_2};

/// Least time between two records of refusals, and between two looks at the siblings.
const REFUSAL_INTERVAL: Duration = Duration::from_millis(100);

/// Said of a datagram that one of this mapping's own flows sent.
const CYCLE: &str = "the target leads back to this mapping";

/// When refusals were last told of.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    told: Option<Instant>,
    siblings_asked: Option<Instant>,
}

/// Why a datagram opens no flow.
struct Refusal {
    reason: CloseReason,
    error: SafeText,
    /// The limit that it is about.
    limit: Option<Limit>,
}

impl Listener {
    /// Opens a flow for a client's first datagram. Without one, the datagram is to be dropped and counted.
    pub(super) fn admit(&mut self, key: FlowKey, now: Instant) -> Option<FlowId> {
        let route = self.context.route.borrow().clone();
        match &route.addresses {
            Addresses::Known(addresses) if !self.context.drain.is_cancelled() && !addresses.is_empty() => {
                // UDP takes the first address.
                let mut target = addresses[0];
                target.set_port(self.target_port(&route));
                match self.open(key, &route, target, now) {
                    Ok(id) => return Some(id),
                    Err(refusal) => self.refuse(key, &route, refusal, now),
                }
            }
            // The mapping's state says why; a record for each datagram would be a storm.
            _ => {}
        }
        None
    }

    fn open(&mut self, key: FlowKey, route: &Route, target: SocketAddr, now: Instant) -> Result<FlowId, Refusal> {
        let registry = Arc::clone(&self.context.registry);
        let meter = Arc::clone(&self.context.meter);
        if let Some(way) = registry.flow_sources.circle(key.client, meter.id(), key.local.port()) {
            (self.tell)(Trouble::Circle(way));
            return Err(Refusal { reason: CloseReason::Rejected, error: SafeText::new(CYCLE), limit: None });
        }
        self.make_room(route.config.max_connections, now)?;
        let permit = self.take_descriptor(now)?;
        let alias = self.take_alias(&key, route)?;
        let source = alias.as_ref().map(|(alias, _)| *alias);
        let dialled = match flow::dial(target, source) {
            Err(error) if is_shortage(&error) && registry.held_ports.let_go() => flow::dial(target, source),
            dialled => dialled,
        };
        let dialled = dialled.map_err(|error| {
            if let Some(outcome) = outcome(errno(&error)) {
                meter.attempted(outcome, Duration::ZERO);
            }
            Refusal::from(error)
        })?;
        // In its place before anything else can fail: the other flows are on it.
        if self.poller.is_none() {
            self.poller = Some(Poller::new(self.take_descriptor(now)?)?);
        }

        // The record is made last, so that what is refused above leaves none behind.
        let record = self.enter(key, route, source);
        if let Some(hook) = self.context.hook {
            hook(record.record());
        }
        let watched = Arc::clone(record.record());
        let header = header(route.config.identity, &record);
        let flow = Flow::new(dialled, record, header, self.route, permit).with_alias(alias.map(|(_, lease)| lease));
        let id = self.table.insert(key, flow, now);
        let added = match (&self.poller, self.table.get_mut(id)) {
            (Some(poller), Some((_, flow))) => poller.add(flow, id),
            _ => Ok(()),
        };
        if let Err(error) = added {
            let Refusal { reason, error, .. } = error.into();
            self.close(id, reason, Some(error));
        } else if self.context.drain.is_cancelled() {
            // Who drains us kills the flows that it finds. This one may have come too late to be found.
            self.kill(id, CloseReason::MappingRemoved);
        }
        self.kills.push(Box::pin(async move {
            watched.kill.heard().await;
            id
        }));
        Ok(id)
    }

    /// The mapping's cap holds for all of its sockets together.
    fn make_room(&mut self, cap: Option<u32>, now: Instant) -> Result<(), Refusal> {
        let Some(cap) = cap else { return Ok(()) };
        let mut asked = false;
        while self.context.meter.open_connections() >= u64::from(cap) {
            if !asked && self.table.len() < cap as usize / 2 {
                self.ask_siblings(cap, now);
                asked = true;
            }
            let full = if asked { Full::Elsewhere } else { Full::Here };
            let Some(victim) = self.table.victim(now, full) else {
                let error = SafeText::new(&format!("all {cap} flows of the mapping are in use"));
                return Err(Refusal { reason: CloseReason::Limit, error, limit: Some(Limit::Connections(cap)) });
            };
            self.close(victim, CloseReason::Evicted, None);
        }
        Ok(())
    }

    /// Most of the mapping's flows are those of its other sockets, so its oldest one-way flows are asked to end.
    /// They end in their own tasks: this comes too late for the datagram at hand, and in time for the next.
    fn ask_siblings(&mut self, cap: u32, now: Instant) {
        if !is_due(&mut self.refusals.siblings_asked, now) {
            return;
        }
        let mapping = self.context.meter.id();
        let mut one_way = self.context.registry.open_connections();
        one_way.retain(|record| record.mapping.id() == mapping && record.counters.read().datagrams_out == 0);
        one_way.sort_unstable_by_key(|record| record.id);
        for record in one_way.iter().take((cap as usize / 16).max(1)) {
            record.kill(CloseReason::Evicted);
        }
    }

    fn take_descriptor(&mut self, now: Instant) -> Result<DescriptorPermit, Refusal> {
        let descriptors = Arc::clone(&self.context.descriptors);
        if let Some(permit) = descriptors.take(1) {
            return Ok(permit);
        }
        if let Some(victim) = self.table.victim(now, Full::Elsewhere) {
            self.close(victim, CloseReason::Evicted, None);
        }
        let (used, limit) = descriptors.usage();
        descriptors.take(1).ok_or_else(|| Refusal {
            reason: CloseReason::Limit,
            error: SafeText::new(&format!("out of file descriptors ({used} of {limit} in use)")),
            limit: Some(Limit::Descriptors(limit)),
        })
    }

    /// The alias of a client, where the mapping gives it one. An old flow that nobody has answered gives way where that
    /// frees an alias: whoever sends in many names would keep everybody else out for as long as flows last.
    fn take_alias(&mut self, key: &FlowKey, route: &Route) -> Result<Option<(IpAddr, AliasLease)>, Refusal> {
        if route.config.identity != Identity::Alias {
            return Ok(None);
        }
        let (pool, client) = (route.config.alias_pool, key.true_client().ip());
        let registry = Arc::clone(&self.context.registry);
        // Until the target has answered: anybody can send a datagram in anybody's name.
        let lease = || registry.aliases().lease(pool, client, Client::Claimed);
        let leased = match lease() {
            Err(none)
                if none.is_for_want()
                    && let Some(victim) = self.table.one_way(Flow::frees_alias) =>
            {
                self.close(victim, CloseReason::Evicted, None);
                lease()
            }
            leased => leased,
        };
        leased.map(Some).map_err(|none| {
            let (reason, limit) = none.ends_as();
            Refusal { reason, error: none.into(), limit }
        })
    }

    fn refuse(&mut self, key: FlowKey, route: &Route, refusal: Refusal, now: Instant) {
        if let Some(limit) = refusal.limit {
            (self.tell)(Trouble::Limit(limit));
        }
        if is_due(&mut self.refusals.told, now) {
            self.tell_of(key, route, refusal);
        }
    }

    /// Drops datagrams of which `why` is said: they do not say believably for whom they speak.
    pub(super) fn reject(&mut self, key: FlowKey, datagrams: usize, why: impl FnOnce() -> String, now: Instant) {
        self.context.meter.drop_datagrams(datagrams as u64);
        if is_due(&mut self.refusals.told, now) {
            let route = self.context.route.borrow().clone();
            let refusal = Refusal { reason: CloseReason::Rejected, error: SafeText::new(&why()), limit: None };
            self.tell_of(key, &route, refusal);
        }
    }

    fn tell_of(&self, key: FlowKey, route: &Route, Refusal { reason, error, .. }: Refusal) {
        tracing::debug!(client = %key.client, listener = %key.local, %error, "a flow was refused");
        self.enter(key, route, None).close(reason, Some(error));
    }

    /// The record of a flow, or of one that is not to be.
    fn enter(&self, key: FlowKey, route: &Route, alias: Option<IpAddr>) -> OpenConnection {
        let ListenerContext { registry, meter, .. } = &self.context;
        let record = registry.enter(meter, Protocol::Udp, key.client, key.local, self.context.target(route));
        if let Some(Told { client, listener }) = key.told {
            record.record().tell_client(client, listener);
        }
        if let Some(alias) = alias {
            record.record().set_alias(alias);
        }
        record.announce();
        record
    }

    /// The target's port for flows of this socket.
    pub(super) fn target_port(&self, route: &Route) -> u16 {
        self.context.target_port(route)
    }
}

/// What each datagram to the target begins with, if anything. It holds no more than it must: each pays for it, and one
/// that grows too long for its way is lost.
fn header(identity: Identity, record: &OpenConnection) -> Option<Arc<[u8]>> {
    let told = Told { client: record.record().client(), listener: record.record().dialled() };
    let header = || version_2(told, Transport::Datagram, &record.unique_id(), None).into();
    (identity == Identity::ProxyV2).then(header)
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let (reason, limit) = match errno(&error) {
            Errno::EMFILE | Errno::ENFILE => (CloseReason::Limit, Some(Limit::OutOfDescriptors)),
            Errno::ENOBUFS | Errno::ENOMEM | Errno::ENOSPC => (CloseReason::Limit, Some(Limit::OutOfMemory)),
            errno if outcome(errno).is_some() => (CloseReason::TargetUnreachable, None),
            _ => (CloseReason::Error, None),
        };
        Self { reason, error: SafeText::new(&error.to_string()), limit }
    }
}

/// Whether ports, descriptors or memory are what is missing.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Errno::EAGAIN | Errno::EADDRINUSE | Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM
    )
}

fn is_due(last: &mut Option<Instant>, now: Instant) -> bool {
    let due = last.is_none_or(|last| now.saturating_duration_since(last) >= REFUSAL_INTERVAL);
    if due {
        *last = Some(now);
    }
    due
}
