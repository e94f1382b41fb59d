//! The event stream (contract §5): what `run --json` prints, one object a line, and the Events view lists.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::container::DockerState;
use super::id::ConnectionId;
use super::mapping::Protocol;
use super::problem::Problem;
use super::untrusted::SafeText;

/// The target of log records that say what an event says: nobody makes an event of them once more.
pub const LOG_TARGET: &str = "portolan::event";

/// One event with its time (RFC 3339, UTC, milliseconds).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When it happened.
    #[serde(serialize_with = "milliseconds")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened. `listener` is `ADDRESS:PORT` or, for a range, `ADDRESS:FIRST-LAST`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A family of a mapping is bound.
    Listening {
        /// Name of the mapping.
        mapping: String,
        /// The bound address.
        listener: String,
        /// Its protocol.
        protocol: Protocol,
        /// The target as written.
        target: String,
    },
    /// A family of a mapping could not be bound.
    MappingFailed {
        /// Name of the mapping.
        mapping: String,
        /// The address asked for.
        listener: String,
        /// Why, and by whom it is held.
        error: SafeText,
    },
    /// A mapping's state changed (contract §3).
    MappingState {
        /// Name of the mapping.
        mapping: String,
        /// The new state.
        state: MappingState,
        /// Why, where there is more to say than the state.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<SafeText>,
    },
    /// Every enabled mapping has bound or failed; comes once.
    Ready {
        /// Enabled mappings.
        mappings: usize,
        /// Those with at least one listener.
        listening: usize,
        /// Those with none.
        failed: usize,
    },
    /// A target by name has another address, or none.
    TargetChanged {
        /// Name of the mapping.
        mapping: String,
        /// The target as written.
        target: String,
        /// The address tried first; null when there is none now.
        target_address: Option<String>,
    },
    /// A client was accepted.
    Opened {
        /// The connection.
        connection: Connection,
    },
    /// What has changed since the last one.
    Traffic {
        /// Mappings whose totals or open connections changed.
        mappings: Vec<MappingTraffic>,
        /// Open connections whose counters, state or target leg changed; none where only text is wanted.
        connections: Vec<Connection>,
        /// So many connections have been accepted since; each says so by `opened`, those whose client a PROXY header is
        /// to tell once it has.
        #[serde(default, skip_serializing_if = "is_zero")]
        opened: u64,
        /// So many connections have closed since; each has said so by `closed`.
        #[serde(default, skip_serializing_if = "is_zero")]
        closed: u64,
    },
    /// A connection has ended.
    Closed {
        /// The connection, with its final counters and reason.
        connection: Connection,
    },
    /// A hand edit of the profile was refused; what runs goes on.
    ProfileRejected {
        /// Every problem.
        problems: Vec<Problem>,
    },
    /// A hand edit of the profile was applied.
    ProfileApplied {
        /// Mappings added, changed and removed.
        added: usize,
        /// See above.
        changed: usize,
        /// See above.
        removed: usize,
    },
    /// A mapping is gone.
    Removed {
        /// Name of the mapping.
        mapping: String,
    },
    /// The Docker engine was found or lost.
    Docker {
        /// What is known of it now.
        docker: DockerState,
    },
    /// Something that the user should know and that ends nothing.
    Warning {
        /// The text.
        message: SafeText,
    },
    /// This reader was too slow: so many events are missing here.
    Lost {
        /// How many.
        count: u64,
    },
}

/// State of a mapping (contract §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MappingState {
    /// It is being bound for the first time; gone before `ready`.
    Starting,
    /// Every listener asked for is bound.
    Up,
    /// One family is bound, the other is not.
    Half,
    /// The target has no address now; clients are reset at once.
    Waiting,
    /// No listener is bound; retried with backoff.
    Failed,
    /// Bound, but a limit bites.
    Degraded,
    /// Not enabled.
    Stopped,
}

