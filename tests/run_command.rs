//! `portolan run`: its event stream, its ends, and what it says when it cannot listen (contract §4 and §5).

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::echo::echo_server;
use common::program::{Home, Run};
use common::{SOON, wait_for, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The bound address of a mapping's IPv6 or IPv4 listener.
fn listening(run: &mut Run, family: &str) -> SocketAddr {
    let event = run.event(&format!("listening on {family}"), SOON, |event| {
        event["event"] == "listening" && event["listener"].as_str().is_some_and(|text| text.starts_with(family))
    });
    event["listener"].as_str().and_then(|text| text.parse().ok()).expect("a listener is an address")
}

fn exchange(address: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the mapping listens");
    stream.write_all(data).expect("it takes data");
    stream.shutdown(std::net::Shutdown::Write).expect("it takes an end");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("the reply is whole");
    back
}

#[test]
fn the_stream_names_both_legs_and_counts_exactly() {
    let server = echo_server();
    let home = Home::new();
    let mut run = home.run(None, ["-p", &format!("auto:{server}"), "--interval", "100ms"]);
    let listener = listening(&mut run, "[::1]");
    assert_eq!(run.ready()["listening"], 1);
    let client = TcpStream::connect(listener).expect("the mapping listens");
    let from = client.local_addr().expect("it is connected");
    (&client).write_all(&[7; 1100]).expect("it takes data");
    let traffic =
        run.event("traffic", SOON, |event| event["event"] == "traffic" && event["mappings"][0]["bytes_out"] == 1100);
    assert_eq!(traffic["connections"][0]["bytes_in"], 1100);
    client.shutdown(std::net::Shutdown::Write).expect("it takes an end");
    let closed = run.closed(1);
    assert_eq!(closed["client"], from.to_string());
    assert_eq!(closed["listener"], listener.to_string());
    assert_eq!(closed["target_address"], server.to_string());
    assert!(closed["source"].as_str().is_some_and(|source| source.starts_with("127.0.0.1:")));
    assert_eq!(
        (&closed["bytes_in"], &closed["bytes_out"], &closed["reason"]),
        (&1100.into(), &1100.into(), &"finished".into())
    );
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);
    let count = |name: &str| ended.events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((count("opened"), count("closed"), count("ready")), (1, 1, 1));
    assert!(ended.events.iter().all(|event| event["time"].as_str().is_some_and(|time| time.ends_with('Z'))));
}

