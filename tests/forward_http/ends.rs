//! How connections end: who was it, and what do the others see of it.

use std::time::Duration;

use portolan::model::event::{CloseReason, ConnectionState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::sockets::{Bench, Server, reset, until};
use crate::support::{Peer, field, map, map_with, mirror};

/// A server that answers `/half` by half a response and then does as `end` says, `/late` once it is told to, and else
/// at once.
fn ending(end: fn(Peer)) -> Server {
    Server::start("127.0.0.1", move |stream| async move {
        let mut peer = Peer::new(stream);
        while let Some(head) = peer.head().await {
            if head.contains("/half") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
                // The client has it before the end comes.
                sleep(Duration::from_millis(100)).await;
                return end(peer);
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_response_is_never_taken_for_a_whole_one() {
    let ways: [(fn(Peer), CloseReason); 2] =
        [(|peer| reset(peer.stream), CloseReason::TargetReset), (|peer| drop(peer), CloseReason::Error)];
    for (end, reason) in ways {
        let bench = Bench::start();
        let server = ending(end);
        let listener = map(&bench, 1, "127.0.0.1", server.address).await;
        let mut client = Peer::connect(listener).await;
        client.get("/half").await;
        client.head().await.unwrap();
        assert_eq!(client.rest().await, Err(b"half".to_vec()), "{reason:?}");
        let closed = bench.closed(1).await;
        assert_eq!(bench.reasons(), [reason], "{:?}", closed[0].connection().error);
        bench.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_amid_a_response_ends_it_at_the_target() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        peer.head().await;
        // It never answers, and hears of the end all the same.
        assert_eq!(peer.rest().await, Err(Vec::new()));
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    client.get("/").await;
    until("the request to be passed on", || {
        bench.registry.open_connections().first().filter(|record| record.counters.read().bytes_in > 0).map(|_| ())
    })
    .await;
    reset(client.stream);
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::ClientReset]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_ended_gets_its_answers_and_the_target_sees_the_end() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        for _ in 0..2 {
            peer.head().await.expect("a request");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
        peer.head().await.expect("the last one");
        assert!(peer.head().await.is_none(), "and the end behind it");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(request.repeat(3)).await;
    client.stream.shutdown().await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.response().await, ("HTTP/1.1 200 OK".to_owned(), "ok".to_owned()));
    }
    assert_eq!(client.rest().await, Ok(Vec::new()));
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::Finished]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_ends_amid_a_request_leaves_nothing_behind() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        let head = peer.head().await.expect("a request");
        assert_eq!(field(&head, "content-length"), Some("10"));
        assert_eq!(peer.rest().await, Err(b"half".to_vec()), "not taken for a whole request");
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    client.stream.shutdown().await.unwrap();
    let rest = client.rest().await;
    bench.closed(1).await;
    assert!(bench.reasons() == [CloseReason::Finished], "{:?}, {rest:?}", bench.reasons());
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_body_is_whole_is_read_to_its_end() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        peer.head().await;
        peer.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!").await;
        peer.stream.shutdown().await.unwrap();
        let _ = peer.rest().await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert_eq!(client.exactly(3).await, b"no!");
    drop(client);
    bench.closed(1).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_resets_both_at_once_whatever_is_going_on() {
    for path in ["", "/half", "/fine"] {
        let bench = Bench::start();
        let server = ending(|peer| {
            // It stays until it hears of the end.
            tokio::spawn(async move { assert!(peer.rest().await.is_err()) });
        });
        let listener = map(&bench, 1, "127.0.0.1", server.address).await;
        let mut client = Peer::connect(listener).await;
        let open = until("the connection", || bench.registry.open_connections().pop()).await;
        if !path.is_empty() {
            client.get(path).await;
            client.head().await.unwrap();
            client.exactly(2).await;
        }
        bench.registry.kill(open.id, CloseReason::Killed);
        assert!(client.rest().await.is_err(), "{path:?}");
        bench.closed(1).await;
        assert_eq!(bench.reasons(), [CloseReason::Killed]);
        bench.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_ends_when_the_mapping_says() {
    let bench = Bench::start();
    let server = mirror("127.0.0.1");
    let idle = |config: &mut portolan::model::profile::MappingConfig| {
        config.idle_timeout = Some(Duration::from_millis(300));
    };
    let listener = map_with(&bench, 1, "127.0.0.1", server.address, idle).await;
    let mute = Peer::connect(listener).await;
    let mut client = Peer::connect(listener).await;
    for _ in 0..8 {
        client.get("/").await;
        assert_eq!(client.response().await.0, "HTTP/1.1 200 OK");
        sleep(Duration::from_millis(60)).await;
    }
    assert!(client.rest().await.is_err() && mute.rest().await.is_err());
    bench.closed(2).await;
    assert_eq!(bench.reasons(), [CloseReason::IdleTimeout; 2]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_ends_each_connection_after_its_request() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        while let Some(head) = peer.head().await {
            if head.contains("/late") {
                assert_eq!(peer.exactly(5).await, b"hello");
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut busy = Peer::connect(listener).await;
    busy.send("PUT /late HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").await;
    let mut idle = Peer::connect(listener).await;
    idle.get("/").await;
    idle.response().await;
    let mute = Peer::connect(listener).await;
    until("all to be open", || {
        let open = bench.registry.open_connections();
        (open.len() == 3 && open.iter().all(|record| record.connection().state == ConnectionState::Open)).then_some(())
    })
    .await;
    until("the request to be passed on", || {
        let open = bench.registry.open_connections();
        open.iter().any(|record| record.exchanges().total() == 1 && record.counters.read().bytes_out == 0).then_some(())
    })
    .await;
    let registry = std::sync::Arc::clone(&bench.registry);
    let draining = tokio::spawn(async move { bench.engine.shutdown(crate::sockets::PATIENCE).await });
    assert_eq!(idle.rest().await, Ok(Vec::new()));
    assert_eq!(mute.rest().await, Ok(Vec::new()));
    busy.send("hello").await;
    assert_eq!(busy.response().await.0, "HTTP/1.1 200 OK");
    assert_eq!(busy.rest().await, Ok(Vec::new()));
    draining.await.unwrap();
    let closed = registry.closed_since(0).0;
    assert!(closed.iter().all(|record| record.connection().reason == Some(CloseReason::Finished)));
}

/// Reads on until `end` has come, without a limit in time.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "{}", read.escape_ascii());
        read.extend(byte);
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn a_head_behind_a_slow_response_has_its_time_from_when_that_is_over() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhe").await.unwrap();
        sleep(Duration::from_secs(90)).await;
        stream.write_all(b"re").await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmore").await.unwrap();
        let _ = stream.read(&mut [0]).await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = crate::sockets::connect(listener).await;
    // From here on the clock goes on to whatever is waited for.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /more HTTP/1.1\r\n").await.unwrap();
    read_until(&mut client, "here").await;
    assert!(begun.elapsed() >= Duration::from_secs(90));
    client.write_all(b"Host: a\r\n\r\nGET /never HTTP/1.1\r\n").await.unwrap();
    read_until(&mut client, "more").await;
    // One that does not become whole at all.
    let late = read_until(&mut client, "\r\n\r\n").await;
    assert!(late.starts_with("HTTP/1.1 408 "), "{late}");
    assert!(begun.elapsed() >= Duration::from_secs(150));
    tokio::time::resume();
    client.read_to_end(&mut Vec::new()).await.unwrap();
    drop(client);
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::Rejected]);
    bench.shutdown().await;
}
