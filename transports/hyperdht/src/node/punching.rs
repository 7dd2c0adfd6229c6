//! Holes that are being punched, and who waits for them.

use std::{sync::Arc, time::Instant};

use hyperdht_proto::{
    connect::{Invitation, PunchCommand, PunchError, PunchEvent, PunchId},
    rpc::SocketId,
};
use tokio::sync::oneshot;

use super::{
    Shared,
    core::{Core, State},
    dialling::path,
};
use crate::udx::Path;

/// An attempt to punch a hole. Dropped, it is ended: its sockets are closed, but for one that is
/// [held](super::sockets::Sockets::hold).
#[derive(Debug)]
pub(super) struct Punch {
    shared: Arc<Shared>,
    id: PunchId,
    end: oneshot::Receiver<End>,
    connected: bool,
}

/// What has come of an attempt: a client's path, or why there is none.
pub(super) type End = Result<Path, PunchError>;

impl Punch {
    /// Takes up a server's offer; `patient` when another way to it is in use or under way.
    pub(super) fn dial(
        shared: &Arc<Shared>,
        invitation: Arc<Invitation>,
        patient: bool,
    ) -> Option<Self> {
        shared.core.with(|state, now| {
            let State { dht, puncher, .. } = state;
            let id = puncher.dial(dht, now, invitation, patient)?;
            Some(Self::new(shared, state, id))
        })
    }

    /// Waits for what comes of an attempt.
    pub(super) fn new(shared: &Arc<Shared>, state: &mut State, id: PunchId) -> Self {
        let (sender, end) = oneshot::channel();
        state.punches.insert(id, sender);
        Self { shared: Arc::clone(shared), id, end, connected: false }
    }

    /// What has come of it. Cancel-safe; to be asked until it is ready.
    pub(super) async fn ended(&mut self) -> End {
        (&mut self.end).await.unwrap_or(Err(PunchError::Unanswered))
    }

    /// The peers have met: ends the attempt without telling the other side that it is given up.
    pub(super) fn connected(mut self) {
        self.connected = true;
    }
}

impl Drop for Punch {
    fn drop(&mut self) {
        self.shared.core.with(|state, now| {
            state.punches.remove(&self.id);
            state.puncher.end(&mut state.dht, now, self.id, self.connected);
        });
    }
}

impl Core {
    /// Does with the sockets what the puncher wants, and tells what has come of its attempts.
    pub(super) fn obey_puncher(&self, state: &mut State) {
        while let Some(command) = state.puncher.poll_command() {
            match command {
                PunchCommand::Open(number) => self.open_socket(state, number),
                PunchCommand::Close(number) => drop(state.pool.remove(&number)),
                PunchCommand::Send { socket, to, ttl } => self.sockets().punch(socket, to, ttl),
            }
        }
        while let Some(event) = state.puncher.poll_event() {
            let (id, end) = match event {
                PunchEvent::Open { punch, socket, address } => {
                    (punch, Ok(path(self, SocketId::Pool(socket), address)))
                }
                PunchEvent::Failed { punch, error } => (punch, Err(error)),
                _ => continue,
            };
            tracing::debug!(?end, "a punch is over");
            if let Some(waiting) = state.punches.remove(&id) {
                let _ = waiting.send(end);
            }
        }
    }

    fn open_socket(&self, state: &mut State, number: u32) {
        match self.sockets().open(number) {
            Ok(socket) => drop(state.pool.insert(number, socket)),
            Err(error) => {
                tracing::warn!(%error, "no socket for a holepunch");
                state.puncher.no_socket(&mut state.dht, Instant::now(), number);
            }
        }
    }
}
