//! Finding the nodes that everybody starts from.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
    time::{Duration, Instant},
};

/// How to find a bootstrap node. Parsed from `address:port`, `name:port` or `address@name:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootstrapNode {
    /// By its address.
    Address(SocketAddrV4),
    /// By its name.
    Name {
        /// The host.
        name: String,
        /// The port.
        port: u16,
    },
    /// By its address, or by its name if nobody answers there any more.
    Hinted {
        /// Where it is likely to be.
        address: SocketAddrV4,
        /// The host.
        name: String,
    },
}

/// As it is parsed.
impl fmt::Display for BootstrapNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { name, port } => write!(f, "{name}:{port}"),
            Self::Hinted { address, name } => {
                write!(f, "{}@{name}:{}", address.ip(), address.port())
            }
        }
    }
}

impl FromStr for BootstrapNode {
    type Err = ParseBootstrapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(ParseBootstrapError)?;
        let port: u16 = port.parse().map_err(|_| ParseBootstrapError)?;
        if port == 0 || host.is_empty() {
            return Err(ParseBootstrapError);
        }
        let address = |ip| SocketAddrV4::new(ip, port);
        if let Some((ip, name)) = host.split_once('@') {
            let ip = ip.parse().map_err(|_| ParseBootstrapError)?;
            return Ok(Self::Hinted { address: address(ip), name: name.to_owned() });
        }
        Ok(host.parse::<Ipv4Addr>().map_or_else(
            |_| Self::Name { name: host.to_owned(), port },
            |ip| Self::Address(address(ip)),
        ))
    }
}

/// The text is not `address:port`, `name:port` or `address@name:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a bootstrap node is written address:port, name:port or address@name:port")]
pub struct ParseBootstrapError;

/// Says which bootstrap entry waits for its name to be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootstrapKey(usize);

/// Finds the addresses of all bootstrap nodes, once for everybody who asks within
/// [`REMEMBERED`]. (The reference does it anew for each query.)
#[derive(Debug)]
pub(crate) struct Bootstrap {
    entries: Vec<Entry>,
    /// When the running or last round began.
    began: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    node: BootstrapNode,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Pinging,
    Naming { until: Instant },
    Known(SocketAddrV4),
    Failed,
}

/// What to do to find a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Find {
    Ping(BootstrapKey, SocketAddrV4),
    LookUp(BootstrapKey, String),
}

