//! What goes in and what comes out, without touching the process's environment.

use super::*;

const SECRET: &str = "0707070707070707070707070707070707070707070707070707070707070707";

/// The settings that these variables make.
fn from_env(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut layers = Layers::default();
    layers.add_environment(&|name: &str| {
        variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
    });
    Config::from_layers(&layers)
}

/// As [`from_env`], with a secret besides.
fn with_secret(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    from_env(&[variables, &[("DHT_PROM_SHARED_SECRET", SECRET)]].concat())
}

fn refusal(variables: &[(&str, &str)]) -> String {
    with_secret(variables).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_the_table() {
    let config = with_secret(&[]).unwrap();
    let default = |knob: Knob| knob.spec().default;
    assert_eq!(config.targets.path, Path::new(default(Knob::PrometheusTargetsLoc)));
    assert_eq!(config.targets.format, TargetsFormat::Classic);
    assert_eq!(default(Knob::TargetsFormat), "classic");
    assert_eq!(config.http.host, default(Knob::HttpHost));
    assert_eq!((config.http.port, config.dht.port), (0, 0));
    assert_eq!(config.dht.host.to_string(), default(Knob::DhtHost));
    assert!(config.dht.bootstrap.is_empty() && config.key_pair_seed.is_none());
    assert_eq!(config.log.level.unwrap().to_string().to_lowercase(), default(Knob::LogLevel));
}

#[test]
fn both_prefixes_work_and_the_first_wins() {
    let config = from_env(&[
        ("HYPERDHT_PROM_SHARED_SECRET", SECRET),
        ("HYPERDHT_PROM_HTTP_PORT", "1"),
        ("DHT_PROM_HTTP_PORT", "2"),
        ("HYPERDHT_PROM_DHT_PORT", "3"),
    ])
    .unwrap();
    assert_eq!((config.http.port, config.dht.port), (2, 3));
}

#[test]
fn a_missing_or_invalid_secret_is_told_as_the_node_bridge_tells_it() {
    let told = "env var must be set to a valid hypercore key";
    let missing = from_env(&[]).unwrap_err().to_string();
    assert!(missing.starts_with(&format!("DHT_PROM_SHARED_SECRET {told}")), "{missing}");
    let invalid = from_env(&[("HYPERDHT_PROM_SHARED_SECRET", "abc")]).unwrap_err().to_string();
    assert!(invalid.starts_with(&format!("HYPERDHT_PROM_SHARED_SECRET {told}")), "{invalid}");
    let seed = refusal(&[("DHT_PROM_KEY_PAIR_SEED", "no-key")]);
    let told = "DHT_PROM_KEY_PAIR_SEED env var, if set, must be set to a valid hypercore key";
    assert!(seed.starts_with(told), "{seed}");
    for line in [missing, invalid, seed] {
        assert!(line.contains(KEY_FORMS) && !line.contains('\n'), "{line}");
        assert!(!line.contains("abc") && !line.contains("no-key"), "{line} repeats a secret");
    }
}

#[test]
fn secrets_come_from_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, format!("{SECRET}\n")).unwrap();
    let path = path.to_str().unwrap();
    let config = from_env(&[("DHT_PROM_SHARED_SECRET_FILE", path)]).unwrap();
    assert_eq!(config.shared_secret, SharedSecret::from([7; 32]));
    let both = refusal(&[("DHT_PROM_SHARED_SECRET_FILE", path)]);
    assert_eq!(both, "shared_secret and shared_secret_file are both set; set one");
    let absent = from_env(&[("DHT_PROM_SHARED_SECRET_FILE", "/nowhere")]).unwrap_err().to_string();
    assert!(absent.starts_with("DHT_PROM_SHARED_SECRET_FILE env var names /nowhere"), "{absent}");
}

