//! Memory for strangers: bounded, and forgotten in time.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{Rng, RngExt, seq::index};

use crate::{keys::PublicKey, rpc::Target};

/// How much a cache holds and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Entries altogether.
    pub(super) entries: usize,
    /// Bytes of values altogether.
    pub(super) bytes: usize,
    /// About how long an entry lives; the reference's caches keep it for 2/3 to 4/3 of this.
    pub(super) age: Duration,
}

/// When a cache gives up its older half (npm packages `xache` and `record-cache`): each 2/3 of the
/// age, except when it has been too full since.
#[derive(Debug)]
struct Turnover {
    every: Duration,
    next: Instant,
    early: bool,
}

impl Turnover {
    fn new(now: Instant, age: Duration) -> Self {
        let every = age * 2 / 3;
        Self { every, next: now + every, early: false }
    }

    /// How many turns are due; after two nothing is left.
    fn due(&mut self, now: Instant) -> usize {
        let mut turns = 0;
        while self.next <= now && turns < 2 {
            self.next += self.every;
            turns += usize::from(!std::mem::take(&mut self.early));
        }
        if self.next <= now {
            self.next = now + self.every;
        }
        turns
    }
}

/// A younger and an older half. When the younger is full or its time is over it becomes the older
/// one, and the older one is dropped.
#[derive(Debug)]
struct Halves<T> {
    turnover: Turnover,
    young: HashMap<Target, T>,
    old: HashMap<Target, T>,
    /// How much is in the younger half, as its owner counts it.
    young_size: usize,
}

impl<T> Halves<T> {
    fn new(now: Instant, age: Duration) -> Self {
        let turnover = Turnover::new(now, age);
        Self { turnover, young: HashMap::new(), old: HashMap::new(), young_size: 0 }
    }

    fn tidy(&mut self, now: Instant) {
        for _ in 0..self.turnover.due(now) {
            self.turn();
        }
    }

    /// The younger half is full.
    fn turn_early(&mut self) {
        self.turnover.early = true;
        self.turn();
    }

    fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.young_size = 0;
    }
}

/// Values by key. Reading a value makes it young again.
#[derive(Debug)]
pub(super) struct Cache<V> {
    limits: Limits,
    halves: Halves<V>,
}

/// What a value counts against [`Limits::bytes`].
pub(super) trait Weigh {
    fn bytes(&self) -> usize;
}

impl Weigh for Bytes {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Weigh for u64 {
    fn bytes(&self) -> usize {
        8
    }
}

impl<V: Weigh> Cache<V> {
    pub(super) fn new(now: Instant, limits: Limits) -> Self {
        Self { limits, halves: Halves::new(now, limits.age) }
    }

    pub(super) fn value(&mut self, now: Instant, key: &Target) -> Option<&V> {
        self.halves.tidy(now);
        if let Some(value) = self.halves.old.remove(key) {
            self.put(*key, value);
        }
        self.halves.young.get(key).or_else(|| self.halves.old.get(key))
    }

    pub(super) fn insert(&mut self, now: Instant, key: Target, value: V) {
        self.halves.tidy(now);
        self.halves.old.remove(&key);
        self.put(key, value);
    }

    pub(super) fn remove(&mut self, key: &Target) {
        self.halves.old.remove(key);
        if let Some(value) = self.halves.young.remove(key) {
            self.halves.young_size -= value.bytes();
        }
    }

    fn put(&mut self, key: Target, value: V) {
        self.halves.young_size += value.bytes();
        if let Some(before) = self.halves.young.insert(key, value) {
            self.halves.young_size -= before.bytes();
        }
        if self.halves.young.len() >= self.limits.entries / 2
            || self.halves.young_size >= self.limits.bytes / 2
        {
            self.halves.turn_early();
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.halves.young.len() + self.halves.old.len()
    }
}

/// Records by target, several for each. Only storing a record again makes it young.
#[derive(Debug)]
pub(super) struct Records {
    limits: Limits,
    halves: Halves<Vec<(PublicKey, Bytes)>>,
}

impl Records {
    pub(super) fn new(now: Instant, limits: Limits) -> Self {
        Self { limits, halves: Halves::new(now, limits.age) }
    }

    /// Stores a record in place of the owner's earlier one. At a target with
    /// [`MAX_RECORDS_PER_TARGET`] it takes the place of any.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        target: Target,
        owner: PublicKey,
        record: Bytes,
    ) {
        self.halves.tidy(now);
        self.remove(&target, &owner);
        let records = self.halves.young.entry(target).or_default();
        if records.len() >= MAX_RECORDS_PER_TARGET {
            records.swap_remove(rng.random_range(0..records.len()));
            self.halves.young_size -= 1;
        }
        records.push((owner, record));
        self.halves.young_size += 1;
        if self.halves.young_size >= self.limits.entries / 2 {
            self.halves.turn_early();
        }
    }

