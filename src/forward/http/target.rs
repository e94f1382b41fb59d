//! The connection to the target: one at a time, dialled anew for the next request where the target has closed it between
//! two.
//!
//! A request that was never sent is sent on the new connection. One that was sent and not answered with a single byte,
//! on a connection that had been asked nothing for half a second, is sent again if doing so twice does no harm (RFC
//! 9110, 9.2.2) and it has no body: most likely the target was just closing. Any other has failed. Requests of HTTP/2
//! that need a new connection at the same time share one, and share its failure. What a target says of a stream that it
//! resets is said to the client, and a request that it has not looked at (GOAWAY) is one that the client may send again.

use std::error::Error as _;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::Reason;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Method, Request, Response, Version};
use tokio::time::{Instant, sleep};

use super::body::Asking;
use super::channel::{Channel, Spoken, Wire};
use super::common::Common;
use super::retired::{Beside, Retired};
use super::tasks::Tasks;
use super::{MAX_BUFFER, MAX_FIELDS_LIST, STREAM_BUFFER, WINDOW};
use crate::forward::meter::Direction;
use crate::forward::own::OwnSource;
use crate::forward::relay::{self, Leg, Outcome};
use crate::model::event::{CloseReason, Side};
use crate::wire::http::{Asked, Refusal};

/// A connection that was asked nothing for so long may be about to be closed by the target.
const IDLE: Duration = Duration::from_millis(500);
/// How long a connection that is used no more may take to end before there is none beside it.
const ENDING: Duration = Duration::from_millis(100);
/// Connections tried for one request.
const ATTEMPTS: u32 = 3;

/// A new connection to the target.
#[derive(Debug)]
pub(crate) struct Redialled {
    pub(crate) leg: Leg,
    pub(crate) source: SocketAddr,
    pub(crate) target: SocketAddr,
    pub(crate) own: Option<OwnSource>,
}

/// Reaches the target once more, as the first time.
pub(crate) type Redial = dyn Fn() -> Pin<Box<dyn Future<Output = Result<Redialled, Outcome>> + Send>> + Send + Sync;

/// Why there is no response.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// The target was not reached.
    NotReached(Outcome),
    /// It has sent something else than a response.
    Malformed(Refusal),
    /// It has ended the connection instead, or the request has broken off.
    Broken,
    /// It has reset the stream instead, for that reason (HTTP/2).
    Reset(Reason),
}

