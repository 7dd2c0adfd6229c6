//! The client's half of a connection.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddrV4,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;

use super::{
    Invitation, Rendezvous,
    address::{is_bogon, is_reserved, nearest},
    introduction,
};
use crate::{
    dht::{Dht, Event, FindOptions, Found, HandshakeCall, HandshakeReply, HopError},
    handshake::{
        ErrorCode, Firewall, HolepunchCipher, HolepunchInfo, NoisePayload, PayloadError,
        RelayThrough,
    },
    hash::Namespace,
    keys::{KeyPair, PublicKey},
    noise::{Initiator, NoiseError, SessionKeys},
    rpc::{self, QueryId, RequestId, SocketId, Target},
};

/// Whom to dial, and as whom.
#[derive(Debug)]
pub struct DialSpec {
    /// Our identity.
    pub key_pair: KeyPair,
    /// The server's key.
    pub server: PublicKey,
    /// A key pair from a fresh random seed, for this handshake alone.
    pub ephemeral: KeyPair,
    /// The id of a UDX stream that the server may write to as soon as it has our handshake.
    pub stream_id: u32,
    /// Nodes that led to the server before: see [`RelayCache`](super::RelayCache).
    pub relays: Vec<SocketAddrV4>,
    /// Where the server was reached the last time, through which socket: it is asked there, too, if the
    /// socket is open still.
    pub route: Option<(SocketId, SocketAddrV4)>,
    /// This host's addresses with the port of the server socket, to be told to servers behind the
    /// same NAT.
    pub local: Vec<SocketAddrV4>,
    /// The blind relay to meet at, and a token from a fresh random source, unless the server names
    /// another one.
    pub relay_through: Option<RelayThrough>,
    /// Whether a direct path is wanted.
    pub direct: bool,
    /// Whether the server is told that we can be reached, where we can. It comes to us then rather than
    /// to a relay.
    pub tells_open: bool,
}

/// A search for a server and the handshake with it.
///
/// [`Dial::handle`] is given every event of the [`Dht`] that [`Dial::owns`] says is its own;
/// afterwards [`Dial::poll`] says whether it is over. One handshake message serves all nodes that are
/// asked to pass it on; the first answer wins. At most [`MAX_CANDIDATES`] nodes are asked.
#[derive(Debug)]
pub struct Dial {
    server: PublicKey,
    target: Target,
    initiator: Initiator,
    noise: Bytes,
    we_are_open: bool,
    stream_id: u32,
    relay_through: Option<RelayThrough>,
    local: Vec<SocketAddrV4>,
    route: Option<(SocketId, SocketAddrV4)>,
    query: Option<QueryId>,
    /// Nodes that led to the server before and have not been asked yet, one after another.
    cached: VecDeque<SocketAddrV4>,
    cached_running: Option<RequestId>,
    /// Nodes that say they know the server and wait for their turn.
    found: VecDeque<SocketAddrV4>,
    running: BTreeMap<RequestId, SocketAddrV4>,
    /// Nodes that are to write to our [entrance](crate::rpc::Rpc::entrance) before they are asked.
    entering: BTreeMap<RequestId, SocketAddrV4>,
    slots: usize,
    asked: BTreeSet<SocketAddrV4>,
    seeded: bool,
    abandoned: bool,
    failure: DialError,
    outcome: Option<Result<Box<Answered>, DialError>>,
}

/// An event of a [`Dht`] that concerns a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialEvent {
    /// Of this query.
    Query(QueryId),
    /// Of this request.
    Request(RequestId),
}

impl DialEvent {
    /// The query or request that an event tells of.
    pub const fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Found { query, .. } | Event::Done { query, .. } => Some(Self::Query(*query)),
            Event::HandshakeDone { request, .. } | Event::HolepunchDone { request, .. } => {
                Some(Self::Request(*request))
            }
            Event::Rpc(rpc::Event::Response { request, .. }) => Some(Self::Request(*request)),
            Event::Rpc(_)
            | Event::Handshake(_)
            | Event::Holepunch(_)
            | Event::Announced { .. }
            | Event::NetworkChanged
            | Event::Suspended
            | Event::Closed(_) => None,
        }
    }
}

/// The server has answered.
#[derive(Debug)]
pub struct Answered {
    /// The secrets that both sides have from now on.
    pub keys: SessionKeys,
    /// The server's id of the UDX stream.
    pub remote_id: u32,
    /// The nodes through which to dial the next time.
    pub relays: Vec<SocketAddrV4>,
    /// Whether the server keeps its socket for a while after the connection, so that it is found there
    /// by the [next dial](DialSpec::route).
    pub reusable: bool,
    /// How to connect the stream. If the server's first packet has come already, that says it
    /// better.
    pub plan: Plan,
    /// At which relay to meet the server, where either side has named one.
    pub rendezvous: Option<Rendezvous>,
    /// Whether the server was told that we can be reached, so that it may come to us only.
    pub told_open: bool,
}

