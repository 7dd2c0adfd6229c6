//! Two peers end up with one connection, however they came to two. On 127.0.0.1.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use bytes::Bytes;
use hyperdht_rs::{
    Connection, ConnectionPool, KeyPair, Node, Testnet,
    connection::ConnectionError,
    node::{AcceptError, ConnectError, Server},
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

/// Two key pairs, the lesser key first.
fn pairs() -> (KeyPair, KeyPair) {
    let (one, other) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
    if one.public_key() < other.public_key() { (one, other) } else { (other, one) }
}

/// A node with a pool that listens.
struct Side {
    node: Node,
    pool: ConnectionPool,
    server: Server,
}

impl Side {
    async fn start(testnet: &Testnet, key_pair: KeyPair) -> Self {
        let node = testnet.join().await.unwrap();
        let pool = ConnectionPool::new(&node, key_pair);
        let server = pool.listen().await.unwrap();
        Self { node, pool, server }
    }

    async fn accept(&mut self) -> Result<Connection, AcceptError> {
        timeout(PATIENCE, self.server.accept()).await.unwrap().unwrap().accept().await
    }
}

async fn pass(from: &mut Connection, to: &mut Connection) {
    from.send(Bytes::from_static(b"still here")).await.unwrap();
    assert_eq!(timeout(PATIENCE, to.recv()).await.unwrap().unwrap().unwrap(), "still here");
}

/// How it ends, within the time.
async fn end(connection: &mut Connection) -> Result<Option<Bytes>, ConnectionError> {
    timeout(PATIENCE, connection.recv()).await.unwrap()
}

#[tokio::test]
async fn of_two_dials_that_cross_that_of_the_lesser_key_remains() {
    let testnet = Testnet::start(3).await.unwrap();
    let (lesser, greater) = pairs();
    let (lesser_key, greater_key) = (lesser.public_key(), greater.public_key());
    let mut lesser = Side::start(&testnet, lesser).await;
    let mut greater = Side::start(&testnet, greater).await;
    let (lesser_pool, greater_pool) = (lesser.pool.clone(), greater.pool.clone());
    // Both have begun before either hears of the other: all four are polled once first.
    let (kept, given_way, refused, taken) = tokio::join!(
        lesser_pool.connect(greater_key),
        greater_pool.connect(lesser_key),
        async {
            let incoming = timeout(Duration::from_secs(3), lesser.server.accept()).await;
            let Ok(Some(incoming)) = incoming else { return None };
            incoming.accept().await.err()
        },
        greater.accept(),
    );
    let (mut ours, mut theirs) = (kept.unwrap(), taken.unwrap());
    pass(&mut ours, &mut theirs).await;
    pass(&mut theirs, &mut ours).await;
    assert!(matches!(refused, None | Some(AcceptError::Duplicate | AcceptError::Gone)));
    match given_way {
        Err(error) => assert_eq!(error, ConnectError::Duplicate),
        // It had opened already; whichever side was quicker has ended it.
        Ok(mut connection) => {
            let end = end(&mut connection).await.unwrap_err();
            assert!(matches!(end, ConnectionError::Replaced | ConnectionError::Reset), "{end:?}");
        }
    }
    assert!(lesser.pool.contains(&greater_key) && greater.pool.contains(&lesser_key));
}

#[tokio::test]
async fn a_peer_that_dials_again_takes_the_place_of_its_older_connection() {
    let testnet = Testnet::start(3).await.unwrap();
    for (own, peer) in [pairs(), {
        let (a, b) = pairs();
        (b, a)
    }] {
        let mut side = Side::start(&testnet, own).await;
        let key = side.server.public_key();
        let client = testnet.join().await.unwrap();
        let (older_there, older) = tokio::join!(client.connect(&peer, key), side.accept());
        let (mut older_there, mut older) = (older_there.unwrap(), older.unwrap());
        let (there, here) = tokio::join!(client.connect(&peer, key), side.accept());
        let (mut there, mut here) = (there.unwrap(), here.unwrap());
        assert_eq!(end(&mut older).await, Err(ConnectionError::Replaced));
        assert_eq!(end(&mut older_there).await, Err(ConnectionError::Reset));
        pass(&mut there, &mut here).await;
        side.server.close().await;
        side.node.shutdown().await;
    }
}

#[tokio::test]
async fn the_greater_key_takes_in_a_peer_that_it_has_dialled_and_the_lesser_does_not() {
    let testnet = Testnet::start(3).await.unwrap();
    let (lesser, greater) = pairs();
    for (own, peer, takes) in [(&greater, &lesser, true), (&lesser, &greater, false)] {
        let mut side = Side::start(&testnet, own.clone()).await;
        let key = side.server.public_key();
        // The peer has no pool: it dials though it has a connection.
        let other = testnet.join().await.unwrap();
        let mut door = other.listen(peer.clone()).await.unwrap();
        let (older, older_there) = tokio::join!(side.pool.connect(peer.public_key()), async {
            door.accept().await.unwrap().accept().await
        });
        let (mut older, mut older_there) = (older.unwrap(), older_there.unwrap());
        let (there, here) = tokio::join!(other.connect(peer, key), side.accept());
        if takes {
            pass(&mut there.unwrap(), &mut here.unwrap()).await;
            assert_eq!(end(&mut older).await, Err(ConnectionError::Replaced));
        } else {
            assert_eq!(here.unwrap_err(), AcceptError::Duplicate);
            assert_eq!(end(&mut there.unwrap()).await, Err(ConnectionError::Reset));
            pass(&mut older, &mut older_there).await;
        }
        other.shutdown().await;
        side.server.close().await;
        side.node.shutdown().await;
    }
}

#[tokio::test]
async fn a_peer_is_dialled_once_until_its_connection_is_dropped() {
    let testnet = Testnet::start(3).await.unwrap();
    let (own, peer) = pairs();
    let node = testnet.join().await.unwrap();
    let pool = ConnectionPool::new(&node, own);
    let other = testnet.join().await.unwrap();
    let mut server = other.listen(peer).await.unwrap();
    let key = server.public_key();
    for _ in 0..2 {
        let (dialled, again, accepted) =
            tokio::join!(pool.connect(key), pool.connect(key), async {
                server.accept().await.unwrap().accept().await
            });
        assert_eq!(again.unwrap_err(), ConnectError::Duplicate);
        let (dialled, _accepted) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!(pool.connect(key).await.unwrap_err(), ConnectError::Duplicate);
        drop(dialled);
        assert!(!pool.contains(&key));
    }
    // A dial that is dropped leaves no trace, either.
    assert!(timeout(Duration::ZERO, pool.connect(key)).await.is_err());
    assert!(!pool.contains(&key));
}
