//! What the simulated service counts: as much as its rows say, and all of a kind.

use super::story::{Actor, Story};
use crate::model::event::CloseReason;
use crate::model::mapping::Protocol;
use crate::model::metrics::{
    CONNECT_BOUNDS_US, ClosedCount, ConnectBucket, ConnectFailures, ConnectTimes, ConnectionMetrics, DatagramMetrics,
    DescriptorUse, MappingMetrics, Metrics,
};

impl Story {
    /// Answers [`crate::model::request::Request::Metrics`].
    pub(super) fn metrics(&self) -> Metrics {
        let mappings: Vec<_> = self.actors.iter().map(|actor| self.mapping_metrics(actor)).collect();
        let sum = |count: fn(&ConnectionMetrics) -> u64| mappings.iter().map(|one| count(&one.connections)).sum();
        let connections_open = sum(|connections| connections.open);
        Metrics {
            uptime_ms: self.now_ms,
            is_ready: true,
            descriptors: Some(DescriptorUse { in_use: 2 * connections_open, limit: 4_096 }),
            connections_open,
            connections_total: sum(|connections| connections.total),
            mappings,
        }
    }

    fn mapping_metrics(&self, actor: &Actor) -> MappingMetrics {
        let row = self.row(actor);
        let protocol = actor.config.mapping.protocol;
        let fine = actor.total - actor.errors;
        let counts = [(CloseReason::Finished, fine), (CloseReason::TargetRefused, actor.errors)];
        MappingMetrics {
            id: row.id,
            name: row.name,
            protocol,
            state: row.state,
            bytes_in: row.bytes_in,
            bytes_out: row.bytes_out,
            datagrams: (protocol == Protocol::Udp).then(DatagramMetrics::default),
            connections: ConnectionMetrics {
                open: row.connections,
                total: row.connections_total,
                closed: counts
                    .into_iter()
                    .filter(|(_, count)| *count > 0)
                    .map(|(reason, count)| ClosedCount { reason, count })
                    .collect(),
                failures: ConnectFailures { refused: actor.errors, ..ConnectFailures::default() },
                connect_times: row.connect_p50_us.map(|took| all_took(took, fine + row.connections)),
            },
        }
    }
}

/// As if each had taken the same time.
fn all_took(took_us: u64, count: u64) -> ConnectTimes {
    let buckets = CONNECT_BOUNDS_US
        .map(|up_to_us| ConnectBucket { up_to_us, count: if took_us <= up_to_us { count } else { 0 } });
    ConnectTimes { buckets: buckets.into(), count, sum_us: took_us * count }
}

#[cfg(test)]
mod tests {
    use super::super::story::STEP_MS;
    use super::*;

    #[test]
    fn what_is_counted_adds_up_as_the_story_goes_on() {
        let mut story = Story::new();
        for _ in 0..100 {
            let metrics = story.metrics();
            for mapping in &metrics.mappings {
                let ConnectionMetrics { open, total, closed, failures, connect_times } = &mapping.connections;
                assert_eq!(*total, open + closed.iter().map(|closed| closed.count).sum::<u64>(), "{}", mapping.name);
                let connected = connect_times.as_ref().map_or(0, |times| times.count);
                assert!(connected + failures.refused <= *total, "{}", mapping.name);
            }
            assert!(metrics.connections_total > 0);
            story.advance_to(story.now_ms + STEP_MS);
        }
    }
}
