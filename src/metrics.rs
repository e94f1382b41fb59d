//! What is counted, in the texts that Prometheus reads: `OpenMetrics` 1.0 for who knows it, else the older format, which
//! everybody does.
//!
//! The only labels are names of mappings and words of ours, so there are never more series than mappings allow, and a
//! mapping that is gone takes its own along. Reasons and outcomes stand there from the start, since a counter that
//! first appears with its first failure hides that failure from `rate`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::model::event::{CloseReason, MappingState};
use crate::model::metrics::{ConnectTimes, MappingMetrics, Metrics};

/// Stands before every name.
const PREFIX: &str = "portolan";

/// How metrics are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus' own format, 0.0.4.
    Prometheus,
}

impl Format {
    /// The one that is wanted by `Accept` headers: `OpenMetrics` where they name it, unless they would rather have
    /// plain text. Anybody else may never have heard of it.
    pub fn accepted<'h>(headers: impl IntoIterator<Item = &'h str>) -> Self {
        let (mut open_metrics, mut plain) = (0.0_f32, 0.0_f32);
        for range in headers.into_iter().flat_map(|header| header.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if media_type.eq_ignore_ascii_case("application/openmetrics-text") {
                open_metrics = open_metrics.max(weight);
            } else if media_type.eq_ignore_ascii_case("text/plain") {
                plain = plain.max(weight);
            }
        }
        if open_metrics > 0.0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// The metrics as text.
///
/// # Errors
/// As of the library, which has none of its own.
pub fn text(metrics: &Metrics, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    // The library keeps whom it asks.
    registry.register_collector(Box::new(Exposition(metrics.clone())));
    let mut text = String::new();
    match format {
        Format::OpenMetrics => text::encode(&mut text, &registry)?,
        Format::Prometheus => prometheus_text::encode(&mut text, &registry)?,
    }
    Ok(text)
}

/// The metrics of one moment.
#[derive(Debug)]
struct Exposition(Metrics);

/// What a family of series is called, what it means and what it is.
struct Family {
    /// Without prefix, unit and what its type adds (`_total`, `_info`).
    name: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    help: &'static str,
}

/// Labels of a series beside its mapping.
type Label = (&'static str, &'static str);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(metrics) = self;
        encode_engine(metrics, &mut encoder)?;
        encode_mappings(&metrics.mappings, &mut encoder)?;
        encode_connect_times(&metrics.mappings, &mut encoder)
    }
}

/// The series that are of no mapping.
fn encode_engine(metrics: &Metrics, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let build = Family::new("build", MetricType::Info, "The program that speaks.");
    build.start(encoder)?.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;

    let uptime = Family::new("uptime", MetricType::Gauge, "Time since the engine started.").in_unit(Unit::Seconds);
    uptime.start(encoder)?.encode_gauge(&(metrics.uptime_ms as f64 / 1_000.0))?;

    let gauge = |name, help| Family::new(name, MetricType::Gauge, help);
    let ready = gauge("ready", "Whether every enabled mapping has bound or failed, at least once.");
    ready.start(encoder)?.encode_gauge(&u64::from(metrics.is_ready))?;

    let mappings = gauge("mappings", "Mappings, stopped ones included.");
    mappings.start(encoder)?.encode_gauge(&(metrics.mappings.len() as u64))?;

    if let Some(descriptors) = metrics.descriptors {
        let in_use = gauge("descriptors_in_use", "File descriptors taken by listeners and connections.");
        in_use.start(encoder)?.encode_gauge(&descriptors.in_use)?;
        let limit = gauge("descriptors_limit", "File descriptors that listeners and connections may take.");
        limit.start(encoder)?.encode_gauge(&descriptors.limit)?;
    }

    let open = gauge("connections_open", "Connections and UDP flows open now.");
    open.start(encoder)?.encode_gauge(&metrics.connections_open)?;

    let help = "Connections and UDP flows accepted, those of mappings that are gone included.";
    let total = Family::new("connections", MetricType::Counter, help);
    total.start(encoder)?.encode_counter::<NoLabelSet, _, u64>(&metrics.connections_total, None)
}

