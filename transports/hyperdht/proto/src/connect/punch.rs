//! Punching holes into NATs: both sides write to each other at a time, so that each one's NAT takes
//! the other's packets for answers.
//!
//! A [`Puncher`] is all attempts of one node. It finds out what kind of NAT a fresh *pool socket* is
//! behind, arranges the punch with the peer over the nodes that passed the handshake on, sends bytes
//! and says through which socket and to which address the peer is reached. A client gets this as
//! [`PunchEvent::Open`]; a server learns it by the first packet of the client's stream.
//!
//! Like everything here it moves no packets. It is told what happened ([`Puncher::handle`] for events
//! of the [`Dht`], [`Puncher::handle_byte`], [`Puncher::handle_timeout`]) and asked what follows:
//! [`Puncher::poll_command`] for sockets and bytes, which come before what the `Dht` sends, then
//! [`Puncher::poll_event`] and [`Puncher::poll_timeout`].

mod attempt;
mod client;
mod context;
mod error;
mod hole;
mod invitation;
mod limiter;
mod nat;
mod sampling;
mod server;
mod strategy;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Instant,
};

use rand::rngs::StdRng;

pub(super) use self::server::Guest;
use self::{
    attempt::{Attempt, Outcome},
    client::ClientPunch,
    context::{Context, Shared},
    server::ServerPunch,
};
pub use self::{error::PunchError, invitation::Invitation};
use crate::{
    dht::{Dht, Event, IncomingHolepunch},
    rpc::{self, SocketId},
};

/// All punches of one node, of clients and servers.
///
/// At most [`MAX_DIALLED`] and [`MAX_EXPECTED`] at a time, with a socket each; at most four where a
/// NAT is hard to judge, and 256 for the one punch with random ports that is allowed at a time. What
/// peers send reaches their own attempt and no other; a client that has said nothing yet makes room
/// for others when there are too many.
#[derive(Debug)]
pub struct Puncher {
    attempts: BTreeMap<PunchId, Entry>,
    /// Servers' attempts by the numbers that clients know them by.
    slots: BTreeMap<u64, PunchId>,
    timers: BTreeSet<(Instant, PunchId)>,
    shared: Shared,
    events: VecDeque<PunchEvent>,
    next: u64,
}

/// Names an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PunchId(u64);

/// What the owner of the sockets has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PunchCommand {
    /// Bind a socket to any port; it is [`SocketId::Pool`] with this number from now on. When there
    /// is none, [`Puncher::no_socket`] wants to know.
    Open(u32),
    /// Let go of a socket. One that a stream runs over stays.
    Close(u32),
    /// Send one byte, [`PUNCH_BYTE`].
    Send {
        /// From this socket.
        socket: u32,
        /// To there.
        to: SocketAddrV4,
        /// Over so many hops at most.
        ttl: u8,
    },
}

/// Something that a dial or a server waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PunchEvent {
    /// A client's: the server is reached through this socket at this address. The other sockets of
    /// the attempt are closed.
    Open {
        /// Which attempt.
        punch: PunchId,
        /// The number of the pool socket.
        socket: u32,
        /// The server.
        address: SocketAddrV4,
    },
    /// It has come to nothing. A server's sockets stay open until [`Puncher::end`]: a packet may be on
    /// its way.
    Failed {
        /// Which attempt.
        punch: PunchId,
        /// Why.
        error: PunchError,
    },
}

#[derive(Debug)]
struct Entry {
    attempt: Attempt,
    /// Its place in [`Puncher::timers`].
    timer: Option<Instant>,
}

impl Puncher {
    /// Without attempts. `rng` makes tokens, nonces and ports: seed it from the system, except in
    /// simulations.
    pub fn new(rng: StdRng) -> Self {
        Self {
            attempts: BTreeMap::new(),
            slots: BTreeMap::new(),
            timers: BTreeSet::new(),
            shared: Shared::new(rng),
            events: VecDeque::new(),
            next: 0,
        }
    }

    /// Takes up a server's offer. With `patient`, another way to the server is in use or under way,
    /// and a punch with random ports waits until there is room for it. None when there are too many.
    pub fn dial(
        &mut self,
        dht: &mut Dht,
        now: Instant,
        invitation: Arc<Invitation>,
        patient: bool,
    ) -> Option<PunchId> {
        if self.attempts.len() - self.slots.len() >= MAX_DIALLED {
            return None;
        }
        let id = self.next_id();
        let mut cx = Context { dht, now, id, shared: &mut self.shared };
        let punch = ClientPunch::start(&mut cx, invitation, patient);
        self.keep(now, id, Attempt::Client(Box::new(punch)));
        Some(id)
    }

