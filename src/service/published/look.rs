//! One look at this machine's tables for the ports that Docker publishes. Blocking; it reads and decides nothing.
//!
//! What seldom changes is not read again each time: the processes of docker-proxy and who holds a listener, as long as
//! the ports and their listeners stay the same.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::ports::{Port, is_at};
use crate::host::bound::{self, Bound, Holder};
use crate::host::conntrack::{self, Rewritten};
use crate::host::proxies::{self, Proxy};
use crate::host::tcp::{self, Condition, TcpSocket, TcpState};
use crate::model::mapping::Protocol;

/// Most rewritten connections that are looked at.
pub(super) const MOST_REWRITTEN: usize = 8_192;

/// What a look has seen.
#[derive(Debug)]
pub(super) struct Look {
    /// TCP sockets at the published ports and towards the containers.
    pub(super) tcp: Vec<TcpSocket>,
    /// Why there are none, where the kernel does not tell.
    pub(super) tcp_error: Option<io::Error>,
    /// Bound sockets of UDP.
    pub(super) udp: Vec<Bound>,
    /// Sockets that wait for clients of a published port.
    pub(super) listeners: Vec<(Protocol, Bound)>,
    /// Who holds them, as far as it can be seen.
    pub(super) holders: HashMap<u64, Holder>,
    /// Processes of docker-proxy that carry these ports.
    pub(super) proxies: Vec<SeenProxy>,
    /// Connections rewritten towards the containers, and whether there were more.
    pub(super) rewritten: io::Result<(Vec<Rewritten>, bool)>,
}

/// A process of docker-proxy.
#[derive(Debug)]
pub(super) struct SeenProxy {
    pub(super) proxy: Proxy,
    /// Its sockets; `None` where this user may not list them.
    pub(super) held: Option<HashSet<u64>>,
    /// It held the same ones before the look.
    pub(super) is_steady: bool,
}

/// What a look remembers for the next.
#[derive(Debug, Default)]
pub(super) struct Eyes {
    ports: Vec<Port>,
    listeners: BTreeSet<u64>,
    proxies: Vec<Proxy>,
    holders: HashMap<u64, Option<Holder>>,
    /// What each process held at the last look.
    held: HashMap<u32, HashSet<u64>>,
}

impl Eyes {
    /// `is_waiting`: connections of this process wait to be joined, for which it must hold the same before and after.
    pub(super) fn look(&mut self, ports: &[Port], is_waiting: impl Fn(&Proxy) -> bool) -> Look {
        let waiting = self.proxies.iter().filter(|proxy| is_waiting(proxy));
        let held_before: HashMap<u32, HashSet<u64>> =
            waiting.filter_map(|proxy| Some((proxy.pid, proxy.sockets()?))).collect();
        let has = |protocol: Protocol| ports.iter().any(|port| port.protocol() == protocol);
        let mut tcp_error = None;
        let tcp = if has(Protocol::Tcp) {
            tcp::sockets(&conditions(ports)).unwrap_or_else(|error| {
                tcp_error = Some(error);
                Vec::new()
            })
        } else {
            Vec::new()
        };
        let bound = |protocol: Protocol| {
            if has(protocol) { bound::bound(protocol).unwrap_or_default() } else { Vec::new() }
        };
        let udp = bound(Protocol::Udp);
        let listening_tcp = match tcp_error {
            None => listening(&tcp),
            Some(_) => bound(Protocol::Tcp),
        };
        let mut listeners = Vec::new();
        for (protocol, sockets) in
            [(Protocol::Tcp, listening_tcp), (Protocol::Udp, udp.clone()), (Protocol::Sctp, bound(Protocol::Sctp))]
        {
            let is_waiting = |socket: &Bound| socket.remote.port() == 0;
            let is_theirs = |socket: &Bound| {
                let of_protocol = || ports.iter().filter(|port| port.protocol() == protocol);
                of_protocol().any(|port| port.hosts.iter().any(|host| is_listener(socket, *host)))
            };
            listeners.extend(
                sockets
                    .into_iter()
                    .filter(|socket| is_waiting(socket) && is_theirs(socket))
                    .map(|socket| (protocol, socket)),
            );
        }
        self.refresh(ports, &listeners);
        let proxies = self.proxies.iter().map(|proxy| {
            let before = held_before.get(&proxy.pid);
            let held = match self.held.remove(&proxy.pid) {
                // Listing them costs more than all else, so it is left out where nothing has come or gone.
                Some(last) if before.is_none() && last == in_table(proxy, &tcp) => Some(last),
                _ => proxy.sockets(),
            };
            let is_steady = before.is_some() && before == held.as_ref();
            SeenProxy { proxy: proxy.clone(), held, is_steady }
        });
        let proxies: Vec<SeenProxy> = proxies.collect();
        let held = proxies.iter().filter_map(|seen| Some((seen.proxy.pid, seen.held.clone()?)));
        self.held = held.collect();
        let rewritten = conntrack::rewritten(MOST_REWRITTEN, |entry| {
            ports.iter().any(|port| {
                port.protocol() == entry.protocol && port.targets.contains(&entry.target) && port.is_at(entry.listener)
            })
        });
        let holders = self.holders.iter().filter_map(|(inode, holder)| Some((*inode, holder.clone()?)));
        Look { tcp, tcp_error, udp, listeners, holders: holders.collect(), proxies, rewritten }
    }

