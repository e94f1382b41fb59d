//! Aliases in the engine: connections and flows go out under the addresses of their clients' own, by the same paths as
//! any other, and one that cannot have its alias ends in words.
//!
//! The engine runs in a network namespace of the test's own, in which a pool is local.

mod common;
#[path = "common/sockets.rs"]
mod sockets;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::netns::Namespace;
use common::{Need, require};
use portolan::forward::alias::PoolAliases;
use portolan::model::alias::{Pool, SavedAliases};
use portolan::model::event::CloseReason;
use portolan::model::identity::Identity;
use portolan::model::profile::MappingConfig;
use socket2::SockRef;
use sockets::{Bench, PATIENCE, Server, bound, config, noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

const NEEDS: &[Need] = &[Need::Namespaces];

/// Runs a test in a namespace in which these networks are local.
fn with_local(networks: &[&str], test: impl Future<Output = ()> + Send) {
    let namespace = Namespace::new("aliases");
    for network in networks {
        namespace.ip(&format!("{}route add local {network} dev lo", if network.contains(':') { "-6 " } else { "" }));
    }
    namespace.enter(|| {
        // Its threads are made by this one, in whose namespace they are.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(test);
    });
}

/// Opens the aliases of a pool.
fn open(bench: &Bench, network: &str) -> Arc<PoolAliases> {
    let pool = Pool::new(network.parse().expect("a network")).expect("a pool");
    bench.registry.aliases().open(SavedAliases::new(pool, [7; 16]))
}

fn aliased(text: &str, network: &str) -> MappingConfig {
    MappingConfig { identity: Identity::Alias, alias_pool: network.parse().expect("a network"), ..config(text) }
}

/// Maps `LISTEN:auto` with aliases of `network`.
async fn map(bench: &Bench, listen: &str, target: SocketAddr, protocol: &str, network: &str) -> SocketAddr {
    let config = aliased(&format!("{listen}:auto:{target}{protocol}"), network);
    bound(&bench.apply(1, &config, &[target]).await)
}

/// Tells each client the address that it sees, and then sends back what it gets.
fn teller(ip: &str) -> Server {
    Server::start_knowing_peers(ip, |mut stream, peer| async move {
        let mut told = peer.ip().to_string().into_bytes();
        told.resize(64, b' ');
        if stream.write_all(&told).await.is_err() {
            return;
        }
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
}

async fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    try_connect_from(source, to).await.expect("connected")
}

/// The same where the connection may be reset at once.
async fn try_connect_from(source: &str, to: SocketAddr) -> io::Result<TcpStream> {
    let source = SocketAddr::new(source.parse().expect("an address"), 0);
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.expect("a socket");
    if source.is_ipv6() {
        SockRef::from(&socket).set_freebind_v6(true).expect("it may be set");
    }
    socket.bind(source).expect("the address is ours");
    timeout(PATIENCE, socket.connect(to)).await.expect("an answer")
}

/// As whom the target sees the client.
async fn told(stream: &mut TcpStream) -> IpAddr {
    let mut text = [0; 64];
    timeout(PATIENCE, stream.read_exact(&mut text)).await.expect("an answer").expect("all of it");
    std::str::from_utf8(&text).expect("text").trim().parse().expect("an address")
}

#[test]
fn a_connection_has_its_alias_until_it_ends_and_its_bulk_is_spliced() {
    const POOL: &str = "198.18.0.0/15";
    if !require(NEEDS) {
        return;
    }
    with_local(&[POOL], async {
        let bench = Bench::start();
        let pool = open(&bench, POOL);
        let server = teller("127.0.0.1");
        let listener = map(&bench, "[::1]", server.address, "", POOL).await;
        let mut stream = connect_from("::1", listener).await;
        let alias = told(&mut stream).await;
        assert!(pool.pool().slot(alias).is_some(), "{alias}");
        let known = pool.who_is(alias).expect("it is somebody's");
        assert_eq!((known.clients[0].client, known.clients[0].open_connections), ("::1".parse().unwrap(), 1));
        let record = bench.registry.open_connections().pop().expect("it is open");
        assert_eq!((record.alias(), record.source().map(|source| source.ip())), (Some(alias), Some(alias)));
        assert_eq!(record.connection().alias, Some(alias));

        let sent = noise(1, 8 << 20);
        let mut received = vec![0; sent.len()];
        let (mut read, mut write) = stream.split();
        let (sending, receiving) = tokio::join!(write.write_all(&sent), read.read_exact(&mut received));
        sending.and(receiving.map(|_| ())).expect("it flows");
        assert!(received == sent);
        assert!(bench.engine.path_switches().0 > 0, "bulk is spliced");
        drop(stream);
        bench.closed(1).await;
        assert!(!pool.is_in_use());
        bench.shutdown().await;
    });
}

#[test]
fn a_flow_has_the_alias_of_its_client_too() {
    if !require(NEEDS) {
        return;
    }
    // An IPv6 client of an IPv4 target, and the other way round.
    for (network, listen, client, target) in
        [("198.18.0.0/15", "[::1]", "::1", "127.0.0.1"), ("fd00:a1a5::/64", "127.0.0.1", "127.0.0.5", "::1")]
    {
        with_local(&[network], async {
            let bench = Bench::start();
            let pool = open(&bench, network);
            let target = UdpSocket::bind((target, 0)).await.expect("a port");
            let listener = map(&bench, listen, target.local_addr().unwrap(), "/udp", network).await;
            let ip: IpAddr = client.parse().expect("an address");
            let client = UdpSocket::bind((ip, 0)).await.expect("a port");
            client.send_to(b"hello", listener).await.expect("sent");
            let mut buffer = [0; 16];
            let (length, from) = timeout(PATIENCE, target.recv_from(&mut buffer)).await.expect("it comes").unwrap();
            assert!(pool.pool().contains(from.ip()), "{from}");
            assert_eq!(pool.who_is(from.ip()).expect("it is somebody's").clients[0].client, ip);
            target.send_to(&buffer[..length], from).await.expect("sent");
            let (length, from) = timeout(PATIENCE, client.recv_from(&mut buffer)).await.expect("it comes").unwrap();
            assert_eq!((&buffer[..length], from), (&b"hello"[..], listener));
            let record = bench.registry.open_connections().pop().expect("it is open");
            assert!(record.alias().is_some() && pool.is_in_use());
            bench.engine.kill(record.id);
            bench.closed(1).await;
            assert!(!pool.is_in_use());
            bench.shutdown().await;
        });
    }
}

#[test]
fn datagrams_of_made_up_sources_hand_on_no_alias_of_a_client_that_was_answered() {
    const POOL: &str = "198.18.0.0/27";
    if !require(NEEDS) {
        return;
    }
    with_local(&[POOL], async {
        let bench = Bench::start();
        let pool = open(&bench, POOL);
        let target = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let listener = map(&bench, "127.0.0.1", target.local_addr().unwrap(), "/udp", POOL).await;
        let mut buffer = [0; 16];
        let end = async |ended: usize| {
            let record = bench.registry.open_connections().pop().expect("it is open");
            bench.engine.kill(record.id);
            bench.closed(ended).await;
        };
        let client = UdpSocket::bind("127.0.0.9:0").await.expect("a port");
        client.send_to(b"hello", listener).await.expect("sent");
        let (length, from) = timeout(PATIENCE, target.recv_from(&mut buffer)).await.expect("it comes").unwrap();
        target.send_to(&buffer[..length], from).await.expect("sent");
        timeout(PATIENCE, client.recv_from(&mut buffer)).await.expect("it comes").unwrap();
        end(1).await;
        for number in 0..100u8 {
            let stranger = UdpSocket::bind((format!("127.0.1.{number}"), 0)).await.expect("a port");
            stranger.send_to(b"hello", listener).await.expect("sent");
            timeout(PATIENCE, target.recv_from(&mut buffer)).await.expect("it comes").unwrap();
            end(usize::from(number) + 2).await;
        }
        let still = pool.who_is(from.ip()).expect("it is somebody's");
        assert_eq!(still.clients[0].client, "127.0.0.9".parse::<IpAddr>().unwrap());
        let handed_on = pool.handed_on();
        // They have half of the thirty.
        assert_eq!((handed_on.told.len(), handed_on.more, handed_on.of_strangers), (0, 0, 85));
        bench.shutdown().await;
    });
}

#[test]
fn datagrams_of_made_up_sources_whose_flows_last_make_way_for_the_next_and_leave_half_of_the_pool() {
    const POOL: &str = "198.18.0.0/28";
    if !require(NEEDS) {
        return;
    }
    with_local(&[POOL], async {
        let bench = Bench::start();
        let pool = open(&bench, POOL);
        let target = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let listener = map(&bench, "127.0.0.1", target.local_addr().unwrap(), "/udp", POOL).await;
        let mut buffer = [0; 16];
        let mut sources = Vec::new();
        for number in 0..20u8 {
            let stranger = UdpSocket::bind((format!("127.0.1.{number}"), 0)).await.expect("a port");
            stranger.send_to(b"hello", listener).await.expect("sent");
            let (_, from) = timeout(PATIENCE, target.recv_from(&mut buffer)).await.expect("it comes").unwrap();
            sources.push(from.ip());
        }
        assert_eq!(bench.registry.open_connections().len(), 7);
        assert_eq!(bench.reasons(), vec![CloseReason::Evicted; 13]);
        assert_eq!(pool.usage().0, 7);
        // The newest flows are those that stand.
        for (number, alias) in (13..20u8).zip(&sources[13..]) {
            let found = pool.who_is(*alias).expect("it is somebody's");
            let client = &found.clients[0];
            assert_eq!((client.client, client.is_answered), (IpAddr::from([127, 0, 1, number]), false));
        }
        bench.shutdown().await;
    });
}

#[test]
fn a_pool_of_ipv6_serves_targets_of_ipv6() {
    const POOL: &str = "fd00:a1a5::/64";
    if !require(NEEDS) {
        return;
    }
    with_local(&[POOL], async {
        let bench = Bench::start();
        let pool = open(&bench, POOL);
        let server = teller("::1");
        let listener = map(&bench, "127.0.0.1", server.address, "", POOL).await;
        let mut aliases = Vec::new();
        for source in ["127.0.0.5", "127.0.0.6", "127.0.0.5"] {
            aliases.push(told(&mut connect_from(source, listener).await).await);
        }
        assert!(aliases[0] == aliases[2] && aliases[0] != aliases[1], "{aliases:?}");
        assert!(aliases.iter().all(|alias| pool.pool().contains(*alias)));
        bench.shutdown().await;
    });
}

#[test]
fn hundreds_of_clients_have_as_many_aliases_and_keep_them() {
    const POOL: &str = "198.18.0.0/15";
    const CLIENTS: usize = 400;
    if !require(NEEDS) {
        return;
    }
    with_local(&[POOL, "2001:db8:c::/64"], async {
        let bench = Bench::start();
        let pool = open(&bench, POOL);
        let server = teller("127.0.0.1");
        let listener = map(&bench, "[::1]", server.address, "", POOL).await;
        let source = |number: usize| format!("2001:db8:c::{number:x}");
        let mut aliases = Vec::new();
        let mut held = Vec::new();
        for number in 0..CLIENTS {
            let mut stream = connect_from(&source(number), listener).await;
            aliases.push(told(&mut stream).await);
            held.push(stream);
        }
        let mut distinct = aliases.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), CLIENTS);
        drop(held);
        for number in (0..CLIENTS).rev() {
            let again = told(&mut connect_from(&source(number), listener).await).await;
            assert_eq!(again, aliases[number]);
        }
        assert_eq!(pool.usage().0, CLIENTS);
        bench.shutdown().await;
    });
}

