//! One client of the relay: its connection and the channel on it.

use std::{sync::Arc, time::Duration};

use hyperdht_proto::{
    blind_relay::{ClientId, Message},
    keys::PublicKey,
};
use tokio::{sync::mpsc, time::timeout};

use super::Service;
use crate::{
    connection::{Connection, ConnectionError},
    node::{AcceptError, Incoming},
    relay::channel::{Arrival, Channel, ChannelError},
};

/// A client that has been given a number.
pub(super) struct Client {
    id: ClientId,
    peer: PublicKey,
    service: Arc<Service>,
    commands: mpsc::Receiver<Command>,
}

/// What the service wants a client to be told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    Send(Message),
    /// There is nothing more for it.
    Close,
}

impl Client {
    pub(super) fn new(
        id: ClientId,
        peer: PublicKey,
        service: Arc<Service>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self { id, peer, service, commands }
    }

    /// Serves the client until it leaves. Dropped, the client's connection ends and its pairings with
    /// it.
    pub(super) async fn run(mut self, incoming: Incoming) {
        let ended = self.serve(incoming).await;
        tracing::debug!(client = ?self.peer, ?ended, "a client of the relay has left");
    }

    async fn serve(&mut self, incoming: Incoming) -> Result<(), Ended> {
        let mut connection = incoming.accept().await?;
        let path = connection.path().ok_or(ConnectionError::Closed)?;
        let mut channel = Channel::open(self.peer);
        loop {
            while let Some(arrival) = channel.poll()? {
                match arrival {
                    Arrival::Closed => return self.finish(connection).await,
                    Arrival::Message(message) => {
                        let refused = self.service.take(self.id, path.peer.ip(), message);
                        if let Some(refused) = refused {
                            channel.send(&refused);
                        }
                    }
                }
            }
            send(&mut connection, &mut channel).await?;
            if !channel.wants_frame() {
                continue;
            }
            tokio::select! {
                frame = connection.recv() => match frame? {
                    Some(frame) => channel.receive(frame)?,
                    None => return self.finish(connection).await,
                },
                command = self.commands.recv() => match command {
                    Some(Command::Send(message)) => channel.send(&message),
                    Some(Command::Close) | None => {
                        channel.close();
                        send(&mut connection, &mut channel).await?;
                        return self.finish(connection).await;
                    }
                },
            }
        }
    }

    /// Both sides end in order, if the client does its part.
    async fn finish(&self, mut connection: Connection) -> Result<(), Ended> {
        Ok(timeout(PATIENCE, connection.finish()).await.map_err(|_| Ended::Stalled)??)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.service.leave(self.id);
    }
}

/// Sends what the channel has queued.
async fn send(connection: &mut Connection, channel: &mut Channel) -> Result<(), Ended> {
    while let Some(frame) = channel.poll_transmit() {
        timeout(PATIENCE, connection.send(frame)).await.map_err(|_| Ended::Stalled)??;
    }
    Ok(())
}

/// Why a client has left otherwise than in order.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("it takes nothing")]
    Stalled,
}

/// How long a client may take for a message, or to end its connection.
const PATIENCE: Duration = Duration::from_secs(10);
