//! A network in one thread: many nodes, virtual time, delay and loss, all from one seed.
//!
//! For tests of what is built on DHT RPC. Datagrams are whole and either arrive or do not; a
//! firewalled host hears only from whom it has written to in the last two minutes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
    sync::LazyLock,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{Rpc, SocketId, Transmit};
use crate::dht::Dht;

/// What a network carries: a node as a state machine.
pub trait Machine {
    /// A datagram arrived.
    fn handle_datagram(&mut self, now: Instant, socket: SocketId, from: SocketAddrV4, data: &[u8]);
    /// A timer is due.
    fn handle_timeout(&mut self, now: Instant);
    /// What is to be sent.
    fn poll_transmit(&mut self) -> Option<Transmit>;
    /// When a timer is due.
    fn poll_timeout(&self) -> Option<Instant>;
}

/// Nodes have these as methods of their own.
macro_rules! machine {
    ($($node:ty),*) => {$(
        impl Machine for $node {
            fn handle_datagram(
                &mut self,
                now: Instant,
                socket: SocketId,
                from: SocketAddrV4,
                data: &[u8],
            ) {
                self.handle_datagram(now, socket, from, data);
            }

            fn handle_timeout(&mut self, now: Instant) {
                self.handle_timeout(now);
            }

            fn poll_transmit(&mut self) -> Option<Transmit> {
                self.poll_transmit()
            }

            fn poll_timeout(&self) -> Option<Instant> {
                self.poll_timeout()
            }
        }
    )*};
}

machine!(Rpc, Dht);

/// Names a host of a [`Testnet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

impl HostId {
    /// The `n`-th host that was added, from 0.
    pub const fn nth(n: usize) -> Self {
        Self(n)
    }
}

/// A network of hosts that run an `M` each.
pub struct Testnet<M> {
    /// The share of datagrams that are lost.
    pub loss: f64,
    /// How long a datagram travels.
    pub delay_ms: Range<u64>,
    now: Instant,
    rng: StdRng,
    hosts: Vec<Host<M>>,
    by_addr: HashMap<SocketAddrV4, (HostId, SocketId)>,
    travelling: BTreeMap<(Instant, u64), Datagram>,
    timers: BTreeSet<(Instant, HostId)>,
    sent: u64,
}

struct Host<M> {
    machine: Option<M>,
    ip: Ipv4Addr,
    client_port: u16,
    firewalled: bool,
    /// An address that leads to the server socket, whatever the firewall says.
    forwarded: Option<SocketAddrV4>,
    written_to: HashMap<(SocketId, SocketAddrV4), Instant>,
    timer: Option<Instant>,
    /// Nothing comes to it and nothing goes.
    cut_off: bool,
    /// Its timers do not run.
    asleep: bool,
}

struct Datagram {
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: Bytes,
}

impl<M: Machine> Testnet<M> {
    /// An empty network without loss, where a datagram takes 5 to 50 ms.
    pub fn new(seed: u64) -> Self {
        Self {
            loss: 0.0,
            delay_ms: 5..50,
            now: epoch(),
            rng: StdRng::seed_from_u64(seed),
            hosts: Vec::new(),
            by_addr: HashMap::new(),
            travelling: BTreeMap::new(),
            timers: BTreeSet::new(),
            sent: 0,
        }
    }

    /// The virtual time.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// The network's random source.
    pub const fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// How many datagrams have been sent.
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Adds a host. `make` is given the time, a random source and the address of its server
    /// socket.
    pub fn add(
        &mut self,
        firewalled: bool,
        make: impl FnOnce(Instant, StdRng, SocketAddrV4) -> M,
    ) -> HostId {
        let id = HostId(self.hosts.len());
        let server = addr(u32::try_from(id.0).unwrap_or(u32::MAX));
        let client = SocketAddrV4::new(*server.ip(), CLIENT_PORT);
        let rng = StdRng::seed_from_u64(self.rng.next_u64());
        let machine = make(self.now, rng, server);
        self.by_addr.insert(server, (id, SocketId::Server));
        self.by_addr.insert(client, (id, SocketId::Client));
        self.hosts.push(Host {
            machine: Some(machine),
            ip: *server.ip(),
            client_port: CLIENT_PORT,
            firewalled,
            forwarded: None,
            written_to: HashMap::new(),
            timer: None,
            cut_off: false,
            asleep: false,
        });
        self.flush(id);
        id
    }

