//! The ports that Docker publishes, as they live: looked at, never touched.
//!
//! [`ports`] says what is published, [`look`] reads the kernel's tables, [`tracker`] follows the [`session`]s from one
//! look to the next, [`carried`] those of one process of docker-proxy, [`joining`] finds which two legs belong
//! together, [`rows`] and [`view`] are what clients see. A look is taken beside the owner, one at a time, only while a
//! client wants it and something is published.
//!
//! Sessions are counted from the first look that saw them, so their age is how long they have been seen, and one that
//! lived between two looks is not seen at all. Those of docker-proxy are counted in payload, out of TCP's own counters;
//! those that the packet filter rewrites are not, since it counts packets.

mod carried;
mod joining;
mod look;
mod ports;
mod rows;
mod session;
mod tracker;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant};

use self::tracker::{Now, RESERVED, Tracker};
pub(super) use self::view::PublishedView;
use super::core::{Job, Service};
use crate::host::processes;
use crate::model::container::{Container, EnginePlace};
use crate::model::event::to_the_millisecond;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);
/// A look that takes long, on a machine with very many sockets, is taken more seldom: so many times as long lie
/// between two. While there is no session, that is well below a hundredth of a processor; the kernel walks its whole
/// table each time, however few of its sockets are asked for.
const SHARE: u32 = 50;
const IDLE_SHARE: u32 = 200;
/// But never more seldom than this.
const AT_LEAST: Duration = Duration::from_secs(5);

/// What the service keeps of published ports.
#[derive(Debug)]
pub(super) struct Published {
    /// `None` while a look is under way, and before the first.
    tracker: Option<Box<Tracker>>,
    is_looking: bool,
    next_look: Instant,
    /// However new the containers are: what was under way at one look is taken to be done by the next.
    not_before: Instant,
    /// The containers of the last look.
    containers: Arc<Vec<Container>>,
    view: Arc<PublishedView>,
    next_id: Arc<AtomicU64>,
}

/// What a look brings back; nothing if it has panicked.
pub(super) struct Looked(Option<(Box<Tracker>, PublishedView, Duration)>);

impl Default for Published {
    fn default() -> Self {
        Self {
            tracker: None,
            is_looking: false,
            next_look: Instant::now(),
            not_before: Instant::now(),
            containers: Arc::default(),
            view: Arc::default(),
            next_id: Arc::new(AtomicU64::new(RESERVED)),
        }
    }
}

impl Published {
    /// As it was at the last look.
    pub(super) fn view(&self) -> Arc<PublishedView> {
        Arc::clone(&self.view)
    }
}

impl Service {
    /// Looks at what Docker publishes, if it is time to.
    pub(super) fn look_at_published(&mut self) {
        self.docker.need();
        // Ports that are published on another host are none of this one's.
        let is_here = match &self.surroundings.place {
            EnginePlace::Elsewhere { published_at, .. } => published_at.is_some_and(|at| at.is_loopback()),
            EnginePlace::Here | EnginePlace::Unknown => true,
        };
        let published = &mut self.published;
        if !is_here && published.view.mappings.is_empty() {
            return;
        }
        let containers = if is_here { self.docker.view().containers } else { Arc::default() };
        let is_new = !Arc::ptr_eq(&containers, &published.containers);
        let due = if is_new { published.not_before } else { published.next_look };
        if published.is_looking || Instant::now() < due {
            return;
        }
        let is_anything = containers.iter().any(|container| !container.publications.is_empty());
        published.containers = Arc::clone(&containers);
        if !is_anything && published.view.mappings.is_empty() {
            return;
        }
        published.is_looking = true;
        let tracker = published.tracker.take();
        let mut tracker = tracker.unwrap_or_else(|| Box::new(Tracker::new(Arc::clone(&published.next_id))));
        let own = self.own.clone();
        let ms = self.registry.now_ms();
        self.jobs.spawn(async move {
            let looked = spawn_blocking(move || {
                let spent = processes::thread_time();
                let is_local = |client: SocketAddr| own.contains(client.ip());
                let time = to_the_millisecond(Timestamp::now());
                let now = Now { containers: &containers, ms, time, is_local: &is_local };
                let view = tracker.look(&now);
                (tracker, view, processes::thread_time().saturating_sub(spent))
            });
            Job::Published(Looked(looked.await.ok()))
        });
    }

    /// The answer to [`Service::look_at_published`].
    pub(super) fn published_seen(&mut self, Looked(looked): Looked) {
        let published = &mut self.published;
        published.is_looking = false;
        let mut pause = EVERY;
        if let Some((tracker, view, took)) = looked {
            let share = if view.is_idle() { IDLE_SHARE } else { SHARE };
            published.tracker = Some(tracker);
            if *published.view != view {
                published.view = Arc::new(view);
            }
            pause = (took * share).clamp(EVERY, AT_LEAST);
        } else {
            // What it knew is lost with it; the next look begins anew.
            tracing::error!("a look at published ports has failed");
        }
        published.next_look = Instant::now() + pause;
        published.not_before = Instant::now() + EVERY;
    }

    /// Nobody looks any more: what was seen is forgotten, so that it is not shown as new to the next client.
    pub(super) fn forget_published(&mut self) {
        if self.published.tracker.is_some() {
            let next_id = Arc::clone(&self.published.next_id);
            self.published = Published { next_id, ..Published::default() };
        }
    }
}
