//! Connections across NATs, in a small internet of network namespaces.
//!
//! They run with `DHT_PROM_INTEROP=1` (`cargo xtask test` sets it), as root, where namespaces can be
//! made; elsewhere they say NOT RUN.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{process::Command, time::Duration};

use dht_prom_test_support::{
    Process,
    lab::{Dial, Nat, NatLab, Network, Peers, Place, Side, Stack},
};
use serde_json::Value;

#[path = "nat_lab/bridge.rs"]
mod bridge;
#[path = "nat_lab/forwarded_ports.rs"]
mod forwarded_ports;
#[path = "nat_lab/network_changes.rs"]
mod network_changes;
#[path = "nat_lab/relays.rs"]
mod relays;

/// Who serves, and who dials: whatever has us on one side. Node with Node is not ours to answer for.
const WAYS: [(Stack, Stack); 3] =
    [(Stack::Rust, Stack::Node), (Stack::Rust, Stack::Rust), (Stack::Node, Stack::Rust)];

/// Public hosts: the fewest with which every node has more neighbours than it asks at a time.
const PUBLIC_HOSTS: u8 = 9;

/// What a scrape has, with Prometheus' own default timeout.
const SCRAPE: Duration = Duration::from_secs(10);

/// Against a symmetric NAT both ends try ports at random, 50 a second against 256 open sockets, for 35
/// seconds: every thousandth attempt finds none. On top comes what leads there.
const GUESSING: Duration = Duration::from_secs(45);

#[test]
fn every_pair_of_nats_that_node_crosses_is_crossed() {
    let Some(lab) = NatLab::build(PUBLIC_HOSTS) else { return };
    let peers = Peers::find(false);
    let network = Network::start(&lab, &peers, &[Stack::Node], PUBLIC_HOSTS);
    let mut failures = Vec::new();
    for (server_nat, client_nat) in crossable_pairs() {
        lab.put(Side::A, server_nat);
        lab.put(Side::B, client_nat);
        for (server, client) in WAYS {
            // A fresh one each time: servers guess ports for one client at a time, 20 s apart.
            let (_server, key) = peers.serve(&lab, &network, Place::Host(Side::A), server);
            let (dials, limit) = if [server_nat, client_nat].contains(&Nat::Symmetric) {
                (1, GUESSING)
            } else {
                (2, SCRAPE)
            };
            let place = Place::Host(Side::B);
            let dials = peers.dial((&lab, &network), place, client, &key, (dials, limit));
            let pair =
                format!("{server:?} behind {server_nat:?}, {client:?} behind {client_nat:?}");
            eprintln!("{pair}: {dials:?}");
            if !dials.iter().all(|dial| matches!(dial, Dial::Echoed { .. })) {
                failures.push(format!("{pair}: {dials:?}"));
            }
        }
    }
    assert_eq!(failures, [""; 0], "pairs that were not crossed");
}

#[test]
fn doctor_tells_the_kinds_of_nat_apart_and_who_gets_through() {
    let Some(lab) = NatLab::build(PUBLIC_HOSTS) else { return };
    let network = Network::start(&lab, &Peers::find(false), &[Stack::Node], PUBLIC_HOSTS);
    let cases = [
        (Nat::Open, None, "open", true),
        (Nat::Cone, None, "punched", true),
        (Nat::Symmetric, None, "guessed", true),
        (Nat::Blocked, None, "blocked", false),
        (Nat::Cone, Some(49_737), "open", true),
        (Nat::Cone, Some(50_000), "open", true),
        (Nat::Symmetric, Some(49_737), "open", true),
    ];
    for (nat, forwarded, access, reachable) in cases {
        lab.put(Side::A, nat);
        if let Some(port) = forwarded {
            lab.forward(Side::A, port, 49_737);
        }
        let port = forwarded.map(|port| format!("--dht-forwarded-port={port}"));
        let settings = ["--dht-port=49737"].into_iter().chain(port.as_deref());
        let report = doctor(&lab, &network, &settings.collect::<Vec<_>>());
        assert_eq!(report["access"], access, "{nat:?} {forwarded:?}: {report:#}");
        assert_eq!(report["reachable"], reachable, "{nat:?} {forwarded:?}: {report:#}");
    }
}

/// All pairs but two symmetric NATs, through which nothing gets without a relay.
fn crossable_pairs() -> impl Iterator<Item = (Nat, Nat)> {
    let pairs =
        Nat::CROSSABLE.into_iter().flat_map(|server| Nat::CROSSABLE.map(|client| (server, client)));
    pairs.filter(|pair| *pair != (Nat::Symmetric, Nat::Symmetric))
}

/// A command of the program in a place, bound to the test.
fn program(lab: &NatLab, place: Place, arguments: &[&str]) -> Command {
    let words = lab.words(place);
    let mut command = Process::bound_command(&words[0]);
    command.args(&words[1..]).arg(BRIDGE).args(arguments);
    command
}

/// What `doctor` says of host A, and that its exit code says the same.
fn doctor(lab: &NatLab, network: &Network, settings: &[&str]) -> Value {
    let arguments = ["doctor", "--json", "--bootstrap", network.bootstrap()];
    let mut command = program(lab, Place::Host(Side::A), &arguments);
    let output = command.args(settings).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(output.status.success(), report["reachable"] == true, "{report:#}");
    report
}

/// What the bridge prints for Prometheus with these flags.
fn print_config(flags: &[&str], port: u16) -> String {
    let mut command = Command::new(BRIDGE);
    command.env_clear().args(["print-config", "prometheus"]).args(flags);
    let output = command.arg(format!("--http-port={port}")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const BRIDGE: &str = env!("CARGO_BIN_EXE_dht-prometheus");