#[test]
fn events_have_exactly_the_fields_of_the_contract() {
    let server = echo_server();
    let home = Home::new();
    let mut run = home.run(None, ["-p", &format!("auto:{server}"), "--interval", "50ms"]);
    exchange(listening(&mut run, "127.0.0.1"), b"hello");
    run.closed(1);
    run.event("traffic", SOON, |event| event["event"] == "traffic");
    let ended = run.stop();
    let fields = |name: &str| -> Vec<String> {
        let event = ended.events.iter().find(|event| event["event"] == name).unwrap_or_else(|| panic!("no {name}"));
        event.as_object().expect("an object").keys().cloned().collect()
    };
    let sorted = |names: &[&str]| -> Vec<String> {
        let mut names: Vec<String> = names.iter().map(ToString::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(fields("listening"), sorted(&["time", "event", "mapping", "listener", "protocol", "target"]));
    assert_eq!(fields("ready"), sorted(&["time", "event", "mappings", "listening", "failed"]));
    assert_eq!(fields("opened"), sorted(&["time", "event", "connection"]));
    let closed = ended.events.iter().find(|event| event["event"] == "closed").expect("it closed");
    let connection: Vec<String> = closed["connection"].as_object().expect("an object").keys().cloned().collect();
    let wanted = [
        "id",
        "mapping",
        "protocol",
        "client",
        "listener",
        "source",
        "target",
        "target_address",
        "state",
        "opened_at",
        "duration_ms",
        "bytes_in",
        "bytes_out",
        "reason",
    ];
    assert_eq!(connection, sorted(&wanted));
}

#[test]
fn a_signal_drains_and_what_is_left_after_it_is_reset() {
    let server = echo_server();
    let home = Home::new();
    let mut run = home.run(None, ["-p", &format!("auto:{server}"), "--drain", "500ms"]);
    let listener = listening(&mut run, "127.0.0.1");
    let mut finishing = TcpStream::connect(listener).expect("the mapping listens");
    let mut staying = TcpStream::connect(listener).expect("the mapping listens");
    run.event("second connection", SOON, |event| event["event"] == "opened" && event["connection"]["id"] == 2);
    run.signal(Signal::SIGTERM);
    wait_until("no new connection is taken", SOON, || TcpStream::connect(listener).is_err());
    finishing.write_all(b"still served").expect("it stands while draining");
    finishing.shutdown(std::net::Shutdown::Write).expect("it takes an end");
    let mut back = Vec::new();
    finishing.read_to_end(&mut back).expect("the reply is whole");
    assert_eq!(back, b"still served");
    let error = staying.read(&mut [0; 1]).expect_err("it is reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let reasons: Vec<Value> = [1, 2].map(|id| run.closed(id)["reason"].clone()).to_vec();
    assert_eq!(reasons, ["finished", "shutdown"]);
    // The process is gone already or going; both are fine for `stop`.
    assert!(run.wait().status.success());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let server = echo_server();
    let home = Home::new();
    let mut run = home.run(None, ["-p", &format!("auto:{server}"), "--drain", "10m"]);
    let listener = listening(&mut run, "127.0.0.1");
    let _staying = TcpStream::connect(listener).expect("the mapping listens");
    run.event("connection", SOON, |event| event["event"] == "opened");
    run.signal(Signal::SIGINT);
    wait_until("it drains", SOON, || TcpStream::connect(listener).is_err());
    run.signal(Signal::SIGINT);
    let start = Instant::now();
    let ended = run.wait();
    assert!(!ended.status.success());
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_busy_port_is_named_with_its_holder_and_fails_the_run_when_nothing_else_listens() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let own = format!("(pid {})", std::process::id());
    let home = Home::new();
    let run = home.run(None, ["-p", &format!("127.0.0.1:{port}:127.0.0.1:9")]);
    let ended = run.wait();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.errors.contains("is in use by") && ended.errors.contains(&own), "{}", ended.errors);
    let failed = ended.events.iter().find(|event| event["event"] == "mapping_failed").expect("it is told");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains(&own)), "{failed}");
    assert_eq!(failed["listener"], format!("127.0.0.1:{port}"));
    assert!(failed["error"].as_str().is_some_and(|error| error.starts_with("in use by ")), "{failed}");
}

#[test]
fn half_a_mapping_is_told_as_half_and_strict_refuses_it() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    if TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_err() {
        println!("the port is taken in both families by chance");
        return;
    }
    let home = Home::new();
    let mapping = format!("{port}:127.0.0.1:9");
    let mut run = home.run(None, ["-p", &mapping]);
    let state = run.event("half", SOON, |event| event["event"] == "mapping_state" && event["state"] == "half");
    assert!(state["reason"].as_str().is_some_and(|reason| reason.contains("is in use by")), "{state}");
    assert!(run.stop().status.success());
    let ended = home.run(None, ["-p", &mapping, "--strict"]).wait();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
    assert!(ended.errors.contains("is half"), "{}", ended.errors);
}

