//! An open connection: a secret stream over a UDX stream.

mod life;

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use hyperdht_proto::{
    keys::PublicKey,
    noise::SessionKeys,
    secret_stream::{self, MAX_MESSAGE, MessageTooLong, Options, Reader, Writer},
    udx,
};
use tokio_util::task::TaskTracker;

use self::life::{Life, Signs};
use crate::{
    node::{PoolSocket, Shared},
    udx::UdxStream,
};

/// A connection to a peer that has proved its key: messages both ways, in order, encrypted.
///
/// Messages go from the UDX stream to the reader and back without a queue or a task in between: a
/// peer that is not read is held off by UDX's window of 4 MiB, and a writer waits while 256 KiB are
/// on their way. Keep-alives of five seconds go both ways; a peer that has vanished is noticed within
/// 15 seconds, and within five after a change of the network on our side.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    receiver: Receiver,
}

impl Connection {
    /// The peer's key.
    pub fn peer(&self) -> PublicKey {
        self.sender.ends.link.peer
    }

    /// Where the peer's packets come from, while the stream is connected.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.sender.ends.link.stream.info().path.map(|path| path.peer)
    }

    /// Sends a message: gives it to the stream as soon as there is room. An empty message is not
    /// delivered. Not cancel-safe: whether the message of a dropped call is sent is not known.
    ///
    /// # Errors
    /// [`ConnectionError::TooLong`], after which the connection lives on; otherwise how it ended.
    pub async fn send(&mut self, message: Bytes) -> Result<(), ConnectionError> {
        self.sender.send(message).await
    }

    /// The next message; nothing once the peer has ended its side. Cancel-safe.
    ///
    /// # Errors
    /// How the connection ended otherwise, once.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, ConnectionError> {
        self.receiver.next().await.transpose()
    }

    /// Ends our side and waits until the peer has received everything. Cancel-safe: a second
    /// call goes on where a dropped one stopped.
    ///
    /// # Errors
    /// How the connection ended before.
    pub async fn finish(&mut self) -> Result<(), ConnectionError> {
        self.sender.close().await
    }

    /// The halves, for two tasks. The connection ends when both are dropped.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// Starts the secret stream: the header is written at once, and sent when the stream is
    /// connected.
    pub(crate) fn start(
        node: &Arc<Shared>,
        stream: UdxStream,
        keys: &SessionKeys,
        nonce: [u8; 24],
    ) -> Self {
        let now = Instant::now();
        let (writer, reader) = secret_stream::open(keys, nonce, Options::default());
        let mut out = Out { writer, buffer: BytesMut::new(), pending: Bytes::new(), ended: false };
        out.write_header(&stream);
        let link = Arc::new(Link {
            peer: keys.remote,
            stream,
            out: Mutex::new(out),
            life: Life::new(now),
            replaced: AtomicBool::new(false),
            socket: Mutex::new(None),
        });
        let ends = Arc::new(Ends { link, _node: Arc::clone(node), tasks: node.tasks() });
        let receiver = Receiver { ends: Arc::clone(&ends), reader, ended: false };
        Self { sender: Sender { ends }, receiver }
    }

    /// What looks after the way that the stream takes.
    pub(crate) fn share(&self) -> Arc<Link> {
        Arc::clone(&self.sender.ends.link)
    }

    /// Where the stream goes, while it is connected.
    pub(crate) fn path(&self) -> Option<udx::Path> {
        self.sender.ends.link.stream.info().path
    }

    pub(crate) fn link(&self) -> Weak<Link> {
        Arc::downgrade(&self.sender.ends.link)
    }

    /// For whoever has to know as long as the connection is in somebody's hands.
    pub(crate) fn held(&self) -> Held {
        Held(Arc::downgrade(&self.sender.ends))
    }

    /// Waits for the peer's header, which proves that its packets reach us. Cancel-safe.
    ///
    /// # Errors
    /// How the connection ended before.
    pub async fn opened(&mut self) -> Result<(), ConnectionError> {
        std::future::poll_fn(|cx| self.receiver.poll_opened(cx)).await
    }
}

/// The half of a [`Connection`] that sends.
///
/// As a [`Sink`], it is ready when the last message has gone into the stream's bounded buffer.
/// Closing it ends our direction and waits until the peer has everything.
#[derive(Debug)]
pub struct Sender {
    ends: Arc<Ends>,
}

impl Sink<Bytes> for Sender {
    type Error = ConnectionError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let link = &self.ends.link;
        link.out().poll_drain(cx, &link.stream).map_err(|error| link.cause(&error))
    }

    fn start_send(self: Pin<&mut Self>, message: Bytes) -> Result<(), Self::Error> {
        let link = &self.ends.link;
        if message.len() > MAX_MESSAGE {
            return Err(ConnectionError::TooLong(MessageTooLong { len: message.len() }));
        }
        if message.is_empty() {
            return Ok(());
        }
        let sent = link.out().send(message, &link.stream);
        link.life.wrote();
        sent.map_err(|error| link.cause(&error))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.poll_ready(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let link = &self.ends.link;
        let mut out = link.out();
        ready!(out.poll_drain(cx, &link.stream)).map_err(|error| link.cause(&error))?;
        out.end(&link.stream);
        drop(out);
        link.stream.poll_flushed(cx).map_err(|error| link.cause(&error))
    }
}

