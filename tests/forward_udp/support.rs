//! A listener of the engine without the engine, and peers for it: plain blocking sockets with deadlines.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portolan::forward::context::{Addresses, ListenerContext, Route};
use portolan::forward::descriptors::DescriptorBudget;
use portolan::forward::meter::MappingMeter;
use portolan::forward::registry::{Record, Registry};
use portolan::forward::udp;
use portolan::model::id::MappingId;
use portolan::model::mapping::{HostPort, Listen, ListenAddress, Mapping, PortRange, Protocol, Target, TargetHost};
use portolan::model::profile::MappingConfig;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Long after any of the awaited things should have happened.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A mapping: its counters, its route, and the sockets that serve it.
pub(crate) struct Forwarder {
    pub(crate) registry: Arc<Registry>,
    pub(crate) meter: Arc<MappingMeter>,
    pub(crate) descriptors: Arc<DescriptorBudget>,
    pub(crate) drain: CancellationToken,
    route: watch::Sender<Arc<Route>>,
    tasks: Vec<tokio::task::JoinHandle<io::Result<()>>>,
    runtime: Runtime,
}

impl Forwarder {
    /// A mapping to `target` that listens nowhere yet; `change` changes its configuration.
    pub(crate) fn new(target: SocketAddr, change: impl FnOnce(&mut MappingConfig)) -> Self {
        Self::beside(Registry::new(), 1, target, change)
    }

    /// Another mapping of the same engine.
    pub(crate) fn beside(
        registry: Arc<Registry>,
        id: u64,
        target: SocketAddr,
        change: impl FnOnce(&mut MappingConfig),
    ) -> Self {
        raise_descriptor_limit();
        let ports = PortRange::single(target.port()).expect("a bound port");
        let mapping = Mapping {
            listen: Listen { address: ListenAddress::Any, port: HostPort::Auto },
            target: Target { host: TargetHost::Localhost, ports },
            protocol: Protocol::Udp,
        };
        let mut config = MappingConfig::new("test", mapping);
        change(&mut config);
        let config = Arc::new(config);
        let addresses = Addresses::Known(vec![target]);
        Self {
            registry,
            meter: MappingMeter::new(MappingId(id), Arc::clone(&config)),
            descriptors: DescriptorBudget::new(10_000),
            drain: CancellationToken::new(),
            route: watch::Sender::new(Arc::new(Route { config, addresses })),
            tasks: Vec::new(),
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
        }
    }

    /// Serves one more address; returns it with its port.
    pub(crate) fn listen(&mut self, address: &str) -> SocketAddr {
        let socket = udp::bind(address.parse().unwrap()).unwrap();
        let bound = socket.local_addr().unwrap();
        self.serve(socket);
        bound
    }

    /// Serves one more socket.
    pub(crate) fn serve(&mut self, socket: UdpSocket) {
        let context = ListenerContext {
            meter: Arc::clone(&self.meter),
            registry: Arc::clone(&self.registry),
            route: self.route.subscribe(),
            port: socket.local_addr().unwrap().port(),
            descriptors: Arc::clone(&self.descriptors),
            drain: self.drain.clone(),
            hook: None,
        };
        self.tasks.push(self.runtime.spawn(udp::serve(socket, context, |_| {})));
    }

    /// The mapping goes somewhere else, or nowhere.
    pub(crate) fn reroute(&self, addresses: Addresses) {
        self.route.send_modify(|route| {
            *route = Arc::new(Route { config: Arc::clone(&route.config), addresses });
        });
    }

