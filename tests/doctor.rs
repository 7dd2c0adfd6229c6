//! `dht-prometheus doctor`, on a DHT on loopback. In the NAT lab it is tried by `nat_lab.rs`.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    net::{Ipv4Addr, UdpSocket},
    process::Output,
};

use hyperdht_rs::{KeyPair, Testnet};
use serde_json::Value;
use tokio::process::Command;

#[tokio::test]
async fn services_can_reach_a_bridge_on_a_healthy_network() {
    let testnet = Testnet::start(4).await.unwrap();
    let output = doctor(&testnet).await;
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["reachable"], true, "{report}");
    assert_eq!(report["access"], "open", "{report}");
    assert_eq!(
        states(&report),
        "bind ok, bootstrap ok, nat ok, port ok, second_node ok, services ok"
    );
}

#[tokio::test]
async fn people_read_sentences_and_a_verdict() {
    let testnet = Testnet::start(4).await.unwrap();
    let output = command(&testnet).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("ok    Bootstrap node 127.0.0.1:"), "{text}");
    assert!(text.ends_with("\nServices can reach a bridge on this host.\n"), "{text}");
}

#[tokio::test]
async fn a_bridge_that_runs_with_the_seed_is_found_and_not_disturbed() {
    let testnet = Testnet::start(4).await.unwrap();
    let node = testnet.join().await.unwrap();
    let seed = "a7".repeat(32);
    let mut server = node.listen(KeyPair::from_seed(&[0xa7; 32])).await.unwrap();
    let bridge = tokio::spawn(async move {
        let mut connection = server.accept().await.unwrap().accept().await.unwrap();
        // Until the doctor goes.
        let _ = connection.recv().await;
        server
    });
    let mut command = command(&testnet);
    command.env("DHT_PROM_KEY_PAIR_SEED", seed);
    command.env("DHT_PROM_DHT_PORT", node.local_addr().port().to_string());
    let output = command.arg("--json").output().await.unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(states(&report).starts_with("bind warning, "), "{report}");
    assert!(states(&report).contains("bridge ok"), "{report}");
    let server = bridge.await.unwrap();
    assert_eq!(server.public_key(), KeyPair::from_seed(&[0xa7; 32]).public_key());
}

#[tokio::test]
async fn a_port_that_somebody_else_has_is_a_failure() {
    let testnet = Testnet::start(4).await.unwrap();
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    let mut command = command(&testnet);
    let output = command.args(["--json", "--dht-port", &port.to_string()]).output().await.unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(states(&report).starts_with("bind failure, "), "{report}");
}

#[tokio::test]
async fn a_network_that_does_not_answer_is_a_failure_with_advice() {
    // Bound, and silent.
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dht-prometheus"));
    command.args(["doctor", "--json", "--dht-host", "127.0.0.1", "--bootstrap"]).arg(&address);
    let output = command.env_clear().output().await.unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(states(&report), "bind ok, bootstrap warning, network failure");
    assert!(report["checks"][2]["advice"].is_string(), "{report}");
}

fn command(testnet: &Testnet) -> Command {
    let nodes: Vec<String> = testnet.bootstrap().iter().map(ToString::to_string).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dht-prometheus"));
    command.args(["doctor", "--dht-host", "127.0.0.1", "--bootstrap", &nodes[0]]).env_clear();
    command
}

async fn doctor(testnet: &Testnet) -> Output {
    command(testnet).arg("--json").output().await.unwrap()
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{stderr}"))
}

fn states(report: &Value) -> String {
    let checks = report["checks"].as_array().unwrap().iter();
    let word = |check: &Value, field: &str| check[field].as_str().unwrap().to_owned();
    let states: Vec<_> =
        checks.map(|check| format!("{} {}", word(check, "check"), word(check, "state"))).collect();
    states.join(", ")
}
