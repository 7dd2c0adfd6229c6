//! The two halves of a session that its user holds.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use dht_prom_transport::{
    ClosedBy, MAX_MESSAGE_BYTES, PublicKey, Session, SessionInfo, TransportError,
};
use futures_util::{Sink, Stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, PollSemaphore, WaitForCancellationFutureOwned};

use super::{
    NAME,
    pump::{End, Pump, Queued, UNREAD_PLACES},
};

/// Messages that wait for the carrier. Held by reference, 16 MiB each at most.
const OUTBOUND_MESSAGES: u32 = 8;

/// A session and the pump that makes it go.
pub(super) fn session(peer: PublicKey, remote_addr: Option<SocketAddr>) -> (Session, Pump) {
    let places = Arc::new(Semaphore::new(OUTBOUND_MESSAGES as usize));
    let (to_pump, outbound) = mpsc::channel(OUTBOUND_MESSAGES as usize);
    let (inbound, from_pump) = mpsc::channel(UNREAD_PLACES as usize);
    let end = Arc::new(OnceLock::new());
    let written = CancellationToken::new();
    let session = Session {
        peer,
        info: SessionInfo::new(NAME, remote_addr),
        tx: Box::pin(HyperDhtSink {
            queue: Some(to_pump),
            places: PollSemaphore::new(Arc::clone(&places)),
            place: None,
            end: Arc::clone(&end),
            written: Box::pin(written.clone().cancelled_owned()),
        }),
        rx: Box::pin(HyperDhtStream { queue: from_pump, end: Some(Arc::clone(&end)) }),
    };
    (session, Pump { outbound, places, inbound, end, written })
}

struct HyperDhtSink {
    /// `None` once closed.
    queue: Option<mpsc::Sender<Queued>>,
    places: PollSemaphore,
    /// The place of the next message.
    place: Option<OwnedSemaphorePermit>,
    end: Arc<OnceLock<End>>,
    written: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl HyperDhtSink {
    fn ended(&self) -> TransportError {
        let end = self.end.get().and_then(|end| end.error());
        let by = if self.queue.is_none() { ClosedBy::Local } else { ClosedBy::Peer };
        end.unwrap_or(TransportError::Closed { by })
    }
}

impl Sink<Bytes> for HyperDhtSink {
    type Error = TransportError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.queue.is_none() {
            return Poll::Ready(Err(self.ended()));
        }
        if self.place.is_none() {
            self.place = ready!(self.places.poll_acquire(cx));
        }
        Poll::Ready(if self.place.is_some() { Ok(()) } else { Err(self.ended()) })
    }

    fn start_send(mut self: Pin<&mut Self>, message: Bytes) -> Result<(), Self::Error> {
        if message.is_empty() {
            return Ok(());
        }
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(TransportError::Misuse {
                reason: "the message is longer than a session carries",
            });
        }
        let place = self.place.take();
        match (&self.queue, place) {
            (Some(queue), Some(place)) => {
                queue.try_send((message, place)).map_err(|_| self.ended())
            }
            (Some(_), None) => Err(TransportError::Misuse { reason: "the sink was not ready" }),
            (None, _) => Err(self.ended()),
        }
    }

    /// Ready when every place is free, which is when the last message has been acknowledged.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.place = None;
        match ready!(self.places.poll_acquire_many(cx, OUTBOUND_MESSAGES)) {
            Some(_) => Poll::Ready(Ok(())),
            None => Poll::Ready(Err(self.ended())),
        }
    }

    /// The pump writes what is queued before it ends our direction.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.place = None;
        self.queue = None;
        ready!(self.written.as_mut().poll(cx));
        match self.end.get().and_then(|end| end.error()) {
            Some(error) if self.places.available_permits() < OUTBOUND_MESSAGES as usize => {
                Poll::Ready(Err(error))
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

struct HyperDhtStream {
    queue: mpsc::Receiver<Queued>,
    /// `None` once the end has been reported.
    end: Option<Arc<OnceLock<End>>>,
}

impl Stream for HyperDhtStream {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some((message, _place)) = ready!(self.queue.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(message)));
        }
        let end = self.end.take();
        let error = end.and_then(|end| end.get().and_then(|end| end.error()));
        Poll::Ready(error.map(Err))
    }
}
