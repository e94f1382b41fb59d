//! Over bridges with an MTU of 1500, where loopback takes 65,536 at once: an IPv6 client on one host, the engine on a
//! second, an IPv4-only target on a third. Bytes and datagrams arrive whole and are counted exactly, by splicing and by
//! copying, in bursts and in fragments (faults 3, 5, 8, 13 and 14).

mod common;
#[path = "common/sockets.rs"]
mod sockets;

use std::future::Future;
use std::io::{ErrorKind, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use portolan::model::event::CloseReason;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use common::netns::Namespace;
use common::{Need, SOON, require};
use sockets::{Bench, Server, bound, config, connect, noise, reset, until};

const NEEDS: &[Need] = &[Need::Namespaces];
const MTU: u32 = 1_500;
/// The machine of the engine, as its client has it, and the host of the target, as the machine has it.
const MACHINE: &str = "[2001:db8::2]";
const TARGET: &str = "192.0.2.2";

/// Three hosts, and two bridges between them in a fourth place.
struct Network {
    client: Namespace,
    machine: Namespace,
    host: Namespace,
    bridges: Namespace,
}

impl Network {
    fn new() -> Self {
        let [client, machine, host, bridges] = ["client", "machine", "host", "bridges"].map(Namespace::new);
        host.set("ipv6/conf/all/disable_ipv6", "1");
        for bridge in ["near", "far"] {
            bridges.ip(&format!("link add name {bridge} mtu {MTU} type bridge"));
            bridges.ip(&format!("link set dev {bridge} up"));
        }
        for (port, bridge, on, name, address) in [
            ("client", "near", &client, "up", "2001:db8::10/64"),
            ("machine-n", "near", &machine, "to-client", "2001:db8::2/64"),
            ("machine-f", "far", &machine, "to-host", "192.0.2.1/24"),
            ("host", "far", &host, "up", "192.0.2.2/24"),
        ] {
            bridges.connect(port, &[], on, name, &[address]);
            bridges.ip(&format!("link set dev {port} master {bridge}"));
            // As cables have it: what a host sends at once is cut before it leaves.
            on.ip(&format!("link set dev {name} gso_max_segs 1"));
            assert!(on.ip(&format!("-o link show dev {name}")).contains(&format!("mtu {MTU} ")));
        }
        Self { client, machine, host, bridges }
    }

    /// Packets that came to the bridges from a host, by the name of its port.
    fn packets(&self, port: &str) -> u64 {
        let path = format!("/sys/class/net/{port}/statistics/rx_packets");
        // Under /sys each process sees the namespace in which that was mounted.
        let show = format!("mount -t sysfs sysfs /sys && cat {path}");
        let text = common::output(self.bridges.command("unshare").args(["--mount", "sh", "-c", &show]));
        text.trim().parse().expect("a number")
    }
}

/// A runtime all of whose threads are in a namespace, and with them every socket that its tasks make.
fn runtime(namespace: &Namespace) -> Runtime {
    let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    namespace.enter(build).expect("a runtime")
}

/// Does something on a runtime's own threads.
#[track_caller]
fn on<T: Send + 'static>(runtime: &Runtime, work: impl Future<Output = T> + Send + 'static) -> T {
    runtime.block_on(runtime.spawn(work)).expect("no panic")
}

/// Sends while it reads as much back.
async fn there_and_back(stream: &mut TcpStream, sent: &[u8]) {
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; sent.len()];
    let (sending, receiving) = tokio::join!(write.write_all(sent), read.read_exact(&mut back));
    sending.expect("all is taken");
    receiving.expect("all comes back");
    assert!(back == sent, "{} bytes come back as they were sent", sent.len());
}

const PART: usize = 1 << 20;

