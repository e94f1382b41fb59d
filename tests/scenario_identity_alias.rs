//! The identity `alias`: every client appears to an IPv4-only application under an address of its own, over TCP and UDP,
//! the same after a restart; and without its route a mapping says what to do.

mod common;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::docker::{Container, Engine};
use common::netns::Namespace;
use common::program::{Home, PORTOLAN, Run};
use common::{Need, SOON, output, require, wait_for, wait_until};
use nix::sys::signal::Signal;
use portolan::model::alias::Pool;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

const NEEDS: &[Need] = &[Need::Namespaces];
const POOL: &str = "198.18.0.0/15";
const COMMANDS: &str = "sudo portolan alias-route --add (which is: ip route add local 198.18.0.0/15 dev lo)";
const MACHINE: &str = "2001:db8::2";
const CLIENTS: [&str; 2] = ["2001:db8::10", "2001:db8::11"];

/// The host of an IPv4-only application, the machine with the forwarder, and a host of clients.
struct Network {
    machine: Namespace,
    client: Namespace,
    _web: Teller,
    _dns: Teller,
    _host: Namespace,
}

impl Network {
    fn new() -> Self {
        let (machine, host, client) = (Namespace::new("machine"), Namespace::new("host"), Namespace::new("client"));
        host.set("ipv6/conf/all/disable_ipv6", "1");
        machine.connect("to-host", &["192.0.2.1/24"], &host, "up", &["192.0.2.2/24"]);
        // As of a container: whoever is not on its network is answered by way of the gateway.
        host.ip("route add default via 192.0.2.1");
        let (near, far) =
            (["2001:db8::2/64", "198.51.100.2/24"], ["2001:db8::10/64", "2001:db8::11/64", "198.51.100.10/24"]);
        machine.connect("to-client", &near, &client, "up", &far);
        let at = |port| SocketAddr::from(([192, 0, 2, 2], port));
        let (web, dns) = host.enter(|| (Teller::tcp(at(80)), Teller::udp(at(53))));
        Self { machine, client, _web: web, _dns: dns, _host: host }
    }

    fn add_route(&self, home: &Home) -> String {
        output(home.command(Some(&self.machine)).args(["alias-route", "--add"]))
    }

    /// What the application says that it sees, of a client's TCP connection; `None` while nobody answers.
    fn by_tcp(&self, client: &str, port: u16) -> Option<IpAddr> {
        let stream = self.client.enter(|| connect(client, SocketAddr::new(MACHINE.parse().ok()?, port)))?;
        read_address(stream)
    }

    /// The same of a datagram.
    fn by_udp(&self, client: &str, port: u16) -> Option<IpAddr> {
        let socket = self.client.enter(|| UdpSocket::bind((client, 0)).expect("the address is the client's"));
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout can be set");
        socket.send_to(b"who", (MACHINE, port)).expect("it is on its way");
        let mut text = [0; 64];
        let length = socket.recv(&mut text).ok()?;
        std::str::from_utf8(&text[..length]).ok()?.parse().ok()
    }
}

/// Tells everybody the address that it sees.
struct Teller {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Teller {
    fn tcp(at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).expect("the address is the host's");
        listener.set_nonblocking(true).expect("it can be set");
        Self::start(move || match listener.accept() {
            Ok((mut stream, peer)) => {
                // Who has gone meanwhile does not want it.
                let _ = write!(stream, "{}", peer.ip());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        })
    }

    fn udp(at: SocketAddr) -> Self {
        let socket = UdpSocket::bind(at).expect("the address is the host's");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout can be set");
        Self::start(move || {
            if let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
                let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
            }
        })
    }

