use std::time::{Duration, Instant};

/// Says when an empty message is due: when nothing has been written for a while.
///
/// Ask [`deadline`](Self::deadline) when to wake up, and then [`is_due`](Self::is_due). Dropped when the
/// stream is ended, since a stream that ends owes no sign of life.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    interval: Duration,
    last_write: Instant,
}

impl KeepAlive {
    /// Counts from `now`; [`KEEP_ALIVE`](super::KEEP_ALIVE) is HyperDHT's interval.
    pub const fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, last_write: now }
    }

    /// Something has been written, an empty message or another.
    pub const fn wrote(&mut self, now: Instant) {
        self.last_write = now;
    }

    /// When an empty message will be due if nothing is written before.
    pub fn deadline(&self) -> Instant {
        self.last_write + self.interval
    }

    /// Whether an empty message is due.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret_stream::KEEP_ALIVE;

    #[test]
    fn every_write_puts_the_next_keep_alive_off() {
        #[expect(clippy::disallowed_methods, reason = "a starting point for a clock moved by hand")]
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut keep_alive = KeepAlive::new(KEEP_ALIVE, start);
        assert!(!keep_alive.is_due(start + 4 * second));
        assert!(keep_alive.is_due(start + 5 * second));
        keep_alive.wrote(start + 4 * second);
        assert!(!keep_alive.is_due(start + 8 * second));
        assert_eq!(keep_alive.deadline(), start + 9 * second);
        assert!(keep_alive.is_due(keep_alive.deadline()));
    }
}
