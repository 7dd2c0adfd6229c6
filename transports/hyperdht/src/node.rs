//! A node of HyperDHT: its sockets, its place in the network, its connections.

mod blind_relays;
mod core;
mod dialling;
mod gate;
mod lifetime;
mod listening;
mod network;
mod options;
mod punching;
mod queries;
mod relaying;
mod routes;
mod sockets;
mod suspension;
mod task;
mod unheard;

use std::{fmt, net::SocketAddr, sync::Arc};

use hyperdht_proto::{
    dht::ServerId,
    keys::{KeyPair, PublicKey},
};
use tokio_util::task::TaskTracker;

use self::{core::Core, dialling::Ways, lifetime::Lifetime};
pub use self::{
    dialling::{ConnectError, DialError},
    listening::{AcceptError, Incoming, ListenError, Server},
    network::NetworkChanges,
    options::{Bootstrap, BootstrapNode, NodeOptions, Role, StartError},
    queries::{Announcers, Holder, QueryFailed},
};
pub(crate) use self::{network::interfaces, sockets::PoolSocket};
use crate::{
    connection::Connection,
    udx::{self, Firewall, UdxStream},
};

/// A node of HyperDHT, on which any number of identities connect and listen. Clones are the same
/// node.
///
/// A task of its own drives it on the runtime where it was started. It stops when it is [shut
/// down](Node::shutdown), or when it and all its servers and connections have been dropped.
#[derive(Debug, Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

impl Node {
    /// Binds the sockets and joins the network: returns when the routing table is filled.
    ///
    /// Cancel-safe: dropping the call frees the sockets. It takes as long as the bootstrap nodes
    /// do, up to some ten seconds when none of them answers.
    ///
    /// # Errors
    /// [`StartError`]: a socket cannot be bound.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(options: NodeOptions) -> Result<Self, StartError> {
        let (core, datagrams, ready) = Core::new(&options)?;
        let (lifetime, run) = Lifetime::new(Arc::clone(&core));
        tokio::spawn(task::run(Arc::clone(&core), datagrams, lifetime.stopped()));
        tokio::spawn(network::watch(Arc::clone(&core), lifetime.stopped()));
        tokio::spawn(run);
        let node = Self { shared: Arc::new(Shared { core, lifetime }) };
        // The task ends, and with it the wait, when the node is dropped.
        let _ = ready.await;
        tracing::debug!(local.addr = %node.local_addr(), "joined the DHT");
        Ok(node)
    }

    /// The address of the server socket: that at which other nodes know this one, once it has joined
    /// the network for good.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.core.server_addr()
    }

    /// Our public address, if anybody can reach us there.
    pub fn public_addr(&self) -> Option<SocketAddr> {
        self.shared.core.with_dht(|dht, _| dht.rpc().public_address()).map(SocketAddr::V4)
    }

    /// How many nodes are in the routing table.
    pub fn known_nodes(&self) -> usize {
        self.shared.core.with_dht(|dht, _| dht.rpc().table_len())
    }

    /// Says that the network may be another one, where the application knows before the node does: it
    /// looks at the interfaces of this host every two seconds, notices within three when the NAT in
    /// front of a listening node has given it another address, and within two when the machine has
    /// slept. Servers are announced again, and peers asked whether they are still there.
    pub fn network_changed(&self) {
        self.shared.core.with_dht(|dht, now| dht.network_changed(now));
    }

    /// Tells when the network has changed or come back, so that whoever could not be reached is worth
    /// another try at once. Connections find out by themselves, within five seconds, and end if the
    /// change has cut them.
    pub fn network_changes(&self) -> NetworkChanges {
        self.shared.core.surroundings().changes()
    }

    /// What came in for UDX and was not worked with.
    pub fn udx_counters(&self) -> udx::Counters {
        self.shared.core.udx().counters()
    }

    /// Connects to the server with this key, as `key_pair`.
    ///
    /// Where both sides are behind NATs, a hole is punched. Where either side names a
    /// [relay](NodeOptions::relays), they meet there meanwhile: the connection is given out when it is
    /// open there, and goes over to a direct path when there is one. Cancel-safe: when the call is
    /// dropped, a server that was reached already is told. It takes at most half a minute, and a minute
    /// where a NAT gives each destination a port of its own; callers with less time drop it earlier.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        &self,
        key_pair: &KeyPair,
        server: PublicKey,
    ) -> Result<Connection, ConnectError> {
        dialling::connect(&self.shared, key_pair.clone(), server, Ways::All).await
    }

    /// Takes in connections for the public key of this pair, under which the node announces itself;
    /// returns when others can find it. A node listens on any number of key pairs.
    ///
    /// Cancel-safe: dropping the call ends the announcement.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn listen(&self, key_pair: KeyPair) -> Result<Server, ListenError> {
        Server::open(&self.shared, key_pair, Ways::All).await
    }

    /// Takes servers back from the network, ends connections, and stops. Idempotent; returns when all
    /// is done, within ten seconds. Cancel-safe: what was begun goes on.
    pub async fn shutdown(&self) {
        self.shared.lifetime.shutdown().await;
    }

    /// What keeps the node running.
    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Closes a server from elsewhere than its handle, and waits until nodes were told.
    pub(crate) async fn close_server(&self, id: ServerId) {
        let closed = self.shared.core.with(|state, now| state.close_door(now, id));
        if let Some(closed) = closed {
            let _ = closed.await;
        }
    }
}

/// Connects without a relay: to one.
pub(crate) fn connect_directly(
    node: &Arc<Shared>,
    key_pair: KeyPair,
    server: PublicKey,
) -> impl Future<Output = Result<Connection, ConnectError>> + Send + use<> {
    dialling::connect(node, key_pair, server, Ways::Direct)
}

/// Listens for those who are to be met directly: for clients of a relay.
pub(crate) async fn listen_directly(node: &Node, key_pair: KeyPair) -> Result<Server, ListenError> {
    Server::open(&node.shared, key_pair, Ways::Direct).await
}

/// What everything that keeps a node running holds.
pub(crate) struct Shared {
    core: Arc<Core>,
    lifetime: Lifetime,
}

impl Shared {
    /// Opens a UDX stream under an id that is free; nothing when there are too many.
    pub(crate) fn open_stream(&self, firewall: impl FnMut() -> Firewall) -> Option<UdxStream> {
        let mut state = self.core.lock();
        self.core.open_stream(&mut state, firewall)
    }

    /// Who the node is to relays: a key of its own, so that they learn addresses and no identities.
    pub(crate) fn relay_key_pair(&self) -> KeyPair {
        self.core.relay_key_pair().clone()
    }

    /// Tasks that are waited for at the end.
    pub(crate) fn tasks(&self) -> TaskTracker {
        self.lifetime.tasks()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("local_addr", &self.core.server_addr()).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.lifetime.begin_shutdown();
    }
}
