//! Follows the sessions of published ports from one look to the next, and makes the rows that clients see.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use super::carried::{Carried, Sockets};
use super::joining::End;
use super::look::{Eyes, Look, SeenProxy};
use super::ports::{Port, PortKey, is_at, ports};
use super::rows;
use super::session::Session;
use super::view::PublishedView;
use crate::host::conntrack::TrackedState;
use crate::host::processes;
use crate::host::proxies::Proxy;
use crate::host::tcp::{TcpSocket, TcpState};
use crate::model::container::Container;
use crate::model::id::{ConnectionId, MappingId};
use crate::model::mapping::Protocol;
use crate::model::update::{ConnectionRow, Way};

/// Ids of what is not ours: far above those that the engine and the desired state count up to.
pub(super) const RESERVED: u64 = 1 << 63;
/// Sessions that are followed at once; more are left out, and their rows say so.
pub(super) const MOST_SESSIONS: usize = 8_192;
/// Sessions that have finished lately, for clients that read slowly.
const RECENT: usize = 512;

/// What one look is told.
pub(super) struct Now<'a> {
    pub(super) containers: &'a [Container],
    pub(super) ms: u64,
    pub(super) time: Timestamp,
    /// Whether an address is of this machine, so that a client there has a process here.
    pub(super) is_local: &'a dyn Fn(SocketAddr) -> bool,
}

/// What makes two sessions the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    /// By the socket of the client's leg.
    Client(u64),
    /// By the socket of a target's leg whose client is not known.
    Target(u64),
    /// Rewritten: client, listener and target.
    Rewritten(Protocol, SocketAddr, SocketAddr, SocketAddr),
    /// A UDP socket of docker-proxy.
    Udp(u64),
}

/// What is remembered of a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) id: MappingId,
    pub(super) sessions: u64,
    /// Of sessions that are gone.
    pub(super) bytes: (u64, u64),
}

/// Everything that is remembered between looks.
#[derive(Debug)]
pub(super) struct Tracker {
    next_id: Arc<AtomicU64>,
    eyes: Eyes,
    totals: HashMap<PortKey, Totals>,
    sessions: BTreeMap<Key, Session>,
    carried: HashMap<(u32, u64), Carried>,
    ended: VecDeque<ConnectionRow>,
    has_looked: bool,
}

impl Tracker {
    pub(super) fn new(next_id: Arc<AtomicU64>) -> Self {
        Self {
            next_id,
            eyes: Eyes::default(),
            totals: HashMap::new(),
            sessions: BTreeMap::new(),
            carried: HashMap::new(),
            ended: VecDeque::new(),
            has_looked: false,
        }
    }

    /// Looks, and says what there is. Blocking.
    pub(super) fn look(&mut self, now: &Now<'_>) -> PublishedView {
        let ports = ports(now.containers);
        if ports.is_empty() {
            // Nothing is published: nothing is looked at.
            *self = Self::new(Arc::clone(&self.next_id));
            return PublishedView::default();
        }
        let carried = &self.carried;
        let is_waiting = |proxy: &Proxy| carried.get(&(proxy.pid, proxy.started)).is_none_or(Carried::is_waiting);
        let look = self.eyes.look(&ports, is_waiting);
        let mut view = self.take(&ports, &look, now);
        self.has_looked = true;
        self.name_clients(&mut view, now);
        view
    }

    /// Takes in what a look has seen.
    pub(super) fn take(&mut self, ports: &[Port], look: &Look, now: &Now<'_>) -> PublishedView {
        self.totals.retain(|key, _| ports.iter().any(|port| port.key == *key));
        let ids: Vec<MappingId> = ports.iter().map(|port| self.id_of(port)).collect();
        let sockets = Sockets::of(look);
        let mut seen: HashSet<Key> = HashSet::new();
        let mut over = HashSet::new();
        self.carried.retain(|(pid, started), _| {
            look.proxies.iter().any(|seen| (seen.proxy.pid, seen.proxy.started) == (*pid, *started))
        });
        for (port, id) in ports.iter().zip(&ids) {
            for proxy in look.proxies.iter().filter(|seen| carries(seen, port)) {
                match port.protocol() {
                    Protocol::Tcp => self.see_proxy(*id, proxy, &sockets, now, &mut seen, &mut over),
                    Protocol::Udp => self.see_udp(*id, proxy, look, now, &mut seen, &mut over),
                    Protocol::Sctp => {}
                }
            }
        }
        self.see_rewritten(ports, &ids, look, now, &mut seen, &mut over);
        self.end_others(ports, &ids, &seen, &sockets, now);
        let by_id: HashMap<MappingId, &Port> = ids.iter().copied().zip(ports).collect();
        let open = self.sessions.values().filter_map(|session| Some(session.row(by_id.get(&session.mapping_id)?)));
        let open = open.collect();
        let mappings = ports.iter().zip(&ids).map(|(port, id)| {
            let is_over = over.contains(id)
                || look.proxies.iter().filter(|seen| carries(seen, port)).any(|seen| {
                    let carried = self.carried.get(&(seen.proxy.pid, seen.proxy.started));
                    carried.is_some_and(|carried| carried.joiner.is_over())
                });
            let totals = self.totals.get(&port.key).copied().unwrap_or_default();
            let of_port = || self.sessions.values().filter(|session| session.mapping_id == *id);
            rows::row(port, totals, of_port, look, is_over)
        });
        PublishedView { mappings: mappings.collect(), open, ended: self.ended.iter().cloned().collect() }
    }

