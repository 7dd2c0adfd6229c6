//! One node of HyperDHT.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{SeedableRng, rngs::StdRng};

use super::{
    Config, Event, HandshakeReply, HolepunchReply, HopError,
    announcer::Announcer,
    commands,
    hop::{HandshakeHop, HolepunchHop, Mode},
    lookup::Op,
    router::{HandshakeAnswer, HandshakeId, IncomingHolepunch, Routed, Router, ServerId},
    store::{Answer, Store, Surroundings},
};
use crate::{
    keys::KeyPair,
    rpc::{
        self, Ask, BootstrapKey, ERROR_UNKNOWN_COMMAND, IncomingRequest, Network, QueryId,
        ReplyOptions, RequestError, RequestId, Response, Rpc, SocketId, Target, Transmit,
    },
};

/// A HyperDHT node as a state machine: driven like [`Rpc`], on which it is built.
#[derive(Debug)]
pub struct Dht {
    pub(super) rpc: Rpc,
    pub(super) router: Router,
    pub(super) store: Option<Store>,
    /// Queries that have not ended.
    pub(super) ops: BTreeMap<QueryId, Op>,
    /// Requests that have not ended and are not the application's.
    pub(super) requests: BTreeMap<RequestId, Owner>,
    pub(super) announcers: BTreeMap<ServerId, Announcer>,
    pub(super) events: VecDeque<Event>,
    next_server: u64,
    rng: StdRng,
    started: Instant,
    unix_ms: u64,
    default_socket: SocketId,
    offline: bool,
    suspension: Suspension,
}

/// Whether a node keeps still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suspension {
    No,
    /// It will, once its servers are taken back, or at this moment.
    By(Instant),
    Yes,
}

/// What the end of a request means.
#[derive(Debug)]
pub(super) enum Owner {
    Handshake,
    Holepunch,
    /// A record taken back before a query ends.
    Clearing(QueryId),
    KeepAlive(ServerId),
    /// Looks for a server's record at a node that is to drop it.
    Unannounce(ServerId),
    Unannounced(ServerId),
}

/// A handshake to be sent to a server.
#[derive(Debug, Clone)]
pub struct HandshakeCall {
    /// The hash of the server's public key.
    pub target: Target,
    /// The first Noise message.
    pub noise: Bytes,
    /// A node that knows the server, or the server.
    pub to: SocketAddrV4,
    /// A node that the first is to pass it on to, whatever it knows.
    pub via: Option<SocketAddrV4>,
    /// From which socket, when it is not the default one.
    pub socket: Option<SocketId>,
}

/// A holepunch message to be sent to a server.
#[derive(Debug, Clone)]
pub struct HolepunchCall {
    /// The hash of the server's public key.
    pub target: Target,
    /// The number that the server gave to the attempt.
    pub id: u64,
    /// What to say, encrypted.
    pub payload: Bytes,
    /// A node that knows the server.
    pub to: SocketAddrV4,
    /// The server, as that node sees it.
    pub server: Option<SocketAddrV4>,
    /// From which socket, when it is not the default one.
    pub socket: Option<SocketId>,
}

/// A server with the same key is open or not yet taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key pair is in use by another server of this node")]
pub struct KeyInUse;

impl Dht {
    /// A node whose sockets are bound; see [`Rpc::new`].
    pub fn new(config: Config, now: Instant, mut rng: StdRng) -> Self {
        let own_rng = StdRng::from_rng(&mut rng);
        let rpc = Rpc::new(rpc::Config { accepts: is_accepted, ..config.rpc }, now, rng);
        let mut dht = Self {
            router: Router::new(now),
            store: None,
            ops: BTreeMap::new(),
            requests: BTreeMap::new(),
            announcers: BTreeMap::new(),
            events: VecDeque::new(),
            next_server: 0,
            rng: own_rng,
            started: now,
            unix_ms: config.unix_ms,
            default_socket: rpc.default_socket(),
            offline: false,
            suspension: Suspension::No,
            rpc,
        };
        dht.settle(now);
        dht
    }

