//! Mappings that would forward to themselves, through the program (fault 18): refused before anything is bound where
//! that can be known, and stopped at the second connection where a name turns to this machine later.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::hosts::Hosts;
use common::netns::Namespace;
use common::program::{Home, Run};
use common::{Need, SOON, require, wait_for, wait_until};
use serde_json::Value;
use socket2::SockRef;

const NEEDS: &[Need] = &[Need::Namespaces];

/// A machine that has addresses beside loopback, and another host beside it.
struct Network {
    machine: Namespace,
    host: Namespace,
}

impl Network {
    fn new() -> Self {
        let (machine, host) = (Namespace::new("machine"), Namespace::new("host"));
        let (near, far) = (["192.0.2.1/24", "2001:db8::1/64"], ["192.0.2.2/24", "2001:db8::2/64"]);
        machine.connect("to-host", &near, &host, "up", &far);
        Self { machine, host }
    }

    /// One TCP exchange with the machine, from the machine; the error that it ends with, if it does.
    fn exchange(&self, address: &str) -> Result<(), ErrorKind> {
        self.machine.enter(|| {
            let exchange = || {
                let mut stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(SOON))?;
                stream.write_all(b"echo")?;
                let mut back = [0; 4];
                stream.read_exact(&mut back)?;
                assert_eq!(&back, b"echo");
                Ok(())
            };
            exchange().map_err(|error: std::io::Error| error.kind())
        })
    }

    /// An echo server on the other host that serves until it is told to stop, one connection after the other.
    fn server(&self, address: &str) -> EchoServer {
        let listener = self.host.enter(|| TcpListener::bind(address).expect("the address is the host's"));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        listener.set_nonblocking(true).expect("it can be set");
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                stream.set_nonblocking(false).expect("it can be set");
                let mut buffer = [0; 64];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..count]);
                }
            }
        });
        EchoServer { stop, thread: Some(thread) }
    }
}

struct EchoServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Mappings, and the circle that is to be named.
const CIRCLES: &[(&[&str], &str)] = &[
    (&["8080:localhost:8080"], ":8080 -> :8080"),
    (&["8080:127.0.0.1:8080"], ":8080 -> :8080"),
    (&["8080:[::1]:8080"], ":8080 -> :8080"),
    (&["8080:0.0.0.0:8080"], ":8080 -> :8080"),
    (&["8080:[::]:8080"], ":8080 -> :8080"),
    (&["8080:host/localhost:8080"], ":8080 -> :8080"),
    (&["8080:localhost:8080/udp"], ":8080 -> :8080"),
    (&["any:8080:127.9.9.9:8080"], ":8080 -> :8080"),
    (&["any:8080:192.0.2.1:8080"], ":8080 -> :8080"),
    (&["any:8080:[2001:db8::1]:8080"], ":8080 -> :8080"),
    (&["192.0.2.1:8080:192.0.2.1:8080"], ":8080 -> :8080"),
    (&["8080:localhost:9090", "9090:localhost:8080"], ":8080 -> :9090 -> :8080"),
    (&["any:8080:192.0.2.1:9090", "any:9090:[2001:db8::1]:8080"], ":8080 -> :9090 -> :8080"),
    (&["any:8080:localhost:9090", "9090:0.0.0.0:7070", "any:7070:192.0.2.1:8080"], ":8080 -> :9090 -> :7070 -> :8080"),
    (&["8000-8010:localhost:9000-9010", "9005:localhost:8005"], ":8005 -> :9005 -> :8005"),
];

fn profile(mappings: &[&str]) -> String {
    let mappings: Vec<String> = mappings
        .iter()
        .map(|text| {
            let (text, protocol) = text.split_once('/').filter(|(_, word)| *word == "udp").unwrap_or((text, "tcp"));
            // The target begins behind the first colon that follows the listen side's port.
            let at = text.match_indices(':').map(|(at, _)| at).find(|at| {
                let listen = &text[..*at];
                let port = listen.rsplit(':').next().unwrap_or_default();
                port.starts_with(|c: char| c.is_ascii_digit()) && !port.contains('.') && !listen.ends_with("db8")
            });
            let (listen, target) = text.split_at(at.expect("a mapping has two halves"));
            let target = &target[1..];
            format!("{{ \"listen\": \"{listen}\", \"target\": \"{target}\", \"protocol\": \"{protocol}\" }}")
        })
        .collect();
    format!("{{ \"version\": 1, \"mappings\": [{}] }}", mappings.join(", "))
}