    fn id_of(&mut self, port: &Port) -> MappingId {
        let next = &self.next_id;
        let fresh = || Totals { id: MappingId(next.fetch_add(1, Ordering::Relaxed)), ..Totals::default() };
        self.totals.entry(port.key.clone()).or_insert_with(fresh).id
    }

    /// The session of that key, new if need be and while there is room.
    fn session(
        &mut self,
        key: Key,
        mapping: MappingId,
        protocol: Protocol,
        way: Way,
        now: &Now<'_>,
        over: &mut HashSet<MappingId>,
    ) -> Option<&mut Session> {
        if !self.sessions.contains_key(&key) {
            if self.sessions.len() >= MOST_SESSIONS {
                over.insert(mapping);
                return None;
            }
            let id = ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed));
            self.sessions.insert(key, Session::new(id, mapping, protocol, way, (now.ms, now.time), !self.has_looked));
            if !matches!(key, Key::Target(_))
                && let Some(totals) = self.totals.values_mut().find(|totals| totals.id == mapping)
            {
                totals.sessions += 1;
            }
        }
        self.sessions.get_mut(&key)
    }

    /// The TCP sessions of one process of docker-proxy.
    fn see_proxy(
        &mut self,
        mapping: MappingId,
        seen_proxy: &SeenProxy,
        sockets: &Sockets<'_>,
        now: &Now<'_>,
        seen: &mut HashSet<Key>,
        over: &mut HashSet<MappingId>,
    ) {
        let proxy = &seen_proxy.proxy;
        let mut carried = self.carried.remove(&(proxy.pid, proxy.started)).unwrap_or_default();
        if let Some(held) = &seen_proxy.held {
            carried.look(proxy.host, proxy.container, held, seen_proxy.is_steady, sockets);
        }
        let is_client = |socket: &TcpSocket| {
            let is_connection = !matches!(socket.state, TcpState::Listen | TcpState::TimeWait);
            is_connection
                && is_at(proxy.host, socket.local)
                && match &seen_proxy.held {
                    // Who may not list what the process holds knows that nobody else accepts there.
                    None => true,
                    Some(held) if socket.inode != 0 => held.contains(&socket.inode),
                    // Not accepted yet; or given back, but not yet gone.
                    Some(_) => {
                        matches!(socket.state, TcpState::Established | TcpState::CloseWait)
                            || self.sessions.contains_key(&Key::Client(socket.cookie))
                    }
                }
        };
        let at_port = sockets.ports.get(&proxy.host.port()).into_iter().flatten();
        let clients: Vec<u64> = at_port.filter(|socket| is_client(socket)).map(|socket| socket.cookie).collect();
        for cookie in clients {
            let session = self.session(Key::Client(cookie), mapping, Protocol::Tcp, Way::Proxy, now, over);
            if session.is_some() {
                seen.insert(Key::Client(cookie));
            }
        }
        let held = carried.cookies();
        // Those known from before whose client's leg is gone, while anything else of them is there.
        for (key, session) in &mut self.sessions {
            let Key::Client(cookie) = *key else { continue };
            if session.mapping_id != mapping
                || (!held.contains(&cookie) && !seen.contains(key) && session.joined.is_none())
            {
                continue;
            }
            session.joined = session.joined.or_else(|| carried.joiner.target_of(cookie));
            let target = session.joined;
            let is_there = |cookie: u64| sockets.alive(cookie).is_some() || held.contains(&cookie);
            if is_there(cookie) || target.is_some_and(is_there) {
                seen.insert(*key);
                session.see_sockets(sockets.alive(cookie), target.and_then(|target| sockets.alive(target)));
            }
        }
        let joined = carried.joiner.joined_targets();
        let lone = carried.legs.values().filter(|(cookie, end)| *end == End::Target && !joined.contains(cookie));
        for (cookie, _) in lone {
            let key = Key::Target(*cookie);
            let target = sockets.alive(*cookie);
            if let Some(session) = self.session(key, mapping, Protocol::Tcp, Way::Proxy, now, over) {
                session.see_sockets(None, target);
                seen.insert(key);
            }
        }
        self.carried.insert((proxy.pid, proxy.started), carried);
    }

    /// The UDP sockets by which a process of docker-proxy speaks to its container. Whose datagrams each carries is
    /// known to the process alone.
    fn see_udp(
        &mut self,
        mapping: MappingId,
        seen_proxy: &SeenProxy,
        look: &Look,
        now: &Now<'_>,
        seen: &mut HashSet<Key>,
        over: &mut HashSet<MappingId>,
    ) {
        let Some(held) = &seen_proxy.held else { return };
        let is_theirs = |inode: u64, remote: SocketAddr| held.contains(&inode) && remote == seen_proxy.proxy.container;
        for socket in look.udp.iter().filter(|socket| is_theirs(socket.inode, socket.remote)) {
            let key = Key::Udp(socket.inode);
            if let Some(session) = self.session(key, mapping, Protocol::Udp, Way::Proxy, now, over) {
                session.see_udp(socket.local, socket.remote);
                seen.insert(key);
            }
        }
    }

    fn see_rewritten(
        &mut self,
        ports: &[Port],
        ids: &[MappingId],
        look: &Look,
        now: &Now<'_>,
        seen: &mut HashSet<Key>,
        over: &mut HashSet<MappingId>,
    ) {
        let Ok((entries, has_more)) = &look.rewritten else { return };
        for entry in entries {
            let mut of_entry = ports.iter().zip(ids).filter(|(port, _)| {
                port.protocol() == entry.protocol && port.targets.contains(&entry.target) && port.is_at(entry.listener)
            });
            let Some((_, id)) = of_entry.next() else { continue };
            if *has_more {
                over.insert(*id);
            }
            let key = Key::Rewritten(entry.protocol, entry.client, entry.listener, entry.target);
            let has_ended = matches!(entry.state, Some(TrackedState::TimeWait | TrackedState::Close));
            if has_ended {
                // Its entry stays for a while; what was never seen to live is no session.
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.see_rewritten(entry);
                }
            } else if let Some(session) = self.session(key, *id, entry.protocol, Way::Dnat, now, over) {
                session.see_rewritten(entry);
                seen.insert(key);
            }
        }
    }

    /// Ends the sessions that were not seen any more: with a row of their own where it is certain how they ended.
    fn end_others(
        &mut self,
        ports: &[Port],
        ids: &[MappingId],
        seen: &HashSet<Key>,
        sockets: &Sockets<'_>,
        now: &Now<'_>,
    ) {
        let gone: Vec<Key> = self.sessions.keys().filter(|key| !seen.contains(key)).copied().collect();
        for key in gone {
            let Some(mut session) = self.sessions.remove(&key) else { continue };
            let Some(port) = ids.iter().position(|id| *id == session.mapping_id).and_then(|at| ports.get(at)) else {
                continue;
            };
            if let Key::Client(cookie) = key {
                if sockets.is_leftover(cookie) {
                    session.see_leftover(true);
                }
                if session.joined.is_some_and(|target| sockets.is_leftover(target)) {
                    session.see_leftover(false);
                }
            }
            // The bytes of a target's leg are those of some client's.
            if !matches!(key, Key::Target(_))
                && let Some(totals) = self.totals.get_mut(&port.key)
            {
                let (bytes_in, bytes_out) = session.bytes();
                totals.bytes = (totals.bytes.0 + bytes_in, totals.bytes.1 + bytes_out);
            }
            if session.is_finished() && !matches!(key, Key::Target(_)) {
                if self.ended.len() == RECENT {
                    self.ended.pop_front();
                }
                self.ended.push_back(session.closed_row(port, now.ms));
            }
        }
    }

    /// Finds the processes of new local clients. Each is asked for once: a client does not change its process.
    fn name_clients(&mut self, view: &mut PublishedView, now: &Now<'_>) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let new: Vec<(ConnectionId, (SocketAddr, SocketAddr))> = self
                .sessions
                .values_mut()
                .filter(|session| session.protocol() == protocol)
                .filter_map(|session| Some((session.id, session.client_leg().filter(|_| session.must_be_named())?)))
                .filter(|(_, (client, _))| (now.is_local)(*client))
                .collect();
            if new.is_empty() {
                continue;
            }
            let pairs: Vec<_> = new.iter().map(|(_, ends)| *ends).collect();
            // Without an answer the column stays empty: it is help, not a duty.
            let names = processes::clients(protocol, &pairs).unwrap_or_default();
            let names: HashMap<ConnectionId, _> =
                new.iter().zip(names).filter_map(|((id, _), name)| Some((*id, name?))).collect();
            for session in self.sessions.values_mut() {
                if let Some(name) = names.get(&session.id) {
                    session.process = Some(name.clone());
                }
            }
            for row in &mut view.open {
                if let Some(name) = names.get(&row.connection.id) {
                    row.process = Some(name.clone());
                }
            }
        }
    }
}

fn carries(seen: &SeenProxy, port: &Port) -> bool {
    port.protocol() == seen.proxy.protocol
        && port.hosts.contains(&seen.proxy.host)
        && port.targets.contains(&seen.proxy.container)
}
