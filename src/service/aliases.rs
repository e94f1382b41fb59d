//! The pools of aliases of the mappings that run: whether each may be used, and their tables on disk.
//!
//! A pool is taken for this process when a mapping first wants it, and let go once none does and no connection has an
//! alias of it. Its route is looked at every second: a mapping without it is `failed` with the command that adds it, and
//! recovers by itself. Tables are saved within seconds of a change, large ones within a minute, beside the data path.
//!
//! Each alias that is handed on is logged, with who had it and who has it, up to [`LOGGED`] a second and pool; what goes
//! beyond is counted in one line. Of every alias it is known since when its present client has it, so that an older line
//! of a target's log is known to be another's even where the hand-over was only counted.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Duration, Instant};

use super::changes::ReplyTo;
use super::core::{Job, Service};
use super::desired::Entry;
use crate::forward::alias::{HandOvers, HandedOn, PoolAliases};
use crate::forward::context::Addresses;
use crate::host::alias_route::{self, PoolSight};
use crate::model::alias::{Pool, SavedAliases, WhoIs, nobody, route_commands};
use crate::model::event::EventKind;
use crate::model::id::MappingId;
use crate::model::identity::Identity;
use crate::model::request::{Reply, RequestError};
use crate::model::untrusted::SafeText;
use crate::store::{AliasFile, AliasFileError, Locations, OpenedAliases, PoolHold, saved_aliases};

/// How often routes are looked at, and whether there is anything to save.
pub(super) const LOOK_AT_ALIASES: Duration = Duration::from_secs(1);
/// So many looks after the last one, all routes are read again; between them, the pool's own is enough.
const LOOK_AT_ALL: u32 = 10;
/// A table in which clients were seen and nobody is new is saved so often.
const SAVE_TIMES: Duration = Duration::from_mins(1);
/// At most this part of the time goes into saving.
const SAVING: u32 = 10;
/// Least time between two times that a table is saved, for each client that it has: what is written a second stays the
/// same, and a minute is the most that a killed engine has forgotten.
const FOR_EACH_CLIENT: Duration = Duration::from_millis(1);
/// So many times in a row a pool is not seen before that is believed. What was seen last holds until then: the kernel may be
/// out of memory or descriptors for a moment.
const UNSEEN: u32 = 3;
/// How long a pool is kept that no mapping wants: it may be wanted again at once.
const KEEP: Duration = Duration::from_secs(5);
/// Aliases that were handed on are told in events so often.
const TELL: Duration = Duration::from_secs(10);
/// And so many of them are logged each second, of each pool.
const LOGGED: usize = 100;

/// Every pool that a mapping wants, or wanted a moment ago.
#[derive(Debug, Default)]
pub(super) struct AliasPools {
    pools: BTreeMap<IpNet, Kept>,
    is_looking: bool,
    looks: u32,
    /// When it was last told that aliases were handed on, and how many have been since.
    told: Option<Instant>,
    untold: u64,
    /// The last one of them.
    example: Option<(HandedOn, IpNet)>,
    /// Pools that are let go, until each is saved.
    closing: JoinSet<()>,
}

/// What is known of a pool.
#[derive(Debug)]
struct Kept {
    table: Result<Open, SafeText>,
    sight: Result<PoolSight, SafeText>,
    /// How many times in a row it has not been seen.
    unseen: u32,
    unwanted_since: Option<Instant>,
}

/// A table that this process has.
#[derive(Debug)]
struct Open {
    aliases: Arc<PoolAliases>,
    file: Arc<AliasFile>,
    /// Nobody else on this machine has it.
    hold: PoolHold,
    is_saving: bool,
    saved_at: Instant,
    /// Not before.
    save_next: Instant,
    /// Whether it was said that it cannot be saved.
    has_failed: bool,
}

/// What a job brings back.
#[derive(Debug)]
pub(super) enum AliasJob {
    /// What was seen of pools.
    Looked(Vec<Look>),
    /// What came of saving one, and how long it took.
    Saved(IpNet, Result<(), SafeText>, Duration),
}

