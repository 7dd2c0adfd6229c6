//! Counting what crosses the seam.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Sink, Stream};

use crate::{
    ErrorKind, Incoming, Listener, MessageSink, MessageStream, PublicKey, Session, Transport,
    TransportError,
};

/// Who opened a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// We dialled.
    Dialler,
    /// The peer dialled us.
    Listener,
}

/// Takes the counts of a [`Metered`] transport. Every method does nothing unless overridden.
pub trait Meter: fmt::Debug + Send + Sync + 'static {
    /// A dial ended: well, or with an error of this kind. A dropped dial is not counted.
    fn dialled(&self, _outcome: Result<(), ErrorKind>) {}

    /// A session opened.
    fn opened(&self, _role: Role) {}

    /// A session ended: both halves were dropped.
    fn closed(&self, _role: Role) {}

    /// A message of this many bytes went to the carrier.
    fn sent(&self, _bytes: usize) {}

    /// A message of this many bytes came from the carrier.
    fn received(&self, _bytes: usize) {}
}

/// A transport that reports what passes through it to a [`Meter`].
#[derive(Debug, Clone)]
pub struct Metered<T> {
    inner: T,
    meter: Arc<dyn Meter>,
}

impl<T> Metered<T> {
    /// Reports the doings of `inner` to `meter`.
    pub fn new(inner: T, meter: Arc<dyn Meter>) -> Self {
        Self { inner, meter }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Transport> Transport for Metered<T> {
    fn local_key(&self) -> PublicKey {
        self.inner.local_key()
    }

    async fn dial(&self, peer: PublicKey) -> Result<Session, TransportError> {
        let outcome = self.inner.dial(peer).await;
        self.meter.dialled(outcome.as_ref().map(|_| ()).map_err(TransportError::kind));
        outcome.map(|session| meter_session(session, &self.meter, Role::Dialler))
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, TransportError> {
        let inner = self.inner.listen().await?;
        Ok(Box::new(MeteredListener { inner, meter: Arc::clone(&self.meter) }))
    }

    async fn network_changed(&self) {
        self.inner.network_changed().await;
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}

#[derive(Debug)]
struct MeteredListener {
    inner: Box<dyn Listener>,
    meter: Arc<dyn Meter>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Listener for MeteredListener {
    async fn accept(&mut self) -> Result<Box<dyn Incoming>, TransportError> {
        let inner = self.inner.accept().await?;
        Ok(Box::new(MeteredIncoming { inner, meter: Arc::clone(&self.meter) }))
    }
}

#[derive(Debug)]
struct MeteredIncoming {
    inner: Box<dyn Incoming>,
    meter: Arc<dyn Meter>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Incoming for MeteredIncoming {
    fn peer(&self) -> PublicKey {
        self.inner.peer()
    }

    async fn accept(self: Box<Self>) -> Result<Session, TransportError> {
        let session = self.inner.accept().await?;
        Ok(meter_session(session, &self.meter, Role::Listener))
    }

    fn refuse(self: Box<Self>) {
        self.inner.refuse();
    }
}

fn meter_session(session: Session, meter: &Arc<dyn Meter>, role: Role) -> Session {
    meter.opened(role);
    let open = Arc::new(Open { meter: Arc::clone(meter), role });
    Session {
        tx: Box::pin(MeteredSink { inner: session.tx, open: Arc::clone(&open) }),
        rx: Box::pin(MeteredStream { inner: session.rx, open }),
        ..session
    }
}

/// Held by both halves; the last one to go reports the end.
#[derive(Debug)]
struct Open {
    meter: Arc<dyn Meter>,
    role: Role,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.meter.closed(self.role);
    }
}

struct MeteredSink {
    inner: MessageSink,
    open: Arc<Open>,
}

impl Sink<Bytes> for MeteredSink {
    type Error = TransportError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.as_mut().poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Bytes) -> Result<(), Self::Error> {
        let bytes = message.len();
        self.inner.as_mut().start_send(message)?;
        self.open.meter.sent(bytes);
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.as_mut().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.as_mut().poll_close(cx)
    }
}

struct MeteredStream {
    inner: MessageStream,
    open: Arc<Open>,
}

impl Stream for MeteredStream {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = self.inner.as_mut().poll_next(cx);
        if let Poll::Ready(Some(Ok(message))) = &item {
            self.open.meter.received(message.len());
        }
        item
    }
}
