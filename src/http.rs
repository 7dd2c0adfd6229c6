//! What Prometheus and operators ask the bridge.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Request, State, rejection::PathRejection},
    http::{
        Extensions, HeaderMap, HeaderValue, Method, StatusCode, Uri, Version,
        header::{ACCEPT, CONTENT_TYPE, HOST},
        uri::Authority,
    },
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_http::{
    CompressionLevel,
    compression::{CompressionLayer, Predicate},
};
use tracing::Level;

use crate::{
    config::Gzip,
    directory::Directory,
    metrics::{Exposition, Metrics},
    respond,
    scrape::Scraper,
};

mod answer;
mod page;
mod server;

pub use answer::{Answer, RequestBody, Routes};
pub use server::serve;

/// How much earlier than Prometheus gives up we answer.
const MARGIN: Duration = Duration::from_millis(500);
/// How long a scrape may take when the request does not say.
const DEFAULT_LIMIT: Duration = Duration::from_millis(9_500);
/// How long one may take whatever the request says.
const LONGEST_LIMIT: Duration = Duration::from_secs(300);
/// How Prometheus says when it gives up.
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

/// What the routes need.
#[derive(Debug)]
pub struct Service {
    /// Forwards scrapes.
    pub scraper: Scraper,
    /// Knows the targets.
    pub directory: Arc<Directory>,
    /// The bridge's own.
    pub metrics: Arc<Metrics>,
    /// How far the start has come.
    pub readiness: Readiness,
    /// When to compress.
    pub gzip: Gzip,
    /// The bridge's `host:port` in `/targets`; unless set, the one that was asked.
    pub advertise: Option<String>,
}

impl Service {
    /// The answer to a scrape of `alias`, within `limit`. Cancel-safe.
    async fn forward(&self, alias: &str, limit: Duration) -> Response<Full<Bytes>> {
        respond::scrape(self.scraper.scrape(alias, limit).await)
    }
}

/// How far the start has come.
#[derive(Debug, Default)]
pub struct Readiness {
    loaded: AtomicBool,
    announced: AtomicBool,
}

impl Readiness {
    /// The targets of the last run are known.
    pub fn set_loaded(&self) {
        self.loaded.store(true, Ordering::Release);
    }

    /// Whether services can reach us.
    pub fn set_announced(&self, announced: bool) {
        self.announced.store(announced, Ordering::Release);
    }

    /// What is missing, if anything.
    pub fn missing(&self) -> Option<&'static str> {
        if !self.loaded.load(Ordering::Acquire) {
            Some("the targets are not loaded yet")
        } else if !self.announced.load(Ordering::Acquire) {
            Some("the bridge is not announced yet")
        } else {
            None
        }
    }
}

/// The addresses of an HTTP connection.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    /// Ours.
    pub local: SocketAddr,
    /// The client's.
    pub remote: SocketAddr,
}

impl Connection {
    /// Whether the client runs on this host.
    fn is_local(self) -> bool {
        let (local, remote): (IpAddr, IpAddr) = (self.local.ip(), self.remote.ip());
        remote.to_canonical().is_loopback() || remote == local
    }
}

/// Every route. Requests need a [`Connection`] among their extensions to be known as local.
fn router(service: Arc<Service>) -> Router {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/targets", get(targets))
        .route("/-/healthy", get(async || "Healthy\n"))
        .route("/-/ready", get(ready))
        .route("/", get(landing))
        .fallback(not_found)
        .method_not_allowed_fallback(not_found);
    let router = match service.gzip {
        Gzip::Always | Gzip::Auto => router.layer(compression()),
        Gzip::Never => router,
    };
    // Outside of that layer, which costs time even where it leaves the answer as it is.
    router.route("/scrape/{alias}/metrics", get(scrape)).with_state(service)
}

/// Compresses answers for those who ask for it, whatever they are.
fn compression() -> CompressionLayer<impl Predicate> {
    let all = |_: StatusCode, _: Version, _: &HeaderMap, _: &Extensions| true;
    CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(all)
}

async fn scrape(
    State(service): State<Arc<Service>>,
    alias: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    // What is not even text is nobody's alias.
    let alias = alias.map_or_else(|_| String::new(), |Path(alias)| alias);
    let limit = limit(request.headers());
    let connection = request.extensions().get().copied();
    if !is_worth_compressing(service.gzip, connection) {
        return service.forward(&alias, limit).await.map(Body::new);
    }
    let forward = async |_: Request| Ok::<_, Infallible>(service.forward(&alias, limit).await);
    let forward = service_fn(forward);
    match compression().layer(forward).oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}

fn is_worth_compressing(gzip: Gzip, connection: Option<Connection>) -> bool {
    match gzip {
        Gzip::Always => true,
        Gzip::Never => false,
        Gzip::Auto => !connection.is_some_and(Connection::is_local),
    }
}

