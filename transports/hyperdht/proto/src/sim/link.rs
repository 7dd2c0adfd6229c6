//! What one direction of a link does to packets.

use std::{net::SocketAddr, ops::Range, time::Duration};

use fastrand::Rng;

/// One direction between two hosts. Probabilities are from 0 to 1.
#[derive(Debug, Clone)]
pub struct Link {
    /// Time that every packet takes.
    pub delay: Duration,
    /// Up to so much is added, without changing the order of packets.
    pub jitter: Duration,
    /// How likely a packet vanishes.
    pub loss: f64,
    /// How likely it arrives twice.
    pub duplication: f64,
    /// How likely it is held back and overtaken, by up to twice the delay.
    pub reordering: f64,
    /// Bytes per second, headers included; unlimited if `None`.
    pub bandwidth: Option<u64>,
    /// Bytes that wait for their turn at most; what comes on top vanishes.
    pub queue: usize,
    /// Longer packets vanish; IP and UDP headers are included.
    pub mtu: u16,
    /// Times since the start of the run in which everything vanishes.
    pub blackouts: Vec<Range<Duration>>,
    /// Packets that may take fewer hops do not arrive.
    pub hops: u8,
}

impl Default for Link {
    /// Ten milliseconds, and nothing goes wrong.
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            bandwidth: None,
            queue: 256 * 1024,
            mtu: 1500,
            blackouts: Vec::new(),
            hops: 10,
        }
    }
}

/// A link in use.
#[derive(Debug)]
pub(crate) struct Wire {
    link: Link,
    /// When the last byte in the queue will have left.
    free_at: Duration,
    last_arrival: Duration,
}

impl Wire {
    pub(crate) const fn new(link: Link) -> Self {
        Self { link, free_at: Duration::ZERO, last_arrival: Duration::ZERO }
    }

    pub(crate) const fn hops(&self) -> u8 {
        self.link.hops
    }

    /// Takes a packet at `now`; gives back how long each copy of it takes to arrive.
    pub(crate) fn carry(
        &mut self,
        now: Duration,
        len: usize,
        to: SocketAddr,
        rng: &mut Rng,
    ) -> impl Iterator<Item = Duration> + use<> {
        let len = len + if to.is_ipv4() { 28 } else { 48 };
        let blacked_out = self.link.blackouts.iter().any(|out| out.contains(&now));
        let lost = rng.f64() < self.link.loss || len > usize::from(self.link.mtu) || blacked_out;
        let departure = self.queue(now, len).filter(|_| !lost);
        let first = departure.map(|departure| self.arrival(departure, rng) - now);
        let twice = rng.f64() < self.link.duplication;
        let second =
            departure.filter(|_| twice).map(|departure| self.arrival(departure, rng) - now);
        first.into_iter().chain(second)
    }

    /// When the packet has left; `None` if the queue was full.
    fn queue(&mut self, now: Duration, len: usize) -> Option<Duration> {
        let Some(bandwidth) = self.link.bandwidth else {
            return Some(now);
        };
        let waiting = self.free_at.saturating_sub(now).as_secs_f64() * bandwidth as f64;
        if waiting + len as f64 > self.link.queue as f64 {
            return None;
        }
        let service = Duration::from_secs_f64(len as f64 / bandwidth as f64);
        self.free_at = self.free_at.max(now) + service;
        Some(self.free_at)
    }

    fn arrival(&mut self, departure: Duration, rng: &mut Rng) -> Duration {
        let arrival = departure + self.link.delay + self.link.jitter.mul_f64(rng.f64());
        if rng.f64() < self.link.reordering {
            return arrival + self.link.delay.mul_f64(2.0 * rng.f64());
        }
        self.last_arrival = self.last_arrival.max(arrival);
        self.last_arrival
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carry(wire: &mut Wire, now_ms: u64, rng: &mut Rng) -> Vec<Duration> {
        let to = "10.0.0.1:1".parse().unwrap();
        wire.carry(Duration::from_millis(now_ms), 972, to, rng).collect()
    }

    #[test]
    fn a_bottleneck_spaces_packets_and_drops_what_its_queue_does_not_hold() {
        let mut rng = Rng::with_seed(1);
        let mut wire = Wire::new(Link { bandwidth: Some(100_000), queue: 3000, ..Link::default() });
        let arrivals: Vec<_> = (0..5).flat_map(|_| carry(&mut wire, 0, &mut rng)).collect();
        assert_eq!(arrivals, [20, 30, 40].map(Duration::from_millis));
        assert_eq!(carry(&mut wire, 100, &mut rng).len(), 1, "the queue drains");
    }

    #[test]
    fn losses_and_copies_come_as_often_as_asked() {
        let mut rng = Rng::with_seed(1);
        let mut wire = Wire::new(Link { loss: 0.2, duplication: 0.5, ..Link::default() });
        let arrived: usize = (0..1000).map(|n| carry(&mut wire, n, &mut rng).len()).sum();
        assert!((1100..1300).contains(&arrived), "{arrived}");
    }

    #[test]
    fn jitter_alone_keeps_the_order() {
        let mut rng = Rng::with_seed(1);
        let mut wire = Wire::new(Link { jitter: Duration::from_millis(50), ..Link::default() });
        let arrivals: Vec<_> = (0..100)
            .flat_map(|n| Some(Duration::from_millis(n) + carry(&mut wire, n, &mut rng)[0]))
            .collect();
        assert!(arrivals.is_sorted());
    }

    #[test]
    fn blackouts_and_long_packets_vanish() {
        let mut rng = Rng::with_seed(1);
        let mut wire = Wire::new(Link {
            blackouts: vec![Duration::from_millis(5)..Duration::from_millis(7)],
            ..Link::default()
        });
        let arrived = [4, 5, 6, 7].map(|now| carry(&mut wire, now, &mut rng).len());
        assert_eq!(arrived, [1, 0, 0, 1]);
        wire.link.mtu = 999;
        assert!(carry(&mut wire, 8, &mut rng).is_empty());
    }
}
