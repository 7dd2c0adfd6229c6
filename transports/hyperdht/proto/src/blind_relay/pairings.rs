//! Who waits for whom at a relay, and who is joined.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::{Pair, Token};
use crate::keys::PublicKey;

/// What a relay lends to its clients, and for how long.
///
/// Memory: a waiting pairing takes about 300 bytes here, a session about 600; a session's two UDX
/// streams and the two connections of its clients take some 12 KiB besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions, joined pairs of streams, at once.
    pub sessions: usize,
    /// Sessions and waiting pairings of clients with one key at once; of its connections as many.
    pub sessions_per_client: usize,
    /// Pairings whose other side has not come yet, at once.
    pub pending: usize,
    /// How long a pairing waits for its other side; and how long a client may be connected without
    /// asking for one.
    pub pair_timeout: Duration,
    /// Bytes of datagrams that a session carries, both directions together.
    pub session_bytes: u64,
    /// How long a session may last.
    pub session_lifetime: Duration,
    /// How long a session may carry nothing. Living peers send keep-alives every five seconds.
    pub session_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 1024,
            sessions_per_client: 256,
            pending: 1024,
            // Beyond that no peer waits: see `PAIR_WAIT`.
            pair_timeout: Duration::from_secs(20),
            session_bytes: 64 << 30,
            session_lifetime: Duration::from_secs(24 * 3600),
            session_idle: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// Connections of clients at once.
    const fn clients(&self) -> usize {
        self.sessions.saturating_mul(2).saturating_add(self.pending)
    }
}

/// The relay's number for a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// A joined pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

/// One side of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// The connection that asked.
    pub client: ClientId,
    /// The client's id of its UDX stream.
    pub stream_id: u32,
}

/// Two sides that have found each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matched {
    /// The new session.
    pub session: SessionId,
    /// What both showed.
    pub token: Token,
    /// The side that chose the relay.
    pub initiator: Side,
    /// The other one.
    pub responder: Side,
}

/// What came of a [`Pair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The other side has not come yet.
    Waits,
    /// This side of the pair is there already; the reference ignores another one, too.
    Duplicate,
    /// The other side was waiting: open the streams and tell both.
    Matched(Matched),
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// [`Limits::sessions`], or connections for as many.
    #[error("the relay is full")]
    Full,
    /// [`Limits::sessions_per_client`].
    #[error("this client has as much as one may have")]
    ClientFull,
    /// [`Limits::pending`].
    #[error("too many pairings wait")]
    PendingFull,
}

/// What has happened by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The other side has not come in time.
    Expired {
        /// Who waited.
        client: ClientId,
        /// For whom.
        token: Token,
    },
    /// A session is over: let go of its streams.
    Ended {
        /// Which.
        session: SessionId,
        /// Why.
        reason: EndReason,
    },
    /// A client has asked for nothing: end its connection.
    Idle {
        /// Which.
        client: ClientId,
    },
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndReason {
    /// A side has left the relay, or has given its stream up.
    Left,
    /// [`Limits::session_idle`].
    Idle,
    /// [`Limits::session_lifetime`].
    Lifetime,
    /// [`Limits::session_bytes`].
    Bytes,
}

impl EndReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Left, Self::Idle, Self::Lifetime, Self::Bytes];

    /// A name for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::Bytes => "bytes",
        }
    }
}

/// The table of a relay: clients, pairings that wait, sessions. Opens no streams and sends nothing.
///
/// Every entry belongs to a connected client, whose number [`Limits`] bounds.
#[derive(Debug)]
pub struct Pairings {
    limits: Limits,
    clients: BTreeMap<ClientId, Client>,
    keys: BTreeMap<PublicKey, Usage>,
    pending: BTreeMap<Token, Pending>,
    sessions: BTreeMap<SessionId, Session>,
    /// The session that a token led to last, while it lasts.
    tokens: BTreeMap<Token, SessionId>,
    deadlines: Deadlines,
    events: VecDeque<Event>,
    next_session: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Client(ClientId),
    Pending(Token),
    Session(SessionId),
}

