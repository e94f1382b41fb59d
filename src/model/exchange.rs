//! A request of HTTP and what came of it, as rows and details list it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::untrusted::SafeText;

/// Of a connection's requests, so many of the latest are told with its row.
pub const TOLD: usize = 16;

/// A request and its response, as far as it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exchange {
    /// When its head had arrived.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// Its method.
    pub method: SafeText,
    /// Its target as it was asked for, cut where it is long.
    pub path: SafeText,
    /// The status of the response; none while there is none yet, or where none came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// From the request's head to the end of the response, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
}
