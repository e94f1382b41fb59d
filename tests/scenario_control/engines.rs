//! Engines that start, end, die and change their names beside each other: the socket is always a living one's.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::beside::echo_server;
use crate::client::{ask, connect, get, pid_at, serves, socket_of, start, write_profile};
use crate::common::echo::echoes;
use crate::common::program::{Home, Run};
use crate::common::{SOON, wait_for, wait_until};

/// Engines that die, pairs that start at the same moment, and successors.
const DEATHS: usize = 10;
const PAIRS: usize = 100;
const SUCCESSORS: usize = 50;

fn home() -> Home {
    let home = Home::new();
    write_profile(&home, "default", "127.0.0.1:9");
    home
}

/// Every socket in the folder.
fn sockets(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.path().join("run/portolan")).expect("there is a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())).collect()
}

#[test]
fn what_a_killed_engine_leaves_is_replaced_and_serves() {
    let home = home();
    let socket = socket_of(&home, "default");
    for _ in 0..DEATHS {
        let run = start(&home);
        let pid = u64::from(run.pid());
        assert_eq!(pid_at(&socket), Some(pid));
        run.signal(Signal::SIGKILL);
        let ended = run.wait();
        assert!(!ended.status.success());
        let left = fs::symlink_metadata(&socket).expect("it has left its socket");
        assert!(left.file_type().is_socket() && connect(&socket).is_err(), "a stale socket");
    }
    let run = start(&home);
    assert_eq!(sockets(&home), [socket.as_path()]);
    assert!(run.stop().status.success());
    assert!(sockets(&home).is_empty());
    println!("{DEATHS} engines killed, {DEATHS} stale sockets replaced");
}

