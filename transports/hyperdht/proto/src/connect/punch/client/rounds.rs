//! What client and server tell each other: the client asks until both sides are known, and then has
//! the server punch with it.

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use rand::RngExt;

use super::{ClientPunch, Step};
use crate::{
    connect::punch::{
        LOW_TTL, PunchError, attempt::Outcome, context::Context, hole::Analysis, limiter::Busy,
    },
    dht::{HolepunchCall, HolepunchReply, HopError},
    handshake::{ErrorCode, Firewall, HolepunchPayload, RelayInfo},
    rpc::{RequestId, SocketId},
};

/// What the server's answer to a probe gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    token: Option<[u8; 32]>,
    /// The server, as the node that was asked sees it.
    peer: SocketAddrV4,
}

/// A message to the server that has not been answered.
#[derive(Debug)]
pub(super) struct Asked {
    request: RequestId,
    server: SocketAddrV4,
    token: Option<[u8; 32]>,
}

/// What is said in a message beside what is always said.
#[derive(Debug, Default)]
struct Words {
    punching: bool,
    remote_address: Option<SocketAddrV4>,
    token: Option<[u8; 32]>,
    remote_token: Option<[u8; 32]>,
}

impl ClientPunch {
    /// The server has answered, or has not.
    pub(in super::super) fn on_reply(
        &mut self,
        cx: &mut Context<'_>,
        request: RequestId,
        outcome: Result<HolepunchReply, HopError>,
    ) -> Option<Outcome> {
        let asked = self.asked.take_if(|asked| asked.request == request)?;
        match self.read(cx, &asked, outcome) {
            Ok((payload, reply)) => self.go_on(cx, &payload, &reply),
            Err(error) => Some(Outcome::Failed(error)),
        }
    }

    pub(super) fn probe(&mut self, cx: &mut Context<'_>, again: bool) {
        // Dies on the way, and opens our own NAT for the server's answer.
        self.hole.ping(cx, self.server, LOW_TTL);
        self.step = Step::Probing { again };
        let RelayInfo { relay_address, peer_address } = self.invitation.server_relay;
        let words = Words { remote_address: Some(self.server), ..Words::default() };
        self.ask(cx, relay_address, peer_address, words);
    }

    fn ask(&mut self, cx: &mut Context<'_>, to: SocketAddrV4, server: SocketAddrV4, words: Words) {
        let token = words.token;
        let socket = self.hole.socket();
        let call = self.call(cx, to, server, words, socket);
        let request = cx.holepunch(call);
        self.asked = Some(Asked { request, server, token });
    }

    fn call(
        &mut self,
        cx: &mut Context<'_>,
        to: SocketAddrV4,
        server: SocketAddrV4,
        words: Words,
        socket: SocketId,
    ) -> HolepunchCall {
        let payload = HolepunchPayload {
            error: ErrorCode::None,
            firewall: self.hole.firewall(),
            round: self.round,
            connected: false,
            punching: words.punching,
            addresses: self.hole.addresses(),
            remote_address: words.remote_address,
            token: words.token,
            remote_token: words.remote_token,
        };
        self.round += 1;
        HolepunchCall {
            to,
            server: Some(server),
            socket: Some(socket),
            ..self.invitation.message(cx, &payload)
        }
    }

    fn read(
        &mut self,
        cx: &mut Context<'_>,
        asked: &Asked,
        outcome: Result<HolepunchReply, HopError>,
    ) -> Result<(HolepunchPayload, HolepunchReply), PunchError> {
        let reply = outcome.map_err(|_| PunchError::Unanswered)?;
        let payload = self.invitation.cipher.open(&reply.payload);
        let payload = payload.map_err(|_| PunchError::Malformed)?;
        // A server that gives up for good says nothing about its NAT in the same breath.
        let waits = self.patient || payload.firewall != Firewall::Unknown;
        match payload.error {
            ErrorCode::None => {}
            ErrorCode::TryLater if matches!(self.step, Step::Agreeing { .. }) && waits => {
                return Ok((payload, reply));
            }
            ErrorCode::TryLater => return Err(PunchError::Busy),
            ErrorCode::Aborted | ErrorCode::VersionMismatch | ErrorCode::Other(_) => {
                return Err(PunchError::RemoteAborted);
            }
        }
        let echoed = asked.token.is_some() && payload.remote_token == asked.token;
        self.hole.remote.update(&payload, echoed.then_some(*asked.server.ip()));
        if matches!(self.step, Step::Probing { .. }) {
            self.hole.sampling.add(cx, reply.client, reply.relay);
        }
        Ok((payload, reply))
    }