/// The series of each mapping, but for its histogram.
fn encode_mappings(mappings: &[MappingMetrics], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let info = Family::new("mapping", MetricType::Info, "What the mapping is.");
    let mut series = info.start(encoder)?;
    for mapping in mappings {
        series.encode_info(&[("mapping", mapping.name.clone()), ("protocol", mapping.protocol.to_string())])?;
    }

    let gauge = |name, help| Family::new(name, MetricType::Gauge, help);
    gauge(
        "mapping_up",
        "Whether the mapping is up: all its listeners are bound, its target has an address, no limit bites.",
    )
    .one(encoder, mappings, |mapping| u64::from(mapping.state == MappingState::Up))?;
    gauge("mapping_state", "The state that the mapping is in has 1, every other one 0.").each(
        encoder,
        mappings,
        |mapping| {
            let state = mapping.state;
            MappingState::ALL.into_iter().map(move |one| (("state", one.word()), u64::from(one == state)))
        },
    )?;
    gauge("mapping_connections_open", "Connections and UDP flows open now.")
        .one(encoder, mappings, |mapping| mapping.connections.open)?;

    let counter = |name, help| Family::new(name, MetricType::Counter, help);
    counter("mapping_connections", "Connections and UDP flows accepted.")
        .one(encoder, mappings, |mapping| mapping.connections.total)?;
    counter("mapping_connections_closed", "Connections and UDP flows that have ended, by reason.").each(
        encoder,
        mappings,
        |mapping| {
            let count = |reason| mapping.connections.closed(reason);
            CloseReason::ALL.into_iter().map(move |reason| (("reason", reason.word()), count(reason)))
        },
    )?;
    counter("mapping_connect_failures", "Attempts to reach the target that failed, by outcome.").each(
        encoder,
        mappings,
        |mapping| {
            mapping.connections.failures.by_outcome().into_iter().map(|(outcome, count)| (("outcome", outcome), count))
        },
    )?;
    counter("mapping", "Payload that the receiver's kernel has taken, from clients (in) and to clients (out).")
        .in_unit(Unit::Bytes)
        .each(encoder, mappings, |mapping| both_ways(mapping.bytes_in, mapping.bytes_out))?;
    counter("mapping_datagrams", "Datagrams from clients (in) and to clients (out).").each(
        encoder,
        mappings,
        |mapping| mapping.datagrams.into_iter().flat_map(|datagrams| both_ways(datagrams.inward, datagrams.outward)),
    )?;
    counter("mapping_datagrams_dropped", "Datagrams received and not passed on.").one(
        encoder,
        mappings.iter().filter(|mapping| mapping.datagrams.is_some()),
        |mapping| mapping.datagrams.map_or(0, |datagrams| datagrams.dropped),
    )
}

/// A mapping has its histogram from the first success on.
fn encode_connect_times(mappings: &[MappingMetrics], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Time to connect to the target; udp: until its first reply after a silence.";
    let family = Family::new("mapping_connect", MetricType::Histogram, help).in_unit(Unit::Seconds);
    let mut series = family.start(encoder)?;
    for mapping in mappings {
        let Some(times) = &mapping.connections.connect_times else { continue };
        let labels = [("mapping", mapping.name.as_str())];
        let (sum, count) = (seconds(times.sum_us), times.count);
        series.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets(times), None)?;
    }
    Ok(())
}

impl Family {
    fn new(name: &'static str, kind: MetricType, help: &'static str) -> Self {
        Self { name, unit: None, kind, help }
    }

    fn in_unit(self, unit: Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }

