//! A client's attempt or a server's, seen from outside.

use std::{net::SocketAddrV4, time::Instant};

use super::{
    PunchError, PunchEvent, PunchId, client::ClientPunch, context::Context, hole::Hole,
    server::ServerPunch,
};

/// Whose attempt.
#[derive(Debug)]
pub(super) enum Attempt {
    Client(Box<ClientPunch>),
    Server(Box<ServerPunch>),
}

/// What something has led to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Path(u32, SocketAddrV4),
    Failed(PunchError),
}

impl Attempt {
    pub(super) const fn hole_mut(&mut self) -> &mut Hole {
        match self {
            Self::Client(punch) => punch.hole_mut(),
            Self::Server(punch) => punch.hole_mut(),
        }
    }

    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        match self {
            Self::Client(punch) => punch.drive(cx),
            Self::Server(punch) => punch.drive(cx),
        }
    }

    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        match self {
            Self::Client(punch) => punch.poll_timeout(now),
            Self::Server(punch) => punch.poll_timeout(),
        }
    }

    /// Does nothing more. A client has the one socket that it needs; a server's peer may be on its
    /// way through any.
    pub(super) fn conclude(&mut self, cx: &mut Context<'_>, outcome: Outcome) {
        match self {
            Self::Client(punch) => {
                let (path, tells) = match outcome {
                    Outcome::Path(socket, _) => (Some(socket), false),
                    Outcome::Failed(error) => (None, error.is_our_choice()),
                };
                punch.finish(cx, tells);
                punch.hole_mut().close(cx, path);
            }
            Self::Server(punch) => punch.finish(cx),
        }
    }

    /// Lets go of everything. A server whose client is not `connected` is told, if it still waits.
    pub(super) fn end(mut self, cx: &mut Context<'_>, connected: bool) {
        match &mut self {
            Self::Client(punch) => {
                punch.finish(cx, true);
                if !connected {
                    punch.part(cx);
                }
            }
            Self::Server(punch) => punch.finish(cx),
        }
        self.hole_mut().close(cx, None);
    }
}

impl Outcome {
    pub(super) const fn event(self, punch: PunchId) -> PunchEvent {
        match self {
            Self::Path(socket, address) => PunchEvent::Open { punch, socket, address },
            Self::Failed(error) => PunchEvent::Failed { punch, error },
        }
    }
}
