//! Looking at the network, and trying it with two nodes.

use std::{
    io,
    num::NonZeroU16,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dht_prometheus::{
    config::{DhtConfig, Seed},
    transport,
};
use hyperdht_rs::{
    Connection, KeyPair, Node, NodeOptions, PublicKey,
    nat::{Mapping, NatReport},
    node::{BootstrapNode, ConnectError, DialError, Incoming, Server, StartError},
};
use tokio::time::timeout;

use super::diagnosis::{Binding, Encounter, Findings};

/// Looks at everything, with the settings of the bridge.
pub(super) async fn examine(config: &DhtConfig, seed: Option<&Seed>) -> Findings {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut findings = Findings {
        port: (config.port != 0).then_some(config.port),
        forwarded: config.forwarded_port.map(NonZeroU16::get),
        unix_seconds: unix.as_secs(),
        binding: Binding::Free,
        network: None,
        bridge: None,
        relays: config.relays.len(),
        trial: None,
    };
    findings.look(config).await;
    let network = findings.network.as_ref();
    let answered = network.is_some_and(|network| network.mapping != Mapping::Silent);
    if answered && let Ok(options) = transport::node_options(config).await {
        // It is about what opens without a relay.
        let options = NodeOptions { relays: Vec::new(), ..options };
        findings.meet(options, seed).await;
    }
    findings
}

impl Findings {
    /// Looks at the network from the bridge's port, or where that is taken from another.
    async fn look(&mut self, config: &DhtConfig) {
        let nodes = bootstrap(config);
        let (host, port, forwarded) = (config.host, self.port, self.forwarded);
        let options = NodeOptions { host, port, forwarded, ..NodeOptions::default() };
        match NatReport::examine(&options, &nodes).await {
            Ok(network) => self.network = Some(network),
            Err(StartError::Bind { address, source, .. })
                if source.kind() == io::ErrorKind::AddrInUse =>
            {
                self.binding = Binding::Taken(address.port());
                let options = NodeOptions { port: Some(0), forwarded: None, ..options };
                self.network = NatReport::examine(&options, &nodes).await.ok();
            }
            Err(StartError::Bind { address, source, .. }) => {
                self.binding = Binding::Refused(format!("{address}: {source}"));
            }
            Err(error) => self.binding = Binding::Refused(error.to_string()),
        }
    }

    /// Has a second node, separate from the bridge's, find the bridge's key and one announced for
    /// the purpose. The bridge's own is not announced: the bridge may be running.
    async fn meet(&mut self, options: NodeOptions, seed: Option<&Seed>) {
        let only_way = self.network.as_ref().is_some_and(|network| network.port.only_way);
        if only_way {
            // A second node could not say a word.
            return;
        }
        let elsewhere = NodeOptions { port: Some(0), forwarded: None, ..options.clone() };
        let taken = matches!(self.binding, Binding::Taken(_));
        let first = if taken { elsewhere.clone() } else { options };
        let (Ok(first), Ok(second)) = (Node::start(first).await, Node::start(elsewhere).await)
        else {
            return;
        };
        if let Some(seed) = seed {
            let key = KeyPair::from_seed(seed.expose()).public_key();
            self.bridge = Some(dial(&second, key).await);
        }
        let trial = KeyPair::from_seed(Seed::random().expose());
        let key = trial.public_key();
        self.trial = match timeout(ANNOUNCING, first.listen(trial)).await {
            Ok(Ok(server)) => {
                let accepting = tokio::spawn(accept(server));
                let encounter = dial(&second, key).await;
                accepting.abort();
                Some(encounter)
            }
            Ok(Err(_)) | Err(_) => Some(Encounter::NotAnnounced),
        };
        let _ = timeout(PARTING, async { tokio::join!(first.shutdown(), second.shutdown()) }).await;
    }
}

/// The nodes that the settings name, as they name them.
fn bootstrap(config: &DhtConfig) -> Vec<BootstrapNode> {
    if config.bootstrap.is_empty() {
        return BootstrapNode::public();
    }
    config.bootstrap.iter().filter_map(|node| node.parse().ok()).collect()
}

async fn dial(node: &Node, key: PublicKey) -> Encounter {
    let me = KeyPair::from_seed(Seed::random().expose());
    match timeout(DIALLING, node.connect(&me, key)).await {
        Err(_) => Encounter::NoAnswer("it took too long".to_owned()),
        Ok(Ok(mut connection)) => match timeout(ANSWERING, connection.opened()).await {
            Ok(Ok(())) => Encounter::Met,
            Ok(Err(_)) | Err(_) => Encounter::NoPath,
        },
        Ok(Err(ConnectError::Dial(DialError::NotFound))) => Encounter::Unknown,
        Ok(Err(
            ConnectError::HolepunchAborted
            | ConnectError::CannotHolepunch
            | ConnectError::Punch(_)
            | ConnectError::Relay { .. }
            | ConnectError::Silent,
        )) => Encounter::NoPath,
        Ok(Err(error)) => Encounter::NoAnswer(error.to_string()),
    }
}

/// Lets everybody in, until it is dropped.
async fn accept(mut server: Server) {
    let mut connections: Vec<Connection> = Vec::new();
    while let Some(incoming) = server.accept().await {
        connections.extend(Incoming::accept(incoming).await.ok());
    }
}

/// How long the DHT's nodes may take to take a key.
const ANNOUNCING: Duration = Duration::from_secs(15);

/// As long as a scrape would wait.
const DIALLING: Duration = Duration::from_secs(10);

/// How long the first packet may take once the server has answered.
const ANSWERING: Duration = Duration::from_secs(5);

/// How long leaving the network may take.
const PARTING: Duration = Duration::from_secs(5);
