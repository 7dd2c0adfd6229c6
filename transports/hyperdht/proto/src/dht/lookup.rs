//! What we ask the network for, and what we have it store.

use std::{net::SocketAddrV4, time::Instant};

use bytes::Bytes;
use hyperdht_encoding::Encode;

use super::{
    Event, Found, commands,
    node::{Dht, Owner},
    records::{
        Announce, LookupReply, MAX_LOOKUP_PEERS, MutablePut, MutableRecord, PeerRecord, Place,
    },
    router::ServerId,
};
use crate::{
    hash::{Namespace, hash},
    keys::{KeyPair, PublicKey},
    rpc::{Ask, Commit, QueryId, QueryReport, QuerySpec, Response, Target},
};

/// How a search differs from the ordinary.
#[derive(Debug, Clone, Default)]
pub struct FindOptions {
    /// Nodes to begin with, such as those that knew last time.
    pub nodes: Vec<SocketAddrV4>,
    /// Ask `nodes` and nobody else.
    pub only_nodes: bool,
    /// How often a node is asked again; five times when not said.
    pub retries: Option<u8>,
}

/// What is announced beside the key.
#[derive(Debug, Clone, Default)]
pub struct AnnounceOptions {
    /// Nodes that pass handshakes on to the server: the addresses of its own announcement
    /// ([`Dht::relay_addresses`]). Nodes keep the first three.
    pub relay_addresses: Vec<SocketAddrV4>,
    /// A time in milliseconds since 1970, to tell those who look that there is something new; 0 for
    /// none.
    pub bump: u64,
    /// Whether to take back older announcements on the way.
    pub clear: bool,
}

/// Why a query runs.
#[derive(Debug)]
pub(super) enum Op {
    FindPeer,
    Lookup,
    Announce(Box<Announcement>),
    ImmutableFind { target: Target },
    ImmutablePut { value: Bytes },
    MutableFind { owner: PublicKey, least_seq: u64 },
    MutablePut { value: Bytes },
    Server(ServerId),
}

/// An announcement under way, or the taking back of one.
#[derive(Debug)]
pub(super) struct Announcement {
    topic: Target,
    key_pair: KeyPair,
    /// None to take back only.
    options: Option<AnnounceOptions>,
    clear: bool,
    /// Requests to drop a record that have not ended.
    clearing: usize,
    /// The nearest nodes, once they are found.
    closest: Option<Vec<Response>>,
}

impl Dht {
    /// Looks for the nodes nearest to `target`: [`Event::Done`] names them.
    pub fn find_node(&mut self, now: Instant, target: Target) -> QueryId {
        let query = self.rpc.find_node(now, target);
        self.settle(now);
        query
    }

    /// Looks for the server whose public key has the hash `target`. [`Found::Peer`] names the nodes
    /// that know it.
    pub fn find_peer(&mut self, now: Instant, target: Target, options: FindOptions) -> QueryId {
        self.search(now, QuerySpec::new(target, commands::FIND_PEER), options, Op::FindPeer)
    }

    /// Looks for whoever is announced at a topic. [`Found::Topic`] streams what nodes know.
    pub fn lookup(&mut self, now: Instant, topic: Target, options: FindOptions) -> QueryId {
        self.search(now, QuerySpec::new(topic, commands::LOOKUP), options, Op::Lookup)
    }

    /// Announces a key at a topic, at the nodes nearest to it. Nodes forget it after about 20
    /// minutes.
    pub fn announce(
        &mut self,
        now: Instant,
        topic: Target,
        key_pair: KeyPair,
        options: AnnounceOptions,
    ) -> QueryId {
        let announcement = Announcement {
            topic,
            key_pair,
            clear: options.clear,
            options: Some(options),
            clearing: 0,
            closest: None,
        };
        self.begin_announcement(now, announcement)
    }

    /// Takes an announcement back, wherever it is met on the way to the topic.
    pub fn unannounce(&mut self, now: Instant, topic: Target, key_pair: KeyPair) -> QueryId {
        let announcement = Announcement {
            topic,
            key_pair,
            options: None,
            clear: true,
            clearing: 0,
            closest: None,
        };
        self.begin_announcement(now, announcement)
    }

    /// Stores a value under its hash, at the nodes nearest to it, for about two days. A value has to
    /// fit into one datagram: keep it under 1000 bytes.
    pub fn immutable_put(&mut self, now: Instant, value: Bytes) -> QueryId {
        let target = hash(&[&value]);
        let spec =
            QuerySpec { commit: Commit::Ask, ..QuerySpec::new(target, commands::IMMUTABLE_GET) };
        self.search(now, spec, FindOptions::default(), Op::ImmutablePut { value })
    }