#[test]
fn refusals_name_the_variable_and_what_it_takes() {
    assert_eq!(
        refusal(&[("DHT_PROM_HTTP_PORT", "70000")]),
        "DHT_PROM_HTTP_PORT env var must be a port, 0 to 65535, not \"70000\""
    );
    assert_eq!(
        refusal(&[("HYPERDHT_PROM_LOG_LEVEL", "loud")]),
        "HYPERDHT_PROM_LOG_LEVEL env var must be trace, debug, info, warn, error, fatal or silent, \
         not \"loud\""
    );
    for (variable, value) in [
        ("DHT_PROM_BOOTSTRAP", "host"),
        ("DHT_PROM_BOOTSTRAP", "host:1,"),
        ("DHT_PROM_BOOTSTRAP", "host:0"),
        ("DHT_PROM_DHT_HOST", "localhost"),
        ("DHT_PROM_HTTP_ADVERTISE", "http://host:1"),
        ("DHT_PROM_TARGETS_FORMAT", "xml"),
        ("DHT_PROM_LOG_FORMAT", "xml"),
        ("DHT_PROM_HTTP_GZIP", "yes"),
    ] {
        let line = refusal(&[(variable, value)]);
        assert!(line.starts_with(variable) && line.contains("must be"), "{line}");
    }
}

#[test]
fn bootstrap_nodes_are_a_list_or_a_local_port() {
    let list = with_secret(&[("DHT_PROM_BOOTSTRAP", "a.example:1, 10.0.0.1:2,[::1]:3")]).unwrap();
    assert_eq!(list.dht.bootstrap, ["a.example:1", "10.0.0.1:2", "[::1]:3"]);
    let port = with_secret(&[("HYPERDHT_PROM_BOOTSTRAP_PORT", "49737")]).unwrap();
    assert_eq!(port.dht.bootstrap, ["127.0.0.1:49737"]);
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.toml");
    fs::write(
        &path,
        "http_port = 1\ndht_port = 1\nlog_level = 'debug'\nbootstrap = ['a:1', 'b:2']",
    )
    .unwrap();
    let mut layers = Layers::default();
    layers.add_flag(Knob::HttpPort, "3".to_owned());
    layers.add_environment(&|name: &str| match name {
        "DHT_PROM_SHARED_SECRET" => Some(SECRET.to_owned()),
        "DHT_PROM_HTTP_PORT" | "DHT_PROM_DHT_PORT" => Some("2".to_owned()),
        "DHT_PROM_LOG_LEVEL" => Some(String::new()),
        _ => None,
    });
    layers.add_file(&path).unwrap();
    let config = Config::from_layers(&layers).unwrap();
    assert_eq!((config.http.port, config.dht.port), (3, 2));
    assert_eq!(config.log.level, Some(tracing::Level::DEBUG));
    assert_eq!(config.dht.bootstrap, ["a:1", "b:2"]);
}

#[test]
fn a_file_with_a_key_that_is_no_setting_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.toml");
    for (toml, complaint) in [
        ("port = 1", "port in "),
        ("shared_secret = 'x'", "shared_secret in "),
        ("http_port = 1.5", "http_port in "),
        ("=", "is not TOML"),
    ] {
        fs::write(&path, toml).unwrap();
        let line = Layers::default().add_file(&path).unwrap_err().to_string();
        assert!(line.contains(complaint) && !line.contains('\n'), "{line}");
    }
}

#[test]
fn relays_are_a_list_of_keys_in_any_of_their_forms() {
    let keys = [[1; 32], [2; 32], [3; 32]].map(PublicKey::from_bytes);
    let hex: String = keys[1].as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{}, {hex},pear://{}", keys[0], keys[2]);
    for variable in ["DHT_PROM_RELAYS", "HYPERDHT_PROM_RELAYS"] {
        assert_eq!(with_secret(&[(variable, &list)]).unwrap().dht.relays, keys);
    }
    assert!(with_secret(&[]).unwrap().dht.relays.is_empty());
    for wrong in ["relay.example:49737", &list[1..], "pear://", &format!("{list},"), ",", " "] {
        let line = with_secret(&[("DHT_PROM_RELAYS", wrong)]).unwrap_err().to_string();
        let named =
            line.starts_with("DHT_PROM_RELAYS env var must be 64 hexadecimal digits or 52 ");
        assert!(named && line.contains("commas") && !line.contains('\n'), "{line}");
    }
}

#[test]
fn secrets_are_not_in_debug_output() {
    let config = with_secret(&[("DHT_PROM_KEY_PAIR_SEED", SECRET)]).unwrap();
    assert!(!format!("{config:?}").contains("07"), "{config:?}");
}

