//! The published Node clients, both generations, against the bridge as an operator runs it.
//!
//! They run with `DHT_PROM_INTEROP=1` (`cargo xtask test` sets it) and need Node and the packages
//! of `tests/interop`. `DHT_PROM_TEST_BRIDGE` points them at another bridge, see
//! `dht_prom_test_support`.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use dht_prom_test_support::{
    Bridge, ClientSpec, Generation, MetricsSource, Process, Stage, Subject, head, http_get,
    interop_requested, poll,
};
use regex_lite::Regex;
use serde_json::{Value, json};

const BRIDGE: &str = env!("CARGO_BIN_EXE_dht-prometheus");

#[test]
fn both_generations_register_and_are_scraped_unchanged() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    for (size, name) in [(1 << 10, "small"), (100 << 10, "large")] {
        let body = exposition(size);
        let path = stage.write(name, &body);
        for generation in Generation::ALL {
            let alias = format!("{name}-{}", generation.number());
            let metrics = MetricsSource::File { path: path.clone() };
            let spec = ClientSpec { metrics, ..ClientSpec::new(generation, &alias) };
            let client = stage.register(&bridge, &[spec]);
            // Twice: the first opens the connection, the second uses it.
            for scrapes in 1..=2 {
                let answer = bridge.scrape(&alias);
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.text(), body, "the bytes of {alias}");
                assert_text(&stage, &answer.content_type);
                client.expect_scrapes(&alias, scrapes);
            }
        }
    }
    bridge.stop();
}

#[test]
fn registering_again_changes_nothing_unless_the_key_is_new() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let with_seed = |seed: &str| {
        let seed = Some(seed.repeat(32));
        [ClientSpec { seed, ..ClientSpec::new(Generation::Two, "dummy") }]
    };
    let first = stage.register(&bridge, &with_seed("01"));
    first.kill();
    let again = stage.start_clients(&bridge, &stage.settings.secret, &with_seed("01"));
    assert!(!again.expect_registered("dummy"), "alias and key are known");
    again.kill();
    let other = stage.register(&bridge, &with_seed("02"));
    assert_eq!(bridge.scrape("dummy").status, 200);
    // The new key is the one that is scraped.
    other.expect_scrapes("dummy", 1);
    bridge.stop();
}

#[test]
fn twenty_clients_are_scraped_side_by_side() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let specs: Vec<ClientSpec> = (0..20)
        .map(|index| {
            let generation = Generation::ALL[index % 2];
            let path = stage.write(&format!("body-{index}"), &format!("index {index}\n"));
            let metrics = MetricsSource::File { path };
            ClientSpec { metrics, ..ClientSpec::new(generation, &format!("client-{index}")) }
        })
        .collect();
    let _clients = stage.register(&bridge, &specs);
    std::thread::scope(|scope| {
        for index in 0..specs.len() {
            let bridge = &bridge;
            scope.spawn(move || {
                let answer = bridge.scrape(&format!("client-{index}"));
                assert_eq!((answer.status, answer.text()), (200, format!("index {index}\n")));
            });
        }
    });
    bridge.stop();
}

#[test]
fn wrong_secret_is_refused_and_leaves_no_alias() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    for generation in Generation::ALL {
        let alias = format!("intruder-{}", generation.number());
        let spec = ClientSpec::new(generation, &alias);
        let client = stage.start_clients(&bridge, &"00".repeat(32), &[spec]);
        assert_eq!(client.expect_register_failed(&alias), "Unauthorised");
        assert_eq!(bridge.scrape(&alias).status, 404);
    }
    bridge.expect_log("Unauthorised alias request from ");
    bridge.stop();
}

#[test]
fn unknown_alias_and_unknown_routes_are_404() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let answer = bridge.scrape("nobody");
    assert_eq!((answer.status, answer.text().as_str()), (404, "Unknown alias"));
    assert!(answer.content_type.starts_with("text/plain"), "{}", answer.content_type);

    for path in ["/nothing", "/scrape/a", "/scrape/a/b/metrics", "/scrape/a/metrics/"] {
        let answer = bridge.http_get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.content_type, "application/json; charset=utf-8", "{path}");
        let expected = json!({
            "message": format!("Route GET:{path} not found"),
            "error": "Not Found",
            "statusCode": 404,
        });
        assert_eq!(answer.json(), expected);
    }
    bridge.stop();
}

