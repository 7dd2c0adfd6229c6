//! The handle of one stream.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use hyperdht_proto::udx::{CallError, Path, StreamError, StreamInfo, StreamKey};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    UdxSocket,
    shared::{Handle, State, register},
};

/// One stream: ordered bytes or frames both ways, unordered messages beside them.
///
/// Dropping it destroys the stream, which resets the peer's end unless both had ended it. One
/// task at a time may wait to read, one to write, one for messages and one for anything else.
pub struct UdxStream {
    handle: Handle,
    id: u32,
    key: StreamKey,
    /// What an [`AsyncRead`] had no room for.
    rest: BytesMut,
}

/// How far a stream has come to another path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moved {
    /// The peer has acknowledged all that was sent before.
    pub(crate) changed: bool,
    /// The peer has moved, too, and nothing is missing that it sent before.
    pub(crate) confirmed: bool,
}

impl UdxStream {
    pub(crate) fn new(handle: Handle, id: u32, key: StreamKey) -> Self {
        Self { handle, id, key, rest: BytesMut::new() }
    }

    /// The id that the peer addresses it by.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Gives it its other end, reached through a socket of the same [`Udx`](super::Udx). Nothing is
    /// sent until there is data.
    ///
    /// # Errors
    /// [`CallError::AlreadyConnected`]; [`CallError::NoStream`] once it is closed.
    pub fn connect(
        &self,
        socket: &UdxSocket,
        remote_id: u32,
        peer: SocketAddr,
    ) -> Result<(), CallError> {
        self.connect_path(Path { socket: socket.id(), peer }, remote_id)
    }

    /// Like [`UdxStream::connect`], by the number of the socket.
    pub(crate) fn connect_path(&self, path: Path, remote_id: u32) -> Result<(), CallError> {
        self.handle.call(|endpoint| endpoint.connect(Instant::now(), self.key, path, remote_id))
    }

    /// Waits until it is connected, by [`UdxStream::connect`] or by its firewall. Cancel-safe.
    ///
    /// # Errors
    /// How it closed before.
    pub async fn connected(&self) -> Result<Path, StreamError> {
        poll_fn(|cx| {
            self.poll_control(cx, |state, key| {
                let path = state.endpoint.info(key).and_then(|info| info.path);
                path.map(Ok).or_else(|| closed_early(state, key))
            })
        })
        .await
    }

    /// Moves it to another path at once, and waits until the peer has acknowledged all that was
    /// sent before. Cancel-safe: dropping the call does not undo the move.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotConnected`], or how it closed.
    pub async fn change_remote(
        &mut self,
        socket: &UdxSocket,
        remote_id: u32,
        peer: SocketAddr,
    ) -> io::Result<()> {
        let path = Path { socket: socket.id(), peer };
        self.handle.lock().waiting(self.key).remote_changed = false;
        self.handle
            .call(|endpoint| endpoint.change_remote(Instant::now(), self.key, path, remote_id))
            .map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?;
        let changed = poll_fn(|cx| {
            self.poll_control(cx, |state, key| {
                if std::mem::take(&mut state.waiting(key).remote_changed) {
                    return Some(Ok(()));
                }
                closed_early(state, key)
            })
        });
        changed.await.map_err(into_io)
    }

    /// Takes it to another path, wherever it went before, if anywhere.
    pub(crate) fn go_to(&self, path: Path, remote_id: u32) -> Result<(), CallError> {
        let mut state = self.handle.lock();
        let waiting = state.waiting(self.key);
        (waiting.remote_changed, waiting.remote_confirmed) = (false, false);
        drop(state);
        self.handle.call(|endpoint| {
            let now = Instant::now();
            match endpoint.connect(now, self.key, path, remote_id) {
                Err(CallError::AlreadyConnected) => {
                    endpoint.change_remote(now, self.key, path, remote_id)
                }
                outcome => outcome,
            }
        })
    }

