//! What is counted is told by the mapping's name as it is now, and goes with the mapping.

use std::io::{Read, Write};
use std::net::TcpStream;

use portolan::metrics::{Format, text};
use portolan::model::event::{CloseReason, MappingState};
use portolan::model::metrics::Metrics;
use portolan::model::profile::WrittenMapping;
use portolan::model::request::{Reply, Request};

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
