//! PROXY headers with those who made them: nginx and HAProxy read ours and name the true client, and theirs tell us who
//! that is.

mod common;

use common::netns::Namespace;
use common::peers::curl;
use common::program::{Home, Run};
use common::servers::ConfiguredServer;
use common::{Need, SOON, output, require, wait_for};
use serde_json::{Value, json};

const NEEDS: &[Need] = &[Need::Namespaces, Need::Servers, Need::Curl, Need::Ss];

/// Clients, and where they go.
const CLIENTS: [&str; 2] = ["2001:db8::c1", "2001:db8:0:1::c2"];
const HOST: &str = "2001:db8::1";

/// A host with two clients, all of them by their addresses.
fn host() -> Namespace {
    let namespace = Namespace::new("proxied");
    for address in CLIENTS.into_iter().chain([HOST]) {
        namespace.ip(&format!("address add {address}/128 dev lo nodad"));
    }
    namespace
}

/// The program with mappings.
fn run(home: &Home, namespace: &Namespace, mappings: &Value) -> Run {
    home.write_profile("default", &json!({ "version": 1, "mappings": mappings }).to_string());
    let mut run = home.run(Some(namespace), [] as [&str; 0]);
    run.ready();
    run
}

/// What a client is answered on a port of the host.
fn ask(namespace: &Namespace, client: &str, port: u16) -> String {
    output(curl(Some(namespace), &["-f", "--interface", client]).arg(format!("http://[{HOST}]:{port}/")))
}

/// Waits for the connection that has closed, of those that fit.
fn closed(run: &mut Run, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    run.event(what, SOON, |event| event["event"] == "closed" && fits(&event["connection"]))["connection"].clone()
}

/// The address in a text of address and port.
fn ip(address: &Value) -> String {
    let address: std::net::SocketAddr = address.as_str().expect("text").parse().expect("an address");
    address.ip().to_string()
}

#[test]
fn nginx_and_haproxy_read_our_headers_and_log_the_true_client() {
    if !require(NEEDS) {
        return;
    }
    let (namespace, home) = (host(), Home::new());
    let nginx = ConfiguredServer::nginx(
        &namespace,
        "http {
            log_format who '$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $remote_addr';
            access_log FOLDER/access who;
            server { listen 127.0.0.1:7001 proxy_protocol; location / { return 200 '$proxy_protocol_addr'; } }
        }",
        &[7001],
    );
    let haproxy = ConfiguredServer::haproxy(
        &namespace,
        "frontend read
            mode http
            bind 127.0.0.1:7003 accept-proxy
            log-format 'read %ci %cp %[dst] %[dst_port] id=%[fc_pp_unique_id]'
            http-request return status 200 content-type text/plain lf-string '%[src]'
        ",
        &[7003],
    );
    let mut mappings = Vec::new();
    for (nth, target) in [7001, 7003].into_iter().enumerate() {
        for (version, identity) in ["proxy-v1", "proxy-v2"].into_iter().enumerate() {
            let listen = format!("any:{}", 8000 + 10 * nth + version);
            let target = format!("127.0.0.1:{target}");
            mappings.push(json!({ "listen": listen, "target": target, "identity": identity }));
        }
    }
    let mut run = run(&home, &namespace, &json!(mappings));
    for client in CLIENTS {
        for port in [8000, 8001, 8010, 8011] {
            assert_eq!(ask(&namespace, client, port), client, "on {port}");
        }
        // nginx: version 1 and 2, with the address that was dialled; the peer of its socket is this host.
        let line = format!(" {HOST} 127.0.0.1");
        wait_for("nginx's log", SOON, || {
            let log = nginx.file("access");
            let lines = log.lines().filter(|text| text.starts_with(&format!("{client} ")) && text.ends_with(&line));
            (lines.count() == 2).then_some(())
        });
        // HAProxy: and the connection's id, whose end is that of our events.
        let connection = closed(&mut run, "a connection to HAProxy", |connection| {
            ip(&connection["client"]) == client && connection["listener"] == format!("[{HOST}]:8011")
        });
        let port = connection["client"].as_str().expect("text").rsplit(':').next().expect("a port").to_owned();
        let line = format!("read {client} {port} {HOST} 8011 id=portolan-");
        let line = wait_for("HAProxy's log", SOON, || {
            haproxy.log().lines().find(|text| text.starts_with(&line)).map(str::to_owned)
        });
        assert!(line.ends_with(&format!("-{}", connection["id"])), "{line} is {connection}");
    }
    // An IPv4 client too.
    let url = "http://127.0.0.1:8000/";
    assert_eq!(output(curl(Some(&namespace), &["-f", "--interface", "127.0.0.9", url]).arg("-4")), "127.0.0.9");
    assert!(run.stop().status.success());
}

