//! A network that changes under a node: connections come back after each kind of change.

use std::{
    net::Ipv4Addr,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dht_prom_test_support::lab::{Nat, NatLab, Place, Side};
use hyperdht_rs::{Bootstrap, Connection, KeyPair, Node, NodeOptions, PublicKey, node::Role};
use tokio::{
    runtime::Handle,
    sync::watch::{self, Receiver},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a change may cost, from its moment, or from when the network is back.
const BAR: Duration = Duration::from_secs(15);

/// Nodes in public that make the network.
const NODES: u8 = 4;

/// Where the peer that needs no NAT is, of the public hosts.
const PEER: u8 = NODES + 1;

/// As a bridge dials a service.
#[test]
fn connections_to_a_server_behind_a_nat_come_back_after_its_changes() {
    let Some(world) = World::build() else { return };
    let key = serve(world.behind.handle(), world.options());
    let echoes = keep_echoing(world.peer.handle(), world.open_options(PEER), key);
    world.change(&echoes);
}

/// As a service dials a bridge.
#[test]
fn connections_from_behind_a_nat_come_back_after_its_changes() {
    let Some(world) = World::build() else { return };
    let key = serve(world.peer.handle(), world.open_options(PEER));
    let echoes = keep_echoing(world.behind.handle(), world.options(), key);
    world.change(&echoes);
}

/// A DHT, a host behind a NAT, and one that needs none.
struct World {
    nodes: Vec<Node>,
    behind: Inhabited,
    peer: Inhabited,
    public: Vec<Inhabited>,
    lab: Arc<NatLab>,
}

impl World {
    fn build() -> Option<Self> {
        let lab = Arc::new(NatLab::build(PEER)?);
        lab.put(Side::A, Nat::Cone);
        let mut world = Self {
            nodes: Vec::new(),
            behind: Inhabited::new(&lab, Place::Host(Side::A)),
            peer: Inhabited::new(&lab, Place::Public(PEER)),
            public: (1..=NODES).map(|host| Inhabited::new(&lab, Place::Public(host))).collect(),
            lab,
        };
        for (host, place) in (1..).zip(&world.public) {
            let options = NodeOptions { role: Role::Persistent, ..world.open_options(host) };
            world.nodes.push(run(place.handle(), Node::start(options)).unwrap());
        }
        Some(world)
    }

    /// For a node that finds out for itself where it stands.
    fn options(&self) -> NodeOptions {
        let bootstrap = self.nodes.iter().map(Node::local_addr).collect();
        NodeOptions { bootstrap: Bootstrap::Nodes(bootstrap), ..NodeOptions::default() }
    }

    /// For one on a public host.
    fn open_options(&self, host: u8) -> NodeOptions {
        let host = Ipv4Addr::new(5, 5, 0, 10 + host);
        NodeOptions { host, port: Some(49737), firewalled: false, ..self.options() }
    }

    /// Changes the network in every way there is, and measures how long no echo comes.
    fn change(&self, echoes: &Receiver<Instant>) {
        let (lab, side) = (&self.lab, Side::A);
        echo_after(echoes, Instant::now());
        let measure = |what: &str, change: &dyn Fn()| {
            change();
            let began = Instant::now();
            let echoed = echo_after(echoes, began + Duration::from_millis(1500));
            eprintln!("{what}: an echo {:?} after it", echoed - began);
            assert!(echoed - began <= BAR, "{what}: {:?}", echoed - began);
            echo_after(echoes, echoed + Duration::from_secs(5));
        };
        measure("the NAT forgets its mappings", &|| lab.rebind(side));
        measure("the NAT gets another address", &|| lab.move_to(side, "5.5.77.1"));
        #[expect(clippy::disallowed_methods, reason = "an outage lasts as long as it lasts")]
        let last = |seconds| thread::sleep(Duration::from_secs(seconds));
        for seconds in [4, 25] {
            measure(&format!("the interface was down for {seconds} s"), &|| {
                lab.interface(side, false);
                last(seconds);
                lab.interface(side, true);
            });
            measure(&format!("nothing passed the NAT for {seconds} s"), &|| {
                lab.block(side);
                last(seconds);
                lab.unblock(side);
            });
        }
        measure("the host gets another address", &|| lab.renumber(side, "10.1.0.77"));
    }
}

/// A runtime on a thread that lives in a place of the lab; it ends with its value.
struct Inhabited {
    runtime: Handle,
    _end: DropGuard,
}

impl Inhabited {
    fn new(lab: &Arc<NatLab>, place: Place) -> Self {
        let end = CancellationToken::new();
        let ended = end.clone();
        let (sender, runtime) = mpsc::sync_channel(1);
        let lab = Arc::clone(lab);
        thread::spawn(move || {
            lab.within(place, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.unwrap();
                sender.send(runtime.handle().clone()).unwrap();
                runtime.block_on(ended.cancelled());
            });
        });
        Self { runtime: runtime.recv().unwrap(), _end: end.drop_guard() }
    }

    const fn handle(&self) -> &Handle {
        &self.runtime
    }
}

/// Runs something in a place and waits for it.
fn run<T: Send + 'static>(side: &Handle, work: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, done) = mpsc::sync_channel(1);
    drop(side.spawn(async move { sender.send(work.await) }));
    done.recv_timeout(Duration::from_secs(60)).unwrap()
}

