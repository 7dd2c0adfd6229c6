//! Puts packets back into order.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;

use super::inbox::{FrameTooLong, Inbox};
use crate::udx::{MAX_SACK_BLOCKS, SackBlock, Seq};

/// The receiving half of a stream.
#[derive(Debug)]
pub(crate) struct Reassembly {
    next: u64,
    /// Packets that came before their turn, by number.
    early: BTreeMap<u64, Early>,
    early_bytes: usize,
    /// The numbers of `early` as runs, ascending.
    runs: Vec<Range<u64>>,
    /// The packet that came last, early or once more.
    latest: u64,
    /// Number of the END packet, once seen.
    end: Option<u64>,
    inbox: Inbox,
    window: usize,
}

#[derive(Debug)]
struct Early {
    payload: Bytes,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It was the next one; the reader has more.
    InOrder,
    /// It is kept until the packets before it come.
    Early,
    /// It had come already.
    Duplicate,
    /// It lies beyond what this side is ready to keep, or behind the END.
    Refused,
}

impl Reassembly {
    /// Expects packet 0 first and lets the reader lag by `window` bytes.
    pub(crate) const fn new(inbox: Inbox, window: usize) -> Self {
        Self {
            next: 0,
            early: BTreeMap::new(),
            early_bytes: 0,
            runs: Vec::new(),
            latest: 0,
            end: None,
            inbox,
            window,
        }
    }

    /// Takes a DATA or END packet.
    pub(crate) fn insert(
        &mut self,
        seq: u64,
        payload: &[u8],
        end: bool,
    ) -> Result<Arrival, FrameTooLong> {
        if seq < self.next || self.early.contains_key(&seq) {
            self.latest = seq;
            return Ok(Arrival::Duplicate);
        }
        if self.end.is_some_and(|end| seq > end) || !self.has_room(seq, payload.len()) {
            return Ok(Arrival::Refused);
        }
        if end {
            self.end.get_or_insert(seq);
        }
        if seq > self.next {
            self.keep(seq, payload);
            self.latest = seq;
            return Ok(Arrival::Early);
        }
        self.inbox.push(payload)?;
        self.next += 1;
        self.drain_early()?;
        Ok(Arrival::InOrder)
    }

    fn has_room(&self, seq: u64, len: usize) -> bool {
        if seq == self.next {
            return self.inbox.buffered() + len <= self.window + WINDOW_SLACK;
        }
        seq - self.next <= MAX_EARLY_DISTANCE && self.early_bytes + len <= self.window
    }

    fn keep(&mut self, seq: u64, payload: &[u8]) {
        self.early_bytes += payload.len();
        let payload = Bytes::copy_from_slice(payload);
        self.early.insert(seq, Early { payload });

        let at = self.runs.partition_point(|run| run.end < seq);
        match self.runs.get_mut(at) {
            Some(run) if run.end == seq => {
                run.end += 1;
                let end = run.end;
                if let Some(next) = self.runs.get(at + 1).cloned()
                    && next.start == end
                {
                    self.runs.remove(at + 1);
                    if let Some(run) = self.runs.get_mut(at) {
                        run.end = next.end;
                    }
                }
            }
            Some(run) if run.start == seq + 1 => run.start = seq,
            _ => self.runs.insert(at, seq..seq + 1),
        }
    }

    fn drain_early(&mut self) -> Result<(), FrameTooLong> {
        while let Some(entry) = self.early.first_entry()
            && *entry.key() == self.next
        {
            let Early { payload } = entry.remove();
            self.early_bytes -= payload.len();
            self.next += 1;
            self.inbox.push_shared(payload)?;
        }
        while let Some(first) = self.runs.first_mut() {
            if first.end <= self.next {
                self.runs.remove(0);
            } else {
                first.start = first.start.max(self.next);
                break;
            }
        }
        Ok(())
    }

    /// The next packet expected, which is what a cumulative acknowledgement says.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether packets are missing in between.
    pub(crate) fn has_gap(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Whether everything up to and with the END has come.
    pub(crate) fn is_ended(&self) -> bool {
        self.end.is_some_and(|end| self.next > end)
    }

    /// The SACK blocks to send, ascending. Of more than a packet carries, those up to the packet that
    /// came last: the peer knows of those before. (The reference tells the lowest ones each time, so that
    /// its peer takes what lies beyond for lost, or waits for it.)
    pub(crate) fn sack_blocks(&self) -> impl Iterator<Item = SackBlock> {
        let told = self.runs.partition_point(|run| run.end <= self.latest) + 1;
        self.runs
            .iter()
            .skip(told.saturating_sub(MAX_SACK_BLOCKS))
            .take(MAX_SACK_BLOCKS)
            .map(|run| SackBlock { start: Seq::wrap(run.start), end: Seq::wrap(run.end) })
    }

    /// Bytes that the peer may send beyond `next`.
    pub(crate) fn window(&self) -> u32 {
        u32::try_from(self.window.saturating_sub(self.inbox.buffered())).unwrap_or(u32::MAX)
    }

    /// What waits for the reader.
    pub(crate) const fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// What waits for the reader.
    pub(crate) const fn inbox_mut(&mut self) -> &mut Inbox {
        &mut self.inbox
    }

    /// Forgets what cannot be delivered any more.
    pub(crate) fn forget_early(&mut self) {
        self.early.clear();
        self.early_bytes = 0;
        self.runs = Vec::new();
    }
}

/// Packets are kept up to this far ahead of the one that is missing: the default window in
/// packets, four times. About 100 bytes of bookkeeping each, beside their payload, which is
/// bounded by the window.
const MAX_EARLY_DISTANCE: u64 = 16 * 1024;
/// What a peer may send above the window, which it counts in packets: libudx rounds up to one.
const WINDOW_SLACK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reassembly() -> Reassembly {
        Reassembly::new(Inbox::bytes(), 10_000)
    }

