//! What the engine listens on: families, ranges, `auto`, conflicts, states, edits and removal.

mod common;
#[path = "common/sockets.rs"]
mod sockets;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use common::ports::{closed_port, free_port};
use portolan::forward::context::Addresses;
use portolan::forward::descriptors::raise_limit;
use portolan::forward::engine::{ListenError, MappingStatus, Notice, StateReason};
use portolan::model::event::{CloseReason, MappingState};
use portolan::model::id::MappingId;
use portolan::model::mapping::{Family, Protocol};
use portolan::model::profile::MappingConfig;
use socket2::{Domain, Socket, Type};
use sockets::{Bench, PATIENCE, Server, all_bound, bound, config, connect, try_connect, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Asks an echo server through the engine.
async fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"there?").await.expect("taken");
    let mut reply = [0; 6];
    timeout(PATIENCE, stream.read_exact(&mut reply)).await.expect("in time").expect("an echo");
    assert_eq!(&reply, b"there?");
}

/// Somebody else who listens: IPv6 alone or both families, as old programs do.
fn occupy(address: SocketAddr, v6_only: bool) -> Option<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    if address.is_ipv6() {
        socket.set_only_v6(v6_only).expect("set");
    }
    socket.set_reuse_address(true).expect("set");
    socket.bind(&address.into()).and_then(|()| socket.listen(1)).ok().map(|()| socket)
}

