//! The client's side: asks the server what its NAT is like, agrees with it to punch, and punches
//! (`hyperdht/lib/connect.js`).

mod arrivals;
mod rounds;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Instant,
};

use self::{
    arrivals::{Arrivals, ECHOES},
    rounds::{Asked, Probe},
};
use super::{
    FULL_TTL, PunchError, attempt::Outcome, context::Context, hole::Hole, invitation::Invitation,
};
use crate::{handshake::TokenKey, rpc::is_reachable};

/// A client's attempt.
#[derive(Debug)]
pub(super) struct ClientPunch {
    hole: Hole,
    invitation: Arc<Invitation>,
    tokens: TokenKey,
    /// Whether there is another way meanwhile: then a busy peer is waited for.
    patient: bool,
    began: Instant,
    /// When the server last said that it waits.
    heard: Instant,
    /// Where the server is, by what is known so far.
    server: SocketAddrV4,
    round: u64,
    step: Step,
    asked: Option<Asked>,
    /// Whether the server would go on waiting although this is over.
    server_waits: bool,
    arrivals: Arrivals,
}

/// How far it has come.
#[derive(Debug)]
enum Step {
    /// The server is asked about its side. `again` is whether it may be asked once more.
    Probing {
        again: bool,
    },
    /// It did not know yet: it is given time to find out.
    Resting {
        again: bool,
        until: Instant,
        probe: Probe,
    },
    /// Our own side is not known yet.
    Analyzing {
        again: bool,
        reopen: bool,
        probe: Probe,
    },
    /// Somebody is busy with another punch.
    Waiting {
        until: Instant,
        token: Option<[u8; 32]>,
        delayed: bool,
    },
    /// The server is told that it will take a while.
    Delaying {
        token: Option<[u8; 32]>,
    },
    /// The server is asked to punch.
    Agreeing {
        token: Option<[u8; 32]>,
        delayed: bool,
    },
    /// Both punch.
    Punching,
    Over,
}

impl ClientPunch {
    /// Begins: opens a path for the server's first byte and asks how things are on its side.
    pub(super) fn start(cx: &mut Context<'_>, invitation: Arc<Invitation>, patient: bool) -> Self {
        let mut punch = Self {
            hole: Hole::open(cx, invitation.firewall),
            tokens: cx.token_key(),
            patient,
            began: cx.now,
            heard: cx.now,
            server: invitation.server,
            round: 0,
            step: Step::Over,
            asked: None,
            server_waits: false,
            arrivals: Arrivals::default(),
            invitation,
        };
        punch.probe(cx, true);
        punch
    }

    pub(super) const fn hole_mut(&mut self) -> &mut Hole {
        &mut self.hole
    }

    /// One byte has come in: the hole is open, if it is a way out, too.
    pub(super) fn on_byte(&mut self, cx: &mut Context<'_>, socket: u32, from: SocketAddrV4) {
        if !matches!(self.step, Step::Over)
            && self.arrivals.add(cx.now, socket, from, self.is_named(*from.ip()))
            && !self.hole.is_steady()
            && is_reachable(from)
        {
            for _ in 0..ECHOES {
                cx.send(socket, from, FULL_TTL);
            }
        }
    }

    fn is_named(&self, host: Ipv4Addr) -> bool {
        let addresses = self.hole.remote.addresses.iter().map(|(addr, _)| *addr);
        let named = [self.server, self.invitation.server_relay.peer_address];
        named.into_iter().chain(addresses).any(|addr| *addr.ip() == host)
            || self.invitation.hosts.contains(&host)
    }

    /// Does what is due.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        if matches!(self.step, Step::Over) {
            return None;
        }
        if let Some((socket, from)) = self.arrivals.path(cx.now, self.hole.is_steady()) {
            return Some(Outcome::Path(socket, from));
        }
        if !self.hole.has_sockets() {
            return Some(Outcome::Failed(PunchError::NoSocket));
        }
        match self.step {
            Step::Resting { again, until, probe } if until <= cx.now => {
                self.step = Step::Analyzing { again, reopen: false, probe };
                self.analyze(cx)
            }
            Step::Analyzing { .. } => self.analyze(cx),
            Step::Waiting { until, token, delayed } if until <= cx.now => {
                self.agree(cx, token, delayed)
            }
            Step::Punching => {
                let over = self.hole.drive(cx);
                over.then_some(Outcome::Failed(PunchError::Exhausted))
            }
            Step::Probing { .. }
            | Step::Resting { .. }
            | Step::Waiting { .. }
            | Step::Delaying { .. }
            | Step::Agreeing { .. }
            | Step::Over => None,
        }
    }

    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let step = match self.step {
            Step::Resting { until, .. } | Step::Waiting { until, .. } => Some(until),
            Step::Punching => self.hole.poll_timeout(),
            Step::Probing { .. }
            | Step::Analyzing { .. }
            | Step::Delaying { .. }
            | Step::Agreeing { .. }
            | Step::Over => None,
        };
        step.into_iter().chain(self.arrivals.poll_timeout(now)).min()
    }

    /// It is over, one way or the other. The server is to be [told](Self::part) of it if it `waits`.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>, waits: bool) {
        if matches!(std::mem::replace(&mut self.step, Step::Over), Step::Over) {
            return;
        }
        self.server_waits = waits;
        self.asked = None;
        self.arrivals.clear();
        self.hole.rest(cx);
    }

    /// The peers do not come together in any other way, either: the server need not wait.
    pub(super) fn part(&mut self, cx: &mut Context<'_>) {
        if std::mem::take(&mut self.server_waits) {
            self.invitation.decline(cx, self.round);
        }
    }
}
