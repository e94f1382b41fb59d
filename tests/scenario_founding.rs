//! The founding scenario: an IPv6 client reaches a web application on a host that has IPv4 alone.

mod common;

use std::process::Stdio;

use common::netns::Namespace;
use common::peers::{Web, curl, established, get};
use common::program::{Home, Run};
use common::{Need, Running, SOON, output, require, wait_for};
use serde_json::Value;

/// The IPv4-only host, the machine with the forwarder, and a client elsewhere.
struct Network {
    machine: Namespace,
    client: Namespace,
    _host: Namespace,
    _web: Web,
}

const NEEDS: &[Need] = &[Need::Namespaces, Need::Python, Need::Curl, Need::Ss];
/// The forwarder's address towards the application.
const FORWARDER: &str = "192.0.2.1";

impl Network {
    fn new() -> Self {
        let (machine, host, client) = (Namespace::new("machine"), Namespace::new("host"), Namespace::new("client"));
        machine.connect("to-host", &["192.0.2.1/24"], &host, "up", &["192.0.2.2/24"]);
        host.set("ipv6/conf/all/disable_ipv6", "1");
        let (near, far) = (["2001:db8::2/64", "198.51.100.2/24"], ["2001:db8::10/64", "198.51.100.10/24"]);
        machine.connect("to-client", &near, &client, "up", &far);
        let web = Web::start(Some(&host), "0.0.0.0", 80);
        Self { machine, client, _host: host, _web: web }
    }

    fn run(&self, home: &Home) -> Run {
        let mut run = home.run(Some(&self.machine), ["-p", "any:8080:192.0.2.2:80"]);
        let ready = run.ready();
        assert_eq!((&ready["listening"], &ready["failed"]), (&Value::from(1), &Value::from(0)));
        run
    }
}

#[test]
fn the_application_sees_the_forwarder_and_no_extra_header() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let home = Home::new();
    let run = network.run(&home);

    let (here, there) = (Some(&network.machine), Some(&network.client));
    for (from, address) in [(here, "[::1]"), (here, "127.0.0.1"), (there, "[2001:db8::2]"), (there, "198.51.100.2")] {
        assert_eq!(get(from, &format!("http://{address}:8080/")).trim(), FORWARDER, "through {address}");
    }

    let headers = |from, url: &str| output(curl(from, &["-f", "-H", "Host: application"]).arg(url));
    let direct = headers(here, "http://192.0.2.2/headers");
    assert!(direct.contains("Host: application"), "{direct}");
    assert_eq!(headers(there, "http://[2001:db8::2]:8080/headers"), direct);

    assert!(run.stop().status.success());
}

#[test]
fn the_event_stream_names_both_legs_as_ss_does() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let home = Home::new();
    let mut run = network.run(&home);

    for (address, client) in [("[2001:db8::2]", "[2001:db8::10]"), ("198.51.100.2", "198.51.100.10")] {
        let mark = run.mark();
        let mut hold = curl(Some(&network.client), &["-N"]);
        hold.arg(format!("http://{address}:8080/hold")).stdout(Stdio::piped());
        let hold = Running(hold.spawn().expect("curl starts"));
        let opened = run.event_after(mark, "opened", SOON, |event| event["event"] == "opened");
        let id = opened["connection"]["id"].as_u64().expect("an id is a number");

        // Two sockets of the forwarder: one towards the client, one towards the application.
        let (near, far) = wait_for("both legs are established", SOON, || {
            let all = established(Some(&network.machine));
            let near =
                all.iter().find(|(local, peer)| *local == format!("{address}:8080") && peer.starts_with(client))?;
            let far = all.iter().find(|(_, peer)| peer == "192.0.2.2:80")?;
            Some((near.clone(), far.clone()))
        });
        get(Some(&network.machine), "http://192.0.2.2/release");
        let closed = run.closed(id);
        drop(hold);

        let text = |field: &str| closed[field].as_str().unwrap_or_default().to_owned();
        assert_eq!((text("listener"), text("client")), near);
        assert_eq!((text("source"), text("target_address")), far);
        assert_eq!((text("target"), text("reason")), ("192.0.2.2:80".to_owned(), "finished".to_owned()));
        assert_eq!(opened["connection"]["client"], closed["client"]);
    }
    assert!(run.stop().status.success());
}

#[test]
fn the_event_stream_counts_every_byte() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let home = Home::new();
    let mut run = network.run(&home);

    let mut totals = (0, 0);
    for size in [0, 1, 65_536, 1_000_003] {
        let mark = run.mark();
        let figures = ["-o", "/dev/null", "-w", "%{size_request} %{size_header} %{size_download}"];
        let url = format!("http://[2001:db8::2]:8080/data/{size}");
        let said = output(curl(Some(&network.client), &figures).arg(url));
        let figures: Vec<u64> = said.split_whitespace().map(|figure| figure.parse().expect("a figure")).collect();
        let [request, header, download] = figures[..] else { panic!("curl said {said:?}") };
        assert_eq!(download, size);

        let closed = run.event_after(mark, "closed", SOON, |event| event["event"] == "closed");
        let connection = &closed["connection"];
        assert_eq!(connection["bytes_in"], request);
        assert_eq!(connection["bytes_out"], header + download);
        totals = (totals.0 + request, totals.1 + header + download);
    }

    // The mapping's totals include every connection that ever closed.
    run.event("the totals", SOON, |event| {
        event["event"] == "traffic"
            && event["mappings"].as_array().is_some_and(|mappings| {
                mappings.iter().any(|total| total["bytes_in"] == totals.0 && total["bytes_out"] == totals.1)
            })
    });
    assert!(run.stop().status.success());
}