#[test]
fn variables_that_change_nothing_are_named() {
    let environment =
        |name: &str| (name == "HYPERDHT_PROM_EXPOSE_REPL_SWARM").then(|| "true".to_owned());
    let lines = Layers::ignored(&environment);
    let expected = "HYPERDHT_PROM_EXPOSE_REPL_SWARM is ignored: there is no debugging swarm";
    assert_eq!(lines, [expected]);
    assert!(Layers::ignored(&|_: &str| None).is_empty());
}

const README: &str = include_str!("../../README.md");

/// A setting as README.md's table has it.
fn row(knob: Knob) -> String {
    let Spec { name, accepts, default, help, secret, .. } = knob.spec();
    let (variable, flag) = (knob.variable(PREFIXES[0]), knob.flag());
    let (flag, key) =
        if secret { Default::default() } else { (format!("`--{flag}`"), format!("`{name}`")) };
    format!("| `{variable}` | {flag} | {key} | {accepts} | {default} | {help} |")
}

#[test]
fn the_readme_lists_every_setting_in_its_order() {
    let table = Knob::ALL.map(row).join("\n");
    assert!(README.contains(&format!("|\n{table}\n\n")), "README.md's table should be\n{table}");
}

#[test]
fn the_readme_names_no_variable_that_is_none() {
    // Of tests, and of the Node bridges alone.
    let others = ["INTEROP", "TEST_BRIDGE", "EXPOSE_REPL_SWARM", "FORCE_FLUSH"].map(str::to_owned);
    let names = Knob::ALL.map(|knob| knob.variable(""));
    let variables = regex_lite::Regex::new("DHT_PROM_([A-Z_]+)").unwrap();
    for found in variables.captures_iter(README) {
        let name = found[1].to_owned();
        assert!(names.contains(&name) || others.contains(&name), "{name} is no setting");
    }
}

#[test]
fn the_readme_names_no_flag_that_is_none() {
    let others = ["--config", "--http-sd"];
    let flags = Knob::ALL.map(|knob| format!("--{}", knob.flag()));
    for line in
        README.lines().filter(|line| line.contains("print-config") || line.contains("| `DHT"))
    {
        for word in line.split(['`', ' ']).filter(|word| word.starts_with("--") && word.len() > 2) {
            let known = others.contains(&word) || flags.contains(&word.to_owned());
            assert!(known, "{word} is no flag");
        }
    }
}

#[test]
fn the_readme_names_the_compiler_that_is_needed() {
    let version = concat!(" ", env!("CARGO_PKG_RUST_VERSION"), " or later");
    assert!(README.contains(version), "README.md does not say {version}");
}

#[test]
fn the_readme_has_a_sample_file_that_works() {
    let (_, sample) = README.split_once("```toml\n").unwrap();
    let (sample, _) = sample.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sample = sample.replace("/etc/dht-prometheus", folder.path().to_str().unwrap());
    for file in ["shared-secret", "seed"] {
        assert!(sample.contains(file), "the sample names no {file}");
        fs::write(folder.path().join(file), SECRET).unwrap();
    }
    let path = folder.path().join("bridge.toml");
    fs::write(&path, sample).unwrap();
    let mut layers = Layers::default();
    layers.add_file(&path).unwrap();
    let config = Config::from_layers(&layers).unwrap();
    assert_eq!((config.http.port, config.dht.port), (30_000, 49_737));
}

#[test]
fn a_forwarded_port_is_also_the_one_to_bind_unless_that_is_set() {
    let ports = |variables: &[(&str, &str)]| {
        let dht = with_secret(variables).unwrap().dht;
        (dht.forwarded_port.map(NonZeroU16::get), dht.port)
    };
    assert_eq!(ports(&[]), (None, 0));
    assert_eq!(ports(&[("DHT_PROM_DHT_FORWARDED_PORT", "50000")]), (Some(50_000), 50_000));
    let both = [("HYPERDHT_PROM_DHT_FORWARDED_PORT", "50000"), ("DHT_PROM_DHT_PORT", "49737")];
    assert_eq!(ports(&both), (Some(50_000), 49_737));
    for wrong in ["0", "65536", "50000:49737"] {
        let error = refusal(&[("DHT_PROM_DHT_FORWARDED_PORT", wrong)]);
        let rule = "DHT_PROM_DHT_FORWARDED_PORT env var must be a port, 1 to 65535, not ";
        assert!(error.starts_with(rule), "{error}");
    }
}
