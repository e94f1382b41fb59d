//! UDP flows that expire, give way to others, or end with their mapping, after exchanges of all shapes.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use portolan::forward::descriptors::raise_limit;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::common::SOON;
use crate::common::program::{Home, Run};
use crate::ledger::{Amount, Ledger, Received, wait_for_totals};
use crate::sockets::{PATIENCE, until};

/// How many clients speak at once: so few that no buffer overflows, since what the kernel drops nobody receives.
const AT_ONCE: usize = 50;
/// Clients of the mapping of few flows, of the one with a short timeout, and of the one that is stopped at times.
const CLIENTS: [u32; 3] = [5_000, 3_000, 2_000];
/// Clients between two stops.
const BETWEEN_STOPS: u32 = 250;
/// Flows of the first mapping.
const FEW: u32 = 500;

/// What a datagram asks for: so many replies of so many bytes. Behind it comes padding.
#[derive(Clone, Copy, Debug)]
struct Ask {
    client: u32,
    replies: u8,
    length: u16,
}

const ASK: usize = 7;

impl Ask {
    fn to_bytes(self, padding: usize) -> Vec<u8> {
        let mut bytes = self.client.to_be_bytes().to_vec();
        bytes.push(self.replies);
        bytes.extend(self.length.to_be_bytes());
        bytes.resize(ASK + padding, 0x5a);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let client = bytes[..4].try_into().map(u32::from_be_bytes).expect("four bytes");
        let length = bytes[5..ASK].try_into().map(u16::from_be_bytes).expect("two bytes");
        Self { client, replies: bytes[4], length }
    }
}

/// What a target has heard: from where, and how many datagrams of which client.
#[derive(Debug, Default)]
struct Heard {
    received: Received,
    clients: HashMap<u32, u32>,
}

/// A target that answers as it is asked, and counts.
struct Target {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    _task: JoinSet<()>,
}

impl Target {
    async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let book = Arc::clone(&heard);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            let reply = vec![0xa5; usize::from(u16::MAX)];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.expect("it receives");
                let ask = Ask::from_bytes(&buffer[..length]);
                {
                    let mut book = book.lock().expect("no panic");
                    let amount = Amount { bytes: length as u64, datagrams: 1 };
                    book.received.entry(from).or_default().add(amount);
                    *book.clients.entry(ask.client).or_default() += 1;
                }
                for _ in 0..ask.replies {
                    socket.send_to(&reply[..usize::from(ask.length)], from).await.expect("it sends");
                }
            }
        });
        Self { address, heard, _task: task }
    }

    fn received(&self) -> Received {
        self.heard.lock().expect("no panic").received.clone()
    }
}

/// How clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// One datagram, and one reply at most. Such flows give way to newer ones.
    Short,
    /// Up to three datagrams, and up to two replies to each.
    Long,
}

/// One client; gives its socket and what it received. Some never get a reply, and each waits for what it asked for
/// before it goes on.
async fn client(listener: SocketAddr, number: u32, manner: Manner, heard: &Mutex<Heard>) -> (UdpSocket, Amount) {
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("a free port");
    socket.connect(listener).await.expect("a way to loopback");
    let mut received = Amount::default();
    let mut buffer = vec![0; 1 << 16];
    let rounds = if manner == Manner::Short || number.is_multiple_of(3) { 1 } else { 3 };
    for round in 0..rounds {
        let replies = match manner {
            _ if number.is_multiple_of(4) => 0,
            Manner::Short => 1,
            Manner::Long => (number + round) % 3,
        };
        let ask = Ask {
            client: number,
            replies: u8::try_from(replies).expect("few"),
            // A reply of no bytes is one, too.
            length: if number % 7 == 1 { 0 } else { u16::try_from(number * 31 % 1_400).expect("short") },
        };
        let padding = if number % 500 == 7 { 8_000 } else { number as usize * 17 % 1_200 };
        socket.send(&ask.to_bytes(padding)).await.expect("it is sent");
        for reply in 0..replies {
            let length = timeout(PATIENCE, socket.recv(&mut buffer)).await;
            let length = length.unwrap_or_else(|_| {
                panic!("client {number} ({:?} to {listener}): no reply {reply} in round {round}", socket.local_addr())
            });
            let bytes = length.expect("no refusal") as u64;
            assert_eq!(bytes, u64::from(ask.length));
            received.add(Amount { bytes, datagrams: 1 });
        }
        let is_heard = || heard.lock().expect("no panic").clients.get(&number).is_some_and(|count| *count > round);
        until("the target to hear", || is_heard().then_some(())).await;
    }
    (socket, received)
}