    fn blocks(reassembly: &Reassembly) -> Vec<(u32, u32)> {
        reassembly.sack_blocks().map(|block| (block.start.value(), block.end.value())).collect()
    }

    proptest! {
        #[test]
        fn any_order_and_any_duplicates_give_the_bytes_once(
            order in prop::collection::vec(0u8..40, 0..200)
        ) {
            let mut reassembly = reassembly();
            let mut seen = std::collections::BTreeSet::new();
            for byte in order.into_iter().chain(0..40) {
                let seq = u64::from(byte);
                let arrival = reassembly.insert(seq, &[byte, 1], seq == 39).unwrap();
                prop_assert_eq!(arrival == Arrival::Duplicate, !seen.insert(seq));
                // The runs are the received numbers beyond the cumulative one, merged.
                let from_runs: Vec<u64> = reassembly.runs.iter().cloned().flatten().collect();
                let expected: Vec<u64> = reassembly.early.keys().copied().collect();
                prop_assert_eq!(from_runs, expected);
                prop_assert!(reassembly.runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
            prop_assert!(reassembly.is_ended() && !reassembly.has_gap());
            let mut read = Vec::new();
            while let Some(chunk) = reassembly.inbox_mut().pop() {
                read.extend(chunk);
            }
            prop_assert_eq!(read, (0..40).flat_map(|seq| [seq, 1]).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn blocks_are_those_of_the_reference() {
        // The order of arrival of `tests/vectors/udx.json`.
        let mut reassembly = reassembly();
        for (seq, expected) in [
            (1, vec![(1, 2)]),
            (2, vec![(1, 3)]),
            (4, vec![(1, 3), (4, 5)]),
            (0, vec![(4, 5)]),
            (3, vec![]),
        ] {
            reassembly.insert(seq, &[0], false).unwrap();
            assert_eq!(blocks(&reassembly), expected);
        }
        assert_eq!(reassembly.next(), 5);
    }

    #[test]
    fn of_many_blocks_those_up_to_the_last_arrival_are_told() {
        let mut reassembly = reassembly();
        let run = |n: u32| (2 * n + 1, 2 * n + 2);
        for n in 0..60 {
            reassembly.insert(2 * n + 1, &[0], false).unwrap();
        }
        assert_eq!(blocks(&reassembly), (10..60).map(run).collect::<Vec<_>>());
        // One that the peer takes for lost.
        assert_eq!(reassembly.insert(5, &[0], false), Ok(Arrival::Duplicate));
        assert_eq!(blocks(&reassembly), (0..50).map(run).collect::<Vec<_>>());
        reassembly.insert(111, &[0], false).unwrap();
        assert_eq!(blocks(&reassembly), (6..56).map(run).collect::<Vec<_>>());
        reassembly.insert(1000, &[0], false).unwrap();
        assert_eq!(blocks(&reassembly).last(), Some(&(1000, 1001)));
    }

    #[test]
    fn what_lies_too_far_ahead_or_exceeds_the_window_is_refused() {
        let mut reassembly = reassembly();
        let far = MAX_EARLY_DISTANCE + 1;
        assert_eq!(reassembly.insert(far, &[], false), Ok(Arrival::Refused));
        assert_eq!(reassembly.insert(1, &[0; 10_000], false), Ok(Arrival::Early));
        assert_eq!(reassembly.insert(2, &[0], false), Ok(Arrival::Refused));
        assert_eq!(reassembly.insert(0, &[0; 10_000], false), Ok(Arrival::InOrder));
        assert_eq!(reassembly.window(), 0);
    }

    #[test]
    fn nothing_is_taken_behind_the_end() {
        let mut reassembly = reassembly();
        assert_eq!(reassembly.insert(1, &[], true), Ok(Arrival::Early));
        assert_eq!(reassembly.insert(2, &[7], false), Ok(Arrival::Refused));
        assert!(!reassembly.is_ended());
        assert_eq!(reassembly.insert(0, &[], false), Ok(Arrival::InOrder));
        assert!(reassembly.is_ended());
    }
}
