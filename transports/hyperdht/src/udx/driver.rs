//! The task that owns the sockets and the time.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use hyperdht_proto::udx::{Handled, Path, SocketId, Transmit};
use tokio::time::Sleep;

use super::{
    bell::Bells,
    shared::{BoundSocket, Shared},
};
use crate::socket::{MAX_SEGMENTS, ReceiveBuffers, Room};

/// Moves datagrams between sockets and the state machine, and wakes those who wait for streams.
///
/// One turn receives what the sockets have (bounded), acts on timers, sends, wakes, and yields.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    /// The sockets as of `sockets_version`, by [`SocketId`].
    sockets: Vec<Option<BoundSocket>>,
    sockets_version: u64,
    /// Those of them that are always looked at.
    watched: Vec<usize>,
    /// Of the others, those that have something.
    bells: Arc<Bells>,
    rung: Vec<usize>,
    buffers: Box<ReceiveBuffers>,
    wire: Vec<u8>,
    /// What `wire` holds and a full socket did not take, and what tells of room.
    blocked: Option<(Transmit, Room)>,
    /// The timer and what it is armed for.
    sleep: Option<(Instant, Pin<Box<Sleep>>)>,
    woken: Vec<Waker>,
    /// An acknowledgement that does not wait for the rest of a batch.
    ack: Vec<u8>,
    /// Receive calls that brought something.
    received: u64,
    /// Turns since something was received in which nothing was sent.
    turns_waited: u32,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let bells = shared.lock().bells();
        Self {
            shared,
            sockets: Vec::new(),
            sockets_version: 0,
            watched: Vec::new(),
            bells,
            rung: Vec::new(),
            buffers: Box::new(ReceiveBuffers::new()),
            wire: Vec::new(),
            blocked: None,
            sleep: None,
            woken: Vec::new(),
            ack: Vec::new(),
            received: 0,
            turns_waited: 0,
        }
    }

    /// Takes in what the sockets have; says whether there may be more.
    fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        let mut more = false;
        for at in 0..self.watched.len() {
            if let Some(index) = self.watched.get(at).copied() {
                more |= self.receive_from(index, cx);
            }
        }
        let mut rung = std::mem::take(&mut self.rung);
        for index in rung.drain(..) {
            more |= self.answer_bell(index);
        }
        self.rung = rung;
        more
    }

    /// Takes in what a socket has that is looked at only when it is ready.
    fn answer_bell(&mut self, index: usize) -> bool {
        let Some(Some(BoundSocket { bell: Some(bell), .. })) = self.sockets.get(index) else {
            return false;
        };
        let bell = Arc::clone(bell);
        bell.rest();
        let waker = Waker::from(Arc::clone(&bell));
        let more = self.receive_from(index, &mut Context::from_waker(&waker));
        if more {
            bell.wake();
        }
        more
    }

    fn receive_from(&mut self, index: usize, cx: &mut Context<'_>) -> bool {
        for _ in 0..MAX_RECEIVES {
            let Some(Some(bound)) = self.sockets.get(index) else {
                return false;
            };
            match bound.socket.poll_recv(cx, &mut self.buffers) {
                Poll::Pending => return false,
                Poll::Ready(Ok(count)) => {
                    self.received += 1;
                    self.take_in(index, count, cx);
                }
                // An ICMP answer to something sent earlier: the stream will notice by itself.
                Poll::Ready(Err(error)) => tracing::trace!(%error, "receive"),
            }
        }
        true
    }

    fn take_in(&mut self, index: usize, count: usize, cx: &mut Context<'_>) {
        let Some(Some(bound)) = self.sockets.get(index) else {
            return;
        };
        let now = Instant::now();
        let mut state = self.shared.lock();
        for (from, datagram) in self.buffers.datagrams(count) {
            let path = Path { socket: bound.id, peer: from };
            if state.endpoint.handle_datagram(now, path, datagram) == Handled::Foreign {
                bound.foreign.pass_on(from, datagram);
            }
            if let Some(transmit) = state.endpoint.poll_ack(now, &mut self.ack) {
                drop(state);
                // Refused is the same as lost on the way, which acknowledgements are made for.
                let _ = self.send(transmit, &self.ack);
                state = self.shared.lock();
            }
        }
        let urgent = state.endpoint.is_urgent();
        drop(state);
        if urgent {
            self.transmit(now, cx);
        }
    }

    /// Sends until there is nothing to send, a socket is full, or it is others' turn; says whether
    /// it was the last.
    fn transmit(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        for _ in 0..MAX_SENDS {
            let transmit = match self.blocked.take() {
                Some((blocked, _)) => blocked,
                None => match self.next_transmit(now) {
                    Some(transmit) => transmit,
                    None => return false,
                },
            };
            match self.send(transmit, &self.wire) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked =
                        self.await_room(transmit.path.socket, cx).map(|room| (transmit, room));
                    return false;
                }
                // Too long for the path, or no route: the same as lost on the way.
                Err(error) => tracing::trace!(%error, "send"),
                Ok(()) => {}
            }
        }
        true
    }

    fn next_transmit(&mut self, now: Instant) -> Option<Transmit> {
        let mut state = self.shared.lock();
        state.endpoint.poll_transmit(now, &mut self.wire, MAX_SEGMENTS)
    }

    fn send(&self, transmit: Transmit, wire: &[u8]) -> io::Result<()> {
        let Some(bound) = self.bound(transmit.path.socket) else {
            return Ok(());
        };
        bound.socket.try_send(transmit.path.peer, wire, transmit.segment_len)
    }

    /// Without file descriptors to wait with, what was to be sent counts as lost on the way.
    fn await_room(&self, socket: SocketId, cx: &mut Context<'_>) -> Option<Room> {
        let room = self.bound(socket)?.socket.await_room(cx);
        room.inspect_err(|error| tracing::debug!(%error, "a full socket cannot be watched")).ok()
    }

    fn bound(&self, id: SocketId) -> Option<&BoundSocket> {
        self.sockets.get(id.0 as usize)?.as_ref()
    }

    /// Wakes those who waited for what has happened.
    fn wake(&mut self) {
        self.shared.lock().take_woken(&mut self.woken);
        self.woken.drain(..).for_each(Waker::wake);
    }

    /// Arms the one timer for the next deadline; says whether that has passed already.
    fn arm(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = deadline else {
            self.sleep = None;
            return false;
        };
        // One that is moved later wakes the thread at the old time nonetheless, to be put off. Under load
        // another datagram does so before.
        if self.sleep.as_ref().is_some_and(|(at, _)| deadline > *at + MOST_EARLY) {
            self.sleep = None;
        }
        let (at, sleep) = self
            .sleep
            .get_or_insert_with(|| (deadline, Box::pin(tokio::time::sleep_until(deadline.into()))));
        if *at != deadline {
            *at = deadline;
            sleep.as_mut().reset(deadline.into());
        }
        let elapsed = sleep.as_mut().poll(cx).is_ready();
        if elapsed {
            self.sleep = None;
        }
        elapsed
    }

    fn follow_sockets(&mut self) {
        let state = self.shared.lock();
        if state.sockets_version != self.sockets_version {
            self.sockets_version = state.sockets_version;
            self.sockets.clone_from(&state.sockets);
            drop(state);
            let bound = self.sockets.iter().enumerate();
            let watched = bound.filter_map(|(index, slot)| {
                let always = slot.as_ref().is_some_and(|bound| bound.bell.is_none());
                always.then_some(index)
            });
            self.watched = watched.collect();
        }
    }
}

