//! A small internet: public nodes that are a DHT, and hosts behind NATs.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use hyperdht_proto::{
    keys::PublicKey,
    rpc::Role,
    sim::{HostId, Link, Nat, NatId, Network},
};

use crate::peer::{Outcome, Peer, SERVER_PORT, config};

pub(crate) struct World {
    pub(crate) net: Network<Peer>,
    link: Link,
    places: u8,
}

/// Where a host is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// At a public address.
    Public,
    /// Behind a NAT of its own.
    Behind(Nat),
}

impl World {
    /// Public nodes that know each other.
    pub(crate) fn new(seed: u64, link: Link) -> Self {
        let mut world = Self { net: Network::new(seed, link.clone()), link, places: 0 };
        for n in 1..=PUBLIC_NODES {
            let ip = Ipv4Addr::new(5, 5, 0, n);
            let address = SocketAddrV4::new(ip, SERVER_PORT);
            let before: &[_] = if n == 1 { &[] } else { &[BOOTSTRAP] };
            let config = config(before, Role::Persistent, Some(address));
            world.host(ip, None, config);
            world.net.advance(Duration::from_secs(1));
        }
        world.net.advance(Duration::from_secs(20));
        world
    }

    /// Puts a host somewhere and waits until it has joined.
    pub(crate) fn add(&mut self, place: &Place) -> HostId {
        match place {
            Place::Public => {
                self.places += 1;
                self.settle(Ipv4Addr::new(5, 5, self.places, 1), None)
            }
            Place::Behind(nat) => {
                let public = self.public_address();
                let nat = self.net.add_nat(public, nat.clone());
                self.add_behind(nat)
            }
        }
    }

    /// An address for a NAT.
    pub(crate) fn public_address(&mut self) -> IpAddr {
        self.places += 1;
        IpAddr::V4(Ipv4Addr::new(5, 5, self.places, 1))
    }

    /// Puts a host behind a NAT that others may be behind, too.
    pub(crate) fn add_behind(&mut self, nat: NatId) -> HostId {
        self.places += 1;
        self.settle(Ipv4Addr::new(10, 0, 0, self.places), Some(nat))
    }

    fn settle(&mut self, ip: Ipv4Addr, nat: Option<NatId>) -> HostId {
        let host = self.host(ip, nat, config(&[BOOTSTRAP], Role::Adaptive, None));
        self.run_until(Duration::from_secs(30), |net| {
            net.host(host).dht.rpc().is_ready().then_some(())
        });
        host
    }

    fn host(
        &mut self,
        ip: Ipv4Addr,
        nat: Option<NatId>,
        config: hyperdht_proto::dht::Config,
    ) -> HostId {
        let seed = self.net.rng().u64(..);
        let addresses = [(IpAddr::V4(ip), 0).into()];
        let make = |now| Peer::new(now, ip, seed, config);
        match nat {
            Some(nat) => self.net.add_behind(nat, addresses, make),
            None => self.net.add(addresses, make),
        }
    }

    /// Opens a server and waits until it is announced.
    pub(crate) fn serve(&mut self, host: HostId) -> PublicKey {
        let key = self.net.with(host, Peer::listen);
        let announced = self.run_until(Duration::from_secs(120), |net| {
            let server = net.host(host).server.as_ref()?;
            server.announced.then_some(())
        });
        announced.expect("somebody takes the announcement");
        key
    }

    /// Dials, and says what has come of it.
    pub(crate) fn dial(
        &mut self,
        host: HostId,
        server: PublicKey,
        relays: &[SocketAddrV4],
    ) -> Outcome {
        self.net.with(host, |peer, now| peer.dial(now, server, relays.to_vec()));
        self.outcome(host)
    }

    /// Waits for what comes of a dial that has begun.
    pub(crate) fn outcome(&mut self, host: HostId) -> Outcome {
        let outcome = self.run_until(LONGEST, |net| {
            net.host(host).dialling.as_ref().and_then(|dial| dial.outcome)
        });
        outcome.expect("a dial ends")
    }

    /// Nothing is left of punches, a while after the last.
    pub(crate) fn assert_tidy(&mut self, hosts: [HostId; 2]) {
        self.net.advance(LONGEST);
        for host in hosts {
            let peer = self.net.host(host);
            assert!(peer.puncher.is_empty(), "{:?}", peer.puncher);
            assert!(peer.sockets() <= 1, "{} sockets are open", peer.sockets());
        }
    }

    /// Steps until `done` gives something, at most for `time`.
    pub(crate) fn run_until<T>(
        &mut self,
        time: Duration,
        mut done: impl FnMut(&Network<Peer>) -> Option<T>,
    ) -> Option<T> {
        let until = self.net.now() + time;
        loop {
            if let Some(result) = done(&self.net) {
                return Some(result);
            }
            if self.net.now() >= until || !self.net.step() {
                return None;
            }
        }
    }

    /// Cuts a host off: nothing gets through between it and everybody else.
    pub(crate) fn cut_off(&mut self, place: u8) {
        let ip = IpAddr::V4(Ipv4Addr::new(5, 5, place, 1));
        let gone = Link { loss: 1.0, ..self.link.clone() };
        let nodes = (1..=PUBLIC_NODES).map(|n| Ipv4Addr::new(5, 5, 0, n));
        let others = (1..=self.places).map(|n| Ipv4Addr::new(5, 5, n, 1));
        for other in nodes.chain(others) {
            self.net.link(ip, IpAddr::V4(other), gone.clone());
            self.net.link(IpAddr::V4(other), ip, gone.clone());
        }
    }
}

/// As many as a node asks at a time, and one to find the others by.
const PUBLIC_NODES: u8 = 9;

const BOOTSTRAP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(5, 5, 0, 1), SERVER_PORT);

/// Nothing takes longer.
const LONGEST: Duration = Duration::from_secs(120);
