//! Node's `hyperdht` reaches us and is reached by us. Runs when HYPERDHT_INTEROP=1, after `npm ci` in
//! `tests/interop`.

#![cfg(feature = "peeroxide")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stderr, reason = "a test that did not run has to say so")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dht_prom_transport::{ErrorKind, PublicKey, Session, Transport};
use futures_util::{SinkExt, StreamExt};
use hyperdht_rs::peeroxide::{Bootstrap, Node, NodeOptions, Testnet};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Sizes around those of a frame's packets, and of a scrape's body.
const SIZES: [&str; 5] = ["1", "1000", "1163", "10000", "100000"];

#[tokio::test]
async fn a_node_client_reaches_us() {
    let Some((testnet, node)) = start().await else { return };
    let transport = node.identity(&[7; 32]);
    let mut listener = transport.listen().await.unwrap();
    let key = hex(transport.local_key());
    for _ in 0..2 {
        let arguments = [&[key.as_str()], &SIZES[..]].concat();
        let mut peer = NodePeer::start("dial", &testnet, &arguments);
        let session = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let mut session = session.accept().await.unwrap();
        assert!(peer.line().await.starts_with("open"));
        for size in SIZES {
            let message = next(&mut session).await;
            assert_eq!(message.len().to_string(), size);
            session.tx.send(message).await.unwrap();
            let line = peer.line().await;
            assert!(line.starts_with(&format!("echoed {size} ")), "{line}");
            eprintln!("node client: {line} ms");
        }
        assert!(session.rx.next().await.is_none(), "the client ended in order");
        assert_eq!(peer.line().await, "closed");
    }
}

#[tokio::test]
async fn a_dht_of_node_peers_is_joined() {
    if !is_wanted() {
        return;
    }
    let mut testnet = NodePeer::spawn(&["testnet", "3"]);
    let line = testnet.line().await;
    let bootstrap = line.strip_prefix("bootstrap ").unwrap();
    let nodes = bootstrap.split(',').map(|node| node.parse().unwrap()).collect();
    let node = join(nodes).await;
    let (transport, dialler) = (node.identity(&[14; 32]), node.identity(&[15; 32]));
    let mut listener = transport.listen().await.unwrap();
    let mut peer = NodePeer::spawn(&["dial", bootstrap, &hex(transport.local_key()), "1000"]);
    let session = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let session = session.accept().await.unwrap();
    tokio::spawn(session.rx.forward(session.tx));
    assert!(peer.line().await.starts_with("open"));
    assert!(peer.line().await.starts_with("echoed 1000"));
    let mut server = NodePeer::spawn(&["serve", bootstrap, &"10".repeat(32)]);
    assert!(server.line().await.starts_with("listening"));
    let key = hyperdht_rs::peeroxide::public_key(&[16; 32]);
    let mut session = timeout(PATIENCE, dialler.dial(key)).await.unwrap().unwrap();
    session.tx.send("hello".into()).await.unwrap();
    assert_eq!(next(&mut session).await, "hello");
    node.shutdown().await;
}

#[tokio::test]
async fn a_node_client_is_refused() {
    let Some((testnet, node)) = start().await else { return };
    let transport = node.identity(&[8; 32]);
    let mut listener = transport.listen().await.unwrap();
    let mut peer = NodePeer::start("dial", &testnet, &[&hex(transport.local_key())]);
    timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().refuse();
    assert!(peer.line().await.starts_with("error"));
}

#[tokio::test]
async fn a_silent_session_is_kept_alive() {
    let Some((testnet, node)) = start().await else { return };
    let transport = node.identity(&[11; 32]);
    let mut listener = transport.listen().await.unwrap();
    let mut peer = NodePeer::start("idle", &testnet, &[&hex(transport.local_key())]);
    let session = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let _session = session.accept().await.unwrap();
    assert!(peer.line().await.starts_with("open"));
    assert_eq!(peer.line().await, "kept alive 17");
}

