//! The table of pairings, with the streams that come of it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use hyperdht_proto::{
    blind_relay::{
        ClientId, EndReason, Event, Limits, Matched, Message, Outcome, Pair, Pairings, Refusal,
        SessionId, Side,
    },
    keys::PublicKey,
};
use tokio::sync::mpsc;

use super::{Service, client::Command};
use crate::{
    node::Shared,
    udx::{Firewall, UdxStream, Verdict},
};

/// What a relay does and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RelayCounters {
    /// Clients connected.
    pub clients: usize,
    /// Pairings that wait for their other side.
    pub pending: usize,
    /// Sessions open.
    pub sessions: usize,
    /// Clients that there was no room for.
    pub clients_refused: u64,
    /// Pairings whose both sides came; each is a session.
    pub matched: u64,
    /// Pairings whose other side did not come in time.
    pub expired: u64,
    /// Pairings that were taken back, or whose client left before the other side came.
    pub cancelled: u64,
    /// Pairings that there was no room for.
    pub refused: u64,
    /// Sessions that have ended, in the order of [`EndReason::ALL`].
    pub ended: [u64; EndReason::ALL.len()],
    /// Bytes of datagrams forwarded, both directions.
    pub relayed_bytes: u64,
}

/// All clients and sessions of a relay.
#[derive(Debug)]
pub(super) struct Sessions {
    pairings: Pairings,
    clients: BTreeMap<ClientId, ClientEntry>,
    streams: BTreeMap<SessionId, Link>,
    counters: RelayCounters,
}

#[derive(Debug)]
struct ClientEntry {
    commands: mpsc::Sender<Command>,
    /// Where its connection's packets come from, and so those of its streams.
    ip: Option<IpAddr>,
}

/// The two streams of a session, each forwarding to the other.
#[derive(Debug)]
struct Link {
    streams: [UdxStream; 2],
    /// What was counted of them so far.
    bytes: u64,
}

impl Sessions {
    pub(super) const fn new(limits: Limits) -> Self {
        Self {
            pairings: Pairings::new(limits),
            clients: BTreeMap::new(),
            streams: BTreeMap::new(),
            counters: RelayCounters {
                clients: 0,
                pending: 0,
                sessions: 0,
                clients_refused: 0,
                matched: 0,
                expired: 0,
                cancelled: 0,
                refused: 0,
                ended: [0; EndReason::ALL.len()],
                relayed_bytes: 0,
            },
        }
    }

    pub(super) fn counters(&self) -> RelayCounters {
        RelayCounters {
            clients: self.pairings.clients(),
            pending: self.pairings.pending(),
            sessions: self.pairings.sessions(),
            ..self.counters
        }
    }

    /// Takes a client in; gives back what it will be told.
    pub(super) fn join(
        &mut self,
        now: Instant,
        client: ClientId,
        key: PublicKey,
    ) -> Result<mpsc::Receiver<Command>, Refusal> {
        if let Err(refusal) = self.pairings.join(now, client, key) {
            self.counters.clients_refused += 1;
            return Err(refusal);
        }
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        self.clients.insert(client, ClientEntry { commands, ip: None });
        Ok(receiver)
    }

    /// Looks at every session, and does what is due.
    pub(super) fn tick(&mut self, now: Instant) {
        for (session, link) in &mut self.streams {
            let bytes = link.carried();
            self.counters.relayed_bytes += bytes.saturating_sub(link.bytes);
            link.bytes = bytes;
            self.pairings.carried(now, *session, bytes);
            if link.streams.iter().any(UdxStream::is_closed) {
                self.pairings.part(now, *session);
            }
        }
        self.pairings.handle_timeout(now);
        while let Some(event) = self.pairings.poll_event() {
            match event {
                Event::Expired { client, token } => {
                    self.counters.expired += 1;
                    self.tell(client, Command::Send(Message::Unpair(token)));
                }
                Event::Ended { session, reason } => self.end(session, reason),
                Event::Idle { client } => self.tell(client, Command::Close),
            }
        }
    }

