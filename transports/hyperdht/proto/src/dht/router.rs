//! Passing handshakes on, and taking in those for our own servers (`hyperdht/lib/router.js`).
//!
//! Any node may be on a handshake's way. Only the last hop, back to the client, is a reply; all
//! others are requests that keep the client's transaction number.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    cache::{Cache, Weigh},
    hop::{HandshakeHop, HolepunchHop, Mode},
    store,
};
use crate::{
    hash::hash,
    rpc::{IncomingRequest, ReplyOptions, SocketId, Target, is_reachable},
};

/// Names a server of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub(super) u64);

/// Names a handshake until it is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandshakeId(u64);

/// Somebody wants to connect to a server of ours. Answered by
/// [`Dht::answer_handshake`](super::Dht::answer_handshake).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingHandshake {
    /// Which handshake. Copies of it that arrive by other ways get the same answer.
    pub id: HandshakeId,
    /// Which server.
    pub server: ServerId,
    /// The first Noise message.
    pub noise: Bytes,
    /// The client, as the node that passed it on saw it, or as we see it.
    pub client: SocketAddrV4,
    /// The host on whose account it goes: it is the last that is known to have sent it. The client's
    /// own, when it wrote to us or to a node at which the server is announced. Another node's word
    /// for who the client is could be anything, and that node answers for it.
    pub account: Ipv4Addr,
    /// Whether the client itself wrote to us.
    pub direct: bool,
    /// Our address as the sender knows it.
    pub own_address: SocketAddrV4,
    /// The socket it came in on.
    pub socket: SocketId,
}

/// What is sent back to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeAnswer {
    /// The second Noise message.
    pub noise: Bytes,
    /// The socket to answer from, when it is not the one the handshake came in on.
    pub socket: Option<SocketId>,
}

/// A client wants to arrange a holepunch with a server of ours. Answered by
/// [`Dht::answer_holepunch`](super::Dht::answer_holepunch).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingHolepunch {
    /// Which server.
    pub server: ServerId,
    /// The number that the server's handshake gave to the attempt.
    pub id: u64,
    /// What the client says, encrypted.
    pub payload: Bytes,
    /// The client, as the node that passed it on saw it.
    pub client: SocketAddrV4,
    /// The request as it came in: source is the node that passed it on.
    pub request: IncomingRequest,
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Routed {
    Reply(Option<Bytes>, ReplyOptions),
    Relay { value: Bytes, to: SocketAddrV4, socket: Option<SocketId> },
    Handshake(IncomingHandshake),
    Holepunch(IncomingHolepunch),
}

/// Where the servers are that other nodes announced here, and our own.
///
/// Bounded: [`store::SHORT`] forwards of about 150 bytes (10 MiB), and [`MAX_HANDSHAKES`] of about
/// 2 KiB.
#[derive(Debug)]
pub(super) struct Router {
    forwards: Cache<Forward>,
    servers: BTreeMap<Target, Server>,
    next_handshake: u64,
    handshakes: BTreeMap<HandshakeId, Handshake>,
    by_end: BTreeSet<(Instant, HandshakeId)>,
    by_host: HashMap<Ipv4Addr, usize>,
    by_noise: HashMap<[u8; 32], HandshakeId>,
}

/// A server that announced itself here.
#[derive(Debug)]
struct Forward {
    relay: SocketAddrV4,
    record: Bytes,
}

impl Weigh for Forward {
    fn bytes(&self) -> usize {
        32 + self.record.len()
    }
}

/// A server of ours.
#[derive(Debug)]
struct Server {
    id: ServerId,
    record: Bytes,
}

/// A handshake for a server of ours.
#[derive(Debug)]
struct Handshake {
    key: [u8; 32],
    host: Ipv4Addr,
    until: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It came in by these ways, and is not answered yet.
    Waiting(Vec<(IncomingRequest, Way)>),
    /// Refused when there is no answer.
    Answered(Option<HandshakeAnswer>),
}

/// The way on which a handshake came, and on which the answer goes back.
#[derive(Debug, Clone, Copy)]
enum Way {
    Direct,
    Relayed { client: SocketAddrV4 },
    TwiceRelayed { client: SocketAddrV4, first: SocketAddrV4 },
}

