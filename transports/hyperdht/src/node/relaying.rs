//! Streams that begin over a relay while a direct path is looked for.

#[cfg(test)]
mod tests;

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyperdht_proto::connect::{FIRST_PACKET_WAIT, Rendezvous};
use tokio::time::{sleep, timeout};

use super::{Shared, core::Core, gate::Gate, sockets::PoolSocket};
use crate::{
    connection::{Connection, ConnectionError, Link},
    relay::{RelayError, Relayed},
    udx::{Moved, Path},
};

/// A direct way to a peer.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) path: Path,
    /// Its socket, where that is one for crossing NATs.
    pub(super) socket: Option<Arc<PoolSocket>>,
}

impl Met {
    /// To be called before whatever opened the socket lets go of it.
    pub(super) fn at(core: &Core, path: Path) -> Self {
        Self { path, socket: core.sockets().hold(path.socket) }
    }
}

/// An attempt to find a direct path.
pub(super) type Attempt<E> = Pin<Box<dyn Future<Output = Result<Met, E>> + Send>>;

/// What a stream needs to be met on.
pub(super) struct Meeting<'a, E> {
    pub(super) gate: &'a Arc<Gate>,
    /// The peer's id of the stream.
    pub(super) remote_id: u32,
    pub(super) rendezvous: Rendezvous,
    /// How long a direct path may take before the relay is asked.
    pub(super) head_start: Duration,
    pub(super) direct: Attempt<E>,
}

/// Opens a connection over a direct path or a relay, whichever is first. One that is open over a relay
/// is looked after until it ends: it goes over to a direct path when there is one.
///
/// Cancel-safe: dropping the call gives both ways up.
pub(super) async fn open<E: Send + 'static>(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    meeting: Meeting<'_, E>,
) -> Result<(), OpenError<E>> {
    let Meeting { gate, remote_id, rendezvous, head_start, mut direct } = meeting;
    let (core, link) = (&shared.core, connection.share());
    let mut joining = pin!(async {
        sleep(head_start).await;
        Relayed::join(shared, rendezvous.relay, rendezvous.pair).await
    });
    let (mut no_direct, mut no_relay) = (None, None);
    let relayed = loop {
        tokio::select! {
            biased;
            met = &mut direct, if no_direct.is_none() => match met {
                Ok(met) => {
                    link.connect(met.path, remote_id, met.socket);
                    return Ok(());
                }
                Err(error) => no_direct = Some(error),
            },
            // The direct path was connected at once, and the peer is there.
            opened = connection.opened() => return opened.map_err(OpenError::Ended),
            joined = &mut joining, if no_relay.is_none() => match joined {
                Ok(relayed) => break relayed,
                Err(error) => {
                    tracing::debug!(relay = ?rendezvous.relay, %error, "no help from a relay");
                    core.relay_failed(&rendezvous);
                    no_relay = Some(error);
                }
            },
        }
        (no_direct, no_relay) = match (no_direct, no_relay) {
            (Some(direct), Some(relay)) => return Err(OpenError::Neither { direct, relay }),
            ways => ways,
        };
    };
    let direct = no_direct.is_none().then_some(direct);
    if !gate.begin_relay(relayed.path) {
        // The peer's first packet has just come directly.
        if let Some(direct) = direct
            && let Ok(met) = direct.await
        {
            link.connect(met.path, remote_id, met.socket);
        }
        return Ok(());
    }
    if direct.is_none() {
        gate.give_up();
    }
    link.stream().watch_senders();
    link.go_to(relayed.path, relayed.remote_id, None);
    let gate = Arc::clone(gate);
    let detour = Detour { shared: Arc::clone(shared), link, gate, rendezvous, remote_id, relayed };
    detour.open(connection, direct).await
}

/// A stream that goes through a relay.
struct Detour {
    shared: Arc<Shared>,
    link: Arc<Link>,
    gate: Arc<Gate>,
    rendezvous: Rendezvous,
    remote_id: u32,
    relayed: Relayed,
}

