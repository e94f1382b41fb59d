//! Containers on several networks, on the host's, and on an engine whose network is not this host's, with a real
//! engine: what is dialled, and what never is.

mod common;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::docker::{Container, Engine};
use common::netns::Namespace;
use common::peers::curl;
use common::program::{Home, Run};
use common::{Need, SOON, output, require, wait_for, wait_until};
use serde_json::Value;

const NEEDS: &[Need] = &[Need::Docker, Need::Namespaces, Need::Curl];

/// A network of the private engine; removed on drop, so it is made before its containers.
struct Network<'a>(&'a Engine, String);

impl<'a> Network<'a> {
    fn new(engine: &'a Engine, name: &str, arguments: &[&str]) -> Self {
        let _ = engine.docker(&["network", "rm", name]).output();
        output(engine.docker(&["network", "create"]).args(arguments).arg(name));
        Self(engine, name.to_owned())
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        let _ = self.0.docker(&["network", "rm", &self.1]).output();
    }
}

/// A container that answers any request with its name, on port 80 unless it says another.
fn web<'a>(engine: &'a Engine, name: &str, arguments: &[&str], port: u16) -> Removed<'a> {
    let _ = engine.docker(&["rm", "--force", name]).output();
    let script = format!("mkdir -p /www; echo {name} >/www/index.html; exec httpd -f -p {port} -h /www");
    let mut run = engine.docker(&["run", "--detach", "--name", name]);
    output(run.args(arguments).args(["portolan-test", "sh", "-c", &script]));
    Removed(engine, name.to_owned())
}

/// Removes a container on drop.
struct Removed<'a>(&'a Engine, String);

impl Removed<'_> {
    fn address_on(&self, network: &str) -> String {
        let format = format!("{{{{with index .NetworkSettings.Networks \"{network}\"}}}}{{{{.IPAddress}}}}{{{{end}}}}");
        output(&mut self.0.docker(&["inspect", "--format", &format, &self.1])).trim().to_owned()
    }
}

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = self.0.docker(&["rm", "--force", &self.1]).output();
    }
}

fn answer(namespace: &Namespace, port: u16) -> Option<String> {
    let url = format!("http://127.0.0.1:{port}/");
    let result = curl(Some(namespace), &["-f", "--max-time", "2", &url]).output().expect("curl starts");
    result.status.success().then(|| String::from_utf8_lossy(&result.stdout).trim().to_owned())
}

/// Waits until a mapping waits, and gives the reason.
fn reason(run: &mut Run, mapping: &str, holds: impl Fn(&str) -> bool) -> String {
    let fits = |event: &Value| {
        event["event"] == "mapping_state"
            && event["mapping"] == mapping
            && event["state"] == "waiting"
            && event["reason"].as_str().is_some_and(&holds)
    };
    let event = run.event(&format!("{mapping} waits"), SOON, fits);
    event["reason"].as_str().expect("just looked at").to_owned()
}

