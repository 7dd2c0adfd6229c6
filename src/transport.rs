//! From settings to a transport: the only place that knows which ones there are.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

use async_trait::async_trait;
use dht_prom_transport::{Listener, PublicKey, Session, Transport, TransportError};
use hyperdht_rs::{Bootstrap, HyperDht, Node, NodeOptions, Testnet};
use tokio::sync::{Notify, OnceCell};

use crate::config::{DhtConfig, Seed};

/// The transport that the settings ask for, as the identity that `seed` decides.
///
/// It joins its network when it is first used: HTTP is served before, and a network that is not
/// there yet is tried again.
pub fn open(config: DhtConfig, seed: Seed) -> Arc<dyn Transport> {
    Arc::new(HyperDhtTransport {
        key: hyperdht_rs::public_key(seed.expose()),
        config,
        seed,
        joined: OnceCell::new(),
        joins: Notify::new(),
    })
}

/// The public key that `seed` decides.
pub fn public_key(seed: &Seed) -> PublicKey {
    hyperdht_rs::public_key(seed.expose())
}

/// A HyperDHT node that starts when it is needed.
#[derive(Debug)]
struct HyperDhtTransport {
    config: DhtConfig,
    key: PublicKey,
    seed: Seed,
    joined: OnceCell<(Node, HyperDht)>,
    joins: Notify,
}

impl HyperDhtTransport {
    async fn identity(&self) -> Result<&HyperDht, TransportError> {
        let join = async {
            let node = Node::start(node_options(&self.config).await?).await?;
            let identity = node.identity(self.seed.expose());
            Ok::<_, TransportError>((node, identity))
        };
        let (_, identity) = self.joined.get_or_try_init(|| join).await?;
        self.joins.notify_waiters();
        Ok(identity)
    }
}

#[async_trait]
impl Transport for HyperDhtTransport {
    fn local_key(&self) -> PublicKey {
        self.key
    }

    async fn dial(&self, peer: PublicKey) -> Result<Session, TransportError> {
        self.identity().await?.dial(peer).await
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, TransportError> {
        self.identity().await?.listen().await
    }

    async fn network_changed(&self) {
        let joining = self.joins.notified();
        if self.joined.get().is_none() {
            joining.await;
        }
        if let Some((_, identity)) = self.joined.get() {
            identity.network_changed().await;
        }
    }

    async fn shutdown(&self) {
        if let Some((node, identity)) = self.joined.get() {
            identity.shutdown().await;
            node.shutdown().await;
        }
    }
}

/// How a node joins the network of these settings.
///
/// # Errors
/// When the name of no bootstrap node leads anywhere.
pub async fn node_options(config: &DhtConfig) -> Result<NodeOptions, TransportError> {
    Ok(NodeOptions {
        bootstrap: bootstrap(&config.bootstrap).await?,
        host: config.host,
        port: (config.port != 0).then_some(config.port),
        forwarded: config.forwarded_port.map(NonZeroU16::get),
        relays: config.relays.iter().map(|key| (*key.as_bytes()).into()).collect(),
        ..NodeOptions::default()
    })
}

/// The addresses of these nodes; those whose name leads nowhere are left out, as long as one is left.
async fn bootstrap(nodes: &[String]) -> Result<Bootstrap, TransportError> {
    if nodes.is_empty() {
        return Ok(Bootstrap::Public);
    }
    let mut addresses = Vec::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the names have no IPv4 address");
    for node in nodes {
        match tokio::net::lookup_host(node).await {
            Ok(found) => addresses.extend(found.filter(SocketAddr::is_ipv4)),
            Err(error) => failure = error,
        }
    }
    if addresses.is_empty() {
        let act = "looking up the bootstrap nodes";
        return Err(TransportError::Io { act, source: failure });
    }
    Ok(Bootstrap::Nodes(addresses))
}

/// A DHT of its own on 127.0.0.1, for demonstrations.
#[derive(Debug)]
pub struct LocalDht {
    testnet: Testnet,
}

impl LocalDht {
    /// Starts a few nodes.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub async fn start() -> Result<Self, TransportError> {
        Ok(Self { testnet: Testnet::start(LOCAL_DHT_NODES).await? })
    }

    /// How to join it.
    pub fn config(&self) -> DhtConfig {
        let bootstrap = self.testnet.bootstrap().iter().map(SocketAddr::to_string).collect();
        DhtConfig {
            host: Ipv4Addr::LOCALHOST,
            port: 0,
            forwarded_port: None,
            bootstrap,
            relays: Vec::new(),
        }
    }
}

/// Enough to keep a record in more places than one.
const LOCAL_DHT_NODES: usize = 4;
