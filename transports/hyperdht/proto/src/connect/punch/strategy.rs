//! What is sent to make a hole, and when (`hyperdht/lib/holepuncher.js`).

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use rand::RngExt;

use super::{FULL_TTL, LOW_TTL, context::Context, hole::Remote};
use crate::rpc::is_reachable;

/// A punch that is under way.
#[derive(Debug)]
pub(super) struct Punch {
    strategy: Strategy,
    next: Instant,
    /// Datagrams and sockets so far.
    spent: u32,
}

#[derive(Debug)]
enum Strategy {
    /// Both NATs keep their mappings: each side writes to the other's.
    Consistent { ticks: u8 },
    /// The peer has opened many mappings on one host: tries to meet one of them.
    RandomPorts { host: Ipv4Addr, left: u16 },
    /// We open many mappings towards an address that tries to meet one of them.
    Birthday { to: SocketAddrV4, step: Birthday },
}

#[derive(Debug, Clone, Copy)]
enum Birthday {
    Calling,
    Opening { left: usize },
    Repeating { left: u16, at: usize, low_ttl: bool },
}

impl Punch {
    /// Between two NATs that keep their mappings. `at` is when to begin.
    pub(super) const fn consistent(at: Instant) -> Self {
        Self { strategy: Strategy::Consistent { ticks: 0 }, next: at, spent: 0 }
    }

    /// Into a NAT that gives each destination a mapping of its own.
    pub(super) const fn random_ports(now: Instant, host: Ipv4Addr) -> Self {
        let strategy = Strategy::RandomPorts { host, left: RANDOM_PROBES };
        Self { strategy, next: now, spent: 0 }
    }

    /// Out of such a NAT.
    pub(super) const fn birthday(now: Instant, to: SocketAddrV4) -> Self {
        let strategy = Strategy::Birthday { to, step: Birthday::Calling };
        Self { strategy, next: now, spent: 0 }
    }

    /// When [`Punch::drive`] has something to do.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// What it has cost, in datagrams and sockets.
    pub(super) const fn spent(&self) -> u32 {
        self.spent
    }

    /// Sends what is due from `sockets`, the last of which is the one that the peer knows; says
    /// whether that was all.
    pub(super) fn drive(
        &mut self,
        cx: &mut Context<'_>,
        sockets: &mut Vec<u32>,
        remote: &Remote,
    ) -> bool {
        // A late timer catches up a little, and never sends faster for long.
        if cx.now.saturating_duration_since(self.next) > CATCH_UP {
            self.next = cx.now;
        }
        while self.next <= cx.now {
            let Some(pause) = self.step(cx, sockets, remote) else { return true };
            self.next += pause;
        }
        false
    }

    /// Sends once; says how long to wait then, or none when it has done what it can.
    fn step(
        &mut self,
        cx: &mut Context<'_>,
        sockets: &mut Vec<u32>,
        remote: &Remote,
    ) -> Option<Duration> {
        let known = *sockets.last()?;
        match &mut self.strategy {
            Strategy::Consistent { ticks: CONSISTENT_TICKS } => None,
            Strategy::Consistent { ticks } => {
                *ticks += 1;
                for (to, verified) in &remote.addresses {
                    if (*verified || *ticks % UNVERIFIED_EVERY == 0) && is_reachable(*to) {
                        cx.send(known, *to, FULL_TTL);
                        self.spent += 1;
                    }
                }
                Some(CONSISTENT_PAUSE)
            }
            Strategy::RandomPorts { left: 0, .. } => None,
            Strategy::RandomPorts { host, left } => {
                *left -= 1;
                self.spent += 1;
                let port = cx.shared.rng.random_range(LEAST_PORT..=u16::MAX);
                cx.send(known, SocketAddrV4::new(*host, port), FULL_TTL);
                let eager = *left >= RANDOM_PROBES - EAGER_PROBES;
                Some(if eager { EAGER_PAUSE } else { RANDOM_PAUSE })
            }
            Strategy::Birthday { to, step } => step.send(cx, sockets, *to, &mut self.spent),
        }
    }
}

impl Birthday {
    fn send(
        &mut self,
        cx: &mut Context<'_>,
        sockets: &mut Vec<u32>,
        to: SocketAddrV4,
        spent: &mut u32,
    ) -> Option<Duration> {
        match self {
            Self::Calling => {
                // A peer that lets in everybody, and does not know that it does, answers at once.
                cx.send(*sockets.last()?, to, FULL_TTL);
                *spent += 1;
                *self = Self::Opening { left: BIRTHDAY_SOCKETS - 1 };
                Some(Duration::ZERO)
            }
            Self::Opening { left } => {
                let opened = (*left).min(OPENED_AT_ONCE);
                for _ in 0..opened {
                    let socket = cx.open();
                    // The one that the peer knows stays the last.
                    sockets.insert(sockets.len().saturating_sub(1), socket);
                    cx.send(socket, to, LOW_TTL);
                    *spent += 1;
                }
                *left -= opened;
                if *left > 0 {
                    return Some(OPENING_PAUSE);
                }
                *self = Self::Repeating { left: RANDOM_PROBES, at: 0, low_ttl: true };
                Some(OPENED_PAUSE)
            }
            Self::Repeating { left: 0, .. } => None,
            Self::Repeating { left, at, low_ttl } => {
                if *at >= sockets.len() {
                    *at = 0;
                    *low_ttl = false;
                }
                if let Some(socket) = sockets.get(*at) {
                    cx.send(*socket, to, if *low_ttl { LOW_TTL } else { FULL_TTL });
                    *spent += 1;
                }
                *left -= 1;
                *at += 1;
                Some(RANDOM_PAUSE)
            }
        }
    }
}

/// Rounds between two NATs that keep their mappings.
const CONSISTENT_TICKS: u8 = 10;
const CONSISTENT_PAUSE: Duration = Duration::from_secs(1);
/// Addresses that the peer has not shown to be at are written to in each fourth round.
const UNVERIFIED_EVERY: u8 = 4;

/// Probes of a punch with random ports.
pub(super) const RANDOM_PROBES: u16 = 1750;
/// Out of a random NAT that is 35 seconds, in which each socket has its turn once in five.
const RANDOM_PAUSE: Duration = Duration::from_millis(20);
/// The first probes into one follow each other more closely than the reference's, and the last ones
/// come after 27 seconds: no more of them altogether, but of the four in five punches that need no
/// more than these, half are through within a second, not within four. 200 packets a second are a
/// tenth of what a stream starts with.
const EAGER_PROBES: u16 = 500;
const EAGER_PAUSE: Duration = Duration::from_millis(5);
/// NATs give out no lower ports.
const LEAST_PORT: u16 = 1000;

/// Sockets that one punch out of a random NAT holds open.
pub(super) const BIRTHDAY_SOCKETS: usize = 256;
/// They are opened bit by bit, so that others have their turn: 35 ms altogether.
const OPENED_AT_ONCE: usize = 32;
const OPENING_PAUSE: Duration = Duration::from_millis(5);
/// What was sent at once is given time to arrive.
const OPENED_PAUSE: Duration = Duration::from_millis(100);

/// How much of its delay a late timer makes good.
const CATCH_UP: Duration = Duration::from_millis(100);
