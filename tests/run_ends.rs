//! How connections end through `portolan run`, and what its events say of it: half-closed, reset, refused,
//! swallowed (faults 3, 5 and 6). The engine's own tests have the figures and the corners.

mod common;
#[path = "common/sockets.rs"]
mod sockets;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::SOON;
use common::ports::closed_port;
use common::program::{Home, Run};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use sockets::{PATIENCE, Server, connect, noise, reset, try_connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The program with one mapping on both families of loopback.
struct Mapped {
    run: Run,
    listeners: [SocketAddr; 2],
    _home: Home,
}

impl Mapped {
    fn to(target: SocketAddr) -> Self {
        Self::with(target, "")
    }

    /// With more fields of the mapping, each with a comma before it.
    fn with(target: SocketAddr, fields: &str) -> Self {
        let home = Home::new();
        let mapping = format!("{{ \"name\": \"it\", \"listen\": \"auto\", \"target\": \"{target}\"{fields} }}");
        home.write_profile("default", &format!("{{ \"version\": 1, \"mappings\": [{mapping}] }}"));
        let mut run = home.run::<&str>(None, []);
        run.ready();
        let listeners = ["127.0.0.1:", "[::1]:"].map(|family| {
            let is_it = |event: &Value| event["listener"].as_str().is_some_and(|listener| listener.starts_with(family));
            let event = run.event("a listener", SOON, is_it);
            event["listener"].as_str().and_then(|text| text.parse().ok()).expect("a listener is an address")
        });
        Self { run, listeners, _home: home }
    }

    /// Waits until so many connections have closed, for this reason each, and gives them.
    fn closed(&mut self, count: u64, reason: &str) -> Vec<Value> {
        let closed: Vec<Value> = (1..=count).map(|id| self.run.closed(id)).collect();
        for connection in &closed {
            assert_eq!(connection["reason"], reason, "{connection}");
        }
        closed
    }
}

fn assert_bytes(connections: &[Value], bytes_in: usize, bytes_out: usize) {
    for connection in connections {
        assert_eq!(
            (&connection["bytes_in"], &connection["bytes_out"]),
            (&bytes_in.into(), &bytes_out.into()),
            "{connection}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_of_either_side_lets_the_other_finish() {
    const SIZE: usize = 2 * 1024 * 1024;
    const HELLO: &[u8] = b"nothing more from me";
    // Replies only after the client's end.
    let client_first = Server::start("127.0.0.1", |mut stream| async move {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).await.expect("the whole request");
        request.reverse();
        stream.write_all(&request).await.expect("the reply is taken");
    });
    let (received, mut requests) = tokio::sync::mpsc::unbounded_channel();
    // Ends before it reads a byte.
    let target_first = Server::start("127.0.0.1", move |mut stream| {
        let received = received.clone();
        async move {
            stream.write_all(HELLO).await.expect("taken");
            stream.shutdown().await.expect("the target's end");
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.expect("the whole request");
            received.send(request).expect("the test waits");
        }
    });
    let mut mapped = Mapped::to(client_first.address);
    let request = Arc::new(noise(3, SIZE));
    let mut clients = JoinSet::new();
    for number in 0..10 {
        let (listener, request) = (mapped.listeners[number % 2], Arc::clone(&request));
        clients.spawn(async move {
            let mut stream = connect(listener).await;
            stream.write_all(&request).await.expect("the request is taken");
            stream.shutdown().await.expect("the client's end");
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).await.expect("the whole reply, then an end");
            assert!(reply.iter().rev().eq(request.iter()), "the reply differs");
        });
    }
    clients.join_all().await;
    assert_bytes(&mapped.closed(10, "finished"), SIZE, SIZE);

    let mut mapped = Mapped::to(target_first.address);
    for number in 0..10 {
        let mut stream = connect(mapped.listeners[number % 2]).await;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.expect("the target's end");
        assert_eq!(reply, HELLO);
        stream.write_all(&request).await.expect("it still takes data");
        stream.shutdown().await.expect("the client's end");
        let got = timeout(PATIENCE, requests.recv()).await.expect("in time").expect("a request");
        assert!(got == *request, "{} bytes of {SIZE}, or others", got.len());
    }
    assert_bytes(&mapped.closed(10, "finished"), SIZE, HELLO.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_the_target_is_a_reset_for_the_client_and_costs_no_byte() {
    const SIZE: usize = 300_000;
    let reply = Arc::new(noise(5, SIZE));
    let sent = Arc::clone(&reply);
    let server = Server::start("127.0.0.1", move |mut stream| {
        let sent = Arc::clone(&sent);
        async move {
            stream.write_all(&sent).await.expect("taken");
            // A word of the client says that the forwarder has all of it.
            stream.read_exact(&mut [0]).await.expect("a word");
            reset(stream);
        }
    });
    let mut mapped = Mapped::to(server.address);
    let mut clients = JoinSet::new();
    for number in 0..50 {
        let (listener, reply) = (mapped.listeners[number % 2], Arc::clone(&reply));
        clients.spawn(async move {
            let socket = if listener.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.expect("a socket");
            socket.set_recv_buffer_size(64 * 1024).expect("a small window");
            let mut stream = socket.connect(listener).await.expect("connected");
            let mut got = vec![0; SIZE / 2];
            stream.read_exact(&mut got).await.expect("the first half");
            // The rest waits in buffers when the reset comes, and the client is in no hurry.
            stream.write_all(b"!").await.expect("taken");
            sleep(Duration::from_millis(500)).await;
            let end = stream.read_to_end(&mut got).await;
            assert!(got == *reply, "{} of {SIZE} bytes", got.len());
            assert_eq!(end.expect_err("never a clean end").kind(), ErrorKind::ConnectionReset);
        });
    }
    clients.join_all().await;
    assert_bytes(&mapped.closed(50, "target_reset"), 1, SIZE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_the_client_is_a_reset_for_the_target() {
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start("127.0.0.1", move |mut stream| {
        let ended = ended.clone();
        async move {
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.expect("a word");
            stream.write_all(&word).await.expect("taken");
            let end = stream.read(&mut word).await.map_err(|error| error.kind());
            ended.send(end).expect("the test waits");
        }
    });
    let mut mapped = Mapped::to(server.address);
    for number in 0..20 {
        let mut stream = connect(mapped.listeners[number % 2]).await;
        stream.write_all(b"word").await.expect("taken");
        stream.read_exact(&mut [0; 4]).await.expect("an echo");
        reset(stream);
        let end = timeout(PATIENCE, ends.recv()).await.expect("in time").expect("an end");
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
    }
    assert_bytes(&mapped.closed(20, "client_reset"), 4, 4);
}

/// How a client that is not served ends, and after how long.
async fn end_of(listener: SocketAddr) -> (ErrorKind, Duration) {
    let started = Instant::now();
    let end = async { try_connect(listener).await?.read(&mut [0]).await };
    let end = timeout(PATIENCE, end).await.expect("an end").expect_err("a reset");
    (end.kind(), started.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_resets_the_client_at_once() {
    for ip in ["127.0.0.1", "::1"] {
        let target = closed_port(ip);
        let mut mapped = Mapped::to(target);
        for number in 0..10 {
            let (end, took) = end_of(mapped.listeners[number % 2]).await;
            assert_eq!(end, ErrorKind::ConnectionReset);
            assert!(took < Duration::from_millis(500), "{took:?}");
        }
        let closed = mapped.closed(10, "target_refused");
        assert_bytes(&closed, 0, 0);
        assert!(closed.iter().all(|connection| connection["target_address"].is_null()), "never connected");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_swallows_costs_the_connect_timeout() {
    // With its queue full, the kernel drops further attempts without a word.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    full.listen(0).expect("listens");
    let target = full.local_addr().expect("an address").as_socket().expect("an IP address");
    let _queued = connect(target).await;
    let mut mapped = Mapped::with(target, ", \"connect_timeout\": \"1s\"");
    let mut clients = JoinSet::new();
    for number in 0..50 {
        let listener = mapped.listeners[number % 2];
        clients.spawn(async move {
            let (end, took) = end_of(listener).await;
            assert_eq!(end, ErrorKind::ConnectionReset);
            assert!(took > Duration::from_millis(900) && took < Duration::from_secs(10), "{took:?}");
        });
    }
    clients.join_all().await;
    assert_bytes(&mapped.closed(50, "connect_timeout"), 0, 0);
}
