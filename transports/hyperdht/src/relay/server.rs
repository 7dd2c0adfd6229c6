//! The relay's service.

mod client;
mod sessions;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hyperdht_proto::{
    blind_relay::{ClientId, Limits},
    keys::{KeyPair, PublicKey},
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::sessions::RelayCounters;
use self::{client::Client, sessions::Sessions};
use crate::node::{self, Incoming, ListenError, Node, Server, Shared};

/// Joins peers that cannot reach each other, under a key of its own. Dropping it ends the service and
/// the sessions.
///
/// Clients are connected to it like to any server; who asks for no partner is sent away. What it lends
/// is bounded by [`RelayLimits`](super::RelayLimits), and its memory with it. It sees who connects to whom, when and how much, and
/// nothing of what they say.
#[derive(Debug)]
pub struct RelayServer {
    public_key: PublicKey,
    service: Arc<Service>,
    stop: CancellationToken,
    ended: CancellationToken,
    _guard: DropGuard,
}

/// What the tasks of the service share.
#[derive(Debug)]
pub(super) struct Service {
    node: Arc<Shared>,
    sessions: Mutex<Sessions>,
}

impl Service {
    /// Locked for moments, never across an await.
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RelayServer {
    /// Announces the relay under the key of this pair; returns when clients can find it.
    ///
    /// Cancel-safe: dropping the call ends the announcement.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn start(
        node: &Node,
        key_pair: KeyPair,
        limits: Limits,
    ) -> Result<Self, ListenError> {
        let server = node::listen_directly(node, key_pair).await?;
        let public_key = server.public_key();
        let node = Arc::clone(node.shared());
        let sessions = Mutex::new(Sessions::new(limits));
        let service = Arc::new(Service { node, sessions });
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let tasks = service.node.tasks();
        let run = run(Arc::clone(&service), server, stop.clone(), ended.clone().drop_guard());
        drop(tasks.spawn(run));
        let _guard = stop.clone().drop_guard();
        Ok(Self { public_key, service, stop, ended, _guard })
    }

    /// The key by which clients name the relay.
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// What it does and has done. Bytes are those of a second ago.
    pub fn counters(&self) -> RelayCounters {
        self.service.sessions().counters()
    }

    /// Ends the announcement and all sessions, and tells the peers. Idempotent; cancel-safe: what was
    /// begun goes on.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.ended.cancelled().await;
    }
}

/// Takes in clients and looks after sessions, until it is stopped or the node is.
async fn run(
    service: Arc<Service>,
    mut server: Server,
    stop: CancellationToken,
    _ended: DropGuard,
) {
    let mut clients = JoinSet::new();
    let mut next_client = 0;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => service.sessions().tick(Instant::now()),
            Some(_) = clients.join_next() => {}
            incoming = server.accept() => match incoming {
                Some(incoming) => {
                    next_client += 1;
                    admit(&service, ClientId(next_client), incoming, &mut clients);
                }
                None => break,
            },
        }
    }
    service.sessions().end_all();
    // Each client's connection ends with its task.
    clients.shutdown().await;
    server.close().await;
}

/// Lets a client in if there is room; otherwise it hears nothing.
fn admit(service: &Arc<Service>, id: ClientId, incoming: Incoming, clients: &mut JoinSet<()>) {
    let peer = incoming.peer();
    let mut sessions = service.sessions();
    match sessions.join(Instant::now(), id, peer) {
        Ok(commands) => {
            drop(sessions);
            clients.spawn(Client::new(id, peer, Arc::clone(service), commands).run(incoming));
        }
        Err(refusal) => tracing::debug!(%refusal, "a client is turned away"),
    }
}

/// How often sessions are looked at: by so much may one exceed its bytes.
const TICK: Duration = Duration::from_secs(1);
