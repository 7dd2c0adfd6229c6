//! This host's place in the network, and its changes.
//!
//! Interfaces are looked at every few seconds: getifaddrs takes tens of microseconds, works
//! everywhere, and misses nothing, while a subscription with the system differs from one to the next.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::core::Core;

/// What a node knows of the network around it.
#[derive(Debug)]
pub(super) struct Surroundings {
    local: Mutex<Arc<[SocketAddrV4]>>,
    /// Counts changes.
    changes: watch::Sender<u64>,
}

impl Surroundings {
    pub(super) fn new(server: SocketAddrV4) -> Self {
        let local = Mutex::new(local_addresses(server).into());
        Self { local, changes: watch::Sender::new(0) }
    }

    /// Where peers behind the same NAT reach the server socket.
    pub(super) fn local(&self) -> Arc<[SocketAddrV4]> {
        Arc::clone(&self.local.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the interfaces again; true when the addresses are others than before.
    fn refresh(&self, server: SocketAddrV4) -> bool {
        let now: Arc<[_]> = local_addresses(server).into();
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *local != now;
        *local = now;
        changed
    }

    pub(super) fn tell(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(super) fn changes(&self) -> NetworkChanges {
        NetworkChanges { changes: self.changes.subscribe() }
    }
}

/// Tells when the network has changed; see [`Node::network_changes`](super::Node::network_changes).
#[derive(Debug)]
pub struct NetworkChanges {
    changes: watch::Receiver<u64>,
}

impl NetworkChanges {
    /// Waits for the next change; changes that came since the last call, or since this was made, count
    /// as one. False once the node is gone. Cancel-safe.
    pub async fn next(&mut self) -> bool {
        self.changes.changed().await.is_ok()
    }
}

/// Watches interfaces and clocks until the node stops.
pub(super) async fn watch(core: Arc<Core>, stopped: CancellationToken) {
    let mut timer = interval(LOOK_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut clocks = Clocks::new(Reading::now());
    loop {
        tokio::select! {
            biased;
            () = stopped.cancelled() => return,
            () = async { core.running().await; timer.tick().await; } => {}
        }
        if clocks.slept(Reading::now()) {
            tracing::debug!("the machine slept");
            core.with_dht(|dht, now| dht.woke_up(now));
        }
        if core.surroundings().refresh(core.sockets().server_addr()) {
            tracing::debug!("the addresses of this host have changed");
            core.with_dht(|dht, now| dht.network_changed(now));
        }
    }
}

/// Two clocks, of which one goes on while the machine sleeps.
#[derive(Debug)]
struct Clocks {
    last: Reading,
}

impl Clocks {
    const fn new(first: Reading) -> Self {
        Self { last: first }
    }

    /// Whether the machine has slept since the last call.
    fn slept(&mut self, now: Reading) -> bool {
        let last = std::mem::replace(&mut self.last, now);
        let awake = now.awake.saturating_duration_since(last.awake);
        now.always.saturating_sub(last.always) > awake + SLEEP
    }
}

/// What the clocks show.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Stands still while the machine sleeps.
    awake: Instant,
    /// Since some beginning; goes on.
    always: Duration,
}

impl Reading {
    fn now() -> Self {
        Self { awake: Instant::now(), always: always() }
    }
}

#[cfg(target_os = "linux")]
fn always() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    time.map_or(Duration::ZERO, Duration::from)
}

/// That the wall clock is also set now and then costs no more than an announcement.
#[cfg(not(target_os = "linux"))]
fn always() -> Duration {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Where peers behind the same NAT reach the server socket: the address it is bound to, or those of
/// all interfaces; loopback only when there is no other (`hyperdht/lib/server.js`).
fn local_addresses(server: SocketAddrV4) -> Vec<SocketAddrV4> {
    if !server.ip().is_unspecified() {
        return vec![server];
    }
    let with_port = |ip| SocketAddrV4::new(ip, server.port());
    let mut addresses: Vec<_> = interfaces().into_iter().map(with_port).collect();
    addresses.truncate(MAX_LOCAL);
    if addresses.is_empty() {
        addresses.push(with_port(Ipv4Addr::LOCALHOST));
    }
    addresses
}

/// The addresses of this host's interfaces, other than loopback.
pub(crate) fn interfaces() -> Vec<Ipv4Addr> {
    let all = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::debug!(%error, "the interfaces of this host are not known");
        Vec::new()
    });
    let outward = all.iter().filter(|interface| !interface.is_loopback());
    outward
        .filter_map(|interface| match interface.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// How often interfaces and clocks are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A shorter sleep than this leaves nothing to be done: NATs and peers wait for longer.
const SLEEP: Duration = Duration::from_secs(5);

/// Addresses told to peers: eight bytes each in a handshake that has to fit a datagram.
const MAX_LOCAL: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_slept_when_one_clock_went_on_without_the_other() {
        let start = Reading { awake: Instant::now(), always: Duration::from_secs(100) };
        let later = |awake: u64, always: u64| Reading {
            awake: start.awake + Duration::from_secs(awake),
            always: start.always + Duration::from_secs(always),
        };
        let mut clocks = Clocks::new(start);
        assert!(!clocks.slept(later(2, 2)));
        assert!(!clocks.slept(later(100, 100)), "a busy machine has not slept");
        assert!(clocks.slept(later(102, 3702)));
        assert!(!clocks.slept(later(104, 3704)));
        assert!(!clocks.slept(later(106, 3000)), "a clock that is set back is no sleep");
    }
}
