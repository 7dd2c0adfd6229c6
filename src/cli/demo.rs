//! `demo`: everything in one process, to watch.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{ArgMatches, Command};
use dht_prom_client::{MetricsServer, SharedSecret, message::AliasRequest, register};
use dht_prom_transport::{PublicKey, Transport};
use dht_prometheus::{
    Bridge, BridgeConfig,
    config::{self, DhtConfig, Seed, TargetsConfig},
    registry::targets::TargetsFormat,
    telemetry,
    transport::{self, LocalDht},
};
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};

use super::{Failure, fetch, layers, runtime, say, settings, stop_signal};

/// The sample services.
const SERVICES: [&str; 2] = ["web", "worker"];
/// How often the demo scrapes, as Prometheus would.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a start or a registration may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn command() -> Command {
    settings(Command::new("demo"))
        .about("Run a local DHT, a bridge and two services in one process, and scrape them")
        .long_about(
            "Runs a local DHT, a bridge and two sample services in one process with fresh secrets, \
             scrapes the services through the bridge every 5 seconds and shows each scrape. \
             Nothing leaves this host. Ctrl-C stops it.\n\n\
             Of the settings, --http-host, --http-port, --targets-format and those for logging \
             are heeded; logging is off unless a level is set.",
        )
}

pub(super) fn main(matches: &ArgMatches) -> Result<(), Failure> {
    let layers = layers(matches)?;
    let mut log = config::log(&layers)?;
    if !layers.is_set(config::Knob::LogLevel) {
        log.level = None;
    }
    telemetry::init(log);
    let (http, targets) = (config::http(&layers)?, config::targets(&layers)?);
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        let folder = tempfile::tempdir()?;
        let targets = TargetsConfig { path: folder.path().join("targets.json"), ..targets };
        let secret = SharedSecret::from(*Seed::random().expose());
        say("Starting a local DHT, a bridge and two services ...")?;
        let dht = LocalDht::start().await?;
        let config = BridgeConfig { shared_secret: secret.clone(), targets: targets.clone(), http };
        let bridge = Bridge::start(config, transport::open(dht.config(), Seed::random())).await?;
        timeout(PATIENCE, bridge.announced()).await.map_err(|_| "the bridge was not announced")?;
        let mut tasks = JoinSet::new();
        let mut started = Vec::new();
        for service in SERVICES {
            let sample = Sample::new(service);
            started.extend(sample.start(&dht.config(), &bridge, &secret, &mut tasks).await?);
        }
        guide(&bridge, &targets)?;
        tasks.spawn(scrape(bridge.http_addr()));
        stop.await;
        say("\nStopping ...")?;
        tasks.shutdown().await;
        for transport in started {
            tasks.spawn(async move { transport.shutdown().await });
        }
        bridge.shutdown().await;
        tasks.join_all().await;
        say("Stopped.")?;
        Ok(())
    })
}

/// Says what there is to see.
fn guide(bridge: &Bridge, targets: &TargetsConfig) -> Result<(), Failure> {
    let (url, key) = (format!("http://{}", bridge.http_addr()), bridge.public_key());
    let relabel = match targets.format {
        TargetsFormat::Classic => "needs the relabel rules of prometheus/prometheus.yml",
        TargetsFormat::Labels => "needs no relabel rules",
    };
    let row = |path: &str, what: &str| (format!("{url}{path}"), what.to_owned());
    let mut rows = vec![
        row("/", "what the bridge offers"),
        row("/targets", "the targets, for Prometheus' HTTP service discovery"),
        row("/metrics", "the bridge's own metrics"),
    ];
    for service in SERVICES {
        rows.push(row(&scrape_path(service), "a service's metrics, fetched over the DHT"));
    }
    let file = format!("the targets as a file; {relabel}");
    rows.push((targets.path.display().to_string(), file));
    say(format_args!(
        "
The bridge is {key}
and the services, which know that key and the shared secret, have registered with it.
"
    ))?;
    let width = rows.iter().map(|(place, _)| place.len()).max().unwrap_or_default();
    for (place, what) in rows {
        say(format_args!("  {place:<width$}  {what}"))?;
    }
    say("\nScraping every 5 seconds, as Prometheus would; Ctrl-C stops.\n")?;
    Ok(())
}

