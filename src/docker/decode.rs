//! `/containers/json` as model types.
//!
//! Words that are not known, such as a new state, are kept as words instead of failing the whole list. Podman's
//! answers differ in what they leave out: how the container is networked, and the address of a publication that is
//! at all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::bounded::{Few, SafeWord, ips, text};
use crate::model::container::{ComposeLabel, Container, ContainerNetwork, ContainerPort, Publication};
use crate::model::mapping::Protocol;
use crate::model::untrusted::SafeText;

/// Most containers that are kept; Docker lists the newest first.
pub(super) const MAX_CONTAINERS: usize = 10_000;
const MAX_NAMES: usize = 16;
const MAX_PORTS: usize = 256;
const MAX_NETWORKS: usize = 32;
/// How far `network_mode: container:…` is followed, against a circle.
const MAX_SHARED: usize = 4;

/// How containers are networked (`host`, `container:ID`, …), by their ids, where the list itself did not tell.
pub(super) type Modes = BTreeMap<SafeText, SafeText>;

/// What a list says.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Running ones first, then by name.
    pub(super) containers: Vec<Container>,
    /// How many more there were.
    pub(super) left_out: usize,
    /// Ids of those that run, of which neither the list nor `modes` tells how they are networked.
    pub(super) untold: Vec<SafeText>,
}

/// The containers of an answer.
pub(super) fn containers(answer: &[u8], modes: &Modes) -> Result<Listing, serde_json::Error> {
    let mut listed: Few<Listed, MAX_CONTAINERS> = serde_json::from_slice(answer)?;
    for one in &mut listed.kept {
        one.learn_mode(modes);
    }
    let untold = listed.kept.iter().filter_map(Listed::untold).collect();
    let modes: Vec<SafeText> = listed.kept.iter().map(Listed::network_mode).collect();
    let mut containers: Vec<Container> = listed.kept.into_iter().map(Listed::into_container).collect();
    share_networks(&mut containers, &modes);
    containers.sort_by(|a, b| (!a.is_running(), &a.name, &a.id).cmp(&(!b.is_running(), &b.name, &b.id)));
    Ok(Listing { containers, left_out: listed.dropped, untold })
}

/// How a container is networked, out of the answer to `/containers/ID/json`.
pub(super) fn mode_of(answer: &[u8]) -> Result<SafeText, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        host_config: Option<HostConfig>,
    }
    let inspected: Inspected = serde_json::from_slice(answer)?;
    Ok(text(inspected.host_config.and_then(|config| config.network_mode)))
}

