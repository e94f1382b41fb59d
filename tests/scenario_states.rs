//! What the running system refuses, and the words for it: the rows of faults.md below "running system", through the
//! program. (A busy port, a foreign address and a stopped container stand in `run_command`, `bad_input` and
//! `scenario_docker`.)

mod common;
#[path = "common/docker_fake.rs"]
mod docker_fake;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use common::echo::{echo_server, echoes};
use common::netns::Namespace;
use common::program::{Home, PORTOLAN, Run};
use common::{Need, SOON, require};
use docker_fake::{FakeDocker, container};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

/// nobody, who may do nothing in particular.
const NOBODY: &str = "65534";

/// The program as an ordinary user, who finds it in this home and owns that; here or in a namespace.
fn as_nobody(home: &Home, namespace: Option<&Namespace>) -> Command {
    // The folder that it was built in may be closed to others.
    let program = home.path().join("portolan");
    fs::copy(PORTOLAN, &program).expect("it can be copied");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
    let uid = NOBODY.parse().expect("a number");
    std::os::unix::fs::chown(home.path(), Some(uid), Some(uid)).expect("root may");
    let mut command = namespace.map_or_else(|| Command::new("setpriv"), |namespace| namespace.command("setpriv"));
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]).arg(program);
    command.env_clear().envs(home.environment());
    command
}

fn run(mut command: Command, mapping: &str) -> Run {
    command.args(["run", "--json", "-p", mapping]);
    Run::start(command)
}

/// The reason for the state of the only mapping.
fn reason(run: &mut Run, state: &str) -> String {
    let event = run.event(state, SOON, |event| event["event"] == "mapping_state" && event["state"] == state);
    event["reason"].as_str().expect("it has one").to_owned()
}

/// Waits until the only mapping that waits does so for this reason. Before Docker has answered it waits for that.
fn waits(run: &mut Run, reason: &str) {
    run.event(reason, SOON, |event| {
        event["event"] == "mapping_state"
            && event["state"] == "waiting"
            && event["reason"].as_str().is_some_and(|said| said.contains(reason))
    });
}

/// What a run says on stderr that ends since nothing listens.
fn refused(run: Run) -> String {
    let ended = run.wait();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
    ended.errors
}

#[test]
fn a_host_without_ipv6_says_so_and_try_speaks_ipv4() {
    if !require(&[Need::Namespaces]) {
        return;
    }
    let host = Namespace::new("four");
    host.set("ipv6/conf/all/disable_ipv6", "1");
    let home = Home::new();
    let mut run = home.run(Some(&host), ["--strict", "-p", "8080:127.0.0.1:9"]);
    assert_eq!(reason(&mut run, "up"), "this host has no IPv6: IPv4 alone");
    assert_eq!(run.ready()["listening"], 1);
    // It is as it should be there, so not even `--strict` minds.
    assert!(run.stop().status.success());

    let mut command = home.command(Some(&host));
    command.args(["try", "--json"]);
    let mut run = Run::start(command);
    run.ready();
    let listening = run.event("listening", SOON, |event| event["event"] == "listening");
    let ended = run.stop();
    let listener = listening["listener"].as_str().expect("a text");
    assert!(ended.errors.contains(&format!("curl 'http://{listener}/'")), "{listener}: {}", ended.errors);
    assert!(!ended.errors.contains("[::1]"), "{}", ended.errors);
}

#[test]
fn a_kernel_without_sctp_says_what_to_try() {
    let has_sctp = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::SCTP)).is_ok();
    let home = Home::new();
    let mut run = home.run(None, ["-p", "127.0.0.1:auto:127.0.0.1:9/sctp"]);
    if has_sctp {
        println!("this kernel has SCTP");
        assert_eq!(run.ready()["listening"], 1);
        assert!(run.stop().status.success());
    } else {
        assert_eq!(reason(&mut run, "failed"), "this kernel has no SCTP (try: modprobe sctp)");
        let said = refused(run);
        assert!(said.contains("auto-sctp is failed: this kernel has no SCTP (try: modprobe sctp)"), "{said}");
    }
}

#[test]
fn a_port_below_1024_names_the_capability() {
    if !require(&[Need::Namespaces]) {
        return;
    }
    // In a namespace of its own, since the machine may allow it.
    let host = Namespace::new("low");
    let home = Home::new();
    let said = refused(run(as_nobody(&home, Some(&host)), "127.0.0.1:80:127.0.0.1:9"));
    assert!(said.contains("port 80 needs the capability CAP_NET_BIND_SERVICE, or a port from 1024"), "{said}");
}

