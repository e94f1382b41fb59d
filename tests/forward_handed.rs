//! Sockets that were handed in to the engine: who takes them, who comes while nobody has them, and what is refused.

mod common;
#[path = "common/sockets.rs"]
mod sockets;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use common::ports::free_port;
use portolan::forward::context::Addresses;
use portolan::forward::engine::{ListenError, MappingStatus, Options};
use portolan::forward::handed::HandedSocket;
use portolan::model::event::{CloseReason, MappingState};
use portolan::model::id::MappingId;
use portolan::model::mapping::Protocol;
use portolan::model::profile::MappingConfig;
use socket2::{Domain, Socket, Type};
use sockets::{Bench, PATIENCE, Server, config, connect, try_connect, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// As systemd binds one, with `ListenStream=` or `ListenDatagram=`.
fn bound_by_systemd(kind: Type, address: &str) -> Socket {
    let address: SocketAddr = address.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(address), kind, None).expect("a socket");
    if address.is_ipv6() {
        socket.set_only_v6(true).expect("set");
    }
    socket.set_reuse_address(true).expect("set");
    socket.bind(&address.into()).expect("nobody is there");
    if kind == Type::STREAM {
        socket.listen(128).expect("listens");
    }
    socket
}

/// An engine that these are handed in to; the giver keeps its own, as systemd does.
fn engine_with(sockets: &[&Socket]) -> Bench {
    let hand = |socket: &&Socket| HandedSocket { name: "test".into(), fd: socket.try_clone().expect("ours").into() };
    Bench::with_options(Options { descriptor_limit: 1_000, sockets: sockets.iter().map(hand).collect() }, None)
}

async fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"there?").await.expect("taken");
    let mut reply = [0; 6];
    timeout(PATIENCE, stream.read_exact(&mut reply)).await.expect("in time").expect("an echo");
    assert_eq!(&reply, b"there?");
}

/// How a client ends that nobody serves.
async fn end_of(address: SocketAddr) -> ErrorKind {
    let end = async { try_connect(address).await?.read(&mut [0]).await };
    timeout(PATIENCE, end).await.expect("an end").expect_err("a reset").kind()
}

fn stopped(config: &MappingConfig) -> MappingConfig {
    MappingConfig { enabled: false, ..config.clone() }
}

