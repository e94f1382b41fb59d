//! The containers of the story, and who listens inside them.

use std::net::IpAddr;
use std::sync::LazyLock;

use crate::model::container::{ComposeLabel, Container, ContainerNetwork, ContainerPort, InsideListener, Publication};
use crate::model::mapping::Protocol;
use crate::model::request::Reply;
use crate::model::untrusted::SafeText;

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;

/// A container in as few words as it takes.
struct Cast {
    name: &'static str,
    image: &'static str,
    state: &'static str,
    addresses: &'static [&'static str],
    ports: &'static [(u16, Protocol)],
    published: &'static [(&'static str, u16)],
    service: Option<&'static str>,
    /// Who listens inside: where, by which protocol, which process.
    inside: &'static [(&'static str, Protocol, &'static str)],
}

const CAST: [Cast; 6] = [
    Cast {
        name: "api_1",
        image: "node:22-alpine",
        state: "running",
        addresses: &["172.17.0.4"],
        ports: &[(9000, TCP)],
        published: &[],
        service: Some("api"),
        inside: &[("[::]:9000", TCP, "node (pid 1)")],
    },
    Cast {
        name: "dns_1",
        image: "coredns:1.12",
        state: "running",
        addresses: &["172.17.0.5"],
        ports: &[(53, TCP), (53, UDP)],
        published: &[],
        service: Some("dns"),
        inside: &[("[::]:53", TCP, "coredns (pid 1)"), ("[::]:53", UDP, "coredns (pid 1)")],
    },
    Cast {
        name: "grafana",
        image: "grafana/grafana:11.4.0",
        state: "running",
        addresses: &["172.17.0.6"],
        ports: &[(3000, TCP)],
        published: &[("0.0.0.0:3000", 3000), ("[::]:3000", 3000)],
        service: None,
        // Nothing is seen of it.
        inside: &[],
    },
    Cast {
        name: "web_1",
        image: "nginx:1.27",
        state: "running",
        addresses: &["172.17.0.2", "fd00::2"],
        ports: &[(80, TCP), (443, TCP)],
        published: &[],
        service: Some("web"),
        inside: &[("0.0.0.0:80", TCP, "nginx (pid 7)"), ("127.0.0.1:8443", TCP, "nginx (pid 7)")],
    },
    Cast {
        name: "web_2",
        image: "nginx:1.27",
        state: "running",
        addresses: &["172.17.0.3"],
        ports: &[(80, TCP)],
        published: &[],
        service: Some("web"),
        inside: &[("0.0.0.0:80", TCP, "nginx (pid 7)"), ("[::]:80", TCP, "nginx (pid 7)")],
    },
    Cast {
        name: "web_old",
        image: "nginx:1.25",
        state: "exited",
        addresses: &[],
        ports: &[(80, TCP)],
        published: &[],
        service: None,
        inside: &[],
    },
];

/// The containers, by name; running ones first.
pub(super) fn containers() -> &'static [Container] {
    static CONTAINERS: LazyLock<Vec<Container>> = LazyLock::new(|| CAST.iter().map(container).collect());
    &CONTAINERS
}

fn container(cast: &Cast) -> Container {
    // Any 64 hex digits will do.
    let id: String = cast
        .name
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .chain(std::iter::repeat("5a".to_owned()))
        .take(32)
        .collect();
    let addresses: Vec<IpAddr> = cast.addresses.iter().filter_map(|address| address.parse().ok()).collect();
    let gateways = ["172.17.0.1", "fd00::1"].iter().filter_map(|ip| ip.parse().ok()).take(addresses.len()).collect();
    let network = ContainerNetwork {
        name: SafeText::new("bridge"),
        driver: SafeText::new("bridge"),
        is_internal: false,
        addresses: addresses.clone(),
        gateways,
    };
    let publications: Vec<_> = cast
        .published
        .iter()
        .filter_map(|(host, port)| Some(Publication { host: host.parse().ok()?, port: *port, protocol: TCP }))
        .collect();
    let published = |port: u16| publications.iter().find(|of| of.port == port).map(|of| of.host.port());
    let ports = cast.ports.iter();
    Container {
        id: SafeText::new(&id),
        name: SafeText::new(cast.name),
        image: SafeText::new(cast.image),
        state: SafeText::new(cast.state),
        networks: if addresses.is_empty() { Vec::new() } else { vec![network] },
        addresses,
        host_network: false,
        ports: ports
            .map(|(port, protocol)| ContainerPort { port: *port, protocol: *protocol, published: published(*port) })
            .collect(),
        publications,
        compose: cast.service.map(|service| ComposeLabel {
            project: SafeText::new("shop"),
            service: SafeText::new(service),
            number: if cast.name.ends_with('2') { 2 } else { 1 },
        }),
    }
}

/// Who listens inside a container; `None`: there is no such one.
pub(super) fn inside(id: &SafeText) -> Option<Reply> {
    let at = containers().iter().position(|container| container.id == *id)?;
    let cast = &CAST[at];
    let listeners: Vec<_> = cast
        .inside
        .iter()
        .filter_map(|(address, protocol, process)| {
            Some(InsideListener {
                address: address.parse().ok()?,
                protocol: *protocol,
                is_v6_only: None,
                process: Some(SafeText::new(process)),
            })
        })
        .collect();
    let unseen = listeners.is_empty().then(|| SafeText::new("cannot see inside: needs root"));
    Some(Reply::Inside { listeners, unseen })
}
