//! What a persistent node keeps for others (`hyperdht/lib/persistent.js`).

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyperdht_encoding::Decoder;
use rand::Rng;

use super::{
    cache::{Cache, Limits, Records, Weigh},
    commands,
    records::{
        Announce, LookupReply, MAX_LOOKUP_PEERS, MutablePut, MutableRecord, PeerRecord, Place,
    },
    router::Router,
};
use crate::{
    hash::{Namespace, hash},
    keys::PublicKey,
    rpc::{IncomingRequest, NodeId, ReplyOptions, Target},
};

/// Records, values, and when topics were last bumped.
///
/// Bounded: records and refresh secrets at 65 536 each (about 13 MiB each), bumps at 65 536
/// (5 MiB), mutable and immutable values at 32 768 or 16 MiB each. Whatever is not stored again is
/// forgotten after about 20 minutes, values after about two days.
#[derive(Debug)]
pub(super) struct Store {
    records: Records,
    refreshes: Cache<Refresh>,
    bumps: Cache<u64>,
    mutables: Cache<Bytes>,
    immutables: Cache<Bytes>,
}

/// A record whose life its owner can extend without signing again.
#[derive(Debug, Clone)]
struct Refresh {
    target: Target,
    owner: PublicKey,
    record: Bytes,
    is_self: bool,
}

impl Weigh for Refresh {
    fn bytes(&self) -> usize {
        64 + self.record.len()
    }
}

/// How a request is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not at all: it is malformed or not what it claims to be.
    Silence,
    Reply(Option<Bytes>, ReplyOptions),
    Error(u64),
}

/// What there is beside the store when a request is answered.
pub(super) struct Surroundings<'a, R> {
    pub(super) now: Instant,
    /// Milliseconds since 1970.
    pub(super) unix_ms: u64,
    pub(super) own_id: NodeId,
    pub(super) router: &'a mut Router,
    pub(super) rng: &'a mut R,
}

