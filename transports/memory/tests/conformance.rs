//! The memory transport, bare and wrapped, keeps the seam's promises.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use dht_prom_transport::{Delayed, Faulty, Meter, Metered, Transport, conformance::Lab};
use dht_prom_transport_memory::{Memory, MemoryNetwork};

/// A fresh network for each pair, every transport on it wrapped.
struct MemoryLab<W>(W);

#[async_trait]
impl<W, T> Lab for MemoryLab<W>
where
    W: Fn(Memory) -> T + Send + Sync,
    T: Transport,
{
    async fn pair(&self) -> (Arc<dyn Transport>, Arc<dyn Transport>) {
        let network = MemoryNetwork::default();
        let join = |key: [u8; 32]| Arc::new((self.0)(network.join(key.into())));
        (join([1; 32]), join([2; 32]))
    }
}

#[derive(Debug)]
struct Deaf;

impl Meter for Deaf {}

mod memory {
    use super::*;
    dht_prom_transport::conformance_tests!(MemoryLab(|memory| memory));
}

mod arc_of_dyn {
    use super::*;
    dht_prom_transport::conformance_tests!(MemoryLab(
        |memory| Arc::new(memory) as Arc<dyn Transport>
    ));
}

mod delayed {
    use super::*;
    const DELAY: Duration = Duration::from_millis(1);
    dht_prom_transport::conformance_tests!(MemoryLab(|memory| Delayed::new(memory, DELAY)));
}

mod faulty {
    use super::*;
    dht_prom_transport::conformance_tests!(MemoryLab(Faulty::new));
}

mod metered {
    use super::*;
    dht_prom_transport::conformance_tests!(MemoryLab(|memory| Metered::new(
        memory,
        Arc::new(Deaf)
    )));
}
