//! Round-trip times and the retransmission timeout.

use crate::udx::{
    Time,
    time::{MILLISECOND, SECOND},
    window::{SlidingMax, invert},
};

/// The estimator of RFC 6298 with libudx's bounds, in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Rtt {
    smoothed: Option<u64>,
    variance: u64,
    /// Inverted samples: see [`invert`].
    minimum: SlidingMax<10>,
}

impl Rtt {
    pub(crate) const fn new() -> Self {
        Self { smoothed: None, variance: 0, minimum: SlidingMax::new() }
    }

    /// Takes the time that a packet sent once took to be acknowledged.
    pub(crate) fn sample(&mut self, now: Time, sample: u64) {
        let sample = self.without_outlier(sample.max(1));
        self.minimum.insert(now.micros() / MIN_BUCKET, invert(sample));
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.variance = sample / 2;
            }
            Some(smoothed) => {
                self.variance = (3 * self.variance + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((7 * smoothed + sample) / 8);
            }
        }
    }

    /// The smoothed round-trip time, once there was a sample.
    pub(crate) const fn smoothed(&self) -> Option<u64> {
        self.smoothed
    }

    /// The smallest sample of the last five minutes.
    pub(crate) const fn minimum(&self) -> Option<u64> {
        match self.minimum.max() {
            0 => None,
            inverted => Some(invert(inverted)),
        }
    }

    /// How long an acknowledgement is waited for.
    pub(crate) fn timeout(&self) -> u64 {
        self.smoothed.map_or(MIN_TIMEOUT, |smoothed| {
            (smoothed + 4 * self.variance).clamp(MIN_TIMEOUT, MAX_TIMEOUT)
        })
    }

    /// One stalled packet must not lift the timeout for minutes.
    fn without_outlier(&self, sample: u64) -> u64 {
        let Some(smoothed) = self.smoothed else {
            return sample.min(MAX_TIMEOUT);
        };
        let usual = smoothed + 5 * self.variance;
        if sample > OUTLIER && sample > usual { usual.min(MAX_TIMEOUT) } else { sample }
    }
}

/// Ten of these make the 300 s over which libudx takes the minimum.
const MIN_BUCKET: u64 = 30 * SECOND;
/// Bounds of the timeout (libudx: `UDX_RTO_MIN` 1 s, `UDX_RTO_MAX` 30 s; 1 s without a sample).
pub(crate) const MIN_TIMEOUT: u64 = 1000 * MILLISECOND;
const MAX_TIMEOUT: u64 = 30 * SECOND;
/// A sample above this is suspected of being a stall rather than the path.
const OUTLIER: u64 = 5 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_the_samples_within_its_bounds() {
        let mut rtt = Rtt::new();
        assert_eq!(rtt.timeout(), SECOND);
        rtt.sample(Time::default(), 800 * MILLISECOND);
        assert_eq!(rtt.smoothed(), Some(800 * MILLISECOND));
        assert_eq!(rtt.timeout(), 2400 * MILLISECOND);
        for _ in 0..50 {
            rtt.sample(Time::default(), MILLISECOND);
        }
        assert_eq!(rtt.timeout(), MIN_TIMEOUT);
        assert_eq!(rtt.minimum(), Some(MILLISECOND));
    }

    #[test]
    fn a_stall_lifts_the_estimate_by_a_bounded_amount() {
        let mut rtt = Rtt::new();
        rtt.sample(Time::default(), 10 * MILLISECOND);
        rtt.sample(Time::default(), 60 * SECOND);
        assert!(rtt.smoothed().unwrap() < 15 * MILLISECOND);
    }

    #[test]
    fn the_minimum_forgets_after_five_minutes() {
        let mut rtt = Rtt::new();
        rtt.sample(Time::default(), 10);
        rtt.sample(Time::from_micros(301 * SECOND), 20);
        assert_eq!(rtt.minimum(), Some(20));
    }
}
