//! HyperDHT: finding peers by their public keys, and records of all kinds, on a DHT RPC network.
//!
//! [`Dht`] is one node: it asks for the application, stores for others when it is part of the
//! network, passes handshakes on, and keeps the application's servers announced. Handshakes
//! themselves are opaque here: they come out as events and go in as answers.
//!
//! The protocol is that of the npm package hyperdht 6.34.

mod announcer;
mod cache;
mod commands;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod hop;
mod lookup;
mod node;
mod records;
mod router;
mod store;
#[cfg(test)]
mod tests;

use std::net::SocketAddrV4;

use bytes::Bytes;

pub use self::{
    announcer::Relay,
    commands::{ERROR_SEQ_REUSED, ERROR_SEQ_TOO_LOW},
    lookup::{AnnounceOptions, FindOptions},
    node::{Dht, HandshakeCall, HolepunchCall, KeyInUse},
    records::{LookupReply, MAX_ADDRESSES, MAX_LOOKUP_PEERS, MutableRecord, PeerRecord},
    router::{HandshakeAnswer, HandshakeId, IncomingHandshake, IncomingHolepunch, ServerId},
};
use crate::rpc::{self, Peer, QueryId, QueryReport, RequestError, RequestId};

/// How a HyperDHT node is set up.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The node below. Its `accepts` is narrowed to what HyperDHT accepts.
    pub rpc: rpc::Config,
    /// The wall clock at the start, in milliseconds since 1970: bumps of topics are dated.
    pub unix_ms: u64,
}

/// Where the public network begins (`hyperdht/lib/constants.js`), to be parsed as
/// [`BootstrapNode`](rpc::BootstrapNode).
pub const PUBLIC_BOOTSTRAP: [&str; 3] = [
    "88.99.3.86@node1.hyperdht.org:49737",
    "142.93.90.113@node2.hyperdht.org:49737",
    "138.68.147.8@node3.hyperdht.org:49737",
];

impl rpc::BootstrapNode {
    /// [`PUBLIC_BOOTSTRAP`].
    pub fn public() -> Vec<Self> {
        PUBLIC_BOOTSTRAP.iter().filter_map(|node| node.parse().ok()).collect()
    }
}

/// The port that a node's server socket takes when it is free; then the four after it are tried.
pub const DEFAULT_PORT: u16 = 49737;

/// Something the application wants to know or has to do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// Something of the node below: that it is ready, that it joined, that a name is to be looked
    /// up, that a ping or another request of the application's has ended.
    Rpc(rpc::Event),
    /// A node on a query's way knows something.
    Found {
        /// Which query.
        query: QueryId,
        /// Who knows.
        from: Peer,
        /// Our address as that node sees it.
        to: SocketAddrV4,
        /// What.
        found: Found,
    },
    /// A query is over, and with it whatever was to be stored or taken back.
    Done {
        /// Which.
        query: QueryId,
        /// What it came to.
        report: QueryReport,
    },
    /// Somebody wants to connect to a server of ours.
    Handshake(IncomingHandshake),
    /// A client of a server of ours wants to arrange a holepunch.
    Holepunch(IncomingHolepunch),
    /// A handshake that we began has come back, or has failed.
    HandshakeDone {
        /// Which.
        request: RequestId,
        /// The server's answer.
        outcome: Result<HandshakeReply, HopError>,
    },
    /// A holepunch message of ours has been answered, or has failed.
    HolepunchDone {
        /// Which.
        request: RequestId,
        /// The server's answer.
        outcome: Result<HolepunchReply, HopError>,
    },
    /// A server has been announced, for the first time or again; the nodes that hold it may be
    /// others than before, or none if nobody took it.
    Announced {
        /// Which server.
        server: ServerId,
        /// How many nodes took it.
        nodes: usize,
    },
    /// The network is another one, or there again: our address has changed, nodes answer that did
    /// not, the machine slept. Connections may have died without a word and are to be tried out;
    /// whoever could not be reached may be reached now.
    NetworkChanged,
    /// From now on the node keeps still, until it is [resumed](Dht::resume).
    Suspended,
    /// A closed server has been taken back from the network.
    Closed(ServerId),
}

/// What a query has found at one node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// [`Dht::find_peer`]: a server's record. The node passes handshakes on to it.
    Peer(PeerRecord),
    /// [`Dht::lookup`] and those that look first: what the node knows about a topic.
    Topic(LookupReply),
    /// [`Dht::immutable_find`]: the value, which fits its hash.
    Immutable(Bytes),
    /// [`Dht::mutable_find`]: a version, correctly signed and newer than any found before.
    Mutable(MutableRecord),
}

/// A server's answer to our handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeReply {
    /// The second Noise message.
    pub noise: Bytes,
    /// The node that was asked.
    pub relay: SocketAddrV4,
    /// Whether that node passed it on; if not, it is the server itself.
    pub relayed: bool,
    /// The server, as that node saw it.
    pub server: SocketAddrV4,
    /// Our address, as that node sees it.
    pub client: SocketAddrV4,
}

/// A server's answer to our holepunch message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolepunchReply {
    /// What the server says, encrypted.
    pub payload: Bytes,
    /// The node that was asked.
    pub relay: SocketAddrV4,
    /// The server, as that node saw it.
    pub server: SocketAddrV4,
    /// Our address, as that node sees it.
    pub client: SocketAddrV4,
}

/// Why a message to a server has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HopError {
    /// The node that was to pass it on, or the server behind it, did not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The node knows of no such server.
    #[error("the node does not know the server")]
    NoRoute,
    /// What came back is not the answer to such a message.
    #[error("the answer is malformed")]
    BadReply,
}
