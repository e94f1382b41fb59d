//! Takes clients in, within bounds, so that none of them can keep another from being heard.
//!
//! A client is let in if it is the engine's own user or root, whatever the file's permissions have become. It has 10 s
//! to send a whole request of at most 1 MiB, and as long to take an answer. There are 64 places; who has one, and who
//! makes way for whom, is said by [`super::seats`].

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response, StatusCode};
use axum::response::IntoResponse;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use nix::unistd::Uid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::lists::{IsList, Lists};
use super::place::Door;
use super::refused::Refused;
use super::routes;
use super::seats::{PATIENCE, Room, Seats};
use super::stage::{Following, Progress, Stage, Watched};
use super::stream::GoesOn;
use crate::model::engine::EngineName;
use crate::service::Handle;

/// Clients at once.
pub const CLIENTS: usize = 64;
/// Longest message of a client.
const MESSAGE: usize = 1 << 20;
/// Longest head of a request: its lines and headers.
const HEAD: usize = 64 << 10;
/// How often it is looked whether somebody has taken too long.
const SWEEP: Duration = Duration::from_millis(500);
/// Time between two clients, in the long run, and how many come in at once: whoever comes back as often as it can takes
/// but a part of the processor.
const SPACING: Duration = Duration::from_micros(250);
const AT_ONCE: u32 = 64;
/// How long somebody may stand at the door while everybody inside is being answered.
const DOORSTEP: Duration = Duration::from_millis(50);
/// Pause after an error of the listening socket, such as no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);
/// Time between two records of the log about clients of other users.
const STRANGERS: Duration = Duration::from_mins(1);

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
    let mut hall = Hall::new(clients.min(CLIENTS), handle, stop.clone());
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fails = false;
    loop {
        let opens = hall.opens();
        let is_open = opens <= Instant::now();
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept(), if is_open => match accepted {
                Ok((stream, _)) => {
                    fails = false;
                    hall.receive(stream);
                    // Whoever has come in is heard before the next one.
                    yield_now().await;
                }
                Err(error) => {
                    // Once for as long as it lasts, and not ten times a second.
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(%error, "the control socket takes no client in");
                    }
                    sleep(PAUSE).await;
                }
            },
            () = sleep_until(opens), if !is_open => {}
            Some(ended) = hall.connections.join_next_with_id(), if !hall.connections.is_empty() => hall.part(ended),
            _ = sweep.tick(), if !hall.connections.is_empty() => hall.seats.sweep(hall.lists.are_wanted()),
            Ok(()) = names.changed() => {
                let name = names.borrow_and_update().clone();
                if let Err(error) = door.move_to(&name) {
                    tracing::warn!(%error, "the control socket keeps its old name");
                }
            }
        }
    }
    drop((listener, door));
    while hall.connections.join_next().await.is_some() {}
}

/// Everybody who is in.
struct Hall {
    answers: Answers,
    lists: Lists,
    seats: Seats,
    connections: JoinSet<()>,
    stop: CancellationToken,
    strangers: Strangers,
    /// When the next one may come, as far as it depends on how many have come.
    next: Instant,
    /// Since when everybody inside has been waiting for us.
    full_since: Option<Instant>,
}

impl Hall {
    fn new(places: usize, handle: Handle, stop: CancellationToken) -> Self {
        let (seats, lists) = (Seats::new(places), Lists::new());
        let router = TowerToHyperService::new(routes::router(handle, seats.streams()));
        Self {
            answers: Answers { router, lists: lists.clone(), is_crowded: Arc::default() },
            lists,
            seats,
            connections: JoinSet::new(),
            stop,
            strangers: Strangers::default(),
            next: Instant::now(),
            full_since: None,
        }
    }

    /// When the next one can come in.
    fn opens(&mut self) -> Instant {
        self.answers.is_crowded.store(self.seats.are_full(), Relaxed);
        let room = self.seats.room();
        if room != Room::Soon {
            self.full_since = None;
        }
        match room {
            Room::Now => self.next,
            Room::From(time) => self.next.max(time),
            Room::Soon => self.next.max(*self.full_since.get_or_insert_with(Instant::now) + DOORSTEP),
        }
    }

    fn receive(&mut self, stream: UnixStream) {
        let who = stream.peer_cred().map(|peer| peer.uid());
        if !who.as_ref().is_ok_and(|uid| is_welcome(*uid)) {
            return self.strangers.came(&who);
        }
        let now = Instant::now();
        self.next = self.next.max(now.checked_sub(AT_ONCE * SPACING).unwrap_or(now)) + SPACING;
        if self.seats.room() == Room::Soon {
            // The answer fits the socket's buffer; a client that cannot take it gets the end.
            let _ = stream.try_write(&full(self.seats.places()));
            return;
        }
        let (stream, progress) = (Arc::new(stream), Progress::new());
        let watched = Watched { stream: Arc::clone(&stream), progress: progress.clone() };
        let abort = self.connections.spawn(connection(watched, self.answers.clone(), self.stop.clone()));
        self.seats.take(abort, stream, progress);
    }

