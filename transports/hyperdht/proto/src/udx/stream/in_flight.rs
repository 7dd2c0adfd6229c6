//! Packets that were sent and not yet cumulatively acknowledged.

use std::collections::VecDeque;

use crate::udx::{Time, congestion::SendRecord};

/// What is known of one sent packet. Its boundaries never change; its bytes are in the send buffer.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// Offset of the payload in the stream.
    pub(crate) offset: u64,
    /// Bytes of payload.
    pub(crate) len: u16,
    /// Zero bytes that make it an MTU probe.
    pub(crate) padding: u8,
    pub(crate) end: bool,
    pub(crate) state: SentState,
    /// How often it left.
    pub(crate) transmissions: u8,
    /// When it left last.
    pub(crate) sent_at: Time,
    pub(crate) record: SendRecord,
    /// Whether it has left over a path that the stream has left since: its acknowledgement may be for
    /// that time.
    pub(crate) elsewhere: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SentState {
    InFlight,
    /// The peer has it, but not all before it.
    Sacked,
    /// To be sent again.
    Lost,
}

/// The window of sent packets, by number.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    first: u64,
    packets: VecDeque<Sent>,
    /// Transmissions in the order of time, with how often the packet had left by then; entries
    /// that no longer describe a packet in flight are skipped.
    order: VecDeque<(u64, u8)>,
    /// Packets to send again; entries that arrived in the meantime are skipped.
    lost: VecDeque<u64>,
    in_flight: u32,
    sacked: u32,
    losses: u32,
}