#[test]
fn while_all_aliases_are_in_use_a_new_client_is_turned_away_with_the_reason() {
    const POOL: &str = "198.18.0.0/30";
    if !require(NEEDS) {
        return;
    }
    with_local(&[POOL], async {
        let bench = Bench::start();
        let pool = open(&bench, POOL);
        let server = teller("127.0.0.1");
        let listener = map(&bench, "127.0.0.1", server.address, "", POOL).await;
        let mut first = connect_from("127.0.0.5", listener).await;
        let alias = told(&mut first).await;
        let mut second = connect_from("127.0.0.6", listener).await;
        told(&mut second).await;
        if let Ok(mut third) = try_connect_from("127.0.0.7", listener).await {
            assert!(timeout(PATIENCE, third.read_u8()).await.expect("an end").is_err());
        }
        let ended = sockets::until("its end", || bench.registry.closed_since(0).0.pop()).await.connection();
        assert_eq!(ended.reason, Some(CloseReason::Limit));
        let said = ended.error.expect("it is said");
        assert_eq!(said.as_str(), "all 2 aliases of 198.18.0.0/30 are in use: set a larger alias_pool");

        // Whose connection has ended gives way.
        drop(first);
        sockets::until("the end of the first", || Some(bench.registry.open_count()).filter(|open| *open == 1)).await;
        let mut third = connect_from("127.0.0.7", listener).await;
        assert_eq!(told(&mut third).await, alias);
        let handed_on = pool.handed_on();
        assert_eq!((handed_on.told.len(), handed_on.told[0].alias, handed_on.more), (1, alias, 0));
        assert_eq!(pool.who_is(alias).expect("it is somebody's").clients.len(), 2);
        bench.shutdown().await;
    });
}

