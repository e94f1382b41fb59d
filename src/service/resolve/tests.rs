//! Where targets are: by what Docker, DNS and this machine say.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::docker::Network;
use crate::host::addresses::{OwnAddress, Reach as HowFar};
use crate::model::container::{ContainerNetwork, Publication};
use crate::service::dns::DnsAnswer;

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
    DockerView { state, containers: Arc::new(vec![container]), ..DockerView::default() }
}

fn lost() -> DockerState {
    DockerState::Unavailable { reason: "cannot open /var/run/docker.sock: not running".into() }
}

fn told(host: &TargetHost, docker: &DockerView, dns: &DnsTable) -> String {
    let sight = Sight { docker, place: &EnginePlace::Unknown, dns, own: &OwnAddresses::default() };
    shown(&addresses_for(&wanted(host, None), &sight, None).addresses)
}

fn wanted(host: &TargetHost, network: Option<&str>) -> Wanted {
    let ports = crate::model::mapping::PortRange::single(80).expect("a port");
    let target = Target { host: host.clone(), ports };
    Wanted { target, protocol: Protocol::Tcp, network: network.map(str::to_owned) }
}

fn resolved(host: &TargetHost, docker: &DockerView, kept: Option<&str>) -> Resolved {
    let (dns, own) = (DnsTable::default(), OwnAddresses::default());
    let sight = Sight { docker, place: &EnginePlace::Here, dns: &dns, own: &own };
    addresses_for(&wanted(host, None), &sight, kept)
}

