//! The node behind the seam that all transports share.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use bytes::Bytes;
use dht_prom_transport::{
    ClosedBy, Incoming, Listener, PublicKey, Session, SessionInfo, Transport, TransportError,
};
use futures_util::{Sink, Stream};
use hyperdht_proto::{connect::DialError, dht::ServerId, keys::KeyPair};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{self, Connection, ConnectionError, Link},
    node::{self, AcceptError, ConnectError, ListenError, Node, Server, StartError},
};

/// The public key of the identity that this seed stands for.
pub fn public_key(seed: &[u8; 32]) -> PublicKey {
    seam_key(KeyPair::from_seed(seed).public_key())
}

impl Node {
    /// The transport of the identity that this seed stands for.
    ///
    /// The copy of the secret that it keeps is wiped when it is dropped; the seed is the caller's.
    pub fn identity(&self, seed: &[u8; 32]) -> HyperDht {
        HyperDht {
            node: self.clone(),
            key_pair: Arc::new(KeyPair::from_seed(seed)),
            scope: Arc::new(Scope::default()),
        }
    }
}

/// A [`Transport`] that dials and listens under one key. Clones are the same identity.
///
/// Lives as long as it, a listener or a session of it does, even if the [`Node`] was dropped.
#[derive(Debug, Clone)]
pub struct HyperDht {
    node: Node,
    key_pair: Arc<KeyPair>,
    scope: Arc<Scope>,
}

impl HyperDht {
    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        tokio::select! {
            biased;
            () = self.scope.stop.cancelled() => Err(closed(ClosedBy::Local)),
            done = work => done,
        }
    }
}

#[async_trait]
impl Transport for HyperDht {
    fn local_key(&self) -> PublicKey {
        seam_key(self.key_pair.public_key())
    }

    async fn dial(&self, peer: PublicKey) -> Result<Session, TransportError> {
        let connecting = async {
            let connection = self.node.connect(&self.key_pair, proto_key(peer)).await?;
            Ok(self.scope.session(connection))
        };
        self.unless_stopped(connecting).await
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, TransportError> {
        let listening = async { Ok(self.node.listen((*self.key_pair).clone()).await?) };
        let server = self.unless_stopped(listening).await?;
        self.scope.locked().server = Some(server.id());
        Ok(Box::new(HyperDhtListener { server, scope: Arc::clone(&self.scope) }))
    }

    async fn network_changed(&self) {
        if !self.node.network_changes().next().await {
            std::future::pending().await
        }
    }

    async fn shutdown(&self) {
        self.scope.stop.cancel();
        let (links, server) = {
            let mut open = self.scope.locked();
            (std::mem::take(&mut open.links), open.server)
        };
        for link in links.iter().filter_map(Weak::upgrade) {
            link.destroy();
        }
        if let Some(server) = server {
            self.node.close_server(server).await;
        }
    }
}

/// What the sessions and listeners of an identity share.
#[derive(Default)]
struct Scope {
    stop: CancellationToken,
    open: Mutex<Open>,
}

/// What is to be ended when the identity stops.
#[derive(Default)]
struct Open {
    server: Option<ServerId>,
    /// Sessions that may be open; those that have ended are swept when their number has doubled.
    links: Vec<Weak<Link>>,
    sweep_at: usize,
}

impl Scope {
    fn session(&self, connection: Connection) -> Session {
        let link = connection.link();
        self.locked().add(link.clone());
        if self.stop.is_cancelled()
            && let Some(link) = link.upgrade()
        {
            link.destroy();
        }
        let peer = seam_key(connection.peer());
        let info = SessionInfo::new(NAME, connection.remote_addr());
        let (tx, rx) = connection.split();
        Session { peer, info, tx: Box::pin(SeamSink(tx)), rx: Box::pin(SeamStream(rx)) }
    }

