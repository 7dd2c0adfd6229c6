//! The line to one target: dialled, kept, and dialled again when it is lost.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use dht_prom_client::message::{METRICS_METHOD, METRICS_PROTOCOL, MetricsRequest};
use dht_prom_transport::{ErrorKind, PublicKey, Session, Transport, TransportError};
use protomux::{Limits, Mux, MuxDriver, Protocol, Rpc, RpcError};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

/// How long a newcomer is left alone before it is dialled, unless it is scraped: services that come in a
/// crowd have all registered by then, and are not kept from it by sessions that nobody waits for.
const SETTLE: Duration = Duration::from_millis(250);
/// How long one dial may take, the opening of the channel included: longer than the ports of a NAT
/// are guessed for, which takes up to 35 s. Scrapes do not wait for it that long.
const DIAL_TIMEOUT: Duration = Duration::from_secs(45);
/// The wait after a first failure; it doubles with each further one, give or take a random part.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A session that lived for so long ends a row of failures. One that ends sooner continues it, or a
/// target that lets us in and throws us out would be dialled four times a second.
const STEADY: Duration = Duration::from_secs(5);

/// What holds one target's session.
#[derive(Debug)]
pub(super) struct Line {
    key: PublicKey,
    state: watch::Sender<State>,
    hurry: Notify,
    begin_again: Notify,
    /// Why there is no session, once that is known.
    failure: Mutex<Option<Arc<DialError>>>,
}

#[derive(Debug, Clone)]
enum State {
    /// Nothing has been dialled yet.
    New,
    /// A dial is in progress, or waits for its turn. Dials are counted from 1.
    Dialling { dial: u64 },
    /// The dial of this number opened a session.
    Open { dial: u64, link: Link },
    /// The dial of this number failed, or its session ended; the next one follows.
    Waiting { dial: u64, error: Arc<DialError> },
    /// There will be no further one.
    Ended,
}

