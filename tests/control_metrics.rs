//! The metrics of a real engine, read as Prometheus reads them: what a test has done is what is counted.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use common::control::{Control, curl};
use common::echo::{echo_server, echoes, exchange};
use common::metrics::{ACCEPT_OPEN_METRICS, OLDER, OPEN_METRICS, Samples};
use common::ports::closed_port;
use common::program::{Home, Run};
use common::{Need, SOON, require, wait_for};
use serde_json::json;
use socket2::{Domain, Socket, Type};

const NEEDS: [Need; 2] = [Need::Curl, Need::PythonPackages];

/// A running engine.
struct Engine {
    control: Control,
    run: Run,
    _home: Home,
}

impl Engine {
    /// With mappings `NAME: TARGET`, each at a port of its own.
    fn start(mappings: &[(&str, &str, SocketAddr)]) -> Self {
        let mappings: Vec<_> = mappings
            .iter()
            .map(|(name, protocol, target)| {
                json!({ "name": name, "listen": "127.0.0.1:auto", "target": target.to_string(), "protocol": protocol })
            })
            .collect();
        let home = Home::new();
        home.write_profile("default", &json!({ "version": 1, "mappings": mappings }).to_string());
        let mut run = home.run(None, [] as [&str; 0]);
        run.ready();
        Self { control: Control::of(&home), run, _home: home }
    }

    /// Where a mapping listens.
    fn port_of(&mut self, mapping: &str) -> SocketAddr {
        let event = self.run.event(&format!("{mapping} listens"), SOON, |event| {
            event["event"] == "listening" && event["mapping"] == mapping
        });
        event["listener"].as_str().and_then(|text| text.parse().ok()).expect("a listener is an address")
    }

    fn text(&self) -> String {
        self.text_for(&[ACCEPT_OPEN_METRICS], OPEN_METRICS)
    }

    /// What is answered to who sends these headers.
    #[track_caller]
    fn text_for(&self, headers: &[&str], content_type: &str) -> String {
        let socket = self.control.socket().expect("it runs");
        let answer = curl(|command| {
            command.arg("--unix-socket").arg(socket).arg("http://portolan/metrics");
            for header in headers {
                command.args(["--header", header]);
            }
        });
        let answer = answer.expect("it runs");
        assert_eq!((answer.status, answer.content_type.as_str()), (200, content_type), "{answer:?}");
        answer.body
    }

    /// The metrics, as soon as they tell of so many ended connections.
    fn samples(&self, ended: f64) -> Samples {
        wait_for(&format!("{ended} connections have ended"), SOON, || {
            let samples = Samples::read(&self.text()).expect("a scraper takes it");
            let closed = samples.0.iter().filter(|sample| sample.name == "portolan_mapping_connections_closed_total");
            (closed.map(|sample| sample.value).sum::<f64>() >= ended).then_some(samples)
        })
    }
}

/// Echoes datagrams for as long as the test lives.
fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((count, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..count], client);
        }
    });
    address
}