#[test]
fn haproxy_and_nginx_tell_us_the_true_client_and_we_tell_it_on() {
    if !require(NEEDS) {
        return;
    }
    let (namespace, home) = (host(), Home::new());
    let haproxy = ConfiguredServer::haproxy(
        &namespace,
        &format!(
            "listen v1
                mode tcp
                bind [{HOST}]:9001
                server us 127.0.0.1:8001 send-proxy
            listen v2
                mode tcp
                bind [{HOST}]:9002
                server us 127.0.0.1:8002 send-proxy-v2
            listen v2_with_fields
                mode tcp
                bind [{HOST}]:9003
                unique-id-format %{{+X}}o-%ci-%cp
                server us 127.0.0.1:8002 send-proxy-v2 proxy-v2-options crc32c,unique-id
            frontend read
                mode http
                bind 127.0.0.1:7001 accept-proxy
                http-request return status 200 content-type text/plain lf-string '%[src]:%[src_port] at %[dst]:%[dst_port]'
            "
        ),
        &[9001, 9002, 9003, 7001],
    );
    let nginx = ConfiguredServer::nginx(
        &namespace,
        &format!("stream {{ server {{ listen [{HOST}]:9004; proxy_pass 127.0.0.1:8001; proxy_protocol on; }} }}"),
        &[9004],
    );
    let from = json!(["127.0.0.0/8"]);
    let mapping = |port: u16, identity: &str| {
        json!({
            "listen": format!("127.0.0.1:{port}"), "target": "127.0.0.1:7001", "identity": identity,
            "accept_proxy": true, "trusted_cidrs": from,
        })
    };
    let mut run = run(&home, &namespace, &json!([mapping(8001, "proxy-v2"), mapping(8002, "proxy-v1")]));
    for client in CLIENTS {
        for port in [9001, 9002, 9003, 9004] {
            let said = ask(&namespace, client, port);
            let (who, dialled) = said.split_once(" at ").expect("both");
            let (address, client_port) = who.rsplit_once(':').expect("a port");
            assert_eq!((address, dialled), (client, format!("{HOST}:{port}").as_str()));
            let told = format!("[{client}]:{client_port}");
            let connection = closed(&mut run, "the connection", |connection| connection["client"] == told);
            assert_eq!(ip(&connection["peer"]), "127.0.0.1");
            assert!(connection["listener"] == "127.0.0.1:8001" || connection["listener"] == "127.0.0.1:8002");
            let opened = run.event("that it opened", SOON, |event| {
                event["event"] == "opened" && event["connection"]["id"] == connection["id"]
            });
            assert_eq!(opened["connection"]["client"], told);
        }
    }
    drop((haproxy, nginx));
    assert!(run.stop().status.success());
}

#[test]
fn a_stranger_with_a_header_of_its_own_reaches_nobody() {
    if !require(NEEDS) {
        return;
    }
    let (namespace, home) = (host(), Home::new());
    let nginx = ConfiguredServer::nginx(
        &namespace,
        "http { access_log FOLDER/access; server { listen 127.0.0.1:7001; location / { return 200 'reached'; } } }",
        &[7001],
    );
    let mappings = json!([{
        "listen": "any:8000", "target": "127.0.0.1:7001", "accept_proxy": true, "trusted_cidrs": [format!("{}/128", CLIENTS[0])],
    }]);
    let mut run = run(&home, &namespace, &mappings);
    let before = namespace.counters()["Tcp ActiveOpens"];
    let url = format!("http://[{HOST}]:8000/");
    // curl writes a header of version 1 itself, which tells its own addresses.
    for arguments in [vec!["--interface", CLIENTS[1], "--haproxy-protocol"], vec!["--interface", CLIENTS[1]]] {
        assert!(!curl(Some(&namespace), &arguments).arg(&url).status().expect("curl runs").success());
    }
    for nth in 0..2 {
        let fits = |event: &Value| event["event"] == "closed" && event["connection"]["reason"] == "rejected";
        let event = run.event_after(0, "a refusal", SOON, |event| fits(event) && event["connection"]["id"] == nth + 1);
        let connection = &event["connection"];
        let error = format!("{} is not in trusted_cidrs, whose PROXY headers alone are read", CLIENTS[1]);
        assert_eq!((&connection["error"], &connection["bytes_in"]), (&json!(error), &json!(0)));
        assert_eq!(connection["target_address"], Value::Null);
    }
    // curl has opened two connections, and we none.
    assert_eq!(namespace.counters()["Tcp ActiveOpens"] - before, 2);
    assert_eq!(nginx.file("access"), "");
    let said = output(curl(Some(&namespace), &["-f", "--interface", CLIENTS[0], "--haproxy-protocol"]).arg(&url));
    assert_eq!(said, "reached");
    assert!(run.stop().status.success());
}
