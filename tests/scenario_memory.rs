//! What the program's memory does under many connections in a row and under readers that do not read: nothing (faults 2
//! and 7). The program is a process of its own, so nobody else's memory is measured.

mod common;
#[path = "common/sockets.rs"]
mod sockets;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use common::gauge::{Sample, p99, resident};
use common::program::{Home, PORTOLAN, Run};
use common::soak::amount;
use sockets::{PATIENCE, Server, connect, noise, until};

/// Growth over any number of connections in a row, in KiB. Most of it are the connections that the program remembers.
const CHURN_GROWTH: u64 = 5 * 1_024;
/// Connections after which no more are remembered.
const FILLED: usize = 6_000;
/// Connections whose times are held against each other.
const EDGE: usize = 1_000;

/// `portolan run` to this target, with at most so many descriptors.
fn run(home: &Home, target: SocketAddr, descriptors: u32) -> (Run, SocketAddr) {
    let mut command = Command::new("bash");
    command.env_clear().envs(home.environment());
    command.args(["-c", r#"ulimit -n "$1" && shift && exec "$@""#, "bash", &descriptors.to_string(), PORTOLAN]);
    command.args(["run", "--json", "--drain", "0s", "-p", &format!("[::1]:auto:{target}")]);
    let mut run = Run::start(command);
    let listener = run.listening("[::1]");
    run.ready();
    (run, listener)
}

/// How many such events there were.
fn count(run: &mut Run, name: &str) -> usize {
    run.events().iter().filter(|event| event["event"] == name).count()
}

/// Connects, has one byte echoed and ends, so many times in a row; how long each took.
async fn churn(address: SocketAddr, count: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        let mut stream = connect(address).await;
        stream.write_all(b"x").await.expect("taken");
        stream.read_exact(&mut [0]).await.expect("an echo");
        stream.shutdown().await.expect("ended");
        assert_eq!(stream.read(&mut [0]).await.expect("a clean end"), 0);
        times.push(start.elapsed());
    }
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_many_connections_in_a_row_costs_what_the_first_did() {
    let connections = amount(10_000, 50_000);
    let server = Server::echo("127.0.0.1");
    let home = Home::new();
    let (mut run, listener) = tokio::task::block_in_place(|| run(&home, server.address, 1_024));
    let before = Sample::take(run.pid(), Instant::now());
    let mut direct_first = churn(server.address, EDGE).await;
    let mut times = churn(listener, FILLED).await;
    let filled = Sample::take(run.pid(), Instant::now());
    times.extend(churn(listener, connections - FILLED).await);
    let mut direct_last = churn(server.address, EDGE).await;
    let after = Sample::take(run.pid(), Instant::now());
    let grown = after.rss.saturating_sub(before.rss);
    let anonymous = after.anonymous.saturating_sub(before.anonymous);
    let later = after.rss.saturating_sub(filled.rss);

    let (first, last) = (p99(&mut times[..EDGE]), p99(&mut times[connections - EDGE..]));
    let (direct_first, direct_last) = (p99(&mut direct_first), p99(&mut direct_last));
    println!(
        "{connections} connections in a row: p99 of the first {EDGE} {first:?}, of the last {last:?}; direct {direct_first:?} \
         before and {direct_last:?} after; {grown} KiB more memory, {anonymous} KiB of it no file's, {later} KiB of it after the first {FILLED}"
    );
    // An unoptimised program is larger in all that it does.
    let most = if cfg!(debug_assertions) { 2 * CHURN_GROWTH } else { CHURN_GROWTH };
    assert!(
        grown <= most && later <= CHURN_GROWTH,
        "{grown} KiB more memory, {later} KiB of it after the tables are full"
    );
    // What the machine does to everybody at that moment is no growth.
    let machine = direct_last.as_secs_f64() / direct_first.as_secs_f64();
    let most = first.mul_f64(f64::from(amount(20, 2)) * machine.max(1.0));
    assert!(
        last <= most,
        "the last take {last:?}, the first took {first:?}, direct {machine:.2} times as long as before"
    );

    until("all to close", || (count(&mut run, "closed") == connections).then_some(())).await;
    tokio::task::block_in_place(|| {
        let ended = run.stop();
        assert!(ended.status.success(), "{}", ended.errors);
        let closed = ended.events.iter().filter(|event| event["event"] == "closed");
        assert_eq!(closed.filter(|event| event["connection"]["reason"] == "finished").count(), connections);
    });
}

/// Readers that do not read, the growth of memory with all of them stuck in KiB, and their part of the stream.
const READERS: usize = 64;
const READERS_GROWTH: u64 = 16 * 1_024;
const BLOCK: usize = 1 << 20;

/// The bytes from `at` on of the stream of the `number`-th reader, to the end of the block.
fn part(block: &[u8], number: u64, at: u64) -> &[u8] {
    let at = (number * 10_007 + at) % block.len() as u64;
    &block[usize::try_from(at).expect("within the block")..]
}

/// Reads all of it to a clean end, and compares.
async fn read_all(mut stream: TcpStream, block: &[u8], number: u64, length: u64) {
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        let got = timeout(3 * PATIENCE, stream.read(&mut buffer)).await.expect("in time").expect("bytes or an end");
        if got == 0 {
            break;
        }
        let mut rest = &buffer[..got];
        while !rest.is_empty() {
            let expected = part(block, number, at);
            let count = rest.len().min(expected.len());
            assert!(rest[..count] == expected[..count], "reader {number}: other bytes than were sent, at {at}");
            (rest, at) = (&rest[count..], at + count as u64);
        }
    }
    assert_eq!(at, length, "reader {number}");
}

/// With so many descriptors, by which there are pipes for bulk or none.
async fn readers_that_do_not_read(descriptors: u32, are_pipes: bool) {
    portolan::forward::descriptors::raise_limit().expect("the limit is read");
    let length: u64 = amount(16 << 20, 1 << 30);
    let block: Arc<[u8]> = noise(7, BLOCK).into();
    let (sent, source) = (Arc::<AtomicU64>::default(), Arc::clone(&block));
    let counted = Arc::clone(&sent);
    let server = Server::start("127.0.0.1", move |mut stream| {
        let (block, sent) = (Arc::clone(&source), Arc::clone(&counted));
        async move {
            let number = stream.read_u64().await.expect("its number");
            let mut at = 0;
            while at < length {
                let part = part(&block, number, at);
                let some = part.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
                let taken = stream.write(&part[..some]).await.expect("taken") as u64;
                sent.fetch_add(taken, Ordering::SeqCst);
                at += taken;
            }
            stream.shutdown().await.expect("ended");
        }
    });
    let home = Home::new();
    let (mut run, listener) = tokio::task::block_in_place(|| run(&home, server.address, descriptors));
    let before = Sample::take(run.pid(), Instant::now());
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let socket = TcpSocket::new_v6().expect("a socket");
        socket.set_recv_buffer_size(64 << 10).expect("it can be set");
        readers.push(socket.connect(listener).await.expect("connected"));
    }
    // All are let in before any of them needs a pipe.
    until("all are let in", || (count(&mut run, "opened") == READERS).then_some(())).await;
    for (number, stream) in (0..).zip(&mut readers) {
        stream.write_u64(number).await.expect("taken");
    }
    // All are stuck when nothing is taken of their senders any more.
    let mut before_that = u64::MAX;
    while before_that != sent.load(Ordering::SeqCst) {
        before_that = sent.load(Ordering::SeqCst);
        sleep(Duration::from_secs(1)).await;
    }
    let stuck = Sample::take(run.pid(), Instant::now());
    let grown = stuck.rss.saturating_sub(before.rss);
    let pipes = stuck.pipe_ends - before.pipe_ends;
    println!(
        "{READERS} readers stuck at {} of {} MiB: {grown} KiB more memory, {pipes} ends of pipes, {} descriptors",
        before_that >> 20,
        (READERS as u64 * length) >> 20,
        stuck.descriptors + stuck.pipe_ends
    );
    assert!(before_that < READERS as u64 * length, "they are stuck");
    assert_eq!(pipes > 0, are_pipes, "{pipes} ends of pipes");
    assert!(grown <= READERS_GROWTH, "{grown} KiB more memory");

    let start = Instant::now();
    let mut reading = JoinSet::new();
    for (number, stream) in (0..).zip(readers) {
        let block = Arc::clone(&block);
        reading.spawn(async move { read_all(stream, &block, number, length).await });
    }
    reading.join_all().await;
    let now = resident(run.pid()).saturating_sub(before.rss);
    println!("all read in {:?}; {now} KiB more memory than before them", start.elapsed());
    assert!(now <= READERS_GROWTH, "{now} KiB more memory");
    until("all to close", || (count(&mut run, "closed") == READERS).then_some(())).await;
    tokio::task::block_in_place(|| {
        let ended = run.stop();
        assert!(ended.status.success(), "{}", ended.errors);
        let closed: Vec<_> = ended.events.iter().filter(|event| event["event"] == "closed").collect();
        assert_eq!(closed.len(), READERS);
        for event in closed {
            assert_eq!(event["connection"]["reason"], "finished");
            assert_eq!(event["connection"]["bytes_out"], length);
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_take_no_memory_while_bulk_is_spliced() {
    readers_that_do_not_read(1_024, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_they_where_no_descriptors_are_left_for_pipes() {
    // The reserve of 64, the listener, and two for each connection; a sixteenth of all is the control socket's.
    let all = (16 * (64 + 1 + 2 * u32::try_from(READERS).expect("few"))).div_ceil(15);
    readers_that_do_not_read(all, false).await;
}
