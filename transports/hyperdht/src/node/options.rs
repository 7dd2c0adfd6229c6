//! How a node is set up.

use std::{
    io,
    net::{AddrParseError, Ipv4Addr, SocketAddr, SocketAddrV4},
    str::FromStr,
};

use hyperdht_proto::{
    dht::{self, DEFAULT_PORT},
    keys::PublicKey,
    rpc,
};

pub use hyperdht_proto::rpc::{BootstrapNode, Role};

/// How a node joins the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// Who is asked first.
    pub bootstrap: Bootstrap,
    /// The address of the sockets; `0.0.0.0` for all.
    pub host: Ipv4Addr,
    /// The port of the server socket; 0 for any. `None` takes the first free one of 49737 to 49741,
    /// as the Node package does, or else any.
    pub port: Option<u16>,
    /// The UDP port under which others reach the server socket, where a router forwards one. Then
    /// `port` should be set, to which it forwards.
    pub forwarded: Option<u16>,
    /// Whether to keep records for others, and when.
    pub role: Role,
    /// Whether to assume, until shown otherwise, that nobody reaches the server socket unasked.
    pub firewalled: bool,
    /// Blind relays at which to meet peers whose NATs cannot be crossed, or until they are: of the
    /// public keys of such [servers](crate::relay::RelayServer), one is chosen for each connection,
    /// dialled or taken in. Those that peers name are used in any case.
    pub relays: Vec<PublicKey>,
    /// Whether peers are met directly where that is possible. Without, every connection takes a relay,
    /// of ours or of the peer's, and to where neither names one there is none; the connections to
    /// relays are direct ones.
    pub direct: bool,
}

impl Default for NodeOptions {
    /// The public network, all addresses, the usual ports, and a part in the network once it has
    /// shown to be reachable and lasting.
    fn default() -> Self {
        Self {
            bootstrap: Bootstrap::Public,
            host: Ipv4Addr::UNSPECIFIED,
            port: None,
            forwarded: None,
            role: Role::Adaptive,
            firewalled: true,
            relays: Vec::new(),
            direct: true,
        }
    }
}

/// The nodes through which a node finds all others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Bootstrap {
    /// Those of the public network.
    #[default]
    Public,
    /// These; none for the first node of a network. Only IPv4 addresses count.
    Nodes(Vec<SocketAddr>),
}

/// Reads `public`, or addresses like `192.0.2.1:49737` with commas between; an empty text names none.
impl FromStr for Bootstrap {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "public" {
            return Ok(Self::Public);
        }
        let nodes = text.split(',').filter(|node| !node.is_empty());
        Ok(Self::Nodes(nodes.map(str::parse).collect::<Result<_, _>>()?))
    }
}

impl Bootstrap {
    fn nodes(&self) -> Vec<BootstrapNode> {
        match self {
            Self::Public => BootstrapNode::public(),
            Self::Nodes(nodes) => nodes
                .iter()
                .filter_map(|node| match node {
                    SocketAddr::V4(address) => Some(BootstrapNode::Address(*address)),
                    SocketAddr::V6(_) => None,
                })
                .collect(),
        }
    }
}

impl NodeOptions {
    /// The ports to try for the server socket, one after another as long as they are taken.
    pub(crate) fn server_ports(&self) -> impl ExactSizeIterator<Item = u16> + use<> {
        let usual = (0..DEFAULT_PORTS).map(|n| DEFAULT_PORT + n);
        let ports = self.port.map_or_else(|| usual.chain([0]).collect(), |port| vec![port]);
        ports.into_iter()
    }

    /// The settings of the state machine, once the server socket is bound.
    pub(super) fn config(&self, server: SocketAddrV4, unix_ms: u64) -> dht::Config {
        let bootstrap = self.bootstrap.nodes();
        // A network's first node has nobody who could tell it its address.
        let alone = bootstrap.is_empty() && !self.firewalled && !server.ip().is_unspecified();
        dht::Config {
            rpc: rpc::Config {
                server_port: server.port(),
                bootstrap,
                role: self.role,
                firewalled: self.firewalled,
                forwarded: self.forwarded,
                public_address: alone.then_some(server),
                ..rpc::Config::default()
            },
            unix_ms,
        }
    }
}

/// A node cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The port is taken, the address is not this host's, or the like.
    #[error("binding a UDP socket at {address}")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// Ports in a row that are tried (`dht-rpc/index.js`).
const DEFAULT_PORTS: u16 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bootstrap_is_public_or_a_list_of_addresses() {
        let node = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!("public".parse(), Ok(Bootstrap::Public));
        assert_eq!("".parse(), Ok(Bootstrap::Nodes(Vec::new())));
        let two = Bootstrap::Nodes(vec![node("127.0.0.1:1"), node("192.0.2.1:49737")]);
        assert_eq!("127.0.0.1:1,192.0.2.1:49737".parse(), Ok(two));
        for wrong in ["localhost:1", "127.0.0.1", "127.0.0.1:1;127.0.0.1:2", "Public"] {
            assert!(wrong.parse::<Bootstrap>().is_err(), "{wrong}");
        }
    }
}
