//! Commands: parse, start tracing, build, run, exit code.

use std::{
    fmt::Display,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Arg, ArgMatches, Command, value_parser};
use dht_prometheus::{
    Bridge, BridgeConfig,
    config::{Config, ConfigError, Knob, Layers, Seed},
    telemetry, transport,
};
use hyperdht_rs::moderate_wakeups;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

mod demo;
mod dht_node;
mod doctor;
mod fetch;
mod health;
mod keygen;
mod print_config;
mod relay;

/// What goes wrong in a command: one line for stderr.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the command that the arguments name.
pub(crate) fn main() -> ExitCode {
    raise_file_limit();
    let matches = command().get_matches();
    let done = |()| ExitCode::SUCCESS;
    let outcome = match matches.subcommand() {
        None => run(&matches).map(done),
        Some(("demo", matches)) => demo::main(matches).map(done),
        Some(("dht-node", matches)) => dht_node::main(matches).map(done),
        Some(("doctor", matches)) => doctor::main(matches),
        Some(("healthcheck", matches)) => health::main(matches).map(done),
        Some(("keygen", matches)) => keygen::main(matches).map(done),
        Some(("print-config", matches)) => print_config::main(matches).map(done),
        Some(("relay", matches)) => relay::main(matches).map(done),
        Some((name, _)) => Err(format!("{name} is not a command").into()),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            let line = telemetry::causes(&*failure);
            // Nothing is left to tell it to if stderr is gone.
            let _ = writeln!(io::stderr(), "{line}");
            ExitCode::FAILURE
        }
    }
}

/// Lets the process open as many files as the system allows it to: the usual soft limit is less than
/// the HTTP connections that may be open. Node does the same at its start.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused, it works with what it has.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn command() -> Command {
    settings(Command::new("dht-prometheus"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Lets Prometheus scrape services behind NAT and firewalls, over HyperDHT")
        .long_about(
            "Lets Prometheus scrape services behind NAT and firewalls, over HyperDHT.\n\n\
             Without a command, runs the bridge. Each setting is a flag, an environment variable \
             (--http-port is DHT_PROM_HTTP_PORT) and a key of the --config file (http_port); the \
             first of these that is set counts. Secrets are read from the environment or from \
             files only.",
        )
        .args_conflicts_with_subcommands(true)
        .subcommand(demo::command())
        .subcommand(dht_node::command())
        .subcommand(doctor::command())
        .subcommand(health::command())
        .subcommand(keygen::command())
        .subcommand(print_config::command())
        .subcommand(relay::command())
}

/// Adds a flag for each setting.
fn settings(command: Command) -> Command {
    settings_of(command, &Knob::ALL)
}

/// Adds a flag for each of these settings.
fn settings_of(command: Command, knobs: &[Knob]) -> Command {
    let config = Arg::new("config").long("config").value_name("FILE");
    let config = config.value_parser(value_parser!(PathBuf)).help("A TOML file with settings");
    let flags = knobs.iter().filter(|knob| !knob.spec().secret).map(|knob| {
        let spec = knob.spec();
        let help = format!("{} [default: {}]", capitalised(spec.help), spec.default);
        Arg::new(spec.name).long(knob.flag()).value_name(spec.value).help(help)
    });
    command.arg(config).args(flags)
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// The settings of a command that [`settings`] was applied to.
fn layers(matches: &ArgMatches) -> Result<Layers, ConfigError> {
    let mut layers = Layers::default();
    for knob in Knob::ALL.into_iter().filter(|knob| !knob.spec().secret) {
        // A command may have some of the settings only.
        if let Ok(Some(text)) = matches.try_get_one::<String>(knob.spec().name) {
            layers.add_flag(knob, text.clone());
        }
    }
    layers.add_environment(&environment);
    if let Some(path) = matches.get_one::<PathBuf>("config") {
        layers.add_file(path)?;
    }
    Ok(layers)
}

/// A variable of this process.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The host under which this machine reaches what is bound to `host`.
fn local(host: String) -> String {
    match host.as_str() {
        "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "::1".to_owned(),
        _ => host,
    }
}

/// One thread: the bodies pass from socket to socket without changing cores, which more threads
/// would make a third dearer. File access has threads of its own.
fn runtime() -> Result<Runtime, Failure> {
    Ok(moderate_wakeups(Builder::new_current_thread().enable_all()).build()?)
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let config = Config::from_layers(&layers(matches)?)?;
    telemetry::init(config.log);
    runtime()?.block_on(bridge(config))
}

async fn bridge(config: Config) -> Result<(), Failure> {
    tracing::info!("Starting up Prometheus DHT bridge");
    for line in Layers::ignored(&environment) {
        tracing::warn!("{line}");
    }
    let Config { shared_secret, key_pair_seed, targets, http, dht, log: _ } = config;
    let seed = key_pair_seed.unwrap_or_else(|| {
        tracing::warn!("no key pair seed is set: services lose the bridge when it restarts");
        Seed::random()
    });
    let stop = stop_signal()?;
    let transport = transport::open(dht, seed);
    let mut bridge =
        Bridge::start(BridgeConfig { shared_secret, targets, http }, transport).await?;
    let failure = tokio::select! {
        () = stop => None,
        failure = bridge.failed() => Some(failure),
    };
    if let Some(failure) = &failure {
        tracing::error!("the bridge stops: {failure}");
    }
    bridge.shutdown().await;
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// Comes true at the first SIGINT or SIGTERM; at the second the process ends at once.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (first, stop) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut first = Some(first);
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            match first.take() {
                Some(first) => drop(first.send(())),
                None => std::process::exit(1),
            }
        }
    });
    Ok(async { drop(stop.await) })
}

/// Writes a line to stdout, for commands whose output is their purpose.
fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_fit_for_clap() {
        command().debug_assert();
    }

    #[test]
    fn what_is_bound_to_all_addresses_is_reached_on_this_host() {
        assert_eq!(local("0.0.0.0".to_owned()), "127.0.0.1");
        assert_eq!(local("::".to_owned()), "::1");
        assert_eq!(local("192.0.2.1".to_owned()), "192.0.2.1");
    }
}
