//! `dht-node`: a node of the DHT and nothing else, for networks of one's own.

use std::{net::Ipv4Addr, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use hyperdht_rs::{Bootstrap, Node, NodeOptions, node::Role};
use tokio::time::timeout;

use super::{Failure, runtime, say, stop_signal};

pub(super) fn command() -> Command {
    let host = Arg::new("host").long("host").value_name("IPV4").default_value("0.0.0.0");
    let port = Arg::new("port").long("port").value_name("PORT").default_value("49737");
    let bootstrap = Arg::new("bootstrap").long("bootstrap").value_name("HOST:PORT");
    Command::new("dht-node")
        .about("Run a node of the DHT: a network's first one, or another")
        .long_about(
            "Runs a node of the DHT, which keeps records for others and passes their handshakes on. \
             Without --bootstrap it is the first node of a network of its own, at the address given \
             by --host; others are given that address. It prints its address and runs until it is \
             stopped by Ctrl-C or SIGTERM.",
        )
        .arg(
            host.value_parser(value_parser!(Ipv4Addr))
                .help("The address to bind; a first node needs the one that others reach it at"),
        )
        .arg(port.value_parser(value_parser!(u16)).help("The UDP port; 0 for any"))
        .arg(
            bootstrap
                .action(ArgAction::Append)
                .help("A node of the network to join; may be given again"),
        )
}

pub(super) fn main(matches: &ArgMatches) -> Result<(), Failure> {
    let host = matches.get_one("host").copied().unwrap_or(Ipv4Addr::UNSPECIFIED);
    let port = matches.get_one("port").copied();
    let names: Vec<String> = matches.get_many("bootstrap").into_iter().flatten().cloned().collect();
    let first = names.is_empty();
    if first && host.is_unspecified() {
        return Err("a first node needs --host, the address that others reach it at".into());
    }
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        let bootstrap = Bootstrap::Nodes(addresses(&names).await?);
        // Whoever runs this means the node to be reached; a node that joins others finds out.
        let options = NodeOptions {
            bootstrap,
            host,
            port,
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

async fn addresses(names: &[String]) -> Result<Vec<std::net::SocketAddr>, Failure> {
    let mut addresses = Vec::new();
    for name in names {
        let found = tokio::net::lookup_host(name).await;
        let found = found.map_err(|error| format!("--bootstrap {name}: {error}"))?;
        addresses.extend(found.filter(std::net::SocketAddr::is_ipv4));
    }
    Ok(addresses)
}

/// How long leaving the network may take.
const PATIENCE: Duration = Duration::from_secs(5);
