//! Relays that read, change or swallow what they carry.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hyperdht_proto::keys::PublicKey;

use super::*;
use crate::{
    Connection, NodeOptions,
    connection::ConnectionError,
    node::{AcceptError, ConnectError},
    relay::channel::Channel,
};

/// A client that has asked for its partner.
pub(super) struct Side {
    connection: Connection,
    channel: Channel,
    pub(super) pair: Pair,
}

impl Side {
    /// Waits until a client asks.
    async fn welcome(incoming: crate::node::Incoming) -> Option<Self> {
        let peer = incoming.peer();
        let mut connection = incoming.accept().await.ok()?;
        let mut channel = Channel::open(peer);
        loop {
            channel.receive(connection.recv().await.ok()??).unwrap();
            if let Some(arrival) = channel.poll().unwrap() {
                let channel::Arrival::Message(Message::Pair(pair)) = arrival else { return None };
                return Some(Self { connection, channel, pair });
            }
        }
    }

    /// Tells it that it is joined, by the stream of this id.
    pub(super) async fn answer(&mut self, stream_id: u32) {
        self.channel.send(&Message::Pair(Pair { stream_id, ..self.pair }));
        while let Some(frame) = self.channel.poll_transmit() {
            self.connection.send(frame).await.unwrap();
        }
    }
}

/// A relay that leaves two clients at a time, once both have asked, to `join`.
pub(super) async fn relay_that<F: Future<Output = ()> + Send + 'static>(
    net: &Testnet,
    join: impl Fn(Node, [Side; 2]) -> F + Send + 'static,
) -> (Node, PublicKey) {
    let host = net.join().await.unwrap();
    let mut server = host.listen(pair(202)).await.unwrap();
    let key = server.public_key();
    let node = host.clone();
    tokio::spawn(async move {
        loop {
            let mut sides = Vec::new();
            while sides.len() < 2 {
                let Some(incoming) = server.accept().await else { return };
                sides.extend(Side::welcome(incoming).await);
            }
            tokio::spawn(join(node.clone(), sides.try_into().ok().unwrap()));
        }
    });
    (host, key)
}

/// What a relay passes on in place of a frame.
type Twist = fn(usize, Bytes) -> Option<Bytes>;

/// A relay that ends the streams of two clients at itself, carries frames from one to the other as
/// `twist` says, and keeps a copy.
struct Liar {
    _host: Node,
    key: PublicKey,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Liar {
    async fn start(net: &Testnet, twist: Twist) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&seen);
        let carry = move |node, sides| Self::carry(node, sides, twist, Arc::clone(&copy));
        let (_host, key) = relay_that(net, carry).await;
        Self { _host, key, seen }
    }

    async fn carry(node: Node, sides: [Side; 2], twist: Twist, seen: Arc<Mutex<Vec<u8>>>) {
        let (mut streams, mut kept) = (Vec::new(), Vec::new());
        for mut side in sides {
            let firewall = || Firewall::connect_to_first(side.pair.stream_id);
            let stream = node.shared().open_stream(firewall).unwrap();
            side.answer(stream.id()).await;
            streams.push(stream);
            kept.push(side);
        }
        let (mut second, mut first) = (streams.pop().unwrap(), streams.pop().unwrap());
        for number in 0.. {
            let (frame, to) = tokio::select! {
                frame = first.read() => (frame, &mut second),
                frame = second.read() => (frame, &mut first),
            };
            let Ok(Some(frame)) = frame else { return };
            seen.lock().unwrap().extend_from_slice(&frame);
            if let Some(frame) = twist(number, frame.freeze())
                && to.write_frame(frame).await.is_err()
            {
                return;
            }
        }
    }
}

/// A node that goes through these relays only.
pub(super) async fn detoured(net: &Testnet, relays: &[PublicKey]) -> Node {
    let options = NodeOptions { relays: relays.to_vec(), direct: false, ..net.options() };
    Node::start(options).await.unwrap()
}

pub(super) type Both = (Result<Connection, ConnectError>, Result<Connection, AcceptError>);

/// Dials from one node to the other.
pub(super) async fn meet(client: &Node, server: &Node, seed: u8) -> Both {
    let mut listening = server.listen(pair(seed)).await.unwrap();
    let key = listening.public_key();
    let taking = async { listening.accept().await.unwrap().accept().await };
    let me = pair(100);
    let both = async { tokio::join!(client.connect(&me, key), taking) };
    timeout(3 * PATIENCE, both).await.expect("both sides come to an end")
}

