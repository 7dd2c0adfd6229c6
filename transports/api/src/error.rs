//! One taxonomy of failure for every transport, told apart by who can do something about it.

use std::{fmt, io};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a transport could not do what it was asked.
///
/// The text says what happened to a reader of a log; [`TransportError::kind`] says it to a program.
/// A cause is found under [`source`](std::error::Error::source) and is not repeated in the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Nobody announces this key.
    #[error("peer not found")]
    NotFound,
    /// The peer is announced, but no path to it opened.
    #[error("peer unreachable")]
    Unreachable {
        /// What the last attempt met.
        source: Option<Source>,
    },
    /// The peer's policy keeps us out.
    #[error("refused by the peer")]
    Refused,
    /// The peer could not prove its key, or no common cipher was found.
    #[error("handshake failed: {reason}")]
    Handshake {
        /// What did not hold.
        reason: &'static str,
        /// What the handshake code reported.
        source: Option<Source>,
    },
    /// The peer broke the protocol.
    #[error("peer broke the protocol: {reason}")]
    Misbehaved {
        /// The rule that it broke.
        reason: &'static str,
    },
    /// The session, listener or transport has ended.
    #[error("closed by the {by}")]
    Closed {
        /// Which side ended it.
        by: ClosedBy,
    },
    /// We were called in a way that cannot work; a bug on our side of the seam.
    #[error("misuse: {reason}")]
    Misuse {
        /// What the caller must not do.
        reason: &'static str,
    },
    /// The host's network or files failed us.
    #[error("{act} failed")]
    Io {
        /// What we tried to do, as in `binding the UDP socket`.
        act: &'static str,
        /// What the operating system answered.
        source: io::Error,
    },
    /// A failure of the transport's own that fits nowhere above.
    #[error("{transport} transport failed")]
    Other {
        /// The transport's name.
        transport: &'static str,
        /// What it reported.
        source: Source,
    },
}

impl TransportError {
    /// The failure's kind, for decisions and metric labels.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::Refused => ErrorKind::Refused,
            Self::Handshake { .. } => ErrorKind::Handshake,
            Self::Misbehaved { .. } => ErrorKind::Misbehaved,
            Self::Closed { .. } => ErrorKind::Closed,
            Self::Misuse { .. } => ErrorKind::Misuse,
            Self::Io { .. } => ErrorKind::Io,
            Self::Other { .. } => ErrorKind::Other,
        }
    }
}

/// What kind of failure a [`TransportError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorKind {
    /// See [`TransportError::NotFound`].
    NotFound,
    /// See [`TransportError::Unreachable`].
    Unreachable,
    /// See [`TransportError::Refused`].
    Refused,
    /// See [`TransportError::Handshake`].
    Handshake,
    /// See [`TransportError::Misbehaved`].
    Misbehaved,
    /// See [`TransportError::Closed`].
    Closed,
    /// See [`TransportError::Misuse`].
    Misuse,
    /// See [`TransportError::Io`].
    Io,
    /// See [`TransportError::Other`].
    Other,
}

impl ErrorKind {
    /// Every kind, for metrics that start at zero.
    pub const ALL: [Self; 9] = [
        Self::NotFound,
        Self::Unreachable,
        Self::Refused,
        Self::Handshake,
        Self::Misbehaved,
        Self::Closed,
        Self::Misuse,
        Self::Io,
        Self::Other,
    ];

    /// A stable snake_case label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Handshake => "handshake",
            Self::Misbehaved => "misbehaved",
            Self::Closed => "closed",
            Self::Misuse => "misuse",
            Self::Io => "io",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which side ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    /// We did.
    Local,
    /// The peer did, or it is gone.
    Peer,
}

impl fmt::Display for ClosedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local side",
            Self::Peer => "peer",
        })
    }
}
