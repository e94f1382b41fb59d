//! Alias addresses: each client appears to the target as its own address out of a pool, for any protocol.
//!
//! The pool is local to this host by a route (`ip route add local 198.18.0.0/15 dev lo`), so that any process may bind
//! to its addresses, and answers come back here. Whether that route stands is the service's to see; a socket that cannot
//! be bound all the same ends its connection in words, and never goes out under another address.
//!
//! Clients are told apart by their addresses alone: the zone of a link-local one is dropped, so that clients which have the
//! same `fe80::` address on links of two interfaces are one client here. A target that is to tell them apart needs them to
//! come by addresses of their own.
//!
//! The service hands in a table for each pool and saves what has changed in it ([`Aliases::open`]); a connection asks for
//! its client's alias and holds it until it ends ([`AliasLease`]). Who gets which is decided by [`table`].

mod bind;
mod free;
mod table;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ipnet::IpNet;
use jiff::Timestamp;

pub(crate) use self::bind::bind;
pub(crate) use self::table::Client;
use self::table::{AliasTable, Place, Refused, Standing};
use crate::forward::pressure::Limit;
use crate::model::alias::{
    AliasClient, ClientKey, FormerAlias, MOST_FORMER, Pool, SavedAliases, Slot, WhoIs, more_aliases, seconds, time,
};
use crate::model::event::CloseReason;
use crate::model::untrusted::SafeText;

/// The tables of all pools that mappings use.
#[derive(Debug, Default)]
pub struct Aliases {
    pools: RwLock<HashMap<IpNet, Arc<PoolAliases>>>,
}

/// The table of one pool, as connections share it.
#[derive(Debug)]
pub struct PoolAliases {
    pool: Pool,
    table: Mutex<Table>,
    /// Somebody has another alias than when it was last saved.
    has_changed: AtomicBool,
    /// Somebody was seen since it was last saved.
    was_used: AtomicBool,
}

#[derive(Debug)]
struct Table {
    aliases: AliasTable,
    /// Since somebody asked.
    handed_on: HandOvers,
}

/// Aliases that were handed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandOvers {
    /// The first of them, up to a bound.
    pub told: Vec<HandedOn>,
    /// How many more there were.
    pub more: u64,
    /// And how many were handed on by clients of which there was no more than a datagram without a reply. Sources of a
    /// flood are such: who had the alias before is not worth a word, and the present one is told with since when.
    pub of_strangers: u64,
}

/// An alias that another client has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedOn {
    /// Which.
    pub alias: IpAddr,
    /// Whose it was.
    pub from: IpAddr,
    /// Whose it is.
    pub to: IpAddr,
}

/// The alias of a connection's client, until dropped.
#[derive(Debug)]
pub(crate) struct AliasLease {
    pool: Arc<PoolAliases>,
    place: Place,
}

/// Why a client has no alias. Told to who looks at its connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAlias {
    /// The pool has no table: the service has taken it away.
    #[error("the aliases of {0} are not open")]
    Closed(IpNet),
    /// Every alias is in use.
    #[error("all {} aliases of {pool} are in use: {}", pool.size(), more_aliases(pool.size()))]
    AllInUse {
        /// Of which.
        pool: Pool,
    },
    /// Those that are not are kept for clients that are known.
    #[error(
        "of the {} aliases of {pool}, too many are in use by clients that the target has not answered: {}",
        pool.size(),
        more_aliases(pool.size())
    )]
    TooManyClaimed {
        /// Of which.
        pool: Pool,
    },
}

impl Aliases {
    /// Lets connections have aliases of a pool, as they were saved. One that is open and has clients stays as it is: a
    /// second table beside it would give its aliases to others.
    pub fn open(&self, saved: SavedAliases) -> Arc<PoolAliases> {
        let pool = saved.pool;
        let mut pools = self.write();
        if let Some(standing) = pools.get(&pool.network()).filter(|standing| standing.usage().0 > 0) {
            return Arc::clone(standing);
        }
        let table =
            Table { aliases: AliasTable::restore(saved, seconds(Timestamp::now())), handed_on: HandOvers::default() };
        let opened = Arc::new(PoolAliases {
            pool,
            table: Mutex::new(table),
            has_changed: AtomicBool::new(false),
            was_used: AtomicBool::new(false),
        });
        pools.insert(pool.network(), Arc::clone(&opened));
        opened
    }

    /// No connection gets an alias of that pool any more, if none has one now; else false, and nothing changes.
    pub fn close(&self, pool: &Pool) -> bool {
        let mut pools = self.write();
        let is_idle = pools.get(&pool.network()).is_none_or(|aliases| !aliases.is_in_use());
        if is_idle {
            pools.remove(&pool.network());
        }
        is_idle
    }

