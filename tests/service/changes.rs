//! Changes against what may be in their way: edits by hand, slow files, circles.

use std::net::TcpStream;

use portolan::docker::{Endpoint, EndpointError};
use portolan::model::event::MappingState;
use portolan::model::profile::{MappingConfig, WrittenMapping};
use portolan::model::request::{Reply, Request, RequestError};
use portolan::model::update::MappingRow;

use crate::docker_fake::{FakeDocker, container};
use crate::echo::{echo_server, echoes};
use crate::ports::free_port;
use crate::world::{World, is_up, message, written};

fn no_docker() -> Result<Endpoint, EndpointError> {
    Endpoint::parse("unix:///nowhere.sock", false)
}

/// A profile with one mapping, as somebody writes it by hand.
fn profile_of(name: &str, listen: &str) -> String {
    format!(
        "{{\"version\": 1, \"mappings\": [{{\"name\": \"{name}\", \"listen\": \"{listen}\", \"target\": \"127.0.0.1:9\"}}]}}"
    )
}

/// It is valid for itself, and refused only because of a mapping of the command line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_by_hand_that_meets_a_mapping_of_the_session_is_kept_and_applied_when_that_goes() {
    let port = free_port();
    let mine = MappingConfig::from_argument(&format!("127.0.0.1:{port}:127.0.0.1:9")).expect("it is valid");
    let world = World::with(tempfile::tempdir().expect("a temporary folder"), vec![mine], no_docker()).await;
    let mut rows = world.rows().await;
    let session = rows.wait("up", |rows| rows.len() == 1 && is_up(&rows[0])).await[0].id;
    let edit = profile_of("theirs", &format!("127.0.0.1:{port}"));
    std::fs::write(world.file(), &edit).expect("it can be written");
    // Whether its watch has told of the edit by now or not.
    for _ in 0..2 {
        let add = Request::Add { mapping: written("auto", "127.0.0.1:9"), even_if_busy: false };
        let told = message(world.handle.request(add).await);
        assert!(told.contains("edited by hand and not applied: "), "{told}");
        assert_eq!(world.text(), edit);
    }
    // What is the session's own is no matter of the file.
    world.handle.request(Request::Stop { ids: vec![session] }).await.expect("the file is not concerned");
    assert_eq!(world.text(), edit);
    world.handle.request(Request::Remove { ids: vec![session] }).await.expect("the file is not concerned");
    rows.wait("the edit is applied", |rows| rows.len() == 1 && rows[0].name == "theirs" && is_up(&rows[0])).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_that_takes_long_holds_nobody_else_up() {
    let world = World::new().await;
    let mut rows = world.rows().await;
    let target = echo_server().to_string();
    let id = world.add(written("auto", &target)).await;
    let bound = rows.wait("up", |rows| rows.iter().any(is_up)).await[0].listeners[0].bound.expect("bound");
    // As another process that is saving: ours waits for it.
    let folder = std::fs::File::open(world.folder.path()).expect("the folder is there");
    folder.lock().expect("nobody has it");
    let handle = world.handle.clone();
    let slow = tokio::spawn(async move {
        tokio::join!(handle.request(Request::Stop { ids: vec![id] }), handle.request(Request::Undo))
    });
    let mapping = written("auto", &target);
    let valid = world.handle.request(Request::Validate { mapping, replaces: None }).await;
    assert!(matches!(valid, Ok(Reply::Valid { .. })), "{valid:?}");
    let mut client = TcpStream::connect(bound).expect("it listens");
    assert!(echoes(&mut client));
    rows.wait("the connection is told", |rows| rows[0].connections == 1).await;
    assert!(!slow.is_finished(), "the lock did not hold them up");
    folder.unlock().expect("it is ours");
    let (stopped, undone) = slow.await.expect("it does not panic");
    stopped.expect("it is saved in the end");
    undone.expect("one change follows the other");
    rows.wait("up again", |rows| rows.iter().any(is_up)).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_that_led_in_a_circle_goes_on_when_the_circle_is_broken() {
    let fake = FakeDocker::unix();
    // By name, so that only what the name means now shows the circle.
    let mut web = container("web_1", "running", None);
    web["HostConfig"]["NetworkMode"] = "host".into();
    fake.set_containers(vec![web]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let world = World::with(folder, Vec::new(), Ok(fake.endpoint())).await;
    let (first, second) = (free_port(), free_port());
    world.add(written(&format!("127.0.0.1:{first}"), &format!("web_1:{second}"))).await;
    let mut rows = world.rows().await;
    rows.wait("up", |rows| rows.len() == 1 && is_up(&rows[0])).await;
    let back = world.add(written(&format!("127.0.0.1:{second}"), &format!("127.0.0.1:{first}"))).await;
    let is_circle = |row: &MappingRow| {
        let reason = row.reason.as_ref().is_some_and(|reason| reason.as_str().contains("forward to itself"));
        row.state == MappingState::Failed && reason && row.listeners.iter().all(|listener| listener.error.is_none())
    };
    rows.wait("both failed", |rows| rows.len() == 2 && rows.iter().all(is_circle)).await;
    world.handle.request(Request::Remove { ids: vec![back] }).await.expect("it is there");
    rows.wait("up again", |rows| rows.len() == 1 && is_up(&rows[0])).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_request_names_mappings_as_its_client_does() {
    let world = World::new().await;
    let port = free_port();
    world.add(WrittenMapping { name: Some("web".into()), ..written(&format!("{port}"), "127.0.0.1:9") }).await;
    let other = world.add(written("auto", "127.0.0.1:9")).await;
    let twice = written(&format!("127.0.0.1:{port}"), "127.0.0.1:9");
    let named = WrittenMapping { name: Some("web".into()), ..written("auto", "127.0.0.1:9") };
    for replaces in [None, Some(other)] {
        for (mapping, field, said) in [
            (&twice, "listen", format!("web both listen on 127.0.0.1:{port}/tcp")),
            (&named, "name", "both named \"web\"".to_owned()),
        ] {
            let asked = Request::Validate { mapping: mapping.clone(), replaces };
            let Err(RequestError::Invalid { problems }) = world.handle.request(asked).await else { panic!("valid") };
            let [problem] = &problems[..] else { panic!("{problems:?}") };
            assert_eq!(problem.path, field, "{problem}");
            assert!(problem.problem.contains("this mapping") && problem.problem.contains(&said), "{problem}");
            assert!(!problem.problem.contains("mappings["), "{problem}");
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undo_speaks_of_dropped_connections_where_some_were_dropped() {
    let said = |reply: Result<Reply, RequestError>| match reply {
        Ok(Reply::Done { message, .. }) => message.to_string(),
        other => panic!("{other:?}"),
    };
    let world = World::new().await;
    let mut rows = world.rows().await;
    let id = world.add(written(&free_port().to_string(), &echo_server().to_string())).await;
    for (request, connects, drops) in [
        (Request::Remove { ids: vec![id] }, false, false),
        (Request::Remove { ids: vec![id] }, true, true),
        (Request::Stop { ids: vec![id] }, true, true),
        (Request::Stop { ids: vec![id] }, false, false),
    ] {
        rows.wait("up and idle", |rows| rows.len() == 1 && is_up(&rows[0]) && rows[0].connections == 0).await;
        let bound = rows.rows[0].listeners[0].bound.expect("bound");
        let client = connects.then(|| {
            let mut client = TcpStream::connect(bound).expect("it listens");
            assert!(echoes(&mut client));
            client
        });
        let told = world.handle.request(request.clone()).await;
        told.expect("it is there");
        let undone = said(world.handle.request(Request::Undo).await);
        assert_eq!(undone.contains("connections that were dropped stay so"), drops, "{request:?}: {undone}");
        drop(client);
    }
    world.end().await;
}
