//! What is counted for metrics is what has happened: every end by its reason, every connect by its time.

#[path = "common/ports.rs"]
mod ports;
#[path = "common/sockets.rs"]
mod sockets;

use std::time::Duration;

use portolan::model::event::CloseReason;
use portolan::model::metrics::{ConnectFailures, ConnectionMetrics};
use ports::closed_port;
use sockets::{Bench, PATIENCE, Server, at, bound, config, connect, try_connect, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

const FINISHED: u64 = 7;
const REFUSED: u64 = 5;
const KILLED: u64 = 3;
const STANDING: u64 = 2;

fn metrics(bench: &Bench, id: u64) -> ConnectionMetrics {
    bench.status(id).meter.connection_metrics()
}

/// The reasons that were, in the order of their declaration.
fn reasons(metrics: &ConnectionMetrics) -> Vec<(CloseReason, u64)> {
    metrics.closed.iter().map(|closed| (closed.reason, closed.count)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_and_every_connect_is_counted_once() {
    let bench = Bench::start();
    let server = Server::echo("127.0.0.1");
    let listener = bench.map(1, "127.0.0.1", server.address).await;
    assert_eq!(metrics(&bench, 1), ConnectionMetrics::default());

    for _ in 0..FINISHED {
        let mut stream = connect(listener).await;
        stream.write_all(b"x").await.expect("taken");
        stream.shutdown().await.expect("ended");
        stream.read_to_end(&mut Vec::new()).await.expect("a clean end");
    }
    let mut standing = Vec::new();
    for _ in 0..KILLED + STANDING {
        let mut stream = connect(listener).await;
        stream.write_all(b"x").await.expect("taken");
        stream.read_exact(&mut [0]).await.expect("an echo");
        standing.push(stream);
    }
    until("the finished ones", || (bench.registry.closed_count() == FINISHED).then_some(())).await;
    for record in bench.registry.open_connections().iter().take(usize::try_from(KILLED).expect("few")) {
        assert!(bench.engine.kill(record.id));
    }
    until("the killed ones", || (bench.registry.open_count() == STANDING).then_some(())).await;

    let told = metrics(&bench, 1);
    assert_eq!(reasons(&told), [(CloseReason::Finished, FINISHED), (CloseReason::Killed, KILLED)]);
    assert_eq!((told.open, told.total), (STANDING, FINISHED + KILLED + STANDING));
    assert_eq!(told.failures, ConnectFailures::default());
    let times = told.connect_times.expect("some have connected");
    assert_eq!(times.count, told.total, "each has connected once");
    assert!(times.buckets.is_sorted_by_key(|bucket| (bucket.up_to_us, bucket.count)), "{times:?}");
    assert!(times.sum_us > 0 && Duration::from_micros(times.sum_us) < PATIENCE, "{times:?}");

    // Another mapping's are its own.
    let listener = bench.map(2, "127.0.0.1", closed_port("127.0.0.1")).await;
    for _ in 0..REFUSED {
        // The reset may be there before this task even looks at the outcome of its connect.
        if let Ok(mut stream) = try_connect(listener).await {
            let _ = stream.read(&mut [0]).await;
        }
    }
    until("the refused ones", || (metrics(&bench, 2).open == 0 && metrics(&bench, 2).total == REFUSED).then_some(()))
        .await;
    let told = metrics(&bench, 2);
    assert_eq!(reasons(&told), [(CloseReason::TargetRefused, REFUSED)]);
    assert_eq!(told.failures, ConnectFailures { refused: REFUSED, ..ConnectFailures::default() });
    assert_eq!(told.connect_times, None);
    assert_eq!(metrics(&bench, 1).failures, ConnectFailures::default());

    assert_eq!(bench.registry.opened_count(), FINISHED + KILLED + STANDING + REFUSED);
    drop(standing);
    until("the last ones", || (bench.registry.open_count() == 0).then_some(())).await;
    let told = metrics(&bench, 1);
    assert_eq!(told.total, told.closed.iter().map(|closed| closed.count).sum::<u64>());
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_is_counted_as_a_connection_is() {
    let bench = Bench::start();
    let target = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let address = target.local_addr().expect("an address");
    let status = bench.apply(1, &config(&format!("127.0.0.1:auto:{}/udp", at(address))), &[address]).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    client.connect(bound(&status)).await.expect("connected");
    client.send(b"ask").await.expect("sent");
    let mut buffer = [0; 8];
    let (count, flow) = target.recv_from(&mut buffer).await.expect("a datagram");
    target.send_to(&buffer[..count], flow).await.expect("sent");
    timeout(PATIENCE, client.recv(&mut buffer)).await.expect("an answer").expect("a datagram");

    bench.registry.kill_where(CloseReason::Killed, |_| true);
    until("its end", || (bench.registry.open_count() == 0).then_some(())).await;
    let told = metrics(&bench, 1);
    assert_eq!(reasons(&told), [(CloseReason::Killed, 1)]);
    assert_eq!(told.connect_times.expect("it has answered").count, 1);
    bench.shutdown().await;
}
