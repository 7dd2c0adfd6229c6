//! A network in one thread: many hosts, virtual time, and everything that links and NATs do to
//! packets.
//!
//! Test support, behind the feature `sim`. A run is a function of its seed: two runs with the same
//! seed and the same hosts do the same, packet by packet. [`seeds`] repeats a property over many
//! seeds and names the one that failed.
//!
//! ```
//! use hyperdht_proto::sim::{Link, UdxHost, Network};
//! use hyperdht_proto::udx::{Config, Firewall, StreamOptions};
//!
//! let mut net = Network::new(1, Link { loss: 0.1, ..Link::default() });
//! let [a_addr, b_addr] = ["10.0.0.1:1", "10.0.0.2:1"].map(|addr| addr.parse().unwrap());
//! let a = net.add([a_addr], |now| UdxHost::new(now, a_addr, Config::default()));
//! let b = net.add([b_addr], |now| UdxHost::new(now, b_addr, Config::default()));
//! let waiting = StreamOptions { firewall: Some(Firewall::connect_to_first(1)), ..Default::default() };
//! let accepted = net.with(b, |host, _| host.endpoint.open(2, waiting)).unwrap();
//! net.with(a, |host, now| {
//!     let key = host.endpoint.open(1, StreamOptions::default()).unwrap();
//!     host.endpoint.connect(now, key, host.path_to(b_addr), 2).unwrap();
//!     host.endpoint.write_slice(key, b"hello").unwrap();
//! });
//! while net.host(b).endpoint.info(accepted).unwrap().counts.bytes_received == 0 {
//!     assert!(net.step(), "nothing left to happen");
//! }
//! ```

mod link;
mod nat;
mod udx_host;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

pub use fastrand::Rng;

pub use self::{
    link::Link,
    nat::{Dependence, Nat},
    udx_host::UdxHost,
};
use self::{link::Wire, nat::Translator};

/// A state machine that lives on one host.
pub trait Host {
    /// Takes a datagram that came in at the address `local`.
    fn handle_datagram(
        &mut self,
        now: Instant,
        local: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
    );

    /// Acts on all that is due.
    fn handle_timeout(&mut self, now: Instant);

    /// When [`Host::handle_timeout`] has something to do.
    fn poll_timeout(&mut self) -> Option<Instant>;

    /// Replaces what is in `datagram` by the next one to send, and says how it leaves.
    fn poll_transmit(&mut self, now: Instant, datagram: &mut Vec<u8>) -> Option<Departure>;
}

/// How a datagram leaves a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// The host's own address.
    pub from: SocketAddr,
    /// Where it is to go.
    pub to: SocketAddr,
    /// How many hops it may take; NATs are the first and the last.
    pub hops: u8,
}

/// Names a host of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(usize);

/// Names a NAT of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NatId(usize);

/// Hosts, the links between them, and the time.
#[derive(Debug)]
pub struct Network<H> {
    hosts: Vec<H>,
    addresses: BTreeMap<SocketAddr, HostId>,
    nats: Vec<Translator>,
    outside: BTreeMap<IpAddr, NatId>,
    behind: BTreeMap<HostId, NatId>,
    default: Link,
    wires: BTreeMap<(IpAddr, IpAddr), Wire>,
    /// Datagrams on their way, by arrival; the number keeps those of one moment in order.
    arrivals: BTreeMap<(Instant, u64), Datagram>,
    sent: u64,
    epoch: Instant,
    now: Instant,
    rng: Rng,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    /// The NAT that it does not leave.
    within: Option<NatId>,
    bytes: Vec<u8>,
}

