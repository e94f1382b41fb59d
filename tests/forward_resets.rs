//! Resets that come close to something else: to an end of the same peer, to the dial. Each end sees what it would
//! see of a direct connection.

#[path = "common/sockets.rs"]
mod sockets;

use std::io::ErrorKind;
use std::sync::Arc;

use portolan::model::event::CloseReason;
use sockets::{Bench, PATIENCE, Server, connect, noise, reset, try_connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections of each test: what they are for shows in one of a few.
const ROUNDS: usize = 500;
/// How many are open at once.
const AT_ONCE: usize = 16;

/// Sends all, ends, and resets without a moment between.
async fn send_end_and_reset(mut stream: TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("taken");
    stream.shutdown().await.expect("ended");
    reset(stream);
}

/// Reads to a clean end, and finds after it that the peer is gone.
async fn takes_all_and_finds_it_gone(mut stream: TcpStream, bytes: &[u8]) {
    let mut got = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut got)).await.expect("it ends");
    end.expect("the end that came before the reset");
    assert!(got == bytes, "{} bytes of {}", got.len(), bytes.len());
    let gone = async {
        loop {
            if let Err(error) = stream.write_all(b"?").await {
                break error.kind();
            }
        }
    };
    assert_eq!(timeout(PATIENCE, gone).await.expect("it is told"), ErrorKind::BrokenPipe);
}

/// Runs so many clients, a few at once.
async fn crowd<F: Future<Output = ()> + Send + 'static>(rounds: usize, client: impl Fn() -> F) {
    let mut clients = JoinSet::new();
    for _ in 0..rounds {
        if clients.len() == AT_ONCE {
            clients.join_next().await.expect("one of them").expect("as it should be");
        }
        clients.spawn(client());
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("as it should be");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_target_has_ended_before_it_resets_ends_at_the_client() {
    let bench = Bench::start();
    let reply: Arc<[u8]> = noise(1, 3_000).into();
    let sent = Arc::clone(&reply);
    let server = Server::start("127.0.0.1", move |mut stream| {
        let sent = Arc::clone(&sent);
        async move {
            stream.read_exact(&mut [0]).await.expect("a word first");
            send_end_and_reset(stream, &sent).await;
        }
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    crowd(ROUNDS, || {
        let reply = Arc::clone(&reply);
        async move {
            let mut stream = connect(listener).await;
            stream.write_all(b"!").await.expect("taken");
            takes_all_and_finds_it_gone(stream, &reply).await;
        }
    })
    .await;
    bench.closed(ROUNDS).await;
    assert!(bench.reasons().iter().all(|reason| *reason == CloseReason::TargetReset));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_client_has_ended_before_it_resets_ends_at_the_target() {
    let bench = Bench::start();
    let request: Arc<[u8]> = noise(2, 3_000).into();
    let expected = Arc::clone(&request);
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start("127.0.0.1", move |stream| {
        let (expected, ended) = (Arc::clone(&expected), ended.clone());
        async move {
            takes_all_and_finds_it_gone(stream, &expected).await;
            ended.send(()).expect("the test waits");
        }
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    crowd(ROUNDS, || {
        let request = Arc::clone(&request);
        // The forwarder may still be dialling when it is all over.
        async move { send_end_and_reset(connect(listener).await, &request).await }
    })
    .await;
    for _ in 0..ROUNDS {
        timeout(PATIENCE, ends.recv()).await.expect("each reaches the target").expect("the target lives");
    }
    bench.closed(ROUNDS).await;
    assert!(bench.reasons().iter().all(|reason| *reason == CloseReason::ClientReset));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_over_and_reset_before_the_dial_is_done_is_whole() {
    let bench = Bench::start();
    let reply: Arc<[u8]> = noise(3, 3_000).into();
    let sent = Arc::clone(&reply);
    let server = Server::start("127.0.0.1", move |stream| {
        let sent = Arc::clone(&sent);
        async move { send_end_and_reset(stream, &sent).await }
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    crowd(ROUNDS, || {
        let reply = Arc::clone(&reply);
        async move {
            // All may have happened before this task even looks at the outcome of its connect.
            match try_connect(listener).await {
                Ok(stream) => takes_all_and_finds_it_gone(stream, &reply).await,
                Err(error) => assert_eq!(error.kind(), ErrorKind::BrokenPipe, "an end, and then a reset"),
            }
        }
    })
    .await;
    bench.closed(ROUNDS).await;
    assert!(bench.reasons().iter().all(|reason| *reason == CloseReason::TargetReset));
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_in_the_midst_of_bulk_to_its_sender_is_no_end_to_the_target() {
    let bench = Bench::start();
    let (failed, mut failures) = tokio::sync::mpsc::unbounded_channel();
    let block: Arc<[u8]> = noise(4, 256 * 1024).into();
    let server = Server::start("127.0.0.1", move |mut stream| {
        let (failed, block) = (failed.clone(), Arc::clone(&block));
        async move {
            let error = loop {
                if let Err(error) = stream.write_all(&block).await {
                    break error.kind();
                }
            };
            failed.send(error).expect("the test waits");
        }
    });
    let listener = bench.map(1, "127.0.0.1", server.address).await;
    for small in [true, false] {
        crowd(ROUNDS, || async move {
            let socket = TcpSocket::new_v4().expect("a descriptor is free");
            if small {
                socket.set_recv_buffer_size(16 * 1024).expect("it can be set");
            }
            let mut stream = socket.connect(listener).await.expect("it listens");
            let mut taken = vec![0; 64 * 1024];
            for _ in 0..4 {
                stream.read_exact(&mut taken).await.expect("the target streams");
            }
            reset(stream);
        })
        .await;
        for _ in 0..ROUNDS {
            let error = timeout(PATIENCE, failures.recv()).await.expect("each is told").expect("the target lives");
            assert_eq!(error, ErrorKind::ConnectionReset, "a client that had not ended has reset");
        }
        bench.closed(ROUNDS).await;
        assert!(bench.reasons().iter().all(|reason| *reason == CloseReason::ClientReset));
    }
    bench.shutdown().await;
}
