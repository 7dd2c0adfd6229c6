//! Why a punch has failed.

/// Why there is no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PunchError {
    /// The other side, or the node in between, has fallen silent.
    #[error("the peer does not answer")]
    Unanswered,
    /// What the other side says cannot be read.
    #[error("the peer's message is malformed")]
    Malformed,
    /// The other side has given up.
    #[error("the peer has given up")]
    RemoteAborted,
    /// One side does not find out what its NAT is.
    #[error("the NAT could not be judged")]
    Unclear,
    /// Both sides' NATs give each destination a mapping of its own: only a relay helps.
    #[error("both NATs randomize ports")]
    BothRandom,
    /// There was no room for another punch with random ports in time.
    #[error("too many punches with random ports")]
    Busy,
    /// The server does not punch.
    #[error("the peer does not punch")]
    NotPunching,
    /// The peer has no address that is worth a punch.
    #[error("no address of the peer is known well enough")]
    NoWay,
    /// All was sent, and nothing came through.
    #[error("nothing came through")]
    Exhausted,
    /// It waited in vain for its client's first message, and had to make room for another client.
    #[error("too many clients, of which this one said nothing")]
    Displaced,
    /// The system has no socket left.
    #[error("no socket is left")]
    NoSocket,
}

impl PunchError {
    /// Whether the peer would go on if it were not told.
    pub(super) const fn is_our_choice(self) -> bool {
        match self {
            Self::Unanswered | Self::Malformed | Self::RemoteAborted | Self::Exhausted => false,
            Self::Unclear
            | Self::BothRandom
            | Self::Busy
            | Self::NotPunching
            | Self::NoWay
            | Self::Displaced
            | Self::NoSocket => true,
        }
    }
}
