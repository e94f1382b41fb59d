//! What the engine says of itself and of its networks, where it is looked for, and what its failing to say so may
//! not take away (faults 21 and 22).

#[path = "common/docker_fake.rs"]
mod docker_fake;
#[path = "common/docker_watched.rs"]
mod docker_watched;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use docker_fake::{Answer, FakeDocker, container, container_on, network, until};
use docker_watched::{TIMING, start};
use portolan::docker::{Endpoint, EngineFacts, Timing};
use portolan::model::container::DockerState;
use portolan::model::untrusted::acts_on_a_terminal;
use serde_json::{Value, json};

fn facts() -> Value {
    json!({"OperatingSystem": "Debian GNU/Linux 12", "KernelVersion": "6.1.0", "MemTotal": 1 << 30,
           "SecurityOptions": ["name=seccomp"], "Name": "box"})
}

#[tokio::test]
async fn an_engine_tells_of_itself_and_of_its_networks() {
    for fake in [FakeDocker::unix(), FakeDocker::tcp().await] {
        fake.set_info(facts());
        fake.set_networks(vec![
            network("lan", "macvlan", "192.0.2.1", &json!({"parent": "eth0"})),
            network("bridge", "bridge", "172.17.0.1", &json!({"com.docker.network.bridge.name": "docker0"})),
        ]);
        fake.set_containers(vec![container_on("web_1", &[("lan", "192.0.2.2", ""), ("bridge", "172.17.0.2", "")])]);
        let mut watched = start(fake.endpoint(), TIMING);
        let view = watched.until("both told", |view| !view.networks.is_empty() && view.engine.kernel.is_some()).await;
        assert_eq!(view.engine.memory, Some(1 << 30));
        assert_eq!(view.engine.is_rootless, Some(false));
        let is_unix = matches!(fake.endpoint(), Endpoint::Unix(_));
        assert_eq!(view.engine.peer.map(|ip| ip.to_string()).as_deref(), (!is_unix).then_some("127.0.0.1"));
        let view = watched.until("the container", |view| !view.containers.is_empty()).await;
        let told: Vec<_> = view.containers[0]
            .networks
            .iter()
            .map(|network| format!("{} {} {:?}", network.name, network.driver, network.gateways))
            .collect();
        assert_eq!(told, ["bridge bridge [172.17.0.1]", "lan macvlan [192.0.2.1]"]);

        // A network that comes later is told of with the container that is on it.
        fake.set_networks(vec![network("shop", "bridge", "172.18.0.1", &json!({}))]);
        fake.change(vec![container_on("web_1", &[("shop", "172.18.0.2", "172.18.0.1")])]);
        watched
            .until("the new network", |view| {
                let networks = view.containers.first().map(|container| &container.networks[..]);
                matches!(networks, Some([shop]) if shop.driver.as_str() == "bridge")
            })
            .await;
        assert!(fake.requests().iter().all(|request| request.starts_with("GET ")), "{:?}", fake.requests());
        watched.end().await;
    }
}

