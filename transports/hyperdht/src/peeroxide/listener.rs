//! Peers that dial us.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use dht_prom_transport::{ClosedBy, Incoming, Listener, PublicKey, Session, TransportError};
use libudx::{UdxAsyncStream, UdxError, UdxRuntime};
use peeroxide_dht::secret_stream::SecretStream;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    door::{Doors, Knock},
    handshake::{Offer, Socket},
    identity::Scope,
};

/// Closes its door and ends the announcement when dropped.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) target: [u8; 32],
    pub(super) doors: Doors,
    pub(super) scope: Arc<Scope>,
    pub(super) _announced: DropGuard,
}

impl Drop for Reach {
    fn drop(&mut self) {
        self.scope.dht().unregister_server(&self.target);
        self.doors.close(self.target);
    }
}

#[derive(Debug)]
pub(super) struct HyperDhtListener {
    pub(super) knocks: mpsc::Receiver<Knock>,
    pub(super) stop: CancellationToken,
    pub(super) reach: Reach,
}

#[async_trait]
impl Listener for HyperDhtListener {
    async fn accept(&mut self) -> Result<Box<dyn Incoming>, TransportError> {
        loop {
            let knock = tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                knock = self.knocks.recv() => knock,
            };
            let knock = knock.ok_or(TransportError::Closed { by: ClosedBy::Local })?;
            if let Some(peer) = knock.peer() {
                let scope = Arc::clone(&self.reach.scope);
                return Ok(Box::new(HyperDhtIncoming { peer: peer.into(), knock, scope }));
            }
        }
    }
}

#[derive(Debug)]
struct HyperDhtIncoming {
    peer: PublicKey,
    knock: Knock,
    scope: Arc<Scope>,
}

#[async_trait]
impl Incoming for HyperDhtIncoming {
    fn peer(&self) -> PublicKey {
        self.peer
    }

    async fn accept(self: Box<Self>) -> Result<Session, TransportError> {
        let Self { peer, knock, scope } = *self;
        let opened = tokio::select! {
            biased;
            () = scope.stopped() => Err(TransportError::Closed { by: ClosedBy::Local }),
            opened = timeout(OPEN_TIMEOUT, open(knock, scope.socket())) => {
                opened.unwrap_or(Err(TransportError::Closed { by: ClosedBy::Peer }))
            }
        };
        let (stream, remote_addr) = opened?;
        Ok(scope.session(peer, Some(remote_addr), stream))
    }

    fn refuse(self: Box<Self>) {}
}

/// Answers the peer and waits for its stream. Listens before answering, and writes nothing before
/// the peer's first packet has told where it is: the crate would lose it.
async fn open(
    knock: Knock,
    socket: &Socket,
) -> Result<(SecretStream<UdxAsyncStream>, SocketAddr), TransportError> {
    let gone = || TransportError::Closed { by: ClosedBy::Peer };
    let Offer { local_id, remote_id, .. } = *knock.offer().ok_or_else(gone)?;
    let (arrived, arrival) = oneshot::channel();
    let stream = async {
        let stream = UdxRuntime::new()?.create_stream(local_id).await?;
        stream.set_firewall_hook(&socket.0, remote_id, move |_, port, ip| {
            arrived.send(SocketAddr::new(ip, port)).is_ok()
        })?;
        Ok(stream)
    };
    let stream = stream.await.map_err(|error: UdxError| TransportError::Other {
        transport: super::NAME,
        source: Box::new(error),
    })?;
    let Offer { keys, .. } = knock.accept().ok_or_else(gone)?;
    let remote_addr = arrival.await.map_err(|_| gone())?;
    let stream = SecretStream::from_session(
        false,
        stream.into_async_stream(),
        keys.tx,
        keys.rx,
        keys.handshake_hash,
        keys.remote_public_key,
    );
    match stream.await {
        Ok(stream) => Ok((stream, remote_addr)),
        Err(error) => {
            tracing::debug!(%error, "a peer does not open its stream");
            Err(gone())
        }
    }
}

/// How long an accepted peer may take to open its stream: it starts when our answer reaches it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);
