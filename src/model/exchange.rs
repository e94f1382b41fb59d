//! A request of HTTP and what came of it, as rows and details list it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format;
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
    /// Its target as it was asked for, without a query (those hold secrets), cut where it is long.
    pub path: SafeText,
    /// The status of the response; none while there is none yet, or where none came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// From the request's head to the end of the response, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
}

impl Exchange {
    /// What came of it and what was asked for: `200 GET /index.html 1.2ms`. The status stands first, since paths are cut.
    pub fn text(&self) -> String {
        let (status, time) = self.outcome();
        format!("{status} {} {}{}{time}", self.method, self.path, if time.is_empty() { "" } else { " " })
    }

    /// Its status, `...` while it is waited for and `-` where none came, and how long it took.
    pub fn outcome(&self) -> (String, String) {
        let status = match (self.status, self.duration_us) {
            (Some(status), _) => status.to_string(),
            (None, None) => "...".to_owned(),
            (None, Some(_)) => "-".to_owned(),
        };
        (status, self.duration_us.map(format::latency).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_its_status_before_what_may_be_cut() {
        let mut exchange = Exchange {
            at: Timestamp::UNIX_EPOCH,
            method: "GET".into(),
            path: "/a?b=c".into(),
            status: None,
            duration_us: None,
        };
        assert_eq!(exchange.text(), "... GET /a?b=c");
        exchange.duration_us = Some(1_200);
        assert_eq!(exchange.text(), "- GET /a?b=c 1.2ms");
        exchange.status = Some(404);
        assert_eq!(exchange.text(), "404 GET /a?b=c 1.2ms");
    }
}