#[test]
fn without_the_route_a_connection_ends_in_words_and_never_goes_out_as_another() {
    const POOL: &str = "198.18.0.0/15";
    if !require(NEEDS) {
        return;
    }
    with_local(&[], async {
        let bench = Bench::start();
        open(&bench, POOL);
        let server = teller("127.0.0.1");
        let listener = map(&bench, "127.0.0.1", server.address, "", POOL).await;
        if let Ok(mut stream) = try_connect_from("127.0.0.1", listener).await {
            let mut text = Vec::new();
            assert!(timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("an end").is_err(), "{text:?}");
        }
        let ended = bench.closed(1).await[0].connection();
        assert_eq!((ended.reason, ended.source), (Some(CloseReason::Error), None));
        let said = ended.error.expect("it is said").to_string();
        assert!(said.contains("cannot speak from the alias 198.1") && said.contains("alias-route"), "{said}");

        let target = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let config = aliased(&format!("127.0.0.1:auto:{}/udp", target.local_addr().unwrap()), POOL);
        let listener = bound(&bench.apply(2, &config, &[target.local_addr().unwrap()]).await);
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        client.send_to(b"hello", listener).await.expect("sent");
        let ended = bench.closed(2).await[1].connection();
        assert_eq!(ended.reason, Some(CloseReason::Error));
        assert!(ended.error.is_some_and(|said| said.as_str().contains("alias-route")));
        let mut buffer = [0; 16];
        assert!(timeout(Duration::from_millis(100), target.recv_from(&mut buffer)).await.is_err(), "it got through");
        bench.shutdown().await;
    });
}