/// Answers as the first byte wants it: echoes, replies after the client's end, ends before the client does, or resets.
async fn answer(mut stream: TcpStream) {
    let mut wish = [0];
    stream.read_exact(&mut wish).await.expect("a wish");
    match &wish {
        b"e" => {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
        b"h" => {
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.expect("the request and an end");
            assert!(request == noise(1, PART));
            stream.write_all(&noise(2, PART)).await.expect("the client still reads");
        }
        b"t" => {
            stream.write_all(&noise(2, PART)).await.expect("taken");
            stream.shutdown().await.expect("ended");
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.expect("the request and an end");
            assert!(request == noise(1, PART));
        }
        _ => {
            stream.write_all(&noise(2, PART)).await.expect("taken");
            reset(stream);
        }
    }
}

/// The client's part of each of these.
async fn exchanges(listener: SocketAddr) {
    let mut bulk = JoinSet::new();
    for number in 0..4 {
        bulk.spawn(async move {
            let mut stream = connect(listener).await;
            stream.write_all(b"e").await.expect("taken");
            for round in 0..3 {
                there_and_back(&mut stream, &noise(number * 10 + round, 8 << 20)).await;
                for turn in 0..50 {
                    there_and_back(&mut stream, &noise(turn, 100)).await;
                }
            }
            stream.shutdown().await.expect("ended");
            assert_eq!(stream.read(&mut [0]).await.expect("a clean end"), 0);
        });
    }
    bulk.join_all().await;
    for _ in 0..5 {
        let mut stream = connect(listener).await;
        stream.write_all(b"h").await.expect("taken");
        stream.write_all(&noise(1, PART)).await.expect("taken");
        stream.shutdown().await.expect("ended");
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.expect("the reply and an end");
        assert!(reply == noise(2, PART));

        let mut stream = connect(listener).await;
        stream.write_all(b"t").await.expect("taken");
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.expect("the reply and an end");
        assert!(reply == noise(2, PART));
        stream.write_all(&noise(1, PART)).await.expect("the target still reads");
        stream.shutdown().await.expect("ended");
        assert_eq!(stream.read(&mut [0]).await.expect("a clean end"), 0);
    }
    for _ in 0..20 {
        let mut stream = connect(listener).await;
        stream.write_all(b"r").await.expect("taken");
        let mut reply = Vec::new();
        let end = stream.read_to_end(&mut reply).await.expect_err("never a clean end");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        // What was still queued at the target when it reset is gone, with or without a forwarder.
        assert!(noise(2, PART).starts_with(&reply));
    }
}

#[test]
fn tcp_over_bridges_is_spliced_and_copied_byte_for_byte_and_ends_as_its_ends_do() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let [client, machine, host] = [&network.client, &network.machine, &network.host].map(runtime);
    let server = on(&host, async { Server::start(TARGET, answer) });
    let target = server.address;
    let (bench, listener) = on(&machine, async move {
        let bench = Bench::start();
        let listener = bench.map(1, MACHINE, target).await;
        (bench, listener)
    });
    on(&client, exchanges(listener));

    let (reset_by_target, finished) = on(&machine, async move {
        let closed = bench.closed(4 + 10 + 20).await;
        let (to_splice, to_copy) = bench.engine.path_switches();
        println!("{to_splice} times to splicing, {to_copy} times back");
        assert!(
            to_splice >= 4 * 3 && to_copy >= 4 * 3,
            "each bulk is spliced, and small talk is not: {to_splice}, {to_copy}"
        );
        let of = |reason| closed.iter().filter(|record| record.connection().reason == Some(reason)).collect::<Vec<_>>();
        let finished = of(CloseReason::Finished);
        for record in &finished {
            let counts = record.counters.read();
            let there_and_back = 3 * ((8 << 20) + 50 * 100);
            assert!(
                (counts.bytes_in, counts.bytes_out) == (1 + PART as u64, PART as u64)
                    || (counts.bytes_in, counts.bytes_out) == (1 + there_and_back, there_and_back),
                "{counts:?}"
            );
        }
        let counts = (of(CloseReason::TargetReset).len(), finished.len());
        bench.shutdown().await;
        counts
    });
    assert_eq!((reset_by_target, finished), (20, 14));
    // The bytes went over the bridges in packets of the MTU: so many at least.
    let least = 4 * 3 * (8 << 20) / u64::from(MTU);
    for port in ["client", "machine-n", "machine-f", "host"] {
        let packets = network.packets(port);
        println!("{packets} packets came from {port}");
        assert!(packets > least, "{port}: {packets}, at least {least}");
    }
    drop(server);
}

#[test]
fn a_reset_of_the_client_crosses_the_bridges_behind_its_bytes() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let [client, machine, host] = [&network.client, &network.machine, &network.host].map(runtime);
    let (told, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let server = on(&host, async move {
        Server::start(TARGET, move |mut stream| {
            let told = told.clone();
            async move {
                let mut request = Vec::new();
                let end = stream.read_to_end(&mut request).await.map_err(|error| error.kind());
                told.send((request, end)).expect("the test waits");
            }
        })
    });
    let target = server.address;
    let (bench, listener) = on(&machine, async move {
        let bench = Bench::start();
        let listener = bench.map(1, MACHINE, target).await;
        (bench, listener)
    });
    for _ in 0..20 {
        let stream = on(&client, async move {
            let mut stream = connect(listener).await;
            stream.write_all(&noise(5, PART)).await.expect("taken");
            stream
        });
        let record = client.block_on(until("a connection", || bench.registry.open_connections().pop()));
        client.block_on(until("bytes", || (record.counters.read().bytes_in == PART as u64).then_some(())));
        reset(stream);
        let (request, end) = client.block_on(requests.recv()).expect("the target's view");
        assert!(request == noise(5, PART), "{} bytes", request.len());
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        client.block_on(bench.closed(1));
    }
    assert_eq!(bench.reasons(), [CloseReason::ClientReset; 20]);
    on(&machine, bench.shutdown());
}