/// How a client gets from the handshake to a connected stream (`lib/connect.js`).
#[derive(Debug, Clone)]
pub enum Plan {
    /// Connect the stream to this address at once, out of this socket.
    Connect(SocketId, SocketAddrV4),
    /// The server knows that we can be reached: its first packet comes within
    /// [`FIRST_PACKET_WAIT`](super::FIRST_PACKET_WAIT).
    AwaitServer,
    /// Both are behind the same NAT. Ping this address; if it answers, connect the stream to it out
    /// of the server socket.
    Lan(SocketAddrV4),
    /// Both are behind NATs: [punch a hole](super::Puncher::dial), and try a
    /// [neighbour](Invitation::neighbour) meanwhile.
    Punch(Arc<Invitation>),
    /// Both are behind NATs, and the server has no node left through which to arrange a punch.
    Unreachable,
}

impl Dial {
    /// Begins to dial.
    ///
    /// # Errors
    /// [`DialError::Handshake`] when the server's key is no usable point.
    pub fn new(dht: &mut Dht, now: Instant, spec: DialSpec) -> Result<Self, DialError> {
        let target = spec.server.target();
        let mut payload =
            introduction(dht, &spec.local, spec.stream_id, spec.relay_through, spec.direct);
        if spec.direct && !(spec.tells_open && dht.rpc().can_be_seen_at_entrance()) {
            // A server meets us where the node that passes this on sees us.
            payload.firewall = Firewall::Unknown;
            payload.addresses4.clone_from(&spec.local);
        }
        let (initiator, noise) = Initiator::send(
            &spec.key_pair,
            spec.server,
            spec.ephemeral,
            &Namespace::PeerHandshake.bytes(),
            &payload.encode(),
        )?;
        let known = dht.known_relay(now, &target).map(|relay| vec![relay]);
        let cached = known.unwrap_or(spec.relays);
        let mut dial = Self {
            server: spec.server,
            target,
            initiator,
            noise: noise.into(),
            we_are_open: payload.firewall == Firewall::Open,
            stream_id: spec.stream_id,
            relay_through: spec.relay_through,
            local: spec.local,
            route: spec.route,
            query: None,
            slots: if cached.is_empty() { SLOTS } else { SLOTS_WITH_CACHE },
            cached: cached.into(),
            cached_running: None,
            found: VecDeque::new(),
            running: BTreeMap::new(),
            entering: BTreeMap::new(),
            asked: BTreeSet::new(),
            seeded: false,
            abandoned: false,
            failure: DialError::NotFound,
            outcome: None,
        };
        if let Some((socket, server)) = dial.route {
            // Beside all others, which it holds no slot of.
            dial.slots += 1;
            dial.asked.insert(server);
            dial.send(dht, now, server, Some(socket));
        }
        dial.seeded = !dial.cached.is_empty();
        let seeds = dial.cached.iter().copied().collect();
        dial.search(dht, now, seeds);
        dial.drive(dht, now);
        Ok(dial)
    }

    /// Whether an event is this dial's.
    pub fn owns(&self, event: DialEvent) -> bool {
        match event {
            DialEvent::Query(query) => self.query == Some(query),
            DialEvent::Request(request) => {
                self.running.contains_key(&request) || self.entering.contains_key(&request)
            }
        }
    }

    /// Takes in an event of its own.
    pub fn handle(&mut self, dht: &mut Dht, now: Instant, event: Event) {
        match event {
            Event::Found { from, found: Found::Peer(record), .. } => {
                if record.public_key == self.server && self.asked.len() < MAX_CANDIDATES {
                    self.found.push_back(from.addr);
                }
            }
            Event::Done { report, .. } => {
                if report.successes == 0 {
                    self.failure = DialError::NoNetwork;
                } else if self.failure == DialError::NoNetwork {
                    self.failure = DialError::NotFound;
                }
                self.on_searched(dht, now);
            }
            Event::HandshakeDone { request, outcome } => {
                self.running.remove(&request);
                if self.cached_running == Some(request) {
                    self.cached_running = None;
                }
                self.on_reply(dht, now, outcome);
            }
            Event::Rpc(rpc::Event::Response { request, .. }) => {
                if let Some(to) = self.entering.remove(&request) {
                    // In any case: who does not reach us may reach the server.
                    self.send(dht, now, to, Some(SocketId::Server));
                }
            }
            Event::Rpc(_)
            | Event::Found { .. }
            | Event::Handshake(_)
            | Event::Holepunch(_)
            | Event::HolepunchDone { .. }
            | Event::Announced { .. }
            | Event::NetworkChanged
            | Event::Suspended
            | Event::Closed(_) => {}
        }
        self.drive(dht, now);
    }

