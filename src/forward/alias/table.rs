//! Who has which alias: a bounded table, without clock, randomness or I/O of its own.
//!
//! A keyed hash of the client says which slot of the pool it is given first; where that is another's, the next free one
//! is, and the table remembers it. So a client keeps its alias as long as the table has it, also across a restart, and
//! nobody outside can choose clients that meet in one slot. A slot is never given to two clients. Once all are given
//! away, the one whose client has been without a connection for the longest is handed on; while every one of them is in
//! use, a new client is refused.
//!
//! A datagram can name any source, so a client is a [`Client::Claimed`] one until its flow has had a reply: it has an
//! alias like any other, and once all are given away, its is handed on before that of any client that is known. Such
//! clients have at most half of the pool, whether or not the rest is given away, and take aliases from known ones only as
//! long as they have less than a quarter. So a flood of made-up sources rotates among itself, keeps out nobody who
//! connects, and at the most a quarter of the known clients, those that have been away longest, find themselves with
//! others. Where the target answers strangers, a flood is as good as clients: no more can be known of UDP.
//!
//! An entry is [`Entry`] and a place in each of two tables of indexes: no key is kept twice. Each step is a look into
//! these, whatever the number of clients.

use std::collections::VecDeque;
use std::hash::Hasher;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::free::FreeSlots;
use crate::model::alias::{ClientKey, FormerAlias, MOST_FORMER, Pool, SavedAlias, SavedAliases, Slot};

/// No entry.
const NONE: u32 = u32::MAX;

/// The clients of one pool.
#[derive(Debug)]
pub(crate) struct AliasTable {
    pool: Pool,
    key: [u8; 16],
    entries: Vec<Entry>,
    by_client: HashTable<u32>,
    by_slot: HashTable<u32>,
    free: FreeSlots,
    /// Entries without a connection, by when that was given up: those of claimed clients, and those of known ones.
    idle: [Ends; 2],
    /// How many entries have one.
    in_use: u32,
    /// How many are of claimed clients.
    claimed: u32,
    former: VecDeque<FormerAlias>,
}

/// Both ends of a list of entries.
#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u32,
    newest: u32,
}

/// How far it is known that a client is where it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// A datagram names it, and nobody has answered it yet.
    Claimed,
    /// It has connected, or the target has answered it.
    Known,
}

/// A client with its alias.
#[derive(Clone, Copy, Debug)]
struct Entry {
    client: ClientKey,
    slot: Slot,
    since: u32,
    last_seen: u32,
    /// Its open connections and flows.
    open: u32,
    /// Its neighbours among those without a connection.
    older: u32,
    newer: u32,
    is_known: bool,
}

/// A client's place in the table, until it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

/// What came of asking for an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) place: Place,
    pub(crate) slot: Slot,
    /// It had none before.
    pub(crate) is_new: bool,
    /// Who had it before, where it was handed on.
    pub(crate) handed_on: Option<FormerAlias>,
    /// It was handed on by a client of whom nothing was known, and who is not remembered.
    pub(crate) is_recycled: bool,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Every alias is in use.
    AllInUse,
    /// Claimed clients have as many as they may, and use all of them.
    TooManyClaimed,
}

/// An alias as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) slot: Slot,
    pub(crate) client: ClientKey,
    pub(crate) since: u32,
    pub(crate) last_seen: u32,
    pub(crate) open: u32,
    pub(crate) is_known: bool,
}

impl AliasTable {
    /// An empty one; `key` is random, and secret.
    pub(crate) fn new(pool: Pool, key: [u8; 16]) -> Self {
        Self {
            pool,
            key,
            entries: Vec::new(),
            by_client: HashTable::new(),
            by_slot: HashTable::new(),
            free: FreeSlots::new(pool.size()),
            idle: [Ends { oldest: NONE, newest: NONE }; 2],
            in_use: 0,
            claimed: 0,
            former: VecDeque::new(),
        }
    }

