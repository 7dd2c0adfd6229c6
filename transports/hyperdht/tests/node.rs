//! Nodes of ours among each other, on 127.0.0.1.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use dht_prom_transport::Transport;
use hyperdht_rs::{
    Bootstrap, Connection, KeyPair, Node, NodeOptions, Testnet,
    node::{ListenError, Role, Server},
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

fn pair(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n; 32])
}

/// A connection from `client` to `server`, seen from both sides.
async fn join(client: &Node, n: u8, server: &mut Server) -> (Connection, Connection) {
    let key = server.public_key();
    let accept = async { server.accept().await.unwrap().accept().await.unwrap() };
    let own = pair(n);
    let both = async { tokio::join!(client.connect(&own, key), accept) };
    let (dialled, accepted) = timeout(PATIENCE, both).await.unwrap();
    (dialled.unwrap(), accepted)
}

async fn pass(from: &mut Connection, to: &mut Connection, message: &'static [u8]) {
    from.send(Bytes::from_static(message)).await.unwrap();
    assert_eq!(timeout(PATIENCE, to.recv()).await.unwrap().unwrap().unwrap(), message);
}

#[tokio::test]
async fn one_node_listens_on_several_keys() {
    let testnet = Testnet::start(3).await.unwrap();
    let (node, client) = (testnet.join().await.unwrap(), testnet.join().await.unwrap());
    let mut servers = Vec::new();
    for n in 10..14 {
        servers.push(node.listen(pair(n)).await.unwrap());
    }
    for server in &mut servers {
        let (mut ours, mut theirs) = join(&client, 1, server).await;
        assert_eq!((ours.peer(), theirs.peer()), (server.public_key(), pair(1).public_key()));
        pass(&mut ours, &mut theirs, b"there").await;
        pass(&mut theirs, &mut ours, b"back").await;
    }
    assert_eq!(node.listen(pair(10)).await.unwrap_err(), ListenError::KeyInUse);
}

#[tokio::test]
async fn a_key_that_moves_to_another_node_is_found_there_within_two_seconds() {
    let testnet = Testnet::start(4).await.unwrap();
    let client = testnet.join().await.unwrap();
    let before = testnet.join().await.unwrap();
    let mut server = before.listen(pair(2)).await.unwrap();
    let _connected = join(&client, 1, &mut server).await;

    let after = testnet.join().await.unwrap();
    let mut moved = after.listen(pair(2)).await.unwrap();
    let began = Instant::now();
    let (mut ours, mut theirs) = join(&client, 1, &mut moved).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    pass(&mut ours, &mut theirs, b"here").await;
}

#[tokio::test]
async fn a_peer_that_crashed_is_dialled_at_its_new_port_within_two_seconds_of_its_return() {
    let testnet = Testnet::start(4).await.unwrap();
    let ours = testnet.join().await.unwrap().identity(&[1; 32]);
    let options = testnet.options();
    // Its runtime is taken away under it: nobody is told anything.
    let crash = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (node, listener) = runtime.block_on(async {
            let node = Node::start(options).await.unwrap();
            let listener = node.identity(&[2; 32]).listen().await.unwrap();
            (node, listener)
        });
        runtime.shutdown_background();
        (node, listener)
    });
    let (crashed, _listener) = crash.await.unwrap();

    let returned = testnet.join().await.unwrap();
    assert_ne!(returned.local_addr(), crashed.local_addr());
    let theirs = returned.identity(&[2; 32]);
    let mut listener = theirs.listen().await.unwrap();
    let began = Instant::now();
    let accept = async { listener.accept().await.unwrap().accept().await.unwrap() };
    let (dialled, accepted) =
        timeout(PATIENCE, async { tokio::join!(ours.dial(theirs.local_key()), accept) })
            .await
            .unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((dialled.unwrap().peer, accepted.peer), (theirs.local_key(), ours.local_key()));
}

