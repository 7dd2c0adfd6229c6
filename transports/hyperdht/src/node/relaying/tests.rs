//! Connections over a relay of ours, on 127.0.0.1.

use hyperdht_proto::{
    blind_relay::Pair,
    keys::PublicKey,
    noise::{Initiator, Responder, SessionKeys},
};
use tokio::{net::UdpSocket, sync::oneshot};

use super::*;
use crate::{
    KeyPair, Node, NodeOptions, Server, Testnet,
    node::{AcceptError, ConnectError},
    relay::{RelayLimits, RelayServer},
    udx::SocketId,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// What a relay and the peers need to find each other.
struct Stage {
    testnet: Testnet,
    relay_host: Node,
    relay: RelayServer,
}

impl Stage {
    async fn new() -> Self {
        let testnet = Testnet::start(3).await.unwrap();
        let relay_host = testnet.join().await.unwrap();
        let relay = RelayServer::start(&relay_host, pair(200), RelayLimits::default());
        let relay = relay.await.unwrap();
        Self { testnet, relay_host, relay }
    }

    /// A node that goes through relays only, of which it names these.
    async fn join(&self, relays: &[PublicKey]) -> Node {
        let options =
            NodeOptions { relays: relays.to_vec(), direct: false, ..self.testnet.options() };
        Node::start(options).await.unwrap()
    }
}

fn pair(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n; 32])
}

/// Takes one connection in.
fn take(mut server: Server) -> tokio::task::JoinHandle<(Server, Result<Connection, AcceptError>)> {
    tokio::spawn(async move {
        let accepted = server.accept().await.unwrap().accept().await;
        (server, accepted)
    })
}

async fn say(from: &mut Connection, to: &mut Connection, text: &'static str) {
    let saying = async {
        from.send(text.into()).await.unwrap();
        to.recv().await.unwrap().unwrap()
    };
    assert_eq!(timeout(PATIENCE, saying).await.expect("it arrives"), text);
}

#[tokio::test]
async fn peers_meet_at_the_relay_that_either_of_them_names() {
    let stage = Stage::new().await;
    let named = [stage.relay.public_key()];
    let nobody = [pair(99).public_key()];
    let cases: [(&[_], &[_]); 3] = [(&named, &[]), (&[], &named), (&nobody, &named)];
    for (n, (clients, servers)) in (1..).zip(cases) {
        let (client, server) = (stage.join(clients).await, stage.join(servers).await);
        let server = server.listen(pair(n)).await.unwrap();
        let key = server.public_key();
        let taken = take(server);
        let me = pair(100);
        let mut ours = timeout(PATIENCE, client.connect(&me, key)).await.unwrap().unwrap();
        let (_server, theirs) = timeout(PATIENCE, taken).await.unwrap().unwrap();
        let mut theirs = theirs.unwrap();
        say(&mut ours, &mut theirs, "there").await;
        say(&mut theirs, &mut ours, "and back").await;
        assert_eq!(stage.relay.counters().matched, u64::from(n));
        assert_eq!(ours.remote_addr(), Some(stage.relay_host.local_addr()), "over the relay");
    }
}

#[tokio::test]
async fn no_relay_is_asked_where_the_direct_path_opens_at_once() {
    let stage = Stage::new().await;
    let relays = vec![stage.relay.public_key()];
    let options = NodeOptions { relays, firewalled: false, ..stage.testnet.options() };
    let (client, server) = (Node::start(options.clone()).await, Node::start(options).await);
    let (client, server) = (client.unwrap(), server.unwrap());
    let server = server.listen(pair(1)).await.unwrap();
    let key = server.public_key();
    let taken = take(server);
    let mut ours = timeout(PATIENCE, client.connect(&pair(2), key)).await.unwrap().unwrap();
    let (_server, theirs) = timeout(PATIENCE, taken).await.unwrap().unwrap();
    say(&mut ours, &mut theirs.unwrap(), "hello").await;
    assert_eq!(stage.relay.counters().clients, 0);
}

#[tokio::test]
async fn without_a_relay_and_without_direct_paths_there_is_no_connection() {
    let stage = Stage::new().await;
    let (client, server) = (stage.join(&[]).await, stage.join(&[]).await);
    let server = server.listen(pair(1)).await.unwrap();
    let key = server.public_key();
    let _taken = take(server);
    let refused = timeout(PATIENCE, client.connect(&pair(2), key)).await.unwrap();
    assert_eq!(refused.unwrap_err(), ConnectError::NoRelay);
}

