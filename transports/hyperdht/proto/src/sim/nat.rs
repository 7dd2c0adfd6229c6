//! NATs between hosts and the rest, in the terms of RFC 4787.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use fastrand::Rng;

/// What a NAT does.
#[derive(Debug, Clone)]
pub struct Nat {
    /// What a host's port outside depends on, beside its port inside (RFC 4787, section 4.1).
    pub mapping: Dependence,
    /// Whose packets are let in: those of whom the host has written to, looked at so closely
    /// (section 5).
    pub filtering: Dependence,
    /// Whether the port outside is the one inside, where that is free (section 4.2).
    pub keeps_ports: bool,
    /// Whether hosts behind it reach each other by their addresses outside (section 6).
    pub hairpins: bool,
    /// A mapping is forgotten so long after the host's last packet (section 4.3).
    pub lifetime: Duration,
}

/// How much of the address at the other end matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependence {
    /// Nothing: endpoint-independent.
    Endpoint,
    /// The host.
    Address,
    /// The host and the port.
    AddressAndPort,
}

impl Dependence {
    /// What is the same for all ends that are treated alike.
    fn of(self, end: SocketAddr) -> Option<SocketAddr> {
        match self {
            Self::Endpoint => None,
            Self::Address => Some(SocketAddr::new(end.ip(), 0)),
            Self::AddressAndPort => Some(end),
        }
    }
}

impl Nat {
    /// A port-restricted cone, as home routers are.
    pub const CONE: Self = Self {
        mapping: Dependence::Endpoint,
        filtering: Dependence::AddressAndPort,
        keeps_ports: true,
        hairpins: false,
        lifetime: Duration::from_secs(120),
    };

    /// Gives each destination another port.
    pub const SYMMETRIC: Self =
        Self { mapping: Dependence::AddressAndPort, keeps_ports: false, ..Self::CONE };
}

/// A NAT in use.
#[derive(Debug)]
pub(super) struct Translator {
    nat: Nat,
    public: IpAddr,
    ports: BTreeMap<Inside, u16>,
    mappings: BTreeMap<u16, Mapping>,
}

/// Who has a mapping: a host's address, and what the mapping depends on.
type Inside = (SocketAddr, Option<SocketAddr>);

#[derive(Debug)]
struct Mapping {
    inside: Inside,
    used: Instant,
    written_to: BTreeSet<Option<SocketAddr>>,
}

impl Translator {
    pub(super) const fn new(nat: Nat, public: IpAddr) -> Self {
        Self { nat, public, ports: BTreeMap::new(), mappings: BTreeMap::new() }
    }

    pub(super) const fn hairpins(&self) -> bool {
        self.nat.hairpins
    }

    /// A host writes: gives the address that the other end sees.
    pub(super) fn outward(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        rng: &mut Rng,
    ) -> SocketAddr {
        let inside = (from, self.nat.mapping.of(to));
        let port = match self.ports.get(&inside).copied().filter(|port| self.lives(now, *port)) {
            Some(port) => port,
            None => self.map(now, inside, rng),
        };
        if let Some(mapping) = self.mappings.get_mut(&port) {
            mapping.used = now;
            mapping.written_to.insert(self.nat.filtering.of(to));
        }
        SocketAddr::new(self.public, port)
    }

    /// Somebody writes to a port outside: gives the host's address, if it is let in.
    pub(super) fn inward(&self, now: Instant, port: u16, from: SocketAddr) -> Option<SocketAddr> {
        let mapping = self.mappings.get(&port).filter(|_| self.lives(now, port))?;
        mapping.written_to.contains(&self.nat.filtering.of(from)).then_some(mapping.inside.0)
    }

    /// Forgets all mappings.
    pub(super) fn forget(&mut self) {
        self.ports.clear();
        self.mappings.clear();
    }

    fn lives(&self, now: Instant, port: u16) -> bool {
        let mapping = self.mappings.get(&port);
        mapping.is_some_and(|mapping| now < mapping.used + self.nat.lifetime)
    }