    /// Switches a host off for good.
    pub fn kill(&mut self, id: HostId) {
        if let Some(host) = self.hosts.get_mut(id.0) {
            host.machine = None;
            self.timers.retain(|(_, other)| *other != id);
        }
    }

    /// Has the NAT in front of a host give its client socket another port.
    pub fn remap(&mut self, id: HostId) {
        if let Some(host) = self.hosts.get_mut(id.0) {
            self.by_addr.remove(&SocketAddrV4::new(host.ip, host.client_port));
            host.client_port += 1;
            let client = SocketAddrV4::new(host.ip, host.client_port);
            self.by_addr.insert(client, (id, SocketId::Client));
        }
    }

    /// Gives a host another public address, as providers do over night.
    pub fn move_to(&mut self, id: HostId, ip: Ipv4Addr) {
        if let Some(host) = self.hosts.get_mut(id.0) {
            for (port, socket) in
                [(SERVER_PORT, SocketId::Server), (host.client_port, SocketId::Client)]
            {
                self.by_addr.remove(&SocketAddrV4::new(host.ip, port));
                self.by_addr.insert(SocketAddrV4::new(ip, port), (id, socket));
            }
            host.ip = ip;
        }
    }

    /// Has the NAT in front of a host forget everything, as after its restart: the client socket gets
    /// another port, and nobody comes in whom the host does not write to again.
    pub fn rebind(&mut self, id: HostId) {
        self.remap(id);
        if let Some(host) = self.hosts.get_mut(id.0) {
            host.written_to.clear();
        }
    }

    /// Puts a host behind a firewall, or in front of it.
    pub fn set_firewalled(&mut self, id: HostId, firewalled: bool) {
        if let Some(host) = self.hosts.get_mut(id.0) {
            host.firewalled = firewalled;
            host.written_to.clear();
        }
    }

    /// Unplugs a host, or plugs it in again.
    pub fn cut_off(&mut self, id: HostId, cut_off: bool) {
        if let Some(host) = self.hosts.get_mut(id.0) {
            host.cut_off = cut_off;
        }
    }

    /// Sends a host to sleep: it hears nothing, and its timers do not run.
    pub fn sleep(&mut self, id: HostId) {
        self.cut_off(id, true);
        if let Some(host) = self.hosts.get_mut(id.0) {
            host.asleep = true;
        }
    }

    /// Wakes a host up. What was due meanwhile is due at once.
    pub fn wake(&mut self, id: HostId) {
        self.cut_off(id, false);
        if let Some(host) = self.hosts.get_mut(id.0) {
            host.asleep = false;
            if let Some(at) = host.timer.take() {
                self.timers.remove(&(at, id));
            }
        }
        self.flush(id);
    }

    /// The address of a host's client socket, as others see it.
    ///
    /// # Panics
    /// When there is no such host.
    pub fn client_addr_of(&self, id: HostId) -> SocketAddrV4 {
        let host = self.hosts.get(id.0).expect("the host was added");
        SocketAddrV4::new(host.ip, host.client_port)
    }

    /// The address of a host's server socket.
    ///
    /// # Panics
    /// When there is no such host.
    pub fn addr_of(&self, id: HostId) -> SocketAddrV4 {
        let host = self.hosts.get(id.0).expect("the host was added");
        SocketAddrV4::new(host.ip, SERVER_PORT)
    }

    /// The hosts that are on.
    pub fn alive(&self) -> Vec<HostId> {
        let on = |(_, host): &(usize, &Host<M>)| host.machine.is_some();
        let hosts = self.hosts.iter().enumerate().filter(on);
        hosts.map(|(id, _)| HostId(id)).collect()
    }

    /// What runs on a host.
    ///
    /// # Panics
    /// When the host is off.
    pub fn machine(&self, id: HostId) -> &M {
        let host = self.hosts.get(id.0).and_then(|host| host.machine.as_ref());
        host.expect("the host is on")
    }

    /// Does something to what runs on a host, and sends what follows from it.
    ///
    /// # Panics
    /// When the host is off.
    pub fn with<T>(&mut self, id: HostId, act: impl FnOnce(&mut M, Instant) -> T) -> T {
        let now = self.now;
        let host = self.hosts.get_mut(id.0).and_then(|host| host.machine.as_mut());
        let result = act(host.expect("the host is on"), now);
        self.flush(id);
        result
    }

