//! The transport keeps the seam's promises on a local DHT, but for known differences.

#![cfg(feature = "peeroxide")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use async_trait::async_trait;
use dht_prom_transport::{
    Transport,
    conformance::{Lab, Quirks},
};
use hyperdht_rs::peeroxide::{Bootstrap, HyperDht, Node, NodeOptions, Testnet};

/// A DHT for each pair: its nodes live in the runtime of the test.
struct LocalDht(tokio::sync::OnceCell<Testnet>);

#[async_trait]
impl Lab for LocalDht {
    async fn pair(&self) -> (Arc<dyn Transport>, Arc<dyn Transport>) {
        let testnet = self.0.get_or_init(|| async { Testnet::start(3).await.unwrap() }).await;
        (Arc::new(join(testnet).await), Arc::new(join(testnet).await))
    }

    fn quirks(&self) -> Quirks {
        let mut quirks = Quirks::default();
        quirks.cuts_off_slow_readers = true;
        quirks
    }
}

async fn join(testnet: &Testnet) -> HyperDht {
    static SEED: AtomicU8 = AtomicU8::new(1);
    let options = NodeOptions {
        bootstrap: Bootstrap::Nodes(testnet.bootstrap()),
        host: Ipv4Addr::LOCALHOST,
        port: Some(0),
    };
    let node = Node::start(options).await.unwrap();
    node.identity(&[SEED.fetch_add(1, Ordering::Relaxed); 32])
}

dht_prom_transport::conformance_tests!(LocalDht(tokio::sync::OnceCell::new()));
