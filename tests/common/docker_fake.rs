//! A Docker daemon that never was: it speaks as much of the API as is asked of one, changes on command, records
//! every request, and answers as badly as a test wants.
#![allow(dead_code)] // Each test file uses a part of it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan::docker::Endpoint;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, JoinSet};

/// How a request is answered.
#[derive(Clone, Debug, Default)]
pub(crate) enum Answer {
    /// As Docker does.
    #[default]
    Well,
    /// The connection ends in the middle of the body.
    EndInTheMiddle,
    /// The connection ends at once.
    EndAtOnce,
    /// Bytes that are no HTTP.
    Garbage,
    /// HTTP around bytes that are no JSON.
    NoJson,
    /// This body.
    Body(String),
    /// A body of so many bytes of white space, of declared length or in chunks.
    Long { bytes: u64, chunked: bool },
    /// A head that never ends.
    EndlessHead,
    /// A status with this message.
    Status(u16, String),
    /// Nothing, for ever.
    Stall,
}

#[derive(Default)]
struct State {
    containers: Vec<Value>,
    networks: Vec<Value>,
    facts: Value,
    inspected: Vec<Value>,
    info: Answer,
    network_list: Answer,
    inspect: Answer,
    requests: Vec<String>,
    api_version: String,
    version: Answer,
    list: Answer,
    events: Answer,
    open: usize,
}

/// The daemon. Dropping it ends it.
pub(crate) struct FakeDocker {
    endpoint: Endpoint,
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<String>,
    server: Option<JoinHandle<()>>,
    folder: Option<tempfile::TempDir>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A container as `/containers/json` tells of it; `address` is of the network `bridge`.
pub(crate) fn container(name: &str, state: &str, address: Option<&str>) -> Value {
    let id: String = name
        .bytes()
        .chain(*b"padding")
        .flat_map(|byte| [byte >> 4, byte & 15])
        .cycle()
        .take(64)
        .map(|digit| char::from_digit(digit.into(), 16).expect("a hex digit"))
        .collect();
    json!({
        "Id": id, "Names": [format!("/{name}")], "Image": "busybox", "State": state, "Labels": {}, "Ports": [],
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": address.unwrap_or(""), "GlobalIPv6Address": ""}}},
    })
}

/// The same on other networks: name, address, gateway (empty for none).
pub(crate) fn container_on(name: &str, networks: &[(&str, &str, &str)]) -> Value {
    let mut container = container(name, "running", None);
    let networks: serde_json::Map<String, Value> = networks
        .iter()
        .map(|(name, address, gateway)| ((*name).to_owned(), json!({"IPAddress": address, "Gateway": gateway})))
        .collect();
    container["NetworkSettings"]["Networks"] = Value::Object(networks);
    container
}

/// A network as `/networks` tells of it.
pub(crate) fn network(name: &str, driver: &str, gateway: &str, options: &Value) -> Value {
    json!({
        "Name": name, "Id": "", "Driver": driver, "Internal": false, "Options": options,
        "IPAM": {"Driver": "default", "Config": [{"Gateway": gateway}]},
    })
}

impl FakeDocker {
    /// On a unix socket.
    pub(crate) fn unix() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("docker.sock");
        let mut fake = Self::at(Endpoint::Unix(path), Some(folder));
        fake.start();
        fake
    }

