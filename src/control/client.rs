//! The other end of the socket: a [`Handle`] that behaves as the one in the engine's own process.
//!
//! Each request and each subscription is a connection of its own, so that a stream that is read slowly holds up no
//! answer. An engine that is lost ends its subscriptions, as an engine in the same process does; but a new
//! subscription finds it again when it is back, under its name or, while it lives, under the one that it has now.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::unistd::Uid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::place::sockets_beside;
use crate::model::request::{Call, Reply, RequestError};
use crate::model::untrusted::SafeText;
use crate::model::update::{Interest, Update};
use crate::service::{Handle, ServiceCall};

/// Longest message of an engine that is read. Ours are shorter by far.
const MESSAGE: usize = 64 << 20;
/// How long an engine may take to take a request in.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(5);
/// How long an engine may take to answer; the longest of its questions, to a target that is silent, takes less.
const ANSWER: Duration = Duration::from_secs(30);
/// How long it may take to begin with updates.
const BEGINNING: Duration = Duration::from_secs(10);
/// An engine that says nothing for so long, so many times, does not run (it says something each
/// [`SIGN_OF_LIFE`](super::stream::SIGN_OF_LIFE)).
const SILENCE: Duration = Duration::from_millis(1_500);
const SILENCES: u32 = 2;

/// An engine in another process.
#[derive(Debug)]
pub struct Attached {
    engine: Arc<Engine>,
    handle: Handle,
    incoming: crate::service::Incoming,
}

/// Where the engine is.
#[derive(Debug)]
struct Engine {
    /// Its socket when it was found.
    path: PathBuf,
    /// Its process, as the kernel told at the last connection.
    pid: Mutex<Option<i32>>,
}

/// Connects to the engine that listens at `path`.
///
/// # Errors
/// Nobody listens there, or not somebody of this user.
pub async fn attach(path: PathBuf) -> io::Result<Attached> {
    let engine = Engine { path, pid: Mutex::new(None) };
    engine.connect().await?;
    let (handle, incoming) = Handle::channel();
    Ok(Attached { engine: Arc::new(engine), handle, incoming })
}

impl Attached {
    /// For clients.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Its socket when it was found.
    pub fn path(&self) -> &Path {
        &self.engine.path
    }

    /// The process of the engine.
    pub fn pid(&self) -> Option<i32> {
        self.engine.last_pid()
    }

    /// Carries what the handle is asked, until every handle is dropped.
    pub async fn run(self) {
        let Self { engine, handle, mut incoming } = self;
        drop(handle);
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                call = incoming.recv() => match call {
                    Some(ServiceCall::Request { call, reply }) => {
                        let engine = Arc::clone(&engine);
                        under_way.spawn(async move {
                            // A client that no longer waits makes this fail.
                            let _ = reply.send(engine.call(&call).await);
                        });
                    }
                    Some(ServiceCall::Subscribe { interest, updates, begun }) => {
                        let engine = Arc::clone(&engine);
                        under_way.spawn(async move {
                            if let Err(error) = engine.updates(&interest, updates, begun).await {
                                tracing::debug!(%error, "the updates of the engine have ended");
                            }
                        });
                    }
                    None => return,
                },
                Some(_) = under_way.join_next() => {}
            }
        }
    }
}

