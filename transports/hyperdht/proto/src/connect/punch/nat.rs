//! What kind of NAT a socket is behind (`hyperdht/lib/nat.js`), checked against recorded values.

use std::{collections::BTreeSet, net::SocketAddrV4};

use crate::handshake::Firewall;

/// Judges the NAT in front of one socket by the addresses at which others see it.
///
/// Three sightings give a verdict: the same address thrice is a NAT that can be punched, three
/// different ones are a NAT that gives each destination a mapping of its own. Each node is heard
/// once, and [`MAX_SAMPLES`] altogether.
#[derive(Debug)]
pub(super) struct Classifier {
    firewalled: bool,
    /// Hosts and addresses with the number of their sightings, most often seen first.
    hosts: Vec<Sample>,
    addresses: Vec<Sample>,
    heard: BTreeSet<SocketAddrV4>,
    frozen: bool,
    firewall: Firewall,
    verdict: Option<Vec<SocketAddrV4>>,
}

#[derive(Debug)]
struct Sample {
    addr: SocketAddrV4,
    hits: usize,
}

impl Classifier {
    /// Of a socket of a node that is `firewalled`, or that everybody reaches.
    pub(super) const fn new(firewalled: bool) -> Self {
        Self {
            firewalled,
            hosts: Vec::new(),
            addresses: Vec::new(),
            heard: BTreeSet::new(),
            frozen: false,
            firewall: if firewalled { Firewall::Unknown } else { Firewall::Open },
            verdict: None,
        }
    }

    /// Takes in that `from` sees the socket as `seen`.
    pub(super) fn add(&mut self, seen: SocketAddrV4, from: SocketAddrV4) {
        if self.heard.len() >= MAX_SAMPLES || !self.heard.insert(from) {
            return;
        }
        count(&mut self.hosts, SocketAddrV4::new(*seen.ip(), 0));
        count(&mut self.addresses, seen);
        if self.heard.len() >= ENOUGH && !self.frozen {
            self.judge();
        }
    }

    /// What the NAT is.
    pub(super) const fn firewall(&self) -> Firewall {
        self.firewall
    }

    /// Where the peer may expect the socket: port 0 when only the host is known. None before the
    /// verdict, and for a node that needs none.
    pub(super) fn addresses(&self) -> Option<&[SocketAddrV4]> {
        self.verdict.as_deref()
    }

    /// How many nodes were heard.
    pub(super) fn sampled(&self) -> usize {
        self.heard.len()
    }

    /// Keeps the verdict as it is, since the peer has been told.
    pub(super) const fn freeze(&mut self) {
        self.frozen = true;
    }

    fn judge(&mut self) {
        if let Some(firewall) = self.classify() {
            self.firewall = firewall;
        }
        match self.firewall {
            Firewall::Unknown => self.verdict = None,
            Firewall::Random => {
                self.verdict = Some(self.hosts.first().map(|host| host.addr).into_iter().collect());
            }
            Firewall::Consistent => {
                let likely = |(at, sample): &(usize, &Sample)| sample.hits >= 2 || *at < 2;
                let likely = self.addresses.iter().enumerate().filter(likely);
                self.verdict = Some(likely.map(|(_, sample)| sample.addr).collect());
            }
            Firewall::Open => {}
        }
    }

    fn classify(&self) -> Option<Firewall> {
        if !self.firewalled {
            return Some(Firewall::Open);
        }
        let hits = |at: usize| self.addresses.get(at).map_or(0, |sample| sample.hits);
        match hits(0) {
            3.. => Some(Firewall::Consistent),
            0 | 1 => Some(Firewall::Random),
            // Two bad ones of four.
            _ if self.hosts.len() == 1 && self.sampled() > ENOUGH => Some(Firewall::Random),
            // Each of two hosts is seen twice: a NAT with several addresses.
            _ if self.hosts.len() > 1 && hits(1) > 1 => Some(Firewall::Consistent),
            _ if self.sampled() > ALL => Some(Firewall::Random),
            _ => None,
        }
    }
}

/// Counts a sighting and keeps the order.
fn count(samples: &mut Vec<Sample>, addr: SocketAddrV4) {
    match samples.iter().position(|sample| sample.addr == addr) {
        None => samples.push(Sample { addr, hits: 1 }),
        Some(at) => {
            let Some(sample) = samples.get_mut(at) else { return };
            sample.hits += 1;
            let hits = sample.hits;
            let before = samples.iter().take(at).position(|other| other.hits < hits);
            if let Some(slice) = before.and_then(|before| samples.get_mut(before..=at)) {
                slice.rotate_right(1);
            }
        }
    }
}

/// Sightings from which on there is a verdict.
const ENOUGH: usize = 3;

/// Sightings after which nothing better is expected.
pub(super) const ALL: usize = 4;

/// Nodes that are heard for one socket: those that were asked, and the ones that messages went
/// through. 32 bytes each.
const MAX_SAMPLES: usize = 16;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::test_vectors::{NAT, address, all, vector};

    const FIREWALLS: [(Firewall, &str); 4] = [
        (Firewall::Unknown, "UNKNOWN"),
        (Firewall::Open, "OPEN"),
        (Firewall::Consistent, "CONSISTENT"),
        (Firewall::Random, "RANDOM"),
    ];

    fn name(firewall: Firewall) -> &'static str {
        FIREWALLS.iter().find(|(one, _)| *one == firewall).unwrap().1
    }

    fn responder(n: usize) -> SocketAddrV4 {
        SocketAddrV4::new([10, 0, 0, 1].into(), 1000 + u16::try_from(n).unwrap())
    }

    #[test]
    fn verdicts_are_those_of_the_reference_after_each_sample() {
        let vectors = all(NAT);
        let stepped = |vector: &&Value| {
            let name = vector["name"].as_str().unwrap();
            name.starts_with("puncher classifier") && vector["steps"].is_array()
        };
        let mut seen = 0;
        for vector in vectors.iter().filter(stepped) {
            let mut classifier = Classifier::new(vector["firewalled"].as_bool().unwrap());
            for (n, step) in vector["steps"].as_array().unwrap().iter().enumerate() {
                classifier.add(address(&step["add"]), responder(n));
                assert_eq!(name(classifier.firewall()), step["firewall"], "{vector}");
                let expected: Option<Vec<_>> =
                    step["addresses"].as_array().map(|list| list.iter().map(address).collect());
                assert_eq!(classifier.addresses(), expected.as_deref(), "{vector}, step {n}");
                seen += 1;
            }
        }
        assert!(seen > 20, "only {seen} steps were found");
    }

    #[test]
    fn a_node_is_heard_once() {
        let vector = vector(NAT, "puncher classifier: one responder counts once");
        let mut classifier = Classifier::new(true);
        for _ in 0..4 {
            classifier.add("1.1.1.1:1".parse().unwrap(), responder(0));
        }
        assert_eq!(classifier.sampled(), vector["sampled"]);
        assert_eq!(name(classifier.firewall()), vector["firewall"]);
    }

    #[test]
    fn a_verdict_that_the_peer_knows_does_not_change() {
        let mut classifier = Classifier::new(true);
        for n in 0..3 {
            classifier.add("1.1.1.1:1".parse().unwrap(), responder(n));
        }
        classifier.freeze();
        let told = classifier.addresses().map(<[_]>::to_vec);
        for n in 3..40 {
            classifier.add(responder(n), responder(n));
        }
        assert_eq!(classifier.addresses().map(<[_]>::to_vec), told);
        assert_eq!(classifier.sampled(), MAX_SAMPLES);
    }
}