impl Drop for Sender {
    /// Ends our direction behind what was sent.
    fn drop(&mut self) {
        let link = &self.ends.link;
        let mut out = link.out();
        let _ = out.try_drain(&link.stream);
        if out.pending.is_empty() {
            out.end(&link.stream);
        } else {
            link.stream.destroy();
        }
    }
}

/// The half of a [`Connection`] that receives: a [`Stream`] of messages, which ends after the peer
/// has ended its side, or after one error.
#[derive(Debug)]
pub struct Receiver {
    ends: Arc<Ends>,
    reader: Reader,
    ended: bool,
}

impl Receiver {
    /// The next message, or none for a header or a keep-alive; nothing at the end.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Option<Bytes>, ConnectionError>>> {
        let link = &self.ends.link;
        let frame = match ready!(link.stream.poll_next_chunk(cx)) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Poll::Ready(None),
            Err(error) => return Poll::Ready(Some(Err(link.ended(error)))),
        };
        let message = self.reader.read_frame(frame);
        if message.is_err() {
            link.stream.destroy();
        }
        Poll::Ready(Some(message.map_err(ConnectionError::Broken)))
    }

    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        while !self.reader.is_open() {
            match ready!(self.poll_frame(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(ConnectionError::Reset)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream for Receiver {
    type Item = Result<Bytes, ConnectionError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended {
            match ready!(self.poll_frame(cx)) {
                Some(Ok(None)) => {}
                Some(Ok(Some(message))) => return Poll::Ready(Some(Ok(message))),
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => self.ended = true,
            }
        }
        Poll::Ready(None)
    }
}

/// What both halves share. When the second one goes, the stream is ended.
struct Ends {
    link: Arc<Link>,
    /// A node runs as long as it has connections.
    _node: Arc<Shared>,
    tasks: TaskTracker,
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.link.fmt(f)
    }
}

impl Drop for Ends {
    /// The peer still gets what was sent, if it takes it soon.
    fn drop(&mut self) {
        let link = Arc::clone(&self.link);
        if link.stream.is_closed() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(self.tasks.spawn_on(async move { link.linger().await }, &runtime));
        }
    }
}

/// A connection in somebody else's hands.
#[derive(Debug)]
pub(crate) struct Held(Weak<Ends>);

impl Held {
    /// Whether it has neither closed nor been dropped.
    pub(crate) fn is_open(&self) -> bool {
        self.0.upgrade().is_some_and(|ends| !ends.link.stream.is_closed())
    }

    /// Ends it, since another one has taken its place.
    pub(crate) fn replace(&self) {
        if let Some(ends) = self.0.upgrade() {
            ends.link.replaced.store(true, Ordering::Relaxed);
            ends.link.destroy();
        }
    }

    /// Has the peer asked whether it is still there.
    pub(crate) fn doubt(&self) {
        if let Some(ends) = self.0.upgrade() {
            ends.link.doubt();
        }
    }
}

/// A connection without its ends: what keeps it alive needs to know.
pub(crate) struct Link {
    peer: PublicKey,
    stream: UdxStream,
    out: Mutex<Out>,
    life: Life,
    /// Whether another connection has taken its place.
    replaced: AtomicBool,
    /// The socket that the stream runs over, if it is one for crossing NATs.
    socket: Mutex<Option<Arc<PoolSocket>>>,
}

