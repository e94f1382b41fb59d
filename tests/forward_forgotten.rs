//! What is on its way is not lost when the kernel of its sender, or Docker, has forgotten whom it came from.

mod common;
#[path = "common/sockets.rs"]
mod sockets;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Need, require};
use portolan::forward::context::Addresses;
use portolan::forward::registry::Record;
use portolan::model::event::CloseReason;
use socket2::{Domain, Socket, Type};
use sockets::{Bench, PATIENCE, bound, config, connect, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

/// So much more for each client than for the one before. With some, all of it fits into the queue towards the client;
/// with some, a part waits in the one from the target; with some, the target's kernel keeps a part.
const STEP: usize = 600_000;
const CLIENTS: usize = 12;

/// Sends to its clients, closes, and is forgotten by its kernel a second after its end was taken.
const TARGET: &str = r"
import socket, sys
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
length = 0
while True:
    client, _ = listener.accept()
    length += int(sys.argv[1])
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
    client.sendall((bytes(range(251)) * (length // 251 + 1))[:length])
    client.close()
";

struct Target(Child, SocketAddr);

impl Target {
    fn start() -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", TARGET, &STEP.to_string()]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its port");
        Self(child, SocketAddr::from(([127, 0, 0, 1], line.trim().parse().expect("a port"))))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this host's kernel knows the target's end of a connection.
fn knows_target_of(record: &Record, target: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let source = record.source().expect("it is connected");
    let (local, peer) = (format!(":{:04X}", target.port()), format!(":{:04X}", source.port()));
    table.lines().any(|row| {
        let row: Vec<_> = row.split_whitespace().collect();
        row[1].ends_with(&local) && row[2].ends_with(&peer)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keepalive_destroys_nothing_of_what_waits_for_a_slow_reader() {
    if !require(&[Need::Python]) {
        return;
    }
    let bench = Bench::start();
    let target = Target::start();
    let listener = bench.map(1, "[::1]", target.1).await;
    let mut clients = Vec::new();
    for number in 1..=CLIENTS {
        let socket = TcpSocket::new_v6().expect("a socket");
        socket.set_recv_buffer_size(4 * 1024).expect("it can be set");
        let client = socket.connect(listener).await.expect("connected");
        // The target serves one after the other.
        let record = until("it is connected", || {
            let open = bench.registry.open_connections();
            open.into_iter()
                .find(|record| record.peer.port() == client.local_addr().unwrap().port())
                .filter(|record| record.counters.read().bytes_out > 0)
        })
        .await;
        clients.push((client, record, number * STEP));
    }
    let ways = || {
        clients.iter().fold([0, 0, 0], |mut ways, (_, record, length)| {
            let is_known = knows_target_of(record, target.1);
            let has_gone_on = record.counters.read().bytes_out == *length as u64;
            ways[if is_known {
                0
            } else if has_gone_on {
                1
            } else {
                2
            }] += 1;
            ways
        })
    };
    let [known, gone_on, waits] =
        until("targets are forgotten", || Some(ways()).filter(|ways| ways[1] > 0 && ways[2] > 0)).await;
    println!(
        "of {CLIENTS} targets {known} are known, {gone_on} forgotten with all gone on, {waits} while something waits"
    );
    // Longer than the first probe takes (15 s), and what comes after it.
    sleep(Duration::from_secs(25)).await;
    for (mut client, _, length) in clients {
        let mut received = Vec::new();
        timeout(PATIENCE, client.read_to_end(&mut received)).await.expect("in time").expect("a clean end");
        let expected: Vec<u8> = (0..=250).cycle().take(length).collect();
        assert!(received == expected, "{} of {length} bytes", received.len());
    }
    bench.closed(CLIENTS).await;
    assert_eq!(bench.reasons(), [CloseReason::Finished; CLIENTS]);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_is_given_up_when_the_container_has_lost_its_address_meanwhile() {
    let bench = Bench::start();
    // A full backlog: the kernel drops further attempts without a word, as for a host that is gone, and takes one that
    // is sent again when there is room.
    let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    stranger.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    stranger.listen(0).expect("listens");
    let old = stranger.local_addr().expect("an address").as_socket().expect("an IP address");
    let _queued = connect(old).await;
    let waiting = || Addresses::Waiting { reason: "stopped".into() };
    for (id, target, is_given_up) in [(1, "web", true), (2, "compose/shop/web", true), (3, "host/web", false)] {
        let mut mapping = config(&format!("[::1]:auto:{target}:{}", old.port()));
        mapping.connect_timeout = Duration::from_secs(2);
        let listener = bound(&bench.apply(id, &mapping, &[old]).await);
        let mut client = connect(listener).await;
        client.write_all(b"for web alone").await.expect("taken");
        until("it is dialled", || Some(()).filter(|()| !bench.registry.open_connections().is_empty())).await;
        bench.apply_to(id, &mapping, waiting()).await;
        let end = timeout(PATIENCE, client.read(&mut [0])).await.expect("it is told");
        assert!(end.is_err(), "{target}: {end:?}");
        let closed = bench.closed(usize::try_from(id).expect("a few")).await;
        let reason = closed.last().and_then(|record| record.connection().reason);
        let expected = if is_given_up { CloseReason::TargetUnreachable } else { CloseReason::ConnectTimeout };
        assert_eq!(reason, Some(expected), "{target}");
    }
    bench.shutdown().await;
}