    /// The mapping is edited; it goes where it went.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut MappingConfig)) {
        self.route.send_modify(|route| {
            let mut config = (*route.config).clone();
            change(&mut config);
            *route = Arc::new(Route { config: Arc::new(config), addresses: route.addresses.clone() });
        });
    }

    /// As [`Forwarder::reroute`], to another port too.
    pub(crate) fn retarget(&self, target: SocketAddr) {
        self.route.send_modify(|route| {
            let mut config = (*route.config).clone();
            config.mapping.target.ports = PortRange::single(target.port()).unwrap();
            *route = Arc::new(Route { config: Arc::new(config), addresses: Addresses::Known(vec![target]) });
        });
    }

    /// The only open flow.
    pub(crate) fn only_flow(&self) -> Arc<Record> {
        let flows = self.registry.open_connections();
        assert_eq!(flows.len(), 1, "flows: {flows:?}");
        Arc::clone(&flows[0])
    }

    /// The flows that ended, oldest first.
    pub(crate) fn closed(&self) -> Vec<Arc<Record>> {
        self.registry.closed_since(0).0
    }

    /// Drains, ends every flow, and returns how each socket's task ended.
    pub(crate) fn stop(self) -> Vec<io::Result<()>> {
        self.drain.cancel();
        for flow in self.registry.open_connections() {
            flow.kill(portolan::model::event::CloseReason::Shutdown);
        }
        self.ended()
    }

    /// Waits until every socket's task has ended.
    pub(crate) fn ended(self) -> Vec<io::Result<()>> {
        let Self { runtime, tasks, .. } = self;
        let join = async {
            let mut ends = Vec::new();
            for task in tasks {
                ends.push(tokio::time::timeout(DEADLINE, task).await.expect("it ends in time").expect("no panic"));
            }
            ends
        };
        runtime.block_on(join)
    }
}

/// What a [`Target`](TargetHost) of the tests does with a datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Sends it back.
    Echo,
    /// Sends back what begins with `ping`.
    EchoPings,
    /// Nothing.
    Silent,
}

/// A datagram that a target received.
pub(crate) type Seen = (SocketAddr, usize);

/// A UDP server in a thread.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) socket: Arc<UdpSocket>,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(address: &str, manner: Manner) -> Self {
        let socket = Arc::new(UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (socket, seen, stop) = (Arc::clone(&socket), Arc::clone(&seen), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                    seen.lock().unwrap().push((from, length));
                    let ping = buffer[..length].starts_with(b"ping");
                    if manner == Manner::Echo || (manner == Manner::EchoPings && ping) {
                        socket.send_to(&buffer[..length], from).unwrap();
                    }
                }
            })
        };
        Self { address: socket.local_addr().unwrap(), socket, seen, stop, thread: Some(thread) }
    }

    /// Every datagram so far, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Forgets what it received.
    pub(crate) fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// The sources that it heard, each once.
    pub(crate) fn sources(&self) -> Vec<SocketAddr> {
        let mut sources: Vec<_> = self.seen().into_iter().map(|(from, _)| from).collect();
        sources.sort_unstable();
        sources.dedup();
        sources
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client's socket on a loopback address, with a deadline for each reply.
pub(crate) fn client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Sends and takes the next reply, which must be the same and come from where it was sent.
pub(crate) fn echo(client: &UdpSocket, payload: &[u8], to: SocketAddr) {
    client.send_to(payload, to).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let (length, from) = client.recv_from(&mut buffer).unwrap_or_else(|error| panic!("no reply from {to}: {error}"));
    assert_eq!(from, to, "the reply comes from the address dialled");
    assert!(buffer[..length] == *payload, "{length} bytes came back of {}, or others", payload.len());
}

/// As the program does at its start: many systems begin with 1,024.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// How many datagrams a socket's kernel has dropped for want of room: the last column of its row.
pub(crate) fn dropped_by_kernel(at: SocketAddr) -> u64 {
    let table = if at.is_ipv4() { "/proc/net/udp" } else { "/proc/net/udp6" };
    let port = format!(":{:04X}", at.port());
    let mut found = None;
    // The kernel counts on from page to page of the table, so a row is passed over when others close meanwhile.
    wait_until("its row in the table of sockets", || {
        let table = std::fs::read_to_string(table).unwrap();
        let mut rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row.len() > 1 && row[1].ends_with(&port));
        found = row.and_then(|row| row.last()?.parse().ok());
        found.is_some()
    });
    found.unwrap()
}

/// Waits until `condition` holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "it did not come true: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
