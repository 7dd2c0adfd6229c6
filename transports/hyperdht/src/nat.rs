//! What stands between this host and the network: a report for operators.
//!
//! A [`Node`](crate::Node) finds out as much as it needs on its own. This looks closer, with sockets
//! of its own that end with the look, and says what it saw rather than what follows from it.

mod prober;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use hyperdht_proto::rpc::BootstrapNode;

use self::prober::{Answer, Ask, Prober, Socket};
use crate::node::{NodeOptions, StartError, interfaces};

/// What was found out about this host's place in the network.
#[derive(Debug, Clone)]
pub struct NatReport {
    /// Each of the nodes to start from, and what became of asking it.
    pub bootstrap: Vec<BootstrapReport>,
    /// Addresses of this host's interfaces, other than loopback.
    pub local: Vec<Ipv4Addr>,
    /// How nodes see a socket of ours.
    pub mapping: Mapping,
    /// The host of that address, where nodes agree on it.
    pub public_ip: Option<Ipv4Addr>,
    /// Whether the server socket can be reached.
    pub port: PortReport,
    /// Why the system did not take a datagram, if it refused any: a firewall of this host, or no
    /// route.
    pub refused: Option<io::ErrorKind>,
}

/// A node to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapReport {
    /// As it was given.
    pub node: String,
    /// Where it is, if its name leads anywhere.
    pub address: Option<SocketAddrV4>,
    /// How long its answer took.
    pub rtt: Option<Duration>,
}

/// How the network sees one socket of ours: what a NAT makes of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Nobody answers.
    Silent,
    /// One node answers: too few to tell.
    Unclear,
    /// As it is: the address is this host's own.
    Own,
    /// At the same address by all: holes can be punched.
    Consistent,
    /// At another port by each: ports have to be guessed.
    Random,
    /// At several addresses: the way out changes.
    Several,
}

/// What is known of the server socket's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortReport {
    /// The port that it is bound to.
    pub local: u16,
    /// The port at which nodes were asked to reach it.
    pub public: u16,
    /// How many nodes were asked to write to it that it had not written to.
    pub asked: usize,
    /// How many of them reached it.
    pub reached: usize,
    /// Whether nodes answer this socket and no other: a firewall lets only this port through.
    pub only_way: bool,
}

impl PortReport {
    /// Whether most of those who were asked reached it, as a node wants it.
    pub const fn is_reachable(&self) -> bool {
        self.reached > 0 && 2 * self.reached > self.asked
    }
}

impl NatReport {
    /// Looks at the network with the host and the port of these options, starting from these nodes.
    ///
    /// Cancel-safe: dropping the call frees the sockets. Takes a second or two, and up to a quarter of
    /// a minute where nobody answers.
    ///
    /// # Errors
    /// [`StartError`]: a socket cannot be bound, such as when a node runs at this port.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn examine(
        options: &NodeOptions,
        bootstrap: &[BootstrapNode],
    ) -> Result<Self, StartError> {
        let mut prober = Prober::bind(options).await?;
        let mut found = Vec::new();
        for node in bootstrap {
            found.push((node.to_string(), addresses(node).await));
        }
        let asked: Vec<_> = found.iter().flat_map(|(_, addresses)| addresses.clone()).collect();
        let (socket, mut answers) = first_answers(&mut prober, &asked).await;
        let bootstrap = found.into_iter().map(|(node, known)| report(node, &known, &answers));
        let bootstrap = bootstrap.collect();
        let others = others(&answers, &asked);
        answers.extend(prober.ask(socket, Ask::Ping, &others).await);
        let local = interfaces();
        let seen: Vec<_> = answers.iter().map(|answer| answer.seen).collect();
        let mapping = mapping(&seen, is_own(&local, prober.port(socket)));
        Ok(Self {
            bootstrap,
            local,
            mapping,
            public_ip: agreed(seen.iter().map(|seen| *seen.ip())),
            port: port(&mut prober, socket, &answers, options.forwarded).await,
            refused: prober.refused(),
        })
    }
}

/// Asks the bootstrap nodes, and says from which socket. Where a firewall lets the server socket's
/// port through and no other, only that gets answers.
async fn first_answers(prober: &mut Prober, nodes: &[SocketAddrV4]) -> (Socket, Vec<Answer>) {
    let answers = prober.ask(Socket::Client, Ask::FindNode, nodes).await;
    if !answers.is_empty() || nodes.is_empty() {
        return (Socket::Client, answers);
    }
    // Not earlier: whom the server socket has written to may reach it through a NAT.
    let answers = prober.ask(Socket::Server, Ask::FindNode, nodes).await;
    (if answers.is_empty() { Socket::Client } else { Socket::Server }, answers)
}

/// Has some of those who answered write to the server socket.
async fn port(
    prober: &mut Prober,
    socket: Socket,
    answers: &[Answer],
    forwarded: Option<u16>,
) -> PortReport {
    let local = prober.port(Socket::Server);
    let public = forwarded.unwrap_or(local);
    let only_way = socket == Socket::Server;
    let asked = if only_way { 0 } else { PONGS };
    let nodes: Vec<_> = answers.iter().map(|answer| answer.from).take(asked).collect();
    let reached = prober.ask(socket, Ask::PingNat(public), &nodes).await.len();
    PortReport { local, public, asked: nodes.len(), reached, only_way }
}