    /// Looks for processes again where something has changed.
    fn refresh(&mut self, ports: &[Port], listeners: &[(Protocol, Bound)]) {
        let inodes: BTreeSet<u64> = listeners.iter().map(|(_, socket)| socket.inode).collect();
        if self.ports == ports && self.listeners == inodes && self.proxies.iter().all(Proxy::is_there) {
            return;
        }
        self.ports = ports.to_vec();
        self.proxies = proxies::find();
        self.proxies.retain(|proxy| {
            let of_port = |port: &Port| {
                port.protocol() == proxy.protocol
                    && port.hosts.contains(&proxy.host)
                    && port.targets.contains(&proxy.container)
            };
            // One in another network namespace is not in this table.
            let is_here =
                |(protocol, socket): &(Protocol, Bound)| *protocol == proxy.protocol && socket.local == proxy.host;
            ports.iter().any(of_port) && listeners.iter().any(is_here)
        });
        self.proxies.retain(|proxy| proxy.sockets().is_none_or(|held| inodes.iter().any(|inode| held.contains(inode))));
        self.holders.retain(|inode, _| inodes.contains(inode));
        let unknown: Vec<u64> = inodes.iter().copied().filter(|inode| !self.holders.contains_key(inode)).collect();
        let mut found = bound::holders(unknown.iter().copied());
        self.holders.extend(unknown.into_iter().map(|inode| (inode, found.remove(&inode))));
        self.listeners = inodes;
    }
}

/// Whether a waiting socket is the one of `host`; a dual-stack one waits at IPv4's wildcard too.
pub(super) fn is_listener(socket: &Bound, host: SocketAddr) -> bool {
    let is_dual = socket.is_v6_only == Some(false) && socket.local.is_ipv6() && socket.local.ip().is_unspecified();
    socket.local.port() == host.port()
        && (socket.local.ip() == host.ip() || (is_dual && host.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

/// The sockets that the process should hold, going by their ends.
fn in_table(proxy: &Proxy, tcp: &[TcpSocket]) -> HashSet<u64> {
    let is_its_own = |socket: &&TcpSocket| {
        socket.inode != 0 && (is_at(proxy.host, socket.local) || socket.remote == proxy.container)
    };
    tcp.iter().filter(is_its_own).map(|socket| socket.inode).collect()
}

fn listening(tcp: &[TcpSocket]) -> Vec<Bound> {
    let listening = tcp.iter().filter(|socket| socket.state == TcpState::Listen);
    let bound = listening.map(|socket| Bound {
        local: socket.local,
        remote: socket.remote,
        inode: socket.inode,
        is_v6_only: socket.is_v6_only,
    });
    bound.collect()
}

fn conditions(ports: &[Port]) -> Vec<Condition> {
    let tcp = ports.iter().filter(|port| port.protocol() == Protocol::Tcp);
    let ends = tcp.flat_map(|port| {
        let hosts = port.hosts.iter().map(|host| Condition::LocalPort(host.port()));
        hosts.chain(port.targets.iter().map(|target| Condition::Remote(*target)))
    });
    ends.collect::<BTreeSet<_>>().into_iter().collect()
}
