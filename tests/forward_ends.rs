//! How connections end through the engine: half-close, resets, refusals, timeouts.

#[path = "common/ports.rs"]
mod ports;
#[path = "common/soak.rs"]
mod soak;
#[path = "common/sockets.rs"]
mod sockets;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan::forward::context::Addresses;
use portolan::forward::engine::{Notice, TestHook};
use portolan::model::event::{CloseReason, ConnectionState, MappingState, Side};
use portolan::model::id::MappingId;
use portolan::model::update::LastOutcome;
use ports::closed_port;
use socket2::{Domain, Socket, Type};
use sockets::{Bench, PATIENCE, Server, bound, config, connect, noise, reset, try_connect, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_close_by_the_target_keeps_the_request_flowing() {
    let bench = Bench::start();
    let (received, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start("127.0.0.1", move |mut stream| {
        let received = received.clone();
        async move {
            stream.write_all(b"no more").await.expect("taken");
            stream.shutdown().await.expect("the target's end");
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.expect("the whole request");
            received.send(request).expect("the test waits");
        }
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    let mut stream = connect(listener).await;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.expect("the target's end");
    assert_eq!(reply, b"no more");
    let record = bench.registry.open_connections().pop().expect("still open");
    // The client may see the end a moment before the record says so.
    let half_closed = (ConnectionState::HalfClosed, Some(Side::Target));
    until("half-closed", || (record.state() == half_closed).then_some(())).await;
    let request = noise(2, 3_000_000);
    stream.write_all(&request).await.expect("still taken");
    stream.shutdown().await.expect("the client's end");
    assert!(requests.recv().await.expect("a request") == request);
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::Finished]);
    bench.shutdown().await;
}

/// Bench whose connections copy alone, or splice what is bulk.
fn bench_that_splices(is_wanted: bool) -> Bench {
    let copy_alone: TestHook = |record| record.copy_only(true);
    Bench::with(100_000, (!is_wanted).then_some(copy_alone))
}

/// Fails unless directions of most of `connections` were spliced, or of none.
fn assert_spliced(bench: &Bench, is_wanted: bool, connections: u64) {
    let (to_splice, _) = bench.engine.path_switches();
    println!("spliced: {is_wanted}: {to_splice} of {connections} connections");
    assert!(if is_wanted { to_splice > connections / 2 } else { to_splice == 0 }, "{to_splice}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_the_target_reaches_the_client_after_all_its_bytes() {
    for is_spliced in [true, false] {
        a_reset_of_the_target(is_spliced).await;
    }
}

async fn a_reset_of_the_target(is_spliced: bool) {
    const SIZE: usize = 1024 * 1024;
    let bench = bench_that_splices(is_spliced);
    let reply = Arc::new(noise(3, SIZE));
    let sent = Arc::clone(&reply);
    let server = Server::start("127.0.0.1", move |mut stream| {
        let sent = Arc::clone(&sent);
        async move {
            stream.write_all(&sent).await.expect("taken");
            reset(stream);
        }
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    for round in 0..25 {
        let mut clients = JoinSet::new();
        for _ in 0..20 {
            let reply = Arc::clone(&reply);
            clients.spawn(async move {
                let mut got = Vec::new();
                // All may have happened before this task even looks at the outcome of its connect.
                let end = match try_connect(listener).await {
                    Ok(mut stream) => stream.read_to_end(&mut got).await,
                    Err(error) => Err(error),
                };
                // What was still queued at the target when it reset is gone, with or without a forwarder.
                assert!(reply.starts_with(&got));
                assert_eq!(end.expect_err("never a clean end").kind(), ErrorKind::ConnectionReset);
            });
        }
        clients.join_all().await;
        bench.closed((round + 1) * 20).await;
    }
    assert_eq!(bench.reasons(), [CloseReason::TargetReset; 500]);
    assert_spliced(&bench, is_spliced, 500);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reset_destroys_nothing_of_a_complete_reply_to_a_slow_client() {
    for is_spliced in [true, false] {
        a_late_reset(is_spliced).await;
    }
}

async fn a_late_reset(is_spliced: bool) {
    const SIZE: usize = 512 * 1024;
    let bench = bench_that_splices(is_spliced);
    let reply = Arc::new(noise(4, SIZE));
    let sent = Arc::clone(&reply);
    let (tell, queues) = watch::channel(SendQueues::new());
    let mut watcher = JoinSet::new();
    watcher.spawn(watch_send_queues(tell));
    let server = Server::start("127.0.0.1", move |mut stream| {
        let (sent, mut queues) = (Arc::clone(&sent), queues.clone());
        async move {
            stream.write_all(&sent).await.expect("taken");
            // Complete: the forwarder's kernel has all of it.
            delivered(&stream, &mut queues).await;
            reset(stream);
        }
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    let mut clients = JoinSet::new();
    for number in 0..500 {
        let reply = Arc::clone(&reply);
        clients.spawn(async move {
            // In waves, so that the sockets' buffers stay within the kernel's memory for TCP.
            sleep(Duration::from_millis(number * 10)).await;
            let socket = TcpSocket::new_v6().expect("a socket");
            socket.set_recv_buffer_size(64 * 1024).expect("a small window");
            let mut stream = socket.connect(listener).await.expect("connected");
            sleep(Duration::from_secs(1)).await;
            let mut got = Vec::new();
            let end = stream.read_to_end(&mut got).await;
            assert!(got == *reply, "{} of {SIZE} bytes", got.len());
            assert_eq!(end.expect_err("never a clean end").kind(), ErrorKind::ConnectionReset);
        });
    }
    clients.join_all().await;
    bench.closed(500).await;
    assert_eq!(bench.reasons(), [CloseReason::TargetReset; 500]);
    assert_spliced(&bench, is_spliced, 500);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_the_client_reaches_the_target_after_all_its_bytes() {
    const SIZE: usize = 300_000;
    let bench = Bench::start();
    let (received, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start("127.0.0.1", move |mut stream| {
        let received = received.clone();
        async move {
            // The client has long reset when this side begins to read.
            sleep(Duration::from_millis(100)).await;
            let mut request = Vec::new();
            let end = stream.read_to_end(&mut request).await;
            received.send((request, end.map_err(|error| error.kind()))).expect("the test waits");
        }
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    let request = Arc::new(noise(5, SIZE));
    for _ in 0..50 {
        let mut stream = connect(listener).await;
        stream.write_all(&request).await.expect("the request is taken");
        // The bytes have left the client once all of them are on their way to the target.
        until("bytes", || {
            let record = bench.registry.open_connections().pop()?;
            (record.counters.read().bytes_in == SIZE as u64).then_some(())
        })
        .await;
        reset(stream);
        let (got, end) = requests.recv().await.expect("the target's view");
        assert!(got == *request, "{} of {SIZE} bytes", got.len());
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        bench.closed(1).await;
    }
    assert_eq!(bench.reasons(), [CloseReason::ClientReset; 50]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_while_the_target_is_dialled_is_never_taken_for_one_that_ended() {
    const ROUNDS: usize = 500;
    let bench = Bench::start();
    let ends: Arc<std::sync::Mutex<Vec<_>>> = Arc::default();
    let seen = Arc::clone(&ends);
    let server = Server::start("127.0.0.1", move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let mut request = Vec::new();
            let end = stream.read_to_end(&mut request).await.map_err(|error| error.kind());
            seen.lock().expect("no panic").push((request.len(), end));
        }
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    for request in [0, 10_000] {
        let mut accepted = 0;
        for round in 1..=ROUNDS {
            let mut stream = connect(listener).await;
            stream.write_all(&vec![7; request]).await.expect("the request is taken");
            reset(stream);
            if round % 50 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        until("all to end", || bench.registry.open_connections().is_empty().then_some(())).await;
        sleep(Duration::from_millis(50)).await;
        for (got, end) in std::mem::take(&mut *ends.lock().expect("no panic")) {
            assert_eq!((got, end), (request, Err(ErrorKind::ConnectionReset)));
            accepted += 1;
        }
        // Most of the others were gone before they were accepted, here or there.
        println!("the target accepted {accepted} of {ROUNDS} with {request} bytes");
    }
    assert!(bench.reasons().iter().all(|reason| *reason == CloseReason::ClientReset), "{:?}", bench.reasons());
    bench.shutdown().await;
}

/// What the two ends have done before one of them resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    /// The one that resets has ended its sending: no reading tells of its reset any more.
    EndedByResetter,
    /// The other one has ended its sending.
    EndedByOther,
    /// The other one does not read, and what was sent to it fills every buffer.
    OtherIsStuck,
    /// The one that resets does not read, and what was sent to it fills every buffer.
    ResetterIsStuck,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_is_noticed_and_passed_on_in_every_state() {
    let cases =
        [Before::Nothing, Before::EndedByResetter, Before::EndedByOther, Before::OtherIsStuck, Before::ResetterIsStuck];
    for before in cases {
        for client_resets in [true, false] {
            let bench = Bench::start();
            let (accepted, mut streams) = tokio::sync::mpsc::unbounded_channel();
            let server = Server::start("127.0.0.1", move |stream| {
                let accepted = accepted.clone();
                async move { accepted.send(stream).expect("the test waits") }
            });
            let listener = bench.map(1, "[::1]", server.address).await;
            let client = connect(listener).await;
            let target = streams.recv().await.expect("the target's side");
            let (mut resetter, mut other) = if client_resets { (client, target) } else { (target, client) };
            let registry = &bench.registry;
            let half_closed = |side| {
                until("a half-close", move || {
                    let record = registry.open_connections().pop()?;
                    (record.state() == (ConnectionState::HalfClosed, Some(side))).then_some(())
                })
            };
            let sides = if client_resets { [Side::Client, Side::Target] } else { [Side::Target, Side::Client] };
            match before {
                Before::Nothing => {}
                Before::EndedByResetter => {
                    resetter.shutdown().await.expect("ended");
                    half_closed(sides[0]).await;
                }
                Before::EndedByOther => {
                    other.shutdown().await.expect("ended");
                    half_closed(sides[1]).await;
                }
                Before::OtherIsStuck => fill(&mut resetter).await,
                Before::ResetterIsStuck => fill(&mut other).await,
            }
            let started = Instant::now();
            reset(resetter);
            // Who has read an end already is told of the reset when he sends.
            let end = match before {
                Before::EndedByResetter => timeout(PATIENCE, write_on(&mut other)).await,
                _ => timeout(PATIENCE, read_all(&mut other)).await,
            };
            let told = matches!(end, Ok(Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)));
            assert!(told, "{before:?}, client resets: {client_resets}: {end:?}");
            // What is stuck may take its 5 s; nothing else may.
            assert!(started.elapsed() < Duration::from_secs(4), "{before:?}: {:?}", started.elapsed());
            bench.closed(1).await;
            let reason = if client_resets { CloseReason::ClientReset } else { CloseReason::TargetReset };
            assert_eq!(bench.reasons(), [reason], "{before:?}");
            bench.shutdown().await;
        }
    }
}

/// Writes until nothing more is taken.
async fn fill(stream: &mut TcpStream) {
    let block = vec![7; 1024 * 1024];
    while let Ok(taken) = timeout(Duration::from_millis(300), stream.write(&block)).await {
        taken.expect("taken");
    }
}

/// Waits for a reset that no reading tells of, without sending a byte before it is there.
async fn write_on(stream: &mut TcpStream) -> Option<ErrorKind> {
    read_all(stream).await;
    let error = loop {
        if let Some(error) = stream.take_error().expect("a socket") {
            break error;
        }
        sleep(Duration::from_millis(2)).await;
    };
    Some(error.kind())
}

/// Reads to the end; the error that it ended with.
async fn read_all(stream: &mut TcpStream) -> Option<ErrorKind> {
    let mut sink = Vec::new();
    stream.read_to_end(&mut sink).await.err().map(|error| error.kind())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stuck_peer_does_not_take_is_given_up_after_five_seconds() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |mut stream| async move {
        fill(&mut stream).await;
        reset(stream);
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    let stream = connect(listener).await;
    let record = until("a connection", || bench.registry.open_connections().pop()).await;
    until("the reset", || (record.state().0 == ConnectionState::Closing).then_some(())).await;
    let started = Instant::now();
    bench.closed(1).await;
    assert!(started.elapsed() > Duration::from_millis(4500), "{:?}", started.elapsed());
    assert_eq!(bench.reasons(), [CloseReason::TargetReset]);
    drop(stream);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_reaches_the_client_at_once() {
    let mut bench = Bench::start();
    for (id, ip) in [(1, "127.0.0.1"), (2, "::1")] {
        let target = closed_port(ip);
        let listener = bench.map(id, "[::1]", target).await;
        for _ in 0..20 {
            let started = Instant::now();
            expect_reset(listener).await;
            assert!(started.elapsed() < soak::within(Duration::from_millis(50)), "{:?}", started.elapsed());
        }
        let result = bench.status(id).meter.last_result().expect("attempts");
        assert_eq!((result.outcome, result.failures, result.attempts), (LastOutcome::Refused, 3, 3));
        let notice = timeout(PATIENCE, bench.notices.recv()).await.expect("a notice");
        assert!(matches!(notice, Some(Notice::TargetFailed(told)) if told == MappingId(id)), "{notice:?}");
    }
    bench.closed(40).await;
    assert_eq!(bench.reasons(), [CloseReason::TargetRefused; 40]);
    bench.shutdown().await;
}

/// Connects and reads; nothing but a reset will do.
async fn expect_reset(listener: SocketAddr) {
    let kind = match try_connect(listener).await {
        Ok(mut stream) => timeout(PATIENCE, read_all(&mut stream)).await.expect("an end"),
        Err(error) => Some(error.kind()),
    };
    assert_eq!(kind, Some(ErrorKind::ConnectionReset));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_target_and_one_without_address_reset_the_client() {
    let bench = Bench::start();
    // A multicast address has no route for TCP on any host.
    let multicast = "224.0.0.1:9".parse().expect("an address");
    let status = bench.apply(1, &config("[::1]:auto:host/web:9"), &[multicast]).await;
    expect_reset(bound(&status)).await;
    let server = Server::echo("127.0.0.1");
    let waiting = Addresses::Waiting { reason: "container web_1 is stopped: the mapping waits".into() };
    let status = bench.apply_to(2, &config(&format!("auto:web_1:{}", server.address.port())), waiting).await;
    assert_eq!(status.state, MappingState::Waiting);
    expect_reset(bound(&status)).await;
    bench.closed(2).await;
    assert_eq!(bench.reasons(), [CloseReason::TargetUnreachable; 2]);

    bench.engine.set_addresses(MappingId(2), Addresses::Known(vec![server.address]));
    bench.state(2, MappingState::Up).await;
    let mut stream = connect(bound(&status)).await;
    stream.write_all(b"there").await.expect("taken");
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).await.expect("an echo");
    bench.engine.set_addresses(MappingId(2), Addresses::Waiting { reason: "gone".into() });
    bench.state(2, MappingState::Waiting).await;
    stream.write_all(b"still").await.expect("an established connection is left alone");
    stream.read_exact(&mut reply).await.expect("an echo");
    assert_eq!(&reply, b"still");
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_swallows_connections_times_out_for_all_its_addresses_together() {
    let bench = Bench::start();
    // A full backlog: the kernel drops further attempts without a word.
    let swallows = |ip: [u8; 4], port| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((ip, port)).into()).expect("a free port");
        socket.listen(0).expect("listens");
        socket
    };
    let first = swallows([127, 0, 0, 1], 0);
    let target = first.local_addr().expect("an address").as_socket().expect("an IP address");
    let second = swallows([127, 0, 0, 2], target.port());
    let beside = SocketAddr::from(([127, 0, 0, 2], target.port()));
    let _queued = [connect(target).await, connect(beside).await];
    let swallowing = config(&format!("[::1]:auto:{target}"));
    assert_eq!(swallowing.connect_timeout, Duration::from_secs(5));
    let status = bench.apply(1, &swallowing, &[target, beside]).await;
    let mut clients = JoinSet::new();
    for _ in 0..200 {
        let listener = bound(&status);
        clients.spawn(async move {
            let started = Instant::now();
            expect_reset(listener).await;
            let waited = started.elapsed();
            let latest = Duration::from_secs(5) + soak::within(Duration::from_millis(500));
            assert!((Duration::from_millis(4_500)..latest).contains(&waited), "{waited:?}");
        });
    }
    clients.join_all().await;
    bench.closed(200).await;
    assert_eq!(bench.reasons(), [CloseReason::ConnectTimeout; 200]);
    drop((first, second));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_address_is_tried_and_the_one_that_worked_is_tried_first_from_then_on() {
    let bench = Bench::start();
    let server = Server::echo("127.0.0.1");
    let dead = SocketAddr::from(([127, 0, 0, 9], server.address.port()));
    let mapping = config(&format!("[::1]:auto:host/web:{}", server.address.port()));
    let status = bench.apply(1, &mapping, &[dead, server.address]).await;
    for _ in 0..3 {
        let stream = connect(bound(&status)).await;
        let record =
            until("both legs", || bench.registry.open_connections().pop().filter(|r| r.source().is_some())).await;
        assert_eq!(record.connection().target_address, Some(server.address));
        drop(stream);
        bench.closed(1).await;
    }
    // Only a dial that fails on all addresses counts as failed.
    let result = bench.status(1).meter.last_result().expect("attempts");
    assert_eq!((result.outcome, result.failures), (LastOutcome::Ok, 0));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_close_timeout_ends_a_stuck_connection_and_any_byte_renews_it() {
    // In the short form a busy machine may take four times as long between two bytes.
    let (drops, pause) = soak::amount((20, Duration::from_millis(500)), (10, Duration::from_secs(1)));
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", move |mut stream| async move {
        let mut kind = [0];
        stream.read_exact(&mut kind).await.expect("the client says what it wants");
        if &kind == b"d" {
            for _ in 0..drops {
                sleep(pause).await;
                stream.write_all(b".").await.expect("taken");
            }
        } else {
            let mut sink = Vec::new();
            let _ = stream.read_to_end(&mut sink).await;
            // Half-closed by the client; now it never answers.
            std::future::pending::<()>().await;
        }
    });
    let mut mapping = config(&format!("[::1]:auto:{}", server.address));
    mapping.half_close_timeout = Duration::from_secs(2);
    let status = bench.apply(1, &mapping, &[server.address]).await;
    let mut dripping = connect(bound(&status)).await;
    let mut stuck = connect(bound(&status)).await;
    dripping.write_all(b"d").await.expect("taken");
    stuck.write_all(b"s").await.expect("taken");
    let started = Instant::now();
    dripping.shutdown().await.expect("ended");
    stuck.shutdown().await.expect("ended");
    let mut sink = Vec::new();
    let end = timeout(Duration::from_secs(20), stuck.read_to_end(&mut sink)).await.expect("gone");
    assert_eq!(end.expect_err("a timeout is no clean end").kind(), ErrorKind::ConnectionReset);
    let waited = started.elapsed();
    let latest = Duration::from_secs(2) + soak::within(Duration::from_secs(1));
    assert!((Duration::from_millis(1900)..latest).contains(&waited), "{waited:?}");
    let mut got = Vec::new();
    dripping.read_to_end(&mut got).await.expect("10 s of drops, then an end");
    assert_eq!(got.len(), drops);
    bench.closed(2).await;
    assert_eq!(bench.reasons(), [CloseReason::HalfCloseTimeout, CloseReason::Finished]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_timeout_takes_from_a_slow_reader_what_is_on_its_way() {
    const LENGTH: usize = 2_000_000;
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |mut stream| async move {
        stream.write_all(&noise(7, LENGTH)).await.expect("taken");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let mut idle = config(&format!("[::1]:auto:{}", server.address));
    idle.idle_timeout = Some(Duration::from_secs(1));
    let mut half_closed = config(&format!("[::1]:auto:{}", server.address));
    half_closed.half_close_timeout = Duration::from_secs(1);
    for (id, mapping, reason) in [(1, idle, CloseReason::IdleTimeout), (2, half_closed, CloseReason::HalfCloseTimeout)]
    {
        let status = bench.apply(id, &mapping, &[server.address]).await;
        let socket = TcpSocket::new_v6().expect("a socket");
        socket.set_recv_buffer_size(16 * 1024).expect("it can be set");
        let mut slow = socket.connect(bound(&status)).await.expect("connected");
        if reason == CloseReason::HalfCloseTimeout {
            // The target ends after it, and it after the target.
            slow.write_all(b"x").await.expect("taken");
        }
        let mut received = Vec::new();
        let mut part = vec![0; LENGTH / 16];
        for _ in 0..16 {
            // Longer in all than any timeout, and never longer than one between two reads.
            sleep(Duration::from_millis(200)).await;
            slow.read_exact(&mut part).await.expect("all of it");
            received.extend_from_slice(&part);
        }
        assert!(received == noise(7, LENGTH), "every byte");
        if reason == CloseReason::IdleTimeout {
            assert_eq!(timeout(PATIENCE, read_all(&mut slow)).await.expect("gone"), Some(ErrorKind::ConnectionReset));
            bench.closed(1).await;
            assert_eq!(bench.reasons(), [reason]);
        }
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_finished_when_its_client_has_all_and_not_before() {
    const LENGTH: usize = 1_000_000;
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
        stream.write_all(&noise(9, LENGTH)).await.expect("taken");
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    let hold_back = async || {
        let socket = TcpSocket::new_v6().expect("a socket");
        socket.set_recv_buffer_size(64 * 1024).expect("it can be set");
        let mut stream = socket.connect(listener).await.expect("connected");
        stream.shutdown().await.expect("ended");
        until("all of it to be counted", || {
            bench.registry.open_connections().pop().filter(|open| open.counters.read().bytes_out == LENGTH as u64)
        })
        .await;
        until("the rest to be on its way", || {
            bench.registry.open_connections().pop().filter(|open| open.state().0 == ConnectionState::Closing)
        })
        .await;
        stream
    };
    // It reads on after a while: finished, with every byte.
    let mut patient = hold_back().await;
    let mut received = Vec::new();
    patient.read_to_end(&mut received).await.expect("a clean end");
    assert!(received == noise(9, LENGTH));
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::Finished]);
    // It resets instead: what it never had does not count.
    let mut gone = hold_back().await;
    gone.read_exact(&mut [0; 10_000]).await.expect("the first bytes");
    reset(gone);
    let closed = bench.closed(2).await;
    let last = closed.last().expect("two").connection();
    assert_eq!(last.reason, Some(CloseReason::ClientReset));
    assert!((10_000..LENGTH as u64).contains(&last.bytes_out), "{}", last.bytes_out);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_cannot_be_dialled_from_here_is_unreachable() {
    let bench = Bench::start();
    // A documentation address over an interface that has none of its family.
    let nowhere: SocketAddr = "[2001:db8:ffff::1]:9".parse().expect("an address");
    let listener = bench.map(1, "127.0.0.1", nowhere).await;
    expect_reset(listener).await;
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::TargetUnreachable]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_timeout_ends_a_silent_connection_and_no_other() {
    let bench = Bench::start();
    let server = Server::echo("127.0.0.1");
    let mut mapping = config(&format!("[::1]:auto:{}", server.address));
    mapping.idle_timeout = Some(Duration::from_secs(1));
    let status = bench.apply(1, &mapping, &[server.address]).await;
    let mut silent = connect(bound(&status)).await;
    let mut busy = connect(bound(&status)).await;
    let mut reply = [0];
    for _ in 0..10 {
        busy.write_all(b"x").await.expect("taken");
        busy.read_exact(&mut reply).await.expect("an echo");
        sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(timeout(PATIENCE, read_all(&mut silent)).await.expect("gone"), Some(ErrorKind::ConnectionReset));
    busy.write_all(b"x").await.expect("taken");
    busy.read_exact(&mut reply).await.expect("2.5 s later still an echo");
    drop(busy);
    bench.closed(2).await;
    assert_eq!(bench.reasons(), [CloseReason::IdleTimeout, CloseReason::Finished]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_connection_is_reset_on_both_sides_while_connecting_and_while_open() {
    let bench = Bench::start();
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start("127.0.0.1", move |mut stream| {
        let ended = ended.clone();
        async move { ended.send(read_all(&mut stream).await).expect("the test waits") }
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    let mut stream = connect(listener).await;
    let record = until("both legs", || bench.registry.open_connections().pop().filter(|r| r.source().is_some())).await;
    assert!(bench.engine.kill(record.id));
    assert_eq!(read_all(&mut stream).await, Some(ErrorKind::ConnectionReset));
    assert_eq!(ends.recv().await.expect("the target's view"), Some(ErrorKind::ConnectionReset));
    bench.closed(1).await;
    assert!(!bench.engine.kill(record.id), "it is closed");

    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    full.listen(0).expect("listens");
    let target = full.local_addr().expect("an address").as_socket().expect("an IP address");
    let _queued = connect(target).await;
    let listener = bench.map(2, "[::1]", target).await;
    let mut stream = connect(listener).await;
    let record = until("a connection", || bench.registry.open_connections().pop()).await;
    assert_eq!(record.state().0, ConnectionState::Connecting);
    assert!(bench.engine.kill(record.id));
    assert_eq!(read_all(&mut stream).await, Some(ErrorKind::ConnectionReset));
    bench.closed(2).await;
    assert_eq!(bench.reasons(), [CloseReason::Killed; 2]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_closes_listeners_at_once_drains_and_then_resets_what_is_left() {
    let bench = Bench::start();
    let server = Server::echo("127.0.0.1");
    let listener = bench.map(1, "[::1]", server.address).await;
    let mut finishing = connect(listener).await;
    let mut staying = connect(listener).await;
    for stream in [&mut finishing, &mut staying] {
        stream.write_all(b"x").await.expect("taken");
        stream.read_exact(&mut [0]).await.expect("an echo");
    }
    let registry = Arc::clone(&bench.registry);
    let started = Instant::now();
    let mut ending = JoinSet::new();
    ending.spawn(bench.engine.shutdown(Duration::from_secs(2)));
    until("a closed port", || std::net::TcpStream::connect(listener).is_err().then_some(())).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    finishing.write_all(b"y").await.expect("a drained connection goes on");
    finishing.read_exact(&mut [0]).await.expect("an echo");
    finishing.shutdown().await.expect("ended");
    assert_eq!(read_all(&mut finishing).await, None);
    assert_eq!(read_all(&mut staying).await, Some(ErrorKind::ConnectionReset));
    ending.join_next().await.expect("one task").expect("shut down");
    let reasons: Vec<_> = registry.closed_since(0).0.iter().filter_map(|record| record.connection().reason).collect();
    // The looks whether the port is closed may have been let in before it was.
    let (last, before) = reasons.split_last().expect("two at least");
    assert_eq!(*last, CloseReason::Shutdown, "{reasons:?}");
    assert!(before.contains(&CloseReason::Finished) && !before.contains(&CloseReason::Shutdown), "{reasons:?}");
}

/// Bytes that wait in the send queue of each IPv4 connection, by local and peer port.
type SendQueues = HashMap<(u16, u16), u64>;

/// Reads the kernel's table again and again, for everybody who waits for a queue to become empty.
async fn watch_send_queues(tell: watch::Sender<SendQueues>) {
    loop {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
        tell.send_replace(table.lines().skip(1).filter_map(send_queue).collect());
        sleep(Duration::from_millis(20)).await;
    }
}

/// A row is `sl local rem st tx_queue:rx_queue …`, its numbers hexadecimal.
fn send_queue(row: &str) -> Option<((u16, u16), u64)> {
    let fields: Vec<_> = row.split_whitespace().collect();
    let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
    let queue = u64::from_str_radix(fields.get(4)?.split(':').next()?, 16).ok()?;
    Some(((port(fields.get(1)?)?, port(fields.get(2)?)?), queue))
}

/// Waits until the peer's kernel has all that was sent.
async fn delivered(stream: &TcpStream, queues: &mut watch::Receiver<SendQueues>) {
    let local = stream.local_addr().expect("an address").port();
    let peer = stream.peer_addr().expect("an address").port();
    queues.mark_unchanged();
    loop {
        // The next table may have been begun before the last write, the one after it was not.
        queues.changed().await.expect("the watcher lives");
        queues.changed().await.expect("the watcher lives");
        if queues.borrow_and_update().get(&(local, peer)) == Some(&0) {
            return;
        }
    }
}
