//! What runs behind a NAT with one UDP port forwarded to it: nodes of the DHT, and relays. Bridges are
//! in `bridge.rs`.

use bytes::Bytes;
use dht_prom_test_support::{
    Process,
    lab::{Nat, NatLab, Network, Peers, Place, Side, Stack},
    poll,
};
use hyperdht_rs::{Bootstrap, Node, NodeOptions};
use tokio::runtime::{Builder, Runtime};

use super::program;

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