/// Fetches each service's metrics through the bridge, for ever.
async fn scrape(bridge: SocketAddr) {
    let mut ticks = interval(INTERVAL);
    loop {
        ticks.tick().await;
        for service in SERVICES {
            let path = scrape_path(service);
            let began = Instant::now();
            let outcome = match fetch::get(bridge, &path).await {
                Ok((status, body)) => {
                    let (bytes, took) = (body.len(), began.elapsed().as_secs_f64() * 1_000.0);
                    format!("{status}, {bytes} bytes, {took:.1} ms")
                }
                Err(error) => format!("failed: {error}"),
            };
            // Nobody watches if stdout is gone.
            let _ = say(format_args!("prometheus   GET {path:<PATH_WIDTH$}  {outcome}"));
        }
    }
}

/// Where Prometheus scrapes a service.
fn scrape_path(service: &str) -> String {
    format!("/scrape/{service}/metrics")
}

/// The longest such path.
const PATH_WIDTH: usize = "/scrape/worker/metrics".len();

/// A service that somebody might want to watch.
#[derive(Debug)]
struct Sample {
    name: &'static str,
    started: Instant,
    scrapes: AtomicU64,
}

impl Sample {
    fn new(name: &'static str) -> Self {
        Self { name, started: Instant::now(), scrapes: AtomicU64::new(0) }
    }

    /// Serves its metrics to `bridge` and registers with it. Returns what it runs on: a place in the
    /// DHT that went now would be asked in vain for a while by those who start next.
    async fn start(
        self,
        dht: &DhtConfig,
        bridge: &Bridge,
        secret: &SharedSecret,
        tasks: &mut JoinSet<()>,
    ) -> Result<[Arc<dyn Transport>; 2], Failure> {
        let name = self.name;
        let serving = transport::open(dht.clone(), Seed::random());
        let server = timeout(PATIENCE, MetricsServer::listen(&*serving, bridge.public_key()));
        let server = server.await.map_err(|_| "a service was not announced")??;
        tasks.spawn(server.run(move || self.collect()));
        let request = request(name, serving.local_key(), secret);
        let registering = transport::open(dht.clone(), Seed::random());
        let registered = timeout(PATIENCE, register(&*registering, bridge.public_key(), &request));
        registered.await.map_err(|_| "a service could not register")??;
        Ok([serving, registering])
    }

    /// Metrics that move, and a line for whoever watches.
    fn collect(&self) -> Bytes {
        let Self { name, started, .. } = self;
        let scrapes = self.scrapes.fetch_add(1, Ordering::Relaxed) + 1;
        let uptime = started.elapsed().as_secs_f64();
        // Nobody watches if stdout is gone.
        let _ = say(format_args!("{name:<12} answers scrape {scrapes}"));
        format!(
            "# HELP sample_scrapes_total Times this service was scraped.\n\
             # TYPE sample_scrapes_total counter\n\
             sample_scrapes_total{{service=\"{name}\"}} {scrapes}\n\
             # HELP sample_uptime_seconds Time since this service started.\n\
             # TYPE sample_uptime_seconds gauge\n\
             sample_uptime_seconds{{service=\"{name}\"}} {uptime:.3}\n"
        )
        .into()
    }
}

fn request(name: &str, target: PublicKey, secret: &SharedSecret) -> AliasRequest {
    AliasRequest {
        secret: secret.clone(),
        alias: name.to_owned(),
        target,
        hostname: gethostname::gethostname().to_string_lossy().into_owned(),
        service: format!("sample-{name}"),
    }
}
