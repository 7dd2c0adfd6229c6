//! What arrived in order and waits for the reader.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Ordered bytes, as they came or cut into frames.
///
/// Either way a payload is copied once, from the datagram to where the reader finds it.
#[derive(Debug)]
pub(crate) enum Inbox {
    Bytes(ByteInbox),
    Frames(FrameInbox),
}

/// A frame announced more bytes than the reader allows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FrameTooLong;

impl Inbox {
    /// An inbox for plain bytes.
    pub(crate) fn bytes() -> Self {
        Self::Bytes(ByteInbox::default())
    }

    /// An inbox for frames of at most `max` bytes.
    pub(crate) fn frames(max: usize) -> Self {
        Self::Frames(FrameInbox { max, ..FrameInbox::default() })
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn push(&mut self, payload: &[u8]) -> Result<(), FrameTooLong> {
        match self {
            Self::Bytes(inbox) => inbox.push(payload),
            Self::Frames(inbox) => return inbox.push(payload),
        }
        Ok(())
    }

    /// Takes the next bytes of the stream, without a copy where there is none to be made.
    pub(crate) fn push_shared(&mut self, payload: Bytes) -> Result<(), FrameTooLong> {
        match self {
            Self::Bytes(inbox) => inbox.push_shared(payload),
            Self::Frames(inbox) => return inbox.push(&payload),
        }
        Ok(())
    }

    /// Bytes that the reader could take, with what keeping them costs.
    pub(crate) const fn buffered(&self) -> usize {
        match self {
            Self::Bytes(inbox) => inbox.buffered,
            Self::Frames(inbox) => inbox.buffered,
        }
    }

    /// Whether the reader would get something.
    pub(crate) fn is_readable(&self) -> bool {
        self.buffered() > 0
    }

    /// Whether a frame has begun that is not complete.
    pub(crate) fn is_inside_frame(&self) -> bool {
        match self {
            Self::Bytes(_) => false,
            Self::Frames(inbox) => inbox.missing.is_some() || inbox.prefix_len > 0,
        }
    }

    /// The next chunk of bytes, or the next frame.
    pub(crate) fn pop(&mut self) -> Option<BytesMut> {
        match self {
            Self::Bytes(inbox) => inbox.pop(),
            Self::Frames(inbox) => inbox.pop(),
        }
    }
}

/// Plain bytes: full chunks and the one being filled.
#[derive(Debug, Default)]
pub(crate) struct ByteInbox {
    full: VecDeque<BytesMut>,
    filling: BytesMut,
    buffered: usize,
    /// Size of the next chunk; grows while the reader lags, so that idle streams stay small.
    chunk_len: usize,
}

impl ByteInbox {
    fn push(&mut self, payload: &[u8]) {
        if self.filling.capacity() - self.filling.len() < payload.len() {
            self.seal();
            self.chunk_len = (self.chunk_len * 2).clamp(MIN_CHUNK, MAX_CHUNK);
            self.filling = BytesMut::with_capacity(self.chunk_len.max(payload.len()));
        }
        self.filling.extend_from_slice(payload);
        self.buffered += payload.len();
    }

    fn push_shared(&mut self, payload: Bytes) {
        self.seal();
        self.buffered += payload.len();
        if !payload.is_empty() {
            self.full.push_back(payload.into());
        }
    }

    fn seal(&mut self) {
        let filled = std::mem::take(&mut self.filling);
        if !filled.is_empty() {
            self.full.push_back(filled);
        }
    }

    fn pop(&mut self) -> Option<BytesMut> {
        let chunk = self.full.pop_front().or_else(|| {
            self.chunk_len /= 2;
            Some(std::mem::take(&mut self.filling)).filter(|chunk| !chunk.is_empty())
        })?;
        self.buffered -= chunk.len();
        Some(chunk)
    }
}

/// Frames with a length of three bytes in front, least significant first.
#[derive(Debug, Default)]
pub(crate) struct FrameInbox {
    max: usize,
    ready: VecDeque<BytesMut>,
    buffered: usize,
    prefix: [u8; FRAME_PREFIX_LEN],
    prefix_len: usize,
    frame: BytesMut,
    /// Bytes that the frame under construction lacks; `None` between frames.
    missing: Option<usize>,
}

impl FrameInbox {
    fn push(&mut self, mut payload: &[u8]) -> Result<(), FrameTooLong> {
        while !payload.is_empty() {
            payload = match self.missing {
                None => self.push_prefix(payload)?,
                Some(missing) => self.push_body(missing, payload),
            };
        }
        Ok(())
    }