/// When to look at what: each item at one moment at most, which may be early and is never late.
#[derive(Debug, Default)]
struct Deadlines(BTreeSet<(Instant, Item)>);

impl Deadlines {
    /// Has `item` looked at no later than at `at`; `slot` is where it keeps the moment.
    fn watch(&mut self, slot: &mut Option<Instant>, at: Instant, item: Item) {
        if slot.is_none_or(|before| at < before) {
            self.forget(slot, item);
            self.0.insert((at, item));
            *slot = Some(at);
        }
    }

    fn forget(&mut self, slot: &mut Option<Instant>, item: Item) {
        if let Some(before) = slot.take() {
            self.0.remove(&(before, item));
        }
    }
}

#[derive(Debug)]
struct Client {
    key: PublicKey,
    /// Pairings and sessions that it takes part in.
    pairings: usize,
    idle_since: Instant,
    watched: Option<Instant>,
}

/// What the clients with one key have.
#[derive(Debug, Default)]
struct Usage {
    connections: usize,
    pairings: usize,
}

#[derive(Debug)]
struct Pending {
    initiator: bool,
    side: Side,
    key: PublicKey,
    watched: Option<Instant>,
}

#[derive(Debug)]
struct Session {
    token: Token,
    clients: [(ClientId, PublicKey); 2],
    until: Instant,
    heard_at: Instant,
    bytes: u64,
    /// Set once a side has left: late packets of the other still find their way until then.
    leaving: Option<Instant>,
    watched: Option<Instant>,
}

impl Session {
    /// When it is over at the latest, as things stand, and why.
    fn end(&self, limits: &Limits) -> (Instant, EndReason) {
        let idle = (self.heard_at + limits.session_idle, EndReason::Idle);
        let ends = [(self.until, EndReason::Lifetime), idle];
        let left = self.leaving.map(|at| (at, EndReason::Left));
        ends.into_iter().chain(left).min().unwrap_or(idle)
    }
}

