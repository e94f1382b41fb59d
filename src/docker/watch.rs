//! Keeps the list of containers current: the event stream says when, a fresh list says what.
//!
//! The event stream is opened before the first list, so no change falls between the two. Events are hardly
//! interpreted: each that could matter leads to a new list, so a lost or unknown one does no harm; only the end of a
//! container is believed at once ([`super::ended`]). The engine's
//! networks and what it says of itself are asked for beside the lists, and where it does not tell, the lists go on
//! without. When the engine is lost, the last known containers stay (they mostly run on through a restart of the engine), and the
//! state says that they are not current.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use bollard::{BollardRequest, ClientVersion, Docker};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::ask::{self, Ask};
use super::decode::Modes;
use super::ended::Ended;
use super::endpoint::{Endpoint, EndpointError};
use super::engine::{self, EngineFacts, Network};
use super::lost::{Lost, reason};
use super::transport::{Transport, TransportError};
use crate::model::container::{Container, DockerState};
use crate::model::untrusted::SafeText;

/// So long an engine that was lost is waited for before another one is taken instead.
const LOYALTY: Duration = Duration::from_mins(1);

/// What is known of Docker now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerView {
    /// The engine.
    pub state: DockerState,
    /// Its containers, running ones first, then by name. While the engine is out of reach: as last seen.
    pub containers: Arc<Vec<Container>>,
    /// Its networks, as far as it has told of them.
    pub networks: Arc<Vec<Network>>,
    /// What it says of itself; empty where it has not.
    pub engine: EngineFacts,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// An engine that has not answered by then counts as lost.
    pub answer: Duration,
    /// Between the end of one list and the next.
    pub between_lists: Duration,
    /// From the opening of the event stream, and from each event, to further lists: what they tell of may show
    /// in the list only later. Docker sends the head of the stream a moment before it subscribes us, and up to
    /// 20.10 it tells of the end of a container before it has taken it off its networks and out of the list (moby
    /// 20.10, `handleContainerExit`).
    pub settle: [Duration; 3],
    /// From losing the engine to the first attempt to find it again; doubled each time up to `last_retry`.
    pub first_retry: Duration,
    /// The longest pause between two attempts.
    pub last_retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            between_lists: Duration::from_millis(50),
            settle: [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)],
            first_retry: Duration::from_millis(500),
            last_retry: Duration::from_secs(10),
        }
    }
}

/// Watches the engine until `cancel`. The caller owns the future and awaits its end; it never panics on what the
/// engine says. An endpoint that cannot be used is told as such, at once.
pub fn watch(
    endpoint: Result<Endpoint, EndpointError>,
    cancel: CancellationToken,
) -> (watch::Receiver<DockerView>, impl Future<Output = ()> + Send + 'static) {
    watch_with(endpoint, Timing::default(), cancel)
}

/// As [`watch()`], with other durations.
pub fn watch_with(
    endpoint: Result<Endpoint, EndpointError>,
    timing: Timing,
    cancel: CancellationToken,
) -> (watch::Receiver<DockerView>, impl Future<Output = ()> + Send + 'static) {
    let (view, receiver) = watch::channel(DockerView::default());
    (receiver, async move {
        match endpoint {
            Ok(endpoint) => Watcher { endpoint, timing, view }.run(&cancel).await,
            Err(error) => {
                let reason = SafeText::new(&error.to_string());
                view.send_modify(|view| view.state = DockerState::Unavailable { reason });
                cancel.cancelled().await;
            }
        }
    })
}

struct Watcher {
    endpoint: Endpoint,
    timing: Timing,
    view: watch::Sender<DockerView>,
}

/// What one engine has said in one session.
#[derive(Default)]
struct Said {
    engine: Option<EngineFacts>,
    networks: Option<Arc<Vec<Network>>>,
    containers: Option<Vec<Container>>,
    ended: Ended,
}

/// The lists that follow one event, while no other comes.
struct Settling {
    event: Instant,
    done: usize,
}

impl Settling {
    fn from(event: Instant) -> Self {
        Self { event, done: 0 }
    }

    /// Waits until the next list is due; for ever after the last one.
    async fn next(&mut self, after: &[Duration]) {
        match after.get(self.done) {
            Some(after) => sleep_until(self.event + *after).await,
            None => std::future::pending().await,
        }
        self.done += 1;
    }
}

