//! A blind relay as a daemon: a node of HyperDHT that joins peers whose NATs cannot be crossed, and its
//! metrics.

mod metrics;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use backon::{BackoffBuilder, ExponentialBuilder};
use dht_prom_transport::{PublicKey, TransportError};
pub use hyperdht_rs::relay::RelayLimits;
use hyperdht_rs::{KeyPair, Node, NodeOptions, node::Role, relay::RelayServer};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::metrics::Metrics;
use crate::{
    StartError,
    config::{DhtConfig, HttpConfig, Seed},
    http,
    metrics::Exposition,
    telemetry, transport,
};

/// What a relay is told.
#[derive(Debug)]
pub struct RelayConfig {
    /// Decides its key.
    pub key_pair_seed: Seed,
    /// The HyperDHT side.
    pub dht: DhtConfig,
    /// Where metrics are served.
    pub http: HttpConfig,
    /// What it lends to its clients.
    pub limits: RelayLimits,
}

/// A running relay. Dropping it stops everything at once; [`Relay::shutdown`] does so in order.
#[derive(Debug)]
pub struct Relay {
    key: PublicKey,
    http_addr: SocketAddr,
    announced: watch::Receiver<bool>,
    http: JoinHandle<()>,
    service: JoinHandle<()>,
    stop_http: CancellationToken,
    stop: CancellationToken,
}

/// What the relay serves over HTTP.
#[derive(Debug)]
struct Page {
    metrics: Metrics,
    running: Arc<OnceLock<Running>>,
}

/// A relay that clients can find.
#[derive(Debug)]
struct Running {
    node: Node,
    server: RelayServer,
}

impl Relay {
    /// Serves HTTP, and becomes reachable for clients, which may take longer than this call: see
    /// [`Relay::announced`].
    ///
    /// # Errors
    /// When the HTTP address cannot be bound.
    pub async fn start(config: RelayConfig) -> Result<Self, StartError> {
        let RelayConfig { key_pair_seed, dht, http, limits } = config;
        let listener = crate::bind(&http).await?;
        let http_addr = listener.local_addr().map_err(|source| crate::failed(&http, source))?;
        tracing::info!("Server listening at http://{http_addr}");
        let key = transport::public_key(&key_pair_seed);
        let running = Arc::new(OnceLock::new());
        let metrics = Metrics::new(Arc::clone(&running));
        let connections = metrics.http_connections.clone();
        let page = Arc::new(Page { metrics, running: Arc::clone(&running) });
        let (stop_http, stop) = (CancellationToken::new(), CancellationToken::new());
        let serving = http::serve(listener, router(page), connections, stop_http.clone());
        let (announce, announced) = watch::channel(false);
        let service = serve(key, key_pair_seed, dht, limits, running, announce, stop.clone());
        Ok(Self {
            key,
            http_addr,
            announced,
            http: tokio::spawn(serving),
            service: tokio::spawn(service),
            stop_http,
            stop,
        })
    }

    /// The key by which clients name the relay.
    pub const fn public_key(&self) -> PublicKey {
        self.key
    }

    /// Where metrics are served.
    pub const fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Waits until clients can find the relay. Cancel-safe.
    pub async fn announced(&self) {
        // An error means that the relay stops; then it never will be.
        if self.announced.clone().wait_for(|announced| *announced).await.is_err() {
            std::future::pending().await
        }
    }

    /// Stops in order: clients and their sessions are told, the network is left, running requests
    /// finish.
    pub async fn shutdown(mut self) {
        tracing::info!("Shutting down");
        self.stop.cancel();
        if timeout(NODE_SHUTDOWN, &mut self.service).await.is_err() {
            tracing::warn!("the relay did not stop within {} s", NODE_SHUTDOWN.as_secs());
        }
        self.stop_http.cancel();
        // It ends in any case, and by itself within its own bound.
        let _ = (&mut self.http).await;
        tracing::info!("Fully shut down");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.http.abort();
        self.service.abort();
    }
}

/// Joins the network and relays until it is stopped; what fails is tried again.
async fn serve(
    key: PublicKey,
    seed: Seed,
    dht: DhtConfig,
    limits: RelayLimits,
    running: Arc<OnceLock<Running>>,
    announce: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let waits = ExponentialBuilder::new().with_min_delay(FIRST_WAIT).with_max_delay(LONGEST_WAIT);
    let mut waits = waits.without_max_times().build();
    loop {
        let started = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            started = join(&dht, &seed, limits) => started,
        };
        match started {
            Ok(started) => {
                // It was empty: only this task fills it.
                let _ = running.set(started);
                break;
            }
            Err(error) => {
                tracing::error!("cannot become reachable: {}", telemetry::causes(&error));
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = sleep(waits.next().unwrap_or(LONGEST_WAIT)) => {}
                }
            }
        }
    }
    tracing::info!("DHT relay ready at public key {key}");
    announce.send_replace(true);
    stop.cancelled().await;
    announce.send_replace(false);
    if let Some(Running { node, server }) = running.get() {
        server.shutdown().await;
        node.shutdown().await;
    }
}

async fn join(
    dht: &DhtConfig,
    seed: &Seed,
    limits: RelayLimits,
) -> Result<Running, TransportError> {
    // Whoever runs a relay means it to be reached; whether it can be, the node finds out.
    let options = NodeOptions { role: Role::Persistent, ..transport::node_options(dht).await? };
    let node = Node::start(options).await?;
    let key_pair = KeyPair::from_seed(seed.expose());
    let server = RelayServer::start(&node, key_pair, limits).await?;
    Ok(Running { node, server })
}

fn router(page: Arc<Page>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(async || "Healthy\n"))
        .route("/-/ready", get(ready))
        .with_state(page)
}

async fn metrics(State(page): State<Arc<Page>>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let exposition = Exposition::for_accept(accept);
    let kind = HeaderValue::from_static(exposition.content_type());
    ([(CONTENT_TYPE, kind)], page.metrics.expose(exposition)).into_response()
}

async fn ready(State(page): State<Arc<Page>>) -> Response {
    match page.running.get() {
        Some(_) => "Ready\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "Not ready: the relay is not announced yet\n")
            .into_response(),
    }
}

/// How long leaving the network may take.
const NODE_SHUTDOWN: Duration = Duration::from_secs(5);
/// The wait after a failure to become reachable; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
