//! What clients see: rows of mappings and connections, totals, events.
//!
//! An update carries what changed and what is gone, not the whole world. Rates are the client's to make
//! ([`super::rate`]): an update says the counters and the moment at which they were read.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::container::{Container, DockerState, EnginePlace};
use super::event::{Connection, Event, MappingState};
use super::exchange::Exchange;
use super::id::{ConnectionId, MappingId, Revision};
use super::mapping::{Family, Mapping};
use super::profile::WrittenMapping;
use super::untrusted::SafeText;

/// What a subscriber wants; nothing else is built for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Interest {
    /// Mapping rows and totals.
    pub mappings: bool,
    /// Connection rows, closed ones included.
    pub connections: bool,
    /// Of local clients, which process it is, in connection rows. It is looked for again and again.
    #[serde(default)]
    pub processes: bool,
    /// Events as they happen.
    pub events: bool,
    /// Containers, as the engine tells of them.
    #[serde(default)]
    pub containers: bool,
    /// What Docker itself publishes: rows of [`Owner::Docker`], and with `connections` their sessions.
    #[serde(default)]
    pub published: bool,
    /// How often counters are sampled, in milliseconds; 250 when 0. Events do not wait for it.
    pub sample_ms: u64,
}

/// What changed since the update before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Update {
    /// Counts the updates of this subscription from 1.
    pub seq: u64,
    /// Steady milliseconds since the engine started, at which the counters below were read.
    pub at_ms: u64,
    /// The first one: it holds every row, and what the client had before is void.
    pub is_full: bool,
    /// State of the whole, when it changed.
    pub overview: Option<Overview>,
    /// Rows that are new or changed. Order of our mappings: `Overview::order`.
    pub mappings: Vec<MappingRow>,
    /// Mappings that are gone.
    pub mappings_removed: Vec<MappingId>,
    /// Rows that are new or changed; a closed one comes once more, with its reason.
    pub connections: Vec<ConnectionRow>,
    /// Sessions of published ports that are gone without a row of their own (see [`Observed`]).
    #[serde(default)]
    pub connections_removed: Vec<ConnectionId>,
    /// Containers that are new or changed.
    #[serde(default)]
    pub containers: Vec<Container>,
    /// Ids of containers that are gone.
    #[serde(default)]
    pub containers_removed: Vec<SafeText>,
    /// Events, oldest first.
    pub events: Vec<Event>,
    /// So many events were dropped before `events`, since this client was too slow.
    pub lost: u64,
    /// It goes on in the next one: a long update comes over the control socket in pieces of the same `seq`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_more: bool,
}

impl Update {
    /// Joins the next piece of the same update to this one.
    pub fn join(&mut self, piece: Self) {
        self.mappings.extend(piece.mappings);
        self.connections.extend(piece.connections);
        self.containers.extend(piece.containers);
        self.has_more = piece.has_more;
    }
}

/// State of the whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    /// Revision of the desired state.
    pub revision: Revision,
    /// The profile, if one is open.
    pub profile: Option<ProfileStatus>,
    /// Every mapping of ours, in the order of the profile and then of the command line. Rows of [`Owner::Docker`] are
    /// not in it: clients list them after these, by name.
    pub order: Vec<MappingId>,
    /// The Docker engine.
    pub docker: DockerState,
    /// Whether its containers can be reached from here.
    #[serde(default)]
    pub engine_place: EnginePlace,
    /// Whether undo has something to take back, and what: `delete web`.
    pub undo: Option<SafeText>,
    /// Descriptor limit: in use and most.
    #[schemars(with = "Option<[u64; 2]>")]
    pub descriptors: Option<(u64, u64)>,
    /// Whether every enabled mapping has bound or failed, at least once.
    pub is_ready: bool,
    /// The engine is ending: nothing listens any more, and connections may finish.
    #[serde(default)]
    pub is_ending: bool,
}

/// The open profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileStatus {
    /// Its name; with `--file`, the file's.
    pub name: SafeText,
    /// The file.
    pub path: SafeText,
    /// Why the file as it stands now is not what runs: a refused hand edit or a failed save.
    pub problem: Option<SafeText>,
}

/// Whose a row is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "owner", rename_all = "snake_case")]
pub enum Owner {
    /// A mapping of ours.
    #[default]
    Portolan,
    /// A port that Docker publishes: it is only looked at.
    Docker {
        /// What of its sessions cannot be seen and what that needs, such as
        /// `IPv4 via DNAT: not visible without root`.
        unseen: Vec<SafeText>,
        /// The bytes of some sessions are not counted: the row's own sums mean nothing.
        #[serde(default)]
        is_partial: bool,
    },
}