    /// On loopback.
    pub(crate) async fn tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("local").port();
        let mut fake = Self::at(Endpoint::Tcp { host: "127.0.0.1".into(), port }, None);
        fake.serve(Listener::Tcp(listener));
        fake
    }

    fn at(endpoint: Endpoint, folder: Option<tempfile::TempDir>) -> Self {
        let state = State { api_version: "1.41".into(), ..State::default() };
        let (events, _) = broadcast::channel(4096);
        Self { endpoint, state: Arc::new(Mutex::new(state)), events, server: None, folder }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// As `DOCKER_HOST` has it.
    pub(crate) fn docker_host(&self) -> String {
        match &self.endpoint {
            Endpoint::Unix(path) => format!("unix://{}", path.display()),
            Endpoint::Tcp { host, port } => format!("tcp://{host}:{port}"),
            Endpoint::FirstOf(_) => unreachable!("it listens at one place"),
        }
    }

    /// Changes the containers and says so.
    pub(crate) fn change(&self, containers: Vec<Value>) {
        self.set_containers(containers);
        self.event("container", "start");
    }

    /// Changes the containers silently.
    pub(crate) fn set_containers(&self, containers: Vec<Value>) {
        self.state().containers = containers;
    }

    /// Says that something happened.
    pub(crate) fn event(&self, kind: &str, action: &str) {
        self.say(
            json!({"Type": kind, "Action": action, "Actor": {"ID": "x", "Attributes": {}}, "time": 1}).to_string(),
        );
    }

    /// Says that something happened to a container.
    pub(crate) fn event_of(&self, container: &Value, action: &str) {
        let actor = json!({"ID": container["Id"], "Attributes": {}});
        self.say(json!({"Type": "container", "Action": action, "Actor": actor, "time": 1}).to_string());
    }

    /// Writes a line to the event stream.
    pub(crate) fn say(&self, line: String) {
        let _ = self.events.send(line + "\n");
    }

    pub(crate) fn answer_version(&self, answer: Answer) {
        self.state().version = answer;
    }

    pub(crate) fn answer_list(&self, answer: Answer) {
        self.state().list = answer;
    }

    pub(crate) fn answer_info(&self, answer: Answer) {
        self.state().info = answer;
    }

    pub(crate) fn answer_networks(&self, answer: Answer) {
        self.state().network_list = answer;
    }

    /// How `/containers/ID/json` is answered.
    pub(crate) fn answer_inspect(&self, answer: Answer) {
        self.state().inspect = answer;
    }

    /// What `/info` says; an engine on this very machine says its kernel and its memory.
    pub(crate) fn set_info(&self, facts: Value) {
        self.state().facts = facts;
    }

    /// What `/networks` says.
    pub(crate) fn set_networks(&self, networks: Vec<Value>) {
        self.state().networks = networks;
    }

    /// What `/containers/ID/json` says of the containers with these ids.
    pub(crate) fn set_inspected(&self, inspected: Vec<Value>) {
        self.state().inspected = inspected;
    }

    pub(crate) fn answer_events(&self, answer: Answer) {
        self.state().events = answer;
    }

    pub(crate) fn set_api_version(&self, version: &str) {
        self.state().api_version = version.into();
    }

    /// Every request so far: `GET /v1.41/containers/json?all=1`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// How often the containers were listed.
    pub(crate) fn lists(&self) -> usize {
        self.asked("/containers/json")
    }

    /// How often something was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.state().requests.iter().filter(|request| request.contains(path)).count()
    }

    /// Connections open now.
    pub(crate) fn open_connections(&self) -> usize {
        self.state().open
    }

    /// Ends the daemon: connections break, nobody listens.
    pub(crate) async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
        if let Endpoint::Unix(path) = &self.endpoint {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Starts it again where it was.
    pub(crate) fn start(&mut self) {
        let listener = match &self.endpoint {
            Endpoint::Unix(path) => Listener::Unix(UnixListener::bind(path).expect("the socket")),
            Endpoint::Tcp { host, port } => {
                let address: SocketAddr = format!("{host}:{port}").parse().expect("an address");
                let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
                socket.set_reuseaddr(true).expect("reuse");
                socket.bind(address).expect("the port again");
                Listener::Tcp(socket.listen(16).expect("listen"))
            }
            Endpoint::FirstOf(_) => unreachable!("it listens at one place"),
        };
        self.serve(listener);
    }

    fn serve(&mut self, listener: Listener) {
        let (state, events) = (Arc::clone(&self.state), self.events.clone());
        self.server = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok(stream) = accepted else { continue };
                        connections.spawn(connection(stream, Arc::clone(&state), events.subscribe()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        }));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FakeDocker {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Counts a connection as open while it lives.
struct Open(Arc<Mutex<State>>);

impl Open {
    fn new(state: &Arc<Mutex<State>>) -> Self {
        state.lock().unwrap_or_else(PoisonError::into_inner).open += 1;
        Self(Arc::clone(state))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open -= 1;
    }
}

async fn connection(mut stream: Box<dyn Stream>, state: Arc<Mutex<State>>, events: broadcast::Receiver<String>) {
    let _open = Open::new(&state);
    // Whoever hangs up early is no failure of the daemon.
    let _ = answer(&mut stream, &state, events).await;
}

async fn answer(
    stream: &mut Box<dyn Stream>,
    state: &Arc<Mutex<State>>,
    mut events: broadcast::Receiver<String>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let request = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let (path, answer, body) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests.push(request.clone());
        let path = request.split_once(' ').map_or("", |(_, path)| path).to_owned();
        let (answer, body) = match state.refusal(&path) {
            Some(refusal) => (refusal, String::new()),
            None if path.contains("/events") => (state.events.clone(), String::new()),
            None if path.contains("/containers/json") => {
                (state.list.clone(), Value::Array(state.containers.clone()).to_string())
            }
            None if path.ends_with("/info") => {
                let facts = if state.facts.is_null() { json!({}) } else { state.facts.clone() };
                (state.info.clone(), facts.to_string())
            }
            None if path.ends_with("/networks") => {
                (state.network_list.clone(), Value::Array(state.networks.clone()).to_string())
            }
            None if path.contains("/containers/") => {
                let asked = |one: &&Value| one["Id"].as_str().is_some_and(|id| path.contains(id));
                match state.inspected.iter().find(asked) {
                    Some(one) => (state.inspect.clone(), one.to_string()),
                    None => (Answer::Status(404, "No such container".into()), String::new()),
                }
            }
            None => {
                (state.version.clone(), json!({"Version": "20.10.24", "ApiVersion": state.api_version}).to_string())
            }
        };
        (path, answer, body)
    };
    match answer {
        Answer::Well if path.contains("/events") => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            loop {
                let mut rest = [0];
                tokio::select! {
                    line = events.recv() => match line {
                        Ok(line) => stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?,
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => return Ok(()),
                    },
                    read = stream.read(&mut rest) => if read? == 0 { return Ok(()) },
                }
            }
        }
        Answer::Well => respond(stream, 200, body.as_bytes()).await,
        Answer::Body(body) => respond(stream, 200, body.as_bytes()).await,
        Answer::NoJson => respond(stream, 200, b"<html>It works!</html>\n").await,
        Answer::Status(status, message) => {
            respond(stream, status, json!({"message": message}).to_string().as_bytes()).await
        }
        Answer::EndAtOnce => Ok(()),
        Answer::EndInTheMiddle => {
            let half = &body.as_bytes()[..body.len() / 2];
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len().max(1000));
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(half).await
        }
        Answer::Garbage => stream.write_all(&[0, 0xff, 0x1b, b'[', b'2', b'J'].repeat(1000)).await,
        Answer::Long { bytes, chunked } => long(stream, bytes, chunked).await,
        Answer::EndlessHead => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            loop {
                stream.write_all(&b"X-Filler: yes\r\n".repeat(100)).await?;
            }
        }
        Answer::Stall => {
            let mut rest = [0];
            while stream.read(&mut rest).await? > 0 {}
            Ok(())
        }
    }
}

