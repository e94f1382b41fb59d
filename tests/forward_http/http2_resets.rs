//! Streams and connections of HTTP/2 that end before their time: each side hears of it as the other has said it.

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use hyper::body::Bytes;
use hyper::{Request, Response};
use portolan::model::event::CloseReason;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::sockets::{Bench, PATIENCE, Server, connect};
use crate::support::map;

/// A client, and what drives its connection.
struct Client {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    async fn connect(listener: SocketAddr) -> Self {
        Self::on(connect(listener).await).await
    }

    async fn on(stream: TcpStream) -> Self {
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        Self { sender: sender.ready().await.unwrap(), driver: tokio::spawn(connection) }
    }

    async fn get(&mut self, path: &str) -> Result<Response<RecvStream>, h2::Error> {
        let request = Request::get(format!("http://a.example{path}")).body(()).unwrap();
        let (response, _) = self.sender.send_request(request, true)?;
        timeout(PATIENCE, response).await.expect("an answer")
    }

    async fn status(&mut self, path: &str) -> u16 {
        self.get(path).await.unwrap().status().as_u16()
    }

    /// Ends in order.
    async fn leave(self) {
        drop(self.sender);
        let _ = timeout(PATIENCE, self.driver).await.expect("an end");
    }
}

/// The rest of a body; an error where that is cut short.
async fn rest(response: Response<RecvStream>) -> Result<Vec<u8>, h2::Error> {
    let mut body = response.into_body();
    let mut all = Vec::new();
    while let Some(piece) = timeout(PATIENCE, body.data()).await.expect("more, or an end") {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

/// A server that does with each request as `answer` says, and answers `/fine` by itself.
fn serving(answer: impl Fn(&str, SendResponse<Bytes>) + Clone + Send + 'static) -> Server {
    Server::start("127.0.0.1", move |stream: TcpStream| {
        let answer = answer.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let path = request.uri().path();
                if path == "/fine" {
                    respond.send_response(Response::new(()), true).unwrap();
                } else {
                    answer(path, respond);
                }
            }
        }
    })
}

const REASONS: [Reason; 4] =
    [Reason::REFUSED_STREAM, Reason::CANCEL, Reason::ENHANCE_YOUR_CALM, Reason::HTTP_1_1_REQUIRED];

