//! Nodes that are suspended and resumed, on 127.0.0.1.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyperdht_rs::{
    Connection, KeyPair, Node, Testnet,
    connection::ConnectionError,
    node::{ConnectError, QueryFailed, Server},
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

fn pair(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n; 32])
}

async fn join(client: &Node, server: &mut Server) -> (Connection, Connection) {
    let (own, key) = (pair(1), server.public_key());
    let accept = async { server.accept().await.unwrap().accept().await.unwrap() };
    let both = async { tokio::join!(client.connect(&own, key), accept) };
    let (dialled, accepted) = timeout(PATIENCE, both).await.unwrap();
    (dialled.unwrap(), accepted)
}

async fn suspend(node: &Node) {
    timeout(PATIENCE, node.suspend()).await.unwrap();
}

#[tokio::test]
async fn a_suspended_node_is_gone_and_a_resumed_one_is_reached_at_its_old_port_at_once() {
    let testnet = Testnet::start(3).await.unwrap();
    let (node, client) = (testnet.join().await.unwrap(), testnet.join().await.unwrap());
    let port = node.local_addr();
    let mut server = node.listen(pair(2)).await.unwrap();
    let (mut theirs, mut ours) = join(&client, &mut server).await;

    suspend(&node).await;
    assert_eq!(timeout(PATIENCE, ours.recv()).await.unwrap(), Err(ConnectionError::Closed));
    assert_eq!(timeout(PATIENCE, theirs.recv()).await.unwrap(), Err(ConnectionError::Reset));
    assert!(client.find_peer(pair(2).public_key()).await.unwrap().is_empty());
    // Once more is not too often.
    suspend(&node).await;

    node.resume();
    let resumed = Instant::now();
    while client.find_peer(pair(2).public_key()).await.unwrap().is_empty() {
        assert!(resumed.elapsed() < Duration::from_secs(2), "nobody finds it");
    }
    let (mut theirs, mut ours) = join(&client, &mut server).await;
    theirs.send(Bytes::from_static(b"back")).await.unwrap();
    assert_eq!(timeout(PATIENCE, ours.recv()).await.unwrap().unwrap().unwrap(), "back");
    assert_eq!(node.local_addr(), port);
}

#[tokio::test]
async fn a_suspended_node_neither_dials_nor_searches_and_ends_what_was_under_way() {
    let testnet = Testnet::start(3).await.unwrap();
    let (node, other) = (testnet.join().await.unwrap(), testnet.join().await.unwrap());
    // It is asked in and never answers.
    let mut silent = other.listen(pair(3)).await.unwrap();
    let (dial, key) = (node.clone(), silent.public_key());
    let dialling = tokio::spawn(async move { dial.connect(&pair(1), key).await });
    let _asks = timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();
    suspend(&node).await;
    assert_eq!(
        timeout(PATIENCE, dialling).await.unwrap().unwrap().unwrap_err(),
        ConnectError::Suspended
    );
    assert_eq!(node.connect(&pair(1), key).await.unwrap_err(), ConnectError::Suspended);
    assert_eq!(node.lookup([7; 32]).await.unwrap_err(), QueryFailed::Suspended);

    node.resume();
    assert!(!node.find_peer(key).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_suspended_node_can_be_shut_down() {
    let testnet = Testnet::start(3).await.unwrap();
    let node = testnet.join().await.unwrap();
    let mut server = node.listen(pair(4)).await.unwrap();
    suspend(&node).await;
    timeout(Duration::from_secs(2), node.shutdown()).await.unwrap();
    assert!(server.accept().await.is_none());
}
