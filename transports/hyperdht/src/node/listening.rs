//! Servers: connections that others ask for.

use std::{
    net::SocketAddrV4,
    sync::Arc,
    time::{Duration, Instant},
};

use hyperdht_proto::{
    connect::{FIRST_PACKET_WAIT, Knock, Meeting, PunchError, Welcome},
    dht::{IncomingHandshake, ServerId},
    keys::{KeyPair, PublicKey},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Shared,
    core::{Core, State},
    dialling::{Ways, path},
    gate::Gate,
    punching::Punch,
    relaying::{self, Attempt, HEAD_START, Met, OpenError},
};
use crate::{
    connection::{Connection, ConnectionError},
    pool::ConnectionPool,
    udx::UdxStream,
};

/// Takes in connections under one key. Dropping it ends the announcement; connections live on.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    id: ServerId,
    public_key: PublicKey,
    knocks: mpsc::Receiver<Knock>,
    pool: Option<ConnectionPool>,
}

impl Server {
    pub(super) async fn open(
        shared: &Arc<Shared>,
        key_pair: KeyPair,
        ways: Ways,
    ) -> Result<Self, ListenError> {
        let public_key = key_pair.public_key();
        loop {
            let before = shared.core.with(|state, _| state.closing_door(&public_key))?;
            let Some(before) = before else { break };
            // Nodes are still told to forget the last server with this key.
            let _ = before.await;
        }
        let (knocker, knocks) = mpsc::channel(BACKLOG);
        let (announced, is_announced) = oneshot::channel();
        let opened = shared.core.with(|state, now| {
            if state.closing {
                return Err(ListenError::Stopped);
            }
            let server = state.dht.listen(now, key_pair.clone());
            let id = server.map_err(|_| ListenError::KeyInUse)?;
            let door = Door {
                key_pair,
                ways,
                knocks: Some(knocker),
                announced: Some(announced),
                closed: Vec::new(),
            };
            state.doors.insert(id, door);
            Ok(id)
        });
        let server =
            Self { shared: Arc::clone(shared), id: opened?, public_key, knocks, pool: None };
        is_announced.await.map_err(|_| ListenError::Stopped)?;
        Ok(server)
    }

    /// Has a pool decide about connections that have opened.
    pub(crate) fn pooled(mut self, pool: ConnectionPool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// The key under which it is reached.
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// The nodes that pass handshakes on to it at the moment, at most three: what to
    /// [announce](super::Node::announce) it with at a topic. They change as nodes come and go.
    pub fn relay_addresses(&self) -> Vec<SocketAddrV4> {
        self.shared.core.with_dht(|dht, _| dht.relay_addresses(self.id).to_vec())
    }

    pub(crate) const fn id(&self) -> ServerId {
        self.id
    }

    /// The next peer that wants a connection; nothing once the node has stopped. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Incoming> {
        let knock = tokio::select! {
            biased;
            () = self.shared.lifetime.closing().cancelled() => return None,
            knock = self.knocks.recv() => knock?,
        };
        let (shared, pool) = (Arc::clone(&self.shared), self.pool.clone());
        Some(Incoming { shared, knock: Some(knock), pool })
    }

    /// Ends the announcement, and waits until the nodes that hold it were told. Cancel-safe: what was
    /// begun goes on.
    pub async fn close(self) {
        let closed = self.shared.core.with(|state, now| state.close_door(now, self.id));
        if let Some(closed) = closed {
            let _ = closed.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.core.with(|state, now| drop(state.close_door(now, self.id)));
    }
}

/// A peer that wants a connection: its key is proved, and nothing has been answered. Dropped, it
/// hears nothing, as if nobody were there.
#[derive(Debug)]
pub struct Incoming {
    shared: Arc<Shared>,
    knock: Option<Knock>,
    pool: Option<ConnectionPool>,
}

impl Incoming {
    /// The peer's key.
    pub fn peer(&self) -> PublicKey {
        self.knock.as_ref().map_or_else(|| PublicKey::from_bytes([0; 32]), Knock::remote)
    }

    /// Lets the peer in, and waits until its stream has begun.
    ///
    /// Dropping the call sends the peer away.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub async fn accept(mut self) -> Result<Connection, AcceptError> {
        let knock = self.knock.take().ok_or(AcceptError::Gone)?;
        let shared = Arc::clone(&self.shared);
        let Admitted { stream, gate, meeting, nonce, punch } = shared.core.admit(&shared, knock)?;
        let mut connection = Connection::start(&shared, stream, &meeting.keys, nonce);
        let link = connection.share();
        let core = &shared.core;
        if let Some((socket, peer)) = meeting.connect {
            // A peer that comes back writes to a socket for crossing NATs that is open still.
            let Met { path, socket } = Met::at(core, path(core, socket, peer));
            link.connect(path, meeting.remote_id, socket);
        }
        let reusable = meeting.reusable && meeting.rendezvous.is_none();
        let opened = tokio::select! {
            biased;
            interruption = shared.interruption() => Err(interruption.into()),
            opened = open(&shared, &mut connection, gate, meeting, punch) => opened,
        };
        if let Err(error) = opened {
            link.destroy();
            return Err(error);
        }
        if self.pool.as_ref().is_some_and(|pool| !pool.admit(&connection)) {
            connection.held().replace();
            return Err(AcceptError::Duplicate);
        }
        if let Some(socket) = link.held().filter(|_| reusable) {
            core.with(|state, now| state.routes.keep(now, &socket));
        }
        shared.core.adopt(&connection);
        Ok(connection)
    }