#[test]
#[expect(clippy::float_cmp, reason = "counters are whole numbers, and small")]
fn what_was_done_is_what_is_counted() {
    if !require(&NEEDS) {
        return;
    }
    let dead = closed_port("127.0.0.1");
    let mut engine = Engine::start(&[("web", "tcp", echo_server()), ("dns", "udp", udp_echo()), ("dead", "tcp", dead)]);
    let (web, dns, dead) = (engine.port_of("web"), engine.port_of("dns"), engine.port_of("dead"));
    for length in [1_000, 20_000, 300_000] {
        let data = vec![7; length];
        assert_eq!(exchange(web, &data), data);
    }
    let mut open = TcpStream::connect(web).expect("it listens");
    assert!(echoes(&mut open));
    for _ in 0..2 {
        let mut refused = TcpStream::connect(dead).expect("it listens");
        let _ = refused.read(&mut [0]);
    }
    let flow = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    for _ in 0..5 {
        flow.send_to(&[7; 100], dns).expect("it takes a datagram");
        assert_eq!(flow.recv(&mut [0; 200]).expect("it comes back"), 100);
    }

    let samples = engine.samples(5.0);
    let of = |mapping| ("mapping", mapping);
    for (direction, of_web, of_dns) in [("in", 321_004.0, 500.0), ("out", 321_004.0, 500.0)] {
        let direction = ("direction", direction);
        assert_eq!(samples.value("mapping_bytes_total", &[of("web"), direction]), of_web);
        assert_eq!(samples.value("mapping_bytes_total", &[of("dns"), direction]), of_dns);
        assert_eq!(samples.value("mapping_datagrams_total", &[of("dns"), direction]), 5.0);
        assert_eq!(samples.value("mapping_bytes_total", &[of("dead"), direction]), 0.0);
    }
    for (mapping, total, open, connected) in
        [("web", 4.0, 1.0, Some(4.0)), ("dns", 1.0, 1.0, Some(1.0)), ("dead", 2.0, 0.0, None)]
    {
        assert_eq!(samples.value("mapping_connections_total", &[of(mapping)]), total);
        assert_eq!(samples.value("mapping_connections_open", &[of(mapping)]), open);
        assert_eq!(samples.find("mapping_connect_seconds_count", &[of(mapping)]), connected, "{mapping}");
        assert_eq!(samples.find("mapping_connect_seconds_bucket", &[of(mapping), ("le", "+Inf")]), connected);
    }
    let took = samples.value("mapping_connect_seconds_sum", &[of("web")]);
    assert!(took > 0.0 && took < 20.0, "{took}");
    assert_eq!(samples.value("mapping_connections_closed_total", &[of("web"), ("reason", "finished")]), 3.0);
    assert_eq!(samples.value("mapping_connections_closed_total", &[of("dead"), ("reason", "target_refused")]), 2.0);
    assert_eq!(samples.value("mapping_connect_failures_total", &[of("dead"), ("outcome", "refused")]), 2.0);
    assert_eq!(samples.value("mapping_up", &[of("web")]), 1.0);
    assert_eq!(samples.value("ready", &[]), 1.0);
    assert_eq!(samples.value("mappings", &[]), 3.0);
    assert_eq!(samples.value("connections_total", &[]), 7.0);
    assert_eq!(samples.value("connections_open", &[]), 2.0);
    drop(open);

    let removed = engine.control.ask("DELETE", "/v1/mappings/web", None);
    assert_eq!(removed.status, 200, "{removed:?}");
    let samples = Samples::read(&engine.text()).expect("a scraper takes it");
    let of_web = samples.0.iter().filter(|sample| sample.labels.values().any(|value| value == "web"));
    assert_eq!(of_web.count(), 0, "a mapping that is gone takes its series along");
    assert_eq!(samples.value("mappings", &[]), 2.0);
    assert_eq!(samples.value("connections_total", &[]), 7.0, "what was accepted stays accepted");
}

#[test]
fn who_does_not_know_openmetrics_gets_the_same_series_in_the_older_format() {
    if !require(&NEEDS) {
        return;
    }
    let mut engine = Engine::start(&[("web", "tcp", echo_server()), ("dns", "udp", udp_echo())]);
    let web = engine.port_of("web");
    exchange(web, b"hello");
    engine.samples(1.0);
    // curl itself asks for anything.
    let older = engine.text_for(&[], OLDER);
    for header in ["Accept:", "Accept: text/plain", "Accept: application/openmetrics-text;q=0.2,text/plain;q=0.9"] {
        engine.text_for(&[header], OLDER);
    }
    let series = |samples: Samples| -> BTreeSet<String> {
        let timeless = samples.0.into_iter().filter(|sample| sample.name != "portolan_uptime_seconds");
        let series = timeless.map(|sample| {
            let le = sample.labels.get("le").map(|le| le.parse::<f64>().expect("a bound is a number"));
            let labels: Vec<_> = sample.labels.iter().filter(|(label, _)| *label != "le").collect();
            format!("{} {labels:?} {le:?} {}", sample.name, sample.value)
        });
        series.collect()
    };
    let new = series(Samples::read(&engine.text()).expect("a scraper takes it"));
    assert_eq!(series(Samples::read_older(&older).expect("an older scraper takes it")), new);
    assert!(Samples::read_older(&engine.text()).is_err() && Samples::read(&older).is_err(), "they are told apart");
    println!("{} series by either parser", new.len());
}

