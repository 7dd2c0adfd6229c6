//! A DHT of our own on loopback.

use std::net::{Ipv4Addr, SocketAddr};

use dht_prom_transport::TransportError;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    error,
    node::{Bootstrap, spawn},
};

/// A few DHT nodes on 127.0.0.1, for demonstrations and tests. They stop when it is dropped.
#[derive(Debug)]
pub struct Testnet {
    nodes: Vec<SocketAddr>,
    _stop: DropGuard,
}

impl Testnet {
    /// Starts `size` nodes, at least one; three are enough to lose one.
    ///
    /// Cancel-safe: dropping the call stops what was started.
    ///
    /// # Errors
    /// As [`Node::start`](super::Node::start).
    pub async fn start(size: usize) -> Result<Self, TransportError> {
        let act = "starting a local DHT";
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let mut nodes = Vec::new();
        for _ in 0..size.max(1) {
            let bootstrap = Bootstrap::Nodes(nodes.first().copied().into_iter().collect());
            let (task, dht, _events) = spawn(Ipv4Addr::LOCALHOST, 0, &bootstrap)
                .await
                .map_err(|error| error::node(act, error))?;
            let (stop, leaving) = (stop.clone(), dht.clone());
            tokio::spawn(async move {
                stop.cancelled().await;
                // Fails only if the task has ended already.
                let _ = leaving.destroy().await;
                let _ = task.await;
            });
            dht.bootstrapped().await.map_err(|error| error::node(act, error))?;
            let port = dht.local_port().await.map_err(|error| error::node(act, error))?;
            nodes.push((Ipv4Addr::LOCALHOST, port).into());
        }
        Ok(Self { nodes, _stop: guard })
    }

    /// The nodes' addresses, to be given to others as their bootstrap nodes.
    pub fn bootstrap(&self) -> Vec<SocketAddr> {
        self.nodes.clone()
    }
}