    /// As it was saved. Of entries that contradict each other, which no table of ours has written, the first one counts.
    /// Who was seen later than `now` was seen by a clock that was ahead, and is of now. Since when it has its alias stays as it
    /// is: too late a time gives no other client's line of a log to it, too early a one would.
    pub(crate) fn restore(saved: SavedAliases, now: u32) -> Self {
        let SavedAliases { pool, key, mut entries, former } = saved;
        let mut table = Self::new(pool, key);
        // Who was seen longest ago is handed on first.
        entries.sort_by_key(|entry| entry.last_seen);
        table.entries.reserve_exact(entries.len());
        for SavedAlias { slot, client, since, last_seen, is_known } in entries {
            if table.find(client).is_none() && table.free.remove(slot.0) {
                let last_seen = last_seen.min(now);
                let entry = Entry { client, slot, since, last_seen, open: 0, older: NONE, newer: NONE, is_known };
                let place = table.enter(entry);
                table.claimed += u32::from(!is_known);
                table.make_idle(place);
            }
        }
        let skip = former.len().saturating_sub(MOST_FORMER);
        table.former.extend(former.into_iter().skip(skip));
        table
    }

    /// As it is to be saved.
    pub(crate) fn saved(&self) -> SavedAliases {
        let entry = |entry: &Entry| {
            let Entry { slot, client, since, last_seen, is_known, .. } = *entry;
            SavedAlias { slot, client, since, last_seen, is_known }
        };
        SavedAliases {
            pool: self.pool,
            key: self.key,
            entries: self.entries.iter().map(entry).collect(),
            former: self.former.iter().copied().collect(),
        }
    }

    /// The alias of `client` for one more connection, which is to be given back.
    pub(crate) fn take(&mut self, client: ClientKey, what: Client, now: u32) -> Result<Taken, Refused> {
        if let Some(at) = self.find(client) {
            if self.entry(at).open == 0 {
                self.unlink(at);
                self.in_use += 1;
            }
            let entry = self.entry_mut(at);
            entry.open = entry.open.saturating_add(1);
            entry.last_seen = now;
            let slot = entry.slot;
            let is_new = what == Client::Known && self.prove(Place(at));
            return Ok(Taken { place: Place(at), slot, is_new, handed_on: None, is_recycled: false });
        }
        let is_known = what == Client::Known;
        let mut entry =
            Entry { client, slot: Slot(0), since: now, last_seen: now, open: 1, older: NONE, newer: NONE, is_known };
        let size = self.pool.size();
        let has_half = !is_known && self.claimed >= (size / 2).max(1);
        let has_quarter = !is_known && self.claimed >= (size / 4).max(1);
        if !has_half && let Some(slot) = self.free.take(self.first_choice(client)) {
            entry.slot = Slot(slot);
            let at = self.enter(entry);
            self.in_use += 1;
            self.claimed += u32::from(!is_known);
            return Ok(Taken {
                place: Place(at),
                slot: entry.slot,
                is_new: is_known,
                handed_on: None,
                is_recycled: false,
            });
        }
        let at = match self.idle.map(|ends| ends.oldest) {
            [NONE, _] if has_half => return Err(Refused::TooManyClaimed),
            [NONE, NONE] => return Err(Refused::AllInUse),
            [NONE, _] if has_quarter => return Err(Refused::TooManyClaimed),
            [NONE, known] => known,
            [claimed, _] => claimed,
        };
        self.unlink(at);
        self.in_use += 1;
        let Entry { client: before, slot, since, last_seen, is_known: was_known, .. } = *self.entry(at);
        self.claimed = self.claimed + u32::from(!is_known) - u32::from(!was_known);
        let hash = self.hash(before);
        // It has an entry, as every one in the list.
        if let Ok(found) = self.by_client.find_entry(hash, |other| *other == at) {
            found.remove();
        }
        entry.slot = slot;
        *self.entry_mut(at) = entry;
        self.index_client(at);
        if !was_known {
            return Ok(Taken { place: Place(at), slot, is_new: is_known, handed_on: None, is_recycled: true });
        }
        let former = FormerAlias { slot, client: before, since, last_seen, until: now };
        if self.former.len() == MOST_FORMER {
            self.former.pop_front();
        }
        self.former.push_back(former);
        Ok(Taken { place: Place(at), slot, is_new: true, handed_on: Some(former), is_recycled: false })
    }

    /// Whether the client there is a claimed one with a single connection: once that ends, its alias is another's to take.
    pub(crate) fn is_held_by_one(&self, place: Place) -> bool {
        let entry = self.entry(place.0);
        !entry.is_known && entry.open == 1
    }

    /// The client there is known from now on. Whether it was not.
    pub(crate) fn prove(&mut self, place: Place) -> bool {
        let entry = self.entry_mut(place.0);
        let is_new = !std::mem::replace(&mut entry.is_known, true);
        self.claimed -= u32::from(is_new);
        is_new
    }