#[test]
fn alias_in_the_path_is_percent_decoded() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let client = stage.register(&bridge, &[ClientSpec::new(Generation::Two, "a~b")]);
    assert_eq!(bridge.scrape("a%7Eb").status, 200);
    client.expect_scrapes("a~b", 1);
    bridge.stop();
}

#[test]
fn head_scrapes_and_answers_without_a_body() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let client = stage.register(&bridge, &[ClientSpec::new(Generation::Two, "dummy")]);
    let answer = head(&bridge.url("/scrape/dummy/metrics"));
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    client.expect_scrapes("dummy", 1);
    assert_eq!(head(&bridge.url("/scrape/nobody/metrics")).status, 404);
    bridge.stop();
}

#[test]
fn dead_client_is_502_before_prometheus_gives_up() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    for generation in Generation::ALL {
        let alias = format!("dead-{}", generation.number());
        let client = stage.register(&bridge, &[ClientSpec::new(generation, &alias)]);
        assert_eq!(bridge.scrape(&alias).status, 200);
        client.kill();
        // The Node bridge knows no deadline but its own 10 s.
        let limit = if stage.settings.subject.is_foreign() { 15 } else { 3 };
        let asked = Instant::now();
        let url = bridge.url(&format!("/scrape/{alias}/metrics"));
        let answer = http_get(&url, &[("X-Prometheus-Scrape-Timeout-Seconds", "3")]);
        let took = asked.elapsed();
        assert_eq!((answer.status, answer.text().as_str()), (502, "Upstream unavailable"));
        assert!(answer.content_type.starts_with("text/plain"), "{}", answer.content_type);
        assert!(took < Duration::from_secs(limit), "answered after {took:?}");
    }
    bridge.expect_log("upstream error: ");
    bridge.stop();
}

#[test]
fn client_that_fails_to_collect_is_502_with_its_message() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    for generation in Generation::ALL {
        let alias = format!("failing-{}", generation.number());
        let metrics = MetricsSource::Failing;
        let spec = ClientSpec { metrics, ..ClientSpec::new(generation, &alias) };
        let _client = stage.register(&bridge, &[spec]);
        let answer = bridge.scrape(&alias);
        assert_eq!(answer.status, 502);
        let expected = format!(r"^Upstream error: Failed to obtain metrics \(uid {UUID}\)$");
        assert_matches(&answer.text(), &expected);
        assert!(answer.content_type.starts_with("text/plain"), "{}", answer.content_type);
    }
    bridge.stop();
}

