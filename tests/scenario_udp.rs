//! UDP between hosts: replies from the address dialled, refusals that pass, datagrams longer than the path takes at
//! once, and clients of the one family with a target of the other (faults 10, 12, 14 and 16).

mod common;

use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::netns::Namespace;
use common::program::{Home, Run};
use common::{Need, SOON, require, wait_for, wait_until};
use serde_json::Value;

const NEEDS: &[Need] = &[Need::Namespaces];

/// The target's address, on a host that has IPv4 alone.
const TARGET: &str = "192.0.2.2:53";

/// A client's host, the machine with the forwarder, and the target's host.
struct Network {
    machine: Namespace,
    client: Namespace,
    host: Namespace,
}

impl Network {
    fn new() -> Self {
        let (machine, host, client) = (Namespace::new("machine"), Namespace::new("host"), Namespace::new("client"));
        host.set("ipv6/conf/all/disable_ipv6", "1");
        machine.connect("to-host", &["192.0.2.1/24"], &host, "up", &["192.0.2.2/24"]);
        let near = ["198.51.100.2/24", "198.51.100.3/24", "2001:db8::2/64", "2001:db8::3/64"];
        machine.connect("to-client", &near, &client, "up", &["198.51.100.10/24", "2001:db8::10/64"]);
        // An address that is not that of the link on which clients come.
        machine.ip("address add 203.0.113.5/32 dev lo");
        machine.ip("address add 2001:db8:5::5/128 dev lo nodad");
        client.ip("route add 203.0.113.0/24 via 198.51.100.2");
        client.ip("route add 2001:db8:5::/64 via 2001:db8::2");
        // Until each is sure of its link-local address, it speaks from others.
        for namespace in [&machine, &client] {
            let is_sure = || namespace.ip("-6 -o address show tentative").is_empty();
            wait_until("the link-local addresses", SOON, is_sure);
        }
        Self { machine, client, host }
    }

    fn run(&self, home: &Home) -> Run {
        let mut run = home.run(Some(&self.machine), ["--drain", "0s", "-p", &format!("any:5353:{TARGET}/udp")]);
        assert_eq!(run.ready()["listening"], 1);
        run
    }

    /// A client's socket that takes replies from anywhere.
    fn client(&self, local: &str) -> UdpSocket {
        let socket = self.client.enter(|| UdpSocket::bind(local).expect("the address is the client's"));
        socket.set_read_timeout(Some(SOON)).expect("a timeout can be set");
        socket
    }

    fn target(&self) -> Echo {
        Echo::start(self.host.enter(|| UdpSocket::bind(TARGET).expect("the address is the host's")))
    }

    /// The forwarder's link-local address towards the client, as the client writes it.
    fn link_local(&self) -> SocketAddr {
        let shown = self.machine.ip("-6 -o address show dev to-client scope link");
        let address = shown.split_whitespace().find_map(|word| word.strip_suffix("/64")).expect("each link has one");
        let index = self.client.ip("-o link show dev up");
        let index = index.split(':').next().and_then(|index| index.parse().ok()).expect("a number stands first");
        SocketAddrV6::new(address.parse().expect("an address"), 5353, 0, index).into()
    }
}

/// Sends every datagram back.
struct Echo {
    socket: Arc<UdpSocket>,
    heard: Arc<Mutex<Option<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(socket: UdpSocket) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout can be set");
        let socket = Arc::new(socket);
        let (stop, heard): (Arc<AtomicBool>, Arc<Mutex<_>>) = Default::default();
        let mut this =
            Self { socket: Arc::clone(&socket), heard: Arc::clone(&heard), stop: Arc::clone(&stop), thread: None };
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                *heard.lock().expect("no panic") = Some(from);
                // Who has gone meanwhile may have said so.
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
        this.thread = Some(thread);
        this
    }

    /// Who sent the last datagram.
    fn last_source(&self) -> SocketAddr {
        self.heard.lock().expect("no panic").expect("somebody has sent one")
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends, and takes the reply: the same, from where it was sent.
#[track_caller]
fn echo(client: &UdpSocket, payload: &[u8], to: SocketAddr) {
    client.send_to(payload, to).unwrap_or_else(|error| panic!("to {to}: {error}"));
    let mut buffer = vec![0; 1 << 16];
    let (length, from) = client.recv_from(&mut buffer).unwrap_or_else(|error| panic!("no reply from {to}: {error}"));
    assert_eq!(from, to, "the reply comes from the address dialled");
    assert!(buffer[..length] == *payload, "{length} bytes came back of {}, or others", payload.len());
}

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().expect("an address"), 5353)
}