/// Where requests go.
pub(super) struct Target {
    common: Arc<Common>,
    spoken: Spoken,
    tasks: Tasks,
    redial: Box<Redial>,
    beside: Box<Beside>,
    /// Held by the one request that dials, while others (of HTTP/2) wait for what it meets.
    dialling: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// The connection, if there is one.
#[derive(Default)]
struct State {
    standing: Option<Standing>,
    retired: Retired,
    /// Who drives it, always the same.
    driver: Option<Waker>,
    /// After another protocol was agreed on: what the library has read of it.
    read_ahead: Option<Vec<u8>>,
    /// Dials that have failed, and how the last one did.
    failures: u64,
    failure: Option<Trouble>,
}

struct Standing {
    connection: Option<Connection>,
    sender: Sender,
    channel: Arc<Channel>,
    own: Option<OwnSource>,
    /// When its last request was sent.
    last_used: Option<Instant>,
}

enum Connection {
    Http1(Box<http1::Connection<Wire, Asking>>),
    Http2(Box<http2::Connection<Wire, Asking, Tasks>>),
}

enum Sender {
    Http1(http1::SendRequest<Asking>),
    Http2(http2::SendRequest<Asking>),
}

impl Target {
    pub(super) fn new(
        common: &Arc<Common>,
        spoken: Spoken,
        tasks: &Tasks,
        redial: Box<Redial>,
        beside: Box<Beside>,
    ) -> Self {
        Self {
            common: Arc::clone(common),
            spoken,
            tasks: tasks.clone(),
            redial,
            beside,
            dialling: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Takes over a leg that stands.
    pub(super) async fn stand(&self, leg: Leg, own: Option<OwnSource>) -> Result<(), hyper::Error> {
        let channel = Channel::new(leg, Side::Target, self.spoken, Arc::clone(&self.common));
        let wire = Wire(Arc::clone(&channel));
        let (sender, connection) = match self.spoken {
            Spoken::Http1 => {
                let (sender, connection) = http1::Builder::new().max_buf_size(MAX_BUFFER).handshake(wire).await?;
                (Sender::Http1(sender), Connection::Http1(Box::new(connection)))
            }
            Spoken::Http2 => {
                let (sender, connection) = http2::Builder::new(self.tasks.clone())
                    .max_header_list_size(MAX_FIELDS_LIST)
                    .initial_connection_window_size(WINDOW)
                    .initial_stream_window_size(WINDOW)
                    .max_send_buf_size(STREAM_BUFFER)
                    .handshake(wire)
                    .await?;
                (Sender::Http2(sender), Connection::Http2(Box::new(connection)))
            }
        };
        let standing = Standing { connection: Some(connection), sender, channel, own, last_used: None };
        let mut state = self.state();
        state.standing = Some(standing);
        if let Some(driver) = &state.driver {
            driver.wake_by_ref();
        }
        Ok(())
    }

    /// Drives the connection, and lets go of one that has ended. What comes from the target wakes `leg`
    /// (of HTTP/2: the stream that reads), all else `cx`.
    pub(super) fn poll(&self, cx: &mut Context<'_>, leg: &Waker) {
        let mut state = self.state();
        state.driver.get_or_insert_with(|| cx.waker().clone());
        let Some(standing) = &mut state.standing else { return };
        let ended = match &mut standing.connection {
            Some(Connection::Http1(connection)) => {
                // Not that of HTTP/2, which runs among the streams.
                standing.channel.read_by(leg);
                connection.poll_without_shutdown(cx)
            }
            Some(Connection::Http2(connection)) => Pin::new(connection).poll(cx),
            None => return,
        };
        let Poll::Ready(result) = ended else { return };
        if self.common.in_flight.load(Relaxed) == 0 {
            // It has gone between two requests, however it did, and whatever it said.
            self.common.forget_target();
        }
        match standing.connection.take() {
            Some(Connection::Http1(connection)) if standing.channel.is_opaque() => {
                state.read_ahead = Some(connection.into_parts().read_buf.to_vec());
            }
            connection => {
                drop(connection);
                self.let_go(&mut state, result.is_ok());
            }
        }
    }

    /// Gives back what was counted for connections that have ended since they were used no more.
    pub(super) fn forget_ended(&self) {
        self.state().retired.prune();
    }

    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(&self, mut request: Request<Asking>, asked: Asked) -> Result<Response<Incoming>, Trouble> {
        for attempt in 1.. {
            self.ready().await?;
            // The lock is not held while it is waited for, nor is the channel, which may be parted from meanwhile.
            let (copy, sending) = {
                let mut state = self.state();
                let Some(standing) = &mut state.standing else { continue };
                let now = Instant::now();
                let is_idle = standing.last_used.replace(now).is_some_and(|before| now - before >= IDLE);
                let may_repeat = attempt < ATTEMPTS && is_idle && is_harmless(&request);
                let copy = may_repeat.then(|| Box::new(again(&request)));
                standing.channel.ask(asked);
                (copy, standing.sender.send(request))
            };
            let mut error = match sending.await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let has_heard = self.common.has_heard();
            let end = if self.spoken == Spoken::Http2 { stream_end(error.error()) } else { StreamEnd::Other };
            match (error.take_message(), copy) {
                (Some(unsent), _) if attempt < ATTEMPTS => request = unsent,
                (None, Some(copy)) if !has_heard || end == StreamEnd::Unseen => request = *copy,
                _ => {
                    return Err(match end {
                        StreamEnd::Reset(reason) => Trouble::Reset(reason),
                        StreamEnd::Unseen => Trouble::Reset(Reason::REFUSED_STREAM),
                        StreamEnd::Other => self.common.malformation().map_or(Trouble::Broken, Trouble::Malformed),
                    });
                }
            }
            self.common.forget_target();
            let mut state = self.state();
            if state.standing.as_ref().is_some_and(|standing| standing.sender.is_closed()) {
                self.let_go(&mut state, false);
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Waits until a request can be sent, on a new connection where there is none.
    async fn ready(&self) -> Result<(), Trouble> {
        if poll_fn(|cx| self.poll_ready(cx)).await {
            return Ok(());
        }
        // Seldom, so it has room of its own.
        Box::pin(self.ready_anew()).await
    }

    /// As [`Target::ready`], where there is no connection.
    async fn ready_anew(&self) -> Result<(), Trouble> {
        loop {
            if poll_fn(|cx| self.poll_ready(cx)).await {
                return Ok(());
            }
            let failures = self.state().failures;
            let _dialling = self.dialling.lock().await;
            {
                let state = self.state();
                if state.standing.is_some() {
                    continue;
                }
                // It would hardly fare better, and would keep those behind it waiting.
                if let Some(trouble) = state.failure.clone().filter(|_| state.failures != failures) {
                    return Err(trouble);
                }
            }
            let Err(trouble) = self.dial().await else { return Ok(()) };
            let mut state = self.state();
            state.failures += 1;
            state.failure = Some(trouble.clone());
            return Err(trouble);
        }
    }

    /// Whether the connection takes a request; false where there is none.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state();
        if state.standing.as_ref().is_some_and(|standing| standing.channel.failed_to_send().is_some()) {
            self.let_go(&mut state, false);
        }
        let Some(standing) = &mut state.standing else { return Poll::Ready(false) };
        standing.sender.poll_ready(cx).map(|ready| {
            if ready.is_err() {
                self.let_go(&mut state, false);
            }
            ready.is_ok()
        })
    }

    async fn dial(&self) -> Result<(), Trouble> {
        if !self.state().retired.count(&*self.beside) {
            // One that has just been told to end mostly does.
            sleep(ENDING).await;
            if !self.state().retired.count(&*self.beside) {
                return Err(Trouble::NotReached(CloseReason::Limit.into()));
            }
        }
        let Redialled { leg, source, target, own } = (self.redial)().await.map_err(Trouble::NotReached)?;
        self.common.record.redialled(source, target);
        self.stand(leg, own).await.map_err(|_| Trouble::Broken)
    }

    /// Parts from the connection: in order where it has ended so.
    fn let_go(&self, state: &mut State, is_in_order: bool) {
        let Some(Standing { connection, channel, own, sender, .. }) = state.standing.take() else { return };
        drop((connection, sender));
        match Arc::try_unwrap(channel) {
            Ok(channel) => {
                let (leg, _) = channel.into_parts();
                if is_in_order {
                    leg.finish();
                } else {
                    relay::reset_now(leg, Direction::In, &self.common.record);
                }
            }
            // Its streams may go on, or somebody may still look at it: it is dropped there, which resets it as well.
            Err(channel) => state.retired.add(&channel, own),
        }
    }

    /// Whether nothing is being asked or answered on it.
    pub(super) fn with_leg<R>(&self, look: impl FnOnce(&Channel) -> R) -> Option<R> {
        self.state().standing.as_ref().map(|standing| look(&standing.channel))
    }

    /// The leg, what is still to be sent to it, what was read of it beyond HTTP, and what else is to be held as long as it
    /// stands.
    pub(super) fn into_leg(self) -> Option<(Leg, [Vec<u8>; 2], Option<OwnSource>)> {
        let State { standing, read_ahead, .. } = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Standing { connection, sender, channel, own, .. } = standing?;
        drop((connection, sender));
        let unsent = channel.take_unsent();
        let (leg, rest) = Arc::into_inner(channel)?.into_parts();
        let mut ahead = read_ahead.unwrap_or_default();
        ahead.extend_from_slice(&rest);
        Some((leg, [unsent, ahead], own))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self {
            Self::Http1(sender) => sender.poll_ready(cx),
            Self::Http2(sender) => sender.poll_ready(cx),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    fn send(
        &mut self,
        request: Request<Asking>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Asking>>>> + Send + use<> {
        let sending = match self {
            Self::Http1(sender) => (Some(sender.try_send_request(request)), None),
            // In room of its own, which the other need not have.
            Self::Http2(sender) => (None, Some(Box::pin(sender.try_send_request(request)))),
        };
        async move {
            match sending {
                (Some(sending), _) => sending.await,
                (None, Some(sending)) => sending.await,
                (None, None) => unreachable!("one of them is there"),
            }
        }
    }
}

/// How a stream of HTTP/2 has ended without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamEnd {
    /// By the target, for that reason.
    Reset(Reason),
    /// With its connection, and the target has not looked at it.
    Unseen,
    /// Otherwise.
    Other,
}

fn stream_end(error: &hyper::Error) -> StreamEnd {
    match error.source().and_then(|source| source.downcast_ref::<h2::Error>()) {
        Some(cause) if cause.is_remote() && cause.is_reset() => {
            cause.reason().map_or(StreamEnd::Other, StreamEnd::Reset)
        }
        // Those that the target has looked at go on.
        Some(cause) if cause.is_remote() && cause.is_go_away() => StreamEnd::Unseen,
        // It was waiting for others to end before it.
        None if error.is_user() => StreamEnd::Unseen,
        _ => StreamEnd::Other,
    }
}

/// Whether it can be sent twice.
fn is_harmless(request: &Request<Asking>) -> bool {
    let is_safe =
        matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE);
    is_safe && request.body().is_end_stream()
}

/// The same request, which has no body.
fn again(request: &Request<Asking>) -> Request<Asking> {
    let mut copy = Request::new(Asking::none());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = if request.version() == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
    *copy.headers_mut() = request.headers().clone();
    copy
}
