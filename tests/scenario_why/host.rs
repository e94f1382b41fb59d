//! What a host itself can have wrong: ports, addresses, routes, names, queues. Each in namespaces of its own.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use portolan::model::report::CauseKind;
use socket2::{Domain, Socket, Type};
use tempfile::NamedTempFile;

use crate::common::netns::Namespace;
use crate::common::{SOON, wait_until};
use crate::firewalls::rule;
use crate::table::{AsUser, Looker, Table};

/// A host and one that it reaches: .1 and .2 of 192.0.2.0/24, and the same of `2001:db8::/64`.
pub(crate) fn pair() -> (Namespace, Namespace) {
    let (host, peer) = (Namespace::new("host"), Namespace::new("peer"));
    host.connect("up", &["192.0.2.1/24", "2001:db8::1/64"], &peer, "down", &["192.0.2.2/24", "2001:db8::2/64"]);
    // The addresses that the kernel itself gives are not of use at once, and until then it asks for no neighbour.
    for side in [&host, &peer] {
        wait_until("IPv6 is ready", SOON, || !side.ip("-6 address show").contains("tentative"));
    }
    (host, peer)
}

pub(crate) fn listen(namespace: &Namespace, address: &str) -> TcpListener {
    namespace.enter(|| TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}")))
}

pub(crate) fn rows(table: &mut Table) {
    listening(table);
    families(table);
    answers(table);
    reverse_path(table);
    of_this_host(table);
    backlog(table);
    names(table);
    stale_flows(table);
}

fn listening(table: &mut Table) {
    let (host, peer) = pair();
    let _web = listen(&peer, "192.0.2.2:80");
    let _held = listen(&host, "0.0.0.0:8080");
    // Who holds it is another user's secret; it could be portolan itself.
    let report = table.row(
        "a process holds the port",
        &host,
        "any:8080:192.0.2.2:80",
        Some(CauseKind::PortHeldByProcess),
        &AsUser::Unseen(None),
    );
    let pid = format!("(pid {})", std::process::id());
    table.check(
        "the holder is named with its pid",
        report.causes.iter().any(|c| c.text.as_str().contains(&pid)),
        &report,
    );
    let privileged = Looker::new(&host, None).without("net_bind_service");
    let expected = Some(CauseKind::PrivilegedPort);
    table.row_of("a port that needs a capability", &privileged, "80:192.0.2.2:80", expected, &AsUser::Same);
    table.row(
        "an address of another host",
        &host,
        "10.9.9.9:8080:192.0.2.2:80",
        Some(CauseKind::AddressNotOfThisHost),
        // A firewall might be in the way too.
        &AsUser::Unseen(Some(CauseKind::AddressNotOfThisHost)),
    );
    let expected = Some(CauseKind::ProtocolUnsupported);
    table.row("a protocol that the kernel lacks", &host, "8080:192.0.2.2:80/sctp", expected, &AsUser::Same);
    let stopped = Looker::new(&host, None);
    let profile = r#"{"version": 1, "mappings": [{"name": "web", "listen": "8081", "target": "192.0.2.2:80", "enabled": false}]}"#;
    stopped.home().write_profile("default", profile);
    stopped.home().open_to_all();
    let expected = Some(CauseKind::MappingStopped);
    table.row_of("a mapping that is stopped, by its name", &stopped, "web", expected, &AsUser::Same);
}

fn families(table: &mut Table) {
    let (host, peer) = (Namespace::new("host"), Namespace::new("peer"));
    host.connect("up", &["192.0.2.1/24"], &peer, "down", &["192.0.2.2/24"]);
    let _web = listen(&peer, "192.0.2.2:80");
    let expected = Some(CauseKind::NoGlobalIpv6);
    let mapping = "[::]:8080:192.0.2.2:80";
    table.row("no global IPv6 address", &host, mapping, expected, &AsUser::Unseen(expected));
    let both = "any:8080:192.0.2.2:80";
    table.row("healthy: both families, and no global IPv6 address", &host, both, None, &AsUser::Unseen(None));
    for interface in ["all", "default", "lo", "up"] {
        host.set(&format!("ipv6/conf/{interface}/disable_ipv6"), "1");
    }
    let expected = Some(CauseKind::Ipv6Disabled);
    table.row("IPv6 is disabled", &host, "[::1]:8080:192.0.2.2:80", expected, &AsUser::Same);
    table.row(
        "IPv6 is disabled, and so is the target",
        &host,
        "8080:[2001:db8::2]:80",
        expected,
        &AsUser::Unseen(expected),
    );
    table.row("healthy: localhost without IPv6", &host, "8080:192.0.2.2:80", None, &AsUser::Same);
}

