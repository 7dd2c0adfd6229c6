//! Connections that we ask for.

use std::{
    net::{SocketAddr, SocketAddrV4},
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

pub use hyperdht_proto::connect::DialError;
use hyperdht_proto::{
    connect::{
        Answered, Dial, DialEvent, DialSpec, FIRST_PACKET_WAIT, Invitation, Plan, PunchError,
    },
    dht::{Dht, Event},
    keys::{KeyPair, PublicKey},
    rpc,
};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    Shared,
    core::{Core, State},
    gate::Gate,
    punching::Punch,
    relaying::{self, Attempt, HEAD_START, Met, OpenError},
};
use crate::{
    connection::{Connection, ConnectionError, Link},
    relay::RelayError,
    udx::{Path, UdxStream},
};

/// A dial and who waits for its answer.
#[derive(Debug)]
pub(super) struct DialEntry {
    dial: Dial,
    answer: Option<oneshot::Sender<Result<Box<Answered>, DialError>>>,
}

impl DialEntry {
    pub(super) fn cancel(&mut self, dht: &mut Dht, now: Instant) {
        self.dial.cancel(dht, now);
    }
}

type Answer = Result<Box<Answered>, DialError>;

/// Runs in a task of its own, so that a dial that nobody waits for any more can still tell a server
/// that has answered. The future is boxed, since dials over relays dial the relays.
pub(super) fn connect(
    shared: &Arc<Shared>,
    key_pair: KeyPair,
    server: PublicKey,
    ways: Ways,
) -> Pin<Box<dyn Future<Output = Result<Connection, ConnectError>> + Send>> {
    let (reply, connection) = oneshot::channel();
    let dialling = dial(Arc::clone(shared), key_pair, server, ways, reply);
    drop(shared.tasks().spawn(dialling));
    Box::pin(async { connection.await.unwrap_or(Err(ConnectError::Stopped)) })
}

/// On which ways a connection may come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ways {
    /// On those that the node's options name.
    All,
    /// Directly only, as those to relays.
    Direct,
}

async fn dial(
    shared: Arc<Shared>,
    key_pair: KeyPair,
    server: PublicKey,
    ways: Ways,
    mut reply: oneshot::Sender<Result<Connection, ConnectError>>,
) {
    let core = &shared.core;
    let tells_open = core.with(|state, now| !state.unheard.contains(now, &server));
    let whom = Whom { key_pair, server, ways, tells_open };
    let mut outcome = attempt(&shared, &whom, &mut reply).await;
    if matches!(outcome, Err(Miss::Unheard)) {
        tracing::debug!(?server, "unheard at a relay, too: dialled once more");
        outcome = attempt(&shared, &Whom { tells_open: false, ..whom }, &mut reply).await;
        if outcome.is_ok() {
            core.with(|state, now| state.unheard.insert(now, server));
        }
    }
    let outcome = match outcome {
        Ok(connection) => Ok(connection),
        Err(Miss::Failed(error)) => Err(error),
        Err(Miss::Unheard) => Err(ConnectError::HolepunchAborted),
        Err(Miss::Unwanted) => return,
    };
    // A connection that nobody takes is dropped here, which ends it for the server.
    drop(reply.send(outcome));
}

/// Whom to dial, and how.
struct Whom {
    key_pair: KeyPair,
    server: PublicKey,
    ways: Ways,
    /// See [`DialSpec::tells_open`].
    tells_open: bool,
}

/// Why an attempt has led to nothing.
enum Miss {
    /// The server was told that we can be reached, and comes neither to us nor to the relay.
    Unheard,
    /// Nobody waits for the connection any more.
    Unwanted,
    Failed(ConnectError),
}

