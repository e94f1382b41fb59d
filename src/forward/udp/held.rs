//! Source ports of flows that have ended while a reply to them may be on its way.
//!
//! A port is free the moment that its socket closes, and the kernel may give it to the next flow: the reply would
//! then reach the other's client. So the socket of a flow that was in use a moment ago stays for another moment, and
//! what it hears is thrown away with it. It gives way to everything that needs its descriptor or its port.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::serve::now;
use super::sources::SourceEntry;
use crate::forward::descriptors::DescriptorPermit;

/// So long after a flow's last datagram may a reply still arrive, and so long after its end is its port held.
const HELD: Duration = Duration::from_secs(1);

/// Ports held at once, by all listeners together; beyond that the one held longest goes.
const MOST: usize = 1_024;

/// Ports, with the moments when their flows ended, in that order.
#[derive(Debug, Default)]
pub struct HeldPorts {
    ports: Mutex<VecDeque<(Instant, HeldPort)>>,
    gives_way: OnceLock<()>,
}

/// What is left of a flow.
#[derive(Debug)]
pub(super) struct HeldPort {
    // Before the socket: once that is closed, the port may have an entry of another.
    _entry: SourceEntry,
    socket: UdpSocket,
    permit: DescriptorPermit,
}

impl HeldPort {
    /// Of a flow's socket, which is watched no more.
    pub(super) fn new(entry: SourceEntry, socket: UdpSocket, permit: DescriptorPermit) -> Self {
        Self { _entry: entry, socket, permit }
    }
}

impl HeldPorts {
    /// Whether a reply may be on its way to a flow that was last used then.
    pub(super) fn may_hear(last_used: Instant, now: Instant) -> bool {
        now.saturating_duration_since(last_used) < HELD
    }

    /// Holds one for a while, unless descriptors are scarce: somebody may need them who is alive.
    pub(super) fn hold(self: &Arc<Self>, port: HeldPort, now: Instant) {
        if port.permit.is_scarce() {
            return;
        }
        self.gives_way.get_or_init(|| {
            let held = Arc::downgrade(self);
            port.permit.budget().reclaim_by(move || held.upgrade().is_some_and(|held| held.let_go()));
        });
        // No more memory than must be for what arrives.
        let _ = SockRef::from(&port.socket).set_recv_buffer_size(0);
        let mut ports = self.lock();
        if ports.len() == MOST {
            ports.pop_front();
        }
        ports.push_back((now, port));
        if ports.len() == 1 {
            self.expire_in_time();
        }
    }

    /// Lets all go, since somebody needs their descriptors or ports. Whether there was any.
    pub(super) fn let_go(&self) -> bool {
        // They are closed when the lock is free again.
        let held = std::mem::take(&mut *self.lock());
        !held.is_empty()
    }

    /// Lets each go in its time, until there are none.
    fn expire_in_time(self: &Arc<Self>) {
        let held = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(next) = held.upgrade().and_then(|held| held.expire(now())) {
                tokio::time::sleep_until(next.into()).await;
            }
        });
    }

    /// Lets those go that have been held long enough; when the next is to go.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let mut ports = self.lock();
        while let Some((since, _)) = ports.front() {
            let until = since.checked_add(HELD)?;
            if now < until {
                return Some(until);
            }
            ports.pop_front();
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, HeldPort)>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
