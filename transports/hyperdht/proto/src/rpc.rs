//! DHT RPC: a Kademlia network of nodes that ask each other small questions over UDP.
//!
//! [`Rpc`] is one node as a state machine. It is told what happened ([`Rpc::handle_datagram`],
//! [`Rpc::handle_timeout`], or a call such as [`Rpc::query`]) and afterwards asked what follows
//! from it: [`Rpc::poll_transmit`], [`Rpc::poll_event`] and [`Rpc::poll_timeout`], until they have
//! nothing more.
//!
//! It keeps the routing table, finds out whether it can be reached from outside and becomes part of
//! the network when it can, and answers the commands that every node knows. What the network is
//! for is decided above: requests that it does not know come out as [`Event::Request`].
//!
//! ```
//! use hyperdht_proto::rpc::{Config, Message, Request, Rpc, SocketId};
//! use rand::{SeedableRng, rngs::StdRng};
//!
//! # #[expect(clippy::disallowed_methods, reason = "an example's clock is the real one")]
//! let now = std::time::Instant::now();
//! let mut node = Rpc::new(Config::default(), now, StdRng::seed_from_u64(1));
//! let ping = Request {
//!     tid: 7,
//!     to: "10.0.0.1:49737".parse()?,
//!     id: None,
//!     token: None,
//!     internal: true,
//!     command: 0,
//!     target: None,
//!     value: None,
//! };
//! node.handle_datagram(now, SocketId::Server, "10.0.0.2:5000".parse()?, &ping.encode());
//! let pong = node.poll_transmit().expect("a ping is answered");
//! assert!(matches!(Message::decode(&pong.payload)?, Message::Reply(reply) if reply.tid == 7));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The protocol is that of the npm package dht-rpc 6.27, on whose networks it runs. IPv4 only, as
//! there: the messages have room for nothing else.

mod bootstrap;
mod health;
mod id;
mod message;
mod nat;
mod node;
mod query;
mod requests;
mod table;
#[cfg(any(test, feature = "testnet"))]
pub mod testnet;
mod token;
mod window;

use std::{net::SocketAddrV4, time::Duration};

use bytes::Bytes;

pub use self::{
    bootstrap::{BootstrapKey, BootstrapNode, ParseBootstrapError},
    health::Network,
    id::{NodeId, Peer, Target, is_reachable},
    message::{MAX_CLOSER_NODES, Message, MessageError, Reply, Request},
    nat::NatSampler,
    node::{
        Ask, MAX_DATAGRAM, MAX_DELAYED_PINGS, MAX_EVENTS, MAX_PING_DELAY, MAX_TRANSMITS,
        ReplyOptions, Rpc, Stats,
    },
    query::{Commit, CommitResult, QueryError, QueryId, QueryReport, QuerySpec},
    requests::{RequestError, RequestId},
    table::K,
    token::Token,
};

/// One of a node's UDP sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketId {
    /// Bound to a random port; carries what a firewalled node asks.
    Client,
    /// Bound to the configured port; what the public address of a reachable node refers to.
    Server,
    /// One of the sockets opened for crossing a NAT, by a number of its owner's.
    Pool(u32),
}

/// A datagram to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// From where.
    pub socket: SocketId,
    /// To where.
    pub to: SocketAddrV4,
    /// What.
    pub payload: Bytes,
}

/// A request that is for the application to answer, by [`Rpc::reply`], [`Rpc::error`] or
/// [`Rpc::relay`], or by silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingRequest {
    /// The socket it came in on; the answer leaves from there.
    pub socket: SocketId,
    /// Who asks. The id is present when it fits the address.
    pub from: Peer,
    /// Where the requester sent it: an address of ours.
    pub to: SocketAddrV4,
    /// The requester's name for the exchange.
    pub tid: u16,
    /// Present when we issued it to this host not long ago; a wrong one has been refused already.
    pub token: Option<Token>,
    /// What is asked.
    pub command: u64,
    /// What it is about.
    pub target: Option<Target>,
    /// What came with it.
    pub value: Option<Bytes>,
}

/// A node's answer to a request of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Who answers. The id is present when it fits the address, which only nodes that are part of
    /// the network send.
    pub from: Peer,
    /// Our address as the node sees it.
    pub to: SocketAddrV4,
    /// The socket it came in on.
    pub socket: SocketId,
    /// Lets us store something at the node for some seconds.
    pub token: Option<Token>,
    /// Nodes that may be nearer to the target.
    pub closer_nodes: Vec<SocketAddrV4>,
    /// 0 when the command succeeded; else [`ERROR_UNKNOWN_COMMAND`], [`ERROR_INVALID_TOKEN`] or a
    /// number of the application's.
    pub error: u64,
    /// What the command gave.
    pub value: Option<Bytes>,
    /// From the first transmission to the answer.
    pub rtt: Duration,
}

