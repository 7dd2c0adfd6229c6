//! Servers that were not heard though a relay was named, before they were dialled once more.
//!
//! A server of Node's connects to a client that says that it can be reached, and goes to no relay then
//! (`hyperdht/lib/server.js`). Where no UDP passes between the two, it goes there if the client does not
//! say so. Not to say so to all would have every server behind a NAT punch holes that are not needed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hyperdht_proto::keys::PublicKey;

/// The servers to which we do not say that we can be reached, and until when: [`MAX_SERVERS`] at most,
/// of some 50 bytes each.
#[derive(Debug, Default)]
pub(super) struct Unheard(BTreeMap<PublicKey, Instant>);

impl Unheard {
    /// A server came neither to us nor to the relay until it was not told that we can be reached.
    pub(super) fn insert(&mut self, now: Instant, server: PublicKey) {
        self.0.retain(|_, until| *until > now);
        if self.0.len() < MAX_SERVERS || self.0.contains_key(&server) {
            self.0.insert(server, now + MEMORY);
        }
    }

    /// Whether that was so lately.
    pub(super) fn contains(&self, now: Instant, server: &PublicKey) -> bool {
        self.0.get(server).is_some_and(|until| *until > now)
    }
}

/// How long it is remembered. After that, a dial may take long once more.
const MEMORY: Duration = Duration::from_secs(3600);

const MAX_SERVERS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u16) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        PublicKey::from_bytes(bytes)
    }

    #[test]
    fn a_server_is_remembered_for_an_hour_and_no_more_than_512_are() {
        let (now, mut unheard) = (Instant::now(), Unheard::default());
        for n in 0..=512 {
            unheard.insert(now, key(n));
        }
        assert!(unheard.contains(now, &key(511)) && !unheard.contains(now, &key(512)));
        assert!(!unheard.contains(now + MEMORY, &key(1)));
        unheard.insert(now + MEMORY, key(512));
        assert!(unheard.contains(now + MEMORY, &key(512)));
        assert_eq!(unheard.0.len(), 1, "what is over takes no room");
    }
}
