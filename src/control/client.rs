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
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

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
                    Some(ServiceCall::Subscribe { interest, updates }) => {
                        let engine = Arc::clone(&engine);
                        under_way.spawn(async move {
                            if let Err(error) = engine.updates(&interest, updates).await {
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
        match self.ask(call).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(RequestError::Failed {
                message: SafeText::new(&format!("the engine's answer is not understood (another release?): {error}")),
            }),
            Err(error) => {
                tracing::debug!(%error, "the engine does not answer");
                Err(RequestError::Gone)
            }
        }
    }

    async fn ask(&self, call: &Call) -> io::Result<Result<Reply, RequestError>> {
        let mut answer = self.post("/v1/call", call).await?;
        let mut body = Vec::new();
        while answer.read(&mut body).await? > 0 {}
        Ok(if answer.status.is_success() { Ok(parse(&body)?) } else { Err(parse(&body)?) })
    }

    /// Passes updates on until somebody leaves.
    async fn updates(&self, interest: &Interest, updates: mpsc::Sender<Update>) -> io::Result<()> {
        let passing = async {
            let mut answer = self.post("/v1/updates", interest).await?;
            if answer.status != StatusCode::OK {
                return Err(io::Error::other(format!("refused: {}", answer.status)));
            }
            let mut text = Vec::new();
            loop {
                let new = answer.read(&mut text).await?;
                if new == 0 {
                    return Ok(());
                }
                // What was there before had no end of a line.
                let Some(end) = text[text.len() - new..].iter().rposition(|byte| *byte == b'\n') else { continue };
                let end = text.len() - new + end;
                for line in text[..end].split(|byte| *byte == b'\n') {
                    if updates.send(parse(line)?).await.is_err() {
                        return Ok(());
                    }
                }
                text.drain(..=end);
            }
        };
        tokio::select! {
            passed = passing => passed,
            () = updates.closed() => Ok(()),
        }
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> io::Result<Answer> {
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
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
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

/// Connects to a socket of this user's (or root's); with the process that listens there.
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
    if peer.uid() != Uid::effective().as_raw() && peer.uid() != 0 {
        let text =
            format!("user {} listens at {}", peer.uid(), SafeText::from_bytes(path.as_os_str().as_encoded_bytes()));
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok((stream, peer.pid().unwrap_or(-1)))
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> io::Result<T> {
    serde_json::from_slice(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
