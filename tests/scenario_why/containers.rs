//! What a container can have wrong, by the real engine.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portolan::host::inside::process_of;
use portolan::host::listeners;
use portolan::host::namespace::within;
use portolan::model::mapping::Protocol;
use portolan::model::report::CauseKind;

use crate::common::docker::{Container, Engine};
use crate::common::netns::Namespace;
use crate::common::{SOON, output, wait_for, wait_until};
use crate::table::{AsUser, Looker, Table};

const ECHO: [&str; 6] = ["nc", "-ll", "-p", "7", "-e", "cat"];

/// A network of the engine's, removed on drop.
struct Network<'a> {
    engine: &'a Engine,
    name: &'a str,
}

impl<'a> Network<'a> {
    fn new(engine: &'a Engine, name: &'a str, options: &[&str]) -> Self {
        let _ = engine.docker(&["network", "rm", name]).output();
        output(engine.docker(&["network", "create"]).args(options).arg(name));
        Self { engine, name }
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        let _ = self.engine.docker(&["network", "rm", self.name]).output();
    }
}

pub(crate) fn rows(table: &mut Table) {
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let looker = Looker::new(&docker, Some(engine.host()));
    standing(table, &engine, &looker);
    inside(table, &engine, &looker);
    stuck(table, &engine, &docker, &looker);
    networks(table, &engine, &docker, &looker);
    published(table, &engine, &docker, &looker);
    elsewhere(table, &engine);
}

/// Same for a user in the group `docker`, but for a firewall that might be in the way too.
fn row(table: &mut Table, looker: &Looker<'_>, name: &str, mapping: &str, kind: CauseKind) {
    table.row_of(name, looker, mapping, Some(kind), &AsUser::Unseen(Some(kind)));
}

fn standing(table: &mut Table, engine: &Engine, looker: &Looker<'_>) {
    row(table, looker, "no such container", "8080:why_nobody:7", CauseKind::ContainerMissing);
    let web = engine.start("why_web", &ECHO);
    output(&mut engine.docker(&["pause", "why_web"]));
    row(table, looker, "the container is paused", "8080:why_web:7", CauseKind::ContainerStopped);
    output(&mut engine.docker(&["unpause", "why_web"]));
    web.stop();
    row(table, looker, "the container is stopped", "8080:why_web:7", CauseKind::ContainerStopped);
    let _alone = engine.start_with("why_alone", &["--network", "none"], &ECHO);
    row(table, looker, "the container has no address", "8080:why_alone:7", CauseKind::ContainerWithoutAddress);
}

fn inside(table: &mut Table, engine: &Engine, looker: &Looker<'_>) {
    let serve = |name: &str, at: &str| engine.start(name, &["httpd", "-f", "-p", at, "-h", "/bin"]);
    let _loopback = serve("why_loopback", "127.0.0.1:80");
    row(table, looker, "inside: on loopback alone", "8080:why_loopback:80", CauseKind::AppOnLoopback);
    let _other_loopback = serve("why_loopback2", "127.0.0.1:8443");
    let report = table.row_of(
        "inside: on loopback alone, on another port",
        looker,
        "8443:why_loopback2:443",
        Some(CauseKind::AppOnLoopback),
        &AsUser::Unseen(Some(CauseKind::AppOnLoopback)),
    );
    let text = report.causes.first().map(|cause| cause.text.to_string());
    let said = text.as_deref() == Some("why_loopback2 listens only on its own loopback, on port 8443.");
    table.check("the cause names container and port", said, &report);
    let _other = serve("why_other", "0.0.0.0:81");
    row(table, looker, "inside: on another port", "8080:why_other:80", CauseKind::AppOnAnotherPort);
    // Whether a socket of IPv6 takes IPv4 too, the tables of a process do not say.
    let _v6 = engine.start_with("why_v6", &["--sysctl", "net.ipv6.bindv6only=1"], &["httpd", "-f", "-p", "[::]:80"]);
    table.row_of(
        "inside: on IPv6 alone",
        looker,
        "8080:why_v6:80",
        Some(CauseKind::AppOnIpv6Only),
        &AsUser::Unseen(Some(CauseKind::TargetRefused)),
    );
    let _idle = engine.start("why_idle", &["sleep", "600"]);
    row(table, looker, "inside: nobody listens", "8080:why_idle:80", CauseKind::AppNotListening);
    let udp = engine.start("why_udp", &["sleep", "600"]);
    let pid = u32::try_from(pid_of(engine, &udp)).expect("a pid");
    let _socket = within(pid, || UdpSocket::bind("0.0.0.0:54").expect("free")).expect("root may");
    row(table, looker, "inside: datagrams on another port", "5353:why_udp:53/udp", CauseKind::AppOnAnotherPort);
    table.row_of("healthy: datagrams to a container", looker, "5353:why_udp:54/udp", None, &AsUser::Same);
}

pub(crate) fn pid_of(engine: &Engine, container: &Container) -> i32 {
    let id = engine.id(container.name());
    let pid = wait_for("its process", SOON, || process_of(&id));
    i32::try_from(pid).expect("a pid")
}

