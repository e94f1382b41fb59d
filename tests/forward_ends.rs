//! How connections end through the engine: half-close, resets, refusals, timeouts.

#[path = "common/sockets.rs"]
mod sockets;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use portolan::model::event::{CloseReason, ConnectionState, Side};
use sockets::{Bench, Server, connect, noise, reset, try_connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Bytes each way of each of the 200 connections: a fifth of the 10 MiB that are meant, for a debug build.
const HALF_CLOSE_BYTES: usize = 2 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_close_keeps_the_reply_flowing() {
    let bench = Bench::start();
    // Replies only after the client's end, so it comes only if the end alone was passed on.
    let server = Server::start("127.0.0.1", |mut stream| async move {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).await.expect("the whole request");
        request.reverse();
        stream.write_all(&request).await.expect("the reply is taken");
    })
    .await;
    let listener = bench.map(1, "[::1]", server.address).await;
    let request = Arc::new(noise(1, HALF_CLOSE_BYTES));
    let mut expected = request.to_vec();
    expected.reverse();
    let expected = Arc::new(expected);
    let mut clients = JoinSet::new();
    for _ in 0..200 {
        let (request, expected) = (Arc::clone(&request), Arc::clone(&expected));
        clients.spawn(async move {
            let mut stream = connect(listener).await;
            stream.write_all(&request).await.expect("the request is taken");
            stream.shutdown().await.expect("the client's end");
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).await.expect("the whole reply, then an end");
            assert!(reply == *expected, "the reply differs");
        });
    }
    clients.join_all().await;
    for record in bench.closed(200).await {
        let connection = record.connection();
        assert_eq!(connection.reason, Some(CloseReason::Finished));
        let bytes = HALF_CLOSE_BYTES as u64;
        assert_eq!((connection.bytes_in, connection.bytes_out), (bytes, bytes));
    }
    bench.shutdown().await;
}

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
    })
    .await;
    let listener = bench.map(1, "[::1]", server.address).await;
    let mut stream = connect(listener).await;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.expect("the target's end");
    assert_eq!(reply, b"no more");
    let record = bench.registry.open_connections().pop().expect("still open");
    assert_eq!(record.state(), (ConnectionState::HalfClosed, Some(Side::Target)));
    let request = noise(2, 3_000_000);
    stream.write_all(&request).await.expect("still taken");
    stream.shutdown().await.expect("the client's end");
    assert!(requests.recv().await.expect("a request") == request);
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::Finished]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_the_target_reaches_the_client_after_all_its_bytes() {
    const SIZE: usize = 1024 * 1024;
    let bench = Bench::start();
    let reply = Arc::new(noise(3, SIZE));
    let sent = Arc::clone(&reply);
    let server = Server::start("127.0.0.1", move |mut stream| {
        let sent = Arc::clone(&sent);
        async move {
            stream.write_all(&sent).await.expect("taken");
            reset(stream);
        }
    })
    .await;
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
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reset_destroys_nothing_of_a_complete_reply_to_a_slow_client() {
    const SIZE: usize = 512 * 1024;
    let bench = Bench::start();
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
    })
    .await;
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
    bench.shutdown().await;
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
