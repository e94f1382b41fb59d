//! The event stream of `portolan run` and its readers (contract §5).

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::echo::{echo_server, exchange};
use common::program::{Home, Run};
use common::{SOON, wait_for};
use serde_json::Value;

#[test]
fn the_stream_names_both_legs_and_counts_exactly() {
    let server = echo_server();
    let home = Home::new();
    let mut run = home.run(None, ["-p", &format!("auto:{server}"), "--interval", "100ms"]);
    let listener = run.listening("[::1]");
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
    exchange(run.listening("127.0.0.1"), b"hello");
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

/// The processor time that a process has used, in clock ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("its name is in brackets");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a figure")).sum()
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
fn a_closed_reader_ends_it_quietly_even_while_there_is_nothing_to_say() {
    for arguments in [&["run"][..], &["run", "--json"], &["run", "-p", "auto:127.0.0.1:9"], &["try"]] {
        let home = Home::new();
        let mut command = home.command(None);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = common::Running(command.spawn().expect("the program starts"));
        let mut reader = BufReader::new(child.0.stdout.take().expect("stdout is piped"));
        // Nothing comes after `ready`.
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert!(reader.read_line(&mut line).expect("a line comes") > 0, "{arguments:?} ended");
        }
        drop(reader);
        let ended = || child.0.try_wait().expect("a child can be waited for");
        assert_eq!(wait_for("the program ends", SOON, ended).code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn a_reader_at_the_end_of_a_socket_may_fall_silent_but_not_go() {
    let home = Home::new();
    let (reader, writer) = UnixStream::pair().expect("a pair");
    let mut command = home.command(None);
    command.args(["run", "--json"]).stdin(Stdio::null()).stdout(OwnedFd::from(writer));
    let mut child = common::Running(command.spawn().expect("the program starts"));
    drop(command);
    let mut line = String::new();
    BufReader::new(&reader).read_line(&mut line).expect("a line comes");
    assert!(line.contains("\"ready\""), "{line}");
    // It says something and then no more: it reads on all the same, and watching it costs nothing.
    (&reader).write_all(b"what nobody reads").expect("it takes data");
    reader.shutdown(std::net::Shutdown::Write).expect("it takes an end");
    let (before, start) = (ticks(child.0.id()), Instant::now());
    while start.elapsed() < Duration::from_secs(1) {
        assert!(child.0.try_wait().expect("a child can be waited for").is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(50));
    }
    let spent = ticks(child.0.id()) - before;
    assert!(spent < 20, "{spent} ticks in a second of idling");
    drop(reader);
    let ended = || child.0.try_wait().expect("a child can be waited for");
    assert_eq!(wait_for("the program ends", SOON, ended).code(), Some(0));
}

#[test]
fn traffic_tells_of_a_live_connection_whatever_becomes_of_it() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let target = server.local_addr().expect("it is bound");
    let home = Home::new();
    let mut run = home.run(None, ["-p", &format!("auto:{target}"), "--interval", "50ms"]);
    let listener = run.listening("[::1]");
    let mut client = TcpStream::connect(listener).expect("the mapping listens");
    let (mut accepted, source) = server.accept().expect("it is dialled");
    let live = |run: &mut Run, state: &str| {
        let event = run.event(state, SOON, |event| event["connections"][0]["state"] == state);
        assert_eq!(event["event"], "traffic", "{event}");
        event["connections"][0].clone()
    };
    // Not a byte has moved: what is news is where it leads, and that the mapping has a connection.
    let open = live(&mut run, "open");
    assert_eq!(
        (&open["id"], &open["mapping"], &open["client"]),
        (&1.into(), &"auto-tcp".into(), &client.local_addr().expect("it is connected").to_string().into())
    );
    assert_eq!((&open["source"], &open["target_address"]), (&source.to_string().into(), &target.to_string().into()));
    run.event("the open count", SOON, |event| {
        event["event"] == "traffic" && event["mappings"][0]["connections"] == 1 && event["mappings"][0]["bytes_in"] == 0
    });
    client.write_all(b"the whole request").expect("it takes data");
    client.shutdown(std::net::Shutdown::Write).expect("it takes an end");
    let half = live(&mut run, "half_closed");
    assert_eq!((&half["closed_side"], &half["bytes_in"]), (&"client".into(), &17.into()), "{half}");
    let mut request = String::new();
    accepted.read_to_string(&mut request).expect("it ends");
    accepted.write_all(b"reply").expect("it takes data");
    drop(accepted);
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("it ends");
    assert_eq!((request.as_str(), reply.as_str()), ("the whole request", "reply"));
    run.closed(1);
    let last = run.event("the totals after it", SOON, |event| {
        event["event"] == "traffic" && event["mappings"][0]["connections"] == 0
    });
    assert_eq!((&last["mappings"][0]["bytes_out"], &last["closed"]), (&5.into(), &1.into()), "{last}");
    assert!(run.stop().status.success());
}

#[test]
fn a_short_interval_is_kept() {
    let server = echo_server();
    let home = Home::new();
    let mut run = home.run(None, ["-p", &format!("auto:{server}"), "--interval", "40ms"]);
    let listener = run.listening("127.0.0.1");
    let mut stream = TcpStream::connect(listener).expect("the mapping listens");
    let mut times = Vec::new();
    while times.len() < 20 {
        let mark = run.mark();
        stream.write_all(b"x").expect("it takes data");
        let event = run.event_after(mark, "traffic", SOON, |event| event["event"] == "traffic");
        times.push(event["time"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok()).expect("a time"));
    }
    let mut gaps: Vec<i64> = times.windows(2).map(|pair| pair[1].as_millisecond() - pair[0].as_millisecond()).collect();
    gaps.sort_unstable();
    assert!(gaps[gaps.len() / 2] < 200, "{gaps:?} ms");
    assert!(run.stop().status.success());
}

#[test]
fn the_last_totals_come_before_the_end_however_long_the_interval_is() {
    let server = echo_server();
    let home = Home::new();
    let mut run = home.run(None, ["-p", &format!("auto:{server}"), "--interval", "10m"]);
    let listener = run.listening("127.0.0.1");
    for _ in 0..3 {
        exchange(listener, b"hello");
    }
    let _staying = TcpStream::connect(listener).expect("the mapping listens");
    run.event("the last connection", SOON, |event| event["event"] == "opened" && event["connection"]["id"] == 4);
    let ended = run.stop();
    let (last, before) = ended.events.split_last().expect("something was said");
    assert_eq!((&last["event"], &last["opened"], &last["closed"]), (&"traffic".into(), &4.into(), &4.into()), "{last}");
    let totals = &last["mappings"][0];
    assert_eq!(
        (&totals["bytes_in"], &totals["bytes_out"], &totals["connections"]),
        (&15.into(), &15.into(), &0.into()),
        "{last}"
    );
    assert!(before.iter().all(|event| event["event"] != "traffic"), "{before:?}");
}

#[test]
fn a_line_of_text_tells_totals_and_how_many_have_come_and_gone() {
    let server = echo_server();
    let home = Home::new();
    let mut command = home.command(None);
    command.args(["run", "-p", &format!("auto:{server}"), "--interval", "10m"]);
    let mut child =
        common::Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the program starts"));
    let mut lines = BufReader::new(child.0.stdout.take().expect("stdout is piped")).lines();
    let mut line_with = |what: &str| loop {
        let line = lines.next().expect("it goes on").expect("it is text");
        if line.contains(what) {
            break line;
        }
    };
    let listening = line_with("listening on 127.0.0.1");
    let listener = listening.split_whitespace().find_map(|word| word.strip_suffix("/tcp")?.parse().ok());
    let listener: SocketAddr = listener.unwrap_or_else(|| panic!("no address in {listening}"));
    exchange(listener, b"hello");
    line_with("#1 closed");
    let _staying = TcpStream::connect(listener).expect("the mapping listens");
    line_with("#2 opened");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.0.id()).expect("a pid")),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("it is alive");
    let last = line_with("traffic:");
    assert!(last.ends_with(" 0 open, in 5 out 5 bytes; 2 connections opened, 2 closed"), "{last}");
    assert!(child.0.wait().expect("it ends").success());
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
    let listener = run.listening("[::1]");
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