    /// A connection of the client there has ended.
    pub(crate) fn give_back(&mut self, place: Place, now: u32) {
        let Place(at) = place;
        let entry = self.entry_mut(at);
        entry.last_seen = now;
        entry.open = entry.open.saturating_sub(1);
        if entry.open == 0 {
            self.in_use = self.in_use.saturating_sub(1);
            self.make_idle(at);
        }
    }

    /// Who has the alias of a slot.
    pub(crate) fn by_slot(&self, slot: Slot) -> Option<Standing> {
        let at = *self.by_slot.find(hash_of(slot), |at| self.entry(*at).slot == slot)?;
        Some(self.standing(at))
    }

    /// Which alias a client has.
    pub(crate) fn by_client(&self, client: ClientKey) -> Option<Standing> {
        self.find(client).map(|at| self.standing(at))
    }

    /// Who had the alias of a slot before, the latest first.
    pub(crate) fn former(&self, slot: Slot) -> impl Iterator<Item = &FormerAlias> {
        self.former.iter().rev().filter(move |former| former.slot == slot)
    }

    /// Whether a client has a connection.
    pub(crate) fn is_in_use(&self) -> bool {
        self.in_use > 0
    }

    /// How many clients have an alias.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What it takes of memory, the room that its parts keep for more included.
    pub(crate) fn bytes(&self) -> usize {
        let indexes = self.by_client.allocation_size() + self.by_slot.allocation_size();
        let former = self.former.capacity() * size_of::<FormerAlias>();
        self.entries.capacity() * size_of::<Entry>() + indexes + self.free.bytes() + former
    }

    fn standing(&self, at: u32) -> Standing {
        let Entry { client, slot, since, last_seen, open, is_known, .. } = *self.entry(at);
        Standing { slot, client, since, last_seen, open, is_known }
    }

    fn enter(&mut self, entry: Entry) -> u32 {
        let at = u32::try_from(self.entries.len()).expect("a pool has fewer slots");
        self.entries.push(entry);
        self.index_client(at);
        let entries = &self.entries;
        self.by_slot.insert_unique(hash_of(entry.slot), at, |at| hash_of(entries[*at as usize].slot));
        at
    }

    fn index_client(&mut self, at: u32) {
        let (entries, key) = (&self.entries, &self.key);
        let hash = |at: &u32| hash(key, entries[*at as usize].client);
        self.by_client.insert_unique(hash(&at), at, hash);
    }

    fn find(&self, client: ClientKey) -> Option<u32> {
        self.by_client.find(self.hash(client), |at| self.entry(*at).client == client).copied()
    }

    /// Where a client's alias is looked for first: spread evenly over the pool.
    fn first_choice(&self, client: ClientKey) -> u32 {
        let scaled = (u128::from(self.hash(client)) * u128::from(self.pool.size())) >> 64;
        u32::try_from(scaled).unwrap_or(0)
    }

    fn hash(&self, client: ClientKey) -> u64 {
        hash(&self.key, client)
    }

    fn entry(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }

    fn entry_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.entries[at as usize]
    }
}

// The lists of those without a connection.
impl AliasTable {
    fn ends(&mut self, at: u32) -> &mut Ends {
        let which = usize::from(self.entry(at).is_known);
        &mut self.idle[which]
    }

    /// As the newest of its list.
    fn make_idle(&mut self, at: u32) {
        let ends = self.ends(at);
        let before = std::mem::replace(&mut ends.newest, at);
        if before == NONE {
            ends.oldest = at;
        } else {
            self.entry_mut(before).newer = at;
        }
        let entry = self.entry_mut(at);
        (entry.older, entry.newer) = (before, NONE);
    }

    fn unlink(&mut self, at: u32) {
        let Entry { older, newer, .. } = *self.entry(at);
        match older {
            NONE => self.ends(at).oldest = newer,
            older => self.entry_mut(older).newer = newer,
        }
        match newer {
            NONE => self.ends(at).newest = older,
            newer => self.entry_mut(newer).older = older,
        }
        let entry = self.entry_mut(at);
        (entry.older, entry.newer) = (NONE, NONE);
    }
}

fn hash(key: &[u8; 16], client: ClientKey) -> u64 {
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(&client.0);
    hasher.finish()
}

/// Nobody outside chooses slots: any spread will do.
fn hash_of(slot: Slot) -> u64 {
    u64::from(slot.0).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

#[cfg(test)]
mod tests;
