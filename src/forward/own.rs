//! Which connections are our own, so that a mapping that forwards to itself is noticed at the second one.
//!
//! Only a dial towards a port on which this engine itself listens can come back to it, so all others pay one
//! look at a table. Such a dial enters its source address before any listener can see it: both happen under
//! one lock.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::model::id::MappingId;

/// Ports we listen on, and sources of our connections to them.
#[derive(Debug, Default)]
pub(crate) struct OwnConnections {
    ports: RwLock<HashMap<u16, u32>>,
    /// Entries and entries to come in `sources`; with none, accepting takes no lock.
    expected: AtomicUsize,
    /// One entry for each open connection to a port of ours; each holds a descriptor, which bounds them.
    sources: Mutex<HashMap<(IpAddr, u16), Arc<Chain>>>,
}

/// The mappings that a connection has come through, the last one first.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    mapping: MappingId,
    port: u16,
    before: Option<Arc<Chain>>,
}

/// A port that we listen on, until dropped.
#[derive(Debug)]
pub(crate) struct OwnPort {
    own: Arc<OwnConnections>,
    port: u16,
}

/// The source address of a connection of ours, until dropped.
#[derive(Debug)]
pub(crate) struct OwnSource {
    own: Arc<OwnConnections>,
    source: Option<(IpAddr, u16)>,
}

impl Chain {
    /// A client's way into `mapping`: continues `before` when the client is a connection of our own.
    pub(crate) fn new(mapping: MappingId, port: u16, before: Option<Arc<Chain>>) -> Arc<Self> {
        Arc::new(Self { mapping, port, before })
    }

    /// `:8080 -> :9090 -> :8080`, when `mapping` with this port would close a circle.
    pub(crate) fn circle(&self, mapping: MappingId, port: u16) -> Option<String> {
        let mut text = format!(":{port}");
        let mut link = Some(self);
        while let Some(chain) = link {
            text = format!(":{} -> {text}", chain.port);
            if chain.mapping == mapping {
                return Some(text);
            }
            link = chain.before.as_deref();
        }
        None
    }
}

impl OwnConnections {
    /// We listen on `port` now.
    pub(crate) fn listen(self: &Arc<Self>, port: u16) -> OwnPort {
        *self.ports.write().unwrap_or_else(PoisonError::into_inner).entry(port).or_default() += 1;
        OwnPort { own: Arc::clone(self), port }
    }

    /// Whether a connection to `port` can be one to ourselves.
    pub(crate) fn may_reach(&self, port: u16) -> bool {
        self.ports.read().unwrap_or_else(PoisonError::into_inner).contains_key(&port)
    }

    /// Starts a connection with `connect`, which gives its source address, and enters it before anybody can ask.
    pub(crate) fn connect<T>(
        self: &Arc<Self>,
        chain: Arc<Chain>,
        connect: impl FnOnce() -> io::Result<(SocketAddr, T)>,
    ) -> io::Result<(T, OwnSource)> {
        self.expected.fetch_add(1, Ordering::SeqCst);
        // From here on, dropping takes back what was expected.
        let mut entry = OwnSource { own: Arc::clone(self), source: None };
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let result = connect();
        if let Ok((source, _)) = &result {
            let key = key(*source);
            sources.insert(key, chain);
            entry.source = Some(key);
        }
        drop(sources);
        result.map(|(_, started)| (started, entry))
    }

    /// The way of a client that is a connection of our own.
    pub(crate) fn chain_of(&self, client: SocketAddr) -> Option<Arc<Chain>> {
        if self.expected.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get(&key(client)).cloned()
    }
}

/// A listener sees IPv4 as IPv4, also of a socket that dialled an IPv4-mapped address.
fn key(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

impl Drop for OwnPort {
    fn drop(&mut self) {
        let mut ports = self.own.ports.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = ports.get_mut(&self.port) {
            *count -= 1;
            if *count == 0 {
                ports.remove(&self.port);
            }
        }
    }
}

impl Drop for OwnSource {
    fn drop(&mut self) {
        if let Some(source) = &self.source {
            self.own.sources.lock().unwrap_or_else(PoisonError::into_inner).remove(source);
        }
        self.own.expected.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_told_as_its_way() {
        let first = Chain::new(MappingId(1), 8080, None);
        let second = Chain::new(MappingId(2), 9090, Some(Arc::clone(&first)));
        assert_eq!(second.circle(MappingId(1), 8080).as_deref(), Some(":8080 -> :9090 -> :8080"));
        assert_eq!(second.circle(MappingId(3), 7070), None);
        assert_eq!(first.circle(MappingId(1), 8080).as_deref(), Some(":8080 -> :8080"));
    }

    #[test]
    fn ports_and_sources_are_forgotten_when_dropped() {
        let own = Arc::new(OwnConnections::default());
        let (one, two) = (own.listen(8080), own.listen(8080));
        drop(one);
        assert!(own.may_reach(8080));
        drop(two);
        assert!(!own.may_reach(8080));

        let source: SocketAddr = "127.0.0.1:40000".parse().expect("an address");
        let ((), entry) = own.connect(Chain::new(MappingId(1), 8080, None), || Ok((source, ()))).expect("connected");
        assert!(own.chain_of(source).is_some());
        drop(entry);
        assert!(own.chain_of(source).is_none());

        let mapped: SocketAddr = "[::ffff:127.0.0.1]:40000".parse().expect("an address");
        let ((), entry) = own.connect(Chain::new(MappingId(1), 8080, None), || Ok((mapped, ()))).expect("connected");
        assert!(own.chain_of(source).is_some(), "the listener sees it come over IPv4");
        drop(entry);
        assert!(own.connect::<()>(Chain::new(MappingId(1), 1, None), || Err(io::ErrorKind::Other.into())).is_err());
        assert_eq!(own.expected.load(Ordering::SeqCst), 0);
    }
}
