//! Spreads departures so that a burst does not overflow a queue on the path.

use crate::udx::{
    Time,
    time::{MILLISECOND, SECOND},
};

/// A token bucket in bytes, credited by the time that passed.
///
/// Timers of a runtime are a millisecond coarse, so nothing ever waits per packet: the bucket holds
/// what may leave between two timer ticks, is full after a pause, and arriving acknowledgements
/// are served from it at once.
#[derive(Debug, Clone)]
pub(crate) struct Pacer {
    /// Negative when the last packet took more than there was.
    tokens: i64,
    credited_at: Time,
}

impl Pacer {
    pub(crate) const fn new() -> Self {
        Self { tokens: i64::MAX, credited_at: Time::from_micros(0) }
    }

    /// Credits the time since the last call; `rate` in bytes per second.
    pub(crate) fn credit(&mut self, now: Time, rate: u64, packet_len: u64) {
        let capacity = signed(capacity(rate, packet_len));
        let elapsed = now.since(self.credited_at).min(SECOND);
        let credit = signed(rate.saturating_mul(elapsed) / SECOND);
        // Less than a byte is credited next time.
        if credit > 0 || self.tokens > capacity {
            self.credited_at = now;
            self.tokens = self.tokens.saturating_add(credit).min(capacity);
        }
    }

    /// Whether a packet may leave.
    pub(crate) const fn allows(&self) -> bool {
        self.tokens > 0
    }

    /// A packet of `len` bytes leaves.
    pub(crate) const fn spend(&mut self, len: u64) {
        self.tokens = self.tokens.saturating_sub(signed(len));
    }

    /// When enough has been credited for a burst worth waking up for.
    pub(crate) fn ready_at(&self, rate: u64, packet_len: u64) -> Time {
        let worthwhile = (capacity(rate, packet_len) / 2).min(rate / 1000).max(packet_len);
        let missing = signed(worthwhile).saturating_sub(self.tokens).max(0);
        let wait = missing.unsigned_abs().saturating_mul(SECOND) / rate.max(1);
        self.credited_at.after(wait + 1)
    }
}

const fn signed(bytes: u64) -> i64 {
    if bytes > i64::MAX as u64 { i64::MAX } else { bytes.cast_signed() }
}

/// Two milliseconds of the rate, which rides over a late timer, and never less than 16 packets.
const fn capacity(rate: u64, packet_len: u64) -> u64 {
    let ticks = rate / SECOND * (2 * MILLISECOND) + rate % SECOND * (2 * MILLISECOND) / SECOND;
    let packets = MIN_BURST_PACKETS * packet_len;
    if ticks > packets { ticks } else { packets }
}

const MIN_BURST_PACKETS: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1_000_000;
    const LEN: u64 = 1000;

    fn drain(pacer: &mut Pacer) -> usize {
        let mut packets = 0;
        while pacer.allows() {
            pacer.spend(LEN);
            packets += 1;
        }
        packets
    }

    #[test]
    fn the_first_window_leaves_at_once_and_then_the_rate_holds() {
        let mut pacer = Pacer::new();
        let mut now = Time::from_micros(0);
        pacer.credit(now, RATE, LEN);
        assert_eq!(drain(&mut pacer), 16);
        let mut sent = 0;
        while now.micros() < SECOND {
            now = pacer.ready_at(RATE, LEN);
            pacer.credit(now, RATE, LEN);
            sent += drain(&mut pacer);
        }
        assert!((990..=1010).contains(&sent), "{sent} packets in one second");
    }

    #[test]
    fn a_pause_fills_the_bucket_and_not_more() {
        let mut pacer = Pacer::new();
        pacer.credit(Time::from_micros(0), RATE, LEN);
        drain(&mut pacer);
        pacer.credit(Time::from_micros(60 * SECOND), RATE, LEN);
        assert_eq!(drain(&mut pacer), 16);
    }

    #[test]
    fn polling_often_credits_as_much_as_polling_seldom() {
        let mut pacer = Pacer::new();
        pacer.credit(Time::from_micros(0), 1000, LEN);
        drain(&mut pacer);
        for micros in 0..=SECOND {
            pacer.credit(Time::from_micros(micros), 1000, LEN);
        }
        assert_eq!(pacer.tokens, 1000);
    }
}