fn answers(table: &mut Table) {
    let (host, peer) = pair();
    let _web = listen(&peer, "192.0.2.2:80");
    let refused = Some(CauseKind::TargetRefused);
    table.row("the target refuses", &host, "8080:192.0.2.2:81", refused, &AsUser::Unseen(refused));
    table.row("the target refuses over IPv6", &host, "8080:[2001:db8::2]:81", refused, &AsUser::Unseen(refused));
    // Its own firewall, which nobody here can see.
    rule(&peer, "iptables -A INPUT -p tcp --dport 82 -j DROP");
    let silent = Some(CauseKind::TargetTimedOut);
    table.row("the target does not answer", &host, "8080:192.0.2.2:82", silent, &AsUser::Unseen(silent));
    let unreachable = Some(CauseKind::TargetUnreachable);
    table.row("nobody has the address", &host, "8080:192.0.2.99:80", unreachable, &AsUser::Unseen(unreachable));
    table.row(
        "nobody has the address over IPv6",
        &host,
        "8080:[2001:db8::99]:80",
        unreachable,
        &AsUser::Unseen(unreachable),
    );
    table.row("no route", &host, "8080:198.51.100.1:80", unreachable, &AsUser::Unseen(unreachable));
    host.ip("route add prohibit 198.51.100.2");
    table.row("a route that prohibits", &host, "8080:198.51.100.2:80", unreachable, &AsUser::Unseen(unreachable));
    host.ip("route add blackhole 198.51.100.3");
    table.row("a route that swallows", &host, "8080:198.51.100.3:80", unreachable, &AsUser::Unseen(unreachable));
}

/// The target is reached by one cable, and answers by another.
fn reverse_path(table: &mut Table) {
    let (host, peer) = (Namespace::new("host"), Namespace::new("peer"));
    host.connect("one", &["192.0.2.1/25"], &peer, "uno", &["192.0.2.2/25"]);
    host.connect("two", &["192.0.2.129/25"], &peer, "due", &["192.0.2.130/25"]);
    peer.ip("address add 198.51.100.7/32 dev lo");
    host.ip("route add 198.51.100.7 via 192.0.2.2 dev one src 192.0.2.1");
    peer.ip("route replace 192.0.2.1/32 via 192.0.2.129 dev due");
    // As a router, it asks for neighbours by an address that they know.
    peer.set("ipv4/conf/all/arp_announce", "2");
    for interface in ["all", "one", "two"] {
        host.set(&format!("ipv4/conf/{interface}/rp_filter"), "1");
    }
    for interface in ["all", "uno", "due", "lo"] {
        peer.set(&format!("ipv4/conf/{interface}/rp_filter"), "0");
    }
    let _web = listen(&peer, "198.51.100.7:80");
    let expected = Some(CauseKind::ReversePathFilter);
    table.row(
        "answers are dropped by the reverse-path filter",
        &host,
        "8080:198.51.100.7:80",
        expected,
        &AsUser::Unseen(expected),
    );
    for interface in ["all", "one", "two"] {
        host.set(&format!("ipv4/conf/{interface}/rp_filter"), "2");
    }
    table.row("healthy: the same with a loose filter", &host, "8080:198.51.100.7:80", None, &AsUser::Same);
}

