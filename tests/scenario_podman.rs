//! Podman's Docker-compatible socket: containers by name as with Docker, with a real Podman.

mod common;

use std::time::{Duration, Instant};

use common::peers::curl;
use common::podman::Podman;
use common::program::Home;
use common::{Need, SOON, output, require, wait_for, wait_until};

#[test]
fn containers_of_podman_are_reached_by_name_and_followed() {
    if !require(&[Need::Podman, Need::Namespaces, Need::Curl]) {
        return;
    }
    let podman = Podman::start();
    let here = &podman.namespace;
    let web = |name: &str, arguments: &[&str], port: u16| {
        let script = format!("echo {name} >/www/index.html; exec httpd -f -p {port} -h /www");
        podman.run(name, arguments, &["sh", "-c", &script]);
    };
    output(&mut podman.docker(&["network", "create", "--internal", "ptl_inner"]));
    web("pod_web", &[], 80);
    web("pod_inner", &["--network", "ptl_inner"], 80);
    web("pod_host", &["--network", "host"], 8380);
    podman.run("pod_side", &["--network", "container:pod_web"], &["httpd", "-f", "-p", "81", "-h", "/www"]);

    let home = Home::with_engine(&podman.host());
    let mappings = ["8301:pod_web:80", "8302:pod_inner:80", "8303:pod_host:8380", "8304:pod_side:80"];
    let mut run = home.run(Some(here), mappings.iter().flat_map(|mapping| ["-p", mapping]));
    run.ready();
    let answer = |port: u16| {
        let url = format!("http://127.0.0.1:{port}/");
        let result = curl(Some(here), &["-f", "--max-time", "2", &url]).output().expect("curl starts");
        result.status.success().then(|| String::from_utf8_lossy(&result.stdout).trim().to_owned())
    };
    for (port, name) in [(8301, "pod_web"), (8302, "pod_inner"), (8303, "pod_host"), (8304, "pod_web")] {
        assert_eq!(wait_for(name, SOON, || answer(port)), name);
    }

    // It comes back with another address.
    let old = podman.address("pod_web");
    output(&mut podman.docker(&["rm", "--force", "pod_side"]));
    output(&mut podman.docker(&["rm", "--force", "pod_web"]));
    podman.run("pod_taker", &[], &["sleep", "600"]);
    web("pod_web", &[], 80);
    let made = Instant::now();
    assert_ne!(podman.address("pod_web"), old);
    wait_until("it answers at its new address", SOON, || answer(8301).as_deref() == Some("pod_web"));
    println!("recreated by Podman, it answers {:?} after it was made", made.elapsed());
    assert!(made.elapsed() < Duration::from_secs(1), "{:?}", made.elapsed());
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);
}
