//! HTTP/2 from the first byte on (h2c): what gRPC needs of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan::model::event::CloseReason;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::sockets::{Bench, Server, connect, until};
use crate::support::{Peer, map};

/// Sends back the frames of a body as they come, with trailers that say how the call went, as gRPC does.
struct Call {
    incoming: Incoming,
    is_over: bool,
}

impl Body for Call {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(None) => {
                self.is_over = true;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            other => other,
        }
    }
}

fn server() -> Server {
    Server::start("127.0.0.1", |stream: TcpStream| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            assert_eq!(request.version(), Version::HTTP_2);
            let fields = request.headers();
            assert_eq!(fields["te"], "trailers");
            let seen = fields["x-forwarded-for"].clone();
            assert!(fields["forwarded"].to_str().unwrap().contains("host=\"a.example\""), "{fields:?}");
            let response = Response::builder().header("seen", seen).header("content-type", "application/grpc");
            let path = request.uri().path().to_owned();
            let body = Call { incoming: request.into_body(), is_over: false };
            Ok::<_, Infallible>(response.header("path", path).body(body).unwrap())
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
}

fn request<B>(path: &str, body: B) -> Request<B> {
    Request::post(format!("http://a.example{path}"))
        .header("te", "trailers")
        .header("x-forwarded-for", "evil")
        .body(body)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_one_connection_run_side_by_side_with_trailers() {
    let bench = Bench::start();
    let server = server();
    let listener = map(&bench, 1, "[::1]", server.address).await;
    let stream = connect(listener).await;
    let (sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(driver);
    let mut calls = JoinSet::new();
    for nth in 0..20 {
        let mut sender = sender.clone();
        calls.spawn(async move {
            let (frames, queue) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
            let queue = futures_util::stream::unfold(queue, |mut queue| async { Some((queue.recv().await?, queue)) });
            let response = sender.send_request(request(&format!("/call/{nth}"), StreamBody::new(Box::pin(queue))));
            let response = response.await.unwrap();
            assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
            assert_eq!(
                (&response.headers()["seen"], response.headers()["path"].to_str().unwrap()),
                (&"::1".parse().unwrap(), &*format!("/call/{nth}"))
            );
            // Turn by turn: nothing waits for the whole of anything.
            let mut body = response.into_body();
            for turn in 0..10 {
                let message = Bytes::from(format!("{nth}: {turn}"));
                frames.send(Ok(Frame::data(message.clone()))).await.unwrap();
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), message);
            }
            drop(frames);
            let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
            assert_eq!(trailers["grpc-status"], "0");
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    let record = bench.registry.open_connections().pop().unwrap();
    assert_eq!(record.exchanges().total(), 20);
    assert!(
        record
            .exchanges()
            .latest()
            .iter()
            .all(|exchange| exchange.status == Some(200) && exchange.duration_us.is_some())
    );
    drop(sender);
    driver.await.unwrap().unwrap();
    bench.closed(1).await;
    // The client's library closes its socket with its last frame; one of ours that comes after that is answered by a reset.
    let reasons = bench.reasons();
    assert!(matches!(reasons[..], [CloseReason::Finished | CloseReason::ClientReset]), "{reasons:?}");
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_speaks_no_http_2_is_a_bad_gateway() {
    let bench = Bench::start();
    let server = crate::support::mirror("127.0.0.1");
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let stream = connect(listener).await;
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(driver);
    let response = sender.send_request(request("/", Full::<Bytes>::default())).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    drop(sender);
    let _ = driver.await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_begins_like_http_2_is_refused() {
    let bench = Bench::start();
    let server = crate::support::mirror("127.0.0.1");
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Peer::connect(listener).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSMUGGLED").await;
    assert_eq!(client.response().await.0, "HTTP/1.1 400 Bad Request");
    // And what begins like it and is not.
    let mut client = Peer::connect(listener).await;
    for piece in ["P", "R", "OPFIND / HTTP/1.1\r\n", "Host: a\r\n\r\n"] {
        client.send(piece).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(client.response().await.0, "HTTP/1.1 200 OK");
    bench.shutdown().await;
}

/// Speaks HTTP/2 with what answers there.
async fn speak(listener: SocketAddr) -> http2::SendRequest<Full<Bytes>> {
    let stream = TokioIo::new(connect(listener).await);
    let (sender, driver) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(driver);
    sender
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_need_a_new_connection_at_once_share_one() {
    let bench = Bench::start();
    let accepted = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&accepted);
    let alive = Arc::new(());
    let lives = Arc::clone(&alive);
    let server = Server::start("127.0.0.1", move |stream: TcpStream| {
        let nth = counted.fetch_add(1, Ordering::SeqCst);
        let lives = Arc::clone(&lives);
        async move {
            let gone = Arc::<Notify>::default();
            let leaves = Arc::clone(&gone);
            let service = service_fn(move |_: Request<Incoming>| {
                // The first connection ends with its first response.
                if nth == 0 {
                    leaves.notify_one();
                }
                async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("ok")))) }
            });
            let mut serving = pin!(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
            );
            tokio::select! {
                _ = &mut serving => return,
                () = gone.notified() => serving.as_mut().graceful_shutdown(),
            }
            let _ = serving.await;
            drop(lives);
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut sender = speak(listener).await;
    let response = sender.send_request(request("/", Full::default())).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    let first = bench.registry.open_connections()[0].connection().source;
    // Until then it takes more requests.
    until("the first connection to be over", || (Arc::strong_count(&alive) == 2).then_some(())).await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let mut sender = sender.clone();
        calls.spawn(async move { sender.send_request(request("/", Full::default())).await.unwrap().status() });
    }
    assert!(calls.join_all().await.into_iter().all(|status| status == StatusCode::OK));
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
    assert_ne!(bench.registry.open_connections()[0].connection().source, first);
    // And they share it that there is none.
    drop(server);
    until("its connections to be gone", || (Arc::strong_count(&alive) == 1).then_some(())).await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let mut sender = sender.clone();
        calls.spawn(async move { sender.send_request(request("/", Full::default())).await.unwrap().status() });
    }
    assert!(calls.join_all().await.into_iter().all(|status| status == StatusCode::BAD_GATEWAY));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_contradicts_the_authority_is_refused() {
    let bench = Bench::start();
    let server = server();
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut sender = speak(listener).await;
    for (host, status) in [("a.example", 200), ("A.example", 200), ("b.example", 400), ("a.example:80", 400)] {
        let mut request = request("/", Full::default());
        request.headers_mut().insert("host", host.parse().unwrap());
        assert_eq!(sender.send_request(request).await.unwrap().status(), status, "{host}");
    }
    bench.shutdown().await;
}

/// Bytes without end, counted as they are taken.
struct Endless(Arc<AtomicUsize>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const PIECE: &[u8] = &[7; 16 * 1024];
        self.0.fetch_add(PIECE.len(), Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(PIECE)))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_take_little_memory() {
    const STREAMS: usize = 50;
    let bench = Bench::start();
    let produced = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&produced);
    let server = Server::start("127.0.0.1", move |stream: TcpStream| {
        let counted = Arc::clone(&counted);
        async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let body = Endless(Arc::clone(&counted));
                async { Ok::<_, Infallible>(Response::new(body)) }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    // It allows for everything, and does not read what comes.
    let stream = TokioIo::new(connect(listener).await);
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 30)
        .initial_connection_window_size(1 << 30)
        .handshake(stream)
        .await
        .unwrap();
    let mut driver = Box::pin(driver);
    let calls: JoinSet<_> = (0..STREAMS)
        .map(|_| {
            let mut sender = sender.clone();
            async move { sender.send_request(request("/", Full::<Bytes>::default())).await.is_ok() }
        })
        .collect();
    let record = until("the connection", || bench.registry.open_connections().pop()).await;
    tokio::select! {
        _ = &mut driver => panic!("the connection has ended"),
        () = until("the requests", || (record.exchanges().total() == STREAMS as u64).then_some(())) => {}
    }
    let mut before = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = produced.load(Ordering::SeqCst);
        if std::mem::replace(&mut before, now) == now {
            break;
        }
    }
    // What is neither with the client's kernel nor unsent: in us, in the server's library and in sockets between.
    let held = before as u64 - record.counters.read().bytes_out.min(before as u64);
    assert!(held < 4 << 20, "{held} bytes");
    drop((calls, driver));
    bench.closed(1).await;
    bench.shutdown().await;
}
