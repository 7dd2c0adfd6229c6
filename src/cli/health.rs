//! `healthcheck`: whether a bridge on this host is healthy, for containers without a shell.

use std::time::Duration;

use clap::{ArgMatches, Command};
use dht_prometheus::config;
use tokio::{net::lookup_host, time::timeout};

use super::{Failure, fetch, layers, local, runtime, settings};

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn command() -> Command {
    settings(Command::new("healthcheck"))
        .about("Ask a bridge on this host whether it is healthy; exit 1 if not")
}

pub(super) fn main(matches: &ArgMatches) -> Result<(), Failure> {
    let http = config::http(&layers(matches)?)?;
    if http.port == 0 {
        return Err("DHT_PROM_HTTP_PORT must be set to a fixed port".into());
    }
    let host = local(http.host);
    runtime()?.block_on(async {
        let check = async {
            let mut addresses = lookup_host((host.as_str(), http.port)).await?;
            let address = addresses.next().ok_or("the host has no address")?;
            let (status, _) = fetch::get(address, "/-/healthy").await?;
            if status.is_success() { Ok(()) } else { Err(format!("answered {status}").into()) }
        };
        timeout(PATIENCE, check).await.map_err(|_| "no answer")?
    })
}
