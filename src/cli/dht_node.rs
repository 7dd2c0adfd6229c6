//! `dht-node`: a node of the DHT and nothing else, for networks of one's own.

use std::{num::NonZeroU16, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Command};
use dht_prometheus::{
    config::{self, DhtConfig, Knob, Layers, PREFIXES},
    telemetry,
};
use hyperdht_rs::{Bootstrap, Node, NodeOptions, node::Role};
use tokio::time::timeout;

use super::{Failure, layers, runtime, say, settings_of, stop_signal};

/// The bridge's settings that a node has, too. Whom it joins is an argument only: a variable that is
/// meant for bridges must not have a network's first node look for itself.
const KNOBS: [Knob; 5] =
    [Knob::DhtHost, Knob::DhtPort, Knob::DhtForwardedPort, Knob::LogLevel, Knob::LogFormat];

pub(super) fn command() -> Command {
    let bootstrap = Arg::new("join").long("bootstrap").value_name("HOST:PORT");
    settings_of(Command::new("dht-node"), &KNOBS)
        .about("Run a node of the DHT: a network's first one, or another")
        .long_about(
            "Runs a node of the DHT, which keeps records for others and passes their handshakes on. \
             Without --bootstrap it is the first node of a network of its own, at the address given \
             by --host; others are given that address. It prints its address and runs until it is \
             stopped by Ctrl-C or SIGTERM.\n\n\
             Settings are flags, environment variables and keys of the --config file, as for the \
             bridge; whom it joins is a flag.",
        )
        .mut_arg("dht_host", |arg| {
            let help = "The address to bind; a first node needs the one that others reach it at";
            arg.visible_alias("host").help(format!("{help} [default: 0.0.0.0]"))
        })
        .mut_arg("dht_port", |arg| {
            let help = "The UDP port; 0 for any";
            arg.visible_alias("port").help(format!("{help} [default: {DEFAULT_PORT}]"))
        })
        .arg(
            bootstrap
                .action(ArgAction::Append)
                .help("A node of the network to join; may be given again"),
        )
}

pub(super) fn main(matches: &ArgMatches) -> Result<(), Failure> {
    let layers = layers(matches)?;
    let dht = config::dht(&layers)?;
    telemetry::init(config::log(&layers)?);
    let names: Vec<String> = matches.get_many("join").into_iter().flatten().cloned().collect();
    let first = names.is_empty();
    if first && dht.host.is_unspecified() {
        return Err("a first node needs --host, the address that others reach it at".into());
    }
    if first && dht.forwarded_port.is_some() {
        let setting = Knob::DhtForwardedPort.variable(PREFIXES[0]);
        return Err(format!("a first node has nobody who could look at its {setting}").into());
    }
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        let bootstrap = Bootstrap::Nodes(addresses(&names).await?);
        // Whoever runs this means the node to be reached; a node that joins others finds out.
        let options = NodeOptions {
            bootstrap,
            host: dht.host,
            port: Some(port(&layers, &dht)),
            forwarded: dht.forwarded_port.map(NonZeroU16::get),
            role: Role::Persistent,
            firewalled: !first,
            ..NodeOptions::default()
        };
        let node = Node::start(options).await?;
        say(node.local_addr())?;
        stop.await;
        let _ = timeout(PATIENCE, node.shutdown()).await;
        Ok(())
    })
}

/// The port to bind. A node that others are told of has to be found there again, so that it does not
/// take the next free one.
fn port(layers: &Layers, dht: &DhtConfig) -> u16 {
    let is_set = layers.is_set(Knob::DhtPort) || dht.forwarded_port.is_some();
    if is_set { dht.port } else { DEFAULT_PORT }
}

async fn addresses(names: &[String]) -> Result<Vec<std::net::SocketAddr>, Failure> {
    let mut addresses = Vec::new();
    for name in names {
        let found = tokio::net::lookup_host(name).await;
        let found = found.map_err(|error| format!("--bootstrap {name}: {error}"))?;
        addresses.extend(found.filter(std::net::SocketAddr::is_ipv4));
    }
    Ok(addresses)
}

/// The port of DHT nodes.
const DEFAULT_PORT: u16 = 49_737;

/// How long leaving the network may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(arguments: &[&str]) -> Result<(u16, Option<u16>), String> {
        let arguments = ["dht-node"].iter().chain(arguments);
        let matches =
            command().try_get_matches_from(arguments).map_err(|error| error.to_string())?;
        let mut layers = Layers::default();
        for knob in KNOBS {
            if let Some(text) = matches.get_one::<String>(knob.spec().name) {
                layers.add_flag(knob, text.clone());
            }
        }
        let dht = config::dht(&layers).map_err(|error| error.to_string())?;
        Ok((port(&layers, &dht), dht.forwarded_port.map(NonZeroU16::get)))
    }

    #[test]
    fn it_binds_the_usual_port_or_the_forwarded_one_unless_told_otherwise() {
        assert_eq!(ports(&[]), Ok((49_737, None)));
        assert_eq!(ports(&["--port", "0"]), Ok((0, None)));
        assert_eq!(ports(&["--port", "50001"]), Ok((50_001, None)));
        assert_eq!(ports(&["--dht-forwarded-port", "50000"]), Ok((50_000, Some(50_000))));
        let both = ["--dht-forwarded-port", "50000", "--dht-port", "49738"];
        assert_eq!(ports(&both), Ok((49_738, Some(50_000))));
    }
}