    /// What it has come to, once; the dial does nothing more then.
    pub fn poll(&mut self) -> Option<Result<Box<Answered>, DialError>> {
        self.outcome.take()
    }

    /// Nobody wants the connection any more: asks no further node. An answer that is already on its
    /// way is still told, so that the server can be told in turn.
    pub fn abandon(&mut self, dht: &mut Dht, now: Instant) {
        self.abandoned = true;
        self.cached.clear();
        self.found.clear();
        self.failure = DialError::Abandoned;
        if let Some(query) = self.query.take() {
            dht.cancel_query(now, query);
        }
        self.drive(dht, now);
    }

    /// Gives up everything that is under way.
    pub fn cancel(&mut self, dht: &mut Dht, now: Instant) {
        self.abandon(dht, now);
        self.stop(dht, now);
    }

    fn search(&mut self, dht: &mut Dht, now: Instant, nodes: Vec<SocketAddrV4>) {
        let options = FindOptions { nodes, retries: Some(FIND_RETRIES), ..FindOptions::default() };
        self.query = Some(dht.find_peer(now, self.target, options));
    }

    /// The search is over. One that began at nodes that did not help begins anew elsewhere.
    fn on_searched(&mut self, dht: &mut Dht, now: Instant) {
        self.query = None;
        let few = 1 + usize::from(self.route.is_some());
        let fruitless = self.found.is_empty() && self.running.len() <= few;
        if std::mem::take(&mut self.seeded) && fruitless && self.asked.len() <= few {
            self.search(dht, now, Vec::new());
        }
    }

    /// Asks as many nodes as there are slots, and notices the end.
    fn drive(&mut self, dht: &mut Dht, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        while self.cached_running.is_none()
            && let Some(relay) = self.cached.pop_front()
        {
            self.cached_running = self.ask(dht, now, relay);
        }
        while self.running.len() + self.entering.len() < self.slots
            && let Some(relay) = self.found.pop_front()
        {
            self.ask(dht, now, relay);
        }
        if self.query.is_none() && self.running.is_empty() && self.entering.is_empty() {
            self.outcome = Some(Err(self.failure));
        }
    }

    fn ask(&mut self, dht: &mut Dht, now: Instant, to: SocketAddrV4) -> Option<RequestId> {
        if self.asked.len() >= MAX_CANDIDATES || !self.asked.insert(to) {
            return None;
        }
        if matches!(self.failure, DialError::NotFound | DialError::NoNetwork) {
            self.failure = DialError::ConnectionFailed;
        }
        if let Some(port) = dht.rpc().entrance().filter(|_| self.we_are_open) {
            let request = dht.ping_nat(now, to, port);
            self.entering.insert(request, to);
            return None;
        }
        Some(self.send(dht, now, to, None))
    }

    fn send(
        &mut self,
        dht: &mut Dht,
        now: Instant,
        to: SocketAddrV4,
        socket: Option<SocketId>,
    ) -> RequestId {
        let noise = self.noise.clone();
        let call = HandshakeCall { target: self.target, noise, to, via: None, socket };
        let request = dht.handshake(now, call);
        self.running.insert(request, to);
        request
    }

    fn on_reply(&mut self, dht: &mut Dht, now: Instant, outcome: Result<HandshakeReply, HopError>) {
        if self.outcome.is_some() {
            return;
        }
        // A node may put anything into the server's mouth; what the server has not written itself
        // ends nothing.
        let Ok(reply) = outcome else { return };
        let Ok((payload, keys)) = self.initiator.recv(&reply.noise) else {
            return;
        };
        self.outcome = Some(self.decide(dht, &reply, &payload, keys).map(Box::new));
        self.stop(dht, now);
    }

    fn decide(
        &self,
        dht: &Dht,
        reply: &HandshakeReply,
        payload: &[u8],
        keys: SessionKeys,
    ) -> Result<Answered, DialError> {
        let payload = NoisePayload::decode(payload).map_err(|error| match error {
            PayloadError::OtherVersion { .. } => DialError::Incompatible,
            PayloadError::Malformed(_) | PayloadError::Forged => DialError::Malformed,
        })?;
        if payload.error != ErrorCode::None {
            return Err(DialError::Server(payload.error));
        }
        let udx = payload.udx.ok_or(DialError::Malformed)?;
        let rendezvous =
            Rendezvous::of_client(self.relay_through, payload.relay_through, self.stream_id);
        let plan = self.plan(dht, reply, &payload, &keys);
        let relays = if payload.relay_addresses.is_empty() {
            let node =
                Some(reply.relay).filter(|node| self.route.is_none_or(|(_, at)| at != *node));
            node.into_iter().collect()
        } else {
            payload.relay_addresses
        };
        Ok(Answered {
            keys,
            remote_id: udx.id,
            relays,
            reusable: udx.reusable_socket,
            plan,
            rendezvous,
            told_open: self.we_are_open,
        })
    }

