//! One key on a node: dialling under it, listening under it.

use std::{fmt, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use dht_prom_transport::{
    ACCEPT_BACKLOG, ClosedBy, Listener, PublicKey, Session, Transport, TransportError,
};
use libudx::UdxAsyncStream;
use peeroxide_dht::{hyperdht::HyperDhtHandle, secret_stream::SecretStream};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    announce::Announcement,
    dial,
    door::{self, Door},
    error,
    handshake::{Identity, Socket},
    listener::{HyperDhtListener, Reach},
    node::Shared,
    session,
};

/// A [`Transport`] that dials and listens under one key. Clones are the same identity.
///
/// Lives as long as it, a listener or a session of it does, even if the [`Node`](super::Node) was
/// dropped.
#[derive(Debug, Clone)]
pub struct HyperDht {
    identity: Arc<Identity>,
    key: PublicKey,
    scope: Arc<Scope>,
    /// Whose turn it is to be announced.
    turn: Arc<Mutex<()>>,
}

impl HyperDht {
    pub(super) fn new(node: Arc<Shared>, identity: Identity) -> Self {
        let key = PublicKey::from_bytes(identity.key_pair().public_key);
        let stop = node.stop().child_token();
        let scope = Arc::new(Scope { node, stop, tasks: TaskTracker::new() });
        Self { identity: Arc::new(identity), key, scope, turn: Arc::default() }
    }

    async fn reach(&self, peer: PublicKey) -> Result<Session, TransportError> {
        let (dht, socket) = (self.scope.dht(), self.scope.socket());
        let (stream, address) = dial::dial(dht, socket, &self.identity, peer).await?;
        Ok(self.scope.session(peer, Some(address), stream))
    }

    async fn announce(&self) -> Result<HyperDhtListener, TransportError> {
        let doors = self.scope.node.doors().clone();
        let target = door::target(self.key.as_bytes());
        let (knock, knocks) = mpsc::channel(ACCEPT_BACKLOG);
        if !doors.open(target, Arc::new(Door::new(Arc::clone(&self.identity), knock))) {
            return Err(TransportError::Misuse { reason: "this key is listened on already" });
        }
        let (scope, stop) = (Arc::clone(&self.scope), self.scope.stop.child_token());
        let reach = Reach { target, doors, scope, _announced: stop.clone().drop_guard() };
        // Waits until the record of an earlier listener has been taken back.
        let turn = Arc::clone(&self.turn).lock_owned().await;
        self.scope.dht().register_server(&target);
        let (dht, identity) = (self.scope.dht().clone(), Arc::clone(&self.identity));
        let (first, announced) = oneshot::channel();
        self.scope.spawn(Announcement { dht, identity, turn, stop }.run(first));
        match announced.await {
            Ok(Ok(1..)) => {}
            Ok(Ok(_)) => return Err(TransportError::Unreachable { source: None }),
            Ok(Err(error)) => return Err(error::node("announcing the key", error)),
            Err(_) => return Err(TransportError::Closed { by: ClosedBy::Local }),
        }
        Ok(HyperDhtListener { knocks, stop: self.scope.stop.clone(), reach })
    }
}

#[async_trait]
impl Transport for HyperDht {
    fn local_key(&self) -> PublicKey {
        self.key
    }

    async fn dial(&self, peer: PublicKey) -> Result<Session, TransportError> {
        self.scope.unless_stopped(self.reach(peer)).await
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, TransportError> {
        Ok(Box::new(self.scope.unless_stopped(self.announce()).await?))
    }

    async fn shutdown(&self) {
        self.scope.stop.cancel();
        self.scope.tasks.close();
        self.scope.tasks.wait().await;
    }
}

/// What the sessions and listeners of an identity share.
pub(super) struct Scope {
    node: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Scope {
    pub(super) fn dht(&self) -> &HyperDhtHandle {
        self.node.dht()
    }

    pub(super) fn socket(&self) -> &Socket {
        self.node.socket()
    }

    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// A session over an open stream.
    pub(super) fn session(
        self: &Arc<Self>,
        peer: PublicKey,
        remote_addr: Option<SocketAddr>,
        stream: SecretStream<UdxAsyncStream>,
    ) -> Session {
        let (session, pump) = session::session(peer, remote_addr);
        let (scope, stop) = (Arc::clone(self), self.stop.clone());
        self.spawn(async move {
            pump.run(stream, stop).await;
            drop(scope);
        });
        session
    }

    /// Runs a task that the identity's shutdown and that of the node wait for.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.track_future(task);
        drop(self.node.tasks().spawn(task));
    }

    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(TransportError::Closed { by: ClosedBy::Local }),
            done = work => done,
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}