    fn start(mut answer: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let work = move || {
            while !stopped.load(Ordering::Relaxed) {
                answer();
            }
        };
        Self { stop, thread: Some(std::thread::spawn(work)) }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection from an address of this namespace, be it of an interface or local by a route.
fn connect(client: &str, to: SocketAddr) -> Option<Socket> {
    let client = SocketAddr::new(client.parse().expect("an address"), 0);
    let socket = Socket::new(Domain::for_address(client), Type::STREAM, None).expect("a socket");
    if client.is_ipv6() {
        socket.set_freebind_v6(true).expect("it may be set");
    }
    socket.bind(&client.into()).expect("the address is the client's");
    socket.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    socket.connect(&to.into()).ok()?;
    Some(socket)
}

fn read_address(mut socket: Socket) -> Option<IpAddr> {
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// A profile of these mappings, and one without aliases, which lets `run` go on whatever becomes of them.
fn write_profile(home: &Home, name: &str, mut mappings: Vec<Value>) {
    mappings.push(json!({ "name": "plain", "listen": format!("{}", if name == "default" { 8081 } else { 8082 }), "target": "192.0.2.2:80" }));
    home.write_profile(name, &json!({ "version": 1, "mappings": mappings }).to_string());
}

fn web() -> Value {
    json!({ "name": "web", "listen": "any:8080", "target": "192.0.2.2:80", "identity": "alias" })
}

fn dns() -> Value {
    json!({ "name": "dns", "listen": "any:5353", "target": "192.0.2.2:53", "protocol": "udp", "identity": "alias" })
}

#[track_caller]
fn state(run: &mut Run, mark: usize, mapping: &str, state: &str) -> String {
    let event = run.event_after(mark, &format!("{mapping} is {state}"), SOON, |event| {
        event["event"] == "mapping_state" && event["mapping"] == mapping && event["state"] == state
    });
    event["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn each_client_has_an_address_of_its_own_over_tcp_and_udp_and_after_a_restart() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let home = Home::new();
    write_profile(&home, "default", vec![web(), dns()]);
    network.add_route(&home);
    let pool = Pool::new(POOL.parse().unwrap()).unwrap();
    let whois = |arguments: &[&str]| output(home.command(Some(&network.machine)).arg("whois").args(arguments));
    let run = |filter: &str| {
        // Whatever the interface thinks of packets from elsewhere: answers come by the way that requests take.
        network.machine.set("ipv4/conf/all/rp_filter", filter);
        network.machine.set("ipv4/conf/to-host/rp_filter", filter);
        let mut run = home.run(Some(&network.machine), ["--drain", "0s"]);
        assert_eq!(run.ready()["listening"], 3);
        run
    };

    let mut first = run("1");
    let aliases = CLIENTS.map(|client| network.by_tcp(client, 8080).expect("the application answers"));
    assert_ne!(aliases[0], aliases[1]);
    assert!(aliases.iter().all(|alias| pool.slot(*alias).is_some()), "{aliases:?}");
    assert_eq!(CLIENTS.map(|client| network.by_udp(client, 5353)), aliases.map(Some));
    let third = network.client.enter(|| connect("198.51.100.10", "198.51.100.2:8080".parse().unwrap()));
    let third = read_address(third.expect("it is reached")).expect("the application answers");
    assert!(pool.slot(third).is_some() && !aliases.contains(&third), "an IPv4 client has one too: {third}");

    let closed = first.event("closed", SOON, |event| event["event"] == "closed");
    let connection = &closed["connection"];
    assert_eq!(connection["alias"], aliases[0].to_string());
    assert!(connection["client"].as_str().is_some_and(|client| client.starts_with("[2001:db8::10]:")));
    assert!(connection["source"].as_str().is_some_and(|source| source.starts_with(&format!("{}:", aliases[0]))));

    for (client, alias) in CLIENTS.iter().zip(aliases) {
        let said = whois(&[&alias.to_string()]);
        assert!(said.starts_with(&format!("{alias} of {POOL} is {client} since ")), "{said}");
        let told: Value = serde_json::from_str(&whois(&[client, "--json"])).expect("JSON");
        assert_eq!((&told["alias"], &told["clients"][0]["client"]), (&json!(alias), &json!(client)));
    }
    // The flows of UDP are open still.
    assert!(whois(&[&format!("{}:5353", aliases[0])]).ends_with("seen now (1 connection open)\n"));
    let nobody = home.command(Some(&network.machine)).args(["whois", "198.18.0.0"]).output().expect("it starts");
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("198.18.0.0"), "{nobody:?}");
    assert!(first.stop().status.success());

    // By what was saved, while no engine runs.
    let said = whois(&[&aliases[1].to_string()]);
    let begins = format!("{} of {POOL} is {} since ", aliases[1], CLIENTS[1]);
    assert!(said.starts_with(&begins) && said.contains(", last seen "), "{said}");

    let second = run("2");
    assert_eq!(CLIENTS.map(|client| network.by_udp(client, 5353)), aliases.map(Some));
    assert_eq!(CLIENTS.map(|client| network.by_tcp(client, 8080)), aliases.map(Some));
    // Killed a moment after a new client: what was saved by then counts.
    network.client.ip("address add 2001:db8::12/64 dev up nodad");
    let new = network.by_tcp("2001:db8::12", 8080).expect("the application answers");
    let table = home.path().join(".local/state/portolan/aliases/198.18.0.0_15.aliases");
    let is_saved = || std::fs::read_to_string(&table).is_ok_and(|text| text.contains("2001:db8::12 "));
    wait_until("the new client is saved", SOON, is_saved);
    second.signal(Signal::SIGKILL);
    drop(second);

    let third = run("0");
    assert_eq!(network.by_tcp("2001:db8::12", 8080), Some(new));
    assert_eq!(CLIENTS.map(|client| network.by_tcp(client, 8080)), aliases.map(Some));
    assert!(third.stop().status.success());
}

#[test]
fn without_its_route_a_mapping_fails_with_the_command_and_recovers_by_itself() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let home = Home::new();
    write_profile(&home, "default", vec![web()]);
    let mut run = home.run(Some(&network.machine), ["--drain", "0s"]);
    let ready = run.ready();
    assert_eq!((&ready["listening"], &ready["failed"]), (&json!(1), &json!(1)));
    let said = state(&mut run, 0, "web", "failed");
    assert_eq!(said, format!("aliases need a route: {COMMANDS}; portolan alias-route --print says how to keep it"));
    assert_eq!(network.by_tcp(CLIENTS[0], 8080), None);

    let mark = run.mark();
    assert_eq!(
        network.add_route(&home),
        "198.18.0.0/15 is local until the machine restarts (--print says how to keep it)\n"
    );
    state(&mut run, mark, "web", "up");
    let alias = network.by_tcp(CLIENTS[0], 8080).expect("the application answers");
    assert_eq!(network.add_route(&home), "198.18.0.0/15 is local already\n");

    let mark = run.mark();
    let remove = || output(home.command(Some(&network.machine)).args(["alias-route", "--remove"]));
    assert!(remove().starts_with("198.18.0.0/15 is no longer local"));
    assert_eq!(state(&mut run, mark, "web", "failed"), said);
    assert_eq!(network.by_tcp(CLIENTS[0], 8080), None);
    assert_eq!(remove(), "there is no such route of 198.18.0.0/15\n");

    // By the command that was printed, as anybody would run it.
    let mark = run.mark();
    network.machine.ip("route add local 198.18.0.0/15 dev lo");
    state(&mut run, mark, "web", "up");
    assert_eq!(network.by_tcp(CLIENTS[0], 8080), Some(alias));
    assert!(run.stop().status.success());
}

#[test]
fn an_alias_that_is_handed_on_is_told_with_who_had_it_and_who_has_it() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let home = Home::new();
    let mut mapping = web();
    mapping["alias_pool"] = json!("198.18.0.0/30");
    write_profile(&home, "default", vec![mapping]);
    network.machine.ip("route add local 198.18.0.0/30 dev lo");
    let mut run = home.run(Some(&network.machine), ["--drain", "0s"]);
    run.ready();
    let aliases = CLIENTS.map(|client| network.by_tcp(client, 8080).expect("the application answers"));
    run.event("both are closed", SOON, |event| {
        event["event"] == "closed" && event["connection"]["alias"] == aliases[1].to_string()
    });
    // The third of two: whoever has been away longest gives way.
    network.client.ip("address add 2001:db8::12/64 dev up nodad");
    assert_eq!(network.by_tcp("2001:db8::12", 8080), Some(aliases[0]));
    let warning = run.event("it is told", SOON, |event| {
        event["event"] == "warning" && event["message"].to_string().contains("are given away")
    });
    let told =
        format!("all aliases of 198.18.0.0/30 are given away: {} went from {} to 2001:db8::12", aliases[0], CLIENTS[0]);
    assert_eq!(warning["message"], told);
    let said = output(home.command(Some(&network.machine)).args(["whois", &aliases[0].to_string()]));
    let lines: Vec<&str> = said.lines().collect();
    let begins = |line: &str, word: &str, client: &str| {
        line.starts_with(&format!("{} of 198.18.0.0/30 {word} {client} ", aliases[0]))
    };
    assert!(begins(lines[0], "is", "2001:db8::12") && begins(lines[1], "was", CLIENTS[0]), "{said}");
    assert!(run.stop().status.success());
}

#[test]
fn on_a_full_disk_clients_have_aliases_which_are_saved_once_there_is_room() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let home = Home::new();
    write_profile(&home, "default", vec![web()]);
    network.add_route(&home);
    // The limit of a file's size fails in the midst of a write, as a full disk does.
    let mut command = network.machine.command("sh");
    command.env_clear().envs(home.environment());
    command.args(["-c", "trap '' XFSZ; exec prlimit --fsize=0:unlimited \"$0\" run --json --drain 0s", PORTOLAN]);
    let mut run = Run::start(command);
    assert_eq!(run.ready()["listening"], 2);
    let alias = network.by_tcp(CLIENTS[0], 8080).expect("the application answers");
    let is_unsaved = |event: &Value| {
        event["event"] == "warning"
            && event["message"].to_string().contains("the aliases of 198.18.0.0/15 are not saved")
    };
    let warning = run.event("that it is not saved", SOON, is_unsaved);
    assert!(warning["message"].to_string().contains("aliases"), "{warning}");
    let table = home.path().join(".local/state/portolan/aliases/198.18.0.0_15.aliases");
    assert!(!table.exists());
    // Who asks is told by the engine, whatever the disk does; its lock has no room for the process that a profile's is
    // found by.
    let whois = || {
        let mut command = home.command(Some(&network.machine));
        command.args(["whois", &alias.to_string()]);
        command
    };
    let socket = home.path().join("run/portolan/default.sock");
    let of_client = format!(" is {} since ", CLIENTS[0]);
    assert!(output(whois().arg("--socket").arg(socket)).contains(&of_client));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(run.events().iter().filter(|event| is_unsaved(event)).count(), 1, "it is told once");

