//! What only the engine that runs a mapping knows: limits, what clients speak, what it was told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portolan::docker::Endpoint;
use portolan::model::event::MappingState;
use portolan::model::id::MappingId;
use portolan::model::profile::WrittenMapping;
use portolan::model::report::{CauseKind, Report};
use portolan::model::request::{Reply, Request};

use crate::common::ports::free_port;
use crate::common::{Running, SOON, output, wait_until};
use crate::table::Table;
use crate::world::{World, written};

/// A mapping of an engine in this process.
struct Fixture<'a> {
    world: &'a World,
    id: MappingId,
    /// Where it listens.
    at: SocketAddr,
}

impl<'a> Fixture<'a> {
    async fn new(world: &'a World, mapping: WrittenMapping) -> Self {
        let id = world.add(mapping).await;
        let mut rows = world.rows().await;
        let is_it = |row: &portolan::model::update::MappingRow| {
            row.id == id && row.listeners.iter().any(|listener| listener.bound.is_some())
        };
        let rows = rows.wait("bound", |rows| rows.iter().any(is_it)).await;
        let row = rows.iter().find(|row| is_it(row)).expect("just seen");
        let at = row.listeners.iter().find_map(|listener| listener.bound).expect("just seen");
        Self { world, id, at }
    }

    async fn why(&self) -> (Report, Duration) {
        why(self.world, self.id).await
    }

    /// Once the connections of the clients that have left are over: what was said on one is known at its end.
    async fn why_when_over(&self) -> (Report, Duration) {
        let mut rows = self.world.rows().await;
        let over = |row: &portolan::model::update::MappingRow| row.id == self.id && row.connections == 0;
        rows.wait("over", |rows| rows.iter().any(over)).await;
        self.why().await
    }
}

async fn why(world: &World, id: MappingId) -> (Report, Duration) {
    let started = Instant::now();
    let reply = world.handle.request(Request::Why { id }).await.expect("it is there");
    let Reply::Why(report) = crate::world::through_json(&reply) else { panic!("{reply:?}") };
    (*report, started.elapsed())
}

pub(crate) fn rows(table: &mut Table) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        listening(table).await;
        limits(table).await;
        speech(table).await;
        descriptors(table).await;
    });
}

async fn listening(table: &mut Table) {
    let world = World::new().await;
    let web = TcpListener::bind("127.0.0.1:0").expect("free");
    let target = web.local_addr().expect("an address").to_string();
    let fixture = Fixture::new(&world, written("auto", &target)).await;
    let (report, took) = fixture.why().await;
    table.report("engine: healthy", &report, took, None);

    world.handle.request(Request::Stop { ids: vec![fixture.id] }).await.expect("it is there");
    let (report, took) = fixture.why().await;
    table.report("engine: a mapping that is stopped", &report, took, Some(CauseKind::MappingStopped));

    let held = TcpListener::bind("127.0.0.1:0").expect("free");
    let listen = format!("127.0.0.1:{}", held.local_addr().expect("an address").port());
    let add = Request::Add { mapping: written(&listen, &target), even_if_busy: true };
    let Ok(Reply::Done { ids, .. }) = world.handle.request(add).await else { panic!("not added") };
    let mut rows = world.rows().await;
    let failed = |row: &portolan::model::update::MappingRow| row.id == ids[0] && row.state == MappingState::Failed;
    rows.wait("failed", |rows| rows.iter().any(failed)).await;
    wait_until("the holder is known", SOON, || {
        let report = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(why(&world, ids[0])));
        report.0.causes.iter().any(|cause| cause.text.as_str().contains("this program"))
    });
    let (report, took) = why(&world, ids[0]).await;
    table.report("engine: a process holds the port", &report, took, Some(CauseKind::PortHeldByProcess));

    let (dead, port) = (free_port(), free_port());
    let fixture = Fixture::new(&world, written(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{dead}"))).await;
    let (report, took) = fixture.why().await;
    table.report("engine: nobody listens", &report, took, Some(CauseKind::AppNotListening));
    world.end().await;
}

/// One that reads and does not answer.
fn patient_server() -> (TcpListener, String) {
    let web = TcpListener::bind("127.0.0.1:0").expect("free");
    let target = web.local_addr().expect("an address").to_string();
    (web, target)
}

async fn limits(table: &mut Table) {
    let world = World::new().await;
    let (_web, target) = patient_server();
    let mapping = WrittenMapping { max_connections: Some(2), ..written("auto", &target) };
    let fixture = Fixture::new(&world, mapping).await;
    let clients: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(fixture.at).expect("it listens")).collect();
    wait_until("both are in", SOON, || {
        let mut third = TcpStream::connect(fixture.at).expect("it listens");
        third.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        third.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    });
    let (report, took) = fixture.why().await;
    table.report("engine: as many connections as it may have", &report, took, Some(CauseKind::ConnectionLimit));
    // A second later nobody has been turned away lately, and the next one would be.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let (report, took) = fixture.why().await;
    table.report("engine: the same when nobody asks", &report, took, Some(CauseKind::ConnectionLimit));
    drop(clients);
    world.end().await;
}

