//! Peers that meet at a blind relay, because nothing else leads from one to the other or until something
//! does.

use std::time::Duration;

use dht_prom_test_support::{
    Process,
    lab::{Dial, Nat, NatLab, Network, Peers, Place, Side, Stack},
};

use super::{PUBLIC_HOSTS, WAYS};

/// How long a connection over a relay may take to open.
const OPEN_MS: f64 = 5000.0;

/// After how long a server that is not heard is dialled once more.
const ONCE_MORE_MS: f64 = 3000.0;

/// What a dial may take in all before it counts as none.
const LIMIT: Duration = Duration::from_secs(30);

/// Where relays run, beside a DHT node.
const RELAY: Place = Place::Public(PUBLIC_HOSTS);

/// Who names the relay.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By {
    Server,
    Client,
}

/// A lab, and a network in it.
pub(crate) struct Stage {
    pub(crate) lab: NatLab,
    peers: Peers,
    pub(crate) network: Network,
}

impl Stage {
    /// A lab with the same NAT before hosts A and B.
    pub(crate) fn build(nat: Nat) -> Option<Self> {
        let lab = NatLab::build(PUBLIC_HOSTS)?;
        let peers = Peers::find(false);
        let peers = if nat == Nat::Open { peers.open() } else { peers };
        let network = Network::start(&lab, &peers, &[Stack::Node], PUBLIC_HOSTS);
        lab.put(Side::A, nat);
        lab.put(Side::B, nat);
        Some(Self { lab, peers, network })
    }

    fn relay(&self, stack: Stack) -> (Process, String) {
        self.peers.relay(&self.lab, &self.network, RELAY, stack)
    }

    /// Dials over a relay; says what went wrong.
    pub(crate) fn dial(&self, way: (Stack, Stack), relay: &str, by: By) -> Option<String> {
        let dials = self.dials(way, relay, by);
        let (server, client) = way;
        let what = format!("{server:?} serves, {client:?} dials, named by the {by:?}: {dials:?}");
        eprintln!("{what}");
        let in_time =
            |dial: &Dial| matches!(dial, Dial::Echoed { open_ms, .. } if *open_ms < OPEN_MS);
        (!dials.iter().all(in_time)).then_some(what)
    }

    /// What comes of two dials.
    fn dials(&self, (server, client): (Stack, Stack), relay: &str, by: By) -> Vec<Dial> {
        let naming = self.peers.naming(relay);
        let (serving, dialling) = match by {
            By::Server => (&naming, &self.peers),
            By::Client => (&self.peers, &naming),
        };
        let (_server, key) = serving.serve(&self.lab, &self.network, Place::Host(Side::A), server);
        let place = Place::Host(Side::B);
        dialling.dial((&self.lab, &self.network), place, client, &key, (2, LIMIT))
    }
}

#[test]
fn two_symmetric_nats_are_crossed_over_a_relay_within_five_seconds() {
    let Some(stage) = Stage::build(Nat::Symmetric) else { return };
    let mut failures = Vec::new();
    for relay_stack in [Stack::Rust, Stack::Node] {
        let (_relay, key) = stage.relay(relay_stack);
        for way in WAYS {
            for by in [By::Client, By::Server] {
                let failure = stage.dial(way, &key, by);
                failures.extend(failure.map(|what| format!("{relay_stack:?} relay: {what}")));
            }
        }
    }
    let (_relay, key) = stage.relay(Stack::Rust);
    failures.extend(stage.dial((Stack::Node, Stack::Node), &key, By::Client));
    assert_eq!(failures, [""; 0]);
}

#[test]
fn hosts_between_which_no_udp_passes_meet_at_a_relay_within_five_seconds() {
    // Between open hosts, Node's client connects to any server that says that it is open and comes to
    // no relay then; ours says so to no client that it connects to itself.
    let mut failures = Vec::new();
    for nat in [Nat::Cone, Nat::Open] {
        let Some(stage) = Stage::build(nat) else { return };
        stage.lab.part();
        let (_relay, key) = stage.relay(Stack::Rust);
        for way in WAYS {
            for by in [By::Client, By::Server] {
                let failure = stage.dial(way, &key, by);
                failures.extend(failure.map(|what| format!("behind {nat:?}: {what}")));
            }
        }
    }
    assert_eq!(failures, [""; 0]);
}

#[test]
fn a_node_server_that_stays_away_from_the_relay_is_dialled_once_more() {
    // It connects to a client that says that it is open, and goes to no relay then.
    let Some(stage) = Stage::build(Nat::Open) else { return };
    stage.lab.part();
    let (_relay, key) = stage.relay(Stack::Rust);
    for by in [By::Client, By::Server] {
        let dials = stage.dials((Stack::Node, Stack::Rust), &key, by);
        eprintln!("named by the {by:?}: {dials:?}");
        let [Dial::Echoed { open_ms: first, .. }, Dial::Echoed { open_ms: second, .. }] = dials[..]
        else {
            panic!("named by the {by:?}: {dials:?}");
        };
        assert!(first < OPEN_MS, "{first}");
        assert!(second < ONCE_MORE_MS, "the client knows by now what not to say: {second}");
    }
}

#[test]
fn a_connection_leaves_its_relay_when_a_direct_path_opens() {
    for (server, client) in WAYS {
        let Some(stage) = Stage::build(Nat::Cone) else { return };
        stage.lab.part();
        let (mut relay, relay_key) = stage.relay(Stack::Rust);
        let (_server, key) =
            stage.peers.serve(&stage.lab, &stage.network, Place::Host(Side::A), server);
        let naming = stage.peers.naming(&relay_key);
        let place = Place::Host(Side::B);
        let held = naming.hold((&stage.lab, &stage.network), place, client, &key);
        let relayed = format!("path 5.5.0.{}:", 10 + PUBLIC_HOSTS);
        held.expect_line("the relay's path", |line| line.starts_with(&relayed).then_some(()));
        stage.lab.join();
        held.expect_line("a direct path", |line| line.starts_with("path 5.5.1.1:").then_some(()));
        relay.kill();
        // It lasts longer than anybody would wait for a relay that is gone.
        let echoed = |line: &str| line.strip_prefix("echoed ")?.parse::<u32>().ok();
        let count = held.stdout().all().iter().filter_map(|line| echoed(line)).max().unwrap();
        held.expect_line("echoes without the relay", |line| {
            assert!(!line.starts_with("ended"), "{server:?} serves, {client:?} dials: {line}");
            (echoed(line)? > count + 100).then_some(())
        });
    }
}

#[test]
fn a_relay_that_vanishes_ends_its_connections_and_another_takes_new_ones() {
    let Some(stage) = Stage::build(Nat::Symmetric) else { return };
    let (mut first, first_key) = stage.relay(Stack::Rust);
    let (_second, second_key) = stage.relay(Stack::Rust);
    let way = (Stack::Rust, Stack::Rust);
    let (_server, key) = stage.peers.serve(&stage.lab, &stage.network, Place::Host(Side::A), way.0);
    let naming = stage.peers.naming(&first_key);
    let place = Place::Host(Side::B);
    let held = naming.hold((&stage.lab, &stage.network), place, way.1, &key);
    held.expect_line("an echo", |line| line.starts_with("echoed").then_some(()));
    first.kill();
    let ended = held.expect_line("the end", |line| line.strip_prefix("ended ").map(str::to_owned));
    assert!(ended.contains("does not answer any more"), "{ended}");
    assert_eq!(stage.dial(way, &second_key, By::Client), None);
}
