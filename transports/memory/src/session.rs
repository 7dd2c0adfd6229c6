//! Two bounded queues that make a session.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use dht_prom_transport::{
    ClosedBy, MAX_MESSAGE_BYTES, PublicKey, Session, SessionInfo, TransportError,
};
use futures_util::{Sink, Stream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, PollSender, WaitForCancellationFutureOwned};

/// Messages a peer may leave unread. At most 16 MiB each, so 256 MiB; the transport holds them by
/// reference, so that memory is the sender's.
const QUEUE_MESSAGES: usize = 16;

/// The two sides of a session between the dialler and the listener, each known by its key and ended
/// when either of their transports stops.
pub(crate) fn pair(
    dialler: (PublicKey, CancellationToken),
    listener: (PublicKey, CancellationToken),
) -> (Session, Session) {
    let (to_listener, from_dialler) = mpsc::channel(QUEUE_MESSAGES);
    let (to_dialler, from_listener) = mpsc::channel(QUEUE_MESSAGES);
    (
        session(listener.0, to_listener, from_listener, || Stop::new(&dialler.1, &listener.1)),
        session(dialler.0, to_dialler, from_dialler, || Stop::new(&listener.1, &dialler.1)),
    )
}

fn session(
    peer: PublicKey,
    tx: mpsc::Sender<Bytes>,
    rx: mpsc::Receiver<Bytes>,
    stop: impl Fn() -> Stop,
) -> Session {
    Session {
        peer,
        info: SessionInfo::new("memory", None),
        tx: Box::pin(MemorySink { queue: PollSender::new(tx), stop: stop() }),
        rx: Box::pin(MemoryStream { queue: rx, stop: Some(stop()) }),
    }
}

/// Waits until either transport stops.
struct Stop {
    local: Pin<Box<WaitForCancellationFutureOwned>>,
    peer: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stop {
    fn new(local: &CancellationToken, peer: &CancellationToken) -> Self {
        let wait = |token: &CancellationToken| Box::pin(token.clone().cancelled_owned());
        Self { local: wait(local), peer: wait(peer) }
    }

    /// Pending while both transports run; then the error that says whose stopped.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<TransportError> {
        let by = if self.local.as_mut().poll(cx).is_ready() {
            ClosedBy::Local
        } else {
            ready!(self.peer.as_mut().poll(cx));
            ClosedBy::Peer
        };
        Poll::Ready(TransportError::Closed { by })
    }
}

struct MemorySink {
    queue: PollSender<Bytes>,
    stop: Stop,
}

impl Sink<Bytes> for MemorySink {
    type Error = TransportError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if let Poll::Ready(stopped) = self.stop.poll(cx) {
            self.queue.close();
            return Poll::Ready(Err(stopped));
        }
        self.queue.poll_reserve(cx).map_err(|_| TransportError::Closed { by: ClosedBy::Peer })
    }

    fn start_send(mut self: Pin<&mut Self>, message: Bytes) -> Result<(), Self::Error> {
        if message.is_empty() {
            self.queue.abort_send();
            return Ok(());
        }
        if message.len() > MAX_MESSAGE_BYTES {
            self.queue.abort_send();
            return Err(TransportError::Misuse {
                reason: "the message is longer than a session carries",
            });
        }
        self.queue.send_item(message).map_err(|_| TransportError::Closed { by: ClosedBy::Peer })
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Result<(), Self::Error>> {
        self.queue.close();
        Poll::Ready(Ok(()))
    }
}

struct MemoryStream {
    queue: mpsc::Receiver<Bytes>,
    /// `None` once a stop has been reported.
    stop: Option<Stop>,
}

impl Stream for MemoryStream {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stop) = &mut self.stop else { return Poll::Ready(None) };
        if let Poll::Ready(stopped) = stop.poll(cx) {
            self.stop = None;
            self.queue.close();
            return Poll::Ready(Some(Err(stopped)));
        }
        Poll::Ready(ready!(self.queue.poll_recv(cx)).map(Ok))
    }
}
