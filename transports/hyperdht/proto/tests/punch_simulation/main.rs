//! Holes through NATs of every kind, over links that delay, reorder and lose.
//!
//! Delays, losses, and what the two NATs do follow from the seed. 300 seeds by default;
//! `HYPERDHT_SIM_SEEDS=10000` for a long run.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for some events and no others")]

mod hostile;
mod peer;
mod world;

use std::{cell::Cell, time::Duration};

use hyperdht_proto::{
    connect::PunchError,
    rpc::SocketId,
    sim::{Dependence, Link, Nat, Rng, seeds},
};

use crate::{
    peer::{Failure, Outcome},
    world::{Place, World},
};

#[test]
fn every_pair_of_nats_that_can_be_crossed_is_crossed_in_time() {
    let (guessed, missed) = (Cell::new(0), Cell::new(0));
    seeds(SEEDS, |seed| {
        let mut rng = Rng::with_seed(!seed);
        let link = link(&mut rng);
        let (server, client) = (place(&mut rng), place(&mut rng));
        let mut world = World::new(seed, link.clone());
        let [there, here] = [&server, &client].map(|place| world.add(place));
        let key = world.serve(there);
        let outcome = world.dial(here, key, &[]);
        let case = format!("{server:?}, {client:?}, {link:?}: {outcome:?}");
        match crossing(&server, &client) {
            Crossing::Direct => assert!(opens_within(&outcome, SCRAPE), "{case}"),
            Crossing::None => {
                assert!(fails_within(&outcome, PunchError::BothRandom, SCRAPE), "{case}");
            }
            Crossing::Guessed => {
                guessed.set(guessed.get() + 1);
                if !opens_within(&outcome, GUESSING) {
                    // All ports that were tried were wrong.
                    assert!(fails_within(&outcome, PunchError::Exhausted, GUESSING), "{case}");
                    missed.set(missed.get() + 1);
                }
            }
        }
        world.assert_tidy([there, here]);
    });
    let (guessed, missed) = (guessed.get(), missed.get());
    assert!(missed * 100 <= guessed + 100, "{missed} of {guessed} were missed");
}

#[test]
fn a_second_dial_goes_through_the_hole_of_the_first() {
    seeds(SEEDS / 3, |seed| {
        let mut rng = Rng::with_seed(!seed);
        let link = Link { loss: 0.0, ..link(&mut rng) };
        let mut nats = [Nat { keeps_ports: rng.bool(), ..Nat::CONE }, Nat::SYMMETRIC];
        rng.shuffle(&mut nats);
        let mut world = World::new(seed, link.clone());
        let [there, here] = nats.map(|nat| world.add(&Place::Behind(nat)));
        let key = world.serve(there);
        let first = world.dial(here, key, &[]);
        let Outcome::Open { socket, .. } = first else {
            assert!(fails_within(&first, PunchError::Exhausted, GUESSING), "{link:?}: {first:?}");
            return;
        };
        let second = world.dial(here, key, &[]);
        // The handshake and the stream's first packets, there and back.
        let limit = 4 * (3 * link.delay + link.jitter);
        assert!(opens_within(&second, limit), "{link:?}: {second:?}");
        assert!(matches!(second, Outcome::Open { socket: other, .. } if other == socket));
        world.assert_tidy([there, here]);
    });
}

#[test]
fn a_peer_that_is_met_at_once_has_the_next_one_not_wait() {
    // Reached by whoever writes to them, which they do not know.
    let open = Place::Behind(Nat { filtering: Dependence::Endpoint, ..Nat::CONE });
    seeds(SEEDS / 3, |seed| {
        let mut rng = Rng::with_seed(!seed);
        let (delay, hops) = (millis(&mut rng, 1..=120), rng.u8(2..30));
        let link = Link { delay, hops, ..Link::default() };
        let mut world = World::new(seed, link.clone());
        let there = world.add(&Place::Behind(Nat::SYMMETRIC));
        let key = world.serve(there);
        let clients = [(); 2].map(|()| world.add(&open));
        for (number, here) in clients.into_iter().enumerate() {
            let outcome = world.dial(here, key, &[]);
            // A search, the handshake, two messages about the punch, and it.
            let limit = 20 * link.delay + Duration::from_millis(100);
            assert!(opens_within(&outcome, limit), "{number}, {link:?}: {outcome:?}");
        }
    });
}

#[test]
fn clients_that_come_at_once_are_met_one_after_another() {
    let (opened, dialled) = (Cell::new(0), Cell::new(0));
    seeds(SEEDS / 6, |seed| {
        let mut rng = Rng::with_seed(!seed);
        let link = Link { delay: millis(&mut rng, 1..=120), ..Link::default() };
        let mut world = World::new(seed, link.clone());
        let there = world.add(&Place::Behind(Nat::SYMMETRIC));
        let key = world.serve(there);
        let clients = [(); 6].map(|()| world.add(&Place::Behind(Nat::CONE)));
        for here in clients {
            world.net.with(here, |peer, now| peer.dial(now, key, Vec::new()));
        }
        for here in clients {
            let outcome = world.outcome(here);
            let opens = opens_within(&outcome, IN_LINE);
            // Who has to wait is told so, and gives up when it takes too long.
            let given_up = [PunchError::Busy, PunchError::Exhausted]
                .map(|why| fails_within(&outcome, why, IN_LINE));
            assert!(opens || given_up.contains(&true), "{link:?}: {outcome:?}");
            dialled.set(dialled.get() + 1);
            opened.set(opened.get() + u32::from(opens));
        }
        world.assert_tidy([clients[0], clients[1]]);
    });
    let (opened, dialled) = (opened.get(), dialled.get());
    assert!(opened * 20 >= dialled * 19, "{opened} of {dialled} were met");
}