impl<E: Into<ConnectError>> From<E> for Miss {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// One handshake with the server, and what follows from it.
async fn attempt(
    shared: &Arc<Shared>,
    whom: &Whom,
    reply: &mut oneshot::Sender<Result<Connection, ConnectError>>,
) -> Result<Connection, Miss> {
    let core = &shared.core;
    let mut interruption = pin!(shared.interruption());
    let (number, stream, gate, mut answer) = core.begin_dial(whom)?;
    let answered = tokio::select! {
        biased;
        interruption = &mut interruption => {
            core.end_dial(number);
            return Err(interruption.into());
        }
        () = reply.closed() => {
            core.abandon_dial(number);
            part(core, &stream, &gate, answer.await).await;
            return Err(Miss::Unwanted);
        }
        answered = &mut answer => answered,
    };
    let answered = answered.unwrap_or(Err(DialError::Abandoned));
    core.remember_relays(whom.server, &answered);
    let mut answered = answered?;
    if whom.ways == Ways::Direct {
        answered.rendezvous = None;
    }
    let nonce = core.with(|state, _| state.random());
    let mut connection = Connection::start(shared, stream, &answered.keys, nonce);
    let link = connection.share();
    let met = tokio::select! {
        biased;
        interruption = &mut interruption => Err(interruption.into()),
        () = reply.closed() => {
            part(core, link.stream(), &gate, Ok(Ok(answered))).await;
            return Err(Miss::Unwanted);
        }
        () = sleep(HUSH), if answered.told_open && answered.rendezvous.is_some() => {
            Err(Miss::Unheard)
        }
        met = meet(shared, &mut connection, &gate, &answered, whom.ways) => met.map_err(Miss::from),
    };
    if let Err(miss) = met {
        link.destroy();
        return Err(miss);
    }
    if answered.reusable && answered.rendezvous.is_none() {
        core.remember_route(whom.server, &link);
    }
    core.adopt(&connection);
    Ok(connection)
}

/// Connects the stream, in whichever way leads to the server.
async fn meet(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    gate: &Arc<Gate>,
    answered: &Answered,
    ways: Ways,
) -> Result<(), ConnectError> {
    let core = &shared.core;
    let link = connection.share();
    if let Some(first) = gate.open(answered.remote_id) {
        let Met { path, socket } = Met::at(core, first);
        link.connect(path, answered.remote_id, socket);
        return Ok(());
    }
    let Some(rendezvous) = answered.rendezvous else {
        if !core.wants_direct(ways) {
            return Err(ConnectError::NoRelay);
        }
        let found = find_path(Arc::clone(shared), Arc::clone(gate), answered.plan.clone(), false);
        let Met { path, socket } = found.await?;
        link.connect(path, answered.remote_id, socket);
        return Ok(());
    };
    let direct: Attempt<_> = if !core.wants_direct(ways) {
        Box::pin(async { Err(ConnectError::NoRelay) })
    } else if let Plan::Connect(socket, peer) = answered.plan {
        // Nobody knows yet whether that leads anywhere.
        link.connect(path(core, socket, peer), answered.remote_id, None);
        Box::pin(async {
            sleep(FIRST_PACKET_WAIT).await;
            Err(ConnectError::HolepunchAborted)
        })
    } else {
        let plan = answered.plan.clone();
        Box::pin(find_path(Arc::clone(shared), Arc::clone(gate), plan, true))
    };
    let at_once = matches!(answered.plan, Plan::Connect(..) | Plan::AwaitServer);
    let meeting = relaying::Meeting {
        gate,
        remote_id: answered.remote_id,
        rendezvous,
        head_start: if at_once && core.wants_direct(ways) { HEAD_START } else { Duration::ZERO },
        direct,
    };
    Ok(relaying::open(shared, connection, meeting).await?)
}

/// Finds a direct way to the server that has answered; `patient` when a relay is in play. The server's
/// first packet may show it, too.
async fn find_path(
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    plan: Plan,
    patient: bool,
) -> Result<Met, ConnectError> {
    let core = &shared.core;
    let path = match plan {
        Plan::Connect(socket, peer) => path(core, socket, peer),
        Plan::AwaitServer => {
            let first = timeout(FIRST_PACKET_WAIT, gate.direct()).await;
            first.map_err(|_| ConnectError::HolepunchAborted)?
        }
        Plan::Lan(neighbour) => tokio::select! {
            biased;
            first = gate.direct() => first,
            found = find_neighbour(core, Some(neighbour)) => {
                found.ok_or(ConnectError::HolepunchAborted)?
            }
        },
        Plan::Punch(invitation) => return punch(&shared, &gate, &invitation, patient).await,
        Plan::Unreachable => return Err(ConnectError::CannotHolepunch),
    };
    Ok(Met::at(core, path))
}

/// Punches a hole, and tries a neighbour meanwhile.
async fn punch(
    shared: &Arc<Shared>,
    gate: &Gate,
    invitation: &Arc<Invitation>,
    patient: bool,
) -> Result<Met, ConnectError> {
    let core = &shared.core;
    let punch = Punch::dial(shared, Arc::clone(invitation), patient);
    let mut punch = punch.ok_or(ConnectError::TooMany)?;
    let mut neighbour = pin!(find_neighbour(core, invitation.neighbour()));
    let (mut failure, mut alone) = (None, false);
    let path = loop {
        if let (Some(failure), true) = (failure, alone) {
            return Err(ConnectError::Punch(failure));
        }
        tokio::select! {
            biased;
            first = gate.direct() => break first,
            end = punch.ended(), if failure.is_none() => match end {
                Ok(path) => break path,
                Err(error) => failure = Some(error),
            },
            found = &mut neighbour, if !alone => match found {
                Some(path) => break path,
                None => alone = true,
            },
        }
    };
    let met = Met::at(core, path);
    punch.connected();
    Ok(met)
}

/// Asks whether the server is on our own network, where it is reached from server socket to server
/// socket.
async fn find_neighbour(core: &Core, neighbour: Option<SocketAddrV4>) -> Option<Path> {
    let neighbour = neighbour?;
    core.ping(neighbour).await?;
    Some(path(core, rpc::SocketId::Server, neighbour))
}

fn connect_to(
    core: &Core,
    stream: &UdxStream,
    (socket, peer): (rpc::SocketId, SocketAddrV4),
    answered: &Answered,
) {
    // It is connected already if the server was quicker.
    let _ = stream.connect_path(path(core, socket, peer), answered.remote_id);
}

/// Tells the server, where it has answered, that nobody wants the connection any more.
async fn part(
    core: &Core,
    stream: &UdxStream,
    gate: &Gate,
    answer: Result<Answer, oneshot::error::RecvError>,
) {
    let Ok(Ok(answered)) = answer else { return };
    if let Some(first) = gate.open(answered.remote_id) {
        let _ = stream.connect_path(first, answered.remote_id);
    }
    match answered.plan {
        Plan::Connect(socket, peer) => connect_to(core, stream, (socket, peer), &answered),
        Plan::Lan(peer) => connect_to(core, stream, (rpc::SocketId::Server, peer), &answered),
        Plan::Punch(invitation) => core.with(|state, now| {
            let State { dht, puncher, .. } = state;
            puncher.decline(dht, now, &invitation);
        }),
        Plan::AwaitServer => {
            let _ = timeout(PARTING, stream.connected()).await;
        }
        Plan::Unreachable => {}
    }
    stream.destroy();
}

pub(super) fn path(core: &Core, socket: rpc::SocketId, peer: SocketAddrV4) -> Path {
    Path { socket: core.sockets().udx_id(socket), peer: peer.into() }
}

type Begun = (u64, UdxStream, Arc<Gate>, oneshot::Receiver<Answer>);

impl Core {
    fn begin_dial(&self, whom: &Whom) -> Result<Begun, ConnectError> {
        let &Whom { ref key_pair, server, ways, tells_open } = whom;
        let direct = self.wants_direct(ways);
        self.with(|state, now| {
            if state.closing {
                return Err(ConnectError::Stopped);
            }
            if !self.is_running() {
                return Err(ConnectError::Suspended);
            }
            if state.dials.len() >= MAX_DIALS {
                return Err(ConnectError::TooMany);
            }
            let gate = Gate::new(direct);
            let stream = self.open_stream(state, || gate.firewall());
            let stream = stream.ok_or(ConnectError::TooMany)?;
            let spec = DialSpec {
                key_pair: key_pair.clone(),
                server,
                ephemeral: state.ephemeral(),
                stream_id: stream.id(),
                relays: state.relays.relays(&server).to_vec(),
                route: state.routes.to(&server),
                local: self.local().to_vec(),
                relay_through: state.relay_through(now, ways),
                direct,
                tells_open,
            };
            let dial = Dial::new(&mut state.dht, now, spec)?;
            let (sender, receiver) = oneshot::channel();
            let number = state.number();
            state.dials.insert(number, DialEntry { dial, answer: Some(sender) });
            Ok((number, stream, gate, receiver))
        })
    }

