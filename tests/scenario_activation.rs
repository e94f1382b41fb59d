//! Socket activation with systemd's own `systemd-socket-activate`: privileged ports for a program that may bind none.

mod common;

use std::fs;
use std::io::Read;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::time::Duration;

use common::echo::{echo_server, echoes};
use common::netns::Namespace;
use common::program::{Home, PORTOLAN, Run};
use common::{Need, SOON, require, wait_for, wait_until};
use serde_json::Value;

const NEEDS: &[Need] = &[Need::Namespaces, Need::Systemd];
/// nobody, who may do nothing in particular.
const NOBODY: &str = "65534";

/// A host whose IPv6 sockets are of IPv6 alone, as `BindIPv6Only=ipv6-only` has them.
fn machine() -> Namespace {
    let machine = Namespace::new("machine");
    machine.set("ipv6/bindv6only", "1");
    machine.set("ipv4/ip_unprivileged_port_start", "1024");
    machine
}

/// The program as a user without any capability, who owns this home; by `start` the command that starts it.
fn as_nobody(home: &Home, mut start: Command) -> Command {
    // The folder that it was built in may be closed to others.
    let program = home.path().join("portolan");
    fs::copy(PORTOLAN, &program).expect("it can be copied");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
    let uid = NOBODY.parse().expect("a number");
    for owned in [home.path().to_owned(), home.path().join(".config"), home.path().join(".config/portolan")] {
        if owned.exists() {
            chown(&owned, Some(uid), Some(uid)).expect("root may");
        }
    }
    home.open_to_all();
    start.args(["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--bounding-set", "-all"]);
    start.args(["--inh-caps", "-all", "--no-new-privs", "--"]).arg(program).args(["run", "--json"]);
    start
}

/// `systemd-socket-activate`, which starts the program when the first client comes.
fn activated(machine: &Namespace, home: &Home, options: &[&str], arguments: &[&str]) -> Run {
    let mut start = machine.command("systemd-socket-activate");
    start.args(options);
    for (name, value) in home.environment() {
        start.args(["-E", &format!("{name}={value}")]);
    }
    let mut command = as_nobody(home, start);
    command.args(arguments);
    Run::start(command)
}

/// A client, once somebody listens.
fn client(machine: &Namespace, address: &str) -> TcpStream {
    let stream =
        wait_for(&format!("{address} is listened on"), SOON, || machine.enter(|| TcpStream::connect(address).ok()));
    stream.set_read_timeout(Some(SOON)).expect("set");
    stream
}

fn warning(run: &mut Run, part: &str) -> String {
    let event = run.event(part, SOON, |event| {
        event["event"] == "warning" && event["message"].as_str().is_some_and(|text| text.contains(part))
    });
    event["message"].as_str().expect("it has one").to_owned()
}

#[test]
fn without_it_nobody_may_listen_on_a_privileged_port() {
    if !require(NEEDS) {
        return;
    }
    let (machine, home) = (machine(), Home::new());
    let mut command = as_nobody(&home, machine.command("env"));
    command.args(["-p", "any:80:127.0.0.1:9"]).env_clear().envs(home.environment());
    let ended = Run::start(command).wait();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.errors.contains("port 80 needs the capability CAP_NET_BIND_SERVICE"), "{}", ended.errors);
}

#[test]
fn a_privileged_port_is_served_over_both_families_stopped_and_started_again() {
    if !require(NEEDS) {
        return;
    }
    let (machine, home) = (machine(), Home::new());
    let server = machine.enter(echo_server);
    let profile = |enabled: bool| {
        home.write_profile(
            "default",
            &format!(
                "{{\"version\": 1, \"mappings\": [{{\"name\": \"web\", \"listen\": \"any:80\", \"target\": \"{server}\",
                \"enabled\": {enabled}}}, {{\"listen\": \"auto\", \"target\": \"{server}\"}}]}}"
            ),
        );
    };
    profile(true);
    let mut run = activated(&machine, &home, &["-l", "0.0.0.0:80", "-l", "[::]:80"], &[]);
    // The client for whom it is started is served like every other.
    let mut first = client(&machine, "127.0.0.1:80");
    let ready = run.ready();
    assert_eq!((&ready["listening"], &ready["failed"]), (&Value::from(2), &Value::from(0)), "{:?}", run.events());
    assert_eq!(run.listening("0.0.0.0:80").port(), 80);
    assert_eq!(run.listening("[::]:80").port(), 80);
    assert!(echoes(&mut first));
    for address in ["127.0.0.1:80", "[::1]:80"] {
        assert!(echoes(&mut client(&machine, address)), "{address}");
    }
    let opened = run.event("the first client", SOON, |event| event["event"] == "opened");
    assert_eq!(opened["connection"]["listener"], "127.0.0.1:80");

    for _ in 0..2 {
        let mark = run.mark();
        profile(false);
        run.event_after(mark, "stopped", SOON, |event| {
            event["event"] == "mapping_state" && event["state"] == "stopped"
        });
        for address in ["127.0.0.1:80", "[::1]:80"] {
            let end = client(&machine, address).read(&mut [0]);
            assert!(end.is_err(), "{address}: nobody is served, and nobody waits for ever");
        }
        profile(true);
        run.event_after(mark, "started", SOON, |event| event["event"] == "listening" && event["mapping"] == "web");
        for address in ["127.0.0.1:80", "[::1]:80"] {
            wait_until("it is served again", SOON, || echoes(&mut client(&machine, address)));
        }
    }
    assert!(!run.events().iter().any(|event| event["event"] == "warning"), "{:?}", run.events());
    assert!(run.stop().status.success());
}

