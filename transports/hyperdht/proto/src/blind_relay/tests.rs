use std::time::{Duration, Instant};

use super::*;
use crate::{
    keys::PublicKey,
    test_vectors::{HYPERDHT, bytes, fixed, vectors},
};

#[test]
fn messages_are_those_of_the_reference() {
    for vector in vectors(HYPERDHT, "blind-relay pair") {
        let input = &vector["input"];
        let pair = Message::Pair(Pair {
            initiator: input["isInitiator"].as_bool().unwrap(),
            token: fixed(&input["token"]),
            stream_id: input["id"].as_u64().unwrap().try_into().unwrap(),
        });
        assert_eq!((pair.kind(), pair.encode()), (0, bytes(&vector["hex"])));
        assert_eq!(Message::decode(0, &pair.encode()), Ok(Some(pair)));
    }
    for vector in vectors(HYPERDHT, "blind-relay unpair") {
        let unpair = Message::Unpair(fixed(&vector["input"]["token"]));
        assert_eq!((unpair.kind(), unpair.encode()), (1, bytes(&vector["hex"])));
        assert_eq!(Message::decode(1, &unpair.encode()), Ok(Some(unpair)));
    }
}

#[test]
fn what_is_cut_short_or_too_large_is_refused_and_other_types_are_ignored() {
    let pair = Message::Pair(Pair { initiator: true, token: [1; 32], stream_id: 7 }).encode();
    for len in 0..pair.len() {
        assert!(Message::decode(0, &pair[..len]).is_err(), "{len}");
    }
    let mut large = pair[..33].to_vec();
    large.put_varint(1 << 32);
    large.put_varint(0);
    assert_eq!(Message::decode(0, &large), Err(DecodeError::TooBig));
    assert!(Message::decode(1, &[0; 32]).is_err());
    assert_eq!(Message::decode(2, b""), Ok(None));
}

const KEY_A: PublicKey = PublicKey::from_bytes([0xa; 32]);
const KEY_B: PublicKey = PublicKey::from_bytes([0xb; 32]);
const SECOND: Duration = Duration::from_secs(1);

/// A table, the time, and a way to talk to it.
struct Bench {
    table: Pairings,
    now: Instant,
    clients: u64,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "only differences to this moment count")]
    fn new(limits: Limits) -> Self {
        Self { table: Pairings::new(limits), now: Instant::now(), clients: 0 }
    }

    fn small() -> Self {
        Self::new(Limits { sessions: 3, sessions_per_client: 2, pending: 3, ..Limits::default() })
    }

    fn join(&mut self, key: PublicKey) -> Result<ClientId, Refusal> {
        self.clients += 1;
        let client = ClientId(self.clients);
        self.table.join(self.now, client, key).map(|()| client)
    }

    fn pair(&mut self, client: ClientId, token: u8, initiator: bool) -> Result<Outcome, Refusal> {
        let stream_id = u32::from(token) * 2 + u32::from(initiator);
        self.table.pair(self.now, client, Pair { initiator, token: [token; 32], stream_id })
    }

    /// Both sides come.
    fn session(&mut self, token: u8) -> (ClientId, ClientId, SessionId) {
        let (a, b) = (self.join(KEY_A).unwrap(), self.join(KEY_B).unwrap());
        assert_eq!(self.pair(a, token, true), Ok(Outcome::Waits));
        match self.pair(b, token, false) {
            Ok(Outcome::Matched(matched)) => (a, b, matched.session),
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, time: Duration) -> Vec<Event> {
        self.now += time;
        self.table.handle_timeout(self.now);
        std::iter::from_fn(|| self.table.poll_event()).collect()
    }
}

#[test]
fn two_sides_with_one_token_are_matched_in_either_order() {
    for first in [true, false] {
        let mut bench = Bench::small();
        let (a, b) = (bench.join(KEY_A).unwrap(), bench.join(KEY_B).unwrap());
        assert_eq!(bench.pair(a, 9, first), Ok(Outcome::Waits));
        let Ok(Outcome::Matched(matched)) = bench.pair(b, 9, !first) else { panic!() };
        let (initiator, responder) = if first { (a, b) } else { (b, a) };
        assert_eq!(matched.initiator, Side { client: initiator, stream_id: 19 });
        assert_eq!(matched.responder, Side { client: responder, stream_id: 18 });
        assert_eq!((bench.table.pending(), bench.table.sessions()), (0, 1));
    }
}

#[test]
fn the_same_side_twice_is_ignored() {
    let mut bench = Bench::small();
    let (a, b) = (bench.join(KEY_A).unwrap(), bench.join(KEY_B).unwrap());
    assert_eq!(bench.pair(a, 1, true), Ok(Outcome::Waits));
    assert_eq!(bench.pair(b, 1, true), Ok(Outcome::Duplicate));
    let Ok(Outcome::Matched(matched)) = bench.pair(b, 1, false) else { panic!() };
    assert_eq!(matched.initiator.client, a);
}

#[test]
fn a_pairing_waits_for_so_long_and_its_client_may_ask_again() {
    let mut bench = Bench::small();
    let a = bench.join(KEY_A).unwrap();
    bench.pass(5 * SECOND);
    bench.pair(a, 1, true).unwrap();
    assert_eq!(bench.pass(19 * SECOND), []);
    assert_eq!(bench.pass(SECOND), [Event::Expired { client: a, token: [1; 32] }]);
    assert_eq!(bench.pair(a, 1, true), Ok(Outcome::Waits));
}