    /// Sends the peer away.
    pub fn refuse(self) {}
}

/// Waits for the peer's first packets, as long as there is a way for them.
async fn open(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    gate: Arc<Gate>,
    meeting: Meeting,
    punch: Option<Punch>,
) -> Result<(), AcceptError> {
    let remote_id = meeting.remote_id;
    let head_start = if punch.is_some() { Duration::ZERO } else { HEAD_START };
    let direct = await_peer(Arc::clone(shared), Arc::clone(&gate), punch);
    if let Some(rendezvous) = meeting.rendezvous {
        let direct: Attempt<_> = Box::pin(direct);
        let meeting = relaying::Meeting { gate: &gate, remote_id, rendezvous, head_start, direct };
        relaying::open(shared, connection, meeting).await?;
    } else if meeting.connect.is_none() {
        let Met { path, socket } = direct.await.map_err(|_| AcceptError::Gone)?;
        connection.share().connect(path, remote_id, socket);
    }
    let opened = timeout(FIRST_PACKET_WAIT, connection.opened()).await;
    opened.map_err(|_| AcceptError::Gone)?.map_err(AcceptError::from)
}

/// Waits for a peer that comes by itself, through a hole or not.
async fn await_peer(
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    punch: Option<Punch>,
) -> Result<Met, NotCome> {
    if !gate.is_direct() {
        return Err(NotCome);
    }
    let unpunched = async || timeout(FIRST_PACKET_WAIT, gate.direct()).await.map_err(|_| NotCome);
    let Some(mut punch) = punch else {
        return Ok(Met::at(&shared.core, unpunched().await?));
    };
    let path = tokio::select! {
        biased;
        path = gate.direct() => path,
        end = punch.ended() => match end {
            // It has made room for others, and its peer may be a neighbour that needs no hole.
            Err(PunchError::Displaced) => unpunched().await?,
            _ => return Err(NotCome),
        },
    };
    let met = Met::at(&shared.core, path);
    punch.connected();
    Ok(met)
}

/// No packet has come directly.
#[derive(Debug)]
struct NotCome;

impl From<ConnectionError> for AcceptError {
    fn from(error: ConnectionError) -> Self {
        if matches!(error, ConnectionError::Broken(_)) { Self::Broken(error) } else { Self::Gone }
    }
}

impl From<OpenError<NotCome>> for AcceptError {
    fn from(error: OpenError<NotCome>) -> Self {
        match error {
            OpenError::Ended(error) => error.into(),
            OpenError::Neither { .. } | OpenError::Silent => Self::Gone,
        }
    }
}

/// A peer that was let in.
struct Admitted {
    stream: UdxStream,
    gate: Arc<Gate>,
    meeting: Meeting,
    nonce: [u8; 24],
    punch: Option<Punch>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(knock) = self.knock.take() {
            let id = knock.handshake().id;
            self.shared.core.with_dht(|dht, now| dht.answer_handshake(now, id, None));
        }
    }
}

impl Core {
    /// Answers a handshake and opens the stream on which the peer is expected.
    fn admit(&self, shared: &Arc<Shared>, knock: Knock) -> Result<Admitted, AcceptError> {
        self.with(|state, now| {
            let id = knock.handshake().id;
            if !self.is_running() {
                state.dht.answer_handshake(now, id, None);
                return Err(AcceptError::Suspended);
            }
            let door = state.doors.get(&knock.handshake().server);
            let ways = door.map_or(Ways::Direct, |door| door.ways);
            let gate = Gate::new(self.wants_direct(ways));
            let stream = self.open_stream(state, || gate.firewall());
            let relay_through = state.relay_through(now, ways);
            let stream = stream.ok_or(AcceptError::TooManyStreams);
            let local = self.local();
            let admission = stream.and_then(|stream| {
                let State { dht, puncher, .. } = &mut *state;
                let welcome = Welcome {
                    stream_id: stream.id(),
                    local: &local,
                    relay_through,
                    follow: ways == Ways::All,
                    direct: self.wants_direct(ways),
                };
                let admission = knock.admit(dht, puncher, now, welcome);
                Ok((stream, admission.map_err(|_| AcceptError::Gone)?))
            });
            let (stream, admission) = match admission {
                Ok(admission) => admission,
                Err(error) => {
                    state.dht.answer_handshake(now, id, None);
                    return Err(error);
                }
            };
            let meeting = admission.meeting;
            if let Some(meeting) = &meeting {
                gate.open(meeting.remote_id);
            }
            // The reference answers first and connects then; the stream's first packet follows the
            // answer here, too, when the caller connects it.
            state.dht.answer_handshake(now, id, Some(admission.answer));
            self.transmit(state);
            let meeting = meeting.ok_or(AcceptError::Incompatible)?;
            let punch = meeting.punch.map(|id| Punch::new(shared, state, id));
            Ok(Admitted { stream, gate, meeting, nonce: state.random(), punch })
        })
    }
}

