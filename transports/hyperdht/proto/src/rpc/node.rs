//! One node of the network.

mod forwarding;
mod inbound;
mod outbound;
mod reachability;
#[cfg(test)]
mod tests;
mod upkeep;
mod walk;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use rand::{Rng, rngs::StdRng};

use self::{
    forwarding::Forwarding,
    reachability::{AddressCheck, NetworkCheck, Startup},
    upkeep::Clock,
};
pub use self::{inbound::ReplyOptions, outbound::Ask};
use super::{
    Config, Event, Network, NodeId, Peer, RequestId, Role, SocketId, Target, Transmit,
    bootstrap::{Bootstrap, BootstrapKey},
    health::Health,
    nat::NatSampler,
    query::{Query, QueryId},
    requests::{Due, Ended, RequestError, Requests},
    table::{K, Node, Table},
    token::Tokens,
};

/// A node of a DHT RPC network, as a state machine.
///
/// Everything a peer can make it remember is bounded: the routing table (1 MiB), delayed pings
/// ([`MAX_DELAYED_PINGS`]), what waits to be sent ([`MAX_TRANSMITS`]) and to be told
/// ([`MAX_EVENTS`]).
#[derive(Debug)]
pub struct Rpc {
    server_port: u16,
    role: Role,
    accepts: fn(SocketAddrV4) -> bool,
    rng: StdRng,
    table: Table,
    requests: Requests<Purpose>,
    tokens: Tokens,
    /// Requests for which there was no room; they end when time passes next.
    refused: VecDeque<(Instant, RequestId, Ended<Purpose>)>,
    nat: NatSampler,
    /// Nodes without an id whose view of our address has been taken in.
    sampled_strangers: Vec<SocketAddrV4>,
    health: Health,
    bootstrap: Bootstrap,
    queries: BTreeMap<QueryId, Query>,
    next_query: u64,
    startup: Startup,
    forwarding: Option<Forwarding>,
    check: Option<NetworkCheck>,
    address_check: Option<AddressCheck>,
    /// The host, if any, for which joining was last tried.
    checked_host: Option<Option<Ipv4Addr>>,
    ephemeral: bool,
    firewalled: bool,
    /// Whether it was to be assumed at the start, and is again in another network.
    may_be_firewalled: bool,
    /// Ticks until it is found out whether it is so; 0 when it need not be.
    firewall_check_in: u64,
    clock: Clock,
    /// Pings of nodes that may be dead, and of ones that may give way to a new one.
    checks: usize,
    swaps: usize,
    down_hints_this_tick: usize,
    responses: u64,
    timeouts: u64,
    delayed_pings: BTreeMap<(Instant, u64), Transmit>,
    next_delayed_ping: u64,
    out: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

/// Figures about a node, for its operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Requests that were answered.
    pub responses: u64,
    /// Requests that were not.
    pub timeouts: u64,
    /// Requests that have not ended.
    pub running_requests: usize,
    /// Queries that have not ended, the node's own among them.
    pub running_queries: usize,
    /// Nodes in the routing table.
    pub table: usize,
}

/// Why a request was made, and so what its end means.
#[derive(Debug)]
enum Purpose {
    Application,
    Walk(QueryId),
    Commit(QueryId),
    /// Is this node of the table alive?
    Check {
        node: NodeId,
        last_heard: u64,
    },
    /// Is the older node alive, or may the newer one have its place?
    Swap {
        old: NodeId,
        last_heard: u64,
        new: Node,
    },
    /// Does anything reach the server socket?
    QuickFirewallCheck,
    FirewallCheck,
    /// Is the forwarded port open?
    Forwarding,
    /// Are we where our id says?
    AddressCheck,
    Bootstrap(BootstrapKey),
    DownHint,
}

impl Rpc {
    /// A node whose sockets are bound. It begins to look for others at once. `rng` makes ids,
    /// tokens and transaction numbers: seed it from the system, except in simulations.
    pub fn new(config: Config, now: Instant, mut rng: StdRng) -> Self {
        let mut id = [0; 32];
        rng.fill_bytes(&mut id);
        let first_tid = u16::try_from(rng.next_u32() & 0xffff).unwrap_or(0);
        let mut rpc = Self {
            server_port: config.server_port,
            role: config.role,
            accepts: config.accepts,
            table: Table::new(NodeId(id)),
            requests: Requests::new(now, first_tid, config.max_window),
            tokens: Tokens::new(now, &mut rng),
            refused: VecDeque::new(),
            nat: NatSampler::default(),
            sampled_strangers: Vec::new(),
            health: Health::default(),
            bootstrap: Bootstrap::new(config.bootstrap),
            queries: BTreeMap::new(),
            next_query: 0,
            startup: Startup::new(
                &config.role,
                config.firewalled && config.quick_firewall_check,
                config.forwarded == Some(config.server_port),
            ),
            forwarding: config.forwarded.map(Forwarding::new),
            check: None,
            address_check: None,
            checked_host: None,
            ephemeral: true,
            firewalled: config.firewalled,
            may_be_firewalled: config.firewalled,
            firewall_check_in: 0,
            clock: Clock::new(now, config.role, &mut rng),
            checks: 0,
            swaps: 0,
            down_hints_this_tick: 0,
            responses: 0,
            timeouts: 0,
            delayed_pings: BTreeMap::new(),
            next_delayed_ping: 0,
            out: VecDeque::new(),
            events: VecDeque::new(),
            rng,
        };
        if let Some(addr) = config.public_address {
            rpc.sample(addr);
        }
        for addr in config.nodes.into_iter().rev() {
            rpc.add_node(now, Node::new(NodeId::of(addr), addr, rpc.clock.tick()));
        }
        rpc.start(now);
        rpc
    }