/// What runs inside, and does not answer all the same.
fn stuck(table: &mut Table, engine: &Engine, docker: &Namespace, looker: &Looker<'_>) {
    let web = engine.start("why_stuck", &["httpd", "-f", "-p", "80", "-h", "/bin"]);
    let address: SocketAddr = format!("{}:80", web.address()).parse().expect("an address");
    wait_until("it listens", SOON, || docker.enter(|| TcpStream::connect(address).is_ok()));
    let pid = pid_of(engine, &web);
    kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("root may");
    let mut waiting = Vec::new();
    let seen = u32::try_from(pid).expect("a pid");
    let is_full = || {
        let listening = listeners::of(seen, Protocol::Tcp).expect("root may look");
        listening.iter().any(|one| one.most_waiting.is_some_and(|most| one.waiting > most))
    };
    docker.enter(|| {
        while !is_full() {
            assert!(waiting.len() < 5_000, "its queue has no end");
            waiting.extend(TcpStream::connect_timeout(&address, Duration::from_secs(1)));
        }
    });
    row(table, looker, "inside: the queue is full", "8080:why_stuck:80", CauseKind::BacklogFull);
    kill(Pid::from_raw(pid), Signal::SIGCONT).expect("root may");
    drop(waiting);

    let dropping = engine.start("why_dropping", &ECHO);
    let net = format!("--net=/proc/{}/ns/net", pid_of(engine, &dropping));
    let rule = ["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "7", "-j", "DROP"];
    output(std::process::Command::new("nsenter").arg(net).arg("--").args(rule));
    table.row_of(
        "inside: a firewall drops",
        looker,
        "8080:why_dropping:7",
        Some(CauseKind::Firewall),
        &AsUser::Unseen(Some(CauseKind::TargetTimedOut)),
    );
}

fn networks(table: &mut Table, engine: &Engine, docker: &Namespace, looker: &Looker<'_>) {
    docker.ip("link add why-parent type veth peer name why-child");
    docker.ip("link set why-child up");
    docker.ip("link set why-parent up");
    {
        let options = ["--driver", "macvlan", "--subnet", "198.51.100.0/24", "-o", "parent=why-parent"];
        let network = Network::new(engine, "why_macvlan", &options);
        let _web = engine.start_with("why_macvlan_web", &["--network", network.name], &ECHO);
        let kind = CauseKind::NetworkUnreachable;
        row(table, looker, "a network that this host is not on", "8080:why_macvlan_web:7", kind);
    }
    docker.ip("link delete why-parent");
    let inhibit = "com.docker.network.bridge.inhibit_ipv4=true";
    let options = ["--internal", "--subnet", "198.51.100.0/24", "-o", inhibit];
    let network = Network::new(engine, "why_internal", &options);
    let _web = engine.start_with("why_internal_web", &["--network", network.name], &ECHO);
    let kind = CauseKind::NetworkInternal;
    row(table, looker, "an internal network that this host is not on", "8080:why_internal_web:7", kind);
}

/// Ports that Docker itself publishes.
fn published(table: &mut Table, engine: &Engine, docker: &Namespace, looker: &Looker<'_>) {
    let _web = engine.start("why_target", &ECHO);
    let published = engine.start_with("why_published", &["-p", "8090:7"], &ECHO);
    let report = table.row_of(
        "a container's publication holds the port",
        looker,
        "8090:why_target:7",
        Some(CauseKind::PortHeldByContainer),
        &AsUser::Same,
    );
    table.row_of(
        "the same, for a mapping that is exposed",
        looker,
        "any:8090:why_target:7",
        Some(CauseKind::PortHeldByContainer),
        &AsUser::Unseen(Some(CauseKind::PortHeldByContainer)),
    );
    let names_it = report.causes.iter().any(|cause| cause.text.as_str().contains("the container why_published"));
    table.check("the container is named", names_it, &report);

    // Its proxies die, and its rule stays: other machines never reach who takes the port then.
    let name = docker.command("sh").args(["-c", "ss -Hltnp sport = :8090"]).output().expect("ss runs");
    let shown = String::from_utf8_lossy(&name.stdout).into_owned();
    for pid in shown.split("pid=").skip(1).filter_map(|rest| rest.split(',').next()?.parse::<i32>().ok()) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("root may");
    }
    docker.ip("link add why-up type veth peer name why-down");
    docker.ip("link set why-down up");
    docker.ip("address add 192.0.2.1/24 dev why-up");
    docker.ip("address add 2001:db8::1/64 dev why-up nodad");
    docker.ip("link set why-up up");
    wait_until("the port is free", SOON, || docker.enter(|| std::net::TcpListener::bind("0.0.0.0:8090").is_ok()));
    let shadowed = Some(CauseKind::ShadowedByDnat);
    table.row_of(
        "Docker's rule takes clients away",
        looker,
        "any:8090:why_target:7",
        shadowed,
        &AsUser::Unseen(shadowed),
    );
    docker.ip("link delete why-up");
    drop(published);
}

/// A host that may ask the engine, and whose network is not the engine's.
fn elsewhere(table: &mut Table, engine: &Engine) {
    let (host, _peer) = crate::host::pair();
    let _web = engine.start("why_elsewhere", &ECHO);
    let looker = Looker::new(&host, Some(engine.host()));
    let kind = CauseKind::EngineElsewhere;
    row(table, &looker, "an engine in another network", "8080:why_elsewhere:7", kind);
}