impl Bootstrap {
    pub(crate) fn new(nodes: Vec<BootstrapNode>) -> Self {
        let entry = |node| {
            let state = match node {
                BootstrapNode::Address(addr) => State::Known(addr),
                BootstrapNode::Name { .. } | BootstrapNode::Hinted { .. } => State::Unknown,
            };
            Entry { node, state }
        };
        Self { entries: nodes.into_iter().map(entry).collect(), began: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The addresses, if all is settled and fresh enough.
    pub(crate) fn addresses(&self, now: Instant) -> Option<Vec<SocketAddrV4>> {
        let fresh = self.began.is_some_and(|began| now < began + REMEMBERED);
        let plain = |entry: &Entry| matches!(entry.node, BootstrapNode::Address(_));
        if self.is_searching() || !(fresh || self.entries.iter().all(plain)) {
            return None;
        }
        let known = self.entries.iter().filter_map(|entry| match entry.state {
            State::Known(addr) => Some(addr),
            State::Unknown | State::Pinging | State::Naming { .. } | State::Failed => None,
        });
        Some(known.collect())
    }

    /// Begins a round, unless one is running.
    pub(crate) fn search(&mut self, now: Instant) -> Vec<Find> {
        if self.is_searching() {
            return Vec::new();
        }
        self.began = Some(now);
        let find = |(index, entry): (usize, &mut Entry)| match &entry.node {
            BootstrapNode::Address(_) => None,
            BootstrapNode::Name { .. } => entry.look_up(now, BootstrapKey(index)),
            BootstrapNode::Hinted { address, .. } => {
                let address = *address;
                entry.state = State::Pinging;
                Some(Find::Ping(BootstrapKey(index), address))
            }
        };
        self.entries.iter_mut().enumerate().filter_map(find).collect()
    }

    /// Takes in whether the ping of a hinted address was answered.
    pub(crate) fn pinged(
        &mut self,
        now: Instant,
        key: BootstrapKey,
        answered: bool,
    ) -> Option<Find> {
        let entry = self.entries.get_mut(key.0)?;
        match &entry.node {
            BootstrapNode::Hinted { address, .. } if answered => {
                entry.state = State::Known(*address);
                None
            }
            BootstrapNode::Hinted { .. } => entry.look_up(now, key),
            BootstrapNode::Address(_) | BootstrapNode::Name { .. } => None,
        }
    }

    /// Takes in what a name stands for.
    pub(crate) fn resolved(&mut self, key: BootstrapKey, ip: Option<Ipv4Addr>) {
        let Some(entry) = self.entries.get_mut(key.0) else {
            return;
        };
        let port = match &entry.node {
            BootstrapNode::Name { port, .. } => *port,
            BootstrapNode::Hinted { address, .. } | BootstrapNode::Address(address) => {
                address.port()
            }
        };
        if matches!(entry.state, State::Naming { .. }) {
            entry.state = ip.map_or(State::Failed, |ip| State::Known(SocketAddrV4::new(ip, port)));
        }
    }

    /// Gives up on names that nobody has looked up in time.
    pub(crate) fn expire(&mut self, now: Instant) {
        for entry in &mut self.entries {
            if matches!(entry.state, State::Naming { until } if until <= now) {
                entry.state = State::Failed;
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.entries
            .iter()
            .filter_map(|entry| match entry.state {
                State::Naming { until } => Some(until),
                State::Unknown | State::Pinging | State::Known(_) | State::Failed => None,
            })
            .min()
    }

    pub(crate) fn is_searching(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| matches!(entry.state, State::Pinging | State::Naming { .. }))
    }
}

impl Entry {
    fn look_up(&mut self, now: Instant, key: BootstrapKey) -> Option<Find> {
        match &self.node {
            BootstrapNode::Name { name, .. } | BootstrapNode::Hinted { name, .. } => {
                self.state = State::Naming { until: now + LOOK_UP };
                Some(Find::LookUp(key, name.clone()))
            }
            BootstrapNode::Address(_) => None,
        }
    }
}

/// How long a round's result is used again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How long the owner may take to look up a name.
const LOOK_UP: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::testnet::epoch;

    fn bootstrap(text: &str) -> Bootstrap {
        Bootstrap::new(vec![text.parse().unwrap()])
    }

    #[test]
    fn the_three_spellings_are_read_and_others_refused() {
        assert_eq!("1.2.3.4:5".parse(), Ok(BootstrapNode::Address("1.2.3.4:5".parse().unwrap())));
        assert_eq!(
            "node.example:5".parse(),
            Ok(BootstrapNode::Name { name: "node.example".to_owned(), port: 5 })
        );
        assert_eq!(
            "1.2.3.4@node.example:5".parse(),
            Ok(BootstrapNode::Hinted {
                address: "1.2.3.4:5".parse().unwrap(),
                name: "node.example".to_owned()
            })
        );
        for text in ["1.2.3.4:5", "node.example:5", "1.2.3.4@node.example:5"] {
            assert_eq!(text.parse::<BootstrapNode>().unwrap().to_string(), text);
        }
        for text in ["node.example", ":5", "a:0", "a:b", "a@b:5", ""] {
            assert_eq!(text.parse::<BootstrapNode>(), Err(ParseBootstrapError), "{text}");
        }
    }

    #[test]
    fn a_silent_hint_is_looked_up_and_the_result_remembered_for_a_minute() {
        let now = epoch();
        let mut bootstrap = bootstrap("1.2.3.4@node.example:5");
        assert_eq!(bootstrap.addresses(now), None);
        let Some(Find::Ping(key, _)) = bootstrap.search(now).pop() else { panic!("not pinged") };
        assert_eq!(
            bootstrap.pinged(now, key, false),
            Some(Find::LookUp(key, "node.example".to_owned()))
        );
        assert_eq!(bootstrap.addresses(now), None);
        bootstrap.resolved(key, Some([9, 9, 9, 9].into()));
        let found = vec!["9.9.9.9:5".parse().unwrap()];
        assert_eq!(bootstrap.addresses(now), Some(found));
        assert_eq!(bootstrap.addresses(now + REMEMBERED), None);
    }

    #[test]
    fn a_name_that_nobody_looks_up_fails_in_time() {
        let now = epoch();
        let mut bootstrap = bootstrap("node.example:5");
        bootstrap.search(now);
        let until = bootstrap.poll_timeout().unwrap();
        bootstrap.expire(until);
        assert_eq!(bootstrap.addresses(until), Some(Vec::new()));
    }

    #[test]
    fn plain_addresses_need_no_search() {
        let bootstrap = bootstrap("1.2.3.4:5");
        assert_eq!(bootstrap.addresses(epoch()), Some(vec!["1.2.3.4:5".parse().unwrap()]));
    }
}