/// How long a scrape may take: a little less than Prometheus waits.
fn limit(headers: &HeaderMap) -> Duration {
    let told = headers.get(SCRAPE_TIMEOUT).and_then(|seconds| seconds.to_str().ok());
    let told = told.and_then(|seconds| seconds.trim().parse::<f64>().ok());
    match told.map(Duration::try_from_secs_f64) {
        Some(Ok(told)) if !told.is_zero() => {
            // Of a timeout shorter than the margin, half is left.
            told.saturating_sub(MARGIN).max(told.min(MARGIN * 2) / 2).min(LONGEST_LIMIT)
        }
        Some(_) | None => DEFAULT_LIMIT,
    }
}

async fn metrics(State(service): State<Arc<Service>>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let exposition = Exposition::for_accept(accept);
    let kind = HeaderValue::from_static(exposition.content_type());
    ([(CONTENT_TYPE, kind)], service.metrics.expose(exposition)).into_response()
}

async fn targets(State(service): State<Arc<Service>>, headers: HeaderMap) -> Response {
    if !service.readiness.loaded.load(Ordering::Acquire) {
        return unavailable("the targets are not loaded yet");
    }
    let asked = || {
        let host = headers.get(HOST)?.to_str().ok()?;
        Some(host.parse::<Authority>().ok()?.to_string())
    };
    let Some(bridge) = service.advertise.clone().or_else(asked) else {
        let text = "the Host header must say where you reach the bridge\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    };
    let json = service.directory.render_http_sd(&bridge);
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
}

async fn ready(State(service): State<Arc<Service>>) -> Response {
    match service.readiness.missing() {
        None => "Ready\n".into_response(),
        Some(missing) => unavailable(missing),
    }
}

fn unavailable(missing: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("Not ready: {missing}\n")).into_response()
}

async fn landing(State(service): State<Arc<Service>>) -> Html<String> {
    Html(page::landing(service.directory.len(), service.readiness.missing()))
}

/// What Fastify, which the Node bridges serve HTTP with, answers.
async fn not_found(method: Method, uri: Uri) -> Response {
    let body = serde_json::json!({
        "message": format!("Route {method}:{uri} not found"),
        "error": "Not Found",
        "statusCode": 404,
    });
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    (StatusCode::NOT_FOUND, [(CONTENT_TYPE, kind)], body.to_string()).into_response()
}

/// Counts requests for the log.
#[derive(Debug, Default)]
pub struct RequestLog {
    requests: AtomicU64,
}

/// A request that will be logged when it completes.
#[derive(Debug)]
struct Logged {
    id: String,
    started: Instant,
}

impl RequestLog {
    /// Logs an incoming request, at debug.
    fn incoming(&self, request: &Request<impl Sized>, connection: Connection) -> Option<Logged> {
        if !tracing::enabled!(Level::DEBUG) {
            return None;
        }
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let id = format!("req-{}", base_36(number));
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        tracing::debug!(
            reqId = id,
            req.method = request.method().as_str(),
            req.url = %request.uri(),
            req.host = host.unwrap_or_default(),
            req.remoteAddress = %connection.remote.ip(),
            req.remotePort = connection.remote.port(),
            "incoming request"
        );
        Some(Logged { id, started: Instant::now() })
    }
}

impl Logged {
    /// Logs that it was answered.
    fn completed(self, status: StatusCode) {
        tracing::debug!(
            reqId = self.id,
            res.statusCode = status.as_u16(),
            responseTime = self.started.elapsed().as_secs_f64() * 1_000.0,
            "request completed"
        );
    }
}

/// As the Node bridges number requests.
fn base_36(mut number: u64) -> String {
    let mut digits = Vec::new();
    while number > 0 || digits.is_empty() {
        let digit = u32::try_from(number % 36).unwrap_or_default();
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_answered_before_prometheus_gives_up() {
        let limit = |seconds: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(SCRAPE_TIMEOUT, seconds.parse().unwrap());
            limit(&headers).as_secs_f64()
        };
        assert_eq!(limit("10"), 9.5);
        assert_eq!(limit("1.5"), 1.0);
        assert_eq!(limit("0.4"), 0.2);
        assert_eq!(limit("1e9"), 300.0);
        for nonsense in ["", "0", "-1", "NaN", "inf", "ten", "1e400"] {
            assert_eq!(limit(nonsense), 9.5, "{nonsense}");
        }
        assert_eq!(super::limit(&HeaderMap::new()), DEFAULT_LIMIT);
    }

    #[test]
    fn requests_are_numbered_as_the_node_bridges_number_them() {
        assert_eq!([1, 9, 10, 35, 36, 1_295, 1_296].map(base_36).join(" "), "1 9 a z 10 zz 100");
    }

    #[test]
    fn clients_on_this_host_are_known() {
        let is_local = |local: &str, remote: &str| {
            Connection { local: local.parse().unwrap(), remote: remote.parse().unwrap() }.is_local()
        };
        assert!(is_local("127.0.0.1:1", "127.0.0.1:2"));
        assert!(is_local("[::1]:1", "[::ffff:127.0.0.1]:2"));
        assert!(is_local("192.0.2.1:1", "192.0.2.1:2"));
        assert!(!is_local("192.0.2.1:1", "192.0.2.2:2"));
    }
}