    /// Turns a server's offer down, so that the server need not wait.
    pub fn decline(&mut self, dht: &mut Dht, now: Instant, invitation: &Invitation) {
        let id = self.next_id();
        invitation.decline(&mut Context { dht, now, id, shared: &mut self.shared }, 0);
    }

    /// The number by which the next client is to call its attempt, to be told in the answer to its
    /// handshake. Where there are too many attempts, of all clients or of those on this host, the one
    /// that has waited longest for its client's first message makes room; none when all have had it.
    pub(super) fn free_slot(&mut self, dht: &mut Dht, now: Instant, host: Ipv4Addr) -> Option<u64> {
        let of_host = |punch: &ServerPunch| punch.host() == host;
        if self.expected().filter(|(_, punch)| of_host(punch)).count() >= MAX_EXPECTED_PER_HOST {
            self.displace(dht, now, of_host)?;
        } else if self.slots.len() >= MAX_EXPECTED {
            self.displace(dht, now, |_| true)?;
        }
        (0..).find(|slot| !self.slots.contains_key(slot))
    }

    fn expected(&self) -> impl Iterator<Item = (PunchId, &ServerPunch)> {
        self.slots.values().filter_map(|id| match &self.attempts.get(id)?.attempt {
            Attempt::Server(punch) => Some((*id, &**punch)),
            Attempt::Client(_) => None,
        })
    }

    fn displace(
        &mut self,
        dht: &mut Dht,
        now: Instant,
        among: impl Fn(&ServerPunch) -> bool,
    ) -> Option<()> {
        let silent = self.expected().filter(|(_, punch)| !punch.is_heard() && among(punch));
        let oldest = silent.map(|(id, _)| id).min()?;
        self.end(dht, now, oldest, false);
        let error = PunchError::Displaced;
        self.events.push_back(PunchEvent::Failed { punch: oldest, error });
        Some(())
    }

    /// Prepares for a client under a [free number](Puncher::free_slot). Gives the socket to answer its
    /// handshake from.
    pub(super) fn expect(
        &mut self,
        dht: &mut Dht,
        now: Instant,
        slot: u64,
        guest: Guest,
    ) -> (PunchId, SocketId) {
        let id = self.next_id();
        let mut cx = Context { dht, now, id, shared: &mut self.shared };
        let punch = ServerPunch::start(&mut cx, guest);
        let socket = punch.socket();
        self.slots.insert(slot, id);
        self.keep(now, id, Attempt::Server(Box::new(punch)));
        (id, socket)
    }

    const fn next_id(&mut self) -> PunchId {
        self.next += 1;
        PunchId(self.next)
    }

    /// Takes in an event of the [`Dht`]; gives it back if it concerns no attempt.
    pub fn handle(&mut self, dht: &mut Dht, now: Instant, event: Event) -> Option<Event> {
        match event {
            Event::Holepunch(punch) => self.on_message(dht, now, punch),
            Event::HolepunchDone { request, outcome } => {
                // Some are not waited for.
                if let Some(id) = self.shared.requests.remove(&request) {
                    self.with(dht, now, id, |attempt, cx| match attempt {
                        Attempt::Client(punch) => punch.on_reply(cx, request, outcome),
                        Attempt::Server(_) => None,
                    });
                }
            }
            Event::Rpc(rpc::Event::Response { request, outcome }) => {
                let Some(id) = self.shared.requests.remove(&request) else {
                    return Some(Event::Rpc(rpc::Event::Response { request, outcome }));
                };
                self.with(dht, now, id, |attempt, cx| {
                    attempt.hole_mut().sampling.on_pong(cx, request, outcome);
                    None
                });
            }
            Event::Rpc(_)
            | Event::Found { .. }
            | Event::Done { .. }
            | Event::Handshake(_)
            | Event::HandshakeDone { .. }
            | Event::Announced { .. }
            | Event::NetworkChanged
            | Event::Suspended
            | Event::Closed(_) => return Some(event),
        }
        None
    }

    fn on_message(&mut self, dht: &mut Dht, now: Instant, message: IncomingHolepunch) {
        if let Some(id) = self.slots.get(&message.id).copied() {
            self.with(dht, now, id, |attempt, cx| match attempt {
                Attempt::Server(punch) if punch.server() == message.server => {
                    punch.on_message(cx, message)
                }
                Attempt::Server(_) | Attempt::Client(_) => None,
            });
        }
    }