/// Both as soon as they can, and what became of them: the one that runs, and the other's last words.
fn race(home: &Home) -> (std::process::Child, Output) {
    let command = || {
        let mut command = home.command(None);
        command.args(["run", "--json", "--drain", "0s"]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let mut both = [command(), command()].map(|mut command: Command| command.spawn().expect("it starts"));
    let loser = wait_for("one of them to give way", SOON, || {
        both.iter_mut().position(|child| child.try_wait().expect("a child").is_some())
    });
    let [first, second] = both;
    let (loser, winner) = if loser == 0 { (first, second) } else { (second, first) };
    (winner, loser.wait_with_output().expect("it has ended"))
}

#[test]
fn of_two_engines_that_start_at_the_same_moment_one_runs_and_the_other_says_which() {
    let home = home();
    let socket = socket_of(&home, "default");
    for pair in 0..PAIRS {
        let (mut winner, loser) = race(&home);
        let words = String::from_utf8_lossy(&loser.stderr).into_owned();
        assert_eq!(loser.status.code(), Some(1), "pair {pair}: {words}");
        let pid = winner.id().to_string();
        assert!(words.split(|c: char| !c.is_ascii_digit()).any(|number| number == pid), "pair {pair}: {words}");
        wait_until("the living one's socket", SOON, || pid_at(&socket) == Some(u64::from(winner.id())));
        assert_eq!(sockets(&home), [socket.as_path()], "pair {pair}");
        if pair == 0 {
            println!("the other one says: {}", words.trim_end());
        }
        // Every other one leaves its socket.
        if pair % 2 == 0 {
            let end = ask(&socket, "POST", "/v1/shutdown", b"").expect("it answers");
            assert_eq!(end.status, 200, "{end:?}");
        } else {
            winner.kill().expect("a child");
        }
        winner.wait().expect("it ends");
    }
    println!("{PAIRS} pairs: one ran, the other said which; the socket was the living one's");
}

/// Starts an engine of a home as soon as its profile is free, with the sockets in the same or another home.
fn successor(home: &Home, sockets: &Home) -> Run {
    let start = Instant::now();
    loop {
        let mut command = home.command(None);
        command.env("XDG_RUNTIME_DIR", sockets.path().join("run")).args(["run", "--json", "--drain", "0s"]);
        let mut run = Run::start(command);
        // It gives way at once, or has the profile.
        let is_up = wait_for("an engine, or its end", SOON, || {
            let is_ready = run.events().iter().any(|event| event["event"] == "ready");
            let has_ended = fs::read_to_string(format!("/proc/{}/stat", run.pid())).is_ok_and(|s| s.contains(") Z "));
            (is_ready || has_ended).then_some(is_ready)
        });
        if is_up {
            return run;
        }
        assert!(start.elapsed() < SOON, "{}", run.wait().errors);
    }
}

#[test]
fn an_engine_that_ends_while_the_next_one_starts_leaves_that_ones_socket_alone() {
    let home = home();
    let socket = socket_of(&home, "default");
    let mut before = start(&home);
    for _ in 0..SUCCESSORS {
        before.signal(Signal::SIGINT);
        let after = successor(&home, &home);
        assert!(before.wait().status.success());
        wait_until("the successor's socket", SOON, || pid_at(&socket) == Some(u64::from(after.pid())));
        before = after;
    }
    println!("{SUCCESSORS} engines ended while the next one started: each of these had its socket");
    assert!(before.stop().status.success());
    assert!(sockets(&home).is_empty());
}

#[test]
fn engines_of_two_config_folders_with_profiles_of_one_name_keep_apart() {
    let home = home();
    let other = Home::new();
    write_profile(&other, "default", "127.0.0.1:9");
    let is_anywhere = |run: &Run| sockets(&home).iter().any(|path| pid_at(path) == Some(u64::from(run.pid())));
    let first = start(&home);
    let mut second = successor(&other, &home);
    wait_until("both to be found", SOON, || is_anywhere(&first) && is_anywhere(&second));
    assert!(first.stop().status.success());
    for _ in 0..SUCCESSORS / 5 {
        // It has the preferred name now, or not; the one that ends takes its own away alone.
        let first = start(&home);
        second.signal(Signal::SIGINT);
        let third = successor(&other, &home);
        assert!(second.wait().status.success());
        wait_until("both to be found", SOON, || is_anywhere(&first) && is_anywhere(&third));
        assert!(first.stop().status.success());
        assert!(is_anywhere(&third));
        second = third;
    }
    assert!(second.stop().status.success());
    assert!(sockets(&home).is_empty());
}

#[test]
fn while_connections_finish_an_engine_answers_and_can_be_ended_sooner() {
    let home = Home::new();
    write_profile(&home, "default", echo_server());
    let socket = socket_of(&home, "default");
    let mut run = start(&home);
    let pid = u64::from(run.pid());
    let mut client = TcpStream::connect(run.listening("127.0.0.1")).expect("it listens");
    assert!(echoes(&mut client));
    let mut shutdown = home.command(None);
    let mut shutdown = shutdown.args(["shutdown", "--drain", "10m"]).stdout(Stdio::null()).spawn().expect("it starts");
    let refused = wait_for("the end to begin", SOON, || {
        let answer = ask(&socket, "POST", "/v1/mappings/default/start", b"").expect("it answers");
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((refused.status, refused.message().as_str()), (409, "the engine is ending"));
    assert_eq!(pid_at(&socket), Some(pid));
    assert!(echoes(&mut client), "it may finish");
    let listed = get(&socket, "/v1/connections").expect("it answers").json();
    assert_eq!(listed["connections"].as_array().map(Vec::len), Some(1), "{listed}");
    assert!(shutdown.try_wait().expect("a child").is_none(), "it waits");
    // Whoever has had enough ends it at once.
    let sooner = home.command(None).args(["shutdown", "--drain", "0s"]).output().expect("it starts");
    assert!(sooner.status.success(), "{sooner:?}");
    assert!(get(&socket, "/v1/engine").is_err(), "it has ended");
    assert!(shutdown.wait().expect("a child").success());
    assert!(run.wait().status.success());
    // And the next one finds nothing in its way.
    assert!(start(&home).stop().status.success());
}

#[test]
fn a_profile_that_is_not_there_is_opened_by_nobody_who_has_not_said_so() {
    let home = home();
    let socket = socket_of(&home, "default");
    let run = start(&home);
    let open = |query: &str, body: &str| {
        let answer = ask(&socket, "PUT", &format!("/v1/profile{query}"), body.as_bytes()).expect("an answer");
        (answer.status, answer.json())
    };
    let (status, said) = open("", r#"{"name":"defualt"}"#);
    assert_eq!(status, 404, "{said}");
    assert!(said["message"].as_str().is_some_and(|text| text.contains("profile defualt")), "{said}");
    assert_eq!(open("?revision=99", r#"{"name":"other","new":true}"#).0, 409);
    assert_eq!(open("?revison=1", r#"{"name":"other","new":true}"#).0, 400);
    assert_eq!(get(&socket, "/v1/mappings").expect("an answer").json()["mappings"][0]["name"], "default");
    let revision = get(&socket, "/v1/engine").expect("an answer").json()["revision"].to_string();
    let (status, said) = open(&format!("?revision={revision}"), r#"{"name":"other","new":true}"#);
    assert_eq!(status, 200, "{said}");
    assert!(run.stop().status.success());
}

#[test]
fn a_profile_opened_elsewhere_moves_the_socket_and_its_streams_go_on() {
    let home = home();
    write_profile(&home, "other", "127.0.0.1:9");
    let (old, new) = (socket_of(&home, "default"), socket_of(&home, "other"));
    let run = start(&home);
    let mut stream = connect(&old).expect("it listens");
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: portolan\r\n\r\n").expect("taken");
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("it goes on"));
    let mut event = |name: &str, mapping: &str| -> Value {
        let mut events = lines.by_ref().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        events.find(|event| event["event"] == name && event["mapping"] == mapping).expect("it goes on")
    };
    let answer = ask(&old, "PUT", "/v1/profile", br#"{"name":"other"}"#).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    serves(&new);
    assert!(get(&old, "/v1/engine").is_err(), "nobody is under the old name");
    assert_eq!(sockets(&home), [new.as_path()]);
    for (change, state) in [("stop", "stopped"), ("start", "up")] {
        let answer = ask(&new, "POST", &format!("/v1/mappings/other/{change}"), b"").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        while event("mapping_state", "other")["state"] != state {}
    }
    // Another engine takes the old name.
    let beside = start(&home);
    assert_eq!(pid_at(&old), Some(u64::from(beside.pid())));
    assert_eq!(pid_at(&new), Some(u64::from(run.pid())));
    let answer = ask(&new, "PUT", "/v1/profile", br#"{"name":"default"}"#).expect("an answer");
    assert_ne!(answer.status, 200, "it runs elsewhere: {answer:?}");
    println!("a profile that runs elsewhere: {}", answer.message());
    assert!(run.stop().status.success());
    assert_eq!(sockets(&home), [old.as_path()]);
    assert!(beside.stop().status.success());
    assert!(sockets(&home).is_empty());
}