    fn abandon_dial(&self, number: u64) {
        self.with(|state, now| {
            if let Some(entry) = state.dials.get_mut(&number) {
                entry.dial.abandon(&mut state.dht, now);
                state.conclude(number);
            }
        });
    }

    fn end_dial(&self, number: u64) {
        self.with(|state, now| {
            if let Some(mut entry) = state.dials.remove(&number) {
                entry.dial.cancel(&mut state.dht, now);
            }
        });
    }

    fn remember_route(&self, server: PublicKey, link: &Link) {
        if let Some(socket) = link.held()
            && let Some(SocketAddr::V4(address)) = link.stream().info().path.map(|path| path.peer)
        {
            self.with(|state, now| state.routes.insert(now, server, &socket, address));
        }
    }

    fn remember_relays(&self, server: PublicKey, answer: &Answer) {
        let mut state = self.lock();
        match answer {
            Ok(answered) => state.relays.insert(server, answered.relays.clone()),
            Err(_) => {
                state.relays.remove(&server);
                state.routes.remove(&server);
            }
        }
    }
}

impl State {
    /// Gives an event to the dial that it concerns; gives it back if there is none.
    pub(super) fn dial_event(&mut self, now: Instant, event: Event) -> Option<Event> {
        let Some(key) = DialEvent::of(&event) else { return Some(event) };
        let entry = self.dials.iter_mut().find(|(_, entry)| entry.dial.owns(key));
        let Some((number, entry)) = entry else { return Some(event) };
        let number = *number;
        entry.dial.handle(&mut self.dht, now, event);
        self.conclude(number);
        None
    }

