//! What the engine takes for one of each: a round trip, a connection, a datagram there and back, a count. Client, engine
//! and target share this process; what is of interest is how a figure changes with a change of the data path.
//!
//! The side-by-side bench (`peers`) says how that compares with others.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use portolan::forward::context::Addresses;
use portolan::forward::engine::{Engine, Options};
use portolan::forward::meter::{Counters, Direction};
use portolan::forward::registry::Registry;
use portolan::model::id::MappingId;
use portolan::model::mapping::Mapping;
use portolan::model::profile::MappingConfig;
use tokio::runtime::Runtime;

/// Bytes of a request, and of a datagram.
const SMALL: usize = 64;

/// Bytes of one measured step of bulk.
const BULK: usize = 4 << 20;

/// An engine with one mapping, from `[::1]` to a target on 127.0.0.1.
struct Relay {
    runtime: Runtime,
    engine: Option<Engine>,
    address: SocketAddr,
}

impl Relay {
    fn to(target: SocketAddr, protocol: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mapping: Mapping = format!("[::1]:auto:{target}/{protocol}").parse().expect("a mapping");
        let config = Arc::new(MappingConfig::new("bench", mapping));
        let (engine, address) = runtime.block_on(async {
            let (engine, mut notices) =
                Engine::start(Options { descriptor_limit: 10_000, sockets: Vec::new() }, Registry::new());
            let status = engine.apply(MappingId(1), config, Addresses::Known(vec![target])).await;
            // Somebody has to listen to what the engine tells, as the service does.
            tokio::spawn(async move { while notices.recv().await.is_some() {} });
            (engine, status.listeners.iter().find_map(|listener| listener.bound).expect("it listens"))
        });
        Self { runtime, engine: Some(engine), address }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let engine = self.engine.take().expect("taken here alone");
        self.runtime.block_on(engine.shutdown(Duration::ZERO));
    }
}

/// A target that does this with each connection.
fn target(mut each: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || listener.incoming().filter_map(Result::ok).for_each(&mut each));
    address
}

/// Sends back what comes until the end.
fn echo(mut stream: TcpStream) {
    std::thread::spawn(move || {
        let mut buffer = [0; SMALL];
        while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
    });
}

fn round_trip(criterion: &mut Criterion) {
    let relay = Relay::to(target(echo), "tcp");
    let mut stream = TcpStream::connect(relay.address).expect("the relay listens");
    stream.set_nodelay(true).expect("a socket option");
    let (sent, mut received) = ([7; SMALL], [0; SMALL]);
    criterion.bench_function("TCP: a request of 64 bytes and its answer", |bencher| {
        bencher.iter(|| {
            stream.write_all(&sent).expect("it is sent");
            stream.read_exact(&mut received).expect("it comes back");
        });
    });
    assert_eq!(received, sent);
}

fn connection(criterion: &mut Criterion) {
    let relay = Relay::to(target(|mut stream| drop(stream.write_all(b"."))), "tcp");
    criterion.bench_function("TCP: a connection that the target greets and closes", |bencher| {
        bencher.iter(|| {
            let mut stream = TcpStream::connect(relay.address).expect("the relay listens");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("it ends cleanly");
            assert_eq!(bytes, b".");
        });
    });
}

fn bulk(criterion: &mut Criterion) {
    // It takes what comes, and says with a byte when it has a whole step.
    let whole_steps = |mut stream: TcpStream| {
        std::thread::spawn(move || {
            let mut buffer = vec![0; BULK];
            while stream.read_exact(&mut buffer).is_ok() && stream.write_all(b".").is_ok() {}
        });
    };
    let relay = Relay::to(target(whole_steps), "tcp");
    let mut stream = TcpStream::connect(relay.address).expect("the relay listens");
    let sent = vec![7; BULK];
    let mut group = criterion.benchmark_group("TCP");
    group.throughput(Throughput::Bytes(BULK as u64));
    group.bench_function("4 MiB and the target's nod", |bencher| {
        bencher.iter(|| {
            stream.write_all(&sent).expect("it is sent");
            stream.read_exact(&mut [0]).expect("the target nods");
        });
    });
    group.finish();
}

fn datagram(criterion: &mut Criterion) {
    let target = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let mut buffer = [0; SMALL];
        while let Ok((count, from)) = target.recv_from(&mut buffer) {
            // The relay may have gone.
            let _ = target.send_to(&buffer[..count], from);
        }
    });
    let relay = Relay::to(address, "udp");
    let client = UdpSocket::bind("[::1]:0").expect("a free port");
    client.connect(relay.address).expect("an address of this host");
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket option");
    let (sent, mut received) = ([7; SMALL], [0; SMALL]);
    criterion.bench_function("UDP: a datagram of 64 bytes there and back", |bencher| {
        bencher.iter(|| {
            client.send(&sent).expect("it is sent");
            client.recv(&mut received).expect("it comes back");
        });
    });
    assert_eq!(received, sent);
}

fn count(criterion: &mut Criterion) {
    let counters = Counters::default();
    criterion.bench_function("a count of bytes", |bencher| {
        bencher.iter(|| counters.add_bytes(black_box(Direction::In), black_box(SMALL as u64)));
    });
    assert!(counters.read().bytes_in > 0);
}

criterion_group!(benches, round_trip, connection, bulk, datagram, count);
criterion_main!(benches);
