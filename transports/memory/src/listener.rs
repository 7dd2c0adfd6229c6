//! Peers at the door.

use async_trait::async_trait;
use dht_prom_transport::{ClosedBy, Incoming, Listener, PublicKey, Session, TransportError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{network::Doors, session};

/// A dial that waits for its answer. Dropping `answer` refuses it.
#[derive(Debug)]
pub(crate) struct Knock {
    pub(crate) from: PublicKey,
    /// Ends the dialler's half when its transport stops.
    pub(crate) stop: CancellationToken,
    pub(crate) answer: oneshot::Sender<Session>,
}

#[derive(Debug)]
pub(crate) struct MemoryListener {
    key: PublicKey,
    knocks: mpsc::Receiver<Knock>,
    doors: Doors,
    stop: CancellationToken,
}

impl MemoryListener {
    pub(crate) fn new(
        key: PublicKey,
        knocks: mpsc::Receiver<Knock>,
        doors: Doors,
        stop: CancellationToken,
    ) -> Self {
        Self { key, knocks, doors, stop }
    }
}

#[async_trait]
impl Listener for MemoryListener {
    async fn accept(&mut self) -> Result<Box<dyn Incoming>, TransportError> {
        let knock = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            knock = self.knocks.recv() => knock,
        };
        let knock = knock.ok_or(TransportError::Closed { by: ClosedBy::Local })?;
        Ok(Box::new(MemoryIncoming { key: self.key, knock, stop: self.stop.clone() }))
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.doors.close(self.key);
    }
}

#[derive(Debug)]
struct MemoryIncoming {
    key: PublicKey,
    knock: Knock,
    stop: CancellationToken,
}

#[async_trait]
impl Incoming for MemoryIncoming {
    fn peer(&self) -> PublicKey {
        self.knock.from
    }

    async fn accept(self: Box<Self>) -> Result<Session, TransportError> {
        let Knock { from, stop, answer } = self.knock;
        let (dialler, accepted) = session::pair((from, stop), (self.key, self.stop));
        match answer.send(dialler) {
            Ok(()) => Ok(accepted),
            Err(_) => Err(TransportError::Closed { by: ClosedBy::Peer }),
        }
    }

    fn refuse(self: Box<Self>) {}
}