#[test]
fn there_are_no_more_series_than_mappings_allow() {
    const MAPPINGS: usize = 200;
    if !require(&NEEDS) {
        return;
    }
    let target = echo_server();
    let names: Vec<String> = (0..MAPPINGS).map(|at| format!("m{at}")).collect();
    let mappings: Vec<_> = names.iter().map(|name| (name.as_str(), "tcp", target)).collect();
    let mut engine = Engine::start(&mappings);
    let ports: Vec<SocketAddr> = names.iter().map(|name| engine.port_of(name)).collect();
    let mut clients = 0;
    let mut come = |turns: u8| {
        for turn in 0..turns {
            for (at, port) in (0..).zip(&ports) {
                // Each from an address of its own.
                come_from(Ipv4Addr::new(127, 1 + turn, at, 1), *port);
                clients += 1;
            }
        }
        clients
    };
    let few = engine.samples(f64::from(come(1))).0.len();
    let samples = engine.samples(f64::from(come(4)));
    assert_eq!(samples.0.len(), few, "800 more clients");
    assert!(samples.0.len() < 100 * MAPPINGS, "{} series of {MAPPINGS} mappings", samples.0.len());
    let labels: BTreeSet<&str> = samples.0.iter().flat_map(|sample| sample.labels.keys()).map(String::as_str).collect();
    let known = ["direction", "le", "mapping", "outcome", "protocol", "reason", "state", "version"];
    assert_eq!(labels, BTreeSet::from(known));
}

/// Is a client for a moment.
fn come_from(source: Ipv4Addr, port: SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("every 127 address is this machine's");
    socket.connect(&port.into()).expect("the mapping listens");
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"ping").expect("it takes data");
    stream.shutdown(std::net::Shutdown::Write).expect("it takes an end");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("the reply is whole");
    assert_eq!(back, b"ping");
}

#[test]
fn a_spoilt_text_is_refused_by_the_check() {
    if !require(&NEEDS) {
        return;
    }
    let mut engine = Engine::start(&[("web", "tcp", echo_server())]);
    let web = engine.port_of("web");
    exchange(web, b"hello");
    engine.samples(1.0);
    let text = engine.text();
    Samples::read(&text).expect("a scraper takes it");
    let up = "portolan_mapping_up{mapping=\"web\"} 1\n";
    for (what, spoilt) in [
        ("nothing", String::new()),
        ("no end", text.replace("# EOF\n", "")),
        ("no types", text.replace("# TYPE ", "# HELP ")),
        ("no unit", text.replace("# UNIT portolan_uptime_seconds seconds\n", "")),
        ("a series twice", text.replace(up, &format!("{up}{up}"))),
        ("a name that is not ours", text.replace("portolan_ready", "ready")),
        ("a label per client", text.replace(up, "portolan_mapping_up{mapping=\"web\",Client=\"127.0.0.1\"} 1\n")),
        ("less than nothing", text.replace(up, "portolan_mapping_up{mapping=\"web\"} -1\n")),
        ("no number", text.replace(up, "portolan_mapping_up{mapping=\"web\"} NaN\n")),
        ("a time", text.replace(up, "portolan_mapping_up{mapping=\"web\"} 1 1700000000\n")),
        ("a bucket too many", text.replace("le=\"+Inf\",mapping=\"web\"} 1", "le=\"+Inf\",mapping=\"web\"} 2")),
        ("a label that does not end", text.replace("mapping=\"web\"", "mapping=\"web")),
    ] {
        assert_ne!(spoilt, text, "{what}: is not spoilt");
        assert!(Samples::read(&spoilt).is_err(), "{what} is let pass");
    }
    let older = engine.text_for(&[], OLDER);
    Samples::read_older(&older).expect("a scraper takes it");
    for (what, spoilt) in [
        ("an end", format!("{older}# EOF\n")),
        ("a type of the other format", older.replace("portolan_build_info gauge", "portolan_build_info info")),
        ("a counter without its name", older.replace("connections_total counter", "connections counter")),
        ("no types", older.replace("# TYPE ", "# HELP ")),
    ] {
        assert_ne!(spoilt, older, "{what}: is not spoilt");
        assert!(Samples::read_older(&spoilt).is_err(), "{what} is let pass");
    }
}
