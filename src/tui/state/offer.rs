//! What a container offers to be mapped: the target by which it is reached, and a port of this host for it.

use std::net::{IpAddr, SocketAddr};

use crate::model::container::{Container, ContainerPort, EnginePlace};
use crate::model::format;
use crate::model::mapping::{HostPort, Protocol, Target, TargetHost};

use super::world::{MappingItem, World};

/// Ports below this need a capability.
pub const UNPRIVILEGED: u16 = 1_024;
/// What is proposed in place of one of those: 80 becomes 8080, 443 becomes 8443.
const RAISED: u16 = 8_000;

/// A target without its port, and the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// As the grammar writes it: `web_1`, or `localhost` for an engine that is elsewhere.
    pub host: String,
    /// The port to forward to.
    pub port: u16,
}

impl Offer {
    /// As the grammar writes it.
    pub fn target(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// How a port of a container is reached from here; `None`: not at all, since the engine is elsewhere and does not
/// publish it.
pub fn offer(container: &Container, port: &ContainerPort, place: &EnginePlace) -> Option<Offer> {
    let EnginePlace::Elsewhere { published_at, .. } = place else {
        return Some(Offer { host: host(container), port: port.port });
    };
    let at = published_at.as_ref()?;
    let published = container
        .publications
        .iter()
        .filter(|publication| publication.port == port.port && publication.protocol == port.protocol)
        .map(|publication| publication.host.port())
        .next()
        .or(port.published)?;
    let host = if at.is_loopback() { "localhost".to_owned() } else { format::address(*at) };
    Some(Offer { host, port: published })
}

/// The container as a target: by its name, with `container/` where a name alone would mean something else.
pub fn host(container: &Container) -> String {
    let name = container.name.as_str();
    let plain = format!("{name}:1").parse::<Target>();
    let is_itself =
        plain.is_ok_and(|target| matches!(&target.host, TargetHost::Container { name: of, .. } if of == name));
    if is_itself { name.to_owned() } else { format!("container/{name}") }
}

/// The port of this host that is proposed for a container's port, as far as the screen knows: the same number where
/// anybody may take it. `None`: let the service choose.
pub fn host_port(port: u16, is_taken: impl Fn(u16) -> bool) -> Option<u16> {
    let first = if port < UNPRIVILEGED { port + RAISED } else { port };
    (first..=u16::MAX).take(1_000).find(|port| !is_taken(*port))
}

/// Whether a port of this host is used already, by a mapping or a publication that the screen knows of.
pub fn is_taken(world: &World, port: u16, protocol: Protocol) -> bool {
    let by_mapping =
        world.mappings.values().filter(|item| item.row.mapping.protocol == protocol).any(|item| {
            match item.row.mapping.listen.port {
                HostPort::Ports(range) => (range.first()..=range.last()).contains(&port),
                HostPort::Auto => item.row.listeners.iter().any(|l| l.bound.is_some_and(|at| at.port() == port)),
            }
        });
    // An engine elsewhere publishes on loopback of this host all the same, if anywhere.
    by_mapping
        || world
            .containers
            .values()
            .flat_map(|container| &container.publications)
            .any(|publication| publication.host.port() == port && publication.protocol == protocol)
}

/// Our mapping that goes to a port of a container.
pub fn mapped<'a>(world: &'a World, container: &Container, port: u16, protocol: Protocol) -> Option<&'a MappingItem> {
    let mut found: Vec<_> = world
        .mappings
        .values()
        .filter(|item| !item.row.is_docker() && item.row.mapping.protocol == protocol)
        .filter(|item| goes_to(&item.row.mapping.target, container, port, &world.overview.engine_place))
        .collect();
    found.sort_by_key(|item| item.row.id);
    found.into_iter().next()
}