fn in_use(status: &MappingStatus) -> bool {
    status.listeners.iter().all(|listener| matches!(listener.error, Some(ListenError::InUse { .. })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_takes_what_is_bound_where_it_listens_and_stops_and_starts_on_it() {
    let server = Server::echo("127.0.0.1");
    let port = free_port();
    let [v4, v6] = ["0.0.0.0", "[::]"].map(|ip| bound_by_systemd(Type::STREAM, &format!("{ip}:{port}")));
    let bench = engine_with(&[&v4, &v6]);
    let clients = ["127.0.0.1", "[::1]"].map(|ip| format!("{ip}:{port}").parse::<SocketAddr>().expect("an address"));
    let mapping = config(&format!("any:{port}:{}", server.address));
    // Who comes before there is a mapping may well be whom the program was started for.
    let mut early = connect(clients[0]).await;
    for round in 0..3 {
        let status = bench.apply(1, &mapping, &[server.address]).await;
        assert_eq!(status.state, MappingState::Up, "round {round}: {status:?}");
        assert_eq!(bench.engine.free_handed_in(Protocol::Tcp), []);
        for client in clients {
            echoes(&mut connect(client).await).await;
        }
        if round == 0 {
            echoes(&mut early).await;
        }
        let status = bench.apply(1, &stopped(&mapping), &[server.address]).await;
        assert_eq!(status.state, MappingState::Stopped);
        for client in clients {
            assert_eq!(end_of(client).await, ErrorKind::ConnectionReset, "round {round}");
        }
        assert_eq!(bench.engine.free_handed_in(Protocol::Tcp).len(), 2);
    }
    drop(early);
    let closed = bench.closed(7).await;
    assert_eq!(closed.len(), 7, "two a round and the early one: who is turned away is no connection");
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_are_answered_from_where_they_were_sent_to() {
    let target = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let at = target.local_addr().expect("bound");
    let answering = target.try_clone().expect("ours");
    std::thread::spawn(move || {
        let mut datagram = [0; 64];
        // Ends with the empty one.
        while let Ok((length, from)) = answering.recv_from(&mut datagram) {
            if length == 0 {
                return;
            }
            let _ = answering.send_to(&datagram[..length], from);
        }
    });
    let port = free_port();
    let [v4, v6] = ["0.0.0.0", "[::]"].map(|ip| bound_by_systemd(Type::DGRAM, &format!("{ip}:{port}")));
    let bench = engine_with(&[&v4, &v6]);
    let mapping = config(&format!("any:{port}:{at}/udp"));
    let ask = |ip: &str, text: &[u8]| {
        let client = UdpSocket::bind((if ip.contains(':') { "::" } else { "0.0.0.0" }, 0)).expect("a free port");
        client.set_read_timeout(Some(PATIENCE)).expect("set");
        // Connected: a reply from elsewhere would be dropped.
        client.connect(format!("{ip}:{port}")).expect("an address");
        client.send(text).expect("sent");
        client
    };
    let heard = |client: &UdpSocket| {
        let mut reply = [0; 64];
        let length = client.recv(&mut reply).expect("a reply");
        reply[..length].to_vec()
    };
    for _ in 0..2 {
        let status = bench.apply(1, &mapping, &[at]).await;
        assert_eq!(status.state, MappingState::Up, "{status:?}");
        for ip in ["127.0.0.1", "127.3.2.1", "[::1]"] {
            assert_eq!(heard(&ask(ip, b"ping")), b"ping", "{ip}");
        }
        bench.apply(1, &stopped(&mapping), &[at]).await;
        // What comes meanwhile is not kept for later.
        let waiting = ask("127.0.0.1", b"late");
        let emptied = async { until("it is dropped", || (queued(port) == Some(0)).then_some(())).await };
        timeout(PATIENCE, emptied).await.expect("in time");
        drop(waiting);
    }
    let taken = UdpSocket::bind(("0.0.0.0", port)).expect_err("nobody shares it");
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    let reused = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    reused.set_reuse_address(true).expect("set");
    let shared: io::Result<()> = reused.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into());
    assert_eq!(shared.expect_err("nobody shares it").kind(), ErrorKind::AddrInUse);
    bench.shutdown().await;
    UdpSocket::bind("127.0.0.1:0").expect("a free port").send_to(b"", at).expect("sent");
}

/// Bytes that wait at an IPv4 socket (`proc_pid_net(5)`).
fn queued(port: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/self/net/udp").expect("it can be read");
    let end = format!(":{port:04X}");
    let line = table.lines().find(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&end)))?;
    u64::from_str_radix(line.split_whitespace().nth(4)?.split(':').nth(1)?, 16).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mappings_never_have_one_socket_at_once() {
    let server = Server::echo("127.0.0.1");
    let port = free_port();
    let given = bound_by_systemd(Type::STREAM, &format!("127.0.0.1:{port}"));
    let bench = engine_with(&[&given]);
    let mapping = config(&format!("127.0.0.1:{port}:{}", server.address));
    assert_eq!(bench.apply(1, &mapping, &[server.address]).await.state, MappingState::Up);
    let status = bench.apply(2, &mapping, &[server.address]).await;
    assert!(status.state == MappingState::Failed && in_use(&status), "{status:?}");
    bench.engine.remove(MappingId(1)).await;
    let status = bench.apply(2, &mapping, &[server.address]).await;
    assert_eq!(status.state, MappingState::Up, "{status:?}");
    echoes(&mut connect(format!("127.0.0.1:{port}").parse().expect("an address")).await).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_takes_what_was_handed_in_of_it_and_binds_the_rest() {
    let server = Server::echo("127.0.0.1");
    let first = (0..100)
        .map(|_| free_port())
        .find(|first| (1..3).all(|next| std::net::TcpListener::bind(("127.0.0.1", first + next)).is_ok()))
        .expect("three free ports in a row");
    let given = bound_by_systemd(Type::STREAM, &format!("127.0.0.1:{}", first + 1));
    let bench = engine_with(&[&given]);
    let port = server.address.port();
    let mapping = config(&format!("127.0.0.1:{first}-{}:127.0.0.1:{}-{}", first + 2, port - 1, port + 1));
    let status = bench.apply(1, &mapping, &[server.address]).await;
    assert_eq!(status.state, MappingState::Up, "{status:?}");
    echoes(&mut connect(SocketAddr::from(([127, 0, 0, 1], first + 1))).await).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_where_nobody_listens_is_turned_away_once_all_mappings_are_there() {
    let port = free_port();
    let given = bound_by_systemd(Type::STREAM, &format!("127.0.0.1:{port}"));
    let at = given.local_addr().expect("bound").as_socket().expect("an IP address");
    let bench = engine_with(&[&given]);
    let mut client = connect(at).await;
    assert_eq!(bench.engine.unasked_handed_in(), [format!("{at}/tcp (test)")]);
    assert_eq!(bench.engine.unasked_handed_in(), Vec::<String>::new(), "each is told once");
    let end = timeout(PATIENCE, client.read(&mut [0])).await.expect("in time");
    assert_eq!(end.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    // It can be had all the same.
    let server = Server::echo("127.0.0.1");
    let mapping = config(&format!("{at}:{}", server.address));
    assert_eq!(bench.apply(1, &mapping, &[server.address]).await.state, MappingState::Up);
    echoes(&mut connect(at).await).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_while_it_ends_are_left_to_the_next_start() {
    let server = Server::echo("127.0.0.1");
    let port = free_port();
    let given = bound_by_systemd(Type::STREAM, &format!("127.0.0.1:{port}"));
    let at = given.local_addr().expect("bound").as_socket().expect("an IP address");
    let bench = engine_with(&[&given]);
    let mapping = config(&format!("{at}:{}", server.address));
    assert_eq!(bench.apply(1, &mapping, &[server.address]).await.state, MappingState::Up);
    let mut standing = connect(at).await;
    echoes(&mut standing).await;
    let registry = Arc::clone(&bench.registry);
    let ending = tokio::spawn(bench.engine.shutdown(PATIENCE));
    until("a client that is not served", || {
        let waiting = std::net::TcpStream::connect(at).expect("systemd still listens");
        let before = registry.open_connections().len();
        waiting.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
        let got = io::Read::read(&mut &waiting, &mut [0]).expect_err("nothing is said").kind();
        assert!(matches!(got, ErrorKind::WouldBlock | ErrorKind::TimedOut), "never turned away: {got}");
        (before == 1 && registry.open_connections().len() == 1).then_some(())
    })
    .await;
    drop(standing);
    timeout(PATIENCE, ending).await.expect("in time").expect("it ends");
    let again = engine_with(&[&given]);
    let mut waiting = connect(at).await;
    assert_eq!(again.apply(1, &mapping, &[server.address]).await.state, MappingState::Up);
    echoes(&mut waiting).await;
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_served_is_refused_and_the_mapping_binds_by_itself() {
    let server = Server::echo("127.0.0.1");
    let port = free_port();
    let both = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
    both.set_only_v6(false).expect("set");
    both.bind(&format!("[::]:{port}").parse::<SocketAddr>().expect("an address").into()).expect("nobody is there");
    both.listen(1).expect("listens");
    let (client, _peer) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let other = Socket::from(OwnedFd::from(client));
    let bench = engine_with(&[&both, &other]);
    assert_eq!(bench.engine.free_handed_in(Protocol::Tcp), []);
    assert!(bench.engine.unasked_handed_in().is_empty());
    let status = bench.apply(1, &config(&format!("any:{port}:{}", server.address)), &[server.address]).await;
    assert!(status.state == MappingState::Failed && in_use(&status), "{status:?}");
    let status = bench.apply(2, &config(&format!("auto:{}", server.address)), &[server.address]).await;
    assert_eq!(status.state, MappingState::Up);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_for_whom_it_was_started_waits_for_the_first_look_at_the_target_and_not_for_ever() {
    let server = Server::echo("127.0.0.1");
    let port = free_port();
    let given = bound_by_systemd(Type::STREAM, &format!("127.0.0.1:{port}"));
    let at = given.local_addr().expect("bound").as_socket().expect("an IP address");
    let bench = engine_with(&[&given]);
    let waiting = || Addresses::Waiting { reason: "not there yet".into() };
    let mut first = connect(at).await;
    let mapping = config(&format!("{at}:{}", server.address));
    assert_eq!(bench.apply_to(1, &mapping, waiting()).await.state, MappingState::Waiting);
    bench.engine.set_addresses(MappingId(1), Addresses::Known(vec![server.address]));
    echoes(&mut first).await;
    // Later ones are told at once, as by every mapping that waits.
    bench.engine.set_addresses(MappingId(1), waiting());
    bench.state(1, MappingState::Waiting).await;
    assert_eq!(end_of(at).await, ErrorKind::ConnectionReset);
    bench.apply(1, &stopped(&mapping), &[]).await;
    bench.apply_to(1, &mapping, waiting()).await;
    assert_eq!(end_of(at).await, ErrorKind::ConnectionReset);
    drop(first);
    bench.closed(3).await;
    let started = Instant::now();
    let other = engine_with(&[&given]);
    other.apply_to(1, &mapping, waiting()).await;
    bench.shutdown().await;
    assert_eq!(end_of(at).await, ErrorKind::ConnectionReset);
    assert!(started.elapsed() > Duration::from_secs(2), "{:?}", started.elapsed());
    other.closed(1).await;
    assert_eq!(other.reasons(), [CloseReason::TargetUnreachable]);
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_whose_target_must_not_be_dialled_leaves_the_socket() {
    let port = free_port();
    let given = bound_by_systemd(Type::STREAM, &format!("127.0.0.1:{port}"));
    let at = given.local_addr().expect("bound").as_socket().expect("an IP address");
    let bench = engine_with(&[&given]);
    let refused = Addresses::Refused { reason: "would forward to itself".into() };
    let status = bench.apply_to(1, &config(&format!("{at}:{at}")), refused).await;
    assert_eq!(status.state, MappingState::Failed);
    assert_eq!(bench.engine.unasked_handed_in().len(), 1);
    assert_eq!(end_of(at).await, ErrorKind::ConnectionReset);
    bench.shutdown().await;
}