/// What was seen of one pool.
#[derive(Debug)]
pub(super) struct Look {
    pool: Pool,
    sight: Result<PoolSight, SafeText>,
    /// The routes of others were looked at, too.
    is_of_all: bool,
    /// Its table, where it was tried to be had.
    opened: Option<Result<(OpenedAliases, PoolHold), SafeText>>,
}

impl AliasPools {
    /// Whether there is anything to look at.
    pub(super) fn has_any(&self) -> bool {
        !self.pools.is_empty()
    }

    /// Where a mapping's connections go, if they can go there as aliases.
    pub(super) fn judged(&self, entry: &Entry, addresses: Addresses, entries: &[Entry]) -> Addresses {
        let Some(pool) = pool_of(entry) else { return addresses };
        if let Some(reason) = self.problem(entry, pool, entries) {
            return Addresses::Refused { reason };
        }
        let Addresses::Known(known) = addresses else { return addresses };
        let is_v4 = pool.addr().is_ipv4();
        let (fitting, others): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|address| address.ip().to_canonical().is_ipv4() == is_v4);
        if fitting.is_empty() && !others.is_empty() {
            let [family, other, pools] =
                if is_v4 { ["IPv4", "IPv6", "fd00:a1a5::/64"] } else { ["IPv6", "IPv4", "198.18.0.0/15"] };
            let text = format!(
                "the target has no {family} address, and {pool} has no {other} ones: set \"alias_pool\" to {other}, such \
                 as {pools}"
            );
            return Addresses::Refused { reason: SafeText::new(&text) };
        }
        Addresses::Known(fitting)
    }

    /// Why clients of a mapping cannot have aliases.
    fn problem(&self, entry: &Entry, network: IpNet, entries: &[Entry]) -> Option<SafeText> {
        let pool = match Pool::new(network) {
            Ok(pool) => pool,
            Err(said) => return Some(SafeText::new(&format!("alias_pool: {said}"))),
        };
        let before = accepted(entries.iter().take_while(|other| other.id != entry.id));
        let rival = before.into_iter().find(|(_, other)| is_rival(&pool, *other));
        if let Some((other, theirs)) = rival {
            let text = format!(
                "{network} overlaps {theirs}, the alias_pool of {}: use the same, or one that is apart",
                other.config.name
            );
            return Some(SafeText::new(&text));
        }
        let Some(kept) = self.pools.get(&network) else { return Some("its aliases are not read yet".into()) };
        if let Err(said) = &kept.table {
            return Some(said.clone());
        }
        let sight = match &kept.sight {
            Ok(sight) => sight,
            Err(said) => return Some(SafeText::new(&format!("cannot see whether {network} is local: {said}"))),
        };
        if let Some(other) = &sight.in_the_way {
            let free = sight.free.map(|free| format!(", such as {free}")).unwrap_or_default();
            let text = format!("{network} overlaps {other}: set \"alias_pool\" to a network that nobody has{free}");
            return Some(SafeText::new(&text));
        }
        if !sight.is_local {
            let [ours, plain] = route_commands(network);
            let print = ours.trim_start_matches("sudo ").replace("--add", "--print");
            let keep = format!("{print} says how to keep it");
            return Some(SafeText::new(&format!("aliases need a route: {ours} (which is: {plain}); {keep}")));
        }
        None
    }

    /// Who is behind an address, by the tables that are open.
    fn who_is(&self, address: IpAddr) -> Option<WhoIs> {
        let open = self.pools.values().filter_map(|kept| kept.table.as_ref().ok());
        WhoIs::latest(open.filter_map(|open| open.aliases.who_is(address)))
    }
}

impl Service {
    /// Takes the pools that are wanted now and were not before. Waits for the disk, once for each: what could not be had is
    /// tried again beside it.
    pub(super) async fn open_alias_pools(&mut self) {
        let wanted: Vec<IpNet> = accepted(self.desired.entries().iter()).into_iter().map(|(_, pool)| pool).collect();
        for (network, kept) in &mut self.aliases.pools {
            let is_wanted = wanted.contains(network);
            kept.unwanted_since = kept.unwanted_since.or_else(|| Some(Instant::now())).filter(|_| !is_wanted);
        }
        for network in wanted {
            let Ok(pool) = Pool::new(network) else { continue };
            if self.aliases.pools.contains_key(&network) {
                continue;
            }
            let looked = spawn_blocking(move || Look::new(pool, true, true)).await;
            if let Ok(look) = looked {
                self.looked_at_pool(look);
            }
        }
    }

