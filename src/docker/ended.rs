//! Containers that have ended a moment ago, by the word of the event stream.
//!
//! For this alone an event is believed before a list has confirmed it: from the end of a container on, its address
//! may be given to another one, and up to 20.10 Docker lists it as running for a while longer (moby 20.10,
//! `handleContainerExit`). Its start is believed as well; if that was missed, the lists are believed again later.

use bollard::models::{EventMessage, EventMessageTypeEnum};
use tokio::time::{Duration, Instant};

use crate::model::container::Container;

/// Most that are remembered; the oldest gives way, and is as the lists have it.
const MOST: usize = 256;

/// Those that have ended and not started again.
#[derive(Debug, Default)]
pub(super) struct Ended(Vec<(String, Instant)>);

impl Ended {
    /// Takes an event in, and says whether it changes anything.
    pub(super) fn hear(&mut self, event: &EventMessage, now: Instant) -> bool {
        let is_container = event.typ == Some(EventMessageTypeEnum::CONTAINER);
        let id = event.actor.as_ref().and_then(|actor| actor.id.as_deref()).filter(|_| is_container);
        // An id has 64 digits; what is longer is none.
        let Some(id) = id.filter(|id| (1..=64).contains(&id.len())) else { return false };
        match event.action.as_deref() {
            // Podman up to 3 says `died`.
            Some("die" | "died") => {
                self.forget(id);
                if self.0.len() == MOST {
                    self.0.remove(0);
                }
                self.0.push((id.to_owned(), now));
                true
            }
            Some("start") => self.forget(id),
            _ => false,
        }
    }

    /// A list that was asked for at `asked` is believed of what ended `settled` before.
    pub(super) fn believe(&mut self, asked: Instant, settled: Duration) {
        self.0.retain(|(_, ended)| *ended + settled > asked);
    }

    /// Takes the addresses away from those that have ended.
    pub(super) fn tell(&self, containers: &mut [Container]) {
        if self.0.is_empty() {
            return;
        }
        for container in containers.iter_mut().filter(|container| container.is_running()) {
            if self.0.iter().any(|(id, _)| container.id.as_str() == id) {
                container.state = "exited".into();
                container.addresses.clear();
                container.networks.iter_mut().for_each(|network| network.addresses.clear());
                container.publications.clear();
            }
        }
    }

    fn forget(&mut self, id: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(known, _)| known != id);
        self.0.len() < before
    }
}
