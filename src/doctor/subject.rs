//! What is known of a mapping before anything is looked at. Plain data: whoever asks fills it in.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::host::addresses::OwnAddresses;
use crate::model::container::{Container, DockerState, EnginePlace};
use crate::model::mapping::{Family, HostPort, Listen, Protocol};
use crate::model::profile::MappingConfig;
use crate::model::speech::Conversation;
use crate::model::untrusted::SafeText;
use crate::model::update::LastResult;

/// Most addresses of a target that are tried.
const MOST_ADDRESSES: usize = 8;

/// A mapping, and what is known of it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The mapping.
    pub config: MappingConfig,
    /// What the engine that runs it says; `None`: it is looked at from outside.
    pub engine: Option<EngineView>,
    /// Where its target is.
    pub target: Whereabouts,
    /// The way of a connection that would come back to it.
    pub circle: Option<SafeText>,
    /// Why the engine that runs it gives no aliases.
    pub alias_refusal: Option<SafeText>,
    /// The state of Docker.
    pub docker: DockerState,
    /// Whether its containers can be reached from here.
    pub place: EnginePlace,
    /// Its containers.
    pub containers: Arc<Vec<Container>>,
    /// The container that the target was last found to mean.
    pub kept: Option<String>,
    /// The addresses of this host.
    pub own: OwnAddresses,
}

/// Where a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// There, in the order of trying. Ports are ignored.
    Known(Vec<SocketAddr>),
    /// Nowhere now; why.
    Nowhere(SafeText),
}

/// What the engine says of a mapping that it runs.
#[derive(Clone, Debug, Default)]
pub struct EngineView {
    /// Each family asked for.
    pub listeners: Vec<ListenerView>,
    /// The limit that bites now.
    pub limit: Option<LimitView>,
    /// Descriptors in use, and the most.
    pub descriptors: (u64, u64),
    /// Connections open now.
    pub connections: u64,
    /// Outcome of the last real attempts to reach the target.
    pub last_result: Option<LastResult>,
    /// What the last connections spoke, the newest last.
    pub conversations: Vec<Conversation>,
}

/// A family of a mapping that runs.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// Which.
    pub family: Family,
    /// As it was asked for.
    pub wanted: String,
    /// First bound address.
    pub bound: Option<SocketAddr>,
    /// Why it is not bound.
    pub problem: Option<(ListenProblem, SafeText)>,
}

/// Why an address is not listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenProblem {
    /// Somebody holds it.
    InUse {
        /// Where.
        address: SocketAddr,
        /// Who, where it is known.
        holder: Option<SafeText>,
    },
    /// It needs a capability.
    Privileged(u16),
    /// It is not of this host, or its interface is not.
    NotLocal,
    /// The host lacks the family.
    NoFamily,
    /// The kernel lacks the protocol.
    NoProtocol,
    /// Out of descriptors.
    Descriptors,
    /// Anything else.
    Other,
}

/// A limit that clients meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitView {
    /// Descriptors.
    Descriptors(SafeText),
    /// The mapping's own `max_connections`.
    Connections(SafeText),
    /// Addresses of the alias pool.
    Aliases(SafeText),
    /// Memory of the kernel.
    Memory(SafeText),
}

impl Subject {
    /// The addresses that are dialled, with the first port.
    pub fn dialled(&self) -> Vec<SocketAddr> {
        let Whereabouts::Known(addresses) = &self.target else { return Vec::new() };
        let mut dialled: Vec<SocketAddr> = addresses.iter().take(MOST_ADDRESSES).copied().collect();
        for address in &mut dialled {
            address.set_port(self.config.mapping.target.ports.first());
        }
        // Datagrams go to the first alone.
        if self.protocol() == Protocol::Udp {
            dialled.truncate(1);
        }
        dialled
    }

    /// The protocol of both sides.
    pub fn protocol(&self) -> Protocol {
        self.config.mapping.protocol
    }

    /// The listen side, with the port that `auto` was given.
    pub fn listen(&self) -> Listen {
        let listen = &self.config.mapping.listen;
        let bound = self.engine.iter().flat_map(|engine| &engine.listeners).find_map(|listener| listener.bound);
        match (listen.port, bound.and_then(|bound| crate::model::mapping::PortRange::single(bound.port()))) {
            (HostPort::Auto, Some(port)) => Listen { port: HostPort::Ports(port), ..listen.clone() },
            _ => listen.clone(),
        }
    }

    /// The first port that is listened on; `None` with `auto` that is not bound.
    pub fn listen_port(&self) -> Option<u16> {
        match self.listen().port {
            HostPort::Ports(ports) => Some(ports.first()),
            HostPort::Auto => None,
        }
    }

    /// The container that has this address of the target, if it is one of those that are seen here.
    pub fn container_at(&self, address: SocketAddr) -> Option<&Container> {
        if matches!(self.place, EnginePlace::Elsewhere { .. }) {
            return None;
        }
        let has_it = |container: &&Container| {
            container.is_running() && !container.host_network && container.addresses.contains(&address.ip())
        };
        let mut having = self.containers.iter().filter(has_it);
        let kept = self.kept.as_deref();
        // Several share one address when one has joined another's network.
        having.clone().find(|container| kept == Some(container.id.as_str())).or_else(|| having.next())
    }

    /// Whether a network of this container is one of this host's: the host has an address on it.
    pub fn is_on_our_network(&self, container: &Container) -> bool {
        container.networks.iter().flat_map(|network| &network.gateways).any(|gateway| self.own.contains(*gateway))
    }
}