    /// Why a mapping whose target is there can give no aliases.
    pub(super) fn alias_refusal(&self, id: MappingId, target: &Addresses) -> Option<SafeText> {
        let entries = self.desired.entries();
        match self.aliases.judged(self.desired.entry(id)?, target.clone(), entries) {
            Addresses::Refused { reason } if !matches!(target, Addresses::Refused { .. }) => Some(reason),
            _ => None,
        }
    }

    /// Looks at the routes of the pools, and saves what has changed in their tables.
    pub(super) fn look_at_aliases(&mut self) {
        self.tell_handed_on();
        for open in self.aliases.pools.values().filter_map(|kept| kept.table.as_ref().ok()) {
            open.hold.turn_away();
        }
        self.save_changed();
        self.close_unwanted();
        if self.aliases.is_looking || self.is_ending || !self.aliases.has_any() {
            return;
        }
        let looks = self.aliases.looks;
        self.aliases.looks = looks.wrapping_add(1);
        let asked: Vec<(Pool, bool, bool)> = self
            .aliases
            .pools
            .iter()
            .filter_map(|(network, kept)| {
                let is_fine = kept.sight.as_ref().is_ok_and(|sight| sight.is_local && sight.in_the_way.is_none());
                let looks_at_all = !is_fine || looks.is_multiple_of(LOOK_AT_ALL);
                Some((Pool::new(*network).ok()?, looks_at_all, kept.table.is_err()))
            })
            .collect();
        self.aliases.is_looking = true;
        self.jobs.spawn(async move {
            let look = move || asked.into_iter().map(|(pool, all, open)| Look::new(pool, all, open)).collect();
            Job::Aliases(AliasJob::Looked(spawn_blocking(look).await.unwrap_or_default()))
        });
    }

    /// The answer of a job.
    pub(super) fn aliases_seen(&mut self, job: AliasJob) {
        match job {
            AliasJob::Looked(looks) => {
                self.aliases.is_looking = false;
                let mut is_new = false;
                for look in looks {
                    // What was let go meanwhile is not taken back.
                    if self.aliases.pools.contains_key(&look.pool.network()) {
                        is_new |= self.looked_at_pool(look);
                    }
                }
                if is_new {
                    self.addresses_changed();
                }
            }
            AliasJob::Saved(network, result, took) => self.saved(network, result, took),
        }
    }

    /// Answers [`crate::model::request::Request::Whois`]: from the tables that are open here, or else from those that are
    /// saved, which other engines may have.
    pub(super) fn whois(&mut self, address: IpAddr, reply: ReplyTo) {
        if let Some(found) = self.aliases.who_is(address) {
            let _ = reply.send(Ok(Reply::Whois(Box::new(found))));
            return;
        }
        self.look_up(reply, async move {
            let Saved { found, unread } = spawn_blocking(move || who_is_saved(address)).await.unwrap_or_default();
            let nobody = || RequestError::NotFound { what: SafeText::new(&nobody(address, &unread)) };
            found.map(|found| Reply::Whois(Box::new(found))).ok_or_else(nobody)
        });
    }

    /// Saves every table, at the end.
    pub(super) async fn save_aliases(&mut self) {
        self.tell_handed_on();
        let pools = std::mem::take(&mut self.aliases.pools);
        let open = pools.into_values().filter_map(|kept| kept.table.ok());
        // What is being saved has not changed since, as it seems, and may be cut off: this waits for it and writes again.
        let is_due = |open: &Open| open.is_saving || open.aliases.has_changed() || open.aliases.was_used();
        let saving: Vec<_> = open.filter(is_due).collect();
        let saved = spawn_blocking(move || {
            for Open { aliases, file, .. } in saving {
                if let Err(error) = file.save(|| aliases.to_save()) {
                    tracing::warn!(%error, "the aliases of {} are not saved", aliases.pool());
                }
            }
        });
        let _ = saved.await;
        while self.aliases.closing.join_next().await.is_some() {}
    }

