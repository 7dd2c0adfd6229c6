//! A service that lets a dht-prometheus bridge scrape it.
//!
//! ```text
//! export DHT_PROM_SHARED_SECRET=...   # the bridge's
//! cargo run -p dht-prom-client --example service -- BRIDGE ALIAS [BOOTSTRAP]
//! ```
//!
//! BRIDGE is the bridge's public key, and ALIAS the name to be scraped under. BOOTSTRAP is HOST:PORT,
//! several with commas, where the network is not the public one. `DHT_PROM_RELAYS` names blind relays,
//! keys with commas between, for where the NATs of both sides cannot be crossed; those that the bridge
//! names need not be named here. It prints `registered ALIAS updated`,
//! or `registered ALIAS known` where that told the bridge nothing new, and `failed ALIAS REASON`, as it
//! registers each hour and tries again when that fails. It runs until it is stopped.
#![expect(clippy::print_stdout, reason = "what it prints is its purpose")]

use std::{
    error::Error,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use dht_prom_client::{MetricsServer, SharedSecret, message::AliasRequest, register};
use dht_prom_transport::{PublicKey, Transport, decode_key};
use hyperdht_rs::{Bootstrap, HyperDht, Node, NodeOptions};
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::{sleep, timeout};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (bridge, alias, bootstrap) = match words[..] {
        [bridge, alias] => (bridge, alias, Bootstrap::Public),
        [bridge, alias, nodes] => {
            let nodes: Result<Vec<SocketAddr>, _> = nodes.split(',').map(str::parse).collect();
            (bridge, alias, Bootstrap::Nodes(nodes?))
        }
        _ => return Err("BRIDGE ALIAS [BOOTSTRAP]".into()),
    };
    let secret: SharedSecret = std::env::var("DHT_PROM_SHARED_SECRET")?.parse()?;
    let relays = std::env::var("DHT_PROM_RELAYS").unwrap_or_default();
    let relays = relays.split(',').map(str::trim).filter(|key| !key.is_empty()).map(decode_key);
    let relays = relays.map(|key| Ok(key?.into())).collect::<Result<_, Failure>>();
    let relays = relays.map_err(|error| format!("DHT_PROM_RELAYS: {error}"))?;
    let node = Node::start(NodeOptions { bootstrap, relays, ..NodeOptions::default() }).await?;
    // Two keys: one to be scraped under, and one to register with.
    let mut rng: StdRng = rand::make_rng();
    let [serving, registering] = [node.identity(&rng.random()), node.identity(&rng.random())];
    let request = AliasRequest {
        secret,
        alias: alias.to_owned(),
        target: serving.local_key(),
        hostname: "example".to_owned(),
        service: "example".to_owned(),
    };
    let bridge: PublicKey = bridge.parse()?;
    let server = MetricsServer::listen(&serving, bridge).await?;
    let scrapes = AtomicU64::new(0);
    tokio::join!(
        server.run(move || collect(&scrapes)),
        keep_registered(&registering, bridge, &request)
    );
    Ok(())
}

/// Whatever the service has to tell.
fn collect(scrapes: &AtomicU64) -> Bytes {
    let scrapes = scrapes.fetch_add(1, Ordering::Relaxed) + 1;
    format!("# TYPE example_scrapes_total counter\nexample_scrapes_total {scrapes}\n").into()
}

/// A bridge forgets who has not registered for three hours.
async fn keep_registered(transport: &HyperDht, bridge: PublicKey, request: &AliasRequest) {
    let alias = &request.alias;
    loop {
        let registered = timeout(PATIENCE, register(transport, bridge, request)).await;
        let wait = match registered {
            Ok(Ok(updated)) => {
                println!("registered {alias} {}", if updated { "updated" } else { "known" });
                INTERVAL
            }
            Ok(Err(error)) => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                println!("failed {alias} {error}{cause}");
                RETRY
            }
            Err(_) => {
                println!("failed {alias} the bridge did not answer in time");
                RETRY
            }
        };
        sleep(wait).await;
    }
}

/// How long a registration may take. Longer where both sides are behind NATs and one is symmetric.
const PATIENCE: Duration = Duration::from_secs(45);

/// As the Node clients.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Until the next try after a failure.
const RETRY: Duration = Duration::from_secs(2);