impl<H: Host> Network<H> {
    /// A network without hosts, in which `default` describes both directions between any two.
    #[expect(
        clippy::disallowed_methods,
        reason = "only differences to this moment are ever looked at"
    )]
    pub fn new(seed: u64, default: Link) -> Self {
        let epoch = Instant::now();
        Self {
            hosts: Vec::new(),
            addresses: BTreeMap::new(),
            nats: Vec::new(),
            outside: BTreeMap::new(),
            behind: BTreeMap::new(),
            default,
            wires: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            sent: 0,
            epoch,
            now: epoch,
            rng: Rng::with_seed(seed),
            scratch: Vec::new(),
        }
    }

    /// Adds a host that is reached at `addresses`; port 0 stands for all ports of an address.
    pub fn add(
        &mut self,
        addresses: impl IntoIterator<Item = SocketAddr>,
        host: impl FnOnce(Instant) -> H,
    ) -> HostId {
        let id = HostId(self.hosts.len());
        self.addresses.extend(addresses.into_iter().map(|address| (address, id)));
        self.hosts.push(host(self.now));
        id
    }

    /// Puts a NAT between the network and hosts that are [added behind](Network::add_behind) it.
    pub fn add_nat(&mut self, public: IpAddr, nat: Nat) -> NatId {
        let id = NatId(self.nats.len());
        self.nats.push(Translator::new(nat, public));
        self.outside.insert(public, id);
        id
    }

    /// As [`Network::add`], with a NAT in between. Hosts behind the same one reach each other; the
    /// addresses have to differ from those behind others.
    pub fn add_behind(
        &mut self,
        nat: NatId,
        addresses: impl IntoIterator<Item = SocketAddr>,
        host: impl FnOnce(Instant) -> H,
    ) -> HostId {
        let id = self.add(addresses, host);
        self.behind.insert(id, nat);
        id
    }

    /// Has a NAT forget its mappings, as after a restart.
    pub fn restart_nat(&mut self, nat: NatId) {
        if let Some(nat) = self.nats.get_mut(nat.0) {
            nat.forget();
        }
    }

    /// Describes the direction from one address to another, in place of the default.
    pub fn link(&mut self, from: IpAddr, to: IpAddr, link: Link) {
        self.wires.insert((from, to), Wire::new(link));
    }

    /// A host, to look at.
    ///
    /// # Panics
    /// When `id` is another network's; so for [`Network::with`].
    #[expect(clippy::indexing_slicing, reason = "ids are made by `add` only")]
    pub fn host(&self, id: HostId) -> &H {
        &self.hosts[id.0]
    }

    /// Calls a host and lets it send.
    #[expect(clippy::indexing_slicing, reason = "ids are made by `add` only")]
    pub fn with<T>(&mut self, id: HostId, call: impl FnOnce(&mut H, Instant) -> T) -> T {
        let result = call(&mut self.hosts[id.0], self.now);
        self.flush(id);
        result
    }

    /// The random source of the run, for choices that belong to its seed.
    pub const fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The present.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Time since the network was made.
    pub fn elapsed(&self) -> Duration {
        self.now - self.epoch
    }

    /// Moves on to the next arrival or timeout and lets it happen; says whether there was one.
    pub fn step(&mut self) -> bool {
        self.step_until(None)
    }

    /// Lets time pass and everything happen that happens in it.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while self.step_until(Some(until)) {}
        self.now = until;
    }

    fn step_until(&mut self, limit: Option<Instant>) -> bool {
        let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at);
        let timeout = (self.hosts.iter_mut().zip(0..))
            .filter_map(|(host, index)| Some((host.poll_timeout()?, HostId(index))))
            .min();
        let next = [arrival, timeout.map(|(at, _)| at)].into_iter().flatten().min();
        let Some(at) = next.filter(|at| limit.is_none_or(|limit| *at <= limit)) else {
            return false;
        };
        self.now = self.now.max(at);
        if arrival == Some(at) {
            self.deliver();
        } else if let Some((_, id)) = timeout {
            self.with(id, |host, now| host.handle_timeout(now));
        }
        true
    }

    fn deliver(&mut self) {
        let Some((_, datagram)) = self.arrivals.pop_first() else {
            return;
        };
        let Datagram { from, to, within, ref bytes } = datagram;
        let Some(to) = self.translate_inward(from, to, within) else { return };
        if let Some(id) = self.host_at(to) {
            self.with(id, |host, now| host.handle_datagram(now, to, from, bytes));
        }
    }

    fn host_at(&self, address: SocketAddr) -> Option<HostId> {
        let any_port = SocketAddr::new(address.ip(), 0);
        self.addresses.get(&address).or_else(|| self.addresses.get(&any_port)).copied()
    }

    /// Which address a datagram has behind the NAT in front of its destination, if one lets it in.
    fn translate_inward(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        within: Option<NatId>,
    ) -> Option<SocketAddr> {
        if let Some(nat) = self.outside.get(&to.ip()) {
            return self.nats.get(nat.0)?.inward(self.now, to.port(), from);
        }
        let behind = self.host_at(to).and_then(|host| self.behind.get(&host));
        behind.is_none_or(|nat| within == Some(*nat)).then_some(to)
    }

    #[expect(clippy::indexing_slicing, reason = "ids are made by `add` only")]
    fn flush(&mut self, id: HostId) {
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(departure) = self.hosts[id.0].poll_transmit(self.now, &mut scratch) {
            self.send(id, departure, &scratch);
        }
        self.scratch = scratch;
    }

    fn send(&mut self, id: HostId, departure: Departure, bytes: &[u8]) {
        let Departure { mut from, to, hops } = departure;
        let mut within = None;
        if let Some(behind) = self.behind.get(&id) {
            let neighbour = self.host_at(to).and_then(|host| self.behind.get(&host));
            if neighbour == Some(behind) {
                within = Some(*behind);
            } else if let Some(nat) = self.nats.get_mut(behind.0) {
                from = nat.outward(self.now, from, to, &mut self.rng);
                if self.outside.get(&to.ip()) == Some(behind) && !nat.hairpins() {
                    return;
                }
            }
        }
        let elapsed = self.elapsed();
        let wire = self
            .wires
            .entry((from.ip(), to.ip()))
            .or_insert_with(|| Wire::new(self.default.clone()));
        if hops < wire.hops() {
            return;
        }
        for delay in wire.carry(elapsed, bytes.len(), to, &mut self.rng) {
            self.sent += 1;
            self.arrivals.insert(
                (self.now + delay, self.sent),
                Datagram { from, to, within, bytes: bytes.to_vec() },
            );
        }
    }
}

/// Runs `property` for `count` seeds, or as many as the environment variable
/// `HYPERDHT_SIM_SEEDS` says, starting at `HYPERDHT_SIM_FIRST_SEED` or 0. Prints the seed of a run
/// that panics.
///
/// # Panics
/// When a run does, or when a variable is no number.
pub fn seeds(count: u64, property: impl Fn(u64)) {
    let variable = |name: &str| {
        let value = std::env::var(name).ok()?;
        match value.parse::<u64>() {
            Ok(value) => Some(value),
            Err(_) => panic!("{name} is not a number: {value}"),
        }
    };
    let count = variable("HYPERDHT_SIM_SEEDS").unwrap_or(count);
    let first = variable("HYPERDHT_SIM_FIRST_SEED").unwrap_or(0);
    for seed in first..first + count {
        let report = Report(seed);
        property(seed);
        std::mem::forget(report);
    }
}

/// Says which seed it was when a panic passes through.
struct Report(u64);

impl Drop for Report {
    #[expect(clippy::print_stderr, reason = "the seed is the result of a failed run")]
    fn drop(&mut self) {
        eprintln!(
            "failed with seed {0}: repeat with HYPERDHT_SIM_FIRST_SEED={0} HYPERDHT_SIM_SEEDS=1",
            self.0
        );
    }
}