impl State {
    /// A daemon refuses versions of the API that it does not have.
    fn refusal(&self, path: &str) -> Option<Answer> {
        let minor = |version: &str| version.strip_prefix("1.")?.parse::<u32>().ok();
        let asked = minor(path.strip_prefix("/v")?.split('/').next()?)?;
        let most = minor(&self.api_version)?;
        (asked > most).then(|| {
            let text = format!("client version 1.{asked} is too new. Maximum supported API version is 1.{most}");
            Answer::Status(400, text)
        })
    }
}

async fn respond(stream: &mut Box<dyn Stream>, status: u16, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} Word\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await
}

async fn long(stream: &mut Box<dyn Stream>, bytes: u64, chunked: bool) -> io::Result<()> {
    const BLOCK: usize = 64 * 1024;
    let encoding = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {bytes}") };
    stream.write_all(format!("HTTP/1.1 200 OK\r\n{encoding}\r\n\r\n").as_bytes()).await?;
    let block = vec![b' '; BLOCK];
    for _ in 0..bytes / BLOCK as u64 {
        if chunked {
            stream.write_all(format!("{BLOCK:x}\r\n").as_bytes()).await?;
        }
        stream.write_all(&block).await?;
        if chunked {
            stream.write_all(b"\r\n").await?;
        }
    }
    Ok(())
}

/// Waits until `holds`, and says `what` when it does not come true.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The socket's path, for tests that put something else there.
pub(crate) fn socket_path(fake: &FakeDocker) -> Option<PathBuf> {
    match fake.endpoint() {
        Endpoint::Unix(path) => Some(path),
        Endpoint::Tcp { .. } | Endpoint::FirstOf(_) => None,
    }
}
