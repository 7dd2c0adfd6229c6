//! Lets Prometheus scrape services behind NAT and firewalls.
//!
//! Services find the [`Bridge`] by its public key, prove a shared secret and register an alias; the
//! bridge keeps Prometheus' target list and forwards each scrape to the service over an end-to-end
//! encrypted session. What carries the sessions is a [`Transport`]; HyperDHT by default.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use dht_prom_client::SharedSecret;
use dht_prom_transport::{Listener, Metered, PublicKey, Transport};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Duration, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub mod config;
pub mod directory;
pub mod http;
pub mod metrics;
pub mod name;
pub mod registration;
pub mod registry;
pub mod relay;
pub mod respond;
pub mod scrape;
pub mod telemetry;
pub mod transport;

use config::{HttpConfig, TargetsConfig};
use directory::Directory;
use http::{Readiness, Service};
use metrics::Metrics;
use registration::Registrar;
use registry::{
    targets::{Loaded, TargetsFile},
    writer::Writer,
};
use scrape::{Pool, Scraper};

/// How often expired aliases are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How long a transport may take to stop.
const TRANSPORT_SHUTDOWN: Duration = Duration::from_secs(5);
/// The wait after a failure to become reachable; it doubles with each further one.
const FIRST_LISTEN_WAIT: Duration = Duration::from_secs(1);
/// The longest such wait.
const LONGEST_LISTEN_WAIT: Duration = Duration::from_secs(60);

/// What a bridge is told, its transport aside.
#[derive(Debug, Clone)]
pub struct BridgeConfig {
    /// What services prove to know.
    pub shared_secret: SharedSecret,
    /// The targets file and its form.
    pub targets: TargetsConfig,
    /// The HTTP side.
    pub http: HttpConfig,
}

/// A running bridge: the whole, started the same way by the daemon and by tests.
///
/// Dropping it stops everything at once; [`Bridge::shutdown`] does so in order.
#[derive(Debug)]
pub struct Bridge {
    key: PublicKey,
    http_addr: SocketAddr,
    service: Arc<Service>,
    pool: Arc<Pool>,
    transport: Arc<dyn Transport>,
    announced: watch::Receiver<bool>,
    /// Each ends with its name.
    tasks: JoinSet<&'static str>,
    stop_http: CancellationToken,
    /// Cancelled when HTTP is served no more.
    http_ended: CancellationToken,
    stop: CancellationToken,
    stop_writer: CancellationToken,
}

/// A bridge that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve HTTP on {address}")]
pub struct StartError {
    address: String,
    source: io::Error,
}

impl Bridge {
    /// Loads the targets, serves HTTP, and becomes reachable over `transport`, which may take longer
    /// than this call: see [`Bridge::announced`].
    ///
    /// # Errors
    /// When the HTTP address cannot be bound.
    pub async fn start(
        config: BridgeConfig,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, StartError> {
        let BridgeConfig { shared_secret, targets, http } = config;
        let listener = bind(&http).await?;
        let http_addr = listener.local_addr().map_err(|source| failed(&http, source))?;
        let metrics = Arc::new(Metrics::new());
        let transport: Arc<dyn Transport> = Arc::new(Metered::new(transport, metrics.transport()));
        let pool = Arc::new(Pool::new(Arc::clone(&transport)));
        let directory = Arc::new(Directory::new(Arc::clone(&pool), Arc::clone(&metrics)));
        let file = TargetsFile::new(targets.path);
        load(&file, &directory);

        let service = Arc::new(Service {
            scraper: Scraper::new(Arc::clone(&directory), Arc::clone(&pool), Arc::clone(&metrics)),
            directory: Arc::clone(&directory),
            metrics: Arc::clone(&metrics),
            readiness: Readiness::default(),
            gzip: http.gzip,
            advertise: http.advertise.clone(),
        });
        service.readiness.set_loaded();
        let registrar = Registrar::new(shared_secret, Arc::clone(&directory), Arc::clone(&metrics));
        let bridge_addr = http.advertise.unwrap_or_else(|| reachable(http_addr).to_string());
        let format = targets.format;
        let writer = Writer::new(Arc::clone(&directory), metrics, file, format, bridge_addr);
        let (announce, announced) = watch::channel(false);

        let mut bridge = Self {
            key: transport.local_key(),
            http_addr,
            service,
            pool,
            transport,
            announced,
            tasks: JoinSet::new(),
            stop_http: CancellationToken::new(),
            http_ended: CancellationToken::new(),
            stop: CancellationToken::new(),
            stop_writer: CancellationToken::new(),
        };
        bridge.spawn_http(listener);
        bridge.spawn_registration(registrar, announce);
        bridge.spawn("sweep", sweep(directory));
        let pool = Arc::clone(&bridge.pool);
        bridge.spawn("network", async move { pool.follow_network().await });
        let stop_writer = bridge.stop_writer.clone();
        bridge.tasks.spawn(async move {
            writer.run(stop_writer).await;
            "targets file"
        });
        Ok(bridge)
    }

    fn spawn_http(&mut self, listener: TcpListener) {
        tracing::info!("Server listening at http://{}", self.http_addr);
        let routes = http::Routes::new(Arc::clone(&self.service));
        let open = self.service.metrics.http_connections.clone();
        let stop = self.stop_http.clone();
        let ended = self.http_ended.clone().drop_guard();
        self.tasks.spawn(async move {
            let _ended = ended;
            http::serve(listener, routes, open, stop).await;
            "HTTP server"
        });
    }

    fn spawn_registration(&mut self, registrar: Registrar, announce: watch::Sender<bool>) {
        let (transport, service) = (Arc::clone(&self.transport), Arc::clone(&self.service));
        self.spawn("registration", async move {
            let registrar = Arc::new(registrar);
            let listener = listen(&*transport).await;
            tracing::info!("DHT RPC ready at public key {}", transport.local_key());
            service.readiness.set_announced(true);
            announce.send_replace(true);
            registrar.run(listener).await;
            service.readiness.set_announced(false);
        });
    }

    /// Runs `task` until the bridge stops.
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
            name
        });
    }

    /// The key under which services find the bridge.
    pub fn public_key(&self) -> PublicKey {
        self.key
    }

    /// Where HTTP is served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// What the routes need, for those who put them into a server of their own.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Waits until services can reach the bridge. Cancel-safe.
    pub async fn announced(&self) {
        // An error means that the bridge stops; then it never will be.
        if self.announced.clone().wait_for(|announced| *announced).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until a part of the bridge ends by itself, which it should not, and names it.
    /// Cancel-safe.
    pub async fn failed(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(name)) => format!("the {name} task ended"),
            Some(Err(error)) => error.to_string(),
            None => "no task is left".to_owned(),
        }
    }

    /// Stops in order: no new requests, running ones finish, sessions end, services are told, the
    /// targets file is written a last time.
    pub async fn shutdown(mut self) {
        tracing::info!("Shutting down");
        self.stop_http.cancel();
        self.http_ended.cancelled().await;
        tracing::info!("Http server shut down--now closing the bridge");
        self.stop.cancel();
        self.pool.close().await;
        if timeout(TRANSPORT_SHUTDOWN, self.transport.shutdown()).await.is_err() {
            tracing::warn!("the transport did not stop within {} s", TRANSPORT_SHUTDOWN.as_secs());
        }
        self.stop_writer.cancel();
        while self.tasks.join_next().await.is_some() {}
        tracing::info!("Fully shut down");
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // The other tasks are the bridge's own and end with it.
        self.pool.stop();
    }
}

