//! Mappings that work, of which nothing is said to be wrong.

use std::net::{TcpListener, UdpSocket};

use crate::common::docker::Engine;
use crate::common::netns::Namespace;
use crate::host::pair;
use crate::table::{AsUser, Looker, Table};

pub(crate) fn rows(table: &mut Table) {
    let (host, peer) = pair();
    let _v4 = peer.enter(|| TcpListener::bind("192.0.2.2:80").expect("free"));
    let _v6 = peer.enter(|| TcpListener::bind("[2001:db8::2]:80").expect("free"));
    let _range: Vec<TcpListener> =
        (90..=92).map(|port| peer.enter(|| TcpListener::bind(("192.0.2.2", port)).expect("free"))).collect();
    let _own = host.enter(|| TcpListener::bind("127.0.0.1:80").expect("free"));
    let _udp = host.enter(|| UdpSocket::bind("127.0.0.1:53").expect("free"));
    let local = AsUser::Same;
    // Rules are not seen, and may keep clients away.
    let exposed = AsUser::Unseen(None);
    for (name, mapping, as_user) in [
        ("healthy: IPv4", "8080:192.0.2.2:80", &local),
        ("healthy: IPv6", "8080:[2001:db8::2]:80", &local),
        ("healthy: every address", "any:8080:192.0.2.2:80", &exposed),
        ("healthy: one address", "'192.0.2.1:8080:192.0.2.2:80'", &exposed),
        ("healthy: localhost, where IPv4 alone answers", "8080:localhost:80", &local),
        ("healthy: a range", "8000-8002:192.0.2.2:90-92", &local),
        ("healthy: any free port", "auto:192.0.2.2:80", &local),
        ("healthy: UDP of this host", "5353:127.0.0.1:53/udp", &local),
        ("healthy: UDP elsewhere", "5353:192.0.2.2:53/udp", &local),
    ] {
        table.row(name, &host, mapping.trim_matches('\''), None, as_user);
    }
    rules_that_are_not_in_the_way(table, &host);
    of_containers(table);
}

/// A host with a firewall that lets the mapping work.
fn rules_that_are_not_in_the_way(table: &mut Table, host: &Namespace) {
    for rule in [
        "iptables -P INPUT DROP",
        "iptables -A INPUT -i lo -j ACCEPT",
        "iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "iptables -A INPUT -p tcp --dport 8080 -j ACCEPT",
        "iptables -A OUTPUT -p tcp --dport 81 -j DROP",
        "iptables -t nat -A PREROUTING -p tcp --dport 8081 -j DNAT --to 192.0.2.2:80",
    ] {
        crate::firewalls::rule(host, rule);
    }
    let name = "healthy: behind a firewall that lets it pass";
    table.row(name, host, "any:8080:192.0.2.2:80", None, &AsUser::Unseen(None));
}

fn of_containers(table: &mut Table) {
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let _web = engine.start("why_healthy", &["nc", "-ll", "-p", "7", "-e", "cat"]);
    let _host =
        engine.start_with("why_healthy_host", &["--network", "host"], &["nc", "-ll", "-p", "7007", "-e", "cat"]);
    let looker = Looker::new(&docker, Some(engine.host()));
    for (name, mapping) in [
        ("healthy: a container", "8080:why_healthy:7"),
        ("healthy: a container by its id", &format!("8080:{}:7", &engine.id("why_healthy")[..12])),
        ("healthy: a container on the host's network", "8080:why_healthy_host:7007"),
    ] {
        table.row_of(name, &looker, mapping, None, &AsUser::Same);
    }
}
