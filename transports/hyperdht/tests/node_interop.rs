//! Node's `hyperdht` and ours reach each other, in networks of either. Runs when HYPERDHT_INTEROP=1,
//! after `npm ci` in `tests/interop`.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stderr, reason = "a test that did not run has to say so")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyperdht_proto::rpc::{Message, Reply, Request};
use hyperdht_rs::{
    Bootstrap, Connection, ConnectionPool, KeyPair, Node, NodeOptions, PublicKey, Testnet,
    node::{ConnectError, Server},
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::UdpSocket,
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Sizes around those of a packet and of a scrape's body, and the longest that a frame holds.
const SIZES: [usize; 8] = [1, 1000, 1163, 10_000, 100_000, 1_000_000, 4_000_000, 16_777_198];

#[tokio::test]
async fn a_node_client_reaches_us_in_our_network() {
    let Some(net) = Network::ours().await else { return };
    echo_to_node(&net).await;
}

#[tokio::test]
async fn a_node_client_reaches_us_in_its_network() {
    let Some(net) = Network::theirs().await else { return };
    echo_to_node(&net).await;
}

#[tokio::test]
async fn we_reach_a_node_server_in_our_network() {
    let Some(net) = Network::ours().await else { return };
    echo_from_node(&net).await;
}

#[tokio::test]
async fn we_reach_a_node_server_in_its_network() {
    let Some(net) = Network::theirs().await else { return };
    echo_from_node(&net).await;
}

#[tokio::test]
async fn a_node_client_that_we_refuse_hears_nothing() {
    let Some(net) = Network::theirs().await else { return };
    let mut server = net.join().await.listen(pair(8)).await.unwrap();
    let mut peer = net.peer("dial", &[&hex(server.public_key())]);
    timeout(PATIENCE, server.accept()).await.unwrap().unwrap().refuse();
    assert_eq!(peer.line().await, "error PEER_CONNECTION_FAILED");
}

#[tokio::test]
async fn a_node_server_that_refuses_us_is_unreachable() {
    let Some(net) = Network::theirs().await else { return };
    let mut peer = net.peer("refuse", &[&"0a".repeat(32)]);
    let key = peer.key("listening").await;
    let refused = net.join().await.connect(&pair(1), key).await.unwrap_err();
    assert_eq!(refused.to_string(), "the server did not answer");
    assert_eq!(peer.line().await, format!("refused {}", hex(pair(1).public_key())));
}

#[tokio::test]
async fn of_two_dials_that_cross_node_and_we_keep_the_same() {
    // Two keys of ours that are less than Node's, and two that are greater.
    for seed in [20, 23, 21, 26] {
        let Some(net) = Network::theirs().await else { return };
        let own = pair(seed);
        let ours = own.public_key();
        let pool = ConnectionPool::new(&net.join().await, own);
        let mut server = pool.listen().await.unwrap();
        let mut peer = net.peer("pool", &[&"18".repeat(32), &hex(ours)]);
        let theirs = peer.key("listening").await;
        peer.write_line("dial").await;
        assert_eq!(peer.line().await, "dialling");
        // Ours begins before the other is taken in.
        let taking = tokio::spawn(async move { server.accept().await.unwrap().accept().await });
        let dialled = pool.connect(theirs).await;
        let mut kept =
            if ours < theirs { dialled.unwrap() } else { taking.await.unwrap().unwrap() };
        echo(&mut kept, 1000).await;
        assert!(pool.contains(&theirs));
    }
}

#[tokio::test]
async fn announcements_are_found_across() {
    for net in [Network::ours().await, Network::theirs().await] {
        let Some(net) = net else { return };
        let (node, topic) = (net.join().await, [7; 32]);
        let mut peer = net.peer("announce", &[&hex_bytes(&topic), &"0b".repeat(32)]);
        let theirs = peer.key("announced").await;
        assert!(node.announce(topic, &pair(12), Vec::new()).await.unwrap() > 0);
        let ours = pair(12).public_key();
        let both = |keys: &[PublicKey]| keys.contains(&ours) && keys.contains(&theirs);
        assert!(both(&looked_up(&node, topic).await));
        let found = net.peer("lookup", &[&hex_bytes(&topic)]).line().await;
        assert!(found.contains(&hex(ours)) && found.contains(&hex(theirs)), "{found}");
        node.unannounce(topic, &pair(12)).await.unwrap();
        assert!(!looked_up(&node, topic).await.contains(&ours));
    }
}

#[tokio::test]
async fn records_are_read_across() {
    for net in [Network::ours().await, Network::theirs().await] {
        let Some(net) = net else { return };
        let node = net.join().await;
        let stored = net.peer("put", &[&"0d".repeat(32), "3", "theirs"]).line().await;
        let mut words = stored.split(' ').skip(1).map(fixed);
        let (hash, key) = (words.next().unwrap(), PublicKey::from_bytes(words.next().unwrap()));
        assert_eq!(node.immutable_get(hash).await.unwrap().as_deref(), Some(&b"theirs"[..]));
        let record = node.mutable_get(key, 0).await.unwrap().unwrap();
        assert_eq!((record.seq, &record.value[..]), (3, &b"theirs"[..]));

        let ours = Bytes::from_static(b"ours");
        assert!(node.immutable_put(ours.clone()).await.unwrap() > 0);
        assert!(node.mutable_put(&pair(14), 5, ours.clone()).await.unwrap() > 0);
        let hash = hyperdht_proto::hash::hash(&[&ours]);
        let key = hex(pair(14).public_key());
        let mut peer = net.peer("get", &[&hex_bytes(&hash), &key]);
        assert_eq!(peer.line().await, "immutable ours");
        assert_eq!(peer.line().await, "mutable 5 ours");
    }
}

#[tokio::test]
async fn requests_to_plugins_and_unknown_ones_meet_what_they_meet_at_node() {
    let mut met = Vec::new();
    for net in [Network::ours().await, Network::theirs().await] {
        let Some(net) = net else { return };
        met.push(timeout(PATIENCE, probe_commands(net.bootstrap[0])).await.unwrap());
    }
    assert_eq!(met[0], met[1]);
    // Plugins that a node does not have: silence. A command that nobody has: error 1.
    assert_eq!(met[0], [(3, 1), (4, 0)]);
}

/// Sends requests to a node of the network, the last of which is answered in any case; gives the
/// numbers of those that were answered, and with which errors.
async fn probe_commands(bootstrap: SocketAddr) -> Vec<(u16, u64)> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let find_node = ask(&socket, bootstrap, true, 2, 9, None).await;
    let node = (find_node.closer_nodes.into_iter())
        .map(SocketAddr::from)
        .find(|node| *node != bootstrap)
        .unwrap();
    let plugin = Bytes::from_static(b"\x04name\x01\x00\x00");
    send(&socket, node, false, 10, 0, None).await;
    send(&socket, node, false, 10, 1, Some(Bytes::from_static(b"\xff"))).await;
    send(&socket, node, false, 10, 2, Some(plugin)).await;
    send(&socket, node, false, 11, 3, None).await;
    send(&socket, node, false, 3, 4, None).await;
    let mut answered = Vec::new();
    while !answered.iter().any(|(tid, _)| *tid == 4) {
        let reply = receive(&socket).await;
        answered.push((reply.tid, reply.error));
    }
    answered.sort_unstable();
    answered
}

