//! Streams that have ended here and perhaps not at their peers.
//!
//! libudx forgets a stream at once; whoever lost its last acknowledgement then repeats its END into
//! the void for 13 seconds. Keeping what is needed to answer is compatible and kinder.

use std::collections::{BTreeMap, VecDeque};

use crate::udx::{
    Flags, HEADER_LEN, Header, Path, StreamError, Time, stream::Stream, time::SECOND,
};

/// What is left of ended streams, by id.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    ended: BTreeMap<u32, Ended>,
    /// Ids in the order in which they expire.
    order: VecDeque<(Time, u32)>,
}

#[derive(Debug)]
struct Ended {
    path: Path,
    answer: Header,
    until: Time,
}

impl Lingering {
    /// Keeps what may be asked of a stream that just closed.
    pub(crate) fn insert(&mut self, now: Time, id: u32, stream: &Stream) {
        let flags = match stream.closed {
            Some(Ok(())) => Flags::ACK,
            Some(Err(StreamError::Destroyed | StreamError::FrameTooLong)) => Flags::DESTROY,
            Some(Err(StreamError::Reset | StreamError::TimedOut)) | None => return,
        };
        let Some(remote) = stream.remote else {
            return;
        };
        if self.order.len() >= MAX_LINGERING {
            self.forget_oldest();
        }
        let until = now.after(LINGER);
        self.order.push_back((until, id));
        self.ended
            .insert(id, Ended { path: remote.path, answer: stream.farewell(remote, flags), until });
    }

    /// Answers a late packet: `None` if nobody knows the stream, `Some(None)` if there is nothing
    /// to say. At most 20 bytes leave for the 20 or more that came.
    pub(crate) fn answer(&self, header: &Header) -> Option<Option<(Path, [u8; HEADER_LEN])>> {
        let ended = self.ended.get(&header.stream_id)?;
        let asks = header.flags.intersects(Flags::DATA.with(Flags::END).with(Flags::HEARTBEAT));
        Some(asks.then(|| (ended.path, ended.answer.to_bytes())))
    }

    /// A new stream has that id.
    pub(crate) fn remove(&mut self, id: u32) {
        self.ended.remove(&id);
    }

    pub(crate) fn expire(&mut self, now: Time) {
        while self.deadline().is_some_and(|until| until <= now) {
            self.forget_oldest();
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.order.front().map(|(until, _)| *until)
    }

    fn forget_oldest(&mut self) {
        if let Some((until, id)) = self.order.pop_front()
            && self.ended.get(&id).is_some_and(|ended| ended.until == until)
        {
            self.ended.remove(&id);
        }
    }
}

/// A peer repeats an unacknowledged END 1, 3, 5, 7 and 9 seconds after it first sent it.
const LINGER: u64 = 10 * SECOND;
/// Ended streams that are remembered, of about 120 bytes each; the oldest goes first.
const MAX_LINGERING: usize = 4096;