#[test]
fn a_holder_of_another_user_is_told_by_that_user() {
    if !require(&[Need::Root]) {
        return;
    }
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    let home = Home::new();
    let said = refused(run(as_nobody(&home, None), &format!("{address}:127.0.0.1:9")));
    let answer = format!("{address}/tcp is in use by a process of user root (run as root for its name)");
    assert!(said.contains(&answer), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_that_cannot_be_reached_say_why() {
    let docker = FakeDocker::unix();
    docker.set_containers(vec![
        container("web-1", "running", None),
        container("web-2", "running", Some("172.17.0.2")),
        container("bare", "running", None),
        container("still", "exited", None),
    ]);
    for (target, answer) in [
        ("db.internal:5432", "container \"db.internal\" not found; for a DNS name write host/db.internal"),
        ("web:5432", "container \"web\" not found (similar: \"web-1\""),
        ("still:5432", "container \"still\" is stopped: the mapping waits"),
        ("bare:5432", "container \"bare\" has no network address"),
        // The ids are the names in hex.
        ("container/7765:5432", "\"7765\" fits 2 containers: give more characters"),
    ] {
        let home = Home::new();
        let mut command = home.command(None);
        command.env("DOCKER_HOST", docker.docker_host());
        let mut run = run(command, &format!("auto:{target}"));
        waits(&mut run, answer);
        assert!(run.stop().status.success());
    }
    assert!(docker.requests().iter().all(|request| request.starts_with("GET ")), "{:?}", docker.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_docker_socket_that_is_closed_to_us_says_so_and_addresses_still_work() {
    if !require(&[Need::Root]) {
        return;
    }
    let docker = FakeDocker::unix();
    let socket = docker.docker_host();
    let path = socket.strip_prefix("unix://").expect("a path");
    // As of Docker itself: anybody may look for it, its group alone may use it.
    let folder = std::path::Path::new(path).parent().expect("it lies in a folder");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).expect("ours");
    let home = Home::new();
    let server = echo_server();
    let mut command = as_nobody(&home, None);
    command.env("DOCKER_HOST", &socket).args(["run", "--json", "-p", "auto:web:80"]);
    command.args(["-p", &format!("auto:{server}/tcp")]);
    let mut run = Run::start(command);
    let answer = format!("cannot open {path}: permission denied");
    let told = run.event(&answer, SOON, |event| event["event"] == "docker" && event.to_string().contains(&answer));
    assert!(told.to_string().contains("unavailable"), "{told}");
    let by_address = run
        .event("the other one", SOON, |event| event["event"] == "listening" && event["target"] == server.to_string());
    let listener: SocketAddr = by_address["listener"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    assert!(echoes(&mut TcpStream::connect(listener).expect("it listens")));
    waits(&mut run, "permission denied");
    assert!(run.stop().status.success());
    assert_eq!(docker.requests(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_by_tcp_leads_to_a_container() {
    let docker = FakeDocker::tcp().await;
    let server = echo_server();
    // On this host's network, so that its address is one that answers here.
    let mut web = container("web_1", "running", None);
    web["HostConfig"]["NetworkMode"] = "host".into();
    docker.set_containers(vec![web]);
    let home = Home::new();
    let mut command = home.command(None);
    assert!(docker.docker_host().starts_with("tcp://"));
    command.env("DOCKER_HOST", docker.docker_host());
    let mut run = run(command, &format!("auto:web_1:{}", server.port()));
    run.event("the address", SOON, |event| {
        event["event"] == "target_changed" && event["target_address"] == server.to_string()
    });
    run.event("up", SOON, |event| event["event"] == "mapping_state" && event["state"] == "up");
    let listening = run.event("listening", SOON, |event| event["event"] == "listening");
    let listener: SocketAddr = listening["listener"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    let mut stream = TcpStream::connect(listener).expect("it listens");
    stream.write_all(b"hello").expect("it takes data");
    stream.shutdown(std::net::Shutdown::Write).expect("it takes an end");
    let mut back = String::new();
    stream.read_to_string(&mut back).expect("it ends");
    assert_eq!(back, "hello");
    let closed: Value = run.closed(1);
    assert_eq!((&closed["target_address"], &closed["bytes_out"]), (&server.to_string().into(), &5.into()));
    assert!(run.stop().status.success());
}

/// The words that stand in the table are those of `run` without `--json` too.
#[test]
fn a_line_of_text_says_the_same() {
    let home = Home::new();
    let ended = home
        .command(None)
        .args(["run", "-p", "192.0.2.1:8080:127.0.0.1:9"])
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(
        said.contains("8080-tcp: cannot listen on 192.0.2.1:8080: 192.0.2.1 is not an address of this host"),
        "{said}"
    );
    assert!(said.contains("8080-tcp: failed: 192.0.2.1 is not an address of this host"), "{said}");
}
