//! Binding and closing the sockets of a mapping, and joining their tasks.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{ASK_AGAIN, FamilyListeners, Listening, RETRY, Retry, Running};
use crate::forward::context::ListenerContext;
use crate::forward::descriptors::DescriptorPermit;
use crate::forward::handed::Lease;
use crate::forward::listen::{self, Bound, BoundSocket};
use crate::forward::status::{FamilyState, ListenError};
use crate::forward::tcp::ListenerEvent;
use crate::forward::tcp::listener::{self, Listener};
use crate::forward::udp::Trouble;
use crate::forward::{sys, udp};
use crate::model::event::CloseReason;
use crate::model::mapping::{Family, HostPort, Protocol};

/// Whose connections end with their listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    /// They go on.
    Nobody,
    /// Those that came through them.
    TheirOwn,
    /// Every connection of the mapping, also those whose listener was closed before.
    Everybody,
}

impl Running {
    /// Binds what is wanted and not bound; arranges for another try if some of it fails.
    pub(super) async fn bind_missing(&mut self) {
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
                results.push((at, listen::bind_all(protocol, &family.wanted, &self.shared.handed, ports).await));
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
            hook: self.shared.hook,
        };
        match bound.socket {
            BoundSocket::Stream(fd) => {
                let fd = sys::register(fd).map_err(|error| ListenError::Other { address, error: error.to_string() })?;
                let protocol = self.config.mapping.protocol;
                let is_awaited = bound.lease.as_ref().is_some_and(Lease::is_first);
                let listener = Listener { fd, bound: address, protocol, is_awaited, closed: closing };
                self.tasks.spawn(listener::run(listener, context, Arc::clone(&self.links)));
            }
            BoundSocket::Datagram(socket) => {
                let (events, links) = (self.links.events.clone(), Arc::clone(&self.links));
                self.tasks.spawn(async move {
                    let tell = move |trouble| match trouble {
                        // When the queue is full, the next datagram that comes round tells it.
                        Trouble::Circle(way) => {
                            drop(links.events.try_send(Box::new(ListenerEvent::SelfForwarding(way))));
                        }
                        Trouble::Limit(limit) => links.pressure.press(limit),
                    };
                    let result = udp::serve(socket, context, tell).await;
                    drop(closing);
                    if let Err(error) = result {
                        let text = format!("the listening socket on {address} has failed: {error}");
                        // When the queue is full, the end of this task tells it with less to say.
                        let _ = events.try_send(Box::new(ListenerEvent::Broken(text)));
                    }
                });
            }
        }
        Ok(Listening { drain, closed, _descriptor: descriptor, _lease: bound.lease })
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
        self.close(gone, Reset::Nobody).await;
    }

    /// Takes families with a closed socket for broken. True when there was one.
    pub(super) async fn give_up_broken(&mut self, text: &str) -> bool {
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

    pub(super) async fn close_all(&mut self) {
        let mut all = Vec::new();
        for family in &mut self.families {
            // What kept it from listening no longer does.
            if family.state() != FamilyState::Absent {
                family.error = None;
            }
            all.push((family.wanted.family, std::mem::take(&mut family.sockets)));
        }
        self.retry = None;
        self.close(all, Reset::Everybody).await;
    }

    /// Resets connections that came to where this mapping listens no more: their listener may have been closed long
    /// before, by an edit that failed.
    pub(super) fn reset_strangers(&self) {
        self.shared.registry.kill_where(CloseReason::MappingRemoved, |record| {
            let belongs = record.protocol() == self.config.mapping.protocol
                && self.families.iter().any(|family| family.is_dialled_at(record.listener));
            record.mapping.id() == self.id && !belongs
        });
    }

    /// Closes sockets, and resets whom `reset` names. Returns when the addresses are free.
    pub(super) async fn close(&mut self, families: Vec<(Family, BTreeMap<u16, Listening>)>, reset: Reset) {
        let ports: HashSet<_> =
            families.iter().flat_map(|(family, sockets)| sockets.keys().map(|port| (*family, *port))).collect();
        let everybody = reset == Reset::Everybody;
        if ports.is_empty() && !everybody {
            return;
        }
        // The flows of a UDP socket live on it and cannot outlast it.
        let kill = reset != Reset::Nobody || self.config.mapping.protocol == Protocol::Udp;
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
                    let is_theirs = everybody || ports.contains(&(Family::of(at.ip()), at.port()));
                    record.mapping.id() == id && is_theirs
                });
            }
        };
        let mut all_closed = std::pin::pin!(async {
            // One that was found broken has been told already, and must not be waited for again.
            for listening in sockets.iter_mut().filter(|listening| !listening.closed.is_terminated()) {
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

    pub(super) async fn remove(&mut self) {
        self.close_all().await;
        self.end_tasks(CloseReason::MappingRemoved).await;
    }

    pub(super) async fn shut_down(&mut self, deadline: Instant) {
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