async fn bind(http: &HttpConfig) -> Result<TcpListener, StartError> {
    TcpListener::bind((http.host.as_str(), http.port)).await.map_err(|source| failed(http, source))
}

fn failed(http: &HttpConfig, source: io::Error) -> StartError {
    StartError { address: format!("{}:{}", http.host, http.port), source }
}

/// The address under which a bound one is reached from this host.
fn reachable(mut bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() {
        bound.set_ip(match bound {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    bound
}

fn load(file: &TargetsFile, directory: &Directory) {
    let path = &file.path().display();
    let parsed = match file.load() {
        Loaded::Missing => {
            tracing::info!("no aliases file at {path} yet");
            return;
        }
        Loaded::Whole(parsed) => parsed,
        Loaded::Partly(parsed, aside) => {
            for reason in parsed.rejected.iter().take(MAX_REJECTED_LINES) {
                tracing::error!("failed to load an entry of aliases file {path}: {reason}");
            }
            report_aside(path, aside);
            parsed
        }
        Loaded::Unusable(reason, aside) => {
            tracing::error!("failed to load aliases file {path}: {reason}");
            report_aside(path, aside);
            return;
        }
    };
    let count = parsed.targets.len();
    let refused = directory.load(parsed.targets);
    tracing::info!("loaded {} aliases from {path}", count - refused);
    if refused > 0 {
        tracing::error!("{refused} aliases of {path} are more than the bridge holds");
    }
}

/// Entries of a targets file that are complained about one by one.
const MAX_REJECTED_LINES: usize = 20;

fn report_aside(path: &std::path::Display<'_>, aside: registry::targets::Aside) {
    match aside {
        Ok(aside) => tracing::error!("what {path} held is kept at {}", aside.display()),
        Err(error) => tracing::error!("what {path} held could not be kept aside: {error}"),
    }
}

/// Tries until it works.
async fn listen(transport: &dyn Transport) -> Box<dyn Listener> {
    let waits = ExponentialBuilder::new().with_min_delay(FIRST_LISTEN_WAIT);
    let mut waits = waits.with_max_delay(LONGEST_LISTEN_WAIT).without_max_times().build();
    loop {
        match transport.listen().await {
            Ok(listener) => return listener,
            Err(error) => {
                tracing::error!("cannot become reachable: {}", telemetry::causes(&error));
                sleep(waits.next().unwrap_or(LONGEST_LISTEN_WAIT)).await;
            }
        }
    }
}

async fn sweep(directory: Arc<Directory>) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        directory.expire(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use dht_prom_transport_memory::MemoryNetwork;

    use super::*;
    use crate::config::Gzip;

    #[tokio::test(start_paused = true)]
    async fn a_bridge_that_has_lost_a_part_still_stops() {
        let folder = tempfile::tempdir().unwrap();
        let config = BridgeConfig {
            shared_secret: [5; 32].into(),
            targets: TargetsConfig {
                path: folder.path().join("targets.json"),
                format: registry::targets::TargetsFormat::Classic,
            },
            http: HttpConfig {
                host: "127.0.0.1".to_owned(),
                port: 0,
                advertise: None,
                gzip: Gzip::Auto,
            },
        };
        let transport = MemoryNetwork::default().join([1; 32].into());
        let mut bridge = Bridge::start(config, Arc::new(transport)).await.unwrap();
        bridge.stop_http.cancel();
        assert_eq!(bridge.failed().await, "the HTTP server task ended");
        timeout(Duration::from_secs(60), bridge.shutdown()).await.unwrap();
    }
}
