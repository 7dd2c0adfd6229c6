use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use subtle::ConstantTimeEq;

use super::{
    HEADER_BODY, MAX_MESSAGE, NONCE, Options,
    cipher::{Cipher, MAC, OVERHEAD},
    writer::LENGTH,
};
use crate::keys::Secret;

/// The half of a stream that the peer writes: bytes in, messages out.
///
/// Bytes come in as they arrive, in pieces of any size: either out of a buffer that the caller has
/// ([`read`](Self::read)), or received straight into the place where the message is put together
/// ([`writable`](Self::writable), [`advance`](Self::advance)). The message is decrypted in that
/// place and handed out from it, so that its bytes are copied at most once.
///
/// Messages come out one by one, and none is made before it is asked for: a caller that cannot take
/// more stops reading, and memory for one message is all that the peer holds of ours
/// ([`Options::max_message`]).
pub struct Reader {
    keys: Keys,
    frame: Frame,
    max_body: usize,
    deliver_empty: bool,
    failed: Option<StreamError>,
}

/// What is known of the peer's half so far.
enum Keys {
    /// Nothing has arrived; the first frame must bear this id.
    Expecting {
        id: [u8; 32],
        key: Secret<32>,
    },
    Open(Cipher),
}

/// The frame that is arriving.
enum Frame {
    Length {
        bytes: [u8; LENGTH],
        filled: usize,
    },
    /// `buffer` has room for `len` bytes; the first `filled` have arrived. Zeros may follow them
    /// where a caller of [`Reader::writable`] was given room that it did not use.
    Body {
        buffer: BytesMut,
        filled: usize,
        len: usize,
    },
}

impl Reader {
    pub(super) fn new(key: Secret<32>, id: [u8; 32], options: Options) -> Self {
        Self {
            keys: Keys::Expecting { id, key },
            frame: Frame::START,
            max_body: options.max_message.min(MAX_MESSAGE) + OVERHEAD,
            deliver_empty: options.deliver_empty,
            failed: None,
        }
    }

    /// Takes bytes off the front of `input` until a message is complete, and returns it. Returns
    /// nothing once `input` is used up; an empty slice of it remains.
    ///
    /// # Errors
    /// [`StreamError`] when these bytes are not what the peer would write. The stream has ended then;
    /// every later call says so again.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, StreamError> {
        while !input.is_empty() {
            self.fill(input)?;
            if let Some(message) = self.complete()? {
                return Ok(Some(message));
            }
        }
        self.failed.map_or(Ok(None), Err)
    }

    /// Takes the body of a whole frame, where the layer below has cut them already, and returns its
    /// message, in the same memory. Nothing for the header and for keep-alives. Not to be called
    /// while [`read`](Self::read) or [`advance`](Self::advance) are amid a frame.
    ///
    /// # Errors
    /// See [`read`](Self::read).
    pub fn read_frame(&mut self, body: BytesMut) -> Result<Option<Bytes>, StreamError> {
        self.failed.map_or(Ok(()), Err)?;
        let result = self.check_length(body.len()).and_then(|()| self.take_body(body));
        result.inspect_err(|error| self.failed = Some(*error))
    }

    /// Whether the peer's header has arrived: it lives, and has the keys of our handshake.
    pub const fn is_open(&self) -> bool {
        matches!(self.keys, Keys::Open(_))
    }

    /// Room for the next bytes of the stream, in the place where they belong. Never empty, and never
    /// beyond the end of the current frame, so that several rounds are needed for a long message.
    pub fn writable(&mut self) -> &mut [u8] {
        match &mut self.frame {
            Frame::Length { bytes, filled } => bytes.get_mut(*filled..).unwrap_or_default(),
            Frame::Body { buffer, filled, len } => {
                let end = (*filled + WRITABLE_STEP).min(*len);
                buffer.resize(end, 0);
                buffer.get_mut(*filled..).unwrap_or_default()
            }
        }
    }

    /// Tells that `count` bytes have been put at the start of what [`writable`](Self::writable)
    /// gave, and returns the message that they complete, if any.
    ///
    /// # Errors
    /// See [`read`](Self::read).
    ///
    /// # Panics
    /// When `count` is more than there was room for.
    pub fn advance(&mut self, count: usize) -> Result<Option<Bytes>, StreamError> {
        self.failed.map_or(Ok(()), Err)?;
        let (filled, room) = match &mut self.frame {
            Frame::Length { filled, .. } => (filled, LENGTH),
            Frame::Body { buffer, filled, .. } => (filled, buffer.len()),
        };
        assert!(count <= room - *filled, "{count} bytes were put where there was no room for them");
        *filled += count;
        self.complete()
    }

    /// Moves what belongs to the current length or body.
    fn fill(&mut self, input: &mut &[u8]) -> Result<(), StreamError> {
        self.failed.map_or(Ok(()), Err)?;
        match &mut self.frame {
            Frame::Length { bytes, filled } => {
                let room = bytes.get_mut(*filled..).unwrap_or_default();
                let count = room.len().min(input.len());
                input.copy_to_slice(room.get_mut(..count).unwrap_or_default());
                *filled += count;
            }
            Frame::Body { buffer, filled, len } => {
                let count = (*len - *filled).min(input.len());
                buffer.truncate(*filled);
                buffer.extend_from_slice(input.get(..count).unwrap_or_default());
                input.advance(count);
                *filled += count;
            }
        }
        Ok(())
    }

    /// Goes on to the next part of the stream if the current one is complete.
    fn complete(&mut self) -> Result<Option<Bytes>, StreamError> {
        let result = match &mut self.frame {
            Frame::Length { bytes, filled: LENGTH } => {
                let [a, b, c] = *bytes;
                let len = u32::from_le_bytes([a, b, c, 0]) as usize;
                self.begin_body(len).map(|()| None)
            }
            Frame::Body { buffer, filled, len } if filled == len => {
                let body = std::mem::take(buffer);
                self.frame = Frame::START;
                self.take_body(body)
            }
            Frame::Length { .. } | Frame::Body { .. } => Ok(None),
        };
        result.inspect_err(|error| self.failed = Some(*error))
    }

    fn check_length(&self, len: usize) -> Result<(), StreamError> {
        match self.keys {
            Keys::Expecting { .. } if len != HEADER_BODY => Err(StreamError::HeaderLength { len }),
            Keys::Open(_) if len < OVERHEAD => Err(StreamError::FrameTooShort { len }),
            Keys::Open(_) if len > self.max_body => {
                Err(StreamError::FrameTooLong { len, max: self.max_body })
            }
            Keys::Expecting { .. } | Keys::Open(_) => Ok(()),
        }
    }

    fn begin_body(&mut self, len: usize) -> Result<(), StreamError> {
        self.check_length(len)?;
        self.frame = Frame::Body { buffer: BytesMut::with_capacity(len), filled: 0, len };
        Ok(())
    }

    fn take_body(&mut self, body: BytesMut) -> Result<Option<Bytes>, StreamError> {
        match &mut self.keys {
            Keys::Expecting { id, key } => {
                self.keys = Keys::Open(read_header(&body, id, key)?);
                Ok(None)
            }
            Keys::Open(cipher) => {
                let message = open_body(cipher, body)?;
                Ok((self.deliver_empty || !message.is_empty()).then_some(message))
            }
        }
    }
}