impl Driver {
    /// Acts on timers; says whether acknowledgements are owed that may wait for a moment.
    fn keep_time(&mut self, now: Instant, cx: &Context<'_>) -> bool {
        let mut state = self.shared.lock();
        if state.endpoint.poll_timeout().is_some_and(|at| at <= now) {
            state.endpoint.handle_timeout(now);
        }
        state.register_driver(cx);
        state.endpoint.owes_acks() && !state.endpoint.is_urgent()
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = &mut *self;
        // In this order: a socket whose bell is heard is known then.
        driver.bells.take(&mut driver.rung, cx.waker());
        driver.follow_sockets();
        let received = driver.received;
        let mut more = driver.receive(cx);
        let now = Instant::now();
        let patient = driver.keep_time(now, cx);
        driver.wake();
        // Those just woken may have answers that carry the acknowledgements, and senders more
        // packets for them to cover: let them run once before anything is sent.
        if patient && driver.received != received && driver.turns_waited < MAX_TURNS_WAITED {
            driver.turns_waited += 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        driver.turns_waited = 0;
        more |= driver.transmit(now, cx);
        driver.wake();
        if driver.shared.is_abandoned() {
            return Poll::Ready(());
        }
        let deadline = {
            let mut state = driver.shared.lock();
            state.release_sockets();
            state.endpoint.poll_timeout()
        };
        driver.follow_sockets();
        more |= driver.arm(deadline, cx);
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Driver {
    /// The runtime is going away, or this task panicked: nobody is to wait for it for ever.
    fn drop(&mut self) {
        self.shared.lock().stop();
    }
}

/// Receive calls per socket and turn.
const MAX_RECEIVES: usize = 16;
/// Turns that acknowledgements may wait for answers and for packets that follow closely.
const MAX_TURNS_WAITED: u32 = 4;
/// Send calls per turn.
const MAX_SENDS: usize = 64;
/// By how much the timer may be early.
const MOST_EARLY: Duration = Duration::from_millis(100);
