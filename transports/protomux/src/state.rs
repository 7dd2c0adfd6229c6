//! What the handles and the driver share: one short lock, never held across an await.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyperdht_encoding::Decoder;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use crate::{
    ChannelId, Channels, Event, IncomingId, Limits, OpenError, OutgoingMessage, Protocol, RpcError,
    RpcFault, RpcHandler, Violation,
    rpc::message::{self, EVENT, Request, Response},
};

/// One mux, as its handles and its driver see it.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Wakes the driver after a handle has changed the state.
    pub(crate) driver: AtomicWaker,
    /// Wakes requests that wait for room in the transmit queue.
    pub(crate) room: Notify,
    /// Whether the driver is gone.
    pub(crate) ended: watch::Sender<bool>,
    pub(crate) limits: Limits,
}

impl Shared {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(State {
                channels: Channels::new(limits.clone()),
                rpcs: BTreeMap::new(),
                served: HashMap::new(),
                phase: Phase::Running,
                parked: None,
            }),
            driver: AtomicWaker::new(),
            room: Notify::new(),
            ended: watch::Sender::new(false),
            limits,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next frame to send; wakes who waits for the room it leaves.
    pub(crate) fn next_frame(&self) -> Option<Bytes> {
        let mut state = self.lock();
        let had_room = state.channels.has_room();
        let frame = state.channels.poll_transmit()?;
        let has_room = state.channels.has_room();
        drop(state);
        if has_room && !had_room {
            self.room.notify_waiters();
        }
        Some(frame)
    }

    /// Ends every channel and refuses new ones; the driver is gone.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.phase = Phase::Ended;
        state.parked = None;
        // Dropped without the lock: a handler may own channels of this mux.
        let _served = std::mem::take(&mut state.served);
        let ids: Vec<_> = state.rpcs.keys().copied().collect();
        let handlers: Vec<_> =
            ids.into_iter().filter_map(|id| state.remove(id, RpcError::Closed)).collect();
        drop(state);
        self.room.notify_waiters();
        self.ended.send_replace(true);
        for handler in handlers {
            handler.closed();
        }
    }
}

/// How far a mux has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// Ends once every channel has ended.
    Closing,
    /// Ends now.
    Destroyed,
    Ended,
}

/// What the lock guards.
pub(crate) struct State {
    pub(crate) channels: Channels,
    pub(crate) rpcs: BTreeMap<ChannelId, RpcChannel>,
    pub(crate) served: HashMap<Protocol, Arc<dyn RpcHandler>>,
    pub(crate) phase: Phase,
    /// A request that waits for a handler slot or for room to answer it.
    parked: Option<Event>,
}

/// protomux-rpc on one channel.
pub(crate) struct RpcChannel {
    line: Arc<Line>,
    handler: Option<Arc<dyn RpcHandler>>,
    /// Requests of ours without an answer, by their id; at most `Limits::outstanding`.
    calls: HashMap<u64, oneshot::Sender<Result<Bytes, RpcError>>>,
    /// Requests of the peer's being handled.
    running: usize,
    /// Closes once neither has any.
    ending: bool,
}

/// What outlives the lock: one channel as its handles see it.
pub(crate) struct Line {
    pub(crate) channel: ChannelId,
    pub(crate) stage: watch::Sender<Stage>,
    /// One permit for each request that may be outstanding; closed with the channel.
    pub(crate) permits: Semaphore,
    pub(crate) next_id: AtomicU64,
}

/// How far a channel has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Open on our side.
    Opening,
    /// Open on both sides.
    Open,
    /// Closed, with what requests on it meet from now on.
    Closed(RpcError),
}

/// What an event asks of the driver, to be done without the lock.
pub(crate) enum Work {
    /// Run the handler and send its answer.
    Request {
        channel: ChannelId,
        handler: Arc<dyn RpcHandler>,
        request: Request,
        frame_bytes: usize,
    },
    /// Tell the handler about an event.
    Event { handler: Arc<dyn RpcHandler>, event: Request },
    /// Tell the handler that its channel has closed.
    Closed(Arc<dyn RpcHandler>),
}