    /// Looks for the value with this hash. [`Found::Immutable`] is it; cancel the query when one is
    /// enough.
    pub fn immutable_find(&mut self, now: Instant, target: Target) -> QueryId {
        let spec = QuerySpec::new(target, commands::IMMUTABLE_GET);
        self.search(now, spec, FindOptions::default(), Op::ImmutableFind { target })
    }

    /// Stores a version of a value under the hash of its owner's key. Nodes that know a later
    /// version, or another value of this one, refuse it: see
    /// [`QueryReport::commits`](crate::rpc::QueryReport).
    pub fn mutable_put(
        &mut self,
        now: Instant,
        key_pair: &KeyPair,
        seq: u64,
        value: Bytes,
    ) -> QueryId {
        let put = MutablePut {
            public_key: key_pair.public_key(),
            record: MutableRecord::sign(key_pair, seq, value),
        };
        let spec = QuerySpec {
            commit: Commit::Ask,
            value: Some(seq_value(0)),
            ..QuerySpec::new(put.public_key.target(), commands::MUTABLE_GET)
        };
        let op = Op::MutablePut { value: put.encode() };
        self.search(now, spec, FindOptions::default(), op)
    }

    /// Looks for versions of `owner`'s value from `least_seq` on. [`Found::Mutable`] streams ever
    /// newer ones; the last one before the query is done is the latest.
    pub fn mutable_find(&mut self, now: Instant, owner: PublicKey, least_seq: u64) -> QueryId {
        let spec = QuerySpec {
            value: Some(seq_value(least_seq)),
            ..QuerySpec::new(owner.target(), commands::MUTABLE_GET)
        };
        self.search(now, spec, FindOptions::default(), Op::MutableFind { owner, least_seq })
    }

    pub(super) fn search(
        &mut self,
        now: Instant,
        mut spec: QuerySpec,
        options: FindOptions,
        op: Op,
    ) -> QueryId {
        spec.nodes = options.nodes;
        spec.only_nodes = options.only_nodes;
        spec.retries = options.retries.unwrap_or(spec.retries);
        let query = self.rpc.query(now, spec);
        self.ops.insert(query, op);
        self.settle(now);
        query
    }

    fn begin_announcement(&mut self, now: Instant, announcement: Announcement) -> QueryId {
        let topic = announcement.topic;
        if announcement.clear
            && let Some(store) = &mut self.store
        {
            store.forget(&mut self.router, &topic, &announcement.key_pair.public_key());
        }
        let spec = QuerySpec { commit: Commit::Ask, ..QuerySpec::new(topic, commands::LOOKUP) };
        self.search(now, spec, FindOptions::default(), Op::Announce(Box::new(announcement)))
    }

    /// A node on a query's way has answered.
    pub(super) fn on_found(&mut self, now: Instant, query: QueryId, response: Response) {
        let Some(value) = &response.value else { return };
        let found = match self.ops.get_mut(&query) {
            Some(Op::FindPeer) => PeerRecord::decode(value).ok().map(Found::Peer),
            Some(Op::Lookup) => LookupReply::decode(value).ok().map(Found::Topic),
            Some(Op::Announce(announcement)) => {
                let Ok(reply) = LookupReply::decode(value) else { return };
                let ask = announcement.clear_at(&response, &reply);
                announcement.clearing += usize::from(ask.is_some());
                if let Some(ask) = ask {
                    self.own_request(now, ask, Owner::Clearing(query));
                }
                Some(Found::Topic(reply))
            }
            Some(Op::ImmutableFind { target }) => {
                (hash(&[value]) == *target).then(|| Found::Immutable(value.clone()))
            }
            Some(Op::MutableFind { owner, least_seq }) => MutableRecord::decode(value)
                .ok()
                .filter(|record| record.seq >= *least_seq && record.is_signed_by(owner))
                .map(|record| {
                    *least_seq = record.seq.saturating_add(1);
                    Found::Mutable(record)
                }),
            Some(Op::ImmutablePut { .. } | Op::MutablePut { .. } | Op::Server(_)) | None => None,
        };
        if let Some(found) = found {
            self.events.push_back(Event::Found {
                query,
                from: response.from,
                to: response.to,
                found,
            });
        }
    }

