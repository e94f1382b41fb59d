//! The flow table: who talks to whom, since when, and who gives way.
//!
//! It owns the order of flows by use and nothing else: no socket, no clock, no cap of its own. `now` is passed
//! in, and what a flow carries is the caller's. Flows stand in one of three lists, each ordered by last use, so
//! that touching, expiring and choosing a victim take constant time however many flows there are.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::forward::meter::Direction;
use crate::wire::proxy::Told;

/// An established flow that carried something within this time never gives way: then the newcomer is refused.
pub(super) const PROTECTED: Duration = Duration::from_secs(1);

/// What makes a flow. One client socket that dials two of our addresses has two flows, since each reply
/// must leave from the address that was dialled. A proxy in front of us has one for each client that it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    /// The other end: the client, or a proxy in front of us.
    pub(super) client: SocketAddr,
    /// The address of ours that it dialled.
    pub(super) local: SocketAddr,
    /// For whom it speaks, where a PROXY header says so.
    pub(super) told: Option<Told>,
}

impl FlowKey {
    /// The client, as it was told or as the kernel has it.
    pub(super) fn true_client(&self) -> SocketAddr {
        self.told.map_or(self.client, |told| told.client)
    }
}

/// Names a flow for as long as it stands; the id of one that is gone finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowId {
    slot: u32,
    serial: u32,
}

/// So many of the oldest flows are looked at for one that can give way.
const LOOKED_AT: u32 = 16;

/// Flows by key and by id, ordered by use.
#[derive(Debug)]
pub(super) struct FlowTable<T> {
    index: HashMap<FlowKey, u32>,
    slots: Vec<Option<Slot<T>>>,
    free: Vec<u32>,
    lists: [List; 3],
    serial: u32,
    latest: Option<Instant>,
}

#[derive(Debug)]
struct Slot<T> {
    key: FlowKey,
    serial: u32,
    value: T,
    used: Instant,
    standing: Standing,
    older: Option<u32>,
    newer: Option<u32>,
}

/// How much a flow has proved. Whoever floods us with made-up sources gets no further than `Answered`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Never a reply.
    OneWay,
    /// One reply, and nothing since.
    Answered,
    /// Both sides have spoken, and went on.
    Established,
}

/// Whose flows have taken all places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Mostly this table's.
    Here,
    /// Those of the mapping's other listeners, or connections of any kind.
    Elsewhere,
}

#[derive(Clone, Copy, Debug, Default)]
struct List {
    oldest: Option<u32>,
    newest: Option<u32>,
    len: usize,
}

impl FlowId {
    /// For the kernel to carry.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.slot) << 32 | u64::from(self.serial)
    }

    /// Back from the kernel.
    #[expect(clippy::cast_possible_truncation, reason = "each half is cut out on purpose")]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self { slot: (bits >> 32) as u32, serial: bits as u32 }
    }
}

impl<T> FlowTable<T> {
    /// Without flows.
    pub(super) fn new() -> Self {
        Self {
            index: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            lists: Default::default(),
            serial: 0,
            latest: None,
        }
    }

    /// How many flows stand.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none stands.
    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The flow of a key.
    pub(super) fn find(&self, key: &FlowKey) -> Option<FlowId> {
        self.index.get(key).map(|&slot| FlowId { slot, serial: self.slot(slot).serial })
    }

    /// What a flow carries.
    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<(FlowKey, &mut T)> {
        let slot = self.slots.get_mut(id.slot as usize)?.as_mut()?;
        (slot.serial == id.serial).then_some((slot.key, &mut slot.value))
    }

    /// Every flow, in no order.
    pub(super) fn ids(&self) -> Vec<FlowId> {
        self.index.values().map(|&slot| FlowId { slot, serial: self.slot(slot).serial }).collect()
    }

