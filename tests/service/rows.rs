//! Rows and requests: what is asked for is done, told and in the file.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use portolan::model::event::MappingState;
use portolan::model::id::Revision;
use portolan::model::mapping::{Mapping, Protocol};
use portolan::model::profile::{MappingConfig, WrittenMapping};
use portolan::model::request::{Call, Reply, Request, RequestError};
use portolan::model::update::{LastOutcome, MappingRow};
use tokio::time::timeout;

use crate::echo::{echo_server, echoes};
use crate::ports::free_port;
use crate::world::{SOON, World, is_up, through_json, written};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_in_the_file_at_once_and_undo_takes_it_back() {
    let world = World::new().await;
    let target = echo_server().to_string();
    let mut rows = world.rows().await;
    let id = world.add(WrittenMapping { name: Some("web".into()), ..written("auto", &target) }).await;
    assert!(world.text().contains("\"web\""), "{}", world.text());
    rows.wait("up", |rows| rows.iter().any(is_up)).await;
    let edited = WrittenMapping { name: Some("page".into()), ..written("auto", &target) };
    world.handle.request(Request::Edit { id, mapping: edited, even_if_busy: false }).await.expect("it is valid");
    assert!(world.text().contains("\"page\"") && !world.text().contains("\"web\""), "{}", world.text());
    world.handle.request(Request::Stop { ids: vec![id] }).await.expect("it is there");
    assert!(world.text().contains("\"enabled\": false"), "{}", world.text());
    rows.wait("stopped", |rows| rows.iter().any(|row| row.state == MappingState::Stopped)).await;
    world.handle.request(Request::Remove { ids: vec![id] }).await.expect("it is there");
    assert!(!world.text().contains("page"), "{}", world.text());
    rows.wait("gone", <[MappingRow]>::is_empty).await;
    for expected in ["\"enabled\": false", "\"page\"", "\"web\""] {
        world.handle.request(Request::Undo).await.expect("there is something to undo");
        assert!(world.text().contains(expected), "{expected} is not in {}", world.text());
    }
    let row = rows.wait("up again", |rows| rows.iter().any(|row| is_up(row) && row.name == "web")).await[0].clone();
    assert_eq!(row.id, id, "an undone delete brings the same mapping back");
    world.handle.request(Request::Undo).await.expect("the add can be undone");
    let nothing = world.handle.request(Request::Undo).await;
    assert!(matches!(nothing, Err(RequestError::Failed { .. })), "{nothing:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_made_from_an_old_revision_is_refused() {
    let world = World::new().await;
    let call = |expected| Call {
        expected: Some(expected),
        request: Request::Add { mapping: written("auto", "127.0.0.1:9"), even_if_busy: false },
    };
    let refused = world.handle.call(through_json(&call(Revision(999)))).await;
    let Err(RequestError::Stale { current }) = refused else { panic!("{refused:?}") };
    let before = world.text();
    let done = world.handle.call(call(current)).await.expect("the revision is current");
    through_json(&done);
    assert_ne!(world.text(), before);
    let again = world.handle.call(call(current)).await;
    assert!(matches!(again, Err(RequestError::Stale { .. })), "{again:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_problem_of_a_mapping_is_told_and_nothing_changes() {
    let world = World::new().await;
    let mapping = WrittenMapping {
        name: Some("no/slash".into()),
        connect_timeout: Some("5".into()),
        ..written("70000", "web:0")
    };
    let refused = world.handle.request(Request::Add { mapping, even_if_busy: false }).await;
    let Err(RequestError::Invalid { problems }) = through_json_error(refused) else { panic!("it is invalid") };
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths.len(), 4, "{problems:?}");
    for path in ["name", "listen", "target", "connect_timeout"] {
        assert!(paths.contains(&path), "{path} is not among {paths:?}");
    }
    assert_eq!(world.text(), "");
    world.end().await;
}

fn through_json_error(result: Result<Reply, RequestError>) -> Result<Reply, RequestError> {
    result.map_err(|error| through_json(&error))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_refused_with_its_holder_then_kept_as_failed_and_comes_up_when_free() {
    let world = World::new().await;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let mapping = written(&format!("127.0.0.1:{port}"), "127.0.0.1:9");
    let refused = world.handle.request(Request::Add { mapping: mapping.clone(), even_if_busy: false }).await;
    let Err(RequestError::PortInUse { report }) = through_json_error(refused) else { panic!("the port is in use") };
    assert_eq!(report.conflicts[0].address, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    assert!(report.next_free.is_some_and(|free| free != port));
    let mut rows = world.rows().await;
    world.handle.request(Request::Add { mapping, even_if_busy: true }).await.expect("it is kept all the same");
    let says = |row: &MappingRow, what: &str| row.reason.as_ref().is_some_and(|reason| reason.as_str().contains(what));
    rows.wait("failed", |rows| rows.iter().any(|row| row.state == MappingState::Failed && says(row, "in use"))).await;
    // The holder is looked for beside everything else, so it may come a moment later.
    rows.wait("with the holder", |rows| says(&rows[0], "in use by this program")).await;
    drop(taken);
    let up = rows.wait("up once the port is free", |rows| rows.iter().any(is_up)).await;
    assert_eq!(up[0].reason, None);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mappings_that_change_places_are_both_up_and_a_third_keeps_its_connections() {
    let world = World::new().await;
    let target = echo_server();
    let (first, second) = (free_port(), free_port());
    let of = |name: &str, listen: String| {
        let name = Some(name.to_owned());
        WrittenMapping { name, ..written(&listen, &target.to_string()) }
    };
    let a = world.add(of("a", format!("127.0.0.1:{first}"))).await;
    let b = world.add(of("b", format!("127.0.0.1:{second}"))).await;
    world.add(of("third", "auto".into())).await;
    let mut rows = world.rows().await;
    let third = rows.wait("all up", |rows| rows.len() == 3 && rows.iter().all(is_up)).await;
    let bound = third.iter().find(|row| row.name == "third").and_then(|row| row.listeners[0].bound).expect("bound");
    let mut staying = TcpStream::connect(bound).expect("it listens");
    assert!(echoes(&mut staying));
    let swapped =
        world.text().replace(&format!(":{first}"), ":0x").replace(&format!(":{second}"), &format!(":{first}"));
    std::fs::write(world.file(), swapped.replace(":0x", &format!(":{second}"))).expect("it can be written");
    // By the rule of hand edits a listener keeps its mapping: what looks like two moves is two renames.
    let name_of = |rows: &[MappingRow], id| rows.iter().find(|row| row.id == id).map(|row| row.name.clone());
    rows.wait("swapped", |rows| name_of(rows, a).as_deref() == Some("b") && rows.iter().all(is_up)).await;
    assert!(echoes(&mut staying));
    // The same through requests moves the listeners.
    let by_request = of("b2", format!("127.0.0.1:{second}"));
    let busy = world.handle.request(Request::Edit { id: a, mapping: by_request, even_if_busy: false }).await;
    assert!(matches!(busy, Err(RequestError::Invalid { .. })), "two mappings on one port: {busy:?}");
    world.handle.request(Request::Remove { ids: vec![a, b] }).await.expect("they are there");
    assert!(echoes(&mut staying));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_does_not_resolve_waits_and_resets_its_clients() {
    let world = World::new().await;
    world.add(written("auto", "host/no-such-name.invalid:80")).await;
    world.add(written("auto", "web_1:80")).await;
    let mut rows = world.rows().await;
    let waiting = rows
        .wait("waiting with the reason", |rows| {
            rows.len() == 2 && rows.iter().all(|row| row.state == MappingState::Waiting && row.reason.is_some())
        })
        .await;
    let bound = waiting[0].listeners[0].bound.expect("a waiting mapping is bound");
    let mut client = TcpStream::connect(bound).expect("it listens");
    let error = client.read(&mut [0; 1]).expect_err("it is reset at once");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    rows.wait("docker is named", |rows| {
        rows.iter().any(|row| row.reason.as_ref().is_some_and(|reason| reason.as_str().contains("none.sock")))
    })
    .await;
    world.end().await;
}

/// More than are looked at once: the rest waits, and nobody is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_questions_at_once_are_all_answered() {
    let world = World::new().await;
    let mut asked = tokio::task::JoinSet::new();
    for port in 20_000..20_500 {
        let handle = world.handle.clone();
        let mapping: Mapping = format!("{port}:192.0.2.1:80").parse().expect("it is valid");
        let who = Request::WhoHolds { listen: mapping.listen, protocol: Protocol::Tcp, except: None };
        asked.spawn(async move { handle.request(who).await });
    }
    while let Some(answer) = timeout(SOON, asked.join_next()).await.expect("all are answered") {
        assert!(matches!(answer.expect("it does not panic"), Ok(Reply::Port(_))));
    }
    world.end().await;
}

/// As the form does before there is a mapping.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_no_mapping_has_yet_is_looked_up_to_try_it() {
    let world = World::new().await;
    let server = echo_server();
    let probe = |host: &str| {
        let mapping: Mapping = format!("auto:host/{host}:{}", server.port()).parse().expect("it is valid");
        world.handle.request(Request::Probe { target: mapping.target, protocol: Protocol::Tcp })
    };
    let Ok(Reply::Probed { results, reason: None }) = probe("localhost").await else { panic!("it was not tried") };
    let outcome = results.iter().find(|result| result.address == server).map(|result| result.outcome);
    assert_eq!(outcome, Some(LastOutcome::Ok), "{results:?}");
    let Ok(Reply::Probed { results, reason: Some(reason) }) = probe("no-such-name.invalid").await else {
        panic!("there is no such name")
    };
    assert!(results.is_empty() && reason.as_str().starts_with("host/no-such-name.invalid cannot be"), "{reason}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_late_gets_everything_and_what_closed_before() {
    let world = World::new().await;
    world.add(written("auto", &echo_server().to_string())).await;
    let mut rows = world.rows().await;
    let bound = rows.wait("up", |rows| rows.iter().any(is_up)).await[0].listeners[0].bound.expect("bound");
    let mut closed = TcpStream::connect(bound).expect("it listens");
    assert!(echoes(&mut closed));
    drop(closed);
    let mut staying = TcpStream::connect(bound).expect("it listens");
    assert!(echoes(&mut staying));
    rows.wait("counted", |rows| rows[0].connections_total == 2 && rows[0].connections == 1).await;
    let mut late = world.rows().await;
    let update = timeout(SOON, late.subscription.next()).await.expect("at once").expect("it runs");
    assert!(update.is_full && update.seq == 1);
    assert_eq!(update.mappings.len(), 1);
    let states: Vec<bool> = update.connections.iter().map(|row| row.closed_at_ms.is_some()).collect();
    assert_eq!(states.iter().filter(|closed| **closed).count(), 1, "{:?}", update.connections);
    assert_eq!(states.len(), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_is_opened_again_is_as_it_was_left() {
    let world = World::new().await;
    let target = echo_server().to_string();
    world.add(WrittenMapping { name: Some("one".into()), ..written("auto", &target) }).await;
    let id = world.add(WrittenMapping { name: Some("two".into()), ..written("any:auto", &target) }).await;
    world.handle.request(Request::Stop { ids: vec![id] }).await.expect("it is there");
    let (text, folder) = (world.text(), world.folder);
    world.running.shutdown(Duration::ZERO).await;
    let world = World::on(folder).await;
    let mut rows = world.rows().await;
    let rows = rows
        .wait("as it was", |rows| rows.len() == 2 && rows.iter().all(|row| row.state != MappingState::Starting))
        .await;
    let states: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.state)).collect();
    assert_eq!(states, [("one", MappingState::Up), ("two", MappingState::Stopped)]);
    assert_eq!(world.text(), text);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_times_a_removed_mapping_leaves_its_port_to_the_next_one() {
    let world = World::new().await;
    let target = echo_server().to_string();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    // One of each before the count, so that whatever is opened once is open.
    let id = world.add(written(&listen, &target)).await;
    world.handle.request(Request::Remove { ids: vec![id] }).await.expect("it is there");
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("our descriptors").count();
    let before = descriptors();
    for round in 0..1_000 {
        // Refused where the port is in use, as it would be by what the last round left.
        let id = world.add(written(&listen, &target)).await;
        let taken = TcpListener::bind(&listen).expect_err("the mapping listens").kind();
        assert_eq!(taken, std::io::ErrorKind::AddrInUse, "round {round}");
        let stream = (round % 10 == 0).then(|| {
            let mut stream = TcpStream::connect(&listen).expect("the mapping listens");
            assert!(echoes(&mut stream), "round {round}");
            stream
        });
        world.handle.request(Request::Remove { ids: vec![id] }).await.expect("it is there");
        // What was removed has closed when the answer comes.
        let refused = TcpStream::connect(&listen).expect_err("nobody listens").kind();
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "round {round}");
        if let Some(mut stream) = stream {
            assert!(stream.read(&mut [0; 1]).is_err(), "its connection is reset");
        }
    }
    let end = std::time::Instant::now() + SOON;
    while descriptors() > before {
        assert!(std::time::Instant::now() < end, "{before} descriptors became {}", descriptors());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.end().await;
}

#[test]
fn an_argument_becomes_a_mapping_with_a_made_up_name() {
    let config = MappingConfig::from_argument("8080:127.0.0.1:80").expect("it is valid");
    assert_eq!((config.name.as_str(), config.name_is_given), ("8080-tcp", false));
}
