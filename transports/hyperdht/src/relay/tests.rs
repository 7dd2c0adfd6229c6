//! A relay of ours and clients that speak its protocol, on 127.0.0.1.

mod failures;
mod lies;

use std::time::Duration;

use hyperdht_proto::blind_relay::{Message, Pair};
use tokio::time::timeout;

use super::{client::Relayed, *};
use crate::{
    KeyPair, Node, Testnet,
    udx::{Firewall, UdxStream, Verdict},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn pair(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n; 32])
}

async fn stage(limits: RelayLimits) -> (Testnet, [Node; 2], Node, RelayServer) {
    let testnet = Testnet::start(3).await.unwrap();
    let nodes = [testnet.join().await.unwrap(), testnet.join().await.unwrap()];
    let host = testnet.join().await.unwrap();
    let relay = RelayServer::start(&host, pair(200), limits).await.unwrap();
    (testnet, nodes, host, relay)
}

fn stream(node: &Node) -> UdxStream {
    node.shared().open_stream(|| Firewall::new(|_| Verdict::Accept)).unwrap()
}

async fn join(node: &Node, relay: &RelayServer, pair: Pair) -> Result<Relayed, RelayError> {
    let joining = Relayed::join(node.shared(), relay.public_key(), pair);
    timeout(PATIENCE, joining).await.unwrap()
}

/// Two streams that a relay has joined.
async fn joined(nodes: &[Node; 2], relay: &RelayServer, token: u8) -> [(UdxStream, Relayed); 2] {
    let streams = [stream(&nodes[0]), stream(&nodes[1])];
    let ask = |index: usize| Pair {
        initiator: index == 0,
        token: [token; 32],
        stream_id: streams[index].id(),
    };
    let (first, second) =
        tokio::join!(join(&nodes[0], relay, ask(0)), join(&nodes[1], relay, ask(1)));
    let relayed = [first.unwrap(), second.unwrap()];
    for (stream, relayed) in streams.iter().zip(&relayed) {
        stream.connect_path(relayed.path, relayed.remote_id).unwrap();
    }
    let [a, b] = streams;
    let [c, d] = relayed;
    [(a, c), (b, d)]
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(2 * PATIENCE, waiting).await.expect("it comes true");
}

#[tokio::test]
async fn a_relay_joins_two_streams_and_counts_what_it_carries() {
    let (_net, nodes, _host, relay) = stage(RelayLimits::default()).await;
    let [(mut a, link_a), (mut b, link_b)] = joined(&nodes, &relay, 1).await;
    let began = std::time::Instant::now();
    a.write_frame(vec![1; 300_000].into()).await.unwrap();
    b.write_frame(vec![2; 10].into()).await.unwrap();
    let read = async { (b.read().await.unwrap().unwrap(), a.read().await.unwrap().unwrap()) };
    let (at_b, at_a) = timeout(PATIENCE, read).await.unwrap();
    assert!(at_b == vec![1; 300_000] && at_a == vec![2; 10]);
    // Whoever came first has waited for no timeout.
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    until(|| relay.counters().relayed_bytes > 300_000).await;
    let counters = relay.counters();
    assert_eq!((counters.matched, counters.sessions, counters.clients), (1, 1, 2));

    // The sides leave; what they held is free again ten seconds later.
    drop((link_a, link_b));
    until(|| relay.counters().clients == 0).await;
    assert_eq!(relay.counters().sessions, 1);
}

#[tokio::test]
async fn who_finds_no_partner_and_who_is_one_too_many_is_told() {
    let limits =
        RelayLimits { pending: 1, pair_timeout: Duration::from_secs(1), ..Default::default() };
    let (_net, nodes, _host, relay) = stage(limits).await;
    let ask = |token: u8| Pair { initiator: true, token: [token; 32], stream_id: 5 };
    let (first, second) =
        tokio::join!(join(&nodes[0], &relay, ask(1)), join(&nodes[1], &relay, ask(2)));
    assert_eq!(
        (first.unwrap_err(), second.unwrap_err()),
        (RelayError::Refused, RelayError::Refused)
    );
    let counters = relay.counters();
    assert_eq!((counters.expired, counters.refused, counters.pending), (1, 1, 0));
}