impl Store {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            records: Records::new(now, SHORT),
            refreshes: Cache::new(now, SHORT),
            bumps: Cache::new(now, SHORT),
            mutables: Cache::new(now, LONG),
            immutables: Cache::new(now, LONG),
        }
    }

    /// Answers a request that asks for something stored or to store something; none when the
    /// command is not of that kind.
    pub(super) fn answer(
        &mut self,
        request: &IncomingRequest,
        around: Surroundings<'_, impl Rng>,
    ) -> Option<Answer> {
        let answer = match request.command {
            commands::FIND_PEER => Self::find_peer(request, around),
            commands::LOOKUP => self.lookup(request, around),
            commands::ANNOUNCE => self.announce(request, around),
            commands::UNANNOUNCE => self.unannounce(request, around),
            commands::MUTABLE_PUT => self.mutable_put(request, &around),
            commands::MUTABLE_GET => self.mutable_value(request, &around),
            commands::IMMUTABLE_PUT => self.immutable_put(request, &around),
            commands::IMMUTABLE_GET => self.immutable_value(request, &around),
            // We have no plugins; the reference says nothing about one that it does not have.
            commands::PLUGIN => None,
            _ => return None,
        };
        Some(answer.unwrap_or(Answer::Silence))
    }

    /// Drops whatever is announced under `owner` at `target`.
    pub(super) fn forget(&mut self, router: &mut Router, target: &Target, owner: &PublicKey) {
        if owner.target() == *target {
            router.forget_forward(target);
        }
        self.records.remove(target, owner);
    }

    fn find_peer(request: &IncomingRequest, around: Surroundings<'_, impl Rng>) -> Option<Answer> {
        let record = around.router.record(around.now, &request.target?);
        Some(Answer::Reply(record, ReplyOptions::FULL))
    }

    fn lookup(
        &mut self,
        request: &IncomingRequest,
        around: Surroundings<'_, impl Rng>,
    ) -> Option<Answer> {
        let target = request.target?;
        let mut records = self.records.some(around.now, around.rng, &target, MAX_LOOKUP_PEERS);
        if records.len() < MAX_LOOKUP_PEERS {
            records.extend(around.router.record(around.now, &target));
        }
        let bump = self.bumps.value(around.now, &target).copied().unwrap_or(0);
        let value = (!records.is_empty()).then(|| LookupReply::encode(&records, bump));
        Some(Answer::Reply(value, ReplyOptions::FULL))
    }

    fn announce(
        &mut self,
        request: &IncomingRequest,
        around: Surroundings<'_, impl Rng>,
    ) -> Option<Answer> {
        let target = request.target?;
        let token = request.token?;
        let announce = Announce::decode(request.value.as_ref()?).ok()?;
        if announce.peer.is_none() {
            return self.refresh(announce.refresh?, request, around);
        }
        let place = Place { target: &target, node: around.own_id, token };
        let mut peer = announce.verified(Namespace::Announce, &place)?.clone();
        peer.relay_addresses.truncate(MAX_RELAY_ADDRESSES);
        let stored = Refresh {
            target,
            owner: peer.public_key,
            is_self: peer.public_key.target() == target,
            record: peer.encode(),
        };
        if !stored.is_self {
            self.bump(&target, announce.bump, &around);
        }
        if let Some(refresh) = announce.refresh {
            self.refreshes.insert(around.now, refresh, stored.clone());
        }
        self.store(stored, request, around);
        Some(Answer::Reply(None, ReplyOptions::BARE))
    }

    /// Extends the life of a record for whoever knows what the hash it left is a hash of, and
    /// takes that as the next hash.
    fn refresh(
        &mut self,
        secret: [u8; 32],
        request: &IncomingRequest,
        around: Surroundings<'_, impl Rng>,
    ) -> Option<Answer> {
        let left = hash(&[&secret]);
        let stored = self.refreshes.value(around.now, &left)?.clone();
        self.refreshes.remove(&left);
        self.refreshes.insert(around.now, secret, stored.clone());
        self.store(stored, request, around);
        Some(Answer::Reply(None, ReplyOptions::BARE))
    }

    /// A record under its owner's own key is more than a record: handshakes for the owner go to
    /// where it was announced from.
    fn store(
        &mut self,
        stored: Refresh,
        request: &IncomingRequest,
        around: Surroundings<'_, impl Rng>,
    ) {
        let Refresh { target, owner, record, is_self } = stored;
        if is_self {
            around.router.set_forward(around.now, target, request.from.addr, record);
            self.records.remove(&target, &owner);
        } else {
            self.records.insert(around.now, around.rng, target, owner, record);
        }
    }

    fn bump(&mut self, target: &Target, bump: u64, around: &Surroundings<'_, impl Rng>) {
        let current = self.bumps.value(around.now, target).copied().unwrap_or(0);
        if bump > current && bump <= around.unix_ms.saturating_add(MAX_BUMP_DRIFT_MS) {
            self.bumps.insert(around.now, *target, bump);
        }
    }

    fn unannounce(
        &mut self,
        request: &IncomingRequest,
        around: Surroundings<'_, impl Rng>,
    ) -> Option<Answer> {
        let target = request.target?;
        let place = Place { target: &target, node: around.own_id, token: request.token? };
        let unannounce = Announce::decode(request.value.as_ref()?).ok()?;
        let PeerRecord { public_key, .. } = unannounce.verified(Namespace::Unannounce, &place)?;
        self.forget(around.router, &target, public_key);
        Some(Answer::Reply(None, ReplyOptions::BARE))
    }

    fn mutable_value(
        &mut self,
        request: &IncomingRequest,
        around: &Surroundings<'_, impl Rng>,
    ) -> Option<Answer> {
        let seq = Decoder::new(request.value.as_ref()?).varint().ok()?;
        let stored = self.mutables.value(around.now, &request.target?);
        let newer =
            stored.filter(|stored| Decoder::new(stored).varint().is_ok_and(|stored| stored >= seq));
        Some(Answer::Reply(newer.cloned(), ReplyOptions::FULL))
    }

    fn mutable_put(
        &mut self,
        request: &IncomingRequest,
        around: &Surroundings<'_, impl Rng>,
    ) -> Option<Answer> {
        let (target, _) = (request.target?, request.token?);
        let put = MutablePut::decode(request.value.as_ref()?).ok()?;
        if put.public_key.target() != target || !put.record.is_signed_by(&put.public_key) {
            return None;
        }
        let stored = self.mutables.value(around.now, &target);
        if let Some(stored) = stored.and_then(|stored| MutableRecord::decode(stored).ok()) {
            if stored.seq == put.record.seq && stored.value != put.record.value {
                return Some(Answer::Error(commands::ERROR_SEQ_REUSED));
            }
            if put.record.seq < stored.seq {
                return Some(Answer::Error(commands::ERROR_SEQ_TOO_LOW));
            }
        }
        self.mutables.insert(around.now, target, put.record.encode());
        Some(Answer::Reply(None, ReplyOptions::FULL))
    }

    fn immutable_value(
        &mut self,
        request: &IncomingRequest,
        around: &Surroundings<'_, impl Rng>,
    ) -> Option<Answer> {
        let value = self.immutables.value(around.now, &request.target?).cloned();
        Some(Answer::Reply(value, ReplyOptions::FULL))
    }

    fn immutable_put(
        &mut self,
        request: &IncomingRequest,
        around: &Surroundings<'_, impl Rng>,
    ) -> Option<Answer> {
        let (target, _) = (request.target?, request.token?);
        let value = request.value.clone()?;
        if hash(&[&value]) != target {
            return None;
        }
        self.immutables.insert(around.now, target, value);
        Some(Answer::Reply(None, ReplyOptions::FULL))
    }
}

