//! Keeping servers announced (`hyperdht/lib/announcer.js`).
//!
//! A server is announced under its own key at the three nearest nodes, which from then on pass
//! handshakes on to it. They are pinged every few seconds, and the whole is done again every five
//! minutes, when some of them are gone, or when our own address has changed.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Event, commands,
    lookup::{Op, announce_at, unannounce_at},
    node::{Dht, Owner},
    records::PeerRecord,
    router::ServerId,
};
use crate::{
    keys::KeyPair,
    rpc::{Ask, Commit, QueryId, QueryReport, QuerySpec, Response, Target},
};

/// A node that passes handshakes on to a server of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// The node.
    pub relay_address: SocketAddrV4,
    /// Our address as that node sees it.
    pub peer_address: SocketAddrV4,
}

/// The state of one server's announcement.
#[derive(Debug)]
pub(super) struct Announcer {
    key_pair: KeyPair,
    target: Target,
    relays: Vec<Relay>,
    relay_addresses: Vec<SocketAddrV4>,
    /// The nodes that hold it, of the current cycle and the two before; a client may still talk
    /// through an earlier one.
    cycles: VecDeque<BTreeSet<SocketAddrV4>>,
    /// Where the last cycle ended and the next begins.
    closest: Vec<SocketAddrV4>,
    phase: Phase,
    /// Whether there is reason to do it again at once.
    stale: bool,
    /// Nodes that are asked to drop it and have not answered.
    unannouncing: usize,
    /// Cycles in a row in which no node took it.
    failures: u32,
}

#[derive(Debug)]
enum Phase {
    Announcing(QueryId),
    Resting {
        until: Instant,
        rounds: u32,
    },
    Pinging {
        running: usize,
        pinged: usize,
        pongs: usize,
        rounds: u32,
    },
    /// The node is suspended.
    Withdrawn,
    Stopping,
}

impl Announcer {
    pub(super) fn new(now: Instant, key_pair: KeyPair) -> Self {
        Self {
            target: key_pair.public_key().target(),
            key_pair,
            relays: Vec::new(),
            relay_addresses: Vec::new(),
            cycles: VecDeque::new(),
            closest: Vec::new(),
            phase: Phase::Resting { until: now, rounds: 0 },
            stale: false,
            unannouncing: 0,
            failures: 0,
        }
    }

    pub(super) const fn target(&self) -> &Target {
        &self.target
    }

    /// What this node itself answers to those who look for the server.
    pub(super) fn record(&self) -> Bytes {
        let record =
            PeerRecord { public_key: self.key_pair.public_key(), relay_addresses: Vec::new() };
        record.encode()
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Resting { until, .. } => Some(until),
            Phase::Announcing(_) | Phase::Pinging { .. } | Phase::Withdrawn | Phase::Stopping => {
                None
            }
        }
    }

    /// See [`Dht::is_relay`].
    pub(super) fn is_relay(&self, addr: SocketAddrV4) -> bool {
        self.cycles.iter().any(|cycle| cycle.contains(&addr))
    }

    pub(super) const fn is_withdrawn(&self) -> bool {
        matches!(self.phase, Phase::Withdrawn)
    }

    fn current(&self) -> impl Iterator<Item = SocketAddrV4> {
        self.cycles.front().into_iter().flatten().copied()
    }

    /// Does it again as soon as possible.
    fn hurry(&mut self, now: Instant) {
        self.stale = true;
        if let Phase::Resting { until, .. } = &mut self.phase {
            *until = now;
        }
    }
}

impl Dht {
    /// The nodes that pass handshakes on to a server of ours.
    pub fn relays(&self, server: ServerId) -> &[Relay] {
        self.announcers.get(&server).map_or(&[], |announcer| &announcer.relays)
    }

    /// Where others can send handshakes for a server of ours: our own address first, if we can be
    /// reached there, then nodes; at most three.
    pub fn relay_addresses(&self, server: ServerId) -> &[SocketAddrV4] {
        self.announcers.get(&server).map_or(&[], |announcer| &announcer.relay_addresses)
    }