    output(std::process::Command::new("prlimit").arg(format!("--pid={}", run.pid())).arg("--fsize=unlimited"));
    let is_saved = || std::fs::read_to_string(&table).is_ok_and(|text| text.contains(&format!("{} ", CLIENTS[0])));
    wait_until("it is saved", SOON, is_saved);
    run.signal(Signal::SIGKILL);
    drop(run);
    assert!(output(&mut whois()).contains(&of_client));

    // A table that is damaged is not taken for one in which nobody is.
    let text = std::fs::read_to_string(&table).expect("it was saved");
    std::fs::write(&table, text.replace("2001:db8::10", "2001:db8::99")).expect("it can be written");
    let asked = whois().output().expect("it starts");
    let said = String::from_utf8_lossy(&asked.stderr);
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(said.contains("198.18.0.0_15.aliases cannot be read: it was cut or changed"), "{said}");
}

#[test]
fn a_pool_that_is_not_free_or_of_the_other_family_is_refused_in_words() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let with = |name: &str, port: u16, pool: &str| json!({ "name": name, "listen": port.to_string(), "target": "192.0.2.2:80", "identity": "alias", "alias_pool": pool });
    network.machine.ip("link add vpn type veth peer name vpn-end");
    network.machine.ip("link set dev vpn up");
    network.machine.ip("link set dev vpn-end up");
    network.machine.ip("route add 198.18.4.0/24 dev vpn");
    network.machine.ip("route add unreachable 10.77.0.0/16");
    for pool in ["198.18.0.0/15", "192.0.2.0/24", "10.77.0.0/16", "10.77.4.0/24"] {
        network.machine.ip(&format!("route add local {pool} dev lo"));
    }
    network.machine.ip("-6 route add local fd00:a1a5::/64 dev lo");
    let home = Home::new();
    let mappings = vec![
        with("route", 7001, "198.18.0.0/15"),
        with("address", 7002, "192.0.2.0/24"),
        with("fine", 7003, "10.77.0.0/16"),
        with("other", 7004, "10.77.4.0/24"),
        with("family", 7005, "fd00:a1a5::/64"),
    ];
    write_profile(&home, "default", mappings);
    let mut run = home.run(Some(&network.machine), ["--drain", "0s"]);
    run.ready();
    for (name, said) in [
        (
            "route",
            "198.18.0.0/15 overlaps the route 198.18.4.0/24 by vpn: set \"alias_pool\" to a network that nobody has, such as 10.200.0.0/16",
        ),
        (
            "address",
            "192.0.2.0/24 overlaps the address 192.0.2.1 of to-host: set \"alias_pool\" to a network that nobody has, such as 10.200.0.0/16",
        ),
        ("other", "10.77.4.0/24 overlaps 10.77.0.0/16, the alias_pool of fine: use the same, or one that is apart"),
        (
            "family",
            "the target has no IPv6 address, and fd00:a1a5::/64 has no IPv4 ones: set \"alias_pool\" to IPv4, such as 198.18.0.0/15",
        ),
    ] {
        assert_eq!(state(&mut run, 0, name, "failed"), said);
    }
    run.listening("127.0.0.1:7003");
    // Once the one before it no longer wants its own, and that is let go of, the other one gets its pool.
    let mark = run.mark();
    let stop = home.command(Some(&network.machine)).args(["stop", "fine"]).output().expect("it starts");
    assert!(stop.status.success(), "{stop:?}");
    state(&mut run, mark, "other", "up");
    let add = |more: &[&str]| {
        let mut command = home.command(Some(&network.machine));
        command.args(["alias-route", "--add"]).args(more).output().expect("it starts")
    };
    let refused = add(&["--pool", "198.18.0.0/16"]);
    assert!(refused.status.success(), "it is local by the larger one already: {refused:?}");
    network.machine.ip("route del local 198.18.0.0/15 dev lo");
    let refused = add(&[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("198.18.0.0/15 overlaps the route 198.18.4.0/24 by vpn: choose another pool"), "{said}");
    assert!(run.stop().status.success());
}

