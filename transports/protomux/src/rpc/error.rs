//! Why a request has no answer.

use std::time::Duration;

use super::RpcFault;

/// Why a request, or an opening, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// The other side answered with an error.
    #[error(transparent)]
    Remote(#[from] RpcFault),
    /// The channel or its mux has ended, or is ending.
    #[error("CHANNEL_CLOSED: channel closed")]
    Closed,
    /// The peer does not answer this protocol, or has too many channels.
    #[error("CHANNEL_CLOSED: channel rejected by the peer")]
    Rejected,
    /// The channel was destroyed on our side.
    #[error("CHANNEL_DESTROYED: channel destroyed")]
    Destroyed,
    /// No answer came in time.
    #[error("TIMEOUT_EXCEEDED: timeout of {}ms exceeded", .0.as_millis())]
    Timeout(Duration),
    /// The request does not fit [`Limits::frame_bytes`](crate::Limits::frame_bytes).
    #[error("request of {len} bytes is too long")]
    TooLong {
        /// Bytes of its frame.
        len: usize,
    },
}

impl RpcError {
    /// The code that the reference gives this failure.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Remote(fault) => fault.code(),
            Self::Closed | Self::Rejected => Some("CHANNEL_CLOSED"),
            Self::Destroyed => Some("CHANNEL_DESTROYED"),
            Self::Timeout(_) => Some("TIMEOUT_EXCEEDED"),
            Self::TooLong { .. } => None,
        }
    }
}
