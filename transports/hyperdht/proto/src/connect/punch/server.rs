//! The server's side: answers what a client asks, and punches when the client does
//! (`hyperdht/lib/server.js`).

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use super::{
    FULL_TTL, PunchError,
    attempt::Outcome,
    context::Context,
    hole::{Analysis, Hole},
    limiter::Busy,
};
use crate::{
    dht::{IncomingHolepunch, ServerId},
    handshake::{ErrorCode, Firewall, HolepunchCipher, HolepunchPayload, TokenKey},
    rpc::{SocketId, is_reachable},
};

/// A server's attempt, from its answer to a handshake on.
///
/// What others make it do is bounded: it reads [`MAX_MESSAGES`] messages and echoes [`MAX_ECHOES`]
/// bytes. Whoever passes messages on can repeat them, but not make them up.
#[derive(Debug)]
pub(super) struct ServerPunch {
    hole: Hole,
    guest: Guest,
    tokens: TokenKey,
    round: u64,
    /// When the first message of that round came.
    round_since: Instant,
    step: Step,
    /// The latest message, until it can be answered.
    pending: Option<Pending>,
    messages: u16,
    echoes: u16,
}

/// A client whose handshake is being answered.
#[derive(Debug)]
pub(in crate::connect) struct Guest {
    /// The server that it wants.
    pub(in crate::connect) server: ServerId,
    /// The host on whose [account](crate::dht::IncomingHandshake::account) it goes.
    pub(in crate::connect) host: Ipv4Addr,
    pub(in crate::connect) cipher: HolepunchCipher,
    /// What it says about itself.
    pub(in crate::connect) firewall: Firewall,
    /// Whether there is another way meanwhile.
    pub(in crate::connect) patient: bool,
    /// Whether it may come over our own network: it is waited for even if no hole can be made.
    pub(in crate::connect) neighbour: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// For the client's next message.
    Waiting {
        until: Instant,
    },
    Punching,
    Over,
}

#[derive(Debug)]
struct Pending {
    punch: IncomingHolepunch,
    payload: HolepunchPayload,
    /// Whether the client was sent a byte for it.
    pinged: bool,
    /// When to look again whether there is room for a punch with random ports.
    look: Option<Instant>,
}

impl ServerPunch {
    /// Opens the socket from which the handshake may be answered.
    pub(super) fn start(cx: &mut Context<'_>, guest: Guest) -> Self {
        Self {
            hole: Hole::open(cx, guest.firewall),
            guest,
            tokens: cx.token_key(),
            round: 0,
            round_since: cx.now,
            step: Step::Waiting { until: cx.now + PATIENCE },
            pending: None,
            messages: 0,
            echoes: 0,
        }
    }

    pub(super) const fn server(&self) -> ServerId {
        self.guest.server
    }

    pub(super) const fn host(&self) -> Ipv4Addr {
        self.guest.host
    }

    /// Whether its client has said anything.
    pub(super) const fn is_heard(&self) -> bool {
        self.messages > 0
    }

    pub(super) fn socket(&self) -> SocketId {
        self.hole.socket()
    }

    pub(super) const fn hole_mut(&mut self) -> &mut Hole {
        &mut self.hole
    }

    /// The client says something.
    pub(super) fn on_message(
        &mut self,
        cx: &mut Context<'_>,
        punch: IncomingHolepunch,
    ) -> Option<Outcome> {
        if self.messages >= MAX_MESSAGES {
            return None;
        }
        // Others' messages cost a look and nothing else.
        let payload = self.guest.cipher.open(&punch.payload).ok()?;
        self.messages += 1;
        if matches!(self.step, Step::Over) {
            self.refuse(cx, &punch, ErrorCode::Aborted);
            return None;
        }
        if payload.error != ErrorCode::None {
            self.refuse(cx, &punch, ErrorCode::Aborted);
            return Some(Outcome::Failed(PunchError::RemoteAborted));
        }
        if punch.request.socket == self.hole.socket() {
            self.hole.sampling.add(cx, punch.request.to, punch.request.from.addr);
        }
        if payload.round > self.round || self.messages == 1 {
            self.round_since = cx.now;
        }
        if payload.round >= self.round {
            self.round = payload.round;
            let echoed = payload.remote_token.filter(|_| self.is_through_ours(cx, &punch));
            let host = *punch.client.ip();
            let verified = echoed.is_some_and(|token| self.tokens.verify(host, &token));
            self.hole.remote.update(&payload, verified.then_some(host));
        }
        self.pending = Some(Pending { punch, payload, pinged: false, look: None });
        self.answer(cx)
    }

    /// A byte through the hole: the client connects when it sees it come back.
    pub(super) fn on_byte(&mut self, cx: &mut Context<'_>, socket: u32, from: SocketAddrV4) {
        if self.echoes < MAX_ECHOES && !matches!(self.step, Step::Over) && is_reachable(from) {
            self.echoes += 1;
            cx.send(socket, from, FULL_TTL);
        }
    }

