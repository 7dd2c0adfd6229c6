//! Fills datagrams with what a stream has to say.

use super::{
    Finish, Stream,
    in_flight::{Sent, SentState},
};
use crate::udx::{AckPolicy, Flags, HEADER_LEN, Header, Seq, Time, time::MILLISECOND};

/// A packet that may leave.
enum Departure {
    /// One that left before.
    Again { seq: u64 },
    /// The next bytes of the stream.
    New { len: usize, padding: u8, end: bool },
}

impl Stream {
    /// Appends packets of one length to `wire`, the last may be shorter, and gives back that
    /// length; `None` when there is nothing to send now.
    pub(crate) fn poll_transmit(
        &mut self,
        now: Time,
        wire: &mut Vec<u8>,
        max_segments: usize,
    ) -> Option<usize> {
        if self.remote.is_none() || self.closed.is_some() {
            return None;
        }
        if let Some(message) = self.messages_out.pop_front() {
            self.write_header(now, Flags::MESSAGE, wire);
            wire.extend_from_slice(&message);
            return Some(wire.len());
        }
        // Every packet carries the cumulative acknowledgement; a packet of its own is for peers
        // that must learn of a gap, and for when nothing else is to be sent.
        let explicit = self.reassembly.has_gap() || self.config.acks == AckPolicy::EveryPacket;
        if self.acks.is_due(now) && explicit {
            return Some(self.write_ack(now, wire));
        }
        if let Some(segment) = self.write_packets(now, wire, max_segments) {
            return Some(segment);
        }
        if std::mem::take(&mut self.heartbeat_due) {
            return Some(self.write_header(now, Flags::HEARTBEAT, wire));
        }
        self.acks.is_due(now).then(|| self.write_ack(now, wire))
    }

    /// Appends the acknowledgement that is for one packet alone, if one is due, and gives back its
    /// length.
    pub(crate) fn poll_ack(&mut self, now: Time, wire: &mut Vec<u8>) -> Option<usize> {
        let alone = self.acks.is_due_alone() && self.remote.is_some() && self.closed.is_none();
        alone.then(|| self.write_ack(now, wire))
    }

    fn write_packets(
        &mut self,
        now: Time,
        wire: &mut Vec<u8>,
        max_segments: usize,
    ) -> Option<usize> {
        let paced = self.is_paced();
        if paced {
            let rate = self.congestion.pacing_rate();
            self.pacer.credit(now, rate, self.mtu.payload() as u64);
        }
        let mut segment = None;
        for _ in 0..max_segments {
            let Some((departure, len)) = self.next_departure() else {
                break;
            };
            if segment.is_some_and(|segment| len > segment || wire.len() + len > MAX_BATCH_LEN) {
                break;
            }
            if paced && !self.forced && !self.pacer.allows() {
                let rate = self.congestion.pacing_rate();
                let ready_at = self.pacer.ready_at(rate, self.mtu.payload() as u64);
                self.timers.pace_at = Some(ready_at);
                break;
            }
            self.pacer.spend(len as u64);
            self.write_departure(now, departure, wire);
            if len < *segment.get_or_insert(len) {
                break;
            }
        }
        self.note_limits(now);
        segment
    }

    /// Paths shorter than the ticks of a timer are left to the window.
    fn is_paced(&self) -> bool {
        self.rtt.smoothed().is_some_and(|smoothed| smoothed >= MIN_PACED_RTT)
    }

    /// The packet that should leave next and its length on the wire.
    fn next_departure(&mut self) -> Option<(Departure, usize)> {
        let count = self.in_flight.count();
        let allowed = count < self.congestion.window() || count == 0 || self.forced;
        if !allowed {
            return None;
        }
        let again = self.in_flight.next_lost();
        let departure = match again {
            Some(seq) => Departure::Again { seq },
            None => match self.new_packet() {
                Some(new) => new,
                None if self.tail_probe_due => {
                    Departure::Again { seq: self.in_flight.last_in_flight()? }
                }
                None => return None,
            },
        };
        let len = match departure {
            Departure::Again { seq } => usize::from(self.in_flight.get(seq)?.len),
            Departure::New { len, padding, .. } => len + usize::from(padding),
        };
        Some((departure, HEADER_LEN + len))
    }

    fn new_packet(&self) -> Option<Departure> {
        if self.in_flight.next() - self.in_flight.first() >= MAX_OUTSTANDING {
            return None;
        }
        let unsent = usize::try_from(self.unsent()).unwrap_or(usize::MAX);
        let ending = self.finish == Finish::Queued;
        if unsent == 0 {
            return ending.then_some(Departure::New { len: 0, padding: 0, end: true });
        }
        let full = self.mtu.payload();
        let mut len = unsent.min(full);
        let room = self.peer_room();
        if len > room {
            // Wait for more room rather than send crumbs, unless nothing would ever bring it.
            if room == 0 || !self.in_flight.is_empty() {
                return None;
            }
            len = room;
        }
        let probing = len == full && !self.tail_probe_due && self.change_done_at.is_none();
        Some(Departure::New {
            len,
            padding: self.mtu.padding().filter(|_| probing).unwrap_or(0),
            end: ending && len == unsent,
        })
    }

