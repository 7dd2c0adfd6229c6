//! What others see of us.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Guesses our public address from the addresses that other nodes say they see (npm package
/// `nat-sampler`).
///
/// It keeps the last 16 of them. An address wins when it holds almost all samples; when only
/// its host does, the NAT gives out another port for each destination and the port is 0.
#[derive(Debug, Default)]
pub struct NatSampler {
    addresses: Kind<SocketAddrV4>,
    hosts: Kind<Ipv4Addr>,
    verdict: Option<SocketAddrV4>,
}

impl NatSampler {
    /// Takes in one more sighting.
    pub fn add(&mut self, seen: SocketAddrV4) {
        let address = self.addresses.add(seen);
        let host = self.hosts.add(*seen.ip());
        let threshold = threshold(self.addresses.ring.len());
        self.verdict = match (address, host) {
            ((address, hits), _) if hits >= threshold => Some(address),
            (_, (host, hits)) if hits >= threshold => Some(SocketAddrV4::new(host, 0)),
            _ => None,
        };
    }

    /// Our public address. Port 0 means that the host is sure and the port changes; none means that
    /// nothing is sure.
    pub const fn address(&self) -> Option<SocketAddrV4> {
        self.verdict
    }
}

/// One ring of samples. Equal samples share an entry that counts how often it stands in the ring,
/// but only when the earlier one is among the last [`LOOK_BACK`]: a value that comes back later
/// starts again.
#[derive(Debug)]
struct Kind<T> {
    entries: Vec<Entry<T>>,
    /// Indices into `entries`.
    ring: Vec<usize>,
    next: usize,
    top: Option<usize>,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    hits: usize,
}

impl<T: Copy + Eq> Kind<T> {
    /// Takes in a sample and gives the value that is in front, with its hits.
    fn add(&mut self, value: T) -> (T, usize) {
        let entry = self.recent(value).unwrap_or_else(|| self.fresh(value));
        if let Some(entry) = self.entries.get_mut(entry) {
            entry.hits += 1;
        }
        match self.ring.get_mut(self.next) {
            Some(slot) => {
                let gone = std::mem::replace(slot, entry);
                if let Some(gone) = self.entries.get_mut(gone) {
                    gone.hits -= 1;
                }
            }
            None => self.ring.push(entry),
        }
        self.next = (self.next + 1) % SAMPLES;
        if self.top.is_none_or(|top| self.hits(top) < self.hits(entry)) {
            self.top = Some(entry);
        }
        self.top
            .and_then(|top| self.entries.get(top))
            .map_or((value, 0), |top| (top.value, top.hits))
    }

    fn recent(&self, value: T) -> Option<usize> {
        (1..=LOOK_BACK)
            .map_while(|back| self.ring.get((self.next + SAMPLES - back) % SAMPLES))
            .copied()
            .find(|entry| self.entries.get(*entry).is_some_and(|e| e.value == value))
    }

    /// An entry without hits that nothing points to, or a new one: at most one more than the ring
    /// is long, for the one in front.
    fn fresh(&mut self, value: T) -> usize {
        let free = (0..self.entries.len())
            .find(|entry| self.hits(*entry) == 0 && self.top != Some(*entry));
        let entry = free.unwrap_or(self.entries.len());
        let empty = Entry { value, hits: 0 };
        match self.entries.get_mut(entry) {
            Some(slot) => *slot = empty,
            None => self.entries.push(empty),
        }
        entry
    }

    fn hits(&self, entry: usize) -> usize {
        self.entries.get(entry).map_or(0, |entry| entry.hits)
    }
}

impl<T> Default for Kind<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), ring: Vec::new(), next: 0, top: None }
    }
}

/// Samples that count: newer ones push out older ones.
const SAMPLES: usize = 16;

/// How far back an equal sample is looked for.
const LOOK_BACK: usize = 4;

/// Hits that decide, of `samples`: all of few, all but three of many.
const fn threshold(samples: usize) -> usize {
    samples
        - match samples {
            0..4 => 0,
            4..8 => 1,
            8..12 => 2,
            _ => 3,
        }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn samples_never_outgrow_the_ring(samples: Vec<(u8, u8)>) {
            let mut sampler = NatSampler::default();
            for (host, port) in samples {
                sampler.add(SocketAddrV4::new([1, 1, 1, host].into(), port.into()));
            }
            prop_assert!(sampler.addresses.ring.len() <= SAMPLES);
            prop_assert!(sampler.addresses.entries.len() <= SAMPLES + 2);
        }
    }
}
