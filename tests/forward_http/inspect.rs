//! Requests that are listed and not touched (`inspect: http`).

use std::net::SocketAddr;

use portolan::model::identity::Inspect;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::sockets::{Bench, Server, at, bound, config, connect, noise, until};

async fn map(bench: &Bench, target: SocketAddr) -> SocketAddr {
    let mut config = config(&format!("127.0.0.1:auto:{}", at(target)));
    config.inspect = Some(Inspect::Http);
    bound(&bench.apply(1, &config, &[target]).await)
}

/// A server that reads `request` to the byte and then sends `response`.
fn scripted(request: &'static [u8], response: &'static [u8]) -> Server {
    Server::start("127.0.0.1", move |mut stream| async move {
        let mut read = vec![0; request.len()];
        stream.read_exact(&mut read).await.unwrap();
        assert!(read == request);
        stream.write_all(response).await.unwrap();
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_listed_and_every_byte_stays() {
    // Odd enough that it would not pass as it is otherwise, and cut wherever the kernel likes.
    const REQUESTS: &[u8] = b"GET /a?b HTTP/1.1\r\nhOsT: a\r\nX-Forwarded-For: evil\r\n\r\nPOST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    const RESPONSES: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Where\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let bench = Bench::start();
    let server = scripted(REQUESTS, RESPONSES);
    let listener = map(&bench, server.address).await;
    let mut client = connect(listener).await;
    client.set_nodelay(true).unwrap();
    for piece in REQUESTS.chunks(7) {
        client.write_all(piece).await.unwrap();
    }
    let mut read = vec![0; RESPONSES.len()];
    client.read_exact(&mut read).await.unwrap();
    assert!(read == RESPONSES);
    let record = bench.registry.open_connections().pop().unwrap();
    until("both to be over", || record.exchanges().latest().iter().all(|one| one.duration_us.is_some()).then_some(()))
        .await;
    let listed: Vec<_> = record
        .exchanges()
        .latest()
        .into_iter()
        .map(|one| (one.method.to_string(), one.path.to_string(), one.status))
        .collect();
    assert_eq!(listed, [("GET".into(), "/a".into(), Some(200)), ("POST".into(), "/c".into(), Some(404))]);
    assert_eq!(record.connection().requests, Some(2));
    let counts = record.counters.read();
    assert_eq!((counts.bytes_in, counts.bytes_out), (REQUESTS.len() as u64, RESPONSES.len() as u64));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_http_passes_and_is_spliced_again() {
    let bench = Bench::start();
    for (first, requests, why) in [
        (&b"\x16\x03\x01\x02\x00"[..], 0, "the client speaks TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, "the client speaks HTTP/2"),
        (b"SSH-2.0-x\r\n", 0, "it cannot be followed as HTTP/1.x (a response came that nobody had asked for)"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
            1,
            "another protocol was agreed on",
        ),
    ] {
        let server = Server::start("127.0.0.1", move |mut stream| async move {
            let mut read = vec![0; first.len()];
            stream.read_exact(&mut read).await.unwrap();
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        let listener = map(&bench, server.address).await;
        let mut client = connect(listener).await;
        client.write_all(first).await.unwrap();
        client.read_exact(&mut [0; 36]).await.unwrap();
        let before = bench.engine.path_switches();
        let sent = noise(3, 8 << 20);
        let (mut read, mut write) = client.split();
        let mut received = vec![0; sent.len()];
        let (sending, receiving) = tokio::join!(write.write_all(&sent), read.read_exact(&mut received));
        sending.unwrap();
        receiving.unwrap();
        assert!(received == sent);
        assert!(bench.engine.path_switches().0 > before.0, "it is not looked at any more");
        let record = bench.registry.open_connections().pop().unwrap();
        assert_eq!(record.exchanges().total(), requests);
        assert_eq!(bench.registry.row(&record).exchanges_end.unwrap().as_str(), why);
        drop(client);
        until("it to close", || bench.registry.open_connections().is_empty().then_some(())).await;
    }
    bench.shutdown().await;
}