impl State {
    /// Begins to speak protomux-rpc on `channel`.
    pub(crate) fn insert(
        &mut self,
        channel: ChannelId,
        handler: Option<Arc<dyn RpcHandler>>,
    ) -> Arc<Line> {
        let outstanding = self.channels.limits().outstanding.min(Semaphore::MAX_PERMITS);
        let line = Arc::new(Line {
            channel,
            stage: watch::Sender::new(Stage::Opening),
            permits: Semaphore::new(outstanding),
            next_id: AtomicU64::new(EVENT + 1),
        });
        let rpc = RpcChannel {
            line: Arc::clone(&line),
            handler,
            calls: HashMap::new(),
            running: 0,
            ending: false,
        };
        self.rpcs.insert(channel, rpc);
        line
    }

    /// Opens a channel of ours.
    pub(crate) fn open(
        &mut self,
        protocol: &Protocol,
        handler: Option<Arc<dyn RpcHandler>>,
    ) -> Result<Arc<Line>, OpenError> {
        if self.phase != Phase::Running {
            return Err(OpenError::Closed);
        }
        if self.channels.is_open(protocol) {
            return Err(OpenError::Duplicate);
        }
        let channel = self.channels.open(protocol, b"")?;
        Ok(self.insert(channel, handler))
    }

    /// Queues a request or an event, and remembers who awaits the answer; `None` while there is no
    /// room for it.
    pub(crate) fn start(
        &mut self,
        id: u64,
        message: &OutgoingMessage,
        channel: ChannelId,
    ) -> Option<Result<oneshot::Receiver<Result<Bytes, RpcError>>, RpcError>> {
        let Some(rpc) = self.rpcs.get_mut(&channel).filter(|rpc| !rpc.ending) else {
            return Some(Err(RpcError::Closed));
        };
        if !self.channels.has_room() {
            return None;
        }
        let (answer, receiver) = oneshot::channel();
        if id != EVENT {
            rpc.calls.insert(id, answer);
        }
        self.channels.send(message.clone());
        Some(Ok(receiver))
    }

    /// Forgets a request whose caller is gone; a late answer to it is ignored.
    #[must_use]
    pub(crate) fn forget(&mut self, channel: ChannelId, id: u64) -> Option<Arc<dyn RpcHandler>> {
        self.rpcs.get_mut(&channel)?.calls.remove(&id);
        self.settle(channel)
    }

    /// Queues a handler's answer, unless its channel has closed meanwhile.
    #[must_use]
    pub(crate) fn finish(
        &mut self,
        channel: ChannelId,
        answer: OutgoingMessage,
    ) -> Option<Arc<dyn RpcHandler>> {
        self.rpcs.get_mut(&channel)?.running -= 1;
        self.channels.send(answer);
        self.settle(channel)
    }

    /// Closes a channel once nothing is outstanding on it in either direction.
    #[must_use]
    pub(crate) fn end(&mut self, channel: ChannelId) -> Option<Arc<dyn RpcHandler>> {
        self.rpcs.get_mut(&channel)?.ending = true;
        self.settle(channel)
    }

    /// Closes a channel now. Its handler is to be told, without the lock.
    #[must_use]
    pub(crate) fn close(
        &mut self,
        channel: ChannelId,
        reason: RpcError,
    ) -> Option<Arc<dyn RpcHandler>> {
        self.channels.close(channel);
        self.remove(channel, reason)
    }

    fn settle(&mut self, channel: ChannelId) -> Option<Arc<dyn RpcHandler>> {
        let rpc = self.rpcs.get(&channel)?;
        if rpc.ending && rpc.calls.is_empty() && rpc.running == 0 {
            self.close(channel, RpcError::Closed)
        } else {
            None
        }
    }

    fn remove(&mut self, channel: ChannelId, reason: RpcError) -> Option<Arc<dyn RpcHandler>> {
        let rpc = self.rpcs.remove(&channel)?;
        for (_, answer) in rpc.calls {
            // A caller that is gone needs no answer.
            let _ = answer.send(Err(reason.clone()));
        }
        rpc.line.permits.close();
        rpc.line.stage.send_replace(Stage::Closed(reason));
        rpc.handler
    }

