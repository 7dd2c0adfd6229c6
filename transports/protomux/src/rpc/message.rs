//! The two message types of protomux-rpc 1.10: requests and answers.

use bytes::{BufMut, Bytes};
use hyperdht_encoding::{Decoder, Encode, buffer_len, varint_len};

use super::{Payload, RpcFault, fault::FLAG_ERROR};
use crate::{
    ChannelId, Limits, OutgoingMessage, Violation,
    frame::{malformed, take, take_buffer, take_varint},
};

/// A request of the peer's: `uint id ‖ string method ‖ value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Counts from 1 for each side; [`EVENT`] wants no answer.
    pub(crate) id: u64,
    pub(crate) method: String,
    pub(crate) value: Bytes,
}

/// An answer of the peer's: `bit field flags ‖ uint id ‖ value or error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) id: u64,
    pub(crate) outcome: Result<Bytes, RpcFault>,
}

impl Request {
    pub(crate) fn read(mut payload: Bytes, limits: &Limits) -> Result<Self, Violation> {
        let id = take_varint(&mut payload).map_err(malformed("request"))?;
        let method = take_buffer(&mut payload).map_err(malformed("request"))?;
        if method.len() > limits.method_bytes {
            return Err(Violation::MethodTooLong { len: method.len() });
        }
        Ok(Self { id, method: String::from_utf8_lossy(&method).into_owned(), value: payload })
    }
}

impl Response {
    pub(crate) fn read(mut payload: Bytes, limits: &Limits) -> Result<Self, Violation> {
        let flags =
            take(&mut payload, |decoder| decoder.bitfield()).map_err(malformed("answer"))?;
        let id = take_varint(&mut payload).map_err(malformed("answer"))?;
        let outcome = if flags & FLAG_ERROR == 0 {
            Ok(payload)
        } else {
            let max = limits.error_text_bytes;
            let fault = RpcFault::read(flags, &mut Decoder::new(&payload), max)
                .map_err(malformed("error answer"))?;
            Err(fault)
        };
        Ok(Self { id, outcome })
    }
}

/// The request `id` for `method`.
pub(crate) fn request(
    channel: ChannelId,
    id: u64,
    method: &str,
    value: &dyn Payload,
) -> OutgoingMessage {
    let len = varint_len(id) + buffer_len(method.len()) + value.encoded_len();
    channel.message(REQUEST, len, |out| {
        out.put_varint(id);
        out.put_string(method);
        value.encode(out);
    })
}

/// The answer to request `id`.
pub(crate) fn response(channel: ChannelId, id: u64, value: &dyn Payload) -> OutgoingMessage {
    let len = 1 + varint_len(id) + value.encoded_len();
    channel.message(RESPONSE, len, |out| {
        out.put_u8(0);
        out.put_varint(id);
        value.encode(out);
    })
}

/// The answer to request `id` that says why there is none.
pub(crate) fn error_response(channel: ChannelId, id: u64, fault: &RpcFault) -> OutgoingMessage {
    let len = 1 + varint_len(id) + fault.encoded_len();
    channel.message(RESPONSE, len, |out| {
        out.put_u8(fault.flags());
        out.put_varint(id);
        fault.write(out);
    })
}

/// The message type of requests and events.
pub(crate) const REQUEST: u64 = 0;
/// The message type of answers.
pub(crate) const RESPONSE: u64 = 1;
/// The id of requests that want no answer.
pub(crate) const EVENT: u64 = 0;
