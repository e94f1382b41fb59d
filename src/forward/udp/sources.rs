//! Which source addresses are our own flows', so that a datagram that comes back to us is known as ours.
//!
//! A target by name may turn to ourselves while the program runs. Each datagram would then open a flow whose
//! datagram opens the next one, and a single packet would fill the table. Looked at once for each new flow.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::id::MappingId;

/// Mappings that may stand one behind the other; a longer chain is taken for a cycle.
const LONGEST_CHAIN: usize = 16;

/// The open flows, and those whose ports are held, by their source addresses. Bounded by those themselves.
#[derive(Debug, Default)]
pub struct FlowSources {
    flows: Mutex<HashMap<SocketAddr, Passage>>,
}

/// What a datagram of a flow has come through.
#[derive(Clone, Copy, Debug)]
struct Passage {
    mapping: MappingId,
    /// The port of the mapping at which it came in.
    port: u16,
    /// Who sent it there.
    client: SocketAddr,
}

/// A flow's entry, until dropped, which is before its port may be a stranger's.
#[derive(Debug)]
pub(super) struct SourceEntry {
    sources: Arc<FlowSources>,
    source: SocketAddr,
}

impl FlowSources {
    /// A flow of `mapping`, from `client` to its listener at `port`, speaks to its target from `source`.
    pub(super) fn enter(
        self: &Arc<Self>,
        source: SocketAddr,
        mapping: MappingId,
        port: u16,
        client: SocketAddr,
    ) -> SourceEntry {
        let source = unscoped(source);
        self.lock().insert(source, Passage { mapping, port, client: unscoped(client) });
        SourceEntry { sources: Arc::clone(self), source }
    }

    /// The way from `mapping` back to its listener at `port`, when `client` is a flow of the same mapping, directly
    /// or through other mappings of ours. For example `:5353 -> :5454 -> :5353`.
    pub(super) fn circle(&self, client: SocketAddr, mapping: MappingId, port: u16) -> Option<String> {
        let flows = self.lock();
        let mut client = unscoped(client);
        let mut way = format!(":{port}");
        for _ in 0..LONGEST_CHAIN {
            let passage = flows.get(&client)?;
            way = format!(":{} -> {way}", passage.port);
            if passage.mapping == mapping {
                break;
            }
            client = passage.client;
        }
        Some(way)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Passage>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SourceEntry {
    fn drop(&mut self) {
        self.sources.lock().remove(&self.source);
    }
}

/// A link-local address of ours may come back through another interface (loopback), with that one's scope, and an
/// IPv4-mapped one comes back over IPv4.
fn unscoped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn finds_a_cycle_through_other_mappings_and_lets_a_chain_pass() {
        let sources = Arc::new(FlowSources::default());
        let (first, second, third) = (MappingId(1), MappingId(2), MappingId(3));
        let entry = sources.enter(at(101), first, 1, at(100));
        let _other = sources.enter(at(102), second, 2, at(101));
        let circle = |client, mapping| sources.circle(at(client), mapping, 9);
        assert_eq!(circle(100, first), None, "a stranger");
        assert_eq!(circle(102, third), None, "a chain of three mappings");
        assert_eq!(circle(101, first).as_deref(), Some(":1 -> :9"), "the same mapping");
        assert_eq!(circle(102, first).as_deref(), Some(":1 -> :2 -> :9"), "the same mapping through another");
        drop(entry);
        assert_eq!(circle(102, first), None);
    }

    #[test]
    fn takes_an_endless_chain_for_a_cycle() {
        let sources = Arc::new(FlowSources::default());
        let _one = sources.enter(at(101), MappingId(1), 1, at(102));
        let _two = sources.enter(at(102), MappingId(2), 2, at(101));
        assert!(sources.circle(at(101), MappingId(3), 3).is_some());
    }
}