#[track_caller]
fn assert_refused(output: &Output, circle: &str, what: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{what}: {stderr}");
    assert!(stderr.trim_end().ends_with(&format!(": would forward to itself: {circle}")), "{what}: {stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{what}");
}

#[test]
fn a_circle_on_the_command_line_or_in_a_file_is_refused_and_named() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let home = Home::new();
    for (mappings, circle) in CIRCLES {
        home.write_profile("circle", &profile(mappings));
        for command in ["check", "run"] {
            let mut arguments = home.command(Some(&network.machine));
            arguments.arg(command);
            for mapping in *mappings {
                arguments.args(["-p", mapping]);
            }
            let output = arguments.output().expect("the program starts");
            assert_refused(&output, circle, &format!("{command} -p {mappings:?}"));
            let mut file = home.command(Some(&network.machine));
            let output = file.args([command, "--profile", "circle"]).output().expect("the program starts");
            assert_refused(&output, circle, &format!("{command} with {mappings:?} in the file"));
        }
    }
    // Between the file and the command line, too.
    home.write_profile("circle", &profile(&["8080:localhost:9090"]));
    let mut both = home.command(Some(&network.machine));
    both.args(["run", "--profile", "circle", "-p", "9090:localhost:8080"]);
    assert_refused(&both.output().expect("the program starts"), ":8080 -> :9090 -> :8080", "both");
    let opened = network.machine.counters()["Tcp ActiveOpens"];
    assert_eq!(opened, 0, "nothing was tried");
}

#[test]
fn a_hand_edit_that_makes_a_circle_is_refused_and_what_runs_goes_on() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let _server = network.server("192.0.2.2:80");
    let home = Home::new();
    let kept = "8080:192.0.2.2:80";
    home.write_profile("default", &profile(&[kept]));
    let mut run = home.run::<&str>(Some(&network.machine), []);
    run.ready();
    home.write_profile("default", &profile(&[kept, "any:9090:192.0.2.1:7070", "any:7070:localhost:9090"]));
    let rejected = run.event("the refusal", SOON, |event| event["event"] == "profile_rejected");
    let text = rejected["problems"].to_string();
    assert!(text.contains("would forward to itself: :9090 -> :7070 -> :9090"), "{text}");
    assert_eq!(network.exchange("[::1]:8080"), Ok(()));
    assert_eq!(network.exchange("[::1]:9090"), Err(ErrorKind::ConnectionRefused));
    assert!(run.stop().status.success());
}

/// `run` with these names.
fn run(network: &Network, hosts: &Hosts, home: &Home, mappings: &[&str]) -> Run {
    let mut command = hosts.command(&network.machine, home);
    command.args(["run", "--json", "--drain", "0s"]);
    for mapping in mappings {
        command.args(["-p", mapping]);
    }
    let mut run = Run::start(command);
    run.ready();
    run
}

fn is_failed(event: &Value) -> bool {
    event["event"] == "mapping_state" && event["state"] == "failed"
}

/// Connections opened among the events behind the first `skip`.
fn opened(run: &mut Run, skip: usize) -> usize {
    run.events()[skip..].iter().filter(|event| event["event"] == "opened").count()
}

/// How many connections were refused as our own, one for each round. Where a name leads is told beside what goes there
/// already, so that no event says from when on to count others.
fn rounds(events: &[Value]) -> usize {
    events.iter().filter(|event| event["event"] == "closed" && event["connection"]["reason"] == "rejected").count()
}

/// Asks the mapping at `address` until something has come of a new look at its target's name, which a failed
/// connect brings forward. Gives how many events there were when it had.
fn ask_until(run: &mut Run, network: &Network, address: &str, what: &str, came: impl Fn(&Value) -> bool) -> usize {
    wait_for(what, SOON, || {
        let found = run.events().iter().position(&came);
        if found.is_none() {
            let _ = network.exchange(address);
            std::thread::sleep(Duration::from_millis(100));
        }
        found
    })
}

#[test]
fn a_name_that_turns_to_an_address_of_ours_fails_its_mapping_before_a_connection_is_made() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let server = network.server("192.0.2.2:8080");
    let (hosts, home) = (Hosts::new("192.0.2.2 app.test"), Home::new());
    let mut run = run(&network, &hosts, &home, &["any:8080:host/app.test:8080"]);
    wait_until("the name's address", SOON, || network.exchange("[::1]:8080").is_ok());
    hosts.set("2001:db8::1 app.test");
    drop(server);
    let failed = ask_until(&mut run, &network, "[::1]:8080", "the failure", is_failed);
    let event = run.events()[failed].clone();
    assert_eq!(event["reason"], "would forward to itself: :8080 -> :8080");
    assert_eq!(network.exchange("[::1]:8080"), Err(ErrorKind::ConnectionRefused));
    assert_eq!(opened(&mut run, failed), 0);
    assert!(run.stop().status.success());
}

