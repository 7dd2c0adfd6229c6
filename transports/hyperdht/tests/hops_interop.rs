//! How many nodes a lookup asks and how far it goes, ours beside Node's, in one network of Node nodes
//! that count it themselves. Runs when HYPERDHT_INTEROP=1, after `npm ci` in `tests/interop`:
//!
//! ```text
//! HYPERDHT_INTEROP=1 cargo test -p hyperdht-rs --test hops_interop -- --nocapture
//! ```
//!
//! HYPERDHT_HOPS_NODES sets another size of the network.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{net::Ipv4Addr, process::Stdio, time::Duration};

use hyperdht_rs::{Node, NodeOptions, PublicKey};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Nodes of the network.
const NODES: usize = 300;

/// Lookups of one client, and clients of either kind.
const LOOKUPS: usize = 50;
const CLIENTS: usize = 3;

/// For the network to start, and for the lookups of one client, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

#[tokio::test]
async fn lookups_ask_as_many_nodes_as_the_references() {
    if std::env::var_os("HYPERDHT_INTEROP").is_none_or(|value| value != "1") {
        eprintln!("NOT RUN: set HYPERDHT_INTEROP=1 to measure beside Node");
        return;
    }
    let mut network = Network::start().await;
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        network.tell(&format!("find {LOOKUPS}")).await;
        assert_eq!(network.line().await, "found");
        theirs.extend(network.report().await);
        timeout(PATIENCE, network.find()).await.expect("lookups end");
        ours.extend(network.report().await);
    }
    let (theirs, ours) = (Figures::of(&theirs), Figures::of(&ours));
    eprintln!(
        "{} nodes, {} lookups of either: Node {theirs:?}, ours {ours:?}",
        size(),
        ours.lookups
    );
    assert_eq!((theirs.lookups, ours.lookups), (CLIENTS * LOOKUPS, CLIENTS * LOOKUPS));
    // Two samples of one and the same kind of client differ by some 5 %.
    assert!(ours.asked <= theirs.asked * 1.15, "we ask more nodes");
    assert!(ours.hops <= theirs.hops * 1.15, "we go further");
}

fn size() -> usize {
    std::env::var("HYPERDHT_HOPS_NODES").map_or(NODES, |nodes| nodes.parse().unwrap())
}

/// Means.
#[derive(Debug)]
struct Figures {
    lookups: usize,
    /// Nodes asked.
    asked: f64,
    /// How far the farthest of them was: one hop for those that the client knew.
    hops: f64,
}

impl Figures {
    fn of(lookups: &[(u32, u32)]) -> Self {
        let mean = |each: fn(&(u32, u32)) -> u32| {
            let sum: u32 = lookups.iter().map(each).sum();
            f64::from(sum) / f64::from(u32::try_from(lookups.len()).unwrap())
        };
        Self { lookups: lookups.len(), asked: mean(|l| l.0), hops: mean(|l| l.1) }
    }
}

struct Network {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    bootstrap: String,
    _process: Child,
}

impl Network {
    async fn start() -> Self {
        let mut node = Command::new("node");
        node.arg("hops.mjs").arg(size().to_string());
        node.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop"));
        node.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = node.spawn().expect("node runs");
        let stdin = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut network = Self { stdin, lines, bootstrap: String::new(), _process: process };
        network.bootstrap = network.line().await.strip_prefix("ready ").unwrap().to_owned();
        network
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("an answer in time").unwrap().expect("the network runs")
    }

    async fn tell(&mut self, command: &str) {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    /// The lookups since the last report: nodes asked, and hops.
    async fn report(&mut self) -> Vec<(u32, u32)> {
        self.tell("report").await;
        serde_json::from_str(&self.line().await).unwrap()
    }

    /// A new client of ours looks the same keys up.
    async fn find(&self) {
        let options = NodeOptions {
            bootstrap: self.bootstrap.parse().unwrap(),
            host: Ipv4Addr::LOCALHOST,
            port: Some(0),
            ..NodeOptions::default()
        };
        let node = Node::start(options).await.unwrap();
        for n in 0..LOOKUPS {
            let key: [u8; 32] = Sha256::digest(format!("key {n}")).into();
            assert_eq!(node.find_peer(PublicKey::from_bytes(key)).await.unwrap(), []);
        }
        node.shutdown().await;
    }
}
