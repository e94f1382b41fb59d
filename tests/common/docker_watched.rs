//! Watches a fake daemon, impatiently.
#![allow(dead_code)] // Each test file uses a part of it.

use std::time::Duration;

use portolan::docker::{DockerView, Endpoint, Timing, watch_with};
use portolan::model::container::DockerState;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// As in the program, but impatient.
pub(crate) const TIMING: Timing = Timing {
    answer: Duration::from_millis(400),
    between_lists: Duration::from_millis(50),
    settle: [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(300)],
    first_retry: Duration::from_millis(20),
    last_retry: Duration::from_millis(80),
};

pub(crate) struct Watched {
    pub(crate) view: watch::Receiver<DockerView>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

pub(crate) fn start(endpoint: Endpoint, timing: Timing) -> Watched {
    let cancel = CancellationToken::new();
    let (view, run) = watch_with(Ok(endpoint), timing, cancel.clone());
    Watched { view, cancel, task: tokio::spawn(run) }
}

impl Watched {
    pub(crate) async fn until(&mut self, what: &str, holds: impl FnMut(&DockerView) -> bool) -> DockerView {
        let found = tokio::time::timeout(Duration::from_secs(10), self.view.wait_for(holds)).await;
        let found = found.map(|found| found.expect("it ended").clone());
        found.unwrap_or_else(|_| panic!("never came true: {what}; it is {:?}", self.view.borrow().state))
    }

    pub(crate) async fn until_at(&mut self, name: &str, address: &str) -> DockerView {
        self.until(&format!("{name} at {address}"), |view| {
            view.state == DockerState::Connected && address_of(view, name).as_deref() == Some(address)
        })
        .await
    }

    pub(crate) async fn until_lost(&mut self) -> String {
        let view = self.until("lost", |view| matches!(view.state, DockerState::Unavailable { .. })).await;
        reason(&view)
    }

    pub(crate) async fn end(self) {
        self.cancel.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.task).await.expect("ends when told").expect("no panic");
    }
}

pub(crate) fn address_of(view: &DockerView, name: &str) -> Option<String> {
    let container = view.containers.iter().find(|container| container.name.as_str() == name)?;
    container.addresses.first().map(ToString::to_string)
}

pub(crate) fn reason(view: &DockerView) -> String {
    match &view.state {
        DockerState::Unavailable { reason } => reason.to_string(),
        other => panic!("{other:?}"),
    }
}