    /// Does what is due.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        if matches!(self.step, Step::Over) {
            return None;
        }
        if !self.hole.has_sockets() {
            return Some(Outcome::Failed(PunchError::NoSocket));
        }
        if let Some(outcome) = self.answer(cx) {
            return Some(outcome);
        }
        match self.step {
            Step::Waiting { until } if until <= cx.now => {
                Some(Outcome::Failed(PunchError::Unanswered))
            }
            Step::Punching => {
                let over = self.hole.drive(cx);
                over.then_some(Outcome::Failed(PunchError::Exhausted))
            }
            Step::Waiting { .. } | Step::Over => None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let step = match self.step {
            Step::Waiting { until } => Some(until),
            Step::Punching => self.hole.poll_timeout(),
            Step::Over => None,
        };
        step.into_iter().chain(self.pending.as_ref().and_then(|pending| pending.look)).min()
    }

    /// It is over, one way or the other.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>) {
        self.step = Step::Over;
        self.pending = None;
        self.hole.rest(cx);
    }

    /// Whether a message came through a node that holds our announcement: another could say anything
    /// about where the client is.
    fn is_through_ours(&self, cx: &Context<'_>, punch: &IncomingHolepunch) -> bool {
        cx.dht.is_relay(self.guest.server, punch.request.from.addr)
    }

    /// Answers the latest message as soon as our own side is known.
    fn answer(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        let mut pending = self.pending.take()?;
        let mut analysis = self.hole.analyze(cx, false);
        if analysis == Analysis::Unstable && !self.hole.remote.punching {
            analysis = self.hole.analyze(cx, true);
            if analysis == Analysis::Unstable {
                return self.abort(cx, &pending.punch, PunchError::Unclear);
            }
        }
        if analysis == Analysis::Pending {
            self.pending = Some(pending);
            return None;
        }
        if !std::mem::replace(&mut pending.pinged, true) && self.is_expected(&pending.payload) {
            self.hole.ping(cx, pending.punch.client, FULL_TTL);
        }
        if self.hole.remote.punching {
            if let Err(busy) = self.hole.reserve(cx) {
                return self.put_off(cx, pending, busy);
            }
            // A byte has just been sent, if that helps.
            if !self.hole.punch(cx, cx.now + HEAD_START) {
                return self.abort(cx, &pending.punch, PunchError::NoWay);
            }
            self.step = Step::Punching;
        }
        if self.hole.firewall() != Firewall::Unknown {
            self.hole.sampling.nat.freeze();
        }
        self.reply(cx, &pending, ErrorCode::None);
        None
    }

    /// Whether the client has opened its NAT for where we are: then a byte reaches it at once.
    fn is_expected(&self, payload: &HolepunchPayload) -> bool {
        let addresses = self.hole.sampling.nat.addresses().unwrap_or_default();
        self.hole.is_steady()
            && payload.remote_address.is_some_and(|address| addresses.contains(&address))
    }

    /// There is no room for a punch with random ports. A short while is not worth a word: the
    /// client repeats its message for four seconds, all of which are one to us.
    fn put_off(
        &mut self,
        cx: &mut Context<'_>,
        mut pending: Pending,
        busy: Busy,
    ) -> Option<Outcome> {
        let at = match busy {
            Busy::Until(at) => at,
            Busy::Punching => cx.now + LOOK,
        };
        if at <= self.round_since + HOLD {
            pending.look = Some(at);
            self.step = Step::Waiting { until: cx.now + PATIENCE };
            self.pending = Some(pending);
            return None;
        }
        self.reply(cx, &pending, ErrorCode::TryLater);
        let patience = if self.guest.patient { LONG_PATIENCE } else { PATIENCE };
        self.step = Step::Waiting { until: cx.now + patience };
        None
    }

    fn reply(&self, cx: &mut Context<'_>, pending: &Pending, error: ErrorCode) {
        let client = *pending.punch.client.ip();
        let ours = self.is_through_ours(cx, &pending.punch);
        let payload = HolepunchPayload {
            error,
            firewall: self.hole.firewall(),
            round: self.round,
            connected: false,
            punching: self.hole.is_punching(),
            addresses: self.hole.addresses(),
            remote_address: None,
            token: ours.then(|| self.tokens.token(client)),
            remote_token: pending.payload.token,
        };
        let sealed = self.guest.cipher.seal(&payload, cx.random());
        cx.dht.answer_holepunch(cx.now, &pending.punch, sealed.into(), Some(self.hole.socket()));
    }

    fn abort(
        &self,
        cx: &mut Context<'_>,
        punch: &IncomingHolepunch,
        error: PunchError,
    ) -> Option<Outcome> {
        self.refuse(cx, punch, ErrorCode::Aborted);
        (!self.guest.neighbour).then_some(Outcome::Failed(error))
    }

    fn refuse(&self, cx: &mut Context<'_>, punch: &IncomingHolepunch, error: ErrorCode) {
        let payload = HolepunchPayload { error, round: self.round, ..HolepunchPayload::default() };
        let sealed = self.guest.cipher.seal(&payload, cx.random());
        let socket = cx.dht.rpc().default_socket();
        cx.dht.answer_holepunch(cx.now, punch, sealed.into(), Some(socket));
    }
}

/// How long the client's next message is waited for (`hyperdht/lib/server.js`).
const PATIENCE: Duration = Duration::from_secs(10);

/// The same after it was told to try later, where there is another way meanwhile.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// The server begins a second later: the client may be through by then
/// (`hyperdht/lib/holepuncher.js`).
const HEAD_START: Duration = Duration::from_secs(1);

/// How long an answer is held back for lack of room.
const HOLD: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(200);

/// Messages that are read: a client sends about three, each up to four times.
const MAX_MESSAGES: u16 = 128;

/// Bytes that are echoed: a client sends two thousand in the longest punch.
const MAX_ECHOES: u16 = 4096;
