//! One connection to each peer (`hyperdht/lib/connection-pool.js`).

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyperdht_proto::keys::{KeyPair, PublicKey};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{Connection, Held},
    node::{ConnectError, ListenError, Node, Server},
};

/// The connections of one identity, at most one to each peer.
///
/// Two peers may dial each other at once, and one that has lost a connection dials again while the
/// other still takes it to be alive. A new connection takes the place of the older one where both were
/// dialled from the same side, or where our key is the greater, byte by byte; otherwise the older one
/// stays, and is asked whether it is still alive. So of two that have crossed, both sides keep the one
/// that the lesser key has dialled. The one that gives way ends with [`Replaced`] or fails with
/// [`ConnectError::Duplicate`] or [`AcceptError::Duplicate`].
///
/// A connection counts from the moment it is dialled or has opened until it has closed or both its
/// halves are dropped. [`Node::connect`] and [`Node::listen`] apply no such rule. Clones are the same
/// pool; it keeps its node running.
///
/// [`Replaced`]: crate::connection::ConnectionError::Replaced
/// [`AcceptError::Duplicate`]: crate::node::AcceptError::Duplicate
#[derive(Debug, Clone)]
pub struct ConnectionPool {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    key_pair: KeyPair,
    peers: Mutex<Peers>,
}

impl ConnectionPool {
    /// A pool of connections that `key_pair` dials and takes in.
    pub fn new(node: &Node, key_pair: KeyPair) -> Self {
        let peers = Mutex::default();
        Self { inner: Arc::new(Inner { node: node.clone(), key_pair, peers }) }
    }

    /// Connects to `peer` as [`Node::connect`] does, unless there is a connection or a dial already.
    /// Cancel-safe in the same way.
    ///
    /// # Errors
    /// [`ConnectError`]; [`ConnectError::Duplicate`] also when the peer's own dial takes the place of
    /// this one.
    pub async fn connect(&self, peer: PublicKey) -> Result<Connection, ConnectError> {
        let gives_way = CancellationToken::new();
        let number = self.inner.peers().begin_dial(peer, gives_way.clone());
        let place = Place { pool: self, peer, number: number.ok_or(ConnectError::Duplicate)? };
        let connection = tokio::select! {
            biased;
            () = gives_way.cancelled() => return Err(ConnectError::Duplicate),
            connection = self.inner.node.connect(&self.inner.key_pair, peer) => connection?,
        };
        if !self.inner.peers().opened(peer, place.number, connection.held()) {
            connection.held().replace();
            return Err(ConnectError::Duplicate);
        }
        Ok(connection)
    }

    /// Takes in connections as [`Node::listen`] does; those that turn out to be superfluous once they
    /// have opened fail to be accepted.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn listen(&self) -> Result<Server, ListenError> {
        let server = self.inner.node.listen(self.inner.key_pair.clone()).await?;
        Ok(server.pooled(self.clone()))
    }

    /// Whether there is a connection to this peer, or a dial.
    pub fn contains(&self, peer: &PublicKey) -> bool {
        self.inner.peers().entries.get(peer).is_some_and(Entry::counts)
    }

    /// Takes in a connection that a peer has dialled; false when it is to give way.
    pub(crate) fn admit(&self, connection: &Connection) -> bool {
        let own = self.inner.key_pair.public_key();
        self.inner.peers().admit(&own, connection.peer(), connection.held())
    }
}

impl Inner {
    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key_pair.public_key();
        f.debug_struct("Inner").field("public_key", &key).finish_non_exhaustive()
    }
}

/// A dial's place in the pool, which it leaves when it comes to nothing.
struct Place<'a> {
    pool: &'a ConnectionPool,
    peer: PublicKey,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pool.inner.peers().give_up(&self.peer, self.number);
    }
}

/// The peers of a pool, of about 100 bytes each. Who has gone is swept out when their number has
/// doubled, so it is bounded by that of streams and dials.
#[derive(Debug, Default)]
struct Peers {
    entries: BTreeMap<PublicKey, Entry>,
    sweep_at: usize,
    last_number: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// Whether our side has dialled.
    dialled: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Cancelled, the dial gives way.
    Dialling(CancellationToken),
    Open(Held),
}