    fn plan(
        &self,
        dht: &Dht,
        reply: &HandshakeReply,
        payload: &NoisePayload,
        keys: &SessionKeys,
    ) -> Plan {
        let default = dht.rpc().default_socket();
        if !reply.relayed {
            let route = self.route.filter(|(_, server)| *server == reply.relay);
            return Plan::Connect(route.map_or(default, |(socket, _)| socket), reply.relay);
        }
        let punch = payload.holepunch.as_ref().filter(|punch| !punch.relays.is_empty());
        let elsewhere = reply.server != reply.relay;
        if payload.firewall == Firewall::Open || (elsewhere && punch.is_none()) {
            let public = payload.addresses4.iter().find(|address| !is_bogon(*address.ip()));
            return Plan::Connect(default, public.copied().unwrap_or(reply.server));
        }
        if self.we_are_open {
            return Plan::AwaitServer;
        }
        let same_nat = elsewhere && reply.client.ip() == reply.server.ip();
        let neighbour = same_nat.then(|| self.neighbour(payload)).flatten();
        match (punch.and_then(|punch| self.invitation(punch, reply, payload, keys)), neighbour) {
            (Some(invitation), neighbour) => {
                Plan::Punch(Arc::new(Invitation { neighbour, ..invitation }))
            }
            (None, Some(neighbour)) => Plan::Lan(neighbour),
            (None, None) => Plan::Unreachable,
        }
    }

    fn invitation(
        &self,
        punch: &HolepunchInfo,
        reply: &HandshakeReply,
        payload: &NoisePayload,
        keys: &SessionKeys,
    ) -> Option<Invitation> {
        let ours = punch.relays.iter().find(|relay| relay.relay_address == reply.relay);
        Some(Invitation {
            target: self.target,
            slot: punch.id,
            cipher: HolepunchCipher::new(&keys.handshake_hash),
            relay: reply.relay,
            server: reply.server,
            server_relay: *ours.or_else(|| punch.relays.first())?,
            firewall: payload.firewall,
            hosts: payload.addresses4.iter().map(|address| *address.ip()).collect(),
            neighbour: None,
        })
    }

    fn neighbour(&self, payload: &NoisePayload) -> Option<SocketAddrV4> {
        let usable = |address: &&SocketAddrV4| !is_reserved(*address.ip()) && address.port() != 0;
        let theirs: Vec<_> = payload.addresses4.iter().filter(usable).copied().collect();
        nearest(&self.local, &theirs).or_else(|| theirs.first().copied())
    }

    /// Calls off what is still under way.
    fn stop(&mut self, dht: &mut Dht, now: Instant) {
        self.cached.clear();
        self.found.clear();
        if let Some(query) = self.query.take() {
            dht.cancel_query(now, query);
        }
        let running = std::mem::take(&mut self.running).into_keys();
        for request in running.chain(std::mem::take(&mut self.entering).into_keys()) {
            dht.cancel(now, request);
        }
    }

    /// Whether it has been given up by its owner.
    pub const fn is_abandoned(&self) -> bool {
        self.abandoned
    }
}

/// Why a dial has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No node knows the server.
    #[error("no node knows the server")]
    NotFound,
    /// No node answered the search: this host has no way out, or has been told of the wrong nodes.
    #[error("no node of the DHT answered")]
    NoNetwork,
    /// Nodes know the server, but no answer came through them: it is gone, or does not let us in.
    #[error("the server did not answer")]
    ConnectionFailed,
    /// The server's key is no usable point.
    #[error("the server's key does not serve for a handshake")]
    Handshake(#[from] NoiseError),
    /// The server speaks another version.
    #[error("the server speaks another version")]
    Incompatible,
    /// The server's answer is missing something.
    #[error("the server's answer is malformed")]
    Malformed,
    /// The server says that it cannot.
    #[error("the server failed: {0:?}")]
    Server(ErrorCode),
    /// The connection is not wanted any more.
    #[error("the dial was given up")]
    Abandoned,
}

/// Nodes asked to pass a handshake on; three hold a server, some more held it before.
pub const MAX_CANDIDATES: usize = 16;

/// Handshakes under way at a time (`lib/connect.js`).
const SLOTS: usize = 2;
const SLOTS_WITH_CACHE: usize = 3;

/// `lib/connect.js`: the search's own retries.
const FIND_RETRIES: u8 = 3;