#[tokio::test]
async fn a_relay_that_is_not_there_fails_the_dial_and_is_not_named_again_at_once() {
    let stage = Stage::new().await;
    let (relay, nobody) = (stage.relay.public_key(), pair(99).public_key());
    let (client, server) = (stage.join(&[nobody, relay]).await, stage.join(&[]).await);
    let mut server = server.listen(pair(1)).await.unwrap();
    let key = server.public_key();
    let mut failures = 0;
    for _ in 0..12 {
        let taken = take(server);
        match timeout(2 * PATIENCE, client.connect(&pair(2), key)).await.unwrap() {
            Ok(_) => {}
            Err(ConnectError::Relay { relay: RelayError::Unreachable(_), .. }) => failures += 1,
            Err(error) => panic!("{error}"),
        }
        // The other end goes with the test if it waits for the relay in vain.
        let Ok(Ok((back, _))) = timeout(2 * PATIENCE, taken).await else {
            panic!("the server waits no longer than for the relay");
        };
        server = back;
    }
    assert!(failures <= 1, "{failures} dials named the relay that is not there");
}

#[tokio::test]
async fn a_connection_ends_when_its_relay_stops_and_both_sides_are_told() {
    let stage = Stage::new().await;
    let client = stage.join(&[stage.relay.public_key()]).await;
    let server = stage.join(&[]).await.listen(pair(1)).await.unwrap();
    let key = server.public_key();
    let taken = take(server);
    let mut ours = timeout(PATIENCE, client.connect(&pair(2), key)).await.unwrap().unwrap();
    let mut theirs = timeout(PATIENCE, taken).await.unwrap().unwrap().1.unwrap();
    say(&mut ours, &mut theirs, "hello").await;
    timeout(PATIENCE, stage.relay.shutdown()).await.unwrap();
    let ends = async { (ours.recv().await, theirs.recv().await) };
    let ends = timeout(PATIENCE, ends).await.unwrap();
    assert_eq!(ends, (Err(ConnectionError::Reset), Err(ConnectionError::Reset)));
}

/// One end of a stream that goes through the relay, whose direct path is the test's to give.
struct End {
    node: Node,
    connection: Connection,
    give: oneshot::Sender<Met>,
    remote_id: u32,
}

fn session_keys() -> [SessionKeys; 2] {
    let (client, server) = (pair(1), pair(2));
    let (initiator, first) =
        Initiator::send(&client, server.public_key(), pair(3), b"", b"").unwrap();
    let (responder, _) = Responder::recv(&server, pair(4), b"", &first).unwrap();
    let (second, theirs) = responder.send(b"").unwrap();
    let (_, ours) = initiator.recv(&second).unwrap();
    [ours, theirs]
}

/// Two ends that the relay has joined.
async fn joined(stage: &Stage) -> [End; 2] {
    let ends = ends(stage).await.map(|end| tokio::spawn(end.open()));
    let mut opened = Vec::new();
    for end in ends {
        opened.push(timeout(PATIENCE, end).await.unwrap().unwrap());
    }
    opened.try_into().ok().unwrap()
}

/// One end before it is open.
struct Closed {
    node: Node,
    connection: Connection,
    gate: Arc<Gate>,
    remote_id: u32,
    rendezvous: Rendezvous,
    give: oneshot::Sender<Met>,
    given: oneshot::Receiver<Met>,
}

/// Two ends that have shaken hands and know of the relay.
async fn ends(stage: &Stage) -> [Closed; 2] {
    let nodes = [stage.testnet.join().await.unwrap(), stage.testnet.join().await.unwrap()];
    let gates = [Gate::new(true), Gate::new(true)];
    let streams = [0, 1].map(|n| {
        let firewall = || gates[n].firewall();
        nodes[n].shared().open_stream(firewall).unwrap()
    });
    let ids = [streams[0].id(), streams[1].id()];
    let all = nodes.into_iter().zip(streams).zip(gates).zip(session_keys());
    let ends = all.enumerate().map(|(n, (((node, stream), gate), keys))| {
        let (stream_id, remote_id) = (ids[n], ids[1 - n]);
        let pair = Pair { initiator: n == 0, token: [7; 32], stream_id };
        let rendezvous = Rendezvous { relay: stage.relay.public_key(), pair };
        let nonce = [u8::try_from(n).unwrap(); 24];
        let connection = Connection::start(node.shared(), stream, &keys, nonce);
        gate.open(remote_id);
        let (give, given) = oneshot::channel();
        Closed { node, connection, gate, remote_id, rendezvous, give, given }
    });
    ends.collect::<Vec<_>>().try_into().ok().unwrap()
}

