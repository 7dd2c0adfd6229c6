//! What ends a mux, and what keeps a channel from opening.

use hyperdht_encoding::DecodeError;

/// A rule of the protocol that the peer broke. Each ends the mux, as it does in protomux 3.12 where
/// that has the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame ends before its type, or inside a field of a control message, request or answer.
    #[error("malformed {what}")]
    Malformed {
        /// The message that could not be read.
        what: &'static str,
        /// What was wrong with it.
        source: DecodeError,
    },
    /// A frame is longer than [`Limits::frame_bytes`](crate::Limits::frame_bytes).
    #[error("frame of {len} bytes")]
    FrameTooLong {
        /// Its length.
        len: usize,
    },
    /// An open names an id that is 0, in use or more than one above the highest so far.
    #[error("open of channel id {id}, which is not free")]
    InvalidOpen {
        /// The peer's id.
        id: u64,
    },
    /// A reject names a channel that is not waiting for the peer.
    #[error("reject of channel id {id}, which is not waiting")]
    InvalidReject {
        /// Our id, as the peer gave it.
        id: u64,
    },
    /// A batch holds a batch. The reference never writes one.
    #[error("batch inside a batch")]
    NestedBatch,
    /// A method name is longer than [`Limits::method_bytes`](crate::Limits::method_bytes).
    #[error("method name of {len} bytes")]
    MethodTooLong {
        /// Its length.
        len: usize,
    },
}

/// Why a mux ended early; `E` is the error of the stream below.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MuxError<E> {
    /// The peer broke a rule.
    #[error("peer broke the mux protocol")]
    Violation(#[from] Violation),
    /// The stream below could not be read.
    #[error("receiving failed")]
    Receive(#[source] E),
    /// The stream below could not be written.
    #[error("sending failed")]
    Send(#[source] E),
}

/// Why a channel could not be opened on our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// We have a channel of the same protocol and id open already.
    #[error("DUPLICATE_CHANNEL: a channel of this protocol and id is open")]
    Duplicate,
    /// [`Limits::channels`](crate::Limits::channels) are in use.
    #[error("too many channels")]
    TooManyChannels,
    /// A name, or an id, is longer than [`Limits::name_bytes`](crate::Limits::name_bytes).
    #[error("protocol name or id is too long")]
    NameTooLong,
    /// The peer has withdrawn its open, or it was decided before.
    #[error("the peer's open is no longer waiting")]
    Withdrawn,
    /// The mux has ended or is closing.
    #[error("CHANNEL_CLOSED: the mux is closed")]
    Closed,
}