fn closed(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|event| event["event"] == "closed").map(|event| &event["connection"]).collect()
}

#[test]
fn replies_reach_another_host_from_the_address_that_it_dialled() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let _target = network.target();
    let home = Home::new();
    let run = network.run(&home);
    let link_local = network.link_local();
    let v4 = ["198.51.100.2", "198.51.100.3", "203.0.113.5"].map(at);
    let v6 = [at("2001:db8::2"), at("2001:db8::3"), at("2001:db8:5::5"), link_local];
    for (local, dialled) in [("0.0.0.0:0", &v4[..]), ("[::]:0", &v6[..])] {
        // One socket, so that only the reply's source tells which of them was dialled.
        let client = network.client(local);
        for round in 0..300_usize {
            echo(&client, format!("round {round}").as_bytes(), dialled[round % dialled.len()]);
        }
    }
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);
    let flows = closed(&ended.events);
    let listeners: Vec<&str> = flows.iter().filter_map(|flow| flow["listener"].as_str()).collect();
    for dialled in v4.iter().chain(&v6[..3]).map(ToString::to_string) {
        assert!(listeners.contains(&dialled.as_str()), "{dialled} is not in {listeners:?}");
    }
    assert!(listeners.iter().any(|listener| listener.starts_with("[fe80::")), "{listeners:?}");
    assert_eq!(flows.len(), 7, "a flow for each address dialled: {listeners:?}");
}

#[test]
fn an_ipv6_client_elsewhere_reaches_an_ipv4_only_target() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let _target = network.target();
    let home = Home::new();
    let run = network.run(&home);
    for (local, dialled) in [("[2001:db8::10]:4000", "2001:db8::2"), ("198.51.100.10:4000", "198.51.100.2")] {
        let client = network.client(local);
        for length in [0, 1, 100, 1_200] {
            echo(&client, &vec![7; length], at(dialled));
        }
    }
    let ended = run.stop();
    let flows = closed(&ended.events);
    assert_eq!(flows.len(), 2, "{flows:?}");
    for (client, listener) in
        [("[2001:db8::10]:4000", "[2001:db8::2]:5353"), ("198.51.100.10:4000", "198.51.100.2:5353")]
    {
        let flow = flows.iter().find(|flow| flow["client"] == client).expect("a flow of each client");
        assert_eq!(flow["listener"], listener);
        assert_eq!(flow["target_address"], TARGET);
        assert!(flow["source"].as_str().is_some_and(|source| source.starts_with("192.0.2.1:")), "{flow}");
        for direction in ["in", "out"] {
            assert_eq!(flow[format!("bytes_{direction}")], 1_301, "{flow}");
            assert_eq!(flow[format!("datagrams_{direction}")], 4, "{flow}");
        }
    }
}

#[test]
fn a_target_that_refuses_is_heard_as_soon_as_it_is_there() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let home = Home::new();
    let run = network.run(&home);
    let clients = [
        (network.client("[2001:db8::10]:0"), at("2001:db8::2")),
        (network.client("198.51.100.10:0"), at("198.51.100.2")),
    ];
    // Nobody listens, which the host says by ICMP; and then there is no way to it at all.
    for unreachable in [false, true] {
        if unreachable {
            network.machine.ip("route add unreachable 192.0.2.2/32");
        }
        for (client, dialled) in &clients {
            for _ in 0..100 {
                client.send_to(b"anybody?", dialled).expect("it is sent");
            }
        }
        if !unreachable {
            // One of each client at least: what has come to the host as one (GSO), it counts and refuses once.
            wait_until("the host's refusals", SOON, || network.host.counters()["Udp NoPorts"] >= 2);
        }
        let target = network.target();
        if unreachable {
            network.machine.ip("route delete unreachable 192.0.2.2/32");
        }
        for (client, dialled) in &clients {
            let start = Instant::now();
            // Some of what was sent before may have waited, and come back now.
            client.send_to(b"there", dialled).expect("it is sent");
            wait_for("the echo", Duration::from_secs(1), || {
                let mut buffer = [0; 16];
                let (length, from) = client.recv_from(&mut buffer).ok()?;
                assert_eq!(from, *dialled);
                (&buffer[..length] == b"there").then_some(())
            });
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
            println!("unreachable: {unreachable}, {dialled}: the next echo came after {:?}", start.elapsed());
        }
        drop(target);
    }
    let ended = run.stop();
    assert_eq!(closed(&ended.events).len(), 2, "each client keeps its flow through all of it");
}