#[tokio::test]
async fn a_session_that_has_carried_its_share_ends_for_both() {
    let limits = RelayLimits { session_bytes: 100_000, ..Default::default() };
    let (_net, nodes, _host, relay) = stage(limits).await;
    let [(mut a, _link_a), (mut b, _link_b)] = joined(&nodes, &relay, 1).await;
    // The relay knows a side by its first packet.
    b.write_frame(vec![1; 10].into()).await.unwrap();
    a.write_frame(vec![1; 200_000].into()).await.unwrap();
    // It may end in the middle.
    let _ = timeout(PATIENCE, b.read()).await.unwrap();
    let ends = async { (a.closed().await, b.closed().await) };
    let ends = timeout(PATIENCE, ends).await.unwrap();
    assert!(ends.0.is_err() && ends.1.is_err(), "{ends:?}");
    let bytes = EndReason::ALL.iter().position(|reason| *reason == EndReason::Bytes).unwrap();
    assert_eq!(relay.counters().ended[bytes], 1);
}

#[tokio::test]
async fn a_relay_that_stops_ends_its_sessions() {
    let (_net, nodes, _host, relay) = stage(RelayLimits::default()).await;
    let [(mut a, mut link_a), (mut b, _link_b)] = joined(&nodes, &relay, 1).await;
    a.write_frame(vec![1; 10].into()).await.unwrap();
    b.write_frame(vec![1; 10].into()).await.unwrap();
    timeout(PATIENCE, async { (a.read().await.unwrap(), b.read().await.unwrap()) }).await.unwrap();
    timeout(PATIENCE, relay.shutdown()).await.unwrap();
    let ends = async { (a.closed().await, b.closed().await, link_a.ended().await) };
    let ends = timeout(PATIENCE, ends).await.unwrap();
    assert!(ends.0.is_err() && ends.1.is_err(), "{ends:?}");
}

/// A server that is no relay, or a bad one, and answers the channel as `answer` says.
async fn impostor(
    net: &Testnet,
    answer: impl Fn(&mut channel::Channel, Pair) -> bool + Send + 'static,
) -> (Node, hyperdht_proto::keys::PublicKey) {
    let host = net.join().await.unwrap();
    let mut server = host.listen(pair(201)).await.unwrap();
    let key = server.public_key();
    tokio::spawn(async move {
        let incoming = server.accept().await.unwrap();
        let peer = incoming.peer();
        let mut connection = incoming.accept().await.unwrap();
        let mut channel = channel::Channel::open(peer);
        loop {
            let Ok(Some(frame)) = connection.recv().await else { return };
            channel.receive(frame).unwrap();
            while let Some(arrival) = channel.poll().unwrap() {
                let channel::Arrival::Message(Message::Pair(pair)) = arrival else { return };
                loop {
                    let again = answer(&mut channel, pair);
                    while let Some(frame) = channel.poll_transmit() {
                        if connection.send(frame).await.is_err() {
                            return;
                        }
                    }
                    if !again {
                        break;
                    }
                }
            }
        }
    });
    (host, key)
}

#[tokio::test]
async fn a_relay_that_floods_is_left_alone() {
    let net = Testnet::start(3).await.unwrap();
    let node = net.join().await.unwrap();
    let (_host, key) = impostor(&net, |channel, pair| {
        channel.send(&Message::Pair(Pair { token: [9; 32], ..pair }));
        true
    })
    .await;
    let ask = Pair { initiator: true, token: [1; 32], stream_id: 5 };
    let joining = Relayed::join(node.shared(), key, ask);
    assert_eq!(timeout(PATIENCE, joining).await.unwrap().unwrap_err(), RelayError::Misbehaved);
}

#[tokio::test]
async fn a_server_that_is_no_relay_or_not_there_is_told_as_such() {
    let net = Testnet::start(3).await.unwrap();
    let node = net.join().await.unwrap();
    let ask = Pair { initiator: true, token: [1; 32], stream_id: 5 };
    let nobody = Relayed::join(node.shared(), pair(99).public_key(), ask).await.unwrap_err();
    assert!(matches!(nobody, RelayError::Unreachable(_)), "{nobody}");
    let (_host, key) = impostor(&net, |channel, _| {
        channel.close();
        false
    })
    .await;
    let joining = Relayed::join(node.shared(), key, ask);
    assert_eq!(timeout(PATIENCE, joining).await.unwrap().unwrap_err(), RelayError::Refused);
}
