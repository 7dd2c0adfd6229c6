//! A network that fails when a test says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::Notify;

use crate::{ClosedBy, Listener, MessageStream, PublicKey, Session, Transport, TransportError};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Dials fail with [`TransportError::Unreachable`].
    Unreachable,
    /// Dials never end.
    Silent,
    /// Dialled sessions break after this many messages from the peer.
    BreakAfter(usize),
}

/// A transport whose dials meet a [`Fault`] while one is set; that it is not any more is a change of
/// the network. Clones share the fault.
#[derive(Debug, Clone)]
pub struct Faulty<T> {
    inner: T,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    fault: Mutex<Option<Fault>>,
    lifted: Notify,
}

impl<T> Faulty<T> {
    /// A transport that works until [`Faulty::set`] says otherwise.
    pub fn new(inner: T) -> Self {
        Self { inner, state: Arc::default() }
    }

    /// Chooses what dials meet from now on; `None` lets them work again.
    pub fn set(&self, fault: Option<Fault>) {
        *self.fault() = fault;
        if fault.is_none() {
            self.state.lifted.notify_waiters();
        }
    }

    fn fault(&self) -> MutexGuard<'_, Option<Fault>> {
        self.state.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Transport> Transport for Faulty<T> {
    fn local_key(&self) -> PublicKey {
        self.inner.local_key()
    }

    async fn dial(&self, peer: PublicKey) -> Result<Session, TransportError> {
        let fault = *self.fault();
        match fault {
            None => self.inner.dial(peer).await,
            Some(Fault::Unreachable) => Err(TransportError::Unreachable { source: None }),
            Some(Fault::Silent) => std::future::pending().await,
            Some(Fault::BreakAfter(messages)) => {
                let mut session = self.inner.dial(peer).await?;
                session.rx = break_after(session.rx, messages);
                Ok(session)
            }
        }
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, TransportError> {
        self.inner.listen().await
    }

    async fn network_changed(&self) {
        tokio::select! {
            () = self.state.lifted.notified() => {}
            () = self.inner.network_changed() => {}
        }
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}

fn break_after(rx: MessageStream, messages: usize) -> MessageStream {
    let broken = stream::iter([Err(TransportError::Closed { by: ClosedBy::Peer })]);
    Box::pin(rx.take(messages).chain(broken))
}