fn goes_to(target: &Target, container: &Container, port: u16, place: &EnginePlace) -> bool {
    let has = |port: u16| (target.ports.first()..=target.ports.last()).contains(&port);
    let elsewhere = matches!(place, EnginePlace::Elsewhere { .. });
    let published = || {
        let of_port = container.publications.iter().filter(|publication| publication.port == port);
        elsewhere && of_port.map(|publication| publication.host.port()).any(has)
    };
    match &target.host {
        TargetHost::Container { name, .. } => {
            let is_id = name.len() >= 4 && container.id.as_str().starts_with(name.as_str());
            (container.name.as_str() == name || is_id) && has(port)
        }
        TargetHost::Compose { project, service } => {
            let label = container.compose.as_ref();
            label.is_some_and(|label| label.project.as_str() == project && label.service.as_str() == service)
                && has(port)
        }
        TargetHost::Ip(ip) => container.addresses.contains(&ip.ip) && has(port) || ip.ip.is_loopback() && published(),
        TargetHost::Localhost => container.host_network && has(port) || published(),
        TargetHost::Dns(_) => false,
    }
}

/// `80 443 53/udp`: what it exposes, tcp left out.
pub fn exposed(container: &Container) -> Vec<String> {
    let mut ports: Vec<_> = container
        .ports
        .iter()
        .map(|port| match port.protocol {
            Protocol::Tcp => port.port.to_string(),
            other => format::port(port.port, other),
        })
        .collect();
    ports.dedup();
    ports
}

/// `0.0.0.0:8080 -> 80/tcp`.
pub fn publication(host: SocketAddr, port: u16, protocol: Protocol) -> String {
    format!("{host} -> {}", format::port(port, protocol))
}

/// Its addresses of one family, or of both.
pub fn addresses(container: &Container, takes: fn(&IpAddr) -> bool) -> Vec<String> {
    container.addresses.iter().filter(|ip| takes(ip)).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::container::Publication;
    use crate::model::untrusted::SafeText;

    fn container(name: &str) -> Container {
        let text = SafeText::new;
        Container {
            id: text("5a5a"),
            name: text(name),
            image: text("nginx"),
            state: text("running"),
            addresses: Vec::new(),
            networks: Vec::new(),
            host_network: false,
            ports: vec![ContainerPort { port: 80, protocol: Protocol::Tcp, published: Some(32_768) }],
            publications: vec![Publication {
                host: "0.0.0.0:32768".parse().expect("an address"),
                port: 80,
                protocol: Protocol::Tcp,
            }],
            compose: None,
        }
    }

    #[test]
    fn a_name_that_means_something_else_is_written_with_its_kind() {
        for (name, written) in
            [("web_1", "web_1"), ("localhost", "container/localhost"), ("10.0.0.1", "container/10.0.0.1")]
        {
            assert_eq!(host(&container(name)), written);
        }
    }

    #[test]
    fn of_an_engine_elsewhere_the_published_port_is_offered_and_never_an_address() {
        let (web, reason) = (container("web_1"), SafeText::new("rootless: its network is its own"));
        let port = &web.ports[0];
        let elsewhere = |at: Option<&str>| EnginePlace::Elsewhere {
            reason: reason.clone(),
            published_at: at.map(|at| at.parse().expect("an address")),
        };
        let target = |place: &EnginePlace| offer(&web, port, place).map(|offer| offer.target());
        assert_eq!(target(&EnginePlace::Here).as_deref(), Some("web_1:80"));
        assert_eq!(target(&elsewhere(Some("127.0.0.1"))).as_deref(), Some("localhost:32768"));
        assert_eq!(target(&elsewhere(Some("192.0.2.9"))).as_deref(), Some("192.0.2.9:32768"));
        assert_eq!(target(&elsewhere(None)), None);
    }

    #[test]
    fn a_port_that_anybody_may_take_is_proposed() {
        assert_eq!(host_port(80, |_| false), Some(8080));
        assert_eq!(host_port(443, |port| port == 8443), Some(8444));
        assert_eq!(host_port(5432, |_| false), Some(5432));
        assert_eq!(host_port(1, |_| true), None);
    }
}