impl Pairings {
    /// An empty table.
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            clients: BTreeMap::new(),
            keys: BTreeMap::new(),
            pending: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tokens: BTreeMap::new(),
            deadlines: Deadlines(BTreeSet::new()),
            events: VecDeque::new(),
            next_session: 0,
        }
    }

    /// The bounds that it keeps.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Clients that are connected.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Pairings that wait for their other side.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// A client has connected. [`Pairings::leave`] is to follow when it goes.
    ///
    /// # Errors
    /// [`Refusal::Full`] and [`Refusal::ClientFull`]: let go of it.
    pub fn join(&mut self, now: Instant, client: ClientId, key: PublicKey) -> Result<(), Refusal> {
        if self.clients.len() >= self.limits.clients() {
            return Err(Refusal::Full);
        }
        let connections = self.keys.get(&key).map_or(0, |usage| usage.connections);
        if connections >= self.limits.sessions_per_client {
            return Err(Refusal::ClientFull);
        }
        self.keys.entry(key).or_default().connections += 1;
        let mut entry = Client { key, pairings: 0, idle_since: now, watched: None };
        let at = now + self.limits.pair_timeout;
        self.deadlines.watch(&mut entry.watched, at, Item::Client(client));
        self.clients.insert(client, entry);
        Ok(())
    }

    /// A client asks to be paired.
    ///
    /// # Errors
    /// [`Refusal`]: say so to the client.
    pub fn pair(&mut self, now: Instant, client: ClientId, pair: Pair) -> Result<Outcome, Refusal> {
        let side = Side { client, stream_id: pair.stream_id };
        let waiting = self.pending.get(&pair.token);
        if waiting.is_some_and(|pending| pending.initiator == pair.initiator) {
            return Ok(Outcome::Duplicate);
        }
        let full = match waiting {
            Some(_) => (self.sessions.len() >= self.limits.sessions).then_some(Refusal::Full),
            None => (self.pending.len() >= self.limits.pending).then_some(Refusal::PendingFull),
        };
        if let Some(full) = full {
            return Err(full);
        }
        let key = self.begin(client)?;
        match self.take_pending(&pair.token) {
            Some(other) => Ok(Outcome::Matched(self.open(now, (side, key), pair, &other))),
            None => {
                let mut pending = Pending { initiator: pair.initiator, side, key, watched: None };
                let until = now + self.limits.pair_timeout;
                self.deadlines.watch(&mut pending.watched, until, Item::Pending(pair.token));
                self.pending.insert(pair.token, pending);
                Ok(Outcome::Waits)
            }
        }
    }

    fn take_pending(&mut self, token: &Token) -> Option<Pending> {
        let mut pending = self.pending.remove(token)?;
        self.deadlines.forget(&mut pending.watched, Item::Pending(*token));
        Some(pending)
    }

    fn open(
        &mut self,
        now: Instant,
        (side, key): (Side, PublicKey),
        pair: Pair,
        other: &Pending,
    ) -> Matched {
        self.next_session += 1;
        let id = SessionId(self.next_session);
        let mut session = Session {
            token: pair.token,
            clients: [(side.client, key), (other.side.client, other.key)],
            until: now + self.limits.session_lifetime,
            heard_at: now,
            bytes: 0,
            leaving: None,
            watched: None,
        };
        let (at, _) = session.end(&self.limits);
        self.deadlines.watch(&mut session.watched, at, Item::Session(id));
        self.sessions.insert(id, session);
        self.tokens.insert(pair.token, id);
        let (initiator, responder) =
            if pair.initiator { (side, other.side) } else { (other.side, side) };
        Matched { session: id, token: pair.token, initiator, responder }
    }

    /// A client takes its pairing back, or ends the session that it has come to; says whether there
    /// was one of its own.
    pub fn unpair(&mut self, now: Instant, client: ClientId, token: &Token) -> bool {
        if self.pending.get(token).is_some_and(|pending| pending.side.client == client) {
            self.withdraw(now, token);
            return true;
        }
        let session = self.tokens.get(token).and_then(|id| Some((*id, self.sessions.get(id)?)));
        let own =
            session.filter(|(_, session)| session.clients.iter().any(|(id, _)| *id == client));
        let own = own.map(|(id, _)| id);
        if let Some(session) = own {
            self.part(now, session);
        }
        own.is_some()
    }

    fn withdraw(&mut self, now: Instant, token: &Token) -> Option<ClientId> {
        let pending = self.take_pending(token)?;
        self.finish(now, pending.side.client, pending.key);
        Some(pending.side.client)
    }

    /// A client's connection has ended; gives back how many of its pairings were waiting. Its
    /// sessions last [`LINGER`] longer: the other side may still repeat what got lost.
    pub fn leave(&mut self, now: Instant, client: ClientId) -> usize {
        let waiting = self.pending.iter().filter(|(_, pending)| pending.side.client == client);
        let waiting: Vec<_> = waiting.map(|(token, _)| *token).collect();
        for token in &waiting {
            self.withdraw(now, token);
        }
        let sessions = self.sessions.iter().filter_map(|(id, session)| {
            session.clients.iter().any(|(other, _)| *other == client).then_some(*id)
        });
        for session in sessions.collect::<Vec<_>>() {
            self.part(now, session);
        }
        if let Some(mut entry) = self.clients.remove(&client) {
            self.deadlines.forget(&mut entry.watched, Item::Client(client));
            if let Some(usage) = self.keys.get_mut(&entry.key) {
                usage.connections = usage.connections.saturating_sub(1);
            }
            self.tidy(entry.key);
        }
        waiting.len()
    }

    /// A side of a session has given its stream up: it ends soon.
    pub fn part(&mut self, now: Instant, session: SessionId) {
        if let Some(entry) = self.sessions.get_mut(&session)
            && entry.leaving.is_none()
        {
            let at = now + LINGER;
            entry.leaving = Some(at);
            self.deadlines.watch(&mut entry.watched, at, Item::Session(session));
        }
    }

    /// A session has carried so many bytes so far. To be told every few seconds.
    pub fn carried(&mut self, now: Instant, session: SessionId, bytes: u64) {
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        if bytes > entry.bytes {
            entry.bytes = bytes;
            entry.heard_at = now;
        }
        if bytes >= self.limits.session_bytes {
            self.end(now, session, EndReason::Bytes);
        }
    }

    /// What has happened by itself since.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Pairings::handle_timeout`] may have something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.0.first().map(|(at, _)| *at)
    }

    /// Acts on all that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, item)) = self.deadlines.0.first()
            && at <= now
        {
            self.deadlines.0.pop_first();
            match item {
                Item::Client(client) => self.look_at_client(now, client),
                Item::Pending(token) => {
                    if let Some(client) = self.withdraw(now, &token) {
                        self.events.push_back(Event::Expired { client, token });
                    }
                }
                Item::Session(session) => self.look_at_session(now, session),
            }
        }
    }

    fn look_at_client(&mut self, now: Instant, client: ClientId) {
        let Some(entry) = self.clients.get_mut(&client) else { return };
        entry.watched = None;
        if entry.pairings > 0 {
            // It is looked at again when the last of them ends.
            return;
        }
        let until = entry.idle_since + self.limits.pair_timeout;
        if until <= now {
            self.events.push_back(Event::Idle { client });
        } else {
            self.deadlines.watch(&mut entry.watched, until, Item::Client(client));
        }
    }

    fn look_at_session(&mut self, now: Instant, session: SessionId) {
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        entry.watched = None;
        let (at, reason) = entry.end(&self.limits);
        if at <= now {
            self.end(now, session, reason);
        } else {
            self.deadlines.watch(&mut entry.watched, at, Item::Session(session));
        }
    }

    fn end(&mut self, now: Instant, session: SessionId, reason: EndReason) {
        let Some(mut entry) = self.sessions.remove(&session) else { return };
        self.deadlines.forget(&mut entry.watched, Item::Session(session));
        if self.tokens.get(&entry.token) == Some(&session) {
            self.tokens.remove(&entry.token);
        }
        for (client, key) in entry.clients {
            self.finish(now, client, key);
        }
        self.events.push_back(Event::Ended { session, reason });
    }

    /// Counts a pairing of a client's, if it may have one more; gives back the client's key.
    fn begin(&mut self, client: ClientId) -> Result<PublicKey, Refusal> {
        let entry = self.clients.get_mut(&client).ok_or(Refusal::ClientFull)?;
        let usage = self.keys.entry(entry.key).or_default();
        if usage.pairings >= self.limits.sessions_per_client {
            return Err(Refusal::ClientFull);
        }
        usage.pairings += 1;
        entry.pairings += 1;
        Ok(entry.key)
    }

    /// One of a client's pairings is over. The client itself may have left.
    fn finish(&mut self, now: Instant, client: ClientId, key: PublicKey) {
        if let Some(usage) = self.keys.get_mut(&key) {
            usage.pairings = usage.pairings.saturating_sub(1);
        }
        self.tidy(key);
        let Some(entry) = self.clients.get_mut(&client) else { return };
        entry.pairings = entry.pairings.saturating_sub(1);
        if entry.pairings == 0 {
            entry.idle_since = now;
            let at = now + self.limits.pair_timeout;
            self.deadlines.watch(&mut entry.watched, at, Item::Client(client));
        }
    }

    fn tidy(&mut self, key: PublicKey) {
        let unused = |usage: &Usage| usage.connections == 0 && usage.pairings == 0;
        if self.keys.get(&key).is_some_and(unused) {
            self.keys.remove(&key);
        }
    }
}

/// How long a session lasts after a side has left: as long as a UDX stream answers after its end.
pub const LINGER: Duration = Duration::from_secs(10);