/// Starts a server that echoes what comes in.
fn serve(side: &Handle, options: NodeOptions) -> PublicKey {
    let pair = KeyPair::from_seed(&[2; 32]);
    let key = pair.public_key();
    let (node, mut server) = run(side, async move {
        let node = Node::start(options).await.unwrap();
        let server = node.listen(pair).await.unwrap();
        (node, server)
    });
    drop(side.spawn(async move {
        let _node = node;
        while let Some(incoming) = server.accept().await {
            tokio::spawn(async move {
                let mut connection = incoming.accept().await.ok()?;
                while let Ok(Some(message)) = connection.recv().await {
                    connection.send(message).await.ok()?;
                }
                Some(())
            });
        }
    }));
    key
}

/// Dials a server, and again whenever the connection is lost, with a growing wait that a change of the
/// network cuts short; gives the moments when echoes come.
fn keep_echoing(side: &Handle, options: NodeOptions, server: PublicKey) -> Receiver<Instant> {
    let (sender, echoes) = watch::channel(Instant::now());
    drop(side.spawn(async move {
        let node = Node::start(options).await.unwrap();
        let mut changes = node.network_changes();
        let mut wait = FIRST_WAIT;
        loop {
            let pair = KeyPair::from_seed(&[1; 32]);
            if let Ok(Ok(connection)) = timeout(DIAL, node.connect(&pair, server)).await {
                wait = FIRST_WAIT;
                echo(connection, &sender).await;
            }
            tokio::select! {
                () = sleep(wait) => wait = (2 * wait).min(Duration::from_secs(60)),
                _ = changes.next() => wait = FIRST_WAIT,
            }
        }
    }));
    echoes
}

/// Exchanges messages until the connection ends by itself.
async fn echo(mut connection: Connection, echoes: &watch::Sender<Instant>) {
    while connection.send(Bytes::from_static(b"echo")).await.is_ok() {
        let Ok(Some(_)) = connection.recv().await else { return };
        echoes.send_replace(Instant::now());
        sleep(Duration::from_millis(200)).await;
    }
}

/// The first echo that comes after this moment.
fn echo_after(echoes: &Receiver<Instant>, moment: Instant) -> Instant {
    let mut echoes = echoes.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let echoed = timeout(Duration::from_secs(90), echoes.wait_for(|at| *at >= moment)).await;
        *echoed.expect("an echo comes").unwrap()
    })
}

const FIRST_WAIT: Duration = Duration::from_millis(250);
const DIAL: Duration = Duration::from_secs(10);