async fn descriptors(table: &mut Table) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let docker = Endpoint::parse(&format!("unix://{}", folder.path().join("none.sock").display()), false);
    let world = World::with_limit(folder, docker, 12).await;
    let (_web, target) = patient_server();
    let fixture = Fixture::new(&world, written("127.0.0.1:auto", &target)).await;
    let clients: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(fixture.at).expect("it listens")).collect();
    let mut rows = world.rows().await;
    rows.wait("degraded", |rows| rows.iter().any(|row| row.state == MappingState::Degraded)).await;
    let (report, took) = fixture.why().await;
    table.report("engine: out of descriptors", &report, took, Some(CauseKind::DescriptorLimit));
    drop(clients);
    world.end().await;
}

/// A server that speaks TLS, and one that does not; clients that speak the other.
async fn speech(table: &mut Table) {
    let world = World::new().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (tls, plain) = (tls_server(folder.path()), plain_server(folder.path()));
    let to_tls = Fixture::new(&world, written("127.0.0.1:auto", &format!("127.0.0.1:{}", tls.1))).await;
    let to_plain = Fixture::new(&world, written("127.0.0.1:auto", &format!("127.0.0.1:{}", plain.1))).await;

    let ask = |at: SocketAddr, scheme: &str| {
        let url = format!("{scheme}://{at}/");
        Command::new("curl")
            .args(["-sk", "-o", "/dev/null", "--max-time", "5", &url])
            .status()
            .expect("curl starts")
            .success()
    };
    for (fixture, scheme, name) in
        [(&to_tls, "https", "engine: TLS to TLS"), (&to_plain, "http", "engine: plain text to plain text")]
    {
        assert!(ask(fixture.at, scheme), "{name} does not work");
        let (report, took) = fixture.why_when_over().await;
        table.report(name, &report, took, None);
    }
    assert!(!ask(to_plain.at, "https"), "a plain server understands TLS");
    let (report, took) = to_plain.why_when_over().await;
    table.report("engine: TLS to a plain port", &report, took, Some(CauseKind::TlsToPlainPort));
    assert!(!ask(to_tls.at, "http"), "a TLS server understands plain text");
    let (report, took) = to_tls.why_when_over().await;
    table.report("engine: plain text to a TLS port", &report, took, Some(CauseKind::PlainToTlsPort));

    // As nginx says it, and as one that hangs up without a word.
    let says = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nThe plain HTTP request was sent to HTTPS port";
    let (hangs_up, mute) = (scripted(says), scripted(""));
    for (port, expected, name) in [
        // It refuses plain text in words, but does not speak TLS either when it is asked.
        (hangs_up, None, "engine: words about TLS of one that does not speak it"),
        (mute, None, "engine: one that hangs up on everybody"),
    ] {
        let fixture = Fixture::new(&world, written("127.0.0.1:auto", &format!("127.0.0.1:{port}"))).await;
        let mut client = TcpStream::connect(fixture.at).expect("it listens");
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it is taken");
        let _ = client.read_to_end(&mut Vec::new());
        let (report, took) = fixture.why().await;
        table.report(name, &report, took, expected);
    }
    world.end().await;
}

/// Reads once, says something, and hangs up.
fn scripted(says: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten().take(8) {
            let _ = client.read(&mut [0; 1024]);
            let _ = client.write_all(says.as_bytes());
        }
    });
    port
}

fn plain_server(folder: &std::path::Path) -> (Running, u16) {
    python(
        folder,
        "import http.server as h
s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler)
print(s.server_port, flush=True)
s.serve_forever()",
    )
}

fn tls_server(folder: &std::path::Path) -> (Running, u16) {
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    output(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    let script = "import http.server as h, ssl
s = h.ThreadingHTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
c.load_cert_chain('certificate.pem', 'key.pem')
s.socket = c.wrap_socket(s.socket, server_side=True, do_handshake_on_connect=False)
print(s.server_port, flush=True)
s.serve_forever()";
    python(folder, script)
}

/// A server of a few lines, which says its port.
fn python(folder: &std::path::Path, script: &str) -> (Running, u16) {
    let mut child: Child = Command::new("python3")
        .args(["-c", script])
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    (Running(child), line.trim().parse().expect("it says its port"))
}
