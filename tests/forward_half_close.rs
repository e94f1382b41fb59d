//! An end of one side leaves the other side its turn, on each path of the relay and through every change between them
//! (fault 3). That a path was taken, or was not, is read off the engine's counter.

#[path = "common/soak.rs"]
mod soak;
#[path = "common/sockets.rs"]
mod sockets;

use std::sync::Arc;
use std::time::Duration;

use portolan::forward::engine::TestHook;
use portolan::forward::registry::Record;
use portolan::model::event::CloseReason;
use sockets::{Bench, Server, connect, noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Connections of each test.
const CONNECTIONS: usize = 200;
/// Bytes each way of each: where all is spliced, and in the long form.
const BYTES: usize = 10 << 20;
/// In the short form, where bytes pass through this process slowly.
const FEW_BYTES: usize = 1 << 20;

/// Which path the bytes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// Copied alone.
    Copied,
    /// Spliced as soon as it is bulk.
    Spliced,
    /// Now the one, now the other.
    Changing,
}

/// Sends, ends its sending, and then takes what comes back.
async fn speaks_first(mut stream: TcpStream, sent: &[u8], expected: &[u8]) {
    stream.write_all(sent).await.expect("all is taken");
    stream.shutdown().await.expect("its end");
    takes(&mut stream, expected).await;
}

/// Takes all to the end, and only then sends: it gets there only if the end alone was passed on.
async fn speaks_last(mut stream: TcpStream, sent: &[u8], expected: &[u8]) {
    takes(&mut stream, expected).await;
    stream.write_all(sent).await.expect("all is still taken");
    stream.shutdown().await.expect("its end");
}

async fn takes(stream: &mut TcpStream, expected: &[u8]) {
    let mut buffer = vec![0; 64 * 1024];
    let mut rest = expected;
    while let got @ 1.. = stream.read(&mut buffer).await.expect("bytes or an end") {
        let (next, later) = rest.split_at_checked(got).expect("no more than was sent");
        assert!(buffer[..got] == *next, "other bytes than were sent, {} before the end", rest.len());
        rest = later;
    }
    assert!(rest.is_empty(), "the last {} bytes are missing", rest.len());
}

fn copy_alone(record: &Record) {
    record.copy_only(true);
}

async fn half_closes(path: Path, client_is_first: bool) {
    let bytes = if path == Path::Spliced { BYTES } else { soak::amount(FEW_BYTES, BYTES) };
    let request: Arc<[u8]> = noise(1, bytes).into();
    let reply: Arc<[u8]> = noise(10, bytes).into();
    let bench = Bench::with(100_000, (path == Path::Copied).then_some(copy_alone as TestHook));
    let (to_send, to_take) = (Arc::clone(&reply), Arc::clone(&request));
    let server = Server::start("127.0.0.1", move |stream| {
        let (to_send, to_take) = (Arc::clone(&to_send), Arc::clone(&to_take));
        async move {
            if client_is_first {
                speaks_last(stream, &to_send, &to_take).await;
            } else {
                speaks_first(stream, &to_send, &to_take).await;
            }
        }
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (request, reply) = (Arc::clone(&request), Arc::clone(&reply));
        clients.spawn(async move {
            let stream = connect(listener).await;
            if client_is_first {
                speaks_first(stream, &request, &reply).await;
            } else {
                speaks_last(stream, &request, &reply).await;
            }
        });
    }
    let mut is_copied = false;
    while !clients.is_empty() {
        if path == Path::Changing {
            is_copied = !is_copied;
            for record in bench.registry.open_connections() {
                record.copy_only(is_copied);
            }
        }
        tokio::select! {
            Some(ended) = clients.join_next() => ended.expect("every byte and the end"),
            () = sleep(Duration::from_millis(5)) => {}
        }
    }
    for record in bench.closed(CONNECTIONS).await {
        let connection = record.connection();
        assert_eq!(connection.reason, Some(CloseReason::Finished));
        assert_eq!((connection.bytes_in, connection.bytes_out), (bytes as u64, bytes as u64));
    }
    let (to_splice, to_copy) = bench.engine.path_switches();
    println!("{path:?}, client first: {client_is_first}: {to_splice} times to splicing, {to_copy} times back");
    let directions = 2 * CONNECTIONS as u64;
    match path {
        Path::Copied => assert_eq!((to_splice, to_copy), (0, 0)),
        Path::Spliced => assert!(to_splice >= directions, "{to_splice} of {directions} directions"),
        Path::Changing => {
            let is_often = to_splice.min(to_copy) > CONNECTIONS as u64 / 2;
            assert!(is_often, "{to_splice} times to splicing, {to_copy} times back");
        }
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_closes_of_either_side_lose_no_byte_while_all_is_copied() {
    for client_is_first in [true, false] {
        half_closes(Path::Copied, client_is_first).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_closes_of_either_side_lose_no_byte_while_bulk_is_spliced() {
    for client_is_first in [true, false] {
        half_closes(Path::Spliced, client_is_first).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_closes_of_either_side_lose_no_byte_while_paths_change() {
    for client_is_first in [true, false] {
        half_closes(Path::Changing, client_is_first).await;
    }
}
