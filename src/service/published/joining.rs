//! Which connection to the container belongs to which client, for one process of docker-proxy.
//!
//! The kernel does not tell. What is certain follows from how such a process works, and nothing else is joined:
//!
//! - For each client that it accepts it dials one connection, and it gives both back together. What it has begun of
//!   that is done by the next look, a second later. So who was there a look ago and still is had a partner at that
//!   look; and who came with one look finds its partner among those who came with the same or the next one.
//! - Bytes cannot be invented: at no time has more been sent on one than had arrived on the other. The counts of one
//!   look are not read at one moment, so what was sent by one look is held against what has arrived by the next.
//!
//! A look counts for the first when it is *whole*: every socket of the process is known, and it held the same ones
//! before and after. A pair is certain when it is part of every way to give partners to all who must have one: it
//! stands alone in its component of the graph of exchanges. Pairs once joined stay so.
//!
//! Pure: it looks at no socket and no clock.

use std::collections::{HashMap, HashSet};

/// Legs of each end that wait for their partner, beyond which none is joined until there are fewer: the work grows
/// with their square.
pub(super) const MOST_WAITING: usize = 512;

/// Which end of a session a leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// Accepted from a client.
    Client,
    /// Dialled to the container.
    Target,
}

/// What one look says of a leg: payload bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// So many were sent and acknowledged, or one less: see `may_count_end`.
    pub(super) sent: u64,
    /// So many have arrived, or fewer.
    pub(super) received: u64,
    /// Its own end has been sent, and is not known to be left out of `sent`.
    pub(super) may_count_end: bool,
}

/// A socket of the process that is a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leg {
    /// Its number for ever.
    pub(super) id: u64,
    pub(super) end: End,
    /// `None` once the kernel tells nothing of it, though the process still holds it.
    pub(super) reading: Option<Reading>,
}

/// What is known of the legs of one process.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    /// Whole looks so far.
    looks: u64,
    /// The last reading of each leg that is held.
    last: HashMap<u64, Reading>,
    clients: Vec<Waiting>,
    targets: Vec<Waiting>,
    /// For each waiting client, whether each waiting target may be its own.
    possible: Vec<Vec<bool>>,
    /// Client to target, while one of them is held.
    pairs: HashMap<u64, u64>,
    is_over: bool,
    /// The process does not work as it was taken to: nothing more is joined.
    is_other: bool,
}

/// A leg without a partner.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: u64,
    /// The whole look that saw it first.
    born: u64,
    is_held: bool,
}

impl Joiner {
    /// Takes in all legs that the process holds. `is_whole`: it holds no other connection, and held the same ones
    /// before and after the look.
    pub(super) fn look(&mut self, legs: &[Leg], is_whole: bool) {
        let held: HashMap<u64, &Leg> = legs.iter().map(|leg| (leg.id, leg)).collect();
        self.rule_out(&held);
        self.last.retain(|id, _| held.contains_key(id));
        self.last.extend(legs.iter().filter_map(|leg| Some((leg.id, leg.reading?))));
        if is_whole && !self.is_other {
            self.looks += 1;
            for waiting in self.clients.iter_mut().chain(&mut self.targets) {
                waiting.is_held = held.contains_key(&waiting.id);
            }
            self.join(&held);
            self.take_in(legs);
        }
        self.pairs.retain(|client, target| held.contains_key(client) || held.contains_key(target));
    }

    /// The target of a client.
    pub(super) fn target_of(&self, client: u64) -> Option<u64> {
        self.pairs.get(&client).copied()
    }

    /// The targets whose clients are known.
    pub(super) fn joined_targets(&self) -> HashSet<u64> {
        self.pairs.values().copied().collect()
    }

    /// Whether there are too many legs to join them.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Holds what had been sent by the look before against what has arrived by now.
    fn rule_out(&mut self, held: &HashMap<u64, &Leg>) {
        let now = |id: u64| held.get(&id).and_then(|leg| leg.reading);
        let sent = |waiting: &Waiting| {
            let last = self.last.get(&waiting.id)?;
            // Its end may have been counted before its state was seen to change.
            let now = now(waiting.id);
            let may_be_less = last.may_count_end || now.is_none_or(|now| now.may_count_end || now.sent < last.sent);
            Some(last.sent.saturating_sub(u64::from(may_be_less)))
        };
        let both = |waiting: &Waiting| (sent(waiting), now(waiting.id).map(|reading| reading.received));
        let clients: Vec<_> = self.clients.iter().map(both).collect();
        let targets: Vec<_> = self.targets.iter().map(both).collect();
        let is_invented = |sent: Option<u64>, arrived: Option<u64>| sent.zip(arrived).is_some_and(|(s, a)| s > a);
        for (row, client) in self.possible.iter_mut().zip(&clients) {
            for (possible, target) in row.iter_mut().zip(&targets) {
                if is_invented(target.0, client.1) || is_invented(client.0, target.1) {
                    *possible = false;
                }
            }
        }
    }

    /// Joins what is certain of the legs that were held at the whole look before this one.
    fn join(&mut self, held: &HashMap<u64, &Leg>) {
        self.is_over = self.clients.len() > MOST_WAITING || self.targets.len() > MOST_WAITING;
        if !self.is_over {
            match self.certain() {
                Some(certain) => {
                    let taken: HashSet<u64> = certain.iter().flat_map(|(client, target)| [*client, *target]).collect();
                    self.pairs.extend(certain);
                    self.keep(|id| !taken.contains(&id));
                }
                None => self.is_other = true,
            }
        }
        self.keep(|id| held.contains_key(&id));
    }