    /// Lets time pass: retransmissions, timeouts, upkeep. Call it when [`Rpc::poll_timeout`] says.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(due) = self.requests.next_due(now, &mut self.out) {
            match due {
                Due::Slow(id) => self.on_slow(now, id),
                Due::TimedOut(id, request) => {
                    self.timeouts += 1;
                    self.forget_silent(request.to);
                    self.on_ended(now, id, request, Err(RequestError::TimedOut));
                }
            }
        }
        while let Some((_, id, request)) = self.refused.pop_front() {
            self.on_ended(now, id, request, Err(RequestError::Overloaded));
        }
        while let Some(entry) = self.delayed_pings.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let reply = entry.remove();
            self.transmit(reply);
        }
        self.expire_bootstrap(now);
        self.tick(now);
        self.requests.drain(now, &mut self.out);
    }

    /// The next datagram to send, if any.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    /// The next thing that the application should know, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Rpc::handle_timeout`] should be called at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.requests.poll_timeout(),
            self.delayed_pings.first_key_value().map(|(key, _)| key.0),
            self.refused.front().map(|(since, _, _)| *since),
            self.bootstrap.poll_timeout(),
            Some(self.clock.next_tick()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes in the answer to [`Event::Resolve`]; none when the name is not known.
    pub fn resolved(&mut self, now: Instant, key: BootstrapKey, ip: Option<Ipv4Addr>) {
        self.bootstrap.resolved(key, ip);
        self.on_bootstrap_progress(now);
    }

    /// Our place in the network, once we have joined it.
    pub const fn id(&self) -> Option<NodeId> {
        if self.ephemeral { None } else { Some(self.table.id()) }
    }

    /// Our address as others see it; port 0 when it changes with the destination.
    pub const fn nat_address(&self) -> Option<SocketAddrV4> {
        self.nat.address()
    }

    /// Our address, if anybody can reach us there.
    pub fn public_address(&self) -> Option<SocketAddrV4> {
        let own = |addr: &SocketAddrV4| !self.firewalled && addr.port() == self.server_port;
        self.forwarded_address().or_else(|| self.nat.address().filter(own))
    }

    /// Whether it is to be assumed that nobody reaches the server socket unasked.
    pub const fn is_firewalled(&self) -> bool {
        self.firewalled
    }

    /// Whether [`Event::Ready`] has come.
    pub const fn is_ready(&self) -> bool {
        self.startup.is_over()
    }

    /// How the network has been of late.
    pub const fn network(&self) -> Network {
        self.health.network()
    }

    /// The socket that requests leave from unless told otherwise.
    pub fn default_socket(&self) -> SocketId {
        let only_way = self.forwarding.as_ref().is_some_and(Forwarding::is_only_way);
        if self.firewalled && !only_way { SocketId::Client } else { SocketId::Server }
    }

    /// What has become of our requests so far, and what is going on.
    pub fn stats(&self) -> Stats {
        Stats {
            responses: self.responses,
            timeouts: self.timeouts,
            running_requests: self.requests.len(),
            running_queries: self.queries.len(),
            table: self.table.len(),
        }
    }

    /// How many nodes are in the routing table.
    pub fn table_len(&self) -> usize {
        self.table.len()
    }

    /// The known nodes nearest to `target`, nearest first; at most [`K`].
    pub fn closest(&self, target: &Target) -> Vec<Peer> {
        self.table.closest(target, K)
    }

    /// Up to `limit` nodes of the routing table, the one heard from last first.
    pub fn latest_nodes(&self, limit: usize) -> Vec<SocketAddrV4> {
        let latest = self.table.oldest_first().rev();
        latest.take(limit).map(|node| node.addr).collect()
    }

    fn transmit(&mut self, transmit: Transmit) {
        if self.out.len() < MAX_TRANSMITS {
            self.out.push_back(transmit);
        }
    }

    /// Takes in what somebody says our address is.
    fn sample(&mut self, seen: SocketAddrV4) {
        let before = self.nat.address();
        self.nat.add(seen);
        self.tell_nat(before);
    }

    fn tell_nat(&mut self, before: Option<SocketAddrV4>) {
        let after = self.nat.address();
        if before != after {
            self.events.push_back(Event::NatChanged(after));
        }
    }
}

/// Delayed pings that wait for their time, of about 100 bytes each. More are not answered.
pub const MAX_DELAYED_PINGS: usize = 1024;

/// The longest delay of a ping.
pub const MAX_PING_DELAY: Duration = Duration::from_secs(10);

/// The longest datagram that is read, in bytes: as much as Node's nodes take in (`udx-native` 1.21,
/// tried out). It bounds what a node stores for others, and so what its answers to strangers are
/// longer than their questions.
pub const MAX_DATAGRAM: usize = 2048;

/// Replies that wait for [`Rpc::poll_transmit`], of about [`MAX_DATAGRAM`] each at most but rarely over
/// 200 bytes.
/// More are dropped, as a full socket buffer drops them.
pub const MAX_TRANSMITS: usize = 4096;

/// Requests that wait for [`Rpc::poll_event`]. More are dropped.
pub const MAX_EVENTS: usize = 4096;