#[tokio::test]
async fn a_node_server_that_was_killed_is_missed_and_found_again() {
    let Some((testnet, node)) = start().await else { return };
    let transport = node.identity(&[12; 32]);
    let seed = "0d".repeat(32);
    let mut peer = NodePeer::start("serve", &testnet, &[&seed]);
    assert!(peer.line().await.starts_with("listening"));
    let key = hyperdht_rs::peeroxide::public_key(&[13; 32]);
    let mut session = timeout(PATIENCE, transport.dial(key)).await.unwrap().unwrap();
    peer.process.kill().await.unwrap();
    let end = timeout(PATIENCE, session.rx.next()).await.unwrap().unwrap();
    assert_eq!(end.unwrap_err().kind(), ErrorKind::Closed);
    assert!(session.tx.send("hello?".into()).await.is_err());
    let absent = timeout(PATIENCE, transport.dial(key)).await.unwrap().unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::Unreachable);

    let mut peer = NodePeer::start("serve", &testnet, &[&seed]);
    assert!(peer.line().await.starts_with("listening"));
    let mut session = timeout(PATIENCE, transport.dial(key)).await.unwrap().unwrap();
    session.tx.send("hello".into()).await.unwrap();
    assert_eq!(next(&mut session).await, "hello");
}

#[tokio::test]
async fn a_node_server_is_reached_by_us() {
    let Some((testnet, node)) = start().await else { return };
    let transport = node.identity(&[9; 32]);
    let seed = "0a".repeat(32);
    let mut peer = NodePeer::start("serve", &testnet, &[&seed]);
    let line = peer.line().await;
    let key: PublicKey = line.strip_prefix("listening ").unwrap().parse().unwrap();
    assert_eq!(key, hyperdht_rs::peeroxide::public_key(&[10; 32]));
    for _ in 0..2 {
        let began = Instant::now();
        let mut session = timeout(PATIENCE, transport.dial(key)).await.unwrap().unwrap();
        eprintln!("node server: dialled in {:?}", began.elapsed());
        for size in SIZES {
            let message = Bytes::from(vec![3; size.parse().unwrap()]);
            session.tx.send(message.clone()).await.unwrap();
            assert_eq!(next(&mut session).await, message);
        }
        session.tx.close().await.unwrap();
        assert!(session.rx.next().await.is_none(), "the server ended in order");
        assert_eq!(peer.line().await, "closed");
    }
}

fn is_wanted() -> bool {
    let wanted = std::env::var_os("HYPERDHT_INTEROP").is_some_and(|wanted| wanted == "1");
    if !wanted {
        eprintln!("NOT RUN: needs HYPERDHT_INTEROP=1 and `npm ci` in tests/interop");
    }
    wanted
}

async fn start() -> Option<(Testnet, Node)> {
    if !is_wanted() {
        return None;
    }
    let testnet = Testnet::start(3).await.unwrap();
    let node = join(testnet.bootstrap()).await;
    Some((testnet, node))
}

async fn join(bootstrap: Vec<SocketAddr>) -> Node {
    let bootstrap = Bootstrap::Nodes(bootstrap);
    let options = NodeOptions { bootstrap, host: Ipv4Addr::LOCALHOST, port: Some(0) };
    Node::start(options).await.unwrap()
}

async fn next(session: &mut Session) -> Bytes {
    timeout(PATIENCE, session.rx.next()).await.unwrap().unwrap().unwrap()
}

fn hex(key: PublicKey) -> String {
    key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A run of `hyperdht-echo.mjs`; killed when dropped.
struct NodePeer {
    lines: Lines<BufReader<ChildStdout>>,
    process: Child,
}

impl NodePeer {
    fn start(role: &str, testnet: &Testnet, arguments: &[&str]) -> Self {
        let bootstrap: Vec<_> = testnet.bootstrap().iter().map(SocketAddr::to_string).collect();
        Self::spawn(&[&[role, &bootstrap.join(",")], arguments].concat())
    }

    fn spawn(arguments: &[&str]) -> Self {
        let mut process = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/hyperdht-echo.mjs"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { lines, process }
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap().unwrap()
    }
}
