//! One side of a hole: its sockets, what is known about both NATs, and the punch.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Instant,
};

use super::{context::Context, limiter::Busy, sampling::Sampling, strategy::Punch};
use crate::{
    handshake::{Firewall, HolepunchPayload},
    rpc::{SocketId, is_reachable},
};

/// What client and server have alike.
#[derive(Debug)]
pub(super) struct Hole {
    /// The last is the one that the peer knows. Earlier ones stay open: a packet may be on its way.
    sockets: Vec<u32>,
    pub(super) sampling: Sampling,
    pub(super) remote: Remote,
    reopened: u8,
    punch: Option<Punch>,
    /// Whether room for a punch with random ports is taken.
    reserved: bool,
}

/// What the peer says about its side.
#[derive(Debug, Default)]
pub(super) struct Remote {
    pub(super) firewall: Firewall,
    /// With whether it has shown to be there.
    pub(super) addresses: Vec<(SocketAddrV4, bool)>,
    pub(super) punching: bool,
}

/// How far the look at our own NAT has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Analysis {
    Pending,
    /// It is known, and goes together with the peer's.
    Stable,
    Unstable,
}

impl Remote {
    /// Takes in what the peer says; `verified` is a host at which it has shown to be.
    pub(super) fn update(&mut self, payload: &HolepunchPayload, verified: Option<Ipv4Addr>) {
        let known = |host: &Ipv4Addr| {
            self.addresses.iter().any(|(addr, verified)| *verified && addr.ip() == host)
        };
        let judge = |addr: &SocketAddrV4| (*addr, verified == Some(*addr.ip()) || known(addr.ip()));
        let addresses = payload.addresses.iter().flatten().take(MAX_ADDRESSES);
        self.addresses = addresses.map(judge).collect();
        self.firewall = payload.firewall;
        self.punching = payload.punching;
    }
}

impl Hole {
    /// Opens a socket and asks nodes how they see it. `remote` is what the peer has said so far.
    pub(super) fn open(cx: &mut Context<'_>, remote: Firewall) -> Self {
        let socket = cx.open();
        Self {
            sockets: vec![socket],
            sampling: Sampling::start(cx, socket),
            remote: Remote { firewall: remote, ..Remote::default() },
            reopened: 0,
            punch: None,
            reserved: false,
        }
    }

    /// The socket that the peer knows.
    pub(super) fn socket(&self) -> SocketId {
        SocketId::Pool(self.number())
    }

    pub(super) fn number(&self) -> u32 {
        self.sockets.last().copied().unwrap_or(u32::MAX)
    }

    pub(super) fn firewall(&self) -> Firewall {
        self.sampling.nat.firewall()
    }

    pub(super) fn addresses(&self) -> Option<Vec<SocketAddrV4>> {
        self.sampling.nat.addresses().map(<[_]>::to_vec)
    }

    pub(super) const fn is_punching(&self) -> bool {
        self.punch.is_some()
    }

    /// Whether our own NAT is known to keep the mapping of a socket.
    pub(super) fn is_steady(&self) -> bool {
        matches!(self.firewall(), Firewall::Consistent | Firewall::Open)
    }

    /// Whether either NAT gives each destination a mapping of its own.
    pub(super) fn is_random(&self) -> bool {
        self.firewall() == Firewall::Random || self.remote.firewall == Firewall::Random
    }

    fn is_unstable(&self) -> bool {
        let own = self.firewall();
        own == Firewall::Unknown
            || (own == Firewall::Random && self.remote.firewall == Firewall::Random)
    }

    /// How our own NAT is judged by now. With `reopen`, an unlucky socket is replaced by another,
    /// which mobile networks treat differently at times.
    pub(super) fn analyze(&mut self, cx: &mut Context<'_>, reopen: bool) -> Analysis {
        loop {
            if !self.sampling.is_settled() {
                return Analysis::Pending;
            }
            if !self.is_unstable() {
                return Analysis::Stable;
            }
            if !reopen || self.reopened >= MAX_REOPENS || self.is_punching() {
                return Analysis::Unstable;
            }
            self.reopened += 1;
            let socket = cx.open();
            self.sockets.push(socket);
            self.sampling = Sampling::start(cx, socket);
        }
    }