fn shown(addresses: &Addresses) -> String {
    match addresses {
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

/// A container on several networks of this host with two bridges.
fn on_networks(networks: Vec<ContainerNetwork>) -> DockerView {
    let mut view = docker(DockerState::Connected, "running", &[]);
    let mut container = view.containers[0].clone();
    container.addresses = networks.iter().flat_map(|network| network.addresses.clone()).collect();
    container.networks = networks;
    let publication =
        |host: &str, port, protocol| Publication { host: host.parse().expect("an address"), port, protocol };
    container.publications = vec![
        publication("127.0.0.1:9999", 81, Protocol::Tcp),
        publication("0.0.0.0:5353", 80, Protocol::Udp),
        publication("0.0.0.0:32768", 80, Protocol::Tcp),
    ];
    view.containers = Arc::new(vec![container]);
    let lan =
        Network { name: "lan".into(), driver: "macvlan".into(), parent: Some("eth0".into()), ..Network::default() };
    view.networks = Arc::new(vec![lan]);
    view
}

fn network(name: &str, driver: &str, addresses: &[&str], gateway: &str) -> ContainerNetwork {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    ContainerNetwork {
        name: name.into(),
        driver: driver.into(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        gateways: gateway.parse().into_iter().collect(),
        is_internal: false,
    }
}

fn own() -> OwnAddresses {
    let one = |(interface, ip): (&str, &str)| {
        let ip: IpAddr = ip.parse().expect("an address");
        OwnAddress { ip, reach: HowFar::of(ip), interface: interface.into(), index: 1, prefix: 24 }
    };
    OwnAddresses([("docker0", "10.1.0.1"), ("br-shop", "10.2.0.1"), ("eth0", "192.168.1.7")].map(one).to_vec())
}

fn on(docker: &DockerView, place: &EnginePlace, network: Option<&str>) -> String {
    let web = TargetHost::Container { name: "web_1".into(), explicit: false };
    let (dns, own) = (DnsTable::default(), own());
    shown(&addresses_for(&wanted(&web, network), &Sight { docker, place, dns: &dns, own: &own }, None).addresses)
}

#[test]
fn of_several_networks_one_that_this_host_reaches_is_preferred_and_an_explicit_one_decides() {
    let here = &EnginePlace::Here;
    let all = on_networks(vec![
        network("gone", "bridge", &["10.9.0.2"], "10.9.0.1"),
        network("lan", "macvlan", &["192.168.1.50"], "192.168.1.1"),
        network("odd", "weave", &["10.8.0.2"], ""),
        network("bridge", "bridge", &["10.1.0.2"], "10.1.0.1"),
        network("shop", "bridge", &["10.2.0.2"], "10.2.0.1"),
        network("empty", "bridge", &[], ""),
    ]);
    assert_eq!(on(&all, here, None), "10.1.0.2 10.2.0.2 10.8.0.2");
    assert_eq!(on(&all, here, Some("shop")), "10.2.0.2");
    assert_eq!(on(&all, here, Some("odd")), "10.8.0.2");
    assert_eq!(on(&all, here, Some("lan")), "192.168.1.50", "whoever asks for it has a way of their own");
    assert_eq!(
        on(&all, here, Some("gone")),
        "container \"web_1\" is on network \"gone\" (bridge), which this host cannot reach: \
         its gateway 10.9.0.1 is not an address of this host"
    );
    assert_eq!(
        on(&all, here, Some("zoo")),
        "container \"web_1\" is not on network \"zoo\" (it is on: gone, lan, odd, bridge, shop, empty)"
    );
    assert_eq!(on(&all, here, Some("empty")), "container \"web_1\" has no address on network \"empty\"");

    let lan = on_networks(vec![network("lan", "macvlan", &["192.168.1.50"], "192.168.1.1")]);
    assert_eq!(
        on(&lan, here, None),
        "container \"web_1\" is on network \"lan\" (macvlan), which this host cannot reach: \
         macvlan keeps it from the host that it is on"
    );
}

#[test]
fn on_the_hosts_network_a_container_is_at_loopback_and_on_no_other() {
    let mut view = docker(DockerState::Connected, "running", &["127.0.0.1", "::1"]);
    let mut host = view.containers[0].clone();
    host.host_network = true;
    view.containers = Arc::new(vec![host]);
    assert_eq!(on(&view, &EnginePlace::Here, None), "127.0.0.1 ::1");
    assert_eq!(on(&view, &EnginePlace::Unknown, None), "127.0.0.1 ::1");
    assert_eq!(
        on(&view, &EnginePlace::Here, Some("shop")),
        "container \"web_1\" is not on network \"shop\" (it is on the host's)"
    );
    let place = EnginePlace::Elsewhere { reason: "rootless".into(), published_at: None };
    assert_eq!(
        on(&view, &place, None),
        "web_1 is on an engine whose network is not this host's (rootless); its port 80 is on that engine's own host"
    );
}

#[test]
fn on_an_engine_elsewhere_nothing_is_dialled_and_the_published_port_is_offered() {
    let mut view = on_networks(vec![network("bridge", "bridge", &["10.1.0.2"], "10.1.0.1")]);
    let elsewhere = |at: Option<&str>| EnginePlace::Elsewhere {
        reason: "rootless: its network is its own".into(),
        published_at: at.map(|ip| ip.parse().expect("an address")),
    };
    let why = "web_1 is on an engine whose network is not this host's (rootless: its network is its own); ";
    let said = |view: &DockerView, at| {
        let said = on(view, &elsewhere(at), None);
        said.strip_prefix(why).unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    assert_eq!(said(&view, Some("127.0.0.1")), "its port 80 is published: use localhost:32768");
    assert_eq!(said(&view, Some("192.0.2.9")), "its port 80 is published: use 192.0.2.9:32768");
    assert_eq!(said(&view, Some("2001:db8::9")), "its port 80 is published: use [2001:db8::9]:32768");
    assert_eq!(said(&view, None), "its port 80 is published there, at 0.0.0.0:32768");
    let mut container = view.containers[0].clone();
    container.publications =
        vec![Publication { host: "127.0.0.1:8080".parse().expect("an address"), port: 80, protocol: Protocol::Tcp }];
    view.containers = Arc::new(vec![container.clone()]);
    assert_eq!(said(&view, Some("127.0.0.1")), "its port 80 is published: use localhost:8080");
    assert_eq!(said(&view, Some("192.0.2.9")), "its port 80 is published there, at 127.0.0.1:8080");
    container.publications.clear();
    view.containers = Arc::new(vec![container]);
    assert_eq!(said(&view, Some("127.0.0.1")), "publish its port 80, and use that");
}

#[test]
fn the_chosen_container_is_remembered_while_it_is_away() {
    let web = TargetHost::Container { name: "web_1".into(), explicit: false };
    let running = docker(DockerState::Connected, "running", &["172.17.0.2"]);
    let chosen = resolved(&web, &running, None).container;
    assert_eq!(chosen.as_deref(), Some("f00d"));
    let stopped = docker(DockerState::Connected, "exited", &[]);
    let still = resolved(&web, &stopped, chosen.as_deref()).container;
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
    let known = resolved(&zone("lo"), &nobody, None).addresses;
    let index = interface_index("lo").expect("loopback");
    assert_eq!(known, Addresses::Known(vec![format!("[fe80::1%{index}]:0").parse().expect("address")]));
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
