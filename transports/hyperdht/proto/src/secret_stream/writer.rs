use std::fmt;

use bytes::{Buf, BufMut, BytesMut};
use hyperdht_encoding::Encode;

use super::{
    HEADER_BODY, MAX_MESSAGE, NONCE,
    cipher::{Cipher, OVERHEAD, TAG_MESSAGE},
};
use crate::keys::Secret;

/// The half of a stream that we write: messages in, bytes out.
///
/// Nothing here waits for the peer. [`write_header`](Self::write_header) comes first, at once; the
/// bytes that it and every [`seal`](Self::seal) append must then reach the peer in that order.
pub struct Writer {
    cipher: Cipher,
    header: [u8; HEADER_BODY],
}

impl Writer {
    pub(super) fn new(key: &Secret<32>, nonce: [u8; NONCE], id: [u8; 32]) -> Self {
        let mut header = [0; HEADER_BODY];
        let (front, back) = header.split_at_mut(id.len());
        front.copy_from_slice(&id);
        back.copy_from_slice(&nonce);
        Self { cipher: Cipher::new(key, &nonce), header }
    }

    /// Appends the frame that opens the stream, 59 bytes. The peer understands nothing before it, and
    /// behind a NAT it opens the path back to us, so it is sent even when there is no message yet.
    pub fn write_header(&self, out: &mut BytesMut) {
        put_len(out, HEADER_BODY);
        out.put_slice(&self.header);
    }

    /// Appends `message` as one frame, 20 bytes longer than the message. It is copied once, into
    /// `out`, and encrypted there.
    ///
    /// # Errors
    /// [`MessageTooLong`] above [`MAX_MESSAGE`]; nothing is written then.
    pub fn seal(&mut self, message: impl Buf, out: &mut BytesMut) -> Result<(), MessageTooLong> {
        let len = message.remaining();
        if len > MAX_MESSAGE {
            return Err(MessageTooLong { len });
        }
        out.reserve(LENGTH + len + OVERHEAD);
        put_len(out, len + OVERHEAD);
        out.put_u8(TAG_MESSAGE);
        let message_at = out.len();
        out.put(message);
        let (front, message) = out.split_at_mut(message_at);
        let (sealed_tag, mac) = self.cipher.seal(TAG_MESSAGE, message);
        if let Some(tag) = front.last_mut() {
            *tag = sealed_tag;
        }
        out.put_slice(&mac);
        Ok(())
    }

    /// Appends an empty message, which the peer takes as a sign of life.
    pub fn keep_alive(&mut self, out: &mut BytesMut) {
        self.seal(&[][..], out).expect("an empty message is short enough");
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// The message does not fit into one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {len} bytes does not fit into a frame")]
pub struct MessageTooLong {
    /// The message's bytes.
    pub len: usize,
}

/// The bytes of a frame's length.
pub(super) const LENGTH: usize = 3;

fn put_len(out: &mut BytesMut, len: usize) {
    out.put_uint24(u32::try_from(len).expect("frames are below 2^24 bytes"));
}