#[test]
fn a_client_that_is_gone_costs_the_others_nothing() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let target = network.target();
    let home = Home::new();
    let run = network.run(&home);
    for (local, dialled, refusals) in
        [("[2001:db8::10]:0", at("2001:db8::2"), "Udp6NoPorts"), ("198.51.100.10:0", at("198.51.100.2"), "Udp NoPorts")]
    {
        let gone = network.client(local);
        echo(&gone, b"here", dialled);
        let its_flow = target.last_source();
        drop(gone);
        let staying = network.client(local);
        for round in 0..1_000 {
            target.socket.send_to(b"too late", its_flow).expect("it is sent");
            echo(&staying, format!("round {round}").as_bytes(), dialled);
        }
        assert_eq!(network.client.counters()[refusals], 1_000, "each of them was refused by the client's host");
    }
    assert!(run.stop().status.success());
}

#[test]
fn datagrams_beyond_the_mtu_arrive_whole_and_are_not_forbidden_to_be_cut() {
    if !require(NEEDS) {
        return;
    }
    // Behind the machine a router, and behind that a link which takes less than the machine's own.
    let network = Network::new();
    let far = Namespace::new("far");
    network.host.set("ipv4/ip_forward", "1");
    network.host.connect("to-far", &["203.0.113.129/25"], &far, "up", &["203.0.113.130/25"]);
    for (namespace, link) in [(&network.host, "to-far"), (&far, "up")] {
        namespace.ip(&format!("link set dev {link} mtu 1000"));
    }
    network.machine.ip("route add 203.0.113.128/25 via 192.0.2.2");
    far.ip("route add default via 203.0.113.129");
    let _near = network.target();
    let _far = Echo::start(far.enter(|| UdpSocket::bind("203.0.113.130:53").expect("the address is its own")));
    let home = Home::new();
    let mappings = ["--drain", "0s", "-p", "any:5353:192.0.2.2:53/udp", "-p", "any:5454:203.0.113.130:53/udp"];
    let mut run = home.run(Some(&network.machine), mappings);
    assert_eq!(run.ready()["listening"], 2);
    for (local, dialled) in [("[2001:db8::10]:0", "2001:db8::2"), ("198.51.100.10:0", "198.51.100.2")] {
        let client = network.client(local);
        let payload: Vec<u8> = (0..4_000_u32).map(|at| at.to_le_bytes()[(at % 2) as usize]).collect();
        for _ in 0..20 {
            echo(&client, &payload, at(dialled));
        }
        // The router refuses the first of these, which fits the machine's link and not the next, and says what fits.
        let far = SocketAddr::new(at(dialled).ip(), 5454);
        client.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout can be set");
        wait_for("an echo over the narrow link", SOON, || {
            client.send_to(&payload[..1_400], far).expect("it is sent");
            client.recv(&mut [0; 2_000]).is_ok_and(|length| length == 1_400).then_some(())
        });
        client.set_read_timeout(Some(SOON)).expect("a timeout can be set");
        for length in [1_400, 4_000] {
            // Late answers to what was asked above may come first.
            client.send_to(&payload[..length], far).expect("it is sent");
            wait_for("the echo", SOON, || {
                let mut buffer = [0; 5_000];
                let (got, from) = client.recv_from(&mut buffer).expect("a reply");
                assert!(from == far && buffer[..got] == payload[..got]);
                (got == length).then_some(())
            });
        }
    }
    // Datagrams were cut on both links, else this test saw nothing.
    for namespace in [&network.machine, &network.client, &network.host] {
        assert!(namespace.counters()["Ip FragCreates"] > 0);
    }
    assert!(run.stop().status.success());
}
