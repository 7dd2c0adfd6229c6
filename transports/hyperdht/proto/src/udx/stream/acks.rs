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
///
/// How long one waits on a clean path follows the stream, as delayed acknowledgements of TCP do. Where
/// data of ours follows the peer's within a millisecond, as requests do under load, the end of a burst
/// is acknowledged by that data; where it does not, at once. A burst is acknowledged when it ends,
/// unless its sender was seen to wait for an acknowledgement within one.
#[derive(Debug)]
pub(crate) struct Acks {
    policy: AckPolicy,
    due: Due,
    /// The path counts as lossy until then.
    wary_until: Time,
    /// The longest payload so far: what the sender fills packets up to.
    longest: usize,
    /// How many full packets wait for more of them.
    held: u16,
    /// Data of ours carried the last acknowledgement, or could have.
    answering: bool,
    /// When one left alone, unless data followed since.
    alone_at: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    No,
    /// For so many packets; it may wait for others until `at`, or leave with data.
    Batched {
        packets: u16,
        at: Time,
        awaits: Awaits,
    },
    /// For as many as one may cover: when the datagrams at hand are taken in.
    Soon,
    /// Before another datagram is looked at.
    Now,
}

/// What a batched acknowledgement waits for beyond the datagrams at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Nothing,
    /// The rest of the peer's burst.
    Packets,
    /// Data of ours.
    Data,
}

impl Acks {
    pub(crate) const fn new(policy: AckPolicy) -> Self {
        Self {
            policy,
            due: Due::No,
            wary_until: Time::from_micros(0),
            longest: LEAST_FULL,
            held: MIN_HELD,
            answering: false,
            alone_at: None,
        }
    }

    /// A packet of `len` bytes came in its turn, and nothing is missing.
    pub(crate) fn on_packet(&mut self, now: Time, len: usize) {
        let AckPolicy::Batched { packets: most } = self.policy else {
            return self.owe_now();
        };
        let full = len >= self.longest;
        self.longest = self.longest.max(len);
        let (packets, until) = match self.due {
            Due::No => (1, now.after(MAX_DELAY)),
            Due::Batched { packets, at, .. } => (packets.saturating_add(1), at),
            Due::Soon | Due::Now => return,
        };
        if now < self.wary_until {
            self.due = Due::Now;
            return;
        }
        if packets >= most {
            self.due = Due::Soon;
            return;
        }
        let awaits = match full {
            true if packets < self.held => Awaits::Packets,
            false if packets <= self.held && self.answering => Awaits::Data,
            true | false => Awaits::Nothing,
        };
        if !full {
            self.held = MAX_HELD.min(self.held + 1);
        }
        let at = if awaits == Awaits::Nothing { now.min(until) } else { until };
        self.due = Due::Batched { packets, at, awaits };
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

    /// Data left, and every packet acknowledges all.
    pub(crate) fn paid_with_data(&mut self, now: Time) {
        let soon = self.alone_at.take().is_some_and(|at| now <= at.after(MAX_DELAY));
        self.answering |= self.is_owed() || soon;
        self.due = Due::No;
    }

    /// A packet left that only acknowledges.
    pub(crate) fn paid_alone(&mut self, now: Time) {
        if let Due::Batched { at, awaits, .. } = self.due
            && at <= now
        {
            match awaits {
                Awaits::Nothing => {}
                Awaits::Packets => self.held = MIN_HELD,
                Awaits::Data => self.answering = false,
            }
        }
        self.alone_at = Some(now);
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
const MIN_HELD: u16 = 4;
/// So many do not where bursts have ended by themselves: less than the window that a sender begins
/// with (10 packets), and as much as an answer of 10 KB.
const MAX_HELD: u16 = 8;
/// What waits, for more packets or for data of ours, waits for so long.
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
        acks.paid_alone(START);
        acks
    }

    /// A burst of so many full packets, the last one followed by a short one.
    fn burst(acks: &mut Acks, now: Time, full: u16) {
        for _ in 0..full {
            acks.on_packet(now, FULL);
        }
        acks.on_packet(now, 50);
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
    fn where_bursts_end_by_themselves_seven_full_packets_wait_for_the_end() {
        let mut acks = acks();
        for _ in 0..4 {
            burst(&mut acks, START, 3);
            acks.paid_alone(START);
        }
        for _ in 0..7 {
            acks.on_packet(START, FULL);
            assert!(acks.is_owed() && !acks.is_due(START));
        }
        acks.on_packet(START, 50);
        assert!(acks.is_due(START) && !acks.is_urgent());
    }

    #[test]
    fn a_sender_that_waited_within_a_burst_need_not_again() {
        let mut acks = acks();
        for _ in 0..4 {
            burst(&mut acks, START, 3);
            acks.paid_alone(START);
        }
        for _ in 0..4 {
            acks.on_packet(START, FULL);
        }
        acks.paid_alone(START.after(MAX_DELAY));
        let later = START.after(2 * MAX_DELAY);
        for _ in 0..4 {
            assert!(!acks.is_due(later));
            acks.on_packet(later, FULL);
        }
        assert!(acks.is_due(later));
    }

    #[test]
    fn data_that_follows_within_a_millisecond_carries_the_next_acknowledgement() {
        let mut acks = acks();
        acks.on_packet(START, 50);
        acks.paid_alone(START);
        let next = START.after(MAX_DELAY);
        acks.paid_with_data(next);
        burst(&mut acks, next, 3);
        assert!(acks.is_owed() && !acks.is_due(next));
        assert_eq!(acks.deadline(), Some(next.after(MAX_DELAY)));
        acks.paid_with_data(next.after(MAX_DELAY - 1));
        burst(&mut acks, next, 3);
        assert!(!acks.is_due(next));

        // It was waited for in vain once, and is not again.
        acks.paid_alone(next.after(MAX_DELAY));
        let later = next.after(2 * MAX_DELAY);
        burst(&mut acks, later, 3);
        assert!(acks.is_due(later));
    }

    #[test]
    fn data_that_follows_later_carries_nothing() {
        let mut acks = acks();
        acks.on_packet(START, 50);
        acks.paid_alone(START);
        let next = START.after(MAX_DELAY + 1);
        acks.paid_with_data(next);
        acks.on_packet(next, 50);
        assert!(acks.is_due(next));
    }

    #[test]
    fn more_short_packets_than_a_small_window_do_not_wait_for_data() {
        let mut acks = acks();
        acks.on_packet(START, 50);
        acks.paid_with_data(START);
        for _ in 0..MAX_HELD {
            assert!(!acks.is_due(START));
            acks.on_packet(START, 50);
        }
        acks.on_packet(START, 50);
        assert!(acks.is_due(START));
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
            acks.paid_alone(START);
            acks.on_packet(START.after(after), FULL);
            assert!(acks.is_due_alone(), "{after}");
        }
        acks.paid_alone(START);
        acks.on_packet(START.after(4 * rtt), FULL);
        assert!(!acks.is_due(START.after(4 * rtt)));
    }

    #[test]
    fn a_path_of_unknown_length_stays_suspect_for_a_second() {
        let mut acks = acks();
        acks.on_gap(START, None);
        acks.paid_alone(START);
        acks.on_packet(START.after(SECOND - 1), FULL);
        assert!(acks.is_urgent());
    }
}
