//! What portolan is to reach beside the others, and whether it does.
//!
//! A ratio is the median of the ratios of paired rounds. It is reached when it is within a twentieth of what was asked
//! for: smaller differences are not resolved on a shared machine.

use crate::cases::Case;
use crate::contestants::Contestant::{self, Direct, DockerProxy, Haproxy, Nginx, PlainPortolan, Socat};
use crate::record::Record;
use crate::statistics::median;

/// Within this share of a target counts as reached.
const NEAR: f64 = 0.05;

/// One thing to reach.
#[derive(Debug)]
pub(crate) struct Target {
    case: &'static str,
    key: &'static str,
    goal: Goal,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// At least so many times the other's figure.
    TimesAtLeast(f64, Contestant),
    /// At most so many times the other's figure.
    TimesAtMost(f64, Contestant),
    /// At most so many times the other's figure, which is counted and not timed: there is nothing near it.
    CountAtMost(f64, Contestant),
    /// At most the other's figure and so much more.
    Above(f64, Contestant),
    /// At most this.
    AtMost(f64),
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Fully.
    Reached,
    /// As nearly as can be told.
    Within,
    /// Not.
    Short,
    /// Nobody knows: the test or the peer was left out.
    NotMeasured,
}

impl Verdict {
    /// For tables.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Within => "within 5 %",
            Self::Short => "SHORT",
            Self::NotMeasured => "not measured",
        }
    }
}

const fn at_least(case: &'static str, key: &'static str, times: f64, other: Contestant) -> Target {
    Target { case, key, goal: Goal::TimesAtLeast(times, other) }
}

const fn at_most(case: &'static str, key: &'static str, times: f64, other: Contestant) -> Target {
    Target { case, key, goal: Goal::TimesAtMost(times, other) }
}

const fn count_at_most(case: &'static str, key: &'static str, times: f64, other: Contestant) -> Target {
    Target { case, key, goal: Goal::CountAtMost(times, other) }
}

const fn absolute(case: &'static str, key: &'static str, most: f64) -> Target {
    Target { case, key, goal: Goal::AtMost(most) }
}

/// Everything to reach.
pub(crate) static ALL: [Target; 67] = [
    at_least("bulk-8-up", "gb_per_s", 1.15, DockerProxy),
    at_least("bulk-8-up", "gb_per_s", 1.7, Haproxy),
    at_least("bulk-8-up", "gb_per_s", 1.7, Nginx),
    at_least("bulk-8-up", "gb_per_s", 1.7, Socat),
    at_least("bulk-8-up", "gb_per_s", 0.65, Direct),
    at_most("bulk-8-up", "cpu_s_per_gb", 0.85, DockerProxy),
    at_most("bulk-8-up", "cpu_s_per_gb", 0.3, Haproxy),
    at_most("bulk-8-up", "cpu_s_per_gb", 0.3, Nginx),
    at_least("bulk-8-down", "gb_per_s", 1.15, DockerProxy),
    at_least("bulk-8-down", "gb_per_s", 1.7, Haproxy),
    at_least("bulk-8-down", "gb_per_s", 1.7, Nginx),
    at_least("bulk-8-down", "gb_per_s", 1.7, Socat),
    at_least("bulk-8-down", "gb_per_s", 0.65, Direct),
    at_most("bulk-8-down", "cpu_s_per_gb", 0.85, DockerProxy),
    at_most("bulk-8-down", "cpu_s_per_gb", 0.3, Haproxy),
    at_most("bulk-8-down", "cpu_s_per_gb", 0.3, Nginx),
    at_least("bulk-1-up", "gb_per_s", 1.0, DockerProxy),
    at_least("bulk-1-up", "gb_per_s", 2.0, Haproxy),
    at_least("bulk-1-up", "gb_per_s", 2.0, Nginx),
    at_least("bulk-1-down", "gb_per_s", 1.0, DockerProxy),
    at_least("bulk-1-down", "gb_per_s", 2.0, Haproxy),
    at_least("bulk-1-down", "gb_per_s", 2.0, Nginx),
    at_most("ping-1", "p99_us", 0.85, DockerProxy),
    at_most("ping-1", "p50_us", 2.2, Direct),
    at_least("ping-64", "tx_per_s", 1.4, DockerProxy),
    at_least("ping-64", "tx_per_s", 1.0, Nginx),
    at_least("ping-64", "tx_per_s", 1.0, Haproxy),
    at_most("ping-64", "p99_us", 0.2, DockerProxy),
    at_least("connect", "conn_per_s", 1.3, DockerProxy),
    at_least("connect", "conn_per_s", 1.0, Nginx),
    at_most("connect", "cpu_us_per_conn", 0.7, DockerProxy),
    at_least("connect-idle", "conn_per_s", 1.3, DockerProxy),
    at_least("connect-idle", "conn_per_s", 1.0, Nginx),
    at_most("connect-idle", "cpu_us_per_conn", 0.7, DockerProxy),
    absolute("idle", "pss_bytes", 2_500.0),
    absolute("idle", "total_bytes", 8_000.0),
    absolute("idle", "descriptors", 2.0),
    absolute("mappings", "processes", 1.0),
    absolute("mappings", "total_mb", 10.0),
    absolute("mappings", "ready_s", 0.3),
    at_least("udp-1000x64", "packets_per_s", 1.9, DockerProxy),
    at_least("udp-1000x64", "packets_per_s", 1.4, Nginx),
    at_most("udp-1000x64", "cpu_s_per_million", 0.5, DockerProxy),
    at_least("udp-1000x1400", "packets_per_s", 1.9, DockerProxy),
    at_least("udp-1000x1400", "packets_per_s", 1.4, Nginx),
    at_most("udp-1000x1400", "cpu_s_per_million", 0.5, DockerProxy),
    Target { case: "udp-burst-150k", key: "lost_percent", goal: Goal::Above(0.1, Direct) },
    at_least("udp-burst-400k", "received_per_s", 2.5, DockerProxy),
    // Once it has told who the client is, a connection takes the same path as one that tells nothing.
    at_least("id-proxy-ping-64", "tx_per_s", 0.9, PlainPortolan),
    at_most("id-proxy-ping-64", "cpu_us_per_tx", 1.1, PlainPortolan),
    at_least("id-proxy-bulk-8-down", "gb_per_s", 0.9, PlainPortolan),
    count_at_most("id-proxy-count", "instructions", 1.03, PlainPortolan),
    count_at_most("id-proxy-count", "user_instructions", 1.03, PlainPortolan),
    count_at_most("id-proxy-count", "calls", 1.03, PlainPortolan),
    at_least("id-proxy-v1-ping-64", "tx_per_s", 0.9, PlainPortolan),
    at_most("id-proxy-v1-ping-64", "cpu_us_per_tx", 1.1, PlainPortolan),
    at_least("id-proxy-v1-bulk-8-down", "gb_per_s", 0.9, PlainPortolan),
    count_at_most("id-proxy-v1-count", "instructions", 1.03, PlainPortolan),
    count_at_most("id-proxy-v1-count", "user_instructions", 1.03, PlainPortolan),
    count_at_most("id-proxy-v1-count", "calls", 1.03, PlainPortolan),
    at_least("id-alias-ping-64", "tx_per_s", 0.9, PlainPortolan),
    at_most("id-alias-ping-64", "cpu_us_per_tx", 1.1, PlainPortolan),
    at_least("id-alias-bulk-8-down", "gb_per_s", 0.9, PlainPortolan),
    count_at_most("id-alias-count", "instructions", 1.03, PlainPortolan),
    count_at_most("id-alias-count", "user_instructions", 1.03, PlainPortolan),
    count_at_most("id-alias-count", "calls", 1.03, PlainPortolan),
    at_least("id-http-64", "tx_per_s", 1.0, Nginx),
];

