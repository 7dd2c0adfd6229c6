//! protomux-rpc on one channel.

mod error;
mod fault;
mod handler;
pub(crate) mod message;
mod payload;

use std::{
    fmt,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::oneshot;

pub use self::{
    error::RpcError,
    fault::{Cause, DECODE_ERROR, ENCODE_ERROR, REQUEST_ERROR, RpcFault, UNKNOWN_METHOD},
    handler::RpcHandler,
    payload::{Payload, Reply},
};
use crate::{
    OutgoingMessage,
    state::{Line, Shared, Stage},
};

/// A channel that speaks protomux-rpc, from [`Mux::open`](crate::Mux::open). Clones share it; when the
/// last one is dropped, it is destroyed.
#[derive(Clone)]
pub struct Rpc {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    line: Arc<Line>,
}

impl Rpc {
    pub(crate) fn new(shared: Arc<Shared>, line: Arc<Line>) -> Self {
        Self { inner: Arc::new(Inner { shared, line }) }
    }

    /// Waits until the peer has opened the channel too. Requests need not wait for it: the peer keeps
    /// them. Cancel-safe.
    ///
    /// # Errors
    /// [`RpcError::Rejected`] when the peer does not answer this protocol; [`RpcError::Closed`] and
    /// [`RpcError::Destroyed`] when the channel has closed.
    pub async fn opened(&self) -> Result<(), RpcError> {
        match self.stage(|stage| *stage != Stage::Opening).await {
            Stage::Closed(reason) => Err(reason),
            Stage::Opening | Stage::Open => Ok(()),
        }
    }

    /// Asks `method` and gives its answer, a slice of the received frame.
    ///
    /// Waits while [`Limits::outstanding`](crate::Limits::outstanding) requests have no answer, and
    /// for room in the transmit queue. Cancel-safe: dropping it forgets the request, whose answer is
    /// then ignored; the peer is not told.
    ///
    /// # Errors
    /// [`RpcError::Remote`] with the peer's error; [`RpcError::TooLong`]; and what
    /// [`opened`](Self::opened) fails with.
    pub async fn request(
        &self,
        method: &str,
        value: impl Payload + Send,
    ) -> Result<Bytes, RpcError> {
        let line = &self.inner.line;
        let permit = line.permits.acquire().await;
        let _permit = permit.map_err(|_| self.closed_reason())?;
        let id = line.next_id.fetch_add(1, Ordering::Relaxed);
        let message = self.fit(message::request(line.channel, id, method, &value))?;
        drop(value);
        let answer = self.start(id, message).await?;
        let mut call = Call { inner: &self.inner, id, answered: false };
        let outcome = answer.await;
        call.answered = true;
        outcome.unwrap_or(Err(RpcError::Closed))
    }

    /// As [`request`](Self::request), for so long at most; waiting for room counts. Needs a tokio
    /// runtime with time.
    ///
    /// # Errors
    /// [`RpcError::Timeout`], and see [`request`](Self::request).
    pub async fn request_timeout(
        &self,
        method: &str,
        value: impl Payload + Send,
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        tokio::time::timeout(timeout, self.request(method, value))
            .await
            .unwrap_or(Err(RpcError::Timeout(timeout)))
    }

    /// Sends an event, which nobody answers. Waits for room in the transmit queue. Cancel-safe.
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn event(&self, method: &str, value: impl Payload + Send) -> Result<(), RpcError> {
        let channel = self.inner.line.channel;
        let message = self.fit(message::request(channel, message::EVENT, method, &value))?;
        drop(value);
        self.start(message::EVENT, message).await.map(drop)
    }

    /// Refuses further requests of ours, waits until none is outstanding in either direction, closes
    /// the channel and waits until it is closed. Dropping it does not take the end back.
    pub async fn end(&self) {
        let handler = self.inner.shared.lock().end(self.inner.line.channel);
        self.inner.after(handler);
        self.closed().await;
    }

    /// Closes the channel at once. Requests of ours fail with [`RpcError::Destroyed`].
    pub fn destroy(&self) {
        self.inner.destroy();
    }

    /// Waits until the channel is closed, by whichever side. Cancel-safe.
    pub async fn closed(&self) {
        self.stage(|stage| matches!(stage, Stage::Closed(_))).await;
    }

    /// Whether the channel is closed, by whichever side.
    pub fn is_closed(&self) -> bool {
        matches!(*self.inner.line.stage.borrow(), Stage::Closed(_))
    }

    async fn stage(&self, reached: impl FnMut(&Stage) -> bool) -> Stage {
        let mut stage = self.inner.line.stage.subscribe();
        let reached = stage.wait_for(reached).await;
        // The sender lives in `line`, so that waiting cannot fail.
        reached.map_or(Stage::Closed(RpcError::Closed), |stage| stage.clone())
    }

    fn closed_reason(&self) -> RpcError {
        match &*self.inner.line.stage.borrow() {
            Stage::Closed(reason) => reason.clone(),
            Stage::Opening | Stage::Open => RpcError::Closed,
        }
    }

    fn fit(&self, message: OutgoingMessage) -> Result<OutgoingMessage, RpcError> {
        match message.frame_bytes() {
            len if len > self.inner.shared.limits.frame_bytes => Err(RpcError::TooLong { len }),
            _ => Ok(message),
        }
    }

    /// Queues a message as soon as there is room.
    async fn start(
        &self,
        id: u64,
        message: OutgoingMessage,
    ) -> Result<oneshot::Receiver<Result<Bytes, RpcError>>, RpcError> {
        let Inner { shared, line } = &*self.inner;
        let mut started = shared.lock().start(id, &message, line.channel);
        while started.is_none() {
            let mut room = pin!(shared.room.notified());
            room.as_mut().enable();
            started = shared.lock().start(id, &message, line.channel);
            if started.is_none() {
                room.await;
            }
        }
        match started {
            Some(Ok(answer)) => {
                shared.driver.wake();
                Ok(answer)
            }
            Some(Err(_)) | None => Err(self.closed_reason()),
        }
    }
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc")
            .field("channel", &self.inner.line.channel)
            .field("stage", &*self.inner.line.stage.borrow())
            .finish()
    }
}

impl Inner {
    fn destroy(&self) {
        let handler = self.shared.lock().close(self.line.channel, RpcError::Destroyed);
        // Who waits for room on this channel need not wait any more.
        self.shared.room.notify_waiters();
        self.after(handler);
    }

    fn after(&self, closed: Option<Arc<dyn RpcHandler>>) {
        self.shared.driver.wake();
        if let Some(handler) = closed {
            handler.closed();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.destroy();
    }
}

/// A request without an answer yet; forgotten when dropped.
struct Call<'a> {
    inner: &'a Inner,
    id: u64,
    answered: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let handler = self.inner.shared.lock().forget(self.inner.line.channel, self.id);
        self.inner.after(handler);
    }
}