impl Entry {
    fn counts(&self) -> bool {
        match &self.stage {
            Stage::Dialling(_) => true,
            Stage::Open(held) => held.is_open(),
        }
    }

    fn give_way(&self) {
        match &self.stage {
            Stage::Dialling(gives_way) => gives_way.cancel(),
            Stage::Open(held) => held.replace(),
        }
    }
}

impl Peers {
    /// A dial's number, unless there is a connection or a dial.
    fn begin_dial(&mut self, peer: PublicKey, gives_way: CancellationToken) -> Option<u64> {
        if self.entries.get(&peer).is_some_and(Entry::counts) {
            return None;
        }
        Some(self.insert(peer, true, Stage::Dialling(gives_way)))
    }

    /// A dial has come to a connection; false when it has given way meanwhile.
    fn opened(&mut self, peer: PublicKey, number: u64, held: Held) -> bool {
        let entry = self.entries.get_mut(&peer).filter(|entry| entry.number == number);
        entry.map(|entry| entry.stage = Stage::Open(held)).is_some()
    }

    fn give_up(&mut self, peer: &PublicKey, number: u64) {
        let is_it =
            |entry: &Entry| entry.number == number && matches!(entry.stage, Stage::Dialling(_));
        if self.entries.get(peer).is_some_and(is_it) {
            self.entries.remove(peer);
        }
    }

    fn admit(&mut self, own: &PublicKey, peer: PublicKey, held: Held) -> bool {
        if let Some(older) = self.entries.get(&peer).filter(|entry| entry.counts()) {
            if !takes_the_place(own, &peer, older.dialled) {
                // Hyperswarm, too, asks: a peer that knows of the older one does not dial.
                if let Stage::Open(older) = &older.stage {
                    older.doubt();
                }
                return false;
            }
            older.give_way();
        }
        self.insert(peer, false, Stage::Open(held));
        true
    }

    fn insert(&mut self, peer: PublicKey, dialled: bool, stage: Stage) -> u64 {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, entry| entry.counts());
            self.sweep_at = 2 * self.entries.len().max(8);
        }
        self.last_number += 1;
        self.entries.insert(peer, Entry { number: self.last_number, dialled, stage });
        self.last_number
    }
}

/// Whether a connection that the peer has dialled takes the place of an older one.
fn takes_the_place(own: &PublicKey, peer: &PublicKey, we_dialled_the_older: bool) -> bool {
    !we_dialled_the_older || own.as_bytes() > peer.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LESSER: PublicKey = PublicKey::from_bytes([1; 32]);
    const GREATER: PublicKey = PublicKey::from_bytes([2; 32]);

    #[test]
    fn of_two_dials_that_cross_both_sides_keep_that_of_the_lesser_key() {
        // The greater side meets the other's dial while its own is under way, and the other way round.
        assert!(takes_the_place(&GREATER, &LESSER, true));
        assert!(!takes_the_place(&LESSER, &GREATER, true));
    }

    #[test]
    fn a_peer_that_dials_again_takes_its_own_place() {
        assert!(takes_the_place(&GREATER, &LESSER, false));
        assert!(takes_the_place(&LESSER, &GREATER, false));
    }

    #[test]
    fn a_dial_that_comes_to_nothing_leaves_and_an_older_one_leaves_a_newer_alone() {
        let mut peers = Peers::default();
        let dial = |peers: &mut Peers| peers.begin_dial(LESSER, CancellationToken::new());
        let first = dial(&mut peers).unwrap();
        assert_eq!(dial(&mut peers), None);
        peers.give_up(&LESSER, first);
        let second = dial(&mut peers).unwrap();
        peers.give_up(&LESSER, first);
        assert!(peers.entries.get(&LESSER).is_some_and(|entry| entry.number == second));
    }
}
