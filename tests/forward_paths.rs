//! The two paths of a relay, copying and splicing, and every change between them: no byte is lost, doubled or out of its
//! place, and no descriptor is left behind (faults 7 and 8). That a path was taken is read off the engine's counter.

#[path = "common/soak.rs"]
mod soak;
#[path = "common/sockets.rs"]
mod sockets;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portolan::forward::meter::Direction;
use portolan::forward::tap::Tap;
use portolan::model::event::CloseReason;
use socket2::SockRef;
use sockets::{Bench, PATIENCE, Server, bound, config, connect, noise, reset, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Sends back what it gets, and ends after the client; counts what it got.
fn counting_echo(received: &Arc<AtomicU64>) -> Server {
    let received = Arc::clone(received);
    Server::start("127.0.0.1", move |mut stream| {
        let received = Arc::clone(&received);
        async move {
            let mut buffer = vec![0; 128 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                received.fetch_add(count as u64, Ordering::SeqCst);
                if stream.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            let _ = stream.shutdown().await;
        }
    })
}

/// Sends `sent` while it reads as much back, and checks every byte.
async fn there_and_back(stream: &mut TcpStream, sent: &[u8]) {
    let (mut read, mut write) = stream.split();
    let mut received = vec![0; sent.len()];
    let (sending, receiving) = tokio::join!(write.write_all(sent), read.read_exact(&mut received));
    sending.expect("all is taken");
    receiving.expect("all comes back");
    assert!(received == sent, "{} bytes, as they were sent", sent.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_is_spliced_and_small_talk_is_copied_again() {
    let bench = Bench::start();
    let server = counting_echo(&Arc::default());
    let mut stream = connect(bench.map(1, "[::1]", server.address).await).await;
    for round in 1..=3 {
        let small = noise(round, 100);
        for _ in 0..20 {
            there_and_back(&mut stream, &small).await;
        }
        let before = bench.engine.path_switches();
        there_and_back(&mut stream, &noise(round, 8 << 20)).await;
        let after = bench.engine.path_switches();
        assert!(after.0 > before.0, "round {round}: bulk is spliced ({before:?}, {after:?})");
        for _ in 0..20 {
            there_and_back(&mut stream, &small).await;
        }
        let end = bench.engine.path_switches();
        assert_eq!(end.0, end.1, "round {round}: all directions copy again");
    }
    // An idle connection holds its two sockets, and the pool of pipes a few more.
    drop(stream);
    bench.closed(1).await;
    assert_eq!(bench.reasons(), [CloseReason::Finished]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_path_on_live_connections_lose_and_reorder_nothing() {
    const CONNECTIONS: u64 = 16;
    const LENGTH: usize = 8 << 20;
    let bench = Bench::start();
    let server = counting_echo(&Arc::default());
    let listener = bench.map(1, "[::1]", server.address).await;
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        clients.spawn(async move {
            let mut stream = connect(listener).await;
            // Pieces of every size, so that changes meet full and empty pipes, tails and small talk.
            let sent = noise(number, LENGTH);
            let mut rest = sent.as_slice();
            let mut state = number;
            while !rest.is_empty() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let size = 1_usize << (4 + (state >> 33) % 17);
                let (piece, more) = rest.split_at(size.min(rest.len()));
                there_and_back(&mut stream, piece).await;
                rest = more;
            }
        });
    }
    let mut wanted = false;
    while !clients.is_empty() {
        for record in bench.registry.open_connections() {
            record.copy_only(wanted);
        }
        wanted = !wanted;
        tokio::select! {
            Some(ended) = clients.join_next() => ended.expect("every byte came back"),
            () = sleep(Duration::from_millis(3)) => {}
        }
    }
    let closed = bench.closed(usize::try_from(CONNECTIONS).expect("a few")).await;
    for record in closed {
        let counts = record.counters.read();
        assert_eq!((counts.bytes_in, counts.bytes_out), (LENGTH as u64, LENGTH as u64));
    }
    let (to_splice, to_copy) = bench.engine.path_switches();
    println!("{to_splice} times to splicing, {to_copy} times back");
    assert!(to_splice > 2 * CONNECTIONS && to_copy > 2 * CONNECTIONS, "{to_splice} and {to_copy}");
    bench.shutdown().await;
}

/// Keeps what it sees.
#[derive(Debug, Default)]
struct Seen([std::sync::Mutex<Vec<u8>>; 2]);

impl Tap for Seen {
    fn saw(&self, direction: Direction, bytes: &[u8]) {
        self.0[usize::from(direction == Direction::Out)].lock().expect("no panic").extend_from_slice(bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_sees_every_byte_while_it_is_there_and_bulk_is_spliced_when_it_is_gone() {
    let bench = Bench::start();
    let server = counting_echo(&Arc::default());
    let mut stream = connect(bench.map(1, "[::1]", server.address).await).await;
    let sent = noise(1, 8 << 20);
    // Bulk is on its way through the kernel already.
    there_and_back(&mut stream, &sent).await;
    let record = bench.registry.open_connections().pop().expect("it is open");
    for round in 2..=3 {
        let seen = Arc::new(Seen::default());
        record.tap(Some(Arc::clone(&seen) as Arc<dyn Tap>));
        // What is spliced meanwhile ends with the next turn of each direction.
        there_and_back(&mut stream, &noise(0, 1)).await;
        for side in &seen.0 {
            side.lock().expect("no panic").clear();
        }
        let before = bench.engine.path_switches();
        let sent = noise(round, 8 << 20);
        there_and_back(&mut stream, &sent).await;
        assert_eq!(bench.engine.path_switches(), before, "a connection with a tap is copied");
        for side in &seen.0 {
            assert!(*side.lock().expect("no panic") == sent, "every byte in its place");
        }
        record.tap(None);
        there_and_back(&mut stream, &sent).await;
        assert!(bench.engine.path_switches().0 > before.0, "and spliced again without it");
        assert_eq!(seen.0[0].lock().expect("no panic").len(), sent.len(), "it sees nothing any more");
    }
    drop(stream);
    bench.closed(1).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_behind_urgent_data_does_not_wait_for_more() {
    let bench = Bench::start();
    let server = counting_echo(&Arc::default());
    let listener = bench.map(1, "[::1]", server.address).await;
    for round in 0..50 {
        let mut stream = connect(listener).await;
        // All of it is there before anybody reads: a read ends at the mark, though more is behind it.
        stream.write_all(b"before").await.expect("taken");
        assert_eq!(SockRef::from(&stream).send_out_of_band(b"!").expect("sent"), 1);
        stream.write_all(b"behind").await.expect("taken");
        let mut back = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut back)).await.expect("in time").expect("it comes back");
        assert_eq!(&back, b"beforebehind", "round {round}");
    }
    bench.closed(50).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_data_in_the_midst_of_bulk_costs_nothing_but_itself() {
    const PART: usize = 1 << 20;
    let bench = Bench::start();
    let received = Arc::default();
    let server = counting_echo(&received);
    let listener = bench.map(1, "[::1]", server.address).await;
    for round in 0..20 {
        let mut stream = connect(listener).await;
        let (mut read, mut write) = stream.split();
        let before = received.load(Ordering::SeqCst);
        let sending = async {
            write.write_all(&noise(round, PART)).await.expect("taken");
            // The kernel splices neither the mark nor what comes after it.
            while SockRef::from(write.as_ref()).send_out_of_band(b"!").is_err() {
                write.writable().await.expect("it will be");
            }
            write.write_all(&noise(round + 100, PART)).await.expect("taken");
            write.shutdown().await.expect("ended");
        };
        let mut back = Vec::new();
        let ((), all) = tokio::join!(sending, timeout(PATIENCE, read.read_to_end(&mut back)));
        all.expect("it ends").expect("cleanly");
        assert!(back == [noise(round, PART), noise(round + 100, PART)].concat(), "round {round}: {} bytes", back.len());
        assert_eq!(received.load(Ordering::SeqCst) - before, 2 * PART as u64);
    }
    bench.closed(20).await;
    assert_eq!(bench.reasons(), [CloseReason::Finished; 20]);
    assert!(bench.engine.path_switches().0 > 0, "some of it was spliced");
    bench.shutdown().await;
}

/// How the `number`-th transfer ends before its time; most do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The client resets it.
    ByClient,
    /// The engine is told to kill it.
    ByUs,
}

impl Cut {
    fn of(number: u64) -> Option<Self> {
        match number % 20 {
            3 => Some(Self::ByClient),
            13 => Some(Self::ByUs),
            _ => None,
        }
    }
}

/// One transfer of random size; a tenth of them is cut when about half of it has come back.
async fn transfer(bench: &Bench, listener: SocketAddr, number: u64) {
    let mut stream = connect(listener).await;
    // Between 1 byte and 1 MiB, small ones as often as large ones.
    let random = u64::from_le_bytes(noise(number, 8).try_into().expect("eight bytes"));
    let length = 1 + usize::try_from(random >> (44 + number % 20)).expect("small");
    let sent = noise(number, length);
    let Some(cut) = Cut::of(number) else {
        there_and_back(&mut stream, &sent).await;
        stream.shutdown().await.expect("ended");
        assert_eq!(stream.read(&mut [0]).await.expect("a clean end"), 0);
        return;
    };
    let local = stream.local_addr().expect("an address");
    let (mut read, mut write) = stream.split();
    let mut some = vec![0; length / 2 + 1];
    let _ = tokio::join!(write.write_all(&sent), read.read_exact(&mut some));
    match cut {
        Cut::ByClient => reset(stream),
        Cut::ByUs => {
            let find = || bench.registry.open_connections().into_iter().find(|record| record.peer == local);
            assert!(bench.engine.kill(until("its record", find).await.id));
            let end = loop {
                match timeout(PATIENCE, stream.read(&mut some)).await.expect("an end") {
                    Ok(1..) => {}
                    end => break end,
                }
            };
            assert_eq!(end.expect_err("never a clean end").kind(), ErrorKind::ConnectionReset);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_killed_midway_leave_no_descriptor_and_count_what_arrived() {
    let transfers: u64 = soak::amount(2_000, 10_000);
    let bench = Arc::new(Bench::start());
    let received = Arc::default();
    let server = counting_echo(&received);
    let listener = bench.map(1, "[::1]", server.address).await;
    let baseline = open_descriptors();
    let mut clients = JoinSet::new();
    let (mut seen, mut closed) = (0, Vec::new());
    for number in 0..transfers {
        if clients.len() == 64 {
            clients.join_next().await.expect("one of them").expect("as it should be");
        }
        // The registry remembers the last few thousand alone.
        let (more, now) = bench.registry.closed_since(seen);
        closed.extend(more);
        seen = now;
        let bench = Arc::clone(&bench);
        clients.spawn(async move { transfer(&bench, listener, number).await });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("as it should be");
    }
    until("all to close", || bench.registry.open_connections().is_empty().then_some(())).await;
    // Sixteen pipes at most lie in the pool.
    let start = Instant::now();
    until("descriptors to be given back", || (open_descriptors() <= baseline + 32).then_some(())).await;
    assert!(start.elapsed() < soak::within(Duration::from_secs(2)), "{:?}", start.elapsed());
    let (used, _) = bench.engine.descriptors();
    assert!(used <= 1 + 32, "{used} descriptors counted");

    closed.extend(bench.registry.closed_since(seen).0);
    let (to_splice, to_copy) = bench.engine.path_switches();
    println!("{to_splice} times to splicing, {to_copy} times back");
    assert!(to_splice > transfers / 20, "some of it was spliced: {to_splice}");
    let of = |reason| closed.iter().filter(|record| record.connection().reason == Some(reason)).count() as u64;
    let reasons = [CloseReason::ClientReset, CloseReason::Killed, CloseReason::Finished].map(of);
    assert_eq!(reasons, [transfers / 20, transfers / 20, transfers - transfers / 10]);
    let counted: u64 = closed.iter().map(|record| record.counters.read().bytes_in).sum();
    // The server may find what it has received cut off by the reset that follows.
    until("the server to read all", || (received.load(Ordering::SeqCst) <= counted).then_some(())).await;
    Arc::into_inner(bench).expect("the clients have let it go").shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_for_pipes_bulk_is_copied() {
    // One for the listener, two for the connection, and one that is too few for a pipe.
    let bench = Bench::with(4, None);
    let server = counting_echo(&Arc::default());
    let mut stream = connect(bench.map(1, "[::1]", server.address).await).await;
    there_and_back(&mut stream, &noise(1, 8 << 20)).await;
    assert_eq!(bench.engine.descriptors(), (3, 4));
    drop(stream);
    bench.closed(1).await;
    bench.shutdown().await;

    // Pipes that lie idle give way to clients: with room for one pipe, two clients get in after bulk.
    let bench = Bench::with(1 + 4, None);
    let listener = bench.map(1, "[::1]", server.address).await;
    let mut first = connect(listener).await;
    there_and_back(&mut first, &noise(2, 8 << 20)).await;
    there_and_back(&mut first, b"and now small talk").await;
    let mut second = connect(listener).await;
    there_and_back(&mut second, b"let in").await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_hold_nobody_up_and_get_every_byte_later() {
    const CLIENTS: usize = 64;
    const LENGTH: usize = 12 << 20;
    let bench = Bench::start();
    let server = Server::start("127.0.0.1", |mut stream| async move {
        let mut number = [0; 8];
        stream.read_exact(&mut number).await.expect("its number");
        let _ = stream.write_all(&noise(u64::from_le_bytes(number), LENGTH)).await;
        let _ = stream.shutdown().await;
    });
    let mapping = config(&format!("[::1]:auto:{}", server.address));
    let listener = bound(&bench.apply(1, &mapping, &[server.address]).await);
    let mut streams = Vec::new();
    for number in 0..CLIENTS as u64 {
        let mut stream = small_window(listener).await;
        stream.write_all(&number.to_le_bytes()).await.expect("taken");
        streams.push(stream);
    }
    // All are stuck when nothing moves any more.
    let moved = || bench.registry.open_connections().iter().map(|record| record.counters.read().bytes_out).sum::<u64>();
    let mut before = u64::MAX;
    while before != moved() {
        before = moved();
        sleep(Duration::from_millis(300)).await;
    }
    assert!(before < (CLIENTS * LENGTH / 2) as u64, "they are stuck: {before}");
    // Now they read, and every byte is there.
    let mut readers = JoinSet::new();
    for (number, mut stream) in (0..).zip(streams) {
        readers.spawn(async move {
            let mut received = Vec::new();
            timeout(3 * PATIENCE, stream.read_to_end(&mut received)).await.expect("in time").expect("a clean end");
            assert!(received == noise(number, LENGTH), "client {number}");
        });
    }
    while let Some(ended) = readers.join_next().await {
        assert!(ended.is_ok(), "{ended:?}; ended: {:?}", bench.registry.closed_since(0).0);
    }
    bench.closed(CLIENTS).await;
    assert!(bench.reasons().iter().all(|reason| *reason == CloseReason::Finished));
    bench.shutdown().await;
}

async fn small_window(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v6().expect("a socket");
    socket.set_recv_buffer_size(64 * 1024).expect("it can be set");
    socket.connect(address).await.expect("connected")
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("our descriptors").count()
}
