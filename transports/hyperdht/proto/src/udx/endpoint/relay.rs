//! Packets on their way through a relay.

use std::collections::VecDeque;

use super::{Counters, Endpoint, Entry, Transmit};
use crate::udx::{Flags, Header, MAX_DATAGRAM_LEN, Path, StreamError, StreamKey, stream::Remote};

impl Endpoint {
    /// Forwards a packet, and notices when that was the last one.
    pub(super) fn relay_packet(
        &mut self,
        from: StreamKey,
        to: StreamKey,
        header: &Header,
        datagram: &[u8],
    ) {
        let target = self.table.get_mut(to).filter(|to| to.stream.closed.is_none());
        let is_open = target.is_some();
        let queued = target.is_some_and(|to| to.pass_on(header, datagram, &mut self.relayed));
        if is_open && !queued {
            self.counters.dropped_relayed += 1;
        }
        let Some(entry) = self.table.get_mut(from) else { return };
        if queued {
            entry.stream.counts.bytes_relayed += datagram.len() as u64;
        }
        if header.flags.contains(Flags::DESTROY) {
            entry.stream.close(Err(StreamError::Reset));
        } else if !is_open {
            entry.stream.close(Err(StreamError::Destroyed));
        }
    }
}

impl Entry {
    /// Queues a packet for the stream's peer, or keeps it until that is known; says whether there
    /// was room.
    fn pass_on(&mut self, header: &Header, datagram: &[u8], queue: &mut RelayQueue) -> bool {
        self.stream.on_passed(header.seq);
        if let Some(remote) = self.stream.remote {
            return queue.push(remote, datagram);
        }
        let room = self.held.len() < MAX_HELD && datagram.len() <= MAX_DATAGRAM_LEN;
        if room {
            self.held.push(datagram.into());
        }
        room
    }

    /// Queues what waited for the stream's peer, if that is known now.
    pub(super) fn pass_on_held(&mut self, queue: &mut RelayQueue, counters: &mut Counters) {
        let Some(remote) = self.stream.remote.filter(|_| !self.held.is_empty()) else { return };
        for datagram in std::mem::take(&mut self.held) {
            counters.dropped_relayed += u64::from(!queue.push(remote, &datagram));
        }
    }
}

/// Forwarded packets that wait for the socket.
#[derive(Debug, Default)]
pub(crate) struct RelayQueue {
    /// Their bytes, one after another.
    bytes: Vec<u8>,
    taken: usize,
    packets: VecDeque<(Path, usize)>,
}

impl RelayQueue {
    /// Queues `datagram`, addressed anew to `to`; says whether there was room.
    pub(crate) fn push(&mut self, to: Remote, datagram: &[u8]) -> bool {
        let Some((head, rest)) = datagram.split_at_checked(ID_OFFSET) else {
            return false;
        };
        let Some((_, tail)) = rest.split_at_checked(size_of::<u32>()) else {
            return false;
        };
        if self.packets.len() >= MAX_PACKETS || datagram.len() > MAX_DATAGRAM_LEN {
            return false;
        }
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(&to.id.to_le_bytes());
        self.bytes.extend_from_slice(tail);
        self.packets.push_back((to.path, datagram.len()));
        true
    }

    /// Moves packets of one length to one destination to `wire`; the last may be shorter.
    pub(crate) fn pop(&mut self, wire: &mut Vec<u8>, max_segments: usize) -> Option<Transmit> {
        let &(path, segment_len) = self.packets.front()?;
        let mut segments = 0;
        while let Some(&(next_path, len)) = self.packets.front() {
            let fits = next_path == path && len <= segment_len && wire.len() + len <= MAX_BATCH_LEN;
            if segments == max_segments.max(1) || !fits {
                break;
            }
            let packet = self.bytes.get(self.taken..self.taken + len)?;
            wire.extend_from_slice(packet);
            self.taken += len;
            self.packets.pop_front();
            segments += 1;
            if len < segment_len {
                break;
            }
        }
        if self.packets.is_empty() {
            self.bytes.clear();
            self.taken = 0;
        }
        Some(Transmit { path, segment_len })
    }
}

/// Where the stream id stands in a packet.
const ID_OFFSET: usize = 4;
/// Packets that wait at most: 1 MiB, and the same again while the front is being drained.
const MAX_PACKETS: usize = 512;
const MAX_BATCH_LEN: usize = 65_000;
/// Packets per stream that wait for its peer's first one, of 2 KiB at most: a sender's initial window
/// and what it repeats meanwhile. Without them the faster peer's first packet would come a second
/// later.
const MAX_HELD: usize = 16;