    /// Takes in what was seen of a pool. Whether it is new.
    fn looked_at_pool(&mut self, look: Look) -> bool {
        let Look { pool, sight, is_of_all, opened } = look;
        // A look that was under way while another one opened the table has found it taken, by this process: what stands
        // stays, since its aliases are in use.
        let stands = self.aliases.pools.get(&pool.network()).is_some_and(|kept| kept.table.is_ok());
        let opened = opened.filter(|_| !stands);
        let table = opened.map(|opened| opened.map(|opened| self.open_table(pool, opened)));
        let Some(kept) = self.aliases.pools.get_mut(&pool.network()) else {
            let table = table.unwrap_or_else(|| Err("its aliases are not read yet".into()));
            self.aliases.pools.insert(pool.network(), Kept { table, sight, unseen: 0, unwanted_since: None });
            return true;
        };
        let problem = |table: &Result<Open, SafeText>| table.as_ref().err().cloned();
        let is_new_table = table.as_ref().is_some_and(|table| problem(table) != problem(&kept.table));
        let is_new = kept.see(sight, is_of_all) || is_new_table;
        if let Some(table) = table {
            kept.table = table;
        }
        is_new
    }

    fn open_table(&mut self, pool: Pool, (opened, hold): (OpenedAliases, PoolHold)) -> Open {
        let OpenedAliases { file, saved, warning } = opened;
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        let now = Instant::now();
        let is_new = saved.is_none();
        let aliases = self.registry.aliases().open(saved.unwrap_or_else(|| SavedAliases::new(pool, random_key())));
        if is_new {
            // Its key is to be the same after the next start.
            aliases.was_not_saved();
        }
        let file = Arc::new(file);
        Open { aliases, file, hold, is_saving: false, saved_at: now, save_next: now, has_failed: false }
    }

    fn save_changed(&mut self) {
        let now = Instant::now();
        for kept in self.aliases.pools.values_mut() {
            let Ok(open) = &mut kept.table else { continue };
            let is_due = open.aliases.has_changed() || (open.aliases.was_used() && now >= open.saved_at + SAVE_TIMES);
            if open.is_saving || !is_due || now < open.save_next {
                continue;
            }
            open.is_saving = true;
            let (aliases, file) = (Arc::clone(&open.aliases), Arc::clone(&open.file));
            self.jobs.spawn(async move {
                let network = aliases.pool().network();
                let begun = Instant::now();
                let saved = spawn_blocking(move || {
                    file.save(|| aliases.to_save()).map_err(|error| {
                        aliases.was_not_saved();
                        SafeText::new(&error.to_string())
                    })
                });
                let saved = saved.await.unwrap_or_else(|_| Err("saving was interrupted".into()));
                Job::Aliases(AliasJob::Saved(network, saved, begun.elapsed()))
            });
        }
    }

    fn saved(&mut self, network: IpNet, result: Result<(), SafeText>, took: Duration) {
        let Some(Ok(open)) = self.aliases.pools.get_mut(&network).map(|kept| kept.table.as_mut()) else { return };
        let now = Instant::now();
        open.is_saving = false;
        (open.saved_at, open.save_next) = (now, now + rest(took, open.aliases.usage().0));
        match result {
            Ok(()) => open.has_failed = false,
            Err(error) => {
                // It is tried again for as long as it takes, and told once.
                if !std::mem::replace(&mut open.has_failed, true) {
                    tracing::warn!("the aliases of {network} are not saved and may be others after a restart: {error}");
                }
            }
        }
    }

    /// Lets go of pools that no mapping wants any more, once their last connection has ended.
    fn close_unwanted(&mut self) {
        let is_over = |kept: &Kept| {
            let is_old = kept.unwanted_since.is_some_and(|since| since.elapsed() >= KEEP);
            is_old
                && match &kept.table {
                    Ok(open) => !open.is_saving && self.registry.aliases().close(&open.aliases.pool()),
                    Err(_) => true,
                }
        };
        let over: Vec<IpNet> =
            self.aliases.pools.iter().filter(|(_, kept)| is_over(kept)).map(|(network, _)| *network).collect();
        for network in over {
            let Some(Kept { table: Ok(open), .. }) = self.aliases.pools.remove(&network) else { continue };
            // What holds it goes with it, once it is saved.
            self.aliases.closing.spawn_blocking(move || {
                if let Err(error) = open.file.save(|| open.aliases.to_save()) {
                    tracing::warn!("the aliases of {network} are not saved: {error}");
                }
            });
        }
        while self.aliases.closing.try_join_next().is_some() {}
    }

