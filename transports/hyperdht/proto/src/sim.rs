//! A network in one thread: many hosts, virtual time, and everything that links do to packets.
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
mod udx_host;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

pub use fastrand::Rng;

use self::link::Wire;
pub use self::{link::Link, udx_host::UdxHost};

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

    /// Replaces what is in `datagram` by the next one to send; gives back its source and
    /// destination.
    fn poll_transmit(
        &mut self,
        now: Instant,
        datagram: &mut Vec<u8>,
    ) -> Option<(SocketAddr, SocketAddr)>;
}

/// Names a host of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(usize);

/// Hosts, the links between them, and the time.
#[derive(Debug)]
pub struct Network<H> {
    hosts: Vec<H>,
    addresses: BTreeMap<SocketAddr, HostId>,
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

    /// Adds a host that is reached at `addresses`.
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
        if let Some(&id) = self.addresses.get(&datagram.to) {
            self.with(id, |host, now| {
                host.handle_datagram(now, datagram.to, datagram.from, &datagram.bytes);
            });
        }
    }

    #[expect(clippy::indexing_slicing, reason = "ids are made by `add` only")]
    fn flush(&mut self, id: HostId) {
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some((from, to)) = self.hosts[id.0].poll_transmit(self.now, &mut scratch) {
            self.send(from, to, &scratch);
        }
        self.scratch = scratch;
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let elapsed = self.elapsed();
        let wire = self
            .wires
            .entry((from.ip(), to.ip()))
            .or_insert_with(|| Wire::new(self.default.clone()));
        for delay in wire.carry(elapsed, bytes.len(), to, &mut self.rng) {
            self.sent += 1;
            self.arrivals.insert(
                (self.now + delay, self.sent),
                Datagram { from, to, bytes: bytes.to_vec() },
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