/// Where a node may be: several places where it is known by more than its address.
async fn addresses(node: &BootstrapNode) -> Vec<SocketAddrV4> {
    let (address, name, port) = match node {
        BootstrapNode::Address(address) => return vec![*address],
        BootstrapNode::Name { name, port } => (None, name, *port),
        BootstrapNode::Hinted { address, name } => (Some(*address), name, address.port()),
    };
    let found = tokio::net::lookup_host((name.as_str(), port)).await.into_iter().flatten();
    let named = found.filter_map(|address| match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    });
    let mut addresses: Vec<_> = address.into_iter().chain(named).collect();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

fn report(node: String, addresses: &[SocketAddrV4], answers: &[Answer]) -> BootstrapReport {
    let answer = answers.iter().find(|answer| addresses.contains(&answer.from));
    let address = answer.map(|answer| answer.from).or_else(|| addresses.first().copied());
    BootstrapReport { node, address, rtt: answer.map(|answer| answer.rtt) }
}

/// Nodes that others know of, no two of the same host but on loopback: one host is one opinion.
fn others(answers: &[Answer], asked: &[SocketAddrV4]) -> Vec<SocketAddrV4> {
    let mut others: Vec<SocketAddrV4> = Vec::new();
    for node in answers.iter().flat_map(|answer| &answer.closer_nodes) {
        let known = |other: &SocketAddrV4| {
            other == node || (other.ip() == node.ip() && !node.ip().is_loopback())
        };
        if others.len() < MAX_OTHERS && !asked.iter().chain(&others).any(known) {
            others.push(*node);
        }
    }
    others
}

/// Whether an address is this host's own, with this port.
fn is_own(local: &[Ipv4Addr], port: u16) -> impl Fn(&SocketAddrV4) -> bool {
    move |seen| seen.port() == port && (seen.ip().is_loopback() || local.contains(seen.ip()))
}

fn mapping(seen: &[SocketAddrV4], is_own: impl Fn(&SocketAddrV4) -> bool) -> Mapping {
    if seen.is_empty() {
        Mapping::Silent
    } else if seen.iter().all(&is_own) {
        Mapping::Own
    } else if seen.len() == 1 {
        Mapping::Unclear
    } else if agreed(seen.iter()).is_some() {
        Mapping::Consistent
    } else if agreed(seen.iter().map(|seen| *seen.ip())).is_some() {
        Mapping::Random
    } else {
        Mapping::Several
    }
}

/// What all are, if they are all the same.
fn agreed<T: PartialEq>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let first = all.next()?;
    all.all(|other| other == first).then_some(first)
}

/// Nodes that are asked to write to the server socket, as a node asks them.
const PONGS: usize = 5;

/// Further nodes that are asked where they see us: enough to tell a few mappings from one for each.
const MAX_OTHERS: usize = 8;

/// Addresses that are tried for one bootstrap node.
const MAX_ADDRESSES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(addresses: &[&str]) -> Vec<SocketAddrV4> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn mappings_are_told_apart_by_what_nodes_see() {
        let local = [Ipv4Addr::new(5, 5, 1, 1)];
        let own = is_own(&local, 4000);
        let cases: [(&[&str], Mapping); 7] = [
            (&[], Mapping::Silent),
            (&["5.5.1.1:4000"], Mapping::Own),
            (&["5.5.9.9:4000"], Mapping::Unclear),
            (&["5.5.9.9:4000", "5.5.9.9:4000"], Mapping::Consistent),
            (&["5.5.9.9:4000", "5.5.9.9:4001"], Mapping::Random),
            (&["5.5.9.9:4000", "5.5.9.8:4000"], Mapping::Several),
            (&["5.5.1.1:4000", "5.5.1.1:4001"], Mapping::Random),
        ];
        for (addresses, expected) in cases {
            assert_eq!(mapping(&seen(addresses), &own), expected, "{addresses:?}");
        }
    }

    #[test]
    fn one_host_has_one_opinion_except_on_loopback() {
        let answer = |closer: &[&str]| Answer {
            from: "5.5.0.1:1".parse().unwrap(),
            seen: "5.5.9.9:1".parse().unwrap(),
            rtt: Duration::ZERO,
            closer_nodes: seen(closer),
        };
        let asked = seen(&["5.5.0.1:1"]);
        let public = [answer(&["5.5.0.1:2", "5.5.0.2:1", "5.5.0.2:2"])];
        assert_eq!(others(&public, &asked), seen(&["5.5.0.2:1"]));
        let local = [answer(&["127.0.0.1:1", "127.0.0.1:2"]), answer(&["127.0.0.1:2"])];
        assert_eq!(others(&local, &asked), seen(&["127.0.0.1:1", "127.0.0.1:2"]));
    }

    #[test]
    fn a_port_is_reachable_when_most_reached_it() {
        let port =
            |asked, reached| PortReport { local: 1, public: 1, asked, reached, only_way: false };
        assert!(port(5, 3).is_reachable() && port(1, 1).is_reachable());
        assert!(!port(5, 2).is_reachable() && !port(0, 0).is_reachable());
    }
}