/// Why a target is not connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No session came about in time.
    #[error("no connection in time")]
    Timeout,
    /// No session came about in time, and this is why the dial before failed.
    #[error("no connection in time; before that")]
    TimeoutAfter(#[source] Arc<Self>),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The target does not open the metrics channel.
    #[error("the service opens no metrics channel")]
    Channel(#[source] RpcError),
    /// The session ended.
    #[error("the connection was lost")]
    Lost,
    /// No alias points at the key any more, or the bridge stops.
    #[error("not a target any more")]
    Released,
}

/// An open session with a target. Clones share it.
#[derive(Debug, Clone)]
pub struct Link {
    mux: Mux,
    rpc: Rpc,
    /// Answers received, by which a slow target is told from a dead one.
    answers: Arc<AtomicU64>,
}

impl Link {
    /// Asks for metrics until `deadline`. The answer is a part of the message that carried it, not a
    /// copy.
    ///
    /// When the deadline passes and nothing at all was answered meanwhile, the session is ended:
    /// nobody may be there any more, and only a new dial can tell. Cancel-safe; a call that is
    /// dropped proves nothing and leaves the session alone.
    ///
    /// # Errors
    /// [`RpcError::Timeout`], and see [`Rpc::request`].
    pub async fn metrics(&self, deadline: Instant) -> Result<Bytes, RpcError> {
        let (asked, answers) = (Instant::now(), self.answers.load(Ordering::Relaxed));
        let request = self.rpc.request(METRICS_METHOD, MetricsRequest);
        let Ok(answer) = timeout_at(deadline, request).await else {
            if self.answers.load(Ordering::Relaxed) == answers {
                self.mux.destroy();
            }
            return Err(RpcError::Timeout(asked.elapsed()));
        };
        self.answers.fetch_add(1, Ordering::Relaxed);
        answer
    }

    fn is_closed(&self) -> bool {
        self.rpc.is_closed() || self.mux.is_closed()
    }
}

impl Line {
    pub(super) fn new(key: PublicKey) -> Self {
        let state = watch::Sender::new(State::New);
        Self {
            key,
            state,
            hurry: Notify::new(),
            begin_again: Notify::new(),
            failure: Mutex::default(),
        }
    }

    /// Why there is no session, as far as it is known before the dial in progress has ended.
    pub(super) fn timeout(&self) -> DialError {
        self.failure().clone().map_or(DialError::Timeout, DialError::TimeoutAfter)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Arc<DialError>>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network has changed: what failed before says nothing. Dials at once, should the dial in
    /// progress fail as well, and waits as after a first failure from then on.
    pub(super) fn begin_again(&self) {
        if matches!(*self.state.borrow(), State::Waiting { .. } | State::Dialling { .. }) {
            self.begin_again.notify_one();
        }
    }

    /// Cuts a wait short, the one to come included.
    pub(super) fn hurry(&self) {
        if matches!(*self.state.borrow(), State::New | State::Waiting { .. }) {
            self.hurry.notify_one();
        }
    }

    /// See [`Pool::link`](super::Pool::link).
    pub(super) async fn link(&self) -> Result<Link, Arc<DialError>> {
        let (next, hurry) = match &*self.state.borrow() {
            State::Open { link, .. } if !link.is_closed() => return Ok(link.clone()),
            State::New => (1, true),
            State::Dialling { dial } => (*dial, false),
            State::Open { dial, .. } | State::Waiting { dial, .. } => (dial + 1, true),
            State::Ended => return Err(Arc::new(DialError::Released)),
        };
        let mut states = self.state.subscribe();
        if hurry {
            self.hurry.notify_one();
        }
        let decided = states.wait_for(|state| match state {
            State::Open { dial, .. } | State::Waiting { dial, .. } => *dial >= next,
            State::New | State::Dialling { .. } => false,
            State::Ended => true,
        });
        // The sender lives in `self`, so that waiting cannot fail.
        match decided.await.as_deref() {
            Ok(State::Open { link, .. }) => Ok(link.clone()),
            Ok(State::Waiting { error, .. }) => Err(Arc::clone(error)),
            Ok(State::New | State::Dialling { .. } | State::Ended) | Err(_) => {
                Err(Arc::new(DialError::Released))
            }
        }
    }

    /// Dials, keeps what it got until it is lost, waits, and so on for ever.
    pub(super) async fn run(&self, transport: &dyn Transport, dials: &Semaphore) {
        let mut waits = waits();
        let mut failing: Option<ErrorKind> = None;
        let _ = timeout(SETTLE, self.hurry.notified()).await;
        for dial in 1.. {
            self.state.send_replace(State::Dialling { dial });
            let error = match self.dial(transport, dials).await {
                Ok((link, driver)) => {
                    let opened = Instant::now();
                    tracing::debug!(peer = %self.key, dial, "scrape session opened");
                    failing = None;
                    *self.failure() = None;
                    self.state.send_replace(State::Open { dial, link });
                    let ended = driver.await;
                    tracing::debug!(peer = %self.key, dial, ?ended, "scrape session ended");
                    if opened.elapsed() >= STEADY {
                        waits = self::waits();
                    }
                    DialError::Lost
                }
                Err(error) => {
                    report(self.key, &error, &mut failing);
                    error
                }
            };
            let error = Arc::new(error);
            *self.failure() = Some(Arc::clone(&error));
            self.state.send_replace(State::Waiting { dial, error });
            let wait = waits.next().unwrap_or(LONGEST_WAIT);
            tokio::select! {
                () = sleep(wait) => {}
                () = self.hurry.notified() => {}
                () = self.begin_again.notified() => waits = self::waits(),
            }
        }
    }

    /// Tells those who wait that there will be no session.
    pub(super) fn end(&self) {
        self.state.send_replace(State::Ended);
    }

    async fn dial(
        &self,
        transport: &dyn Transport,
        dials: &Semaphore,
    ) -> Result<(Link, SessionDriver), DialError> {
        let _turn = dials.acquire().await.map_err(|_closed| DialError::Released)?;
        timeout(DIAL_TIMEOUT, open(transport, self.key)).await.unwrap_or(Err(DialError::Timeout))
    }
}

type SessionDriver = std::pin::Pin<
    Box<MuxDriver<dht_prom_transport::MessageSink, dht_prom_transport::MessageStream>>,
>;

async fn open(
    transport: &dyn Transport,
    key: PublicKey,
) -> Result<(Link, SessionDriver), DialError> {
    let Session { tx, rx, .. } = transport.dial(key).await?;
    let (mux, driver) = Mux::new(tx, rx, Limits::default());
    let mut driver = Box::pin(driver);
    let rpc = mux.open(&Protocol::new(METRICS_PROTOCOL), None);
    let rpc = rpc.map_err(|_ended| DialError::Lost)?;
    tokio::select! {
        opened = rpc.opened() => opened.map_err(DialError::Channel)?,
        _ended = &mut driver => return Err(DialError::Lost),
    }
    Ok((Link { mux, rpc, answers: Arc::default() }, driver))
}

/// Failures are told when they begin or change their kind, not each time.
fn report(key: PublicKey, error: &DialError, failing: &mut Option<ErrorKind>) {
    let kind = match error {
        DialError::Transport(error) => error.kind(),
        DialError::Timeout | DialError::TimeoutAfter(_) | DialError::Lost | DialError::Released => {
            ErrorKind::Unreachable
        }
        DialError::Channel(_) => ErrorKind::Refused,
    };
    if failing.replace(kind) != Some(kind) {
        let error = crate::telemetry::causes(error);
        tracing::info!(peer = %key, %kind, "cannot connect to a target: {error}");
    }
}

fn waits() -> ExponentialBackoff {
    let waits = ExponentialBuilder::new().with_min_delay(FIRST_WAIT).with_max_delay(LONGEST_WAIT);
    waits.without_max_times().with_jitter().build()
}