#[tokio::test]
async fn an_engine_that_does_not_tell_of_itself_still_tells_of_its_containers() {
    let long = |chunked| Answer::Long { bytes: 100 << 20, chunked };
    for answer in [
        Answer::EndInTheMiddle,
        Answer::EndAtOnce,
        Answer::Garbage,
        Answer::NoJson,
        Answer::Body(r#"{"MemTotal":"\u001b[2J"}"#.into()),
        Answer::Body("[7]".into()),
        long(false),
        long(true),
        Answer::EndlessHead,
        Answer::Status(500, "out of \x1b[31mcheese".into()),
        Answer::Stall,
    ] {
        let fake = FakeDocker::unix();
        fake.set_info(facts());
        fake.set_networks(vec![network("bridge", "bridge", "172.17.0.1", &json!({}))]);
        fake.answer_info(answer.clone());
        fake.answer_networks(answer.clone());
        fake.set_containers(vec![container("web_1", "running", Some("172.17.0.2"))]);
        let mut watched = start(fake.endpoint(), TIMING);
        let view = watched.until_at("web_1", "172.17.0.2").await;
        assert_eq!(view.engine, EngineFacts::default(), "{answer:?}");
        assert!(view.networks.is_empty(), "{answer:?}");
        let began = Instant::now();
        fake.change(vec![container("web_1", "running", Some("172.17.0.9"))]);
        watched.until_at("web_1", "172.17.0.9").await;
        assert!(began.elapsed() < Duration::from_secs(1), "{answer:?}: {:?}", began.elapsed());

        // Both are asked again with later lists, and what was told once stays when they fail again.
        fake.answer_info(Answer::Well);
        fake.answer_networks(Answer::Well);
        fake.event("container", "start");
        let told = |view: &portolan::docker::DockerView| {
            view.engine.kernel.is_some() && view.containers[0].networks[0].driver.as_str() == "bridge"
        };
        watched.until("told after all", told).await;
        fake.answer_info(answer.clone());
        fake.answer_networks(answer.clone());
        let asked = fake.asked("/networks");
        fake.change(vec![container("web_1", "running", Some("172.17.0.3"))]);
        fake.event("network", "connect");
        let view = watched.until_at("web_1", "172.17.0.3").await;
        until("the networks were asked for again", || fake.asked("/networks") > asked).await;
        assert!(told(&view), "{answer:?}");
        // Also when the same engine comes back.
        fake.say("}".into());
        watched.until_lost().await;
        let view = watched.until_at("web_1", "172.17.0.3").await;
        assert!(told(&view), "{answer:?}");
        assert!(fake.requests().iter().all(|request| request.starts_with("GET ")), "{answer:?}");
        watched.end().await;
        until("no connection left", || fake.open_connections() == 0).await;
    }
}

/// An engine whose network is another one has addresses that may be somebody else's here.
#[tokio::test]
async fn containers_are_told_of_only_with_what_their_engine_is() {
    let fake = FakeDocker::unix();
    fake.set_info(json!({"SecurityOptions": ["name=rootless"]}));
    fake.set_containers(vec![container("web_1", "running", Some("172.17.0.2"))]);
    let mut watched = start(fake.endpoint(), TIMING);
    let first = watched.until("the first containers", |view| !view.containers.is_empty()).await;
    assert_eq!(first.engine.is_rootless, Some(true));
    watched.end().await;
}

#[tokio::test]
async fn two_hundred_hostile_facts_and_networks_act_nowhere() {
    let fake = FakeDocker::unix();
    let hostile = "\u{1b}[2J\u{202e}\u{9b}2J\r\n".repeat(40);
    fake.set_info(json!({"OperatingSystem": hostile, "KernelVersion": hostile, "Name": hostile,
                         "SecurityOptions": [hostile]}));
    let networks = (0..200).map(|n| {
        let text = format!("{n}{hostile}");
        let options = json!({"parent": text, "com.docker.network.bridge.name": text});
        network(&text, &text, &text, &options)
    });
    fake.set_networks(networks.collect());
    // The networks have 1.3 MB, which a busy machine does not read in a moment.
    let mut watched = start(fake.endpoint(), Timing { answer: Duration::from_secs(20), ..TIMING });
    let view = watched.until("all told", |view| view.networks.len() == 200 && view.engine.host.is_some()).await;
    let EngineFacts { operating_system, kernel, host, .. } = view.engine;
    let facts = [operating_system, kernel, host].into_iter().flatten();
    let networks = view.networks.iter().flat_map(|network| {
        [Some(network.name.clone()), Some(network.driver.clone()), network.bridge.clone(), network.parent.clone()]
    });
    for text in facts.chain(networks.flatten()) {
        assert!(!text.as_str().chars().any(acts_on_a_terminal), "{text:?}");
    }
    watched.end().await;
}

/// From its end on, another container may be given its address, whatever the list says for a while longer.
#[tokio::test]
async fn a_container_that_has_ended_has_no_address_even_while_it_is_listed_as_running() {
    let fake = FakeDocker::unix();
    let web = container("web_1", "running", Some("172.17.0.2"));
    fake.set_containers(vec![web.clone()]);
    // The lists that follow an event come late, so that it is the event itself that tells.
    let late = Timing { settle: [Duration::from_mins(1); 3], ..TIMING };
    let mut watched = start(fake.endpoint(), late);
    watched.until_at("web_1", "172.17.0.2").await;
    let lists = fake.lists();
    fake.event_of(&web, "kill");
    fake.event_of(&web, "die");
    let view = watched.until("it has ended", |view| !view.containers[0].is_running()).await;
    assert!(view.containers[0].addresses.is_empty() && view.containers[0].networks[0].addresses.is_empty());
    // A list that still has it running changes nothing.
    until("a list after the end", || fake.lists() > lists).await;
    fake.event("network", "disconnect");
    fake.change(vec![web.clone(), container("other", "running", Some("172.17.0.3"))]);
    let view = watched.until_at("other", "172.17.0.3").await;
    assert!(view.containers.iter().all(|one| one.name.as_str() == "other" || one.addresses.is_empty()), "{view:?}");
    fake.event_of(&web, "start");
    watched.until_at("web_1", "172.17.0.2").await;
    watched.end().await;

    // A start that was missed is found by later lists.
    let mut watched = start(fake.endpoint(), TIMING);
    watched.until_at("web_1", "172.17.0.2").await;
    fake.event_of(&web, "die");
    watched.until("it has ended", |view| view.containers.iter().any(|one| !one.is_running())).await;
    watched.until_at("web_1", "172.17.0.2").await;
    watched.end().await;
}

/// Podman's list does not say that a container has the host's network, so the container is asked about.
#[tokio::test]
async fn a_container_whose_network_the_list_leaves_out_is_asked_about_once() {
    let fake = FakeDocker::unix();
    let bare = |name: &str, id: &str| json!({"Id": id, "Names": [format!("/{name}")], "State": "running", "NetworkSettings": {"Networks": null}});
    let (host, none) = ("a".repeat(64), "b".repeat(64));
    // An id is a part of a path: what is none is asked for nowhere.
    let bad = "../../images/json";
    fake.set_containers(vec![bare("host", &host), bare("none", &none), bare("bad", bad)]);
    fake.set_inspected(vec![
        json!({"Id": host, "HostConfig": {"NetworkMode": "host"}}),
        json!({"Id": none, "HostConfig": {"NetworkMode": "none"}}),
    ]);
    let mut watched = start(fake.endpoint(), TIMING);
    let view = watched.until("the containers", |view| view.containers.len() == 3).await;
    let host_networks: Vec<_> = view.containers.iter().map(|container| container.host_network).collect();
    assert_eq!(host_networks, [false, true, false], "{:?}", view.containers);
    until("further lists", || fake.lists() > 2).await;
    assert_eq!(fake.asked(&format!("/containers/{host}/json")), 1);
    assert_eq!(fake.asked("images"), 0);
    for answer in [Answer::Garbage, Answer::Stall, Answer::Long { bytes: 100 << 20, chunked: true }] {
        fake.answer_inspect(answer);
        let new = "c".repeat(64);
        fake.change(vec![bare("host", &host), bare("new", &new)]);
        let view = watched.until("the new container", |view| view.containers.len() == 2).await;
        assert_eq!(view.state, DockerState::Connected);
        assert!(view.containers[0].host_network && !view.containers[1].host_network);
        fake.change(vec![bare("host", &host)]);
        watched.until("it is gone", |view| view.containers.len() == 1).await;
    }
    assert!(fake.requests().iter().all(|request| request.starts_with("GET ")), "{:?}", fake.requests());
    watched.end().await;
}

#[tokio::test]
async fn of_several_sockets_the_first_that_opens_is_used_and_looked_for_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let (absent, stale) = (folder.path().join("absent.sock"), folder.path().join("stale.sock"));
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a socket"));
    let mut fake = FakeDocker::unix();
    let path = docker_fake::socket_path(&fake).expect("a path");
    fake.set_containers(vec![container("web_1", "running", Some("172.17.0.2"))]);
    fake.stop().await;

    let sockets = Endpoint::FirstOf(vec![absent.clone(), stale.clone(), path]);
    let mut watched = start(sockets, TIMING);
    // A socket that is there says more than one that is not.
    assert_eq!(watched.until_lost().await, format!("cannot open {}: not running", stale.display()));
    fake.start();
    watched.until_at("web_1", "172.17.0.2").await;

    // One that comes first in the order appears: who is connected stays.
    let other = FakeDocker::unix();
    other.set_containers(vec![container("web_1", "running", Some("10.0.0.9"))]);
    std::fs::remove_file(&stale).expect("gone");
    std::os::unix::fs::symlink(docker_fake::socket_path(&other).expect("a path"), &stale).expect("a link");
    fake.change(vec![container("web_1", "running", Some("172.17.0.3"))]);
    watched.until_at("web_1", "172.17.0.3").await;
    // An engine that restarts is waited for, while another one is there.
    fake.stop().await;
    watched.until_lost().await;
    fake.set_containers(vec![container("web_1", "running", Some("172.17.0.4"))]);
    fake.start();
    watched.until_at("web_1", "172.17.0.4").await;
    assert!(other.requests().is_empty(), "{:?}", other.requests());
    watched.end().await;

    // Where none is, that is said of the first.
    let mut watched = start(Endpoint::FirstOf(vec![absent.clone()]), TIMING);
    assert_eq!(watched.until_lost().await, format!("cannot open {}: not running", absent.display()));
    watched.end().await;
}

