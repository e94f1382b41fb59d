//! Which addresses of a container this host reaches, and which may be somebody else's here: pure.
//!
//! A bridge of the engine's is a bridge of this host when its gateway is an address of this host, on the interface
//! that belongs to the network: two engines may well use the same subnet. Where an engine tells no gateway, an own
//! interface whose subnet has the address will do; without that either, nothing is known, and the address is dialled
//! as long as nothing better is there.

use std::net::IpAddr;

use crate::docker::Network;
use crate::host::addresses::{OwnAddress, OwnAddresses};
use crate::model::container::{Container, ContainerNetwork};
use crate::model::untrusted::SafeText;

/// What is known of the way to an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// It leads to the container.
    Certain,
    /// Nothing speaks against it.
    Unknown,
    /// It leads nowhere, or to somebody else.
    Never {
        /// Such as `its gateway 172.18.0.1 is not an address of this host`.
        why: SafeText,
        /// The address may be somebody else's: not even the user's own word makes it worth dialling.
        is_foreign: bool,
    },
}

/// The way to `ip`, an address of a container on `network`.
pub(super) fn reach(ip: IpAddr, network: &ContainerNetwork, networks: &[Network], own: &OwnAddresses) -> Reach {
    let listed = Network::find(networks, network.name.as_str());
    let on_subnet = |may_be: &dyn Fn(&OwnAddress) -> bool| {
        own.0.iter().any(|own| own.has_on_its_subnet(ip) && !own.ip.is_loopback() && may_be(own))
    };
    let never = |why: String, is_foreign| Reach::Never { why: SafeText::new(&why), is_foreign };
    let gateway = network.gateways.iter().find(|gateway| gateway.is_ipv4() == ip.is_ipv4());
    match (network.driver.as_str(), gateway) {
        // The parent's own host is kept out; another interface on the same segment, made for that, is not.
        (driver @ ("macvlan" | "ipvlan"), _) => {
            let parent = listed.and_then(|network| network.parent.as_ref());
            if on_subnet(&|own| parent.is_some_and(|parent| own.interface != *parent)) {
                Reach::Certain
            } else {
                never(format!("{driver} keeps it from the host that it is on"), false)
            }
        }
        (_, Some(gateway)) if is_here(*gateway, listed, own) => Reach::Certain,
        // The user gave the bridge another address than the engine knows of.
        (_, Some(_)) if on_subnet(&|own| is_named_bridge(listed, own)) => Reach::Certain,
        ("bridge" | "", Some(gateway)) => never(format!("its gateway {gateway} is not an address of this host"), true),
        ("overlay", _) => never("an overlay network leads to no host".to_owned(), true),
        _ if on_subnet(&|own| may_be_bridge(listed, own)) => Reach::Certain,
        _ => Reach::Unknown,
    }
}

