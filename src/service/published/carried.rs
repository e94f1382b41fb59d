//! The connections of one process of docker-proxy: which of its sockets is which end of a session. Pure.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::joining::{End, Joiner, Leg, Reading};
use super::look::Look;
use super::ports::is_at;
use crate::host::tcp::{TcpSocket, TcpState};

/// Legs of one process of docker-proxy.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) joiner: Joiner,
    /// Which leg each of its sockets is, so that one that the kernel no longer lists is still known.
    pub(super) legs: HashMap<u64, (u64, End)>,
}

/// TCP sockets of a look, found by what they are asked for.
pub(super) struct Sockets<'a> {
    pub(super) cookies: HashMap<u64, &'a TcpSocket>,
    pub(super) ports: HashMap<u16, Vec<&'a TcpSocket>>,
    inodes: HashMap<u64, &'a TcpSocket>,
}

impl<'a> Sockets<'a> {
    pub(super) fn of(look: &'a Look) -> Self {
        let mut ports: HashMap<u16, Vec<&TcpSocket>> = HashMap::new();
        for socket in &look.tcp {
            ports.entry(socket.local.port()).or_default().push(socket);
        }
        Self {
            cookies: look.tcp.iter().map(|socket| (socket.cookie, socket)).collect(),
            ports,
            inodes: look.tcp.iter().filter(|socket| socket.inode != 0).map(|socket| (socket.inode, socket)).collect(),
        }
    }

    /// One that still says something.
    pub(super) fn alive(&self, cookie: u64) -> Option<&'a TcpSocket> {
        self.cookies.get(&cookie).copied().filter(|socket| socket.state != TcpState::TimeWait)
    }

    pub(super) fn is_leftover(&self, cookie: u64) -> bool {
        self.cookies.get(&cookie).is_some_and(|socket| socket.state == TcpState::TimeWait)
    }
}

impl Carried {
    /// Whether one of its legs has no partner yet.
    pub(super) fn is_waiting(&self) -> bool {
        let targets = self.joiner.joined_targets();
        self.legs.values().any(|(cookie, end)| match end {
            End::Client => self.joiner.target_of(*cookie).is_none(),
            End::Target => !targets.contains(cookie),
        })
    }

    /// The legs that the process holds.
    pub(super) fn cookies(&self) -> HashSet<u64> {
        self.legs.values().map(|(cookie, _)| *cookie).collect()
    }

    /// Tells the joiner what the process holds.
    pub(super) fn look(
        &mut self,
        host: SocketAddr,
        container: SocketAddr,
        held: &HashSet<u64>,
        is_steady: bool,
        sockets: &Sockets<'_>,
    ) {
        self.legs.retain(|inode, _| held.contains(inode));
        let mut listeners = 0;
        for inode in held {
            let Some(socket) = sockets.inodes.get(inode) else { continue };
            if socket.state == TcpState::Listen {
                listeners += 1;
                continue;
            }
            let (is_client, is_target) = (is_at(host, socket.local), socket.remote == container);
            // What could be either is neither, and then nothing is joined.
            let end = match (is_client, is_target) {
                (true, false) => End::Client,
                (false, true) => End::Target,
                _ => continue,
            };
            self.legs.insert(*inode, (socket.cookie, end));
        }
        let legs: Vec<Leg> = self
            .legs
            .iter()
            .map(|(inode, (cookie, end))| Leg {
                id: *cookie,
                end: *end,
                reading: sockets.inodes.get(inode).and_then(|socket| reading(socket, *end)),
            })
            .collect();
        let is_whole = is_steady && legs.len() + listeners == held.len();
        self.joiner.look(&legs, is_whole);
    }
}

fn reading(socket: &TcpSocket, end: End) -> Option<Reading> {
    Some(Reading {
        sent: socket.sent(end == End::Target)?,
        received: socket.received()?,
        may_count_end: socket.state.has_sent_end() && !socket.state.is_end_acked(),
    })
}