/// Targets of this host: its own tables say who listens.
fn of_this_host(table: &mut Table) {
    let (host, _peer) = pair();
    let _loopback = listen(&host, "127.0.0.1:80");
    let _v6 = listen(&host, "[::1]:81");
    let unseen = |kind| AsUser::Unseen(Some(kind));
    for (name, mapping, kind) in [
        ("the app is on loopback alone", "8080:192.0.2.1:80", CauseKind::AppOnLoopback),
        ("the app is on IPv6 alone", "8080:127.0.0.1:81", CauseKind::AppOnIpv6Only),
        ("nobody listens", "8080:127.0.0.1:83", CauseKind::AppNotListening),
        ("nobody takes datagrams", "5353:127.0.0.1:53/udp", CauseKind::AppNotListening),
        ("it forwards to itself", "8080:localhost:8080", CauseKind::ForwardsToItself),
        ("it forwards to itself by its own address", "any:8080:192.0.2.1:8080", CauseKind::ForwardsToItself),
    ] {
        table.row(name, &host, mapping, Some(kind), &unseen(kind));
    }
}

/// An application that takes no connections in.
fn backlog(table: &mut Table) {
    let (host, _peer) = pair();
    let address: SocketAddr = "127.0.0.1:9000".parse().expect("address");
    let (_listener, _clients) = host.enter(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&address.into()).expect("free");
        listener.listen(2).expect("listens");
        let waiting: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).expect("there is room")).collect();
        (listener, waiting)
    });
    let expected = Some(CauseKind::BacklogFull);
    table.row("the queue of the app is full", &host, "8080:127.0.0.1:9000", expected, &AsUser::Unseen(expected));
}

fn names(table: &mut Table) {
    let (host, peer) = pair();
    let _web = listen(&peer, "192.0.2.2:80");
    let mut hosts = NamedTempFile::new().expect("a temporary file");
    writeln!(hosts, "192.0.2.2 web.test\n192.0.2.1 self.test").expect("it can be written");
    let looker = Looker::new(&host, None).with_hosts(hosts.path().to_owned());
    std::fs::set_permissions(hosts.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("its own file");
    table.row_of("healthy: a name", &looker, "8080:host/web.test:80", None, &AsUser::Same);
    let kind = CauseKind::NameNotResolved;
    table.row_of(
        "a name that is not known",
        &looker,
        "8080:host/nobody.test:80",
        Some(kind),
        &AsUser::Unseen(Some(kind)),
    );
    let kind = CauseKind::ForwardsToItself;
    table.row_of(
        "a name of this host",
        &looker,
        "any:8080:host/self.test:8080",
        Some(kind),
        &AsUser::Unseen(Some(kind)),
    );
    let kind = CauseKind::DockerUnavailable;
    table.row("Docker is out of reach", &host, "8080:web_1:80", Some(kind), &AsUser::Unseen(Some(kind)));
}

/// A rule sent a client's datagrams elsewhere, and the kernel goes on when it is gone.
fn stale_flows(table: &mut Table) {
    let (host, client, server) = (Namespace::new("host"), Namespace::new("client"), Namespace::new("server"));
    host.connect("up", &["192.0.2.1/24", "2001:db8::1/64"], &client, "down", &["192.0.2.10/24"]);
    host.connect("in", &["203.0.113.1/24"], &server, "out", &["203.0.113.2/24"]);
    host.set("ipv4/ip_forward", "1");
    client.ip("route add default via 192.0.2.1");
    server.ip("route add default via 203.0.113.1");
    let redirect = "PREROUTING -p udp --dport 5353 -j DNAT --to-destination 203.0.113.2:53";
    rule(&host, &format!("iptables -t nat -A {redirect}"));
    let taking = server.enter(|| UdpSocket::bind("203.0.113.2:53").expect("free"));
    let sending = client.enter(|| UdpSocket::bind("192.0.2.10:0").expect("free"));
    taking.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    wait_until("a datagram is sent elsewhere", SOON, || {
        let _ = sending.send_to(b"?", "192.0.2.1:5353");
        taking.recv_from(&mut [0; 9]).is_ok()
    });
    let _app = host.enter(|| UdpSocket::bind("127.0.0.1:53").expect("free"));
    let mapping = "any:5353:127.0.0.1:53/udp";
    let shadowed = Some(CauseKind::ShadowedByDnat);
    table.row("a rule takes datagrams away", &host, mapping, shadowed, &AsUser::Unseen(None));
    rule(&host, &format!("iptables -t nat -D {redirect}"));
    let stale = Some(CauseKind::StaleUdpConntrack);
    table.row("a rule is gone, and its flows go on", &host, mapping, stale, &AsUser::Unseen(None));
}