    /// See [`Rpc::handle_datagram`].
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddrV4,
        datagram: &[u8],
    ) {
        if self.is_suspended() {
            return;
        }
        self.rpc.handle_datagram(now, socket, from, datagram);
        self.settle(now);
    }

    /// See [`Rpc::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_suspended() {
            return;
        }
        self.rpc.handle_timeout(now);
        self.settle(now);
        self.drive_announcers(now);
        self.settle(now);
        if matches!(self.suspension, Suspension::By(at) if at <= now) {
            // That nobody is asked any more ends the withdrawal.
            self.give_up_withdrawing(now, |_| true);
            self.settle(now);
        }
    }

    /// See [`Rpc::poll_transmit`].
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.rpc.poll_transmit()
    }

    /// See [`Rpc::poll_event`].
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// See [`Rpc::poll_timeout`]. A suspended node has nothing to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let by = match self.suspension {
            Suspension::No => None,
            Suspension::By(at) => Some(at),
            Suspension::Yes => return None,
        };
        let announcers = self.announcers.values().filter_map(Announcer::poll_timeout);
        announcers.chain(self.rpc.poll_timeout()).chain(by).min()
    }

    /// The node below: its id, address, routing table.
    pub const fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    /// See [`Rpc::resolved`].
    pub fn resolved(&mut self, now: Instant, key: BootstrapKey, ip: Option<Ipv4Addr>) {
        self.rpc.resolved(now, key, ip);
        self.settle(now);
    }

    /// This host's interfaces have changed, or the application has another reason to think that the
    /// network is another one: finds out where we are seen now, and announces all servers again.
    /// [`Event::NetworkChanged`] follows.
    pub fn network_changed(&mut self, now: Instant) {
        if self.suspension != Suspension::No {
            return;
        }
        self.announce_again(now);
        self.suspect_network(now);
        self.settle(now);
    }

    /// See [`Rpc::woke_up`]. [`Event::NetworkChanged`] follows.
    pub fn woke_up(&mut self, now: Instant) {
        if self.suspension != Suspension::No {
            return;
        }
        self.rpc.woke_up(now);
        self.settle(now);
    }

    /// Takes all servers back from the network and then keeps still: [`Event::Suspended`] tells from
    /// when on, within four seconds. Datagrams are ignored then, and nothing is due; to the network
    /// it is as if the machine slept. What else is under way is the caller's to end.
    pub fn suspend(&mut self, now: Instant) {
        if self.suspension != Suspension::No {
            return;
        }
        self.suspension = Suspension::By(now + WITHDRAWAL);
        self.withdraw(now);
        self.settle(now);
    }

    /// Takes part again, as after a sleep: announces all servers. [`Event::NetworkChanged`] follows.
    pub fn resume(&mut self, now: Instant) {
        if self.suspension == Suspension::No {
            return;
        }
        // It would undo the announcement that follows.
        self.give_up_withdrawing(now, Announcer::is_withdrawn);
        self.suspension = Suspension::No;
        self.events.retain(|event| !matches!(event, Event::Suspended));
        self.announce_anew(now);
        self.woke_up(now);
    }

    fn is_suspended(&self) -> bool {
        self.suspension == Suspension::Yes
    }

    /// Asks nobody any more to drop these servers.
    fn give_up_withdrawing(&mut self, now: Instant, which: impl Fn(&Announcer) -> bool) {
        let asked = self.requests.iter().filter_map(|(request, owner)| match owner {
            Owner::Unannounce(server) | Owner::Unannounced(server) => {
                self.announcers.get(server).is_some_and(&which).then_some(*request)
            }
            Owner::Handshake | Owner::Holepunch | Owner::Clearing(_) | Owner::KeepAlive(_) => None,
        });
        let asked: Vec<_> = asked.collect();
        for request in asked {
            self.rpc.cancel(now, request);
        }
    }

    fn keep_still(&mut self) {
        self.suspension = Suspension::Yes;
        self.events.push_back(Event::Suspended);
    }

    /// See [`Rpc::request`]; [`Event::Rpc`] tells the end.
    pub fn request(&mut self, now: Instant, ask: Ask) -> RequestId {
        self.rpc.request(now, ask)
    }

    /// See [`Rpc::ping`]; [`Event::Rpc`] tells the end.
    pub fn ping(
        &mut self,
        now: Instant,
        to: SocketAddrV4,
        socket: Option<SocketId>,
        retries: u8,
    ) -> RequestId {
        self.rpc.ping(now, to, socket, retries)
    }

    /// See [`Rpc::ping_nat`]; [`Event::Rpc`] tells the end.
    pub fn ping_nat(&mut self, now: Instant, to: SocketAddrV4, port: u16) -> RequestId {
        self.rpc.ping_nat(now, to, port)
    }

    /// Calls a request off: a ping, a handshake or a holepunch message. Its end is told still.
    pub fn cancel(&mut self, now: Instant, request: RequestId) {
        self.rpc.cancel(now, request);
        self.settle(now);
    }

    /// Calls a query off. [`Event::Done`] comes still.
    pub fn cancel_query(&mut self, now: Instant, query: QueryId) {
        self.rpc.cancel_query(now, query);
        self.settle(now);
    }

    /// Where a server that has announced itself at this node wants its handshakes: the best node to
    /// ask for it.
    pub fn known_relay(&mut self, now: Instant, target: &Target) -> Option<SocketAddrV4> {
        self.router.forward(now, target)
    }

    /// Takes in handshakes for `key_pair` and keeps it announced. [`Event::Announced`] tells when
    /// others can find it; a node that is suspended has to be resumed first.
    ///
    /// # Errors
    /// [`KeyInUse`] until another server with this key is [`Event::Closed`].
    pub fn listen(&mut self, now: Instant, key_pair: KeyPair) -> Result<ServerId, KeyInUse> {
        let target = key_pair.public_key().target();
        if self.announcers.values().any(|announcer| *announcer.target() == target) {
            return Err(KeyInUse);
        }
        let id = ServerId(self.next_server);
        self.next_server += 1;
        let announcer = Announcer::new(now, key_pair);
        self.router.add_server(target, id, announcer.record());
        self.announcers.insert(id, announcer);
        self.begin_announcing(now, id);
        if self.suspension != Suspension::No {
            self.withdraw(now);
        }
        self.settle(now);
        Ok(id)
    }

    /// Takes in no more handshakes and takes the server back from the network.
    /// [`Event::Closed`] tells when that is done, within 8 s.
    pub fn close(&mut self, now: Instant, server: ServerId) {
        if let Some(announcer) = self.announcers.get(&server) {
            let target = *announcer.target();
            self.router.remove_server(&target);
            self.stop_announcing(now, server);
            self.settle(now);
        }
    }

    /// Sends a handshake to a server. [`Event::HandshakeDone`] tells the end.
    pub fn handshake(&mut self, now: Instant, call: HandshakeCall) -> RequestId {
        let hop = HandshakeHop {
            relay_address: call.via,
            ..HandshakeHop::new(Mode::FromClient, call.noise, None)
        };
        let ask = Ask {
            socket: call.socket,
            target: Some(call.target),
            value: Some(hop.encode()),
            ..Ask::new(call.to, commands::PEER_HANDSHAKE)
        };
        self.own_request(now, ask, Owner::Handshake)
    }

    /// Sends a holepunch message to a server. [`Event::HolepunchDone`] tells the end.
    pub fn holepunch(&mut self, now: Instant, call: HolepunchCall) -> RequestId {
        let hop = HolepunchHop {
            mode: Mode::FromClient,
            id: call.id,
            payload: call.payload,
            peer_address: call.server,
        };
        let ask = Ask {
            socket: call.socket,
            target: Some(call.target),
            value: Some(hop.encode()),
            ..Ask::new(call.to, commands::PEER_HOLEPUNCH)
        };
        self.own_request(now, ask, Owner::Holepunch)
    }

    /// Answers [`Event::Handshake`]: its copies get the same answer. With none they are met with
    /// silence, as if there were no server.
    pub fn answer_handshake(
        &mut self,
        now: Instant,
        id: HandshakeId,
        answer: Option<HandshakeAnswer>,
    ) {
        for (request, routed) in self.router.answer_handshake(now, id, answer) {
            self.route(now, &request, routed);
        }
    }

    /// Answers [`Event::Holepunch`] from `socket`, or from where it came in.
    pub fn answer_holepunch(
        &mut self,
        now: Instant,
        punch: &IncomingHolepunch,
        payload: Bytes,
        socket: Option<SocketId>,
    ) {
        if let Some(routed) = Router::holepunch_answer(punch, payload, socket) {
            self.route(now, &punch.request, routed);
        }
    }

    pub(super) fn own_request(&mut self, now: Instant, ask: Ask, owner: Owner) -> RequestId {
        let id = self.rpc.request(now, ask);
        self.requests.insert(id, owner);
        id
    }

    /// Works off what the node below has to say.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(event) = self.rpc.poll_event() {
            self.on_event(now, event);
        }
        let socket = self.rpc.default_socket();
        if socket != self.default_socket {
            // Handshakes are passed on to the address that a server was announced from.
            self.default_socket = socket;
            self.announce_again(now);
        }
        if matches!(self.suspension, Suspension::By(_)) && self.is_withdrawn() {
            self.keep_still();
        }
    }

    fn on_event(&mut self, now: Instant, event: rpc::Event) {
        match event {
            rpc::Event::Request(request) => return self.on_request(now, &request),
            rpc::Event::Response { request, outcome } => {
                if let Some(owner) = self.requests.remove(&request) {
                    return self.on_own_response(now, request, owner, outcome);
                }
                self.events.push_back(Event::Rpc(rpc::Event::Response { request, outcome }));
                return;
            }
            rpc::Event::Found { query, response } => return self.on_found(now, query, response),
            rpc::Event::Closest { query, closest } => return self.on_closest(now, query, closest),
            rpc::Event::QueryDone { query, report } => {
                return self.on_query_done(now, query, report);
            }
            rpc::Event::Persistent(_) => {
                self.store.get_or_insert_with(|| Store::new(now));
                self.announce_again(now);
            }
            rpc::Event::WokeUp => {
                self.announce_again(now);
                self.events.push_back(Event::NetworkChanged);
            }
            rpc::Event::Network(network) => self.on_network(now, network),
            rpc::Event::Ready
            | rpc::Event::Ephemeral
            | rpc::Event::Forwarded { .. }
            | rpc::Event::NatChanged(_)
            | rpc::Event::Resolve { .. } => {}
        }
        self.events.push_back(Event::Rpc(event));
    }

    fn on_network(&mut self, now: Instant, network: Network) {
        let offline = network == Network::Offline;
        if std::mem::replace(&mut self.offline, offline) && !offline {
            self.on_online(now);
            self.suspect_network(now);
        }
    }

    /// What was found out about the network may be true no longer.
    pub(super) fn suspect_network(&mut self, now: Instant) {
        self.rpc.network_changed(now);
        self.events.push_back(Event::NetworkChanged);
    }

    fn on_request(&mut self, now: Instant, request: &IncomingRequest) {
        let routed = match request.command {
            commands::PEER_HANDSHAKE => {
                let announcers = &self.announcers;
                let is_relay = |server| {
                    let announcer = announcers.get(&server);
                    announcer.is_some_and(|announcer| announcer.is_relay(request.from.addr))
                };
                self.router.on_handshake(now, request, is_relay)
            }
            commands::PEER_HOLEPUNCH => self.router.on_holepunch(now, request),
            _ => return self.on_store_request(now, request),
        };
        if let Some(routed) = routed {
            self.route(now, request, routed);
        }
    }

    /// Only nodes that are part of the network store; all others say where to look instead.
    fn on_store_request(&mut self, now: Instant, request: &IncomingRequest) {
        let unix_ms = self.unix_ms(now);
        let answer = match (&mut self.store, self.rpc.id()) {
            (Some(store), Some(own_id)) => store.answer(
                request,
                Surroundings { now, unix_ms, own_id, router: &mut self.router, rng: &mut self.rng },
            ),
            _ => None,
        };
        match answer.unwrap_or(Answer::Error(ERROR_UNKNOWN_COMMAND)) {
            Answer::Silence => {}
            Answer::Reply(value, options) => self.rpc.reply(now, request, value, options),
            Answer::Error(code) => self.rpc.error(now, request, code, ReplyOptions::ROUTE),
        }
    }

    fn route(&mut self, now: Instant, request: &IncomingRequest, routed: Routed) {
        match routed {
            Routed::Reply(value, options) => self.rpc.reply(now, request, value, options),
            Routed::Relay { value, to, socket } => self.rpc.relay(request, value, to, socket),
            Routed::Handshake(handshake) => self.tell(Event::Handshake(handshake)),
            Routed::Holepunch(punch) => self.tell(Event::Holepunch(punch)),
        }
    }

    /// Tells what a stranger caused, unless the application has not listened for long.
    fn tell(&mut self, event: Event) {
        if self.events.len() < rpc::MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    fn on_own_response(
        &mut self,
        now: Instant,
        request: RequestId,
        owner: Owner,
        outcome: Result<Response, RequestError>,
    ) {
        match owner {
            Owner::Handshake => {
                let outcome = outcome.map_err(HopError::from).and_then(handshake_reply);
                self.events.push_back(Event::HandshakeDone { request, outcome });
            }
            Owner::Holepunch => {
                let outcome = outcome.map_err(HopError::from).and_then(holepunch_reply);
                self.events.push_back(Event::HolepunchDone { request, outcome });
            }
            Owner::Clearing(query) => self.on_cleared(now, query),
            Owner::KeepAlive(server) => self.on_kept_alive(now, server, outcome.ok()),
            Owner::Unannounce(server) => self.on_unannounce_found(now, server, outcome.ok()),
            Owner::Unannounced(server) => self.on_unannounced(server),
        }
    }

    fn unix_ms(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.started);
        self.unix_ms.saturating_add(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// How long nodes are asked to drop servers of a node that is to be suspended; they forget them anyway.
const WITHDRAWAL: Duration = Duration::from_secs(4);

/// Not these: nodes of a test network that got mixed in by accident and live on in tables
/// (`hyperdht/index.js`, `filterNode`).
fn is_accepted(addr: SocketAddrV4) -> bool {
    let port = addr.port();
    match addr.ip().octets() {
        [134, 209, 28, 98] | [167, 99, 142, 185] => port != 49738,
        [35, 233, 47, 252] => port != 9400,
        [150, 136, 142, 116] => false,
        _ => true,
    }
}

fn handshake_reply(response: Response) -> Result<HandshakeReply, HopError> {
    let value = response.value.ok_or(HopError::NoRoute)?;
    let hop = HandshakeHop::decode(&value).ok_or(HopError::BadReply)?;
    if hop.mode != Mode::Reply || hop.noise.is_empty() {
        return Err(HopError::BadReply);
    }
    Ok(HandshakeReply {
        noise: hop.noise,
        relay: response.from.addr,
        relayed: hop.peer_address.is_some(),
        server: hop.peer_address.unwrap_or(response.from.addr),
        client: response.to,
    })
}

fn holepunch_reply(response: Response) -> Result<HolepunchReply, HopError> {
    let value = response.value.ok_or(HopError::NoRoute)?;
    let hop = HolepunchHop::decode(&value).ok_or(HopError::BadReply)?;
    if hop.mode != Mode::Reply {
        return Err(HopError::BadReply);
    }
    Ok(HolepunchReply {
        payload: hop.payload,
        relay: response.from.addr,
        server: hop.peer_address.unwrap_or(response.from.addr),
        client: response.to,
    })
}
