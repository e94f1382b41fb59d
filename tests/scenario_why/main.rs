//! Why a mapping does not work: a fixture for every cause, each with the report of `portolan doctor` (or of the engine,
//! for what only that knows), as root and as an ordinary user. The table of causes and results is printed.

mod aliases;
#[path = "../common/mod.rs"]
mod common;
mod containers;
mod engine;
mod firewalls;
mod healthy;
mod host;
mod relay;
mod table;
#[path = "../service/world.rs"]
#[allow(dead_code, reason = "it is shared with the tests of the service")]
mod world;

use common::docker::Engine;
use common::{Need, require};
use portolan::docker::Endpoint;
use portolan::model::request::{Reply, Request, RequestError};
use table::Table;
use world::World;

#[test]
fn each_cause_is_told_and_no_other_and_healthy_mappings_have_none() {
    if !require(&[Need::Namespaces, Need::Docker, Need::Python, Need::Curl, Need::Ss, Need::Openssl]) {
        return;
    }
    let mut table = Table::new();
    healthy::rows(&mut table);
    host::rows(&mut table);
    firewalls::rows(&mut table);
    containers::rows(&mut table);
    aliases::rows(&mut table);
    engine::rows(&mut table);
    table.finish();
}

#[test]
fn who_listens_inside_a_container_is_told_by_the_engine() {
    if !require(&[Need::Docker, Need::Namespaces]) {
        return;
    }
    let engine = Engine::connect();
    let script = "httpd -p 127.0.0.1:8443 -h /bin; exec httpd -f -p 0.0.0.0:80 -h /bin";
    let web = engine.start("inside_web", &["sh", "-c", script]);
    let host = engine.start_with("inside_host", &["--network", "host"], &["sleep", "600"]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let world = World::with(folder, Vec::new(), Endpoint::parse(engine.host(), false)).await;
        let ask = async |id: &str| {
            let request = world::through_json(&Request::Inside { container: id.into() });
            world.handle.request(request).await
        };
        let id = engine.id(web.name());
        // The list of containers comes a moment after it was first needed, and httpd a moment after its start.
        let told = loop {
            match ask(&id).await {
                Ok(Reply::Inside { listeners, unseen: None }) if listeners.len() == 2 => break listeners,
                Ok(Reply::Inside { .. }) | Err(RequestError::NotFound { .. }) => {}
                other => panic!("{other:?}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        let addresses: Vec<String> = told.iter().map(|one| one.address.to_string()).collect();
        assert_eq!(addresses, ["0.0.0.0:80", "127.0.0.1:8443"]);
        for listener in &told {
            let process = listener.process.as_ref().map(ToString::to_string).unwrap_or_default();
            assert!(process.starts_with("httpd (pid "), "{process}");
        }
        let Ok(Reply::Inside { listeners, unseen: Some(why) }) = ask(&engine.id(host.name())).await else {
            panic!("the host's own listeners are not the container's")
        };
        assert!(listeners.is_empty() && why.as_str().contains("shares this host's network"), "{why}");
        web.stop();
        let why = loop {
            match ask(&id).await {
                Ok(Reply::Inside { unseen: Some(why), .. }) => break why,
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                other => panic!("{other:?}"),
            }
        };
        assert!(why.as_str().contains("does not run") || why.as_str().contains("not seen"), "{why}");
        world.end().await;
    });
}