impl Way {
    fn of(hop: &HandshakeHop) -> Option<Self> {
        match hop.mode {
            Mode::FromClient => Some(Self::Direct),
            Mode::FromRelay => Some(Self::Relayed { client: hop.peer_address? }),
            Mode::FromSecondRelay => {
                Some(Self::TwiceRelayed { client: hop.peer_address?, first: hop.relay_address? })
            }
            Mode::FromServer | Mode::Reply => None,
        }
    }

    const fn client(self) -> Option<SocketAddrV4> {
        match self {
            Self::Direct => None,
            Self::Relayed { client } | Self::TwiceRelayed { client, .. } => Some(client),
        }
    }

    /// Whoever wrote to the node that wrote to us, whose word that is.
    const fn as_seen_by_relay(self) -> Option<SocketAddrV4> {
        match self {
            Self::Direct => None,
            Self::Relayed { client: from } | Self::TwiceRelayed { first: from, .. } => Some(from),
        }
    }

    fn back(self, request: &IncomingRequest, answer: &HandshakeAnswer) -> Option<Routed> {
        let hop = |mode, peer| HandshakeHop::new(mode, answer.noise.clone(), peer).encode();
        let to = match self {
            Self::Direct => {
                let options = ReplyOptions { socket: answer.socket, ..ReplyOptions::BARE };
                return Some(Routed::Reply(Some(hop(Mode::Reply, None)), options));
            }
            Self::Relayed { .. } => request.from.addr,
            Self::TwiceRelayed { first, .. } => first,
        };
        let value = hop(Mode::FromServer, self.client());
        relay(value, to, answer.socket)
    }
}