    /// Whether `addr` passes handshakes on to a server of ours, or did so in the last two cycles.
    pub fn is_relay(&self, server: ServerId, addr: SocketAddrV4) -> bool {
        self.announcers.get(&server).is_some_and(|announcer| announcer.is_relay(addr))
    }

    /// Announces all servers again: the network interfaces have changed.
    pub fn announce_again(&mut self, now: Instant) {
        for announcer in self.announcers.values_mut() {
            announcer.hurry(now);
        }
    }

    /// Begins a cycle: looks for the nearest nodes.
    pub(super) fn begin_announcing(&mut self, now: Instant, server: ServerId) {
        let Some(announcer) = self.announcers.get_mut(&server) else {
            return;
        };
        announcer.stale = false;
        announcer.cycles.push_front(BTreeSet::new());
        announcer.cycles.truncate(CYCLES);
        let spec = QuerySpec {
            commit: Commit::Ask,
            nodes: announcer.closest.clone(),
            ..QuerySpec::new(announcer.target, commands::FIND_PEER)
        };
        let query = self.rpc.query(now, spec);
        announcer.phase = Phase::Announcing(query);
        self.ops.insert(query, Op::Server(server));
    }

    /// What to ask of the nearest nodes.
    pub(super) fn server_asks(&self, server: ServerId, closest: &[Response]) -> Vec<Ask> {
        let Some(announcer) = self.announcers.get(&server) else {
            return Vec::new();
        };
        let announce =
            |response| announce_at(response, &announcer.target, &announcer.key_pair, Vec::new(), 0);
        closest.iter().filter_map(announce).take(RELAYS).collect()
    }

    /// A cycle is over: takes note of who holds the server now.
    pub(super) fn on_announced(&mut self, now: Instant, server: ServerId, report: QueryReport) {
        let public = self.rpc.public_address();
        let Some(announcer) = self.announcers.get_mut(&server) else {
            return;
        };
        if matches!(announcer.phase, Phase::Withdrawn | Phase::Stopping) {
            return;
        }
        let taken = report.commits.iter().filter_map(|commit| {
            let response = commit.outcome.as_ref().ok().filter(|response| response.error == 0)?;
            Some(Relay { relay_address: commit.peer.addr, peer_address: response.to })
        });
        announcer.relays = taken.collect();
        let nodes = announcer.relays.iter().map(|relay| relay.relay_address);
        announcer.relay_addresses = public.into_iter().chain(nodes.clone()).take(RELAYS).collect();
        if let Some(current) = announcer.cycles.front_mut() {
            current.extend(nodes);
        }
        // Where nobody answered, the network is gone, and those of before are asked first when it is
        // back.
        if !report.closest.is_empty() {
            announcer.closest = report.closest.iter().map(|response| response.from.addr).collect();
        }
        let nodes = announcer.relays.len();
        let failures = announcer.failures;
        announcer.failures = if nodes == 0 { failures + 1 } else { 0 };
        announcer.phase = announcer.first_rest(now, failures > 0);
        self.unannounce_left(now, server);
        self.events.push_back(Event::Announced { server, nodes });
        if failures > 0 && nodes > 0 {
            self.suspect_network(now);
        }
    }

    /// Does what is due: pings, or another cycle.
    pub(super) fn drive_announcers(&mut self, now: Instant) {
        let due = |announcer: &Announcer| announcer.poll_timeout().is_some_and(|at| at <= now);
        let due: Vec<_> =
            self.announcers.iter().filter(|(_, a)| due(a)).map(|(id, _)| *id).collect();
        for server in due {
            self.keep_alive(now, server);
        }
    }

    /// The network is back: what nobody took meanwhile need not wait.
    pub(super) fn on_online(&mut self, now: Instant) {
        for announcer in self.announcers.values_mut() {
            if announcer.failures > 0 {
                announcer.hurry(now);
            }
        }
    }

