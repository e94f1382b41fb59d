//! Takes clients in, within bounds, so that none of them can keep another from being heard.
//!
//! A client is let in if it is the engine's own user or root, whatever the file's permissions have become. It has 10 s
//! to send a whole request of at most 1 MiB, and as long to take an answer. Of 64 places, one that is needed is taken
//! from whoever has kept us waiting longest, never from a client whose question is being answered: so clients that
//! stall or send garbage make way at once for one that asks.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use nix::unistd::Uid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::place::Door;
use super::refused::Refused;
use super::routes;
use super::stream::GoesOn;
use crate::model::engine::EngineName;
use crate::service::Handle;

/// Clients at once.
pub const CLIENTS: usize = 64;
/// Longest message of a client.
const MESSAGE: usize = 1 << 20;
/// Longest head of a request: its lines and headers.
const HEAD: usize = 64 << 10;
/// How long a client may take to send a request, or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether somebody has taken too long.
const SWEEP: Duration = Duration::from_secs(1);
/// Pause after an error of the listening socket, such as no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves clients until `stop` is cancelled: then the door closes, and those who are being answered, streams included,
/// get what is left to say. `names` says what the engine is called, which changes when it opens another profile: then
/// the door moves. `clients` may be connected at once, [`CLIENTS`] at most.
pub async fn serve(
    mut door: Door,
    handle: Handle,
    mut names: watch::Receiver<EngineName>,
    clients: usize,
    stop: CancellationToken,
) {
    let listener = match door.listener().try_clone().and_then(UnixListener::from_std) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the control socket cannot be served"),
    };
    let mut room = Room::new(clients.min(CLIENTS), routes::router(handle), stop.clone());
    // Not a sleep in each turn: while clients keep coming, that would never be over.
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fails = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    fails = false;
                    room.take_in(stream);
                }
                Err(error) => {
                    // Once for as long as it lasts, and not ten times a second.
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(%error, "the control socket takes no client in");
                    }
                    sleep(PAUSE).await;
                }
            },
            Some(ended) = room.connections.join_next_with_id(), if !room.connections.is_empty() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(error) => {
                        if error.is_panic() {
                            tracing::error!(%error, "a client of the control socket has met a defect");
                        }
                        error.id()
                    }
                };
                room.seats.retain(|seat| seat.id != id);
            }
            _ = sweep.tick(), if !room.seats.is_empty() => room.sweep(),
            Ok(()) = names.changed() => {
                let name = names.borrow_and_update().clone();
                if let Err(error) = door.move_to(&name) {
                    tracing::warn!(%error, "the control socket keeps its old name");
                }
            }
        }
    }
    drop((listener, door));
    while room.connections.join_next().await.is_some() {}
}

/// The clients, and where they sit.
struct Room {
    router: TowerToHyperService<Router>,
    places: usize,
    seats: Vec<Seat>,
    connections: JoinSet<()>,
    stop: CancellationToken,
    start: Instant,
}

/// One client.
struct Seat {
    id: Id,
    abort: AbortHandle,
    wait: Arc<Wait>,
}

/// Since when a client has kept us waiting, in milliseconds since the start; [`Wait::NOT`] while it waits for us.
#[derive(Debug)]
struct Wait {
    since: AtomicU64,
    start: Instant,
}

impl Wait {
    const NOT: u64 = u64::MAX;

    fn begin(&self) {
        self.since.store(millis(self.start.elapsed()), Relaxed);
    }

    fn end(&self) {
        self.since.store(Self::NOT, Relaxed);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX - 1)
}

impl Room {
    fn new(places: usize, router: Router, stop: CancellationToken) -> Self {
        Self {
            router: TowerToHyperService::new(router),
            places,
            seats: Vec::new(),
            connections: JoinSet::new(),
            stop,
            start: Instant::now(),
        }
    }

    fn take_in(&mut self, stream: UnixStream) {
        let who = stream.peer_cred().map(|peer| peer.uid());
        if !who.as_ref().is_ok_and(|uid| is_welcome(*uid)) {
            tracing::warn!(?who, "a client of another user was refused");
            return;
        }
        if self.seats.len() >= self.places && !self.make_room() {
            // Nobody can be sent away. The answer fits the socket's buffer; a client that cannot take it gets the end.
            let _ = stream.try_write(FULL);
            return;
        }
        let wait = Arc::new(Wait { since: AtomicU64::new(0), start: self.start });
        wait.begin();
        let connection = connection(stream, self.router.clone(), Arc::clone(&wait), self.stop.clone());
        let abort = self.connections.spawn(connection);
        self.seats.push(Seat { id: abort.id(), abort, wait });
    }

    /// Sends away whoever has kept us waiting longest; false if nobody has.
    fn make_room(&mut self) -> bool {
        let since = |seat: &Seat| seat.wait.since.load(Relaxed);
        let longest = self.seats.iter().enumerate().min_by_key(|(_, seat)| since(seat));
        match longest {
            Some((at, seat)) if since(seat) != Wait::NOT => {
                self.seats.swap_remove(at).abort.abort();
                true
            }
            _ => false,
        }
    }

    /// Sends away who has kept us waiting too long.
    fn sweep(&mut self) {
        let now = millis(self.start.elapsed());
        let patience = millis(PATIENCE);
        self.seats.retain(|seat| {
            let since = seat.wait.since.load(Relaxed);
            let is_late = since != Wait::NOT && now.saturating_sub(since) > patience;
            if is_late {
                seat.abort.abort();
            }
            !is_late
        });
    }
}

/// What a client gets when each place is taken by one that is being answered.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 80\r\n\
connection: close\r\n\r\n{\"error\":\"failed\",\"message\":\"64 clients are connected, as many as there may be\"}";

/// Root may do everything anyway.
fn is_welcome(uid: u32) -> bool {
    uid == Uid::effective().as_raw() || uid == 0
}

/// One client's requests, one after the other.
async fn connection(stream: UnixStream, router: TowerToHyperService<Router>, wait: Arc<Wait>, stop: CancellationToken) {
    let answer = service_fn(move |request| answer(request, router.clone(), Arc::clone(&wait)));
    let mut served = pin!(http1::Builder::new().max_buf_size(HEAD).serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            // At once where nothing is asked, else after the answer.
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    // What goes wrong with it concerns this client alone, which has met it, too.
    if let Err(error) = ended {
        tracing::debug!(%error, "a client of the control socket");
    }
}

async fn answer(
    request: Request<Incoming>,
    router: TowerToHyperService<Router>,
    wait: Arc<Wait>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = match timeout(PATIENCE, Limited::new(body, MESSAGE).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            let (status, text) = if error.is::<LengthLimitError>() {
                (StatusCode::PAYLOAD_TOO_LARGE, "a message may have 1 MiB")
            } else {
                (StatusCode::BAD_REQUEST, "the message has ended before its end")
            };
            return Ok(Refused::with(status, text).into_response());
        }
        Err(_) => {
            return Ok(Refused::with(StatusCode::REQUEST_TIMEOUT, "a request is sent within 10 s").into_response());
        }
    };
    wait.end();
    let response = router.call(Request::from_parts(head, Body::from(body))).await?;
    Ok(if response.extensions().get::<GoesOn>().is_some() {
        response
    } else {
        // From now on it is the client who has to take it, and to ask again.
        wait.begin();
        response
    })
}
