//! Where the engine's network is, and which of a container's networks is dialled, as clients see it.

use std::time::{Duration, Instant};

use portolan::model::container::{DockerState, EnginePlace};
use portolan::model::event::MappingState;
use portolan::model::profile::{MappingConfig, WrittenMapping};
use portolan::model::update::{Interest, Overview};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::docker_fake::{FakeDocker, container, container_on};
use crate::world::{SOON, World, through_json, written};

/// What an engine on this very machine says.
fn here() -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let memory = std::fs::read_to_string("/proc/meminfo").expect("memory");
    let total: u64 = memory.split_whitespace().nth(1).expect("MemTotal").parse().expect("a number");
    json!({"OperatingSystem": "Linux", "KernelVersion": kernel.trim(), "MemTotal": total * 1024,
           "SecurityOptions": [], "Name": "here"})
}

fn config(listen: &str, target: &str, network: Option<&str>) -> MappingConfig {
    let network = network.map(str::to_owned);
    MappingConfig::from_written(&WrittenMapping { network, ..written(listen, target) }).expect("it is valid")
}

async fn world(fake: &FakeDocker, mappings: Vec<MappingConfig>) -> World {
    World::with(tempfile::tempdir().expect("a folder"), mappings, Ok(fake.endpoint())).await
}

