//! A network of our own on loopback.

use std::net::{Ipv4Addr, SocketAddr};

use dht_prom_transport::TransportError;

use crate::node::{Bootstrap, Node, NodeOptions, Role, StartError};

/// A few nodes on 127.0.0.1, for demonstrations and tests. They stop when it is dropped.
#[derive(Debug)]
pub struct Testnet {
    nodes: Vec<Node>,
}

impl Testnet {
    /// Starts `size` nodes, at least one. Peers need two to find each other by.
    ///
    /// Cancel-safe: dropping the call stops what was started.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start(size: usize) -> Result<Self, TransportError> {
        let mut testnet = Self { nodes: Vec::new() };
        for _ in 0..size.max(1) {
            let options = NodeOptions {
                role: Role::Persistent,
                firewalled: false,
                ..testnet.options_for_first()
            };
            testnet.nodes.push(Node::start(options).await.map_err(TransportError::from)?);
        }
        Ok(testnet)
    }

    /// The nodes' addresses, to be given to others as their bootstrap nodes.
    pub fn bootstrap(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::local_addr).collect()
    }

    /// How others join: on any port of 127.0.0.1.
    pub fn options(&self) -> NodeOptions {
        NodeOptions { bootstrap: Bootstrap::Nodes(self.bootstrap()), ..self.options_for_first() }
    }

    /// Starts another node in this network, which ends on its own. Cancel-safe: dropping the call stops
    /// the node.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn join(&self) -> Result<Node, StartError> {
        Node::start(self.options()).await
    }

    /// One node is enough to begin with while the network is being made.
    fn options_for_first(&self) -> NodeOptions {
        NodeOptions {
            bootstrap: Bootstrap::Nodes(self.bootstrap().into_iter().take(1).collect()),
            host: Ipv4Addr::LOCALHOST,
            port: Some(0),
            ..NodeOptions::default()
        }
    }
}