/// Whether the bridges of an engine are this host's: so by one that is, not so by some of running containers of which
/// none is, else unknown.
pub(super) fn bridges_are_here(containers: &[Container], networks: &[Network], own: &OwnAddresses) -> Option<bool> {
    let listed = networks.iter().filter(|network| network.driver.as_str() == "bridge");
    if listed.into_iter().any(|network| network.gateways.iter().any(|gateway| is_here(*gateway, Some(network), own))) {
        return Some(true);
    }
    let running = containers.iter().filter(|container| container.is_running());
    let bridges = running
        .flat_map(|container| &container.networks)
        .filter(|network| matches!(network.driver.as_str(), "bridge" | "") && !network.addresses.is_empty())
        .filter(|network| !network.gateways.is_empty());
    // The driver may not be told: then the gateway can be any machine's.
    let is_told = |network: &ContainerNetwork| !network.driver.as_str().is_empty();
    let (mut is_one_told, mut is_one_here) = (false, false);
    for network in bridges {
        is_one_told |= is_told(network);
        let listed = Network::find(networks, network.name.as_str());
        is_one_here |= network.gateways.iter().any(|gateway| is_here(*gateway, listed, own));
    }
    match (is_one_here, is_one_told) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

/// Whether a gateway is this host's, as that of the network and not of another one with the same subnet.
fn is_here(gateway: IpAddr, listed: Option<&Network>, own: &OwnAddresses) -> bool {
    own.0.iter().any(|own| own.ip == gateway && may_be_bridge(listed, own))
}

/// Whether the interface can be the network's bridge. Docker's are named by their network's id, so another one's is
/// recognised even where the name of this one's is not known.
fn may_be_bridge(listed: Option<&Network>, own: &OwnAddress) -> bool {
    let interface = interface_of(own);
    let is_dockers = interface == "docker0"
        || interface.strip_prefix("br-").is_some_and(|id| id.len() == 12 && id.bytes().all(|c| c.is_ascii_hexdigit()));
    match listed {
        Some(Network { bridge: Some(bridge), .. }) => interface == bridge.as_str(),
        Some(Network { bridge: None, .. }) => !is_dockers,
        None => true,
    }
}

fn is_named_bridge(listed: Option<&Network>, own: &OwnAddress) -> bool {
    let named = listed.and_then(|network| network.bridge.as_ref());
    named.is_some_and(|bridge| bridge.as_str() == interface_of(own))
}

/// Without the label that an address may carry: `docker0:1`.
fn interface_of(own: &OwnAddress) -> &str {
    own.interface.as_str().split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::addresses::Reach as HowFar;

    fn own(all: &[(&str, &str)]) -> OwnAddresses {
        let one = |(interface, text): &(&str, &str)| {
            let (ip, prefix) = text.split_once('/').expect("a prefix");
            let ip = ip.parse().expect("an address");
            let prefix = prefix.parse().expect("a number");
            OwnAddress { ip, reach: HowFar::of(ip), interface: (*interface).into(), index: 2, prefix }
        };
        OwnAddresses(all.iter().map(one).collect())
    }

    fn network(driver: &str, gateways: &[&str]) -> ContainerNetwork {
        ContainerNetwork {
            name: "net".into(),
            driver: driver.into(),
            gateways: gateways.iter().map(|ip| ip.parse().expect("an address")).collect(),
            ..ContainerNetwork::default()
        }
    }

    fn listed(driver: &str, bridge: Option<&str>, parent: Option<&str>) -> Network {
        Network {
            name: "net".into(),
            driver: driver.into(),
            bridge: bridge.map(SafeText::from),
            parent: parent.map(SafeText::from),
            ..Network::default()
        }
    }

    const DOCKER0: (&str, &str) = ("docker0", "172.17.0.1/16");
    const SHOP: (&str, &str) = ("br-2cfe82942b3d", "172.18.0.1/16");
    const LAN: (&str, &str) = ("eth0", "192.168.1.7/24");

    #[test]
    fn the_way_to_a_container_is_known_by_its_gateway_its_bridge_and_its_driver() {
        let all = [DOCKER0, SHOP, LAN, ("lo", "127.0.0.1/8")];
        for (ip, driver, gateways, bridge, parent, expected) in [
            ("172.17.0.2", "bridge", &["172.17.0.1"][..], Some("docker0"), None, "certain"),
            ("172.17.0.2", "", &["172.17.0.1"], Some("docker0"), None, "certain"),
            // The same subnet, but the bridge is another network's.
            ("172.18.0.2", "bridge", &["172.18.0.1"], Some("br-000000000000"), None, "foreign"),
            ("172.18.0.2", "bridge", &["172.18.0.1"], Some("docker0"), None, "foreign"),
            ("172.18.0.2", "bridge", &["172.18.0.1"], None, None, "foreign"),
            ("172.18.0.2", "bridge", &["172.18.0.1"], Some("br-2cfe82942b3d"), None, "certain"),
            // The host has another address on that bridge.
            ("172.18.0.2", "bridge", &["172.18.0.254"], Some("br-2cfe82942b3d"), None, "certain"),
            ("172.30.0.2", "bridge", &["172.30.0.1"], Some("br-000000000000"), None, "foreign"),
            ("172.30.0.2", "", &["172.30.0.1"], None, None, "foreign"),
            ("192.168.1.50", "bridge", &["192.168.1.1"], None, None, "foreign"),
            // No gateway told.
            ("172.17.0.2", "bridge", &[], Some("docker0"), None, "certain"),
            ("192.168.1.50", "", &[], None, None, "certain"),
            ("10.0.0.2", "", &[], None, None, "unknown"),
            ("10.0.0.2", "bridge", &[], None, None, "unknown"),
            // Each family has a gateway of its own.
            ("fd00::2", "bridge", &["172.17.0.1", "fd00::1"], Some("docker0"), None, "foreign"),
            ("fd00::2", "bridge", &["172.17.0.1"], Some("docker0"), None, "unknown"),
            ("192.168.1.50", "macvlan", &["192.168.1.1"], None, Some("eth0"), "never"),
            ("192.168.1.50", "ipvlan", &["192.168.1.1"], None, Some("eth0"), "never"),
            ("192.168.1.50", "macvlan", &["192.168.1.1"], None, None, "never"),
            ("192.168.1.50", "macvlan", &["192.168.1.1"], None, Some("eth1"), "certain"),
            ("10.0.1.5", "overlay", &["10.0.1.1"], None, None, "foreign"),
            ("10.0.1.5", "weave", &["10.0.1.1"], None, None, "unknown"),
            ("192.168.1.50", "weave", &["10.0.1.1"], None, None, "certain"),
        ] {
            let known = reach(
                ip.parse().expect("an address"),
                &network(driver, gateways),
                &[listed(driver, bridge, parent)],
                &own(&all),
            );
            let known = match known {
                Reach::Certain => "certain",
                Reach::Unknown => "unknown",
                Reach::Never { is_foreign: true, .. } => "foreign",
                Reach::Never { is_foreign: false, .. } => "never",
            };
            assert_eq!(known, expected, "{ip} {driver} {gateways:?} {bridge:?} {parent:?}");
        }
        // An engine that does not tell of its networks.
        let unlisted = reach("172.18.0.2".parse().expect("an address"), &network("", &["172.18.0.1"]), &[], &own(&all));
        assert_eq!(unlisted, Reach::Certain);
    }

    #[test]
    fn the_bridges_of_an_engine_are_here_by_one_and_elsewhere_by_none() {
        let container = |state: &str, networks: Vec<ContainerNetwork>| Container {
            id: "f00d".into(),
            name: "web".into(),
            image: "x".into(),
            state: state.into(),
            addresses: vec![],
            networks,
            host_network: false,
            ports: vec![],
            publications: vec![],
            compose: None,
        };
        let on = |driver: &str, gateway: &str| ContainerNetwork {
            addresses: vec!["172.18.0.2".parse().expect("an address")],
            ..network(driver, &[gateway])
        };
        let here = own(&[DOCKER0, SHOP, LAN]);
        let run = |networks: Vec<ContainerNetwork>| vec![container("running", networks)];
        for (containers, expected) in [
            (vec![], None),
            (run(vec![on("bridge", "172.18.0.1")]), Some(true)),
            (run(vec![on("bridge", "172.30.0.1")]), Some(false)),
            (run(vec![on("bridge", "172.30.0.1"), on("bridge", "172.18.0.1")]), Some(true)),
            (vec![container("exited", vec![on("bridge", "172.30.0.1")])], None),
            (run(vec![on("macvlan", "192.168.1.1")]), None),
            (run(vec![on("", "172.30.0.1")]), None),
            (run(vec![on("", "172.18.0.1")]), Some(true)),
        ] {
            assert_eq!(bridges_are_here(&containers, &[], &here), expected, "{containers:?}");
        }
        // Docker's own bridge is there even without a container.
        let gateways = vec!["172.17.0.1".parse().expect("an address")];
        let docker0 = Network { gateways, ..listed("bridge", Some("docker0"), None) };
        assert_eq!(bridges_are_here(&[], std::slice::from_ref(&docker0), &here), Some(true));
        assert_eq!(bridges_are_here(&[], &[docker0], &own(&[LAN])), None);
    }
}