/// The overview once Docker has answered and `fits`.
async fn overview(world: &World, fits: impl Fn(&Overview) -> bool) -> Overview {
    let interest = Interest { mappings: true, sample_ms: 20, ..Interest::default() };
    let mut subscription = world.handle.subscribe(interest).await.expect("it runs");
    loop {
        let update = timeout(SOON, subscription.next()).await.expect("in time").expect("it runs");
        if let Some(overview) = through_json(&update).overview
            && overview.docker == DockerState::Connected
            && fits(&overview)
        {
            return overview;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_elsewhere_is_said_and_its_containers_are_not_dialled() {
    let vm = |key: &str, value: Value| {
        let mut facts = here();
        facts[key] = value;
        facts
    };
    for (facts, expected) in [
        (vm("SecurityOptions", json!(["name=seccomp,profile=builtin", "name=rootless"])), "rootless"),
        (vm("OperatingSystem", json!("Docker Desktop")), "Docker Desktop"),
        (vm("KernelVersion", json!("6.10.14-linuxkit")), "virtual machine"),
        (vm("MemTotal", json!(1_u64 << 50)), "virtual machine"),
    ] {
        let fake = FakeDocker::unix();
        fake.set_info(facts);
        let mut web = container("web_1", "running", Some("192.0.2.1"));
        web["Ports"] = json!([{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 32768, "Type": "tcp"}]);
        fake.set_containers(vec![web, container("db_1", "running", Some("192.0.2.2"))]);
        let mappings = vec![config("auto", "web_1:80", None), config("auto", "db_1:5432", None)];
        let world = world(&fake, mappings).await;
        let mut rows = world.rows().await;
        let rows = rows
            .wait("waiting for the engine", |rows| {
                rows.len() == 2
                    && rows.iter().all(|row| {
                        row.state == MappingState::Waiting
                            && row.reason.as_ref().is_some_and(|reason| reason.as_str().contains("is on an engine"))
                    })
            })
            .await;
        let reason = |at: usize| rows[at].reason.as_ref().expect("just looked at").as_str();
        assert!(reason(0).contains(expected), "{}", reason(0));
        assert!(reason(0).ends_with("; its port 80 is published: use localhost:32768"), "{}", reason(0));
        assert!(reason(1).ends_with("; publish its port 5432, and use that"), "{}", reason(1));
        assert!(rows.iter().all(|row| row.target_addresses.is_empty()));
        let told = overview(&world, |told| told.engine_place != EnginePlace::Unknown).await;
        let EnginePlace::Elsewhere { published_at, .. } = told.engine_place else { panic!("{told:?}") };
        assert!(published_at.is_some_and(|ip| ip.is_loopback()));
        assert!(fake.requests().iter().all(|request| request.starts_with("GET ")));
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_says_nothing_of_gateways_is_taken_at_its_word() {
    for facts in [here(), json!({})] {
        let fake = FakeDocker::unix();
        fake.set_info(facts);
        fake.set_containers(vec![container("web_1", "running", Some("192.0.2.1"))]);
        let world = world(&fake, vec![config("auto", "web_1:80", None)]).await;
        let mut rows = world.rows().await;
        let rows = rows.wait("up", |rows| rows.iter().any(|row| row.state == MappingState::Up)).await;
        assert_eq!(rows[0].target_addresses, ["192.0.2.1".parse::<std::net::IpAddr>().expect("an address")]);
        assert_eq!(overview(&world, |_| true).await.engine_place, EnginePlace::Unknown);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mappings_of_one_container_on_different_networks_are_led_apart() {
    let fake = FakeDocker::unix();
    fake.set_info(here());
    fake.set_containers(vec![container_on("web_1", &[("back", "192.0.2.2", ""), ("front", "192.0.2.1", "")])]);
    let mappings = vec![
        config("auto", "web_1:80", Some("front")),
        config("auto", "web_1:80", Some("back")),
        config("auto", "web_1:80", None),
        config("auto", "web_1:80", Some("side")),
    ];
    let world = world(&fake, mappings).await;
    let mut rows = world.rows().await;
    let addresses = |row: &portolan::model::update::MappingRow| {
        row.target_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let expected = ["192.0.2.1", "192.0.2.2", "192.0.2.2 192.0.2.1", ""];
    let told = rows.wait("all led", |rows| rows.len() == 4 && addresses(&rows[1]) == "192.0.2.2").await;
    assert_eq!(told.iter().map(addresses).collect::<Vec<_>>(), expected);
    let reason = told[3].reason.as_ref().map(ToString::to_string);
    assert_eq!(reason.as_deref(), Some("container \"web_1\" is not on network \"side\" (it is on: back, front)"));

    // It joins the one that was missed, and leaves another.
    fake.change(vec![container_on("web_1", &[("front", "192.0.2.1", ""), ("side", "192.0.2.3", "")])]);
    let is_led = |rows: &[_]| addresses(&rows[3]) == "192.0.2.3" && rows[1].state == MappingState::Waiting;
    let told = rows.wait("led anew", |rows| is_led(rows)).await;
    assert_eq!(addresses(&told[0]), "192.0.2.1");
    world.end().await;
}

/// What Compose does on `up` after a change: the replica that was kept is gone, a new one has its labels.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_recreated_and_a_name_that_moves_are_followed_within_a_second() {
    let replica = |name: &str, id: &str, address: &str| {
        let mut replica = container(name, "running", Some(address));
        replica["Id"] = json!(id.repeat(64));
        replica["Labels"] = json!({"com.docker.compose.project": "shop", "com.docker.compose.service": "web",
                                   "com.docker.compose.container-number": "1"});
        replica
    };
    let fake = FakeDocker::unix();
    fake.set_info(here());
    fake.set_containers(vec![replica("shop-web-1", "a", "192.0.2.1")]);
    let mappings = vec![config("auto", "compose/shop/web:80", None), config("auto", "shop-web-1:80", None)];
    let world = world(&fake, mappings).await;
    let mut rows = world.rows().await;
    let at = |rows: &[portolan::model::update::MappingRow], row: usize, address: &str| {
        rows.get(row).is_some_and(|row| row.target_addresses == [address.parse::<std::net::IpAddr>().expect("ip")])
    };
    rows.wait("the first", |rows| at(rows, 0, "192.0.2.1") && at(rows, 1, "192.0.2.1")).await;
    for (containers, service, named) in [
        // Renamed.
        (vec![replica("old_shop-web-1", "a", "192.0.2.1")], Some("192.0.2.1"), None),
        // The new one beside the old one: the service stays while the old one runs.
        (
            vec![replica("old_shop-web-1", "a", "192.0.2.1"), replica("shop-web-1", "b", "192.0.2.2")],
            Some("192.0.2.1"),
            Some("192.0.2.2"),
        ),
        // The old one is gone.
        (vec![replica("shop-web-1", "b", "192.0.2.2")], Some("192.0.2.2"), Some("192.0.2.2")),
        (vec![], None, None),
        (vec![replica("shop-web-1", "c", "192.0.2.3")], Some("192.0.2.3"), Some("192.0.2.3")),
    ] {
        let changed = Instant::now();
        fake.change(containers);
        let fits = |rows: &[portolan::model::update::MappingRow], row: usize, address: Option<&str>| match address {
            Some(address) => at(rows, row, address),
            None => rows[row].state == MappingState::Waiting,
        };
        rows.wait("followed", |rows| fits(rows, 0, service) && fits(rows, 1, named)).await;
        assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
    }
    world.end().await;
}