    /// Sends one byte to where the peer is said to be.
    pub(super) fn ping(&self, cx: &mut Context<'_>, to: SocketAddrV4, ttl: u8) {
        if is_reachable(to) {
            cx.send(self.number(), to, ttl);
        }
    }

    /// Takes room for a punch with random ports, if it comes to one.
    pub(super) fn reserve(&mut self, cx: &mut Context<'_>) -> Result<(), Busy> {
        if self.is_random() && !self.reserved {
            cx.shared.limiter.begin(cx.now)?;
            self.reserved = true;
        }
        Ok(())
    }

    /// Begins to punch, at `at` where both sides keep their mappings; false when there is no way.
    /// The room for random ports is [taken](Hole::reserve) already.
    pub(super) fn punch(&mut self, cx: &mut Context<'_>, at: Instant) -> bool {
        if self.punch.is_none() {
            self.punch = self.choose(cx.now, at);
        }
        self.punch.is_some()
    }

    fn choose(&self, now: Instant, at: Instant) -> Option<Punch> {
        let verified = self.remote.addresses.iter().find(|(_, verified)| *verified);
        let verified = verified.map(|(addr, _)| *addr);
        match (coerce(self.firewall()), coerce(self.remote.firewall)) {
            _ if self.remote.addresses.is_empty() => None,
            (Firewall::Consistent, Firewall::Consistent) => Some(Punch::consistent(at)),
            (Firewall::Consistent, Firewall::Random) => {
                let host = *verified?.ip();
                is_reachable(SocketAddrV4::new(host, 1)).then(|| Punch::random_ports(now, host))
            }
            (Firewall::Random, Firewall::Consistent) => {
                Some(Punch::birthday(now, verified.filter(|to| is_reachable(*to))?))
            }
            _ => None,
        }
    }

    /// Sends what is due; says whether the punch has come to nothing.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(punch) = &mut self.punch else { return false };
        punch.drive(cx, &mut self.sockets, &self.remote)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.punch.as_ref().map(Punch::next)
    }

    /// The system has no such socket.
    pub(super) fn forget(&mut self, socket: u32) {
        self.sockets.retain(|other| *other != socket);
    }

    pub(super) const fn has_sockets(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// Sends nothing more, and gives back the room that the punch took.
    pub(super) fn rest(&mut self, cx: &mut Context<'_>) {
        self.sampling.stop();
        let spent = self.punch.take().map_or(0, |punch| punch.spent());
        if std::mem::take(&mut self.reserved) {
            cx.shared.limiter.finish(cx.now, spent);
        }
    }

    /// Closes all sockets but one.
    pub(super) fn close(&mut self, cx: &mut Context<'_>, keep: Option<u32>) {
        for socket in std::mem::take(&mut self.sockets) {
            if Some(socket) == keep {
                self.sockets.push(socket);
            } else {
                cx.close(socket);
            }
        }
    }
}

/// A peer that everybody reaches is like one that can be punched.
const fn coerce(firewall: Firewall) -> Firewall {
    match firewall {
        Firewall::Open | Firewall::Consistent => Firewall::Consistent,
        Firewall::Random => Firewall::Random,
        Firewall::Unknown => Firewall::Unknown,
    }
}

/// Addresses of a peer that are written to; the reference tells of two, or as many as a NAT with
/// several addresses has shown.
const MAX_ADDRESSES: usize = 8;

/// Sockets that are tried one after another where the NAT is hard to judge
/// (`hyperdht/lib/holepuncher.js`).
const MAX_REOPENS: u8 = 3;
