//! TCP connections that end as they should, are reset by either side, or are killed while both sides send.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::common::SOON;
use crate::common::program::{Home, Run};
use crate::ledger::{Amount, Ledger, Received, wait_for_totals};
use crate::sockets::{PATIENCE, Server, connect, noise, reset, until};

/// Connections that go one of the ways but [`Way::Killed`].
const CONNECTIONS: u32 = 9_500;
/// How many are open at once.
const AT_ONCE: usize = 100;
/// Times that a mapping is stopped, each with so many connections.
const STOPS: (u32, u32) = (10, 50);
/// Longest message; that of a target that resets while it sends is always so long.
const LONGEST: u32 = 200_000;

/// How a connection goes. In each of them both peers know at the end what they received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Both send, end, and read to the end.
    Whole,
    /// The client resets after the exchange.
    ClientResets,
    /// The client resets while it sends.
    ClientResetsMidway,
    /// The target resets while it sends.
    TargetResetsMidway,
    /// The client resets without a word; the forwarder may be dialling.
    AtOnce,
    /// Both send for ever, until the mapping is stopped.
    Killed,
}

impl Way {
    const ALL: [Self; 6] = [
        Self::Whole,
        Self::ClientResets,
        Self::ClientResetsMidway,
        Self::TargetResetsMidway,
        Self::AtOnce,
        Self::Killed,
    ];

    fn of(number: u32) -> Self {
        match number % 10 {
            0 => Self::AtOnce,
            1 => Self::ClientResets,
            2 => Self::ClientResetsMidway,
            3 => Self::TargetResetsMidway,
            _ => Self::Whole,
        }
    }
}

/// What a client says first: how it will go, and the lengths of request and reply.
#[derive(Clone, Copy, Debug)]
struct Head {
    way: Way,
    request: u32,
    reply: u32,
}

const HEAD: usize = 9;

impl Head {
    fn of(number: u32, way: Way) -> Self {
        let reply = if way == Way::TargetResetsMidway { LONGEST } else { 1 + number * 104_729 % 30_000 };
        Self { way, request: number * 7_919 % 20_000, reply }
    }

    fn to_bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[0] = u8::try_from(Way::ALL.iter().position(|way| *way == self.way).expect("one of them")).expect("small");
        bytes[1..5].copy_from_slice(&self.request.to_be_bytes());
        bytes[5..].copy_from_slice(&self.reply.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; HEAD]) -> Self {
        let figure = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Self { way: Way::ALL[usize::from(bytes[0])], request: figure(1), reply: figure(5) }
    }
}

async fn count_to_end(stream: &mut (impl AsyncReadExt + Unpin)) -> u64 {
    let mut buffer = vec![0; 16 * 1024];
    let mut count = 0;
    while let Ok(got @ 1..) = stream.read(&mut buffer).await {
        count += got as u64;
    }
    count
}

async fn exactly(stream: &mut TcpStream, length: u32) -> u64 {
    let mut rest = stream.take(length.into());
    let count = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.expect("all of it");
    assert_eq!(count, u64::from(length));
    count
}

/// The target's side; gives what it received.
async fn answer(mut stream: TcpStream, payload: &[u8]) -> u64 {
    let mut head = [0; HEAD];
    if stream.read_exact(&mut head).await.is_err() {
        // The way of those who say nothing.
        return 0;
    }
    let head = Head::from_bytes(head);
    let reply = &payload[..head.reply as usize];
    let count = match head.way {
        Way::Whole => {
            let (mut read, mut write) = stream.split();
            let writing = async {
                write.write_all(reply).await.expect("taken");
                write.shutdown().await.expect("ended");
            };
            tokio::join!(count_to_end(&mut read), writing).0
        }
        Way::ClientResets | Way::ClientResetsMidway => {
            let count = exactly(&mut stream, head.request).await;
            stream.write_all(reply).await.expect("taken");
            count + count_to_end(&mut stream).await
        }
        Way::TargetResetsMidway => {
            let count = exactly(&mut stream, head.request).await;
            stream.write_all(reply).await.expect("taken");
            reset(stream);
            count
        }
        Way::Killed => {
            let (mut read, mut write) = stream.split();
            let writing = async { while write.write_all(reply).await.is_ok() {} };
            tokio::join!(count_to_end(&mut read), writing).0
        }
        Way::AtOnce => unreachable!("it says nothing"),
    };
    HEAD as u64 + count
}

/// A target and what it received.
struct Target {
    server: Server,
    received: Arc<Mutex<Received>>,
}

impl Target {
    fn start(payload: &Arc<[u8]>) -> Self {
        let received: Arc<Mutex<Received>> = Arc::default();
        let (sums, payload) = (Arc::clone(&received), Arc::clone(payload));
        let server = Server::start_knowing_peers("127.0.0.1", move |stream, source| {
            let (sums, payload) = (Arc::clone(&sums), Arc::clone(&payload));
            async move {
                let bytes = answer(stream, &payload).await;
                let amount = Amount { bytes, datagrams: 0 };
                sums.lock().expect("no panic").entry(source).or_default().add(amount);
            }
        });
        Self { server, received }
    }

    fn received(&self) -> Received {
        self.received.lock().expect("no panic").clone()
    }
}