pub(super) async fn echo(from: &mut Connection, to: &mut Connection, text: &'static str) {
    let saying = async {
        from.send(text.into()).await.unwrap();
        to.recv().await.unwrap().unwrap()
    };
    assert_eq!(timeout(PATIENCE, saying).await.expect("it arrives"), text);
}

#[tokio::test]
async fn a_relay_that_reads_all_it_carries_sees_no_plaintext() {
    let net = Testnet::start(3).await.unwrap();
    let liar = Liar::start(&net, |_, frame| Some(frame)).await;
    let (client, server) = (detoured(&net, &[liar.key]).await, detoured(&net, &[]).await);
    let (ours, theirs) = meet(&client, &server, 1).await;
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    let [there, back] =
        ["nobody but the server is to know this", "nor anybody but the client this"];
    echo(&mut ours, &mut theirs, there).await;
    echo(&mut theirs, &mut ours, back).await;
    let seen = liar.seen.lock().unwrap().clone();
    assert!(seen.len() > there.len() + back.len(), "all of it went through the relay");
    for text in [there, back] {
        // Not even a piece of it.
        let legible = text
            .as_bytes()
            .windows(8)
            .any(|piece| seen.windows(piece.len()).any(|part| part == piece));
        assert!(!legible, "the relay reads {text:?}");
    }
}

#[tokio::test]
async fn a_relay_that_changes_what_it_carries_ends_that_connection_and_no_other() {
    let (net, _, _relay_host, relay) = stage(RelayLimits::default()).await;
    // The first frames are headers.
    let liar = Liar::start(&net, |number, frame| {
        let mut frame = frame.to_vec();
        if number >= 2
            && let Some(last) = frame.last_mut()
        {
            *last ^= 1;
        }
        Some(frame.into())
    })
    .await;
    let server = detoured(&net, &[]).await;
    let honest = detoured(&net, &[relay.public_key()]).await;
    let (ours, theirs) = meet(&honest, &server, 1).await;
    let (mut good_ours, mut good_theirs) = (ours.unwrap(), theirs.unwrap());

    let lied_to = detoured(&net, &[liar.key]).await;
    let (ours, theirs) = meet(&lied_to, &server, 2).await;
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    ours.send("it will not arrive like this"[..].into()).await.unwrap();
    let end = timeout(PATIENCE, theirs.recv()).await.unwrap();
    assert!(matches!(end, Err(ConnectionError::Broken(_))), "{end:?}");
    assert!(timeout(PATIENCE, ours.recv()).await.unwrap().is_err());

    echo(&mut good_ours, &mut good_theirs, "still here").await;
}

#[tokio::test]
async fn a_relay_that_joins_us_with_an_impostor_is_told_from_the_peer() {
    let net = Testnet::start(3).await.unwrap();
    // Whoever has the token and the stream's id has not the handshake's keys.
    let liar = Liar::start(&net, |_, frame| Some(vec![7; frame.len()].into())).await;
    let (client, server) = (detoured(&net, &[liar.key]).await, detoured(&net, &[]).await);
    let (ours, theirs) = meet(&client, &server, 1).await;
    let (ours, theirs) = (ours.unwrap_err(), theirs.unwrap_err());
    let broken = matches!(ours, ConnectError::Ended(ConnectionError::Broken(_)))
        || matches!(theirs, AcceptError::Broken(_));
    assert!(broken, "{ours}, {theirs}");
}

#[tokio::test]
async fn a_relay_that_swallows_everything_fails_the_dial_and_is_not_named_again_at_once() {
    let (net, _, _relay_host, relay) = stage(RelayLimits::default()).await;
    let liar = Liar::start(&net, |_, _| None).await;
    let server = detoured(&net, &[]).await;
    let client = detoured(&net, &[liar.key, relay.public_key()]).await;
    let mut silent = 0;
    for seed in 1..10 {
        match meet(&client, &server, seed).await {
            (Ok(mut ours), Ok(mut theirs)) => echo(&mut ours, &mut theirs, "hello").await,
            (Err(ConnectError::Silent | ConnectError::Ended(_)), Err(AcceptError::Gone)) => {
                silent += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(silent <= 1, "the relay was named {silent} times");
}
