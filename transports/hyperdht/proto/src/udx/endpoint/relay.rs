//! Packets on their way through a relay.

use std::collections::VecDeque;

use super::Transmit;
use crate::udx::{MAX_DATAGRAM_LEN, Path, stream::Remote};

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
