//! The ground that the scenarios stand on: namespaces that are apart, and a Docker engine of the tests' own.

mod common;

use std::process::Command;

use common::netns::Namespace;
use common::{Need, output, require};

#[test]
fn two_namespaces_reach_each_other_over_both_families_and_nobody_else() {
    if !require(&[Need::Namespaces]) {
        return;
    }
    let (one, other) = (Namespace::new("one"), Namespace::new("other"));
    one.connect("a", &["192.0.2.1/24", "2001:db8::1/64"], &other, "b", &["192.0.2.2/24", "2001:db8::2/64"]);
    for address in ["192.0.2.2", "2001:db8::2"] {
        assert!(one.ip(&format!("route get {address}")).contains("dev a"));
    }
    let links = output(Command::new("ip").args(["-o", "link", "show"]));
    assert!(!links.lines().any(|line| line.contains(": a@") || line.contains(": b@")), "{links}");
}

#[test]
fn a_container_of_the_private_engine_answers_in_its_namespace_alone() {
    if !require(&[Need::Docker, Need::Curl]) {
        return;
    }
    let engine = common::docker::Engine::connect();
    let web = engine.start("machine_web", &["httpd", "-f", "-p", "80", "-h", "/bin"]);
    let url = format!("http://{}/busybox", web.address());
    let inside = Namespace::of_docker();
    common::wait_until("the container answers", common::SOON, || {
        inside.command("curl").args(["-sf", "-o", "/dev/null", "-m", "2", &url]).status().is_ok_and(|end| end.success())
    });
    let route = output(Command::new("ip").args(["-o", "address", "show"]));
    assert!(!route.contains("203.0.113."), "the engine's bridge is on the machine itself: {route}");
}
