//! The handle of a mux.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures_util::{Sink, Stream};

use crate::{
    Limits, MuxDriver, OpenError, Protocol, Rpc, RpcHandler,
    state::{Phase, Shared},
};

/// Channels over one message stream. Clones share it; dropping them ends nothing, for what was
/// [served](Self::serve) goes on as long as the [driver](MuxDriver) runs.
#[derive(Clone)]
pub struct Mux {
    shared: Arc<Shared>,
}

impl Mux {
    /// A mux over a stream of whole messages, and the driver that the caller spawns or awaits: nothing
    /// moves without it. What the first frame of the peer's may open has to be
    /// [served](Self::serve) before the driver runs.
    pub fn new<Tx, Rx>(tx: Tx, rx: Rx, limits: Limits) -> (Self, MuxDriver<Tx, Rx>)
    where
        Tx: Sink<Bytes> + Unpin,
        Rx: Stream<Item = Result<Bytes, Tx::Error>> + Unpin,
    {
        let shared = Arc::new(Shared::new(limits));
        let mux = Self { shared: Arc::clone(&shared) };
        (mux, MuxDriver::new(shared, tx, rx))
    }

    /// From now on, each channel of this protocol and id that the peer opens is opened on our side too
    /// and answered by `handler`, which replaces an earlier one for channels to come. Every other open
    /// is rejected.
    pub fn serve(&self, protocol: Protocol, handler: Arc<dyn RpcHandler>) {
        let mut state = self.shared.lock();
        if state.phase == Phase::Running {
            let replaced = state.served.insert(protocol, handler);
            // Dropped without the lock: a handler may own channels of this mux.
            drop(state);
            drop(replaced);
        }
    }

    /// Opens a channel, and answers the peer's requests on it with `handler`; without one, each is
    /// answered with [`UNKNOWN_METHOD`](crate::UNKNOWN_METHOD).
    ///
    /// # Errors
    /// See [`OpenError`]. What the peer makes of it is found by [`Rpc::opened`].
    pub fn open(
        &self,
        protocol: &Protocol,
        handler: Option<Arc<dyn RpcHandler>>,
    ) -> Result<Rpc, OpenError> {
        let line = self.shared.lock().open(protocol, handler)?;
        self.shared.driver.wake();
        Ok(Rpc::new(Arc::clone(&self.shared), line))
    }

    /// Opens no more channels, ends each as [`Rpc::end`] does, sends what is queued, closes the stream
    /// below and waits for all that. Dropping it does not take the end back.
    pub async fn close(&self) {
        self.begin_close();
        self.closed().await;
    }

    fn begin_close(&self) {
        let mut state = self.shared.lock();
        if state.phase == Phase::Running {
            state.phase = Phase::Closing;
        }
        let ids: Vec<_> = state.rpcs.keys().copied().collect();
        let handlers: Vec<_> = ids.into_iter().filter_map(|id| state.end(id)).collect();
        drop(state);
        self.shared.driver.wake();
        for handler in handlers {
            handler.closed();
        }
    }

    /// Ends the driver, which fails all that is outstanding and drops the stream below.
    pub fn destroy(&self) {
        let mut state = self.shared.lock();
        if state.phase != Phase::Ended {
            state.phase = Phase::Destroyed;
        }
        drop(state);
        self.shared.driver.wake();
    }

    /// Waits until the driver has ended or has been dropped. Cancel-safe.
    pub async fn closed(&self) {
        // The sender lives in `shared`, so that waiting cannot fail.
        let _ = self.shared.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Whether the driver has ended or has been dropped.
    pub fn is_closed(&self) -> bool {
        *self.shared.ended.borrow()
    }
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}
