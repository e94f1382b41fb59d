//! A proxy in front tells who the client is.

use std::time::Duration;

use portolan::model::event::CloseReason;
use portolan::wire::proxy::{Told, Transport, version_1, version_2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::sockets::{Bench, PATIENCE, connect, noise, reset, try_connect, until};
use crate::{Got, accept, map, told};

/// A header of each version, which tells the same.
fn headers() -> [Vec<u8>; 2] {
    [version_1(told()), version_2(told(), Transport::Stream, "in-front-1", Some("front"))]
}

/// Reads until the end, whichever it is.
async fn read_all(stream: &mut TcpStream) -> (Vec<u8>, Option<std::io::ErrorKind>) {
    let mut all = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("it ends");
    (all, end.err().map(|error| error.kind()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_fused_with_a_mebibyte_tells_the_client_and_the_target_gets_the_mebibyte() {
    let bench = Bench::start();
    let got = Got::default();
    let server = got.server("");
    let listener = map(&bench, "[::1]", server.address, accept).await;
    let mut events = bench.registry.listen();
    for (nth, header) in headers().into_iter().enumerate() {
        let payload = noise(nth as u64, 1 << 20);
        let mut stream = connect(listener).await;
        let peer = stream.local_addr().expect("it is connected");
        stream.write_all(&[&header[..], &payload].concat()).await.expect("it is taken");
        stream.shutdown().await.expect("it ends");
        assert_eq!(read_all(&mut stream).await, (Vec::new(), None));
        let record = bench.closed(nth + 1).await.pop().expect("one has closed");
        assert!(got.all()[nth] == payload, "the payload, and nothing else");
        let row = record.connection();
        assert_eq!((row.client, row.peer, row.listener), (told().client, Some(peer), listener));
        assert_eq!((row.bytes_in, row.bytes_out), (1 << 20, 0));
        for expected in ["opened", "closed"] {
            let event = timeout(PATIENCE, events.recv()).await.expect("in time").expect("it was told");
            let said = serde_json::to_value(&*event).expect("it is data");
            assert_eq!(
                (&said["event"], &said["connection"]["client"]),
                (&expected.into(), &told().client.to_string().into())
            );
        }
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_byte_by_byte_is_waited_for_and_the_target_hears_of_nothing_before() {
    let bench = Bench::start();
    let got = Got::default();
    let server = got.server("");
    let listener = map(&bench, "127.0.0.1", server.address, accept).await;
    for (nth, header) in headers().into_iter().enumerate() {
        let mut stream = connect(listener).await;
        stream.set_nodelay(true).expect("it can");
        let (last, most) = header.split_last().expect("it is not empty");
        for byte in most {
            stream.write_all(&[*byte]).await.expect("it is taken");
            // So that most come one by one; whether one does is of no matter.
            sleep(Duration::from_micros(300)).await;
        }
        assert_eq!(got.all().len(), nth, "nobody was dialled");
        stream.write_all(&[*last]).await.expect("it is taken");
        stream.write_all(b"x").await.expect("it is taken");
        until("the byte behind it", || got.all().get(nth).filter(|got| *got == b"x").map(drop)).await;
        drop(stream);
        assert_eq!(bench.closed(nth + 1).await[nth].client(), told().client);
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_not_trusted_reaches_nothing() {
    let bench = Bench::start();
    let got = Got::default();
    let server = got.server("hello");
    let listener = map(&bench, "127.0.0.1", server.address, |config| {
        config.accept_proxy = true;
        config.trusted_cidrs = vec!["192.0.2.0/24".parse().expect("a network")];
    })
    .await;
    for (nth, header) in headers().into_iter().enumerate() {
        // It may be reset as soon as it stands.
        if let Ok(mut stream) = try_connect(listener).await {
            let _ = stream.write_all(&[&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat()).await;
            let (said, _) = read_all(&mut stream).await;
            assert_eq!(said, b"");
        }
        let row = bench.closed(nth + 1).await[nth].connection();
        assert_eq!((row.reason, row.bytes_in, row.peer), (Some(CloseReason::Rejected), 0, None));
        let error = row.error.expect("it says why").to_string();
        assert_eq!(error, "127.0.0.1 is not in trusted_cidrs, whose PROXY headers alone are read");
        assert_eq!(row.target_address, None);
    }
    assert_eq!((got.all().len(), server.aborted.load(std::sync::atomic::Ordering::SeqCst)), (0, 0));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_header_ends_the_connection_before_a_target_is_dialled() {
    let bench = Bench::start();
    let got = Got::default();
    let server = got.server("hello");
    let listener = map(&bench, "[::1]", server.address, accept).await;
    let cases: [(&[u8], bool, &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", false, "no PROXY header, which has to come first"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 080 80\r\n", false, "two addresses of its family and two ports"),
        (b"\r\n\r\n\0\r\nQUIT\n\x31", false, "a PROXY header of version 3, where 1 and 2 are known"),
        (b"PROXY TCP4 192.0.2.1 ", true, "the peer has ended before its PROXY header was whole"),
        (b"", true, "the peer has ended before its PROXY header was whole"),
    ];
    for (nth, (sent, ends, expected)) in cases.into_iter().enumerate() {
        let mut stream = connect(listener).await;
        stream.write_all(sent).await.expect("it is taken");
        if ends {
            stream.shutdown().await.expect("it ends");
        }
        assert_eq!(read_all(&mut stream).await, (Vec::new(), Some(std::io::ErrorKind::ConnectionReset)));
        let row = bench.closed(nth + 1).await[nth].connection();
        assert_eq!(row.reason, Some(CloseReason::Rejected));
        let error = row.error.expect("it says why").to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(got.all().len(), 0);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_does_not_come_is_waited_for_five_seconds_and_holds_a_place_meanwhile() {
    let bench = Bench::start();
    let got = Got::default();
    let server = got.server("hello");
    let limited = |config: &mut _| {
        accept(config);
        config.max_connections = Some(2);
    };
    let listener = map(&bench, "[::1]", server.address, limited).await;
    let begun = Instant::now();
    let (mut silent, mut stalled) = (connect(listener).await, connect(listener).await);
    stalled.write_all(b"PROXY TCP6 2001:db8::1 ").await.expect("it is taken");
    if let Ok(mut third) = try_connect(listener).await {
        assert_eq!(read_all(&mut third).await.0, b"");
    }
    // It is told of just after the client has seen it.
    until("two to be left", || (bench.registry.open_count() == 2).then_some(())).await;
    for stream in [&mut silent, &mut stalled] {
        let (said, _) = read_all(stream).await;
        assert_eq!(said, b"");
    }
    assert!(begun.elapsed() >= Duration::from_secs(3), "a lost segment comes later than that");
    let rows: Vec<_> = bench.closed(3).await.iter().map(|record| record.connection()).collect();
    assert_eq!(rows[0].reason, Some(CloseReason::Limit));
    for row in &rows[1..] {
        assert_eq!(row.reason, Some(CloseReason::Rejected));
        assert_eq!(row.error.as_ref().expect("it says why").to_string(), "no whole PROXY header within 5 seconds");
    }
    assert_eq!(got.all().len(), 0);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_and_a_reset_are_heard_while_the_header_is_read() {
    let bench = Bench::start();
    let got = Got::default();
    let server = got.server("hello");
    let listener = map(&bench, "[::1]", server.address, accept).await;
    let mut stream = connect(listener).await;
    stream.write_all(b"PROXY ").await.expect("it is taken");
    let record = until("the connection", || bench.registry.open_connections().pop()).await;
    record.kill(CloseReason::Killed);
    assert_eq!(read_all(&mut stream).await, (Vec::new(), Some(std::io::ErrorKind::ConnectionReset)));
    bench.closed(1).await;
    let mut stream = connect(listener).await;
    stream.write_all(b"PROXY ").await.expect("it is taken");
    until("the connection", || bench.registry.open_connections().pop()).await;
    reset(stream);
    bench.closed(2).await;
    assert_eq!(bench.reasons(), [CloseReason::Killed, CloseReason::ClientReset]);
    assert_eq!(got.all().len(), 0);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_tells_nothing_leaves_the_client_who_it_is() {
    let bench = Bench::start();
    let got = Got::default();
    let server = got.server("");
    let listener = map(&bench, "[::1]", server.address, accept).await;
    let headers =
        [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\x03\0\0\0"];
    for (nth, header) in headers.into_iter().enumerate() {
        let mut stream = connect(listener).await;
        let client = stream.local_addr().expect("it is connected");
        stream.write_all(&[header, b"x"].concat()).await.expect("it is taken");
        stream.shutdown().await.expect("it ends");
        assert_eq!(read_all(&mut stream).await, (Vec::new(), None));
        let row = bench.closed(nth + 1).await[nth].connection();
        assert_eq!((row.client, row.peer, got.all()[nth].as_slice()), (client, None, &b"x"[..]));
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_longer_than_most_is_read_too() {
    let bench = Bench::start();
    let got = Got::default();
    let server = got.server("");
    let listener = map(&bench, "[::1]", server.address, accept).await;
    let mut header = version_2(Told { ..told() }, Transport::Stream, "", None);
    // Padding, by fields that are to be ignored.
    let padding = 12_000;
    header.extend([&[4][..], &u16::try_from(padding).expect("it fits").to_be_bytes(), &vec![0; padding]].concat());
    let length = u16::try_from(header.len() - 16).expect("it fits").to_be_bytes();
    header[14..16].copy_from_slice(&length);
    let mut stream = connect(listener).await;
    for piece in header.chunks(1_000) {
        stream.write_all(piece).await.expect("it is taken");
        tokio::task::yield_now().await;
    }
    stream.write_all(b"x").await.expect("it is taken");
    stream.shutdown().await.expect("it ends");
    assert_eq!(read_all(&mut stream).await, (Vec::new(), None));
    let row = bench.closed(1).await[0].connection();
    assert_eq!((row.client, row.bytes_in, got.all()[0].as_slice()), (told().client, 1, &b"x"[..]));
    bench.shutdown().await;
}