impl Router {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            forwards: Cache::new(now, store::SHORT),
            servers: BTreeMap::new(),
            next_handshake: 0,
            handshakes: BTreeMap::new(),
            by_end: BTreeSet::new(),
            by_host: HashMap::new(),
            by_noise: HashMap::new(),
        }
    }

    pub(super) fn add_server(&mut self, target: Target, id: ServerId, record: Bytes) {
        self.servers.insert(target, Server { id, record });
    }

    pub(super) fn remove_server(&mut self, target: &Target) {
        self.servers.remove(target);
    }

    pub(super) fn set_forward(
        &mut self,
        now: Instant,
        target: Target,
        relay: SocketAddrV4,
        record: Bytes,
    ) {
        self.forwards.insert(now, target, Forward { relay, record });
    }

    pub(super) fn forget_forward(&mut self, target: &Target) {
        self.forwards.remove(target);
    }

    /// The record of a server that is announced here or runs here.
    pub(super) fn record(&mut self, now: Instant, target: &Target) -> Option<Bytes> {
        if let Some(server) = self.servers.get(target) {
            return Some(server.record.clone());
        }
        self.forwards.value(now, target).map(|forward| forward.record.clone())
    }

    /// Where a server that is announced here wants its handshakes.
    pub(super) fn forward(&mut self, now: Instant, target: &Target) -> Option<SocketAddrV4> {
        self.forwards.value(now, target).map(|forward| forward.relay)
    }

    /// Passes a handshake on, or takes it in; `is_relay` says whether its sender is a node at which
    /// that server is announced.
    pub(super) fn on_handshake(
        &mut self,
        now: Instant,
        request: &IncomingRequest,
        is_relay: impl FnOnce(ServerId) -> bool,
    ) -> Option<Routed> {
        let hop = HandshakeHop::decode(request.value.as_ref()?)?;
        if hop.noise.is_empty() {
            return None;
        }
        let target = request.target;
        if let Some(target) = &target
            && let Some(server) = self.servers.get(target).map(|server| server.id)
        {
            return self.take_in(now, server, target, request, hop, is_relay(server));
        }
        let forward = target.and_then(|target| self.forward(now, &target));
        pass_on(hop, request.from.addr, forward)
    }

    /// Passes a holepunch message on, or takes it in.
    pub(super) fn on_holepunch(
        &mut self,
        now: Instant,
        request: &IncomingRequest,
    ) -> Option<Routed> {
        let hop = HolepunchHop::decode(request.value.as_ref()?)?;
        let source = request.from.addr;
        match hop.mode {
            Mode::FromClient => {
                let forward = request.target.and_then(|target| self.forward(now, &target));
                let next =
                    HolepunchHop { mode: Mode::FromRelay, peer_address: Some(source), ..hop };
                relay(next.encode(), hop.peer_address.or(forward)?, None)
            }
            Mode::FromRelay => Some(Routed::Holepunch(IncomingHolepunch {
                server: self.servers.get(&request.target?)?.id,
                id: hop.id,
                client: hop.peer_address?,
                payload: hop.payload,
                request: request.clone(),
            })),
            Mode::FromServer => {
                let next = HolepunchHop { mode: Mode::Reply, peer_address: Some(source), ..hop };
                reply_to(next.encode(), hop.peer_address?)
            }
            Mode::FromSecondRelay | Mode::Reply => None,
        }
    }

    /// The way back of the answer to a holepunch message.
    pub(super) fn holepunch_answer(
        punch: &IncomingHolepunch,
        payload: Bytes,
        socket: Option<SocketId>,
    ) -> Option<Routed> {
        let hop = HolepunchHop {
            mode: Mode::FromServer,
            id: 0,
            payload,
            peer_address: Some(punch.client),
        };
        relay(hop.encode(), punch.request.from.addr, socket)
    }

    /// Answers a handshake on all ways on which it came, and on those on which it still comes;
    /// with none, all of them are met with silence.
    pub(super) fn answer_handshake(
        &mut self,
        now: Instant,
        id: HandshakeId,
        answer: Option<HandshakeAnswer>,
    ) -> Vec<(IncomingRequest, Routed)> {
        let Some(handshake) = self.handshakes.get_mut(&id) else {
            return Vec::new();
        };
        self.by_end.remove(&(handshake.until, id));
        handshake.until = now + REMEMBERED;
        self.by_end.insert((handshake.until, id));
        let before = std::mem::replace(&mut handshake.state, State::Answered(answer.clone()));
        let (State::Waiting(ways), Some(answer)) = (before, answer) else {
            return Vec::new();
        };
        let back = |(request, way): (IncomingRequest, Way)| {
            way.back(&request, &answer).map(|routed| (request, routed))
        };
        ways.into_iter().filter_map(back).collect()
    }

    /// Tells a new handshake from a copy of a known one.
    fn take_in(
        &mut self,
        now: Instant,
        server: ServerId,
        target: &Target,
        request: &IncomingRequest,
        hop: HandshakeHop,
        by_relay: bool,
    ) -> Option<Routed> {
        let way = Way::of(&hop)?;
        self.forget_handshakes(now);
        let key = hash(&[target, &hop.noise]);
        if let Some(id) = self.by_noise.get(&key) {
            return match &mut self.handshakes.get_mut(id)?.state {
                State::Answered(answer) => way.back(request, answer.as_ref()?),
                State::Waiting(ways) => {
                    if ways.len() < MAX_WAYS {
                        ways.push((request.clone(), way));
                    }
                    None
                }
            };
        }
        let client = way.client().unwrap_or(request.from.addr);
        let from = request.from.addr;
        let account = if by_relay { way.as_seen_by_relay().unwrap_or(from) } else { from };
        let id = self.remember(now, key, *account.ip(), (request.clone(), way))?;
        Some(Routed::Handshake(IncomingHandshake {
            id,
            server,
            noise: hop.noise,
            client,
            account: *account.ip(),
            direct: way.client().is_none(),
            own_address: request.to,
            socket: request.socket,
        }))
    }

    /// Makes room for a new handshake; none when there is too much already.
    fn remember(
        &mut self,
        now: Instant,
        key: [u8; 32],
        host: Ipv4Addr,
        way: (IncomingRequest, Way),
    ) -> Option<HandshakeId> {
        let of_host = self.by_host.get(&host).copied().unwrap_or(0);
        if self.handshakes.len() >= MAX_HANDSHAKES || of_host >= MAX_HANDSHAKES_PER_HOST {
            return None;
        }
        self.by_host.insert(host, of_host + 1);
        let id = HandshakeId(self.next_handshake);
        self.next_handshake += 1;
        self.by_noise.insert(key, id);
        let handshake =
            Handshake { key, host, until: now + ABANDONED, state: State::Waiting(vec![way]) };
        self.by_end.insert((handshake.until, id));
        self.handshakes.insert(id, handshake);
        Some(id)
    }

    /// How many handshakes are known.
    #[cfg(feature = "fuzz")]
    pub(super) fn handshakes(&self) -> usize {
        self.handshakes.len()
    }

    fn forget_handshakes(&mut self, now: Instant) {
        while let Some((until, id)) = self.by_end.first().copied() {
            if until > now {
                return;
            }
            self.by_end.pop_first();
            if let Some(handshake) = self.handshakes.remove(&id) {
                self.by_noise.remove(&handshake.key);
                if let Some(of_host) = self.by_host.get_mut(&handshake.host) {
                    *of_host -= 1;
                    if *of_host == 0 {
                        self.by_host.remove(&handshake.host);
                    }
                }
            }
        }
    }
}