#[test]
fn restart_scrapes_without_a_new_registration() {
    let Some(mut stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let specs = Generation::ALL
        .map(|generation| ClientSpec::new(generation, &format!("kept-{}", generation.number())));
    let _clients = stage.register(&bridge, &specs);
    stage.settings.http_port = bridge.http_port();
    let key = bridge.public_key().to_owned();
    bridge.stop();
    expect_known_after_start(&stage, &key, &specs);
}

#[test]
fn sigkill_loses_no_target_that_was_written() {
    let Some(mut stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let specs = Generation::ALL
        .map(|generation| ClientSpec::new(generation, &format!("kept-{}", generation.number())));
    let _clients = stage.register(&bridge, &specs);
    poll("both targets in the file", || {
        let file = std::fs::read_to_string(&stage.settings.targets).unwrap_or_default();
        let whole = specs.iter().all(|spec| file.contains(&spec.alias));
        if whole { Ok(()) } else { Err(file) }
    });
    stage.settings.http_port = bridge.http_port();
    let key = bridge.public_key().to_owned();
    bridge.kill();
    expect_known_after_start(&stage, &key, &specs);
}

#[test]
fn targets_file_is_the_one_prometheus_knows() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let spec = ClientSpec {
        service: "web:shop".to_owned(),
        hostname: "rack:7:b".to_owned(),
        ..ClientSpec::new(Generation::Two, "dummy")
    };
    let _client = stage.register(&bridge, &[spec]);
    bridge.expect_log("Updated the aliases file at ");
    let file = poll("the target in the file", || {
        let file = std::fs::read_to_string(&stage.settings.targets).unwrap_or_default();
        if file.contains("dummy") { Ok(file) } else { Err(file) }
    });
    let target = format!(r#""dummy:{KEY}:rack-7-b:web-shop""#);
    let layout = [
        r"^\[",
        r" \{",
        r#"  "labels": \{"#,
        r#"   "job": "aliases""#,
        r"  \},",
        r#"  "targets": \["#,
        &format!("   {target}"),
        r"  \]",
        r" \}",
        r"\]$",
    ];
    assert_matches(&file, &layout.join("\n"));
    bridge.stop();
}

#[test]
fn log_speaks_the_phrases_that_operators_grep_for() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let aliases = ["dummy", "secondummy"];
    let specs = aliases.map(|alias| ClientSpec::new(Generation::Two, alias));
    let _clients = stage.register(&bridge, &specs);
    for alias in aliases {
        assert_eq!(bridge.scrape(alias).status, 200);
        expect_request_pair(&bridge, &format!("/scrape/{alias}/metrics"), 200);
    }
    assert_eq!(bridge.scrape("nobody").status, 404);
    expect_request_pair(&bridge, "/scrape/nobody/metrics", 404);

    for phrase in [
        r"^Starting up Prometheus DHT bridge$".to_owned(),
        r"^Server listening at http://127\.0\.0\.1:[0-9]{3,5}$".to_owned(),
        format!("^DHT RPC ready at public key {KEY}$"),
        format!(r"^Alias request from {KEY} to set dummy->{KEY} \(uid {UUID}\)$"),
        format!("^Registered alias: dummy -> {KEY} \\(shop on host host-2\\)$"),
        format!(r"^Alias success for dummy->{KEY}--updated: true \(uid: {UUID}\)$"),
        format!("^Updated the aliases file at {}$", stage.settings.targets.display()),
    ] {
        bridge.process().expect_line(&phrase, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            Regex::new(&phrase).unwrap().is_match(line["msg"].as_str()?).then_some(())
        });
    }
    let log = bridge.log();
    let pid = log[0]["pid"].as_u64().unwrap();
    for line in &log {
        let level = line["level"].as_u64().unwrap();
        assert!([10, 20, 30, 40, 50, 60].contains(&level), "{line}");
        assert!(line["time"].as_u64().unwrap() > 1_600_000_000_000, "{line}");
        assert_eq!(line["pid"].as_u64(), Some(pid), "{line}");
        assert!(line["hostname"].is_string() && line["msg"].is_string(), "{line}");
    }
    bridge.stop();
}

#[test]
fn requests_are_not_logged_at_info() {
    let Some(mut stage) = Stage::set(BRIDGE) else { return };
    stage.settings.log_level = "INFO".to_owned();
    let bridge = stage.settings.start();
    let _client = stage.register(&bridge, &[ClientSpec::new(Generation::Two, "dummy")]);
    assert_eq!(bridge.scrape("dummy").status, 200);
    let lines = bridge.process().stdout().clone();
    bridge.stop();
    let lines = lines.all().join("\n");
    assert!(lines.contains("Alias success for dummy"), "{lines}");
    assert!(!lines.contains("reqId"), "{lines}");
}

#[test]
fn stopping_says_its_steps_in_order() {
    let Some(stage) = Stage::set(BRIDGE) else { return };
    let bridge = stage.settings.start();
    let lines = bridge.process().stdout().clone();
    bridge.stop();
    let lines = lines.all().join("\n");
    let steps = [
        r#""Shutting down""#,
        r#""Http server shut down--now closing the bridge""#,
        r#""Fully shut down""#,
    ];
    let places = steps.map(|step| lines.find(step).unwrap_or_else(|| panic!("{step}: {lines}")));
    assert!(places.is_sorted(), "{lines}");
}

