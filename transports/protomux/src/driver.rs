//! What moves frames between a mux and the stream below.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt, stream::FuturesUnordered};

use crate::{
    ChannelId, MuxError, OutgoingMessage, RpcFault, RpcHandler,
    rpc::message::{self, Request},
    state::{Phase, Shared, Work},
};

/// Moves frames between a [`Mux`](crate::Mux) and its stream, and runs the handlers of the peer's
/// requests. The owner spawns or awaits it; dropping it closes every channel and both halves of the
/// stream.
///
/// It ends with `Ok` when the peer ends the stream, or when the mux has been closed or destroyed.
#[must_use = "nothing moves unless the driver runs"]
pub struct MuxDriver<Tx, Rx> {
    shared: Arc<Shared>,
    tx: Tx,
    rx: Rx,
    /// A frame that the sink is not ready for.
    outbound: Option<Bytes>,
    unflushed: bool,
    handlers: FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    /// Bytes of frames that the running handlers hold.
    handler_bytes: usize,
}

/// What a handler leaves: its answer, and the bytes it no longer holds.
struct Answer {
    channel: ChannelId,
    message: OutgoingMessage,
    frame_bytes: usize,
}

impl<Tx, Rx> MuxDriver<Tx, Rx> {
    pub(crate) fn new(shared: Arc<Shared>, tx: Tx, rx: Rx) -> Self {
        Self {
            shared,
            tx,
            rx,
            outbound: None,
            unflushed: false,
            handlers: FuturesUnordered::new(),
            handler_bytes: 0,
        }
    }
}

impl<Tx, Rx> Future for MuxDriver<Tx, Rx>
where
    Tx: Sink<Bytes> + Unpin,
    Rx: Stream<Item = Result<Bytes, Tx::Error>> + Unpin,
{
    type Output = Result<(), MuxError<Tx::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.shared.driver.register(cx.waker());
        let outcome = ready!(this.run(cx));
        this.shared.end();
        Poll::Ready(outcome)
    }
}

impl<Tx, Rx> MuxDriver<Tx, Rx>
where
    Tx: Sink<Bytes> + Unpin,
    Rx: Stream<Item = Result<Bytes, Tx::Error>> + Unpin,
{
    fn run(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), MuxError<Tx::Error>>> {
        for _ in 0..ROUNDS_PER_POLL {
            let phase = self.shared.lock().phase;
            if matches!(phase, Phase::Destroyed | Phase::Ended) {
                return Poll::Ready(Ok(()));
            }
            let mut moved = self.transmit(cx).map_err(MuxError::Send)?;
            if phase == Phase::Closing && self.is_drained() {
                return self.tx.poll_close_unpin(cx).map_err(MuxError::Send);
            }
            moved |= match self.receive(cx)? {
                Received::Frames => true,
                Received::Nothing => false,
                Received::End => return Poll::Ready(Ok(())),
            };
            moved |= self.answer(cx);
            if !moved {
                return Poll::Pending;
            }
        }
        // Others on this thread get their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands frames to the sink as long as it takes them.
    fn transmit(&mut self, cx: &mut Context<'_>) -> Result<bool, Tx::Error> {
        let mut sent = false;
        while let Some(frame) = self.outbound.take().or_else(|| self.shared.next_frame()) {
            match self.tx.poll_ready_unpin(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    self.outbound = Some(frame);
                    break;
                }
            }
            self.tx.start_send_unpin(frame)?;
            self.unflushed = true;
            sent = true;
        }
        if self.unflushed
            && let Poll::Ready(flushed) = self.tx.poll_flush_unpin(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(sent)
    }

    fn is_drained(&self) -> bool {
        let state = self.shared.lock();
        self.outbound.is_none()
            && !self.unflushed
            && state.rpcs.is_empty()
            && state.channels.is_flushed()
    }

    /// Reads frames and acts on them, as long as there is a slot for what they ask.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<Received, MuxError<Tx::Error>> {
        let mut received = Received::Nothing;
        for _ in 0..WORK_PER_ROUND {
            let mut state = self.shared.lock();
            let free = self.has_free_handler() && state.channels.has_room();
            let work = state.next_work(free)?;
            let wants_frame = state.wants_frame();
            drop(state);
            if let Some(work) = work {
                self.begin(work);
            } else if !wants_frame {
                break;
            } else {
                match self.rx.poll_next_unpin(cx) {
                    Poll::Pending => break,
                    Poll::Ready(None) => return Ok(Received::End),
                    Poll::Ready(Some(frame)) => {
                        let frame = frame.map_err(MuxError::Receive)?;
                        self.shared.lock().channels.receive(frame)?;
                    }
                }
            }
            received = Received::Frames;
        }
        Ok(received)
    }

    fn has_free_handler(&self) -> bool {
        let limits = &self.shared.limits;
        self.handlers.len() < limits.handlers && self.handler_bytes < limits.handler_bytes
    }

    fn begin(&mut self, work: Work) {
        match work {
            Work::Closed(handler) => handler.closed(),
            Work::Event { handler, event } => handler.event(&event.method, event.value),
            Work::Request { channel, handler, request, frame_bytes } => {
                self.handler_bytes += frame_bytes;
                let max = self.shared.limits.frame_bytes;
                self.handlers.push(Box::pin(async move {
                    Answer {
                        message: handle(channel, &*handler, request, max).await,
                        channel,
                        frame_bytes,
                    }
                }));
            }
        }
    }

    /// Runs the handlers and queues their answers as long as there is room.
    fn answer(&mut self, cx: &mut Context<'_>) -> bool {
        let mut answered = false;
        while self.shared.lock().channels.has_room() {
            let Poll::Ready(Some(answer)) = self.handlers.poll_next_unpin(cx) else {
                break;
            };
            self.handler_bytes -= answer.frame_bytes;
            let closed = self.shared.lock().finish(answer.channel, answer.message);
            if let Some(handler) = closed {
                handler.closed();
            }
            answered = true;
        }
        answered
    }
}

impl<Tx, Rx> Drop for MuxDriver<Tx, Rx> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl<Tx, Rx> fmt::Debug for MuxDriver<Tx, Rx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MuxDriver").field("handlers", &self.handlers.len()).finish_non_exhaustive()
    }
}

enum Received {
    Frames,
    Nothing,
    End,
}

/// Runs one handler and builds its answer, outside of any lock.
async fn handle(
    channel: ChannelId,
    handler: &dyn RpcHandler,
    request: Request,
    max_frame_bytes: usize,
) -> OutgoingMessage {
    let Request { id, method, value } = request;
    let fault = match handler.request(&method, value).await {
        Ok(reply) => {
            let message = message::response(channel, id, reply.payload());
            match message.frame_bytes() {
                len if len > max_frame_bytes => {
                    RpcFault::encode(format!("{len} bytes are too long"))
                }
                _ => return message,
            }
        }
        Err(fault) => fault,
    };
    message::error_response(channel, id, &fault)
}

/// How often one poll goes round before it yields to other tasks of its thread.
const ROUNDS_PER_POLL: usize = 16;

/// How many frames are read, and requests begun, before what they caused is sent.
const WORK_PER_ROUND: usize = 64;
