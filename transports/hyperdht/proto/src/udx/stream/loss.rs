//! Finds out what was lost: RACK with tail-loss probes (RFC 8985), and the timeout behind them.

use super::{Stream, in_flight::Sent};
use crate::udx::{StreamError, Time, congestion::Recovery, time::MILLISECOND};

/// What the most recently sent of the delivered packets tells about those sent before it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rack {
    rtt: u64,
    sent_at: Time,
    seq: u64,
    /// The highest packet delivered.
    highest: u64,
    reordering_seen: bool,
}

impl Rack {
    /// A packet was delivered.
    pub(crate) fn on_delivered(&mut self, now: Time, seq: u64, sent: &Sent, min_rtt: Option<u64>) {
        let rtt = now.since(sent.sent_at);
        let again = sent.transmissions > 1;
        if again && min_rtt.is_some_and(|min| rtt < min) {
            // Too quick: the first transmission arrived, not the one that was timed.
            return;
        }
        if seq < self.highest && !again {
            self.reordering_seen = true;
        }
        self.highest = self.highest.max(seq);
        if (sent.sent_at, seq) >= (self.sent_at, self.seq) {
            self.rtt = rtt;
            self.sent_at = sent.sent_at;
            self.seq = seq;
        }
    }

    /// Whether a packet sent later than this one was delivered.
    const fn overtook(&self, sent_at: Time, seq: u64) -> bool {
        sent_at.micros() < self.sent_at.micros()
            || sent_at.micros() == self.sent_at.micros() && seq < self.seq
    }
}

impl Stream {
    /// Marks as lost what was overtaken for longer than reordering explains; gives back how many
    /// packets that is. Arms the timer for what may become lost by waiting.
    pub(crate) fn detect_losses(&mut self, now: Time) -> u32 {
        let patience = self.rack.rtt + self.reordering_window();
        self.timers.reorder_at = None;
        let mut lost = 0;
        while let Some((seq, sent)) = self.in_flight.oldest() {
            if !self.rack.overtook(sent.sent_at, seq) {
                break;
            }
            let due = sent.sent_at.after(patience);
            if due > now {
                self.timers.reorder_at = Some(due);
                break;
            }
            if self.in_flight.mark_lost(seq) > 0 {
                self.mtu.on_probe_lost();
            } else {
                lost += 1;
            }
        }
        // A lost probe says something about its size, not about congestion.
        if lost > 0 && self.recovery == Recovery::Open {
            self.recovery = Recovery::Repairing;
            self.repaired_at = self.in_flight.next();
        }
        self.unreported_losses += lost;
        lost
    }

    fn reordering_window(&self) -> u64 {
        let certain = self.recovery != Recovery::Open || self.in_flight.sacked() >= CERTAIN_SACKS;
        if !self.rack.reordering_seen && certain {
            return 0;
        }
        let quarter = self.rtt.minimum().unwrap_or(0) / 4;
        quarter.min(self.rtt.smoothed().unwrap_or(quarter))
    }

    /// Nothing was acknowledged for the whole timeout.
    pub(crate) fn on_retransmission_timeout(&mut self, now: Time) {
        if self.timers.timeouts >= MAX_TIMEOUTS {
            return self.close(Err(StreamError::TimedOut));
        }
        self.timers.timeouts += 1;
        self.timers.waiting_since = now;
        self.timers.tail_probe_at = None;
        let patience = self.rack.rtt + self.reordering_window();
        let cutoff = Time::from_micros(now.micros().saturating_sub(patience));
        let (lost, probe) = self.in_flight.mark_lost_until(cutoff);
        if probe {
            self.mtu.on_probe_lost();
        }
        self.unreported_losses += lost;
        self.recovery = Recovery::TimedOut;
        self.repaired_at = self.in_flight.next();
        self.congestion.on_timeout();
        self.forced = true;
    }

    /// The stream has moved: all that is under way leaves again at once, since the old path may be dead.
    /// What the new one does is yet to be seen.
    pub(crate) fn start_over(&mut self, now: Time) {
        self.in_flight.leave_path(now);
        self.rack = Rack::default();
        self.recovery = Recovery::Open;
        self.unreported_losses = 0;
        self.timers.waiting_since = now;
        self.timers.timeouts = 0;
        self.timers.reorder_at = None;
        self.timers.tail_probe_at = None;
        self.timers.tail_probe_out = false;
        self.timers.pace_at = None;
        self.tail_probe_due = false;
        self.forced = false;
    }

    /// No acknowledgement came for two round trips: the end of the flight may be lost, and nothing
    /// sent after it would tell.
    pub(crate) const fn on_tail_probe(&mut self) {
        self.timers.tail_probe_at = None;
        self.timers.tail_probe_out = true;
        self.forced = true;
        self.tail_probe_due = true;
    }

    /// Probes at once, if anything is under way.
    pub(crate) const fn probe_tail(&mut self) {
        if self.in_flight.count() > 0 {
            self.on_tail_probe();
        }
    }

    /// Arms the tail-loss probe after new data or an acknowledgement.
    ///
    /// RFC 8985 does so only while nothing is being repaired. Here it is armed then too: the last
    /// repeated packet of a flight can be lost as well as any, and would cost a whole timeout.
    pub(crate) fn arm_tail_probe(&mut self, now: Time) {
        let idle = self.in_flight.count() == 0 || self.timers.timeouts > 0;
        if idle || self.timers.reorder_at.is_some() || self.timers.tail_probe_out {
            self.timers.tail_probe_at = None;
            return;
        }
        let wait = self.rtt.smoothed().map_or(NO_SAMPLE_PROBE, |smoothed| {
            let single = self.in_flight.count() == 1;
            (2 * smoothed + if single { SINGLE_EXTRA } else { 0 }).max(MIN_PROBE)
        });
        self.timers.tail_probe_at = Some(now.after(wait));
    }
}

/// Timeouts of one packet before the peer is given up (libudx: `UDX_RTO_MAX_COUNT`).
const MAX_TIMEOUTS: u8 = 6;
/// This many packets beyond a hole make reordering unlikely (RFC 8985: DupThresh).
const CERTAIN_SACKS: u32 = 3;
/// Tail-probe delay before the first sample of the round-trip time.
const NO_SAMPLE_PROBE: u64 = 1000 * MILLISECOND;
/// Added when a single packet is under way.
const SINGLE_EXTRA: u64 = 2 * MILLISECOND;
/// A busy peer is this late without having lost anything.
const MIN_PROBE: u64 = 5 * MILLISECOND;