/// Clients with these numbers. Their sockets stay open, so that no port has two clients.
async fn clients(
    listener: SocketAddr,
    numbers: std::ops::Range<u32>,
    manner: Manner,
    heard: &Arc<Mutex<Heard>>,
    received: &mut Received,
) -> Vec<UdpSocket> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut clients = JoinSet::new();
    for number in numbers {
        let (places, heard) = (Arc::clone(&places), Arc::clone(heard));
        clients.spawn(async move {
            let _place = places.acquire().await.expect("it is never closed");
            client(listener, number, manner, &heard).await
        });
    }
    let mut sockets = Vec::new();
    for (socket, amount) in clients.join_all().await {
        received.entry(socket.local_addr().expect("it is bound")).or_default().add(amount);
        sockets.push(socket);
    }
    sockets
}

fn profile(targets: &[Target; 3], enabled: bool) -> String {
    let [few, short, stopped] = targets.each_ref().map(|target| target.address);
    format!(
        r#"{{ "version": 1, "mappings": [
            {{ "name": "few", "listen": "[::1]:auto", "target": "{few}", "protocol": "udp", "max_connections": {FEW} }},
            {{ "name": "short", "listen": "[::1]:auto", "target": "{short}", "protocol": "udp", "idle_timeout": "1s" }},
            {{ "name": "stopped", "listen": "[::1]:auto", "target": "{stopped}", "protocol": "udp",
               "enabled": {enabled} }}
        ] }}"#
    )
}

fn listening(run: &mut Run, mark: usize, mapping: &str) -> SocketAddr {
    let is_it = |event: &serde_json::Value| event["event"] == "listening" && event["mapping"] == mapping;
    let event = run.event_after(mark, &format!("{mapping} listens"), SOON, is_it);
    event["listener"].as_str().and_then(|text| text.parse().ok()).expect("a listener is an address")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_udp_clients_are_told_as_their_peers_saw_them() {
    raise_limit().expect("the limit is read");
    let targets = [Target::start().await, Target::start().await, Target::start().await];
    let home = Home::new();
    home.write_profile("default", &profile(&targets, true));
    let mut run = home.run(None, ["--interval", "200ms", "--drain", "0s"]);
    let mut received = [Received::new(), Received::new(), Received::new()];
    let [at_few, at_short, at_stopped] = &mut received;
    let listeners = ["few", "short"].map(|name| listening(&mut run, 0, name));
    let _sockets = tokio::join!(
        clients(listeners[0], 0..CLIENTS[0], Manner::Short, &targets[0].heard, at_few),
        clients(listeners[1], 0..CLIENTS[1], Manner::Long, &targets[1].heard, at_short),
    );
    let mut sockets = Vec::new();
    let mut mark = 0;
    for first in (0..CLIENTS[2]).step_by(BETWEEN_STOPS as usize) {
        let listener = listening(&mut run, mark, "stopped");
        let numbers = first..first + BETWEEN_STOPS;
        sockets.extend(clients(listener, numbers, Manner::Long, &targets[2].heard, at_stopped).await);
        mark = run.mark();
        home.write_profile("default", &profile(&targets, false));
        let is_stopped = |event: &serde_json::Value| event["event"] == "mapping_state" && event["state"] == "stopped";
        run.event_after(mark, "stopped", SOON, is_stopped);
        home.write_profile("default", &profile(&targets, true));
    }

    for (name, (target, received)) in ["few", "short", "stopped"].into_iter().zip(targets.iter().zip(&received)) {
        wait_for_totals(&mut run, name, || target.received(), received);
    }
    let expired = |event: &&serde_json::Value| event["connection"]["reason"] == "idle_timeout";
    let all = CLIENTS[1] as usize;
    until("the idle flows to end", || (run.events().iter().filter(expired).count() == all).then_some(())).await;
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);
    let ledger = Ledger::read(&ended.events);
    for (name, (target, received)) in ["few", "short", "stopped"].into_iter().zip(targets.iter().zip(&received)) {
        ledger.expect(name, "in", "source", &target.received());
        ledger.expect(name, "out", "client", received);
    }
    println!("{} flows: {:?}", ledger.closed.len(), ledger.reasons());
    let [few, short, stopped] = CLIENTS;
    let expected = [("evicted", few - FEW), ("idle_timeout", short), ("mapping_removed", stopped), ("shutdown", FEW)];
    let expected: Vec<_> = expected.map(|(reason, count)| (reason, count as usize)).into();
    assert_eq!(ledger.reasons().into_iter().collect::<Vec<_>>(), expected);
}
