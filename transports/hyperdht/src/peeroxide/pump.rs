//! The task between a session's queues and its secret stream.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use dht_prom_transport::{ClosedBy, TransportError};
use libudx::UdxAsyncStream;
use peeroxide_dht::secret_stream::{SecretStream, SecretStreamReadHalf, SecretStreamWriteHalf};
use tokio::{
    io::{ReadHalf, WriteHalf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::error;

/// Bytes that a peer may send before the session is read; who sends more is cut off, because the
/// crate cannot make it wait. A longer message is taken if nothing else is unread, so a session
/// holds 16 MiB at most.
pub const UNREAD_BYTES: usize = 8 * 1024 * 1024;

/// A message and its place in the queue, given back when the message is written or read.
pub(super) type Queued = (Bytes, OwnedSemaphorePermit);

/// The carrier's side of a session.
#[derive(Debug)]
pub(super) struct Pump {
    /// Messages for the peer. Closed when our sink was closed or dropped.
    pub(super) outbound: mpsc::Receiver<Queued>,
    /// Places in the outbound queue; closed when the session has ended.
    pub(super) places: Arc<Semaphore>,
    /// Messages of the peer.
    pub(super) inbound: mpsc::Sender<Queued>,
    /// Why the session ended.
    pub(super) end: Arc<OnceLock<End>>,
    /// Cancelled when our direction has ended on the wire.
    pub(super) written: CancellationToken,
}

impl Pump {
    /// Carries messages until either side ends the session or `stop` is cancelled.
    pub(super) async fn run(self, stream: SecretStream<UdxAsyncStream>, stop: CancellationToken) {
        let Self { mut outbound, places, inbound, end, written } = self;
        let (mut reader, mut writer) = stream.into_split();
        let peer_ended = CancellationToken::new();
        let mut read = Box::pin(receive(&mut reader, &inbound));
        let mut write = Box::pin(send(&mut writer, &mut outbound, &peer_ended, &written));
        let ending = tokio::select! {
            biased;
            () = stop.cancelled() => End::Closed(ClosedBy::Local),
            ending = &mut read => ending,
            sent = &mut write => match sent {
                Err(_) => End::Closed(ClosedBy::Peer),
                Ok(()) => tokio::select! {
                    biased;
                    () = stop.cancelled() => End::Closed(ClosedBy::Local),
                    ending = timeout(CLOSE_TIMEOUT, &mut read) => ending.unwrap_or(End::InOrder),
                },
            },
        };
        tracing::debug!(?ending, "a session ends");
        // Our user looks for the reason once the queue is closed, so the reason comes first.
        let _ = end.set(ending);
        drop(read);
        drop(inbound);
        if ending == End::InOrder && !written.is_cancelled() {
            // What the peer had not acknowledged when it ended its side may still get there.
            peer_ended.cancel();
            tokio::select! {
                () = stop.cancelled() => {}
                _ = timeout(CLOSE_TIMEOUT, write) => {}
            }
        } else {
            drop(write);
        }
        places.close();
        if !written.is_cancelled() {
            let _ = timeout(CLOSE_TIMEOUT, writer.shutdown()).await;
            written.cancel();
        }
    }
}

type Reader = SecretStreamReadHalf<ReadHalf<UdxAsyncStream>>;
type Writer = SecretStreamWriteHalf<WriteHalf<UdxAsyncStream>>;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The peer closed its side.
    InOrder,
    /// It broke off.
    Closed(ClosedBy),
    /// The peer broke the protocol.
    Misbehaved(&'static str),
}

impl End {
    /// What a reader is told, if the end was not in order.
    pub(super) fn error(self) -> Option<TransportError> {
        match self {
            Self::InOrder => None,
            Self::Closed(by) => Some(TransportError::Closed { by }),
            Self::Misbehaved(reason) => Some(TransportError::Misbehaved { reason }),
        }
    }
}

/// Reads until the peer ends its side. Messages that nobody wants any more are thrown away.
async fn receive(reader: &mut Reader, inbound: &mpsc::Sender<Queued>) -> End {
    let unread = Arc::new(Semaphore::new(UNREAD_PLACES as usize));
    loop {
        let message = match reader.read().await {
            Ok(Some(message)) => Bytes::from(message),
            Ok(None) => return End::InOrder,
            Err(error) if error::broke_protocol(&error) => {
                return End::Misbehaved("a frame does not decrypt");
            }
            Err(_) => return End::Closed(ClosedBy::Peer),
        };
        let charge = u32::try_from(message.len() / CHARGE_BYTES + 1)
            .map_or(UNREAD_PLACES, |places| places.min(UNREAD_PLACES));
        let Ok(place) = Arc::clone(&unread).try_acquire_many_owned(charge) else {
            tracing::warn!(bytes = UNREAD_BYTES, "a session is cut off: nobody reads it");
            return End::Closed(ClosedBy::Local);
        };
        // Fails if the reader is gone: the charge limits the queue before its own bound does.
        let _ = inbound.try_send((message, place));
    }
}

/// Writes until our side is closed or the peer's has ended, and the queue is empty; then ends our
/// direction. Writes an empty frame when there was nothing else to write for a while.
async fn send(
    writer: &mut Writer,
    outbound: &mut mpsc::Receiver<Queued>,
    peer_ended: &CancellationToken,
    written: &CancellationToken,
) -> Result<(), Gone> {
    loop {
        let next = tokio::select! {
            biased;
            () = peer_ended.cancelled(), if !outbound.is_closed() => {
                outbound.close();
                continue;
            }
            next = timeout(KEEP_ALIVE, outbound.recv()) => next,
        };
        match next {
            Ok(Some((message, _place))) => write(writer, &message, WRITE_TIMEOUT).await?,
            Err(_) => write(writer, &[], KEEP_ALIVE_TIMEOUT).await?,
            Ok(None) => {
                let _ = timeout(CLOSE_TIMEOUT, writer.shutdown()).await;
                written.cancel();
                return Ok(());
            }
        }
    }
}

/// Writes a frame and waits until the peer has acknowledged it.
async fn write(writer: &mut Writer, message: &[u8], limit: Duration) -> Result<(), Gone> {
    match timeout(limit, writer.write(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "writing failed");
            Err(Gone)
        }
        Err(_) => {
            tracing::debug!(seconds = limit.as_secs(), "the peer does not acknowledge");
            Err(Gone)
        }
    }
}

/// The peer is not there any more.
#[derive(Debug)]
struct Gone;

/// What a place in the queue of unread messages stands for, so that many small messages are paid too.
const CHARGE_BYTES: usize = 128;
/// Places in that queue.
pub(super) const UNREAD_PLACES: u32 = (UNREAD_BYTES / CHARGE_BYTES) as u32;
/// The silence after which we say that we are here (`hyperdht` 6.34, `connectionKeepAlive`).
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A peer that does not acknowledge a keep-alive for so long is gone.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// A peer that does not acknowledge a message for so long is gone. Generous, because the crate stalls
/// for seconds on large ones.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an ending session waits for the peer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