/// More mappings than one update says events of, and more than the ring of events holds.
#[test]
fn a_run_that_cannot_listen_ends_however_many_mappings_it_has() {
    for many in [1_000, 6_000] {
        let home = Home::new();
        let mapping = |n: u32| format!("{{\"listen\": \"192.0.2.1:{}\", \"target\": \"127.0.0.1:9\"}}", 10_000 + n);
        let mappings: Vec<String> = (0..many).map(mapping).collect();
        home.write_profile("default", &format!("{{\"version\": 1, \"mappings\": [{}]}}", mappings.join(",")));
        let ended = home.run::<&str>(None, []).wait();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
        assert!(ended.errors.contains("192.0.2.1 is not an address of this host"), "{}", ended.errors);
        assert!(ended.errors.contains(&format!("and {} more mappings", many - 10)), "{}", ended.errors);
        let failed = ended.events.iter().filter(|event| event["event"] == "mapping_failed").count();
        let lost = ended.events.iter().any(|event| event["event"] == "lost");
        assert!(lost || failed == many as usize, "{failed} of {many} are told");
    }
}

#[test]
fn a_closed_reader_ends_it_quietly() {
    let home = Home::new();
    let mut command = home.command(None);
    command.args(["run", "-p", "auto:127.0.0.1:9"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().expect("stdout is piped"));
    reader.read_line(&mut first).expect("a line comes");
    assert!(first.contains("listening on"), "{first}");
    let (_, address) = first.split_once("listening on ").expect("an address follows");
    let address: SocketAddr = address.split('/').next().and_then(|text| text.parse().ok()).expect("an address");
    drop(reader);
    // The next event meets the closed pipe.
    let status = wait_for("the program ends", SOON, || {
        let _ = TcpStream::connect(address);
        child.try_wait().expect("a child can be waited for")
    });
    let mut errors = String::new();
    child.stderr.take().expect("stderr is piped").read_to_string(&mut errors).expect("stderr is text");
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn a_reader_that_stops_reading_never_slows_forwarding_and_is_told_what_it_lost() {
    let server = echo_server();
    let home = Home::new();
    let mut command = home.command(None);
    command.args(["run", "--json", "-p", &format!("auto:{server}")]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = common::Running(command.spawn().expect("the program starts"));
    let mut reader = BufReader::new(child.0.stdout.take().expect("stdout is piped"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line comes");
    let first: Value = serde_json::from_str(&line).expect("JSON");
    let listener: SocketAddr = first["listener"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    // Far more events than pipe, channel and ring hold together; nobody reads meanwhile.
    for _ in 0..8_000 {
        assert_eq!(exchange(listener, b"x"), b"x");
    }
    let (read, lines) = mpsc::channel();
    std::thread::spawn(move || reader.lines().map_while(Result::ok).try_for_each(|line| read.send(line)));
    let mut lost = 0;
    let mut seen = 0;
    while seen + lost < 16_000 {
        let line = lines.recv_timeout(SOON);
        let line = line.unwrap_or_else(|_| panic!("{seen} seen and {lost} lost are not all"));
        let event: Value = serde_json::from_str(&line).expect("JSON");
        lost += if event["event"] == "lost" { event["count"].as_u64().expect("a count") } else { 0 };
        seen += u64::from(matches!(event["event"].as_str(), Some("opened" | "closed")));
    }
    assert!(lost > 0, "nothing was lost: the test did not outrun the reader");
}

#[test]
fn a_hand_edit_is_applied_while_it_runs_and_a_wrong_one_is_refused() {
    let server = echo_server();
    let home = Home::new();
    let profile = |mappings: &str| format!("{{\"version\": 1, \"mappings\": [{mappings}]}}");
    let kept = format!("{{\"name\": \"kept\", \"listen\": \"auto\", \"target\": \"{server}\"}}");
    home.write_profile("default", &profile(&kept));
    let mut run = home.run::<&str>(None, []);
    let listener = listening(&mut run, "127.0.0.1");
    let mut staying = TcpStream::connect(listener).expect("the mapping listens");
    run.ready();
    home.write_profile(
        "default",
        &profile(&format!("{kept}, {{\"name\": \"new\", \"listen\": \"auto\", \"target\": \"{server}\"}}")),
    );
    run.event("the new mapping", SOON, |event| event["event"] == "listening" && event["mapping"] == "new");
    home.write_profile("default", &profile("{\"listen\": \"70000\", \"tarket\": 5}"));
    let refused = run.event("the refusal", SOON, |event| event["event"] == "profile_rejected");
    assert_eq!(refused["problems"].as_array().map(Vec::len), Some(3), "{refused}");
    home.write_profile("default", &profile(&kept));
    run.event("removed", SOON, |event| event["event"] == "removed" && event["mapping"] == "new");
    staying.write_all(b"untouched").expect("it still stands");
    let mut back = [0; 9];
    staying.read_exact(&mut back).expect("it still answers");
    assert_eq!(&back, b"untouched");
    drop(staying);
    assert!(run.stop().status.success());
}

#[test]
fn a_second_engine_on_a_profile_is_refused_naming_the_first() {
    let home = Home::new();
    home.write_profile(
        "default",
        "{\"version\": 1, \"mappings\": [{\"listen\": \"auto\", \"target\": \"127.0.0.1:9\"}]}",
    );
    let mut run = home.run::<&str>(None, []);
    run.ready();
    let second = home.command(None).args(["run"]).output().expect("the program starts");
    assert_eq!(second.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(errors.contains(&format!("pid {}", run.pid())), "{errors}");
    assert!(run.stop().status.success());
}

#[test]
fn without_a_profile_nothing_is_written_but_the_log() {
    let home = Home::new();
    let mut run = home.run(None, ["-p", "auto:127.0.0.1:9"]);
    run.ready();
    assert!(run.stop().status.success());
    assert!(!home.path().join(".config/portolan").exists());
}

#[test]
fn without_a_terminal_the_screen_says_what_to_use() {
    let home = Home::new();
    let out = home.command(None).stdin(Stdio::null()).output().expect("the program starts");
    assert_eq!(out.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&out.stderr), "not a terminal: use `portolan run`, or `portolan run --json`\n");
}

#[test]
fn udp_flows_count_datagrams_too() {
    let server = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = server.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((count, peer)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..count], peer).expect("it answers");
        }
    });
    let home = Home::new();
    let mut run = home.run(None, ["-p", &format!("auto:{address}/udp")]);
    let listener = listening(&mut run, "[::1]");
    let client = std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("a free port");
    client.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    for _ in 0..3 {
        client.send_to(b"12345", listener).expect("it is sent");
        assert_eq!(client.recv(&mut [0; 16]).expect("it comes back"), 5);
    }
    run.ready();
    let ended = run.stop();
    let closed = ended.events.iter().find(|event| event["event"] == "closed").expect("the flow ends with the run");
    let connection = &closed["connection"];
    assert_eq!(connection["datagrams_in"], 3);
    assert_eq!((&connection["bytes_in"], &connection["bytes_out"]), (&15.into(), &15.into()));
    assert_eq!(connection["reason"], "shutdown");
}

/// `try` without a terminal prints events, and its page answers through the mapping.
#[test]
fn try_maps_an_ipv4_only_page_that_ipv6_clients_reach() {
    let home = Home::new();
    let mut command: Command = home.command(None);
    command.args(["try", "--json"]);
    let mut run = Run::start(command);
    let listener = listening(&mut run, "[::1]");
    let mut stream = TcpStream::connect(listener).expect("the mapping listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it takes a request");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("the page is text");
    assert!(page.contains("You came to me from 127.0.0.1:"), "{page}");
    let mut stream = TcpStream::connect(listener).expect("the mapping listens");
    stream.write_all(b"GET /headers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it takes a request");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("the page is text");
    assert!(page.ends_with("host: x\nconnection: close\n"), "{page}");
    drop(stream);
    let ended = run.stop();
    assert!(ended.errors.contains("curl 'http://[::1]:"), "{}", ended.errors);
}