    /// Bytes that the peer has room for beyond those under way.
    fn peer_room(&self) -> usize {
        let under_way = self.buffer.len() - self.unsent();
        let window = self.peer_window.bytes.min(MAX_PEER_WINDOW);
        let room = u64::from(window).saturating_sub(under_way);
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    fn write_departure(&mut self, now: Time, departure: Departure, wire: &mut Vec<u8>) {
        let count = self.in_flight.count();
        self.congestion.on_send(now, count, self.delivery.is_app_limited());
        let record = self.delivery.on_send(now, count);
        match departure {
            Departure::Again { seq } => {
                self.in_flight.resent(seq, now, record);
                self.counts.retransmissions += 1;
                self.write_data(now, seq, wire);
                if !self.tail_probe_due {
                    self.arm_tail_probe(now);
                }
            }
            Departure::New { len, padding, end } => {
                if self.in_flight.is_empty() {
                    self.timers.waiting_since = now;
                }
                let seq = self.in_flight.next();
                self.in_flight.push(Sent {
                    offset: self.sent_offset,
                    len: u16::try_from(len).unwrap_or(u16::MAX),
                    padding,
                    end,
                    state: SentState::InFlight,
                    transmissions: 1,
                    sent_at: now,
                    record,
                    elsewhere: false,
                });
                self.sent_offset += len as u64;
                if end {
                    self.finish = Finish::Sent;
                }
                if padding > 0 {
                    self.mtu.on_probe_sent();
                }
                self.write_data(now, seq, wire);
                self.arm_tail_probe(now);
            }
        }
        self.forced = false;
        self.tail_probe_due = false;
    }

    fn write_data(&mut self, now: Time, seq: u64, wire: &mut Vec<u8>) {
        let Some(sent) = self.in_flight.get(seq) else {
            return;
        };
        let mut flags = Flags::ACK;
        if sent.len > 0 {
            flags = flags.with(Flags::DATA);
        }
        if sent.end {
            flags = flags.with(Flags::END);
        }
        let (offset, len, padding) = (sent.offset, usize::from(sent.len), sent.padding);
        self.write_header_with(now, flags, padding, seq, wire);
        wire.resize(wire.len() + usize::from(padding), 0);
        self.buffer.copy(offset, len, wire);
        self.counts.bytes_sent += len as u64;
        self.acks.paid_with_data(now);
    }

    fn write_ack(&mut self, now: Time, wire: &mut Vec<u8>) -> usize {
        self.acks.paid_alone(now);
        if !self.reassembly.has_gap() {
            return self.write_header(now, Flags::ACK, wire);
        }
        self.write_header(now, Flags::SACK, wire);
        for block in self.reassembly.sack_blocks() {
            block.encode(wire);
        }
        wire.len()
    }

    fn write_header(&mut self, now: Time, flags: Flags, wire: &mut Vec<u8>) -> usize {
        self.write_header_with(now, flags, 0, self.in_flight.next(), wire);
        wire.len()
    }

    fn write_header_with(
        &mut self,
        now: Time,
        flags: Flags,
        data_offset: u8,
        seq: u64,
        wire: &mut Vec<u8>,
    ) {
        let Some(remote) = &self.remote else {
            return;
        };
        self.advertised = self.reassembly.window();
        self.timers.sent_at = now;
        self.counts.packets_sent += 1;
        let header = Header {
            flags,
            data_offset,
            stream_id: remote.id,
            window: self.advertised,
            seq: Seq::wrap(seq),
            ack: Seq::wrap(self.reassembly.next()),
        };
        wire.extend_from_slice(&header.to_bytes());
    }

    /// Notes what keeps the stream from sending more: its application, or its peer.
    fn note_limits(&mut self, now: Time) {
        let count = self.in_flight.count();
        let unsent = self.unsent();
        if unsent < self.mtu.payload() as u64
            && count < self.congestion.window()
            && self.in_flight.lost() == 0
        {
            self.delivery.set_app_limited(count);
        }
        let stuck = unsent > 0 && self.in_flight.is_empty() && self.peer_window.bytes == 0;
        if stuck && self.timers.window_probe.is_none() {
            self.probe_window(now);
        }
        self.note_room();
    }
}

/// A peer that acknowledges everything but the first packet cannot make more than this be kept.
const MAX_PEER_WINDOW: u32 = 32 * 1024 * 1024;
/// Nor more packets than this, of about 100 bytes of bookkeeping each.
const MAX_OUTSTANDING: u64 = 32 * 1024;
/// Below this round-trip time packets leave as the window allows.
const MIN_PACED_RTT: u64 = 2 * MILLISECOND;
/// Bytes of one batch; the kernel takes up to 65,507 in one segmented send.
const MAX_BATCH_LEN: usize = 65_000;
