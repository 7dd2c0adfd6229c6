//! Bytes from the first unacknowledged one to the last that the application wrote.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes addressed by their offset in the stream.
///
/// Large writes are kept as they came, without a copy; small ones are gathered into chunks, so
/// that a peer who does not acknowledge cannot make bookkeeping outgrow the data.
#[derive(Debug, Default)]
pub(crate) struct SendBuffer {
    chunks: VecDeque<Chunk>,
    start: u64,
    end: u64,
}

#[derive(Debug)]
struct Chunk {
    offset: u64,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Written(Bytes),
    Gathered(Vec<u8>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Written(bytes) => bytes,
            Data::Gathered(bytes) => bytes,
        }
    }

    fn end(&self) -> u64 {
        self.offset + self.bytes().len() as u64
    }
}

impl SendBuffer {
    /// The offset of the first byte that is not acknowledged.
    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// The offset after the last written byte.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// Bytes that are kept.
    pub(crate) const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Appends `bytes`, sharing them when they are many.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() < GATHER_BELOW {
            return self.push_slice(&bytes);
        }
        let offset = self.end;
        self.end += bytes.len() as u64;
        self.chunks.push_back(Chunk { offset, data: Data::Written(bytes) });
    }

    /// Appends a copy of `bytes`.
    pub(crate) fn push_slice(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let offset = self.end;
        self.end += bytes.len() as u64;
        if let Some(Chunk { data: Data::Gathered(last), .. }) = self.chunks.back_mut()
            && last.len() + bytes.len() <= GATHER_UP_TO
        {
            last.extend_from_slice(bytes);
            return;
        }
        self.chunks.push_back(Chunk { offset, data: Data::Gathered(bytes.to_vec()) });
    }

    /// Forgets everything before `offset`.
    pub(crate) fn release(&mut self, offset: u64) {
        self.start = offset.clamp(self.start, self.end);
        while self.chunks.front().is_some_and(|chunk| chunk.end() <= self.start) {
            self.chunks.pop_front();
        }
    }

    /// Appends `len` bytes from `offset` on to `wire`; fewer if they are not kept.
    pub(crate) fn copy(&self, offset: u64, len: usize, wire: &mut Vec<u8>) {
        let first = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        let mut offset = offset;
        let mut left = len;
        for chunk in self.chunks.iter().skip(first) {
            if left == 0 {
                break;
            }
            let Some(from) = usize::try_from(offset.wrapping_sub(chunk.offset))
                .ok()
                .and_then(|skip| chunk.bytes().get(skip..))
            else {
                break;
            };
            let part = from.get(..left).unwrap_or(from);
            wire.extend_from_slice(part);
            offset += part.len() as u64;
            left -= part.len();
        }
    }
}

/// Writes shorter than this are copied together.
const GATHER_BELOW: usize = 1024;
/// A gathered chunk grows up to this.
const GATHER_UP_TO: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_range_is_what_was_written(
            writes in prop::collection::vec((0usize..3000, any::<bool>()), 1..20),
            from in 0usize..10_000, len in 0usize..3000, released in 0usize..10_000,
        ) {
            let mut buffer = SendBuffer::default();
            let mut all = Vec::<u8>::new();
            for (len, shared) in writes {
                let bytes: Vec<u8> = (0..=250).cycle().skip(all.len() % 251).take(len).collect();
                all.extend(&bytes);
                match shared {
                    true => buffer.push(bytes.into()),
                    false => buffer.push_slice(&bytes),
                }
            }
            prop_assert_eq!(buffer.end(), all.len() as u64);
            let released = released.min(all.len());
            buffer.release(released as u64);
            prop_assert_eq!(buffer.len(), (all.len() - released) as u64);
            let from = from.clamp(released, all.len());
            let to = (from + len).min(all.len());
            let mut wire = Vec::new();
            buffer.copy(from as u64, len, &mut wire);
            prop_assert_eq!(&wire[..], &all[from..to]);
        }
    }

    #[test]
    fn small_writes_share_a_chunk() {
        let mut buffer = SendBuffer::default();
        for _ in 0..1000 {
            buffer.push(Bytes::from_static(b"x"));
        }
        assert_eq!(buffer.chunks.len(), 1);
    }
}