    /// Says what comes; its series follow.
    fn start<'s>(&'s self, encoder: &'s mut DescriptorEncoder<'_>) -> Result<MetricEncoder<'s>, fmt::Error> {
        encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), self.kind)
    }

    /// One series for each mapping.
    fn one<'m>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        mappings: impl IntoIterator<Item = &'m MappingMetrics>,
        value: impl Fn(&MappingMetrics) -> u64,
    ) -> fmt::Result {
        let mut series = self.start(encoder)?;
        for mapping in mappings {
            self.write(&mut series.encode_family(&[("mapping", mapping.name.as_str())])?, value(mapping))?;
        }
        Ok(())
    }

    /// Several series for each mapping, told apart by one more label.
    fn each<'m, I: IntoIterator<Item = (Label, u64)>>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        mappings: &'m [MappingMetrics],
        values: impl Fn(&'m MappingMetrics) -> I,
    ) -> fmt::Result {
        let mut series = self.start(encoder)?;
        for mapping in mappings {
            for (label, value) in values(mapping) {
                self.write(&mut series.encode_family(&[("mapping", mapping.name.as_str()), label])?, value)?;
            }
        }
        Ok(())
    }

    fn write(&self, series: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
        match self.kind {
            MetricType::Counter => series.encode_counter::<NoLabelSet, _, u64>(&value, None),
            _ => series.encode_gauge(&value),
        }
    }
}

fn both_ways(inward: u64, outward: u64) -> [(Label, u64); 2] {
    [(("direction", "in"), inward), (("direction", "out"), outward)]
}

