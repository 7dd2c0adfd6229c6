//! Frames that wait for the stream below.

use std::collections::VecDeque;

use bytes::Bytes;
use hyperdht_encoding::varint_len;

use crate::{
    Limits,
    frame::{batch_frame, batch_item_len},
};

/// The queue of frames to send. It never refuses: who fills it asks [`Transmit::has_room`] first.
#[derive(Debug, Default)]
pub(super) struct Transmit {
    frames: VecDeque<Bytes>,
    bytes: usize,
    corks: usize,
    batch: Vec<(u64, Bytes)>,
    batch_bytes: usize,
}

impl Transmit {
    /// Whether the queue is below its bounds.
    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        self.bytes + self.batch_bytes < limits.transmit_bytes
            && self.frames.len() + self.batch.len() < limits.transmit_frames
    }

    /// Queues a frame that begins with the id of `channel`, or puts it into the batch while corked.
    pub(super) fn push(&mut self, channel: u64, frame: Bytes, limits: &Limits) {
        if self.corks == 0 {
            self.bytes += frame.len();
            self.frames.push_back(frame);
            return;
        }
        let item = frame.slice(varint_len(channel).min(frame.len())..);
        let cost = batch_item_len(channel, item.len());
        if 2 + self.batch_bytes + cost > limits.frame_bytes.min(BATCH_BYTES) {
            self.flush_batch();
        }
        self.batch_bytes += cost;
        self.batch.push((channel, item));
    }

    pub(super) fn cork(&mut self) {
        self.corks += 1;
    }

    pub(super) fn uncork(&mut self) {
        self.corks = self.corks.saturating_sub(1);
        if self.corks == 0 {
            self.flush_batch();
        }
    }

    fn flush_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let frame = batch_frame(&self.batch);
        self.batch.clear();
        self.batch_bytes = 0;
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.batch.is_empty()
    }
}

/// Where protomux 3.12 begins another batch.
const BATCH_BYTES: usize = 8 << 20;