impl Engine {
    fn last_pid(&self) -> Option<i32> {
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects: to the same process while it lives, whatever it calls itself by now; else to whoever has come after
    /// it under its name.
    async fn connect(&self) -> io::Result<UnixStream> {
        let by_name = open(&self.path).await;
        if let Some(known) = self.last_pid()
            && !by_name.as_ref().is_ok_and(|(_, pid)| *pid == known)
        {
            for path in sockets_beside(&self.path) {
                if let Ok((stream, pid)) = open(&path).await
                    && pid == known
                {
                    return Ok(stream);
                }
            }
        }
        let (stream, pid) = by_name?;
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
        Ok(stream)
    }

    async fn call(&self, call: &Call) -> Result<Reply, RequestError> {
        self.ask(call).await.unwrap_or_else(|error| Err(self.says(&error)))
    }

    async fn ask(&self, call: &Call) -> io::Result<Result<Reply, RequestError>> {
        let answer = self.post("/v1/call", call, ANSWER).await?;
        let status = answer.status;
        let body = answer.whole().await?;
        Ok(if status.is_success() { Ok(parse(&body)?) } else { Err(parse(&body)?) })
    }

    /// Passes updates on until somebody leaves, when it has been `begun`.
    async fn updates(
        &self,
        interest: &Interest,
        updates: mpsc::Sender<Update>,
        begun: oneshot::Sender<Result<(), RequestError>>,
    ) -> io::Result<()> {
        let passing = async {
            let mut lines = match self.subscribe(interest).await {
                Ok(lines) => lines,
                Err(error) => {
                    let text = error.to_string();
                    // Whoever does not wait for it any more need not know.
                    let _ = begun.send(Err(error));
                    return Err(io::Error::other(text));
                }
            };
            // What is not understood is said at once, and not taken for an engine that was lost.
            let first = lines.next().await;
            let is_begun = first.as_ref().map(|_| ()).map_err(|error| self.says(error));
            let _ = begun.send(is_begun);
            let mut update = first?;
            while let Some(whole) = update {
                if updates.send(whole).await.is_err() {
                    return Ok(());
                }
                update = lines.next().await?;
            }
            Ok(())
        };
        tokio::select! {
            passed = passing => passed,
            () = updates.closed() => Ok(()),
        }
    }

    async fn subscribe(&self, interest: &Interest) -> Result<Lines, RequestError> {
        let answer = self.post("/v1/updates", interest, BEGINNING).await.map_err(|error| self.says(&error))?;
        if answer.status == StatusCode::OK {
            return Ok(Lines { answer, text: Vec::new() });
        }
        let status = answer.status;
        let refusal = answer.whole().await.and_then(|body| parse(&body));
        Err(refusal.unwrap_or_else(|_| RequestError::Failed { message: SafeText::new(&status.to_string()) }))
    }

    /// What is said of an error to whoever asked.
    fn says(&self, error: &io::Error) -> RequestError {
        match error.kind() {
            io::ErrorKind::InvalidData => RequestError::Failed {
                message: SafeText::new(&format!("the engine's answer is not understood (another release?): {error}")),
            },
            io::ErrorKind::TimedOut => {
                let who = self.last_pid().map(|pid| format!(" (process {pid})")).unwrap_or_default();
                let text = format!("the engine{who} does not answer: is it stopped (SIGCONT lets it go on)?");
                RequestError::Silent { message: SafeText::new(&text) }
            }
            _ => {
                tracing::debug!(%error, "the engine does not answer");
                RequestError::Gone
            }
        }
    }

    async fn post(&self, path: &str, body: &impl Serialize, patience: Duration) -> io::Result<Answer> {
        let stream = self.connect().await?;
        let body = serde_json::to_vec(body).map_err(io::Error::other)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let request = Request::post(path)
            .header(HOST, "portolan")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(io::Error::other)?;
        let mut driver = JoinSet::new();
        driver.spawn(async {
            // Its end is met by whoever reads the body.
            let _ = connection.await;
        });
        let response = timeout(patience, sender.send_request(request)).await?.map_err(io::Error::other)?;
        let (head, body) = response.into_parts();
        Ok(Answer { status: head.status, body, _driver: driver })
    }
}

/// What comes back, and the task that carries it.
struct Answer {
    status: StatusCode,
    body: Incoming,
    _driver: JoinSet<()>,
}

impl Answer {
    /// All of it.
    async fn whole(mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while timeout(ANSWER, self.read(&mut body)).await?? > 0 {}
        Ok(body)
    }

    /// Appends what comes next to `text`, and says how much that was; nothing at the end.
    async fn read(&mut self, text: &mut Vec<u8>) -> io::Result<usize> {
        while let Some(frame) = self.body.frame().await {
            let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
            if data.is_empty() {
                continue;
            }
            if text.len() + data.len() > MESSAGE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message without an end"));
            }
            text.extend_from_slice(&data);
            return Ok(data.len());
        }
        Ok(0)
    }
}

/// Updates as they come.
struct Lines {
    answer: Answer,
    /// What has come and is not taken.
    text: Vec<u8>,
}

impl Lines {
    /// The next update, whole; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Update>> {
        let mut update: Option<Update> = None;
        while let Some(line) = self.line().await? {
            let piece: Update = parse(&line)?;
            let whole = match update.take() {
                Some(mut begun) => {
                    begun.join(piece);
                    begun
                }
                None => piece,
            };
            if !whole.has_more {
                return Ok(Some(whole));
            }
            update = Some(whole);
        }
        Ok(None)
    }

    /// The next line that has something in it; `None` at the end.
    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.text[seen..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.text.drain(..=seen + end).collect();
                line.pop();
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                seen = 0;
                continue;
            }
            seen = self.text.len();
            if self.more().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads on. Nothing for so long means that the engine is stopped, or worse, unless it was this process that was
    /// stopped: then there is something now.
    async fn more(&mut self) -> io::Result<usize> {
        for _ in 0..SILENCES {
            if let Ok(more) = timeout(SILENCE, self.answer.read(&mut self.text)).await {
                return more;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// Connects to a socket of this user's or root's, for root to anybody's; with the process that listens there.
async fn open(path: &Path) -> io::Result<(UnixStream, i32)> {
    let start = Instant::now();
    let stream = loop {
        match UnixStream::connect(path).await {
            // Its queue is full for the moment.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && start.elapsed() < PATIENCE => sleep(RETRY).await,
            connected => break connected?,
        }
    };
    let peer = stream.peer_cred()?;
    let own = Uid::effective();
    if !own.is_root() && peer.uid() != own.as_raw() && peer.uid() != 0 {
        let text = format!("user {} listens there", peer.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok((stream, peer.pid().unwrap_or(-1)))
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> io::Result<T> {
    serde_json::from_slice(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
