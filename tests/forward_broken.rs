//! A listener whose socket fails comes back, and nobody else notices. A panic ends one UDP flow, although one task serves
//! all flows of a listener (fault 23).

#[path = "common/sockets.rs"]
mod sockets;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{Shutdown, SockaddrStorage, getpeername, getsockname, shutdown};
use portolan::forward::registry::Record;
use portolan::model::event::{CloseReason, MappingState};
use sockets::{Bench, Server, all_bound, config, connect, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

static PANIC: AtomicBool = AtomicBool::new(false);

fn panic_on_demand(_: &Record) {
    assert!(!PANIC.swap(false, Ordering::SeqCst), "injected");
}

/// Sends back what it gets.
async fn udp_echo() -> SocketAddr {
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let address = server.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((count, from)) = server.recv_from(&mut buffer).await {
            let _ = server.send_to(&buffer[..count], from).await;
        }
    });
    address
}

async fn client(listener: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind((listener.ip(), 0)).await.expect("a free port");
    client.connect(listener).await.expect("connected");
    client
}

/// Whether a datagram comes back; who is refused hears of it as an error.
async fn echoes(client: &UdpSocket) -> bool {
    let mut buffer = [0; 16];
    client.send(b"there?").await.is_ok()
        && matches!(timeout(Duration::from_secs(3), client.recv(&mut buffer)).await, Ok(Ok(6)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_one_udp_flow_and_no_other() {
    let bench = Bench::with(1_000, Some(panic_on_demand));
    let target = udp_echo().await;
    let status = bench.apply(1, &config(&format!("localhost:auto:{target}/udp")), &[target]).await;
    let (v4, v6) = (all_bound(&status)[0], all_bound(&status)[1]);
    let server = Server::echo("127.0.0.1");
    let mut stream = connect(bench.map(3, "127.0.0.1", server.address).await).await;
    let sibling = client(v6).await;
    let mine = client(v4).await;
    for client in [&sibling, &mine] {
        assert!(echoes(client).await);
    }
    let descriptors = bench.engine.descriptors().0;
    for round in 1..=3 {
        let before = bench.registry.closed_count();
        PANIC.store(true, Ordering::SeqCst);
        let newcomer = client(v4).await;
        let _ = newcomer.send(b"x").await;
        until("the flow's end", || (bench.registry.closed_count() > before).then_some(())).await;
        let (closed, _) = bench.registry.closed_since(before);
        assert_eq!(closed.len(), 1, "round {round}");
        let connection = closed[0].connection();
        assert_eq!(connection.client, newcomer.local_addr().expect("an address"));
        assert_eq!(connection.reason, Some(CloseReason::Fault));
        assert_eq!(connection.error.as_ref().map(AsRef::as_ref), Some("its task panicked"));
        // Nobody else has lost a datagram or a byte, not even on the same listener.
        assert!(echoes(&mine).await && echoes(&sibling).await);
        echoes_over(&mut stream).await;
        assert_eq!(bench.status(1).state, MappingState::Up);
        // And the one that met it gets in with its next datagram.
        assert!(echoes(&newcomer).await);
        drop(newcomer);
        bench.registry.kill_where(CloseReason::Killed, |record| Some(record.peer) == closed.first().map(|c| c.peer));
        until("its end", || (bench.registry.closed_count() >= before + 2).then_some(())).await;
    }
    // Ports of flows that have ended are held for a second.
    until("each descriptor", || (bench.engine.descriptors().0 == descriptors).then_some(())).await;
    bench.shutdown().await;
}

/// Ends a listening socket of this process under its owner: accept fails from now on.
async fn break_listener(listener: SocketAddr) {
    let wanted = SockaddrStorage::from(listener);
    let listening = until("one socket that listens", || {
        let descriptors = std::fs::read_dir("/proc/self/fd").expect("our descriptors");
        let listening: Vec<i32> = descriptors
            .filter_map(|entry| entry.expect("an entry").file_name().to_str()?.parse().ok())
            .filter(|fd| getsockname::<SockaddrStorage>(*fd).is_ok_and(|local| local == wanted))
            // Connections through it have the same address; theirs is a peer's, too, until they are over. One that is over
            // and still open is gone a moment later.
            .filter(|fd| getpeername::<SockaddrStorage>(*fd).is_err())
            .collect();
        <[i32; 1]>::try_from(listening).ok()
    });
    shutdown(listening.await[0], Shutdown::Both).expect("it is ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listening_socket_that_fails_is_bound_again_and_its_connections_go_on() {
    let bench = Bench::start();
    let server = Server::echo("127.0.0.1");
    let status = bench.apply(1, &config(&format!("localhost:auto:{}", server.address)), &[server.address]).await;
    let (v4, v6) = (all_bound(&status)[0], all_bound(&status)[1]);
    let mut standing = [connect(v4).await, connect(v6).await];
    for stream in &mut standing {
        echoes_over(stream).await;
    }
    let descriptors = bench.engine.descriptors().0;
    for _ in 0..3 {
        break_listener(v4).await;
        // Told, and mended.
        let half = bench.state(1, MappingState::Half).await;
        let reason = half.reason.map(|reason| reason.to_string()).unwrap_or_default();
        assert!(reason.contains("listening socket"), "{reason}");
        echoes_over(&mut connect(v6).await).await;
        bench.state(1, MappingState::Up).await;
        echoes_over(&mut connect(v4).await).await;
    }
    for stream in &mut standing {
        echoes_over(stream).await;
    }
    until("only those that stand", || (bench.registry.open_connections().len() == 2).then_some(())).await;
    until("no descriptor lost", || (bench.engine.descriptors().0 == descriptors).then_some(())).await;
    assert!(bench.reasons().iter().all(|reason| *reason == CloseReason::Finished), "{:?}", bench.reasons());
    bench.shutdown().await;
}

async fn echoes_over(stream: &mut tokio::net::TcpStream) {
    stream.write_all(b"there?").await.expect("it stands");
    timeout(sockets::PATIENCE, stream.read_exact(&mut [0; 6])).await.expect("in time").expect("it echoes");
}
