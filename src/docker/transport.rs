//! HTTP to the Docker engine: GET alone, and no more bytes read than agreed.
//!
//! bollard runs over it as a custom transport, because its own gather an answer of any length. The bytes are
//! counted below HTTP, so heads, chunk sizes and trailers count too and nothing above can grow without bound.
//! Every request has a connection of its own; the tasks that drive them belong to the [`Transport`] and are
//! joined by [`Transport::close`].

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::endpoint::{Endpoint, Stream};

/// Most bytes of an answer that is read whole. 10,000 containers with a handful of ports and labels fit.
pub(super) const MAX_ANSWER: u64 = 16 * 1024 * 1024;
/// Most bytes of the event stream between two events; Docker's are under 2 KiB.
const MAX_EVENT: u64 = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error("cannot open")]
    CannotOpen(#[source] io::Error),
    #[error("only GET is sent to Docker, not {0}")]
    NotGet(Method),
    // Not transparent: who asks for the source shall find hyper's error, not the one below it.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("answers {status}: {message}")]
    Status { status: u16, message: String },
    #[error("the answer is too long")]
    TooLong,
}

/// Requests to one engine.
pub(super) struct Transport {
    endpoint: Endpoint,
    /// The address that answered first; a name may have several.
    peer: OnceLock<IpAddr>,
    /// Drives the connections. One for the event stream and one or two for lists, so it stays small.
    connections: Mutex<JoinSet<()>>,
    /// What the event stream may still send before its next event.
    event_allowance: Arc<AtomicU64>,
    /// Told when the head of the event stream's answer has come.
    pub(super) events_open: Notify,
}

impl Transport {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            peer: OnceLock::new(),
            connections: Mutex::default(),
            event_allowance: Arc::new(AtomicU64::new(MAX_EVENT)),
            events_open: Notify::new(),
        }
    }

    /// The address that answered; `None` on a unix socket.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        self.peer.get().copied()
    }

    /// An event has come: the next one may be as long again.
    pub(super) fn event_received(&self) {
        self.event_allowance.store(MAX_EVENT, Ordering::Relaxed);
    }

    /// Whether the event stream was cut off for its length.
    pub(super) fn event_is_too_long(&self) -> bool {
        self.event_allowance.load(Ordering::Relaxed) == 0
    }

    /// Opens the event stream's connection and sends its request, as of an API version (`/v1.41`): bollard knows
    /// the version but leaves it out of the path.
    pub(super) async fn send_for_events<B>(
        &self,
        mut request: Request<B>,
        version: &str,
    ) -> Result<Response<Incoming>, TransportError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        if !path.starts_with(version) {
            *request.uri_mut() = format!("{version}{path}").parse().unwrap_or_default();
        }
        let response = self.send(request, Arc::clone(&self.event_allowance)).await?;
        self.events_open.notify_one();
        Ok(response)
    }

    /// The whole answer to a GET of `path`.
    pub(super) async fn get(&self, path: &str, version: &str) -> Result<Vec<u8>, TransportError> {
        let uri: Uri = format!("{version}{path}").parse().unwrap_or_default();
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = uri;
        let allowance = Arc::new(AtomicU64::new(MAX_ANSWER));
        let response = self.send(request, allowance).await?;
        whole(response).await
    }

    async fn send<B>(
        &self,
        mut request: Request<B>,
        allowance: Arc<AtomicU64>,
    ) -> Result<Response<Incoming>, TransportError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if request.method() != Method::GET {
            return Err(TransportError::NotGet(request.method().clone()));
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse().unwrap_or_default();
        *request.uri_mut() = path;
        if let Ok(host) = HeaderValue::from_str(&self.endpoint.authority()) {
            request.headers_mut().insert(HOST, host);
        }
        let (inner, peer) = self.endpoint.connect().await.map_err(TransportError::CannotOpen)?;
        if let Some(peer) = peer {
            let _ = self.peer.set(peer);
        }
        self.over(inner, request, allowance).await
    }

    /// Sends a request over a connection of its own, of which no more than `allowance` is read.
    pub(super) async fn over<B>(
        &self,
        inner: Box<dyn Stream>,
        request: Request<B>,
        allowance: Arc<AtomicU64>,
    ) -> Result<Response<Incoming>, TransportError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = TokioIo::new(Limited { inner, allowance });
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            while connections.try_join_next().is_some() {}
            // Its error reaches whoever waits for the answer.
            connections.spawn(async move { drop(connection.await) });
        }
        Ok(sender.send_request(request).await?)
    }

    /// Ends every connection and waits until they are gone.
    pub(super) async fn close(&self) {
        let mut connections = std::mem::take(&mut *self.connections.lock().unwrap_or_else(PoisonError::into_inner));
        connections.shutdown().await;
    }
}

/// The body of an answer, or what its status says.
pub(super) async fn whole(response: Response<Incoming>) -> Result<Vec<u8>, TransportError> {
    let status = response.status();
    let mut body = response.into_body();
    let mut answer = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            answer.extend_from_slice(data);
        }
        // The allowance ends it sooner; this says it where the reader looks for it.
        if answer.len() as u64 > MAX_ANSWER {
            return Err(TransportError::TooLong);
        }
    }
    if status.is_success() {
        Ok(answer)
    } else {
        Err(TransportError::Status { status: status.as_u16(), message: error_message(&answer) })
    }
}

/// The text of Docker's `{"message":"…"}`, or what was sent instead.
pub(super) fn error_message(answer: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        message: String,
    }
    match serde_json::from_slice::<Refusal>(answer) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned(),
    }
}

/// A stream that fails once more than `allowance` bytes were read from it.
struct Limited {
    inner: Box<dyn Stream>,
    allowance: Arc<AtomicU64>,
}

impl AsyncRead for Limited {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = self.allowance.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long")));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = (buf.filled().len() - before) as u64;
        self.allowance.store(left.saturating_sub(read), Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Limited {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
