//! Connections that we ask for.

use std::{
    net::SocketAddrV4,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub use hyperdht_proto::connect::DialError;
use hyperdht_proto::{
    connect::{
        Answered, Dial, DialEvent, DialSpec, FIRST_PACKET_WAIT, Invitation, Plan, PunchError,
    },
    dht::Event,
    keys::{KeyPair, PublicKey},
    rpc,
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Shared,
    core::{Core, State},
    punching::Punch,
    sockets::PoolSocket,
};
use crate::{
    connection::Connection,
    udx::{Firewall, Path, UdxStream, Verdict},
};

/// A dial and who waits for its answer.
#[derive(Debug)]
pub(super) struct DialEntry {
    dial: Dial,
    answer: Option<oneshot::Sender<Result<Box<Answered>, DialError>>>,
}

type Answer = Result<Box<Answered>, DialError>;

/// Runs in a task of its own, so that a dial that nobody waits for any more can still tell a server
/// that has answered.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    key_pair: KeyPair,
    server: PublicKey,
) -> Result<Connection, ConnectError> {
    let (reply, connection) = oneshot::channel();
    let dialling = dial(Arc::clone(shared), key_pair, server, reply);
    drop(shared.tasks().spawn(dialling));
    connection.await.unwrap_or(Err(ConnectError::Stopped))
}

async fn dial(
    shared: Arc<Shared>,
    key_pair: KeyPair,
    server: PublicKey,
    mut reply: oneshot::Sender<Result<Connection, ConnectError>>,
) {
    let core = &shared.core;
    let closing = shared.lifetime.closing();
    let begun = core.begin_dial(key_pair, server);
    let (number, stream, door, mut answer) = match begun {
        Ok(begun) => begun,
        Err(error) => return drop(reply.send(Err(error))),
    };
    let answered = tokio::select! {
        biased;
        () = closing.cancelled() => {
            core.end_dial(number);
            return drop(reply.send(Err(ConnectError::Stopped)));
        }
        () = reply.closed() => {
            core.abandon_dial(number);
            return part(core, &stream, &door, answer.await).await;
        }
        answered = &mut answer => answered,
    };
    let answered = answered.unwrap_or(Err(DialError::Abandoned));
    core.remember_relays(server, &answered);
    let outcome = match answered {
        Err(error) => Err(error.into()),
        Ok(answered) => tokio::select! {
            biased;
            () = closing.cancelled() => Err(ConnectError::Stopped),
            () = reply.closed() => return part(core, &stream, &door, Ok(Ok(answered))).await,
            met = meet(&shared, &stream, &door, &answered) => met.map(|socket| {
                let nonce = core.with(|state, _| state.random());
                let connection = Connection::start(&shared, stream, &answered.keys, nonce);
                connection.hold(socket);
                core.adopt(&connection);
                connection
            }),
        },
    };
    // A connection that nobody takes is dropped here, which ends it for the server.
    drop(reply.send(outcome));
}

/// Connects the stream, in whichever way leads to the server. Gives the socket that has to stay open
/// for it.
async fn meet(
    shared: &Arc<Shared>,
    stream: &UdxStream,
    door: &ClientDoor,
    answered: &Answered,
) -> Result<Option<Arc<PoolSocket>>, ConnectError> {
    let first = door.open(answered.remote_id);
    let met = match first {
        Some(first) => Met { path: first, socket: shared.core.sockets().hold(first.socket) },
        None => find_path(shared, stream, &answered.plan).await?,
    };
    // It is connected already if the server was quicker.
    let _ = stream.connect_path(met.path, answered.remote_id);
    Ok(met.socket)
}

/// A way to the server.
struct Met {
    path: Path,
    /// Its socket, where that is one for crossing NATs.
    socket: Option<Arc<PoolSocket>>,
}

impl Met {
    /// To be called before whatever opened the socket lets go of it.
    fn at(core: &Core, path: Path) -> Self {
        Self { path, socket: core.sockets().hold(path.socket) }
    }
}

/// Finds a way to the server that has answered. The stream may find it, too, when the server's first
/// packet comes.
async fn find_path(
    shared: &Arc<Shared>,
    stream: &UdxStream,
    plan: &Plan,
) -> Result<Met, ConnectError> {
    let core = &shared.core;
    let path = match plan {
        Plan::Connect(socket, peer) => path(core, *socket, *peer),
        Plan::AwaitServer => {
            let first = timeout(FIRST_PACKET_WAIT, stream.connected()).await;
            first.ok().and_then(Result::ok).ok_or(ConnectError::HolepunchAborted)?
        }
        Plan::Lan(neighbour) => tokio::select! {
            biased;
            Ok(first) = stream.connected() => first,
            found = find_neighbour(core, Some(*neighbour)) => {
                found.ok_or(ConnectError::HolepunchAborted)?
            }
        },
        Plan::Punch(invitation) => return punch(shared, stream, invitation).await,
        Plan::Unreachable => return Err(ConnectError::CannotHolepunch),
    };
    Ok(Met::at(core, path))
}

