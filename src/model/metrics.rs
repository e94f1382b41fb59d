//! What is counted since the start, for those who watch from outside: totals, never one client.
//!
//! Counters only grow while a mapping stands. What is told of it goes with it, so there is never more than the
//! mappings that there are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::event::{CloseReason, MappingState};
use super::id::MappingId;
use super::mapping::Protocol;

/// Connect times are sorted by these bounds, in microseconds; each is the longest time that belongs to it.
pub const CONNECT_BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Everything that is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Metrics {
    /// Steady milliseconds since the engine started.
    pub uptime_ms: u64,
    /// Whether every enabled mapping has bound or failed, at least once.
    pub is_ready: bool,
    /// Of listeners and connections; null when the engine has ended.
    pub descriptors: Option<DescriptorUse>,
    /// Connections and UDP flows open now.
    pub connections_open: u64,
    /// Connections and UDP flows since the start, those of mappings that are gone included.
    pub connections_total: u64,
    /// Every mapping of ours, in the order of the profile and then of the command line.
    pub mappings: Vec<MappingMetrics>,
}

/// File descriptors, less the reserve for everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DescriptorUse {
    /// Taken now.
    pub in_use: u64,
    /// Most that may be taken.
    pub limit: u64,
}

/// What is counted of a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MappingMetrics {
    /// Which.
    pub id: MappingId,
    /// Its unique name now.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// State now (contract §3).
    pub state: MappingState,
    /// Payload bytes from clients, those of open connections included.
    pub bytes_in: u64,
    /// Payload bytes to clients, those of open connections included.
    pub bytes_out: u64,
    /// UDP alone.
    pub datagrams: Option<DatagramMetrics>,
    /// How its connections have gone.
    pub connections: ConnectionMetrics,
}

/// Datagrams of a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DatagramMetrics {
    /// Towards the target.
    #[serde(rename = "in")]
    pub inward: u64,
    /// Towards clients.
    #[serde(rename = "out")]
    pub outward: u64,
    /// Received and not passed on: no flow for them, no room in the kernel, no such size.
    pub dropped: u64,
}

/// How a mapping's connections, or UDP flows, have gone. All of it is of one moment: `total` is `open` and all of
/// `closed` together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionMetrics {
    /// Open now.
    pub open: u64,
    /// Since the start, open ones included.
    pub total: u64,
    /// The closed ones by reason; a reason that never was is left out.
    pub closed: Vec<ClosedCount>,
    /// Attempts to reach the target that failed.
    pub failures: ConnectFailures,
    /// How long those took that succeeded; null before the first.
    pub connect_times: Option<ConnectTimes>,
}

/// Connections that ended for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClosedCount {
    /// Why.
    pub reason: CloseReason,
    /// How many.
    pub count: u64,
}

/// Attempts to reach the target that failed, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectFailures {
    /// It refused.
    pub refused: u64,
    /// No route, host unreachable, or the like.
    pub unreachable: u64,
    /// No answer in time.
    pub timeout: u64,
    /// Anything else.
    pub error: u64,
}

/// How long it took to connect; UDP: until the first reply after a silence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectTimes {
    /// For each bound, the lowest first, how many took no longer: each counts those before it too.
    pub buckets: Vec<ConnectBucket>,
    /// All of them, however long they took.
    pub count: u64,
    /// What they took together, in microseconds.
    pub sum_us: u64,
}

/// Connect times up to a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectBucket {
    /// The bound, in microseconds.
    pub up_to_us: u64,
    /// How many took no longer.
    pub count: u64,
}

impl ConnectionMetrics {
    /// How many ended for this reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed.iter().find(|closed| closed.reason == reason).map_or(0, |closed| closed.count)
    }
}

impl ConnectFailures {
    /// Each with its word.
    pub fn by_outcome(self) -> [(&'static str, u64); 4] {
        let Self { refused, unreachable, timeout, error } = self;
        [("refused", refused), ("unreachable", unreachable), ("timeout", timeout), ("error", error)]
    }
}
