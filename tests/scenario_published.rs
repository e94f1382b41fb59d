//! Docker's published ports as they live: sessions through stock docker-proxy and past it, held against what the ends
//! themselves know.

mod common;
#[path = "common/docker_fake.rs"]
mod docker_fake;

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::docker::Engine;
use common::netns::Namespace;
use common::observer::{self, NOBODY, Observer, OpenSocket, Program, World};
use common::peers::LineClient;
use common::{Need, Running, SOON, require, wait_until};
use docker_fake::{FakeDocker, container};
use portolan::model::event::{CloseReason, MappingState};
use portolan::model::mapping::Family;
use portolan::model::untrusted::SafeText;
use portolan::model::update::{ConnectionRow, MappingRow, Owner, Way};
use serde_json::json;

/// Enough for a few looks, one a second.
const LOOKS: Duration = Duration::from_secs(30);

/// Not a test: the program that [`Observer`] runs.
#[test]
#[ignore = "a part of the other tests, which start it themselves"]
fn observer() {
    observer::observe();
}

/// Not a test: a client that stays, as another user.
#[test]
#[ignore = "a part of the other tests, which start it themselves"]
fn client() {
    let Ok(how) = std::env::var("PORTOLAN_TEST_CLIENT") else { return };
    let (protocol, address) = how.split_once(' ').expect("protocol and address");
    let at = SocketAddr::new(address.parse().expect("an address"), 8000);
    if protocol == "udp" {
        let any: SocketAddr = if at.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).expect("a port");
        socket.send_to(b"?", at).expect("sent");
        std::thread::sleep(Duration::MAX);
    }
    let _connection = TcpStream::connect(at).expect("a listener");
    std::thread::sleep(Duration::MAX);
}

/// A host with stock docker-proxy on `[::]:8080` in front of a container without IPv6.
struct Founding {
    host: Namespace,
    // Ends with the test.
    _container: Namespace,
    _proxy: Running,
    docker: FakeDocker,
    _runtime: tokio::runtime::Runtime,
    oracle: Oracle,
}

/// What the application knows: which client it sees behind which address.
type Oracle = Arc<Mutex<HashMap<SocketAddr, u64>>>;

/// A client, and what it has counted.
struct Client {
    stream: TcpStream,
    number: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Client {
    fn connect(host: &Namespace, number: u64, bytes_in: u64, bytes_out: u64) -> Self {
        let stream = host.enter(|| TcpStream::connect("[::1]:8080").expect("docker-proxy accepts"));
        let mut client = Self { stream, number, bytes_in: 0, bytes_out: 0 };
        client.exchange(bytes_in, bytes_out);
        client
    }

    /// Sends so many bytes, its number first, and receives so many.
    fn exchange(&mut self, bytes_in: u64, bytes_out: u64) {
        assert!(bytes_in >= 24);
        let mut message = Vec::new();
        for word in [self.number, bytes_in - 24, bytes_out] {
            message.extend(word.to_be_bytes());
        }
        message.resize(usize::try_from(bytes_in).expect("small"), 7);
        self.stream.write_all(&message).expect("it is taken");
        let mut back = vec![0; usize::try_from(bytes_out).expect("small")];
        self.stream.read_exact(&mut back).expect("it comes back");
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
    }

    fn address(&self) -> SocketAddr {
        self.stream.local_addr().expect("local")
    }
}

/// Reads number, length and length of the answer; then so much; answers so much; again.
fn serve(mut stream: TcpStream, oracle: &Oracle) {
    let peer = stream.peer_addr().expect("peer");
    let mut head = [0; 24];
    while stream.read_exact(&mut head).is_ok() {
        let word = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight"));
        oracle.lock().expect("unpoisoned").insert(peer, word(0));
        let mut rest = vec![0; usize::try_from(word(8)).expect("small")];
        let answer = vec![9; usize::try_from(word(16)).expect("small")];
        if stream.read_exact(&mut rest).is_err() || stream.write_all(&answer).is_err() {
            return;
        }
    }
}

fn docker_proxy(host: &Namespace, protocol: &str, ip: &str, container: &str, port: u16) -> Child {
    // Up to Docker 27 it breaks without the descriptor on which it says that it is ready.
    let script =
        "exec docker-proxy -proto $1 -host-ip $2 -host-port 8080 -container-ip $3 -container-port $4 3>/dev/null";
    let mut command = host.command("sh");
    command.args(["-c", script, "sh", protocol, ip, container, &port.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("docker-proxy starts")
}

impl Founding {
    fn new() -> Self {
        let (host, inside) = (Namespace::new("pubhost"), Namespace::new("pubapp"));
        host.connect("br0", &["203.0.113.1/24"], &inside, "eth0", &["203.0.113.2/24"]);
        let oracle = Oracle::default();
        let listener = inside.enter(|| TcpListener::bind("203.0.113.2:80").expect("the application's port"));
        let known = Arc::clone(&oracle);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let known = Arc::clone(&known);
                std::thread::spawn(move || serve(stream, &known));
            }
        });
        let proxy = Running(docker_proxy(&host, "tcp", "::", "203.0.113.2", 80));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let docker = {
            let _guard = runtime.enter();
            FakeDocker::unix()
        };
        let mut web = container("web_1", "running", Some("203.0.113.2"));
        web["Ports"] = json!([{ "IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp" }]);
        docker.set_containers(vec![web]);
        wait_until("docker-proxy listens", SOON, || host.enter(|| TcpStream::connect("[::1]:8080").is_ok()));
        Self { host, _container: inside, _proxy: proxy, docker, _runtime: runtime, oracle }
    }

