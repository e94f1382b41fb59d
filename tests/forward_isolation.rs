//! What one connection or mapping must not do to others, and what the counters say: panics, edits, limits,
//! circles, exact bytes.

#[path = "common/ports.rs"]
mod ports;
#[path = "common/sockets.rs"]
mod sockets;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use portolan::forward::engine::{Notice, StateReason};
use portolan::forward::registry::Record;
use portolan::forward::tcp::dial::{self, DialError};
use portolan::model::event::{CloseReason, MappingState};
use portolan::model::id::MappingId;
use portolan::model::untrusted::SafeText;
use ports::closed_port;
use sockets::{Bench, PATIENCE, Server, bound, config, connect, noise, reset, try_connect, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

async fn echoes(stream: &mut TcpStream) {
    let echoed = try_echo(stream).await;
    echoed.expect("an echo");
}

async fn try_echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"there?").await?;
    let mut reply = [0; 6];
    timeout(PATIENCE, stream.read_exact(&mut reply)).await.expect("in time")?;
    assert_eq!(&reply, b"there?");
    Ok(())
}

/// The end of a client that is not served.
async fn end_of(listener: SocketAddr) -> ErrorKind {
    let end = async { try_connect(listener).await?.read(&mut [0]).await };
    timeout(PATIENCE, end).await.expect("an end").expect_err("a reset").kind()
}

static PANIC: AtomicBool = AtomicBool::new(false);

fn panic_on_demand(_: &Record) {
    assert!(!PANIC.swap(false, Ordering::SeqCst), "injected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_one_connection_by_a_reset_and_no_other() {
    let bench = Bench::with(1_000, Some(panic_on_demand));
    let server = Server::echo("127.0.0.1");
    let listener = bench.map(1, "[::1]", server.address).await;
    let mut other = connect(listener).await;
    echoes(&mut other).await;
    for _ in 0..20 {
        PANIC.store(true, Ordering::SeqCst);
        assert_eq!(end_of(listener).await, ErrorKind::ConnectionReset, "never a clean end");
        echoes(&mut other).await;
        echoes(&mut connect(listener).await).await;
    }
    drop(other);
    let closed = bench.closed(41).await;
    let faults: Vec<_> =
        closed.iter().map(|r| r.connection()).filter(|c| c.reason == Some(CloseReason::Fault)).collect();
    assert_eq!(faults.len(), 20);
    assert_eq!(faults[0].error.as_ref().map(SafeText::as_str), Some("its task panicked"));
    assert!(closed.iter().all(|r| r.connection().reason.is_some_and(|r| r == CloseReason::Fault || r.is_fine())));
    assert_eq!(bench.status(1).state, MappingState::Up);
    assert_eq!(bench.engine.descriptors().0, 1, "the listener's");
    bench.shutdown().await;
}

/// How a connection of the counting test goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The client sends, ends, and reads to the end.
    Whole,
    /// The engine resets it midway.
    Killed,
    /// The client resets it midway.
    ClientResets,
}

/// Bytes that each side has received, by the address from which they came into the engine or went out of it.
type Received = Arc<Mutex<HashMap<SocketAddr, u64>>>;