#[test]
fn a_byte_that_leads_nowhere_is_not_taken_for_a_hole() {
    seeds(SEEDS / 3, |seed| {
        let mut rng = Rng::with_seed(!seed);
        // What is repeated on the way looks like an echo.
        let link = Link { duplication: 0.0, loss: 0.0, ..link(&mut rng) };
        // Lets the server's first byte in by the mapping towards a node, and answers by another.
        let client = Nat { filtering: Dependence::Endpoint, ..Nat::SYMMETRIC };
        let mut world = World::new(seed, link.clone());
        let [there, here] = [Nat::CONE, client].map(|nat| world.add(&Place::Behind(nat)));
        let key = world.serve(there);
        let outcome = world.dial(here, key, &[]);
        let exhausted = fails_within(&outcome, PunchError::Exhausted, GUESSING);
        assert!(opens_within(&outcome, GUESSING) || exhausted, "{link:?}: {outcome:?}");
        world.assert_tidy([there, here]);
    });
}

#[test]
fn neighbours_find_each_other_behind_a_nat_that_does_not_hairpin() {
    seeds(SEEDS / 3, |seed| {
        let mut rng = Rng::with_seed(!seed);
        let link = link(&mut rng);
        let mut world = World::new(seed, link.clone());
        let nat = Nat { hairpins: false, ..nat(&mut rng) };
        let public = world.public_address();
        let nat_id = world.net.add_nat(public, nat.clone());
        let [there, here] = [(); 2].map(|()| world.add_behind(nat_id));
        let key = world.serve(there);
        let outcome = world.dial(here, key, &[]);
        assert!(opens_within(&outcome, SCRAPE), "{nat:?}, {link:?}: {outcome:?}");
        assert!(matches!(outcome, Outcome::Open { socket: SocketId::Server, .. }), "{outcome:?}");
        world.assert_tidy([there, here]);
    });
}

/// How two peers can come together.
enum Crossing {
    /// Each one's address is known beforehand.
    Direct,
    /// One side's port has to be guessed.
    Guessed,
    /// Both ports would have to be.
    None,
}

fn crossing(server: &Place, client: &Place) -> Crossing {
    let is_random = |place: &Place| match place {
        Place::Public => false,
        Place::Behind(nat) => nat.mapping != Dependence::Endpoint,
    };
    match (is_random(server), is_random(client)) {
        (false, false) => Crossing::Direct,
        (true, true) => Crossing::None,
        (true, false) | (false, true) => Crossing::Guessed,
    }
}

fn opens_within(outcome: &Outcome, limit: Duration) -> bool {
    matches!(outcome, Outcome::Open { took, .. } if *took <= limit)
}

fn fails_within(outcome: &Outcome, why: PunchError, limit: Duration) -> bool {
    let why = Failure::Punch(why);
    matches!(outcome, Outcome::Failed { why: other, took } if *other == why && *took <= limit)
}

/// A link that works, well or badly.
fn link(rng: &mut Rng) -> Link {
    let mut link = Link { delay: millis(rng, 1..=120), hops: rng.u8(2..30), ..Link::default() };
    if rng.bool() {
        link.jitter = millis(rng, 0..=60);
    }
    if rng.u8(0..3) == 0 {
        link.reordering = rng.f64() * 0.3;
    }
    if rng.u8(0..3) == 0 {
        link.duplication = rng.f64() * 0.2;
    }
    if rng.u8(0..3) == 0 {
        link.loss = rng.f64() * 0.05;
    }
    link
}

fn place(rng: &mut Rng) -> Place {
    if rng.u8(0..6) == 0 {
        return Place::Public;
    }
    Place::Behind(nat(rng))
}

fn nat(rng: &mut Rng) -> Nat {
    let dependence = |rng: &mut Rng| match rng.u8(0..3) {
        0 => Dependence::Endpoint,
        1 => Dependence::Address,
        _ => Dependence::AddressAndPort,
    };
    let mapping = if rng.bool() { Dependence::Endpoint } else { dependence(rng) };
    let filtering = dependence(rng);
    let loose = mapping != Dependence::Endpoint && filtering == Dependence::Endpoint;
    Nat {
        mapping,
        // One that is strict about mappings is about packets, too.
        filtering: if loose { Dependence::Address } else { filtering },
        keeps_ports: rng.bool(),
        hairpins: rng.bool(),
        lifetime: Duration::from_secs(rng.u64(30..300)),
    }
}

fn millis(rng: &mut Rng, range: std::ops::RangeInclusive<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// What a scrape has, with Prometheus' own default timeout.
const SCRAPE: Duration = Duration::from_secs(10);

/// Ports are tried for 27 s, or 35 s out of the NAT that gives out random ones, after what leads there.
const GUESSING: Duration = Duration::from_secs(45);

/// The same for the last client that waits for others: it does so for 40 seconds.
const IN_LINE: Duration = Duration::from_secs(85);

/// So many in every run of the tests.
const SEEDS: u64 = 300;