/// Each bound in seconds with what lies between it and the one before, which the library adds up again.
fn buckets(times: &ConnectTimes) -> Vec<(f64, u64)> {
    let bounds = times.buckets.iter().map(|bucket| (seconds(bucket.up_to_us), bucket.count));
    let mut so_far = 0;
    bounds
        .chain([(f64::INFINITY, times.count)])
        .map(|(bound, count)| (bound, count.saturating_sub(std::mem::replace(&mut so_far, count))))
        .collect()
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::id::MappingId;
    use crate::model::mapping::Protocol;
    use crate::model::metrics::{
        CONNECT_BOUNDS_US, ClosedCount, ConnectBucket, ConnectFailures, ConnectionMetrics, DatagramMetrics,
        DescriptorUse,
    };

    fn mapping(name: &str, protocol: Protocol) -> MappingMetrics {
        MappingMetrics {
            id: MappingId(1),
            name: name.to_owned(),
            protocol,
            state: MappingState::Up,
            bytes_in: 0,
            bytes_out: 0,
            datagrams: (protocol == Protocol::Udp).then(DatagramMetrics::default),
            connections: ConnectionMetrics::default(),
        }
    }

    /// A mapping that has seen something, and one that has not.
    fn busy_and_idle() -> Metrics {
        let count = |up_to_us| [0, 2, 3][usize::from(up_to_us >= 250) + usize::from(up_to_us >= 1_000_000)];
        let web = MappingMetrics {
            state: MappingState::Half,
            bytes_in: 1_100,
            bytes_out: u64::MAX,
            connections: ConnectionMetrics {
                open: 2,
                total: 9,
                closed: vec![
                    ClosedCount { reason: CloseReason::Finished, count: 3 },
                    ClosedCount { reason: CloseReason::TargetRefused, count: 4 },
                ],
                failures: ConnectFailures { refused: 4, ..ConnectFailures::default() },
                connect_times: Some(ConnectTimes {
                    buckets: CONNECT_BOUNDS_US
                        .map(|up_to_us| ConnectBucket { up_to_us, count: count(up_to_us) })
                        .into(),
                    count: 5,
                    sum_us: 30_500_000,
                }),
            },
            ..mapping("web", Protocol::Tcp)
        };
        let dns = MappingMetrics {
            datagrams: Some(DatagramMetrics { inward: 7, outward: 6, dropped: 1 }),
            ..mapping("dns", Protocol::Udp)
        };
        Metrics {
            uptime_ms: 61_500,
            is_ready: true,
            descriptors: Some(DescriptorUse { in_use: 12, limit: 4_000 }),
            connections_open: 2,
            connections_total: 20,
            mappings: vec![web, dns],
        }
    }

    #[test]
    fn a_busy_mapping_is_told_by_the_conventions() {
        let text = text(&busy_and_idle(), Format::OpenMetrics).unwrap();
        for line in [
            concat!("portolan_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "# TYPE portolan_uptime_seconds gauge",
            "# UNIT portolan_uptime_seconds seconds",
            "portolan_uptime_seconds 61.5",
            "portolan_ready 1",
            "portolan_mappings 2",
            "portolan_descriptors_in_use 12",
            "portolan_descriptors_limit 4000",
            "portolan_connections_open 2",
            "portolan_connections_total 20",
            "portolan_mapping_info{mapping=\"dns\",protocol=\"udp\"} 1",
            "portolan_mapping_up{mapping=\"web\"} 0",
            "portolan_mapping_up{mapping=\"dns\"} 1",
            "portolan_mapping_state{mapping=\"web\",state=\"half\"} 1",
            "portolan_mapping_state{mapping=\"web\",state=\"up\"} 0",
            "portolan_mapping_connections_open{mapping=\"web\"} 2",
            "portolan_mapping_connections_total{mapping=\"web\"} 9",
            "# TYPE portolan_mapping_connections_closed counter",
            "portolan_mapping_connections_closed_total{mapping=\"web\",reason=\"finished\"} 3",
            "portolan_mapping_connections_closed_total{mapping=\"web\",reason=\"target_refused\"} 4",
            "portolan_mapping_connections_closed_total{mapping=\"web\",reason=\"client_reset\"} 0",
            "portolan_mapping_connections_closed_total{mapping=\"dns\",reason=\"evicted\"} 0",
            "portolan_mapping_connect_failures_total{mapping=\"web\",outcome=\"refused\"} 4",
            "portolan_mapping_connect_failures_total{mapping=\"dns\",outcome=\"timeout\"} 0",
            "# UNIT portolan_mapping_bytes bytes",
            "portolan_mapping_bytes_total{mapping=\"web\",direction=\"in\"} 1100",
            "portolan_mapping_bytes_total{mapping=\"web\",direction=\"out\"} 18446744073709551615",
            "portolan_mapping_datagrams_total{mapping=\"dns\",direction=\"in\"} 7",
            "portolan_mapping_datagrams_total{mapping=\"dns\",direction=\"out\"} 6",
            "portolan_mapping_datagrams_dropped_total{mapping=\"dns\"} 1",
            "portolan_mapping_connect_seconds_sum{mapping=\"web\"} 30.5",
            "portolan_mapping_connect_seconds_count{mapping=\"web\"} 5",
            "portolan_mapping_connect_seconds_bucket{le=\"0.0001\",mapping=\"web\"} 0",
            "portolan_mapping_connect_seconds_bucket{le=\"0.00025\",mapping=\"web\"} 2",
            "portolan_mapping_connect_seconds_bucket{le=\"0.5\",mapping=\"web\"} 2",
            "portolan_mapping_connect_seconds_bucket{le=\"1.0\",mapping=\"web\"} 3",
            "portolan_mapping_connect_seconds_bucket{le=\"10.0\",mapping=\"web\"} 3",
            "portolan_mapping_connect_seconds_bucket{le=\"+Inf\",mapping=\"web\"} 5",
        ] {
            assert!(text.lines().any(|told| told == line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
        let absent = ["datagrams_total{mapping=\"web\"", "_seconds_count{mapping=\"dns\""];
        assert!(!absent.iter().any(|series| text.contains(series)), "{text}");
    }

    #[test]
    fn every_family_says_what_it_is_and_stands_once() {
        let text = text(&busy_and_idle(), Format::OpenMetrics).unwrap();
        let said = |what: &str| -> Vec<&str> {
            text.lines().filter_map(|line| line.strip_prefix(what)?.split(' ').next()).collect()
        };
        let (helps, types) = (said("# HELP "), said("# TYPE "));
        assert_eq!(helps, types);
        let once: BTreeSet<_> = helps.iter().collect();
        assert_eq!(once.len(), helps.len(), "{helps:?}");
        assert!(helps.iter().all(|name| name.starts_with("portolan_")), "{helps:?}");
    }

    /// Its checkers and older scrapers refuse what only `OpenMetrics` has.
    #[test]
    fn the_older_format_has_the_same_series_and_its_own_types() {
        let both = [Format::OpenMetrics, Format::Prometheus].map(|format| text(&busy_and_idle(), format).unwrap());
        // In another order, and a bound that is a whole number is written otherwise.
        let [open_metrics, older] = both.each_ref().map(|text| -> BTreeSet<(Vec<&str>, String)> {
            let series = text.lines().filter(|line| !line.starts_with('#'));
            let parts = series.map(|line| line.rsplit_once(' ').expect("the value stands last"));
            parts
                .map(|(series, value)| {
                    let mut words: Vec<&str> = series.split(['{', ',', '}']).collect();
                    for word in &mut words {
                        *word = word.trim_end_matches('"').trim_end_matches(".0");
                    }
                    // The name stands first.
                    words[1..].sort_unstable();
                    (words, value.to_owned())
                })
                .collect()
        });
        assert_eq!(open_metrics, older);
        let [_, older] = both;
        for line in [
            "# TYPE portolan_build_info gauge",
            "# HELP portolan_connections_total Connections and UDP flows accepted, those of mappings that are gone \
             included.",
            "# TYPE portolan_connections_total counter",
            "# TYPE portolan_mapping_bytes_total counter",
            "# TYPE portolan_uptime_seconds gauge",
            "# TYPE portolan_mapping_connect_seconds histogram",
        ] {
            assert!(older.lines().any(|told| told == line), "no {line} in\n{older}");
        }
        assert!(!["# UNIT", "# EOF", " info\n", " unknown\n"].iter().any(|alien| older.contains(alien)), "{older}");
    }

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        use Format::{OpenMetrics, Prometheus};
        for (accept, format) in [
            (&[][..], Prometheus),
            (&["*/*"], Prometheus),
            (&["text/plain"], Prometheus),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["Application/OpenMetrics-Text; version=0.0.1"], OpenMetrics),
            (&["text/html", "application/openmetrics-text"], OpenMetrics),
            (&["application/openmetrics-text;q=0,*/*;q=0.1"], Prometheus),
            // As Prometheus asks, and as it does where its file wants the older format.
            (
                &["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                   application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                   text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
                OpenMetrics,
            ),
            (
                &["text/plain;version=0.0.4;q=0.4,application/openmetrics-text;version=1.0.0;q=0.3,*/*;q=0.2"],
                Prometheus,
            ),
            (&["application/openmetrics-text;q=x"], Prometheus),
            (&["", ";;,,;q=,"], Prometheus),
        ] {
            assert_eq!(Format::accepted(accept.iter().copied()), format, "{accept:?}");
        }
        assert_eq!(Prometheus.content_type(), "text/plain; version=0.0.4; charset=utf-8");
    }

    #[test]
    fn an_engine_that_has_ended_has_no_descriptors() {
        let text = text(&Metrics::default(), Format::OpenMetrics).unwrap();
        assert!(!text.contains("descriptors"), "{text}");
        assert!(text.contains("\nportolan_ready 0\n"), "{text}");
    }

    /// No name of a mapping can look so.
    #[test]
    fn a_hostile_name_stays_inside_its_label() {
        let name = "a\\b\"} 1\nportolan_ready 7";
        let metrics = Metrics { mappings: vec![mapping(name, Protocol::Tcp)], ..Metrics::default() };
        let line = r#"portolan_mapping_up{mapping="a\\b\"} 1\nportolan_ready 7"} 1"#;
        for format in [Format::OpenMetrics, Format::Prometheus] {
            let text = text(&metrics, format).unwrap();
            assert!(text.lines().any(|told| told == line), "{text}");
            assert!(!text.lines().any(|line| line.starts_with("portolan_ready 7")), "{text}");
        }
    }
}