    /// How far the last [move](UdxStream::go_to) has come, when that is further than `known`; one task
    /// at a time may wait for it. Cancel-safe.
    ///
    /// # Errors
    /// How the stream closed.
    pub(crate) async fn moved(&self, known: Moved) -> Result<Moved, StreamError> {
        poll_fn(|cx| {
            let mut state = self.handle.lock();
            if let Some(closed) = closed_early(&state, self.key) {
                return Poll::Ready(closed);
            }
            let waiting = state.waiting(self.key);
            let moved =
                Moved { changed: waiting.remote_changed, confirmed: waiting.remote_confirmed };
            if moved != known {
                return Poll::Ready(Ok(moved));
            }
            register(&mut waiting.path, cx);
            Poll::Pending
        })
        .await
    }

    /// Waits like [`UdxStream::closed`], as the one who looks after the path. Cancel-safe.
    pub(crate) async fn path_closed(&self) {
        poll_fn(|cx| {
            let mut state = self.handle.lock();
            if state.closed(self.key).is_some() {
                return Poll::Ready(());
            }
            register(&mut state.waiting(self.key).path, cx);
            Poll::Pending
        })
        .await;
    }

    /// Says once more what is under way.
    pub(crate) fn probe_tail(&self) {
        let _ = self.handle.call(|endpoint| endpoint.probe_tail(self.key));
    }

    /// Has its firewall asked about packets from elsewhere on its own socket as well.
    pub(crate) fn watch_senders(&self) {
        let _ = self.handle.call(|endpoint| endpoint.watch_senders(self.key));
    }

    /// Forwards every packet that comes for this stream to the other end of `to`.
    ///
    /// # Errors
    /// [`CallError::NoStream`] when either is gone.
    pub fn relay_to(&self, to: &Self) -> Result<(), CallError> {
        self.handle.call(|endpoint| endpoint.relay(self.key, to.key))
    }

    /// The next bytes of the peer, or its next whole frame when the stream was opened with
    /// [`Reading::Frames`](super::Reading); `None` at its end. Cancel-safe.
    ///
    /// # Errors
    /// How the stream closed, once all that came before was read. An end inside a frame is
    /// [`StreamError::Reset`].
    pub async fn read(&mut self) -> Result<Option<BytesMut>, StreamError> {
        poll_fn(|cx| self.poll_read_chunk(cx)).await
    }