    pub(super) fn remove(&mut self, target: &Target, owner: &PublicKey) {
        self.halves.young_size -= remove_from(&mut self.halves.young, target, owner);
        remove_from(&mut self.halves.old, target, owner);
    }

    /// Up to `max` of a target's records, any of them.
    pub(super) fn some(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        target: &Target,
        max: usize,
    ) -> Vec<Bytes> {
        self.halves.tidy(now);
        let half = |half: &HashMap<Target, Vec<(PublicKey, Bytes)>>| {
            half.get(target)
                .map_or_else(Vec::new, |all| all.iter().map(|(_, r)| r.clone()).collect())
        };
        let all = [half(&self.halves.young), half(&self.halves.old)].concat();
        let picked = index::sample(rng, all.len(), max.min(all.len()));
        picked.into_iter().filter_map(|n| all.get(n).cloned()).collect()
    }
}

fn remove_from(
    half: &mut HashMap<Target, Vec<(PublicKey, Bytes)>>,
    target: &Target,
    owner: &PublicKey,
) -> usize {
    let Some(records) = half.get_mut(target) else {
        return 0;
    };
    let Some(at) = records.iter().position(|(key, _)| key == owner) else {
        return 0;
    };
    records.swap_remove(at);
    if records.is_empty() {
        half.remove(target);
    }
    1
}

/// Records of one target in each half: one popular topic does not crowd out all others. An answer
/// names 20.
pub(super) const MAX_RECORDS_PER_TARGET: usize = 1024;

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::rpc::testnet::epoch;

    const LIMITS: Limits = Limits { entries: 100, bytes: 1000, age: Duration::from_secs(90) };
    const MINUTE: Duration = Duration::from_secs(60);

    fn key(n: usize) -> Target {
        crate::hash::hash(&[&n.to_le_bytes()])
    }

    #[test]
    fn an_entry_lives_for_one_turn_and_on_when_it_is_read() {
        let now = epoch();
        let mut cache = Cache::new(now, LIMITS);
        cache.insert(now, key(1), 1);
        cache.insert(now, key(2), 2);
        assert_eq!(cache.value(now + MINUTE, &key(1)), Some(&1));
        assert_eq!(cache.value(now + 2 * MINUTE, &key(1)), Some(&1));
        assert_eq!(cache.value(now + 2 * MINUTE, &key(2)), None);
        assert_eq!(cache.value(now + 100 * MINUTE, &key(1)), None);
    }

    #[test]
    fn neither_entries_nor_bytes_grow_beyond_their_bound() {
        let now = epoch();
        let mut cache = Cache::new(now, LIMITS);
        for n in 0..1000 {
            cache.insert(now, key(n), Bytes::from_static(&[0; 5]));
            assert!(cache.len() <= LIMITS.entries);
        }
        for n in 0..1000 {
            cache.insert(now, key(n), Bytes::from_static(&[0; 100]));
            let bytes = cache.len() * 100;
            assert!(bytes <= LIMITS.bytes || n < 10, "{bytes}");
        }
        assert!(cache.value(now, &key(999)).is_some());
        cache.remove(&key(999));
        assert!(cache.value(now, &key(999)).is_none());
    }

    #[test]
    fn records_are_bounded_and_one_per_owner() {
        let (now, mut rng) = (epoch(), StdRng::seed_from_u64(1));
        let mut records = Records::new(now, LIMITS);
        let owner = |n| PublicKey::from_bytes(key(n));
        for n in 0..1000 {
            records.insert(now, &mut rng, key(n % 10), owner(n), Bytes::from_static(b"1"));
        }
        let all: usize = (0..10).map(|n| records.some(now, &mut rng, &key(n), 1000).len()).sum();
        assert!((LIMITS.entries / 2..=LIMITS.entries).contains(&all), "{all}");
        assert_eq!(records.some(now, &mut rng, &key(1), 3).len(), 3);
        let mut records = Records::new(now, LIMITS);
        records.insert(now, &mut rng, key(1), owner(1), Bytes::from_static(b"1"));
        records.insert(now + MINUTE, &mut rng, key(1), owner(1), Bytes::from_static(b"2"));
        assert_eq!(records.some(now + MINUTE, &mut rng, &key(1), 9), [Bytes::from_static(b"2")]);
        records.remove(&key(1), &owner(1));
        assert_eq!(records.some(now + MINUTE, &mut rng, &key(1), 9).len(), 0);
        assert_eq!(records.halves.young_size, 0);
    }
}
