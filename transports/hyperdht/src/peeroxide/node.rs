//! A place in the DHT, and the socket that goes with it.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use dht_prom_transport::{PublicKey, TransportError};
use libudx::UdxRuntime;
use peeroxide_dht::hyperdht::{
    self, DEFAULT_BOOTSTRAP, HyperDhtConfig, HyperDhtError, HyperDhtHandle, ServerEvent,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    door::Doors,
    error,
    handshake::{Identity, Socket},
    identity::HyperDht,
};

/// How a node joins the DHT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// Who is asked first.
    pub bootstrap: Bootstrap,
    /// The address of the socket; `0.0.0.0` for all.
    pub host: Ipv4Addr,
    /// The port of the socket; 0 for any. `None` takes the first free one of 49737 to 49741, as the
    /// Node package does, or else any.
    pub port: Option<u16>,
}

impl Default for NodeOptions {
    /// The public network, all addresses, the usual ports.
    fn default() -> Self {
        Self { bootstrap: Bootstrap::Public, host: Ipv4Addr::UNSPECIFIED, port: None }
    }
}

/// The nodes through which a node finds all others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Bootstrap {
    /// Those of the public network.
    #[default]
    Public,
    /// These; none for the first node of a network.
    Nodes(Vec<SocketAddr>),
}

/// A node of the DHT, on which any number of identities dial and listen.
///
/// Stops when it is [shut down](Node::shutdown), or when it and every identity, listener and session
/// of it have been dropped.
#[derive(Debug, Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

impl Node {
    /// Binds a socket and joins the DHT. The node takes part in it: it keeps records and relays
    /// handshakes, and is known to others for as long as it runs.
    ///
    /// Gives up after about 4 seconds if no bootstrap node answers: the crate never asks again, so such
    /// a node would stay alone.
    ///
    /// Cancel-safe: dropping the call frees the socket.
    ///
    /// # Errors
    /// [`Io`](TransportError::Io) when the port is taken, the network is down or no bootstrap node
    /// answers; [`Other`](TransportError::Other) for what else the crate reports.
    pub async fn start(options: NodeOptions) -> Result<Self, TransportError> {
        let act = "joining the DHT";
        let (task, dht, events) = bind(&options).await?;
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let (doors, tasks, stopped) =
            (Doors::default(), TaskTracker::new(), CancellationToken::new());
        let life = Life {
            task,
            dht: dht.clone(),
            doors: doors.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            stopped: stopped.clone(),
        };
        tokio::spawn(life.run(events));
        dht.bootstrapped().await.map_err(|error| error::node(act, error))?;
        let known = dht.table_size().await.map_err(|error| error::node(act, error))?;
        if known == 0 && options.bootstrap != Bootstrap::Nodes(vec![]) {
            let source = io::ErrorKind::TimedOut.into();
            return Err(TransportError::Io { act: "reaching a bootstrap node", source });
        }
        let socket = dht.server_socket().await.map_err(|error| error::node(act, error))?;
        let socket = socket.ok_or(HyperDhtError::Destroyed).map_err(|e| error::node(act, e))?;
        let local_addr = socket.local_addr().await.map_err(|e| error::node(act, e.into()))?;
        tracing::debug!(%local_addr, "joined the DHT");
        guard.disarm();
        let socket = Socket(socket);
        Ok(Self {
            shared: Arc::new(Shared { dht, socket, local_addr, doors, tasks, stop, stopped }),
        })
    }

    /// The address of the socket.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// The transport of the identity that this seed stands for.
    ///
    /// The copy of the secret that it keeps is wiped when it is dropped, but those that the crate
    /// makes for handshakes are not; the seed is the caller's.
    pub fn identity(&self, seed: &[u8; 32]) -> HyperDht {
        HyperDht::new(Arc::clone(&self.shared), Identity::from_seed(seed))
    }

    /// Ends all identities with their sessions, takes back their records and leaves the DHT.
    ///
    /// Idempotent; returns when all is done, a few seconds at most. Cancel-safe: what was begun goes
    /// on.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.stopped.cancelled().await;
    }
}

/// The public key of the identity that this seed stands for.
pub fn public_key(seed: &[u8; 32]) -> PublicKey {
    PublicKey::from_bytes(Identity::from_seed(seed).key_pair().public_key)
}

/// What identities have in common.
pub(super) struct Shared {
    dht: HyperDhtHandle,
    socket: Socket,
    local_addr: SocketAddr,
    doors: Doors,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Cancelled when the node has left the DHT.
    stopped: CancellationToken,
}

impl Shared {
    pub(super) fn dht(&self) -> &HyperDhtHandle {
        &self.dht
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn doors(&self) -> &Doors {
        &self.doors
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The task that lives as long as the node.
struct Life {
    task: JoinHandle<Result<(), HyperDhtError>>,
    dht: HyperDhtHandle,
    doors: Doors,
    tasks: TaskTracker,
    stop: CancellationToken,
    stopped: CancellationToken,
}

impl Life {
    /// Brings events to their doors until the node is stopped; then waits for its tasks and leaves.
    async fn run(self, mut events: mpsc::UnboundedReceiver<ServerEvent>) {
        loop {
            let event = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                event = events.recv() => event,
            };
            match event {
                Some(event) => self.doors.admit(event),
                None => {
                    tracing::error!("the DHT task has ended by itself");
                    self.stop.cancel();
                }
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        // Fails only if the task has ended already.
        let _ = self.dht.destroy().await;
        let _ = self.task.await;
        self.stopped.cancel();
    }
}

pub(super) type Spawned =
    (JoinHandle<Result<(), HyperDhtError>>, HyperDhtHandle, mpsc::UnboundedReceiver<ServerEvent>);

async fn bind(options: &NodeOptions) -> Result<Spawned, TransportError> {
    let ports = match options.port {
        Some(port) => port..=port,
        None => USUAL_PORTS,
    };
    for port in ports {
        match spawn(options.host, port, &options.bootstrap).await {
            Err(error) if options.port.is_none() && error::is_address_in_use(&error) => {}
            outcome => return outcome.map_err(|error| error::node(BINDING, error)),
        }
    }
    spawn(options.host, 0, &options.bootstrap).await.map_err(|error| error::node(BINDING, error))
}

/// Starts a node of `peeroxide-dht` that takes part in the DHT.
pub(super) async fn spawn(
    host: Ipv4Addr,
    port: u16,
    bootstrap: &Bootstrap,
) -> Result<Spawned, HyperDhtError> {
    let mut config = HyperDhtConfig::default();
    config.dht.host = IpAddr::V4(host).to_string();
    config.dht.port = port;
    config.dht.firewalled = false;
    config.dht.ephemeral = Some(false);
    config.dht.bootstrap = match bootstrap {
        Bootstrap::Public => DEFAULT_BOOTSTRAP.map(str::to_owned).to_vec(),
        Bootstrap::Nodes(nodes) => nodes.iter().map(SocketAddr::to_string).collect(),
    };
    hyperdht::spawn(&UdxRuntime::new()?, config).await
}

const BINDING: &str = "binding the UDP socket";

/// The ports that `dht-rpc` 6.26 tries first (`index.js`, `port: 49737`, five in a row).
const USUAL_PORTS: std::ops::RangeInclusive<u16> = 49_737..=49_741;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_key_that_libsodium_gives() {
        // RFC 8032, section 7.1, test 1.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let seed = dht_prom_transport::decode_key(seed).unwrap();
        assert_eq!(public_key(&seed), key.parse().unwrap());
    }
}
