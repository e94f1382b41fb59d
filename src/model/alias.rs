//! Alias addresses: as which address of a pool each client appears to a target, as plain data.
//!
//! What a pool is and which of its addresses are given away, how a table of aliases is written down, and what is
//! answered to who asks for the client behind an alias. Who gets which alias is decided in `forward::alias`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::identity::DEFAULT_ALIAS_POOL;
use super::untrusted::SafeText;

/// Most aliases of one pool, and so most clients that are remembered. A larger pool is used in part.
pub const MOST_ALIASES: u32 = 131_072;
/// Aliases that were handed on, of which the former client is remembered; the oldest gives way.
pub const MOST_FORMER: usize = 1_024;

/// A network out of which clients get their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    network: IpNet,
}

/// An address of a pool by its place: the lowest that is given away is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// Longest prefixes of a pool, of IPv4 and of IPv6: a smaller one has too few addresses to give.
const LONGEST: (u8, u8) = (30, 126);
/// Shortest ones: a larger one would make local what is all the world's.
const SHORTEST: (u8, u8) = (8, 16);
/// Networks whose addresses no client can have.
const RESERVED_V4: &[&str] = &["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"];
const RESERVED_V6: &[&str] = &["::/128", "::1/128", "::ffff:0.0.0.0/96", "fe80::/10", "ff00::/8"];

/// Why a network cannot be a pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{said}")]
pub struct Unfit {
    said: String,
    /// What to write instead.
    pub hint: &'static str,
}

impl Pool {
    /// Of a network that has addresses to give away; the error says why it has none, or none that can be used.
    pub fn new(network: IpNet) -> Result<Self, Unfit> {
        let network = network.trunc();
        let pool = Self { network };
        let is_v4 = network.addr().is_ipv4();
        let of_family = |(v4, v6)| if is_v4 { v4 } else { v6 };
        if network.prefix_len() > of_family(LONGEST) {
            let said = format!("{network} has too few addresses");
            return Err(Unfit { said, hint: "198.18.0.0/15 has 131,072" });
        }
        let own = "use one of your own, such as 198.18.0.0/15, 10.200.0.0/16 or fd00:a1a5::/64";
        let mut reserved = if is_v4 { RESERVED_V4 } else { RESERVED_V6 }.iter();
        if let Some(other) = reserved.find(|other| other.parse().is_ok_and(|other| pool.overlaps(other))) {
            let said = format!("{network} reaches into {other}, which is not for clients");
            return Err(Unfit { said, hint: own });
        }
        let shortest: u8 = of_family(SHORTEST);
        if network.prefix_len() < shortest {
            let said = format!("{network} is too large: a pool of its family is a /{shortest} at the most");
            return Err(Unfit { said, hint: own });
        }
        Ok(pool)
    }

    /// The network.
    pub fn network(&self) -> IpNet {
        self.network
    }

    /// How many addresses it gives away: not the first (the network's, or of IPv6 every router's), nor the last (IPv4's
    /// broadcast), and never more than [`MOST_ALIASES`].
    pub fn size(&self) -> u32 {
        let bits = u32::from(self.network.max_prefix_len() - self.network.prefix_len());
        let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        u32::try_from(all - 2).unwrap_or(u32::MAX).min(MOST_ALIASES)
    }

    /// The address of a slot.
    pub fn address(&self, slot: Slot) -> IpAddr {
        let offset = slot.0.saturating_add(1);
        match self.network.network() {
            IpAddr::V4(first) => IpAddr::V4(first.to_bits().wrapping_add(offset).into()),
            IpAddr::V6(first) => IpAddr::V6(first.to_bits().wrapping_add(offset.into()).into()),
        }
    }

    /// The slot of an address that the pool gives away.
    pub fn slot(&self, address: IpAddr) -> Option<Slot> {
        let offset = match (self.network.network(), address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(ip)) => u128::from(ip.to_bits().checked_sub(first.to_bits())?),
            (IpAddr::V6(first), IpAddr::V6(ip)) => ip.to_bits().checked_sub(first.to_bits())?,
            _ => return None,
        };
        let place = u32::try_from(offset.checked_sub(1)?).ok()?;
        (place < self.size()).then_some(Slot(place))
    }

    /// Whether an address lies in it, given away or not.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.network.contains(&address.to_canonical())
    }

    /// Whether it and `other` have an address in common.
    pub fn overlaps(&self, other: IpNet) -> bool {
        self.network.contains(&other) || other.contains(&self.network)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.network.fmt(f)
    }
}

/// What makes a pool local to its host, in words: the two commands, of which either will do.
pub fn route_commands(pool: IpNet) -> [String; 2] {
    let family = if pool.addr().is_ipv4() { "" } else { "-6 " };
    let of_pool = if pool == DEFAULT_ALIAS_POOL { String::new() } else { format!(" --pool {pool}") };
    [format!("sudo portolan alias-route --add{of_pool}"), format!("ip {family}route add local {pool} dev lo")]
}