/// An engine that does not come back gives way to another one after a minute.
#[tokio::test(start_paused = true)]
async fn an_engine_that_stays_away_gives_way_to_another_one() {
    let (mut first, second) = (FakeDocker::unix(), FakeDocker::unix());
    first.set_containers(vec![container("web_1", "running", Some("172.17.0.2"))]);
    second.set_containers(vec![container("web_1", "running", Some("10.0.0.9"))]);
    let path = |fake: &FakeDocker| docker_fake::socket_path(fake).expect("a path");
    let sockets = Endpoint::FirstOf(vec![path(&first), path(&second)]);
    let mut watched = start(sockets, Timing { answer: Duration::from_mins(10), ..Timing::default() });
    let until_paused = |address: &'static str, mut view: tokio::sync::watch::Receiver<portolan::docker::DockerView>| async move {
        let at = |view: &portolan::docker::DockerView| docker_watched::address_of(view, "web_1");
        view.wait_for(|view| at(view).as_deref() == Some(address)).await.expect("it runs");
    };
    until_paused("172.17.0.2", watched.view.clone()).await;
    first.stop().await;
    watched.view.wait_for(|view| view.state != DockerState::Connected).await.expect("it runs");
    let lost = tokio::time::Instant::now();
    until_paused("10.0.0.9", watched.view.clone()).await;
    let away = lost.elapsed();
    assert!((Duration::from_secs(55)..Duration::from_secs(80)).contains(&away), "{away:?}");
    watched.end().await;
}

#[tokio::test]
async fn a_forbidden_socket_gives_way_to_one_that_opens_and_is_the_reason_when_none_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = FakeDocker::unix();
    let open = docker_fake::socket_path(&fake).expect("a path");
    let set_mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    };
    let forbidden = folder.path().join("forbidden.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&forbidden).expect("a socket");
    set_mode(&forbidden, 0o000);
    for path in [folder.path(), open.parent().expect("a folder"), &open] {
        set_mode(path, 0o777);
    }
    // Root may open everything, but not for a thread that looks at files as somebody else.
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));

    let absent = folder.path().join("absent.sock");
    let mut watched = start(Endpoint::FirstOf(vec![absent.clone(), forbidden.clone(), absent]), TIMING);
    assert_eq!(watched.until_lost().await, format!("cannot open {}: permission denied", forbidden.display()));
    watched.end().await;
    fake.set_containers(vec![container("web_1", "running", Some("172.17.0.2"))]);
    let mut watched = start(Endpoint::FirstOf(vec![forbidden, open]), TIMING);
    watched.until_at("web_1", "172.17.0.2").await;
    watched.end().await;
    // Whoever put the folders there removes them.
    nix::unistd::setfsuid(nix::unistd::geteuid());
}