    fn keep_alive(&mut self, now: Instant, server: ServerId) {
        let Some(announcer) = self.announcers.get_mut(&server) else {
            return;
        };
        let Phase::Resting { rounds, .. } = announcer.phase else {
            return;
        };
        let relays = announcer.to_be_pinged();
        if announcer.stale || rounds == 0 || relays.is_empty() {
            return self.begin_announcing(now, server);
        }
        // Once is enough to see that a network is back.
        let retries = if announcer.failures == 0 { PING_RETRIES } else { 0 };
        announcer.phase = Phase::Pinging {
            running: relays.len(),
            pinged: relays.len(),
            pongs: 0,
            rounds: rounds - 1,
        };
        for relay in relays {
            let id = self.rpc.ping(now, relay, None, retries);
            self.requests.insert(id, Owner::KeepAlive(server));
        }
    }

    /// A node that holds a server has answered a ping, or has not.
    pub(super) fn on_kept_alive(&mut self, now: Instant, server: ServerId, pong: Option<Response>) {
        let Some(announcer) = self.announcers.get_mut(&server) else {
            return;
        };
        let Phase::Pinging { running, pinged, pongs, rounds } = &mut announcer.phase else {
            return;
        };
        *running = running.saturating_sub(1);
        let mut moved = false;
        if let Some(pong) = pong {
            *pongs += 1;
            // The node would pass handshakes on to an address that is no longer ours.
            moved = announcer.relays.iter().any(|relay| {
                relay.relay_address == pong.from.addr && relay.peer_address != pong.to
            });
        }
        let (running, rounds) = (*running, *rounds);
        let due = if announcer.failures == 0 { *pongs < *pinged } else { *pongs > 0 };
        let news = moved && !announcer.stale;
        announcer.stale |= moved;
        if running == 0 {
            announcer.phase = Phase::Resting { until: now + PING_INTERVAL, rounds };
            if due || announcer.stale {
                self.begin_announcing(now, server);
            }
        }
        if news {
            self.suspect_network(now);
        }
    }

    /// Has those drop the server who held it in the last cycle and do not in this.
    fn unannounce_left(&mut self, now: Instant, server: ServerId) {
        let Some(announcer) = self.announcers.get(&server) else {
            return;
        };
        let mut cycles = announcer.cycles.iter();
        let (Some(current), Some(last)) = (cycles.next(), cycles.next()) else {
            return;
        };
        // A cycle in which nobody took it says nothing about those of the last one.
        if current.is_empty() {
            return;
        }
        let left: Vec<_> = last.difference(current).copied().collect();
        self.unannounce_from(now, server, left);
    }

    fn unannounce_from(&mut self, now: Instant, server: ServerId, nodes: Vec<SocketAddrV4>) {
        let Some(announcer) = self.announcers.get_mut(&server) else {
            return;
        };
        announcer.unannouncing += nodes.len();
        let target = announcer.target;
        for node in nodes {
            let ask = Ask { target: Some(target), ..Ask::new(node, commands::FIND_PEER) };
            self.own_request(now, ask, Owner::Unannounce(server));
        }
    }

    /// A node has given a token with which to drop a server's record, if it has one.
    pub(super) fn on_unannounce_found(
        &mut self,
        now: Instant,
        server: ServerId,
        response: Option<Response>,
    ) {
        let Some(announcer) = self.announcers.get(&server) else {
            return;
        };
        let ask = response
            .filter(|response| response.value.is_some())
            .and_then(|response| unannounce_at(&response, &announcer.target, &announcer.key_pair));
        match ask {
            Some(ask) => {
                self.own_request(now, ask, Owner::Unannounced(server));
            }
            None => self.on_unannounced(server),
        }
    }