    fn go_on(
        &mut self,
        cx: &mut Context<'_>,
        payload: &HolepunchPayload,
        reply: &HolepunchReply,
    ) -> Option<Outcome> {
        match self.step {
            Step::Probing { again } => {
                let probe = Probe { token: payload.token, peer: reply.server };
                if self.hole.remote.firewall == Firewall::Unknown {
                    self.step = Step::Resting { again, until: cx.now + REST, probe };
                    return None;
                }
                self.step = Step::Analyzing { again, reopen: false, probe };
                self.analyze(cx)
            }
            Step::Delaying { token } => {
                self.put_off(cx, token, true, None);
                None
            }
            Step::Agreeing { token, delayed } if payload.error == ErrorCode::TryLater => {
                self.hole.rest(cx);
                self.heard = cx.now;
                if self.is_late(cx.now) {
                    return Some(Outcome::Failed(PunchError::Busy));
                }
                self.put_off(cx, token, delayed || self.patient, None);
                None
            }
            Step::Agreeing { .. } if !self.hole.remote.punching => {
                Some(Outcome::Failed(PunchError::NotPunching))
            }
            Step::Agreeing { .. } => {
                let begun = self.hole.punch(cx, cx.now);
                self.step = Step::Punching;
                if begun { self.drive(cx) } else { Some(Outcome::Failed(PunchError::NoWay)) }
            }
            Step::Resting { .. }
            | Step::Analyzing { .. }
            | Step::Waiting { .. }
            | Step::Punching
            | Step::Over => None,
        }
    }

    /// Waits until our own side is known, and decides what to do about both.
    pub(super) fn analyze(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        let Step::Analyzing { again, reopen, probe } = self.step else { return None };
        match self.hole.analyze(cx, reopen) {
            Analysis::Pending => return None,
            Analysis::Unstable if !reopen => {
                self.step = Step::Analyzing { again, reopen: true, probe };
                return self.analyze(cx);
            }
            // The server has seen another socket so far.
            Analysis::Stable if reopen => {
                self.probe(cx, false);
                return None;
            }
            Analysis::Stable | Analysis::Unstable => {}
        }
        let (own, remote) = (self.hole.firewall(), self.hole.remote.firewall);
        if again && (remote == Firewall::Unknown || probe.token.is_none()) {
            self.probe(cx, false);
            return None;
        }
        let failure = match (own, remote) {
            (Firewall::Unknown, _) | (_, Firewall::Unknown) => Some(PunchError::Unclear),
            (Firewall::Random, Firewall::Random) => Some(PunchError::BothRandom),
            _ => None,
        };
        if let Some(failure) = failure {
            return Some(Outcome::Failed(failure));
        }
        let through_one = self.invitation.server_relay.relay_address == self.invitation.relay;
        if through_one && probe.peer != self.server {
            // The server has changed its socket since the handshake.
            self.server = probe.peer;
            self.hole.ping(cx, self.server, LOW_TTL);
        }
        self.hole.sampling.nat.freeze();
        self.agree(cx, probe.token, false)
    }

    /// Asks the server to punch, unless there is no room for it now.
    pub(super) fn agree(
        &mut self,
        cx: &mut Context<'_>,
        token: Option<[u8; 32]>,
        delayed: bool,
    ) -> Option<Outcome> {
        if let Err(busy) = self.hole.reserve(cx) {
            if self.is_late(cx.now) {
                return Some(Outcome::Failed(PunchError::Busy));
            }
            if self.patient && !delayed {
                let words = Words {
                    token: Some(self.tokens.token(*self.server.ip())),
                    remote_token: token,
                    ..Words::default()
                };
                self.step = Step::Delaying { token };
                self.ask(cx, self.invitation.relay, self.server, words);
            } else {
                self.put_off(cx, token, delayed, Some(busy));
            }
            return None;
        }
        self.step = Step::Agreeing { token, delayed };
        let RelayInfo { relay_address, peer_address } = self.invitation.server_relay;
        let (to, server) = if delayed {
            (relay_address, peer_address)
        } else {
            (self.invitation.relay, self.server)
        };
        let words = Words {
            punching: true,
            token: (!delayed).then(|| self.tokens.token(*self.server.ip())),
            remote_token: token,
            ..Words::default()
        };
        self.ask(cx, to, server, words);
        None
    }

    /// Waits for room. Who has another way meanwhile waits as long as the reference does.
    fn put_off(
        &mut self,
        cx: &mut Context<'_>,
        token: Option<[u8; 32]>,
        delayed: bool,
        busy: Option<Busy>,
    ) {
        let until = match busy {
            _ if self.patient => cx.now + TRY_LATER + TRY_LATER.mul_f64(cx.shared.rng.random()),
            Some(Busy::Until(at)) => at,
            Some(Busy::Punching) | None => cx.now + TRY_SOON,
        };
        self.step = Step::Waiting { until, token, delayed };
    }

    /// Whether the server, which waits for ten seconds, has given up by now, or we ought to.
    fn is_late(&self, now: Instant) -> bool {
        !self.patient && (now >= self.heard + PATIENCE || now >= self.began + LONG_PATIENCE)
    }
}

/// How long a server that does not know its NAT yet is given (`hyperdht/lib/connect.js`).
const REST: Duration = Duration::from_secs(1);

/// Who has another way tries again after this and up to twice that (`hyperdht/lib/connect.js`).
const TRY_LATER: Duration = Duration::from_secs(10);

/// Who has none tries again after this.
const TRY_SOON: Duration = Duration::from_millis(500);

/// No longer than this after the server was heard, and than that altogether.
const PATIENCE: Duration = Duration::from_secs(8);
const LONG_PATIENCE: Duration = Duration::from_secs(40);