/// A container that joined another one's network (`--network container:ID` or its name) has that one's addresses.
fn share_networks(containers: &mut [Container], modes: &[SafeText]) {
    let owner_of = |mode: &SafeText| mode.as_str().strip_prefix("container:").map(str::to_owned);
    if !modes.iter().any(|mode| owner_of(mode).is_some()) {
        return;
    }
    let by_name = containers.iter().enumerate().map(|(at, container)| (container.name.to_string(), at));
    let by_id = containers.iter().enumerate().map(|(at, container)| (container.id.to_string(), at));
    let at_of: BTreeMap<String, usize> = by_name.chain(by_id).collect();
    for at in 0..containers.len() {
        let mut owner = at;
        for _ in 0..MAX_SHARED {
            match owner_of(&modes[owner]).and_then(|id| at_of.get(&id).copied()) {
                Some(next) => owner = next,
                None => break,
            }
        }
        if owner != at && containers[owner].is_running() {
            let addresses = containers[owner].addresses.clone();
            containers[at].addresses = addresses;
            let networks = containers[owner].networks.clone();
            containers[at].networks = networks;
            containers[at].host_network = containers[owner].host_network;
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Listed {
    id: Option<SafeWord>,
    names: Option<Few<SafeWord, MAX_NAMES>>,
    image: Option<SafeWord>,
    state: Option<SafeWord>,
    labels: Option<Labels>,
    ports: Option<Few<Port, MAX_PORTS>>,
    host_config: Option<HostConfig>,
    network_settings: Option<NetworkSettings>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct HostConfig {
    network_mode: Option<SafeWord>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    networks: Option<Networks>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Network {
    #[serde(rename = "IPAddress")]
    v4: Option<SafeWord>,
    #[serde(rename = "GlobalIPv6Address")]
    v6: Option<SafeWord>,
    #[serde(rename = "Gateway")]
    v4_gateway: Option<SafeWord>,
    #[serde(rename = "IPv6Gateway")]
    v6_gateway: Option<SafeWord>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Labels {
    #[serde(rename = "com.docker.compose.project")]
    project: Option<SafeWord>,
    #[serde(rename = "com.docker.compose.service")]
    service: Option<SafeWord>,
    #[serde(rename = "com.docker.compose.container-number")]
    number: Option<SafeWord>,
    #[serde(rename = "com.docker.compose.oneoff")]
    one_off: Option<SafeWord>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Port {
    #[serde(rename = "IP")]
    host: Option<SafeWord>,
    #[serde(rename = "PrivatePort")]
    inside: Option<u16>,
    #[serde(rename = "PublicPort")]
    published: Option<u16>,
    #[serde(rename = "Type")]
    protocol: Option<SafeWord>,
}

impl Listed {
    fn learn_mode(&mut self, modes: &Modes) {
        if let Some(mode) = self.id.as_ref().and_then(|id| modes.get(&id.0)) {
            self.host_config = Some(HostConfig { network_mode: Some(SafeWord(mode.clone())) });
        }
    }

    /// Its id, if it runs on no network and nothing says why.
    fn untold(&self) -> Option<SafeText> {
        let runs = self.state.as_ref().is_some_and(|state| state.0.as_str() == "running");
        let networks = self.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        let is_untold = self.host_config.is_none() && networks.is_none_or(|networks| networks.0.is_empty());
        self.id.as_ref().filter(|_| runs && is_untold).map(|id| id.0.clone())
    }

    fn network_mode(&self) -> SafeText {
        self.host_config
            .as_ref()
            .and_then(|config| config.network_mode.as_ref())
            .map(|mode| mode.0.clone())
            .unwrap_or_default()
    }

    fn into_container(self) -> Container {
        let host_network = self.network_mode().as_str() == "host";
        let (mut networks, addresses) = (Vec::new(), vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        if !host_network {
            let listed = self.network_settings.and_then(|settings| settings.networks);
            networks = listed.map(Networks::in_order).unwrap_or_default();
        }
        let addresses = if host_network { addresses } else { addresses_of(&networks) };
        let listed_ports = self.ports.unwrap_or_default().kept;
        let state = text(self.state);
        // After a crash of the engine the list still tells what others may have by now.
        let is_there = matches!(state.as_str(), "running" | "paused" | "restarting");
        let addresses = if is_there { addresses } else { Vec::new() };
        networks.iter_mut().filter(|_| !is_there).for_each(|network| network.addresses.clear());
        Container {
            name: name(&self.names.unwrap_or_default().kept),
            id: text(self.id),
            image: text(self.image),
            state,
            addresses,
            networks,
            host_network,
            publications: publications(&listed_ports),
            ports: ports(listed_ports),
            compose: self.labels.and_then(Labels::compose),
        }
    }
}

/// Docker writes `/web`, and for each link to it `/other/alias`: its own name is the one with one slash.
fn name(names: &[SafeWord]) -> SafeText {
    let bare = |name: &SafeWord| name.0.as_str().trim_start_matches('/').to_owned();
    let own = names.iter().map(bare).find(|name| !name.contains('/'));
    own.or_else(|| names.first().map(bare)).map(SafeText::from).unwrap_or_default()
}

impl Port {
    fn protocol(&self) -> Option<Protocol> {
        match self.protocol.as_ref()?.0.as_str() {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "sctp" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// Every address at which a port is published.
fn publications(listed: &[Port]) -> Vec<Publication> {
    let one = |port: &Port| {
        // Podman names no address where it publishes at all of them.
        let ip = port.host.as_ref().map_or(Ok(Ipv4Addr::UNSPECIFIED.into()), |word| word.0.as_str().parse()).ok()?;
        let (inside, published) = (port.inside.filter(|port| *port != 0)?, port.published.filter(|port| *port != 0)?);
        Some(Publication { host: SocketAddr::new(ip, published), port: inside, protocol: port.protocol()? })
    };
    let mut publications: Vec<Publication> = listed.iter().filter_map(one).collect();
    publications.sort_unstable();
    publications.dedup();
    publications
}

fn ports(listed: Vec<Port>) -> Vec<ContainerPort> {
    let mut ports: Vec<ContainerPort> = listed
        .into_iter()
        .filter_map(|port| {
            let protocol = port.protocol()?;
            let published = port.published.filter(|port| *port != 0);
            Some(ContainerPort { port: port.inside.filter(|port| *port != 0)?, protocol, published })
        })
        .collect();
    // A port published to both families is listed twice.
    ports.sort_unstable();
    ports.dedup();
    ports
}

impl Labels {
    /// One-off containers (`docker compose run`) are no replicas of their service.
    fn compose(self) -> Option<ComposeLabel> {
        let is_one_off = self.one_off.is_some_and(|word| word.0.as_str().eq_ignore_ascii_case("true"));
        let number = self.number.and_then(|word| word.0.as_str().parse().ok()).unwrap_or(1);
        match (self.project, self.service) {
            (Some(project), Some(service)) if !is_one_off => {
                Some(ComposeLabel { project: project.0, service: service.0, number })
            }
            _ => None,
        }
    }
}

/// The networks of a container, by name.
#[derive(Default)]
struct Networks(BTreeMap<SafeText, Network>);

impl Networks {
    /// In a steady order: Docker's own `bridge` first, then a Compose project's default network, then the others by
    /// name.
    fn in_order(self) -> Vec<ContainerNetwork> {
        let mut networks: Vec<(SafeText, Network)> = self.0.into_iter().collect();
        networks.sort_by_key(|(name, _)| match name.as_str() {
            "bridge" => 0,
            name if name.ends_with("_default") => 1,
            _ => 2,
        });
        networks
            .into_iter()
            .map(|(name, network)| ContainerNetwork {
                name,
                addresses: ips([network.v4, network.v6]).into_iter().filter(|ip| can_be_a_containers(*ip)).collect(),
                gateways: ips([network.v4_gateway, network.v6_gateway]),
                ..ContainerNetwork::default()
            })
            .collect()
    }
}

/// Each address once, in the order of its networks; of each, IPv4 before IPv6.
fn addresses_of(networks: &[ContainerNetwork]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in networks.iter().flat_map(|network| &network.addresses) {
        if !addresses.contains(ip) {
            addresses.push(*ip);
        }
    }
    addresses
}

/// Loopback, wildcards and groups would lead elsewhere than to a container.
fn can_be_a_containers(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_broadcast)
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Networks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("networks by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Networks, A::Error> {
                let mut networks = BTreeMap::new();
                while let Some(name) = map.next_key::<SafeWord>()? {
                    if networks.len() < MAX_NETWORKS {
                        networks.insert(name.0, map.next_value::<Option<Network>>()?.unwrap_or_default());
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Networks(networks))
            }
        }
        deserializer.deserialize_map(Map)
    }
}

#[cfg(test)]
mod tests;