/// Where the last connection that ended well went.
fn dialled(run: &mut Run, mapping: &str, mark: usize) -> String {
    let event = run.event_after(mark, &format!("a connection of {mapping}"), SOON, |event| {
        let connection = &event["connection"];
        event["event"] == "closed" && connection["mapping"] == mapping && connection["reason"] == "finished"
    });
    event["connection"]["target_address"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn of_several_networks_a_reachable_one_is_dialled_and_the_mappings_own_decides() {
    if !require(NEEDS) {
        return;
    }
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let _ = docker.command("ip").args(["link", "del", "ptl-parent"]).output();
    docker.ip("link add ptl-parent type veth peer name ptl-far");
    docker.ip("link set ptl-far up");
    docker.ip("link set ptl-parent up");
    // By name the one that the host is kept out of comes first.
    let macvlan = ["--driver", "macvlan", "--subnet", "198.51.100.0/24", "--opt", "parent=ptl-parent"];
    let lan = Network::new(&engine, "ptl_alpha", &macvlan);
    let _front = Network::new(&engine, "ptl_front", &["--subnet", "192.0.2.0/25"]);
    let _inner = Network::new(&engine, "ptl_inner", &["--internal", "--subnet", "192.0.2.128/25"]);
    let several = web(&engine, "nets_web", &["--network", "ptl_alpha"], 80);
    output(&mut engine.docker(&["network", "connect", "ptl_front", "nets_web"]));
    output(&mut engine.docker(&["network", "connect", "ptl_inner", "nets_web"]));
    let lan_only = web(&engine, "nets_lan", &["--network", "ptl_alpha"], 80);

    let home = Home::with_docker();
    home.write_profile(
        "default",
        r#"{"version": 1, "mappings": [
            {"name": "any", "listen": "8201", "target": "nets_web:80"},
            {"name": "inner", "listen": "8202", "target": "nets_web:80", "network": "ptl_inner"},
            {"name": "bridge", "listen": "8203", "target": "nets_web:80", "network": "bridge"},
            {"name": "lan", "listen": "8204", "target": "nets_lan:80"}]}"#,
    );
    let mut run = home.run(Some(&docker), [] as [&str; 0]);
    run.ready();
    for (mapping, port, network) in [("any", 8201, "ptl_front"), ("inner", 8202, "ptl_inner")] {
        let mark = run.mark();
        let said = wait_for("the container answers", SOON, || answer(&docker, port));
        assert_eq!(said, "nets_web");
        assert_eq!(dialled(&mut run, mapping, mark), format!("{}:80", several.address_on(network)));
    }
    assert_eq!(
        reason(&mut run, "bridge", |reason| reason.contains("is not on network")),
        "container \"nets_web\" is not on network \"bridge\" (it is on: ptl_alpha, ptl_front, ptl_inner)"
    );
    assert_eq!(
        reason(&mut run, "lan", |reason| reason.contains("cannot reach")),
        "container \"nets_lan\" is on network \"ptl_alpha\" (macvlan), which this host cannot reach: \
         macvlan keeps it from the host that it is on"
    );

    // What is missing comes, and is live within a second.
    output(&mut engine.docker(&["network", "connect", "bridge", "nets_web"]));
    let connected = Instant::now();
    wait_until("it answers over the bridge", SOON, || answer(&docker, 8203).is_some());
    println!("reached over its new network {:?} after it was connected", connected.elapsed());
    assert!(connected.elapsed() < Duration::from_secs(1), "{:?}", connected.elapsed());
    // An address of this host on the network makes a way that the kernel knows of.
    docker.ip("link add ptl-shim link ptl-parent type macvlan mode bridge");
    docker.ip("address add 198.51.100.200/24 dev ptl-shim");
    docker.ip("link set ptl-shim up");
    wait_until("it answers over the shim", SOON, || answer(&docker, 8204).is_some());

    assert!(run.stop().status.success());
    docker.ip("link del ptl-shim");
    drop((several, lan_only, lan));
    docker.ip("link del ptl-parent");
}

#[test]
fn a_container_on_the_hosts_network_is_reached_at_loopback() {
    if !require(NEEDS) {
        return;
    }
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let _host = web(&engine, "nets_host", &["--network", "host"], 8280);
    let home = Home::with_docker();
    let mut run = home.run(Some(&docker), ["-p", "8205:nets_host:8280"]);
    run.ready();
    let mark = run.mark();
    assert_eq!(wait_for("it answers", SOON, || answer(&docker, 8205)), "nets_host");
    assert_eq!(dialled(&mut run, "8205-tcp", mark), "127.0.0.1:8280");
    assert!(run.stop().status.success());
}

/// Somebody else at an address of a container's, in a namespace with a bridge like the engine's.
struct Stranger {
    namespace: Namespace,
    called: Arc<AtomicUsize>,
}