#[test]
fn a_name_that_turns_to_an_address_that_nobody_knew_fails_its_mapping_at_the_second_connection() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let server = network.server("192.0.2.2:8080");
    let (hosts, home) = (Hosts::new("192.0.2.2 app.test"), Home::new());
    let mut run = run(&network, &hosts, &home, &["any:8080:host/app.test:8080"]);
    wait_until("the name's address", SOON, || network.exchange("[::1]:8080").is_ok());
    // The machine gets an address while the program runs.
    network.machine.ip("address add 203.0.113.77/32 dev lo");
    hosts.set("203.0.113.77 app.test");
    drop(server);
    let is_turned =
        |event: &Value| event["event"] == "target_changed" && event["target_address"] == "203.0.113.77:8080";
    ask_until(&mut run, &network, "[::1]:8080", "the new address", is_turned);
    // At most the one that is under way here.
    let _ = network.exchange("[::1]:8080");
    let failed = run.event_after(0, "the failure", SOON, is_failed);
    assert_eq!(failed["reason"], "would forward to itself: :8080 -> :8080");
    assert_eq!(network.exchange("[::1]:8080"), Err(ErrorKind::ConnectionRefused));
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);
    assert_eq!(rounds(&ended.events), 1);
}

#[test]
fn a_name_that_means_this_host_in_another_writing_fails_its_mapping_too() {
    if !require(NEEDS) {
        return;
    }
    for written in ["::ffff:127.0.0.1", "::ffff:192.0.2.1"] {
        for protocol in ["", "/udp"] {
            let network = Network::new();
            let (hosts, home) = (Hosts::new(&format!("{written} app.test")), Home::new());
            let mut run = run(&network, &hosts, &home, &[&format!("any:8080:host/app.test:8080{protocol}")]);
            let failed = run.event_after(0, "the failure", SOON, is_failed);
            assert_eq!(failed["reason"], "would forward to itself: :8080 -> :8080", "{written}{protocol}");
            assert_eq!(opened(&mut run, 0), 0);
            // It is the only one, so the program has ended by itself or ends now.
            run.stop();
        }
    }
}

#[test]
fn a_circle_of_two_that_a_name_closes_is_stopped_after_one_round() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let server = network.server("192.0.2.2:8080");
    let (hosts, home) = (Hosts::new("192.0.2.1 b.test\n192.0.2.2 a.test"), Home::new());
    let mappings = ["any:8080:host/b.test:9090", "any:9090:host/a.test:8080"];
    let mut run = run(&network, &hosts, &home, &mappings);
    // One behind the other, which is no circle.
    wait_until("the chain", SOON, || network.exchange("[::1]:8080").is_ok());
    network.machine.ip("address add 203.0.113.78/32 dev lo");
    hosts.set("192.0.2.1 b.test\n203.0.113.78 a.test");
    drop(server);
    let is_turned =
        |event: &Value| event["event"] == "target_changed" && event["target_address"] == "203.0.113.78:8080";
    ask_until(&mut run, &network, "[::1]:8080", "the new address", is_turned);
    let _ = network.exchange("[::1]:8080");
    let failed = run.event_after(0, "the failure", SOON, is_failed);
    assert_eq!(failed["reason"], "would forward to itself: :8080 -> :9090 -> :8080");
    // Of the client's connection and that of each mapping to the other, the last one is refused.
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);
    assert_eq!(rounds(&ended.events), 1);
}

