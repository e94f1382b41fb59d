//! What the service knows of this machine, and what follows for the engine's place ([`super::place`]).
//!
//! Addresses are read again whenever Docker changes, since a bridge comes and goes with its network, and every few
//! seconds while Docker is there, since the user may give this host a way to a network. Processes of containers are
//! looked for beside the owner, and only where they would tell more.

use std::collections::HashMap;

use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant};

use super::core::{Job, Service};
use super::place::{Here, engine_place, sought};
use crate::host::addresses::OwnAddresses;
use crate::host::machine::{self, Machine, ProcessNetwork};
use crate::model::container::{DockerState, EnginePlace};

/// Between two looks through the processes.
const SEEK_AGAIN: Duration = Duration::from_secs(3);

/// The containers that have a process in sight, and its network.
pub(super) type InSight = HashMap<String, ProcessNetwork>;

/// What is known of the engine's place.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    pub(super) place: EnginePlace,
    machine: Machine,
    processes: InSight,
    /// The containers that were looked for, and when.
    sought: Option<(Vec<String>, Instant)>,
    is_seeking: bool,
    has_looked: bool,
}

impl Surroundings {
    /// The first look is under way: where the engine is may turn out to be elsewhere.
    pub(super) fn is_open(&self) -> bool {
        self.is_seeking && !self.has_looked
    }
}

impl Service {
    /// Reads what this machine says, and places the engine by it. Says whether anything is new.
    pub(super) fn look_at_this_machine(&mut self) -> bool {
        let own = OwnAddresses::read().unwrap_or_else(|_| self.own.clone());
        let is_new = own != self.own;
        self.own = own;
        self.surroundings.machine = Machine::read();
        self.place_engine() || is_new
    }

    /// The same while Docker is there, for what changes without a word.
    pub(super) fn look_around(&mut self) {
        if self.docker.state() != DockerState::Unknown && self.look_at_this_machine() {
            self.addresses_changed();
        }
    }

    /// The answer to the look through the processes.
    pub(super) fn processes_sought(&mut self, found: InSight) {
        let was_open = self.surroundings.is_open();
        self.surroundings.is_seeking = false;
        self.surroundings.has_looked = true;
        self.surroundings.processes = found;
        if self.place_engine() || was_open {
            self.addresses_changed();
        }
    }

    fn place_engine(&mut self) -> bool {
        let docker = self.docker.view();
        let Surroundings { machine, processes, .. } = &self.surroundings;
        let place = engine_place(&docker, &Here { own: &self.own, machine, processes });
        let ids: Vec<String> = sought(&docker, &self.own, &place).into_iter().map(str::to_owned).collect();
        self.seek(ids);
        let is_new = self.surroundings.place != place;
        self.surroundings.place = place;
        is_new
    }

    fn seek(&mut self, ids: Vec<String>) {
        let surroundings = &mut self.surroundings;
        let is_known =
            surroundings.sought.as_ref().is_some_and(|(known, at)| *known == ids || at.elapsed() < SEEK_AGAIN);
        if ids.is_empty() || is_known || surroundings.is_seeking {
            return;
        }
        surroundings.is_seeking = true;
        surroundings.sought = Some((ids.clone(), Instant::now()));
        self.jobs.spawn(async move {
            let ids: Vec<String> = ids;
            let looked =
                spawn_blocking(move || machine::networks_of(&ids.iter().map(String::as_str).collect::<Vec<_>>()));
            // Without an answer nothing is in sight.
            Job::Sought(looked.await.unwrap_or_default())
        });
    }
}