async fn ask(
    socket: &UdpSocket,
    to: SocketAddr,
    internal: bool,
    command: u64,
    tid: u16,
    value: Option<Bytes>,
) -> Reply {
    send(socket, to, internal, command, tid, value).await;
    receive(socket).await
}

async fn send(
    socket: &UdpSocket,
    to: SocketAddr,
    internal: bool,
    command: u64,
    tid: u16,
    value: Option<Bytes>,
) {
    let SocketAddr::V4(addr) = to else { panic!("{to}") };
    let request = Request {
        tid,
        to: addr,
        id: None,
        token: None,
        internal,
        command,
        target: Some([7; 32]),
        value,
    };
    socket.send_to(&request.encode(), to).await.unwrap();
}

async fn receive(socket: &UdpSocket) -> Reply {
    let mut buffer = [0; 2048];
    let (len, _) = socket.recv_from(&mut buffer).await.unwrap();
    match Message::decode(&buffer[..len]) {
        Ok(Message::Reply(reply)) => reply,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_of_ours_is_found_again_after_its_restart() {
    let Some(net) = Network::theirs().await else { return };
    for _ in 0..2 {
        let node = net.join().await;
        let serving = tokio::spawn(serve(node.listen(pair(5)).await.unwrap(), 1));
        let key = hex(pair(5).public_key());
        let mut peer = net.peer("dial", &[&key, "10"]);
        assert!(peer.line().await.starts_with("open "));
        assert!(peer.line().await.starts_with("echoed 10 "));
        assert_eq!(peer.line().await, "closed");
        serving.await.unwrap();
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_node_server_is_found_again_after_its_restart() {
    let Some(net) = Network::theirs().await else { return };
    let node = net.join().await;
    for _ in 0..2 {
        // Killed without a word: nodes still hold its last announcement.
        let mut peer = net.peer("serve", &[&"0e".repeat(32)]);
        let key = peer.key("listening").await;
        let mut connection = node.connect(&pair(1), key).await.unwrap();
        echo(&mut connection, 10).await;
        drop(peer);
        let ended = timeout(Duration::from_secs(16), connection.recv()).await;
        let ended = ended.expect("a dead peer is noticed within 15 seconds");
        assert!(ended.is_err() || ended.is_ok_and(|end| end.is_none()));
    }
}

#[tokio::test]
async fn a_crowd_of_node_clients_is_served() {
    let Some(net) = Network::ours().await else { return };
    let node = net.join().await;
    let server = node.listen(pair(6)).await.unwrap();
    let key = hex(server.public_key());
    let serving = tokio::spawn(serve(server, usize::MAX));
    assert_eq!(net.peer("crowd", &[&key, "200"]).line().await, "all 200");
    serving.abort();
}

async fn echo_to_node(net: &Network) {
    let node = net.join().await;
    let server = node.listen(pair(7)).await.unwrap();
    let key = hex(server.public_key());
    let serving = tokio::spawn(serve(server, 2));
    let sizes = SIZES.map(|size| size.to_string());
    let arguments: Vec<&str> = [&key].into_iter().chain(&sizes).map(String::as_str).collect();
    for _ in 0..2 {
        let mut peer = net.peer("dial", &arguments);
        let line = peer.line().await;
        assert!(line.starts_with("open "), "{line}");
        eprintln!("node client: {line} ms");
        for size in SIZES {
            let line = peer.line().await;
            assert!(line.starts_with(&format!("echoed {size} {} ", hash_of(size))), "{line}");
            eprintln!("node client: echoed {size} in {} ms", line.rsplit(' ').next().unwrap());
        }
        assert_eq!(peer.line().await, "closed");
    }
    serving.await.unwrap();
}

async fn echo_from_node(net: &Network) {
    let node = net.join().await;
    let mut peer = net.peer("serve", &[&"0a".repeat(32)]);
    let key = peer.key("listening").await;
    assert_eq!(key, pair(10).public_key());
    for _ in 0..2 {
        let began = Instant::now();
        let mut connection = node.connect(&pair(9), key).await.unwrap();
        eprintln!("we: open in {:?}", began.elapsed());
        for size in SIZES {
            let began = Instant::now();
            echo(&mut connection, size).await;
            eprintln!("we: echoed {size} in {:?}", began.elapsed());
        }
        connection.finish().await.unwrap();
        assert_eq!(connection.recv().await, Ok(None), "the server ends in order");
        assert_eq!(peer.line().await, "closed");
    }
    let nobody: Result<_, ConnectError> = node.connect(&pair(9), pair(99).public_key()).await;
    assert_eq!(nobody.unwrap_err().to_string(), "no node knows the server");
}

/// Echoes what comes in on so many connections.
async fn serve(mut server: Server, connections: usize) {
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let Some(incoming) = server.accept().await else { break };
        running.spawn(async move {
            let mut connection = incoming.accept().await.unwrap();
            while let Some(message) = connection.recv().await.unwrap() {
                connection.send(message).await.unwrap();
            }
            let _ = connection.finish().await;
        });
    }
    running.join_all().await;
}

async fn echo(connection: &mut Connection, size: usize) {
    let message = pattern(size);
    connection.send(message.clone()).await.unwrap();
    let echo = timeout(PATIENCE, connection.recv()).await.unwrap().unwrap().unwrap();
    assert!(echo == message, "{} bytes came back for {size}", echo.len());
}

async fn looked_up(node: &Node, topic: [u8; 32]) -> Vec<PublicKey> {
    let found = node.lookup(topic).await.unwrap();
    found.iter().flat_map(|at| &at.peers).map(|peer| peer.public_key).collect()
}

/// A network of our nodes or of theirs.
struct Network {
    bootstrap: Vec<SocketAddr>,
    _ours: Option<Testnet>,
    _theirs: Option<NodePeer>,
}

impl Network {
    async fn ours() -> Option<Self> {
        wanted()?;
        let testnet = Testnet::start(4).await.unwrap();
        Some(Self { bootstrap: testnet.bootstrap(), _ours: Some(testnet), _theirs: None })
    }

    async fn theirs() -> Option<Self> {
        wanted()?;
        let mut peer = NodePeer::start(&["testnet", "4"]);
        let line = peer.line().await;
        let bootstrap = line.strip_prefix("ready ").unwrap().parse().unwrap();
        Some(Self { bootstrap: vec![bootstrap], _ours: None, _theirs: Some(peer) })
    }

    async fn join(&self) -> Node {
        let options = NodeOptions {
            bootstrap: Bootstrap::Nodes(self.bootstrap.clone()),
            host: Ipv4Addr::LOCALHOST,
            port: Some(0),
            ..NodeOptions::default()
        };
        Node::start(options).await.unwrap()
    }

    fn peer(&self, role: &str, arguments: &[&str]) -> NodePeer {
        let bootstrap: Vec<_> = self.bootstrap.iter().map(SocketAddr::to_string).collect();
        NodePeer::start(&[&[role, &bootstrap.join(",")], arguments].concat())
    }
}

fn wanted() -> Option<()> {
    if std::env::var_os("HYPERDHT_INTEROP").is_some_and(|wanted| wanted == "1") {
        return Some(());
    }
    eprintln!("NOT RUN: the interop test needs HYPERDHT_INTEROP=1 and `npm ci` in tests/interop");
    None
}

/// A run of `hyperdht-peer.mjs`; killed when dropped.
struct NodePeer {
    lines: Lines<BufReader<ChildStdout>>,
    stdin: ChildStdin,
    _process: Child,
}

impl NodePeer {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/hyperdht-peer.mjs"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { lines, stdin: process.stdin.take().unwrap(), _process: process }
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap().unwrap()
    }

    async fn write_line(&mut self, line: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The key behind this word.
    async fn key(&mut self, word: &str) -> PublicKey {
        let line = self.line().await;
        PublicKey::from_bytes(fixed(line.strip_prefix(word).unwrap().trim()))
    }
}

fn pair(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n; 32])
}

/// The bytes that the Node peer sends.
fn pattern(size: usize) -> Bytes {
    (0..size).map(|at| u8::try_from((at * 31 + (at >> 8)) & 255).unwrap()).collect()
}

fn hash_of(size: usize) -> String {
    hex_bytes(&Sha256::digest(pattern(size)))
}

fn hex(key: PublicKey) -> String {
    hex_bytes(key.as_bytes())
}

fn hex_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fixed(hex: &str) -> [u8; 32] {
    dht_prom_transport::decode_key(hex).unwrap()
}
