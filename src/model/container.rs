//! Containers as the Docker API tells of them, and what is known of the engine itself.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mapping::Protocol;
use super::untrusted::SafeText;

/// One container. Text is safe to show; names that Docker itself could not have given do not match a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Container {
    /// The full id, 64 hex digits.
    pub id: SafeText,
    /// Name without the leading slash.
    pub name: SafeText,
    /// Image as it was named at creation.
    pub image: SafeText,
    /// Docker's word: `created`, `running`, `paused`, `restarting`, `exited`, `dead`.
    pub state: SafeText,
    /// Addresses on all its networks, IPv4 and IPv6, in a steady order. Which of them are dialled, the service
    /// decides: an explicit `network`, and what this host can reach.
    pub addresses: Vec<IpAddr>,
    /// Its networks, in the same order.
    pub networks: Vec<ContainerNetwork>,
    /// It shares the host's network namespace: its address is loopback.
    pub host_network: bool,
    /// Exposed ports, whether published or not.
    pub ports: Vec<ContainerPort>,
    /// Where Docker publishes ports of it, each address by itself.
    pub publications: Vec<Publication>,
    /// Project, service and replica number where Compose made it.
    pub compose: Option<ComposeLabel>,
}

impl Container {
    /// Whether it runs, so that it can have an address.
    pub fn is_running(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused")
    }
}

/// A port that the image or the user declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct ContainerPort {
    /// Port inside the container.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Port on the host, where Docker publishes it.
    pub published: Option<u16>,
}

/// One network of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerNetwork {
    /// Its name, such as `bridge` or `shop_default`.
    pub name: SafeText,
    /// Its driver (`bridge`, `macvlan`, …); empty where the engine has not told.
    pub driver: SafeText,
    /// Made with `--internal`: it leads nowhere else.
    pub is_internal: bool,
    /// The container's addresses on it, IPv4 before IPv6.
    pub addresses: Vec<IpAddr>,
    /// Its gateways: on a bridge, addresses of the host that the engine runs on.
    pub gateways: Vec<IpAddr>,
}

/// A port of a container that Docker publishes at one address of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Publication {
    /// Where: `0.0.0.0:8080` or `[::]:8080` unless an address was asked for.
    pub host: SocketAddr,
    /// The port inside the container.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// The labels by which Compose marks its containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ComposeLabel {
    /// `com.docker.compose.project`.
    pub project: SafeText,
    /// `com.docker.compose.service`.
    pub service: SafeText,
    /// `com.docker.compose.container-number`.
    pub number: u32,
}

/// What is known of the Docker engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DockerState {
    /// Nothing asked for it yet, or the first answer is still to come.
    #[default]
    Unknown,
    /// The event stream is open; the list of containers is current.
    Connected,
    /// It cannot be reached: why, and that mappings by address still work. Tried again with backoff.
    Unavailable {
        /// For example `cannot open /var/run/docker.sock: permission denied`.
        reason: SafeText,
    },
}

/// Whether this host reaches the containers of the engine by their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum EnginePlace {
    /// The engine has not told yet.
    #[default]
    Unknown,
    /// Its networks are this host's: containers are dialled by their addresses.
    Here,
    /// Its networks are another host's, a virtual machine's or a namespace's: an address of a container there may
    /// belong to somebody else here, and is never dialled.
    Elsewhere {
        /// Such as `rootless: its network is its own`.
        reason: SafeText,
        /// Where its published ports are found: loopback for an engine that publishes on this host.
        published_at: Option<IpAddr>,
    },
}

/// A socket that listens inside a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InsideListener {
    /// Where.
    pub address: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// IPv6 alone: an IPv4 client is refused. `None` where the source does not tell.
    pub is_v6_only: Option<bool>,
    /// The process, such as `nginx (pid 812)`, where it can be seen.
    pub process: Option<SafeText>,
}