    /// A node has dropped a server, or could not be made to.
    pub(super) fn on_unannounced(&mut self, server: ServerId) {
        if let Some(announcer) = self.announcers.get_mut(&server) {
            announcer.unannouncing = announcer.unannouncing.saturating_sub(1);
            self.finish_stopping(server);
        }
    }

    /// Takes a server back from whoever holds it, for good.
    pub(super) fn stop_announcing(&mut self, now: Instant, server: ServerId) {
        self.take_back(now, server, Phase::Stopping);
        self.finish_stopping(server);
    }

    /// Takes all servers back, until they are [announced anew](Self::announce_anew).
    pub(super) fn withdraw(&mut self, now: Instant) {
        let open = |(id, announcer): (&ServerId, &Announcer)| {
            (!matches!(announcer.phase, Phase::Stopping)).then_some(*id)
        };
        let open: Vec<_> = self.announcers.iter().filter_map(open).collect();
        for server in open {
            self.take_back(now, server, Phase::Withdrawn);
        }
    }

    /// Whether nobody is asked any more to drop a server.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.announcers.values().all(|announcer| announcer.unannouncing == 0)
    }

    pub(super) fn announce_anew(&mut self, now: Instant) {
        for announcer in self.announcers.values_mut() {
            if announcer.is_withdrawn() {
                announcer.phase = Phase::Resting { until: now, rounds: 0 };
            }
        }
    }

    fn take_back(&mut self, now: Instant, server: ServerId, then: Phase) {
        let Some(announcer) = self.announcers.get_mut(&server) else {
            return;
        };
        let holders: BTreeSet<_> = announcer.cycles.iter().take(2).flatten().copied().collect();
        match std::mem::replace(&mut announcer.phase, then) {
            Phase::Withdrawn | Phase::Stopping => return,
            Phase::Announcing(query) => self.rpc.cancel_query(now, query),
            Phase::Resting { .. } | Phase::Pinging { .. } => {}
        }
        self.unannounce_from(now, server, holders.into_iter().collect());
    }

    fn finish_stopping(&mut self, server: ServerId) {
        let done = |announcer: &Announcer| {
            matches!(announcer.phase, Phase::Stopping) && announcer.unannouncing == 0
        };
        if self.announcers.get(&server).is_some_and(done) {
            self.announcers.remove(&server);
            self.events.push_back(Event::Closed(server));
        }
    }
}

impl Announcer {
    /// After a cycle: until the first ping, and for how many of them.
    fn first_rest(&self, now: Instant, recovered: bool) -> Phase {
        let wait = if self.stale { Duration::ZERO } else { PING_INTERVAL };
        let rounds = match self.failures {
            0 if recovered => ROUNDS_RECOVERED,
            0 => ROUNDS,
            failures => (1 << failures.min(MAX_BACKOFF)) / 2,
        };
        Phase::Resting { until: now + wait, rounds }
    }

    /// Those who hold it; where nobody does, those who may tell that the network is back.
    fn to_be_pinged(&self) -> Vec<SocketAddrV4> {
        if self.failures == 0 {
            self.current().collect()
        } else {
            self.closest.iter().copied().take(RELAYS).collect()
        }
    }
}

/// Nodes that hold a server.
const RELAYS: usize = 3;
/// Cycles whose nodes are remembered.
const CYCLES: usize = 3;
/// Between two pings of the nodes that hold a server.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// A node that holds a server is lost after four pings, a second apart.
const PING_RETRIES: u8 = 3;
/// Rounds of pings until everything is done again: about five minutes.
const ROUNDS: u32 = 100;
/// Rounds after a cycle that was the first to succeed again: it found those who happened to answer
/// while the network came back, who need not be the nearest.
const ROUNDS_RECOVERED: u32 = 2;
/// Doublings of the rounds while nobody takes a server: 1 to 4, since a search takes six seconds when
/// nobody answers. (The reference waits for five minutes, or for the network.)
const MAX_BACKOFF: u32 = 3;