    /// A new flow, used now and never answered. Its key must not stand yet.
    pub(super) fn insert(&mut self, key: FlowKey, value: T, now: Instant) -> FlowId {
        debug_assert!(!self.index.contains_key(&key), "one flow per key");
        let used = self.advance(now);
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let new = Slot { key, serial, value, used, standing: Standing::OneWay, older: None, newer: None };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(new);
            slot
        } else {
            self.slots.push(Some(new));
            u32::try_from(self.slots.len() - 1).expect("each flow holds a descriptor, and those are fewer")
        };
        self.index.insert(key, slot);
        self.append(slot);
        FlowId { slot, serial }
    }

    /// A flow carried a datagram: either direction renews it, and a reply raises its standing.
    pub(super) fn touch(&mut self, id: FlowId, direction: Direction, now: Instant) {
        if self.get_mut(id).is_none() {
            return;
        }
        let used = self.advance(now);
        self.unlink(id.slot);
        let slot = self.slot_mut(id.slot);
        slot.used = used;
        slot.standing = match (slot.standing, direction) {
            (Standing::OneWay, Direction::In) => Standing::OneWay,
            (Standing::OneWay, Direction::Out) => Standing::Answered,
            (Standing::Answered | Standing::Established, _) => Standing::Established,
        };
        self.append(id.slot);
    }

    /// When a flow last carried something.
    pub(super) fn last_used(&self, id: FlowId) -> Option<Instant> {
        let slot = self.slots.get(id.slot as usize)?.as_ref()?;
        (slot.serial == id.serial).then_some(slot.used)
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, id: FlowId) -> Option<(FlowKey, T)> {
        self.get_mut(id)?;
        self.unlink(id.slot);
        let slot = self.slots[id.slot as usize].take()?;
        self.index.remove(&slot.key);
        self.free.push(id.slot);
        if self.index.is_empty() {
            // The memory of a flood goes back with its last flow.
            self.slots = Vec::new();
            self.free = Vec::new();
            self.index = HashMap::new();
        }
        Some((slot.key, slot.value))
    }

    /// A flow that carried nothing for `timeout`.
    pub(super) fn expired(&self, now: Instant, timeout: Duration) -> Option<FlowId> {
        self.oldest_of_all().filter(|(_, used)| now.saturating_duration_since(*used) >= timeout).map(|(id, _)| id)
    }

    /// When the first flow expires, if none is used until then.
    pub(super) fn next_expiry(&self, timeout: Duration) -> Option<Instant> {
        self.oldest_of_all().and_then(|(_, used)| used.checked_add(timeout))
    }

    /// The flow that gives way to a new one; `None` when the new one is to be refused.
    ///
    /// One-way flows go first, the least recently used of them before the others, then those with a single
    /// answer, then established ones that are quiet. But a quarter of the table is left to one-way flows as
    /// long as others can go: those are the new ones that wait for their first reply, and with all places
    /// taken by others each newcomer would push out the one before it, unanswered. A flood gets no more than that.
    /// Where the places are taken elsewhere, perhaps by a flood, established ones are not asked before one-way ones.
    pub(super) fn victim(&self, now: Instant, full: Full) -> Option<FlowId> {
        let one_way = self.oldest(Standing::OneWay);
        let answered = self.oldest(Standing::Answered);
        let quiet =
            self.oldest(Standing::Established).filter(|(_, used)| now.saturating_duration_since(*used) >= PROTECTED);
        let first = if self.lists[Standing::OneWay as usize].len > self.len() / 4 {
            one_way.or(answered).or(quiet)
        } else if full == Full::Here {
            answered.or(quiet).or(one_way)
        } else {
            answered.or(one_way).or(quiet)
        };
        first.map(|(id, _)| id)
    }

    /// Of the few flows that nobody has answered and that were used least recently, the first one that `fits`.
    pub(super) fn one_way(&self, fits: impl Fn(&T) -> bool) -> Option<FlowId> {
        let mut next = self.lists[Standing::OneWay as usize].oldest;
        for _ in 0..LOOKED_AT {
            let (slot, found) = (next?, self.slot(next?));
            if fits(&found.value) {
                return Some(FlowId { slot, serial: found.serial });
            }
            next = found.newer;
        }
        None
    }

    /// A clock that steps back must not break the order of the lists.
    fn advance(&mut self, now: Instant) -> Instant {
        let latest = self.latest.map_or(now, |latest| latest.max(now));
        self.latest = Some(latest);
        latest
    }

    fn oldest_of_all(&self) -> Option<(FlowId, Instant)> {
        [Standing::OneWay, Standing::Answered, Standing::Established]
            .into_iter()
            .filter_map(|standing| self.oldest(standing))
            .min_by_key(|(_, used)| *used)
    }

    fn oldest(&self, standing: Standing) -> Option<(FlowId, Instant)> {
        self.lists[standing as usize].oldest.map(|slot| {
            let found = self.slot(slot);
            (FlowId { slot, serial: found.serial }, found.used)
        })
    }

    fn append(&mut self, slot: u32) {
        let standing = self.slot(slot).standing as usize;
        let before = self.lists[standing].newest.replace(slot);
        self.lists[standing].len += 1;
        match before {
            Some(before) => self.slot_mut(before).newer = Some(slot),
            None => self.lists[standing].oldest = Some(slot),
        }
        let appended = self.slot_mut(slot);
        appended.older = before;
        appended.newer = None;
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { standing, older, newer, .. } = *self.slot(slot);
        let standing = standing as usize;
        self.lists[standing].len -= 1;
        match older {
            Some(older) => self.slot_mut(older).newer = newer,
            None => self.lists[standing].oldest = newer,
        }
        match newer {
            Some(newer) => self.slot_mut(newer).older = older,
            None => self.lists[standing].newest = older,
        }
    }

    fn slot(&self, slot: u32) -> &Slot<T> {
        self.slots[slot as usize].as_ref().expect("index and lists name taken slots alone")
    }

    fn slot_mut(&mut self, slot: u32) -> &mut Slot<T> {
        self.slots[slot as usize].as_mut().expect("index and lists name taken slots alone")
    }
}

#[cfg(test)]
mod tests;
