//! What the bridge says about itself.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use dht_prom_transport::{ErrorKind, Meter, Role};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::name::Alias;

mod exposition;
mod process;

pub use exposition::{Exposition, OPEN_METRICS, TEXT};
pub(crate) use process::register as register_process;

/// The bridge's own metrics. Every update is a few atomic operations.
#[derive(Debug)]
pub struct Metrics {
    /// Moves when an alias request is answered.
    registrations: Family<Outcome, Counter>,
    /// Moves when an alias is added or expires.
    pub targets: Gauge,
    /// Moves when a scrape is answered; a series goes when its alias expires.
    scrapes: Family<ScrapeLabels, Counter>,
    /// Moves when a scrape of a known alias is answered.
    pub scrape_duration: Histogram,
    /// Moves when metrics are handed to Prometheus; counts them as they came.
    pub scrape_bytes: Counter,
    /// Moves when the targets file was written.
    pub targets_file_writes: Counter,
    /// Moves when it could not be.
    pub targets_file_failures: Counter,
    /// Moves when an HTTP connection opens or closes.
    pub http_connections: Gauge,
    transport: Arc<TransportMetrics>,
    registry: Registry,
}

/// How an alias request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationOutcome {
    /// The alias is new, or points elsewhere now.
    Updated,
    /// It only lives longer.
    Renewed,
    /// The secret was wrong.
    Unauthorised,
    /// The alias is outside the rule for names.
    Refused,
    /// There is no room.
    Full,
    /// The request could not be read.
    Malformed,
}

impl RegistrationOutcome {
    const ALL: [Self; 6] = [
        Self::Updated,
        Self::Renewed,
        Self::Unauthorised,
        Self::Refused,
        Self::Full,
        Self::Malformed,
    ];

    const fn labels(self) -> Outcome {
        let outcome = match self {
            Self::Updated => "updated",
            Self::Renewed => "renewed",
            Self::Unauthorised => "unauthorised",
            Self::Refused => "refused",
            Self::Full => "full",
            Self::Malformed => "malformed",
        };
        Outcome { outcome }
    }
}

/// How a scrape of a known alias ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrapeOutcome {
    /// Metrics were forwarded.
    Success,
    /// The service answered that it has none.
    ServiceError,
    /// No answer came before the deadline.
    Timeout,
    /// The service could not be reached.
    Unreachable,
    /// The session broke, or what came over it made no sense.
    Broken,
}

impl ScrapeOutcome {
    const ALL: [Self; 5] =
        [Self::Success, Self::ServiceError, Self::Timeout, Self::Unreachable, Self::Broken];

