//! Under systemd: what the program tells it (`sd_notify(3)`).

mod common;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::ports::free_port;
use common::program::{Home, Run};
use common::{SOON, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The manager's end: where a service tells how it does.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
    said: Vec<String>,
}

impl Manager {
    fn new(home: &Home) -> Self {
        let path = home.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket of the test's own");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("ours");
        Self { path, socket, said: Vec::new() }
    }

    /// `portolan run --json` that knows of it.
    fn run(&self, home: &Home, arguments: &[&str], environment: &[(&str, &str)]) -> Run {
        let mut command = home.command(None);
        command.args(["run", "--json"]).args(arguments);
        command.env("NOTIFY_SOCKET", &self.path).envs(environment.iter().copied());
        Run::start(command)
    }

    /// Every line up to now.
    fn said(&mut self) -> &[String] {
        let mut message = [0; 4096];
        loop {
            match self.socket.recv(&mut message) {
                Ok(length) => {
                    let text = std::str::from_utf8(&message[..length]).expect("text");
                    self.said.extend(text.lines().map(str::to_owned));
                }
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                    return &self.said;
                }
            }
        }
    }

    #[track_caller]
    fn hears(&mut self, line: &str) {
        let found = wait_for(&format!("{line:?}"), SOON, || {
            let said = self.said();
            said.iter().any(|said| said == line).then(|| said.to_vec())
        });
        assert!(found.iter().filter(|said| *said == "READY=1").count() <= 1, "{found:?}");
    }
}

#[test]
fn it_says_when_it_is_ready_what_listens_and_when_it_ends() {
    let home = Home::new();
    let mut manager = Manager::new(&home);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let busy = taken.local_addr().expect("it is bound").port();
    let profile = |more: &str| {
        let text = format!(
            "{{\"version\": 1, \"mappings\": [{{\"listen\": \"auto\", \"target\": \"127.0.0.1:9\"}},
            {{\"listen\": \"127.0.0.1:{busy}\", \"target\": \"127.0.0.1:9\"}}{more}]}}"
        );
        home.write_profile("default", &text);
    };
    profile("");
    let mut run = manager.run(&home, &[], &[]);
    run.ready();
    manager.hears("READY=1");
    manager.hears("STATUS=2 mappings, 1 listening, 1 failed");
    profile(", {\"listen\": \"auto\", \"target\": \"127.0.0.1:10\"}");
    manager.hears("STATUS=3 mappings, 2 listening, 1 failed");
    drop(taken);
    manager.hears("STATUS=3 mappings, 3 listening");
    assert!(!manager.said().iter().any(|line| line.starts_with("WATCHDOG") || line == "STOPPING=1"));
    run.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    assert!(run.wait().status.success());
}

#[test]
fn it_says_that_it_ends_before_its_connections_have() {
    let home = Home::new();
    let mut manager = Manager::new(&home);
    let server = common::echo::echo_server();
    let mut run = manager.run(&home, &["-p", &format!("auto:{server}"), "--drain", "10m"], &[]);
    let listener = run.listening("127.0.0.1");
    let _staying = std::net::TcpStream::connect(listener).expect("the mapping listens");
    run.event("a connection", SOON, |event| event["event"] == "opened");
    manager.hears("READY=1");
    run.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    run.signal(Signal::SIGTERM);
    assert!(!run.wait().status.success(), "it was drained, and ended by the second signal");
}

#[test]
fn it_is_never_ready_when_it_gives_up() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let busy = taken.local_addr().expect("it is bound").port();
    for strict in [false, true] {
        let home = Home::new();
        let mut manager = Manager::new(&home);
        let (one, other) = (format!("127.0.0.1:{busy}:127.0.0.1:9"), format!("{}:127.0.0.1:9", free_port()));
        let arguments = if strict { vec!["--strict", "-p", &one, "-p", &other] } else { vec!["-p", &one] };
        let ended = manager.run(&home, &arguments, &[]).wait();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
        assert!(!manager.said().iter().any(|line| line == "READY=1"), "{:?}", manager.said);
    }
}

#[test]
fn it_says_that_it_is_alive_at_half_of_the_time_that_it_has() {
    let home = Home::new();
    let mut manager = Manager::new(&home);
    let watchdog = [("WATCHDOG_USEC", "600000")];
    let mut run = manager.run(&home, &["-p", "auto:127.0.0.1:9"], &watchdog);
    run.ready();
    manager.hears("READY=1");
    let count = |manager: &mut Manager| manager.said().iter().filter(|line| *line == "WATCHDOG=1").count();
    let (start, first) = (Instant::now(), count(&mut manager));
    wait_for("five more signs of life", SOON, || (count(&mut manager) >= first + 5).then_some(()));
    let took = start.elapsed();
    assert!(took > Duration::from_millis(900), "not much more often than asked: {took:?}");
    assert!(run.stop().status.success());
}

#[test]
fn the_time_of_another_process_is_none_of_its_own() {
    let home = Home::new();
    let mut manager = Manager::new(&home);
    let mut run = manager.run(&home, &["-p", "auto:127.0.0.1:9"], &[("WATCHDOG_USEC", "20000"), ("WATCHDOG_PID", "1")]);
    run.ready();
    manager.hears("READY=1");
    assert!(run.stop().status.success());
    manager.hears("STOPPING=1");
    assert!(!manager.said().iter().any(|line| line == "WATCHDOG=1"), "{:?}", manager.said);
}

#[test]
fn a_manager_that_is_not_there_changes_nothing() {
    let home = Home::new();
    let mut command = home.command(None);
    command.args(["run", "--json", "-p", "auto:127.0.0.1:9"]).env("NOTIFY_SOCKET", home.path().join("nobody"));
    let mut run = Run::start(command);
    assert_eq!(run.ready()["listening"], Value::from(1));
    let warning = run.event("a warning", SOON, |event| event["event"] == "warning");
    assert!(warning["message"].as_str().is_some_and(|text| text.contains("NOTIFY_SOCKET")), "{warning}");
    assert!(run.stop().status.success());
}