/// The path says by which of [`REASONS`] to reset.
fn reason(path: &str) -> Reason {
    REASONS[path[1..].parse::<usize>().unwrap()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_before_the_head_reaches_the_client_as_it_is() {
    let bench = Bench::start();
    let server = serving(|path, mut respond| respond.send_reset(reason(path)));
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Client::connect(listener).await;
    for (nth, reason) in REASONS.into_iter().enumerate() {
        let error = client.get(&format!("/{nth}")).await.expect_err("a reset");
        assert!(error.is_reset() && error.is_remote(), "{error:?}");
        assert_eq!(error.reason(), Some(reason));
        assert_eq!(client.status("/fine").await, 200, "the connection goes on");
    }
    client.leave().await;
    bench.closed(1).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_behind_the_head_reaches_the_client_as_it_is() {
    let bench = Bench::start();
    let reasons: Vec<_> = REASONS.into_iter().chain([Reason::NO_ERROR]).collect();
    let all = reasons.clone();
    let server = serving(move |path, mut respond| {
        let reason = all[path[1..].parse::<usize>().unwrap()];
        tokio::spawn(async move {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from("half"), false).unwrap();
            // A reset would take what is not sent with it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            body.send_reset(reason);
        });
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Client::connect(listener).await;
    for (nth, reason) in reasons.into_iter().enumerate() {
        let response = client.get(&format!("/{nth}")).await.unwrap();
        let error = rest(response).await.expect_err("half a body is never taken for a whole one");
        assert_eq!(error.reason(), Some(reason), "{error:?}");
        assert_eq!(client.status("/fine").await, 200, "the connection goes on");
    }
    client.leave().await;
    bench.closed(1).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_the_client_breaks_off_is_never_taken_for_a_whole_one() {
    let bench = Bench::start();
    let (ends, mut seen) = mpsc::unbounded_channel();
    let server = Server::start("127.0.0.1", move |stream: TcpStream| {
        let ends = ends.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let ends = ends.clone();
                let is_early = request.uri().path() == "/early";
                let mut answer = is_early.then(|| respond.send_response(Response::new(()), false).unwrap());
                tokio::spawn(async move {
                    let end = rest(Response::new(request.into_body())).await;
                    drop((respond, answer.take()));
                    ends.send(end).unwrap();
                });
            }
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Client::connect(listener).await;
    for path in ["/early", "/late"] {
        for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
            let request = Request::post(format!("http://a.example{path}")).body(()).unwrap();
            let (response, mut body) = client.sender.send_request(request, false).unwrap();
            body.send_data(Bytes::from("half"), false).unwrap();
            if path == "/early" {
                assert_eq!(response.await.unwrap().status(), 200);
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            body.send_reset(reason);
            let end = timeout(PATIENCE, seen.recv()).await.expect("an end").unwrap();
            assert!(end.is_err(), "{path}, {reason:?}: {end:?}");
        }
    }
    client.leave().await;
    bench.closed(1).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_request_is_whole_is_whole_all_the_same() {
    let bench = Bench::start();
    // That the rest is not wanted is said by a reset for no error, right behind the end.
    let server = serving(|_, mut respond| {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from("no!"), true).unwrap();
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Client::connect(listener).await;
    for _ in 0..20 {
        let request = Request::post("http://a.example/").body(()).unwrap();
        let (response, mut body) = client.sender.send_request(request, false).unwrap();
        body.send_data(Bytes::from("half"), false).unwrap();
        let response = timeout(PATIENCE, response).await.expect("an answer").unwrap();
        assert_eq!(rest(response).await.unwrap(), b"no!");
    }
    client.leave().await;
    bench.closed(1).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_failed_is_no_failure_of_the_connection() {
    for is_in_order in [true, false] {
        let bench = Bench::start();
        let server = serving(|_, mut respond| {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from("half"), false).unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                body.send_reset(Reason::INTERNAL_ERROR);
            });
        });
        let listener = map(&bench, 1, "127.0.0.1", server.address).await;
        let stream = connect(listener).await;
        if !is_in_order {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let mut client = Client::on(stream).await;
        let response = client.get("/").await.unwrap();
        assert!(rest(response).await.is_err());
        assert_eq!(client.status("/fine").await, 200);
        if is_in_order {
            client.leave().await;
        } else {
            client.driver.abort();
            drop(client);
        }
        let closed = bench.closed(1).await;
        let reasons = bench.reasons();
        let is_of_client = matches!(reasons[..], [CloseReason::ClientReset])
            || is_in_order && matches!(reasons[..], [CloseReason::Finished]);
        assert!(is_of_client, "{is_in_order}: {reasons:?}, {:?}", closed[0].connection().error);
        bench.shutdown().await;
    }
}

/// Frames of HTTP/2 as they come and go, for what no library does.
struct Frames(TcpStream);

impl Frames {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;

    /// Of a server, whose client has said its preface by then.
    async fn accept(stream: TcpStream) -> Self {
        let mut frames = Self(stream);
        let mut preface = [0; 24];
        frames.0.read_exact(&mut preface).await.unwrap();
        frames.send(Self::SETTINGS, 0, &[]).await;
        frames
    }

    /// Of a stream, or of the connection as a whole where that is 0.
    async fn send(&mut self, kind: u8, stream: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).unwrap();
        // Headers are whole, and nothing follows them.
        let flags = if kind == Self::HEADERS { 5 } else { 0 };
        let frame = [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    /// The kind of the next frame; nothing where the end comes first, and an error where that is a reset.
    async fn next(&mut self) -> std::io::Result<Option<u8>> {
        let mut head = [0; 9];
        if self.0.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        self.0.read_exact(&mut head[1..]).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        self.0.read_exact(&mut vec![0; length as usize]).await?;
        Ok(Some(head[3]))
    }

    async fn until(&mut self, kind: u8) {
        while self.next().await.unwrap().expect("another frame") != kind {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_the_target_has_not_looked_at_may_be_sent_again() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut frames = Frames::accept(stream).await;
        frames.until(Frames::HEADERS).await;
        // The last stream that it has looked at is none, and nothing is wrong.
        frames.send(Frames::GOAWAY, 0, &[0; 8]).await;
        while let Ok(Some(_)) = frames.next().await {}
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Client::connect(listener).await;
    for _ in 0..2 {
        let error = client.get("/").await.expect_err("a reset");
        assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM), "{error:?}");
    }
    client.leave().await;
    bench.closed(1).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_body_that_meets_the_end_of_an_idle_connection_is_sent_again() {
    const FINE: &[u8] = &[0x88];
    let bench = Bench::start();
    let accepted = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&accepted);
    let server = Server::start("127.0.0.1", move |stream| {
        let is_first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            let mut frames = Frames::accept(stream).await;
            frames.until(Frames::HEADERS).await;
            frames.send(Frames::HEADERS, 1, FINE).await;
            if is_first {
                frames.until(Frames::HEADERS).await;
                frames.send(Frames::GOAWAY, 0, &[0, 0, 0, 1, 0, 0, 0, 0]).await;
            }
            while let Ok(Some(_)) = frames.next().await {}
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Client::connect(listener).await;
    assert_eq!(client.status("/").await, 200);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(client.status("/").await, 200);
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
    client.leave().await;
    bench.closed(1).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_for_a_stream_outlive_the_end_of_the_connection() {
    let bench = Bench::start();
    let (ends, accepted) = (Arc::<Notify>::default(), Arc::<AtomicUsize>::default());
    let (told, counted) = (Arc::clone(&ends), Arc::clone(&accepted));
    let server = Server::start("127.0.0.1", move |stream: TcpStream| {
        let told = Arc::clone(&told);
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut builder = h2::server::Builder::new();
            let mut connection = builder.max_concurrent_streams(1).handshake::<_, Bytes>(stream).await.unwrap();
            let mut held = Vec::new();
            loop {
                let next = tokio::select! {
                    next = connection.accept() => next,
                    () = told.notified(), if !held.is_empty() => {
                        connection.graceful_shutdown();
                        continue;
                    }
                };
                let Some(Ok((request, mut respond))) = next else { return };
                if request.uri().path() == "/held" {
                    held.push(respond);
                } else {
                    respond.send_response(Response::new(()), true).unwrap();
                }
            }
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Client::connect(listener).await;
    // Behind it, it is known how many streams there may be.
    assert_eq!(client.status("/").await, 200);
    let mut asks = |path: &str| {
        let request = Request::get(format!("http://a.example{path}")).body(()).unwrap();
        client.sender.send_request(request, true).unwrap().0
    };
    let held = asks("/held");
    let [second, third] = [asks("/"), asks("/")];
    tokio::time::sleep(Duration::from_millis(200)).await;
    ends.notify_one();
    let second = timeout(PATIENCE, second).await.expect("an answer");
    assert_eq!(second.expect_err("a reset").reason(), Some(Reason::REFUSED_STREAM));
    let third = timeout(PATIENCE, third).await.expect("an answer");
    assert_eq!(third.unwrap().status(), 200);
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
    drop(held);
    client.leave().await;
    bench.closed(1).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_only_closes_its_connection_is_a_bad_gateway() {
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |stream| async move {
        let mut frames = Frames::accept(stream).await;
        frames.until(Frames::HEADERS).await;
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Client::connect(listener).await;
    assert_eq!(client.status("/").await, 502);
    client.leave().await;
    bench.closed(1).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_amid_a_call_resets_it_at_the_target() {
    let bench = Bench::start();
    let (ends, mut seen) = mpsc::unbounded_channel();
    let called = Arc::<Notify>::default();
    let calls = Arc::clone(&called);
    let server = Server::start("127.0.0.1", move |stream| {
        let (ends, calls) = (ends.clone(), Arc::clone(&calls));
        async move {
            let mut frames = Frames::accept(stream).await;
            frames.until(Frames::HEADERS).await;
            calls.notify_one();
            let end = loop {
                match frames.next().await {
                    // A call that was ended by a reset of its own is as good.
                    Ok(Some(Frames::RST_STREAM)) | Err(_) => break true,
                    Ok(Some(_)) => {}
                    Ok(None) => break false,
                }
            };
            ends.send(end).unwrap();
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let stream = connect(listener).await.into_std().unwrap();
    let twin = stream.try_clone().unwrap();
    let mut client = Client::on(TcpStream::from_std(stream).unwrap()).await;
    let request = Request::post("http://a.example/").body(()).unwrap();
    let (_response, mut body) = client.sender.send_request(request, false).unwrap();
    body.send_data(Bytes::from("half"), false).unwrap();
    called.notified().await;
    twin.shutdown(Shutdown::Write).unwrap();
    let was_reset = timeout(PATIENCE, seen.recv()).await.expect("an end").unwrap();
    assert!(was_reset, "it looks as if the client had ended in order");
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::Finished], "it has ended of its own will");
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_only_end_are_counted_beside_the_one_that_is_used() {
    // The listener's, and those of one connection: one more is to be had.
    let bench = Bench::with(4, None);
    let (stays, accepted) = (Arc::<Notify>::default(), Arc::<AtomicUsize>::default());
    let (goes, counted) = (Arc::clone(&stays), Arc::clone(&accepted));
    let server = Server::start("127.0.0.1", move |stream: TcpStream| {
        let (goes, counted) = (Arc::clone(&goes), Arc::clone(&counted));
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            // It takes one request, and answers that when it is told to.
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            connection.graceful_shutdown();
            tokio::select! {
                _ = connection.accept() => return,
                () = goes.notified() => body.send_data(Bytes::new(), true).unwrap(),
            }
            while connection.accept().await.is_some() {}
        }
    });
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut client = Client::connect(listener).await;
    let first = client.get("/").await.unwrap();
    // Until the first connection is known to end, it is asked.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = client.get("/").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(client.status("/").await, 503);
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
    stays.notify_one();
    assert_eq!(rest(first).await.unwrap(), b"");
    let third = until_some(&mut client).await;
    assert_eq!(accepted.load(Ordering::SeqCst), 3);
    drop((second, third));
    client.leave().await;
    bench.closed(1).await;
    bench.shutdown().await;
}

/// Asks until a connection is to be had.
async fn until_some(client: &mut Client) -> Response<RecvStream> {
    for _ in 0..200 {
        let response = client.get("/").await.unwrap();
        if response.status() == 200 {
            return response;
        }
        assert_eq!(response.status(), 503);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no connection is to be had")
}