    fn end(&mut self, session: SessionId, reason: EndReason) {
        if let Some(at) = EndReason::ALL.iter().position(|other| *other == reason)
            && let Some(count) = self.counters.ended.get_mut(at)
        {
            *count += 1;
        }
        let Some(link) = self.streams.remove(&session) else { return };
        tracing::debug!(
            ?session,
            bytes = link.bytes,
            reason = reason.as_str(),
            "a session has ended"
        );
        match reason {
            // Peers that have found a direct path need the streams no more, and must not be told
            // that they have ended.
            EndReason::Left | EndReason::Idle => {
                link.streams.into_iter().for_each(UdxStream::forget)
            }
            EndReason::Lifetime | EndReason::Bytes => drop(link),
        }
    }

    /// Ends everything; peers are told.
    pub(super) fn end_all(&mut self) {
        self.streams.clear();
    }

    /// Gives a client something to do. One that does not keep up is let go of.
    fn tell(&mut self, client: ClientId, command: Command) {
        let entry = self.clients.get(&client);
        if entry.is_some_and(|entry| entry.commands.try_send(command).is_err()) {
            // Its task ends when there is nobody left to command it.
            self.clients.remove(&client);
        }
    }

    fn pair(
        &mut self,
        node: &Shared,
        now: Instant,
        client: ClientId,
        pair: Pair,
    ) -> Result<(), Refusal> {
        if let Outcome::Matched(matched) = self.pairings.pair(now, client, pair)? {
            self.open(node, now, matched);
        }
        Ok(())
    }

    /// Opens the streams of a session and tells both sides.
    fn open(&mut self, node: &Shared, now: Instant, matched: Matched) {
        let Matched { session, token, initiator, responder } = matched;
        let sides = [(initiator, true), (responder, false)];
        let [Some(first), Some(second)] = sides.map(|(side, _)| self.stream(node, side)) else {
            tracing::debug!(?session, "there are too many streams for a session");
            self.counters.refused += 1;
            self.pairings.part(now, session);
            for (side, _) in sides {
                self.tell(side.client, Command::Send(Message::Unpair(token)));
            }
            return;
        };
        // Neither can have closed: nobody knows its id yet.
        let _ = first.relay_to(&second).and_then(|()| second.relay_to(&first));
        self.counters.matched += 1;
        tracing::debug!(?session, "two clients are joined");
        for ((side, initiator), stream) in sides.into_iter().zip([&first, &second]) {
            let pair = Pair { initiator, token, stream_id: stream.id() };
            self.tell(side.client, Command::Send(Message::Pair(pair)));
        }
        self.streams.insert(session, Link { streams: [first, second], bytes: 0 });
    }

    /// A stream whose peer is known by its first packet, which comes from the host that the client's
    /// connection does: nobody has the relay send to a third one.
    fn stream(&self, node: &Shared, side: Side) -> Option<UdxStream> {
        let ip = self.clients.get(&side.client)?.ip?;
        let remote_id = side.stream_id;
        node.open_stream(|| {
            Firewall::new(move |from| {
                if from.peer.ip() == ip { Verdict::Connect { remote_id } } else { Verdict::Drop }
            })
        })
    }
}

impl Link {
    fn carried(&self) -> u64 {
        self.streams.iter().map(|stream| stream.info().counts.bytes_relayed).sum()
    }
}

impl Service {
    /// Takes a client's message; gives back what to answer at once.
    pub(super) fn take(
        self: &Arc<Self>,
        client: ClientId,
        ip: IpAddr,
        message: Message,
    ) -> Option<Message> {
        let now = Instant::now();
        let mut sessions = self.sessions();
        match message {
            Message::Pair(pair) => {
                if let Some(entry) = sessions.clients.get_mut(&client) {
                    entry.ip = Some(ip);
                }
                let refusal = sessions.pair(&self.node, now, client, pair).err()?;
                tracing::debug!(%refusal, "a pairing is turned down");
                sessions.counters.refused += 1;
                // The reference keeps silent; its clients ignore this, ours need not wait.
                Some(Message::Unpair(pair.token))
            }
            Message::Unpair(token) => {
                let cancelled = sessions.pairings.unpair(now, client, &token);
                sessions.counters.cancelled += u64::from(cancelled);
                None
            }
        }
    }

    /// A client's connection has ended.
    pub(super) fn leave(&self, client: ClientId) {
        let mut sessions = self.sessions();
        sessions.clients.remove(&client);
        let cancelled = sessions.pairings.leave(Instant::now(), client);
        sessions.counters.cancelled += cancelled as u64;
    }
}

/// Commands that wait for a client, of 48 bytes each.
const MAX_COMMANDS: usize = 32;