/// One client; gives its address and what it received.
async fn client(listener: SocketAddr, payload: &[u8], head: Head, under_way: &AtomicUsize) -> (SocketAddr, u64) {
    let mut stream = connect(listener).await;
    let local = stream.local_addr().expect("an address");
    let request = &payload[..head.request as usize];
    if head.way == Way::AtOnce {
        reset(stream);
        return (local, 0);
    }
    stream.write_all(&head.to_bytes()).await.expect("taken");
    let count = match head.way {
        Way::Whole => {
            let (mut read, mut write) = stream.split();
            let writing = async {
                write.write_all(request).await.expect("taken");
                write.shutdown().await.expect("ended");
            };
            tokio::join!(count_to_end(&mut read), writing).0
        }
        Way::ClientResets => {
            stream.write_all(request).await.expect("taken");
            let count = exactly(&mut stream, head.reply).await;
            reset(stream);
            count
        }
        Way::ClientResetsMidway => {
            stream.write_all(request).await.expect("taken");
            let count = exactly(&mut stream, head.reply).await;
            // With bytes on their way, in every buffer between here and the target.
            for _ in 0..=head.reply % 8 {
                stream.write_all(&payload[..50_000]).await.expect("taken");
            }
            reset(stream);
            count
        }
        Way::TargetResetsMidway => {
            stream.write_all(request).await.expect("taken");
            count_to_end(&mut stream).await
        }
        Way::Killed => {
            let (mut read, mut write) = stream.split();
            let writing = async { while write.write_all(payload).await.is_ok() {} };
            let reading = async {
                read.read_exact(&mut [0]).await.expect("a first byte");
                under_way.fetch_add(1, Ordering::SeqCst);
                1 + count_to_end(&mut read).await
            };
            tokio::join!(reading, writing).0
        }
        Way::AtOnce => unreachable!("it is gone"),
    };
    (local, count)
}

/// Adds what ended clients received.
async fn settle(clients: &mut JoinSet<(SocketAddr, u64)>, received: &mut Received) {
    while let Some(ended) = timeout(3 * PATIENCE, clients.join_next()).await.expect("clients end") {
        let (local, bytes) = ended.expect("the client's part went well");
        received.entry(local).or_default().add(Amount { bytes, datagrams: 0 });
    }
}

fn profile(open: SocketAddr, stopped: SocketAddr, enabled: bool) -> String {
    format!(
        r#"{{ "version": 1, "mappings": [
            {{ "name": "open", "listen": "[::1]:auto", "target": "{open}" }},
            {{ "name": "stopped", "listen": "[::1]:auto", "target": "{stopped}", "enabled": {enabled} }}
        ] }}"#
    )
}

fn listening(run: &mut Run, mark: usize, mapping: &str) -> SocketAddr {
    let is_it = |event: &serde_json::Value| event["event"] == "listening" && event["mapping"] == mapping;
    let event = run.event_after(mark, &format!("{mapping} listens"), SOON, is_it);
    event["listener"].as_str().and_then(|text| text.parse().ok()).expect("a listener is an address")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tcp_connections_are_told_as_their_peers_saw_them() {
    let payload: Arc<[u8]> = noise(24, LONGEST as usize).into();
    let (open, stopped) = (Target::start(&payload), Target::start(&payload));
    let home = Home::new();
    let write = |enabled| home.write_profile("default", &profile(open.server.address, stopped.server.address, enabled));
    write(true);
    let mut run = home.run(None, ["--interval", "200ms", "--drain", "0s"]);
    let listener = listening(&mut run, 0, "open");

    let places = Arc::new(Semaphore::new(AT_ONCE));
    let under_way = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        let (places, payload, under_way) = (Arc::clone(&places), Arc::clone(&payload), Arc::clone(&under_way));
        clients.spawn(async move {
            let _place = places.acquire().await.expect("it is never closed");
            client(listener, &payload, Head::of(number, Way::of(number)), &under_way).await
        });
    }

    // Beside them, and at the same time, others are killed with all they have in flight.
    let mut at_stopped_clients = Received::new();
    for stop in 0..STOPS.0 {
        let mark = if stop == 0 { 0 } else { run.mark() };
        if stop > 0 {
            write(true);
        }
        let listener = listening(&mut run, mark, "stopped");
        under_way.store(0, Ordering::SeqCst);
        let mut clients = JoinSet::new();
        for number in 0..STOPS.1 {
            let (payload, under_way) = (Arc::clone(&payload), Arc::clone(&under_way));
            let head = Head::of(stop * STOPS.1 + number, Way::Killed);
            clients.spawn(async move { client(listener, &payload, head, &under_way).await });
        }
        let all = STOPS.1 as usize;
        until("bytes of each connection", || (under_way.load(Ordering::SeqCst) == all).then_some(())).await;
        sleep(Duration::from_millis(u64::from(stop) * 3)).await;
        write(false);
        settle(&mut clients, &mut at_stopped_clients).await;
    }
    let mut at_open_clients = Received::new();
    settle(&mut clients, &mut at_open_clients).await;

    wait_for_totals(&mut run, "open", || open.received(), &at_open_clients);
    wait_for_totals(&mut run, "stopped", || stopped.received(), &at_stopped_clients);
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);
    let ledger = Ledger::read(&ended.events);
    ledger.expect("open", "in", "source", &open.received());
    ledger.expect("open", "out", "client", &at_open_clients);
    ledger.expect("stopped", "in", "source", &stopped.received());
    ledger.expect("stopped", "out", "client", &at_stopped_clients);

    let reasons = ledger.reasons();
    println!("{} connections: {reasons:?}", ledger.closed.len());
    let of = |reason: &str| reasons.get(reason).copied().unwrap_or_default();
    // Who resets at once may be gone before he is accepted.
    assert!(ledger.closed.len() >= 9_050 && ledger.closed.len() <= 10_000, "{}", ledger.closed.len());
    assert_eq!(of("mapping_removed"), (STOPS.0 * STOPS.1) as usize);
    assert_eq!((of("finished"), of("target_reset")), (5_700, 950), "{reasons:?}");
    assert!(of("client_reset") >= 1_900, "{reasons:?}");
}
