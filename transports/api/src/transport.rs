//! What a transport does: dial, listen, stop.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{PublicKey, Session, TransportError};

/// How many peers may wait to be accepted. One costs a transport at most a handshake's state, about
/// 4 KiB; who comes when the backlog is full is turned away.
pub const ACCEPT_BACKLOG: usize = 64;

/// One identity on a network where peers are reached by public key.
///
/// Object-safe, and shared: every method takes `&self`, and an `Arc` of a transport is a transport.
/// Timeouts are the caller's: wrap a call in `tokio::time::timeout` and drop it.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// The key under which peers know us.
    fn local_key(&self) -> PublicKey;

    /// Opens a session with `peer`.
    ///
    /// Cancel-safe: dropping the call frees its sockets and timers, and what the peer holds of it.
    ///
    /// # Errors
    /// [`NotFound`](TransportError::NotFound), [`Unreachable`](TransportError::Unreachable) or
    /// [`Refused`](TransportError::Refused) when no session comes about;
    /// [`Closed`](TransportError::Closed) after [`shutdown`](Transport::shutdown).
    async fn dial(&self, peer: PublicKey) -> Result<Session, TransportError>;

    /// Makes us reachable under [`local_key`](Transport::local_key), and returns once we are.
    ///
    /// Cancel-safe: dropping the call leaves us unreachable.
    ///
    /// # Errors
    /// [`Misuse`](TransportError::Misuse) while another listener of ours lives;
    /// [`Closed`](TransportError::Closed) after [`shutdown`](Transport::shutdown).
    async fn listen(&self) -> Result<Box<dyn Listener>, TransportError>;

    /// Returns when the network has changed or come back since the call: peers that could not be
    /// reached are worth another dial at once.
    ///
    /// What a transport does for its own sake in that case, such as announcing itself again, it does
    /// unasked. One that notices no such changes never returns, which is what this provided method
    /// does. Cancel-safe.
    async fn network_changed(&self) {
        std::future::pending().await
    }

    /// Ends listeners, sessions and background work, telling peers where the protocol can.
    ///
    /// Idempotent; returns when all is done. Cancel-safe: a dropped call may be repeated.
    async fn shutdown(&self);
}

/// Yields the peers that dial us. Dropping it makes us unreachable; sessions live on.
#[async_trait]
pub trait Listener: fmt::Debug + Send {
    /// The next peer that wants a session.
    ///
    /// Cancel-safe: a peer that came while nobody waited is kept for the next call.
    ///
    /// # Errors
    /// [`Closed`](TransportError::Closed) after [`Transport::shutdown`], and then each time. Any
    /// other error is that of one attempt: call again.
    async fn accept(&mut self) -> Result<Box<dyn Incoming>, TransportError>;
}

/// A peer at the door: its key is known, no message has been read. Dropping it refuses it.
#[async_trait]
pub trait Incoming: fmt::Debug + Send {
    /// Who it is.
    fn peer(&self) -> PublicKey;

    /// Lets it in.
    ///
    /// Cancel-safe: dropping the call refuses the peer.
    ///
    /// # Errors
    /// [`Closed`](TransportError::Closed) when the peer has gone in the meantime.
    async fn accept(self: Box<Self>) -> Result<Session, TransportError>;

    /// Sends it away before any message is read.
    fn refuse(self: Box<Self>);
}

#[async_trait]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn local_key(&self) -> PublicKey {
        (**self).local_key()
    }

    async fn dial(&self, peer: PublicKey) -> Result<Session, TransportError> {
        (**self).dial(peer).await
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, TransportError> {
        (**self).listen().await
    }

    async fn network_changed(&self) {
        (**self).network_changed().await;
    }

    async fn shutdown(&self) {
        (**self).shutdown().await;
    }
}
