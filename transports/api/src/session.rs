//! A conversation with one peer.

use std::{fmt, net::SocketAddr, pin::Pin};

use bytes::Bytes;
use futures_util::{Sink, Stream};

use crate::{PublicKey, TransportError};

/// The longest message that a session carries, in bytes: what fits into one HyperDHT secret-stream
/// frame, whose length has 24 bits and covers 17 bytes of its own.
pub const MAX_MESSAGE_BYTES: usize = 0x00ff_ffff - 17;

/// Where messages for the peer go.
///
/// - *Ready* means room in a bounded buffer, not delivery. A slow peer makes the sink wait; it never
///   makes our memory grow.
/// - A message longer than [`MAX_MESSAGE_BYTES`] is refused with [`TransportError::Misuse`] and the
///   session lives on. An empty message is taken and never delivered (HyperDHT spends empty frames on
///   keep-alives).
/// - `flush` hands everything to the carrier. `close` does so and then ends the direction: the peer
///   receives what was sent and then the end of its stream. Dropping the sink ends it too, but may
///   lose what was not flushed.
pub type MessageSink = Pin<Box<dyn Sink<Bytes, Error = TransportError> + Send>>;

/// Where messages of the peer come from, whole and in order.
///
/// Ends after the peer closed its side. A session that broke yields one error and then ends. Each
/// message is handed over as the transport holds it, without a copy. Reading is cancel-safe:
/// a `next()` that is dropped loses nothing.
pub type MessageStream = Pin<Box<dyn Stream<Item = Result<Bytes, TransportError>> + Send>>;

/// An ordered, authenticated, encrypted duplex of messages.
///
/// The halves may be used from different tasks. Whether one direction outlives the other is up to
/// the transport: once either side closed or dropped a half, expect the session to end soon.
/// Dropping both halves ends it on both sides.
pub struct Session {
    /// Who is at the other end; proven, not claimed.
    pub peer: PublicKey,
    /// What is worth a log line.
    pub info: SessionInfo,
    /// Messages to the peer.
    pub tx: MessageSink,
    /// Messages from the peer.
    pub rx: MessageStream,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// What a transport can say about a session beyond its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// The transport's name, as in configuration.
    pub transport: &'static str,
    /// Where the peer's packets come from, if they come from an address.
    pub remote_addr: Option<SocketAddr>,
}

impl SessionInfo {
    /// A session of this transport with a peer at this address, if it has one.
    pub const fn new(transport: &'static str, remote_addr: Option<SocketAddr>) -> Self {
        Self { transport, remote_addr }
    }
}