    /// The poll form of [`UdxStream::read`].
    pub fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<BytesMut>, StreamError>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        self.poll_next_chunk(cx)
    }

    /// Like [`UdxStream::poll_read_chunk`], for streams that are shared and not read as
    /// [`AsyncRead`].
    pub(crate) fn poll_next_chunk(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<BytesMut>, StreamError>> {
        let mut state = self.handle.lock();
        if let Some(chunk) = state.endpoint.read(self.key) {
            if state.endpoint.is_urgent() {
                state.wake_driver();
            }
            return Poll::Ready(Ok(Some(chunk)));
        }
        if state.endpoint.is_read_to_end(self.key) {
            let cut = state.endpoint.is_cut(self.key);
            return Poll::Ready(if cut { Err(StreamError::Reset) } else { Ok(None) });
        }
        match state.closed(self.key) {
            Some(Ok(())) => Poll::Ready(Ok(None)),
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => {
                register(&mut state.waiting(self.key).reader, cx);
                Poll::Pending
            }
        }
    }

    /// Writes `body` as a frame, its length of three bytes in front, as soon as there is room.
    /// Cancel-safe: it is written whole or not at all.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] above 16 MiB; how the stream closed.
    pub async fn write_frame(&mut self, body: Bytes) -> io::Result<()> {
        poll_fn(|cx| self.poll_write_frame(cx, &body)).await
    }

    /// The poll form of [`UdxStream::write_frame`]: takes `body` when it is ready.
    ///
    /// # Errors
    /// See [`UdxStream::write_frame`].
    pub fn poll_write_frame(&mut self, cx: &mut Context<'_>, body: &Bytes) -> Poll<io::Result<()>> {
        self.poll_call(cx, |state, key| match state.endpoint.write_frame(key, body.clone()) {
            Err(CallError::Full) => Ok(None),
            result => result.map(Some),
        })
    }

    /// Writes all of `bytes`, sharing rather than copying them. Cancel-safe: what is left in `bytes`
    /// when the call is dropped was not written.
    ///
    /// # Errors
    /// How the stream closed.
    pub async fn write_bytes(&mut self, bytes: &mut Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            poll_fn(|cx| {
                self.poll_call(cx, |state, key| {
                    let written = state.endpoint.write(key, bytes)?;
                    Ok((written > 0).then_some(()))
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Writes the front of `bytes`, as much as there is room for; ready when that is something.
    ///
    /// # Errors
    /// How the stream closed.
    pub(crate) fn poll_write_bytes(
        &self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<()>> {
        self.poll_call(cx, |state, key| {
            let written = state.endpoint.write(key, bytes)?;
            Ok((written > 0).then_some(()))
        })
    }

    /// Writes the front of `bytes`, as much as there is room for, and waits for nothing.
    ///
    /// # Errors
    /// How the stream closed.
    pub(crate) fn try_write(&self, bytes: &mut Bytes) -> io::Result<()> {
        let mut state = self.handle.lock();
        let written = state.endpoint.write(self.key, bytes);
        state.wake_driver();
        written.map(drop).map_err(|error| refused(&state, self.key, error))
    }

    /// Waits until the peer has acknowledged all that was written. Cancel-safe.
    ///
    /// # Errors
    /// How the stream closed before.
    pub async fn flushed(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flushed(cx)).await
    }

    pub(crate) fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_call(cx, |state, key| Ok(state.endpoint.flush(key)?.then_some(())))
    }

    /// Ends this side's direction behind what was written.
    ///
    /// # Errors
    /// [`CallError::NoStream`] once it is closed.
    pub fn finish(&self) -> Result<(), CallError> {
        self.handle.call(|endpoint| endpoint.finish(self.key))
    }

    /// Whether the stream is closed, in whichever way.
    pub(crate) fn is_closed(&self) -> bool {
        self.handle.lock().closed(self.key).is_some()
    }

    /// Waits until the stream is closed: `Ok` when both sides ended it and know. Cancel-safe.
    ///
    /// # Errors
    /// How it closed otherwise.
    pub async fn closed(&self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_control(cx, |state, key| state.closed(key))).await
    }

    /// Gives it up; the peer is told.
    pub fn destroy(&self) {
        let _ = self.handle.call(|endpoint| {
            endpoint.destroy(self.key);
            Ok(())
        });
    }

    /// Frees it without a word to the peer, and answers none of its later packets.
    pub(crate) fn forget(self) {
        self.handle.lock().endpoint.forget(self.key);
    }

    /// Queues one unordered, unreliable message of one packet.
    ///
    /// # Errors
    /// [`CallError::TooLong`], [`CallError::Full`], [`CallError::NotConnected`],
    /// [`CallError::NoStream`].
    pub fn send_message(&self, message: Bytes) -> Result<(), CallError> {
        self.handle.call(|endpoint| endpoint.send_message(self.key, message))
    }

    /// The next unordered message of the peer. Cancel-safe.
    ///
    /// # Errors
    /// How the stream closed.
    pub async fn receive_message(&mut self) -> Result<Bytes, StreamError> {
        poll_fn(|cx| {
            let mut state = self.handle.lock();
            if let Some(message) = state.endpoint.receive_message(self.key) {
                return Poll::Ready(Ok(message));
            }
            match closed_early(&state, self.key) {
                Some(closed) => Poll::Ready(closed),
                None => {
                    register(&mut state.waiting(self.key).messages, cx);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Sets or stops the heartbeat of the idle stream.
    pub fn set_keep_alive(&self, interval: Option<Duration>) {
        let _ = self.handle.call(|endpoint| endpoint.set_keep_alive(self.key, interval));
    }

    /// What it has come to know and done.
    pub fn info(&self) -> StreamInfo {
        let state = self.handle.lock();
        state.endpoint.info(self.key).unwrap_or_default()
    }

    /// Waits as the one task that waits for neither bytes nor messages.
    fn poll_control<T>(
        &self,
        cx: &mut Context<'_>,
        check: impl FnOnce(&mut State, StreamKey) -> Option<T>,
    ) -> Poll<T> {
        let mut state = self.handle.lock();
        match check(&mut state, self.key) {
            Some(done) => Poll::Ready(done),
            None => {
                register(&mut state.waiting(self.key).control, cx);
                Poll::Pending
            }
        }
    }

    /// Waits as the writer until `call` has done something.
    fn poll_call<T>(
        &self,
        cx: &mut Context<'_>,
        call: impl FnOnce(&mut State, StreamKey) -> Result<Option<T>, CallError>,
    ) -> Poll<io::Result<T>> {
        let mut state = self.handle.lock();
        let result = call(&mut state, self.key);
        state.wake_driver();
        match result {
            Ok(Some(done)) => Poll::Ready(Ok(done)),
            Ok(None) if state.closed(self.key).is_some() => {
                Poll::Ready(Err(refused(&state, self.key, CallError::NoStream)))
            }
            Ok(None) => {
                register(&mut state.waiting(self.key).writer, cx);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(refused(&state, self.key, error))),
        }
    }
}

impl AsyncRead for UdxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            match ready!(self.poll_read_chunk(cx)) {
                Ok(Some(chunk)) => self.rest = chunk,
                Ok(None) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(into_io(error))),
            }
        }
        let len = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..len]);
        self.rest.advance(len);
        if self.rest.is_empty() {
            // Give the memory back rather than hold the emptied chunk.
            self.rest = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UdxStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_call(cx, |state, key| {
            let written = state.endpoint.write_slice(key, bytes)?;
            Ok((written > 0).then_some(written))
        })
    }

    /// Nothing is held back, so there is nothing to flush; see [`UdxStream::flushed`].
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends the direction and waits until the peer has acknowledged that.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Once closed this is refused, and `poll_flushed` tells how it closed.
        let _ = self.finish();
        self.poll_flushed(cx)
    }
}

impl Drop for UdxStream {
    fn drop(&mut self) {
        self.handle.lock().remove(self.key);
    }
}

impl fmt::Debug for UdxStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdxStream").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How a stream closed, for those who wait for something that cannot come any more.
fn closed_early<T>(state: &State, key: StreamKey) -> Option<Result<T, StreamError>> {
    let closed = state.closed(key)?;
    Some(Err(closed.err().unwrap_or(StreamError::Destroyed)))
}

/// The error behind a refused call.
fn refused(state: &State, key: StreamKey, error: CallError) -> io::Error {
    match (error, state.closed(key)) {
        (CallError::NoStream, Some(Err(closed))) => into_io(closed),
        (CallError::TooLong, _) => io::Error::new(io::ErrorKind::InvalidInput, error),
        (CallError::NotConnected, _) => io::Error::new(io::ErrorKind::NotConnected, error),
        _ => io::Error::new(io::ErrorKind::BrokenPipe, error),
    }
}

fn into_io(error: StreamError) -> io::Error {
    let kind = match error {
        StreamError::Reset => io::ErrorKind::ConnectionReset,
        StreamError::TimedOut => io::ErrorKind::TimedOut,
        StreamError::FrameTooLong => io::ErrorKind::InvalidData,
        StreamError::Destroyed | _ => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, error)
}
