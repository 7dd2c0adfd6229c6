//! A bridge on a memory network, and what its tests do with it.

use std::{
    fmt::Debug,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, Request, StatusCode},
};
use bytes::{BufMut, Bytes, BytesMut};
use dht_prom_client::{
    Collect, MetricsServer, RegisterError, SharedSecret,
    message::{AliasRequest, METRICS_PROTOCOL, MetricsResponse},
    register,
};
use dht_prom_transport::{Listener, PublicKey, Session, Transport, TransportError};
use dht_prom_transport_memory::{Memory, MemoryNetwork};
use dht_prometheus::{
    Bridge, BridgeConfig,
    config::{Gzip, HttpConfig, TargetsConfig},
    http::{Answer as _, Connection, Routes},
    registry::targets::TargetsFormat,
};
use futures_util::{SinkExt, future};
use http_body_util::BodyExt;
use hyper::ext::ReasonPhrase;
use protomux::{Limits, Mux, Protocol, Reply, RpcFault, RpcHandler};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

const BRIDGE: PublicKey = PublicKey::from_bytes([0xb; 32]);
const SECRET: SharedSecret = SharedSecret::from_bytes([5; 32]);

/// A running bridge with a network and a folder of its own.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) bridge: Bridge,
    pub(crate) network: MemoryNetwork,
    folder: TempDir,
    gzip: Gzip,
}

/// A service that serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) key: PublicKey,
    serving: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A service that keeps the last message that it sent.
#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) key: PublicKey,
    pub(crate) sent: Arc<Mutex<Option<Bytes>>>,
}

impl Stage {
    /// A bridge that is announced.
    pub(crate) async fn start() -> Self {
        Self::with_gzip(Gzip::Auto).await
    }

    pub(crate) async fn with_gzip(gzip: Gzip) -> Self {
        let stage = Self::build(gzip, |transport| transport).await;
        within(stage.bridge.announced()).await;
        stage
    }

    /// A bridge whose transport is wrapped.
    pub(crate) async fn with_transport<T: Transport>(wrap: impl FnOnce(Memory) -> T) -> Self {
        let stage = Self::build(Gzip::Auto, wrap).await;
        within(stage.bridge.announced()).await;
        stage
    }

    /// A bridge whose transport never gets it announced.
    pub(crate) async fn unannounced() -> Self {
        Self::build(Gzip::Auto, Mute).await
    }

    async fn build<T: Transport>(gzip: Gzip, wrap: impl FnOnce(Memory) -> T) -> Self {
        let network = MemoryNetwork::default();
        let folder = tempfile::tempdir().unwrap();
        let transport = wrap(network.join(BRIDGE));
        let config = config(folder.path(), gzip);
        let bridge = Bridge::start(config, Arc::new(transport)).await.unwrap();
        Self { bridge, network, folder, gzip }
    }

    pub(crate) async fn stop(self) {
        self.bridge.shutdown().await;
    }

    /// Stops the bridge and starts another one on the same folder.
    pub(crate) async fn restart(&mut self) {
        self.stop_bridge().await;
        self.start_bridge().await;
    }

    /// Stops the bridge; a spare one that nobody can reach takes its place.
    pub(crate) async fn stop_bridge(&mut self) {
        let spare = Self::unannounced_in(tempfile::tempdir().unwrap().path()).await;
        std::mem::replace(&mut self.bridge, spare).shutdown().await;
    }

    async fn unannounced_in(folder: &Path) -> Bridge {
        let transport = Mute(MemoryNetwork::default().join(BRIDGE));
        Bridge::start(config(folder, Gzip::Auto), Arc::new(transport)).await.unwrap()
    }

    pub(crate) async fn start_bridge(&mut self) {
        let transport = Arc::new(self.network.join(BRIDGE));
        let config = config(self.folder.path(), self.gzip);
        self.bridge = Bridge::start(config, transport).await.unwrap();
        within(self.bridge.announced()).await;
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.bridge.public_key()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn targets_path(&self) -> PathBuf {
        self.folder.path().join("targets.json")
    }

    /// The targets file, once there is one.
    pub(crate) async fn targets_file(&self) -> String {
        self.until_file(|_| true).await
    }

    /// Waits until the targets file is as it should be.
    pub(crate) async fn until_file(&self, is_right: impl Fn(&str) -> bool) -> String {
        let path = self.targets_path();
        within(async {
            loop {
                match tokio::fs::read_to_string(&path).await {
                    Ok(file) if is_right(&file) => return file,
                    Ok(_) | Err(_) => turn().await,
                }
            }
        })
        .await
    }

    /// Waits until the bridge's metrics have this line.
    pub(crate) async fn until_metric(&self, line: &str) {
        self.until(|metrics| metrics.lines().any(|other| other == line)).await;
    }

    /// Waits until the bridge's metrics are as they should be.
    pub(crate) async fn until(&self, is_right: impl Fn(&str) -> bool) {
        within(async {
            while !is_right(&self.metrics().await) {
                turn().await;
            }
        })
        .await;
    }

    pub(crate) async fn metrics(&self) -> String {
        self.get("/metrics").await.text().to_owned()
    }

    /// Another identity on the network, for dialling the bridge.
    pub(crate) fn dialler(&self, key: u8) -> Memory {
        self.network.join([key; 32].into())
    }

    /// A service under this key, reachable when this returns.
    pub(crate) async fn service(&self, key: u8, collect: impl Collect) -> Service {
        let transport = self.dialler(key);
        let server = MetricsServer::listen(&transport, self.key()).await.unwrap();
        Service { key: transport.local_key(), serving: tokio::spawn(server.run(collect)) }
    }

    /// A service that answers each request with one message, which it keeps.
    pub(crate) async fn tap(&self, key: u8, metrics: Bytes) -> Tap {
        let transport = self.dialler(key);
        let mut listener = transport.listen().await.unwrap();
        let sent = Arc::new(Mutex::new(None));
        let tap = Tap { key: transport.local_key(), sent: Arc::clone(&sent) };
        tokio::spawn(async move {
            let session = listener.accept().await.unwrap().accept().await.unwrap();
            serve_tap(session, metrics, sent).await;
        });
        tap
    }

    pub(crate) async fn register(
        &self,
        alias: &str,
        service: &Service,
    ) -> Result<bool, RegisterError> {
        self.register_key(alias, service.key).await
    }

    pub(crate) async fn register_key(
        &self,
        alias: &str,
        target: PublicKey,
    ) -> Result<bool, RegisterError> {
        let dialler = self.dialler(0xd);
        within(register(&dialler, self.key(), &alias_request(alias, target))).await
    }

    /// Asks as Prometheus on this host does.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send_from_here(path, &[]).await
    }

