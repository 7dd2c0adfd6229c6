//! How things end.

/// Why a stream ended before both sides had ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The peer destroyed it (`ECONNRESET` in the reference).
    #[error("the peer destroyed the stream")]
    Reset,
    /// The peer acknowledged nothing for too long (`ETIMEDOUT` in the reference).
    #[error("the peer does not answer")]
    TimedOut,
    /// This side destroyed it.
    #[error("the stream was destroyed")]
    Destroyed,
    /// The peer announced a frame above the limit.
    #[error("the peer announced a frame that is too long")]
    FrameTooLong,
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another stream has that id.
    #[error("stream id is in use")]
    IdInUse,
    /// [`Config::max_streams`](super::Config::max_streams) are open.
    #[error("too many streams")]
    TooManyStreams,
}

/// Why a call on a stream was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The stream is gone, was never there or is closed.
    #[error("no such stream")]
    NoStream,
    /// The stream is connected already.
    #[error("already connected")]
    AlreadyConnected,
    /// The stream is not connected.
    #[error("not connected")]
    NotConnected,
    /// This side has ended the stream.
    #[error("writing after the end")]
    Ended,
    /// The stream holds as much as it may; wait for [`Ready::writable`](super::Ready).
    #[error("the send queue is full")]
    Full,
    /// The message does not fit one packet, or the frame not its length.
    #[error("message is too long")]
    TooLong,
}
