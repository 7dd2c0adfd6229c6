//! A real Prometheus scrapes Node clients through the bridge, configured by the files of
//! `prometheus/` as an operator takes them.
//!
//! They run with `DHT_PROM_INTEROP=1` (`cargo xtask test` sets it) and need Node, the packages of
//! `tests/interop`, and Prometheus with its `promtool`.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{collections::BTreeMap, path::Path, process::Output};

use dht_prom_test_support::{
    Bridge, Client, ClientSpec, Generation, Prometheus, Sample, Stage, http_get, interop_requested,
    promtool, warn,
};
use regex_lite::Regex;

const BRIDGE: &str = env!("CARGO_BIN_EXE_dht-prometheus");

#[test]
fn targets_file_gives_both_generations_with_their_labels() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let _clients = register_both(&stage, &bridge);
    let prometheus = start_prometheus(&stage, &bridge, "prometheus.yml");
    expect_both_up(&prometheus);
    bridge.stop();
}

/// In either format of the targets file, with the configuration that the bridge prints for it.
#[test]
fn printed_configurations_give_both_generations_with_their_labels() {
    for format in ["classic", "labels"] {
        let Some(mut stage) = Stage::set(BRIDGE) else { return };
        if foreign(&stage) {
            return;
        }
        stage.settings.others.push(("TARGETS_FORMAT", format.to_owned()));
        let bridge = stage.settings.start();
        let _clients = register_both(&stage, &bridge);
        let (targets, port) = (stage.settings.targets.display(), bridge.http_port());
        let targets = format!("--prometheus-targets-loc={targets}");
        let config = print_config(&[&format!("--targets-format={format}"), &targets], port);
        let prometheus = Prometheus::start(&config.replace("15s", "1s"), stage.folder());
        expect_both_up(&prometheus);
        bridge.stop();
    }
}

#[test]
fn printed_configurations_pass_promtool() {
    if !interop_requested() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for args in [&["--targets-format=classic"], &["--targets-format=labels"], &["--http-sd"]] {
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, print_config(args, 30_000)).unwrap();
        assert_passes(&promtool(&["check", "config", file.to_str().unwrap()], b""));
    }
}

/// What the bridge prints for Prometheus with these flags.
fn print_config(flags: &[&str], port: u16) -> String {
    let mut command = std::process::Command::new(BRIDGE);
    command.env_clear().args(["print-config", "prometheus"]).args(flags);
    let output = command.arg(format!("--http-port={port}")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn http_discovery_gives_both_generations_with_their_labels() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    if foreign(&stage) {
        return;
    }
    let bridge = stage.settings.start();
    let prometheus = start_prometheus(&stage, &bridge, "prometheus.http-sd.yml");
    // Registered while Prometheus runs: it learns of them on its own.
    let _clients = register_both(&stage, &bridge);
    expect_both_up(&prometheus);
    bridge.stop();
}

#[test]
fn http_discovery_lists_one_group_per_target_with_every_label() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    if foreign(&stage) {
        return;
    }
    let bridge = stage.settings.start();
    let _clients = register_both(&stage, &bridge);
    let answer = http_get(&bridge.url("/targets"), &[]);
    assert_eq!(answer.status, 200);
    assert!(answer.content_type.starts_with("application/json"), "{}", answer.content_type);
    let address = format!("127.0.0.1:{}", bridge.http_port());
    let group = |generation: Generation| {
        let number = generation.number();
        serde_json::json!({
            "targets": [address],
            "labels": {
                "instance": format!("shop-{number}"),
                "hostname": format!("host-{number}"),
                "service": "shop",
                "job": "aliases",
                "__metrics_path__": format!("/scrape/shop-{number}/metrics"),
            },
        })
    };
    assert_eq!(answer.json(), serde_json::json!(Generation::ALL.map(group)));
    bridge.stop();
}

