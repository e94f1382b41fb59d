//! Changes of a real engine: what they say, what comes of them, and what is refused.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use portolan::commands::{Add, Edit, Fields, Which, add, edit, kill, remove, start, stop, undo};
use portolan::model::event::MappingState;
use portolan::model::id::{MappingId, Revision};
use portolan::model::identity::{Identity, Inspect};
use portolan::model::profile::WrittenMapping;
use portolan::model::request::{Reply, Request, RequestError};
use portolan::model::update::{MappingRow, Overview, Update};
use portolan::service::{Handle, ServiceCall};

use crate::common::echo::{echo_server, echoes};
use crate::common::ports::free_port;
use crate::common::program::Home;
use crate::world::{World, is_up, written};
use crate::{Closed, json, names, text};
use portolan::commands::Output;

fn adding(mapping: &str) -> Add {
    Add { mapping: mapping.to_owned(), ..Add::default() }
}

fn named(mapping: &str, name: &str) -> Add {
    Add { fields: Fields { name: Some(name.to_owned()), ..Fields::default() }, ..adding(mapping) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_is_added_changed_stopped_started_removed_and_brought_back() {
    let world = World::new().await;
    let (target, port) = (echo_server(), free_port());
    let listener = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let said = text(async |out| add(&world.handle, &named(&format!("127.0.0.1:{port}:{target}"), "web"), out).await);
    assert_eq!(said.await.well(), "added web: only this machine can connect\n");
    let mut client = TcpStream::connect(listener).expect("it listens once that is said");
    assert!(echoes(&mut client));
    assert!(world.text().contains("\"web\""), "it is in the profile: {}", world.text());

    let rename = Edit {
        which: "web".into(),
        fields: Fields { name: Some("shop".into()), idle_timeout: Some("9m".into()), ..Fields::default() },
        ..Edit::default()
    };
    let said = text(async |out| edit(&world.handle, &rename, out).await).await;
    assert_eq!(said.well(), "changed shop\n");
    assert!(echoes(&mut client), "connections stay");
    let only = world.text();
    assert!(only.contains("\"9m\"") && only.contains("\"shop\"") && only.contains(&target.to_string()), "{only}");

    let said = text(async |out| stop(&world.handle, &Which::These(names(&["shop"])), out).await).await;
    assert_eq!(said.well(), "stopped shop\n");
    assert!(TcpStream::connect(listener).is_err());
    let said = text(async |out| start(&world.handle, &Which::All, out).await).await;
    assert_eq!(said.well(), "started shop\n");
    assert!(echoes(&mut TcpStream::connect(listener).expect("it listens once that is said")));

    let said = json(async |out| remove(&world.handle, &names(&["shop"]), out).await).await.json();
    assert_eq!((&said["reply"], &said["ids"]), (&"done".into(), &serde_json::json!([1])));
    assert!(said["message"].as_str().is_some_and(|message| message.starts_with("deleted shop")), "{said}");
    assert!(TcpStream::connect(listener).is_err());
    let said = text(async |out| undo(&world.handle, out).await).await.well();
    assert!(said.starts_with("undid: delete shop"), "{said}");
    assert!(echoes(&mut TcpStream::connect(listener).expect("it listens once that is said")));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_of_a_mapping_can_be_given_and_taken_back() {
    let world = World::new().await;
    let all = Add {
        fields: Fields {
            name: Some("db".into()),
            connect_timeout: Some("2s".into()),
            idle_timeout: Some("5m".into()),
            half_close_timeout: Some("1m".into()),
            max_connections: Some("7".into()),
            ..Fields::default()
        },
        stopped: true,
        ..adding("auto:127.0.0.1:9")
    };
    text(async |out| add(&world.handle, &all, out).await).await.well();
    let mut rows = world.rows().await;
    let row = rows.wait("told", |rows| !rows.is_empty()).await[0].clone();
    assert_eq!(row.state, MappingState::Stopped);
    let given = WrittenMapping {
        name: Some("db".into()),
        enabled: Some(false),
        connect_timeout: Some("2s".into()),
        idle_timeout: Some("5m".into()),
        half_close_timeout: Some("1m".into()),
        max_connections: Some(7),
        ..written("localhost:auto", "127.0.0.1:9")
    };
    assert_eq!(row.written, given);

    let default = || Some("default".to_owned());
    let back = Edit {
        // By its id, for once.
        which: row.id.to_string(),
        mapping: Some("auto:127.0.0.1:10/udp".into()),
        fields: Fields {
            name: Some(String::new()),
            network: default(),
            connect_timeout: default(),
            idle_timeout: default(),
            half_close_timeout: None,
            max_connections: default(),
            ..Fields::default()
        },
        ..Edit::default()
    };
    let said = text(async |out| edit(&world.handle, &back, out).await).await.well();
    assert_eq!(said, "changed auto-udp\n");
    let changed = rows.wait("changed", |rows| rows[0].written != given).await[0].written.clone();
    let left = WrittenMapping {
        enabled: Some(false),
        half_close_timeout: Some("1m".into()),
        protocol: Some(portolan::model::mapping::Protocol::Udp),
        ..written("localhost:auto", "127.0.0.1:10")
    };
    assert_eq!(changed, left);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_valid_is_refused_with_every_problem_and_exit_status_2() {
    let world = World::new().await;
    let handle = &world.handle;
    text(async |out| add(handle, &named("auto:127.0.0.1:9", "web"), out).await).await.well();
    let said = text(async |out| add(handle, &adding("8080:80"), out).await).await.failed(2);
    assert_eq!(said, "8080:80: 8080:80 names no container: write 8080:CONTAINER:80");
    let both = Add {
        fields: Fields {
            connect_timeout: Some("5".into()),
            idle_timeout: Some("0s".into()),
            name: Some("a/b".into()),
            ..Fields::default()
        },
        ..adding("auto:127.0.0.1:9")
    };
    let said = text(async |out| add(handle, &both, out).await).await.failed(2);
    assert_eq!(said.matches("; ").count(), 2, "each of the three: {said}");
    let many = Fields { max_connections: Some("many".into()), ..Fields::default() };
    let said =
        text(async |out| add(handle, &Add { fields: many, ..adding("auto:127.0.0.1:9") }, out).await).await.failed(2);
    assert_eq!(said, "max_connections: expected a whole number from 1, found \"many\"");
    let said = text(async |out| add(handle, &named("auto:127.0.0.1:9", "web"), out).await).await.failed(2);
    assert!(said.contains("web"), "{said}");
    let nothing = Edit { which: "web".into(), ..Edit::default() };
    let said = text(async |out| edit(handle, &nothing, out).await).await.failed(2);
    assert_eq!(said, "there is nothing to change (give a MAPPING, or an option such as --name)");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mappings_on_one_address_are_refused_by_their_names() {
    let world = World::new().await;
    let port = free_port();
    text(async |out| add(&world.handle, &named(&format!("{port}:127.0.0.1:9"), "web"), out).await).await.well();
    let again = named(&format!("{port}:127.0.0.1:10"), "other");
    let said = text(async |out| add(&world.handle, &again, out).await).await.failed(2);
    assert!(said.contains("web") && said.contains("both listen on"), "{said}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_somebody_holds_is_refused_by_its_holder_and_kept_where_that_is_asked_for() {
    let world = World::new().await;
    let home = Home::new();
    let mut other = home.run(None, ["-p", &format!("127.0.0.1:{}:127.0.0.1:9", free_port())]);
    let address = other.listening("127.0.0.1");
    let holder = format!("portolan (pid {})", other.pid());
    let busy = named(&format!("{address}:127.0.0.1:9"), "web");
    let said = text(async |out| add(&world.handle, &busy, out).await).await.failed(1);
    assert!(said.starts_with(&format!("{address} is in use by ")) && said.contains(&holder), "{said}");
    assert!(said.contains("--even-if-busy keeps the mapping and tries again") && said.contains("is free"), "{said}");

    let kept = Add { even_if_busy: true, ..busy };
    let said = text(async |out| add(&world.handle, &kept, out).await).await;
    assert_eq!(said.text, "added web: only this machine can connect\n");
    let remark = said.remark();
    assert!(remark.starts_with(&format!("web is failed: {address}")) && remark.contains(&holder), "{remark}");
    // Whoever starts it is told, too.
    let said = text(async |out| start(&world.handle, &Which::These(names(&["web"])), out).await).await;
    assert!(said.remark().starts_with("web is failed: "), "it does not listen");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_that_is_not_there_is_answered_with_those_that_are() {
    let world = World::new().await;
    let handle = &world.handle;
    let said = text(async |out| remove(handle, &names(&["web"]), out).await).await.failed(1);
    assert_eq!(said, "there is no mapping \"web\" (there is none yet)");
    let said = text(async |out| start(handle, &Which::All, out).await).await.remark();
    assert_eq!(said, "there is no mapping");
    for said in [
        json(async |out| start(handle, &Which::All, out).await).await,
        json(async |out| stop(handle, &Which::All, out).await).await,
    ] {
        assert_eq!(said.text, "{\"reply\":\"done\",\"ids\":[],\"message\":\"there is no mapping\"}\n");
        assert_eq!(said.remark(), "there is no mapping");
    }
    for name in ["web", "dns"] {
        text(async |out| add(handle, &named("auto:127.0.0.1:9", name), out).await).await.well();
    }
    let known = "(there are: web, dns)";
    let said = text(async |out| remove(handle, &names(&["web", "wbe", "99", "x\x1b[2J"]), out).await).await.failed(1);
    assert_eq!(
        said,
        format!(
            "there is no mapping \"wbe\"; there is no mapping \"99\"; there is no mapping \"x\\u{{1b}}[2J\" {known}"
        )
    );
    for which in [Which::These(names(&["wbe"])), Which::These(names(&["dns", "wbe"]))] {
        for said in [
            text(async |out| start(handle, &which, out).await).await,
            text(async |out| stop(handle, &which, out).await).await,
        ] {
            assert_eq!(said.failed(1), format!("there is no mapping \"wbe\" {known}"));
        }
    }
    let other = Edit { which: "wbe".into(), mapping: Some("auto:127.0.0.1:9".into()), ..Edit::default() };
    let said = text(async |out| edit(handle, &other, out).await).await.failed(1);
    assert_eq!(said, format!("there is no mapping \"wbe\" {known}"));
    let mut rows = world.rows().await;
    let all = rows.wait("both are there", |rows| rows.len() == 2).await.iter().all(is_up);
    assert!(all, "nothing has changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_named_twice_is_meant_once() {
    let world = World::new().await;
    text(async |out| add(&world.handle, &named("auto:127.0.0.1:9", "web"), out).await).await.well();
    let said = text(async |out| remove(&world.handle, &names(&["web", "1", "web"]), out).await).await.well();
    assert_eq!(said, "deleted web\n");
    let said = text(async |out| undo(&world.handle, out).await).await.well();
    assert_eq!(said, "undid: delete web\n");
    text(async |out| undo(&world.handle, out).await).await.well();
    let said = text(async |out| undo(&world.handle, out).await).await.failed(1);
    assert_eq!(said, "nothing to undo");
    world.end().await;
}

/// The README writes them down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_in_json_has_no_word_for_people_at_a_screen() {
    let world = World::new().await;
    let handle = &world.handle;
    let web = || names(&["web"]);
    let which = || Which::These(web());
    let rename = Edit { which: "web".into(), mapping: Some("auto:127.0.0.1:10".into()), ..Edit::default() };
    let mut said = vec![json(async |out| add(handle, &named("auto:127.0.0.1:9", "web"), out).await).await.json()];
    said.push(json(async |out| edit(handle, &rename, out).await).await.json());
    said.push(json(async |out| stop(handle, &which(), out).await).await.json());
    said.push(json(async |out| start(handle, &which(), out).await).await.json());
    said.push(json(async |out| remove(handle, &web(), out).await).await.json());
    said.push(json(async |out| undo(handle, out).await).await.json());
    for said in said {
        let fields: Vec<&String> = said.as_object().expect("it is an object").keys().collect();
        assert_eq!(fields, ["ids", "message", "reply"], "{said}");
        assert_eq!((&said["reply"], &said["ids"]), (&"done".into(), &serde_json::json!([1])), "{said}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_reset_each_for_itself() {
    let world = World::new().await;
    let target = echo_server();
    text(async |out| add(&world.handle, &named(&format!("auto:{target}"), "web"), out).await).await.well();
    let mut rows = world.rows().await;
    let bound = rows.wait("up", |rows| rows.iter().any(is_up)).await[0].listeners[0].bound.expect("bound");
    let mut clients: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(bound).expect("it listens")).collect();
    assert!(clients.iter_mut().all(echoes));
    let said = text(async |out| kill(&world.handle, &[1, 77, 2], out).await).await;
    assert_eq!(said.text, "reset connection 1\nreset connection 2\n");
    assert_eq!(said.failed(1), "there is no open connection 77 (there are: 3)");
    assert_eq!(clients.iter_mut().map(echoes).collect::<Vec<_>>(), [false, false, true]);
    let said = json(async |out| kill(&world.handle, &[3], out).await).await.json();
    assert_eq!(said["message"], "reset connection 3");
    rows.wait("all are closed", |rows| rows[0].connections_total == 3 && rows[0].connections == 0).await;
    let said = text(async |out| kill(&world.handle, &[3], out).await).await.failed(1);
    assert_eq!(said, "there is no open connection 3 (none is open)");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_gone_is_no_failure_and_the_change_stands() {
    let world = World::new().await;
    let failure =
        add(&world.handle, &named("auto:127.0.0.1:9", "web"), &mut Output::new(Closed, false)).await.unwrap_err();
    assert_eq!(failure.status(), 0);
    assert!(world.text().contains("web"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_has_ended_is_said() {
    let world = World::new().await;
    let handle = world.handle.clone();
    world.end().await;
    let said = text(async |out| undo(&handle, out).await).await.failed(1);
    assert_eq!(said, "the engine has ended");
    let said = text(async |out| remove(&handle, &names(&["web"]), out).await).await.failed(1);
    assert_eq!(said, "the engine has ended");
}

/// An engine whose mapping somebody else changes whenever it is looked at, `times` times.
fn engine_of_a_busy_user(times: u64) -> Handle {
    let (handle, mut incoming) = Handle::channel();
    tokio::spawn(async move {
        let (mut revision, mut left) = (1, times);
        let mut row = row();
        let mut clients = Vec::new();
        while let Some(call) = incoming.recv().await {
            match call {
                ServiceCall::Subscribe { updates, begun, .. } => {
                    let _ = begun.send(Ok(()));
                    let overview =
                        Overview { revision: Revision(revision), order: vec![row.id], ..Overview::default() };
                    let rows = vec![row.clone()];
                    let update =
                        Update { is_full: true, overview: Some(overview), mappings: rows, ..Update::default() };
                    updates.send(update).await.expect("it has just asked");
                    clients.push(updates);
                    if left > 0 {
                        left -= 1;
                        revision += 1;
                        row.written.idle_timeout = Some(format!("{revision}m"));
                    }
                }
                ServiceCall::Request { call, reply } => {
                    let answer = match call.request {
                        Request::Edit { mapping, .. } if call.expected == Some(Revision(revision)) => {
                            let message = format!("{:?} {:?}", mapping.name, mapping.idle_timeout).as_str().into();
                            Ok(Reply::Done { ids: Vec::new(), message, keys: None })
                        }
                        _ => Err(RequestError::Stale { current: Revision(revision) }),
                    };
                    let _ = reply.send(answer);
                }
            }
        }
    });
    handle
}

fn row() -> MappingRow {
    MappingRow {
        id: MappingId(1),
        owner: portolan::model::update::Owner::Portolan,
        name: "web".into(),
        mapping: "8080:127.0.0.1:9".parse().expect("it is valid"),
        written: written("8080", "127.0.0.1:9"),
        is_session: false,
        state: MappingState::Up,
        reason: None,
        listeners: Vec::new(),
        target_addresses: Vec::new(),
        connections: 0,
        connections_total: 0,
        errors: 0,
        bytes_in: 0,
        bytes_out: 0,
        last_result: None,
        connect_p50_us: None,
    }
}

#[tokio::test]
async fn a_change_that_somebody_else_overtook_is_made_once_more_from_what_they_left() {
    let rename = Edit {
        which: "web".into(),
        fields: Fields { name: Some("shop".into()), ..Fields::default() },
        ..Edit::default()
    };
    let handle = engine_of_a_busy_user(1);
    let said = text(async |out| edit(&handle, &rename, out).await).await.well();
    assert_eq!(said, "Some(\"shop\") Some(\"2m\")\n", "their timeout is kept");
    let handle = engine_of_a_busy_user(2);
    let said = text(async |out| edit(&handle, &rename, out).await).await.failed(1);
    assert_eq!(said, "changed by somebody else in the meantime: look again, then repeat");
}

#[tokio::test]
async fn an_edit_says_how_the_container_learns_who_its_client_is() {
    let world = World::new().await;
    let mut rows = world.rows().await;
    text(async |out| add(&world.handle, &named("localhost:auto:127.0.0.1:9", "web"), out).await).await.well();
    let edited = async |fields: Fields| {
        let what = Edit { which: "web".into(), fields, ..Edit::default() };
        text(async |out| edit(&world.handle, &what, out).await).await
    };
    let given = |text: &str| Some(text.to_owned());
    let networks = |networks: &[&str]| Some(networks.iter().map(ToString::to_string).collect::<Vec<_>>());
    let fields = Fields {
        identity: given("proxy-v2"),
        accept_proxy: given("true"),
        trusted_cidrs: networks(&["10.0.0.0/8", "fd00::/8"]),
        inspect: given("http"),
        ..Fields::default()
    };
    edited(fields).await.well();
    let is_told = |rows: &[MappingRow]| rows.first().is_some_and(|row| row.written.identity.is_some());
    let row = rows.wait("changed", is_told).await[0].written.clone();
    assert_eq!((row.identity, row.accept_proxy), (Some(Identity::ProxyV2), Some(true)));
    assert_eq!((row.trusted_cidrs, row.inspect), (networks(&["10.0.0.0/8", "fd00::/8"]), Some(Inspect::Http)));
    // One without the other is refused by the engine, with every problem.
    let refused = edited(Fields { trusted_cidrs: networks(&["default"]), ..Fields::default() }).await;
    let said = refused.failed(2);
    assert!(said.contains("whose header is to be believed is not said"), "{said}");
    let fields = Fields {
        identity: given("none"),
        accept_proxy: given("false"),
        trusted_cidrs: networks(&["default"]),
        inspect: given("default"),
        ..Fields::default()
    };
    edited(fields).await.well();
    let back = rows.wait("back", |rows| rows[0].written.identity.is_none()).await[0].written.clone();
    assert_eq!(back, WrittenMapping { name: Some("web".into()), ..written("localhost:auto", "127.0.0.1:9") });
}
