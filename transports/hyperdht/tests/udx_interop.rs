//! Our streams against `udx-native`, live, over loopback and over a forwarder that drops packets.
//!
//! Runs when `HYPERDHT_INTEROP` is set, after `npm ci` in `tests/interop`; fails then if node is
//! missing.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "interop/forwarder.rs"]
mod forwarder;
#[path = "interop/peer.rs"]
mod peer;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use hyperdht_rs::udx::{
    AckPolicy, Config, Firewall, StreamError, StreamOptions, Udx, UdxSocket, UdxStream,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use self::{
    forwarder::{Forwarder, Impairment},
    peer::{Peer, hash, pattern},
};

/// Wraps a test: skips it loudly without the variable, and ends it after a minute.
macro_rules! interop {
    ($($name:ident => $test:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            if std::env::var_os("HYPERDHT_INTEROP").is_none() {
                eprintln!("SKIPPED {}: set HYPERDHT_INTEROP=1 after `npm ci` in tests/interop", stringify!($name));
                return;
            }
            timeout(Duration::from_secs(90), $test).await.expect("the test hangs");
        }
    )*};
}

interop! {
    bytes_of_any_length_arrive_unchanged_at_node => to_node_in_many_lengths();
    bytes_of_any_length_arrive_unchanged_from_node => from_node_in_many_lengths();
    sixteen_megabytes_cross_both_ways_at_once => both_ways(16 * 1024 * 1024, Impairment::default(), Config::default());
    one_percent_loss_is_repaired_both_ways => both_ways(2 * 1024 * 1024, lossy(0.01), Config::default());
    five_percent_loss_is_repaired_both_ways => both_ways(1024 * 1024, lossy(0.05), Config::default());
    loss_is_repaired_with_an_ack_per_packet => both_ways(1024 * 1024, lossy(0.05), acks_each());
    reordering_and_copies_are_sorted_out => both_ways(1024 * 1024, Impairment { reordering: 0.1, duplication: 0.1, ..Impairment::default() }, Config::default());
    many_streams_share_a_socket => many_streams();
    whoever_ends_first_both_close_in_peace => ends();
    a_destroyed_stream_is_reset_at_the_other_side => destroys();
    unordered_messages_cross_both_ways => messages();
    heartbeats_are_answered_and_kept_up => heartbeats();
    the_path_is_found_to_carry_1500_bytes_by_both => mtu();
    foreign_datagrams_go_aside => foreign();
    a_stream_moves_to_another_path => moves();
    a_relay_of_ours_joins_two_node_streams => relays();
}

fn lossy(loss: f64) -> Impairment {
    Impairment { loss, delay: Duration::from_millis(5), ..Impairment::default() }
}