    /// Which client a row of the container's side belongs to, as the application knows it.
    fn truth(&self, source: SocketAddr) -> Option<u64> {
        self.oracle.lock().expect("unpoisoned").get(&source).copied()
    }
}

fn published(world: &World) -> Option<&MappingRow> {
    world.mappings.iter().find(|row| row.owner.is_docker())
}

fn unseen(row: &MappingRow) -> Vec<&str> {
    match &row.owner {
        Owner::Docker { unseen, .. } => unseen.iter().map(SafeText::as_str).collect(),
        Owner::Portolan => panic!("{row:?}"),
    }
}

/// Whether each client has its row, with what it has counted itself.
fn all_counted(world: &World, clients: &[Client]) -> bool {
    let rows: HashMap<SocketAddr, &ConnectionRow> = world
        .sessions()
        .into_iter()
        .filter(|row| row.observed.as_ref().is_some_and(|observed| observed.client_leg))
        .map(|row| (row.connection.client, row))
        .collect();
    rows.len() == clients.len()
        && clients.iter().all(|client| {
            rows.get(&client.address()).is_some_and(|row| {
                (row.connection.bytes_in, row.connection.bytes_out) == (client.bytes_in, client.bytes_out)
            })
        })
}

/// Pairs that stand joined, each held against what the application knows.
fn joined(founding: &Founding, world: &World, clients: &[Client]) -> HashSet<u64> {
    let numbers: HashMap<SocketAddr, u64> = clients.iter().map(|client| (client.address(), client.number)).collect();
    let mut joined = HashSet::new();
    for row in world.sessions() {
        let observed = row.observed.as_ref().expect("a session");
        if let (true, Some(source)) = (observed.client_leg, row.connection.source) {
            let number = numbers[&row.connection.client];
            assert_eq!(founding.truth(source), Some(number), "joined wrongly: {row:?}");
            joined.insert(number);
        }
    }
    joined
}

