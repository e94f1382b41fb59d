//! Docker's view, and the task that keeps it, started when somebody first needs it.

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::docker::{self, DockerView, Endpoint, EndpointError};
use crate::model::container::DockerState;

/// Docker, looked for when first needed.
pub(super) struct DockerWatch {
    endpoint: Option<Result<Endpoint, EndpointError>>,
    pub(super) view: watch::Receiver<DockerView>,
    /// Keeps `view` open until there is somebody to write it.
    nobody: Option<watch::Sender<DockerView>>,
    /// What clients were told of it.
    told: DockerState,
    cancel: CancellationToken,
    task: JoinSet<()>,
}

impl DockerWatch {
    pub(super) fn new(endpoint: Result<Endpoint, EndpointError>) -> Self {
        let (nobody, view) = watch::channel(DockerView::default());
        Self {
            endpoint: Some(endpoint),
            view,
            nobody: Some(nobody),
            told: DockerState::default(),
            cancel: CancellationToken::new(),
            task: JoinSet::new(),
        }
    }

    /// Starts to look, unless it does already.
    pub(super) fn need(&mut self) {
        let Some(endpoint) = self.endpoint.take() else { return };
        let (view, watching) = docker::watch(endpoint, self.cancel.clone());
        self.view = view;
        self.nobody = None;
        self.task.spawn(watching);
    }

    pub(super) fn view(&self) -> DockerView {
        self.view.borrow().clone()
    }

    pub(super) fn state(&self) -> DockerState {
        self.view.borrow().state.clone()
    }

    /// The state, if it was not told before.
    pub(super) fn new_state(&mut self) -> Option<DockerState> {
        let state = self.state();
        (self.told != state).then(|| self.told.clone_from(&state))?;
        Some(state)
    }

    pub(super) async fn stop(&mut self) {
        self.cancel.cancel();
        while self.task.join_next().await.is_some() {}
    }
}