/// What to do where all aliases of a pool are in use, of which there are so many.
pub fn more_aliases(size: u32) -> &'static str {
    // The first and the last address of a network are never given away.
    if size >= MOST_ALIASES - 2 { "give mappings alias_pools of their own" } else { "set a larger alias_pool" }
}

/// Who is not found, for an error; with the tables that could not be asked.
pub fn nobody(address: IpAddr, unread: &[SafeText]) -> String {
    let unread: Vec<&str> = unread.iter().map(SafeText::as_str).collect();
    let unread = if unread.is_empty() { String::new() } else { format!(" ({})", unread.join("; ")) };
    format!("a client behind {address}, or an alias of it{unread},")
}

/// A client as a table keeps it: its address, IPv4 as IPv4-mapped, without a zone. One that comes over IPv4 to a socket
/// of either family is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(pub [u8; 16]);

impl From<IpAddr> for ClientKey {
    fn from(ip: IpAddr) -> Self {
        Self(match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        })
    }
}

impl From<ClientKey> for IpAddr {
    fn from(key: ClientKey) -> Self {
        Self::V6(Ipv6Addr::from(key.0)).to_canonical()
    }
}

/// A table of aliases as it is kept on disk. Times are seconds since 1970 in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedAliases {
    /// The pool.
    pub pool: Pool,
    /// The key of the hash that says which alias a client is given first.
    pub key: [u8; 16],
    /// Each with an alias of its own.
    pub entries: Vec<SavedAlias>,
    /// Who had an alias before, the oldest first.
    pub former: Vec<FormerAlias>,
}

/// One alias and its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedAlias {
    /// Which.
    pub slot: Slot,
    /// Whose.
    pub client: ClientKey,
    /// Since when. What a target logged before is of another client.
    pub since: u32,
    /// When a connection of it was last seen to begin or end.
    pub last_seen: u32,
    /// It has connected, or was answered; else no more than datagrams without a reply were seen of it.
    pub is_known: bool,
}

/// An alias that was handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerAlias {
    /// Which.
    pub slot: Slot,
    /// Whose it was.
    pub client: ClientKey,
    /// Since when.
    pub since: u32,
    /// When a connection of that client was last seen to begin or end.
    pub last_seen: u32,
    /// When another client got it.
    pub until: u32,
}

/// Who is behind an alias, or which alias a client has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhoIs {
    /// The address that the target sees.
    pub alias: IpAddr,
    /// The pool that it is of.
    pub pool: String,
    /// Its client, and before it those that had the alias before, the latest first.
    pub clients: Vec<AliasClient>,
}

/// A client that has an alias, or had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AliasClient {
    /// Its address.
    pub client: IpAddr,
    /// When it got the alias: what a target logged of the alias before is another client's.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Timestamp,
    /// When a connection of it was last seen to begin or end; a client with open connections is seen now.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub last_seen: Timestamp,
    /// Connections and flows that are open now.
    pub open_connections: u32,
    /// It has connected, or the target has answered it. Otherwise it is no more than the source of datagrams, which anybody
    /// can write on them.
    pub is_answered: bool,
    /// When the alias was handed on to another client; null for the one that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,
}

impl SavedAliases {
    /// Nobody's; `key` is random, and secret.
    pub fn new(pool: Pool, key: [u8; 16]) -> Self {
        Self { pool, key, entries: Vec::new(), former: Vec::new() }
    }

    /// What it says of an address, be it an alias or a client's; no connection is open.
    pub fn who_is(&self, address: IpAddr) -> Option<WhoIs> {
        let key = ClientKey::from(address.to_canonical());
        let slot = match self.pool.slot(address) {
            Some(slot) => slot,
            None => self.entries.iter().find(|entry| entry.client == key)?.slot,
        };
        let present = self.entries.iter().find(|entry| entry.slot == slot).map(|entry| AliasClient {
            client: entry.client.into(),
            since: time(entry.since),
            last_seen: time(entry.last_seen),
            open_connections: 0,
            is_answered: entry.is_known,
            until: None,
        });
        let former = self.former.iter().rev().filter(|former| former.slot == slot);
        let clients: Vec<AliasClient> = present.into_iter().chain(former.map(AliasClient::from)).collect();
        let alias = self.pool.address(slot);
        (!clients.is_empty()).then(|| WhoIs { alias, pool: self.pool.to_string(), clients })
    }
}

impl WhoIs {
    /// Of what several tables say, what was seen last: a client may have an alias of each of several pools, and tables stay
    /// of pools that are no longer used.
    pub fn latest(found: impl Iterator<Item = Self>) -> Option<Self> {
        found.max_by_key(|found| found.clients.iter().map(|client| client.last_seen).max())
    }
}

impl From<&FormerAlias> for AliasClient {
    fn from(former: &FormerAlias) -> Self {
        Self {
            client: former.client.into(),
            since: time(former.since),
            last_seen: time(former.last_seen),
            open_connections: 0,
            // Of others it is not remembered that they had one.
            is_answered: true,
            until: Some(time(former.until)),
        }
    }
}

