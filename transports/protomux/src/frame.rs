//! Frames as protomux 3.12 writes them: `uint channel id ‖ …`, where channel 0 carries control
//! messages and every other id is the sender's own, except in a reject.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyperdht_encoding::{DecodeError, Decoder, Encode, buffer_len, varint_len};

use crate::{Protocol, Violation};

/// One message of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Open(Open),
    Reject { local: u64 },
    Close { remote: u64 },
    Message(Message),
}

/// The peer opens a channel under its own id `remote`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) remote: u64,
    pub(crate) name: Bytes,
    pub(crate) id: Bytes,
    pub(crate) handshake: Bytes,
}

/// A message of type `kind` on the peer's channel `remote`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) remote: u64,
    pub(crate) kind: u64,
    pub(crate) payload: Bytes,
}

/// A received frame, taken apart one message at a time, so that a batch of millions of empty messages
/// costs no more memory than its own bytes.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    rest: Bytes,
    len: usize,
    /// The channel that items of a batch belong to; `None` for a frame that has not been begun.
    batch_channel: Option<u64>,
}

impl Frame {
    pub(crate) const fn new(bytes: Bytes) -> Self {
        Self { len: bytes.len(), rest: bytes, batch_channel: None }
    }

    /// Bytes of the whole frame, which every payload taken from it keeps in memory.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Whether every message has been taken. An empty frame has none.
    pub(crate) fn is_finished(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next message, or `None` for one that the protocol ignores; not to be asked of a finished
    /// frame.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, Violation> {
        let Some(channel) = self.batch_channel else {
            return self.begin();
        };
        let len = take_varint(&mut self.rest).map_err(malformed("batch"))?;
        if len == 0 {
            let channel = take_varint(&mut self.rest).map_err(malformed("batch"))?;
            self.batch_channel = Some(channel);
            return Ok(None);
        }
        // The reference clamps an item to its frame.
        let len = usize::try_from(len).map_or(self.rest.len(), |len| len.min(self.rest.len()));
        let mut body = self.rest.split_to(len);
        let kind = take_varint(&mut body).map_err(malformed("batch item"))?;
        if channel == CONTROL && kind == BATCH {
            return Err(Violation::NestedBatch);
        }
        item(channel, kind, body)
    }

    fn begin(&mut self) -> Result<Option<Item>, Violation> {
        let mut body = std::mem::take(&mut self.rest);
        let channel = take_varint(&mut body).map_err(malformed("frame"))?;
        let kind = take_varint(&mut body).map_err(malformed("frame"))?;
        if channel == CONTROL && kind == BATCH {
            let first = take_varint(&mut body).map_err(malformed("batch"))?;
            self.batch_channel = Some(first);
            self.rest = body;
            return Ok(None);
        }
        item(channel, kind, body)
    }
}

fn item(channel: u64, kind: u64, mut body: Bytes) -> Result<Option<Item>, Violation> {
    if channel != CONTROL {
        return Ok(Some(Item::Message(Message { remote: channel, kind, payload: body })));
    }
    Ok(Some(match kind {
        OPEN => Item::Open(open(body).map_err(malformed("open"))?),
        REJECT => Item::Reject { local: take_varint(&mut body).map_err(malformed("reject"))? },
        CLOSE => Item::Close { remote: take_varint(&mut body).map_err(malformed("close"))? },
        _ => return Ok(None),
    }))
}

fn open(mut body: Bytes) -> Result<Open, DecodeError> {
    Ok(Open {
        remote: take_varint(&mut body)?,
        name: take_buffer(&mut body)?,
        id: take_buffer(&mut body)?,
        handshake: body,
    })
}