    fn labels(self, alias: &Alias) -> ScrapeLabels {
        let outcome = match self {
            Self::Success => "success",
            Self::ServiceError => "service_error",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
        };
        ScrapeLabels { alias: alias.clone(), outcome }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScrapeLabels {
    alias: Alias,
    outcome: &'static str,
}

impl EncodeLabelValue for Alias {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(self.as_str())
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let mut root = Registry::default();
        process::register(&mut root);
        let all = root.sub_registry_with_prefix("dht_prometheus");
        let registrations = Family::default();
        all.register("registrations", "Alias requests answered", registrations.clone());
        let targets = Gauge::default();
        all.register("targets", "Aliases registered", targets.clone());
        let scrapes = Family::default();
        all.register("scrapes", "Scrapes of registered aliases answered", scrapes.clone());
        // 1 ms to 8 s, and what Prometheus waits at most by default.
        let buckets = exponential_buckets(0.001, 2.0, 14).chain([10.0]);
        let scrape_duration = Histogram::new(buckets);
        let help = "Time from a scrape's request to its answer";
        let (name, unit) = ("scrape_duration", Unit::Seconds);
        all.register_with_unit(name, help, unit, scrape_duration.clone());
        let scrape_bytes = Counter::default();
        let help = "Metrics forwarded, before compression";
        all.register_with_unit("scrape", help, Unit::Bytes, scrape_bytes.clone());
        let targets_file_writes = Counter::default();
        let help = "Times the targets file was written";
        all.register("targets_file_writes", help, targets_file_writes.clone());
        let targets_file_failures = Counter::default();
        let help = "Times the targets file could not be written";
        all.register("targets_file_write_failures", help, targets_file_failures.clone());
        let http_connections = Gauge::default();
        all.register("http_connections", "HTTP connections open", http_connections.clone());
        let transport = Arc::new(TransportMetrics::register(all));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        all.register("build", "The running version", build);
        let metrics = Self {
            registrations,
            targets,
            scrapes,
            scrape_duration,
            scrape_bytes,
            targets_file_writes,
            targets_file_failures,
            http_connections,
            transport,
            registry: root,
        };
        metrics.start_at_zero();
        metrics
    }

    /// Closed sets of labels are there from the start, so that a rate never misses the first event.
    fn start_at_zero(&self) {
        for outcome in RegistrationOutcome::ALL {
            drop(self.registrations.get_or_create(&outcome.labels()));
        }
    }

    /// Counts an answered alias request.
    pub fn registered(&self, outcome: RegistrationOutcome) {
        self.registrations.get_or_create(&outcome.labels()).inc();
    }

    /// Counts an answered scrape.
    pub fn scraped(&self, alias: &Alias, outcome: ScrapeOutcome) {
        self.scrapes.get_or_create(&outcome.labels(alias)).inc();
    }

    /// Forgets an alias that is registered no more.
    pub fn forget(&self, alias: &Alias) {
        for outcome in ScrapeOutcome::ALL {
            self.scrapes.remove(&outcome.labels(alias));
        }
    }

    /// Where a metered transport reports.
    pub fn transport(&self) -> Arc<dyn Meter> {
        Arc::clone(&self.transport) as Arc<dyn Meter>
    }

    /// All of it as text.
    pub fn expose(&self, exposition: Exposition) -> String {
        exposition.write(&self.registry)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What crosses the transport seam.
#[derive(Debug)]
struct TransportMetrics {
    /// Moves when a dial ends.
    dials: Family<Outcome, Counter>,
    /// Moves when a session opens or ends.
    sessions: Family<SessionLabels, Gauge>,
    /// Moves with each message to a peer.
    sent_messages: Counter,
    /// Moves with them, by their length.
    sent_bytes: Counter,
    /// Moves with each message from a peer.
    received_messages: Counter,
    /// Moves with them, by their length.
    received_bytes: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SessionLabels {
    role: &'static str,
}

impl TransportMetrics {
    fn register(all: &mut Registry) -> Self {
        let metrics = Self {
            dials: Family::default(),
            sessions: Family::default(),
            sent_messages: Counter::default(),
            sent_bytes: Counter::default(),
            received_messages: Counter::default(),
            received_bytes: Counter::default(),
        };
        all.register("dials", "Dials to targets by how they ended", metrics.dials.clone());
        all.register("sessions", "Sessions open with peers", metrics.sessions.clone());
        let (sent, received) = ("Messages sent to peers", "Messages received from peers");
        all.register("transport_sent_messages", sent, metrics.sent_messages.clone());
        all.register("transport_received_messages", received, metrics.received_messages.clone());
        let (sent, received) = ("Message bytes sent to peers", "Message bytes received from peers");
        let unit = Unit::Bytes;
        all.register_with_unit("transport_sent", sent, unit, metrics.sent_bytes.clone());
        let unit = Unit::Bytes;
        all.register_with_unit(
            "transport_received",
            received,
            unit,
            metrics.received_bytes.clone(),
        );
        let kinds = ErrorKind::ALL.map(ErrorKind::as_str);
        for outcome in kinds.into_iter().chain(["success"]) {
            drop(metrics.dials.get_or_create(&Outcome { outcome }));
        }
        for role in [Role::Dialler, Role::Listener] {
            drop(metrics.open(role));
        }
        metrics
    }

    fn open(&self, role: Role) -> Gauge {
        let role = match role {
            Role::Dialler => "scrape",
            Role::Listener => "registration",
        };
        self.sessions.get_or_create_owned(&SessionLabels { role })
    }
}

impl Meter for TransportMetrics {
    fn dialled(&self, outcome: Result<(), ErrorKind>) {
        let outcome = outcome.map_or_else(ErrorKind::as_str, |()| "success");
        self.dials.get_or_create(&Outcome { outcome }).inc();
    }

    fn opened(&self, role: Role) {
        self.open(role).inc();
    }

    fn closed(&self, role: Role) {
        self.open(role).dec();
    }

    fn sent(&self, bytes: usize) {
        self.sent_messages.inc();
        self.sent_bytes.inc_by(bytes as u64);
    }

    fn received(&self, bytes: usize) {
        self.received_messages.inc();
        self.received_bytes.inc_by(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_alias_leaves_no_series() {
        let metrics = Metrics::new();
        let alias: Alias = "dummy".parse().unwrap();
        metrics.scraped(&alias, ScrapeOutcome::Success);
        metrics.scraped(&alias, ScrapeOutcome::Timeout);
        assert!(metrics.expose(Exposition::Text).contains(r#"alias="dummy""#));
        metrics.forget(&alias);
        assert!(!metrics.expose(Exposition::Text).contains("dummy\""));
    }

    #[test]
    fn sessions_and_dials_are_counted_by_kind() {
        let metrics = Metrics::new();
        let meter = metrics.transport();
        meter.opened(Role::Dialler);
        meter.opened(Role::Listener);
        meter.closed(Role::Listener);
        meter.dialled(Err(ErrorKind::NotFound));
        let text = metrics.expose(Exposition::Text);
        for line in [
            r#"dht_prometheus_sessions{role="scrape"} 1"#,
            r#"dht_prometheus_sessions{role="registration"} 0"#,
            r#"dht_prometheus_dials_total{outcome="not_found"} 1"#,
            r#"dht_prometheus_dials_total{outcome="success"} 0"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
    #[test]
    fn the_readme_lists_every_family_and_no_other() {
        let readme = include_str!("../README.md");
        let metrics = Metrics::new();
        metrics.scraped(&"a".parse().unwrap(), ScrapeOutcome::Success);
        let text = metrics.expose(Exposition::Text);
        let families: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|(family, _)| family)
            .collect();
        assert!(families.len() > 15, "{families:?}");
        for family in &families {
            assert!(readme.contains(&format!("`{family}`")), "{family} is not in README.md");
        }
        let names = regex_lite::Regex::new("`((?:dht_prometheus|process)_[a-z_]+)`").unwrap();
        let own = |name: &&str| !name.starts_with("dht_prometheus_relay_");
        for found in names.captures_iter(readme) {
            // The relay's are looked after beside its metrics.
            if !own(&&found[1]) {
                continue;
            }
            assert!(families.contains(&&found[1]), "{} is no metric", &found[1]);
        }
    }

    #[test]
    fn the_readme_lists_every_outcome() {
        let readme = include_str!("../README.md");
        let alias: Alias = "a".parse().unwrap();
        let registrations = RegistrationOutcome::ALL.map(|outcome| outcome.labels().outcome);
        let scrapes = ScrapeOutcome::ALL.map(|outcome| outcome.labels(&alias).outcome);
        for outcomes in [&registrations[..], &scrapes[..]] {
            let listed = outcomes.iter().map(|outcome| format!("`{outcome}`"));
            let listed = listed.collect::<Vec<_>>().join(", ");
            assert!(readme.contains(&listed), "README.md does not list {listed}");
        }
    }
}
