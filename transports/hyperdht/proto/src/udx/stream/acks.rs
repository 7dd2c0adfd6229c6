//! When the peer is told what has come.

use crate::udx::{
    AckPolicy, Time,
    time::{MILLISECOND, SECOND},
};

/// The acknowledgements that the receiving half owes.
///
/// On a clean path they are batched: a sender needs one now and then, and each costs either side a
/// system call. Loss recovery needs all it can have: libudx probes for a lost tail only while
/// nothing is missing, so that a lost repetition, or the loss of the one acknowledgement that told
/// of it, costs it a whole timeout. So whoever sees packets missing acknowledges each packet,
/// and for a while after.
#[derive(Debug)]
pub(crate) struct Acks {
    policy: AckPolicy,
    due: Due,
    /// The path counts as lossy until then.
    wary_until: Time,
    /// The longest payload so far: what the sender fills packets up to.
    longest: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    No,
    /// For so many packets; it may wait for others until `at`, or leave with data.
    Batched {
        packets: u16,
        at: Time,
    },
    /// For as many as one may cover: when the datagrams at hand are taken in.
    Soon,
    /// Before another datagram is looked at.
    Now,
}

impl Acks {
    pub(crate) const fn new(policy: AckPolicy) -> Self {
        Self { policy, due: Due::No, wary_until: Time::from_micros(0), longest: LEAST_FULL }
    }

    /// A packet of `len` bytes came in its turn, and nothing is missing.
    pub(crate) fn on_packet(&mut self, now: Time, len: usize) {
        let AckPolicy::Batched { packets: most } = self.policy else {
            return self.owe_now();
        };
        let full = len >= self.longest;
        self.longest = self.longest.max(len);
        let (packets, at) = match self.due {
            Due::No => (1, now.after(MAX_DELAY)),
            Due::Batched { packets, at } => (packets.saturating_add(1), at),
            Due::Soon | Due::Now => return,
        };
        self.due = if now < self.wary_until {
            Due::Now
        } else if packets >= most {
            Due::Soon
        } else if full && packets < MAX_HELD {
            Due::Batched { packets, at }
        } else {
            Due::Batched { packets, at: now.min(at) }
        };
    }

    /// A packet came while others are missing.
    pub(crate) fn on_gap(&mut self, now: Time, rtt: Option<u64>) {
        let while_wary = rtt.map_or(UNKNOWN_RTT_WARY, |rtt| (WARY_RTTS * rtt).max(MIN_WARY));
        self.wary_until = now.after(while_wary);
        self.due = Due::Now;
    }

    /// The peer is to hear at once.
    pub(crate) const fn owe_now(&mut self) {
        self.due = Due::Now;
    }

    /// A packet left, and every packet acknowledges all.
    pub(crate) const fn paid(&mut self) {
        self.due = Due::No;
    }

    /// Whether anything is owed.
    pub(crate) fn is_owed(&self) -> bool {
        self.due != Due::No
    }

    /// Whether it must not wait for a better moment than the end of the datagrams at hand.
    pub(crate) const fn is_urgent(&self) -> bool {
        matches!(self.due, Due::Soon | Due::Now)
    }

    /// Whether it must not even wait for those.
    pub(crate) fn is_due_alone(&self) -> bool {
        self.due == Due::Now
    }

    /// Whether it is to leave unless data does that carries it.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        match self.due {
            Due::No => false,
            Due::Batched { at, .. } => at <= now,
            Due::Soon | Due::Now => true,
        }
    }

    /// When it is to leave at the latest, if it may wait.
    pub(crate) const fn deadline(&self) -> Option<Time> {
        match self.due {
            Due::Batched { at, .. } => Some(at),
            Due::No | Due::Soon | Due::Now => None,
        }
    }
}

/// So many full packets, with more to follow presumably, do not leave a sender without a word when
/// the socket has run empty. A sender's smallest window (4 in BBR, libudx' included) is not filled
/// by what is held back, so holding it back never stops one.
const MAX_HELD: u16 = 4;
/// What waits for more full packets waits for so long.
const MAX_DELAY: u64 = MILLISECOND;
/// A sender that has more to send fills its packets at least this far: 1200 bytes without the
/// headers of IPv6, UDP and UDX. A shorter one ends a burst.
const LEAST_FULL: usize = 1132;
/// A path on which something was missing counts as lossy for so many round trips,
const WARY_RTTS: u64 = 4;
/// but not for less than this,
const MIN_WARY: u64 = 10 * MILLISECOND;
/// and for this while no round trip was measured.
const UNKNOWN_RTT_WARY: u64 = SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: usize = 1452;
    const START: Time = Time::from_micros(SECOND);

    fn acks() -> Acks {
        let mut acks = Acks::new(AckPolicy::Batched { packets: 16 });
        acks.on_packet(START, FULL);
        acks.paid();
        acks
    }

    #[test]
    fn full_packets_wait_for_the_fourth_or_a_millisecond() {
        let mut acks = acks();
        for _ in 0..3 {
            acks.on_packet(START, FULL);
            assert!(acks.is_owed() && !acks.is_due(START));
        }
        assert!(acks.is_due(START.after(MAX_DELAY)));
        assert_eq!(acks.deadline(), Some(START.after(MAX_DELAY)));
        acks.on_packet(START, FULL);
        assert!(acks.is_due(START) && !acks.is_urgent());
    }

    #[test]
    fn a_packet_that_is_not_full_ends_the_wait() {
        for len in [0, 50, LEAST_FULL, FULL - 1] {
            let mut acks = acks();
            acks.on_packet(START, FULL);
            acks.on_packet(START, len);
            assert!(acks.is_due(START) && !acks.is_urgent(), "{len}");
        }
        // So does one that is the longest so far and yet shorter than any full packet.
        let mut acks = Acks::new(AckPolicy::Batched { packets: 16 });
        acks.on_packet(START, 1024);
        assert!(acks.is_due(START));
    }

    #[test]
    fn each_packet_is_acknowledged_for_four_round_trips_after_a_loss() {
        let rtt = 20 * MILLISECOND;
        let mut acks = acks();
        acks.on_gap(START, Some(rtt));
        assert!(acks.is_urgent());
        for after in [0, rtt, 4 * rtt - 1] {
            acks.paid();
            acks.on_packet(START.after(after), FULL);
            assert!(acks.is_due_alone(), "{after}");
        }
        acks.paid();
        acks.on_packet(START.after(4 * rtt), FULL);
        assert!(!acks.is_due(START.after(4 * rtt)));
    }

    #[test]
    fn a_path_of_unknown_length_stays_suspect_for_a_second() {
        let mut acks = acks();
        acks.on_gap(START, None);
        acks.paid();
        acks.on_packet(START.after(SECOND - 1), FULL);
        assert!(acks.is_urgent());
    }
}