/// Handshakes for our servers that are known at a time. More are met with silence, which makes the
/// client try again a second later.
pub(super) const MAX_HANDSHAKES: usize = 1024;

/// How many of them may go on one host's [account](IncomingHandshake::account).
pub(super) const MAX_HANDSHAKES_PER_HOST: usize = 256;

/// Ways on which one handshake comes before it is answered. A client uses up to three nodes and
/// repeats itself three times.
const MAX_WAYS: usize = 16;

/// How long copies of an answered handshake are answered alike.
const REMEMBERED: Duration = Duration::from_secs(10);

/// How long a handshake may wait for its answer.
const ABANDONED: Duration = Duration::from_secs(20);

/// The next hop of a handshake that is for somebody else, from `source`; `forward` is where the
/// server is announced from, if it is announced here.
fn pass_on(
    hop: HandshakeHop,
    source: SocketAddrV4,
    forward: Option<SocketAddrV4>,
) -> Option<Routed> {
    match hop.mode {
        Mode::FromClient => {
            let Some(to) = hop.relay_address.or(forward) else {
                return Some(Routed::Reply(None, ReplyOptions::ROUTE));
            };
            relay(HandshakeHop::new(Mode::FromRelay, hop.noise, Some(source)).encode(), to, None)
        }
        Mode::FromRelay => {
            let next =
                HandshakeHop { mode: Mode::FromSecondRelay, relay_address: Some(source), ..hop };
            relay(next.encode(), forward?, None)
        }
        Mode::FromServer => {
            let next = HandshakeHop::new(Mode::Reply, hop.noise, Some(source));
            reply_to(next.encode(), hop.peer_address?)
        }
        Mode::FromSecondRelay | Mode::Reply => None,
    }
}

fn relay(value: Bytes, to: SocketAddrV4, socket: Option<SocketId>) -> Option<Routed> {
    is_reachable(to).then_some(Routed::Relay { value, to, socket })
}