/// Punches a hole, and tries a neighbour meanwhile.
async fn punch(
    shared: &Arc<Shared>,
    stream: &UdxStream,
    invitation: &Arc<Invitation>,
) -> Result<Met, ConnectError> {
    let core = &shared.core;
    let punch = Punch::dial(shared, Arc::clone(invitation), false);
    let mut punch = punch.ok_or(ConnectError::TooMany)?;
    let mut neighbour = pin!(find_neighbour(core, invitation.neighbour()));
    let (mut failure, mut alone) = (None, false);
    let path = loop {
        if let (Some(failure), true) = (failure, alone) {
            return Err(ConnectError::Punch(failure));
        }
        tokio::select! {
            biased;
            Ok(first) = stream.connected() => break first,
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
    door: &ClientDoor,
    answer: Result<Answer, oneshot::error::RecvError>,
) {
    let Ok(Ok(answered)) = answer else { return };
    if let Some(first) = door.open(answered.remote_id) {
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

/// The firewall of a stream whose other end is not known yet: the server's first packet may overtake
/// its answer.
#[derive(Debug, Default)]
struct ClientDoor(Mutex<Seen>);

#[derive(Debug, Clone, Copy, Default)]
enum Seen {
    #[default]
    Nothing,
    /// The server's first packet came from here, before its answer.
    Packet(Path),
    /// The server has answered, and its first packet may come from anywhere.
    Answer(u32),
    Both,
}

impl ClientDoor {
    fn firewall(self: &Arc<Self>) -> Firewall {
        let door = Arc::clone(self);
        Firewall::new(move |from| {
            let mut seen = door.0.lock().unwrap_or_else(PoisonError::into_inner);
            match *seen {
                Seen::Nothing => {
                    *seen = Seen::Packet(from);
                    Verdict::Accept
                }
                Seen::Packet(first) if first == from => Verdict::Accept,
                Seen::Answer(remote_id) => {
                    *seen = Seen::Both;
                    Verdict::Connect { remote_id }
                }
                Seen::Packet(_) | Seen::Both => Verdict::Drop,
            }
        })
    }

    /// The server has answered; says from where its first packet came, if that was earlier.
    fn open(&self, remote_id: u32) -> Option<Path> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Seen::Packet(first) => {
                *seen = Seen::Both;
                Some(first)
            }
            Seen::Nothing => {
                *seen = Seen::Answer(remote_id);
                None
            }
            Seen::Answer(_) | Seen::Both => None,
        }
    }
}

type Begun = (u64, UdxStream, Arc<ClientDoor>, oneshot::Receiver<Answer>);

impl Core {
    fn begin_dial(&self, key_pair: KeyPair, server: PublicKey) -> Result<Begun, ConnectError> {
        self.with(|state, now| {
            if state.closing {
                return Err(ConnectError::Stopped);
            }
            if state.dials.len() >= MAX_DIALS {
                return Err(ConnectError::TooMany);
            }
            let door = Arc::new(ClientDoor::default());
            let stream = self.open_stream(state, || door.firewall());
            let stream = stream.ok_or(ConnectError::TooMany)?;
            let spec = DialSpec {
                key_pair,
                server,
                ephemeral: state.ephemeral(),
                stream_id: stream.id(),
                relays: state.relays.relays(&server).to_vec(),
                local: self.local().to_vec(),
            };
            let dial = Dial::new(&mut state.dht, now, spec)?;
            let (sender, receiver) = oneshot::channel();
            let number = state.number();
            state.dials.insert(number, DialEntry { dial, answer: Some(sender) });
            Ok((number, stream, door, receiver))
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

    fn remember_relays(&self, server: PublicKey, answer: &Answer) {
        let mut state = self.lock();
        match answer {
            Ok(answered) => state.relays.insert(server, answered.relays.clone()),
            Err(_) => state.relays.remove(&server),
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
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
    /// Too many dials or streams at once.
    #[error("too many dials at once")]
    TooMany,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Dials at a time, of about 4 KiB each.
const MAX_DIALS: usize = 4096;

/// How long a server's first packet is waited for in order to turn it away.
const PARTING: Duration = Duration::from_secs(2);