    fn part(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a client of the control socket has met a defect");
                }
                error.id()
            }
        };
        self.seats.leave(id);
    }
}

/// What a client gets when each place is taken by one that waits for its answer.
fn full(places: usize) -> Vec<u8> {
    let text = format!(r#"{{"error":"failed","message":"{places} clients are connected, as many as there may be"}}"#);
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close";
    format!("{head}\r\ncontent-length: {}\r\n\r\n{text}", text.len()).into_bytes()
}

/// Root may do everything anyway.
fn is_welcome(uid: u32) -> bool {
    uid == Uid::effective().as_raw() || uid == 0
}

/// Those who were not let in, of whom not each is worth a record of the log.
#[derive(Debug, Default)]
struct Strangers {
    said: Option<Instant>,
    since: u64,
}

impl Strangers {
    fn came(&mut self, who: &io::Result<u32>) {
        self.since += 1;
        if self.said.is_none_or(|said| said.elapsed() > STRANGERS) {
            tracing::warn!(?who, count = self.since, "a client of another user was refused");
            (self.said, self.since) = (Some(Instant::now()), 0);
        }
    }
}

/// One client's requests, one after the other.
async fn connection(watched: Watched, answers: Answers, stop: CancellationToken) {
    let progress = watched.progress.clone();
    let answer = service_fn(move |request| answer(request, answers.clone(), progress.clone()));
    let mut served = pin!(http1::Builder::new().max_buf_size(HEAD).serve_connection(TokioIo::new(watched), answer));
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
    answers: Answers,
    progress: Progress,
) -> Result<Response<Body>, Infallible> {
    let mut response = match whole(request, progress.asks() + PATIENCE).await {
        Ok(request) => {
            progress.set(Stage::Waiting);
            // Many requests that have come at once are no reason to let others wait.
            yield_now().await;
            answers.to(request).await
        }
        Err(refused) => refused.into_response(),
    };
    if let Some(GoesOn(kept)) = response.extensions_mut().remove() {
        return Ok(response.map(|body| Body::new(Following::new(body, progress, kept))));
    }
    if answers.is_crowded.load(Relaxed) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let is_list = response.extensions().get::<IsList>().is_some();
    progress.set(Stage::Taking { since: Instant::now(), is_list });
    Ok(response)
}

/// Where whole requests are answered.
#[derive(Clone, Debug)]
struct Answers {
    router: TowerToHyperService<Router>,
    lists: Lists,
    /// Every place is taken: whoever is answered leaves, and comes back behind those who wait at the door.
    is_crowded: Arc<AtomicBool>,
}

impl Answers {
    /// What is answered to a request, a list when it is its turn.
    async fn to(&self, request: Request<Bytes>) -> Response<Body> {
        if !Lists::is_one(&request) {
            return self.route(request).await;
        }
        let Some(turn) = self.lists.turn().await else {
            let text = "too many clients ask for connections: ask again";
            return Refused::with(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        };
        let start = Instant::now();
        let response = self.route(request).await;
        if let Some(GoesOn(kept)) = response.extensions().get() {
            kept.hold(turn);
            return response;
        }
        self.lists.made(start.elapsed());
        turn.keep(response).await
    }

    async fn route(&self, request: Request<Bytes>) -> Response<Body> {
        self.router.call(request.map(Body::from)).await.unwrap_or_else(|never| match never {})
    }
}

/// The request with all of its body, if that comes in time and is not too long.
async fn whole(request: Request<Incoming>, until: Instant) -> Result<Request<Bytes>, Refused> {
    let too_long = || Refused::with(StatusCode::PAYLOAD_TOO_LARGE, "a message may have 1 MiB");
    let (head, body) = request.into_parts();
    // What is announced as too long need not be sent first.
    if body.size_hint().lower() > MESSAGE as u64 {
        return Err(too_long());
    }
    match timeout_at(until, Limited::new(body, MESSAGE).collect()).await {
        Ok(Ok(body)) => Ok(Request::from_parts(head, body.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(Refused::with(StatusCode::BAD_REQUEST, "the message has ended before its end")),
        Err(_) => Err(Refused::with(StatusCode::REQUEST_TIMEOUT, "a request is sent within 10 s")),
    }
}