    fn locked(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn add(&mut self, link: Weak<Link>) {
        if self.links.len() >= self.sweep_at {
            self.links.retain(|link| link.strong_count() > 0);
            self.sweep_at = 2 * self.links.len().max(8);
        }
        self.links.push(link);
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct HyperDhtListener {
    server: Server,
    scope: Arc<Scope>,
}

#[async_trait]
impl Listener for HyperDhtListener {
    async fn accept(&mut self) -> Result<Box<dyn Incoming>, TransportError> {
        let incoming = tokio::select! {
            biased;
            () = self.scope.stop.cancelled() => None,
            incoming = self.server.accept() => incoming,
        };
        let incoming = incoming.ok_or(closed(ClosedBy::Local))?;
        Ok(Box::new(HyperDhtIncoming { incoming, scope: Arc::clone(&self.scope) }))
    }
}

#[derive(Debug)]
struct HyperDhtIncoming {
    incoming: node::Incoming,
    scope: Arc<Scope>,
}

#[async_trait]
impl Incoming for HyperDhtIncoming {
    fn peer(&self) -> PublicKey {
        seam_key(self.incoming.peer())
    }

    async fn accept(self: Box<Self>) -> Result<Session, TransportError> {
        let Self { incoming, scope } = *self;
        let connection = tokio::select! {
            biased;
            () = scope.stop.cancelled() => return Err(closed(ClosedBy::Local)),
            connection = incoming.accept() => connection?,
        };
        Ok(scope.session(connection))
    }

    fn refuse(self: Box<Self>) {
        self.incoming.refuse();
    }
}

struct SeamSink(connection::Sender);

impl Sink<Bytes> for SeamSink {
    type Error = TransportError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.0).poll_ready(cx).map_err(TransportError::from)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Bytes) -> Result<(), Self::Error> {
        Ok(Pin::new(&mut self.0).start_send(message)?)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.0).poll_flush(cx).map_err(TransportError::from)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.0).poll_close(cx).map_err(TransportError::from)
    }
}

struct SeamStream(connection::Receiver);

impl Stream for SeamStream {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(Pin::new(&mut self.0).poll_next(cx));
        Poll::Ready(next.map(|message| message.map_err(TransportError::from)))
    }
}

impl From<ConnectionError> for TransportError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Reset | ConnectionError::TimedOut => closed(ClosedBy::Peer),
            ConnectionError::Closed | ConnectionError::Ended | ConnectionError::Replaced => {
                closed(ClosedBy::Local)
            }
            ConnectionError::TooLong(_) => {
                Self::Misuse { reason: "the message is longer than a session carries" }
            }
            ConnectionError::FrameTooLong => {
                Self::Misbehaved { reason: "a frame longer than frames are" }
            }
            ConnectionError::Broken(_) => {
                Self::Misbehaved { reason: "the stream is not that of the handshake" }
            }
        }
    }
}

impl From<ConnectError> for TransportError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Stopped | ConnectError::Duplicate => closed(ClosedBy::Local),
            // Nobody holds a key that is no usable point.
            ConnectError::Dial(DialError::NotFound | DialError::Handshake(_)) => Self::NotFound,
            ConnectError::Dial(DialError::Incompatible | DialError::Malformed) => {
                let reason = "the peer's answer is not understood";
                Self::Handshake { reason, source: Some(Box::new(error)) }
            }
            ConnectError::Ended(
                error @ (ConnectionError::Broken(_) | ConnectionError::FrameTooLong),
            ) => error.into(),
            ConnectError::Dial(_)
            | ConnectError::Relay { .. }
            | ConnectError::Silent
            | ConnectError::NoRelay
            | ConnectError::Ended(_)
            | ConnectError::HolepunchAborted
            | ConnectError::CannotHolepunch
            | ConnectError::Punch(_)
            | ConnectError::Suspended
            | ConnectError::TooMany => Self::Unreachable { source: Some(Box::new(error)) },
        }
    }
}

impl From<ListenError> for TransportError {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::KeyInUse => Self::Misuse { reason: "there is a listener already" },
            ListenError::Stopped => closed(ClosedBy::Local),
        }
    }
}

impl From<AcceptError> for TransportError {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::Stopped | AcceptError::Suspended | AcceptError::Duplicate => {
                closed(ClosedBy::Local)
            }
            AcceptError::Gone | AcceptError::Incompatible => closed(ClosedBy::Peer),
            AcceptError::Broken(error) => error.into(),
            AcceptError::TooManyStreams => Self::Other { transport: NAME, source: Box::new(error) },
        }
    }
}

impl From<StartError> for TransportError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Bind { source, .. } => Self::Io { act: "binding the UDP socket", source },
        }
    }
}

const fn closed(by: ClosedBy) -> TransportError {
    TransportError::Closed { by }
}

const fn seam_key(key: hyperdht_proto::keys::PublicKey) -> PublicKey {
    PublicKey::from_bytes(*key.as_bytes())
}

const fn proto_key(key: PublicKey) -> hyperdht_proto::keys::PublicKey {
    hyperdht_proto::keys::PublicKey::from_bytes(*key.as_bytes())
}

/// The transport's name in sessions and errors.
const NAME: &str = "hyperdht";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_key_that_libsodium_gives() {
        // RFC 8032, section 7.1, test 1.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let seed = dht_prom_transport::decode_key(seed).unwrap();
        assert_eq!(public_key(&seed), key.parse().unwrap());
    }
}