impl Stranger {
    fn at(bridge: &str, address: &str) -> Self {
        let namespace = Namespace::new("stranger");
        namespace.ip(&format!("link add {bridge} type bridge"));
        namespace.ip(&format!("address add 203.0.113.1/24 dev {bridge}"));
        namespace.ip(&format!("address add {address}/32 dev lo"));
        namespace.ip(&format!("link set {bridge} up"));
        let called = Arc::new(AtomicUsize::new(0));
        for ip in [address.parse::<Ipv4Addr>().expect("an address"), Ipv4Addr::LOCALHOST] {
            let listener = namespace.enter(|| TcpListener::bind(SocketAddr::new(ip.into(), 80)).expect("a port"));
            let count = Arc::clone(&called);
            // Ends with the test's process.
            std::thread::spawn(move || {
                for _ in listener.incoming() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { namespace, called }
    }

    fn calls(&self) -> usize {
        self.called.load(Ordering::SeqCst)
    }
}

#[test]
fn on_an_engine_in_another_network_namespace_nobody_is_dialled_in_its_place() {
    if !require(NEEDS) {
        return;
    }
    let engine = Engine::connect();
    let web_1 = web(&engine, "else_web", &["--publish", "127.0.0.1:8290:80"], 80);
    let address = web_1.address_on("bridge");
    let mut host: Option<Removed<'_>> = None;
    // The bridge's address is there, first on an interface that is not Docker's, then on one of the same name: there
    // only the process of a container on the engine's own network tells.
    for bridge in ["ptl-lan", "docker0"] {
        if bridge == "docker0" {
            host = Some(web(&engine, "else_host", &["--network", "host"], 8281));
        }
        let stranger = Stranger::at(bridge, &address);
        // The stranger can be reached from there: without that the test would show nothing.
        let reached = stranger.namespace.enter(|| TcpStream::connect((address.as_str(), 80)).is_ok());
        assert!(reached);
        wait_until("the stranger is called", SOON, || stranger.calls() == 1);
        let home = Home::with_docker();
        let mut run = home.run(Some(&stranger.namespace), ["-p", "8206:else_web:80", "-p", "8207:else_host:80"]);
        run.ready();
        let said = reason(&mut run, "8206-tcp", |reason| reason.contains("engine"));
        let expected = "else_web is on an engine whose network is not this host's (it has another network namespace); \
                        its port 80 is published there, at 127.0.0.1:8290";
        assert_eq!(said, expected);
        if host.is_some() {
            reason(&mut run, "8207-tcp", |reason| reason.contains("is on an engine whose network is not this host's"));
        }
        for port in [8206, 8207] {
            assert_eq!(answer(&stranger.namespace, port), None);
        }
        assert!(run.stop().status.success());
        assert_eq!(stranger.calls(), 1, "{bridge}: nobody but this test has called the stranger");
    }
    drop(host);
}

/// `docker compose up` after a change: another container takes over name and labels of the one before.
#[test]
fn renaming_and_recreation_are_followed_within_a_second() {
    if !require(NEEDS) {
        return;
    }
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let labels = ["project=ptlshop", "service=web", "container-number=1"]
        .map(|label| format!("--label=com.docker.compose.{label}"));
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let first = web(&engine, "ptlshop-web-1", &labels, 80);
    let old_address = first.address_on("bridge");
    let home = Home::with_docker();
    let mut run = home.run(Some(&docker), ["-p", "8208:ptlshop-web-1:80", "-p", "8209:compose/ptlshop/web:80"]);
    run.ready();
    for port in [8208, 8209] {
        assert_eq!(wait_for("it answers", SOON, || answer(&docker, port)), "ptlshop-web-1");
    }

    // Compose renames the old one, makes the new one under the name, and removes the old one.
    output(&mut engine.docker(&["rename", "ptlshop-web-1", "0123456789ab_ptlshop-web-1"]));
    output(&mut engine.docker(&["stop", "--time", "0", "0123456789ab_ptlshop-web-1"]));
    let old = Removed(&engine, "0123456789ab_ptlshop-web-1".to_owned());
    let taker: Container = engine.start("ptlshop-taker", &["sleep", "600"]);
    assert_eq!(taker.address(), old_address, "its old address is somebody else's now");
    let second = web(&engine, "ptlshop-web-1", &labels, 80);
    let made = Instant::now();
    drop(old);
    assert_ne!(second.address_on("bridge"), old_address);
    for port in [8208, 8209] {
        wait_until("the new one answers", SOON, || answer(&docker, port).as_deref() == Some("ptlshop-web-1"));
    }
    println!("the recreated container answers {:?} after it was made", made.elapsed());
    assert!(made.elapsed() < Duration::from_secs(1), "{:?}", made.elapsed());

    // A rename moves the name, and the service stays.
    output(&mut engine.docker(&["rename", "ptlshop-web-1", "ptlshop-gone"]));
    let renamed = Instant::now();
    let other = web(&engine, "other-web", &[], 80);
    output(&mut engine.docker(&["rename", "other-web", "ptlshop-web-1"]));
    let given = Instant::now();
    wait_until("the name means another one", SOON, || answer(&docker, 8208).as_deref() == Some("other-web"));
    println!("a name given to another container leads there {:?} later", given.elapsed());
    assert!(given.elapsed() < Duration::from_secs(1), "{:?}", given.elapsed());
    assert_eq!(answer(&docker, 8209).as_deref(), Some("ptlshop-web-1"), "{:?} after the rename", renamed.elapsed());
    let _second = Removed(&engine, "ptlshop-gone".to_owned());
    let _other = Removed(&engine, "ptlshop-web-1".to_owned());
    drop((second, other));
    assert!(run.stop().status.success());
}
