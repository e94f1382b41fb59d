//! The ports that Docker publishes, as it says itself: one of a container at one host port, both families together.
//!
//! Pure. Names of containers are outside text: a mapping is made only where its text reads back as the same.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::container::Container;
use crate::model::mapping::{HostPort, Listen, ListenAddress, Mapping, PortRange, Protocol, Target, TargetHost};
use crate::model::untrusted::SafeText;

/// Most of them that are looked at; a host with more is told so by the log.
pub(super) const MOST_PORTS: usize = 2_048;

/// What makes two of them the same, while the container's other publications come and go.
pub(super) type PortKey = (SafeText, Protocol, u16, u16, Vec<IpAddr>);

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) key: PortKey,
    /// `docker/web_1/80-tcp`.
    pub(super) name: String,
    pub(super) mapping: Mapping,
    /// Where it is published, IPv4 first.
    pub(super) hosts: Vec<SocketAddr>,
    /// Where it leads: the container's addresses with its port.
    pub(super) targets: Vec<SocketAddr>,
}

impl Port {
    pub(super) fn protocol(&self) -> Protocol {
        self.mapping.protocol
    }

    /// Whether a connection to `at` comes by this port.
    pub(super) fn is_at(&self, at: SocketAddr) -> bool {
        self.hosts.iter().any(|host| is_at(*host, at))
    }
}

/// Whether who listens at `host` is who gets a connection to `at`.
pub(super) fn is_at(host: SocketAddr, at: SocketAddr) -> bool {
    let ip = at.ip().to_canonical();
    host.port() == at.port() && (host.ip() == ip || (host.ip().is_unspecified() && host.is_ipv4() == ip.is_ipv4()))
}

/// Every port that these containers publish, in their order.
pub(super) fn ports(containers: &[Container]) -> Vec<Port> {
    let mut names = HashSet::new();
    let mut ports = Vec::new();
    for container in containers {
        let mut published: BTreeMap<(Protocol, u16, u16), Vec<IpAddr>> = BTreeMap::new();
        for publication in &container.publications {
            let at = (publication.protocol, publication.port, publication.host.port());
            published.entry(at).or_default().push(publication.host.ip());
        }
        for ((protocol, inside, outside), mut ips) in published {
            for (address, ips) in listens(&mut ips) {
                let Some(mapping) = mapping(&address, outside, container, inside, protocol) else { continue };
                let base = format!("docker/{}/{inside}-{protocol}", container.name);
                let with_port = format!("{base}-{outside}");
                let with_address = format!("{with_port}@{}", ips[0]);
                let free = [base, with_port, with_address].into_iter().find(|name| !names.contains(name));
                let Some(name) = free else { continue };
                names.insert(name.clone());
                if ports.len() == MOST_PORTS {
                    tracing::warn!("more than {MOST_PORTS} ports are published: the rest is left out");
                    return ports;
                }
                ports.push(Port {
                    key: (container.id.clone(), protocol, inside, outside, ips.clone()),
                    name,
                    mapping,
                    hosts: ips.into_iter().map(|ip| SocketAddr::new(ip, outside)).collect(),
                    targets: container.addresses.iter().map(|ip| SocketAddr::new(*ip, inside)).collect(),
                });
            }
        }
    }
    ports
}

