//! What the task and the handles share.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Instant,
};

use bytes::Bytes;
use hyperdht_proto::udx::{CallError, Config, Endpoint, Ready, SocketId, StreamError, StreamKey};
use tokio::sync::mpsc;

use super::{
    Datagram,
    bell::{Bell, Bells},
};
use crate::socket::Socket;

/// Keeps the task running; used by every public handle.
#[derive(Debug)]
pub(crate) struct Handle {
    shared: Arc<Shared>,
}

/// The state machine, and who waits for what. Locked for moments, never across an await or a
/// system call.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    handles: AtomicUsize,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) endpoint: Endpoint,
    /// By [`SocketId`].
    pub(crate) sockets: Vec<Option<BoundSocket>>,
    /// Sockets to let go of.
    leaving: Vec<SocketId>,
    /// Counts changes of `sockets`.
    pub(crate) sockets_version: u64,
    bells: Arc<Bells>,
    /// By [`StreamKey::index`].
    waiting: Vec<Waiting>,
    driver: Option<Waker>,
    /// The task is gone: nothing will happen any more.
    stopped: bool,
}

/// A socket and where its foreign datagrams go.
#[derive(Debug, Clone)]
pub(crate) struct BoundSocket {
    pub(crate) id: SocketId,
    pub(crate) socket: Arc<Socket>,
    pub(crate) foreign: Foreign,
    /// Of a socket that is looked at only when it is ready; all others always are.
    pub(crate) bell: Option<Arc<Bell>>,
}

/// Where datagrams of other protocols go.
#[derive(Debug, Clone)]
pub(crate) enum Foreign {
    /// Into a queue of the socket's own.
    Own(mpsc::Sender<Datagram>),
    /// Into that of a pool, with the socket's number there.
    Pool(u32, mpsc::Sender<(u32, Datagram)>),
}

impl Foreign {
    /// What finds no room is lost, as on the way.
    pub(crate) fn pass_on(&self, from: SocketAddr, datagram: &[u8]) {
        let datagram = Datagram { from, bytes: Bytes::copy_from_slice(datagram) };
        let taken = match self {
            Self::Own(queue) => queue.try_send(datagram).is_ok(),
            Self::Pool(number, queue) => queue.try_send((*number, datagram)).is_ok(),
        };
        if !taken {
            tracing::trace!("nobody takes a datagram of another protocol");
        }
    }
}

/// Who waits for a stream, and what happened that nobody has asked for yet.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    pub(crate) messages: Option<Waker>,
    pub(crate) control: Option<Waker>,
    /// Who looks after the path.
    pub(crate) path: Option<Waker>,
    pub(crate) remote_changed: bool,
    pub(crate) remote_confirmed: bool,
}

impl Handle {
    pub(crate) fn new(config: Config) -> (Self, Arc<Shared>) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                endpoint: Endpoint::new(Instant::now(), config),
                sockets: Vec::new(),
                leaving: Vec::new(),
                sockets_version: 0,
                bells: Arc::default(),
                waiting: Vec::new(),
                driver: None,
                stopped: false,
            }),
            handles: AtomicUsize::new(1),
        });
        let handle = Self { shared: Arc::clone(&shared) };
        (handle, shared)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// Calls the state machine and lets the task send what comes of it.
    pub(crate) fn call<T>(
        &self,
        call: impl FnOnce(&mut Endpoint) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let mut state = self.lock();
        let result = call(&mut state.endpoint);
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        result
    }

    pub(crate) fn add_socket(&self, socket: Arc<Socket>, foreign: Foreign) -> SocketId {
        let mut state = self.lock();
        let free = state.sockets.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            state.sockets.push(None);
            state.sockets.len() - 1
        });
        let id = SocketId(u32::try_from(index).unwrap_or(u32::MAX));
        let bell = match foreign {
            Foreign::Own(_) => None,
            Foreign::Pool(..) => Some(Bell::new(&state.bells, index)),
        };
        if let Some(slot) = state.sockets.get_mut(index) {
            *slot = Some(BoundSocket { id, socket, foreign, bell });
        }
        state.sockets_changed();
        id
    }

    /// Lets go of a socket once what is to be sent has been.
    pub(crate) fn remove_socket(&self, id: SocketId) {
        let mut state = self.lock();
        state.leaving.push(id);
        state.wake_driver();
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.shared.handles.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.shared.handles.fetch_sub(1, Ordering::Release) == 1 {
            self.lock().wake_driver();
        }
    }
}

impl Shared {
    /// A panic elsewhere while the lock was held leaves a state machine that is still sound: its
    /// calls do not unwind half way.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody could use the task any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 0
    }
}

impl State {
    pub(crate) fn bells(&self) -> Arc<Bells> {
        Arc::clone(&self.bells)
    }

    /// Has the task woken when a handle has work for it.
    pub(crate) fn register_driver(&mut self, cx: &Context<'_>) {
        register(&mut self.driver, cx);
    }

    pub(crate) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    fn sockets_changed(&mut self) {
        self.sockets_version += 1;
        self.wake_driver();
    }

    /// Lets go of the sockets that were given up.
    pub(crate) fn release_sockets(&mut self) {
        for id in std::mem::take(&mut self.leaving) {
            if let Some(slot) = self.sockets.get_mut(id.0 as usize) {
                *slot = None;
            }
            self.sockets_version += 1;
        }
    }

    /// Who waits for `key`.
    pub(crate) fn waiting(&mut self, key: StreamKey) -> &mut Waiting {
        let index = key.index();
        if self.waiting.len() <= index {
            self.waiting.resize_with(index + 1, Waiting::default);
        }
        &mut self.waiting[index]
    }

    /// How a stream ended, once it has.
    pub(crate) fn closed(&self, key: StreamKey) -> Option<Result<(), StreamError>> {
        let stopped = self.stopped.then_some(Err(StreamError::Destroyed));
        self.endpoint.closed(key).or(stopped)
    }

    /// Ends all waiting.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.sockets.clear();
        for waiting in &mut self.waiting {
            [
                waiting.reader.take(),
                waiting.writer.take(),
                waiting.messages.take(),
                waiting.control.take(),
                waiting.path.take(),
            ]
            .into_iter()
            .flatten()
            .for_each(Waker::wake);
        }
    }

    /// Frees a stream.
    pub(crate) fn remove(&mut self, key: StreamKey) {
        self.endpoint.remove(key);
        *self.waiting(key) = Waiting::default();
        self.wake_driver();
    }

    /// Collects those who waited for what has happened since.
    pub(crate) fn take_woken(&mut self, woken: &mut Vec<Waker>) {
        while let Some((key, ready)) = self.endpoint.poll_event() {
            let waiting = self.waiting(key);
            waiting.remote_changed |= ready.remote_changed;
            waiting.remote_confirmed |= ready.remote_confirmed;
            let Ready { connected, readable, writable, message, remote_changed, .. } = ready;
            let Ready { remote_confirmed, closed, .. } = ready;
            let mut wake = |happened: bool, waker: &mut Option<Waker>| {
                if happened {
                    woken.extend(waker.take());
                }
            };
            wake(readable || closed, &mut waiting.reader);
            wake(writable || closed, &mut waiting.writer);
            wake(message || closed, &mut waiting.messages);
            wake(connected || remote_changed || closed, &mut waiting.control);
            wake(remote_changed || remote_confirmed || closed, &mut waiting.path);
        }
    }
}

/// Keeps the waker of `cx`, without cloning one that is there already.
pub(crate) fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}
