//! Source ports of flows that have ended while a reply to them may be on its way.
//!
//! A port is free the moment that its socket closes, and the kernel may give it to the next flow: the reply would
//! then reach the other's client. So the socket of a flow that was in use a moment ago stays, hears nothing any more,
//! and goes when no reply is to be expected.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::sources::SourceEntry;
use crate::forward::descriptors::DescriptorPermit;

/// So long after a flow's last datagram may a reply still arrive.
const HELD: Duration = Duration::from_secs(1);

/// Ports held at once; beyond that the one held longest goes.
const MOST: usize = 1_024;

/// Ports, with the moments when their flows ended, in that order.
#[derive(Debug, Default)]
pub(super) struct HeldPorts {
    ports: VecDeque<(Instant, HeldPort)>,
}

/// What is left of a flow.
#[derive(Debug)]
pub(super) struct HeldPort {
    socket: UdpSocket,
    _entry: SourceEntry,
    permit: DescriptorPermit,
}

impl HeldPort {
    /// Of a flow's socket, which is watched no more.
    pub(super) fn new(socket: UdpSocket, entry: SourceEntry, permit: DescriptorPermit) -> Self {
        Self { socket, _entry: entry, permit }
    }
}

impl HeldPorts {
    /// Whether a reply may be on its way to a flow that was last used then.
    pub(super) fn may_hear(last_used: Instant, now: Instant) -> bool {
        now.saturating_duration_since(last_used) < HELD
    }

    /// Holds one for a while, unless descriptors are scarce: somebody may need them who is alive.
    pub(super) fn hold(&mut self, port: HeldPort, now: Instant) {
        if port.permit.is_scarce() {
            return;
        }
        // What arrives is thrown away, and must not take memory until then.
        let _ = SockRef::from(&port.socket).set_recv_buffer_size(0);
        if self.ports.len() == MOST {
            self.ports.pop_front();
        }
        self.ports.push_back((now, port));
    }

    /// When the first is to go.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.ports.front()?.0.checked_add(HELD)
    }

    /// Lets those go that have been held long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.next_expiry().is_some_and(|until| until <= now) {
            self.ports.pop_front();
        }
    }

    /// Lets all go, since their descriptors are needed. Whether there was any.
    pub(super) fn let_go(&mut self) -> bool {
        let was_any = !self.ports.is_empty();
        self.ports = VecDeque::new();
        was_any
    }
}