#[test]
fn a_client_that_asks_for_nothing_is_sent_away() {
    let mut bench = Bench::small();
    let a = bench.join(KEY_A).unwrap();
    assert_eq!(bench.pass(20 * SECOND), [Event::Idle { client: a }]);
    bench.table.leave(bench.now, a);
    assert_eq!((bench.table.clients(), bench.table.poll_timeout()), (0, None));
}

#[test]
fn what_a_client_takes_back_is_gone_at_once() {
    let mut bench = Bench::small();
    let (a, b) = (bench.join(KEY_A).unwrap(), bench.join(KEY_B).unwrap());
    bench.pair(a, 1, true).unwrap();
    assert!(!bench.table.unpair(bench.now, b, &[1; 32]), "it is not b's");
    assert!(bench.table.unpair(bench.now, a, &[1; 32]));
    assert_eq!(bench.pair(b, 1, false), Ok(Outcome::Waits));
    assert_eq!(bench.table.leave(bench.now, b), 1);
    assert_eq!(bench.table.pending(), 0);
}

#[test]
fn a_session_outlives_its_clients_by_what_may_still_be_repeated() {
    let mut bench = Bench::small();
    let (a, b, session) = bench.session(1);
    bench.table.leave(bench.now, a);
    assert_eq!(bench.pass(9 * SECOND), []);
    bench.table.leave(bench.now, b);
    assert_eq!(bench.pass(SECOND), [Event::Ended { session, reason: EndReason::Left }]);
    assert_eq!(bench.table.poll_timeout(), None, "nothing is left behind");
    assert_eq!((bench.table.sessions(), bench.table.clients()), (0, 0));

    let (a, _, session) = bench.session(2);
    assert!(bench.table.unpair(bench.now, a, &[2; 32]));
    assert_eq!(bench.pass(LINGER), [Event::Ended { session, reason: EndReason::Left }]);
}

#[test]
fn a_session_ends_when_it_is_idle_old_or_has_carried_its_share() {
    let limits = Limits { session_bytes: 1000, ..Limits::default() };
    let mut bench = Bench::new(limits);
    let (_, _, session) = bench.session(1);
    assert_eq!(bench.pass(50 * SECOND), []);
    bench.table.carried(bench.now, session, 10);
    assert_eq!(bench.pass(50 * SECOND), []);
    bench.table.carried(bench.now, session, 10);
    let ended = |reason| Event::Ended { session, reason };
    assert!(bench.pass(10 * SECOND).contains(&ended(EndReason::Idle)));

    let (_, _, session) = bench.session(2);
    bench.table.carried(bench.now, session, 1000);
    let ended = Event::Ended { session, reason: EndReason::Bytes };
    assert!(bench.pass(Duration::ZERO).contains(&ended));

    let lifetime = 60 * SECOND;
    let limits = Limits { session_lifetime: lifetime, ..Limits::default() };
    let mut bench = Bench::new(limits);
    let (_, _, session) = bench.session(3);
    for second in 0..59 {
        assert_eq!(bench.pass(SECOND), []);
        bench.table.carried(bench.now, session, second + 1);
    }
    assert_eq!(bench.pass(SECOND), [Event::Ended { session, reason: EndReason::Lifetime }]);
}

#[test]
fn every_bound_holds_and_frees_again() {
    let mut bench = Bench::small();
    let a = bench.join(KEY_A).unwrap();
    bench.join(KEY_A).unwrap();
    assert_eq!(bench.join(KEY_A), Err(Refusal::ClientFull));
    bench.pair(a, 1, true).unwrap();
    bench.pair(a, 2, true).unwrap();
    assert_eq!(bench.pair(a, 3, true), Err(Refusal::ClientFull));
    let b = bench.join(KEY_B).unwrap();
    bench.pair(b, 3, true).unwrap();
    let c = bench.join(PublicKey::from_bytes([0xc; 32])).unwrap();
    assert_eq!(bench.pair(c, 4, true), Err(Refusal::PendingFull));
    let Ok(Outcome::Matched(_)) = bench.pair(c, 1, false) else { panic!() };
    let Ok(Outcome::Matched(_)) = bench.pair(c, 2, false) else { panic!() };
    let d = bench.join(PublicKey::from_bytes([0xd; 32])).unwrap();
    let Ok(Outcome::Matched(_)) = bench.pair(d, 3, false) else { panic!() };
    bench.pair(d, 5, true).unwrap();
    let e = bench.join(PublicKey::from_bytes([0xe; 32])).unwrap();
    assert_eq!(bench.pair(e, 5, false), Err(Refusal::Full));
    bench.table.leave(bench.now, a);
    assert_eq!(bench.pass(LINGER).len(), 2);
    let Ok(Outcome::Matched(_)) = bench.pair(e, 5, false) else { panic!() };
    assert_eq!(bench.pair(c, 6, true), Ok(Outcome::Waits), "its sessions have ended");
    assert_eq!(bench.join(KEY_A).map(drop), Ok(()));
}

#[test]
fn clients_at_once_are_bounded_whatever_their_keys() {
    let mut bench = Bench::small();
    for n in 0..9 {
        bench.join(PublicKey::from_bytes([n; 32])).unwrap();
    }
    assert_eq!(bench.join(PublicKey::from_bytes([9; 32])), Err(Refusal::Full));
}

#[test]
fn a_client_that_asks_and_takes_back_for_ever_leaves_nothing_behind() {
    let mut bench = Bench::small();
    let a = bench.join(KEY_A).unwrap();
    for n in 0..100 {
        bench.pair(a, n, true).unwrap();
        assert!(bench.table.unpair(bench.now, a, &[n; 32]));
        bench.now += Duration::from_millis(1);
    }
    bench.table.leave(bench.now, a);
    assert_eq!(bench.table.poll_timeout(), None);
}