#[test]
fn a_second_engine_is_told_who_has_the_pool_and_gets_it_afterwards() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let home = Home::new();
    network.add_route(&home);
    write_profile(&home, "default", vec![web()]);
    write_profile(&home, "other", vec![dns()]);
    let mut first = home.run(Some(&network.machine), ["--drain", "0s"]);
    first.ready();
    let mut second = home.run(Some(&network.machine), ["--drain", "0s", "--profile", "other"]);
    second.ready();
    let said = state(&mut second, 0, "dns", "failed");
    let pid = first.pid();
    assert_eq!(
        said,
        format!("the aliases of {POOL} are kept by another portolan (pid {pid}): give this mapping another alias_pool")
    );
    // So is one that knows nothing of the files of the first.
    let elsewhere = Home::new();
    let dns_of_part = json!({ "alias_pool": "198.18.0.0/16", "name": "part", "listen": "any:5354" });
    let mut part = dns();
    part.as_object_mut().expect("a mapping").extend(dns_of_part.as_object().expect("fields").clone());
    write_profile(&elsewhere, "default", vec![part]);
    let mut third = elsewhere.run(Some(&network.machine), ["--drain", "0s"]);
    third.ready();
    let said = state(&mut third, 0, "part", "failed");
    let user = nix::unistd::geteuid();
    assert_eq!(
        said,
        format!("the aliases of {POOL} are held by process {pid} of user {user}: give this mapping another alias_pool")
    );
    assert!(third.stop().status.success());
    let alias = network.by_tcp(CLIENTS[0], 8080).expect("the application answers");
    let mark = second.mark();
    assert!(first.stop().status.success());
    state(&mut second, mark, "dns", "up");
    assert_eq!(network.by_udp(CLIENTS[0], 5353), Some(alias));
    assert!(second.stop().status.success());
}

