//! `events`: the stream of `run`, for who comes later and only looks on.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use portolan::commands::{Add, Fields, add};
use portolan::headless::{self, Demand, Ended, Options};
use serde_json::Value;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::common::SOON;
use crate::common::echo::{echo_server, echoes};
use crate::world::{World, is_up};
use crate::{Paper, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_looks_on_demands_nothing_and_hears_of_connections_that_were_there_before() {
    let world = World::new().await;
    let adding = |mapping: String, name: &str| Add {
        mapping,
        fields: Fields { name: Some(name.into()), ..Fields::default() },
        even_if_busy: true,
        ..Add::default()
    };
    let web = adding(format!("auto:{}", echo_server()), "web");
    text(async |out| add(&world.handle, &web, out).await).await.well();
    let mut rows = world.rows().await;
    let bound = rows.wait("up", |rows| rows.iter().any(is_up)).await[0].listeners[0].bound.expect("bound");
    let mut client = TcpStream::connect(bound).expect("it listens");
    assert!(echoes(&mut client));

    let (sender, mut lines) = unbounded_channel();
    let options = Options { json: true, interval: Duration::from_millis(50), demand: Demand::Nothing };
    let events = world.handle.subscribe(options.interest()).await.expect("it runs");
    let task = tokio::spawn(headless::run(events, options, Paper(sender)));
    let mut seen = String::new();
    let mut event = async |what: &str, fits: fn(&Value) -> bool| {
        let hearing = async {
            loop {
                let line = String::from_utf8(lines.recv().await.expect("it goes on")).expect("it is text");
                seen.push_str(&line);
                let mut events = line.lines().map(|line| serde_json::from_str(line).expect("JSON"));
                if events.any(|event| fits(&event)) {
                    break;
                }
            }
        };
        timeout(SOON, hearing).await.unwrap_or_else(|_| panic!("never {what}"));
    };
    let of_first = |event: &Value| event["event"] == "traffic" && event["connections"][0]["id"] == 1;
    event("traffic of it", of_first).await;
    assert!(echoes(&mut client));
    event("more traffic of it", of_first).await;
    drop(client);
    event("its end", |event| event["event"] == "closed" && event["connection"]["id"] == 1).await;

    // The only mapping that is left cannot listen, which is no end of looking on.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let busy = adding(format!("{}:127.0.0.1:9", taken.local_addr().expect("bound")), "busy");
    text(async |out| add(&world.handle, &busy, out).await).await.remark();
    event("the failure", |event| event["event"] == "mapping_failed" && event["mapping"] == "busy").await;
    world.handle.request(portolan::model::request::Request::Stop { ids: vec![rows.rows[0].id] }).await.expect("saved");
    event("the stop", |event| event["event"] == "mapping_state" && event["state"] == "stopped").await;
    assert!(!task.is_finished());
    world.end().await;
    let ended = timeout(SOON, task).await.expect("it ends").expect("it does not panic");
    assert!(matches!(ended, Ok(Ended::Finished)), "{ended:?}");
}

/// Nothing listens when it comes, and nothing has to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_of_which_nothing_listens_can_be_looked_at() {
    let world = World::new().await;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let mapping = format!("{}:127.0.0.1:9", taken.local_addr().expect("bound"));
    text(async |out| add(&world.handle, &Add { mapping, even_if_busy: true, ..Add::default() }, out).await)
        .await
        .remark();
    let (sender, mut lines) = unbounded_channel();
    let options = Options { json: false, interval: Duration::from_millis(20), demand: Demand::Nothing };
    let events = world.handle.subscribe(options.interest()).await.expect("it runs");
    let task = tokio::spawn(headless::run(events, options, Paper(sender)));
    drop(taken);
    let mut seen = String::new();
    while !seen.contains("listening on") {
        let line = timeout(SOON, lines.recv()).await.expect("it is tried again").expect("it goes on");
        seen.push_str(&String::from_utf8(line).expect("it is text"));
    }
    world.end().await;
    let ended = timeout(SOON, task).await.expect("it ends").expect("it does not panic");
    assert!(matches!(ended, Ok(Ended::Finished)), "{ended:?}");
}
