//! What the engine has told, as far as commands list it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Failure;
use crate::model::container::{DockerState, EnginePlace};
use crate::model::event::ConnectionState;
use crate::model::id::{ConnectionId, MappingId};
use crate::model::request::RequestError;
use crate::model::untrusted::SafeText;
use crate::model::update::{ConnectionRow, Interest, MappingRow, Overview, Update};
use crate::service::{Handle, Subscription};

/// How long what is found out for a list alone may hold it up: what Docker publishes,
const PUBLISHED: Duration = Duration::from_secs(2);
/// and the processes of clients, of which not all can be seen.
const PROCESSES: Duration = Duration::from_millis(300);

/// Every row, as of one moment.
#[derive(Debug)]
pub(super) struct World {
    at_ms: u64,
    told: Instant,
    pub(super) overview: Overview,
    mappings: HashMap<MappingId, MappingRow>,
    pub(super) connections: BTreeMap<ConnectionId, ConnectionRow>,
    /// Containers that Docker publishes ports of.
    publishing: HashSet<SafeText>,
}

/// What an engine that is not there any more cannot tell.
pub(super) fn gone() -> Failure {
    RequestError::Gone.into()
}

impl World {
    /// Everything of that interest, and what comes after it.
    pub(super) async fn follow(handle: &Handle, interest: Interest) -> Result<(Self, Subscription), Failure> {
        let mut subscription = handle.subscribe(interest).await?;
        let update = subscription.next().await.ok_or_else(gone)?;
        let mut world = Self {
            at_ms: 0,
            told: Instant::now(),
            overview: Overview::default(),
            mappings: HashMap::new(),
            connections: BTreeMap::new(),
            publishing: HashSet::new(),
        };
        world.take(update);
        Ok((world, subscription))
    }

    /// The mappings of ours.
    pub(super) async fn of_mappings(handle: &Handle) -> Result<Self, Failure> {
        Ok(Self::follow(handle, Interest { mappings: true, ..Interest::default() }).await?.0)
    }

    /// Everything of that interest, once. What the engine looks for only when somebody asks is waited for a moment.
    pub(super) async fn once(handle: &Handle, interest: Interest) -> Result<Self, Failure> {
        // Soon, since what is waited for comes with the next sample.
        let interest = Interest { sample_ms: 20, containers: interest.published, ..interest };
        let (mut world, mut subscription) = Self::follow(handle, interest.clone()).await?;
        if interest.published {
            world.until(&mut subscription, PUBLISHED, Self::knows_published).await;
        }
        if interest.processes {
            world.until(&mut subscription, PROCESSES, Self::knows_processes).await;
        }
        Ok(world)
    }

    /// Hears on until it knows something, or until what it knows has to do.
    async fn until(&mut self, subscription: &mut Subscription, patience: Duration, knows: fn(&Self) -> bool) {
        let hearing = async {
            while !knows(self) {
                let Some(update) = subscription.next().await else { break };
                self.take(update);
            }
        };
        let _ = timeout(patience, hearing).await;
    }

    fn knows_published(&self) -> bool {
        let is_elsewhere = matches!(&self.overview.engine_place, EnginePlace::Elsewhere { published_at, .. }
            if published_at.is_none_or(|at| !at.is_loopback()));
        match self.overview.docker {
            DockerState::Unknown => false,
            DockerState::Unavailable { .. } => true,
            DockerState::Connected => {
                is_elsewhere || self.publishing.is_empty() || self.mappings.values().any(MappingRow::is_docker)
            }
        }
    }

    /// Clients on loopback are of this machine; of others it is not known whether they are.
    fn knows_processes(&self) -> bool {
        self.connections.values().all(|row| {
            row.process.is_some() || row.is_closed() || row.is_docker() || !row.connection.client.ip().is_loopback()
        })
    }

    pub(super) fn take(&mut self, update: Update) {
        if update.is_full {
            self.mappings.clear();
            self.connections.clear();
            self.publishing.clear();
        }
        (self.at_ms, self.told) = (update.at_ms, Instant::now());
        if let Some(overview) = update.overview {
            self.overview = overview;
        }
        for id in &update.mappings_removed {
            self.mappings.remove(id);
        }
        self.mappings.extend(update.mappings.into_iter().map(|row| (row.id, row)));
        for id in &update.connections_removed {
            self.connections.remove(id);
        }
        self.connections.extend(update.connections.into_iter().map(|row| (row.connection.id, row)));
        for id in &update.containers_removed {
            self.publishing.remove(id);
        }
        for container in update.containers {
            if container.publications.is_empty() {
                self.publishing.remove(&container.id);
            } else {
                self.publishing.insert(container.id);
            }
        }
    }

    /// The engine's clock.
    pub(super) fn now_ms(&self) -> u64 {
        self.at_ms + u64::try_from(self.told.elapsed().as_millis()).unwrap_or(0)
    }

    /// A moment of the engine's clock as of which the counters are right: whoever is sent samples and hears of none has
    /// missed no change.
    pub(super) fn counted_at_ms(&self, sample_ms: u64) -> u64 {
        self.now_ms().saturating_sub(sample_ms).max(self.at_ms)
    }

    /// Those that have ended are of no more use.
    pub(super) fn forget_closed(&mut self) {
        self.connections.retain(|_, row| row.connection.state != ConnectionState::Closed);
    }

    /// Ours in the order of the profile, then what Docker publishes.
    pub(super) fn mappings(&self) -> impl Iterator<Item = &MappingRow> {
        let ours = self.overview.order.iter().filter_map(|id| self.mappings.get(id));
        let mut docker: Vec<&MappingRow> = self.mappings.values().filter(|row| row.is_docker()).collect();
        docker.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
        ours.chain(docker)
    }

    /// A mapping of ours.
    pub(super) fn mapping(&self, id: MappingId) -> Option<&MappingRow> {
        self.mappings.get(&id)
    }

    /// A mapping of ours by its name, or by its id where none is named so.
    pub(super) fn find(&self, which: &str) -> Option<&MappingRow> {
        let ours = || self.mappings.values().filter(|row| !row.is_docker());
        let by_id = || which.parse().ok().and_then(|id| ours().find(|row| row.id == MappingId(id)));
        ours().find(|row| row.name == which).or_else(by_id)
    }

    /// What PROFILE says of mappings that are in it.
    pub(super) fn profile(&self) -> &str {
        self.overview.profile.as_ref().map_or("-", |profile| profile.name.as_str())
    }
}