impl Frame {
    const START: Self = Self::Length { bytes: [0; LENGTH], filled: 0 };
}

fn read_header(body: &[u8], id: &[u8; 32], key: &Secret<32>) -> Result<Cipher, StreamError> {
    let (theirs, nonce) =
        body.split_last_chunk::<NONCE>().ok_or(StreamError::HeaderLength { len: body.len() })?;
    if !bool::from(theirs.ct_eq(id)) {
        return Err(StreamError::WrongStream);
    }
    Ok(Cipher::new(key, nonce))
}

/// Decrypts a body where it is and cuts off what is not message.
fn open_body(cipher: &mut Cipher, mut body: BytesMut) -> Result<Bytes, StreamError> {
    let too_short = StreamError::FrameTooShort { len: body.len() };
    let (tag, rest) = body.split_first_mut().ok_or(too_short)?;
    let (message, mac) = rest.split_last_chunk_mut::<MAC>().ok_or(too_short)?;
    cipher.open(*tag, message, mac).map_err(|_| StreamError::Forged)?;
    body.truncate(body.len() - MAC);
    body.advance(1);
    Ok(body.freeze())
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("header_read", &matches!(self.keys, Keys::Open(_)))
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Bytes that the peer of our handshake would not have written. The stream cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The first frame is not of a header's length.
    #[error("a stream header of {len} bytes")]
    HeaderLength {
        /// The body's bytes.
        len: usize,
    },
    /// The header is of another handshake, or of our own half.
    #[error("the header of another stream")]
    WrongStream,
    /// A frame has no room for a tag and a MAC.
    #[error("a frame of {len} bytes")]
    FrameTooShort {
        /// The body's bytes.
        len: usize,
    },
    /// A frame is longer than [`Options::max_message`] allows.
    #[error("a frame of {len} bytes where {max} are allowed")]
    FrameTooLong {
        /// The body's bytes.
        len: usize,
        /// The bytes allowed.
        max: usize,
    },
    /// A message was altered, left out, repeated or moved.
    #[error("a message that does not decrypt")]
    Forged,
}

/// How much of a body [`Reader::writable`] clears ahead of its bytes: more than a datagram holds,
/// little enough that a peer who only announces a long message makes us touch no memory for it.
const WRITABLE_STEP: usize = 64 * 1024;
