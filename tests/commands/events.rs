//! `events`: the stream of `run`, for who comes later and only looks on.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use portolan::commands::{Add, Fields, add};
use portolan::headless::{self, Demand, Ended, Options};
use portolan::model::event::{CloseReason, Connection, Event, EventKind};
use portolan::model::filter::Filter;
use portolan::model::id::ConnectionId;
use portolan::model::update::{ConnectionRow, MappingRow, Update};
use portolan::service::{Handle, ServiceCall};
use serde_json::{Value, from_value, json};
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
    let options =
        Options { json: true, interval: Duration::from_millis(50), demand: Demand::Nothing, filter: Filter::default() };
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
    let options = Options {
        json: false,
        interval: Duration::from_millis(20),
        demand: Demand::Nothing,
        filter: Filter::default(),
    };
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

fn connection(id: u64, mapping: &str, port: u16) -> Connection {
    from_value(json!({
        "id": id, "mapping": mapping, "protocol": "tcp", "client": "127.0.0.1:50000",
        "listener": format!("127.0.0.1:{port}"), "source": "127.0.0.1:40000", "target": "127.0.0.1:9",
        "target_address": "127.0.0.1:9", "state": "open", "opened_at": "2026-01-31T10:00:00.123Z", "duration_ms": 5,
        "bytes_in": 4, "bytes_out": 6
    }))
    .expect("a connection")
}

fn mapping(id: u64, name: &str, port: u16) -> MappingRow {
    let text = format!("127.0.0.1:{port}");
    from_value(json!({
        "id": id, "name": name, "mapping": format!("{text}:127.0.0.1:9"),
        "written": { "listen": text, "target": "127.0.0.1:9" }, "state": "up", "listeners": [],
        "target_addresses": [], "connections": 1, "connections_total": 2, "errors": 0, "bytes_in": 4, "bytes_out": 6,
        "is_session": false, "reason": null, "last_result": null, "connect_p50_us": null
    }))
    .expect("a row")
}

/// What two mappings have to say, and that something was lost.
fn of_two() -> Update {
    let at = "2026-01-31T10:00:00Z".parse().expect("a time");
    let of = |id: u64, mapping: &str, port: u16| {
        let opened = connection(id, mapping, port);
        let closed = Connection { id: ConnectionId(id + 10), reason: Some(CloseReason::Finished), ..opened.clone() };
        [
            EventKind::Opened { connection: Connection { id: ConnectionId(id + 10), ..opened.clone() } },
            EventKind::Opened { connection: opened },
            EventKind::Closed { connection: closed },
            EventKind::Removed { mapping: mapping.to_owned() },
        ]
    };
    let ready = EventKind::Ready { mappings: 2, listening: 2, failed: 0 };
    let kinds = of(1, "web", 8080).into_iter().chain(of(2, "dns", 5353)).chain([ready]);
    // More has flowed since they were opened.
    let row = |connection| ConnectionRow { connection: Connection { bytes_in: 14, ..connection }, ..connection_row() };
    Update {
        mappings: vec![mapping(1, "web", 8080), mapping(2, "dns", 5353)],
        connections: vec![row(connection(1, "web", 8080)), row(connection(2, "dns", 5353))],
        events: kinds.map(|kind| Event::new(at, kind)).collect(),
        lost: 3,
        ..Update::default()
    }
}

fn connection_row() -> ConnectionRow {
    let connection = connection(1, "web", 8080);
    from_value(json!({ "connection": connection, "mapping_id": 1, "opened_at_ms": 0, "closed_at_ms": null }))
        .expect("a row")
}

/// Whatever is told of `update` through a filter, before the engine ends.
async fn told(update: Update, filter: &str, json: bool) -> String {
    let (handle, mut incoming) = Handle::channel();
    let engine = tokio::spawn(async move {
        let Some(ServiceCall::Subscribe { updates, begun, .. }) = incoming.recv().await else { return };
        let _ = begun.send(Ok(()));
        updates.send(update).await.expect("it listens");
    });
    let filter = Filter::parse(filter);
    let options = Options { json, interval: Duration::from_mins(1), demand: Demand::Nothing, filter };
    let events = handle.subscribe(options.interest()).await.expect("it has begun");
    let mut out = Vec::new();
    let ended = timeout(SOON, headless::run(events, options, &mut out)).await.expect("the engine has ended");
    assert!(matches!(ended, Ok(Ended::Finished)), "{ended:?}");
    engine.await.expect("it does not panic");
    String::from_utf8(out).expect("it is text")
}

#[tokio::test]
async fn a_filter_takes_what_the_screen_would_take_and_that_something_was_lost() {
    let names = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split_once(' ').expect("the time stands first").1);
        lines.map(|line| line.split(", ").next().unwrap_or_default().to_owned()).collect()
    };
    let lost = "lost: 3 events";
    let all = told(of_two(), "", false).await;
    assert_eq!(names(&all).len(), 11, "{all}");
    for (filter, wanted) in [
        (
            "web",
            &[
                lost,
                "web: #11 opened",
                "web: #1 opened",
                "web: #11 closed (finished)",
                "web: removed",
                "traffic: web 1 open",
            ][..],
        ),
        (
            "port:5353",
            &[lost, "dns: #12 opened", "dns: #2 opened", "dns: #12 closed (finished)", "traffic: dns 1 open"],
        ),
        ("web closed", &[lost, "web: #11 closed (finished)"]),
        ("READY", &[lost, "ready: 2 mappings"]),
        ("nobody", &[lost]),
    ] {
        assert_eq!(names(&told(of_two(), filter, false).await), wanted, "{filter}");
    }
}

#[tokio::test]
async fn traffic_through_a_filter_counts_what_was_told() {
    let traffic = async |filter: &str| {
        let told = told(of_two(), filter, true).await;
        let events = told.lines().map(|line| serde_json::from_str::<Value>(line).expect("it is JSON"));
        events.filter(|event| event["event"] == "traffic").collect::<Vec<_>>()
    };
    let all = traffic("").await;
    assert_eq!((&all[0]["opened"], &all[0]["closed"]), (&4.into(), &2.into()), "{all:?}");
    let of_web = traffic("web").await;
    assert_eq!((&of_web[0]["opened"], &of_web[0]["closed"]), (&2.into(), &1.into()), "{of_web:?}");
    let of = |what: &str, name: &str| -> Vec<Value> {
        of_web[0][what].as_array().expect("a list").iter().map(|one| one[name].clone()).collect()
    };
    assert_eq!((of("mappings", "mapping"), of("connections", "id")), (vec!["web".into()], vec![1.into()]));
    assert!(traffic("nobody").await.is_empty(), "there is none");
}
