//! What runs behind a NAT with one UDP port forwarded to it: nodes of the DHT, and relays. Bridges are
//! in `bridge.rs`.

use bytes::Bytes;
use dht_prom_test_support::{
    Process,
    lab::{Nat, NatLab, Network, Peers, Place, Side, Stack},
    poll,
};
use hyperdht_rs::{Bootstrap, Node, NodeOptions, PublicKey, decode_key};
use tokio::runtime::{Builder, Runtime};

use super::{
    WAYS, program,
    relays::{By, Stage},
};

/// Public nodes: all of them keep every record.
const NODES: u8 = 4;

#[test]
fn a_dht_node_behind_a_forwarded_port_keeps_records_for_others() {
    let Some(lab) = NatLab::build(NODES) else { return };
    let network = Network::start(&lab, &Peers::find(false), &[Stack::Node, Stack::Rust], NODES);
    // The node's NAT, whether that forwards the port, and whether the host lets no other one through.
    let cases = [(Nat::Cone, true, false), (Nat::Cone, true, true), (Nat::Open, false, true)];
    lab.within(Place::Public(1), || {
        let (runtime, asker) = asker(&network);
        for (number, (nat, forwarded, firewall)) in cases.into_iter().enumerate() {
            lab.put(Side::A, nat);
            if forwarded {
                lab.forward(Side::A, PORT, PORT);
            }
            if firewall {
                lab.firewall(Side::A, PORT);
            }
            let _node = dht_node(&lab, &network);
            let case = format!("{nat:?}, forwarded {forwarded}, firewall {firewall}");
            poll(&format!("a record that it keeps ({case})"), || {
                let record = Bytes::from(format!("record {number}"));
                let kept = runtime.block_on(asker.immutable_put(record));
                match kept.map_err(|error| error.to_string())? {
                    kept if kept == usize::from(NODES) + 1 => Ok(()),
                    kept => Err(format!("{kept} nodes keep it")),
                }
            });
        }
    });
}

#[test]
fn symmetric_nats_are_crossed_over_a_relay_behind_a_forwarded_port_within_five_seconds() {
    let Some(stage) = Stage::build(Nat::Symmetric) else { return };
    let lab = &stage.lab;
    // The relay's NAT, the port that it forwards, and whether the host lets no other one through.
    let cases = [
        (Nat::Cone, 50_000, false),
        (Nat::Symmetric, 49_737, false),
        (Nat::Symmetric, 50_000, false),
        (Nat::Cone, 49_737, true),
    ];
    let mut failures = Vec::new();
    for (nat, port, firewall) in cases {
        lab.put(Side::C, nat);
        lab.forward(Side::C, port, PORT);
        if firewall {
            lab.firewall(Side::C, PORT);
        }
        let case = format!("a relay behind {nat:?}, {port} forwarded, firewall {firewall}");
        eprintln!("{case}");
        let (_relay, key) = relay(&stage, port);
        for way in WAYS {
            for by in [By::Client, By::Server] {
                let failure = stage.dial(way, &key, by);
                failures.extend(failure.map(|what| format!("{case}: {what}")));
            }
        }
    }
    assert_eq!(failures, [""; 0]);
}

/// Starts a relay on host C, which its NAT forwards this port to; gives its key, too, in hexadecimal.
fn relay(stage: &Stage, forwarded: u16) -> (Process, String) {
    let (port, forwarded) = (PORT.to_string(), forwarded.to_string());
    let arguments = ["relay", "--bootstrap", stage.network.bootstrap(), "--port", &port];
    let mut command = program(&stage.lab, Place::Host(Side::C), &arguments);
    command.args(["--dht-forwarded-port", &forwarded, "--log-format", "json"]);
    let relay = Process::spawn("the relay", command);
    let key = relay.expect_line("its key", |line| {
        let (_, key) = line.split_once("DHT relay ready at public key ")?;
        decode_key(key.get(..52)?).ok()
    });
    (relay, PublicKey::from_bytes(key).to_string())
}

/// Starts a node on host A, and waits until it has its forwarded port seen.
fn dht_node(lab: &NatLab, network: &Network) -> Process {
    let port = PORT.to_string();
    let arguments = ["dht-node", "--bootstrap", network.bootstrap(), "--dht-forwarded-port", &port];
    let node = Process::spawn("dht-node", program(lab, Place::Host(Side::A), &arguments));
    let seen = node.expect_line("what becomes of its port", |line| {
        line.split_once("the forwarded UDP port ").map(|(_, seen)| seen.to_owned())
    });
    assert!(seen.starts_with("can be reached"), "the port {seen}");
    node.expect_line("its address", |line| line.ends_with(&format!(":{port}")).then_some(()));
    node
}

/// One that puts records into the network and is no part of it, to be used on this thread.
fn asker(network: &Network) -> (Runtime, Node) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let bootstrap = Bootstrap::Nodes(vec![network.bootstrap().parse().unwrap()]);
    let options = NodeOptions { bootstrap, port: Some(0), ..NodeOptions::default() };
    let node = runtime.block_on(Node::start(options)).unwrap();
    (runtime, node)
}

const PORT: u16 = 49_737;