impl Owner {
    /// Whether the row is only looked at.
    pub fn is_docker(&self) -> bool {
        matches!(self, Self::Docker { .. })
    }
}

/// How a session of a port that Docker publishes is known. It is read from the kernel's tables, so what they do not
/// tell is not told here either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Observed {
    /// Which way it takes.
    pub way: Way,
    /// The client's leg is known; if not, `client` and `listener` of the connection mean nothing.
    pub client_leg: bool,
    /// `bytes_in` and `bytes_out` are counted; if not, they mean nothing.
    pub bytes: bool,
    /// It was there at the first look: since when, nobody has seen, and its age is more than what is told.
    #[serde(default)]
    pub is_older: bool,
    /// The kernel's word for the state of the client's leg and of the target's, such as `ESTABLISHED`.
    pub states: [SafeText; 2],
}

/// How a session of a published port reaches its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Through a process of docker-proxy.
    Proxy,
    /// Rewritten by the packet filter (DNAT), past every process.
    Dnat,
}

/// A mapping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MappingRow {
    /// Which.
    pub id: MappingId,
    /// Whose it is.
    #[serde(default)]
    pub owner: Owner,
    /// Its unique name.
    pub name: String,
    /// Listen, target, protocol.
    pub mapping: Mapping,
    /// As the form shows it and as an edit or a copy starts from.
    pub written: WrittenMapping,
    /// Of the command line, for this session; not in the profile.
    pub is_session: bool,
    /// State (contract §3).
    pub state: MappingState,
    /// Why, where there is more to say than the state.
    pub reason: Option<SafeText>,
    /// Each family asked for, IPv4 first.
    pub listeners: Vec<ListenerRow>,
    /// Addresses of the target now, in the order of trying.
    pub target_addresses: Vec<IpAddr>,
    /// Connections open now.
    pub connections: u64,
    /// Connections since the start, open ones included.
    pub connections_total: u64,
    /// Connections that ended for a reason that is not fine ([`super::event::CloseReason::is_fine`]).
    pub errors: u64,
    /// Bytes from clients, every closed connection included.
    pub bytes_in: u64,
    /// Bytes to clients, every closed connection included.
    pub bytes_out: u64,
    /// Outcome of the last real attempts to reach the target; `None` before the first.
    pub last_result: Option<LastResult>,
    /// Median time to connect over the last attempts that succeeded (64 at most), in microseconds.
    pub connect_p50_us: Option<u64>,
}

/// One family of a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenerRow {
    /// Which family.
    pub family: Family,
    /// `ADDRESS:PORT` or `ADDRESS:FIRST-LAST`; with `auto`, the port that was taken.
    pub address: String,
    /// First bound address with its real port; `None` while it is not bound.
    pub bound: Option<SocketAddr>,
    /// Why it is not bound.
    pub error: Option<SafeText>,
}

/// Outcome of the last real attempts to reach the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastResult {
    /// Of the last attempt.
    pub outcome: LastOutcome,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// How many of the last `attempts` attempts failed.
    pub failures: u32,
    /// Attempts remembered, 3 at most.
    pub attempts: u32,
}

/// What came of an attempt to reach the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LastOutcome {
    /// Connected.
    Ok,
    /// Refused (ECONNREFUSED, or its ICMP for UDP).
    Refused,
    /// No route, host unreachable, or the like.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// Anything else.
    Error,
}

/// A connection or UDP flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionRow {
    /// Its mapping; stays true when the mapping is renamed.
    pub mapping_id: MappingId,
    /// When it was accepted, in the clock of [`Update::at_ms`]: ages are made from it.
    pub opened_at_ms: u64,
    /// When it closed, in the same clock.
    pub closed_at_ms: Option<u64>,
    /// The client's process, such as `curl 4242`, when it is local and can be seen; only with [`Interest::processes`].
    pub process: Option<SafeText>,
    /// Not ours: a session of a port that Docker publishes, and what is known of it.
    #[serde(default)]
    pub observed: Option<Observed>,
    /// Both legs, counters, state.
    pub connection: Connection,
    /// Its latest HTTP requests, the newest last ([`super::exchange::TOLD`] at most).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exchanges: Vec<Exchange>,
    /// Why no more of its HTTP requests are listed, where they were to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchanges_end: Option<SafeText>,
}