#[tokio::test]
async fn shutdown_takes_servers_back_and_ends_connections() {
    let testnet = Testnet::start(3).await.unwrap();
    let (node, client) = (testnet.join().await.unwrap(), testnet.join().await.unwrap());
    let mut server = node.listen(pair(3)).await.unwrap();
    assert_eq!(client.find_peer(pair(3).public_key()).await.unwrap().len(), 3);
    let (mut ours, _theirs) = join(&client, 1, &mut server).await;
    timeout(PATIENCE, node.shutdown()).await.unwrap();
    assert!(server.accept().await.is_none());
    let end = timeout(PATIENCE, ours.recv()).await.unwrap();
    assert!(end.is_err() || end.is_ok_and(|end| end.is_none()));
    assert!(client.find_peer(pair(3).public_key()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_listener_that_was_dropped_may_be_opened_again_at_once() {
    let testnet = Testnet::start(3).await.unwrap();
    let (node, client) = (testnet.join().await.unwrap(), testnet.join().await.unwrap());
    drop(node.listen(pair(4)).await.unwrap());
    let mut server = node.listen(pair(4)).await.unwrap();
    let _connected = join(&client, 1, &mut server).await;
}

#[tokio::test]
async fn topics_and_records_are_kept_by_our_nodes() {
    let testnet = Testnet::start(4).await.unwrap();
    let (a, b) = (testnet.join().await.unwrap(), testnet.join().await.unwrap());
    let topic = [5; 32];
    assert!(a.announce(topic, &pair(5), Vec::new()).await.unwrap() > 0);
    let known = |found: Vec<hyperdht_rs::node::Announcers>| {
        found.iter().flat_map(|at| &at.peers).any(|peer| peer.public_key == pair(5).public_key())
    };
    assert!(known(b.lookup(topic).await.unwrap()));
    a.unannounce(topic, &pair(5)).await.unwrap();
    assert!(!known(b.lookup(topic).await.unwrap()));

    let value = Bytes::from_static(b"value");
    a.immutable_put(value.clone()).await.unwrap();
    let hash = hyperdht_proto::hash::hash(&[&value]);
    assert_eq!(b.immutable_get(hash).await.unwrap(), Some(value.clone()));
    assert_eq!(b.immutable_get([9; 32]).await.unwrap(), None);

    for seq in 1..3 {
        a.mutable_put(&pair(6), seq, value.clone()).await.unwrap();
    }
    let latest = b.mutable_get(pair(6).public_key(), 0).await.unwrap().unwrap();
    assert_eq!((latest.seq, latest.value), (2, value.clone()));
    let stale = a.mutable_put(&pair(6), 1, value).await;
    assert_eq!(stale.unwrap_err().to_string(), "no node accepted the commit");
}

#[tokio::test]
async fn a_node_is_announced_within_200_ms_of_its_start() {
    let testnet = Testnet::start(4).await.unwrap();
    let began = Instant::now();
    let node = testnet.join().await.unwrap();
    let _server = node.listen(pair(7)).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_ephemeral_node_connects_and_answers_no_queries() {
    let testnet = Testnet::start(3).await.unwrap();
    let options = NodeOptions { role: Role::Ephemeral, ..testnet.options() };
    let node = Node::start(options).await.unwrap();
    let mut server = testnet.join().await.unwrap().listen(pair(8)).await.unwrap();
    let (mut ours, mut theirs) = join(&node, 1, &mut server).await;
    pass(&mut ours, &mut theirs, b"hello").await;

    let lonely =
        NodeOptions { bootstrap: Bootstrap::Nodes(vec![node.local_addr()]), ..testnet.options() };
    let lonely = Node::start(lonely).await.unwrap();
    assert!(lonely.lookup([1; 32]).await.is_ok());
}

#[tokio::test]
async fn what_was_sent_arrives_though_the_connection_is_dropped() {
    let testnet = Testnet::start(3).await.unwrap();
    let (node, client) = (testnet.join().await.unwrap(), testnet.join().await.unwrap());
    let mut server = node.listen(pair(9)).await.unwrap();
    let (mut ours, mut theirs) = join(&client, 1, &mut server).await;
    let message = Bytes::from(vec![7; 200_000]);
    ours.send(message.clone()).await.unwrap();
    drop(ours);
    assert_eq!(timeout(PATIENCE, theirs.recv()).await.unwrap(), Ok(Some(message)));
    assert_eq!(timeout(PATIENCE, theirs.recv()).await.unwrap(), Ok(None));
}