    /// Takes in the legs that this look is the first to see.
    fn take_in(&mut self, legs: &[Leg]) {
        let joined = self.joined_targets();
        let known: HashSet<u64> = self.clients.iter().chain(&self.targets).map(|waiting| waiting.id).collect();
        for leg in legs.iter().filter(|leg| !known.contains(&leg.id)) {
            let waiting = Waiting { id: leg.id, born: self.looks, is_held: true };
            match leg.end {
                End::Client if !self.pairs.contains_key(&leg.id) => self.clients.push(waiting),
                End::Target if !joined.contains(&leg.id) => self.targets.push(waiting),
                _ => {}
            }
        }
        // A crowd is not even compared; when it has gone, all that is left is possible again.
        if self.clients.len() > MOST_WAITING || self.targets.len() > MOST_WAITING {
            self.possible.clear();
            self.is_over = true;
            return;
        }
        let may_be = |client: &Waiting, target: &Waiting| target.born == client.born || target.born == client.born + 1;
        self.possible.resize_with(self.clients.len(), Vec::new);
        for (row, client) in self.possible.iter_mut().zip(&self.clients) {
            row.extend(self.targets.iter().skip(row.len()).map(|target| may_be(client, target)));
        }
    }

    fn keep(&mut self, is_kept: impl Fn(u64) -> bool) {
        let mut rows = self.clients.iter();
        self.possible.retain(|_| rows.next().is_none_or(|client| is_kept(client.id)));
        for row in &mut self.possible {
            let mut columns = self.targets.iter();
            row.retain(|_| columns.next().is_none_or(|target| is_kept(target.id)));
        }
        self.clients.retain(|client| is_kept(client.id));
        self.targets.retain(|target| is_kept(target.id));
    }

    /// The pairs that are part of every way to give partners to all who must have had one at the whole look before
    /// this one; `None` if there is no such way. Those who need not have one get a dummy of their own.
    fn certain(&self) -> Option<Vec<(u64, u64)>> {
        let (clients, targets) = (self.clients.len(), self.targets.len());
        if self.possible.len() != clients || clients + targets == 0 {
            return Some(Vec::new());
        }
        // A client may have been accepted, and its target not dialled yet, when the first look saw it.
        let is_client_free = |at: usize| !self.clients[at].is_held || self.clients[at].born + 1 >= self.looks;
        let is_target_free = |at: usize| !self.targets[at].is_held;
        let may_be = |left: usize, right: usize| match (left < clients, right < targets) {
            (true, true) => self.possible[left][right],
            (true, false) => right - targets == left && is_client_free(left),
            (false, true) => left - clients == right && is_target_free(right),
            (false, false) => true,
        };
        let count = clients + targets;
        let matching = matching(count, may_be)?;
        // From each to those whose partner it could have instead: who can come back to itself, is not certain.
        let component = components(count, |from, to| from != to && may_be(from, matching[to]));
        let mut sizes = vec![0; count];
        for id in &component {
            sizes[*id] += 1;
        }
        let alone = (0..clients).filter(|client| matching[*client] < targets && sizes[component[*client]] == 1);
        Some(alone.map(|client| (self.clients[client].id, self.targets[matching[client]].id)).collect())
    }
}

/// For each left vertex a right one, all different; `None` where there are none.
fn matching(count: usize, may_be: impl Fn(usize, usize) -> bool) -> Option<Vec<usize>> {
    let mut owner: Vec<Option<usize>> = vec![None; count];
    for left in 0..count {
        if !augment(left, &mut owner, &mut vec![false; count], &may_be) {
            return None;
        }
    }
    let mut matching = vec![0; count];
    for (right, left) in owner.into_iter().enumerate() {
        matching[left?] = right;
    }
    Some(matching)
}

/// Finds a partner for `left`, where need be by giving others another one. As deep as there are vertices at most.
fn augment(
    left: usize,
    owner: &mut [Option<usize>],
    tried: &mut [bool],
    may_be: &impl Fn(usize, usize) -> bool,
) -> bool {
    let count = owner.len();
    if let Some(free) = (0..count).find(|right| owner[*right].is_none() && may_be(left, *right)) {
        owner[free] = Some(left);
        return true;
    }
    for right in 0..count {
        if !may_be(left, right) || std::mem::replace(&mut tried[right], true) {
            continue;
        }
        if owner[right].is_none_or(|other| augment(other, owner, tried, may_be)) {
            owner[right] = Some(left);
            return true;
        }
    }
    false
}

/// The strongly connected component of each vertex, by a number below `count` (Kosaraju: the order in which a first
/// walk leaves the vertices, then a walk against the edges).
fn components(count: usize, has_edge: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let mut order = Vec::with_capacity(count);
    let mut seen = vec![false; count];
    for start in 0..count {
        walk(start, count, &mut seen, &has_edge, &mut order);
    }
    let mut component = vec![usize::MAX; count];
    let mut seen = vec![false; count];
    let against = |from: usize, to: usize| has_edge(to, from);
    for (number, start) in order.into_iter().rev().enumerate() {
        let mut members = Vec::new();
        walk(start, count, &mut seen, &against, &mut members);
        for member in members {
            component[member] = number;
        }
    }
    component
}

/// Depth first from `start`, unless it was seen; vertices are left after all that they lead to.
fn walk(
    start: usize,
    count: usize,
    seen: &mut [bool],
    has_edge: &impl Fn(usize, usize) -> bool,
    left: &mut Vec<usize>,
) {
    if std::mem::replace(&mut seen[start], true) {
        return;
    }
    let mut path = vec![(start, 0)];
    while let Some((at, next)) = path.last_mut() {
        if let Some(to) = (*next..count).find(|to| !seen[*to] && has_edge(*at, *to)) {
            *next = to + 1;
            seen[to] = true;
            path.push((to, 0));
        } else {
            left.push(*at);
            path.pop();
        }
    }
}

#[cfg(test)]
mod tests;
