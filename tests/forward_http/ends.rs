//! How connections end: who was it, and what do the others see of it.

use std::net::SocketAddr;
use std::time::Duration;

use portolan::model::event::{CloseReason, ConnectionState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::sockets::{Bench, PATIENCE, Server, reset, until};
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
async fn a_reset_is_noticed_while_the_target_is_silent_and_more_of_the_client_waits_to_be_read() {
    let pipelined = "GET /late HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2);
    let uploading = "PUT /late HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n".to_owned();
    let bodies = [(pipelined, 0), (uploading, 20_000_000)];
    for (beginning, body) in bodies {
        let bench = Bench::start();
        let server = Server::start("127.0.0.1", |stream| async move {
            let mut peer = Peer::new(stream);
            peer.head().await;
            // It says nothing, and takes no more.
            sleep(4 * PATIENCE).await;
        });
        let listener = map(&bench, 1, "127.0.0.1", server.address).await;
        let mut client = Peer::connect(listener).await;
        client.send(&beginning).await;
        let upload = vec![0; body];
        let stuck = timeout(Duration::from_millis(500), client.stream.write_all(&upload)).await;
        assert_eq!(stuck.is_err(), body > 0, "as far as the buffers on the way have room");
        until("the request", || {
            bench.registry.open_connections().pop().filter(|record| record.exchanges().total() > 0)
        })
        .await;
        sleep(Duration::from_millis(100)).await;
        reset(client.stream);
        timeout(Duration::from_secs(2), bench.closed(1)).await.expect("it is noticed at once");
        assert_eq!(bench.reasons(), [CloseReason::ClientReset], "{beginning:?}");
        bench.shutdown().await;
    }
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

/// A target that answers so, reads no body, and is gone: what it has not read makes its kernel answer all further bytes by a
/// reset.
fn taking_no_more(answer: String) -> Server {
    Server::start("127.0.0.1", move |stream| {
        let answer = answer.clone();
        async move {
            let mut peer = Peer::new(stream);
            peer.head().await;
            peer.send(answer).await;
            timeout(PATIENCE, peer.stream.peek(&mut [0])).await.expect("more of the body").unwrap();
        }
    })
}

/// Reads until `is_whole` says so or the end comes, while uploading without end. What was read, and whether it was whole.
async fn upload(listener: SocketAddr, is_whole: impl Fn(&[u8]) -> bool) -> (Vec<u8>, bool) {
    let (mut reader, mut writer) = TcpStream::connect(listener).await.unwrap().into_split();
    let uploading = tokio::spawn(async move {
        let head = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
        writer.write_all(head.as_bytes()).await.unwrap();
        while writer.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
    });
    let mut answer = Vec::new();
    while !is_whole(&answer)
        && timeout(PATIENCE, reader.read_buf(&mut answer)).await.expect("in time").is_ok_and(|count| count > 0)
    {}
    uploading.abort();
    let is_whole = is_whole(&answer);
    (answer, is_whole)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_body_is_whole_arrives_whole_though_the_target_takes_no_more() {
    // As much as our kernel takes at once: what it has not taken goes with the reset.
    const ANSWER: usize = 30_000;
    let bench = Bench::start();
    let head = format!("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: {ANSWER}\r\n\r\n");
    let server = taking_no_more(head + &"n".repeat(ANSWER));
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    for round in 1..=50 {
        let (answer, is_whole) = upload(listener, |answer| answer.len() > ANSWER && answer.ends_with(b"nnn")).await;
        let start = String::from_utf8_lossy(&answer[..answer.len().min(200)]);
        assert!(is_whole && start.starts_with("HTTP/1.1 401 "), "round {round}: {} bytes: {start}", answer.len());
        bench.closed(round).await;
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_was_gone_behind_its_answer_is_not_blamed_for_what_the_client_does_later() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        if !peer.head().await.expect("a request").contains("/refused") {
            // It says nothing.
            let _ = peer.rest().await;
            return;
        }
        // All of it is there, and nobody reads it: gone by a reset.
        sleep(Duration::from_millis(50)).await;
        peer.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nno!").await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    for round in 1..=20 {
        let mut client = Peer::connect(listener).await;
        client.send("PUT /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nhalf of it").await;
        sleep(Duration::from_millis(20)).await;
        client.send("half of it").await;
        assert_eq!(client.response().await, ("HTTP/1.1 401 Unauthorized".to_owned(), "no!".to_owned()));
        client.get("/late").await;
        until("it to be asked", || {
            let open = bench.registry.open_connections();
            open.first().filter(|record| record.exchanges().total() == 2).map(|_| ())
        })
        .await;
        sleep(Duration::from_millis(20)).await;
        reset(client.stream);
        timeout(Duration::from_secs(2), bench.closed(round)).await.expect("it is noticed at once");
        assert_eq!(bench.reasons(), vec![CloseReason::ClientReset; round], "round {round}");
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_ends_with_the_connection_is_not_whole_where_that_ends_by_a_reset() {
    let bench = Bench::start();
    let server = taking_no_more("HTTP/1.1 401 Unauthorized\r\n\r\n".to_owned() + &"n".repeat(30_000));
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    for round in 1..=50 {
        let (answer, is_whole) = upload(listener, |answer| answer.ends_with(b"\r\n0\r\n\r\n")).await;
        assert!(!is_whole && answer.starts_with(b"HTTP/1.1 401 "), "round {round}: {} bytes", answer.len());
        bench.closed(round).await;
    }
    assert_eq!(bench.reasons(), vec![CloseReason::TargetReset; 50]);
    bench.shutdown().await;
}
