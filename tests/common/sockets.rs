//! An engine in this process, servers to map to, and clients: real sockets, ports chosen by the kernel.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portolan::forward::context::Addresses;
use portolan::forward::engine::{Engine, MappingStatus, Notice, Options, TestHook};
use portolan::forward::registry::{Record, Registry};
use portolan::model::event::{CloseReason, MappingState};
use portolan::model::id::MappingId;
use portolan::model::mapping::Mapping;
use portolan::model::profile::MappingConfig;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for anything that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An engine and what it tells.
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) registry: Arc<Registry>,
    pub(crate) notices: mpsc::Receiver<Notice>,
}

impl Bench {
    pub(crate) fn start() -> Self {
        Self::with(100_000, None)
    }

    pub(crate) fn with(descriptor_limit: u64, hook: Option<TestHook>) -> Self {
        Self::with_options(Options { descriptor_limit, sockets: Vec::new() }, hook)
    }

    pub(crate) fn with_options(options: Options, hook: Option<TestHook>) -> Self {
        let registry = Registry::new();
        let (engine, notices) = Engine::start_with_hook(options, Arc::clone(&registry), hook);
        Self { engine, registry, notices }
    }

    /// Applies a mapping to known addresses.
    pub(crate) async fn apply(&self, id: u64, config: &MappingConfig, target: &[SocketAddr]) -> MappingStatus {
        self.apply_to(id, config, Addresses::Known(target.to_vec())).await
    }

    pub(crate) async fn apply_to(&self, id: u64, config: &MappingConfig, addresses: Addresses) -> MappingStatus {
        let patient = timeout(PATIENCE, self.engine.apply(MappingId(id), Arc::new(config.clone()), addresses));
        patient.await.expect("apply returns")
    }

    /// Maps `LISTEN:auto` to `target` and gives the first bound address.
    pub(crate) async fn map(&self, id: u64, listen: &str, target: SocketAddr) -> SocketAddr {
        let status = self.apply(id, &config(&format!("{listen}:auto:{}", at(target))), &[target]).await;
        assert_eq!(status.state, MappingState::Up, "{:?}", status.reason);
        bound(&status)
    }

    pub(crate) fn status(&self, id: u64) -> MappingStatus {
        let all = self.engine.status();
        all.into_iter().find(|status| status.id == MappingId(id)).expect("a mapping of that id")
    }

    /// Waits until a mapping is in a state.
    pub(crate) async fn state(&self, id: u64, state: MappingState) -> MappingStatus {
        until("the mapping's state", || Some(self.status(id)).filter(|status| status.state == state)).await
    }

    /// Waits until so many connections have closed, and gives them.
    pub(crate) async fn closed(&self, count: usize) -> Vec<Arc<Record>> {
        until("connections to close", || {
            Some(self.registry.closed_since(0).0)
                .filter(|closed| closed.len() >= count && self.registry.open_connections().is_empty())
        })
        .await
    }

    /// Reasons of all closed connections.
    pub(crate) fn reasons(&self) -> Vec<CloseReason> {
        self.registry.closed_since(0).0.iter().filter_map(|record| record.connection().reason).collect()
    }

    pub(crate) async fn shutdown(self) {
        timeout(PATIENCE, self.engine.shutdown(Duration::ZERO)).await.expect("the engine ends");
    }
}

/// A mapping as text, with a name of its own.
pub(crate) fn config(text: &str) -> MappingConfig {
    let mapping: Mapping = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    MappingConfig::new("test", mapping)
}

/// An address as a target is written.
pub(crate) fn at(address: SocketAddr) -> String {
    address.to_string()
}

/// The first address on which a mapping is bound.
pub(crate) fn bound(status: &MappingStatus) -> SocketAddr {
    status.listeners.iter().find_map(|listener| listener.bound).expect("a bound listener")
}

/// Every bound address, IPv4 first.
pub(crate) fn all_bound(status: &MappingStatus) -> Vec<SocketAddr> {
    status.listeners.iter().filter_map(|listener| listener.bound).collect()
}

/// Polls until `probe` gives something.
pub(crate) async fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// A server that handles each connection by `handle`, until dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Connections that were reset before they were accepted.
    pub(crate) aborted: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Server {
    /// On a port of its own of `ip`.
    pub(crate) fn start<F>(ip: &str, handle: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_knowing_peers(ip, move |stream, _| handle(stream))
    }

    /// As [`Server::start`]; `handle` is told the peer's address, which a socket that was reset has forgotten.
    pub(crate) fn start_knowing_peers<F>(ip: &str, handle: impl Fn(TcpStream, SocketAddr) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = SocketAddr::new(ip.parse().expect("an address"), 0);
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.expect("a socket");
        socket.bind(address).expect("a free port");
        // Room for bursts: an overflow would delay connections by a second.
        let listener = socket.listen(4096).expect("listens");
        let address = listener.local_addr().expect("an address");
        let aborted = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&aborted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, peer)) => {
                            connections.spawn(handle(stream, peer));
                        }
                        // Reset before it was accepted.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                            counted.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => panic!("accepting fails: {error}"),
                    },
                    Some(ended) = connections.join_next() => ended.expect("the server's part went well"),
                }
            }
        });
        Self { address, aborted, tasks }
    }

    /// Sends back what it gets, and ends after the client.
    pub(crate) fn echo(ip: &str) -> Self {
        Self::start(ip, |mut stream| async move {
            let (mut read, mut write) = stream.split();
            // A reset is a possible end here.
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
        })
    }
}

/// Connects within [`PATIENCE`].
pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).await.expect("connected")
}

pub(crate) async fn try_connect(address: SocketAddr) -> io::Result<TcpStream> {
    timeout(PATIENCE, TcpStream::connect(address)).await.expect("an answer to connect")
}

/// Resets a connection.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger is set");
    drop(stream);
}

/// Bytes that differ everywhere: the `n`-th pseudo-random stream.
pub(crate) fn noise(n: u64, length: usize) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
