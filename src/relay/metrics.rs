//! What a relay says about itself.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use hyperdht_rs::relay::{EndReason, RelayCounters};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        counter::ConstCounter,
        gauge::{ConstGauge, Gauge},
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::Running;
use crate::metrics::{Exposition, register_process};

/// The relay's metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Moves when an HTTP connection opens or closes.
    pub(super) http_connections: Gauge,
    registry: Registry,
}

impl Metrics {
    /// Those of a relay that may not run yet.
    pub(super) fn new(running: Arc<OnceLock<Running>>) -> Self {
        let mut root = Registry::default();
        register_process(&mut root);
        let all = root.sub_registry_with_prefix("dht_prometheus_relay");
        all.register_collector(Box::new(ServiceCollector { running }));
        let http_connections = Gauge::default();
        all.register("http_connections", "HTTP connections open", http_connections.clone());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        all.register("build", "The running version", build);
        Self { http_connections, registry: root }
    }

    /// All of it as text.
    pub(super) fn expose(&self, exposition: Exposition) -> String {
        exposition.write(&self.registry)
    }
}

/// Reads the service's own counters at each scrape.
#[derive(Debug)]
struct ServiceCollector {
    running: Arc<OnceLock<Running>>,
}

impl Collector for ServiceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let running = self.running.get();
        let counters = running.map(|running| running.server.counters()).unwrap_or_default();
        let dropped = running.map_or(0, |running| running.node.udx_counters().dropped_relayed);
        for (name, help, value) in gauges(&counters) {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let kind = gauge.metric_type();
            gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        for (name, help, unit, value) in totals(&counters, dropped) {
            let counter = ConstCounter::new(value);
            let kind = counter.metric_type();
            counter.encode(encoder.encode_descriptor(name, help, unit.as_ref(), kind)?)?;
        }
        let (name, help) = ("pairings", "Requests of clients to be joined, by what came of them");
        family(&mut encoder, (name, help), "outcome", &outcomes(&counters))?;
        let reasons = EndReason::ALL.map(EndReason::as_str);
        let ended: Vec<_> = reasons.into_iter().zip(counters.ended).collect();
        let (name, help) = ("ended_sessions", "Sessions that have ended, by why");
        family(&mut encoder, (name, help), "reason", &ended)
    }
}

fn gauges(counters: &RelayCounters) -> [(&'static str, &'static str, usize); 3] {
    [
        ("clients", "Clients connected", counters.clients),
        ("pending_pairings", "Clients that wait for their partner", counters.pending),
        ("sessions", "Pairs of clients joined", counters.sessions),
    ]
}

type Total = (&'static str, &'static str, Option<Unit>, u64);

fn totals(counters: &RelayCounters, dropped: u64) -> [Total; 3] {
    [
        ("refused_clients", "Clients that there was no room for", None, counters.clients_refused),
        ("forwarded", "Datagrams forwarded", Some(Unit::Bytes), counters.relayed_bytes),
        ("dropped_packets", "Datagrams that found no room in the queue", None, dropped),
    ]
}

fn outcomes(counters: &RelayCounters) -> [(&'static str, u64); 4] {
    [
        ("matched", counters.matched),
        ("expired", counters.expired),
        ("cancelled", counters.cancelled),
        ("refused", counters.refused),
    ]
}

/// Writes a counter for each value of a label.
fn family(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    label: &'static str,
    values: &[(&'static str, u64)],
) -> Result<(), fmt::Error> {
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (value, count) in values {
        let labels = [(label, *value)];
        ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = include_str!("../../README.md");

    #[test]
    fn the_readme_lists_every_family_of_the_relay() {
        let text = Metrics::new(Arc::default()).expose(Exposition::Text);
        let families: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|(family, _)| family)
            .collect();
        assert!(families.len() > 8, "{families:?}");
        for family in &families {
            assert!(README.contains(&format!("`{family}`")), "{family} is not in README.md");
        }
        let names = regex_lite::Regex::new("`(dht_prometheus_relay_[a-z_]+)`").unwrap();
        for found in names.captures_iter(README) {
            assert!(families.contains(&&found[1]), "{} is no metric", &found[1]);
        }
    }

    #[test]
    fn the_readme_lists_every_label_and_each_is_there_from_the_start() {
        let text = Metrics::new(Arc::default()).expose(Exposition::Text);
        let outcomes = outcomes(&RelayCounters::default()).map(|(outcome, _)| outcome);
        let reasons = EndReason::ALL.map(EndReason::as_str);
        for (label, values) in [("outcome", outcomes), ("reason", reasons)] {
            let listed = values.map(|value| format!("`{value}`")).join(", ");
            assert!(README.contains(&listed), "README.md does not list {listed}");
            for value in values {
                assert!(text.contains(&format!("{label}=\"{value}\"}} 0\n")), "{value}: {text}");
            }
        }
    }
}