/// Sends every datagram back.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(socket: UdpSocket) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout can be set");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                socket.send_to(&buffer[..length], from).expect("sent");
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn udp(namespace: &Namespace, local: &str) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind(local).expect("the address is its own"));
    socket.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    // As much as is allowed: a burst is not to be lost here.
    SockRef::from(&socket).set_recv_buffer_size(4 << 20).expect("it can be set");
    socket
}

/// Datagrams of one size, each told apart by its content.
fn datagrams(count: usize, size: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| noise(number as u64 + 1, size)).collect()
}

/// Takes as many datagrams as were sent, which must be those.
#[track_caller]
fn expect_back(client: &UdpSocket, from: SocketAddr, mut sent: Vec<Vec<u8>>, network: &Network) {
    let mut buffer = vec![0; 1 << 16];
    let mut back = Vec::new();
    for number in 0..sent.len() {
        let (length, source) = client.recv_from(&mut buffer).unwrap_or_else(|error| {
            let drops = |namespace: &Namespace| {
                let counters = namespace.counters();
                ["Udp RcvbufErrors", "Udp6RcvbufErrors", "Ip ReasmFails", "Ip6ReasmFails"].map(|name| counters[name])
            };
            let [client, machine, host] = [&network.client, &network.machine, &network.host].map(drops);
            panic!("{error} after {number} of {}; dropped by {client:?}, {machine:?}, {host:?}", sent.len())
        });
        assert_eq!(source, from);
        back.push(buffer[..length].to_vec());
    }
    sent.sort();
    back.sort();
    assert!(back == sent, "of {} datagrams each comes back once, as it was", sent.len());
}

#[test]
fn datagrams_over_bridges_keep_their_boundaries_in_bursts_and_in_fragments() {
    if !require(NEEDS) {
        return;
    }
    let network = Network::new();
    let machine = runtime(&network.machine);
    let target: SocketAddr = format!("{TARGET}:53").parse().expect("an address");
    let _target = Echo::start(udp(&network.host, &target.to_string()));
    let (bench, listener) = on(&machine, async move {
        let bench = Bench::start();
        let mapping = config(&format!("{MACHINE}:auto:{target}/udp"));
        let listener = bound(&bench.apply(1, &mapping, &[target]).await);
        (bench, listener)
    });
    let client = udp(&network.client, "[2001:db8::10]:0");
    let (mut count, mut bytes) = (0, 0);
    let mut account = |datagrams: &[Vec<u8>]| {
        count += datagrams.len() as u64;
        bytes += datagrams.iter().map(|datagram| datagram.len() as u64).sum::<u64>();
    };
    // One send that the kernel cuts into datagrams: the last may be a short one.
    for (segments, size) in [(53, 1_200), (46, 1_400), (30, 100)] {
        for last in [size, 7] {
            let mut burst = datagrams(segments, usize::from(size));
            if let Some(datagram) = burst.last_mut() {
                datagram.truncate(usize::from(last));
            }
            account(&burst);
            let whole = burst.concat();
            let to = SockaddrStorage::from(listener);
            let segment = [ControlMessage::UdpGsoSegments(&size)];
            let sent = sendmsg(client.as_raw_fd(), &[IoSlice::new(&whole)], &segment, MsgFlags::empty(), Some(&to));
            assert_eq!(sent, Ok(whole.len()));
            expect_back(&client, listener, burst, &network);
        }
    }
    // One by one and at once: 1,460 bytes fit the MTU over IPv4 and do not over IPv6, more fits neither.
    for (number, size) in
        [(40, 1_400), (40, 1_452), (40, 1_460), (40, 1_473), (20, 2_000), (10, 4_000), (1, 65_507), (1, 0)]
    {
        for _ in 0..5 {
            let burst = datagrams(number, size);
            account(&burst);
            for datagram in &burst {
                assert_eq!(client.send_to(datagram, listener).expect("sent"), size);
            }
            expect_back(&client, listener, burst, &network);
        }
    }
    let flow = bench.registry.open_connections().pop().expect("a flow");
    let expected = (count, count, bytes, bytes);
    // The client may have the last reply a moment before it is counted.
    machine.block_on(until("exact counts", || {
        let counts = flow.counters.read();
        let told = (counts.datagrams_in, counts.datagrams_out, counts.bytes_in, counts.bytes_out);
        (told == expected).then_some(())
    }));
    assert_eq!(bench.status(1).meter.dropped_datagrams(), 0);
    // They were cut on both sides of the machine, else this test saw nothing.
    let counters = network.machine.counters();
    assert!(counters["Ip FragCreates"] > 0 && counters["Ip6FragCreates"] > 0, "{counters:?}");
    println!("{count} datagrams there and back, {bytes} bytes each way");
    on(&machine, bench.shutdown());
}