    /// Has a router forward this port to a host's server socket, or none any more.
    pub fn forward(&mut self, id: HostId, port: Option<u16>) {
        let Some(host) = self.hosts.get_mut(id.0) else { return };
        let forwarded = port.map(|port| SocketAddrV4::new(host.ip, port));
        if let Some(before) = std::mem::replace(&mut host.forwarded, forwarded) {
            self.by_addr.remove(&before);
        }
        if let Some(forwarded) = forwarded {
            self.by_addr.insert(forwarded, (id, SocketId::Server));
        }
    }

    /// Lets the time pass.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.next_at().is_some_and(|at| at <= until) {
            self.step();
        }
        self.now = until;
    }

    /// Lets the time pass until `done` gives something, at most for `time`.
    pub fn run_until<T>(
        &mut self,
        time: Duration,
        mut done: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let until = self.now + time;
        loop {
            if let Some(result) = done(self) {
                return Some(result);
            }
            if self.next_at().is_none_or(|at| at > until) {
                self.now = until;
                return None;
            }
            self.step();
        }
    }

    fn next_at(&self) -> Option<Instant> {
        let datagram = self.travelling.first_key_value().map(|(key, _)| key.0);
        let timer = self.timers.first().map(|(at, _)| *at);
        datagram.into_iter().chain(timer).min()
    }

    /// Does what happens next.
    fn step(&mut self) {
        let Some(at) = self.next_at() else { return };
        self.now = self.now.max(at);
        if let Some(entry) = self.travelling.first_entry()
            && entry.key().0 == at
        {
            let datagram = entry.remove();
            self.deliver(&datagram);
        } else if let Some((_, id)) = self.timers.pop_first() {
            let now = self.now;
            if let Some(host) = self.hosts.get_mut(id.0) {
                if host.asleep {
                    return;
                }
                host.timer = None;
                if let Some(machine) = &mut host.machine {
                    machine.handle_timeout(now);
                }
            }
            self.flush(id);
        }
    }

    fn deliver(&mut self, datagram: &Datagram) {
        let Some((id, socket)) = self.by_addr.get(&datagram.to).copied() else {
            return;
        };
        let now = self.now;
        if let Some(host) = self.hosts.get_mut(id.0)
            && let Some(machine) = &mut host.machine
            && !host.cut_off
            && (!host.firewalled
                || host.forwarded == Some(datagram.to)
                || host
                    .written_to
                    .get(&(socket, datagram.from))
                    .is_some_and(|at| now - *at < PINHOLE))
        {
            machine.handle_datagram(now, socket, datagram.from, &datagram.payload);
            self.flush(id);
        }
    }

    /// Sends what a host wants to send and sets its timer.
    fn flush(&mut self, id: HostId) {
        let Some(host) = self.hosts.get_mut(id.0) else {
            return;
        };
        let Some(machine) = &mut host.machine else {
            return;
        };
        while let Some(transmit) = machine.poll_transmit() {
            self.sent += 1;
            let port = match transmit.socket {
                SocketId::Server => SERVER_PORT,
                SocketId::Client | SocketId::Pool(_) => host.client_port,
            };
            if host.firewalled {
                host.written_to.insert((transmit.socket, transmit.to), self.now);
            }
            if host.cut_off || self.rng.random_bool(self.loss) {
                continue;
            }
            let delay = Duration::from_millis(self.rng.random_range(self.delay_ms.clone()));
            let datagram = Datagram {
                from: SocketAddrV4::new(host.ip, port),
                to: transmit.to,
                payload: transmit.payload,
            };
            self.travelling.insert((self.now + delay, self.sent), datagram);
        }
        let timer = machine.poll_timeout();
        if timer != host.timer {
            self.timers.extend(timer.map(|at| (at, id)));
            if let Some(before) = std::mem::replace(&mut host.timer, timer) {
                self.timers.remove(&(before, id));
            }
        }
    }
}

impl<M> fmt::Debug for Testnet<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Testnet")
            .field("hosts", &self.hosts.len())
            .field("travelling", &self.travelling.len())
            .finish_non_exhaustive()
    }
}

/// The beginning of virtual time: the same instant whenever it is asked.
pub fn epoch() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin at some instant")]
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    *EPOCH
}

/// The server socket of the `n`-th host.
pub fn addr(n: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(0x0a00_0001 + n), SERVER_PORT)
}

/// The port of every server socket.
pub const SERVER_PORT: u16 = 49737;
const CLIENT_PORT: u16 = 40000;

/// How long a firewall lets answers in (RFC 4787, 4.3).
const PINHOLE: Duration = Duration::from_secs(120);
