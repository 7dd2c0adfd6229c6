//! Through which nodes a server was reached the last time.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddrV4,
};

use crate::keys::PublicKey;

/// Remembers the nodes that led to a server, so that the next dial need not search for them first.
///
/// Bounded: 512 servers (hyperdht's bound) with at most four nodes each, 80 KiB.
#[derive(Debug, Default)]
pub struct RelayCache {
    entries: BTreeMap<PublicKey, Vec<SocketAddrV4>>,
    /// From the entry that was stored first.
    order: VecDeque<PublicKey>,
}

impl RelayCache {
    /// Remembers `relays` for `server`, in place of what was known.
    pub fn insert(&mut self, server: PublicKey, mut relays: Vec<SocketAddrV4>) {
        relays.truncate(MAX_RELAYS);
        self.remove(&server);
        if relays.is_empty() {
            return;
        }
        while self.order.len() >= MAX_SERVERS {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
        self.order.push_back(server);
        self.entries.insert(server, relays);
    }

    /// The nodes that led to `server`.
    pub fn relays(&self, server: &PublicKey) -> &[SocketAddrV4] {
        self.entries.get(server).map_or(&[], Vec::as_slice)
    }

    /// Forgets what did not lead to `server`.
    pub fn remove(&mut self, server: &PublicKey) {
        if self.entries.remove(server).is_some() {
            self.order.retain(|other| other != server);
        }
    }
}

/// hyperdht's `maxSize` of relay addresses (`hyperdht/index.js`).
const MAX_SERVERS: usize = 512;

/// A server names three.
const MAX_RELAYS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u16) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        PublicKey::from_bytes(bytes)
    }

    #[test]
    fn the_oldest_gives_way_to_the_newest() {
        let relays: Vec<_> = (1..=9).map(|n| SocketAddrV4::new([10, 0, 0, n].into(), 1)).collect();
        let mut cache = RelayCache::default();
        for n in 0..=512 {
            cache.insert(key(n), relays.clone());
        }
        assert!(cache.relays(&key(0)).is_empty());
        assert_eq!(cache.relays(&key(1)), &relays[..MAX_RELAYS]);
        assert_eq!(cache.relays(&key(512)), &relays[..MAX_RELAYS]);
        assert_eq!((cache.entries.len(), cache.order.len()), (MAX_SERVERS, MAX_SERVERS));
    }

    #[test]
    fn what_led_nowhere_is_forgotten() {
        let mut cache = RelayCache::default();
        cache.insert(key(1), vec!["10.0.0.1:1".parse().unwrap()]);
        cache.insert(key(1), Vec::new());
        assert!(cache.relays(&key(1)).is_empty());
        assert!(cache.order.is_empty());
    }
}