    /// The nearest nodes are found: they store what there is to store.
    pub(super) fn on_closest(&mut self, now: Instant, query: QueryId, closest: Vec<Response>) {
        let asks = match self.ops.get_mut(&query) {
            Some(Op::Announce(announcement)) => {
                announcement.closest = Some(closest);
                return self.finish_announcement(now, query);
            }
            Some(Op::ImmutablePut { value }) => {
                put(&closest, hash(&[value]), commands::IMMUTABLE_PUT, value)
            }
            Some(Op::MutablePut { value }) => {
                let key = value.first_chunk().copied().unwrap_or_default();
                put(&closest, PublicKey::from_bytes(key).target(), commands::MUTABLE_PUT, value)
            }
            Some(Op::Server(server)) => {
                let server = *server;
                self.server_asks(server, &closest)
            }
            Some(Op::FindPeer | Op::Lookup | Op::ImmutableFind { .. } | Op::MutableFind { .. })
            | None => Vec::new(),
        };
        self.rpc.commit(now, query, asks);
    }

    /// A request to drop a record has ended.
    pub(super) fn on_cleared(&mut self, now: Instant, query: QueryId) {
        if let Some(Op::Announce(announcement)) = self.ops.get_mut(&query) {
            announcement.clearing = announcement.clearing.saturating_sub(1);
            self.finish_announcement(now, query);
        }
    }

    /// Announces once the nearest nodes are found and the old records are dropped.
    fn finish_announcement(&mut self, now: Instant, query: QueryId) {
        let Some(Op::Announce(announcement)) = self.ops.get_mut(&query) else {
            return;
        };
        if announcement.clearing > 0 {
            return;
        }
        let Some(closest) = announcement.closest.take() else {
            return;
        };
        let Announcement { topic, key_pair, .. } = &**announcement;
        let asks = announcement.options.as_ref().map_or_else(Vec::new, |options| {
            let announce = |response| {
                let relays = options.relay_addresses.clone();
                announce_at(response, topic, key_pair, relays, options.bump)
            };
            closest.iter().filter_map(announce).collect()
        });
        self.rpc.commit(now, query, asks);
    }

    pub(super) fn on_query_done(&mut self, now: Instant, query: QueryId, report: QueryReport) {
        match self.ops.remove(&query) {
            Some(Op::Server(server)) => self.on_announced(now, server, report),
            Some(
                Op::FindPeer
                | Op::Lookup
                | Op::Announce(_)
                | Op::ImmutableFind { .. }
                | Op::ImmutablePut { .. }
                | Op::MutableFind { .. }
                | Op::MutablePut { .. },
            )
            | None => self.events.push_back(Event::Done { query, report }),
        }
    }
}

impl Announcement {
    /// Has a node drop our record where it has it, or may have it: an answer holds 20 of any number.
    fn clear_at(&self, response: &Response, reply: &LookupReply) -> Option<Ask> {
        let own = self.key_pair.public_key();
        let listed = reply.peers.iter().any(|peer| peer.public_key == own);
        if !self.clear || !(listed || reply.peers.len() >= MAX_LOOKUP_PEERS) {
            return None;
        }
        unannounce_at(response, &self.topic, &self.key_pair)
    }
}

/// Asks a node to store an announcement, if it answered as one that stores.
pub(super) fn announce_at(
    response: &Response,
    target: &Target,
    key_pair: &KeyPair,
    relay_addresses: Vec<SocketAddrV4>,
    bump: u64,
) -> Option<Ask> {
    let (node, token) = (response.from.id?, response.token?);
    let place = Place { target, node, token };
    let value = Announce::sign(Namespace::Announce, key_pair, &place, relay_addresses, bump);
    Some(Ask {
        token: Some(token),
        target: Some(*target),
        value: Some(value.encode()),
        ..Ask::new(response.from.addr, commands::ANNOUNCE)
    })
}

/// Asks a node to drop an announcement.
pub(super) fn unannounce_at(
    response: &Response,
    target: &Target,
    key_pair: &KeyPair,
) -> Option<Ask> {
    let (node, token) = (response.from.id?, response.token?);
    let place = Place { target, node, token };
    let value = Announce::sign(Namespace::Unannounce, key_pair, &place, Vec::new(), 0);
    Some(Ask {
        token: Some(token),
        target: Some(*target),
        value: Some(value.encode()),
        ..Ask::new(response.from.addr, commands::UNANNOUNCE)
    })
}

fn put(closest: &[Response], target: Target, command: u64, value: &Bytes) -> Vec<Ask> {
    let ask = |response: &Response| Ask {
        token: response.token,
        target: Some(target),
        value: Some(value.clone()),
        ..Ask::new(response.from.addr, command)
    };
    closest.iter().filter(|response| response.token.is_some()).map(ask).collect()
}

fn seq_value(seq: u64) -> Bytes {
    let mut value = Vec::with_capacity(9);
    value.put_varint(seq);
    value.into()
}
