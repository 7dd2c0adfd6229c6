//! The relay as a process of its own, in a network of its own on 127.0.0.1.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{net::SocketAddr, process::Command};

use dht_prom_test_support::{Process, http_get, interop_requested, poll, promtool};
use regex_lite::Regex;

const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
/// RFC 8032, section 7.1, test 1.
const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// A network's first node.
fn first_node() -> (Process, SocketAddr) {
    let mut command = program(&["dht-node", "--host", "127.0.0.1", "--port", "0"]);
    command.env_clear();
    let node = Process::spawn("dht-node", command);
    let address = node.expect_line("its address", |line| line.parse().ok());
    (node, address)
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Process::bound_command(env!("CARGO_BIN_EXE_dht-prometheus"));
    command.args(arguments);
    command
}

fn relay(bootstrap: SocketAddr) -> (Process, SocketAddr) {
    let mut command = program(&["relay", "--host", "127.0.0.1", "--max-sessions", "10"]);
    command.args(["--bootstrap", &bootstrap.to_string(), "--log-format", "json"]);
    command.env("DHT_PROM_KEY_PAIR_SEED", SEED);
    let relay = Process::spawn("relay", command);
    let listening = Regex::new(r"Server listening at http://([0-9.]+:[0-9]+)").unwrap();
    let http = relay.expect_line("the address of the HTTP server", |line| {
        listening.captures(line).map(|found| found[1].parse().unwrap())
    });
    (relay, http)
}

#[test]
fn it_prints_the_key_of_its_seed_when_clients_can_find_it_and_stops_as_asked() {
    let (_node, bootstrap) = first_node();
    let (_second, _) = {
        let bootstrap = bootstrap.to_string();
        let arguments =
            ["dht-node", "--host", "127.0.0.1", "--port", "0", "--bootstrap", &bootstrap];
        let node = Process::spawn("dht-node", program(&arguments));
        let address: SocketAddr = node.expect_line("its address", |line| line.parse().ok());
        (node, address)
    };
    let (mut relay, http) = relay(bootstrap);
    let key: dht_prom_transport::PublicKey = KEY.parse().unwrap();
    let phrase = format!("DHT relay ready at public key {key}");
    relay.expect_line("its key", |line| line.contains(&phrase).then_some(()));
    let get = |path: &str| http_get(&format!("http://{http}{path}"), &[]);
    assert_eq!(get("/-/healthy").status, 200);
    // The line comes a moment before.
    poll("readiness", || match get("/-/ready").status {
        200 => Ok(()),
        status => Err(status.to_string()),
    });
    let metrics = get("/metrics");
    assert!(metrics.text().contains("\ndht_prometheus_relay_sessions 0\n"), "{}", metrics.text());
    assert!(metrics.text().contains("\ndht_prometheus_relay_forwarded_bytes_total 0\n"));
    relay.terminate();
    assert!(relay.expect_exit().success());
    assert!(relay.stdout().all().last().unwrap().contains("Fully shut down"));
    assert_eq!(relay.stderr().count(), 0);
}

#[test]
fn its_metrics_pass_promtool() {
    if !interop_requested() {
        return;
    }
    let (_relay, http) = relay("127.0.0.1:9".parse().unwrap());
    let metrics = http_get(&format!("http://{http}/metrics"), &[]);
    let checked = promtool(&["check", "metrics"], &metrics.body);
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
}

#[test]
fn it_serves_http_while_the_network_is_not_there_and_stops_all_the_same() {
    // The port of nobody.
    let (mut relay, http) = relay("127.0.0.1:9".parse().unwrap());
    let ready = http_get(&format!("http://{http}/-/ready"), &[]);
    assert_eq!(ready.status, 503);
    relay.terminate();
    assert!(relay.expect_exit().success());
}

#[test]
fn a_seed_that_is_none_ends_the_start_with_one_line() {
    let mut command = program(&["relay"]);
    command.env("DHT_PROM_KEY_PAIR_SEED", "no-key");
    let mut relay = Process::spawn("relay", command);
    assert_eq!(relay.expect_exit().code(), Some(1));
    let lines = relay.stderr().all();
    assert!(lines.len() == 1 && lines[0].starts_with("DHT_PROM_KEY_PAIR_SEED"), "{lines:?}");
    assert!(!lines[0].contains("no-key"));
}
