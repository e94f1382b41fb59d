//! What a target sees of the program while nobody connects: nothing (fault 28). Counted by the kernel of the target's
//! host, where every segment counts, answered or not.

mod common;
#[path = "common/docker_fake.rs"]
mod docker_fake;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use common::hosts::Hosts;
use common::netns::Namespace;
use common::program::Home;
use common::screen::Screen;
use common::terminal::Terminal;
use common::{Need, output, require, wait_until};
use docker_fake::{FakeDocker, container};

/// Names are looked up again every 30 s.
const NEXT_LOOK_UP: Duration = Duration::from_mins(1);
/// The long form idles for so long (`tests/run --soak`).
const SOAK: Duration = Duration::from_mins(10);

const PROFILE: &str = r#"{ "version": 1, "mappings": [
    { "name": "address", "listen": "localhost:8081", "target": "192.0.2.2:80" },
    { "name": "host", "listen": "localhost:8082", "target": "host/app.test:80" },
    { "name": "late", "listen": "localhost:8083", "target": "host/late.test:80" },
    { "name": "container", "listen": "localhost:8084", "target": "web_1:80" },
    { "name": "datagrams", "listen": "localhost:8085", "target": "192.0.2.2:53", "protocol": "udp" }
] }"#;

/// The machine with the program, and the host of every target.
struct Network {
    machine: Namespace,
    host: Namespace,
    target: TcpListener,
}

impl Network {
    fn new() -> Self {
        let (machine, host) = (Namespace::new("machine"), Namespace::new("host"));
        machine.connect("to-host", &["192.0.2.1/24"], &host, "up", &["192.0.2.2/24", "192.0.2.3/24"]);
        let target = listen(&host, "0.0.0.0:80");
        Self { machine, host, target }
    }

    /// Fails unless so many connections were begun, and as many came to the target.
    #[track_caller]
    fn assert_connections(&self, count: u64, when: &str) {
        let (ours, theirs) = (self.machine.counters(), self.host.counters());
        assert_eq!(ours["Tcp ActiveOpens"], count, "connections begun by the program {when}");
        assert_eq!(theirs["Tcp PassiveOpens"], count, "connections that came to the target {when}");
        assert_eq!(accepted(&self.target), count, "connections that it has accepted {when}");
        let is_quiet = theirs["Tcp InSegs"] == 0 && theirs["Udp InDatagrams"] + theirs["Udp NoPorts"] == 0;
        assert_eq!(is_quiet, count == 0, "segments and datagrams that came to the target {when}: {theirs:?}");
    }

    /// Every socket of the machine, as `ss` lists them.
    fn sockets(&self) -> Vec<String> {
        let listed = output(self.machine.command("ss").args(["-Htuan"]));
        let mut sockets: Vec<String> =
            listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        sockets.sort();
        sockets
    }
}

fn listen(namespace: &Namespace, address: &str) -> TcpListener {
    let listener = namespace.enter(|| TcpListener::bind(address).expect("the address is free"));
    listener.set_nonblocking(true).expect("it can be set");
    listener
}

/// Takes every connection that waits.
fn accepted(listener: &TcpListener) -> u64 {
    let mut count = 0;
    loop {
        match listener.accept() {
            Ok(_) => count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

fn screen(command: &mut Command, docker: &FakeDocker) -> Screen {
    command.env("DOCKER_HOST", docker.docker_host());
    let screen = Screen { terminal: Terminal::start(160, 40, command) };
    screen.terminal.wait_for_text("? help");
    screen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_target_sees_nothing_of_us_until_the_user_asks() {
    if !require(&[Need::Namespaces, Need::Tmux, Need::Ss]) {
        return;
    }
    let network = Network::new();
    let docker = FakeDocker::unix();
    docker.set_containers(vec![container("web_1", "running", Some("192.0.2.2"))]);
    let (hosts, home) = (Hosts::new("192.0.2.2 app.test"), Home::new());
    home.write_profile("default", PROFILE);
    let started = Instant::now();
    let screen = screen(&mut hosts.command(&network.machine, &home), &docker);
    for port in ["8081", "8082", "8084", "8085"] {
        screen.wait_for_row("MAPPINGS", &[&format!(":{port}"), "up", "192.0.2.2"]);
    }
    screen.wait_for_row("MAPPINGS", &[":8083", "wait"]);

    // Addresses come and change, by Docker's events and by DNS.
    docker.change(vec![container("web_1", "running", Some("192.0.2.3"))]);
    screen.wait_for_row("MAPPINGS", &[":8084", "up", "192.0.2.3"]);
    hosts.set("192.0.2.3 app.test\n192.0.2.3 late.test");
    screen.wait_for_row("MAPPINGS", &[":8083", "up", "192.0.2.3"]);
    // The user looks around.
    for keys in [&["j", "j", "k"][..], &["2"], &["4"], &["1"], &["Tab"], &["BTab"], &["f"], &["f"], &["?"], &["Escape"]]
    {
        screen.keys(keys);
    }
    screen.wait_for_row_within(NEXT_LOOK_UP, "MAPPINGS", &[":8082", "up", "192.0.2.3"]);
    if std::env::var_os("PORTOLAN_TEST_SOAK").is_some() {
        tokio::time::sleep(SOAK.saturating_sub(started.elapsed())).await;
    }
    network.assert_connections(0, &format!("in {:?} of idling", started.elapsed()));
    println!("nothing came to the target in {:?}", started.elapsed());

    // A form that is filled in: somebody listens on every number that is passed while 8080 is typed.
    let passed = ["127.0.0.1:8", "127.0.0.1:80", "127.0.0.1:808", "127.0.0.1:8080"];
    let passed = passed.map(|address| listen(&network.machine, address));
    let before = network.sockets();
    screen.keys(&["a"]);
    screen.terminal.wait_for_text("ADD MAPPING");
    for typed in ["8", "80", "808", "8080"] {
        screen.terminal.type_text(&typed[typed.len() - 1..]);
        // It has been looked at: who holds it is known without asking them.
        screen.terminal.wait_for_text(&format!(" {typed}/tcp is in use by"));
        assert_eq!(network.sockets(), before, "sockets come and go while a port is typed");
    }
    screen.keys(&["BSpace"]);
    screen.terminal.type_text("6");
    screen.keys(&["Tab", "Tab"]);
    screen.terminal.type_text("192.0.2.2");
    screen.keys(&["Tab"]);
    screen.terminal.type_text("80");
    // The mapping as a whole has been looked at.
    screen.terminal.wait_for("what comes of it", common::SOON, |text| {
        text.contains("192.0.2.2") && text.lines().any(|line| line.contains("Will be at") && line.contains(":8086"))
    });
    assert_eq!(network.sockets(), before, "sockets come and go while a target is typed");
    network.assert_connections(0, "before the target's port field was left");

    // Left, the target is tried: once.
    screen.keys(&["Tab"]);
    screen.terminal.wait_for_text("192.0.2.2:80 answers");
    network.assert_connections(1, "after its port field was left");
    for listener in &passed {
        assert_eq!(accepted(listener), 0, "{listener:?}");
    }
    screen.keys(&["Escape"]);
    wait_until("the form to close", common::SOON, || !screen.text().contains("ADD MAPPING"));
    screen.quit();
}