impl Detour {
    /// Waits until the peer is heard, through the relay or directly.
    async fn open<E: Send + 'static>(
        self,
        connection: &mut Connection,
        direct: Option<Attempt<E>>,
    ) -> Result<(), OpenError<E>> {
        let (shared, gate, rendezvous) =
            (Arc::clone(&self.shared), Arc::clone(&self.gate), self.rendezvous);
        let link = Arc::clone(&self.link);
        let mut run = Box::pin(self.run(direct));
        let silence = async {
            sleep(FIRST_PACKET_WAIT).await;
            gate.given_up().await;
        };
        let mut ended = false;
        let mut silence = pin!(silence);
        loop {
            tokio::select! {
                biased;
                opened = connection.opened() => {
                    opened.map_err(OpenError::Ended)?;
                    // The reference's relay loses what comes before the other side does, which is
                    // there now. It may not have our header.
                    link.stream().probe_tail();
                    if !ended {
                        drop(shared.tasks().spawn(run));
                    }
                    return Ok(());
                }
                () = &mut silence => {
                    shared.core.relay_failed(&rendezvous);
                    return Err(OpenError::Silent);
                }
                () = &mut run, if !ended => ended = true,
            }
        }
    }

    /// Looks after the stream until it has left the relay or has ended.
    async fn run<E>(mut self, mut direct: Option<Attempt<E>>) {
        for _ in 0..MAX_MOVES {
            let Some(met) = self.direct_path(&mut direct).await else { return };
            if self.go_over(met).await {
                return;
            }
            tracing::debug!("a direct path does not carry: back to the relay");
            self.gate.forget_direct();
            self.link.go_to(self.relayed.path, self.relayed.remote_id, None);
        }
        self.gate.give_up();
        self.link.stream().path_closed().await;
    }

    /// Waits for a direct path; there is none any more when the stream has ended.
    async fn direct_path<E>(&mut self, direct: &mut Option<Attempt<E>>) -> Option<Met> {
        let mut relay_ended = false;
        loop {
            let attempt = async {
                match direct {
                    Some(attempt) => attempt.await.ok(),
                    None => Some(Met::at(&self.shared.core, self.gate.direct().await)),
                }
            };
            tokio::select! {
                biased;
                () = self.link.stream().path_closed() => return None,
                met = attempt => {
                    *direct = None;
                    if met.is_some() {
                        return met;
                    }
                    self.gate.give_up();
                }
                () = self.relayed.ended(), if !relay_ended => {
                    // If it does not forward any more either, the stream ends by itself.
                    tracing::debug!("a relay has ended its connection");
                    self.shared.core.relay_failed(&self.rendezvous);
                    relay_ended = true;
                }
            }
        }
    }

    /// Takes the stream to a direct path; says whether the relay is needed no more.
    async fn go_over(&self, met: Met) -> bool {
        let link = &self.link;
        tracing::debug!("a stream leaves its relay for a direct path");
        link.go_to(met.path, self.remote_id, met.socket);
        // An idle peer would have nothing to say on the new path, and so would we.
        link.stream().set_keep_alive(Some(HEARTBEAT));
        let arrived = self.arrive().await;
        link.stream().set_keep_alive(None);
        if arrived {
            self.gate.leave_relay();
        }
        arrived
    }

    /// Waits until the peer has come over as well, as long as there is a sign of it.
    async fn arrive(&self) -> bool {
        let (link, begun) = (&self.link, Instant::now());
        let mut moved = Moved::default();
        while !(moved.changed && moved.confirmed) {
            if moved.changed {
                // What follows over the new path shows the peer that nothing else will come over the
                // old one. It may be lost, so it is sent until the peer does the same.
                let _ = link.stream().send_message(Bytes::new());
            }
            match timeout(HEARTBEAT, link.stream().moved(moved)).await {
                Ok(Ok(further)) => moved = further,
                Ok(Err(_)) => return true,
                Err(_) if begun.elapsed() >= MOVE_WAIT && !link.stream().info().path_answers => {
                    return false;
                }
                Err(_) => {}
            }
        }
        // The peer may have come over after all that was said there. If this is lost, a keep-alive
        // shows it the same.
        let _ = link.stream().send_message(Bytes::new());
        true
    }
}

/// Why a connection has not opened.
#[derive(Debug)]
pub(super) enum OpenError<E> {
    /// There is neither a direct path nor a relay.
    Neither { direct: E, relay: RelayError },
    /// The relay has joined us with somebody, but nothing comes through it.
    Silent,
    /// The stream has ended.
    Ended(ConnectionError),
}

impl Core {
    /// A relay was of no use: others are preferred for a while.
    fn relay_failed(&self, rendezvous: &Rendezvous) {
        self.lock().blind_relays.failed(Instant::now(), &rendezvous.relay);
    }
}

/// How long a direct path that needs no punching may take before a relay is asked.
pub(super) const HEAD_START: Duration = Duration::from_millis(500);

/// How often a stream says something on a path that it has just moved to.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// How long the peer may be silent on a new path before the stream goes back to its relay.
const MOVE_WAIT: Duration = Duration::from_secs(2);

/// How often a stream tries to leave its relay. Relays know the stream's id and could show paths that
/// lead nowhere: each costs [`MOVE_WAIT`].
const MAX_MOVES: usize = 3;