#[test]
fn hundreds_of_ipv6_clients_of_an_ipv4_application_are_told_apart() {
    const COUNT: u32 = 300;
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let home = Home::new();
    network.add_route(&home);
    write_profile(&home, "default", vec![web()]);
    network.client.ip("-6 route add local 2001:db8:c::/64 dev lo");
    network.machine.ip("-6 route add 2001:db8:c::/64 via 2001:db8::10");
    let mut run = home.run(Some(&network.machine), ["--drain", "0s"]);
    run.ready();
    let ask = |number: u32| network.by_tcp(&format!("2001:db8:c::{number:x}"), 8080).expect("the application answers");
    let aliases: Vec<IpAddr> = (1..=COUNT).map(ask).collect();
    assert_eq!(aliases.iter().collect::<HashSet<_>>().len(), aliases.len());
    assert!((1..=COUNT).zip(&aliases).all(|(number, alias)| ask(number) == *alias));
    assert!(run.stop().status.success());
}

/// What a container says in its own table of connections: the peers of its listener at port 7.
fn peers_in(engine: &Engine, container: &Container) -> Vec<String> {
    let table = output(&mut engine.docker(&["exec", container.name(), "busybox", "netstat", "-tn"]));
    let lines = table.lines().filter(|line| line.contains("ESTABLISHED"));
    lines
        .filter_map(|line| {
            Some(line.split_whitespace().nth(4)?.rsplit_once(':')?.0.trim_start_matches("::ffff:").to_owned())
        })
        .collect()
}