    /// Says that aliases were handed on: in the log each, as far as they are few, and from time to time as an event.
    fn tell_handed_on(&mut self) {
        for (network, kept) in &self.aliases.pools {
            let Ok(open) = &kept.table else { continue };
            let HandOvers { told, more, of_strangers } = open.aliases.handed_on();
            for HandedOn { alias, from, to } in told.iter().take(LOGGED) {
                tracing::info!(%alias, %from, %to, "an alias was handed on");
            }
            let unlogged = told.len().saturating_sub(LOGGED) as u64 + more;
            if unlogged > 0 {
                tracing::info!("{unlogged} more aliases of {network} were handed on within a second");
            }
            if of_strangers > 0 {
                let whose = "sources of datagrams that had no reply";
                tracing::debug!("{of_strangers} aliases of {network} were handed on by {whose}, within a second");
            }
            self.aliases.untold += told.len() as u64 + more;
            self.aliases.example = told.last().map(|last| (*last, *network)).or(self.aliases.example);
        }
        let is_due = self.aliases.told.is_none_or(|told| told.elapsed() >= TELL);
        if !is_due {
            return;
        }
        let Some((HandedOn { alias, from, to }, network)) = self.aliases.example.take() else { return };
        let others = match std::mem::take(&mut self.aliases.untold) {
            0 | 1 => String::new(),
            all => format!(" (and {} more)", all - 1),
        };
        self.aliases.told = Some(Instant::now());
        let text = format!("all aliases of {network} are given away: {alias} went from {from} to {to}{others}");
        self.registry.tell(|| EventKind::Warning { message: SafeText::new(&text) });
    }
}

impl Kept {
    /// Takes in what was seen of the pool. Whether that is new.
    fn see(&mut self, sight: Result<PoolSight, SafeText>, is_of_all: bool) -> bool {
        self.unseen = if sight.is_err() { self.unseen.saturating_add(1) } else { 0 };
        let sight = match (sight, &self.sight) {
            // Between two looks at all routes, what was seen of others still holds.
            (Ok(sight), Ok(before)) if !is_of_all => Ok(PoolSight { is_local: sight.is_local, ..before.clone() }),
            (Err(_), Ok(_)) if self.unseen < UNSEEN => return false,
            (sight, _) => sight,
        };
        let is_new = self.sight != sight;
        self.sight = sight;
        is_new
    }
}

impl Look {
    /// Blocks.
    fn new(pool: Pool, is_of_all: bool, opens: bool) -> Self {
        let sight = if is_of_all {
            alias_route::look(&pool)
        } else {
            alias_route::is_local(&pool).map(|is_local| PoolSight { is_local, ..PoolSight::default() })
        };
        let opened = opens.then(|| open(pool));
        let sight = sight.map_err(|error| SafeText::new(&error.to_string()));
        Self { pool, sight, is_of_all, opened }
    }
}

/// How long a table is not saved that was, which took so long and has so many clients.
fn rest(took: Duration, clients: usize) -> Duration {
    let clients = u32::try_from(clients).unwrap_or(u32::MAX);
    (took * SAVING).max(FOR_EACH_CLIENT.saturating_mul(clients).min(SAVE_TIMES))
}

/// What saved tables say of an address.
#[derive(Debug, Default)]
pub struct Saved {
    /// Who is behind it.
    pub found: Option<WhoIs>,
    /// The tables that cannot be read, each with why; they may know more.
    pub unread: Vec<SafeText>,
}

/// Who is behind an address, by what is saved. Blocks.
pub fn who_is_saved(address: IpAddr) -> Saved {
    match Locations::of_this_user() {
        Ok(locations) => {
            let (tables, unread) = saved_aliases(&locations);
            Saved { found: WhoIs::latest(tables.iter().filter_map(|saved| saved.who_is(address))), unread }
        }
        Err(problem) => Saved { found: None, unread: vec![SafeText::new(&problem.to_string())] },
    }
}

