//! What the interop tests stand on: processes that never outlive their test, the published Node
//! clients on a DHT of their own, the bridge under test, and a real Prometheus.
//!
//! Everything here waits for an event with a deadline and panics with the logs of the process in
//! question when the event does not come; a test reads as the story it tells. Nothing is shared
//! between tests, and every port is chosen by the system.
//!
//! The bridge under test is the binary of this workspace. `DHT_PROM_TEST_BRIDGE` names another
//! command to run in its place, for instance the Node bridge, whose behaviour is the measure:
//! `DHT_PROM_TEST_BRIDGE="node <dir>/node_modules/hyperdht-prometheus-bridge/run.js"`.

use std::io::Write as _;

mod bridge;
mod http;
pub mod lab;
mod lines;
mod node;
mod process;
mod prometheus;
mod stage;

pub use bridge::{Bridge, BridgeSettings, Subject};
pub use http::{Response, head, http_get, poll, poll_within};
pub use lines::Lines;
pub use node::{Client, ClientSpec, Generation, MetricsSource, Testnet};
pub use process::{PATIENCE, Process};
pub use prometheus::{Prometheus, Sample, promtool};
pub use stage::Stage;

/// Whether the tests that need Node and Prometheus are asked for (`DHT_PROM_INTEROP=1`).
///
/// When they are not, says so on the real stderr, past the capture of the test harness: a test
/// that did not run must not pass for one that did.
#[must_use]
pub fn interop_requested() -> bool {
    let requested = std::env::var_os("DHT_PROM_INTEROP").is_some_and(|value| value == "1");
    if !requested {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("an interop test");
        warn(&format!("NOT RUN: {test} (needs Node and Prometheus; `cargo xtask test` runs it)"));
    }
    requested
}

/// Writes one line to the real stderr, past the capture of the test harness.
pub fn warn(line: &str) {
    // A closed stderr is no reason for a test to fail.
    let _ = writeln!(std::io::stderr(), "{line}");
}