    /// The alias of `client`, and the hold on it.
    pub(crate) fn lease(&self, pool: IpNet, client: IpAddr, what: Client) -> Result<(IpAddr, AliasLease), NoAlias> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let aliases = pools.get(&pool).ok_or(NoAlias::Closed(pool))?;
        aliases.lease(client, what, seconds(Timestamp::now()))
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<IpNet, Arc<PoolAliases>>> {
        self.pools.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolAliases {
    fn lease(self: &Arc<Self>, client: IpAddr, what: Client, now: u32) -> Result<(IpAddr, AliasLease), NoAlias> {
        let mut table = self.lock();
        let taken = table.aliases.take(ClientKey::from(client), what, now).map_err(|refused| match refused {
            Refused::AllInUse => NoAlias::AllInUse { pool: self.pool },
            Refused::TooManyClaimed => NoAlias::TooManyClaimed { pool: self.pool },
        })?;
        let alias = self.pool.address(taken.slot);
        if let Some(FormerAlias { client: from, .. }) = taken.handed_on {
            if table.handed_on.told.len() < MOST_FORMER {
                table.handed_on.told.push(HandedOn { alias, from: from.into(), to: client.to_canonical() });
            } else {
                table.handed_on.more += 1;
            }
        }
        table.handed_on.of_strangers += u64::from(taken.is_recycled);
        self.was_used.store(true, Ordering::Relaxed);
        if taken.is_new {
            self.has_changed.store(true, Ordering::Relaxed);
        }
        Ok((alias, AliasLease { pool: Arc::clone(self), place: taken.place }))
    }

    /// The pool.
    pub fn pool(&self) -> Pool {
        self.pool
    }

    /// Who is behind `address`, if it is an alias; which alias it has, if it is a client's.
    pub fn who_is(&self, address: IpAddr) -> Option<WhoIs> {
        let now = Timestamp::now();
        let table = self.lock();
        let standing: Option<Standing> = match self.pool.slot(address) {
            Some(slot) => table.aliases.by_slot(slot),
            None => table.aliases.by_client(ClientKey::from(address.to_canonical())),
        };
        let slot: Slot = self.pool.slot(address).or(standing.map(|standing| standing.slot))?;
        let present = standing.map(|standing| AliasClient {
            client: standing.client.into(),
            since: time(standing.since),
            last_seen: if standing.open > 0 { now } else { time(standing.last_seen) },
            open_connections: standing.open,
            is_answered: standing.is_known,
            until: None,
        });
        let clients: Vec<_> = present.into_iter().chain(table.aliases.former(slot).map(AliasClient::from)).collect();
        let alias = self.pool.address(slot);
        (!clients.is_empty()).then(|| WhoIs { alias, pool: self.pool.to_string(), clients })
    }

    /// Whether a client has got an alias since it was last to be saved.
    pub fn has_changed(&self) -> bool {
        self.has_changed.load(Ordering::Relaxed)
    }

    /// Whether a client was seen since it was last to be saved.
    pub fn was_used(&self) -> bool {
        self.was_used.load(Ordering::Relaxed)
    }

    /// As it is to be saved now.
    pub fn to_save(&self) -> SavedAliases {
        let table = self.lock();
        // Under the lock: what changes from here on is of the next time.
        self.has_changed.store(false, Ordering::Relaxed);
        self.was_used.store(false, Ordering::Relaxed);
        table.aliases.saved()
    }

    /// What was to be saved was not.
    pub fn was_not_saved(&self) {
        self.has_changed.store(true, Ordering::Relaxed);
        self.was_used.store(true, Ordering::Relaxed);
    }

    /// The aliases that were handed on since the last call.
    pub fn handed_on(&self) -> HandOvers {
        std::mem::take(&mut self.lock().handed_on)
    }

    /// Whether a connection has an alias of it now.
    pub fn is_in_use(&self) -> bool {
        self.lock().aliases.is_in_use()
    }

    /// How many clients have an alias, and what the table takes of memory.
    pub fn usage(&self) -> (usize, usize) {
        let table = self.lock();
        (table.aliases.len(), table.aliases.bytes())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AliasLease {
    /// Whether another client can have the alias once this is dropped.
    pub(crate) fn frees_it(&self) -> bool {
        self.pool.lock().aliases.is_held_by_one(self.place)
    }

    /// The target has answered its client.
    pub(crate) fn prove(&self) {
        if self.pool.lock().aliases.prove(self.place) {
            self.pool.has_changed.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for AliasLease {
    fn drop(&mut self) {
        let now = seconds(Timestamp::now());
        self.pool.lock().aliases.give_back(self.place, now);
        self.pool.was_used.store(true, Ordering::Relaxed);
    }
}

impl NoAlias {
    /// Whether there would be one if another client gave its alias up.
    pub(crate) fn is_for_want(&self) -> bool {
        !matches!(self, Self::Closed(_))
    }

    /// How a connection ends by it, and the limit that it has met.
    pub(crate) fn ends_as(&self) -> (CloseReason, Option<Limit>) {
        match self {
            Self::Closed(_) => (CloseReason::Error, None),
            Self::AllInUse { pool } | Self::TooManyClaimed { pool } => {
                (CloseReason::Limit, Some(Limit::Aliases(pool.size())))
            }
        }
    }
}

impl From<NoAlias> for SafeText {
    fn from(none: NoAlias) -> Self {
        Self::new(&none.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(aliases: &Aliases, network: &str) -> Arc<PoolAliases> {
        let pool = Pool::new(network.parse().unwrap()).unwrap();
        aliases.open(SavedAliases { pool, key: [7; 16], entries: Vec::new(), former: Vec::new() })
    }

    #[test]
    fn a_lease_counts_until_it_is_dropped_and_takes_little_room() {
        assert!(size_of::<Option<AliasLease>>() <= 16);
        let aliases = Aliases::default();
        let pool = opened(&aliases, "192.0.2.0/30");
        let network = pool.pool().network();
        let client: IpAddr = "2001:db8::1".parse().unwrap();
        assert!(!pool.has_changed() && !pool.was_used());
        let (alias, lease) = aliases.lease(network, client, Client::Known).unwrap();
        assert!(pool.has_changed() && pool.was_used());
        let open = || pool.who_is(alias).unwrap().clients[0].open_connections;
        assert_eq!((open(), pool.who_is(client).unwrap().alias), (1, alias));
        assert_eq!(pool.to_save().entries.len(), 1);
        assert!(!pool.has_changed());
        drop(lease);
        assert_eq!(open(), 0);
        assert!(!pool.has_changed() && pool.was_used());
        assert_eq!(pool.who_is("192.0.2.3".parse().unwrap()), None);
    }

    #[test]
    fn a_table_with_clients_is_neither_replaced_nor_closed_under_them() {
        let aliases = Aliases::default();
        let first = opened(&aliases, "192.0.2.0/24");
        let network = first.pool().network();
        let empty = opened(&aliases, "192.0.2.0/24");
        assert!(!Arc::ptr_eq(&first, &empty), "nobody has an alias of it");
        let (alias, lease) = aliases.lease(network, IpAddr::from([10, 0, 0, 1]), Client::Known).unwrap();
        let again = opened(&aliases, "192.0.2.0/24");
        assert!(Arc::ptr_eq(&empty, &again));
        // As many as there are: none of them gets the alias that is held.
        for number in 2..=254 {
            let (other, _lease) = aliases.lease(network, IpAddr::from([10, 0, 0, number]), Client::Known).unwrap();
            assert_ne!(other, alias);
        }
        assert!(!aliases.close(&again.pool()), "it is in use");
        drop(lease);
        assert!(aliases.close(&again.pool()));
    }

    #[test]
    fn a_client_without_an_alias_is_told_why() {
        let aliases = Aliases::default();
        let pool = opened(&aliases, "192.0.2.0/30");
        let network = pool.pool().network();
        let client = |number: u8| IpAddr::from([10, 0, 0, number]);
        let held: Vec<_> =
            (0..2).map(|number| aliases.lease(network, client(number), Client::Known).unwrap()).collect();
        let said = |result: Result<_, NoAlias>| result.unwrap_err().to_string();
        assert_eq!(
            said(aliases.lease(network, client(2), Client::Known)),
            "all 2 aliases of 192.0.2.0/30 are in use: set a larger alias_pool"
        );
        let first = held[0].0;
        drop(held);
        drop(aliases.lease(network, client(2), Client::Known).unwrap());
        let handed = HandedOn { alias: first, from: client(0), to: client(2) };
        assert_eq!(pool.handed_on(), HandOvers { told: vec![handed], ..HandOvers::default() });
        assert_eq!(pool.handed_on(), HandOvers::default());
        assert!(aliases.close(&pool.pool()));
        assert_eq!(said(aliases.lease(network, client(0), Client::Known)), "the aliases of 192.0.2.0/30 are not open");
    }
}