impl Link {
    /// Locked for moments, never across an await.
    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, socket: Option<Arc<PoolSocket>>) {
        let mut held = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *held, socket);
        drop(held);
        drop(before);
    }

    /// The socket that is kept open, if it is one for crossing NATs.
    pub(crate) fn held(&self) -> Option<Arc<PoolSocket>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The stream below.
    pub(crate) const fn stream(&self) -> &UdxStream {
        &self.stream
    }

    /// Connects the stream, unless the peer was quicker, and keeps `socket` open for it, if that is one
    /// for crossing NATs.
    pub(crate) fn connect(&self, path: udx::Path, remote_id: u32, socket: Option<Arc<PoolSocket>>) {
        let _ = self.stream.connect_path(path, remote_id);
        self.hold(socket);
    }

    /// Takes the stream to another path, or connects it. A stream that has ended stays as it is.
    pub(crate) fn go_to(&self, path: udx::Path, remote_id: u32, socket: Option<Arc<PoolSocket>>) {
        let _ = self.stream.go_to(path, remote_id);
        // What is queued for the socket before is sent before that is closed.
        self.hold(socket);
    }

    /// Does what is due to keep the connection alive and to notice its end; says when to be called
    /// again, or nothing once it has ended.
    pub(crate) fn tick(&self, now: Instant) -> Option<Instant> {
        if self.stream.is_closed() {
            return None;
        }
        let udx::StreamInfo { counts, acknowledged, .. } = self.stream.info();
        let signs =
            Signs { packets: counts.packets_received, astray: counts.packets_astray, acknowledged };
        let verdict = self.life.tick(now, signs);
        match verdict {
            life::Verdict::Rest => {}
            life::Verdict::Write => {
                let mut out = self.out();
                if out.pending.is_empty() && !out.ended {
                    // A failure here is one that the halves will meet as well.
                    let _ = out.send(Bytes::new(), &self.stream);
                }
            }
            life::Verdict::Dead => {
                tracing::debug!("a peer has vanished");
                self.stream.destroy();
                return None;
            }
        }
        Some(now + life::TICK)
    }

    /// The network has changed: the next tick finds out whether the peer is still there.
    pub(crate) fn doubt(&self) {
        self.life.doubt();
    }

    /// Ends the connection from our side: the peer is told at once.
    pub(crate) fn destroy(&self) {
        self.stream.destroy();
    }

    /// Waits until the peer has what was sent and has ended its side, or has had the time for both.
    /// A reset right behind the last message would make Node drop what it has not read yet.
    async fn linger(&self) {
        let _ = tokio::time::timeout(LINGER, self.stream.flushed()).await;
        let _ = tokio::time::timeout(GRACE, self.stream.closed()).await;
        self.stream.destroy();
    }

    fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Why the stream has closed.
    fn ended(&self, error: udx::StreamError) -> ConnectionError {
        match error {
            udx::StreamError::Reset => ConnectionError::Reset,
            udx::StreamError::TimedOut => ConnectionError::TimedOut,
            udx::StreamError::Destroyed if self.life.is_dead() => ConnectionError::TimedOut,
            udx::StreamError::FrameTooLong => ConnectionError::FrameTooLong,
            udx::StreamError::Destroyed if self.is_replaced() => ConnectionError::Replaced,
            udx::StreamError::Destroyed | _ => ConnectionError::Closed,
        }
    }

    /// Why a call on the stream has failed.
    fn cause(&self, error: &io::Error) -> ConnectionError {
        let kind = error.kind();
        if kind == io::ErrorKind::ConnectionReset {
            ConnectionError::Reset
        } else if kind == io::ErrorKind::TimedOut || self.life.is_dead() {
            ConnectionError::TimedOut
        } else if self.is_replaced() {
            ConnectionError::Replaced
        } else if kind == io::ErrorKind::ConnectionAborted {
            ConnectionError::Closed
        } else {
            // Both sides have ended in order, or ours has.
            ConnectionError::Ended
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What goes to the peer.
struct Out {
    writer: Writer,
    /// Where messages are sealed; its memory is used again once the peer has acknowledged them.
    buffer: BytesMut,
    /// Sealed, and not in the stream's queue yet.
    pending: Bytes,
    ended: bool,
}

impl Out {
    fn write_header(&mut self, stream: &UdxStream) {
        self.writer.write_header(&mut self.buffer);
        self.pending = self.buffer.split().freeze();
        let _ = self.try_drain(stream);
    }

    /// Seals a message behind what was sent before, and gives the stream what it has room for.
    /// An empty one is a keep-alive.
    fn send(&mut self, message: Bytes, stream: &UdxStream) -> io::Result<()> {
        self.writer
            .seal(message, &mut self.buffer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let sealed = self.buffer.split();
        // Only a message that met a keep-alive in a full queue finds something there.
        self.pending = if self.pending.is_empty() {
            sealed.freeze()
        } else {
            [&self.pending[..], &sealed[..]].concat().into()
        };
        self.try_drain(stream)
    }

    fn try_drain(&mut self, stream: &UdxStream) -> io::Result<()> {
        if self.pending.is_empty() { Ok(()) } else { stream.try_write(&mut self.pending) }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, stream: &UdxStream) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            ready!(stream.poll_write_bytes(cx, &mut self.pending))?;
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, stream: &UdxStream) {
        if !std::mem::replace(&mut self.ended, true) {
            let _ = stream.finish();
        }
    }
}

/// How a connection has ended, or why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer has given it up.
    #[error("connection reset by peer")]
    Reset,
    /// The peer has vanished.
    #[error("the peer does not answer any more")]
    TimedOut,
    /// Our side has given it up.
    #[error("connection closed")]
    Closed,
    /// Another connection with the peer has taken its place; see
    /// [`ConnectionPool`](crate::ConnectionPool).
    #[error("another connection with the peer has taken the place of this one")]
    Replaced,
    /// Our side has ended its direction before.
    #[error("the connection has been ended")]
    Ended,
    /// The message does not fit into one frame; the connection lives on.
    #[error(transparent)]
    TooLong(MessageTooLong),
    /// The peer began a frame that is longer than frames are.
    #[error("the peer's frame is too long")]
    FrameTooLong,
    /// The peer sent what is not its handshake's stream.
    #[error(transparent)]
    Broken(secret_stream::StreamError),
}

/// How long a peer may take for the rest of a connection whose ends were dropped.
const LINGER: Duration = Duration::from_secs(5);

/// How long a peer that has everything may take to end its side.
const GRACE: Duration = Duration::from_secs(1);
