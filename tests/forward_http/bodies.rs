//! Bodies in both directions: of any framing, length and speed.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use portolan::model::event::CloseReason;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};

use crate::sockets::{Bench, PATIENCE, Server, noise, until};
use crate::support::{Peer, field, map};

/// Reads chunks until the last one: the body, and the trailer section.
async fn chunks(peer: &mut Peer) -> (Vec<u8>, String) {
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(peer.exactly(1).await);
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        if size == 0 {
            let mut trailers = Vec::new();
            while trailers != b"\r\n" && !trailers.ends_with(b"\r\n\r\n") {
                trailers.extend(peer.exactly(1).await);
            }
            return (body, String::from_utf8(trailers).unwrap());
        }
        body.extend(peer.exactly(size).await);
        assert_eq!(peer.exactly(2).await, b"\r\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_pass_both_ways_as_they_come() {
    let bench = Bench::start();
    // Each chunk is sent back before the next one is sent.
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        let head = peer.head().await.expect("a request");
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n").await;
        for _ in 0..3 {
            assert_eq!(peer.exactly(10).await, b"5\r\nhello\r\n");
            peer.send("5\r\nHELLO\r\n").await;
        }
        assert_eq!(peer.exactly(5).await, b"0\r\n\r\n");
        peer.send("0\r\nX-Sum: 15\r\n\r\n").await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    // A GET with a body, too: it is rare, and legal.
    for method in ["POST", "GET"] {
        let mut client = Peer::connect(listener).await;
        let head = "Host: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{method} / HTTP/1.1\r\n{head}")).await;
        client.send("5\r\nhello\r\n").await;
        let head = client.head().await.unwrap();
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
        for nth in 0..3 {
            assert_eq!(client.exactly(10).await, b"5\r\nHELLO\r\n");
            client.send(if nth < 2 { "5\r\nhello\r\n" } else { "0\r\n\r\n" }).await;
        }
        let (_, trailers) = chunks(&mut client).await;
        assert_eq!(trailers, "x-sum: 15\r\n\r\n");
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http_1_0_gets_what_it_understands() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        peer.head().await;
        peer.send("HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        peer.send("5\r\nhello\r\n0\r\n\r\n").await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.0 200 ") && field(&head, "transfer-encoding").is_none(), "{head}");
    assert_eq!(client.rest().await, Ok(b"hello".to_vec()));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_the_end_delimits_arrives_whole() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        peer.head().await;
        peer.send("HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    for _ in 0..2 {
        client.get("/").await;
        let head = client.head().await.unwrap();
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
        assert_eq!(chunks(&mut client).await.0, b"until the end");
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_without_a_body_keep_the_connection() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        while let Some(head) = peer.head().await {
            let answer = match head.split(' ').nth(1).unwrap() {
                "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
                "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: \"x\"\r\n\r\n",
                _ => "HTTP/1.1 200 Fine indeed\r\nContent-Length: 2\r\n\r\nok",
            };
            peer.send(answer).await;
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    for (request, status, length) in [
        ("HEAD /head", "HTTP/1.1 200 OK", Some("1234")),
        ("HEAD /chunked", "HTTP/1.1 200 OK", None),
        ("GET /204", "HTTP/1.1 204 No Content", None),
        // Of what is not sent no length is said, either (RFC 9110, 15.4.5, leaves that open).
        ("GET /304", "HTTP/1.1 304 Not Modified", None),
    ] {
        client.send(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let head = client.head().await.unwrap();
        assert_eq!(
            (head.lines().next().unwrap(), field(&head, "content-length")),
            (status, length),
            "{request}: {head}"
        );
        client.get("/").await;
        assert_eq!(client.response().await, ("HTTP/1.1 200 Fine indeed".to_owned(), "ok".to_owned()), "{request}");
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leave_to_send_a_body_comes_from_the_target() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        while let Some(head) = peer.head().await {
            assert_eq!(field(&head, "expect"), Some("100-continue"));
            match head.split(' ').nth(1).unwrap() {
                "/granted" => {
                    assert!(peer.is_silent().await, "the body waits");
                    peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                    assert_eq!(peer.exactly(5).await, b"hello");
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                }
                "/ignored" => {
                    assert_eq!(peer.exactly(5).await, b"hello");
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                }
                _ => {
                    peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!").await;
                    assert!(peer.rest().await.unwrap_or_else(|read| read).is_empty(), "and never comes");
                    return;
                }
            }
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let ask =
        |path: &str| format!("PUT {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let mut client = Peer::connect(listener).await;
    for path in ["/granted", "/ignored"] {
        client.send(ask(path)).await;
        assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue", "{path}");
        client.send("hello").await;
        assert_eq!(client.response().await.0, "HTTP/1.1 200 OK");
    }
    client.send(ask("/refused")).await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 413 ") && field(&head, "connection") == Some("close"), "{head}");
    assert_eq!(client.rest().await, Ok(b"no!".to_vec()));
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::Finished]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_hint_comes_early() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        peer.head().await;
        peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
        // Only once the client has seen it.
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 14\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap(), "HTTP/1.1 103 Early Hints\r\nLink: </a.css>");
    client.send("I have it.\r\n\r\n").await;
    assert_eq!(client.response().await, ("HTTP/1.1 200 OK".to_owned(), "ok".to_owned()));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_do_not_pile_up_for_who_does_not_read() {
    const HINTS: usize = 64 * 1024;
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        peer.head().await;
        let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: </{}>\r\n\r\n", "a".repeat(1000));
        let many = hint.repeat(64);
        for _ in 0..HINTS / 64 {
            peer.send(&many).await;
        }
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert!(peer.head().await.is_none());
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    let before = resident();
    client.get("/").await;
    let record = until("it to be accepted", || bench.registry.open_connections().pop()).await;
    until("the response", || (record.exchanges().latest().first()?.status == Some(200)).then_some(())).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    let mut hints = 0;
    loop {
        let (status, body) = client.response().await;
        if status == "HTTP/1.1 200 OK" {
            assert_eq!(body, "ok");
            break;
        }
        assert_eq!(status, "HTTP/1.1 103 Early Hints");
        hints += 1;
    }
    assert!((1..HINTS).contains(&hints), "{hints}");
    drop(client);
    bench.closed(1).await;
    bench.shutdown().await;
}

/// How much memory this process has now, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_streams_both_ways_in_little_memory() {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 64;
    let bench = Bench::start();
    // Sends back what it gets.
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        let head = peer.head().await.expect("a request");
        let length = field(&head, "content-length").unwrap().to_owned();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await;
        let mut left: usize = length.parse().unwrap();
        while left > 0 {
            let piece = peer.exactly(PIECE.min(left)).await;
            left -= piece.len();
            peer.send(piece).await;
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", PIECE * PIECES)).await;
    let piece = noise(7, PIECE);
    client.send(&piece).await;
    client.head().await.unwrap();
    let before = resident();
    for nth in 0..PIECES {
        assert!(client.exactly(PIECE).await == piece, "piece {nth}");
        if nth + 1 < PIECES {
            client.send(&piece).await;
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    drop(client);
    let record = bench.closed(1).await.pop().unwrap();
    let carried = record.counters.read();
    let body = (PIECE * PIECES) as u64;
    assert!((body..body + 1000).contains(&carried.bytes_in) && (body..body + 1000).contains(&carried.bytes_out));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_holds_up_who_sends() {
    let bench = Bench::start();
    // Sends without end, and says how much was taken.
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\n\r\n").await;
        let piece = vec![7; 64 * 1024];
        while peer.stream.write_all(&piece).await.is_ok() {}
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    client.get("/").await;
    let record = until("it to be accepted", || bench.registry.open_connections().pop()).await;
    let mut before = u64::MAX;
    until("nothing to move any more", || {
        let now = record.counters.read().bytes_out;
        std::mem::replace(&mut before, now).eq(&now).then_some(())
    })
    .await;
    sleep(Duration::from_millis(300)).await;
    let stuck = record.counters.read().bytes_out;
    let resident = resident();
    sleep(Duration::from_millis(300)).await;
    assert!(record.counters.read().bytes_out <= stuck + (8 << 20) && self::resident() < resident + (8 << 20));
    drop(client);
    timeout(PATIENCE, bench.closed(1)).await.unwrap();
    assert_eq!(bench.reasons(), [CloseReason::ClientReset]);
    bench.shutdown().await;
}

/// What is put off waits for those that are ready, and not until there are none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_bodies_hold_up_no_requests_beside_them() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        while let Some(head) = peer.head().await {
            if head.starts_with("GET /small ") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                continue;
            }
            peer.send("HTTP/1.1 200 OK\r\n\r\n").await;
            let piece = vec![7; 256 * 1024];
            while peer.stream.write_all(&piece).await.is_ok() {}
            return;
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    // More than there are lanes.
    let readers: Vec<_> = (0..6)
        .map(|_| {
            std::thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(listener).unwrap();
                stream.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                let (mut buffer, end) = (vec![0; 1 << 20], Instant::now() + Duration::from_secs(2));
                let mut taken = 0;
                while Instant::now() < end {
                    taken += stream.read(&mut buffer).unwrap();
                }
                taken
            })
        })
        .collect();
    sleep(Duration::from_millis(300)).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Peer::connect(listener).await);
    }
    for round in 0..5 {
        for client in &mut clients {
            client.get("/small").await;
            let answer = timeout(Duration::from_secs(1), client.response()).await;
            assert_eq!(answer.expect("it comes though others go on").1, "ok", "{round}");
        }
    }
    for reader in readers {
        assert!(reader.join().unwrap() > 1 << 20, "it was busy");
    }
    drop(clients);
    bench.closed(10).await;
    bench.shutdown().await;
}

/// The head goes ahead by itself, and the client's end comes while the rest of it waits for a target that reads late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_client_has_ended_is_whole_at_a_target_that_reads_late() {
    const LENGTH: usize = 6 << 20;
    let bench = Bench::start();
    let body = noise(9, LENGTH);
    let expected = body.clone();
    let server = Server::start("127.0.0.1", move |stream| {
        let expected = expected.clone();
        async move {
            let mut peer = Peer::new(stream);
            sleep(Duration::from_millis(300)).await;
            peer.head().await.expect("a request");
            assert!(peer.exactly(LENGTH).await == expected, "other bytes than were sent");
            assert!(peer.head().await.is_none(), "the client's end");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    for _ in 0..3 {
        let mut client = Peer::connect(listener).await;
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
        client.send([head.as_bytes(), &body].concat()).await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.response().await, ("HTTP/1.1 200 OK".to_owned(), "ok".to_owned()));
    }
    bench.closed(3).await;
    bench.shutdown().await;
}
