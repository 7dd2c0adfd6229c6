//! Who listens where, and dialling them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use dht_prom_transport::{
    ACCEPT_BACKLOG, ClosedBy, Listener, PublicKey, Session, Transport, TransportError,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::listener::{Knock, MemoryListener};

/// A network of peers in this process. Clones are the same network.
#[derive(Debug, Clone, Default)]
pub struct MemoryNetwork {
    doors: Doors,
}

impl MemoryNetwork {
    /// A transport that is known by `key` on this network.
    pub fn join(&self, key: PublicKey) -> Memory {
        Memory { key, doors: self.doors.clone(), stop: CancellationToken::new() }
    }
}

/// One identity on a [`MemoryNetwork`]. Clones are the same identity.
#[derive(Debug, Clone)]
pub struct Memory {
    key: PublicKey,
    doors: Doors,
    stop: CancellationToken,
}

#[async_trait]
impl Transport for Memory {
    fn local_key(&self) -> PublicKey {
        self.key
    }

    async fn dial(&self, peer: PublicKey) -> Result<Session, TransportError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(TransportError::Closed { by: ClosedBy::Local }),
            session = self.knock(peer) => session,
        }
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, TransportError> {
        if self.stop.is_cancelled() {
            return Err(TransportError::Closed { by: ClosedBy::Local });
        }
        let (door, knocks) = mpsc::channel(ACCEPT_BACKLOG);
        self.doors.open(self.key, door)?;
        let (doors, stop) = (self.doors.clone(), self.stop.clone());
        Ok(Box::new(MemoryListener::new(self.key, knocks, doors, stop)))
    }

    async fn shutdown(&self) {
        self.stop.cancel();
    }
}

impl Memory {
    async fn knock(&self, peer: PublicKey) -> Result<Session, TransportError> {
        let door = self.doors.find(peer).ok_or(TransportError::NotFound)?;
        let (answer, answered) = oneshot::channel();
        let knock = Knock { from: self.key, stop: self.stop.clone(), answer };
        door.try_send(knock).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TransportError::Refused,
            mpsc::error::TrySendError::Closed(_) => TransportError::NotFound,
        })?;
        answered.await.map_err(|_| TransportError::Refused)
    }
}

/// The listening peers. As large as the number of transports that this process made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doors(Arc<Mutex<HashMap<PublicKey, mpsc::Sender<Knock>>>>);

impl Doors {
    fn open(&self, key: PublicKey, door: mpsc::Sender<Knock>) -> Result<(), TransportError> {
        let mut doors = self.lock();
        if doors.contains_key(&key) {
            return Err(TransportError::Misuse { reason: "this key is listened on already" });
        }
        doors.insert(key, door);
        Ok(())
    }

    fn find(&self, key: PublicKey) -> Option<mpsc::Sender<Knock>> {
        self.lock().get(&key).cloned()
    }

    pub(crate) fn close(&self, key: PublicKey) {
        self.lock().remove(&key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PublicKey, mpsc::Sender<Knock>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
