//! Other protocols on a connection of HTTP: only once the target has agreed, and then byte by byte as in any relay.

use portolan::model::event::CloseReason;
use tokio::io::AsyncWriteExt as _;

use crate::sockets::{Bench, Server, noise};
use crate::support::{Peer, field, map};

/// Agrees on `echo` and sends back what comes then; on anything else it does not.
fn echo() -> Server {
    Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        while let Some(head) = peer.head().await {
            if field(&head, "upgrade") != Some("echo") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").await;
                continue;
            }
            assert_eq!(field(&head, "connection"), Some("upgrade"), "{head}");
            assert!(field(&head, "x-forwarded-for").is_some(), "{head}");
            // With something right behind it.
            peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nwelcome").await;
            let (mut read, mut write) = peer.stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
            return;
        }
    })
}

fn ask(protocol: &str) -> String {
    format!("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_opens_after_101_and_is_spliced() {
    let bench = Bench::start();
    let server = echo();
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    // A request before it.
    client.get("/").await;
    client.response().await;
    client.send(ask("echo")).await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && field(&head, "upgrade") == Some("echo"), "{head}");
    assert_eq!(client.exactly(7).await, b"welcome");
    let before = bench.engine.path_switches();
    let sent = noise(1, 16 << 20);
    let (mut read, mut write) = client.stream.into_split();
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        }
    });
    let mut received = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut read, &mut received).await.unwrap();
    sending.await.unwrap();
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    assert!(bench.engine.path_switches().0 > before.0, "bulk is spliced");
    let closed = bench.closed(1).await.pop().unwrap();
    assert_eq!(bench.reasons(), [CloseReason::Finished]);
    let counts = closed.counters.read();
    assert!(counts.bytes_in > sent.len() as u64 && counts.bytes_out > sent.len() as u64 + 7);
    let last = closed.exchanges().latest().pop().unwrap();
    assert_eq!((last.path.as_str(), last.status), ("/chat", Some(101)));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_behind_the_request_wait_for_the_answer() {
    let bench = Bench::start();
    let server = echo();
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    // Agreed: they are the first bytes of the other protocol, whatever they look like.
    let mut client = Peer::connect(listener).await;
    client.send(ask("echo") + "GET /b HTTP/1.1\r\n\0\r\n").await;
    client.head().await.unwrap();
    assert_eq!(client.exactly(27).await, b"welcomeGET /b HTTP/1.1\r\n\0\r\n"[..27].to_vec());
    drop(client);
    // Behind another request, whose answer says nothing of it.
    let mut client = Peer::connect(listener).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() + &ask("echo") + "GET /b HTTP/1.1\r\n\0\r\n").await;
    assert_eq!(client.response().await.1, "no");
    client.head().await.unwrap();
    assert_eq!(client.exactly(27).await, b"welcomeGET /b HTTP/1.1\r\n\0\r\n"[..27].to_vec());
    drop(client);
    // Not agreed: the next request.
    let mut client = Peer::connect(listener).await;
    client.send(ask("other") + "GET /b HTTP/1.1\r\nHost: a\r\n\r\n" + &ask("echo")).await;
    for _ in 0..2 {
        assert_eq!(client.response().await, ("HTTP/1.1 200 OK".to_owned(), "no".to_owned()));
    }
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101 "));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tunnel_opens_that_nobody_asked_for() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        let head = peer.head().await.expect("a request");
        assert!(field(&head, "upgrade").is_none() && field(&head, "http2-settings").is_none(), "{head}");
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").await;
        let _ = peer.rest().await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = Peer::connect(listener).await;
        client.send(request).await;
        assert_eq!(client.response().await.0, "HTTP/1.1 502 Bad Gateway");
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_on_behind_one_for_another_protocol_however_that_was_answered() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        while let Some(head) = peer.head().await {
            match head.split(' ').nth(1).unwrap() {
                // Which is answered by us.
                "/chat" => return,
                "/early" => {
                    peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
                    assert_eq!(peer.exactly(10).await, b"0123456789");
                }
                _ => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await,
            }
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    for _ in 0..2 {
        client.send(ask("echo")).await;
        assert_eq!(client.response().await.0, "HTTP/1.1 502 Bad Gateway");
        client.get("/").await;
        assert_eq!(client.response().await, ("HTTP/1.1 200 OK".to_owned(), "ok".to_owned()));
        // Answered amid its body.
        let head = "Host: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\nContent-Length: 10\r\n\r\n01234";
        client.send(format!("POST /early HTTP/1.1\r\n{head}")).await;
        assert_eq!(client.response().await, ("HTTP/1.1 403 Forbidden".to_owned(), "no".to_owned()));
        client.send("56789GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.response().await, ("HTTP/1.1 200 OK".to_owned(), "ok".to_owned()));
    }
    // HTTP/1.0 has no upgrades.
    client.send(ask("echo").replace("HTTP/1.1", "HTTP/1.0").replace("/chat", "/old")).await;
    assert_eq!(client.response().await, ("HTTP/1.0 200 OK".to_owned(), "ok".to_owned()));
    drop(client);
    bench.closed(1).await;
    bench.shutdown().await;
}
