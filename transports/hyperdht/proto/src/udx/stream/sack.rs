//! Works through acknowledgements.

use super::{Finish, Stream, in_flight::Sent};
use crate::udx::{
    Counters, Header, Sacks, Time,
    congestion::{AckSample, RateSampling, Recovery},
};

/// What one acknowledgement brought.
#[derive(Debug, Default)]
struct Progress {
    sampling: RateSampling,
    /// When the newest packet left that had left once only.
    newest_sent_at: Option<Time>,
    /// Whether anything is newly known to have arrived.
    delivered: bool,
    advanced: bool,
}

impl Stream {
    /// Takes the acknowledgement that every packet carries. `ack` is the unwrapped number, which
    /// was checked not to lie beyond what was sent.
    pub(crate) fn on_ack(
        &mut self,
        now: Time,
        header: &Header,
        ack: u64,
        sacks: Sacks<'_>,
        counters: &mut Counters,
    ) {
        self.update_peer_window(header, ack);
        let prior_in_flight = self.in_flight.count();
        let mut progress = Progress::default();
        self.acknowledge_up_to(now, ack, &mut progress);
        self.acknowledge_blocks(now, sacks, &mut progress, counters);
        if progress.advanced {
            self.on_advance(now);
        }
        let rtt = progress.newest_sent_at.map(|sent_at| now.since(sent_at));
        if let Some(rtt) = rtt {
            self.rtt.sample(now, rtt);
        }
        if progress.delivered {
            self.timers.tail_probe_out = false;
            self.detect_losses(now);
            self.arm_tail_probe(now);
        }
        if progress.sampling.packets() > 0 {
            self.report(now, &progress.sampling, prior_in_flight, rtt);
        }
        self.note_room();
    }

    /// Only a packet at least as new as the last that was listened to may move the window.
    fn update_peer_window(&mut self, header: &Header, ack: u64) {
        if ack < self.in_flight.first() {
            return;
        }
        let seq = header.seq.near(self.peer_window.seq).unwrap_or(0);
        let newer = seq > self.peer_window.seq
            || seq == self.peer_window.seq && ack >= self.peer_window.ack;
        if newer {
            self.peer_window.bytes = header.window;
            self.peer_window.seq = seq;
            self.peer_window.ack = ack;
            if header.window > 0 {
                self.timers.window_probe = None;
            }
        }
    }

    fn acknowledge_up_to(&mut self, now: Time, ack: u64, progress: &mut Progress) {
        let mut released = None;
        let mut seq = self.in_flight.first();
        while let Some(sent) = self.in_flight.pop_below(ack) {
            if sent.state != super::in_flight::SentState::Sacked {
                self.on_delivered(now, seq, &sent, progress);
            }
            if sent.end {
                self.finish = Finish::Acknowledged;
            }
            released = Some(sent.offset + u64::from(sent.len));
            seq += 1;
        }
        if let Some(offset) = released {
            self.buffer.release(offset);
            progress.advanced = true;
        }
    }

    /// Takes blocks that lie within what is in flight; others are skipped one by one. All blocks
    /// together are walked no further than the window is long, whatever they overlap.
    fn acknowledge_blocks(
        &mut self,
        now: Time,
        sacks: Sacks<'_>,
        progress: &mut Progress,
        counters: &mut Counters,
    ) {
        let (first, next) = (self.in_flight.first(), self.in_flight.next());
        let mut budget = next - first;
        for block in sacks.iter() {
            let range = block.start.near(first).zip(block.end.near(first));
            let Some((start, end)) =
                range.filter(|(start, end)| first <= *start && start < end && *end <= next)
            else {
                counters.bad_sack_blocks += 1;
                continue;
            };
            for seq in start..end.min(start + budget) {
                if let Some(sent) = self.in_flight.sack(seq) {
                    self.on_delivered(now, seq, &sent, progress);
                }
            }
            budget -= budget.min(end - start);
        }
    }

    fn on_delivered(&mut self, now: Time, seq: u64, sent: &Sent, progress: &mut Progress) {
        progress.delivered = true;
        if sent.elsewhere {
            return;
        }
        self.delivery.on_delivered(now, sent.sent_at, sent.record, &mut progress.sampling);
        self.mtu.on_delivered(sent.padding);
        self.rack.on_delivered(now, seq, sent, self.rtt.minimum());
        if sent.transmissions == 1 {
            progress.newest_sent_at = progress.newest_sent_at.max(Some(sent.sent_at));
        }
    }

    /// The first packet in flight is another one now.
    fn on_advance(&mut self, now: Time) {
        let first = self.in_flight.first();
        self.timers.waiting_since = now;
        self.timers.timeouts = 0;
        if self.in_flight.is_empty() {
            self.timers.reorder_at = None;
            self.timers.tail_probe_out = false;
        }
        if self.recovery != Recovery::Open && first >= self.repaired_at {
            self.recovery = Recovery::Open;
        }
        if self.change_done_at.is_some_and(|seq| first >= seq) {
            self.change_done_at = None;
            self.ready.remote_changed = true;
        }
    }

    fn report(
        &mut self,
        now: Time,
        sampling: &RateSampling,
        prior_in_flight: u32,
        rtt: Option<u64>,
    ) {
        let min_rtt = self.rtt.minimum().unwrap_or(0);
        self.congestion.on_ack(&AckSample {
            now,
            acked: sampling.packets(),
            lost: std::mem::take(&mut self.unreported_losses),
            prior_in_flight,
            in_flight: self.in_flight.count(),
            delivered: self.delivery.delivered(),
            prior_delivered: sampling.prior_delivered(),
            rate: self.delivery.rate(sampling, min_rtt),
            app_limited: sampling.app_limited(),
            rtt,
            packet_len: u32::try_from(self.mtu.payload()).unwrap_or(u32::MAX),
            recovery: self.recovery,
        });
    }
}