impl Watcher {
    async fn run(self, cancel: &CancellationToken) {
        let mut pause = self.timing.first_retry;
        let mut before: Option<(Endpoint, Instant)> = None;
        while !cancel.is_cancelled() {
            let began = Instant::now();
            let (endpoint, lost) = match self.choose(before.as_ref()).await {
                Err((endpoint, error)) => (endpoint, TransportError::CannotOpen(error).into()),
                Ok(endpoint) => {
                    let transport = Arc::new(Transport::new(endpoint.clone()));
                    let is_same = before.as_ref().is_some_and(|(known, _)| *known == endpoint);
                    let lost = tokio::select! {
                        lost = self.session(&transport, is_same) => Some(lost),
                        () = cancel.cancelled() => None,
                    };
                    transport.close().await;
                    let Some(lost) = lost else { return };
                    (endpoint, lost)
                }
            };
            if self.is_connected() {
                // An engine that is found and lost again in a moment is not found: the pause goes on growing.
                if began.elapsed() >= self.timing.last_retry {
                    pause = self.timing.first_retry;
                }
                before = Some((endpoint.clone(), Instant::now()));
            }
            self.tell_unavailable(&endpoint, &lost);
            tokio::select! {
                () = sleep(pause) => {}
                () = cancel.cancelled() => return,
            }
            pause = (pause * 2).min(self.timing.last_retry);
        }
    }

    /// Where to look now. An engine that was lost a moment ago is mostly being restarted: another one that happens
    /// to be there would know none of its containers.
    async fn choose(&self, before: Option<&(Endpoint, Instant)>) -> Result<Endpoint, (Endpoint, io::Error)> {
        match before {
            Some((endpoint, lost)) if lost.elapsed() < LOYALTY => Ok(endpoint.clone()),
            _ => self.endpoint.choose().await,
        }
    }

    /// From the first request until the engine is lost. What `is_same` has said before holds until it says it anew.
    async fn session(&self, transport: &Arc<Transport>, is_same: bool) -> Lost {
        match self.follow(transport, is_same).await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn follow(&self, transport: &Arc<Transport>, is_same: bool) -> Result<std::convert::Infallible, Lost> {
        let (version, is_podman) = self.in_time(ask::version(transport)).await?;
        let prefix = format!("/v{}.{}", version.major_version, version.minor_version);
        let docker = client(transport, self.timing.answer, &version, prefix.clone())?;
        let types = HashMap::from([("type", vec!["container", "network"])]);
        let mut events = pin!(docker.events(Some(EventsOptionsBuilder::new().filters(&types).build())));
        tokio::select! {
            () = transport.events_open.notified() => {}
            event = events.next() => drop(event.ok_or(Lost::Ended)??),
            () = sleep(self.timing.answer) => return Err(Lost::Stalled),
        }

        let ask = Ask { transport, prefix: &prefix, is_podman, patience: self.timing.answer };
        let mut said = if is_same { self.said_before() } else { Said::default() };
        // Whether the list, the networks are to be asked for.
        let (mut is_due, mut networks_due) = (true, true);
        let mut not_before = Instant::now();
        let mut asked = not_before;
        let mut settling = Settling::from(not_before);
        let mut modes = Modes::new();
        // What the engine is decides whether its addresses mean anything here: that comes first, if it comes.
        let mut has_answered = said.engine.is_some();
        let (mut listing, mut networks, mut info) = (pin!(None), pin!(None), pin!(Some(ask.info())));
        loop {
            if networks_due && networks.is_none() {
                networks_due = false;
                networks.set(Some(ask.networks()));
            }
            let mut is_news = true;
            tokio::select! {
                event = events.next() => {
                    let event = match event.ok_or(Lost::Ended)? {
                        Ok(event) => event,
                        Err(_) if transport.event_is_too_long() => return Err(TransportError::TooLong.into()),
                        Err(error) => return Err(error.into()),
                    };
                    transport.event_received();
                    networks_due |= event.typ == Some(EventMessageTypeEnum::NETWORK);
                    is_news = said.ended.hear(&event, Instant::now());
                    if may_move_a_container(&event) {
                        is_due = true;
                        settling = Settling::from(Instant::now());
                    }
                }
                () = sleep_until(not_before), if is_due && listing.is_none() => {
                    (is_due, is_news, asked) = (false, false, Instant::now());
                    listing.set(Some(self.in_time(ask.containers(std::mem::take(&mut modes)))));
                }
                listed = answer(listing.as_mut()) => {
                    let (containers, learned) = listed?;
                    modes = learned;
                    // What could not be told before may be told now.
                    networks_due |= said.lacks_networks_of(&containers);
                    if said.engine.is_none() && info.is_none() {
                        info.set(Some(ask.info()));
                    }
                    said.containers = Some(containers);
                    said.ended.believe(asked, self.timing.settle[2]);
                    not_before = Instant::now() + self.timing.between_lists;
                }
                told = answer(networks.as_mut()) => said.networks = told.map(Arc::new).or(said.networks.take()),
                told = answer(info.as_mut()) => {
                    said.engine = told.or(said.engine.take());
                    has_answered = true;
                }
                () = settling.next(&self.timing.settle) => (is_due, is_news) = (true, false),
            }
            if has_answered && is_news {
                self.tell(&said, &ask);
            }
        }
    }

    async fn in_time<T, E>(&self, answer: impl Future<Output = Result<T, E>>) -> Result<T, Lost>
    where
        Lost: From<E>,
    {
        match timeout(self.timing.answer, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Lost::Stalled),
        }
    }

