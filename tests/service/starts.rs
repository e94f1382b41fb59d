//! What is said of a start reaches whoever subscribes first, however late that is.

use std::time::Duration;

use portolan::docker::Endpoint;
use portolan::model::engine::EngineName;
use portolan::model::event::EventKind;
use portolan::model::profile::MappingConfig;
use portolan::model::update::Interest;
use portolan::service::{Options, Running};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::world::SOON;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_and_the_warnings_of_the_start_are_told_once_at_each_of_two_hundred_starts() {
    for round in 0..200 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let session = match round % 3 {
            0 => vec![],
            1 => vec![MappingConfig::from_argument("auto:127.0.0.1:9").expect("a mapping")],
            _ => {
                let stopped = MappingConfig::from_argument("auto:127.0.0.1:9").expect("a mapping");
                vec![MappingConfig { enabled: false, ..stopped }]
            }
        };
        let enabled = session.iter().filter(|config| config.enabled).count();
        let (sender, warnings) = mpsc::channel(1);
        sender.try_send("said at the start".into()).expect("it has room");
        let running = Running::start(Options {
            profile: None,
            session,
            docker: Endpoint::parse(&format!("unix://{}", folder.path().join("none.sock").display()), false),
            always_docker: false,
            descriptor_limit: 4_000,
            sockets: Vec::new(),
            warnings,
            session_name: EngineName::Session { pid: std::process::id() },
        });
        // The service has its first moments without anybody who listens.
        sleep(Duration::from_millis(round % 3)).await;
        let interest = Interest { events: true, sample_ms: 20, ..Interest::default() };
        let mut subscription = running.handle().subscribe(interest).await.expect("it runs");
        let mut events = Vec::new();
        let is_ready = |event: &EventKind| matches!(event, EventKind::Ready { .. });
        let is_warning = |event: &EventKind| matches!(event, EventKind::Warning { .. });
        while !(events.iter().any(is_ready) && events.iter().any(is_warning)) {
            let update = timeout(SOON, subscription.next()).await;
            let update = update.unwrap_or_else(|_| panic!("round {round}: {events:?}")).expect("the service runs");
            assert_eq!(update.lost, 0);
            events.extend(update.events.into_iter().map(|event| event.kind));
        }
        let more = async {
            while let Some(update) = subscription.next().await {
                events.extend(update.events.into_iter().map(|event| event.kind));
            }
        };
        tokio::join!(running.shutdown(Duration::ZERO), more);
        assert_eq!(events.iter().filter(|event| is_ready(event)).count(), 1, "round {round}: {events:?}");
        assert_eq!(events.iter().filter(|event| is_warning(event)).count(), 1, "round {round}: {events:?}");
        assert!(events.contains(&EventKind::Ready { mappings: enabled, listening: enabled, failed: 0 }), "{events:?}");
    }
}
