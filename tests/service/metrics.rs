//! What is counted is told by the mapping's name as it is now, and goes with the mapping.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use portolan::metrics::{Format, text};
use portolan::model::event::{CloseReason, MappingState};
use portolan::model::metrics::Metrics;
use portolan::model::profile::WrittenMapping;
use portolan::model::request::{Reply, Request};
use portolan::model::update::Interest;

use crate::echo::echo_server;
use crate::world::{World, is_up, through_json, written};

async fn metrics(world: &World) -> Metrics {
    match world.handle.request(Request::Metrics).await {
        Ok(reply) => match through_json(&reply) {
            Reply::Metrics(metrics) => *metrics,
            other => panic!("another answer: {other:?}"),
        },
        Err(error) => panic!("no answer: {error}"),
    }
}

/// Sends without end to whoever comes, and hears nothing.
fn flood_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || while stream.write_all(&[7; 8 << 10]).is_ok() {});
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counted_bytes_never_become_fewer_though_a_reset_takes_some_back() {
    let world = World::new().await;
    let mut rows = world.rows().await;
    world.add(written("127.0.0.1:auto", &flood_server().to_string())).await;
    let listener = rows.wait("up", |rows| rows.len() == 1 && is_up(&rows[0])).await[0].listeners[0].bound;
    // It does not read, so that what the kernel has taken for it is much.
    let client = TcpStream::connect(listener.expect("it is bound")).expect("connected");
    let told = loop {
        let told = metrics(&world).await.mappings[0].bytes_out;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        if told > 0 && metrics(&world).await.mappings[0].bytes_out == told {
            break told;
        }
    };
    let connections = world.handle.subscribe(Interest { connections: true, ..Interest::default() }).await;
    let update = connections.expect("it runs").next().await.expect("rows");
    let id = update.connections[0].connection.id;
    world.handle.request(Request::Kill { id }).await.expect("it is there");
    let row = &rows.wait("the end of it", |rows| rows[0].connections == 0).await[0];
    assert!(row.bytes_out < told, "{} of {told} bytes had been delivered", row.bytes_out);
    assert_eq!(metrics(&world).await.mappings[0].bytes_out, told);
    drop(client);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_counted_follows_a_mapping_through_a_rename_and_goes_with_it() {
    let world = World::new().await;
    let target = echo_server().to_string();
    let mut rows = world.rows().await;
    let mapping = |name: &str| WrittenMapping { name: Some(name.into()), ..written("127.0.0.1:auto", &target) };
    let web = world.add(mapping("web")).await;
    let idle = world.add(WrittenMapping { name: Some("dns".into()), ..written("auto", "127.0.0.1:9") }).await;
    let listener = rows.wait("up", |rows| rows.len() == 2 && rows.iter().all(is_up)).await[0].listeners[0].bound;
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(listener.expect("it is bound")).expect("connected");
        stream.write_all(b"hello").expect("taken");
        stream.shutdown(std::net::Shutdown::Write).expect("ended");
        stream.read_to_end(&mut Vec::new()).expect("a clean end");
    })
    .await
    .expect("it does not panic");
    rows.wait("the end of it", |rows| rows[0].connections_total == 1 && rows[0].connections == 0).await;

    world
        .handle
        .request(Request::Edit { id: web, mapping: mapping("page"), even_if_busy: false })
        .await
        .expect("valid");
    let told = metrics(&world).await;
    assert_eq!(
        told.mappings.iter().map(|one| (one.id, one.name.as_str())).collect::<Vec<_>>(),
        [(web, "page"), (idle, "dns")]
    );
    let page = &told.mappings[0];
    assert_eq!((page.bytes_in, page.bytes_out, page.state), (5, 5, MappingState::Up));
    assert_eq!((page.connections.open, page.connections.total), (0, 1));
    assert_eq!(page.connections.closed(CloseReason::Finished), 1);
    assert_eq!(page.connections.connect_times.as_ref().expect("it has connected").count, 1);
    assert!(told.is_ready && told.descriptors.expect("it runs").limit == 4_000);
    assert_eq!((told.connections_open, told.connections_total), (0, 1));

    world.handle.request(Request::Remove { ids: vec![web] }).await.expect("it is there");
    let told = metrics(&world).await;
    assert_eq!(told.mappings.iter().map(|one| one.id).collect::<Vec<_>>(), [idle]);
    assert_eq!(told.connections_total, 1, "what is gone was there");
    let text = text(&told, Format::OpenMetrics).expect("it is text");
    assert!(text.contains("mapping=\"dns\"") && !text.contains("page") && !text.contains("web"), "{text}");
    world.end().await;
}
