//! Where a target is now: a pure function of what Docker, DNS and this machine say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::dns::DnsTable;
use super::reach::{Reach, reach};
use crate::docker::{DockerView, lookup};
use crate::forward::context::Addresses;
use crate::host::addresses::{OwnAddresses, interface_index};
use crate::model::container::{Container, DockerState, EnginePlace};
use crate::model::mapping::{Protocol, ScopedIp, Target, TargetHost};
use crate::model::profile::MappingConfig;
use crate::model::untrusted::SafeText;

/// Where a target is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// For the engine.
    pub addresses: Addresses,
    /// The id of the container that was chosen: `kept` of the next time.
    pub container: Option<String>,
}

/// What is to be resolved: mappings that want the same are led to the same addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The target.
    pub target: Target,
    /// Its protocol.
    pub protocol: Protocol,
    /// The network by which a container is to be reached.
    pub network: Option<String>,
}

/// What is known of the world.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// Docker.
    pub docker: &'a DockerView,
    /// Where its engine's network is.
    pub place: &'a EnginePlace,
    /// Names.
    pub dns: &'a DnsTable,
    /// This machine's addresses.
    pub own: &'a OwnAddresses,
}

impl From<&MappingConfig> for Wanted {
    fn from(config: &MappingConfig) -> Self {
        Self {
            target: config.mapping.target.clone(),
            protocol: config.mapping.protocol,
            network: config.network.clone(),
        }
    }
}

/// The addresses of what is wanted, in the order of trying, or why there is none. `kept` is the container that was
/// chosen last time; a Compose service stays with it while it runs. While Docker is out of reach, containers are
/// where they were last seen: most of them run on through a restart of the engine.
pub fn addresses_for(wanted: &Wanted, sight: &Sight<'_>, kept: Option<&str>) -> Resolved {
    let host = &wanted.target.host;
    if let Some(found) = lookup::find(&sight.docker.containers, host, kept) {
        return match found {
            Ok(found) => Resolved {
                addresses: of_container(found.container, wanted, sight),
                container: Some(found.container.id.to_string()),
            },
            // A container that is away for a moment is waited for, so the choice stays.
            Err(error) => Resolved {
                addresses: waiting(&why_without_container(&sight.docker.state, &error)),
                container: kept.map(str::to_owned),
            },
        };
    }
    let addresses = match host {
        TargetHost::Ip(scoped) => scoped_address(scoped),
        TargetHost::Dns(name) => by_dns(name, sight.dns),
        // `find` has answered for containers; of what is left only loopback needs nobody's answer.
        TargetHost::Localhost | TargetHost::Container { .. } | TargetHost::Compose { .. } => {
            known([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)])
        }
    };
    Resolved { addresses, container: None }
}

/// The addresses of a container that this host reaches: those that certainly lead to it first, then those against
/// which nothing speaks, in the order of its networks. An explicit network decides alone. An address that may be
/// somebody else's here is none.
fn of_container(container: &Container, wanted: &Wanted, sight: &Sight<'_>) -> Addresses {
    if let EnginePlace::Elsewhere { reason, published_at } = sight.place {
        let instead = published(container, wanted, *published_at);
        let name = SafeText::quoted(container.name.as_str());
        return waiting(&format!("{name} is on an engine whose network is not this host's ({reason}); {instead}"));
    }
    // Containers without networks of their own: the host's network, and fields that an engine left out.
    if wanted.network.is_none() && container.networks.is_empty() {
        return known(container.addresses.iter().copied());
    }
    let what = format!("container \"{}\"", SafeText::quoted(container.name.as_str()));
    let asked = wanted.network.as_deref();
    let is_asked = |name: &SafeText| asked.is_none_or(|asked| *name == SafeText::new(asked));
    let networks: Vec<_> = container.networks.iter().filter(|network| is_asked(&network.name)).collect();
    if let (Some(asked), []) = (asked, &networks[..]) {
        return waiting(&format!("{what} is not on network \"{}\" ({})", SafeText::quoted(asked), its(container)));
    }
    let mut ways: Vec<(Reach, IpAddr)> = Vec::new();
    let mut hindrance = None;
    for network in &networks {
        for ip in &network.addresses {
            let way = match reach(*ip, network, &sight.docker.networks, sight.own) {
                // The user's word: a way that is not to be seen from here may be there all the same.
                Reach::Never { is_foreign: false, .. } if asked.is_some() => Reach::Unknown,
                Reach::Never { why, .. } => {
                    hindrance.get_or_insert((network, why));
                    continue;
                }
                way => way,
            };
            if !ways.iter().any(|(_, known)| known == ip) {
                ways.push((way, *ip));
            }
        }
    }
    if !ways.is_empty() {
        ways.sort_by(|(a, _), (b, _)| a.cmp(b));
        return known(ways.into_iter().map(|(_, ip)| ip));
    }
    match (hindrance, asked) {
        (Some((network, why)), _) => {
            let driver = Some(network.driver.as_str()).filter(|driver| !driver.is_empty());
            let driver = driver.map(|driver| format!(" ({driver})")).unwrap_or_default();
            let name = &network.name;
            waiting(&format!("{what} is on network \"{name}\"{driver}, which this host cannot reach: {why}"))
        }
        (None, Some(asked)) => waiting(&format!("{what} has no address on network \"{}\"", SafeText::quoted(asked))),
        (None, None) => waiting(&format!("{what} has no network address")),
    }
}

