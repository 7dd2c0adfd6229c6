//! What forwarding a scrape costs, beside a handler that answers with the same bytes at once.
//!
//! Both are served by `http::serve` on one current-thread runtime, as in the daemon, and asked over
//! kept connections on loopback by a process of its own. Rounds alternate between the two, so that a
//! drift of the machine meets both; figures are medians of rounds. CPU is that of the whole serving
//! process, in which the services live too. What they spend on their answers is not forwarding, and
//! elsewhere when the bridge is at work: the time within their sessions' tasks is taken out, and
//! shown by itself.
//!
//! `cargo bench --bench forward` measures; `-- --quick` (and `cargo test --benches`) only shows that
//! it works.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench stops at surprises, and tells"
)]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    task::Poll,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use bytes::Bytes;
use dht_prom_client::message::{METRICS_PROTOCOL, MetricsResponse};
use dht_prom_transport::{PublicKey, Session, Transport};
use dht_prom_transport_memory::MemoryNetwork;
use dht_prometheus::{
    Bridge, BridgeConfig,
    config::{Gzip, HttpConfig, TargetsConfig},
    http,
    metrics::TEXT,
    registry::{Target, targets::TargetsFormat},
};
use load::{Load, Order};
use mimalloc::MiMalloc;
use procfs::WithCurrentSystemInfo as _;
use protomux::{Limits, Mux, Protocol, Reply, RpcFault, RpcHandler};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Builder};
use tokio_util::sync::CancellationToken;

#[path = "forward/load.rs"]
mod load;

/// As in the daemon.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Body sizes, and the requests of one round.
const BODIES: [(&str, usize, usize); 4] = [
    ("1 KB", 1 << 10, 4_000),
    ("10 KB", 10 << 10, 3_000),
    ("100 KB", 100 << 10, 1_000),
    ("1 MB", 1 << 20, 150),
];
/// Targets, and the connections over which they are asked.
const TARGETS: [(usize, usize); 2] = [(1, 8), (64, 16)];
/// How much a forwarded scrape may cost from 10 KB on, as a multiple of the bare handler.
const MAX_RATIO: f64 = 1.3;
/// How much it may cost more below that, in microseconds.
const MAX_EXTRA_US: f64 = 15.0;

fn main() {
    if std::env::args().any(|arg| arg == load::FLAG) {
        return load::generate();
    }
    // Cargo passes `--bench` when it benches and nothing when it tests.
    let has = |flag| std::env::args().any(|arg| arg == flag);
    let quick = has("--quick") || !has("--bench");
    let (rounds, part) = if quick { (3, 20) } else { (15, 1) };
    let mut load = Load::start();
    let idle = Served::start(1, 0);
    println!("Idle, a bridge with one target on the memory transport: {:.1} MB\n", resident_mb());
    drop(idle);
    println!(
        "CPU and wall time per request in us, medians of {rounds} rounds\n\n\
         {:>7} {:>7} | {:>8} {:>8} | {:>8} {:>8} {:>8} | {:>8} {:>6} {:>8}",
        "body",
        "targets",
        "bare cpu",
        "wall",
        "bridge",
        "services",
        "wall",
        "extra",
        "ratio",
        "bar"
    );
    for (targets, connections) in TARGETS {
        for (name, bytes, requests) in BODIES {
            let served = Served::start(targets, bytes);
            let mut order = Order {
                server: served.bare,
                connections,
                targets,
                bytes,
                requests: requests / part,
            };
            let (mut bare, mut bridge) = (Vec::new(), Vec::new());
            // The first round warms up.
            for _ in 0..=rounds {
                order.server = served.bare;
                bare.push(served.round(&mut load, order));
                order.server = served.bridge;
                bridge.push(served.round(&mut load, order));
            }
            report(name, targets, &Cost::median(&bare[1..]), &Cost::median(&bridge[1..]));
        }
    }
}

fn report(name: &str, targets: usize, bare: &Cost, bridge: &Cost) {
    let (extra, ratio) = (bridge.cpu - bare.cpu, bridge.cpu / bare.cpu);
    let (within, bar) = if name == "1 KB" {
        (extra <= MAX_EXTRA_US, format!("+{MAX_EXTRA_US}"))
    } else {
        (ratio <= MAX_RATIO, format!("{MAX_RATIO} x"))
    };
    println!(
        "{name:>7} {targets:>7} | {:>8.1} {:>8.1} | {:>8.1} {:>8.1} {:>8.1} | {extra:>8.1} {ratio:>6.2} \
         {:>8}",
        bare.cpu,
        bare.wall,
        bridge.cpu,
        bridge.services,
        bridge.wall,
        format!("{bar} {}", if within { "ok" } else { "no" }),
    );
}

/// Microseconds per request.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Without what the services took.
    cpu: f64,
    services: f64,
    wall: f64,
}

