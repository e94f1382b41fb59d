//! A service on a profile of its own, and its rows as a client keeps them.

use std::path::PathBuf;
use std::time::Duration;

use portolan::docker::{Endpoint, EndpointError};
use portolan::model::engine::EngineName;
use portolan::model::event::MappingState;
use portolan::model::id::MappingId;
use portolan::model::profile::{MappingConfig, WrittenMapping};
use portolan::model::request::{Reply, Request, RequestError};
use portolan::model::update::{Interest, MappingRow, Update};
use portolan::service::{Handle, OpenedProfile, Options, Running, Subscription};
use portolan::store::ProfileSource;
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) running: Running,
    pub(crate) handle: Handle,
    pub(crate) folder: TempDir,
    _warnings: mpsc::Sender<portolan::model::untrusted::SafeText>,
}

impl World {
    /// A service on an empty profile file.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::on(folder).await
    }

    pub(crate) async fn on(folder: TempDir) -> Self {
        let docker = Endpoint::parse(&format!("unix://{}", folder.path().join("none.sock").display()), false);
        Self::with(folder, Vec::new(), docker).await
    }

    /// With mappings of the command line, and with an engine of Docker's.
    pub(crate) async fn with(
        folder: TempDir,
        session: Vec<MappingConfig>,
        docker: Result<Endpoint, EndpointError>,
    ) -> Self {
        Self::start(folder, session, docker, 4_000).await
    }

    /// With so many descriptors for listeners and connections.
    #[allow(dead_code, reason = "it is shared with the scenario of causes")]
    pub(crate) async fn with_limit(folder: TempDir, docker: Result<Endpoint, EndpointError>, limit: u64) -> Self {
        Self::start(folder, Vec::new(), docker, limit).await
    }

    async fn start(
        folder: TempDir,
        session: Vec<MappingConfig>,
        docker: Result<Endpoint, EndpointError>,
        descriptor_limit: u64,
    ) -> Self {
        let path = folder.path().join("profile.json");
        let profile = tokio::task::spawn_blocking(move || OpenedProfile::open_blocking(ProfileSource::File(path)))
            .await
            .expect("it does not panic")
            .expect("a usable profile");
        let (sender, warnings) = mpsc::channel(1);
        let running = Running::start(Options {
            profile: Some(profile),
            session,
            docker,
            always_docker: false,
            descriptor_limit,
            sockets: Vec::new(),
            warnings,
            session_name: EngineName::Session { pid: std::process::id() },
        });
        Self { handle: running.handle(), running, folder, _warnings: sender }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("profile.json")
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap_or_default()
    }

    pub(crate) async fn rows(&self) -> Rows {
        let interest = Interest { mappings: true, connections: true, sample_ms: 20, ..Interest::default() };
        Rows { subscription: self.handle.subscribe(interest).await.expect("it runs"), rows: Vec::new() }
    }

    pub(crate) async fn add(&self, mapping: WrittenMapping) -> MappingId {
        match self.handle.request(Request::Add { mapping, even_if_busy: false }).await {
            Ok(Reply::Done { ids, .. }) => ids[0],
            other => panic!("not added: {other:?}"),
        }
    }

    pub(crate) async fn end(self) {
        self.running.shutdown(Duration::ZERO).await;
    }
}

pub(crate) fn message(refused: Result<Reply, RequestError>) -> String {
    match refused {
        Err(RequestError::Failed { message }) => message.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

/// The rows as a client keeps them.
pub(crate) struct Rows {
    pub(crate) subscription: Subscription,
    pub(crate) rows: Vec<MappingRow>,
}

impl Rows {
    /// Takes updates until the rows fit.
    pub(crate) async fn wait(&mut self, what: &str, fits: impl Fn(&[MappingRow]) -> bool) -> &[MappingRow] {
        while !fits(&self.rows) {
            let update = timeout(SOON, self.subscription.next())
                .await
                .unwrap_or_else(|_| panic!("never {what}: {:?}", self.rows))
                .expect("the service runs");
            self.take(&through_json(&update));
        }
        &self.rows
    }

    pub(crate) fn take(&mut self, update: &Update) {
        if update.is_full {
            self.rows.clear();
        }
        self.rows.retain(|row| !update.mappings_removed.contains(&row.id));
        for row in &update.mappings {
            match self.rows.iter_mut().find(|old| old.id == row.id) {
                Some(old) => old.clone_from(row),
                None => self.rows.push(row.clone()),
            }
        }
    }
}

/// What a client behind a socket would get.
pub(crate) fn through_json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("it is data");
    let back = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(&back, value);
    back
}

pub(crate) fn written(listen: &str, target: &str) -> WrittenMapping {
    WrittenMapping { listen: listen.into(), target: target.into(), ..WrittenMapping::default() }
}

pub(crate) fn is_up(row: &MappingRow) -> bool {
    row.state == MappingState::Up
}
