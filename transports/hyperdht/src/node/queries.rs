//! What a node asks the network for, and what it has it store.

use std::{
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use hyperdht_proto::{
    dht::{AnnounceOptions, Event, FindOptions, Found, MutableRecord, PeerRecord},
    keys::{KeyPair, PublicKey},
    rpc::{QueryError, QueryId, QueryReport, Target},
};
use tokio::sync::oneshot;

use super::{Node, Shared, core::State};

/// A node that knows a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The node, which passes handshakes on to the server.
    pub node: SocketAddrV4,
    /// What it knows.
    pub record: PeerRecord,
}

/// What a node knows of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcers {
    /// The node.
    pub node: SocketAddrV4,
    /// Who has announced itself there.
    pub peers: Vec<PeerRecord>,
}

/// A search, or a record to be stored, that came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryFailed {
    /// Nobody answered, or nobody took the record.
    #[error(transparent)]
    Network(#[from] QueryError),
    /// The node is [suspended](Node::suspend).
    #[error("the node is suspended")]
    Suspended,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// All of these are cancel-safe: dropping a call ends its search. They take as long as nodes do that
/// are gone but still remembered by others: up to six seconds each.
impl Node {
    /// The nodes that know the server with this key.
    ///
    /// # Errors
    /// [`QueryFailed::Stopped`] and [`QueryFailed::Suspended`].
    pub async fn find_peer(&self, server: PublicKey) -> Result<Vec<Holder>, QueryFailed> {
        let running = self.begin(false, |state, now| {
            state.dht.find_peer(now, server.target(), FindOptions::default())
        })?;
        let holder = |(node, found)| {
            if let Found::Peer(record) = found { Some(Holder { node, record }) } else { None }
        };
        Ok(running.done().await?.0.into_iter().filter_map(holder).collect())
    }

    /// Who has announced itself at a topic, as node after node says.
    ///
    /// # Errors
    /// [`QueryFailed::Stopped`] and [`QueryFailed::Suspended`].
    pub async fn lookup(&self, topic: Target) -> Result<Vec<Announcers>, QueryFailed> {
        let running =
            self.begin(false, |state, now| state.dht.lookup(now, topic, FindOptions::default()))?;
        let announcers = |(node, found)| {
            if let Found::Topic(reply) = found {
                Some(Announcers { node, peers: reply.peers })
            } else {
                None
            }
        };
        Ok(running.done().await?.0.into_iter().filter_map(announcers).collect())
    }

    /// Announces a key at a topic, with the nodes through which its server is reached. Gives the
    /// number of nodes that took it; they forget it after about 20 minutes.
    ///
    /// # Errors
    /// [`QueryFailed`].
    pub async fn announce(
        &self,
        topic: Target,
        key_pair: &KeyPair,
        relay_addresses: Vec<SocketAddrV4>,
    ) -> Result<usize, QueryFailed> {
        let options = AnnounceOptions { relay_addresses, ..AnnounceOptions::default() };
        let running = self
            .begin(false, |state, now| state.dht.announce(now, topic, key_pair.clone(), options))?;
        running.stored().await
    }

    /// Takes an announcement back from the nodes that hold it.
    ///
    /// # Errors
    /// [`QueryFailed::Stopped`] and [`QueryFailed::Suspended`].
    pub async fn unannounce(&self, topic: Target, key_pair: &KeyPair) -> Result<(), QueryFailed> {
        let running =
            self.begin(false, |state, now| state.dht.unannounce(now, topic, key_pair.clone()))?;
        running.done().await.map(drop)
    }

    /// Stores a value of at most about 1000 bytes under its hash. Gives the number of nodes that
    /// took it.
    ///
    /// # Errors
    /// [`QueryFailed`].
    pub async fn immutable_put(&self, value: Bytes) -> Result<usize, QueryFailed> {
        self.begin(false, |state, now| state.dht.immutable_put(now, value))?.stored().await
    }

    /// The value with this hash, if a node has it.
    ///
    /// # Errors
    /// [`QueryFailed::Stopped`] and [`QueryFailed::Suspended`].
    pub async fn immutable_get(&self, hash: Target) -> Result<Option<Bytes>, QueryFailed> {
        let running = self.begin(true, |state, now| state.dht.immutable_find(now, hash))?;
        let value = |(_, found)| {
            if let Found::Immutable(value) = found { Some(value) } else { None }
        };
        Ok(running.done().await?.0.into_iter().find_map(value))
    }

    /// Stores a version of the value of this key pair. Gives the number of nodes that took it:
    /// those that know a later one refuse it.
    ///
    /// # Errors
    /// [`QueryFailed`].
    pub async fn mutable_put(
        &self,
        key_pair: &KeyPair,
        seq: u64,
        value: Bytes,
    ) -> Result<usize, QueryFailed> {
        let running =
            self.begin(false, |state, now| state.dht.mutable_put(now, key_pair, seq, value))?;
        running.stored().await
    }

    /// The latest version of the value of this key that nodes know, from `least_seq` on.
    ///
    /// # Errors
    /// [`QueryFailed::Stopped`] and [`QueryFailed::Suspended`].
    pub async fn mutable_get(
        &self,
        owner: PublicKey,
        least_seq: u64,
    ) -> Result<Option<MutableRecord>, QueryFailed> {
        let running =
            self.begin(false, |state, now| state.dht.mutable_find(now, owner, least_seq))?;
        let record = |(_, found)| {
            if let Found::Mutable(record) = found { Some(record) } else { None }
        };
        Ok(running.done().await?.0.into_iter().filter_map(record).next_back())
    }

    /// Asks a node for a sign of life; gives our address as that node sees it. Takes four seconds
    /// when nobody answers. Cancel-safe.
    pub async fn ping(&self, node: SocketAddrV4) -> Option<SocketAddr> {
        let pong = self.shared.core.ping(node).await?;
        Some(pong.to.into())
    }

    fn begin(
        &self,
        first_only: bool,
        begin: impl FnOnce(&mut State, Instant) -> QueryId,
    ) -> Result<Running, QueryFailed> {
        let (sender, done) = oneshot::channel();
        let query = self.shared.core.with(|state, now| {
            if state.closing {
                return Err(QueryFailed::Stopped);
            }
            if !self.shared.core.is_running() {
                return Err(QueryFailed::Suspended);
            }
            let query = begin(state, now);
            state.queries.insert(query, QueryEntry { found: Vec::new(), first_only, done: sender });
            Ok(query)
        });
        Ok(Running { shared: Arc::clone(&self.shared), query: query?, done })
    }
}

/// A query and who waits for its end.
#[derive(Debug)]
pub(super) struct QueryEntry {
    found: Vec<(SocketAddrV4, Found)>,
    /// Whether the first find is enough.
    first_only: bool,
    done: oneshot::Sender<Result<Finished, QueryFailed>>,
}

type Finished = (Vec<(SocketAddrV4, Found)>, QueryReport);

impl QueryEntry {
    pub(super) fn fail(self, error: QueryFailed) {
        let _ = self.done.send(Err(error));
    }
}

/// A query under way; it is called off when this is dropped.
struct Running {
    shared: Arc<Shared>,
    query: QueryId,
    done: oneshot::Receiver<Result<Finished, QueryFailed>>,
}

impl Running {
    async fn done(mut self) -> Result<Finished, QueryFailed> {
        (&mut self.done).await.unwrap_or(Err(QueryFailed::Stopped))
    }

    /// How many nodes took what was to be stored.
    async fn stored(self) -> Result<usize, QueryFailed> {
        let (_, report) = self.done().await?;
        if let Some(failure) = report.failure {
            return Err(failure.into());
        }
        let taken = report
            .commits
            .iter()
            .filter(|commit| commit.outcome.as_ref().is_ok_and(|response| response.error == 0));
        Ok(taken.count())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.core.with(|state, now| {
            if state.queries.remove(&self.query).is_some() {
                state.dht.cancel_query(now, self.query);
            }
        });
    }
}

impl State {
    /// Takes note of what a query has found, or of its end.
    pub(super) fn query_event(&mut self, now: Instant, event: Event) {
        if let Event::Found { query, from, found, .. } = event {
            let Some(entry) = self.queries.get_mut(&query) else { return };
            if entry.found.len() < MAX_FOUND {
                entry.found.push((from.addr, found));
            }
            if entry.first_only {
                self.dht.cancel_query(now, query);
            }
        } else if let Event::Done { query, report } = event
            && let Some(entry) = self.queries.remove(&query)
        {
            let _ = entry.done.send(Ok((entry.found, report)));
        }
    }
}

/// Finds kept per query, of at most about 2 KiB each: more nodes than a search asks.
const MAX_FOUND: usize = 512;
