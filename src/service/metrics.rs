//! What is counted since the start, gathered when somebody asks.

use std::sync::Arc;

use super::core::Service;
use crate::forward::engine::Engine;
use crate::model::mapping::Protocol;
use crate::model::metrics::{DatagramMetrics, DescriptorUse, MappingMetrics, Metrics};

impl Service {
    pub(super) fn metrics(&mut self) -> Metrics {
        let descriptors = self.engine.as_ref().map(Engine::descriptors);
        Metrics {
            uptime_ms: self.registry.now_ms(),
            is_ready: self.is_ready,
            descriptors: descriptors.map(|(in_use, limit)| DescriptorUse { in_use, limit }),
            connections_open: self.registry.open_count(),
            connections_total: self.registry.opened_count(),
            mappings: self.mapping_metrics(),
        }
    }

    /// Of bytes, what was last told stands where it was more: a reset takes back what the kernel had taken and did not
    /// deliver, and a counter that falls is taken for one that began anew.
    fn mapping_metrics(&mut self) -> Vec<MappingMetrics> {
        let mut each = self.mapping_metrics_now();
        let told = std::mem::take(&mut self.told_bytes);
        for mapping in &mut each {
            let (bytes_in, bytes_out) = told.get(&mapping.id).copied().unwrap_or_default();
            mapping.bytes_in = mapping.bytes_in.max(bytes_in);
            mapping.bytes_out = mapping.bytes_out.max(bytes_out);
            self.told_bytes.insert(mapping.id, (mapping.bytes_in, mapping.bytes_out));
        }
        each
    }

    fn mapping_metrics_now(&self) -> Vec<MappingMetrics> {
        let known: Vec<_> =
            self.desired.entries().iter().filter_map(|entry| Some((entry, self.known.get(&entry.id)?))).collect();
        let meters: Vec<_> = known.iter().map(|(_, known)| Arc::clone(&known.status().meter)).collect();
        let totals = self.registry.totals_of(&meters);
        let each = known.into_iter().zip(meters).zip(totals).map(|(((entry, known), meter), counts)| {
            let protocol = entry.config.mapping.protocol;
            MappingMetrics {
                id: entry.id,
                name: entry.config.name.clone(),
                protocol,
                state: known.status().state,
                bytes_in: counts.bytes_in,
                bytes_out: counts.bytes_out,
                datagrams: (protocol == Protocol::Udp).then(|| DatagramMetrics {
                    inward: counts.datagrams_in,
                    outward: counts.datagrams_out,
                    dropped: meter.dropped_datagrams(),
                }),
                connections: meter.connection_metrics(),
            }
        });
        each.collect()
    }
}