/// `it is on: a, b`.
fn its(container: &Container) -> String {
    if container.host_network {
        return "it is on the host's".to_owned();
    }
    let names: Vec<&str> = container.networks.iter().map(|network| network.name.as_str()).collect();
    if names.is_empty() { "it is on none".to_owned() } else { format!("it is on: {}", names.join(", ")) }
}

/// What leads to a container whose own addresses mean nothing here: the choice is the user's.
fn published(container: &Container, wanted: &Wanted, at: Option<IpAddr>) -> String {
    let port = wanted.target.ports.first();
    let of_port = |publication: &&crate::model::container::Publication| {
        publication.port == port && publication.protocol == wanted.protocol
    };
    let mut publications = container.publications.iter().filter(of_port);
    let reached = at.and_then(|at| {
        publications.clone().find_map(|publication| {
            let (host, published) = (publication.host.ip(), publication.host.port());
            let place = match host {
                host if host.is_unspecified() => at,
                // Of another host, its loopback is nobody's here.
                host if host.is_loopback() && !at.is_loopback() => return None,
                host => host,
            };
            Some(match place {
                place if place.is_loopback() => format!("localhost:{published}"),
                place => SocketAddr::new(place, published).to_string(),
            })
        })
    });
    match (reached, publications.next()) {
        (Some(address), _) => format!("its port {port} is published: use {address}"),
        (None, Some(publication)) => format!("its port {port} is published there, at {}", publication.host),
        (None, None) if container.host_network => format!("its port {port} is on that engine's own host"),
        (None, None) => format!("publish its port {port}, and use that"),
    }
}

fn why_without_container(docker: &DockerState, error: &lookup::LookupError) -> String {
    match docker {
        DockerState::Connected => error.to_string(),
        DockerState::Unknown => "Docker has not answered yet".to_owned(),
        DockerState::Unavailable { reason } => format!("Docker: {reason}"),
    }
}

pub(super) fn by_dns(name: &str, dns: &DnsTable) -> Addresses {
    let name_shown = SafeText::quoted(name);
    match dns.0.get(name) {
        Some(answer) if !answer.addresses.is_empty() => known(answer.addresses.iter().copied()),
        Some(answer) => {
            let problem = answer.problem.clone().unwrap_or_default();
            waiting(&format!("host/{name_shown} cannot be resolved: {problem}"))
        }
        None => waiting(&format!("looking host/{name_shown} up")),
    }
}

/// A link-local address is nothing without the number of its interface, which changes as interfaces come and go.
fn scoped_address(scoped: &ScopedIp) -> Addresses {
    match (scoped.ip, &scoped.zone) {
        (IpAddr::V6(ip), Some(zone)) => match interface_index(zone) {
            Some(index) => Addresses::Known(vec![SocketAddrV6::new(ip, 0, 0, index).into()]),
            None => waiting(&format!("there is no interface {}", SafeText::quoted(zone))),
        },
        (ip, _) => known([ip]),
    }
}

fn known(ips: impl IntoIterator<Item = IpAddr>) -> Addresses {
    Addresses::Known(ips.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect())
}

fn waiting(reason: &str) -> Addresses {
    Addresses::Waiting { reason: SafeText::new(reason) }
}

#[cfg(test)]
mod tests;