#[test]
fn a_container_of_a_real_docker_engine_has_the_aliases_in_its_own_table() {
    if !require(&[Need::Docker, Need::Namespaces]) {
        return;
    }
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let client = Namespace::new("client");
    docker.connect("ptl-alias", &["2001:db8:a::2/64"], &client, "up", &["2001:db8:a::10/64", "2001:db8:a::11/64"]);
    let container = engine.start("alias_echo", &["nc", "-ll", "-p", "7", "-e", "cat"]);
    let home = Home::with_docker();
    let mapping = json!({ "name": "echo", "listen": "any:8017", "target": "alias_echo:7", "identity": "alias" });
    home.write_profile("default", &json!({ "version": 1, "mappings": [mapping] }).to_string());
    output(home.command(Some(&docker)).args(["alias-route", "--add"]));
    let mut run = home.run(Some(&docker), ["--drain", "0s"]);
    run.ready();
    state(&mut run, 0, "echo", "up");
    let held = ["2001:db8:a::10", "2001:db8:a::11"].map(|source| {
        let mut socket = wait_for("the container answers", SOON, || {
            let socket = client.enter(|| connect(source, "[2001:db8:a::2]:8017".parse().unwrap()))?;
            (&socket).write_all(b"hello").ok()?;
            (&socket).read_exact(&mut [0; 5]).ok()?;
            Some(socket)
        });
        socket.write_all(b"again").expect("it stands");
        socket.read_exact(&mut [0; 5]).expect("it comes back");
        let alias: Value =
            serde_json::from_str(&output(home.command(Some(&docker)).args(["whois", source, "--json"]))).unwrap();
        (socket, alias["alias"].as_str().expect("an address").to_owned())
    });
    assert_ne!(held[0].1, held[1].1);
    let peers = wait_for("both in the container's table", SOON, || {
        let peers = peers_in(&engine, &container);
        held.iter().all(|(_, alias)| peers.contains(alias)).then_some(peers)
    });
    println!("the container's peers: {peers:?}");
    assert!(peers.iter().all(|peer| peer.starts_with("198.1")), "{peers:?}");
    output(home.command(Some(&docker)).args(["alias-route", "--remove"]));
    drop(held);
    assert!(run.stop().status.success());
}