fn in_use(status: &MappingStatus) -> Vec<(Family, bool)> {
    let busy = |error: &Option<ListenError>| matches!(error, Some(ListenError::InUse { .. }));
    status.listeners.iter().map(|listener| (listener.family, busy(&listener.error))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_family_has_a_socket_of_its_own_and_conflicts_name_the_family() {
    use Family::{V4, V6};
    // Who listens already (and whether on IPv6 alone), what is mapped, the state, and who is in the way of it.
    type Case = (&'static str, bool, &'static str, MappingState, &'static [(Family, bool)]);
    let cases: [Case; 12] = [
        ("127.0.0.1", true, "localhost", MappingState::Half, &[(V4, true), (V6, false)]),
        ("[::1]", true, "localhost", MappingState::Half, &[(V4, false), (V6, true)]),
        ("0.0.0.0", true, "localhost", MappingState::Half, &[(V4, true), (V6, false)]),
        ("[::]", true, "localhost", MappingState::Half, &[(V4, false), (V6, true)]),
        ("[::]", false, "localhost", MappingState::Failed, &[(V4, true), (V6, true)]),
        ("127.0.0.1", true, "any", MappingState::Half, &[(V4, true), (V6, false)]),
        ("[::1]", true, "any", MappingState::Half, &[(V4, false), (V6, true)]),
        ("0.0.0.0", true, "any", MappingState::Half, &[(V4, true), (V6, false)]),
        ("[::]", false, "any", MappingState::Failed, &[(V4, true), (V6, true)]),
        ("0.0.0.0", true, "[::]", MappingState::Up, &[(V6, false)]),
        ("[::]", true, "0.0.0.0", MappingState::Up, &[(V4, false)]),
        ("127.0.0.2", true, "localhost", MappingState::Up, &[(V4, false), (V6, false)]),
    ];
    let server = Server::echo("127.0.0.1");
    for (other, v6_only, listen, state, expected) in cases {
        let bench = Bench::start();
        let port = free_port();
        let occupied: SocketAddr = format!("{other}:{port}").parse().expect("an address");
        let holder = occupy(occupied, v6_only).expect("nobody else is there");
        let mapping = config(&format!("{listen}:{port}:{}", server.address));
        let status = bench.apply(1, &mapping, &[server.address]).await;
        let case = format!("{listen} beside {other} (alone: {v6_only})");
        assert_eq!((status.state, in_use(&status)), (state, expected.to_vec()), "{case}");
        for listener in &status.listeners {
            if let Some(ListenError::InUse { address, protocol }) = &listener.error {
                assert_eq!((address.port(), *protocol), (port, Protocol::Tcp), "{case}");
                assert_eq!(Family::of(address.ip()), listener.family, "{case}");
            }
        }
        drop(holder);
        // Retried without being asked.
        bench.state(1, MappingState::Up).await;
        bench.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_takes_no_more_than_it_says() {
    let bench = Bench::start();
    let server = Server::echo("127.0.0.1");
    let port = free_port();
    for (listen, beside) in
        [("[::]", "0.0.0.0"), ("0.0.0.0", "[::]"), ("[::1]", "127.0.0.1"), ("localhost", "127.0.0.2")]
    {
        let mapping = config(&format!("{listen}:{port}:{}", server.address));
        assert_eq!(bench.apply(1, &mapping, &[server.address]).await.state, MappingState::Up, "{listen}");
        let beside: SocketAddr = format!("{beside}:{port}").parse().expect("an address");
        assert!(occupy(beside, true).is_some(), "{listen} leaves {beside} to others");
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_both_families_reach_targets_of_both() {
    let bench = Bench::start();
    for (id, ip) in [(1, "127.0.0.1"), (2, "::1")] {
        let server = Server::echo(ip);
        let mapping = config(&format!("any:auto:{}", server.address));
        let status = bench.apply(id, &mapping, &[server.address]).await;
        let listeners = all_bound(&status);
        assert_eq!(listeners[0].port(), listeners[1].port(), "auto takes one number");
        for dialled in ["127.0.0.1", "127.0.0.2", "::1"] {
            let dialled = SocketAddr::new(dialled.parse().expect("an address"), listeners[0].port());
            let mut stream = connect(dialled).await;
            echoes(&mut stream).await;
            let record = bench.registry.open_connections().pop().expect("open");
            let connection = record.connection();
            assert_eq!(connection.client, stream.local_addr().expect("an address"));
            assert_eq!(connection.listener, dialled);
            assert_eq!(connection.target_address, Some(server.address));
            assert_eq!(connection.source.map(|source| source.ip()), Some(server.address.ip()));
            drop(stream);
            until("the end", || bench.registry.open_connections().is_empty().then_some(())).await;
        }
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_binds_whole_or_not_at_all_in_each_family() {
    let bench = Bench::start();
    // An address of this test alone, so that its ports are free.
    let busy: SocketAddr = "127.0.77.2:20007".parse().expect("an address");
    let holder = occupy(busy, true).expect("free");
    let target = Server::echo("127.0.0.1").address;
    let mapping = config("127.0.77.2:20000-20010:127.0.0.1:300-310");
    let status = bench.apply(1, &mapping, &[target]).await;
    assert_eq!(status.state, MappingState::Failed);
    let error = status.reason.expect("a reason").to_string();
    assert_eq!(error, "127.0.77.2:20007/tcp is in use");
    assert_eq!(status.listeners[0].wanted, "127.0.77.2:20000-20010");
    for port in 20000..=20010 {
        let free = port == 20007 || occupy(SocketAddr::new(busy.ip(), port), true).is_some();
        assert!(free, "{port} is left to others");
    }
    drop(holder);
    let status = bench.state(1, MappingState::Up).await;
    assert_eq!(bound(&status).port(), 20000);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_stays_keeps_its_connections_while_its_range_moves() {
    let bench = Bench::start();
    let server = Server::echo("127.0.0.1");
    let target = server.address.port();
    let range = |first: u16, last: u16| {
        let offset = target - (20025 - first);
        config(&format!("127.0.77.3:{first}-{last}:127.0.0.1:{offset}-{}", offset + (last - first)))
    };
    let at = |port: u16| SocketAddr::from(([127, 0, 77, 3], port));
    // 20025 stands for the echo server's port in each of them, at another place of the range.
    bench.apply(1, &range(20020, 20030), &[server.address]).await;
    let mut stream = connect(at(20025)).await;
    echoes(&mut stream).await;
    for (first, last) in [(20022, 20030), (20010, 20025), (20025, 20026), (20000, 20040)] {
        let status = bench.apply(1, &range(first, last), &[server.address]).await;
        assert_eq!(status.state, MappingState::Up, "{first}-{last}: {:?}", status.reason);
        echoes(&mut stream).await;
        // A new one finds the same target port.
        echoes(&mut connect(at(20025)).await).await;
        assert!(try_connect(at(first - 1)).await.is_err(), "{first}-{last}");
    }
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_edit_that_failed_left_open_ends_with_its_mapping() {
    let server = Server::echo("127.0.0.1");
    let target = server.address.port();
    let range = |first: u16, last: u16| {
        config(&format!("127.0.77.4:{first}-{last}:127.0.0.1:{target}-{}", target + (last - first)))
    };
    let stopped = MappingConfig { enabled: false, ..range(20050, 20052) };
    // Stopped, or elsewhere: its connections end. The port itself is bound to nobody by then.
    for end in [stopped, range(20060, 20062)] {
        let bench = Bench::start();
        bench.apply(1, &range(20050, 20052), &[server.address]).await;
        let mut stream = connect(SocketAddr::from(([127, 0, 77, 4], 20050))).await;
        echoes(&mut stream).await;
        let _held = std::net::TcpListener::bind("127.0.77.4:20053").expect("a free port");
        assert_eq!(bench.apply(1, &range(20050, 20053), &[server.address]).await.state, MappingState::Failed);
        echoes(&mut stream).await;

        bench.apply(1, &end, &[server.address]).await;
        assert_eq!(stream.read(&mut [0]).await.expect_err("reset").kind(), ErrorKind::ConnectionReset);
        bench.closed(1).await;
        assert_eq!(bench.reasons(), [CloseReason::MappingRemoved]);
        bench.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_leaves_a_listener_as_it_is_keeps_its_connections() {
    let bench = Bench::start();
    let (one, two) = (Server::echo("127.0.0.1"), Server::echo("127.0.0.1"));
    let mut mapping = config(&format!("localhost:auto:{}", one.address));
    let status = bench.apply(1, &mapping, &[one.address]).await;
    let (v4, v6) = (all_bound(&status)[0], all_bound(&status)[1]);
    let (mut over_v4, mut over_v6) = (connect(v4).await, connect(v6).await);
    echoes(&mut over_v4).await;
    echoes(&mut over_v6).await;

    mapping = MappingConfig { name: "renamed".into(), ..mapping };
    mapping.mapping.target = config(&format!("1:{}", two.address)).mapping.target;
    let status = bench.apply(1, &mapping, &[two.address]).await;
    assert_eq!(all_bound(&status), [v4, v6], "auto keeps its number");
    echoes(&mut over_v4).await;
    echoes(&mut over_v6).await;
    let record = bench.registry.open_connections().pop().expect("open");
    assert_eq!(record.connection().mapping, "renamed");
    let mut new = connect(v4).await;
    echoes(&mut new).await;
    let targets =
        || bench.registry.open_connections().iter().filter_map(|r| r.connection().target_address).collect::<Vec<_>>();
    assert_eq!(targets().iter().filter(|target| **target == two.address).count(), 1);

    // One of the two listeners goes; the other one and what came through it stay.
    mapping.mapping = config(&format!("127.0.0.1:{}:{}", v4.port(), two.address)).mapping;
    let status = bench.apply(1, &mapping, &[two.address]).await;
    assert_eq!(all_bound(&status), [v4]);
    assert_eq!(over_v6.read(&mut [0]).await.expect_err("reset").kind(), ErrorKind::ConnectionReset);
    echoes(&mut over_v4).await;
    echoes(&mut new).await;
    assert!(try_connect(v6).await.is_err());
    until("the end of it", || (bench.registry.closed_count() == 1).then_some(())).await;
    assert_eq!(bench.reasons(), [CloseReason::MappingRemoved]);

    mapping.enabled = false;
    let status = bench.apply(1, &mapping, &[two.address]).await;
    assert_eq!((status.state, status.listeners.len()), (MappingState::Stopped, 0));
    assert!(try_connect(v4).await.is_err());
    mapping.enabled = true;
    assert_eq!(bench.apply(1, &mapping, &[two.address]).await.state, MappingState::Up);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_mapping_is_closed_at_once_and_its_port_is_free_again() {
    let bench = Bench::start();
    let server = Server::echo("127.0.0.1");
    let port = free_port();
    let mapping = config(&format!("localhost:{port}:{}", server.address));
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("our descriptors").count();
    let baseline = descriptors();
    for round in 0..1_000 {
        let status = bench.apply(1, &mapping, &[server.address]).await;
        assert_eq!(status.state, MappingState::Up, "round {round}: {:?}", status.reason);
        // Some with a connection that stands, which leaves a port in use behind.
        let stream = if round % 10 == 0 { Some(connect(bound(&status)).await) } else { None };
        let started = Instant::now();
        bench.engine.remove(MappingId(1)).await;
        let most = common::soak::within(Duration::from_millis(100));
        assert!(started.elapsed() < most, "round {round}: {:?}", started.elapsed());
        assert!(bench.registry.open_connections().is_empty());
        if round % 100 == 0 {
            assert!(try_connect(bound(&status)).await.is_err(), "round {round}");
        }
        drop(stream);
    }
    assert!(bench.engine.status().is_empty());
    assert_eq!(bench.engine.descriptors().0, 0);
    until("descriptors at the baseline", || (descriptors() <= baseline).then_some(())).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_ports_are_one_mapping() {
    if !common::require(&[common::Need::Descriptors(11_000)]) {
        return;
    }
    let (_, hard) = raise_limit().expect("the limit is read");
    let bench = Bench::with(hard - 500, None);
    let server = Server::echo("127.0.0.1");
    let mut mapping = config(&format!("127.0.77.4:20000-29999:127.0.0.1:{}", "1-10000"));
    mapping.connect_timeout = Duration::from_secs(1);
    let before = resident_kb();
    let started = Instant::now();
    let status = bench.apply(1, &mapping, &[server.address]).await;
    println!("bound in {:?}, {} kB more resident memory", started.elapsed(), resident_kb() - before);
    assert_eq!(status.state, MappingState::Up, "{:?}", status.reason);
    assert_eq!(bench.engine.descriptors().0, 10_000);
    for port in [20_000, 25_000, 29_999] {
        // Nobody is behind it, which is told; that is to say, it listens.
        let error = async { try_connect(SocketAddr::from(([127, 0, 77, 4], port))).await?.read(&mut [0]).await };
        assert_eq!(error.await.expect_err("refused").kind(), ErrorKind::ConnectionReset);
    }
    bench.closed(3).await;
    // The same once more is beyond what is left.
    let more = config("127.0.77.5:20000-29999:127.0.0.1:1-10000");
    let status = bench.apply(2, &more, &[server.address]).await;
    let left = hard - 500 - 10_000;
    if left < 10_000 {
        let limit = hard - 500;
        let text = format!("needs 10000 descriptors, {left} of {limit} are left (raise the limit with ulimit -n)");
        assert_eq!(status.reason.map(|reason| reason.to_string()), Some(text));
        assert_eq!(bench.engine.descriptors().0, 10_000, "nothing was bound");
    }
    let started = Instant::now();
    bench.engine.remove(MappingId(1)).await;
    println!("closed in {:?}", started.elapsed());
    bench.shutdown().await;
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("our status");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("resident memory");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_listened_on_is_said_in_the_words_of_the_manual() {
    let mut bench = Bench::start();
    let target = closed_port("127.0.0.1");
    let cases = [
        ("192.0.2.77:8080", "192.0.2.77 is not an address of this host"),
        ("[2001:db8::77]:8080", "2001:db8::77 is not an address of this host"),
        ("[fe80::1%nope0]:8080", "this host has no interface nope0"),
    ];
    for (listen, text) in cases {
        let status = bench.apply(1, &config(&format!("{listen}:{target}")), &[target]).await;
        assert_eq!(status.state, MappingState::Failed);
        assert_eq!(status.reason.map(|reason| reason.to_string()).as_deref(), Some(text));
        assert_eq!(status.listeners[0].wanted, listen);
    }
    let status = bench.apply(2, &config(&format!("auto:{target}/sctp")), &[target]).await;
    if Socket::new(Domain::IPV4, Type::STREAM, Some(socket2::Protocol::SCTP)).is_ok() {
        assert_eq!(status.state, MappingState::Up, "{:?}", status.reason);
    } else {
        let text = status.reason.map(|reason| reason.to_string());
        assert_eq!(text.as_deref(), Some("this kernel has no SCTP (try: modprobe sctp)"));
    }
    let refused = Addresses::Refused { reason: "would forward to itself: :1 -> :1".into() };
    let server = Server::echo("127.0.0.1");
    let mapping = config(&format!("localhost:auto:host/web:{}", server.address.port()));
    let status = bench.apply(3, &mapping, &[server.address]).await;
    let listener = bound(&status);
    bench.engine.set_addresses(MappingId(3), refused.clone());
    let status = bench.state(3, MappingState::Failed).await;
    assert!(matches!(status.reason, Some(StateReason::Refused(_))));
    assert!(try_connect(listener).await.is_err(), "it no longer listens");
    let told = async {
        while !matches!(bench.notices.recv().await.expect("the engine lives"), Notice::Changed(MappingId(3))) {}
    };
    timeout(PATIENCE, told).await.expect("told");
    assert_eq!(bench.engine.status_of(MappingId(3)).expect("it is there").addresses, refused);
    bench.engine.set_addresses(MappingId(3), Addresses::Known(vec![server.address]));
    let status = bench.state(3, MappingState::Up).await;
    echoes(&mut connect(bound(&status)).await).await;
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_is_served_and_removed_by_the_same_engine() {
    let bench = Bench::start();
    let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let target = server.local_addr().expect("an address");
    for _ in 0..20 {
        let status = bench.apply(1, &config(&format!("localhost:auto:{target}/udp")), &[target]).await;
        let listeners = all_bound(&status);
        assert_eq!(status.state, MappingState::Up, "{:?}", status.reason);
        assert_eq!(listeners[0].port(), listeners[1].port(), "auto takes one number");
        for listener in &listeners {
            let client = tokio::net::UdpSocket::bind((listener.ip(), 0)).await.expect("a free port");
            client.connect(listener).await.expect("connected");
            client.send(b"there?").await.expect("sent");
            let mut buffer = [0; 16];
            let (count, from) =
                timeout(PATIENCE, server.recv_from(&mut buffer)).await.expect("in time").expect("received");
            server.send_to(&buffer[..count], from).await.expect("sent");
            let count = timeout(PATIENCE, client.recv(&mut buffer)).await.expect("in time").expect("received");
            assert_eq!(&buffer[..count], b"there?");
        }
        assert_eq!(bench.registry.open_connections().len(), 2);
        bench.engine.remove(MappingId(1)).await;
        assert!(bench.registry.open_connections().is_empty());
        for listener in listeners {
            drop(std::net::UdpSocket::bind(listener).expect("free again"));
        }
    }
    assert_eq!(bench.reasons(), [CloseReason::MappingRemoved; 40]);
    bench.shutdown().await;
}
