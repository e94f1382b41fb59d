//! The founding scenario with containers of a real Docker engine, by name, through restarts.

mod common;

use std::time::{Duration, Instant};

use common::docker::{Container, Engine};
use common::netns::Namespace;
use common::peers::{LineClient, curl};
use common::program::{Home, Run};
use common::{Need, SOON, output, require, wait_for, wait_until};

const NEEDS: &[Need] = &[Need::Docker, Need::Namespaces, Need::Curl, Need::Python];

/// Says the address that it sees, under /cgi-bin/where.
fn web(engine: &Engine, name: &str) -> Container {
    let script = "mkdir -p /www/cgi-bin
        printf '#!/bin/sh\\nprintf \"Content-Type: text/plain\\\\r\\\\n\\\\r\\\\n$(hostname) $REMOTE_ADDR\"' >/www/cgi-bin/where
        chmod 755 /www/cgi-bin/where
        exec httpd -f -p 0.0.0.0:80 -h /www";
    engine.start(name, &["sh", "-c", script])
}

/// Sends every line back.
fn echo(engine: &Engine, name: &str) -> Container {
    engine.start(name, &["nc", "-ll", "-p", "7", "-e", "cat"])
}

/// A machine that reaches the Docker host over IPv6, as `2001:db8:d::10`.
fn client(docker: &Namespace, interface: &str) -> Namespace {
    let client = Namespace::new("client");
    docker.connect(interface, &["2001:db8:d::2/64"], &client, "up", &["2001:db8:d::10/64"]);
    client
}

/// What the container answers, or `None`.
fn answer(client: &Namespace, port: u16) -> Option<String> {
    let url = format!("http://[2001:db8:d::2]:{port}/cgi-bin/where");
    let result = curl(Some(client), &["-f", "--max-time", "1", &url]).output().expect("curl starts");
    result.status.success().then(|| String::from_utf8_lossy(&result.stdout).into_owned())
}

fn state(run: &mut Run, mark: usize, mapping: &str, state: &str) {
    run.event_after(mark, &format!("{mapping} is {state}"), SOON, |event| {
        event["event"] == "mapping_state" && event["mapping"] == mapping && event["state"] == state
    });
}

#[test]
fn a_container_by_the_first_digits_of_its_id_is_reached() {
    if !require(NEEDS) {
        return;
    }
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let client = client(&docker, "ptl-id");
    let web = web(&engine, "id_web");
    let id = output(&mut engine.docker(&["inspect", "--format", "{{.Id}}", web.name()]));
    let home = Home::with_docker();
    let mappings = [format!("any:8090:{}:80", &id[..12]), format!("any:8091:container/{}:80", id.trim())];
    let mut run = home.run(Some(&docker), ["-p", &mappings[0], "-p", &mappings[1]]);
    run.ready();
    for port in [8090, 8091] {
        wait_for("the container answers", SOON, || answer(&client, port));
    }
    assert!(run.stop().status.success());
}

#[test]
fn a_container_by_name_is_reached_over_ipv6_and_followed_to_its_next_address() {
    if !require(NEEDS) {
        return;
    }
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let client = client(&docker, "ptl-follow");
    let (web, _echo) = (web(&engine, "follow_web"), echo(&engine, "follow_echo"));
    let home = Home::with_docker();
    let mut run = home.run(Some(&docker), ["-p", "any:8080:follow_web:80", "-p", "any:8007:follow_echo:7"]);
    run.ready();

    let first = wait_for("the container answers", SOON, || answer(&client, 8080));
    assert!(first.ends_with(" 203.0.113.1"), "the container sees the bridge's address: {first}");
    let closed =
        run.event("closed", SOON, |event| event["event"] == "closed" && event["connection"]["reason"] == "finished");
    assert_eq!(closed["connection"]["target"], "follow_web:80");
    assert_eq!(closed["connection"]["target_address"], format!("{}:80", web.address()));
    assert!(closed["connection"]["client"].as_str().is_some_and(|client| client.starts_with("[2001:db8:d::10]:")));

    let mut held = LineClient::connect(Some(&client), "2001:db8:d::2", 8007);
    assert_eq!(held.exchange("before"), "before");

    // Its address is taken by others while it is away, so it comes back with another.
    let old = web.address();
    let mark = run.mark();
    web.stop();
    state(&mut run, mark, "8080-tcp", "waiting");
    let mut others = Vec::new();
    while !others.iter().any(|other: &Container| other.address() == old) {
        assert!(others.len() < 5, "nobody was given {old}");
        others.push(engine.start(&format!("follow_other_{}", others.len()), &["sleep", "600"]));
    }
    let mark = run.mark();
    web.start();
    let started = Instant::now();
    let address = web.address();
    assert_ne!(address, old);
    let answered =
        wait_for("the container answers at its new address", 10 * Duration::from_secs(1), || answer(&client, 8080));
    println!("reached at its new address {:?} after its start", started.elapsed());
    assert_eq!(answered, first);
    run.event_after(mark, "target_changed", SOON, |event| {
        event["event"] == "target_changed" && event["target_address"] == format!("{address}:80")
    });

    assert_eq!(held.exchange("after"), "after", "a connection to another container is left alone");
    drop(held);
    assert!(run.stop().status.success());
}

#[test]
fn a_stopped_container_makes_its_mapping_wait_and_its_clients_are_reset() {
    if !require(NEEDS) {
        return;
    }
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let client = client(&docker, "ptl-wait");
    let web = web(&engine, "wait_web");
    web.stop();
    let home = Home::with_docker();
    let mut run = home.run(Some(&docker), ["-p", "any:8081:wait_web:80"]);
    run.ready();
    state(&mut run, 0, "8081-tcp", "waiting");

    // A reset, before curl has seen that it is connected (7), while it sends (55) or later (56), is not the clean end of an
    // empty answer (52).
    let refused = curl(Some(&client), &["http://[2001:db8:d::2]:8081/"]).status().expect("curl starts").code();
    assert!(matches!(refused, Some(7 | 55 | 56)), "{refused:?}");
    let closed = run.event("closed", SOON, |event| event["event"] == "closed");
    assert_eq!(closed["connection"]["reason"], "target_unreachable");

    let mark = run.mark();
    web.start();
    state(&mut run, mark, "8081-tcp", "up");
    wait_until("the container answers", SOON, || answer(&client, 8081).is_some());
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);
}

#[test]
fn an_established_connection_to_a_container_outlives_its_renaming() {
    if !require(NEEDS) {
        return;
    }
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let client = client(&docker, "ptl-rename");
    let _echo = echo(&engine, "rename_echo");
    let home = Home::with_docker();
    let mut run = home.run(Some(&docker), ["-p", "any:8009:rename_echo:7"]);
    run.ready();
    let mut held = LineClient::connect(Some(&client), "2001:db8:d::2", 8009);
    assert_eq!(held.exchange("before"), "before");
    let mark = run.mark();
    output(&mut engine.docker(&["rename", "rename_echo", "rename_gone"]));
    state(&mut run, mark, "8009-tcp", "waiting");
    assert_eq!(held.exchange("after"), "after");
    output(&mut engine.docker(&["rename", "rename_gone", "rename_echo"]));
    assert!(run.stop().status.success());
}