/// Relay addresses kept of a record.
pub(super) const MAX_RELAY_ADDRESSES: usize = 3;

/// How far ahead of our clock a bump may be.
const MAX_BUMP_DRIFT_MS: u64 = 60_000;

/// Announcements, which their owners repeat.
pub(super) const SHORT: Limits =
    Limits { entries: 65_536, bytes: 16 << 20, age: Duration::from_secs(20 * 60) };

/// Values, which are to outlast those who put them. (The reference does not bound their bytes.)
const LONG: Limits =
    Limits { entries: 32_768, bytes: 16 << 20, age: Duration::from_secs(48 * 60 * 60) };

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        keys::KeyPair,
        rpc::{
            Peer, SocketId, Token,
            testnet::{addr, epoch},
        },
    };

    const NODE: NodeId = NodeId([9; 32]);
    const TOKEN: Token = Token([8; 32]);
    const UNIX_MS: u64 = 1_700_000_000_000;

    struct Bench {
        store: Store,
        router: Router,
        rng: StdRng,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                store: Store::new(epoch()),
                router: Router::new(epoch()),
                rng: StdRng::seed_from_u64(1),
                now: epoch(),
            }
        }

        fn ask(&mut self, command: u64, target: Target, value: Option<Bytes>) -> Answer {
            let request = IncomingRequest {
                socket: SocketId::Server,
                from: Peer::unidentified(addr(5)),
                to: addr(0),
                tid: 1,
                token: Some(TOKEN),
                command,
                target: Some(target),
                value,
            };
            self.put(&request)
        }

        fn put(&mut self, request: &IncomingRequest) -> Answer {
            let around = Surroundings {
                now: self.now,
                unix_ms: UNIX_MS,
                own_id: NODE,
                router: &mut self.router,
                rng: &mut self.rng,
            };
            self.store.answer(request, around).unwrap()
        }

        fn peers(&mut self, target: Target) -> Option<LookupReply> {
            let answer = self.ask(commands::LOOKUP, target, None);
            let Answer::Reply(value, ReplyOptions::FULL) = answer else { panic!("{answer:?}") };
            value.map(|value| LookupReply::decode(&value).unwrap())
        }
    }

    const STORED: Answer = Answer::Reply(None, ReplyOptions::BARE);
    const PUT: Answer = Answer::Reply(None, ReplyOptions::FULL);

    fn pair(n: u8) -> KeyPair {
        KeyPair::from_seed(&[n; 32])
    }

    fn signed(n: Namespace, pair: &KeyPair, target: Target, relays: u32, bump: u64) -> Bytes {
        let place = Place { target: &target, node: NODE, token: TOKEN };
        let relays: Vec<SocketAddrV4> = (0..relays).map(addr).collect();
        Announce::sign(n, pair, &place, relays, bump).encode()
    }

    #[test]
    fn an_announced_topic_is_found_until_it_is_taken_back() {
        let (mut bench, topic) = (Bench::new(), [1; 32]);
        let announce = signed(Namespace::Announce, &pair(1), topic, 2, 5);
        assert_eq!(bench.ask(commands::ANNOUNCE, topic, Some(announce)), STORED);
        let found = bench.peers(topic).unwrap();
        assert_eq!(found.bump, 5);
        assert_eq!(found.peers[0].public_key, pair(1).public_key());
        assert_eq!(found.peers[0].relay_addresses.len(), 2);
        let other = signed(Namespace::Unannounce, &pair(2), topic, 0, 0);
        bench.ask(commands::UNANNOUNCE, topic, Some(other));
        assert!(bench.peers(topic).is_some());
        let unannounce = signed(Namespace::Unannounce, &pair(1), topic, 0, 0);
        assert_eq!(bench.ask(commands::UNANNOUNCE, topic, Some(unannounce)), STORED);
        assert_eq!(bench.peers(topic), None);
    }

    #[test]
    fn a_long_relay_list_is_verified_whole_and_kept_in_part() {
        let (mut bench, topic) = (Bench::new(), [1; 32]);
        let announce = signed(Namespace::Announce, &pair(1), topic, 5, 0);
        assert_eq!(bench.ask(commands::ANNOUNCE, topic, Some(announce)), STORED);
        assert_eq!(bench.peers(topic).unwrap().peers[0].relay_addresses.len(), 3);
    }

    #[test]
    fn a_server_is_found_under_its_own_key_and_its_handshakes_forwarded() {
        let mut bench = Bench::new();
        let target = pair(1).public_key().target();
        let announce = signed(Namespace::Announce, &pair(1), target, 0, 0);
        assert_eq!(bench.ask(commands::ANNOUNCE, target, Some(announce)), STORED);
        assert_eq!(bench.router.forward(bench.now, &target), Some(addr(5)));
        let Answer::Reply(Some(record), _) = bench.ask(commands::FIND_PEER, target, None) else {
            panic!("not found")
        };
        assert_eq!(PeerRecord::decode(&record).unwrap().public_key, pair(1).public_key());
        assert_eq!(bench.peers(target).unwrap().peers.len(), 1);
        let unannounce = signed(Namespace::Unannounce, &pair(1), target, 0, 0);
        bench.ask(commands::UNANNOUNCE, target, Some(unannounce));
        assert_eq!(bench.router.forward(bench.now, &target), None);
    }

    #[test]
    fn what_is_not_signed_for_this_place_is_met_with_silence() {
        let (mut bench, topic) = (Bench::new(), [1; 32]);
        let elsewhere = signed(Namespace::Announce, &pair(1), [2; 32], 0, 0);
        let wrong_kind = signed(Namespace::Unannounce, &pair(1), topic, 0, 0);
        for value in [Some(elsewhere), Some(wrong_kind), Some(Bytes::from_static(&[1])), None] {
            assert_eq!(bench.ask(commands::ANNOUNCE, topic, value), Answer::Silence);
        }
        assert_eq!(bench.peers(topic), None);
    }

    #[test]
    fn nothing_is_stored_without_a_token() {
        let mut bench = Bench::new();
        let value = Bytes::from_static(b"value");
        for (command, target) in
            [(commands::ANNOUNCE, [1; 32]), (commands::IMMUTABLE_PUT, hash(&[&value]))]
        {
            let request = IncomingRequest {
                socket: SocketId::Server,
                from: Peer::unidentified(addr(5)),
                to: addr(0),
                tid: 1,
                token: None,
                command,
                target: Some(target),
                value: Some(value.clone()),
            };
            assert_eq!(bench.put(&request), Answer::Silence);
        }
    }

    #[test]
    fn bumps_only_rise_and_not_into_the_future() {
        let (mut bench, topic) = (Bench::new(), [1; 32]);
        for (bump, expected) in [(7, 7), (5, 7), (UNIX_MS + 60_001, 7), (UNIX_MS, UNIX_MS)] {
            let announce = signed(Namespace::Announce, &pair(1), topic, 0, bump);
            bench.ask(commands::ANNOUNCE, topic, Some(announce));
            assert_eq!(bench.peers(topic).unwrap().bump, expected);
        }
    }

    #[test]
    fn a_record_lives_on_for_whoever_knows_its_refresh_secret() {
        let (mut bench, topic) = (Bench::new(), [1; 32]);
        let secret = [3; 32];
        let place = Place { target: &topic, node: NODE, token: TOKEN };
        let mut announce = Announce::sign(Namespace::Announce, &pair(1), &place, Vec::new(), 0);
        let refresh = hash(&[&secret]);
        announce.refresh = Some(refresh);
        let peer = announce.peer.clone().unwrap();
        announce.signature = Some(pair(1).sign(&place.signable_for_tests(&peer, Some(&refresh))));
        bench.ask(commands::ANNOUNCE, topic, Some(announce.encode()));
        let again = |secret| {
            let only = Announce { refresh: Some(secret), ..Announce::default() };
            Some(only.encode())
        };
        for minutes in [10, 20] {
            bench.now = epoch() + Duration::from_secs(60 * minutes);
            assert_eq!(bench.ask(commands::ANNOUNCE, topic, again([4; 32])), Answer::Silence);
        }
        assert_eq!(bench.ask(commands::ANNOUNCE, topic, again(secret)), STORED);
        bench.now = epoch() + Duration::from_secs(60 * 30);
        assert!(bench.peers(topic).is_some());
        assert_eq!(bench.ask(commands::ANNOUNCE, topic, again(secret)), Answer::Silence);
    }

    #[test]
    fn mutable_values_move_forward_only() {
        let mut bench = Bench::new();
        let target = pair(1).public_key().target();
        let put = |seq, value: &'static str| {
            let put = MutablePut {
                public_key: pair(1).public_key(),
                record: MutableRecord::sign(&pair(1), seq, value.into()),
            };
            Some(put.encode())
        };
        assert_eq!(bench.ask(commands::MUTABLE_PUT, target, put(2, "b")), PUT);
        assert_eq!(bench.ask(commands::MUTABLE_PUT, target, put(2, "b")), PUT);
        assert_eq!(
            bench.ask(commands::MUTABLE_PUT, target, put(2, "c")),
            Answer::Error(commands::ERROR_SEQ_REUSED)
        );
        assert_eq!(
            bench.ask(commands::MUTABLE_PUT, target, put(1, "a")),
            Answer::Error(commands::ERROR_SEQ_TOO_LOW)
        );
        assert_eq!(bench.ask(commands::MUTABLE_PUT, [1; 32], put(3, "c")), Answer::Silence);
        let asked = |seq: u8| Some(Bytes::copy_from_slice(&[seq]));
        let Answer::Reply(Some(record), _) = bench.ask(commands::MUTABLE_GET, target, asked(2))
        else {
            panic!("not found")
        };
        assert_eq!(MutableRecord::decode(&record).unwrap().value, "b");
        assert_eq!(bench.ask(commands::MUTABLE_GET, target, asked(3)), PUT);
    }

    #[test]
    fn mutable_values_are_taken_from_their_owner_only() {
        let mut bench = Bench::new();
        let target = pair(1).public_key().target();
        let put = |owner: &KeyPair, record: MutableRecord| {
            Some(MutablePut { public_key: owner.public_key(), record }.encode())
        };
        let genuine = MutableRecord::sign(&pair(1), 2, "b".into());
        // Somebody else's signature, another number or value under a good one, and somebody else's
        // record in the owner's place.
        let forgeries = [
            put(&pair(1), MutableRecord::sign(&pair(2), 2, "b".into())),
            put(&pair(1), MutableRecord { seq: 3, ..genuine.clone() }),
            put(&pair(1), MutableRecord { value: "c".into(), ..genuine.clone() }),
            put(&pair(2), MutableRecord::sign(&pair(2), 3, "c".into())),
            None,
        ];
        for forged in forgeries.clone() {
            assert_eq!(bench.ask(commands::MUTABLE_PUT, target, forged), Answer::Silence);
        }
        assert_eq!(bench.ask(commands::MUTABLE_PUT, target, put(&pair(1), genuine.clone())), PUT);
        for forged in forgeries {
            assert_eq!(bench.ask(commands::MUTABLE_PUT, target, forged), Answer::Silence);
        }
        let stored = bench.ask(commands::MUTABLE_GET, target, Some(Bytes::from_static(&[0])));
        assert_eq!(stored, Answer::Reply(Some(genuine.encode()), ReplyOptions::FULL));
    }

    #[test]
    fn immutable_values_are_kept_under_their_hash_only() {
        let mut bench = Bench::new();
        let value = Bytes::from_static(b"value");
        let target = hash(&[&value]);
        assert_eq!(
            bench.ask(commands::IMMUTABLE_PUT, [1; 32], Some(value.clone())),
            Answer::Silence
        );
        assert_eq!(bench.ask(commands::IMMUTABLE_GET, target, None), PUT);
        assert_eq!(bench.ask(commands::IMMUTABLE_PUT, target, Some(value.clone())), PUT);
        assert_eq!(
            bench.ask(commands::IMMUTABLE_GET, target, None),
            Answer::Reply(Some(value), ReplyOptions::FULL)
        );
    }
}