/// The commands that every node knows (dht-rpc `lib/commands.js`).
pub mod commands {
    /// Answer.
    pub const PING: u64 = 0;
    /// Answer to the port in the value, two bytes with the low one first.
    pub const PING_NAT: u64 = 1;
    /// Name the nodes that you know nearest to the target.
    pub const FIND_NODE: u64 = 2;
    /// See whether the node in the value is still there.
    pub const DOWN_HINT: u64 = 3;
    /// Answer after the milliseconds in the value, four bytes with the low one first.
    pub const DELAYED_PING: u64 = 4;
}

/// The node does not know the command, or is not yet part of the network.
pub const ERROR_UNKNOWN_COMMAND: u64 = 1;
/// The token was not issued to this host, or too long ago.
pub const ERROR_INVALID_TOKEN: u64 = 2;

/// How a node takes part in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Asks at first, and joins when it has been up and reachable for some time.
    #[default]
    Adaptive,
    /// Joins as soon as it knows that it is reachable.
    Persistent,
    /// Asks and never joins.
    Ephemeral,
}

/// How a node is set up. [`Config::default`] has the reference's values.
#[derive(Debug, Clone)]
pub struct Config {
    /// The local port of [`SocketId::Server`], to which it is bound already.
    pub server_port: u16,
    /// Nodes to ask as long as few others are known. A network's first node has none.
    pub bootstrap: Vec<BootstrapNode>,
    /// Nodes known from earlier, for the routing table.
    pub nodes: Vec<SocketAddrV4>,
    /// Whether to join the network.
    pub role: Role,
    /// Whether to assume, until shown otherwise, that nobody reaches the server socket unasked.
    pub firewalled: bool,
    /// The UDP port under which others reach the server socket, where a router forwards one. It is
    /// looked at when the node starts, and each minute.
    pub forwarded: Option<u16>,
    /// The public address, where it is known beforehand, as a bootstrap node's is.
    pub public_address: Option<SocketAddrV4>,
    /// Whether to try early on if the server socket can be reached.
    pub quick_firewall_check: bool,
    /// Requests on the way per 750 ms; at most twice as many altogether.
    pub max_window: usize,
    /// Whether a node may be asked and remembered.
    pub accepts: fn(SocketAddrV4) -> bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_port: 0,
            bootstrap: Vec::new(),
            nodes: Vec::new(),
            role: Role::Adaptive,
            firewalled: true,
            forwarded: None,
            public_address: None,
            quick_firewall_check: true,
            max_window: 80,
            accepts: |_| true,
        }
    }
}

/// Something the application wants to know or has to do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The first walk is over: the routing table is as full as it gets.
    Ready,
    /// Somebody asks for something that is not DHT RPC's own.
    Request(IncomingRequest),
    /// A request has ended.
    Response {
        /// Which.
        request: RequestId,
        /// The answer, which may be an error reply.
        outcome: Result<Response, RequestError>,
    },
    /// A node on a query's way has answered without an error.
    Found {
        /// Which query.
        query: QueryId,
        /// The answer.
        response: Response,
    },
    /// A query with [`Commit::Ask`] has found the nearest nodes and waits for [`Rpc::commit`].
    Closest {
        /// Which query.
        query: QueryId,
        /// Their answers, nearest first.
        closest: Vec<Response>,
    },
    /// A query is over.
    QueryDone {
        /// Which.
        query: QueryId,
        /// What it came to.
        report: QueryReport,
    },
    /// The node has joined the network under this id: it can be reached from outside.
    Persistent(NodeId),
    /// The node has left the network again, since it may have moved while it slept.
    Ephemeral,
    /// It was found out whether others reach the server socket at [`Config::forwarded`].
    Forwarded {
        /// That port.
        port: u16,
        /// Whether they do.
        open: bool,
    },
    /// Another guess at our public address; port 0 when it changes with the destination.
    NatChanged(Option<SocketAddrV4>),
    /// The network came, went or changed its quality.
    Network(Network),
    /// The clock jumped: the machine slept, and everything known may be stale.
    WokeUp,
    /// Look up the IPv4 address of this host and tell it to [`Rpc::resolved`].
    Resolve {
        /// Which entry asks.
        key: BootstrapKey,
        /// The host.
        name: String,
    },
}