impl Target {
    /// The test that it is of.
    pub(crate) fn case(&self) -> &'static Case {
        Case::all().iter().find(|case| case.id == self.case).expect("targets name tests that there are")
    }

    /// The figure as tables call it.
    pub(crate) fn heading(&self) -> &'static str {
        let metrics = self.case().metrics;
        metrics.iter().find(|metric| metric.key == self.key).expect("targets name figures of their test").heading
    }

    /// What is asked for, in words.
    pub(crate) fn asked(&self) -> String {
        match self.goal {
            Goal::TimesAtLeast(times, other) => format!("≥ {times} × {}", other.name()),
            Goal::TimesAtMost(times, other) | Goal::CountAtMost(times, other) => {
                format!("≤ {times} × {}", other.name())
            }
            Goal::Above(more, other) => format!("≤ {}'s + {more}", other.name()),
            Goal::AtMost(most) => format!("≤ {most}"),
        }
    }

    /// What was found, as a number in the terms of what is asked for.
    pub(crate) fn found(&self, record: &Record) -> Option<f64> {
        let case = self.case();
        match self.goal {
            Goal::TimesAtLeast(_, other) | Goal::TimesAtMost(_, other) | Goal::CountAtMost(_, other) => {
                median(record.pairs(case, other, self.key).into_iter().map(|(ours, theirs)| ours / theirs))
            }
            Goal::Above(_, other) => {
                median(record.pairs(case, other, self.key).into_iter().map(|(ours, theirs)| ours - theirs))
            }
            Goal::AtMost(_) => median(record.values(case, Contestant::Portolan, self.key).into_values()),
        }
    }

    /// On how many rounds that rests; for a ratio, on how many pairs.
    pub(crate) fn rounds(&self, record: &Record) -> usize {
        let case = self.case();
        match self.goal {
            Goal::TimesAtLeast(_, other)
            | Goal::TimesAtMost(_, other)
            | Goal::CountAtMost(_, other)
            | Goal::Above(_, other) => record.pairs(case, other, self.key).len(),
            Goal::AtMost(_) => record.values(case, Contestant::Portolan, self.key).len(),
        }
    }

    /// Whether it is reached.
    pub(crate) fn verdict(&self, record: &Record) -> Verdict {
        let Some(found) = self.found(record) else { return Verdict::NotMeasured };
        let (is_reached, is_near) = match self.goal {
            Goal::TimesAtLeast(times, _) => (found >= times, found >= times * (1.0 - NEAR)),
            Goal::TimesAtMost(most, _) | Goal::AtMost(most) => (found <= most, found <= most * (1.0 + NEAR)),
            Goal::Above(most, _) | Goal::CountAtMost(most, _) => (found <= most, false),
        };
        match (is_reached, is_near) {
            (true, _) => Verdict::Reached,
            (false, true) => Verdict::Within,
            (false, false) => Verdict::Short,
        }
    }
}