fn acks_each() -> Config {
    Config { acks: AckPolicy::EveryPacket, ..Config::default() }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A stream of ours and the peer's, joined; the peer's id is ours plus 1000.
struct Pair {
    peer: Peer,
    udx: Udx,
    socket: UdxSocket,
    stream: UdxStream,
    _forwarder: Option<Forwarder>,
}

impl Pair {
    /// We speak first.
    async fn dial(mode: &str) -> Self {
        Self::through(mode, None, Config::default()).await
    }

    async fn through(mode: &str, impairment: Option<Impairment>, config: Config) -> Self {
        let mut peer = Peer::start();
        let port = peer.bind().await;
        let udx = Udx::new(config);
        let (socket, _) = udx.bind(loopback()).unwrap();
        let mut target = SocketAddr::from(([127, 0, 0, 1], port));
        let mut forwarder = None;
        if let Some(impairment) = impairment {
            let between = Forwarder::start(target, impairment).await;
            target = between.address();
            forwarder = Some(between);
        }
        peer.open(1001, 1, None, mode).await;
        let stream = udx.open(1, StreamOptions::default()).unwrap();
        stream.connect(&socket, 1001, target).unwrap();
        Self { peer, udx, socket, stream, _forwarder: forwarder }
    }

    /// Lets node learn where we are, so that it can write before we have written.
    async fn introduce(&mut self) {
        while self.stream.send_message(Bytes::new()).is_ok() {
            let connected = self.peer.event("connected", 1001);
            if timeout(Duration::from_millis(200), connected).await.is_ok() {
                return;
            }
        }
    }

    /// Node speaks first.
    async fn accept(mode: &str) -> Self {
        let mut peer = Peer::start();
        peer.bind().await;
        let udx = Udx::new(Config::default());
        let (socket, _) = udx.bind(loopback()).unwrap();
        let options = StreamOptions {
            firewall: Some(Firewall::connect_to_first(1001)),
            ..StreamOptions::default()
        };
        let stream = udx.open(1, options).unwrap();
        let port = socket.local_addr().port();
        peer.open(1001, 1, Some(port), mode).await;
        Self { peer, udx, socket, stream, _forwarder: None }
    }
}

const LENGTHS: [usize; 12] =
    [1, 50, 1131, 1132, 1133, 1152, 2284, 10_000, 65_536, 100_000, 1_000_000, 16 * 1024 * 1024];

async fn to_node_in_many_lengths() {
    for len in LENGTHS {
        let mut pair = Pair::dial("sink").await;
        let data = pattern(len, 7);
        pair.stream.write_all(&data).await.unwrap();
        pair.stream.finish().unwrap();
        let end = pair.peer.event("end", 1001).await;
        assert_eq!(end["len"], len);
        assert_eq!(end["hash"], hash(&data));
        pair.peer.command(json!({ "cmd": "end", "id": 1001 })).await;
        assert_eq!(pair.stream.closed().await, Ok(()));
    }
}

async fn from_node_in_many_lengths() {
    for len in LENGTHS {
        let mut pair = Pair::accept("sink").await;
        pair.peer.write(1001, len, 9, true).await;
        let mut data = Vec::new();
        pair.stream.read_to_end(&mut data).await.unwrap();
        assert_eq!(data.len(), len);
        assert!(data == pattern(len, 9), "bytes differ");
        assert_eq!(pair.peer.event("written", 1001).await["hash"], hash(&data));
        pair.stream.finish().unwrap();
        assert_eq!(pair.stream.closed().await, Ok(()));
        pair.peer.event("close", 1001).await;
    }
}

async fn both_ways(len: usize, impairment: Impairment, config: Config) {
    let mut pair = Pair::through("sink", Some(impairment), config).await;
    pair.introduce().await;
    pair.peer.write(1001, len, 3, true).await;
    let data = pattern(len, 5);
    let (mut reader, mut writer) = tokio::io::split(pair.stream);
    let reading = async {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).await.unwrap();
        data
    };
    let writing = async {
        writer.write_all(&data).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let (read, ()) = tokio::join!(reading, writing);
    assert_eq!(read.len(), len);
    assert!(read == pattern(len, 3), "bytes differ");
    let end = pair.peer.event("end", 1001).await;
    assert_eq!(end["hash"], hash(&data));
    pair.peer.event("close", 1001).await;
}

async fn many_streams() {
    let mut pair = Pair::dial("echo").await;
    let peer_addr = pair.stream.info().path.unwrap().peer;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 2..102 {
        pair.peer.open(1000 + n, n, None, "echo").await;
        let mut stream = pair.udx.open(n, StreamOptions::default()).unwrap();
        stream.connect(&pair.socket, 1000 + n, peer_addr).unwrap();
        tasks.spawn(async move {
            let data = pattern(20_000, n);
            stream.write_all(&data).await.unwrap();
            stream.finish().unwrap();
            let mut echoed = Vec::new();
            stream.read_to_end(&mut echoed).await.unwrap();
            assert!(echoed == data, "bytes differ");
            stream.closed().await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn ends() {
    // Ours first.
    let mut pair = Pair::dial("sink").await;
    pair.stream.write_all(b"x").await.unwrap();
    pair.stream.shutdown().await.unwrap();
    assert_eq!(pair.peer.event("end", 1001).await["len"], 1);
    pair.peer.command(json!({ "cmd": "end", "id": 1001 })).await;
    assert_eq!(pair.stream.read().await, Ok(None));
    assert_eq!(pair.stream.closed().await, Ok(()));
    pair.peer.event("close", 1001).await;
    // Theirs first, without a byte of data.
    let mut pair = Pair::accept("sink").await;
    pair.peer.command(json!({ "cmd": "end", "id": 1001 })).await;
    assert_eq!(pair.stream.read().await, Ok(None));
    pair.stream.write_all(b"late").await.unwrap();
    pair.stream.shutdown().await.unwrap();
    assert_eq!(pair.peer.event("end", 1001).await["len"], 4);
    assert_eq!(pair.stream.closed().await, Ok(()));
    pair.peer.event("close", 1001).await;
}

async fn destroys() {
    // Ours: dropping is destroying.
    let mut pair = Pair::dial("sink").await;
    pair.stream.write_all(b"x").await.unwrap();
    pair.stream.flushed().await.unwrap();
    drop(pair.stream);
    assert_eq!(pair.peer.event("error", 1001).await["code"], "ECONNRESET");
    // Theirs, with data under way.
    let mut pair = Pair::accept("sink").await;
    pair.peer.write(1001, 100, 1, false).await;
    let mut data = [0; 100];
    pair.stream.read_exact(&mut data).await.unwrap();
    pair.peer.command(json!({ "cmd": "destroy", "id": 1001 })).await;
    assert_eq!(pair.stream.read().await, Err(StreamError::Reset));
    assert_eq!(pair.stream.closed().await, Err(StreamError::Reset));
}

async fn messages() {
    let mut pair = Pair::dial("sink").await;
    for message in [&b"unordered"[..], b"", &[7; 1132]] {
        pair.stream.send_message(Bytes::copy_from_slice(message)).unwrap();
        let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(pair.peer.event("message", 1001).await["hex"], hex);
    }
    for message in ["00ff", ""] {
        pair.peer.command(json!({ "cmd": "send", "id": 1001, "hex": message })).await;
        let received = pair.stream.receive_message().await.unwrap();
        assert_eq!(received.len(), message.len() / 2);
    }
}

async fn heartbeats() {
    let mut pair = Pair::dial("sink").await;
    pair.stream.write_all(b"x").await.unwrap();
    pair.stream.flushed().await.unwrap();
    let before = pair.peer.stats(1001).await;
    // Ours: node answers each.
    let received = pair.stream.info().counts.packets_received;
    pair.stream.set_keep_alive(Some(Duration::from_millis(20)));
    while pair.stream.info().counts.packets_received < received + 5 {
        tokio::task::yield_now().await;
    }
    pair.stream.set_keep_alive(None);
    // Theirs: we answer each, or node would see nothing come back.
    pair.peer.command(json!({ "cmd": "keepalive", "id": 1001, "ms": 20 })).await;
    loop {
        let stats = pair.peer.stats(1001).await;
        let grown = |field: &str| stats[field].as_u64() >= before[field].as_u64().map(|n| n + 10);
        if grown("packetsReceived") && grown("packetsTransmitted") {
            break;
        }
    }
}

async fn mtu() {
    let mut pair = Pair::dial("sink").await;
    pair.introduce().await;
    // Ten sizes are tried, one per flight.
    for _ in 0..20 {
        pair.peer.write(1001, 50_000, 1, false).await;
        pair.stream.write_all(&pattern(50_000, 1)).await.unwrap();
        let mut data = vec![0; 50_000];
        pair.stream.read_exact(&mut data).await.unwrap();
        assert!(data == pattern(50_000, 1), "padding leaked into the bytes");
        pair.stream.flushed().await.unwrap();
    }
    assert_eq!(pair.stream.info().mtu, 1500);
    assert_eq!(pair.peer.stats(1001).await["mtu"], 1500);
}

async fn foreign() {
    let mut peer = Peer::start();
    let port = peer.bind().await;
    let udx = Udx::new(Config::default());
    let (socket, mut datagrams) = udx.bind(loopback()).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    socket.send_to(to, b"ping").await.unwrap();
    assert_eq!(peer.any("datagram").await["hex"], "70696e67");
    // A packet of a stream that we do not know is another protocol's too.
    peer.open(1001, 1, Some(socket.local_addr().port()), "sink").await;
    peer.write(1001, 3, 1, false).await;
    let datagram = datagrams.recv().await.unwrap();
    assert_eq!(datagram.from, to);
    assert_eq!(datagram.bytes.len(), 20 + 3);
}

async fn moves() {
    let mut pair = Pair::dial("sink").await;
    pair.stream.write_all(b"before").await.unwrap();
    pair.stream.flushed().await.unwrap();
    let (other, _) = pair.udx.bind(loopback()).unwrap();
    let peer = pair.stream.info().path.unwrap().peer;
    pair.stream.change_remote(&other, 1001, peer).await.unwrap();
    pair.peer
        .command(json!({ "cmd": "changeRemote", "id": 1001, "remoteId": 1, "port": other.local_addr().port() }))
        .await;
    pair.peer.event("remote-changed", 1001).await;
    // Only what travels between the new sockets can arrive now.
    drop(pair.socket);
    pair.stream.write_all(b" and after").await.unwrap();
    pair.stream.shutdown().await.unwrap();
    assert_eq!(pair.peer.event("end", 1001).await["len"], 16);
}

async fn relays() {
    let udx = Udx::new(Config::default());
    let (socket, _) = udx.bind(loopback()).unwrap();
    let mut peer = Peer::start();
    peer.bind().await;
    // Two streams of node, each joined to one of ours; ours forward to each other.
    let open = |id, remote_id| {
        let options = StreamOptions {
            firewall: Some(Firewall::connect_to_first(remote_id)),
            ..StreamOptions::default()
        };
        udx.open(id, options).unwrap()
    };
    let (left, right) = (open(1, 1001), open(2, 1002));
    left.relay_to(&right).unwrap();
    right.relay_to(&left).unwrap();
    let port = socket.local_addr().port();
    peer.open(1001, 1, Some(port), "sink").await;
    peer.open(1002, 2, Some(port), "sink").await;
    // Each must be heard of once before anything can be forwarded to it.
    peer.command(json!({ "cmd": "send", "id": 1001, "hex": "00" })).await;
    peer.command(json!({ "cmd": "send", "id": 1002, "hex": "00" })).await;
    left.connected().await.unwrap();
    right.connected().await.unwrap();
    peer.write(1001, 300_000, 4, true).await;
    let end = peer.event("end", 1002).await;
    assert_eq!(end["hash"], hash(&pattern(300_000, 4)));
    peer.command(json!({ "cmd": "destroy", "id": 1002 })).await;
    assert_eq!(peer.event("error", 1001).await["code"], "ECONNRESET");
}
