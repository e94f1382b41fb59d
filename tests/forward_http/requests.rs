//! What a target learns with each request, and what of a connection's own it does not.

use std::time::Duration;

use portolan::forward::context::Addresses;
use portolan::model::event::CloseReason;
use portolan::model::identity::Identity;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::sockets::{Bench, Server, at, config, reset, until};
use crate::support::{Peer, field, map, map_with, mirror};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_of_a_connection_names_its_client() {
    let bench = Bench::start();
    let server = mirror("127.0.0.1");
    for (id, listen) in [(1, "127.0.0.1"), (2, "[::1]")] {
        let listener = map(&bench, id, listen, server.address).await;
        let mut client = Peer::connect(listener).await;
        let own = client.stream.local_addr().unwrap();
        for nth in 0..5 {
            client
                .send(format!(
                    "GET /{nth} HTTP/1.1\r\nHost: a.example:8080\r\nX-Forwarded-For: evil\r\nx_forwarded_for: evil\r\n\
                     Forwarded: for=evil\r\nX-Real-IP: evil\r\nConnection: keep-alive, x-forwarded-for, x-own\r\n\
                     X-Own: 1\r\nKeep-Alive: 5\r\nX-Nth: {nth}\r\n\r\n"
                ))
                .await;
            let (_, seen) = client.response().await;
            assert!(seen.starts_with(&format!("GET /{nth} HTTP/1.1\r\n")), "{seen}");
            let forwarded = format!("for=\"{own}\";host=\"a.example:8080\";proto=http");
            assert_eq!(field(&seen, "forwarded"), Some(&*forwarded));
            assert_eq!(field(&seen, "x-forwarded-for"), Some(&*own.ip().to_string()));
            assert_eq!(field(&seen, "x-forwarded-proto"), Some("http"));
            assert_eq!(field(&seen, "x-forwarded-host"), Some("a.example:8080"));
            assert_eq!(field(&seen, "host"), Some("a.example:8080"));
            assert_eq!(field(&seen, "x-nth"), Some(&*nth.to_string()));
            assert!(!seen.contains("evil") && field(&seen, "x-own").is_none(), "{seen}");
            assert!(field(&seen, "connection").is_none() && field(&seen, "keep-alive").is_none(), "{seen}");
        }
        drop(client);
    }
    let closed = bench.closed(2).await;
    for record in closed {
        let connection = record.connection();
        assert_eq!((connection.reason, connection.requests), (Some(CloseReason::Finished), Some(5)));
        let latest = record.exchanges().latest();
        assert_eq!(latest.len(), 5);
        for (nth, exchange) in latest.iter().enumerate() {
            assert_eq!((exchange.path.as_str(), exchange.status), (&*format!("/{nth}"), Some(200)));
            assert!(exchange.duration_us.is_some());
        }
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_is_believed() {
    let bench = Bench::start();
    let server = mirror("127.0.0.1");
    let trust = |config: &mut portolan::model::profile::MappingConfig| {
        config.trusted_cidrs = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let listener = map_with(&bench, 1, "127.0.0.1", server.address, trust).await;
    let mut client = Peer::connect(listener).await;
    client.send("GET / HTTP/1.1\r\nHost: in\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n").await;
    let (_, seen) = client.response().await;
    assert_eq!(field(&seen, "x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(field(&seen, "x-forwarded-proto"), Some("https"));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_their_order() {
    let bench = Bench::start();
    let server = mirror("127.0.0.1");
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    let fields = (0..10).fold(String::new(), |fields, nth| fields + &format!("X-Field-{nth}: {nth}\r\n"));
    let request = |nth| format!("POST /{nth} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: 6\r\n\r\nbody-{nth}");
    let requests = (0..10).fold(String::new(), |requests, nth| requests + &request(nth));
    client.send(&requests).await;
    for nth in 0..10 {
        let (_, seen) = client.response().await;
        assert!(seen.starts_with(&format!("POST /{nth} ")) && seen.ends_with(&format!("body-{nth}")), "{seen}");
        assert!((0..10).all(|nth| field(&seen, &format!("x-field-{nth}")) == Some(&*nth.to_string())), "{seen}");
    }
    assert!(client.is_silent().await);
    bench.shutdown().await;
}

/// Small answers are put off, until the kernel takes no more of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_answers_to_who_reads_late_are_whole_and_in_their_order() {
    const REQUESTS: usize = 12_000;
    let bench = Bench::start();
    let server = mirror("127.0.0.1");
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let filler = "f".repeat(2_000);
    let requests = (0..REQUESTS).fold(String::new(), |requests, nth| {
        requests + &format!("GET /{nth} HTTP/1.1\r\nHost: a\r\nX-Filler: {filler}\r\n\r\n")
    });
    for reads in [true, false] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(32 * 1024).unwrap();
        socket.set_send_buffer_size(32 * 1024).unwrap();
        let stream = socket.connect(listener).await.unwrap().into_std().unwrap();
        let mut writer = TcpStream::from_std(stream.try_clone().unwrap()).unwrap();
        let mut client = Peer::new(TcpStream::from_std(stream).unwrap());
        let all = requests.clone();
        let sending = tokio::spawn(async move { writer.write_all(all.as_bytes()).await });
        sleep(Duration::from_millis(500)).await;
        assert!(!sending.is_finished(), "all of them are stuck");
        if reads {
            for nth in 0..REQUESTS {
                let (_, seen) = client.response().await;
                assert!(seen.starts_with(&format!("GET /{nth} ")) && seen.contains(&filler), "{nth}: {seen}");
            }
            sending.await.unwrap().unwrap();
            drop(client);
        } else {
            sending.abort();
            let _ = sending.await;
            reset(client.stream);
        }
        bench.closed(1).await;
    }
    assert_eq!(bench.reasons(), [CloseReason::Finished, CloseReason::ClientReset]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_closes_between_requests_is_dialled_for_the_next_one() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let port = stream.peer_addr().unwrap().port();
        let mut peer = Peer::new(stream);
        // In the one or the other way.
        let head = peer.head().await.expect("a request");
        let says = if head.contains("/says") { "Connection: close\r\n" } else { "" };
        let body = port.to_string();
        peer.send(format!("HTTP/1.1 200 OK\r\n{says}Content-Length: {}\r\n\r\n{body}", body.len())).await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    let mut ports = Vec::new();
    for nth in 0..6 {
        client.get(if nth % 2 == 0 { "/says" } else { "/just-does" }).await;
        let (status, port) = client.response().await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        ports.push(port);
        // What the row says is the connection that stands.
        let shown = bench.registry.open_connections()[0].connection().source.unwrap().port();
        assert_eq!(shown.to_string(), *ports.last().unwrap());
    }
    ports.dedup();
    assert_eq!(ports.len(), 6, "each came by a connection of its own");
    drop(client);
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::Finished]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_gives_no_response_is_told_as_a_bad_gateway_and_the_client_goes_on() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        while let Some(head) = peer.head().await {
            match head.split(' ').nth(1).unwrap() {
                "/end" => return,
                "/reset" => return reset(peer.stream),
                "/wrong" => {
                    return peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab").await;
                }
                "/alien" => return peer.send("SSH-2.0-OpenSSH\r\n").await,
                "/half" => return peer.send("HTTP/1.1 200 OK\r\nContent-Le").await,
                _ => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await,
            }
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    for path in ["/end", "/fine", "/reset", "/fine", "/wrong", "/fine", "/alien", "/half", "/fine"] {
        client.get(path).await;
        let (status, body) = client.response().await;
        let expected = if path == "/fine" { "HTTP/1.1 200 OK" } else { "HTTP/1.1 502 Bad Gateway" };
        assert_eq!(status, expected, "{path}: {body}");
    }
    drop(client);
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::Finished]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_gone_is_a_bad_gateway_after_the_first_request_and_a_reset_before() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut peer = Peer::new(stream);
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    client.get("/").await;
    assert_eq!(client.response().await.0, "HTTP/1.1 200 OK");
    drop(server);
    client.get("/").await;
    assert_eq!(client.response().await.0, "HTTP/1.1 502 Bad Gateway");
    // It may be so quick that even connecting tells.
    if let Ok(late) = crate::sockets::try_connect(listener).await {
        assert!(Peer::new(late).rest().await.is_err());
    }
    drop(client);
    bench.closed(2).await;
    let mut reasons = bench.reasons();
    reasons.sort_by_key(|reason| format!("{reason:?}"));
    assert_eq!(reasons, [CloseReason::Finished, CloseReason::TargetRefused]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_said_to_the_client_and_in_the_row_and_never_reaches_the_target() {
    let bench = Bench::start();
    let server = mirror("127.0.0.1");
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let table = [
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "400"),
        ("GET / HTTP/1.1\nHost: a\n\n", "400"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "405"),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(100)), "431"),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "b".repeat(70_000)), "431"),
    ];
    for (request, status) in table {
        let mut client = Peer::connect(listener).await;
        // Behind one that is fine, and with more behind it.
        client
            .send(format!("GET /fine HTTP/1.1\r\nHost: a\r\n\r\n{request}GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let (fine, seen) = client.response().await;
        assert_eq!(fine, "HTTP/1.1 200 OK");
        let (refused, why) = client.response().await;
        assert!(refused.starts_with(&format!("HTTP/1.1 {status} ")), "{refused}: {why}");
        assert_eq!(client.rest().await, Ok(Vec::new()), "and nothing more");
        let record = until("the connection to close", || {
            bench
                .registry
                .closed_since(0)
                .0
                .into_iter()
                .find(|record| record.connection().reason.is_some() && bench.registry.open_connections().is_empty())
        })
        .await;
        let _ = record;
        let last = bench.registry.closed_since(0).0.pop().unwrap().connection();
        assert_eq!(last.reason, Some(CloseReason::Rejected), "{why}");
        assert!(why.contains(last.error.as_ref().unwrap().as_str()), "{why}");
        assert_eq!(last.bytes_in, seen.len() as u64 - 1 + 4, "the first request alone");
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_in_full_becomes_a_path() {
    let bench = Bench::start();
    let server = mirror("127.0.0.1");
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    client.send("GET http://a.example/b?c HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(client.response().await.1.starts_with("GET /b?c HTTP/1.1\r\n"));
    client.send("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(client.response().await.1.starts_with("OPTIONS * HTTP/1.1\r\n"));
    client.send("GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let (_, seen) = client.response().await;
    assert!(seen.starts_with("GET /old HTTP/1.1\r\n") && field(&seen, "x-forwarded-host").is_none(), "{seen}");
    assert_eq!(field(&seen, "host"), Some(&*listener.to_string()), "which HTTP/1.1 must have");
    client.send("GET http://b.example/old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let (_, seen) = client.response().await;
    assert!(seen.starts_with("GET /old HTTP/1.1\r\n"), "{seen}");
    assert_eq!((field(&seen, "host"), field(&seen, "x-forwarded-host")), (Some("b.example"), Some("b.example")));
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, Ok(Vec::new()));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_has_told_no_client_is_not_believed_about_others() {
    let bench = Bench::start();
    let server = mirror("127.0.0.1");
    let proxied = |config: &mut portolan::model::profile::MappingConfig| {
        config.accept_proxy = true;
        config.trusted_cidrs = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let listener = map_with(&bench, 1, "127.0.0.1", server.address, proxied).await;
    let binary = |rest: &[u8]| [b"\r\n\r\n\0\r\nQUIT\n", rest].concat();
    let table = [
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        // LOCAL, and of no family.
        (binary(b"\x20\0\0\0"), "127.0.0.1"),
        (binary(b"\x21\0\0\0"), "127.0.0.1"),
        (b"PROXY TCP4 203.0.113.9 127.0.0.1 1234 80\r\n".to_vec(), "203.0.113.9"),
        // A proxy behind another one.
        (b"PROXY TCP4 127.0.0.9 127.0.0.1 1234 80\r\n".to_vec(), "evil, 127.0.0.9"),
    ];
    for (header, expected) in table {
        let mut client = Peer::connect(listener).await;
        client.send(&header).await;
        client.send("GET / HTTP/1.1\r\nHost: in\r\nX-Forwarded-For: evil\r\nX-Real-IP: evil\r\n\r\n").await;
        let (_, seen) = client.response().await;
        assert_eq!(field(&seen, "x-forwarded-for"), Some(expected), "{}", header.escape_ascii());
        assert_eq!(field(&seen, "x-real-ip").is_some(), expected.contains("evil"), "{}", header.escape_ascii());
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stays_is_led_to_where_the_mapping_leads_by_then() {
    let bench = Bench::start();
    let [old, new] = ["old", "new"].map(|name| {
        Server::start("127.0.0.1", move |stream| async move {
            let mut peer = Peer::new(stream);
            peer.head().await;
            peer.send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n{name}")).await;
        })
    });
    let listener = map(&bench, 1, "127.0.0.1", old.address).await;
    let mut client = Peer::connect(listener).await;
    client.get("/").await;
    assert_eq!(client.response().await.1, "old");
    // It is stopped, and comes again elsewhere.
    let mut config = config(&format!("127.0.0.1:auto:{}", at(new.address)));
    config.identity = Identity::Http;
    bench.apply_to(1, &config, Addresses::Waiting { reason: "stopped".into() }).await;
    client.get("/").await;
    assert_eq!(client.response().await.0, "HTTP/1.1 502 Bad Gateway");
    bench.apply(1, &config, &[new.address]).await;
    for _ in 0..2 {
        client.get("/").await;
        assert_eq!(client.response().await.1, "new");
    }
    let shown = bench.registry.open_connections()[0].connection().target_address;
    assert_eq!(shown, Some(new.address));
    bench.shutdown().await;
}
