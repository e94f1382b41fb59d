//! Ways to a target: directly, through the engine, through Debian's docker-proxy. Each has a target of its own, so that
//! a connection which one of them leaves behind is never taken for another's.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::runtime::Runtime;

use crate::common::docker_proxy::DockerProxy;
use crate::play::Stage;
use crate::script::{Families, Script};
use crate::seen::SMALL_BUFFER;
use crate::sockets::Bench;

/// A target, and where a client reaches it.
struct Way {
    target: TcpListener,
    door: SocketAddr,
}

/// A target that refuses, held by a socket that does not listen.
struct Refusal {
    _port: Socket,
    door: SocketAddr,
}

/// The ways of one kind, for one script at a time: one for each pair of families.
pub(crate) struct Doors {
    ways: [Way; 4],
    refusals: [Refusal; 4],
    is_direct: bool,
    patience: Duration,
    _proxies: Vec<DockerProxy>,
}

impl Doors {
    fn new(patience: Duration, mut open: impl FnMut(Families, SocketAddr) -> SocketAddr) -> Self {
        let ways = Families::ALL.map(|families| {
            let target = TcpListener::bind((families.target(), 0)).expect("a free port");
            target.set_nonblocking(true).expect("it can be set");
            if families == Families::SixToFourSmall {
                // Connections inherit it: set later, it would go back on a window that has been offered.
                SockRef::from(&target).set_recv_buffer_size(SMALL_BUFFER).expect("it can be set");
            }
            let door = open(families, target.local_addr().expect("it is bound"));
            Way { target, door }
        });
        let refusals = Families::ALL.map(|families| {
            let address = SocketAddr::new(families.target().parse().expect("an address"), 0);
            let port = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
            port.bind(&address.into()).expect("a free port");
            let closed = port.local_addr().expect("it is bound").as_socket().expect("an Internet address");
            Refusal { _port: port, door: open(families, closed) }
        });
        Self { ways, refusals, is_direct: false, patience, _proxies: Vec::new() }
    }

    /// The client dials the target itself, in the target's family.
    pub(crate) fn direct(patience: Duration) -> Self {
        Self { is_direct: true, ..Self::new(patience, |_, target| target) }
    }

    /// Through an engine.
    pub(crate) fn portolan(bench: &Bench, runtime: &Runtime, number: u64, patience: Duration) -> Self {
        let mut id = number * 100;
        Self::new(patience, |families, target| {
            id += 1;
            let listen = if families.client() == "::1" { "[::1]" } else { "127.0.0.1" };
            runtime.block_on(bench.map(id, listen, target))
        })
    }

    /// Through processes of docker-proxy.
    pub(crate) fn docker_proxy(patience: Duration) -> Self {
        let mut proxies = Vec::new();
        let doors = Self::new(patience, |families, target| {
            let proxy = DockerProxy::tcp(families.client(), target);
            let door = proxy.listener();
            proxies.push(proxy);
            door
        });
        Self { _proxies: proxies, ..doors }
    }

    /// Where a script is played.
    pub(crate) fn stage(&self, script: &Script) -> Stage<'_> {
        let index = script.families.index();
        let way = &self.ways[index];
        let door = if script.is_refused() { self.refusals[index].door } else { way.door };
        Stage { door, target: &way.target, is_direct: self.is_direct, patience: self.patience }
    }
}
