//! What the engine hands to a listener and through it to each of its connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::descriptors::DescriptorBudget;
use super::engine::TestHook;
use super::meter::MappingMeter;
use super::registry::Registry;
use crate::model::mapping::HostPort;
use crate::model::profile::MappingConfig;
use crate::model::untrusted::SafeText;

/// Where a target is now. Addresses reach the engine as data; it resolves nothing itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// To be tried in this order. Ports are ignored (the mapping says them); IPv6 scope ids count.
    Known(Vec<SocketAddr>),
    /// No address now: clients are reset at once and the mapping is `waiting`.
    Waiting {
        /// For example `container web_1 is stopped: the mapping waits`.
        reason: SafeText,
    },
    /// It must not be dialled (it would forward to itself): the mapping is `failed` and its listeners close.
    Refused {
        /// Why.
        reason: SafeText,
    },
}

impl Addresses {
    /// The addresses, if there are any.
    pub fn ips(&self) -> Vec<IpAddr> {
        match self {
            Self::Known(known) => known.iter().map(SocketAddr::ip).collect(),
            Self::Waiting { .. } | Self::Refused { .. } => Vec::new(),
        }
    }
}

/// Where connections go from now on; those that stand keep theirs.
#[derive(Clone, Debug)]
pub struct Route {
    /// Timeouts, caps and the target's ports.
    pub config: Arc<MappingConfig>,
    /// Where the target is.
    pub addresses: Addresses,
}

impl Route {
    /// The target's port for connections of the socket that is bound to `port`.
    pub fn target_port(&self, port: u16) -> u16 {
        let mapping = &self.config.mapping;
        let offset = match mapping.listen.port {
            HostPort::Ports(range) if (range.first()..=range.last()).contains(&port) => port - range.first(),
            HostPort::Ports(_) | HostPort::Auto => 0,
        };
        mapping.target.ports.first().saturating_add(offset)
    }
}

/// What one listening socket needs to serve.
#[derive(Clone, Debug)]
pub struct ListenerContext {
    /// Counters of the mapping.
    pub meter: Arc<MappingMeter>,
    /// All connections.
    pub registry: Arc<Registry>,
    /// Where connections go; changes while the listener stands.
    pub route: watch::Receiver<Arc<Route>>,
    /// The port that this socket is bound to; its place in the range says the target's port.
    pub port: u16,
    /// Descriptors that connections take.
    pub descriptors: Arc<DescriptorBudget>,
    /// Cancelled to drain: the listening socket closes, connections go on.
    /// A connection itself ends by its record's `kill`.
    pub drain: CancellationToken,
    /// For tests: called with the record of each new flow.
    pub hook: Option<TestHook>,
}

impl ListenerContext {
    /// The target's port for connections of this socket.
    ///
    /// Made from the route and not kept, since an edit can move a port to another place in its range.
    pub fn target_port(&self, route: &Route) -> u16 {
        route.target_port(self.port)
    }

    /// The target as written, with its port for connections of this socket.
    pub fn target(&self, route: &Route) -> Arc<str> {
        format!("{}:{}", route.config.mapping.target.host, self.target_port(route)).into()
    }
}
