//! Works through packets of a live stream.

use bytes::Bytes;

use super::{Finish, Stream, reassembly::Arrival};
use crate::udx::{Body, Counters, Flags, Header, Path, Seq, StreamError, Time};

impl Stream {
    /// Takes a packet that passed the firewall. The order of steps is that of `process_packet` in
    /// libudx.
    pub(crate) fn handle_packet(
        &mut self,
        now: Time,
        header: &Header,
        rest: &[u8],
        counters: &mut Counters,
    ) {
        self.on_sign_of_life();
        if header.flags.contains(Flags::HEARTBEAT) {
            self.acks.owe_now();
            return;
        }
        let Ok(body) = header.body(rest) else {
            counters.malformed += 1;
            return;
        };
        if self.take_reliable(now, header, &body, counters) {
            return;
        }
        if header.flags.contains(Flags::MESSAGE) {
            self.take_message(body.payload, counters);
        }
        let first = self.in_flight.first();
        match header.ack.near(first) {
            // Older than what is known: a packet that was overtaken.
            None => {}
            Some(ack) if ack > self.in_flight.next() => {
                counters.bad_acks += 1;
                return;
            }
            Some(ack) => self.on_ack(now, header, ack, body.sacks, counters),
        }
        if self.finish == Finish::Acknowledged && self.reassembly.is_ended() {
            self.close(Ok(()));
        }
    }

    /// Notes whence a packet came that was just taken. What a peer sends over the new path, it sends
    /// after all that went over the old one: messages when that was acknowledged, data under higher
    /// numbers.
    pub(crate) fn on_arrival(&mut self, from: Path, header: &Header) {
        let Some(moved) = &mut self.moved else { return };
        let new_path = self.remote.is_some_and(|remote| remote.path == from);
        moved.answers |= new_path;
        let next = self.reassembly.next();
        let mut confirmed = new_path && header.flags.contains(Flags::MESSAGE);
        if new_path && header.flags.intersects(Flags::DATA.with(Flags::END)) {
            let seq = header.seq.near(next).unwrap_or(0);
            moved.first = Some(moved.first.map_or(seq, |first| first.min(seq)));
        }
        confirmed |= moved.first.is_some_and(|first| first < next);
        if confirmed {
            self.moved = None;
            self.ready.remote_confirmed = true;
        }
    }

    /// A packet with this number was relayed to the peer.
    pub(crate) fn on_passed(&mut self, seq: Seq) {
        if let Some(seq) = seq.near(self.passed) {
            self.passed = self.passed.max(seq + 1);
        }
    }

    /// Takes data, END and DESTROY; says whether the stream is closed now.
    fn take_reliable(
        &mut self,
        now: Time,
        header: &Header,
        body: &Body<'_>,
        counters: &mut Counters,
    ) -> bool {
        let expected = self.reassembly.next();
        let seq = header.seq.near(expected);
        if header.flags.contains(Flags::DESTROY) {
            if seq.is_some_and(|seq| seq >= expected) {
                self.close(Err(StreamError::Reset));
                return true;
            }
            counters.stale_destroys += 1;
        }
        if !header.flags.intersects(Flags::DATA.with(Flags::END)) {
            return false;
        }
        let end = header.flags.contains(Flags::END);
        let payload = match header.flags.contains(Flags::DATA) {
            true => body.payload,
            false => &[],
        };
        let had_gap = self.reassembly.has_gap();
        // A number from before the first packet of all is as much a duplicate as any other.
        let arrival =
            seq.map_or(Ok(Arrival::Duplicate), |seq| self.reassembly.insert(seq, payload, end));
        match arrival {
            Err(_) => {
                self.destroy_because(StreamError::FrameTooLong);
                return true;
            }
            Ok(Arrival::InOrder) => {
                self.counts.bytes_received += payload.len() as u64;
                self.ready.readable |=
                    self.reassembly.inbox().is_readable() || self.reassembly.is_ended();
            }
            Ok(Arrival::Early) => self.counts.bytes_received += payload.len() as u64,
            Ok(Arrival::Duplicate) => counters.duplicates += 1,
            Ok(Arrival::Refused) => counters.beyond_window += 1,
        }
        if had_gap || arrival == Ok(Arrival::Early) {
            self.acks.on_gap(now, self.rtt.smoothed());
        } else if end || arrival != Ok(Arrival::InOrder) {
            self.acks.owe_now();
        } else {
            self.acks.on_packet(now, payload.len());
        }
        false
    }

    fn take_message(&mut self, payload: &[u8], counters: &mut Counters) {
        if self.messages_in.len() >= MAX_MESSAGES {
            counters.dropped_messages += 1;
            return;
        }
        self.messages_in.push_back(Bytes::copy_from_slice(payload));
        self.ready.message = true;
    }
}

/// Unordered messages that wait for the reader or for the socket: 128 KiB per direction at most.
pub(crate) const MAX_MESSAGES: usize = 64;