/// Reads from the front of `bytes` and moves it on.
pub(crate) fn take<T>(
    bytes: &mut Bytes,
    read: impl FnOnce(&mut Decoder<'_>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut decoder = Decoder::new(bytes);
    let value = read(&mut decoder)?;
    let rest = decoder.rest().len();
    bytes.advance(bytes.len() - rest);
    Ok(value)
}

/// Reads an integer from the front of `bytes` and moves it on.
pub(crate) fn take_varint(bytes: &mut Bytes) -> Result<u64, DecodeError> {
    take(bytes, |decoder| decoder.varint())
}

/// Reads a length and as many bytes, without copying them.
pub(crate) fn take_buffer(bytes: &mut Bytes) -> Result<Bytes, DecodeError> {
    let len = take_varint(bytes)?;
    match usize::try_from(len) {
        Ok(len) if len <= bytes.len() => Ok(bytes.split_to(len)),
        _ => Err(DecodeError::OutOfBounds),
    }
}

pub(crate) fn malformed(what: &'static str) -> impl FnOnce(DecodeError) -> Violation {
    move |source| Violation::Malformed { what, source }
}

/// The frame that opens our channel `local`.
pub(crate) fn open_frame(local: u64, protocol: &Protocol, handshake: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(
        2 + varint_len(local)
            + buffer_len(protocol.name().len())
            + buffer_len(protocol.id().len())
            + handshake.len(),
    );
    frame.put_varint(CONTROL);
    frame.put_varint(OPEN);
    frame.put_varint(local);
    frame.put_string(protocol.name());
    frame.put_buffer(protocol.id());
    frame.put_slice(handshake);
    frame.freeze()
}

/// The frame that turns down the peer's open of its channel `remote`.
pub(crate) fn reject_frame(remote: u64) -> Bytes {
    control_frame(REJECT, remote)
}

/// The frame that closes our channel `local`.
pub(crate) fn close_frame(local: u64) -> Bytes {
    control_frame(CLOSE, local)
}

fn control_frame(kind: u64, id: u64) -> Bytes {
    let mut frame = BytesMut::with_capacity(2 + varint_len(id));
    frame.put_varint(CONTROL);
    frame.put_varint(kind);
    frame.put_varint(id);
    frame.freeze()
}

/// A frame with one message on our channel `local`, in one buffer of its final size: `payload_len`
/// bytes are reserved for what `write` appends.
pub(crate) fn message_frame(
    local: u64,
    kind: u64,
    payload_len: usize,
    write: impl FnOnce(&mut BytesMut),
) -> Bytes {
    let mut frame = BytesMut::with_capacity(varint_len(local) + varint_len(kind) + payload_len);
    frame.put_varint(local);
    frame.put_varint(kind);
    write(&mut frame);
    frame.freeze()
}

/// One frame with several messages: pairs of a channel id (0 for control) and the message's frame
/// without that id.
pub(crate) fn batch_frame(items: &[(u64, Bytes)]) -> Bytes {
    let mut frame = BytesMut::with_capacity(
        2 + items.iter().map(|(channel, item)| batch_item_len(*channel, item.len())).sum::<usize>(),
    );
    frame.put_varint(CONTROL);
    frame.put_varint(BATCH);
    let mut current = None;
    for (channel, item) in items {
        if current != Some(channel) {
            if current.is_some() {
                frame.put_varint(0);
            }
            frame.put_varint(*channel);
            current = Some(channel);
        }
        frame.put_buffer(item);
    }
    frame.freeze()
}

/// The most that one message adds to a batch.
pub(crate) const fn batch_item_len(channel: u64, len: usize) -> usize {
    1 + varint_len(channel) + buffer_len(len)
}

/// The id that carries control messages.
pub(crate) const CONTROL: u64 = 0;

const BATCH: u64 = 0;
const OPEN: u64 = 1;
const REJECT: u64 = 2;
const CLOSE: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Bytes {
        data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap().into()
    }

    fn items(hex: &str) -> Result<Vec<Item>, Violation> {
        let mut frame = Frame::new(bytes(hex));
        let mut items = Vec::new();
        while !frame.is_finished() {
            items.extend(frame.next()?);
        }
        Ok(items)
    }

    fn message(remote: u64, kind: u64, payload: &'static [u8]) -> Item {
        Item::Message(Message { remote, kind, payload: Bytes::from_static(payload) })
    }

    #[test]
    fn control_types_from_the_future_are_ignored() {
        assert_eq!(items("000405"), Ok(vec![]));
    }

    #[test]
    fn an_empty_batch_does_nothing() {
        assert_eq!(items("000000"), Ok(vec![]));
        assert_eq!(items("00000100020003"), Ok(vec![]));
    }

    #[test]
    fn a_batch_item_is_clamped_to_its_frame() {
        assert_eq!(items("000001090061"), Ok(vec![message(1, 0, b"a")]));
    }

    #[test]
    fn control_messages_are_read_inside_a_batch() {
        assert_eq!(
            items("0000010200610000020301020205"),
            Ok(vec![message(1, 0, b"a"), Item::Close { remote: 1 }, Item::Reject { local: 5 },])
        );
    }

    #[test]
    fn a_batch_inside_a_batch_is_refused() {
        assert_eq!(items("0000000400000100"), Err(Violation::NestedBatch));
    }

    #[test]
    fn a_frame_too_short_for_its_type_is_refused() {
        for hex in ["00", "01", "fd", "0000", "0001", "0002", "000101", "00010102", "00000101fd"] {
            assert!(
                matches!(items(hex), Err(Violation::Malformed { .. })),
                "{hex}: {:?}",
                items(hex)
            );
        }
    }

    #[test]
    fn a_batch_shares_channel_headers_between_neighbours() {
        let item = |text: &'static [u8]| Bytes::from_static(text);
        assert_eq!(
            batch_frame(&[(1, item(b"\0a")), (1, item(b"\0b")), (2, item(b"\0c"))]),
            &b"\0\0\x01\x02\0a\x02\0b\0\x02\x02\0c"[..]
        );
    }
}