#[test]
fn two_hundred_sessions_through_docker_proxy_are_shown_counted_and_never_joined_wrongly() {
    if !require(&[Need::Namespaces, Need::DockerProxy]) {
        return;
    }
    let founding = Founding::new();
    // Of 200, 24 are alike in pairs and more: nobody can tell them apart but their ends.
    let size =
        |number: u64| if number < 24 { (1_000 + number % 3, 500) } else { (24 + number * 131, number * 977 % 40_000) };
    let mut clients: Vec<Client> = (0..200)
        .map(|number| {
            let (bytes_in, bytes_out) = size(number);
            Client::connect(&founding.host, number, bytes_in, bytes_out)
        })
        .collect();
    let start = Instant::now();
    let mut observer = Observer::start(&founding.host, None, &founding.docker.docker_host(), "");
    observer.wait("every session with its bytes", LOOKS, |world| all_counted(world, &clients));
    println!("200 sessions shown with the bytes that their clients counted {:?} after its start", start.elapsed());
    let distinct: HashSet<u64> = (24..200).collect();
    observer.wait("those that differ are joined", LOOKS, |world| {
        let joined = joined(&founding, world, &clients);
        all_counted(world, &clients) && distinct.is_subset(&joined)
    });
    println!("the 176 that differ joined {:?} after its start", start.elapsed());
    let row = published(&observer.world).expect("the row").clone();
    assert_eq!((row.name.as_str(), row.mapping.to_string().as_str()), ("docker/web_1/80-tcp", "[::]:8080:web_1:80"));
    assert_eq!((row.state, row.listeners.len(), row.connections), (MappingState::Up, 1, 200));
    assert_eq!(row.listeners[0].bound, Some("[::]:8080".parse().expect("address")));
    assert_eq!(unseen(&row), [""; 0], "an IPv6 port in front of IPv4 goes through docker-proxy alone");
    let now_joined = joined(&founding, &observer.world, &clients).len();
    let lone =
        observer.world.sessions().iter().filter(|row| row.observed.as_ref().is_some_and(|o| !o.client_leg)).count();
    assert_eq!(now_joined + lone, 200, "a leg that is not joined stands by itself");
    println!("{now_joined} pairs joined, none wrongly; {lone} legs of each side stay ??");

    // They go on: what is alike at first differs in the end, and is joined as soon as it does.
    for client in &mut clients {
        client.exchange(24 + client.number * 11, 1 + client.number * 3);
    }
    observer.wait("all are joined", LOOKS, |world| {
        joined(&founding, world, &clients).len() == 200 && all_counted(world, &clients)
    });
    let total = clients.iter().fold((0, 0), |sum, client| (sum.0 + client.bytes_in, sum.1 + client.bytes_out));
    observer.wait("the totals of the row", LOOKS, |world| {
        published(world).is_some_and(|row| (row.bytes_in, row.bytes_out, row.connections) == (total.0, total.1, 200))
    });
    println!("all 200 joined once they differ, none wrongly; {} bytes in, {} out", total.0, total.1);

    // Ended by the client, they go; the totals stay.
    drop(clients);
    observer.wait("none is left", LOOKS, |world| world.sessions().is_empty());
    observer.wait("the totals stay", LOOKS, |world| {
        published(world).is_some_and(|row| (row.bytes_in, row.bytes_out, row.connections) == (total.0, total.1, 0))
    });
    let finished =
        observer.world.connections.values().filter(|row| row.connection.reason == Some(CloseReason::Finished));
    println!("{} ends were seen to be finished, {} rows just went", finished.count(), observer.world.removed.len());
    let ticks = cpu(observer.pid());
    println!("the observer has used {:.2} s of processor time in {:?}", ticks as f64 / 100.0, start.elapsed());
}

/// Processor time of a process, in hundredths of a second.
fn cpu(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = text.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    fields[11].parse::<u64>().expect("a figure") + fields[12].parse::<u64>().expect("a figure")
}

