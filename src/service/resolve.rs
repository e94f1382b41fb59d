//! Where a target is now: a pure function of what Docker, DNS and this machine say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::dns::DnsTable;
use crate::docker::{DockerView, lookup};
use crate::forward::context::Addresses;
use crate::host::addresses::interface_index;
use crate::model::container::DockerState;
use crate::model::mapping::{ScopedIp, TargetHost};
use crate::model::untrusted::SafeText;

/// Where a target is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// For the engine.
    pub addresses: Addresses,
    /// The id of the container that was chosen: `kept` of the next time.
    pub container: Option<String>,
}

/// The addresses of `host`, in the order of trying, or why there is none. `kept` is the container that was chosen
/// last time; a Compose service stays with it while it runs. While Docker is out of reach, containers are where
/// they were last seen: most of them run on through a restart of the engine.
pub fn addresses_for(host: &TargetHost, docker: &DockerView, dns: &DnsTable, kept: Option<&str>) -> Resolved {
    if let Some(found) = lookup::find(&docker.containers, host, kept) {
        return match found {
            Ok(found) => Resolved {
                addresses: known(found.addresses.iter().copied()),
                container: Some(found.container.id.to_string()),
            },
            // A container that is away for a moment is waited for, so the choice stays.
            Err(error) => Resolved {
                addresses: waiting(&why_without_container(&docker.state, &error)),
                container: kept.map(str::to_owned),
            },
        };
    }
    let addresses = match host {
        TargetHost::Ip(scoped) => scoped_address(scoped),
        TargetHost::Dns(name) => by_dns(name, dns),
        // `find` has answered for containers; of what is left only loopback needs nobody's answer.
        TargetHost::Localhost | TargetHost::Container { .. } | TargetHost::Compose { .. } => {
            known([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)])
        }
    };
    Resolved { addresses, container: None }
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
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::dns::DnsAnswer;
    use super::*;
    use crate::model::container::Container;

    fn docker(state: DockerState, web: &str, addresses: &[&str]) -> DockerView {
        let container = Container {
            id: "f00d".into(),
            name: "web_1".into(),
            image: "busybox".into(),
            state: web.into(),
            addresses: addresses.iter().map(|ip| ip.parse().expect("address")).collect(),
            networks: vec![],
            host_network: false,
            ports: vec![],
            publications: vec![],
            compose: None,
        };
        DockerView { state, containers: Arc::new(vec![container]) }
    }

    fn lost() -> DockerState {
        DockerState::Unavailable { reason: "cannot open /var/run/docker.sock: not running".into() }
    }

    fn told(host: &TargetHost, docker: &DockerView, dns: &DnsTable) -> String {
        match addresses_for(host, docker, dns, None).addresses {
            Addresses::Known(addresses) => {
                addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(" ")
            }
            Addresses::Waiting { reason } | Addresses::Refused { reason } => reason.to_string(),
        }
    }

    #[test]
    fn containers_are_where_docker_says_or_said_last() {
        let web = TargetHost::Container { name: "web_1".into(), explicit: false };
        let other = TargetHost::Container { name: "zzz".into(), explicit: false };
        let none = DnsTable::default();
        let connected = DockerState::Connected;
        assert_eq!(
            told(&web, &docker(connected.clone(), "running", &["172.17.0.2", "fd00::2"]), &none),
            "172.17.0.2 fd00::2"
        );
        assert_eq!(told(&web, &docker(lost(), "running", &["172.17.0.2"]), &none), "172.17.0.2");
        assert_eq!(
            told(&web, &docker(connected.clone(), "exited", &[]), &none),
            "container \"web_1\" is stopped: the mapping waits"
        );
        assert_eq!(told(&other, &docker(connected, "running", &[]), &none), "container \"zzz\" not found");
        let unreachable = "Docker: cannot open /var/run/docker.sock: not running";
        assert_eq!(told(&other, &docker(lost(), "running", &[]), &none), unreachable);
        assert_eq!(told(&web, &DockerView::default(), &none), "Docker has not answered yet");
    }

    #[test]
    fn the_chosen_container_is_remembered_while_it_is_away() {
        let web = TargetHost::Container { name: "web_1".into(), explicit: false };
        let running = docker(DockerState::Connected, "running", &["172.17.0.2"]);
        let chosen = addresses_for(&web, &running, &DnsTable::default(), None).container;
        assert_eq!(chosen.as_deref(), Some("f00d"));
        let stopped = docker(DockerState::Connected, "exited", &[]);
        let still = addresses_for(&web, &stopped, &DnsTable::default(), chosen.as_deref()).container;
        assert_eq!(still, chosen);
    }

    #[test]
    fn what_needs_nobody_is_answered_without() {
        let (nobody, none) = (DockerView { state: lost(), ..DockerView::default() }, DnsTable::default());
        assert_eq!(told(&TargetHost::Localhost, &nobody, &none), "127.0.0.1 ::1");
        let ip = TargetHost::Ip(IpAddr::from([172, 17, 0, 2]).into());
        assert_eq!(told(&ip, &nobody, &none), "172.17.0.2");
        let zone =
            |zone: &str| TargetHost::Ip(ScopedIp { ip: "fe80::1".parse().expect("address"), zone: Some(zone.into()) });
        let resolved = addresses_for(&zone("lo"), &nobody, &none, None).addresses;
        let index = interface_index("lo").expect("loopback");
        assert_eq!(resolved, Addresses::Known(vec![format!("[fe80::1%{index}]:0").parse().expect("address")]));
        assert_eq!(told(&zone("none9"), &nobody, &none), "there is no interface none9");
    }

    #[test]
    fn names_have_their_last_good_answer_or_the_reason_why_not() {
        let host = TargetHost::Dns("db.internal".into());
        let table = |addresses: &[&str], problem: Option<&str>| {
            let addresses = addresses.iter().map(|ip| ip.parse().expect("address")).collect();
            let answer = DnsAnswer { addresses, problem: problem.map(SafeText::from) };
            DnsTable(BTreeMap::from([("db.internal".to_owned(), answer)]))
        };
        let nobody = DockerView::default();
        assert_eq!(told(&host, &nobody, &DnsTable::default()), "looking host/db.internal up");
        assert_eq!(told(&host, &nobody, &table(&["10.0.0.9", "fd00::9"], None)), "10.0.0.9 fd00::9");
        assert_eq!(told(&host, &nobody, &table(&["10.0.0.9"], Some("no answer within 5 s"))), "10.0.0.9");
        assert_eq!(
            told(&host, &nobody, &table(&[], Some("Name or service not known"))),
            "host/db.internal cannot be resolved: Name or service not known"
        );
    }
}
