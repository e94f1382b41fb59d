//! Lists of a real engine with real connections.

use std::net::TcpStream;

use portolan::commands::{Add, Connections, Fields, Mappings, Output, add, connections, mappings};
use portolan::docker::Endpoint;
use portolan::service::Handle;
use serde_json::Value;

use crate::common::echo::{echo_server, echoes, exchange};
use crate::common::hostile::{assert_plain, assert_plain_json};
use crate::common::ports::free_port;
use crate::docker_fake::FakeDocker;
use crate::world::{World, is_up};
use crate::{Closed, json, text};

async fn web(world: &World) -> std::net::SocketAddr {
    let what = Add {
        mapping: format!("127.0.0.1:{}:{}", free_port(), echo_server()),
        fields: Fields { name: Some("web".into()), ..Fields::default() },
        ..Add::default()
    };
    text(async |out| add(&world.handle, &what, out).await).await.well();
    let mut rows = world.rows().await;
    rows.wait("up", |rows| rows.iter().any(is_up)).await[0].listeners[0].bound.expect("bound")
}

async fn listed(handle: &Handle, what: &Connections) -> Vec<Value> {
    let listed = json(async |out| connections(handle, what, out).await).await;
    serde_json::from_str(&listed.text).expect("a list")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_those_that_are_open_and_on_demand_those_that_were() {
    let world = World::new().await;
    let said = text(async |out| connections(&world.handle, &Connections::default(), out).await).await;
    assert!(said.text.is_empty());
    assert_eq!(said.remark(), "no connection now");
    let bound = web(&world).await;
    let mut client = TcpStream::connect(bound).expect("it listens");
    assert!(echoes(&mut client));
    exchange(bound, b"over and done");
    let mut rows = world.rows().await;
    rows.wait("the second has ended", |rows| rows.iter().any(|row| row.connections == 1 && row.connections_total == 2))
        .await;

    let open = listed(&world.handle, &Connections::default()).await;
    assert_eq!(open.len(), 1);
    let client_address = client.local_addr().expect("connected").to_string();
    assert_eq!((&open[0]["id"], &open[0]["client"]), (&1.into(), &client_address.into()));
    assert_eq!(
        (&open[0]["bytes_in"], &open[0]["bytes_out"], &open[0]["mapping_id"]),
        (&4.into(), &4.into(), &1.into())
    );
    let process = open[0]["process"].as_str().expect("it is this one's");
    assert!(process.ends_with(&std::process::id().to_string()), "{process}");
    let all = listed(&world.handle, &Connections { closed: true, ..Connections::default() }).await;
    assert_eq!(all.iter().map(|row| row["state"].as_str().expect("a state")).collect::<Vec<_>>(), ["open", "closed"]);

    let table = text(async |out| connections(&world.handle, &Connections::default(), out).await).await.well();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..7], ["FAMILY", "CLIENT", "PROCESS", "STATE", "IN", "OUT", "AGE"]);
    assert_eq!(lines[1][0], "v4-v4");
    assert_eq!((lines.len(), lines[1].contains(&"web")), (2, true), "{table}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mappings_are_listed_in_the_order_of_the_profile() {
    let world = World::new().await;
    let said = text(async |out| mappings(&world.handle, &Mappings::default(), out).await).await;
    assert_eq!(said.remark(), "no mapping yet: `portolan add 8080:web:80` adds one");
    let said = json(async |out| mappings(&world.handle, &Mappings::default(), out).await).await;
    assert_eq!(said.text, "[]\n");
    for name in ["z", "a", "m"] {
        let fields = Fields { name: Some(name.into()), ..Fields::default() };
        let what = Add { mapping: "auto:127.0.0.1:9".into(), fields, stopped: name == "a", ..Add::default() };
        text(async |out| add(&world.handle, &what, out).await).await.well();
    }
    let rows = json(async |out| mappings(&world.handle, &Mappings::default(), out).await).await.json();
    let names: Vec<&str> = rows.as_array().expect("a list").iter().map(|r| r["name"].as_str().expect("")).collect();
    assert_eq!(names, ["z", "a", "m"]);
    let stopped = Mappings { filter: "state:stop".into(), ..Mappings::default() };
    let table = text(async |out| mappings(&world.handle, &stopped, out).await).await.well();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[0],
        "STATE LISTEN WHO TARGET CONNS IN OUT LAST RESULT NAME PROFILE ID".split(' ').collect::<Vec<_>>()
    );
    assert_eq!(
        lines[1],
        "stop localhost:auto/tcp me 127.0.0.1:9 - 0 0 - a profile.json 2".split(' ').collect::<Vec<_>>()
    );
    assert_eq!(lines.len(), 2);
    world.end().await;
}

/// Nothing that Docker tells moves a cursor or forges a line, be it in a table or in JSON.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_of_containers_are_harmless() {
    let fake = FakeDocker::unix();
    let id = |at: u8| format!("{at:064x}");
    let acts = ["\x1b[2J", "a\nFORGED", "\u{202e}b", "\u{9b}3J"];
    let containers = acts.iter().zip(1_u8..).map(|(act, at)| {
        serde_json::json!({
            "Id": id(at), "Names": [format!("/web{act}")], "Image": act, "State": "running", "Status": act,
            "Labels": {}, "HostConfig": { "NetworkMode": "bridge" },
            "Ports": [{ "PrivatePort": 80, "PublicPort": 18_000 + u16::from(at), "Type": "tcp", "IP": "127.0.0.1" }],
            "NetworkSettings": { "Networks": { "bridge": { "IPAddress": "192.0.2.1", "GlobalIPv6Address": "" } } },
        })
    });
    fake.set_containers(containers.collect());
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::with(folder, Vec::new(), Ok(fake.endpoint())).await;
    // A name that nobody has, told back by the engine.
    let what = Add { mapping: format!("auto:container/{}:80", &id(200)[..12]), ..Add::default() };
    let said = text(async |out| add(&world.handle, &what, out).await).await;
    assert_plain(&said.remark(), &"a remark");
    let what = Mappings { published: true, ..Mappings::default() };
    let said = text(async |out| mappings(&world.handle, &what, out).await).await;
    assert_plain(&said.text, &acts);
    assert_eq!(said.text.lines().count(), 1 + 1 + acts.len(), "{}", said.text);
    let said = json(async |out| mappings(&world.handle, &what, out).await).await;
    assert_plain_json(&serde_json::from_str(&said.text).expect("JSON"), &acts);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_of_dockers_that_is_not_there_is_said_beside_the_list() {
    let folder = tempfile::tempdir().expect("a folder");
    let docker = Endpoint::parse(&format!("unix://{}", folder.path().join("none.sock").display()), false);
    let world = World::with(folder, Vec::new(), docker).await;
    web(&world).await;
    let what = Mappings { published: true, ..Mappings::default() };
    let said = text(async |out| mappings(&world.handle, &what, out).await).await;
    assert!(said.text.contains("web"), "{}", said.text);
    let remark = said.remark();
    assert!(remark.starts_with("docker: cannot open ") && remark.ends_with("not running"), "{remark}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_gone_is_no_failure() {
    let world = World::new().await;
    web(&world).await;
    for json in [false, true] {
        let failure = mappings(&world.handle, &Mappings::default(), &mut Output::new(Closed, json)).await.unwrap_err();
        assert_eq!(failure.status(), 0);
    }
    world.end().await;
}