fn reply_to(value: Bytes, to: SocketAddrV4) -> Option<Routed> {
    let options = ReplyOptions { to: Some(to), ..ReplyOptions::BARE };
    is_reachable(to).then_some(Routed::Reply(Some(value), options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{
        Peer,
        testnet::{addr, epoch},
    };

    const TARGET: Target = [1; 32];
    const NOISE: Bytes = Bytes::from_static(b"noise");

    fn from_relay(relay: u32, noise: Bytes, client: SocketAddrV4) -> IncomingRequest {
        IncomingRequest {
            socket: SocketId::Server,
            from: Peer::unidentified(addr(relay)),
            to: addr(0),
            tid: 1,
            token: None,
            command: 0,
            target: Some(TARGET),
            value: Some(HandshakeHop::new(Mode::FromRelay, noise, Some(client)).encode()),
        }
    }

    /// What comes in from nodes at which the server is announced.
    fn relayed(router: &mut Router, now: Instant, request: &IncomingRequest) -> Option<Routed> {
        router.on_handshake(now, request, |_| true)
    }

    fn serving() -> Router {
        let mut router = Router::new(epoch());
        router.add_server(TARGET, ServerId(0), Bytes::new());
        router
    }

    fn taken_in(routed: Option<Routed>) -> HandshakeId {
        match routed {
            Some(Routed::Handshake(handshake)) => handshake.id,
            other => panic!("{other:?}"),
        }
    }

    fn answer() -> HandshakeAnswer {
        HandshakeAnswer { noise: Bytes::from_static(b"answer"), socket: None }
    }

    #[test]
    fn copies_of_a_handshake_are_one_and_all_get_its_answer() {
        let (mut router, now) = (serving(), epoch());
        let id = taken_in(relayed(&mut router, now, &from_relay(1, NOISE, addr(9))));
        assert_eq!(relayed(&mut router, now, &from_relay(2, NOISE, addr(9))), None);
        let back = router.answer_handshake(now, id, Some(answer()));
        let to: Vec<_> = back.iter().map(|(request, _)| request.from.addr).collect();
        assert_eq!(to, [addr(1), addr(2)]);
        let late = relayed(&mut router, now, &from_relay(3, NOISE, addr(9)));
        assert!(matches!(late, Some(Routed::Relay { to, .. }) if to == addr(3)));
        let later = now + REMEMBERED;
        taken_in(relayed(&mut router, later, &from_relay(1, NOISE, addr(9))));
    }

    #[test]
    fn a_refused_handshake_stays_silent_in_every_copy() {
        let (mut router, now) = (serving(), epoch());
        let id = taken_in(relayed(&mut router, now, &from_relay(1, NOISE, addr(9))));
        assert_eq!(router.answer_handshake(now, id, None), []);
        assert_eq!(relayed(&mut router, now, &from_relay(2, NOISE, addr(9))), None);
    }

    #[test]
    fn strangers_cannot_pile_up_handshakes() {
        let (mut router, now) = (serving(), epoch());
        let mut taken = 0;
        for n in 0..2000_u32 {
            let noise = Bytes::copy_from_slice(&n.to_le_bytes());
            let request = from_relay(1, noise, addr(9));
            taken += usize::from(relayed(&mut router, now, &request).is_some());
        }
        assert_eq!(taken, MAX_HANDSHAKES_PER_HOST);
        for n in 0..2000_u32 {
            let noise = Bytes::copy_from_slice(&n.to_be_bytes());
            relayed(&mut router, now, &from_relay(1, noise, addr(100 + n)));
        }
        assert_eq!(router.handshakes.len(), MAX_HANDSHAKES);
        assert_eq!(router.by_noise.len(), MAX_HANDSHAKES);
        assert_eq!(router.by_host[addr(9).ip()], MAX_HANDSHAKES_PER_HOST);
        let later = now + ABANDONED;
        taken_in(relayed(&mut router, later, &from_relay(1, NOISE, addr(9))));
        assert_eq!((router.handshakes.len(), router.by_host.len(), router.by_end.len()), (1, 1, 1));
    }

    #[test]
    fn a_stranger_that_names_many_clients_pays_for_them_itself() {
        let (mut router, now) = (serving(), epoch());
        let shake = |from: u32, n: u32, mode| {
            let noise = Bytes::copy_from_slice(&[from, n].map(u32::to_le_bytes).concat());
            let mut request = from_relay(from, noise.clone(), addr(1000 + n));
            let hop = HandshakeHop {
                relay_address: Some(addr(70)),
                ..HandshakeHop::new(mode, noise, Some(addr(1000 + n)))
            };
            request.value = Some(hop.encode());
            request
        };
        let mut taken = |from, mode, is_relay: bool| {
            let shakes = (0..2000).map(|n| shake(from, n, mode));
            let routed = shakes.map(|request| router.on_handshake(now, &request, |_| is_relay));
            let accounts = routed.flatten().filter_map(|routed| {
                if let Routed::Handshake(taken) = routed { Some(taken.account) } else { None }
            });
            accounts.collect::<Vec<_>>()
        };
        let on = |host: u32| vec![*addr(host).ip(); MAX_HANDSHAKES_PER_HOST];
        assert_eq!(taken(50, Mode::FromRelay, false), on(50));
        assert_eq!(taken(51, Mode::FromSecondRelay, false), on(51));
        // A node of ours tells the truth about who wrote to it, which is not the client here.
        assert_eq!(taken(1, Mode::FromSecondRelay, true), on(70));
        // There is room left for the clients of that node.
        assert_eq!(taken(1, Mode::FromRelay, true).len(), MAX_HANDSHAKES - 3 * on(0).len());
    }

    #[test]
    fn nothing_is_passed_on_to_nobody_or_everybody() {
        let mut router = Router::new(epoch());
        let mut request = from_relay(1, NOISE, addr(9));
        for text in ["0.0.0.0:1", "224.0.0.1:1", "1.2.3.4:0"] {
            let to = Some(text.parse().unwrap());
            let hop = HandshakeHop::new(Mode::FromServer, NOISE, to);
            request.value = Some(hop.encode());
            assert_eq!(router.on_handshake(epoch(), &request, |_| false), None);
            let hop = HandshakeHop {
                relay_address: to,
                ..HandshakeHop::new(Mode::FromClient, NOISE, None)
            };
            request.value = Some(hop.encode());
            assert_eq!(router.on_handshake(epoch(), &request, |_| false), None);
        }
    }
}
