//! Containers as the Docker API tells of them, and what is known of the engine itself.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::mapping::Protocol;
use super::untrusted::SafeText;

/// One container. Text is safe to show; names that Docker itself could not have given do not match a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The full id, 64 hex digits.
    pub id: SafeText,
    /// Name without the leading slash.
    pub name: SafeText,
    /// Image as it was named at creation.
    pub image: SafeText,
    /// Docker's word: `created`, `running`, `paused`, `restarting`, `exited`, `dead`.
    pub state: SafeText,
    /// Addresses on its networks, IPv4 and IPv6, in the order in which they are to be tried.
    pub addresses: Vec<IpAddr>,
    /// It shares the host's network namespace: its address is loopback.
    pub host_network: bool,
    /// Exposed ports, whether published or not.
    pub ports: Vec<ContainerPort>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerPort {
    /// Port inside the container.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Port on the host, where Docker publishes it.
    pub published: Option<u16>,
}

/// The labels by which Compose marks its containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeLabel {
    /// `com.docker.compose.project`.
    pub project: SafeText,
    /// `com.docker.compose.service`.
    pub service: SafeText,
    /// `com.docker.compose.container-number`.
    pub number: u32,
}

/// What is known of the Docker engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