/// A server, as the node's task sees it.
#[derive(Debug)]
pub(super) struct Door {
    key_pair: KeyPair,
    ways: Ways,
    /// `None` once it closes.
    knocks: Option<mpsc::Sender<Knock>>,
    announced: Option<oneshot::Sender<()>>,
    /// Who waits until it has been taken back from the network.
    closed: Vec<oneshot::Sender<()>>,
}

impl State {
    /// Somebody wants a connection: reads who, and puts it before the server's door.
    pub(super) fn knock(&mut self, now: Instant, handshake: IncomingHandshake) {
        let (id, server) = (handshake.id, handshake.server);
        let ephemeral = self.ephemeral();
        let waits = self.doors.get(&server).is_some_and(|door| {
            let Some(knocks) = &door.knocks else { return false };
            match Knock::read(handshake, &door.key_pair, ephemeral) {
                Ok(knock) => knocks.try_send(knock).is_ok(),
                Err(error) => {
                    tracing::debug!(%error, "a handshake that is not for us");
                    false
                }
            }
        });
        if !waits {
            self.dht.answer_handshake(now, id, None);
        }
    }

    pub(super) fn announced(&mut self, server: ServerId, nodes: usize) {
        tracing::debug!(nodes, "a server is announced");
        if nodes > 0
            && let Some(door) = self.doors.get_mut(&server)
            && let Some(announced) = door.announced.take()
        {
            let _ = announced.send(());
        }
    }

    pub(super) fn closed(&mut self, server: ServerId) {
        if let Some(door) = self.doors.remove(&server) {
            for waiting in door.closed {
                let _ = waiting.send(());
            }
        }
    }

    /// Closes a server; the receiver tells when it has been taken back from the network.
    pub(super) fn close_door(
        &mut self,
        now: Instant,
        server: ServerId,
    ) -> Option<oneshot::Receiver<()>> {
        let door = self.doors.get_mut(&server)?;
        let (sender, receiver) = oneshot::channel();
        door.closed.push(sender);
        door.announced = None;
        if door.knocks.take().is_some() {
            self.dht.close(now, server);
        }
        Some(receiver)
    }

    pub(super) fn close_doors(&mut self, now: Instant) -> Vec<oneshot::Receiver<()>> {
        let servers: Vec<_> = self.doors.keys().copied().collect();
        servers.into_iter().filter_map(|server| self.close_door(now, server)).collect()
    }

    /// Waits for a server with this key that is closing, if there is one.
    fn closing_door(
        &mut self,
        key: &PublicKey,
    ) -> Result<Option<oneshot::Receiver<()>>, ListenError> {
        if self.closing {
            return Err(ListenError::Stopped);
        }
        let door = self.doors.values_mut().find(|door| door.key_pair.public_key() == *key);
        let Some(door) = door else { return Ok(None) };
        if door.knocks.is_some() {
            return Err(ListenError::KeyInUse);
        }
        let (sender, receiver) = oneshot::channel();
        door.closed.push(sender);
        Ok(Some(receiver))
    }
}

/// Why a node cannot listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// A server with this key is open on this node.
    #[error("a server with this key is open")]
    KeyInUse,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a peer that was let in has not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// It has gone, or no path leads to it.
    #[error("the peer did not come")]
    Gone,
    /// It speaks another version.
    #[error("the peer speaks another version")]
    Incompatible,
    /// What it sent is not its handshake's stream.
    #[error("the peer broke the protocol")]
    Broken(#[source] ConnectionError),
    /// Too many streams are open.
    #[error("too many streams are open")]
    TooManyStreams,
    /// There is a connection with the peer already, which stays; see
    /// [`ConnectionPool`](crate::ConnectionPool).
    #[error("there is a connection with the peer already")]
    Duplicate,
    /// The node is [suspended](super::Node::suspend).
    #[error("the node is suspended")]
    Suspended,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Peers that wait to be let in, of about 2 KiB each. Who comes when there are so many hears nothing.
const BACKLOG: usize = 64;
