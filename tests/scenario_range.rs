//! Ranges of thousands of ports as one mapping, in a namespace whose ephemeral ports lie elsewhere.

mod common;

use std::time::Instant;

use common::netns::Namespace;
use common::program::Home;
use common::{Need, SOON, output, require};

const NEEDS: &[Need] = &[Need::Namespaces, Need::Ss];

/// A namespace in which no connection of ours can take a port of the range as its own.
fn namespace(label: &str) -> Namespace {
    let namespace = Namespace::new(label);
    namespace.set("ipv4/ip_local_port_range", "40000 60000");
    namespace
}

/// Listening TCP sockets whose local address starts so.
fn listening(namespace: &Namespace, address: &str) -> usize {
    output(namespace.command("ss").args(["-ltnH"]))
        .lines()
        .filter(|line| line.split_whitespace().nth(3).is_some_and(|local| local.starts_with(address)))
        .count()
}

/// Resident and proportional memory in kB.
fn memory(pid: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a child's memory can be read");
    let figure = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).expect("the figure is there");
        line.split_whitespace().nth(1).and_then(|figure| figure.parse().ok()).expect("a figure in kB")
    };
    (figure("Rss:"), figure("Pss:"))
}

/// Starts `mapping` twice in a row, so that the first stop must have left nothing behind.
fn starts_and_stops(label: &str, mapping: &str, families: &[(&str, usize)]) {
    let namespace = namespace(label);
    let home = Home::new();
    for round in 0..2 {
        let start = Instant::now();
        let mut run = home.run(Some(&namespace), ["--strict", "-p", mapping]);
        let ready = run.ready();
        let took = start.elapsed();
        assert_eq!((&ready["mappings"], &ready["listening"]), (&1.into(), &1.into()));
        for (address, count) in families {
            assert_eq!(listening(&namespace, address), *count, "{address} in round {round}");
        }
        // One mapping, one event for each family.
        let events = run.events().iter().filter(|event| event["event"] == "listening").count();
        assert_eq!(events, families.len());
        let (rss, pss) = memory(run.pid());
        println!("{mapping}: ready after {took:?}, RSS {rss} kB, PSS {pss} kB");

        let stop = Instant::now();
        let ended = run.stop();
        assert!(ended.status.success(), "{}", ended.errors);
        println!("{mapping}: stopped after {:?}", stop.elapsed());
        for (address, _) in families {
            assert_eq!(listening(&namespace, address), 0, "{address} after round {round}");
        }
    }
}

#[test]
fn ten_thousand_ports_of_one_family_start_and_stop_as_one_mapping() {
    if !require(NEEDS) {
        return;
    }
    starts_and_stops("ten", "127.0.0.1:10000-19999:192.0.2.2:20000-29999", &[("127.0.0.1:", 10_000)]);
}

#[test]
fn four_thousand_ports_of_both_families_start_and_stop_as_one_mapping() {
    if !require(NEEDS) {
        return;
    }
    let families = [("127.0.0.1:", 4_000), ("[::1]:", 4_000)];
    starts_and_stops("four", "10000-13999:192.0.2.2:20000-23999", &families);
}

#[test]
fn a_range_beyond_the_descriptor_limit_is_refused_with_the_figures_and_binds_nothing() {
    if !require(NEEDS) {
        return;
    }
    let namespace = namespace("limit");
    let home = Home::new();
    let mut command = namespace.command("prlimit");
    command.args(["--nofile=1024:1024", common::program::PORTOLAN, "run", "--json"]);
    command.args(["-p", "127.0.0.1:10000-12999:192.0.2.2:10000-12999", "-p", "127.0.0.1:9000:192.0.2.2:9000"]);
    command.env_clear().envs(home.environment());
    let mut run = common::program::Run::start(command);
    let ready = run.ready();
    assert_eq!((&ready["listening"], &ready["failed"]), (&1.into(), &1.into()));
    let failed = run.event("mapping_failed", SOON, |event| event["event"] == "mapping_failed");
    assert_eq!(failed["listener"], "127.0.0.1:10000-12999");
    let error = failed["error"].as_str().expect("an error is text");
    let figures: Vec<u32> =
        error.split(|c: char| !c.is_ascii_digit()).filter_map(|figure| figure.parse().ok()).collect();
    // What is needed, and what there is: the limit less a reserve.
    assert!(figures[0] == 3_000 && (850..1_024).contains(&figures[1]), "{error}");
    assert_eq!(listening(&namespace, "127.0.0.1:1"), 0, "not one port of the range is bound");
    assert_eq!(listening(&namespace, "127.0.0.1:9000"), 1, "the other mapping works");
    let bound = run.events().iter().filter(|event| event["event"] == "listening").count();
    assert_eq!(bound, 1);
    assert!(run.stop().status.success());
}