/// Seconds since 1970 as a time.
pub fn time(seconds: u32) -> Timestamp {
    // Every u32 is a time that jiff knows.
    Timestamp::from_second(seconds.into()).unwrap_or_default()
}

/// A time as seconds since 1970: those before are the first, and those after 2106 the last.
pub fn seconds(time: Timestamp) -> u32 {
    u32::try_from(time.as_second().max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Pool {
        Pool::new(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_first_and_the_last_address_are_not_given_away() {
        for (text, size, first, last) in [
            ("198.18.0.0/15", 131_070, "198.18.0.1", "198.19.255.254"),
            ("192.0.2.0/30", 2, "192.0.2.1", "192.0.2.2"),
            ("10.0.0.0/8", 131_072, "10.0.0.1", "10.2.0.0"),
            ("fd00::/64", 131_072, "fd00::1", "fd00::2:0"),
            ("fd00::/126", 2, "fd00::1", "fd00::2"),
            ("fd00::/16", 131_072, "fd00::1", "fd00::2:0"),
        ] {
            let pool = pool(text);
            assert_eq!(pool.size(), size, "{text}");
            assert_eq!(pool.address(Slot(0)), first.parse::<IpAddr>().unwrap(), "{text}");
            assert_eq!(pool.address(Slot(size - 1)), last.parse::<IpAddr>().unwrap(), "{text}");
            for slot in [0, 1, size / 2, size - 1].map(Slot) {
                assert_eq!(pool.slot(pool.address(slot)), Some(slot), "{text}");
            }
            assert_eq!(pool.slot(pool.network().network()), None);
            assert_eq!(pool.slot(pool.network().broadcast()), None);
        }
        assert_eq!(pool("198.18.0.0/15").slot("::ffff:198.18.0.1".parse().unwrap()), Some(Slot(0)));
        assert_eq!(pool("198.18.0.0/15").slot("fd00::1".parse().unwrap()), None);
    }

    #[test]
    fn a_pool_that_gives_nothing_away_is_refused() {
        for text in [
            "192.0.2.0/31",
            "192.0.2.1/32",
            "fd00::/127",
            "127.0.0.0/16",
            "0.0.0.0/0",
            "224.0.0.0/8",
            "fe80::/64",
            "ff00::/8",
            "::ffff:1.2.0.0/112",
            "240.0.0.0/8",
            "169.254.0.0/16",
            "::/0",
            // By a part of it, or as it is too large.
            "169.0.0.0/8",
            "128.0.0.0/7",
            "8.0.0.0/7",
            "8000::/1",
            "2000::/3",
        ] {
            assert!(Pool::new(text.parse().unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_client_is_the_same_by_either_family() {
        let [plain, mapped] =
            ["192.0.2.7", "::ffff:192.0.2.7"].map(|text| ClientKey::from(text.parse::<IpAddr>().unwrap()));
        assert_eq!(plain, mapped);
        assert_eq!(IpAddr::from(mapped), "192.0.2.7".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_saved_table_says_who_has_an_alias_and_who_had_it() {
        let key = |text: &str| ClientKey::from(text.parse::<IpAddr>().unwrap());
        let saved = SavedAliases {
            pool: pool("198.18.0.0/15"),
            key: [0; 16],
            entries: vec![SavedAlias {
                slot: Slot(4),
                client: key("2001:db8::7"),
                since: 4,
                last_seen: 9,
                is_known: true,
            }],
            former: vec![
                FormerAlias { slot: Slot(4), client: key("192.0.2.1"), since: 0, last_seen: 1, until: 2 },
                FormerAlias { slot: Slot(4), client: key("192.0.2.2"), since: 2, last_seen: 3, until: 4 },
            ],
        };
        let by_alias = saved.who_is("198.18.0.5".parse().unwrap()).unwrap();
        let clients: Vec<String> = by_alias.clients.iter().map(|client| client.client.to_string()).collect();
        assert_eq!(clients, ["2001:db8::7", "192.0.2.2", "192.0.2.1"]);
        assert_eq!(by_alias.clients[1].until, Some(time(4)));
        assert_eq!(by_alias.clients[0].since, time(4));
        assert_eq!(saved.who_is("2001:db8::7".parse().unwrap()), Some(by_alias));
        assert_eq!(saved.who_is("198.18.0.6".parse().unwrap()), None);
        // Of two tables that know a client, the one that has seen it last speaks.
        let mut other = SavedAliases::new(pool("10.200.0.0/16"), [0; 16]);
        other.entries.push(SavedAlias { last_seen: 10, ..saved.entries[0] });
        for tables in [[&saved, &other], [&other, &saved]] {
            let found = tables.iter().filter_map(|table| table.who_is("2001:db8::7".parse().unwrap()));
            assert_eq!(WhoIs::latest(found).unwrap().pool, "10.200.0.0/16");
        }
    }
}