    fn push_prefix<'a>(&mut self, payload: &'a [u8]) -> Result<&'a [u8], FrameTooLong> {
        let (Some((byte, rest)), Some(slot)) =
            (payload.split_first(), self.prefix.get_mut(self.prefix_len))
        else {
            return Ok(payload);
        };
        *slot = *byte;
        self.prefix_len += 1;
        if self.prefix_len == FRAME_PREFIX_LEN {
            let [a, b, c] = self.prefix.map(usize::from);
            let len = a | b << 8 | c << 16;
            if len > self.max {
                return Err(FrameTooLong);
            }
            self.prefix_len = 0;
            self.frame = BytesMut::with_capacity(len.min(TRUSTED_LEN));
            self.missing = Some(len);
            self.complete_if_full(len);
        }
        Ok(rest)
    }

    fn push_body<'a>(&mut self, missing: usize, payload: &'a [u8]) -> &'a [u8] {
        let (part, rest) = payload.split_at_checked(missing).unwrap_or((payload, &[]));
        let missing = missing - part.len();
        if self.frame.capacity() - self.frame.len() < part.len() {
            let more = self.frame.len().min(part.len() + missing);
            self.frame.reserve(more.max(part.len()));
        }
        self.frame.extend_from_slice(part);
        self.missing = Some(missing);
        self.complete_if_full(missing);
        rest
    }

    fn complete_if_full(&mut self, missing: usize) {
        if missing == 0 {
            let frame = std::mem::take(&mut self.frame);
            self.buffered += frame.len() + FRAME_COST;
            self.ready.push_back(frame);
            self.missing = None;
        }
    }

    fn pop(&mut self) -> Option<BytesMut> {
        let frame = self.ready.pop_front()?;
        self.buffered -= frame.len() + FRAME_COST;
        Some(frame)
    }
}

/// Bytes of the length in front of a frame.
pub(crate) const FRAME_PREFIX_LEN: usize = 3;
/// The longest frame that the length can announce.
pub(crate) const MAX_FRAME_LEN: usize = 0xff_ffff;
/// What keeping a frame costs beside its bytes; counts against the receive window, so that a
/// flood of empty frames stays within it.
const FRAME_COST: usize = 64;
/// An announced length is believed up to here; a longer frame grows as it arrives.
const TRUSTED_LEN: usize = 1024 * 1024;
const MIN_CHUNK: usize = 2 * 1024;
const MAX_CHUNK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut wire = body.len().to_le_bytes()[..3].to_vec();
        wire.extend(body);
        wire
    }

    proptest! {
        #[test]
        fn frames_survive_any_segmentation(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..10),
            segment in 1usize..1500,
        ) {
            let wire: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
            let mut inbox = Inbox::frames(4000);
            for part in wire.chunks(segment) {
                inbox.push(part).unwrap();
            }
            prop_assert!(!inbox.is_inside_frame());
            for body in bodies {
                prop_assert_eq!(inbox.pop().unwrap(), body);
            }
            prop_assert_eq!(inbox.pop(), None);
            prop_assert_eq!(inbox.buffered(), 0);
        }

        #[test]
        fn bytes_keep_their_order(parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..3000), any::<bool>()), 0..50)) {
            let mut inbox = Inbox::bytes();
            let mut all = Vec::<u8>::new();
            for (part, shared) in parts {
                all.extend(&part);
                match shared {
                    true => inbox.push_shared(part.into()).unwrap(),
                    false => inbox.push(&part).unwrap(),
                }
            }
            prop_assert_eq!(inbox.buffered(), all.len());
            let mut read = Vec::new();
            while let Some(chunk) = inbox.pop() {
                prop_assert!(!chunk.is_empty());
                read.extend(chunk);
            }
            prop_assert_eq!(read, all);
            prop_assert_eq!(inbox.buffered(), 0);
        }
    }

    #[test]
    fn a_frame_above_the_limit_is_refused_before_it_is_stored() {
        let mut inbox = Inbox::frames(10);
        assert_eq!(inbox.push(&frame(&[0; 11])), Err(FrameTooLong));
    }

    #[test]
    fn empty_frames_count_against_the_window() {
        let mut inbox = Inbox::frames(10);
        inbox.push(&[0; 300]).unwrap();
        assert_eq!(inbox.buffered(), 100 * FRAME_COST);
    }
}