#[test]
fn missing_or_invalid_keys_stop_the_start_with_one_line() {
    if !interop_requested() {
        return;
    }
    let secret = "must be set to a valid hypercore key";
    let seed = "if set, must be set to a valid hypercore key";
    let valid = || "5e".repeat(32);
    let cases = [
        ("SHARED_SECRET", secret, vec![]),
        ("SHARED_SECRET", secret, vec![("SHARED_SECRET", "no-key".to_owned())]),
        ("SHARED_SECRET", secret, vec![("SHARED_SECRET", "5e".repeat(31))]),
        (
            "KEY_PAIR_SEED",
            seed,
            vec![("SHARED_SECRET", valid()), ("KEY_PAIR_SEED", "no-key".to_owned())],
        ),
    ];
    for (variable, rule, variables) in cases {
        let command = Subject::new(BRIDGE).command(&variables);
        let mut process = Process::spawn("the bridge", command);
        let status = process.expect_exit();
        assert_eq!(status.code(), Some(1), "{variables:?}");
        let stderr = process.stderr().all();
        let [line] = stderr.as_slice() else { panic!("one line is expected: {stderr:?}") };
        assert!(line.contains(&format!("DHT_PROM_{variable}")), "{line}");
        assert!(line.contains(rule), "{line}");
    }
}

/// Starts the bridge again and checks that it is the same to all who know it, and that it scrapes
/// `specs` from what it kept.
fn expect_known_after_start(stage: &Stage, key: &str, specs: &[ClientSpec]) {
    let bridge = stage.settings.start();
    assert_eq!(bridge.http_port(), stage.settings.http_port, "the port of the last run");
    assert_eq!(bridge.public_key(), key, "the key of the last run");
    for spec in specs {
        let answer = bridge.scrape(&spec.alias);
        assert_eq!(answer.status, 200, "{}: {}", spec.alias, answer.text());
    }
    let registrations = bridge.log().into_iter().filter(|line| {
        line["msg"].as_str().is_some_and(|msg| msg.starts_with("Alias request from"))
    });
    assert_eq!(registrations.count(), 0, "nobody registered again");
    bridge.stop();
}

/// Checks the two lines of one request: the same `reqId`, the fields of the Node bridge, compact
/// JSON.
fn expect_request_pair(bridge: &Bridge, path: &str, status: u16) {
    let url = format!(r#""url":"{path}""#);
    let find = |start, what: &str, needle: &str| {
        bridge.process().expect_line_from(start, what, |line| {
            line.contains(needle).then(|| serde_json::from_str::<Value>(line).unwrap())
        })
    };
    let incoming = find(0, &format!("the request line of {path}"), &url);
    assert_eq!(incoming["msg"], "incoming request");
    assert_eq!(incoming["req"]["method"], "GET");
    assert_eq!(incoming["req"]["host"], format!("127.0.0.1:{}", bridge.http_port()));
    assert_eq!(incoming["req"]["remoteAddress"], "127.0.0.1");
    assert!(incoming["req"]["remotePort"].is_u64(), "{incoming}");
    let id = incoming["reqId"].as_str().unwrap();
    assert_matches(id, "^req-[0-9a-z]+$");

    let completed = bridge.process().expect_line(&format!("the end of request {id}"), |line| {
        let both = line.contains(id) && line.contains(&format!(r#""statusCode":{status}"#));
        both.then(|| serde_json::from_str::<Value>(line).unwrap())
    });
    assert_eq!(completed["msg"], "request completed");
    assert_eq!(completed["reqId"], id);
    assert!(completed["responseTime"].is_number(), "{completed}");
}

fn assert_text(stage: &Stage, content_type: &str) {
    let expected = if stage.settings.subject.is_foreign() {
        "text/plain; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    assert_eq!(content_type, expected);
}

fn assert_matches(text: &str, pattern: &str) {
    assert!(Regex::new(pattern).unwrap().is_match(text), "{text:?} does not match {pattern}");
}

/// A valid exposition text of exactly `size` bytes.
fn exposition(size: usize) -> String {
    let mut text = String::from("# HELP sample_value Samples to fill a body.\n");
    text.push_str("# TYPE sample_value gauge\n");
    for index in 0.. {
        let line = format!("sample_value{{index=\"{index}\"}} {}\n", index * 7);
        if text.len() + line.len() + 2 > size {
            break;
        }
        text.push_str(&line);
    }
    let rest = size - text.len() - "#\n".len();
    text.push_str(&format!("#{}\n", "-".repeat(rest)));
    text
}

const KEY: &str = "[ybndrfg8ejkmcpqxot1uwisza345h769]{52}";
const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
