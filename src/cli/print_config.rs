//! `print-config`: configuration for the programs around the bridge.

use std::path::{Path, absolute};

use clap::{Arg, ArgAction, ArgMatches, Command};
use dht_prometheus::{
    config::{self, HttpConfig, TargetsConfig},
    registry::targets::TargetsFormat,
};

use super::{Failure, layers, local, say, settings};

pub(super) fn command() -> Command {
    let http_sd = Arg::new("http-sd").long("http-sd").action(ArgAction::SetTrue);
    let http_sd = http_sd.help("Take targets from the bridge's /targets rather than from its file");
    Command::new("print-config")
        .about("Print configuration for the programs around the bridge")
        .subcommand_required(true)
        .subcommand(
            settings(Command::new("prometheus"))
                .about("Print a prometheus.yml that fits the settings")
                .arg(http_sd),
        )
}

pub(super) fn main(matches: &ArgMatches) -> Result<(), Failure> {
    let Some(("prometheus", matches)) = matches.subcommand() else {
        return Err("print-config takes: prometheus".into());
    };
    let layers = layers(matches)?;
    let bridge = bridge_address(config::http(&layers)?)?;
    let targets = config::targets(&layers)?;
    let jobs =
        if matches.get_flag("http-sd") { http_sd(&bridge) } else { file_sd(&bridge, targets)? };
    say(format_args!("{}{jobs}", own_job(&bridge)).to_string().trim_end())?;
    Ok(())
}

/// Where Prometheus reaches the bridge.
fn bridge_address(http: HttpConfig) -> Result<String, Failure> {
    if let Some(advertise) = http.advertise {
        return Ok(advertise);
    }
    if http.port == 0 {
        return Err(
            "DHT_PROM_HTTP_PORT must be set to a fixed port: with 0 each start takes another, \
                    which no configuration can name"
                .into(),
        );
    }
    let (host, port) = (local(http.host), http.port);
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

fn own_job(bridge: &str) -> String {
    format!(
        r#"global:
  scrape_interval: 15s

scrape_configs:
  # The bridge's own metrics.
  - job_name: dht-prometheus
    static_configs:
      - targets: [{bridge}]

"#,
        bridge = quoted(bridge),
    )
}

fn http_sd(bridge: &str) -> String {
    format!(
        "  # All services that have registered themselves.
  - job_name: aliases
    http_sd_configs:
      - url: {url}
        refresh_interval: 15s
",
        url = quoted(&format!("http://{bridge}/targets")),
    )
}

fn file_sd(bridge: &str, targets: TargetsConfig) -> Result<String, Failure> {
    let path = absolute(&targets.path)?;
    let rules = match targets.format {
        TargetsFormat::Classic => classic_rules(bridge),
        TargetsFormat::Labels => String::new(),
    };
    Ok(format!(
        "  # All services that have registered themselves.
  - job_name: aliases
    file_sd_configs:
      - files: [{path}]
{rules}",
        path = quoted(path_text(&path)?),
    ))
}

/// Takes `alias:key:hostname:service` apart.
fn classic_rules(bridge: &str) -> String {
    format!(
        r#"    relabel_configs:
      - source_labels: [__address__]
        regex: "([^:]+):[^:]{{52}}:[^:]+:[^:]+"
        replacement: "$1"
        target_label: instance
      - source_labels: [instance]
        replacement: "/scrape/$1/metrics"
        target_label: __metrics_path__
      - source_labels: [__address__]
        regex: "[^:]+:[^:]{{52}}:([^:]+):[^:]+"
        replacement: "$1"
        target_label: hostname
      - source_labels: [__address__]
        regex: "[^:]+:[^:]{{52}}:[^:]+:([^:]+)"
        replacement: "$1"
        target_label: service
      # Last, since the rules above read the target from the address.
      - replacement: {bridge}
        target_label: __address__
"#,
        bridge = quoted(bridge),
    )
}

fn path_text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| "the targets file's path is not UTF-8".into())
}

/// A YAML string; JSON's form is one.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
