//! Which relay to name to a peer.

use std::time::{Duration, Instant};

use hyperdht_proto::keys::PublicKey;
use rand::RngExt as _;

/// The relays that a node was told of.
#[derive(Debug)]
pub(super) struct BlindRelays(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    key: PublicKey,
    /// When it last let us down.
    failed: Option<Instant>,
}

impl BlindRelays {
    pub(super) fn new(keys: &[PublicKey]) -> Self {
        Self(keys.iter().map(|key| Entry { key: *key, failed: None }).collect())
    }

    /// One of them by chance, so that they share the load; those that failed lately only if all did.
    pub(super) fn choose(&self, now: Instant, rng: &mut impl rand::Rng) -> Option<PublicKey> {
        let rests = |entry: &Entry| entry.failed.is_some_and(|at| now < at + REST);
        let mut usable: Vec<_> = self.0.iter().filter(|entry| !rests(entry)).collect();
        if usable.is_empty() {
            usable = self.0.iter().collect();
        }
        if usable.is_empty() {
            return None;
        }
        usable.get(rng.random_range(0..usable.len())).map(|entry| entry.key)
    }

    /// A relay could not be used; nothing for one that a peer has named.
    pub(super) fn failed(&mut self, now: Instant, key: &PublicKey) {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.key == *key) {
            entry.failed = Some(now);
        }
    }
}

/// How long a relay that could not be used is not named again, as long as there are others.
const REST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn a_relay_that_failed_is_left_alone_for_a_minute_while_there_are_others() {
        let key = |n| PublicKey::from_bytes([n; 32]);
        let (now, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let mut relays = BlindRelays::new(&[key(1), key(2)]);
        relays.failed(now, &key(1));
        relays.failed(now, &key(9));
        let mut chosen = |relays: &BlindRelays, at| {
            (0..40).filter(|_| relays.choose(at, &mut rng) == Some(key(1))).count()
        };
        assert_eq!(chosen(&relays, now), 0);
        assert!((5..35).contains(&chosen(&relays, now + REST)), "the load is shared");
        relays.failed(now, &key(2));
        assert!(chosen(&relays, now) > 0, "one that failed is better than none");
        assert_eq!(BlindRelays::new(&[]).choose(now, &mut rng), None);
    }
}
