//! At which blind relay two peers meet.

use crate::{blind_relay::Pair, handshake::RelayThrough, keys::PublicKey};

/// A relay that the peer goes to as well, and what to ask for there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rendezvous {
    /// The relay's key.
    pub relay: PublicKey,
    /// What to send to it.
    pub pair: Pair,
}

impl Rendezvous {
    /// The client's: the server's choice counts before its own.
    pub(super) fn of_client(
        own: Option<RelayThrough>,
        server: Option<RelayThrough>,
        stream_id: u32,
    ) -> Option<Self> {
        Self::new(server, false, stream_id).or_else(|| Self::new(own, true, stream_id))
    }

    /// The server's.
    pub(super) fn of_server(
        own: Option<RelayThrough>,
        client: Option<RelayThrough>,
        stream_id: u32,
    ) -> Option<Self> {
        Self::new(own, true, stream_id).or_else(|| Self::new(client, false, stream_id))
    }

    /// Whose choice the relay was is the initiator (`hyperdht/lib/connect.js`, `lib/server.js`).
    fn new(through: Option<RelayThrough>, initiator: bool, stream_id: u32) -> Option<Self> {
        let RelayThrough { public_key, token } = through?;
        Some(Self { relay: public_key, pair: Pair { initiator, token, stream_id } })
    }

    /// Whether the relay was named by us.
    pub const fn is_ours(&self) -> bool {
        self.pair.initiator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_choice_counts_and_exactly_one_side_is_the_initiator() {
        let through =
            |n| RelayThrough { public_key: PublicKey::from_bytes([n; 32]), token: [n; 32] };
        for (client, server, met_at) in [
            (None, None, None),
            (Some(through(1)), None, Some(1)),
            (None, Some(through(2)), Some(2)),
            (Some(through(1)), Some(through(2)), Some(2)),
        ] {
            let ours = Rendezvous::of_client(client, server, 5);
            let theirs = Rendezvous::of_server(server, client, 6);
            let at = |met: &Option<Rendezvous>| met.map(|met| (met.relay, met.pair.token));
            assert_eq!(at(&ours), met_at.map(|n| (PublicKey::from_bytes([n; 32]), [n; 32])));
            assert_eq!(at(&ours), at(&theirs));
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                assert_ne!(ours.pair.initiator, theirs.pair.initiator);
                assert_eq!((ours.pair.stream_id, theirs.pair.stream_id), (5, 6));
            }
        }
    }
}