/// Addresses as a mapping has them: both wildcards are `any`, both loopbacks `localhost`, others stand alone.
fn listens(ips: &mut Vec<IpAddr>) -> Vec<(ListenAddress, Vec<IpAddr>)> {
    ips.sort_unstable();
    ips.dedup();
    let mut listens = Vec::new();
    let pairs = [
        (ListenAddress::Any, Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
        (ListenAddress::Localhost, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
    ];
    for (both, v4, v6) in pairs {
        let pair = [IpAddr::V4(v4), IpAddr::V6(v6)];
        if pair.iter().all(|ip| ips.contains(ip)) {
            ips.retain(|ip| !pair.contains(ip));
            listens.push((both, pair.to_vec()));
        }
    }
    listens.extend(ips.iter().map(|ip| (ListenAddress::Ip((*ip).into()), vec![*ip])));
    listens
}

/// The target is the container by its name, plain or explicit, or else its address; `None` where it has neither.
fn mapping(
    address: &ListenAddress,
    outside: u16,
    container: &Container,
    inside: u16,
    protocol: Protocol,
) -> Option<Mapping> {
    let listen = Listen { address: address.clone(), port: HostPort::Ports(PortRange::single(outside)?) };
    let ports = PortRange::single(inside)?;
    let by_name = |explicit| TargetHost::Container { name: container.name.as_str().to_owned(), explicit };
    let by_address = container.addresses.iter().map(|ip| TargetHost::Ip((*ip).into()));
    let hosts = [by_name(false), by_name(true)].into_iter().chain(by_address);
    let mappings = hosts.map(|host| Mapping { listen: listen.clone(), target: Target { host, ports }, protocol });
    let reads_back = |mapping: &Mapping| {
        mapping.to_string().parse().is_ok_and(|read: Mapping| read == *mapping)
            && mapping.target.to_string().parse().is_ok_and(|read: Target| read == mapping.target)
    };
    mappings.into_iter().find(reads_back)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::container::Publication;

    pub(in super::super) fn container(
        name: &str,
        addresses: &[&str],
        published: &[(&str, u16, Protocol)],
    ) -> Container {
        Container {
            id: SafeText::new(&format!("id of {name}")),
            name: name.into(),
            image: "busybox".into(),
            state: "running".into(),
            addresses: addresses.iter().map(|ip| ip.parse().expect("address")).collect(),
            networks: vec![],
            host_network: false,
            ports: vec![],
            publications: published
                .iter()
                .map(|(host, port, protocol)| Publication {
                    host: host.parse().expect("address"),
                    port: *port,
                    protocol: *protocol,
                })
                .collect(),
            compose: None,
        }
    }

    fn told(containers: &[Container]) -> Vec<String> {
        ports(containers).iter().map(|port| format!("{} {}", port.name, port.mapping)).collect()
    }

    #[test]
    fn both_families_of_a_port_are_one_row() {
        use Protocol::{Tcp, Udp};
        for (published, rows) in [
            (vec![("0.0.0.0:8080", 80, Tcp), ("[::]:8080", 80, Tcp)], vec!["docker/web_1/80-tcp any:8080:web_1:80"]),
            (
                vec![("127.0.0.1:8080", 80, Tcp), ("[::1]:8080", 80, Tcp)],
                vec!["docker/web_1/80-tcp localhost:8080:web_1:80"],
            ),
            (vec![("0.0.0.0:8080", 80, Tcp)], vec!["docker/web_1/80-tcp 0.0.0.0:8080:web_1:80"]),
            (
                vec![("192.0.2.1:8080", 80, Tcp), ("192.0.2.2:8080", 80, Tcp), ("[2001:db8::1]:8080", 80, Tcp)],
                vec![
                    "docker/web_1/80-tcp 192.0.2.1:8080:web_1:80",
                    "docker/web_1/80-tcp-8080 192.0.2.2:8080:web_1:80",
                    "docker/web_1/80-tcp-8080@2001:db8::1 [2001:db8::1]:8080:web_1:80",
                ],
            ),
            (
                vec![("0.0.0.0:8080", 80, Tcp), ("0.0.0.0:8081", 80, Tcp), ("0.0.0.0:53", 53, Udp)],
                vec![
                    "docker/web_1/80-tcp 0.0.0.0:8080:web_1:80",
                    "docker/web_1/80-tcp-8081 0.0.0.0:8081:web_1:80",
                    "docker/web_1/53-udp 0.0.0.0:53:web_1:53/udp",
                ],
            ),
        ] {
            let container = container("web_1", &["172.17.0.2"], &published);
            assert_eq!(told(&[container]), rows, "{published:?}");
        }
    }

    #[test]
    fn a_name_that_no_mapping_can_hold_gives_way_to_the_address() {
        let published = [("0.0.0.0:8080", 80, Protocol::Tcp)];
        for (name, addresses, target) in [
            ("localhost", vec!["172.17.0.2"], Some("container/localhost:80")),
            ("1234", vec!["172.17.0.2"], Some("container/1234:80")),
            ("any", vec!["172.17.0.2"], Some("container/any:80")),
            ("a b:80/udp", vec!["172.17.0.2"], Some("172.17.0.2:80")),
            ("\x1b[2J", vec!["fd00::2"], Some("[fd00::2]:80")),
            ("", vec!["172.17.0.2"], Some("172.17.0.2:80")),
            ("a\nb", vec![], None),
        ] {
            let container = container(name, &addresses, &published);
            let found = ports(std::slice::from_ref(&container));
            assert_eq!(found.first().map(|port| port.mapping.target.to_string()).as_deref(), target, "{name:?}");
            for port in found {
                let text = serde_json::to_string(&port.mapping).expect("it is data");
                assert_eq!(serde_json::from_str::<Mapping>(&text).expect(&text), port.mapping);
                assert!(!port.name.chars().any(char::is_control), "{}", port.name);
            }
        }
    }

    #[test]
    fn who_listens_everywhere_gets_every_connection_of_its_family() {
        for (host, at, expected) in [
            ("0.0.0.0:80", "192.0.2.1:80", true),
            ("0.0.0.0:80", "[::ffff:192.0.2.1]:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "192.0.2.1:80", false),
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
        ] {
            assert_eq!(is_at(host.parse().expect("address"), at.parse().expect("address")), expected, "{host} {at}");
        }
    }
}
