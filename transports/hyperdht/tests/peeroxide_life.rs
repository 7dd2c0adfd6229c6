//! Nodes and identities come and go on a local DHT.

#![cfg(feature = "peeroxide")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use dht_prom_transport::{ErrorKind, Listener, Session, Transport};
use futures_util::{SinkExt, StreamExt};
use hyperdht_rs::peeroxide::{Bootstrap, HyperDht, Node, NodeOptions, Testnet, public_key};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn identities_share_a_node_and_stop_one_by_one() {
    let (testnet, dialler) = start().await;
    let node = join(&testnet).await;
    let (first, second) = (node.identity(&[1; 32]), node.identity(&[2; 32]));
    let mut first_listener = first.listen().await.unwrap();
    let mut second_listener = second.listen().await.unwrap();
    meet(&dialler, &first, &mut *first_listener).await;
    let mut session = meet(&dialler, &second, &mut *second_listener).await;
    first.shutdown().await;
    assert_eq!(first_listener.accept().await.unwrap_err().kind(), ErrorKind::Closed);
    let absent = dialler.dial(public_key(&[1; 32])).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    echo(&mut session).await;
}

#[tokio::test]
async fn identities_of_one_node_reach_each_other() {
    let (testnet, _) = start().await;
    let node = join(&testnet).await;
    let (first, second) = (node.identity(&[1; 32]), node.identity(&[2; 32]));
    let mut listener = second.listen().await.unwrap();
    meet(&first, &second, &mut *listener).await;
}

#[tokio::test]
async fn a_peer_that_stopped_is_not_found_until_it_is_back() {
    let (testnet, dialler) = start().await;
    let key = public_key(&[3; 32]);
    for _ in 0..2 {
        let node = join(&testnet).await;
        let peer = node.identity(&[3; 32]);
        let mut listener = peer.listen().await.unwrap();
        let mut session = meet(&dialler, &peer, &mut *listener).await;
        node.shutdown().await;
        node.shutdown().await;
        assert!(session.rx.next().await.is_none(), "the peer ended the session in order");
        assert_eq!(dialler.dial(key).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn one_peer_dials_again_and_again() {
    let (testnet, dialler) = start().await;
    let node = join(&testnet).await;
    let peer = node.identity(&[4; 32]);
    let mut listener = peer.listen().await.unwrap();
    // More than the 64 that the crate's swarm takes in its life.
    for _ in 0..100 {
        meet(&dialler, &peer, &mut *listener).await;
    }
}

#[tokio::test]
async fn sessions_outlive_the_handles_of_their_node() {
    let (testnet, dialler) = start().await;
    let node = join(&testnet).await;
    let address = node.local_addr();
    let peer = node.identity(&[5; 32]);
    let mut listener = peer.listen().await.unwrap();
    let (mut dialled, mut accepted) = pair(&dialler, &peer, &mut *listener).await;
    drop((node, peer, listener));
    dialled.tx.send("still there?".into()).await.unwrap();
    assert_eq!(accepted.rx.next().await.unwrap().unwrap(), "still there?");
    drop(accepted);
    assert!(dialled.rx.next().await.is_none());
    let port_is_free = async {
        while UdpSocket::bind(address).is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, port_is_free).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_an_error_of_the_host() {
    let (testnet, _) = start().await;
    let node = join(&testnet).await;
    let port = Some(node.local_addr().port());
    let error = Node::start(NodeOptions { port, ..options(&testnet) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[tokio::test]
async fn a_node_that_reaches_nobody_does_not_start() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let options = NodeOptions {
        bootstrap: Bootstrap::Nodes(vec![silent.local_addr().unwrap()]),
        host: Ipv4Addr::LOCALHOST,
        port: Some(0),
    };
    let error = timeout(PATIENCE, Node::start(options)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

async fn start() -> (Testnet, HyperDht) {
    let testnet = Testnet::start(3).await.unwrap();
    let dialler = join(&testnet).await.identity(&[99; 32]);
    (testnet, dialler)
}

async fn join(testnet: &Testnet) -> Node {
    Node::start(options(testnet)).await.unwrap()
}

fn options(testnet: &Testnet) -> NodeOptions {
    NodeOptions {
        bootstrap: Bootstrap::Nodes(testnet.bootstrap()),
        host: Ipv4Addr::LOCALHOST,
        port: Some(0),
    }
}

async fn pair(
    dialler: &HyperDht,
    peer: &HyperDht,
    listener: &mut dyn Listener,
) -> (Session, Session) {
    let accept = async { listener.accept().await.unwrap().accept().await };
    let dial = dialler.dial(peer.local_key());
    let (dialled, accepted) =
        timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.unwrap();
    (dialled.unwrap(), accepted.unwrap())
}

/// The dialler's side of a session whose other side echoes.
async fn meet(dialler: &HyperDht, peer: &HyperDht, listener: &mut dyn Listener) -> Session {
    let (mut dialled, accepted) = pair(dialler, peer, listener).await;
    tokio::spawn(accepted.rx.forward(accepted.tx));
    echo(&mut dialled).await;
    dialled
}

async fn echo(session: &mut Session) {
    session.tx.send("hello".into()).await.unwrap();
    let echo = timeout(PATIENCE, session.rx.next()).await.unwrap();
    assert_eq!(echo.unwrap().unwrap(), "hello");
}