    /// Carries out events up to one that the driver has to act on; `None` when it has to wait. While
    /// `handlers_free` is false, nothing behind the next request is read.
    pub(crate) fn next_work(&mut self, handlers_free: bool) -> Result<Option<Work>, Violation> {
        loop {
            let event = match self.parked.take() {
                None => self.channels.poll_event()?,
                parked => parked,
            };
            let Some(event) = event else {
                return Ok(None);
            };
            if !handlers_free && wants_handler(&event) {
                self.parked = Some(event);
                return Ok(None);
            }
            if let Some(work) = self.on_event(event)? {
                return Ok(Some(work));
            }
        }
    }

    fn on_event(&mut self, event: Event) -> Result<Option<Work>, Violation> {
        match event {
            Event::Incoming { id, protocol, .. } => self.decide(id, &protocol),
            Event::Withdrawn { .. } => {}
            Event::Opened { channel, .. } => {
                if let Some(rpc) = self.rpcs.get(&channel) {
                    rpc.line.stage.send_replace(Stage::Open);
                }
            }
            Event::Closed { channel, rejected } => {
                let reason = if rejected { RpcError::Rejected } else { RpcError::Closed };
                return Ok(self.remove(channel, reason).map(Work::Closed));
            }
            Event::Message { kind: message::REQUEST, channel, payload, frame_bytes } => {
                return self.on_request(channel, payload, frame_bytes);
            }
            Event::Message { kind: message::RESPONSE, channel, payload, .. } => {
                return Ok(self.on_response(channel, payload)?.map(Work::Closed));
            }
            // A message type that protomux-rpc does not have is ignored.
            Event::Message { .. } => {}
        }
        Ok(None)
    }

    /// Whether the next frame may be read.
    pub(crate) fn wants_frame(&self) -> bool {
        self.parked.is_none() && self.channels.wants_frame()
    }

    fn decide(&mut self, incoming: IncomingId, protocol: &Protocol) {
        let handler = match self.phase {
            Phase::Running => self.served.get(protocol).cloned(),
            Phase::Closing | Phase::Destroyed | Phase::Ended => None,
        };
        let Some(handler) = handler else {
            tracing::debug!(?protocol, "rejected a channel of an unknown protocol");
            self.channels.reject(incoming);
            return;
        };
        match self.channels.accept(incoming, b"") {
            Ok(channel) => {
                self.insert(channel, Some(handler));
            }
            Err(error) => {
                tracing::debug!(?protocol, %error, "rejected a channel");
                self.channels.reject(incoming);
            }
        }
    }

    fn on_response(
        &mut self,
        channel: ChannelId,
        payload: Bytes,
    ) -> Result<Option<Arc<dyn RpcHandler>>, Violation> {
        let response = Response::read(payload, self.channels.limits())?;
        let Some(rpc) = self.rpcs.get_mut(&channel) else {
            return Ok(None);
        };
        if let Some(answer) = rpc.calls.remove(&response.id) {
            // A caller that is gone needs no answer.
            let _ = answer.send(response.outcome.map_err(RpcError::Remote));
        }
        Ok(self.settle(channel))
    }

    fn on_request(
        &mut self,
        channel: ChannelId,
        payload: Bytes,
        frame_bytes: usize,
    ) -> Result<Option<Work>, Violation> {
        let request = Request::read(payload, self.channels.limits())?;
        let Some(rpc) = self.rpcs.get_mut(&channel) else {
            return Ok(None);
        };
        let Some(handler) = rpc.handler.clone() else {
            if request.id != EVENT {
                let fault = RpcFault::unknown_method(&request.method);
                let answer = message::error_response(channel, request.id, &fault);
                self.channels.send(answer);
            }
            return Ok(None);
        };
        if request.id == EVENT {
            return Ok(Some(Work::Event { handler, event: request }));
        }
        rpc.running += 1;
        Ok(Some(Work::Request { channel, handler, request, frame_bytes }))
    }
}

/// Whether an event is a request that has to be answered.
fn wants_handler(event: &Event) -> bool {
    matches!(event, Event::Message { kind: message::REQUEST, payload, .. }
        if Decoder::new(payload).varint() != Ok(EVENT))
}
