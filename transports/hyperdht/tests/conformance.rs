//! The transport keeps the seam's promises on a local network.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use async_trait::async_trait;
use dht_prom_transport::{
    Transport,
    conformance::{Lab, Quirks},
};
use hyperdht_rs::{HyperDht, Testnet};
use tokio::sync::OnceCell;

/// A network for each pair: its nodes live in the runtime of the test.
struct LocalDht(OnceCell<Testnet>);

#[async_trait]
impl Lab for LocalDht {
    async fn pair(&self) -> (Arc<dyn Transport>, Arc<dyn Transport>) {
        let testnet = self.0.get_or_init(|| async { Testnet::start(3).await.unwrap() }).await;
        (Arc::new(join(testnet).await), Arc::new(join(testnet).await))
    }

    fn quirks(&self) -> Quirks {
        let mut quirks = Quirks::default();
        // An answer would tell a stranger that somebody is there.
        quirks.refuses_silently = true;
        quirks
    }
}

async fn join(testnet: &Testnet) -> HyperDht {
    static SEED: AtomicU8 = AtomicU8::new(1);
    testnet.join().await.unwrap().identity(&[SEED.fetch_add(1, Ordering::Relaxed); 32])
}

dht_prom_transport::conformance_tests!(LocalDht(OnceCell::new()));