#[test]
fn datagrams_of_a_name_that_turns_to_ourselves_fail_its_mapping_too() {
    if !require(NEEDS) {
        return;
    }
    for (address, flows) in [("192.0.2.1", 0), ("203.0.113.77", 2)] {
        let network = Network::new();
        let (hosts, home) = (Hosts::new("192.0.2.2 app.test"), Home::new());
        // The second one is there to have the name looked at again: UDP has no failed connects.
        let mappings = ["any:5353:host/app.test:5353/udp", "any:8080:host/app.test:80"];
        let mut run = run(&network, &hosts, &home, &mappings);
        network.machine.ip("address add 203.0.113.77/32 dev lo");
        hosts.set(&format!("{address} app.test"));
        // Of addresses that are refused no event gives the number.
        let is_turned = |event: &Value| {
            let new = event["target_address"].as_str().is_some_and(|new| new.starts_with(address));
            is_failed(event) || event["event"] == "target_changed" && new
        };
        let turned = ask_until(&mut run, &network, "[::1]:8080", "the new address", is_turned);
        let client = network.machine.enter(|| UdpSocket::bind("[::1]:0").expect("a free port"));
        if flows > 0 {
            client.send_to(b"round", "[::1]:5353").expect("it is sent");
        }
        let failed = run.event_after(turned, "the failure", SOON, is_failed);
        assert_eq!(failed["reason"], "would forward to itself: :5353 -> :5353");
        let of_udp = run.events()[turned..]
            .iter()
            .filter(|event| event["event"] == "opened" && event["connection"]["protocol"] == "udp")
            .count();
        assert_eq!(of_udp, flows);
        assert!(run.stop().status.success());
    }
}

#[test]
fn a_target_on_a_closed_ephemeral_port_is_never_reached_by_ourselves() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    // So few ports that the kernel picks the very one that is dialled every few times.
    network.machine.set("ipv4/ip_local_port_range", "40000 40015");
    let connects_to_itself = |target: &str| {
        network.machine.enter(|| {
            (0..500).any(|_| {
                TcpStream::connect(target).is_ok_and(|stream| {
                    // A closing in order would keep the port from being picked again for a minute.
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("it can be set");
                    stream.local_addr().ok() == stream.peer_addr().ok()
                })
            })
        })
    };
    // The last two are this host without saying by which address.
    let targets = ["127.0.0.1:40004", "[::1]:40004", "0.0.0.0:40004", "[::]:40004"];
    for target in targets {
        assert!(connects_to_itself(target), "else this test would see nothing of {target}");
    }
    let home = Home::new();
    let mut arguments = vec!["--drain".to_owned(), "0s".to_owned()];
    for (port, target) in (8080..).zip(targets) {
        arguments.extend(["-p".to_owned(), format!("any:{port}:{target}")]);
        arguments.extend(["-p".to_owned(), format!("any:{port}:{target}/udp")]);
    }
    let mut run = home.run(Some(&network.machine), arguments.iter().map(String::as_str));
    run.ready();
    for port in 8080..8080 + u16::try_from(targets.len()).expect("a few") {
        for round in 0..500 {
            let listener = if round % 2 == 0 { format!("[2001:db8::1]:{port}") } else { format!("192.0.2.1:{port}") };
            let mut stream = network
                .host
                .enter(|| TcpStream::connect(&listener))
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
            // A connection to itself would say it again. Whoever writes late is told of the reset already then.
            let end = stream.write_all(b"is anybody there?").and_then(|()| stream.read(&mut [0; 32]));
            let error = end.expect_err("never a byte, never a clean end").kind();
            assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "round {round}: {error}");
        }
        let client = network.host.enter(|| UdpSocket::bind("192.0.2.2:0").expect("a free port"));
        client.set_read_timeout(Some(Duration::from_millis(300))).expect("it can be set");
        for _ in 0..60 {
            // A flow of its own each time, and so another source towards the target.
            let client = network.host.enter(|| UdpSocket::bind("192.0.2.2:0").expect("a free port"));
            client.set_read_timeout(Some(Duration::from_millis(5))).expect("it can be set");
            client.send_to(b"is anybody there?", format!("192.0.2.1:{port}")).expect("it is sent");
            assert!(client.recv(&mut [0; 32]).is_err(), "an echo of oneself");
        }
        assert!(client.recv(&mut [0; 32]).is_err());
    }
    let ended = run.stop();
    let closed = |protocol: &str| -> Vec<&Value> {
        let is_closed = |event: &&Value| event["event"] == "closed" && event["connection"]["protocol"] == protocol;
        ended.events.iter().filter(is_closed).collect()
    };
    let over_tcp = closed("tcp");
    assert_eq!(over_tcp.len(), 500 * targets.len());
    for event in over_tcp {
        let connection = &event["connection"];
        assert_eq!(connection["reason"], "target_refused", "{connection}");
        assert_eq!((&connection["bytes_in"], &connection["bytes_out"]), (&0.into(), &0.into()));
    }
    for event in closed("udp") {
        assert_eq!(event["connection"]["bytes_out"], 0, "{event}");
    }
}
