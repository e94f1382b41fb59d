//! Which source addresses are our own flows', so that a datagram that comes back to us is known as ours.
//!
//! A target by name may turn to ourselves while the program runs. Each datagram would then open a flow whose
//! datagram opens the next one, and a single packet would fill the table. Looked at once for each new flow.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::id::MappingId;

/// Mappings that may stand one behind the other; a longer chain is taken for a cycle.
const LONGEST_CHAIN: usize = 16;

/// The source address of each open flow, with its mapping and its client. Bounded by the flows themselves.
#[derive(Debug, Default)]
pub struct FlowSources {
    flows: Mutex<HashMap<SocketAddr, (MappingId, SocketAddr)>>,
}

impl FlowSources {
    /// A flow of `mapping` speaks to its target from `source`.
    pub(super) fn insert(&self, source: SocketAddr, mapping: MappingId, client: SocketAddr) {
        self.lock().insert(unscoped(source), (mapping, unscoped(client)));
    }

    /// The flow has ended.
    pub(super) fn remove(&self, source: SocketAddr) {
        self.lock().remove(&unscoped(source));
    }

    /// Whether `client` is a flow of `mapping`, directly or through other mappings of ours.
    pub(super) fn lead_back(&self, client: SocketAddr, mapping: MappingId) -> bool {
        let flows = self.lock();
        let mut client = unscoped(client);
        for _ in 0..LONGEST_CHAIN {
            match flows.get(&client) {
                None => return false,
                Some((through, _)) if *through == mapping => return true,
                Some((_, before)) => client = *before,
            }
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, (MappingId, SocketAddr)>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link-local address of ours may come back through another interface (loopback), with that one's scope.
fn unscoped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn finds_a_cycle_through_other_mappings_and_lets_a_chain_pass() {
        let sources = FlowSources::default();
        let (first, second, third) = (MappingId(1), MappingId(2), MappingId(3));
        sources.insert(at(101), first, at(100));
        sources.insert(at(102), second, at(101));
        assert!(!sources.lead_back(at(100), first), "a stranger");
        assert!(!sources.lead_back(at(102), third), "a chain of three mappings");
        assert!(sources.lead_back(at(101), first), "the same mapping");
        assert!(sources.lead_back(at(102), first), "the same mapping through another");
        sources.remove(at(101));
        assert!(!sources.lead_back(at(102), first));
    }

    #[test]
    fn takes_an_endless_chain_for_a_cycle() {
        let sources = FlowSources::default();
        sources.insert(at(101), MappingId(1), at(102));
        sources.insert(at(102), MappingId(2), at(101));
        assert!(sources.lead_back(at(101), MappingId(3)));
    }
}