    /// Sends a request to the routes as if over a connection from another host.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.route(request(method, path, headers), "192.0.2.1:1").await
    }

    /// Sends a request to the routes as if over a connection from this host.
    pub(crate) async fn send_from_here(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.route(request("GET", path, headers), "127.0.0.1:1").await
    }

    async fn route(&self, request: Request<Body>, from: &str) -> Answer {
        let remote: SocketAddr = from.parse().unwrap();
        let connection = Connection { local: self.bridge.http_addr(), remote };
        let routes = Routes::new(Arc::clone(self.bridge.service()));
        let response = within(routes.answer(request, connection)).await;
        let (parts, body) = response.into_parts();
        let reason = parts.extensions.get::<ReasonPhrase>();
        Answer {
            status: parts.status,
            reason: reason.map(|reason| String::from_utf8(reason.as_bytes().to_vec()).unwrap()),
            headers: parts.headers,
            body: single_frame(body).await,
        }
    }
}

/// The body, which is one frame or none, in the memory that the frame has.
async fn single_frame(body: impl HttpBody<Data = Bytes, Error: Debug>) -> Bytes {
    let mut body = pin!(body);
    let mut frames = BytesMut::new();
    let mut whole = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame.unwrap().into_data() else { continue };
        frames.put_slice(&frame);
        whole = frame;
    }
    if frames.len() == whole.len() { whole } else { frames.freeze() }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) reason: Option<String>,
    pub(crate) body: Bytes,
    headers: HeaderMap,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The header's value, empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) fn alias_request(alias: &str, target: PublicKey) -> AliasRequest {
    AliasRequest {
        secret: SECRET,
        alias: alias.to_owned(),
        target,
        hostname: "test-host".to_owned(),
        service: "test-service".to_owned(),
    }
}

fn config(folder: &Path, gzip: Gzip) -> BridgeConfig {
    BridgeConfig {
        shared_secret: SECRET,
        targets: TargetsConfig {
            path: folder.join("targets.json"),
            format: TargetsFormat::Classic,
        },
        http: HttpConfig { host: "127.0.0.1".to_owned(), port: 0, advertise: None, gzip },
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

/// One request over a connection of its own, read to its end: head and body as text.
pub(crate) async fn fetch(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    // A server that refuses a long head may not read all of it.
    let _written = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _read = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// What must not take for ever.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("it happens in time")
}

/// Lets others run, and time pass where it is paused.
async fn turn() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// A transport that never becomes reachable.
#[derive(Debug)]
struct Mute(Memory);

#[async_trait]
impl Transport for Mute {
    fn local_key(&self) -> PublicKey {
        self.0.local_key()
    }

    async fn dial(&self, peer: PublicKey) -> Result<Session, TransportError> {
        self.0.dial(peer).await
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, TransportError> {
        std::future::pending().await
    }

    async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

/// Answers metrics requests over `session`, and keeps each message that it sends in `sent`.
async fn serve_tap(session: Session, metrics: Bytes, sent: Arc<Mutex<Option<Bytes>>>) {
    let keep = move |message: Bytes| {
        *sent.lock().unwrap() = Some(message.clone());
        future::ready(Ok::<_, TransportError>(message))
    };
    let (mux, driver) = Mux::new(session.tx.with(keep), session.rx, Limits::default());
    mux.serve(Protocol::new(METRICS_PROTOCOL), Arc::new(Fixed(metrics)));
    driver.await.unwrap();
}

struct Fixed(Bytes);

#[async_trait]
impl RpcHandler for Fixed {
    async fn request(&self, _method: &str, _value: Bytes) -> Result<Reply, RpcFault> {
        Ok(Reply::new(MetricsResponse::Metrics(self.0.clone())))
    }
}
