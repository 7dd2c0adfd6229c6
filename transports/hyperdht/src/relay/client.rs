//! A client of a relay: asks it to be joined with a peer.

use std::sync::Arc;

use hyperdht_proto::{
    blind_relay::{Message, PAIR_WAIT, Pair},
    keys::PublicKey,
};
use tokio::time::timeout;

use super::channel::{Arrival, Channel, ChannelError};
use crate::{
    connection::{Connection, ConnectionError},
    node::{self, ConnectError, Shared},
    udx::Path,
};

/// A relay that has joined a stream of ours with a peer's. The stream goes through it as long as this
/// is kept; dropping it ends the connection to the relay in order.
#[derive(Debug)]
pub(crate) struct Relayed {
    /// Where to send the stream's packets: out of the socket of the connection to the relay.
    pub(crate) path: Path,
    /// The id of the relay's stream.
    pub(crate) remote_id: u32,
    connection: Connection,
}

impl Relayed {
    /// Connects to the relay and waits until it has joined the pair, within
    /// [`PAIR_WAIT`]. Cancel-safe: dropping the call takes the pairing back.
    pub(crate) async fn join(
        node: &Arc<Shared>,
        relay: PublicKey,
        pair: Pair,
    ) -> Result<Self, RelayError> {
        let joining = async {
            let key_pair = node.relay_key_pair();
            let client = key_pair.public_key();
            let connection = node::connect_directly(node, key_pair, relay).await;
            let mut connection =
                connection.map_err(|error| RelayError::Unreachable(Box::new(error)))?;
            let path = connection.path().ok_or(RelayError::Closed)?;
            let remote_id = ask(&mut connection, client, pair).await?;
            Ok(Self { path, remote_id, connection })
        };
        timeout(PAIR_WAIT, joining).await.map_err(|_| RelayError::TimedOut)?
    }

    /// Waits until the relay ends the connection, or something in it breaks. Cancel-safe.
    pub(crate) async fn ended(&mut self) {
        for _ in 0..MAX_ARRIVALS {
            match self.connection.recv().await {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
        tracing::debug!("a relay says more than it has to");
    }
}

/// Sends the request and waits for its answer.
async fn ask(
    connection: &mut Connection,
    client: PublicKey,
    pair: Pair,
) -> Result<u32, RelayError> {
    let mut channel = Channel::open(client);
    channel.send(&Message::Pair(pair));
    let mut arrivals = 0;
    loop {
        while let Some(arrival) = channel.poll()? {
            arrivals += 1;
            if arrivals > MAX_ARRIVALS {
                return Err(RelayError::Misbehaved);
            }
            match arrival {
                Arrival::Closed => return Err(RelayError::Refused),
                Arrival::Message(Message::Unpair(token)) if token == pair.token => {
                    return Err(RelayError::Refused);
                }
                Arrival::Message(Message::Pair(answer))
                    if (answer.token, answer.initiator) == (pair.token, pair.initiator) =>
                {
                    return Ok(answer.stream_id);
                }
                Arrival::Message(_) => {}
            }
        }
        while let Some(frame) = channel.poll_transmit() {
            connection.send(frame).await?;
        }
        if channel.wants_frame() {
            arrivals += 1;
            let frame = connection.recv().await?.ok_or(RelayError::Closed)?;
            channel.receive(frame)?;
        }
    }
}

/// Why a relay has not joined us with the peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// There is no connection to the relay.
    #[error("the relay cannot be reached")]
    Unreachable(#[source] Box<ConnectError>),
    /// The peer has not come to the relay in time, or the relay does not answer.
    #[error("the relay has not joined us with the peer in time")]
    TimedOut,
    /// The relay has no room, or is none.
    #[error("the relay has turned us down")]
    Refused,
    /// The relay has ended the connection.
    #[error("the relay has ended the connection")]
    Closed,
    /// The relay does not keep to the protocol.
    #[error("the relay broke the protocol")]
    Misbehaved,
}

impl From<ChannelError> for RelayError {
    fn from(error: ChannelError) -> Self {
        tracing::debug!(%error, "a relay broke the protocol");
        Self::Misbehaved
    }
}

impl From<ConnectionError> for RelayError {
    fn from(error: ConnectionError) -> Self {
        tracing::debug!(%error, "the connection to a relay has ended");
        match error {
            ConnectionError::FrameTooLong | ConnectionError::Broken(_) => Self::Misbehaved,
            ConnectionError::Reset
            | ConnectionError::TimedOut
            | ConnectionError::Closed
            | ConnectionError::Replaced
            | ConnectionError::Ended
            | ConnectionError::TooLong(_) => Self::Closed,
        }
    }
}

/// Messages and frames of a relay's beside the one that is waited for.
const MAX_ARRIVALS: usize = 64;
