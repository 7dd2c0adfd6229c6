//! `relay`: a blind relay, for peers whose NATs cannot be crossed.

use std::{ops::RangeInclusive, time::Duration};

use clap::{Arg, ArgMatches, Command, value_parser};
use dht_prometheus::{
    config::{self, Knob, Seed},
    relay::{Relay, RelayConfig, RelayLimits},
    telemetry,
};

use super::{Failure, layers, runtime, settings_of, stop_signal};

/// The bridge's settings that a relay has, too.
const KNOBS: [Knob; 11] = [
    Knob::KeyPairSeed,
    Knob::KeyPairSeedFile,
    Knob::HttpHost,
    Knob::HttpPort,
    Knob::DhtHost,
    Knob::DhtPort,
    Knob::DhtForwardedPort,
    Knob::Bootstrap,
    Knob::BootstrapPort,
    Knob::LogLevel,
    Knob::LogFormat,
];

/// A flag for one of the [`RelayLimits`].
struct Limit {
    flag: &'static str,
    value: &'static str,
    help: &'static str,
    range: RangeInclusive<u64>,
    get: fn(&RelayLimits) -> u64,
    set: fn(&mut RelayLimits, u64),
}

/// A session takes two streams of the 65,536 that a node has.
const MOST_SESSIONS: u64 = 30_000;

const LIMITS: [Limit; 7] = [
    Limit {
        flag: "max-sessions",
        value: "COUNT",
        help: "Pairs of clients joined at once; each takes some 12 KiB",
        range: 1..=MOST_SESSIONS,
        get: |limits| limits.sessions as u64,
        set: |limits, count| limits.sessions = whole(count),
    },
    Limit {
        flag: "max-sessions-per-client",
        value: "COUNT",
        help: "Of these, those of clients with one key",
        range: 1..=MOST_SESSIONS,
        get: |limits| limits.sessions_per_client as u64,
        set: |limits, count| limits.sessions_per_client = whole(count),
    },
    Limit {
        flag: "max-pending",
        value: "COUNT",
        help: "Clients that wait for their partner at once",
        range: 1..=MOST_SESSIONS,
        get: |limits| limits.pending as u64,
        set: |limits, count| limits.pending = whole(count),
    },
    Limit {
        flag: "pair-timeout",
        value: "SECONDS",
        help: "How long a client may wait for its partner, or be connected without asking for one",
        range: 1..=300,
        get: |limits| limits.pair_timeout.as_secs(),
        set: |limits, seconds| limits.pair_timeout = Duration::from_secs(seconds),
    },
    Limit {
        flag: "session-bytes",
        value: "BYTES",
        help: "What a session may carry, both directions together",
        range: 1 << 20..=1 << 50,
        get: |limits| limits.session_bytes,
        set: |limits, bytes| limits.session_bytes = bytes,
    },
    Limit {
        flag: "session-lifetime",
        value: "SECONDS",
        help: "How long a session may last",
        range: 60..=31_536_000,
        get: |limits| limits.session_lifetime.as_secs(),
        set: |limits, seconds| limits.session_lifetime = Duration::from_secs(seconds),
    },
    Limit {
        flag: "session-idle",
        value: "SECONDS",
        help: "How long a session may carry nothing; peers send something every 5 seconds",
        range: 10..=86_400,
        get: |limits| limits.session_idle.as_secs(),
        set: |limits, seconds| limits.session_idle = Duration::from_secs(seconds),
    },
];

fn whole(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl Limit {
    fn arg(&self) -> Arg {
        let (first, last) = (self.range.start(), self.range.end());
        let default = (self.get)(&RelayLimits::default());
        let help = format!("{}; {first} to {last} [default: {default}]", self.help);
        let parser = value_parser!(u64).range(self.range.clone());
        Arg::new(self.flag).long(self.flag).value_name(self.value).value_parser(parser).help(help)
    }
}

pub(super) fn command() -> Command {
    settings_of(Command::new("relay"), &KNOBS)
        .about("Run a blind relay for peers whose NATs cannot be crossed")
        .long_about(
            "Runs a blind relay: a node of the DHT that joins peers whose NATs cannot be crossed, and \
             passes their encrypted packets on without being able to read them. Bridges and services \
             name it by the public key that it prints (`relays`). Run it where its UDP port can be \
             reached from everywhere.\n\n\
             Settings are flags, environment variables and keys of the --config file, as for the \
             bridge; limits are flags. It runs until it is stopped by Ctrl-C or SIGTERM.",
        )
        .mut_arg("dht_host", |arg| arg.visible_alias("host"))
        .mut_arg("dht_port", |arg| arg.visible_alias("port"))
        .next_help_heading("Limits")
        .args(LIMITS.iter().map(Limit::arg))
}

pub(super) fn main(matches: &ArgMatches) -> Result<(), Failure> {
    let layers = layers(matches)?;
    let seed = config::key_pair_seed(&layers)?;
    let (dht, http) = (config::dht(&layers)?, config::http(&layers)?);
    telemetry::init(config::log(&layers)?);
    let key_pair_seed = seed.unwrap_or_else(|| {
        tracing::warn!("no key pair seed is set: clients lose the relay when it restarts");
        Seed::random()
    });
    let config = RelayConfig { key_pair_seed, dht, http, limits: limits(matches) };
    runtime()?.block_on(relay(config))
}

fn limits(matches: &ArgMatches) -> RelayLimits {
    let mut limits = RelayLimits::default();
    for limit in &LIMITS {
        if let Some(value) = matches.get_one(limit.flag) {
            (limit.set)(&mut limits, *value);
        }
    }
    limits
}

async fn relay(config: RelayConfig) -> Result<(), Failure> {
    tracing::info!("Starting up DHT relay");
    let stop = stop_signal()?;
    let relay = Relay::start(config).await?;
    stop.await;
    relay.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<RelayLimits, clap::Error> {
        let arguments = ["relay"].iter().chain(arguments);
        Ok(limits(&command().try_get_matches_from(arguments)?))
    }

    #[test]
    fn limits_are_the_defaults_unless_they_are_set() {
        assert_eq!(parsed(&[]).unwrap(), RelayLimits::default());
        for limit in &LIMITS {
            let default = (limit.get)(&RelayLimits::default());
            assert!(limit.range.contains(&default), "{}", limit.flag);
            let other = *limit.range.start();
            assert_ne!(other, default, "{}", limit.flag);
            let flag = format!("--{}", limit.flag);
            let set = parsed(&[&flag, &other.to_string()]).unwrap();
            assert_eq!((limit.get)(&set), other, "{flag}");
        }
    }

    #[test]
    fn a_limit_outside_its_range_is_refused_with_the_range() {
        for limit in &LIMITS {
            let (first, last) = (limit.range.start(), limit.range.end());
            for value in [first - 1, last + 1] {
                let flag = format!("--{}", limit.flag);
                let error = parsed(&[&flag, &value.to_string()]).unwrap_err().to_string();
                assert!(error.contains(&format!("{first}..={last}")), "{error}");
            }
        }
    }

    #[test]
    fn the_readme_lists_every_limit() {
        let readme = include_str!("../../README.md");
        for limit in &LIMITS {
            let (first, last) = (limit.range.start(), limit.range.end());
            let default = (limit.get)(&RelayLimits::default());
            let row = format!("| `--{}` | {first} to {last} | {default} |", limit.flag);
            assert!(readme.contains(&row), "README.md has no {row}");
        }
    }
}