#[test]
fn sessions_that_come_and_go_are_never_joined_wrongly() {
    if !require(&[Need::Namespaces, Need::DockerProxy]) {
        return;
    }
    let founding = Founding::new();
    let mut observer = Observer::start(&founding.host, None, &founding.docker.docker_host(), "");
    let (mut clients, mut all, mut seen) = (Vec::new(), HashMap::new(), HashSet::<u64>::new());
    // Nearly all are alike and go at once. Of those that stay, every other one differs from the rest.
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < Duration::from_secs(12) {
        let bytes_in = if number % 50 == 0 { 25 + number } else { 24 };
        let client = Client::connect(&founding.host, number, bytes_in, 8);
        all.insert(client.address(), number);
        if number % 25 == 0 {
            clients.push(client);
        }
        number += 1;
        observer.wait("anything", LOOKS, |world| {
            for row in world.sessions() {
                let is_client = row.observed.as_ref().is_some_and(|observed| observed.client_leg);
                if let (true, Some(source)) = (is_client, row.connection.source) {
                    // The first connection asked only whether docker-proxy listens.
                    let number = all.get(&row.connection.client);
                    assert_eq!(founding.truth(source).as_ref(), number, "joined wrongly: {row:?}");
                    seen.extend(number);
                }
            }
            true
        });
        observer.poll();
        std::thread::sleep(Duration::from_millis(20));
    }
    observer.wait("those that stay", LOOKS, |world| {
        published(world).is_some_and(|row| row.connections == clients.len() as u64)
    });
    observer.wait("those that differ and stay", LOOKS, |world| {
        let joined = joined(&founding, world, &clients);
        clients.iter().filter(|client| client.number % 50 == 0).all(|client| joined.contains(&client.number))
    });
    let joined = joined(&founding, &observer.world, &clients).len();
    println!(
        "{number} sessions came, {} stayed: {joined} of these joined, {} pairs in all, none wrongly",
        clients.len(),
        seen.len()
    );
    assert!(joined > 0, "those that differ are certain");
}

#[test]
fn an_ordinary_user_sees_the_clients_and_what_it_cannot_see() {
    if !require(&[Need::Namespaces, Need::DockerProxy]) {
        return;
    }
    let founding = Founding::new();
    let clients: Vec<Client> =
        (0..20).map(|number| Client::connect(&founding.host, number, 24 + number, number)).collect();
    let socket = OpenSocket::to(&founding.docker.docker_host());
    let mut observer = Observer::start(&founding.host, Some(NOBODY), &socket.docker_host(), "");
    observer.wait("every session with its bytes", LOOKS, |world| all_counted(world, &clients));
    let row = published(&observer.world).expect("the row");
    assert_eq!((row.state, row.connections), (MappingState::Up, 20));
    assert_eq!(unseen(row), ["which connection to the container is whose: not visible without root"]);
    for row in observer.world.sessions() {
        let known = row.observed.as_ref().expect("a session");
        assert_eq!((known.client_leg, known.bytes, row.connection.source), (true, true, None));
        assert_eq!(known.states[1].as_str(), "??");
    }
}

#[test]
fn udp_through_docker_proxy_shows_the_containers_side_alone() {
    if !require(&[Need::Namespaces, Need::DockerProxy]) {
        return;
    }
    let (host, inside) = (Namespace::new("pubudp"), Namespace::new("pubudpapp"));
    host.connect("br0", &["203.0.113.1/24"], &inside, "eth0", &["203.0.113.2/24"]);
    let application = inside.enter(|| UdpSocket::bind("203.0.113.2:53").expect("the application's port"));
    let _proxy = Running(docker_proxy(&host, "udp", "::", "203.0.113.2", 53));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let docker = {
        let _guard = runtime.enter();
        FakeDocker::unix()
    };
    let mut dns = container("dns_1", "running", Some("203.0.113.2"));
    dns["Ports"] = json!([{ "IP": "::", "PrivatePort": 53, "PublicPort": 8080, "Type": "udp" }]);
    docker.set_containers(vec![dns]);
    let client = host.enter(|| UdpSocket::bind("[::1]:0").expect("a port"));
    let mut buffer = [0; 16];
    application.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let source = common::wait_for("docker-proxy passes datagrams on", SOON, || {
        // Before it listens, the kernel says so on the next call.
        let _ = client.send_to(b"?", "[::1]:8080");
        application.recv_from(&mut buffer).ok().map(|(_, source)| source)
    });
    let mut observer = Observer::start(&host, None, &docker.docker_host(), "");
    observer.wait("the container's side", LOOKS, |world| {
        world.sessions().iter().any(|row| row.connection.source == Some(source))
    });
    let sessions = observer.world.sessions();
    let known = sessions[0].observed.as_ref().expect("a session");
    assert_eq!((sessions.len(), known.way, known.client_leg, known.bytes), (1, Way::Proxy, false, false));
    let row = published(&observer.world).expect("the row");
    assert_eq!((row.state, row.connections), (MappingState::Up, 1));
    assert_eq!(unseen(row), ["UDP clients through docker-proxy: known to it alone"]);
}

