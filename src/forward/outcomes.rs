//! How a mapping's connections and its attempts to reach its target have ended since the start, for metrics.
//!
//! A few hundred bytes, made when the first of them ends: many mappings never have one. It is written under the lock
//! that is taken then anyway.

use std::time::Duration;

use crate::model::event::CloseReason;
use crate::model::metrics::{
    CONNECT_BOUNDS_US, ClosedCount, ConnectBucket, ConnectFailures, ConnectTimes, ConnectionMetrics,
};
use crate::model::update::LastOutcome;

/// Counts that only grow.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcomes {
    /// By reason, in the order of [`CloseReason::ALL`].
    closed: [u64; CloseReason::ALL.len()],
    failures: ConnectFailures,
    /// Each bound has those that took no longer than it and longer than the one before; the last, those that took
    /// longer than all bounds.
    connected: [u64; CONNECT_BOUNDS_US.len() + 1],
    connecting: Duration,
}

impl Outcomes {
    /// A connection has ended.
    pub(super) fn closed(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    /// An attempt to reach the target has ended.
    pub(super) fn attempted(&mut self, outcome: LastOutcome, took: Duration) {
        match outcome {
            LastOutcome::Ok => {
                let bucket = CONNECT_BOUNDS_US.partition_point(|bound| Duration::from_micros(*bound) < took);
                self.connected[bucket] += 1;
                self.connecting = self.connecting.saturating_add(took);
            }
            LastOutcome::Refused => self.failures.refused += 1,
            LastOutcome::Unreachable => self.failures.unreachable += 1,
            LastOutcome::Timeout => self.failures.timeout += 1,
            LastOutcome::Error => self.failures.error += 1,
        }
    }

    /// As it is told, with what else is known of the connections.
    pub(super) fn metrics(&self, open: u64, total: u64) -> ConnectionMetrics {
        let closed = CloseReason::ALL.into_iter().zip(self.closed).map(|(reason, count)| ClosedCount { reason, count });
        ConnectionMetrics {
            open,
            total,
            closed: closed.filter(|closed| closed.count > 0).collect(),
            failures: self.failures,
            connect_times: self.connect_times(),
        }
    }

    fn connect_times(&self) -> Option<ConnectTimes> {
        let count = self.connected.iter().sum();
        if count == 0 {
            return None;
        }
        let mut so_far = 0;
        let buckets = CONNECT_BOUNDS_US.into_iter().zip(self.connected).map(|(up_to_us, count)| {
            so_far += count;
            ConnectBucket { up_to_us, count: so_far }
        });
        let buckets = buckets.collect();
        Some(ConnectTimes { buckets, count, sum_us: u64::try_from(self.connecting.as_micros()).unwrap_or(u64::MAX) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_count() {
        let mut outcomes = Outcomes::default();
        for (nth, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, nth, "{reason:?} is not in its place");
            (0..=nth).for_each(|_| outcomes.closed(reason));
        }
        let metrics = outcomes.metrics(0, 0);
        for (nth, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(metrics.closed(reason), nth as u64 + 1);
        }
    }

    #[test]
    fn a_time_belongs_to_the_first_bound_that_it_does_not_exceed() {
        let mut outcomes = Outcomes::default();
        assert_eq!(outcomes.metrics(0, 0), ConnectionMetrics::default());
        let times_us = [0, 100, 101, 250, 251, 9_999_999, 10_000_000, 10_000_001, 60_000_000];
        for time in times_us {
            outcomes.attempted(LastOutcome::Ok, Duration::from_micros(time));
        }
        // A nanosecond more than a bound is more.
        outcomes.attempted(LastOutcome::Ok, Duration::from_nanos(100_001));
        let times = outcomes.metrics(0, 0).connect_times.unwrap();
        let count = |up_to: u64| times.buckets.iter().find(|bucket| bucket.up_to_us == up_to).unwrap().count;
        assert_eq!([count(100), count(250), count(500), count(5_000_000)], [2, 5, 6, 6]);
        assert_eq!((count(10_000_000), times.count), (8, 10));
        assert_eq!(times.sum_us, times_us.iter().sum::<u64>() + 100);
    }

    #[test]
    fn failures_are_no_connect_times() {
        let mut outcomes = Outcomes::default();
        let failures = [LastOutcome::Refused, LastOutcome::Unreachable, LastOutcome::Timeout, LastOutcome::Error];
        for (nth, outcome) in failures.into_iter().enumerate() {
            (0..=nth).for_each(|_| outcomes.attempted(outcome, Duration::from_secs(5)));
        }
        let metrics = outcomes.metrics(0, 0);
        assert_eq!(metrics.failures.by_outcome().map(|(_, count)| count), [1, 2, 3, 4]);
        assert_eq!(metrics.connect_times, None);
    }

    #[test]
    fn a_mapping_costs_little_and_an_unused_one_nothing() {
        assert!(size_of::<Outcomes>() <= 320, "{}", size_of::<Outcomes>());
        assert_eq!(size_of::<Option<Box<Outcomes>>>(), size_of::<usize>());
    }
}