#[test]
fn restarted_bridge_is_scraped_on_and_a_stopped_one_is_down() {
    let Some(mut stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let _clients = register_both(&stage, &bridge);
    let prometheus = start_prometheus(&stage, &bridge, "prometheus.yml");
    expect_both_up(&prometheus);
    stage.settings.http_port = bridge.http_port();
    bridge.stop();
    let _ = prometheus.expect_samples(r#"up{job="aliases"} == 0"#, 2);
    let bridge = stage.settings.start();
    expect_both_up(&prometheus);
    bridge.stop();
}

#[test]
fn own_metrics_pass_promtool() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    if foreign(&stage) {
        return;
    }
    let bridge = stage.settings.start();
    let _clients = register_both(&stage, &bridge);
    for generation in Generation::ALL {
        assert_eq!(bridge.scrape(&format!("shop-{}", generation.number())).status, 200);
    }
    let answer = bridge.http_get("/metrics");
    assert_eq!(answer.status, 200);
    assert_passes(&promtool(&["check", "metrics"], &answer.body));
    bridge.stop();
}

#[test]
fn every_metric_of_the_alerts_exists() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    if foreign(&stage) {
        return;
    }
    let bridge = stage.settings.start();
    let metrics = bridge.http_get("/metrics").text();
    let alerts = std::fs::read_to_string(examples().join("alerts.yml")).unwrap();
    let names = Regex::new("dht_prometheus_[a-z_]+").unwrap();
    assert!(names.is_match(&alerts));
    for name in names.find_iter(&alerts) {
        let family = format!("# TYPE {} ", name.as_str());
        assert!(metrics.contains(&family), "{} is not in /metrics", name.as_str());
    }
    bridge.stop();
}

#[test]
fn example_configurations_pass_promtool() {
    if !interop_requested() {
        return;
    }
    let mut checked = 0;
    for entry in std::fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let action: &[&str] = match name {
            _ if !name.ends_with(".yml") => continue,
            _ if name.starts_with("prometheus") => &["check", "config"],
            _ if name.ends_with(".test.yml") => &["test", "rules"],
            _ => &["check", "rules"],
        };
        assert_passes(&promtool(&[action, &[path.to_str().unwrap()]].concat(), b""));
        checked += 1;
    }
    assert!(checked >= 4, "the examples are gone from {}", examples().display());
}

/// One client of each generation, `shop-1` and `shop-2`.
fn register_both(stage: &Stage, bridge: &Bridge) -> [Client; 2] {
    // One after the other, so that their order in the file and in `/targets` is known.
    Generation::ALL.map(|generation| {
        let alias = format!("shop-{}", generation.number());
        stage.register(bridge, &[ClientSpec::new(generation, &alias)])
    })
}

/// Prometheus with an example configuration, changed only where its header asks for it, and made
/// quicker.
fn start_prometheus(stage: &Stage, bridge: &Bridge, example: &str) -> Prometheus {
    let config = std::fs::read_to_string(examples().join(example)).unwrap();
    let address = format!("127.0.0.1:{}", bridge.http_port());
    let replace = |config: String, old: &str, new: &str| {
        assert!(config.contains(old), "{example} has no {old}");
        config.replace(old, new)
    };
    let config = replace(config, "127.0.0.1:30000", &address);
    let config = replace(config, "15s", "1s");
    std::fs::copy(examples().join("alerts.yml"), stage.folder().join("alerts.yml")).unwrap();
    Prometheus::start(&config, stage.folder())
}

/// Waits until both clients and the bridge itself are up, and checks every label.
fn expect_both_up(prometheus: &Prometheus) {
    let mut up = prometheus.expect_samples(r#"up{job="aliases"} == 1"#, 2);
    up.sort_by(|a, b| a.labels.cmp(&b.labels));
    let expected = Generation::ALL.map(|generation| {
        let number = generation.number();
        let labels = [
            ("__name__", "up".to_owned()),
            ("hostname", format!("host-{number}")),
            ("instance", format!("shop-{number}")),
            ("job", "aliases".to_owned()),
            ("service", "shop".to_owned()),
        ];
        let labels: BTreeMap<String, String> =
            labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Sample { labels, value: "1".to_owned() }
    });
    assert_eq!(up, expected);
    let _ = prometheus.expect_samples(r#"up{job="dht-prometheus"} == 1"#, 1);
    let started = r#"process_start_time_seconds{job="aliases"}"#;
    let _ = prometheus.expect_samples(started, 2);
}

fn foreign(stage: &Stage) -> bool {
    let foreign = stage.settings.subject.is_foreign();
    if foreign {
        warn("NOT RUN: an addition of our bridge, which DHT_PROM_TEST_BRIDGE does not name");
    }
    foreign
}

fn examples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/prometheus"))
}

fn assert_passes(output: &Output) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    assert!(output.status.success(), "promtool: {}", String::from_utf8_lossy(&text));
}