/// A client's machine that reaches the Docker host over both families.
fn outside(docker: &Namespace) -> Namespace {
    let client = Namespace::new("pubclient");
    let (ours, theirs) = (["2001:db8:e::2/64", "198.51.100.2/24"], ["2001:db8:e::10/64", "198.51.100.10/24"]);
    docker.connect("ptl-pub", &ours, &client, "up", &theirs);
    client
}

#[test]
fn a_port_of_a_real_engine_shows_both_its_ways() {
    if !require(&[Need::Namespaces, Need::Docker, Need::Python]) {
        return;
    }
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let client = outside(&docker);
    let options = ["--publish", "8090:7", "--publish", "8091:53/udp"];
    let echo = engine.start_with("pub_echo", &options, &["nc", "-ll", "-p", "7", "-e", "cat"]);
    let host = std::env::var("PORTOLAN_TEST_DOCKER").expect("Need::Docker was asked for");
    let mut root = Observer::start(&docker, None, &host, "");
    let socket = OpenSocket::to(&host);
    let mut user = Observer::start(&docker, Some(NOBODY), &socket.docker_host(), "");

    let _v6 = LineClient::connect(Some(&client), "2001:db8:e::2", 8090);
    let _v4 = LineClient::connect(Some(&client), "198.51.100.2", 8090);
    let local = LineClient::connect(Some(&docker), "127.0.0.1", 8090);
    let container_address = format!("{}:7", echo.address());
    let by = |world: &World, way: Way, family: Family| {
        let sessions = world.sessions().into_iter().filter(|row| row.connection.mapping == "docker/pub_echo/7-tcp");
        let of_family = sessions.filter(|row| row.observed.as_ref().is_some_and(|o| o.way == way && o.client_leg));
        of_family.filter(|row| Family::of(row.connection.client.ip()) == family).cloned().collect::<Vec<_>>()
    };
    // "hello" and its end of line, both ways.
    let is_whole = |row: &ConnectionRow| {
        let target = row.connection.target_address.map(|address| address.to_string());
        target.as_ref() == Some(&container_address)
            && (row.connection.bytes_in, row.connection.bytes_out) == (6, 6)
            && row.connection.source.is_some()
    };
    root.wait("IPv6 through docker-proxy, both legs", LOOKS, |world| {
        by(world, Way::Proxy, Family::V6).iter().any(is_whole)
    });
    root.wait("IPv4 by DNAT, both legs", LOOKS, |world| {
        by(world, Way::Dnat, Family::V4).iter().any(|row| {
            let observed = row.observed.as_ref().expect("a session");
            row.connection.target_address.map(|at| at.to_string()).as_ref() == Some(&container_address)
                && row.connection.client.ip() == std::net::IpAddr::from([198, 51, 100, 10])
                && row.connection.listener.to_string() == "198.51.100.2:8090"
                && !observed.bytes
                && observed.states[0].as_str() == "ESTABLISHED"
        })
    });
    root.wait("a local client through docker-proxy, by name", LOOKS, |world| {
        by(world, Way::Proxy, Family::V4).iter().any(|row| {
            is_whole(row) && row.process.as_ref().is_some_and(|process| process.as_str().starts_with("python3 "))
        })
    });
    let row = root.world.mappings.iter().find(|row| row.name == "docker/pub_echo/7-tcp").expect("the row");
    assert_eq!((row.state, row.mapping.to_string().as_str()), (MappingState::Up, "any:8090:pub_echo:7"));
    assert_eq!(row.connections, 3);
    let told = ["bytes of sessions via DNAT: the kernel counts whole packets there, not what they carry"];
    assert_eq!(unseen(row), told, "as root all is seen but that");

    user.wait("an ordinary user sees clients of docker-proxy", LOOKS, |world| {
        by(world, Way::Proxy, Family::V6).len() == 1 && by(world, Way::Proxy, Family::V4).len() == 1
    });
    let row = user.world.mappings.iter().find(|row| row.name == "docker/pub_echo/7-tcp").expect("the row");
    assert_eq!(row.state, MappingState::Up, "the listeners are in the table for all to see");
    assert_eq!(
        unseen(row),
        [
            "IPv4 via DNAT: not visible without root",
            "which connection to the container is whose: not visible without root"
        ]
    );
    println!("an ordinary user is told: {:?}", unseen(row));

    // Nobody answers, and it is tracked all the same.
    let datagram = client.enter(|| UdpSocket::bind("198.51.100.10:0").expect("a port"));
    datagram.send_to(b"?", "198.51.100.2:8091").expect("sent");
    root.wait("UDP by DNAT", LOOKS, |world| {
        world.sessions().into_iter().any(|row| {
            row.connection.mapping == "docker/pub_echo/53-udp"
                && row.connection.client == datagram.local_addr().expect("local")
                && row.connection.target_address.map(|at| at.to_string()) == Some(format!("{}:53", echo.address()))
                && row.observed.as_ref().is_some_and(|observed| observed.way == Way::Dnat && !observed.bytes)
        })
    });

    drop(local);
    echo.stop();
    root.wait("the rows go with the container's publications", LOOKS, |world| {
        !world.mappings.iter().any(|row| row.name.starts_with("docker/pub_echo")) && world.sessions().is_empty()
    });
}