impl Closed {
    async fn open(self) -> End {
        let Self { node, mut connection, gate, remote_id, rendezvous, give, given } = self;
        let shared = Arc::clone(node.shared());
        let (follow, node_shared) = (Arc::clone(&gate), Arc::clone(&shared));
        let direct: Attempt<()> = Box::pin(async move {
            tokio::select! {
                Ok(met) = given => Ok(met),
                path = follow.direct() => Ok(Met::at(&node_shared.core, path)),
            }
        });
        let meeting =
            Meeting { gate: &gate, remote_id, rendezvous, head_start: Duration::ZERO, direct };
        open(&shared, &mut connection, meeting).await.unwrap();
        shared.core.adopt(&connection);
        End { node, connection, give, remote_id }
    }
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(2 * PATIENCE, waiting).await.expect("it comes true");
}

fn server_socket(node: &Node) -> SocketId {
    node.shared().core.sockets().udx_id(hyperdht_proto::rpc::SocketId::Server)
}

#[tokio::test]
async fn a_connection_goes_over_to_a_direct_path_and_leaves_its_relay() {
    let stage = Stage::new().await;
    let [mut a, mut b] = joined(&stage).await;
    say(&mut a.connection, &mut b.connection, "over the relay").await;
    let path = Path { socket: server_socket(&a.node), peer: b.node.local_addr() };
    assert_eq!(stage.relay.counters().clients, 2);
    a.give.send(Met { path, socket: None }).unwrap();
    // Neither side has anything to say, and the relay is left all the same.
    until(|| stage.relay.counters().clients == 0).await;
    assert_eq!(a.connection.remote_addr(), Some(b.node.local_addr()));
    assert_eq!(b.connection.remote_addr(), Some(a.node.local_addr()));
    timeout(PATIENCE, stage.relay.shutdown()).await.unwrap();
    say(&mut a.connection, &mut b.connection, "directly").await;
    say(&mut b.connection, &mut a.connection, "and back").await;
    assert_ne!(a.remote_id, b.remote_id);
}

#[tokio::test]
async fn a_direct_path_that_leads_nowhere_sends_the_connection_back_to_its_relay() {
    let stage = Stage::new().await;
    let [mut a, mut b] = joined(&stage).await;
    say(&mut a.connection, &mut b.connection, "over the relay").await;
    let nowhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let peer = nowhere.local_addr().unwrap();
    a.give.send(Met { path: Path { socket: server_socket(&a.node), peer }, socket: None }).unwrap();
    until(|| a.connection.remote_addr() == Some(peer)).await;
    // It waits for the way back, and is not lost.
    say(&mut a.connection, &mut b.connection, "where are you").await;
    assert_eq!(a.connection.remote_addr(), Some(stage.relay_host.local_addr()));
    say(&mut b.connection, &mut a.connection, "here").await;
    // The other side finds a better one.
    let path = Path { socket: server_socket(&b.node), peer: a.node.local_addr() };
    b.give.send(Met { path, socket: None }).unwrap();
    until(|| stage.relay.counters().clients == 0).await;
    assert_eq!(a.connection.remote_addr(), Some(b.node.local_addr()));
    say(&mut a.connection, &mut b.connection, "directly").await;
}

#[tokio::test]
async fn a_relay_that_forwards_nothing_does_not_keep_a_direct_path_from_opening() {
    let stage = Stage::new().await;
    let [a, mut b] = ends(&stage).await;
    let (at_a, at_b) = (a.node.local_addr(), b.node.local_addr());
    let link = a.connection.share();
    let opening = tokio::spawn(a.open());
    // The relay joins the two, and nothing comes through it, since this one never writes there.
    let mute = Relayed::join(b.node.shared(), b.rendezvous.relay, b.rendezvous.pair);
    let _mute = timeout(PATIENCE, mute).await.unwrap().unwrap();
    let at_relay = Some(stage.relay_host.local_addr());
    until(|| link.stream().info().path.map(|path| path.peer) == at_relay).await;
    assert!(!opening.is_finished(), "nobody was heard");

    let path = Path { socket: server_socket(&b.node), peer: at_a };
    b.connection.share().connect(path, b.remote_id, None);
    let mut a = timeout(PATIENCE, opening).await.unwrap().unwrap();
    timeout(PATIENCE, b.connection.opened()).await.unwrap().unwrap();
    say(&mut a.connection, &mut b.connection, "directly").await;
    say(&mut b.connection, &mut a.connection, "and back").await;
    until(|| stage.relay.counters().clients == 1).await;
    assert_eq!(a.connection.remote_addr(), Some(at_b));
}