#[test]
fn datagrams_on_a_privileged_port_are_answered_from_the_address_that_they_were_sent_to() {
    if !require(NEEDS) {
        return;
    }
    let (machine, home) = (machine(), Home::new());
    let target = machine.enter(|| UdpSocket::bind("127.0.0.1:0").expect("a free port"));
    let mapping = format!("any:53:{}/udp", target.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((length, from)) = target.recv_from(&mut datagram) {
            let _ = target.send_to(&datagram[..length], from);
        }
    });
    let options = ["--datagram", "-l", "0.0.0.0:53", "-l", "[::]:53"];
    let mut run = activated(&machine, &home, &options, &["--drain", "0s", "-p", &mapping]);
    for address in ["127.3.2.1:53", "[::1]:53"] {
        let own = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let client = machine.enter(|| UdpSocket::bind(own).expect("a free port"));
        client.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
        // Connected: a reply from elsewhere would be dropped.
        client.connect(address).expect("an address");
        wait_until("an answer", SOON, || {
            let mut reply = [0; 64];
            // Refused until somebody listens.
            client.send(b"ping").is_ok() && client.recv(&mut reply).is_ok_and(|length| &reply[..length] == b"ping")
        });
    }
    assert_eq!(run.ready()["listening"], Value::from(1));
    assert!(run.stop().status.success());
}

#[test]
fn what_cannot_be_used_and_what_nobody_asked_for_is_said() {
    if !require(NEEDS) {
        return;
    }
    let (machine, home) = (machine(), Home::new());
    machine.set("ipv6/bindv6only", "0");
    let options = ["-l", "[::]:80", "-l", "127.0.0.1:81", "--fdname", "web:other"];
    let mut run = activated(&machine, &home, &options, &["-p", "[::]:80:127.0.0.1:9", "-p", "auto:127.0.0.1:9"]);
    let mut other = client(&machine, "127.0.0.1:81");
    let refused = warning(&mut run, "BindIPv6Only=ipv6-only");
    assert!(refused.contains("web") && refused.contains("[::]:80/tcp takes IPv4 too"), "{refused}");
    let unasked = warning(&mut run, "no mapping listens");
    assert!(unasked.ends_with("127.0.0.1:81/tcp (other)"), "{unasked}");
    assert!(other.read(&mut [0]).is_err(), "nobody waits there for ever");
    let failed = run.event("the mapping", SOON, |event| event["event"] == "mapping_failed");
    assert_eq!(failed["listener"], "[::]:80");
    assert!(run.stop().status.success());
}

#[test]
fn sockets_of_another_process_are_none_of_its_own_and_those_that_are_not_there_are_said() {
    let home = Home::new();
    let run = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", PORTOLAN]).env_clear().envs(home.environment());
        let mut run = Run::start(command);
        run.ready();
        run
    };
    let start = "exec \"$1\" run --json -p auto:127.0.0.1:9";
    let mut other = run(&format!("LISTEN_PID=1 LISTEN_FDS=3 {start}"));
    assert!(!other.events().iter().any(|event| event["event"] == "warning"), "{:?}", other.events());
    assert!(other.stop().status.success());
    let mut lied_to = run(&format!("LISTEN_PID=$$ LISTEN_FDS=100 {start}"));
    warning(&mut lied_to, "LISTEN_FDS");
    assert!(lied_to.stop().status.success());
}