#[test]
fn local_clients_are_named_over_both_families_and_protocols_as_root_and_as_an_ordinary_user() {
    if !require(&[Need::Namespaces]) {
        return;
    }
    let (host, program) = (Namespace::new("pubclients"), Program::new());
    let target = host.enter(|| TcpListener::bind("127.0.0.1:7000").expect("a port"));
    let udp_target = host.enter(|| UdpSocket::bind("127.0.0.1:7000").expect("a port"));
    for user in [None, Some(NOBODY)] {
        let mappings = "localhost:8000->127.0.0.1:7000 localhost:8000->127.0.0.1:7000/udp";
        let mut observer = Observer::start(&host, user, "unix:///nonexistent/docker.sock", mappings);
        observer.wait("both listen", SOON, |world| {
            world.mappings.len() == 2 && world.mappings.iter().all(|row| row.state == MappingState::Up)
        });
        let clients: Vec<(String, Running)> =
            [("127.0.0.1", "tcp"), ("::1", "tcp"), ("127.0.0.1", "udp"), ("::1", "udp")]
                .into_iter()
                .map(|(address, protocol)| {
                    let how = format!("{protocol} {address}");
                    let client = program.run(&host, user, "client", &[("PORTOLAN_TEST_CLIENT", &how)]);
                    (format!("{how} observer {}", client.0.id()), client)
                })
                .collect();
        let expected: HashSet<&String> = clients.iter().map(|(text, _)| text).collect();
        observer.wait("four named clients", SOON, |world| {
            let told: HashSet<String> = world
                .connections
                .values()
                .filter_map(|row| {
                    let connection = &row.connection;
                    Some(format!("{} {} {}", connection.protocol, connection.client.ip(), row.process.as_ref()?))
                })
                .collect();
            told.iter().collect::<HashSet<_>>() == expected
        });
        println!("as {}: {expected:?}", user.map_or("root", |_| "an ordinary user"));
    }
    // An ordinary user does not see whose a client of somebody else is, and nothing is guessed.
    let listen = "localhost:8000->127.0.0.1:7000";
    let mut observer = Observer::start(&host, Some(NOBODY), "unix:///nonexistent/docker.sock", listen);
    observer.wait("it listens", SOON, |world| world.mappings.iter().any(|row| row.state == MappingState::Up));
    let client = |user| program.run(&host, user, "client", &[("PORTOLAN_TEST_CLIENT", "tcp ::1")]);
    let _theirs = client(None);
    observer.wait("somebody else's client", SOON, |world| world.connections.len() == 1);
    let _own = client(Some(NOBODY));
    let names = |world: &World| world.connections.values().filter(|row| row.process.is_some()).count();
    // Answers come in the order of asking.
    observer.wait("the own client's name", SOON, |world| world.connections.len() == 2 && names(world) > 0);
    assert_eq!(names(&observer.world), 1);
    drop((target, udp_target));
}
