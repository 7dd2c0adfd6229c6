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

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Client(punch) => punch.poll_timeout(),
            Self::Server(punch) => punch.poll_timeout(),
        }
    }

    /// Does nothing more; a server is told that its client `gives_up`.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>, gives_up: bool) {
        match self {
            Self::Client(punch) => punch.finish(cx, gives_up),
            Self::Server(punch) => punch.finish(cx),
        }
    }

    /// Does nothing more. A client has the one socket that it needs; a server's peer may be on its
    /// way through any.
    pub(super) fn conclude(&mut self, cx: &mut Context<'_>, outcome: Outcome) {
        let (path, gives_up) = match outcome {
            Outcome::Path(socket, _) => (Some(socket), false),
            Outcome::Failed(error) => (None, error.is_our_choice()),
        };
        self.finish(cx, gives_up);
        if let Self::Client(punch) = self {
            punch.hole_mut().close(cx, path);
        }
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
