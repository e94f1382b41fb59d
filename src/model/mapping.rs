//! The mapping grammar: `[ADDRESS:]PORT[-PORT]:TARGET:PORT[-PORT][/tcp|/udp|/sctp]` (contract §1).
//!
//! Values of these types are valid by construction; their `Display` is the text that parses back to them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A mapping: listen here, forward there, by this protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mapping {
    /// The host's side.
    pub listen: Listen,
    /// The container's side.
    pub target: Target,
    /// The protocol of both sides.
    pub protocol: Protocol,
}

/// The host's side of a mapping: `[ADDRESS:]PORT[-PORT]` or `[ADDRESS:]auto`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen {
    /// Which addresses of the host.
    pub address: ListenAddress,
    /// Which ports.
    pub port: HostPort,
}

/// The container's side of a mapping: `TARGET:PORT[-PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    /// Who is dialled.
    pub host: TargetHost,
    /// The ports, as many as the host's side has.
    pub ports: PortRange,
}

/// The addresses of the host on which a mapping listens. IPv6 sockets are always V6ONLY.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenAddress {
    /// Left out or `localhost`: 127.0.0.1 and `::1`.
    Localhost,
    /// `any` or `*`: 0.0.0.0 and `::`.
    Any,
    /// One address; `0.0.0.0` is every IPv4 address alone and `[::]` every IPv6 address alone.
    Ip(ScopedIp),
}

/// An address with the interface that a link-local one needs (`fe80::1%eth0`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopedIp {
    /// The address.
    pub ip: IpAddr,
    /// Interface name; only with an IPv6 link-local address.
    pub zone: Option<String>,
}

/// The port or ports of the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPort {
    /// `auto`: one number that is free in every family asked for, chosen anew at each start.
    Auto,
    /// One port or a range.
    Ports(PortRange),
}

/// One or more consecutive ports, none of them 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Who is dialled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetHost {
    /// That address.
    Ip(ScopedIp),
    /// `localhost`: 127.0.0.1 and `::1`, without DNS.
    Localhost,
    /// `web_1` or `container/web_1`: exact name first, then an id prefix of at least 4 hex digits.
    Container {
        /// Name or id prefix.
        name: String,
        /// Written with `container/`.
        explicit: bool,
    },
    /// `compose/PROJECT/SERVICE`.
    Compose {
        /// The Compose project.
        project: String,
        /// The service in it.
        service: String,
    },
    /// `host/NAME`: a DNS name.
    Dns(String),
}

impl TargetHost {
    /// Whether it is this host's loopback in any writing, as far as the text says: the kernel dials loopback for no
    /// address at all, and `localhost` and all names below it are loopback (RFC 6761).
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Localhost => true,
            Self::Ip(scoped) => {
                let ip = scoped.ip.to_canonical();
                ip.is_loopback() || ip.is_unspecified()
            }
            Self::Dns(name) => {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                name == "localhost" || name.ends_with(".localhost")
            }
            Self::Container { .. } | Self::Compose { .. } => false,
        }
    }

    /// Whether it is a container, whose addresses go to others when it stops.
    pub fn is_container(&self) -> bool {
        matches!(self, Self::Container { .. } | Self::Compose { .. })
    }
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, where the kernel has it.
    Sctp,
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Mapping {
    /// Whether other machines can reach it.
    pub fn is_exposed(&self) -> bool {
        self.listen.address.is_exposed()
    }

    /// How many ports each side has.
    pub fn port_count(&self) -> u32 {
        match self.listen.port {
            HostPort::Auto => 1,
            HostPort::Ports(range) => range.count(),
        }
    }
}

impl ListenAddress {
    /// Whether other machines can reach it: anything but loopback.
    pub fn is_exposed(&self) -> bool {
        match self {
            Self::Localhost => false,
            Self::Any => true,
            Self::Ip(scoped) => !scoped.ip.is_loopback(),
        }
    }

    /// The addresses to bind, IPv4 before IPv6.
    pub fn addresses(&self) -> Vec<ScopedIp> {
        let both = |v4: Ipv4Addr, v6: Ipv6Addr| vec![IpAddr::V4(v4).into(), IpAddr::V6(v6).into()];
        match self {
            Self::Localhost => both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
            Self::Any => both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
            Self::Ip(scoped) => vec![scoped.clone()],
        }
    }
}

impl PortRange {
    /// The ports from `first` to `last`; `None` when one is 0 or `last` lies before `first`.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// One port; `None` for 0.
    pub fn single(port: u16) -> Option<Self> {
        Self::new(port, port)
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many ports.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Every port, in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u16> + Clone {
        (0..self.count() as usize).map(move |offset| self.first + u16::try_from(offset).unwrap_or(0))
    }
}

impl Family {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl From<IpAddr> for ScopedIp {
    fn from(ip: IpAddr) -> Self {
        Self { ip, zone: None }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        })
    }
}

/// As it stands in front of a port: IPv6 in brackets.
impl fmt::Display for ScopedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, &self.zone) {
            (IpAddr::V4(ip), _) => write!(f, "{ip}"),
            (IpAddr::V6(ip), None) => write!(f, "[{ip}]"),
            (IpAddr::V6(ip), Some(zone)) => write!(f, "[{ip}%{zone}]"),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Ports(range) => range.fmt(f),
        }
    }
}

/// The address always stands, `localhost` too, so that a reader need not know the default.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            ListenAddress::Localhost => write!(f, "localhost:{}", self.port),
            ListenAddress::Any => write!(f, "any:{}", self.port),
            ListenAddress::Ip(scoped) => write!(f, "{scoped}:{}", self.port),
        }
    }
}

impl fmt::Display for TargetHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(scoped) => scoped.fmt(f),
            Self::Localhost => f.write_str("localhost"),
            Self::Container { name, explicit: true } => write!(f, "container/{name}"),
            Self::Container { name, explicit: false } => f.write_str(name),
            Self::Compose { project, service } => write!(f, "compose/{project}/{service}"),
            Self::Dns(name) => write!(f, "host/{name}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.ports)
    }
}

/// The protocol stands only where it is not tcp.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.listen, self.target)?;
        if self.protocol != Protocol::Tcp {
            write!(f, "/{}", self.protocol)?;
        }
        Ok(())
    }
}

impl From<Mapping> for String {
    fn from(mapping: Mapping) -> Self {
        mapping.to_string()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}