impl InFlight {
    /// The first packet that is not cumulatively acknowledged.
    pub(crate) const fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next new packet.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.packets.len() as u64
    }

    /// Whether everything was acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Packets presumed to be under way.
    pub(crate) const fn count(&self) -> u32 {
        self.in_flight
    }

    /// Packets that arrived ahead of a missing one.
    pub(crate) const fn sacked(&self) -> u32 {
        self.sacked
    }

    /// Packets that wait to be sent again.
    pub(crate) const fn lost(&self) -> u32 {
        self.losses
    }

    pub(crate) fn get(&self, seq: u64) -> Option<&Sent> {
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.packets.get(at)
    }

    fn get_mut(&mut self, seq: u64) -> Option<&mut Sent> {
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.packets.get_mut(at)
    }

    /// Adds a packet that just left for the first time.
    pub(crate) fn push(&mut self, sent: Sent) {
        self.order.push_back((self.next(), sent.transmissions));
        self.packets.push_back(sent);
        self.in_flight += 1;
    }

    /// Notes that a packet left again.
    pub(crate) fn resent(&mut self, seq: u64, now: Time, record: SendRecord) {
        let Some(sent) = self.get_mut(seq) else {
            return;
        };
        if sent.state == SentState::Sacked {
            return;
        }
        let was_lost = sent.state == SentState::Lost;
        sent.state = SentState::InFlight;
        sent.padding = 0;
        sent.transmissions = sent.transmissions.wrapping_add(1).max(2);
        sent.sent_at = now;
        sent.record = record;
        let transmissions = sent.transmissions;
        self.order.push_back((seq, transmissions));
        if was_lost {
            self.in_flight += 1;
            self.losses -= 1;
        }
    }

    /// Removes the first packet, if it is numbered below `ack`.
    pub(crate) fn pop_below(&mut self, ack: u64) -> Option<Sent> {
        if self.first >= ack {
            return None;
        }
        let sent = self.packets.pop_front()?;
        self.first += 1;
        self.count_out(sent.state);
        if sent.state == SentState::Sacked {
            self.sacked -= 1;
        }
        if self.packets.is_empty() {
            self.order.clear();
            self.lost.clear();
        }
        Some(sent)
    }

    /// Marks one packet as arrived; gives it back if that is news.
    pub(crate) fn sack(&mut self, seq: u64) -> Option<Sent> {
        let sent = self.get_mut(seq)?;
        let before = sent.clone();
        if before.state == SentState::Sacked {
            return None;
        }
        sent.state = SentState::Sacked;
        self.count_out(before.state);
        self.sacked += 1;
        Some(before)
    }

    fn count_out(&mut self, state: SentState) {
        match state {
            SentState::InFlight => self.in_flight -= 1,
            SentState::Lost => self.losses -= 1,
            SentState::Sacked => {}
        }
    }

    /// The packet in flight that left first.
    pub(crate) fn oldest(&mut self) -> Option<(u64, &Sent)> {
        while let Some(&(seq, transmissions)) = self.order.front() {
            let current = self.get(seq).is_some_and(|sent| {
                sent.state == SentState::InFlight && sent.transmissions == transmissions
            });
            if current {
                return self.get(seq).map(|sent| (seq, sent));
            }
            self.order.pop_front();
        }
        None
    }

    /// Marks a packet in flight as lost; gives back the padding that made it a probe.
    pub(crate) fn mark_lost(&mut self, seq: u64) -> u8 {
        let Some(sent) = self.get_mut(seq) else {
            return 0;
        };
        let padding = std::mem::take(&mut sent.padding);
        if sent.state == SentState::InFlight {
            sent.state = SentState::Lost;
            self.in_flight -= 1;
            self.losses += 1;
            self.lost.push_back(seq);
        }
        padding
    }

    /// Marks the first packet as lost and all others that left by `cutoff`, to be sent again in
    /// order; gives back how many packets that is and whether one was a probe.
    pub(crate) fn mark_lost_until(&mut self, cutoff: Time) -> (u32, bool) {
        self.lost.clear();
        let mut marked = 0;
        let mut probe = false;
        for (seq, sent) in (self.first..).zip(&mut self.packets) {
            let overdue = seq == self.first || sent.sent_at <= cutoff;
            if sent.state == SentState::InFlight && overdue {
                marked += 1;
                probe |= std::mem::take(&mut sent.padding) > 0;
                sent.state = SentState::Lost;
            }
            if sent.state == SentState::Lost {
                self.lost.push_back(seq);
            }
        }
        self.in_flight -= marked;
        self.losses += marked;
        (marked, probe)
    }

    /// The highest packet that may still be under way.
    pub(crate) fn last_in_flight(&self) -> Option<u64> {
        let back = self.packets.iter().rev().position(|sent| sent.state == SentState::InFlight)?;
        Some(self.next() - 1 - back as u64)
    }

    /// The path is another one: marks all that is under way as lost, to be sent again in order. What of
    /// it arrives all the same says nothing of the new path.
    pub(crate) fn leave_path(&mut self, now: Time) {
        self.mark_lost_until(now);
        for sent in &mut self.packets {
            sent.elsewhere = true;
        }
    }

    /// The next packet to send again.
    pub(crate) fn next_lost(&mut self) -> Option<u64> {
        while let Some(&seq) = self.lost.front() {
            if self.get(seq).is_some_and(|sent| sent.state == SentState::Lost) {
                return Some(seq);
            }
            self.lost.pop_front();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(count: u64) -> InFlight {
        let mut window = InFlight::default();
        for seq in 0..count {
            window.push(Sent {
                offset: seq,
                len: 1,
                padding: 0,
                end: false,
                state: SentState::InFlight,
                transmissions: 1,
                sent_at: Time::from_micros(seq),
                record: SendRecord::default(),
                elsewhere: false,
            });
        }
        window
    }

    #[test]
    fn a_packet_is_counted_in_one_state_only() {
        let mut window = window(4);
        window.sack(2);
        assert!(window.sack(2).is_none(), "arriving twice is no news");
        window.mark_lost(0);
        window.mark_lost(0);
        assert_eq!((window.count(), window.sacked(), window.lost()), (2, 1, 1));
        assert_eq!(window.next_lost(), Some(0));
        window.resent(0, Time::from_micros(9), SendRecord::default());
        assert_eq!((window.count(), window.lost()), (3, 0));
        assert_eq!(window.next_lost(), None);
        while window.pop_below(3).is_some() {}
        assert_eq!((window.count(), window.sacked(), window.lost()), (1, 0, 0));
        assert_eq!((window.first(), window.next()), (3, 4));
    }

    #[test]
    fn the_oldest_is_the_one_sent_longest_ago_last() {
        let mut window = window(3);
        assert_eq!(window.oldest().unwrap().0, 0);
        window.mark_lost(0);
        window.resent(0, Time::from_micros(9), SendRecord::default());
        assert_eq!(window.oldest().unwrap().0, 1);
        window.sack(1);
        window.sack(2);
        assert_eq!(window.oldest().unwrap().0, 0);
    }

    #[test]
    fn a_timeout_sends_what_is_overdue_again_in_order() {
        let mut window = window(4);
        window.mark_lost(2);
        window.sack(1);
        assert_eq!(window.mark_lost_until(Time::from_micros(2)), (1, false));
        assert_eq!((window.count(), window.lost()), (1, 2));
        let mut order = Vec::new();
        while let Some(seq) = window.next_lost() {
            order.push(seq);
            window.resent(seq, Time::from_micros(9), SendRecord::default());
        }
        assert_eq!(order, [0, 2]);
    }
}