    /// Passes a dial's outcome on, once there is one.
    fn conclude(&mut self, number: u64) {
        if let Some(entry) = self.dials.get_mut(&number)
            && let Some(outcome) = entry.dial.poll()
        {
            if let Some(answer) = entry.answer.take() {
                let _ = answer.send(outcome);
            }
            self.dials.remove(&number);
        }
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The search or the handshake has failed.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server has answered, but no path to it has opened.
    #[error("no path to the server opened")]
    HolepunchAborted,
    /// Both sides are behind NATs, and the server has no node through which to arrange a punch.
    #[error("neither side can be reached from outside")]
    CannotHolepunch,
    /// Both sides are behind NATs, and no hole was made.
    #[error("no path through the NATs opened: {0}")]
    Punch(PunchError),
    /// Neither a direct path nor one through a relay opened.
    #[error("no direct path opened ({direct}), and none through a relay")]
    Relay {
        /// What came of the direct path.
        direct: Box<ConnectError>,
        /// What came of the relay.
        #[source]
        relay: RelayError,
    },
    /// A relay has joined us with somebody, but nothing has come through it, nor directly.
    #[error("nothing comes through the relay")]
    Silent,
    /// [`NodeOptions::direct`](super::NodeOptions::direct) is off, and neither side names a relay.
    #[error("direct paths are not wanted, and there is no relay")]
    NoRelay,
    /// The stream has ended before the server was heard.
    #[error("the connection has ended before it was open")]
    Ended(#[source] ConnectionError),
    /// Too many dials or streams at once.
    #[error("too many dials at once")]
    TooMany,
    /// There is a connection with the peer already; see [`ConnectionPool`](crate::ConnectionPool).
    #[error("there is a connection with the peer already")]
    Duplicate,
    /// The node is [suspended](super::Node::suspend).
    #[error("the node is suspended")]
    Suspended,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

impl From<OpenError<ConnectError>> for ConnectError {
    fn from(error: OpenError<Self>) -> Self {
        match error {
            OpenError::Neither { direct, relay } => Self::Relay { direct: Box::new(direct), relay },
            OpenError::Silent => Self::Silent,
            OpenError::Ended(error) => Self::Ended(error),
        }
    }
}

/// Dials at a time, of about 4 KiB each.
const MAX_DIALS: usize = 4096;

/// How long a server that was told that we can be reached may come neither to us nor to the relay: its
/// first packet was lost twice then, if it was sent. A scrape has time for another dial.
const HUSH: Duration = Duration::from_secs(3);

/// How long a server's first packet is waited for in order to turn it away.
const PARTING: Duration = Duration::from_secs(2);