impl Cost {
    fn median(rounds: &[Self]) -> Self {
        let median = |value: fn(&Self) -> f64| {
            let mut values: Vec<_> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self {
            cpu: median(|cost| cost.cpu),
            services: median(|cost| cost.services),
            wall: median(|cost| cost.wall),
        }
    }
}

/// User and system time of this process.
fn cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap()
}

/// Resident memory of this process in MB.
fn resident_mb() -> f64 {
    let process = procfs::process::Process::myself().unwrap();
    process.stat().unwrap().rss_bytes().get() as f64 / 1e6
}

/// Both sides, served by one thread until it is dropped.
#[derive(Debug)]
struct Served {
    bare: SocketAddr,
    bridge: SocketAddr,
    services: Arc<AtomicU64>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn start(targets: usize, bytes: usize) -> Self {
        let body: Bytes = b"metric 1\n".iter().copied().cycle().take(bytes).collect();
        let (services, stop) = (Arc::<AtomicU64>::default(), CancellationToken::new());
        let (tell, told) = sync_channel(1);
        let (spent, stopped) = (Arc::clone(&services), stop.clone());
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let bare = serve_bare(body.clone(), stopped.clone()).await;
                let (bridge, _folder) = start_bridge(targets, &body, &spent).await;
                tell.send((bare, bridge.http_addr())).unwrap();
                stopped.cancelled().await;
                bridge.shutdown().await;
            });
        });
        let (bare, bridge) = told.recv().unwrap();
        Self { bare, bridge, services, stop, thread: Some(thread) }
    }

    /// One round of requests, and what each of them cost.
    fn round(&self, load: &mut Load, order: Order) -> Cost {
        let before = (cpu(), self.services.load(Ordering::Relaxed));
        let wall = load.run(order);
        let each = |whole: Duration| whole.as_secs_f64() * 1e6 / order.requests as f64;
        let services = self.services.load(Ordering::Relaxed) - before.1;
        let services = Duration::from_nanos(services);
        Cost {
            cpu: each((cpu() - before.0).saturating_sub(services)),
            services: each(services),
            wall: each(wall),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The handler that has its answer at hand, in the bridge's server.
async fn serve_bare(body: Bytes, stop: CancellationToken) -> SocketAddr {
    let answer = move || {
        let body = body.clone();
        async move { ([(CONTENT_TYPE, TEXT)], body) }
    };
    let router = Router::new().route("/scrape/{alias}/metrics", get(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { http::serve(listener, router, Default::default(), stop).await });
    address
}

/// A bridge with so many targets that answer with `body`.
async fn start_bridge(targets: usize, body: &Bytes, spent: &Arc<AtomicU64>) -> (Bridge, TempDir) {
    let (network, folder) = (MemoryNetwork::default(), tempfile::tempdir().unwrap());
    let config = BridgeConfig {
        shared_secret: [5; 32].into(),
        targets: TargetsConfig {
            path: folder.path().join("targets.json"),
            format: TargetsFormat::Classic,
        },
        http: HttpConfig {
            host: "127.0.0.1".to_owned(),
            port: 0,
            advertise: None,
            gzip: Gzip::Auto,
        },
    };
    let transport = network.join(PublicKey::from_bytes([0xb; 32]));
    let bridge = Bridge::start(config, Arc::new(transport)).await.unwrap();
    for number in 0..targets {
        let mut key = [1; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        let service = network.join(key.into());
        let listener = service.listen().await.unwrap();
        tokio::spawn(serve_metrics(listener, body.clone(), Arc::clone(spent)));
        let target = Target { key: key.into(), hostname: "host".into(), service: "svc".into() };
        let alias = format!("t{number}").parse().unwrap();
        bridge.service().directory.register(alias, target).unwrap();
    }
    (bridge, folder)
}

/// A service with one session, which adds the time that it takes to `spent`.
async fn serve_metrics(
    mut listener: Box<dyn dht_prom_transport::Listener>,
    body: Bytes,
    spent: Arc<AtomicU64>,
) {
    let Session { tx, rx, .. } = listener.accept().await.unwrap().accept().await.unwrap();
    let (mux, driver) = Mux::new(tx, rx, Limits::default());
    mux.serve(Protocol::new(METRICS_PROTOCOL), Arc::new(Fixed(body)));
    let mut driver = std::pin::pin!(driver);
    let _ended = std::future::poll_fn(|cx| {
        let began = Instant::now();
        let polled: Poll<_> = driver.as_mut().poll(cx);
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap();
        spent.fetch_add(took, Ordering::Relaxed);
        polled
    })
    .await;
}

/// Answers with the same bytes each time.
struct Fixed(Bytes);

#[async_trait]
impl RpcHandler for Fixed {
    async fn request(&self, _method: &str, _value: Bytes) -> Result<Reply, RpcFault> {
        Ok(Reply::new(MetricsResponse::Metrics(self.0.clone())))
    }
}
