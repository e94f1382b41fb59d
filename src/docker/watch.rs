//! Keeps the list of containers current: the event stream says when, a fresh list says what.
//!
//! The event stream is opened before the first list, so no change falls between the two. Events are not
//! interpreted: each that could matter leads to a new list, so a lost or unknown one does no harm. When the
//! engine is lost, the last known containers stay (they mostly run on through a restart of the engine), and the
//! state says that they are not current.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as ApiError;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use bollard::{API_DEFAULT_VERSION, BollardRequest, ClientVersion, Docker};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::decode::{self, MAX_CONTAINERS};
use super::endpoint::{Endpoint, EndpointError};
use super::transport::{Transport, TransportError};
use crate::model::container::{Container, DockerState};
use crate::model::untrusted::SafeText;

/// Lists up to this size are decoded in place; longer ones would hold a worker of the data path up.
const DECODE_IN_PLACE: usize = 32 * 1024;

/// What is known of Docker now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerView {
    /// The engine.
    pub state: DockerState,
    /// Its containers, running ones first, then by name. While the engine is out of reach: as last seen.
    pub containers: Arc<Vec<Container>>,
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

/// Why the engine counts as lost.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("events")]
    Events(#[from] ApiError),
    #[error("the event stream ended")]
    Ended,
    #[error("no answer")]
    Stalled,
    #[error("not what Docker would say")]
    Nonsense(#[from] serde_json::Error),
}

struct Watcher {
    endpoint: Endpoint,
    timing: Timing,
    view: watch::Sender<DockerView>,
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
        while !cancel.is_cancelled() {
            let transport = Arc::new(Transport::new(self.endpoint.clone()));
            let began = Instant::now();
            let lost = tokio::select! {
                lost = self.session(&transport) => Some(lost),
                () = cancel.cancelled() => None,
            };
            transport.close().await;
            let Some(lost) = lost else { return };
            // An engine that is found and lost again in a moment is not found: the pause goes on growing.
            if self.is_connected() && began.elapsed() >= self.timing.last_retry {
                pause = self.timing.first_retry;
            }
            self.tell_unavailable(&lost);
            tokio::select! {
                () = sleep(pause) => {}
                () = cancel.cancelled() => return,
            }
            pause = (pause * 2).min(self.timing.last_retry);
        }
    }

    /// From the first request until the engine is lost.
    async fn session(&self, transport: &Arc<Transport>) -> Lost {
        match self.follow(transport).await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn follow(&self, transport: &Arc<Transport>) -> Result<std::convert::Infallible, Lost> {
        let version = self.in_time(api_version(transport)).await?;
        let prefix = format!("/v{}.{}", version.major_version, version.minor_version);
        let docker = client(transport, self.timing.answer, &version, prefix.clone())?;
        let types = HashMap::from([("type", vec!["container", "network"])]);
        let mut events = pin!(docker.events(Some(EventsOptionsBuilder::new().filters(&types).build())));
        tokio::select! {
            () = transport.events_open.notified() => {}
            event = events.next() => drop(event.ok_or(Lost::Ended)??),
            () = sleep(self.timing.answer) => return Err(Lost::Stalled),
        }

        let mut is_due = true;
        let mut not_before = Instant::now();
        let mut settling = Settling::from(not_before);
        let mut listing = pin!(None);
        loop {
            tokio::select! {
                event = events.next() => {
                    let event = match event.ok_or(Lost::Ended)? {
                        Ok(event) => event,
                        Err(_) if transport.event_is_too_long() => return Err(TransportError::TooLong.into()),
                        Err(error) => return Err(error.into()),
                    };
                    transport.event_received();
                    if may_move_a_container(&event) {
                        is_due = true;
                        settling = Settling::from(Instant::now());
                    }
                }
                () = sleep_until(not_before), if is_due && listing.is_none() => {
                    is_due = false;
                    listing.set(Some(self.in_time(list(transport, &prefix))));
                }
                listed = async { listing.as_mut().as_pin_mut().expect("guarded by is_some").await },
                    if listing.is_some() =>
                {
                    listing.set(None);
                    self.tell_containers(listed?);
                    not_before = Instant::now() + self.timing.between_lists;
                }
                () = settling.next(&self.timing.settle) => is_due = true,
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

    fn tell_containers(&self, containers: Vec<Container>) {
        self.view.send_if_modified(|view| {
            let is_news = view.state != DockerState::Connected || *view.containers != containers;
            if is_news {
                *view = DockerView { state: DockerState::Connected, containers: Arc::new(containers) };
            }
            is_news
        });
    }

    fn tell_unavailable(&self, lost: &Lost) {
        let reason = SafeText::new(&reason(&self.endpoint, lost, self.timing.answer));
        let state = DockerState::Unavailable { reason };
        self.view.send_if_modified(|view| {
            let is_news = view.state != state;
            view.state = state;
            is_news
        });
    }
}

/// The API version to speak: the engine's newest, or the newest that bollard knows. Asked without a version,
/// since an engine refuses one that it does not have, at either end.
async fn api_version(transport: &Transport) -> Result<ClientVersion, Lost> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Version {
        api_version: String,
    }
    let answer = transport.get("/version", "").await?;
    let Version { api_version } = serde_json::from_slice(&answer)?;
    let engine = api_version.split_once('.').and_then(|(major, minor)| {
        Some(ClientVersion { major_version: major.parse().ok()?, minor_version: minor.parse().ok()? })
    });
    let engine =
        engine.ok_or_else(|| serde::de::Error::custom(format!("API version \"{}\"", SafeText::quoted(&api_version))));
    let engine: ClientVersion = engine.map_err(Lost::Nonsense)?;
    Ok(if &engine < API_DEFAULT_VERSION { engine } else { *API_DEFAULT_VERSION })
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

async fn list(transport: &Transport, prefix: &str) -> Result<Vec<Container>, Lost> {
    let answer = transport.get("/containers/json?all=1", prefix).await?;
    let decoded = if answer.len() <= DECODE_IN_PLACE {
        decode::containers(&answer)
    } else {
        match tokio::task::spawn_blocking(move || decode::containers(&answer)).await {
            Ok(decoded) => decoded,
            Err(panicked) => return Err(serde_json::Error::io(io::Error::other(panicked)).into()),
        }
    };
    let (containers, left_out) = decoded?;
    if left_out > 0 {
        tracing::warn!("Docker lists {left_out} containers more than the {MAX_CONTAINERS} that are kept");
    }
    Ok(containers)
}

/// Whether an event can change where a container is. Health checks alone make three others of every run.
fn may_move_a_container(event: &EventMessage) -> bool {
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

/// Why the engine cannot be reached, for people.
fn reason(endpoint: &Endpoint, lost: &Lost, patience: Duration) -> String {
    let unlike_docker = |error: &(dyn Error + 'static)| {
        let chain = chain(error);
        if chain.iter().any(|error| is_end(*error)) {
            return format!("{endpoint} has closed the connection");
        }
        let innermost = chain.last().map(ToString::to_string).unwrap_or_default();
        format!("{endpoint} does not answer as Docker does: {}", SafeText::quoted(&innermost))
    };
    match lost {
        Lost::Transport(TransportError::CannotOpen(error)) => cannot_open(endpoint, error),
        // An error number can come only from opening the connection: all later ones are wrapped.
        Lost::Events(ApiError::IOError { err }) if err.raw_os_error().is_some() => cannot_open(endpoint, err),
        // bollard keeps only the words of what ends the stream; whatever they are, it has ended.
        Lost::Events(ApiError::IOError { err }) if !is_of_the_transport(err) => {
            format!("{endpoint} has closed the connection")
        }
        Lost::Stalled => format!("{endpoint} has not answered for {} s", patience.as_secs_f32()),
        Lost::Ended => format!("{endpoint} has closed the connection"),
        Lost::Transport(TransportError::Status { status, message }) => {
            format!("{endpoint} answers {status}: {}", SafeText::quoted(message))
        }
        Lost::Events(ApiError::DockerResponseServerError { status_code, message }) => {
            format!("{endpoint} answers {status_code}: {}", SafeText::quoted(message))
        }
        Lost::Transport(error) => unlike_docker(error),
        Lost::Events(error) => unlike_docker(error),
        Lost::Nonsense(error) => unlike_docker(error),
    }
}

fn is_of_the_transport(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<TransportError>()).is_some()
}

fn cannot_open(endpoint: &Endpoint, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!("cannot open {endpoint}: not running"),
        io::ErrorKind::PermissionDenied => format!("cannot open {endpoint}: permission denied"),
        _ => format!("cannot open {endpoint}: {error}"),
    }
}

/// An error that was wrapped again and again, layer by layer, what happened last.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut chain = vec![error];
    let mut next = Some(error);
    while let Some(error) = next {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
        chain.extend(next);
    }
    chain
}

/// Whether the other side simply went away, as an engine does that is restarted.
fn is_end(error: &(dyn Error + 'static)) -> bool {
    let by_http = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message);
    let by_socket = error.downcast_ref::<io::Error>().map(io::Error::kind);
    by_http
        || matches!(
            by_socket,
            Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        )
}