/// The pools that mappings have, each with the first one that has it. Of two that overlap, the first one has it; the
/// other is neither opened nor in the way of a third.
fn accepted<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<(&'a Entry, IpNet)> {
    let mut accepted: Vec<(&Entry, IpNet)> = Vec::new();
    for (entry, network) in entries.filter_map(|entry| Some((entry, pool_of(entry)?))) {
        let Ok(pool) = Pool::new(network) else { continue };
        if !accepted.iter().any(|(_, other)| *other == network || is_rival(&pool, *other)) {
            accepted.push((entry, network));
        }
    }
    accepted
}

fn is_rival(pool: &Pool, other: IpNet) -> bool {
    pool.network() != other && pool.overlaps(other)
}

/// Takes a pool, and the table of it. Blocks.
fn open(pool: Pool) -> Result<(OpenedAliases, PoolHold), SafeText> {
    let locations = Locations::of_this_user().map_err(|problem| SafeText::new(&problem.to_string()))?;
    let opened = AliasFile::open(pool, &locations).map_err(|error: AliasFileError| match error.held_here() {
        // Of a pool that no mapping wants any more, as long as connections have aliases of it.
        Some(theirs) => {
            let text = format!("the aliases of {pool} are not read yet: those of {theirs} are still in use here");
            SafeText::new(&text)
        }
        None => SafeText::new(&error.to_string()),
    })?;
    let hold = PoolHold::take(&pool).map_err(|error| {
        // That a damaged table was moved aside is found this once.
        if let Some(warning) = &opened.warning {
            tracing::warn!("{warning}");
        }
        SafeText::new(&error.to_string())
    })?;
    Ok((opened, hold))
}

/// The pool out of which a mapping that runs gives aliases.
fn pool_of(entry: &Entry) -> Option<IpNet> {
    let config = &entry.config;
    (config.enabled && config.identity == Identity::Alias).then_some(config.alias_pool)
}

/// Out of what the standard library keys its own hash tables with, by which it cannot be found out.
fn random_key() -> [u8; 16] {
    let half = || u128::from(RandomState::new().hash_one(()));
    (half() << 64 | half()).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_not_seen_for_a_moment_stays_as_it_was_seen_last() {
        let local = || Ok(PoolSight { is_local: true, ..PoolSight::default() });
        let unseen = || Err(SafeText::from("too many open files"));
        let table = Err("it is tried again".into());
        let mut kept = Kept { table, sight: local(), unseen: 0, unwanted_since: None };
        for _ in 0..2 {
            assert!(!kept.see(unseen(), true) && !kept.see(unseen(), false) && !kept.see(local(), false));
            assert_eq!(kept.sight, local());
        }
        let told: Vec<bool> = (0..5).map(|_| kept.see(unseen(), false)).collect();
        assert_eq!((told, &kept.sight), (vec![false, false, true, false, false], &unseen()));
        assert!(kept.see(local(), true));
        // Of one that was never seen, why is told.
        kept.sight = Err("permission denied".into());
        assert!(kept.see(unseen(), true));
        // What is in the way is known from the last look at all routes.
        let taken = PoolSight { is_local: true, in_the_way: Some("tun0".into()), free: None };
        assert!(kept.see(Ok(taken.clone()), true));
        assert!(!kept.see(local(), false) && kept.sight == Ok(taken));
        assert!(kept.see(local(), true));
    }

    #[test]
    fn a_table_is_saved_within_seconds_while_it_is_small_and_within_a_minute_always() {
        let quick = Duration::from_millis(1);
        for (took, clients, expected) in [
            (quick, 0, Duration::from_millis(10)),
            (quick, 1_000, Duration::from_secs(1)),
            (quick, 30_000, Duration::from_secs(30)),
            (quick, 131_070, SAVE_TIMES),
            // A disk that is so slow is not kept busy.
            (Duration::from_secs(9), 1, Duration::from_secs(90)),
        ] {
            assert_eq!(rest(took, clients), expected, "{took:?} {clients}");
        }
    }
}