    fn is_connected(&self) -> bool {
        self.view.borrow().state == DockerState::Connected
    }

    fn said_before(&self) -> Said {
        let view = self.view.borrow();
        let (engine, networks) = (view.engine.clone(), Arc::clone(&view.networks));
        Said { engine: Some(engine), networks: Some(networks), ..Said::default() }
    }

    fn tell(&self, said: &Said, ask: &Ask<'_>) {
        let Some(containers) = &said.containers else { return };
        let mut containers = containers.clone();
        let networks = said.networks.clone().unwrap_or_default();
        engine::tell_networks(&mut containers, &networks);
        said.ended.tell(&mut containers);
        let engine = said.engine.clone().unwrap_or_else(|| ask.nothing_said());
        self.view.send_if_modified(|view| {
            let is_news = view.state != DockerState::Connected
                || *view.containers != containers
                || *view.networks != *networks
                || view.engine != engine;
            if is_news {
                let containers = Arc::new(containers);
                *view = DockerView { state: DockerState::Connected, containers, networks, engine };
            }
            is_news
        });
    }

    fn tell_unavailable(&self, endpoint: &Endpoint, lost: &Lost) {
        let reason = SafeText::new(&reason(endpoint, lost, self.timing.answer));
        let state = DockerState::Unavailable { reason };
        self.view.send_if_modified(|view| {
            let is_news = view.state != state;
            view.state = state;
            is_news
        });
    }
}

impl Said {
    /// Whether a container is on a network that the engine has not told of.
    fn lacks_networks_of(&self, containers: &[Container]) -> bool {
        let Some(networks) = &self.networks else { return true };
        let mut names: Vec<&SafeText> =
            containers.iter().flat_map(|container| &container.networks).map(|network| &network.name).collect();
        names.sort_unstable();
        names.dedup();
        names.iter().any(|name| Network::find(networks, name.as_str()).is_none())
    }
}

/// The answer to what was asked, once; for ever without one where nothing was.
async fn answer<F: Future>(mut asked: Pin<&mut Option<F>>) -> F::Output {
    match asked.as_mut().as_pin_mut() {
        Some(asking) => {
            let answer = asking.await;
            asked.set(None);
            answer
        }
        None => std::future::pending().await,
    }
}

/// bollard over our transport.
fn client(
    transport: &Arc<Transport>,
    patience: Duration,
    version: &ClientVersion,
    prefix: String,
) -> Result<Docker, Lost> {
    let (transport, prefix) = (Arc::clone(transport), Arc::new(prefix));
    let send = move |request: BollardRequest| {
        let (transport, prefix) = (Arc::clone(&transport), Arc::clone(&prefix));
        async move {
            transport.send_for_events(request, &prefix).await.map_err(|error| match error {
                TransportError::CannotOpen(error) => error.into(),
                other => io::Error::other(other).into(),
            })
        }
    };
    Ok(Docker::connect_with_custom_transport(send, Some("http://docker"), patience.as_secs().max(1), version)?)
}

/// Whether an event can change where a container is. Health checks alone make three others of every run.
pub(super) fn may_move_a_container(event: &EventMessage) -> bool {
    const NEVER: [&str; 11] = [
        "archive-path",
        "attach",
        "commit",
        "copy",
        "detach",
        "exec_",
        "export",
        "extract-to-dir",
        "health_status",
        "resize",
        "top",
    ];
    event.action.as_deref().is_none_or(|action| !NEVER.iter().any(|never| action.starts_with(never)))
}