    /// Takes in a datagram of one byte that came in on a pool socket. Longer ones are for
    /// [`Dht::handle_datagram`].
    pub fn handle_byte(&mut self, dht: &mut Dht, now: Instant, socket: u32, from: SocketAddrV4) {
        if let Some(id) = self.shared.sockets.get(&socket).copied() {
            self.with(dht, now, id, |attempt, cx| {
                match attempt {
                    Attempt::Client(punch) => punch.on_byte(cx, socket, from),
                    Attempt::Server(punch) => punch.on_byte(cx, socket, from),
                }
                None
            });
        }
    }

    /// A socket that was to be opened cannot be.
    pub fn no_socket(&mut self, dht: &mut Dht, now: Instant, socket: u32) {
        if let Some(id) = self.shared.sockets.remove(&socket) {
            self.with(dht, now, id, |attempt, _| {
                attempt.hole_mut().forget(socket);
                None
            });
        }
    }

    /// Lets time pass. Call it when [`Puncher::poll_timeout`] says.
    pub fn handle_timeout(&mut self, dht: &mut Dht, now: Instant) {
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            self.with(dht, now, id, |_, _| None);
        }
    }

    /// When [`Puncher::handle_timeout`] should be called at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What to do with sockets, in order, and before what the [`Dht`] sends: answers leave from
    /// sockets that are opened here.
    pub fn poll_command(&mut self) -> Option<PunchCommand> {
        self.shared.commands.pop_front()
    }

    /// What has come of an attempt.
    pub fn poll_event(&mut self) -> Option<PunchEvent> {
        self.events.pop_front()
    }

    /// How many attempts there are.
    pub fn len(&self) -> usize {
        self.attempts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Forgets an attempt: the peers are connected, or do not want to be any more. Its sockets are
    /// closed; one that a stream runs over has to be held by its owner. A server that still waits is
    /// told when its client is not `connected` to it: only now, since a
    /// [neighbour](Invitation::neighbour) may be found after the punch has failed.
    pub fn end(&mut self, dht: &mut Dht, now: Instant, id: PunchId, connected: bool) {
        let Some(attempt) = self.take(id) else { return };
        self.slots.retain(|_, other| *other != id);
        attempt.end(&mut Context { dht, now, id, shared: &mut self.shared }, connected);
        self.cancel_requests(dht, now, id);
    }

    /// Calls an attempt, lets it do what follows, and takes note of what comes of it.
    fn with(
        &mut self,
        dht: &mut Dht,
        now: Instant,
        id: PunchId,
        call: impl FnOnce(&mut Attempt, &mut Context<'_>) -> Option<Outcome>,
    ) {
        let Some(mut attempt) = self.take(id) else { return };
        let mut cx = Context { dht, now, id, shared: &mut self.shared };
        let outcome = call(&mut attempt, &mut cx).or_else(|| attempt.drive(&mut cx));
        if let Some(outcome) = outcome {
            attempt.conclude(&mut cx, outcome);
            self.events.push_back(outcome.event(id));
            self.cancel_requests(dht, now, id);
        }
        self.keep(now, id, attempt);
    }

    fn take(&mut self, id: PunchId) -> Option<Attempt> {
        let entry = self.attempts.remove(&id)?;
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, id));
        }
        Some(entry.attempt)
    }

    fn keep(&mut self, now: Instant, id: PunchId, attempt: Attempt) {
        let timer = attempt.poll_timeout(now);
        self.timers.extend(timer.map(|at| (at, id)));
        self.attempts.insert(id, Entry { attempt, timer });
    }

    fn cancel_requests(&mut self, dht: &mut Dht, now: Instant, id: PunchId) {
        let running = self.shared.requests.iter().filter(|(_, other)| **other == id);
        let running: Vec<_> = running.map(|(request, _)| *request).collect();
        for request in running {
            dht.cancel(now, request);
        }
    }
}

/// What is sent through a hole in the making (`hyperdht/lib/holepuncher.js`).
pub const PUNCH_BYTE: [u8; 1] = [0];

/// Attempts of our own dials at a time, of some 2 KiB and a socket each.
pub const MAX_DIALLED: usize = 256;

/// Attempts that clients of our servers have begun, likewise. They last for ten seconds when nothing
/// comes of them.
pub const MAX_EXPECTED: usize = 256;

/// How many of these may come from one host, which may be a NAT of many.
pub const MAX_EXPECTED_PER_HOST: usize = 64;

/// Hops of a byte that opens our own NAT and is not meant to arrive.
const LOW_TTL: u8 = 5;

/// Hops of one that is.
const FULL_TTL: u8 = 64;