async fn count_to_end(stream: &mut (impl AsyncReadExt + Unpin)) -> u64 {
    let mut buffer = vec![0; 16 * 1024];
    let mut count = 0;
    while let Ok(got @ 1..) = stream.read(&mut buffer).await {
        count += got as u64;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_count_what_their_peers_received() {
    let bench = Arc::new(Bench::start());
    let at_target: Received = Arc::default();
    let received = Arc::clone(&at_target);
    let payload: Arc<[u8]> = noise(9, 200_000).into();
    let reply = Arc::clone(&payload);
    // Answers with as much as it pleases while it counts what it gets.
    let server = Server::start_knowing_peers("127.0.0.1", move |stream, source| {
        let (received, reply) = (Arc::clone(&received), Arc::clone(&reply));
        async move {
            let (mut read, mut write) = stream.into_split();
            let writing = async {
                if write.write_all(&reply[..usize::from(source.port()) * 3]).await.is_ok() {
                    let _ = write.shutdown().await;
                }
            };
            let (count, ()) = tokio::join!(count_to_end(&mut read), writing);
            received.lock().expect("no panic").insert(source, count);
        }
    });
    let listener = bench.map(1, "[::1]", server.address).await;
    let (mut seen, mut sum_in, mut sum_out) = (0, 0, 0);
    // Connections of which the target's side has told, and those that it was never given.
    let (mut told, mut unasked) = (0, 0);
    for batch in 0..100 {
        let mut clients = JoinSet::new();
        for number in 0..100 {
            let (bench, payload) = (Arc::clone(&bench), Arc::clone(&payload));
            let way = match number % 10 {
                0 => Way::Killed,
                1 => Way::ClientResets,
                _ => Way::Whole,
            };
            clients.spawn(async move { client(&bench, listener, &payload, batch * 100 + number, way).await });
        }
        let mut expected: HashMap<_, _> = HashMap::new();
        for (client, way, count) in clients.join_all().await {
            expected.insert(client, (way, count));
        }
        let closed = until("the batch to close", || {
            let (closed, now) = bench.registry.closed_since(seen);
            (now == seen + 100).then_some(closed)
        })
        .await;
        seen += 100;
        // The target's side may notice the end a moment later. Who was reset before the server accepted has
        // brought its bytes to the server's kernel alone, and cannot be asked for them.
        let sources: Vec<_> = closed.iter().filter_map(|record| record.source()).collect();
        let missing = until("the target's counts", || {
            let counts = at_target.lock().expect("no panic");
            let missing = sources.iter().filter(|source| !counts.contains_key(source)).count();
            (missing <= server.aborted.load(Ordering::SeqCst) - unasked).then_some(missing)
        })
        .await;
        unasked += missing;
        let mut counts = at_target.lock().expect("no panic");
        for record in closed {
            let connection = record.connection();
            let (way, got) = expected[&connection.client];
            if let Some(at_target) = connection.source.and_then(|source| counts.remove(&source)) {
                told += 1;
                assert_eq!(connection.bytes_in, at_target, "{way:?}, in: {connection:?}");
            } else {
                assert_ne!(way, Way::Whole, "{connection:?}");
            }
            // A client that resets throws away what its kernel had taken and it had not read.
            if way != Way::ClientResets {
                assert_eq!(connection.bytes_out, got, "{way:?}, out: {connection:?}");
            }
            sum_in += connection.bytes_in;
            sum_out += connection.bytes_out;
        }
        // Killed while it was being dialled: the target has seen it, and no record knows its source.
        counts.clear();
    }
    println!("{told} were accepted by the target, {unasked} were reset before");
    assert!(told > 8_500, "{told}");
    let totals = bench.registry.totals(&bench.status(1).meter);
    assert_eq!((totals.bytes_in, totals.bytes_out), (sum_in, sum_out));
}

/// One client; gives its address, how it went, and the bytes that it received.
async fn client(bench: &Bench, listener: SocketAddr, payload: &[u8], number: u64, way: Way) -> (SocketAddr, Way, u64) {
    let mut stream = connect(listener).await;
    let local = stream.local_addr().expect("an address");
    let request = &payload[..usize::try_from(number * 7919 % 60_000).expect("small")];
    match way {
        Way::Whole => {
            let (mut read, mut write) = stream.split();
            let writing = async {
                write.write_all(request).await.expect("taken");
                write.shutdown().await.expect("ended");
            };
            let (count, ()) = tokio::join!(count_to_end(&mut read), writing);
            (local, way, count)
        }
        Way::Killed => {
            // So much that it is under way for certain when it is killed.
            let (mut read, mut write) = stream.split();
            let writing = async { while write.write_all(request).await.is_ok() && !request.is_empty() {} };
            let killing = async {
                let find = || bench.registry.open_connections().into_iter().find(|record| record.peer == local);
                let record = until("the record", find).await;
                // Most of them while bytes flow, some while the target is still being dialled.
                sleep(Duration::from_millis(number / 10 % 30)).await;
                bench.engine.kill(record.id);
            };
            let (count, (), ()) = tokio::join!(count_to_end(&mut read), writing, killing);
            (local, way, count)
        }
        Way::ClientResets => {
            let _ = stream.write_all(request).await;
            reset(stream);
            (local, way, 0)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_on_fifty_mappings_stand_two_hundred_edits_of_another() {
    const ROUNDS: usize = 40;
    let bench = Bench::start();
    let server = Server::echo("127.0.0.1");
    let other = Server::echo("::1");
    let mut transfers = JoinSet::new();
    let edited = Arc::new(AtomicBool::new(false));
    for id in 0..50 {
        let listener = bench.map(id, if id % 2 == 0 { "127.0.0.1" } else { "[::1]" }, server.address).await;
        let edited = Arc::clone(&edited);
        transfers.spawn(async move {
            let mut stream = connect(listener).await;
            let mut rounds = 0;
            // At least so many, and at least as long as the edits last.
            while rounds < ROUNDS || !edited.load(Ordering::SeqCst) {
                let block = noise(id * 1_000 + rounds as u64, 20_000);
                let (mut read, mut write) = stream.split();
                let mut back = vec![0; block.len()];
                let (sent, got) = tokio::join!(write.write_all(&block), read.read_exact(&mut back));
                sent.expect("taken");
                got.expect("echoed");
                assert!(back == block, "mapping {id}, round {rounds}");
                rounds += 1;
            }
        });
    }
    let port = closed_port("127.0.0.1").port();
    for edit in 0..200_u64 {
        let shape = noise(edit, 1)[0] % 8;
        let (v4, v6) = (server.address, other.address);
        let mapping = match shape {
            0 => config(&format!("localhost:{port}:{v4}")),
            1 => config(&format!("any:{port}:{v6}")),
            2 => config(&format!("127.0.0.1:{port}-{}:{v4}-{}", port + 3, v4.port() + 3)),
            3 => config(&format!("[::1]:auto:{v6}")),
            4 => config(&format!("localhost:{port}:{v4}/udp")),
            5 => config(&format!("0.0.0.0:{port}:{v6}")),
            // Always busy.
            6 => config(&format!("127.0.0.1:{}:{v4}", v4.port())),
            _ => {
                bench.engine.remove(MappingId(99)).await;
                continue;
            }
        };
        let mut mapping = mapping;
        mapping.enabled = edit % 11 != 0;
        bench.apply(99, &mapping, &[if shape.is_multiple_of(2) { v4 } else { v6 }]).await;
        if let Some(listener) = bench.status(99).listeners.iter().find_map(|listener| listener.bound) {
            // Some of them with a connection that the next edit may reset.
            drop(try_connect(listener).await);
        }
    }
    edited.store(true, Ordering::SeqCst);
    transfers.join_all().await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_that_forwards_to_itself_fails_at_the_second_connection() {
    let mut bench = Bench::start();
    for ip in ["127.0.0.1", "::1"] {
        let own = closed_port(ip);
        let mapping = config(&format!("any:{}:host/web:{}", own.port(), own.port()));
        let before = bench.registry.closed_count();
        let status = bench.apply(1, &mapping, &[own]).await;
        assert_eq!(status.state, MappingState::Up, "{:?}", status.reason);
        assert_eq!(end_of(own).await, ErrorKind::ConnectionReset);
        let status = bench.state(1, MappingState::Failed).await;
        let port = own.port();
        let text = format!("would forward to itself: :{port} -> :{port}");
        assert_eq!(status.reason.map(|reason| reason.to_string()), Some(text));
        bench.closed(2).await;
        assert_eq!(bench.registry.closed_count() - before, 2, "connections");
        assert!(bench.reasons().contains(&CloseReason::Rejected));
        let told = async { while !matches!(bench.notices.recv().await, Some(Notice::SelfForwarding(MappingId(1)))) {} };
        timeout(PATIENCE, told).await.expect("told");
        // It listens again when it is told where else to go.
        let server = Server::echo(ip);
        let mut elsewhere = mapping.clone();
        elsewhere.mapping.target.ports = config(&format!("1:{}", server.address)).mapping.target.ports;
        let status = bench.apply(1, &elsewhere, &[server.address]).await;
        echoes(&mut connect(bound(&status)).await).await;
        bench.engine.remove(MappingId(1)).await;
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mappings_one_behind_the_other_are_legal_and_a_circle_of_two_is_not() {
    let bench = Bench::start();
    let server = Server::echo("127.0.0.1");
    let (a, b) = (closed_port("127.0.0.1"), closed_port("127.0.0.1"));
    bench.apply(1, &config(&format!("{a}:host/b:{}", b.port())), &[b]).await;
    bench.apply(2, &config(&format!("{b}:host/web:{}", server.address.port())), &[server.address]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = connect(a).await;
        echoes(&mut client).await;
        clients.push(client);
    }
    assert_eq!(bench.registry.open_connections().len(), 40);
    assert_eq!(bench.status(1).state, MappingState::Up);

    let before = bench.registry.closed_count();
    bench.apply(2, &config(&format!("{b}:host/a:{}", a.port())), &[a]).await;
    assert_eq!(end_of(b).await, ErrorKind::ConnectionReset);
    let status = bench.state(2, MappingState::Failed).await;
    let way = format!("would forward to itself: :{} -> :{} -> :{}", b.port(), a.port(), b.port());
    assert_eq!(status.reason.as_ref().map(StateReason::to_string), Some(way));
    // Three of the circle; the 20 of the failed mapping and the 20 before it end with it.
    until("the circle's end", || (bench.registry.closed_count() - before >= 43).then_some(())).await;
    assert_eq!(bench.reasons().iter().filter(|reason| **reason == CloseReason::Rejected).count(), 1);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_thousand_connects_to_a_closed_ephemeral_port_never_succeed() {
    // Sooner or later the kernel picks the very port that is dialled, and connects the socket to itself. It
    // walks through the even ports first, all of them in some 14,000 connects.
    let closed = [even_port("127.0.0.1"), even_port("::1")];
    for number in 0..30_000 {
        let outcome = dial::connect(closed[number % 2]).await;
        assert!(matches!(outcome, Err(DialError::Refused)), "{number}: {outcome:?}");
    }
}

/// An even port out of the range from which the kernel picks those of clients, and on which nobody listens.
fn even_port(ip: &str) -> SocketAddr {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("the range");
    let mut ends = range.split_whitespace().map(|end| end.parse::<u16>().expect("a port"));
    let (first, last) = (ends.next().expect("the first"), ends.next().expect("the last"));
    let mut ports = (first..=last).filter(|port| port % 2 == 0).skip(500);
    let free = ports.find(|port| std::net::TcpListener::bind((ip, *port)).is_ok()).expect("a free port");
    SocketAddr::new(ip.parse().expect("an address"), free)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_max_connections_clients_are_reset_and_the_mapping_is_degraded_meanwhile() {
    let bench = Bench::start();
    let server = Server::echo("127.0.0.1");
    let mut mapping = config(&format!("localhost:auto:{}", server.address));
    mapping.max_connections = Some(2);
    let status = bench.apply(1, &mapping, &[server.address]).await;
    let mut first = connect(status.listeners[0].bound.expect("bound")).await;
    let mut second = connect(status.listeners[1].bound.expect("bound")).await;
    echoes(&mut first).await;
    echoes(&mut second).await;
    for listener in &status.listeners {
        assert_eq!(end_of(listener.bound.expect("bound")).await, ErrorKind::ConnectionReset);
    }
    let degraded = bench.state(1, MappingState::Degraded).await;
    let text = degraded.reason.map(|reason| reason.to_string());
    assert_eq!(text.as_deref(), Some("max_connections (2) is reached: more clients are turned away"));
    echoes(&mut first).await;
    drop(second);
    until("a place", || (bench.registry.open_connections().len() == 1).then_some(())).await;
    echoes(&mut connect(bound(&status)).await).await;
    bench.state(1, MappingState::Up).await;
    assert_eq!(bench.reasons().iter().filter(|reason| **reason == CloseReason::Limit).count(), 2);
    // Raising the cap is an edit like any other: what stands stays.
    mapping.max_connections = Some(3);
    bench.apply(1, &mapping, &[server.address]).await;
    echoes(&mut first).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_cap_of_flows_a_udp_mapping_is_degraded_until_nobody_meets_it() {
    let bench = Bench::start();
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let target = server.local_addr().expect("it is bound");
    let echo = tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((count, from)) = server.recv_from(&mut buffer).await {
            server.send_to(&buffer[..count], from).await.expect("sent");
        }
    });
    let mut mapping = config(&format!("127.0.0.1:auto:{target}/udp"));
    mapping.max_connections = Some(2);
    let listener = bound(&bench.apply(1, &mapping, &[target]).await);
    let client = || async {
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        client.connect(listener).await.expect("connected");
        client.send(b"x").await.expect("sent");
        client
    };
    let (first, second) = (client().await, client().await);
    for flow in [&first, &second] {
        // Answered more than once, so it does not give way to a newcomer.
        for _ in 0..3 {
            timeout(PATIENCE, flow.recv(&mut [0; 8])).await.expect("in time").expect("echoed");
            flow.send(b"x").await.expect("sent");
        }
    }
    bench.state(1, MappingState::Up).await;
    let _third = client().await;
    let degraded = bench.state(1, MappingState::Degraded).await;
    let text = degraded.reason.map(|reason| reason.to_string());
    assert_eq!(text.as_deref(), Some("max_connections (2) is reached: more clients are turned away"));
    bench.state(1, MappingState::Up).await;
    echo.abort();
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_descriptor_budget_clients_are_reset_and_others_go_on() {
    // One for the listener, two for each connection.
    let bench = Bench::with(5, None);
    let server = Server::echo("127.0.0.1");
    let listener = bench.map(1, "[::1]", server.address).await;
    let (mut first, mut second) = (connect(listener).await, connect(listener).await);
    echoes(&mut first).await;
    echoes(&mut second).await;
    assert_eq!(bench.engine.descriptors(), (5, 5));
    assert_eq!(end_of(listener).await, ErrorKind::ConnectionReset);
    bench.state(1, MappingState::Degraded).await;
    let status = bench.apply(2, &config(&format!("auto:{}", server.address)), &[server.address]).await;
    let text = status.reason.map(|reason| reason.to_string());
    let expected = "needs 2 descriptors, 0 of 5 are left (raise the limit with ulimit -n)";
    assert_eq!((status.state, text.as_deref()), (MappingState::Failed, Some(expected)));
    echoes(&mut first).await;
    drop(second);
    // Retried: with a connection gone, there is room for the second mapping.
    bench.state(2, MappingState::Up).await;
    bench.shutdown().await;
}

/// The engine alone in a process that may open few descriptors; the test drives it over its pipes.
struct Hungry {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Hungry {
    fn ask(&mut self, question: &str) -> String {
        writeln!(self.child.stdin.as_mut().expect("a pipe"), "{question}").expect("it listens");
        let mut answer = String::new();
        // The test harness prints lines of its own.
        while !answer.starts_with("> ") {
            answer.clear();
            assert_ne!(self.answers.read_line(&mut answer).expect("it speaks"), 0, "it is alive");
        }
        answer[2..].trim().to_owned()
    }

    /// Time on a processor so far, in hundredths of a second.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it is alive");
        let fields: Vec<_> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
        fields[11..=12].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
    }
}

impl Drop for Hungry {
    fn drop(&mut self) {
        // Fails when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const HUNGRY_TARGET: &str = "PORTOLAN_TEST_HUNGRY_TARGET";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of out_of_descriptors_is_waited_out_and_no_mapping_ends_in_silence"]
async fn hungry_engine() {
    let target: SocketAddr = std::env::var(HUNGRY_TARGET).expect("a target").parse().expect("an address");
    setrlimit(Resource::RLIMIT_NOFILE, 256, 256).expect("the limit is lowered");
    let bench = Bench::start();
    let listener = bench.map(1, "127.0.0.1", target).await;
    let (ask, mut questions) = tokio::sync::mpsc::channel::<String>(1);
    let reader = std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if ask.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(question) = questions.recv().await {
        match question.as_str() {
            "listener" => println!("\n> {listener}"),
            "open" => println!("\n> {}", bench.registry.open_connections().len()),
            "descriptors" => println!("\n> {}", std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)),
            "state" => println!("\n> {:?} {:?}", bench.status(1).state, bench.status(1).reason),
            _ => break,
        }
    }
    drop(questions);
    bench.shutdown().await;
    reader.join().expect("the reader ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_descriptors_is_waited_out_and_no_mapping_ends_in_silence() {
    let server = Server::echo("127.0.0.1");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["hungry_engine", "--exact", "--ignored", "--nocapture"])
        .env(HUNGRY_TARGET, server.address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let answers = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut hungry = Hungry { child, answers };
    let listener: SocketAddr = hungry.ask("listener").parse().expect("an address");
    let mut lucky = Vec::new();
    let mut waiting = JoinSet::new();
    // Far more than it can serve; who is not served is reset or waits in the backlog.
    for _ in 0..2_000 {
        // One may be reset so soon that connecting tells it.
        let Ok(mut client) = try_connect(listener).await else { continue };
        waiting.spawn(async move {
            let outcome = try_echo_patiently(&mut client).await;
            (client, outcome)
        });
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, waiting.join_next()).await {
        let (client, outcome) = ended.expect("the client's part went well");
        if outcome.is_ok() {
            lucky.push(client);
        }
    }
    assert!(lucky.len() > 50, "{} served", lucky.len());
    assert!(hungry.ask("state").starts_with("Degraded Some(Limit(OutOfDescriptors))"), "{}", hungry.ask("state"));
    let before = hungry.ticks();
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    while started.elapsed() < Duration::from_secs(2) {
        let one = Instant::now();
        echoes(&mut lucky[0]).await;
        slowest = slowest.max(one.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    let ticks = hungry.ticks() - before;
    println!("{} served; 2 s with the rest waiting: {ticks} ticks of CPU, slowest echo {slowest:?}", lucky.len());
    assert!(ticks < 100, "{ticks} of 200 ticks: it spins");
    // Half of them go: who waits, or comes now, is served.
    lucky.truncate(lucky.len() / 2);
    drop(waiting);
    until("a place", || {
        let address = std::net::TcpStream::connect(listener).ok()?;
        let mut stream = address;
        stream.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
        stream.write_all(b"x").ok()?;
        std::io::Read::read_exact(&mut stream, &mut [0]).ok()
    })
    .await;
    echoes(&mut lucky[0]).await;
    drop(lucky);
    until("every connection's end", || (hungry.ask("open") == "0").then_some(())).await;
    until("the end of the shortage", || hungry.ask("state").starts_with("Up").then_some(())).await;
    println!("{} descriptors at the end", hungry.ask("descriptors"));
    assert!(hungry.ask("descriptors").parse::<u32>().expect("a number") < 30);
}

/// One echo, however long it takes to be accepted.
async fn try_echo_patiently(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0]).await.map(drop)
}