    fn map(&mut self, now: Instant, inside: Inside, rng: &mut Rng) -> u16 {
        let kept = Some(inside.0.port()).filter(|_| self.nat.keeps_ports);
        let mut port = kept.unwrap_or_else(|| rng.u16(LEAST_PORT..));
        while self.lives(now, port) {
            port = rng.u16(LEAST_PORT..);
        }
        let mapping = Mapping { inside, used: now, written_to: BTreeSet::new() };
        if let Some(before) = self.mappings.insert(port, mapping) {
            self.ports.remove(&before.inside);
        }
        self.ports.insert(inside, port);
        port
    }
}

/// NATs give out no lower ports.
const LEAST_PORT: u16 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        translator: Translator,
        rng: Rng,
        now: Instant,
    }

    fn bench(nat: Nat) -> Bench {
        let translator = Translator::new(nat, "5.5.1.1".parse().unwrap());
        #[expect(clippy::disallowed_methods, reason = "only differences are looked at")]
        let now = Instant::now();
        Bench { translator, rng: Rng::with_seed(1), now }
    }

    impl Bench {
        fn out(&mut self, from: &str, to: &str) -> SocketAddr {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            self.translator.outward(self.now, from, to, &mut self.rng)
        }

        fn lets_in(&self, to: SocketAddr, from: &str) -> bool {
            self.translator.inward(self.now, to.port(), from.parse().unwrap()).is_some()
        }
    }

    const HOST: &str = "10.1.0.2:4000";

    #[test]
    fn a_cone_keeps_one_mapping_for_all_and_lets_in_whom_the_host_wrote_to() {
        let mut bench = bench(Nat::CONE);
        let outside = bench.out(HOST, "5.5.0.1:1");
        assert_eq!(outside, "5.5.1.1:4000".parse().unwrap());
        assert_eq!(bench.out(HOST, "5.5.0.2:1"), outside);
        assert!(bench.lets_in(outside, "5.5.0.1:1"));
        assert!(!bench.lets_in(outside, "5.5.0.1:2"));
        assert!(!bench.lets_in(outside, "5.5.0.3:1"));
    }

    #[test]
    fn a_symmetric_nat_has_a_mapping_for_each_destination() {
        let mut bench = bench(Nat::SYMMETRIC);
        let [one, two] = ["5.5.0.1:1", "5.5.0.1:2"].map(|to| bench.out(HOST, to));
        assert_ne!(one, two);
        assert_eq!(bench.out(HOST, "5.5.0.1:1"), one);
        assert!(bench.lets_in(one, "5.5.0.1:1") && !bench.lets_in(one, "5.5.0.1:2"));
    }

    #[test]
    fn looser_filters_let_more_in() {
        let mut restricted = bench(Nat { filtering: Dependence::Address, ..Nat::CONE });
        let outside = restricted.out(HOST, "5.5.0.1:1");
        assert!(restricted.lets_in(outside, "5.5.0.1:2"));
        assert!(!restricted.lets_in(outside, "5.5.0.2:1"));
        let mut full = bench(Nat { filtering: Dependence::Endpoint, ..Nat::CONE });
        let outside = full.out(HOST, "5.5.0.1:1");
        assert!(full.lets_in(outside, "5.5.0.2:1"));
    }

    #[test]
    fn mappings_end_when_the_host_is_silent() {
        let mut bench = bench(Nat { keeps_ports: false, ..Nat::CONE });
        let before = bench.out(HOST, "5.5.0.1:1");
        bench.now += Nat::CONE.lifetime;
        assert!(!bench.lets_in(before, "5.5.0.1:1"));
        assert_ne!(bench.out(HOST, "5.5.0.1:1"), before);
    }

    #[test]
    fn two_hosts_with_one_port_get_two_outside() {
        let mut bench = bench(Nat::CONE);
        assert_ne!(bench.out(HOST, "5.5.0.1:1"), bench.out("10.1.0.3:4000", "5.5.0.1:1"));
    }
}
