//! The list of containers of a real Docker engine: what is true of the fake daemon is true of Docker.

mod common;

use std::time::{Duration, Instant};

use common::docker::{Container, Engine};
use common::{Need, output, require};
use portolan::docker::{DockerView, Endpoint, watch};
use portolan::model::container::{Container as Listed, DockerState};
use tokio_util::sync::CancellationToken;

/// The private engine, as the program would be told of it.
fn endpoint() -> Endpoint {
    let host = std::env::var("PORTOLAN_TEST_DOCKER").expect("Need::Docker was asked for");
    Endpoint::parse(&host, false).expect("a socket")
}

/// Watches the engine while `test` runs, and stops in order.
fn watching<T: Future<Output = ()>>(test: impl FnOnce(View) -> T) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        let (view, run) = watch(Ok(endpoint()), cancel.clone());
        let task = tokio::spawn(run);
        test(View(view)).await;
        cancel.cancel();
        task.await.expect("no panic");
    });
}

struct View(tokio::sync::watch::Receiver<DockerView>);

impl View {
    /// The container once `holds`, and the moment at which that was seen.
    async fn until(&mut self, name: &str, what: &str, mut holds: impl FnMut(&Listed) -> bool) -> Listed {
        let find = |view: &DockerView| view.containers.iter().find(|listed| listed.name.as_str() == name).cloned();
        let seen = tokio::time::timeout(
            Duration::from_secs(20),
            self.0.wait_for(|view| {
                view.state == DockerState::Connected && find(view).is_some_and(|listed| holds(&listed))
            }),
        );
        let seen = seen.await.map(|view| find(&view.expect("it runs")).expect("just found"));
        seen.unwrap_or_else(|_| panic!("{name} never {what}: {:?}", *self.0.borrow()))
    }
}

fn first_address(listed: &Listed) -> String {
    listed.addresses.first().map(ToString::to_string).unwrap_or_default()
}

/// `docker run` with more arguments than [`Engine::start`] takes.
struct Extra<'a>(&'a Engine, &'a str);

impl<'a> Extra<'a> {
    fn start(engine: &'a Engine, name: &'a str, arguments: &[&str]) -> Self {
        let _ = engine.docker(&["rm", "--force", name]).output();
        let mut command = engine.docker(&["run", "--detach", "--name", name]);
        output(command.args(arguments).args(["portolan-test", "sleep", "600"]));
        Self(engine, name)
    }
}

impl Drop for Extra<'_> {
    fn drop(&mut self) {
        let _ = self.0.docker(&["rm", "--force", self.1]).output();
    }
}

#[test]
fn a_container_that_comes_back_elsewhere_is_seen_within_a_second() {
    if !require(&[Need::Docker]) {
        return;
    }
    let engine = Engine::connect();
    let web = engine.start("watch_web", &["sleep", "600"]);
    let before = web.address();
    watching(|mut view| async move {
        let listed = view.until("watch_web", "ran", Listed::is_running).await;
        assert_eq!(first_address(&listed), before);
        assert_eq!(listed.id.as_str().len(), 64);
        assert_eq!(listed.image.as_str(), "portolan-test");

        web.stop();
        let stopped = view.until("watch_web", "stopped", |listed| !listed.is_running()).await;
        assert_eq!(stopped.state.as_str(), "exited");
        assert!(stopped.addresses.is_empty(), "{:?}", stopped.addresses);

        // Others take its address while it is away, so it comes back with another.
        let mut others: Vec<Container> = Vec::new();
        while !others.iter().any(|other| other.address() == before) {
            assert!(others.len() < 5, "nobody was given {before}");
            others.push(engine.start(&format!("watch_other_{}", others.len()), &["sleep", "600"]));
        }
        let starting = tokio::task::spawn_blocking(move || {
            web.start();
            (Instant::now(), web)
        });
        let back = view.until("watch_web", "came back", Listed::is_running).await;
        let seen = Instant::now();
        let (started, web) = starting.await.expect("no panic");
        assert_ne!(first_address(&back), before);
        assert_eq!(first_address(&back), web.address());
        let late = seen.saturating_duration_since(started);
        println!("seen {late:?} after docker start had returned");
        assert!(late < Duration::from_secs(1), "{late:?}");
    });
}

#[test]
fn networks_are_told_as_the_engine_has_them() {
    if !require(&[Need::Docker]) {
        return;
    }
    let engine = Engine::connect();
    let _host = Extra::start(&engine, "watch_host", &["--network", "host"]);
    let _alone = Extra::start(&engine, "watch_alone", &["--network", "none"]);
    let _main = Extra::start(&engine, "watch_main", &["--expose", "80", "--expose", "53/udp"]);
    let _sidecar = Extra::start(&engine, "watch_sidecar", &["--network", "container:watch_main"]);
    let labels =
        ["project=shop", "service=web", "container-number=3"].map(|l| format!("--label=com.docker.compose.{l}"));
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let _compose = Extra::start(&engine, "watch_compose", &labels);
    watching(|mut view| async move {
        let host = view.until("watch_host", "ran", Listed::is_running).await;
        assert!(host.host_network);
        assert_eq!(host.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1", "::1"]);
        let alone = view.until("watch_alone", "ran", Listed::is_running).await;
        assert!(!alone.host_network && alone.addresses.is_empty(), "{alone:?}");
        let main = view.until("watch_main", "ran", |listed| !listed.addresses.is_empty()).await;
        assert!(main.addresses[0].to_string().starts_with("203.0.113."), "{main:?}");
        assert_eq!(main.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [53, 80]);
        let sidecar = view.until("watch_sidecar", "ran", Listed::is_running).await;
        assert_eq!(sidecar.addresses, main.addresses);
        let compose = view.until("watch_compose", "ran", Listed::is_running).await.compose.expect("its labels");
        assert_eq!((compose.project.as_str(), compose.service.as_str(), compose.number), ("shop", "web", 3));
    });
}
