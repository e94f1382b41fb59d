//! `portolan run`: its ends, hand edits, and what it says when it cannot listen (contract §4).

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::echo::echo_server;
use common::program::{Home, Run};
use common::{SOON, wait_for, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn a_signal_drains_and_what_is_left_after_it_is_reset() {
    let server = echo_server();
    let home = Home::new();
    let mut run = home.run(None, ["-p", &format!("auto:{server}"), "--drain", "500ms"]);
    let listener = run.listening("127.0.0.1");
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
    let listener = run.listening("127.0.0.1");
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
    // By chance somebody may have the number in the other family.
    let (_taken, port) = wait_for("a number that is free in both families", SOON, || {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = taken.local_addr().expect("it is bound").port();
        TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok().then_some((taken, port))
    });
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
fn a_hand_edit_is_applied_while_it_runs_and_a_wrong_one_is_refused() {
    let server = echo_server();
    let home = Home::new();
    let profile = |mappings: &str| format!("{{\"version\": 1, \"mappings\": [{mappings}]}}");
    let kept = format!("{{\"name\": \"kept\", \"listen\": \"auto\", \"target\": \"{server}\"}}");
    home.write_profile("default", &profile(&kept));
    let mut run = home.run::<&str>(None, []);
    let listener = run.listening("127.0.0.1");
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

/// `try` without a terminal prints events, and its page answers through the mapping.
#[test]
fn try_maps_an_ipv4_only_page_that_ipv6_clients_reach() {
    let home = Home::new();
    let mut command: Command = home.command(None);
    command.args(["try", "--json"]);
    let mut run = Run::start(command);
    let listener = run.listening("[::1]");
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
