//! Bytes that came through, and which of them show a way to the server.

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

/// The paths on which bytes have come in.
///
/// The reference takes the first one for the hole. Two kinds of bytes are no such proof, though: one
/// from a host that nobody has named may be anybody's, and one that came in through a NAT that gives
/// each destination a mapping of its own may have come by another's: what we send leaves by a new one,
/// which the server's NAT does not let in. So the former waits for a better one, and the latter is
/// sent back [some times](ECHOES): the server, which echoes all that it gets, lets us hear them again
/// if they got there. One more may be the server's own second byte; [`ENOUGH`] are not.
#[derive(Debug, Default)]
pub(super) struct Arrivals(Vec<Arrival>);

#[derive(Debug)]
struct Arrival {
    socket: u32,
    from: SocketAddrV4,
    /// From when on it counts.
    counts: Instant,
    /// How many have come in.
    bytes: u32,
}

impl Arrivals {
    /// Takes in a byte, `named` if its host was to be expected; says whether it is the first on its
    /// path, and is to be sent back.
    pub(super) fn add(
        &mut self,
        now: Instant,
        socket: u32,
        from: SocketAddrV4,
        named: bool,
    ) -> bool {
        let known = |arrival: &&mut Arrival| (arrival.socket, arrival.from) == (socket, from);
        if let Some(arrival) = self.0.iter_mut().find(known) {
            arrival.bytes = arrival.bytes.saturating_add(1);
            return false;
        }
        if self.0.len() >= MAX_ARRIVALS {
            return false;
        }
        let counts = if named { now } else { now + STRANGER };
        self.0.push(Arrival { socket, from, counts, bytes: 1 });
        true
    }

    /// The path to use by now. With a `steady` NAT, which keeps its mapping, every byte shows one.
    pub(super) fn path(&self, now: Instant, steady: bool) -> Option<(u32, SocketAddrV4)> {
        let good =
            |arrival: &&Arrival| arrival.counts <= now && (steady || arrival.bytes >= ENOUGH);
        let best = self.0.iter().filter(good).min_by_key(|arrival| arrival.counts);
        best.map(|arrival| (arrival.socket, arrival.from))
    }

    /// When [`Arrivals::path`] may give something new by the mere passage of time.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.0.iter().map(|arrival| arrival.counts).filter(|at| *at > now).min()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// How long a byte from a host that nobody has named waits for a better one.
const STRANGER: Duration = Duration::from_secs(1);

/// How often a byte is sent back to the server: one may get lost.
pub(super) const ECHOES: u32 = 3;

/// So many bytes on a path are echoes.
const ENOUGH: u32 = 3;

/// Paths that are remembered, 32 bytes each: the server has few ways to us, and others shall not
/// have many.
const MAX_ARRIVALS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::testnet::{addr, epoch};

    #[test]
    fn behind_a_steady_nat_the_servers_first_byte_is_the_way() {
        let (mut arrivals, now) = (Arrivals::default(), epoch());
        assert!(arrivals.add(now, 7, addr(1), true));
        assert_eq!(arrivals.path(now, true), Some((7, addr(1))));
    }

    #[test]
    fn behind_another_it_has_to_come_back() {
        let (mut arrivals, now) = (Arrivals::default(), epoch());
        assert!(arrivals.add(now, 7, addr(1), true));
        assert!(arrivals.add(now, 8, addr(1), true));
        assert_eq!(arrivals.path(now, false), None);
        for _ in 1..ENOUGH {
            assert_eq!(arrivals.path(now, false), None);
            assert!(!arrivals.add(now, 8, addr(1), true));
        }
        assert_eq!(arrivals.path(now, false), Some((8, addr(1))));
    }

    #[test]
    fn a_stranger_waits_for_somebody_better() {
        let (mut arrivals, now) = (Arrivals::default(), epoch());
        arrivals.add(now, 7, addr(9), false);
        assert_eq!(arrivals.path(now, true), None);
        let later = now + STRANGER;
        assert_eq!(arrivals.poll_timeout(now), Some(later));
        assert_eq!(arrivals.path(later, true), Some((7, addr(9))));
        arrivals.add(now, 7, addr(1), true);
        assert_eq!(arrivals.path(later, true), Some((7, addr(1))));
        assert_eq!(arrivals.poll_timeout(later), None);
    }

    #[test]
    fn strangers_cannot_pile_up() {
        let mut arrivals = Arrivals::default();
        for n in 0..1000 {
            arrivals.add(epoch(), 7, addr(n), false);
        }
        assert_eq!(arrivals.0.len(), MAX_ARRIVALS);
    }
}