/// A connection or UDP flow, both legs (contract §5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Connection {
    /// Unique within a run.
    pub id: ConnectionId,
    /// Name of the mapping.
    pub mapping: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The client's address, as the kernel gives it, or as its PROXY header told it: then `peer` is the kernel's.
    pub client: SocketAddr,
    /// With a PROXY header: who has sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// As which address the client appears to the target, with the identity `alias`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<IpAddr>,
    /// The address that the client dialled, at this host.
    pub listener: SocketAddr,
    /// Our address towards the target; null until known.
    pub source: Option<SocketAddr>,
    /// The target as the user wrote it, with the port of this connection.
    pub target: String,
    /// The target's address; null until known.
    pub target_address: Option<SocketAddr>,
    /// Where its life stands.
    pub state: ConnectionState,
    /// With `half_closed`: who has finished sending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_side: Option<Side>,
    /// When it was accepted.
    #[serde(serialize_with = "milliseconds")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub opened_at: Timestamp,
    /// Its age, or how long it lived.
    pub duration_ms: u64,
    /// Payload bytes from the client that the target's kernel has taken.
    pub bytes_in: u64,
    /// Payload bytes from the target that the client's kernel has taken.
    pub bytes_out: u64,
    /// UDP: datagrams towards the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams_in: Option<u64>,
    /// UDP: datagrams towards the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams_out: Option<u64>,
    /// HTTP requests so far, where they are looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// With `closed`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CloseReason>,
    /// Where there is more to say than the reason: what happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<SafeText>,
}

/// Where a connection's life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// Accepted; the target is being dialled.
    Connecting,
    /// Both legs stand.
    Open,
    /// One side has finished sending, the other still may.
    HalfClosed,
    /// What was read is being delivered before the end.
    Closing,
    /// Ended.
    Closed,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Target,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// Both sides have finished sending.
    Finished,
    /// The client sent a reset.
    ClientReset,
    /// The target sent a reset.
    TargetReset,
    /// The target refused the connection.
    TargetRefused,
    /// The target cannot be reached, or has no address now.
    TargetUnreachable,
    /// No address of the target answered within `connect_timeout`.
    ConnectTimeout,
    /// No byte for `idle_timeout`.
    IdleTimeout,
    /// Half-closed and no byte for `half_close_timeout`.
    HalfCloseTimeout,
    /// The user reset it.
    Killed,
    /// Its mapping was removed, stopped, or listens elsewhere now.
    MappingRemoved,
    /// The gate did not let it in (for example: it would forward to itself).
    Rejected,
    /// The mapping's `max_connections` or the descriptor limit is reached.
    Limit,
    /// A UDP flow gave its place to another.
    Evicted,
    /// Its task panicked.
    Fault,
    /// The program ends.
    Shutdown,
    /// Another error; `error` says which.
    Error,
}

/// Totals of a mapping, every connection that ever closed included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MappingTraffic {
    /// Name of the mapping.
    pub mapping: String,
    /// Connections open now.
    pub connections: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

impl Event {
    /// An event of that time, to the millisecond, which is what crosses to other processes.
    pub fn new(time: Timestamp, kind: EventKind) -> Self {
        Self { time: to_the_millisecond(time), kind }
    }
}

impl MappingState {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Starting, Self::Up, Self::Half, Self::Waiting, Self::Failed, Self::Degraded, Self::Stopped];

    /// The contract's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Half => "half",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Degraded => "degraded",
            Self::Stopped => "stopped",
        }
    }
}

impl CloseReason {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 16] = [
        Self::Finished,
        Self::ClientReset,
        Self::TargetReset,
        Self::TargetRefused,
        Self::TargetUnreachable,
        Self::ConnectTimeout,
        Self::IdleTimeout,
        Self::HalfCloseTimeout,
        Self::Killed,
        Self::MappingRemoved,
        Self::Rejected,
        Self::Limit,
        Self::Evicted,
        Self::Fault,
        Self::Shutdown,
        Self::Error,
    ];

    /// The contract's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ClientReset => "client_reset",
            Self::TargetReset => "target_reset",
            Self::TargetRefused => "target_refused",
            Self::TargetUnreachable => "target_unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::HalfCloseTimeout => "half_close_timeout",
            Self::Killed => "killed",
            Self::MappingRemoved => "mapping_removed",
            Self::Rejected => "rejected",
            Self::Limit => "limit",
            Self::Evicted => "evicted",
            Self::Fault => "fault",
            Self::Shutdown => "shutdown",
            Self::Error => "error",
        }
    }

    /// Whether the connection ended as its ends wished, so that no one needs to look at it.
    pub fn is_fine(self) -> bool {
        matches!(self, Self::Finished | Self::IdleTimeout | Self::Shutdown | Self::Killed | Self::MappingRemoved)
    }
}

/// The time without what is finer than a millisecond.
pub fn to_the_millisecond(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn milliseconds<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_that_cross() {
        for reason in CloseReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.word());
        }
        for state in MappingState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.word());
        }
    }
}
