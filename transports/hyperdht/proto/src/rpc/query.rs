//! One walk through the network towards a target.

use std::{collections::HashMap, net::SocketAddrV4};

use bytes::Bytes;

use super::{
    Response,
    id::{NodeId, Peer, Target, is_reachable},
    requests::RequestError,
    table::K,
};

/// Names a query until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub(crate) u64);

/// What to ask on the way to a target.
#[derive(Debug, Clone)]
pub struct QuerySpec {
    /// Where to walk.
    pub target: Target,
    /// What to ask each node.
    pub command: u64,
    /// Whether `command` is DHT RPC's own.
    pub internal: bool,
    /// What goes with it.
    pub value: Option<Bytes>,
    /// Nodes to begin with. Fewer than [`K`] are topped up from the routing table, and where that
    /// is short too, with the bootstrap nodes.
    pub nodes: Vec<SocketAddrV4>,
    /// Ask `nodes` and nobody else.
    pub only_nodes: bool,
    /// How often a node is asked again before it counts as down.
    pub retries: u8,
    /// How many nodes are asked at a time.
    pub concurrency: usize,
    /// What to do at the nearest nodes in the end.
    pub commit: Commit,
}

impl QuerySpec {
    /// A query of the application's with the reference's settings: five retries, ten at a time.
    pub const fn new(target: Target, command: u64) -> Self {
        Self {
            target,
            command,
            internal: false,
            value: None,
            nodes: Vec::new(),
            only_nodes: false,
            retries: 5,
            concurrency: CONCURRENCY,
            commit: Commit::None,
        }
    }
}

/// What happens at the nearest nodes once they are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Nothing: finding was all.
    None,
    /// The query's command and value go to each of them again, with the token it gave.
    Same,
    /// [`Event::Closest`](super::Event::Closest) tells them; the query waits for
    /// [`Rpc::commit`](super::Rpc::commit).
    Ask,
}

/// What a query came to.
#[derive(Debug, Clone)]
pub struct QueryReport {
    /// The nodes nearest to the target that answered, nearest first; at most [`K`].
    pub closest: Vec<Response>,
    /// What became of each request of the commit phase, in the order in which they ended.
    pub commits: Vec<CommitResult>,
    /// Nodes that answered without an error.
    pub successes: usize,
    /// Nodes that did not answer, or with an error.
    pub errors: usize,
    /// Why it counts as failed, if it does.
    pub failure: Option<QueryError>,
}

/// What became of the commit at one node.
#[derive(Debug, Clone)]
pub struct CommitResult {
    /// The node.
    pub peer: Peer,
    /// Its answer, which may be an error reply.
    pub outcome: Result<Response, RequestError>,
}

/// Why a query failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// There was something to commit and nobody to commit it to.
    #[error("too few nodes responded")]
    TooFewNodes,
    /// No node took what was committed.
    #[error("no node accepted the commit")]
    CommitRefused,
    /// It was called off.
    #[error("query cancelled")]
    Cancelled,
}

/// The state of a walk (dht-rpc `lib/query.js`). It decides whom to ask; the owner asks.
///
/// A peer can make it longer by naming nodes that do not exist: it remembers at most
/// [`MAX_SEEN`] addresses (about 60 bytes and up to [`MAX_REFERRERS`] referrers of 40 bytes each).
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) spec: QuerySpec,
    pub(crate) closest: Vec<Response>,
    pub(crate) commits: Vec<CommitResult>,
    /// Commits that have not ended.
    pub(crate) committing: usize,
    /// Whether bootstrap nodes are still to come.
    pub(crate) awaits_bootstrap: bool,
    /// Whether it steps back when there is other traffic.
    pub(crate) background: bool,
    pub(crate) successes: usize,
    pub(crate) errors: usize,
    pending: Vec<Peer>,
    seen: HashMap<SocketAddrV4, Seen>,
    inflight: usize,
    slow: usize,
    cautious: bool,
    from_table: bool,
    walked: bool,
}

#[derive(Debug)]
enum Seen {
    /// It is asked or will be; these nodes named it.
    Named(Vec<Peer>),
    Answered,
    Down,
}

/// What a query wants next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask this node.
    Visit(Peer),
    /// Add nodes with [`Query::seed`]; this many are missing.
    Seed(usize),
    /// Nothing before something ends.
    Wait,
    /// The walk has just ended.
    Walked,
}

/// Tell `referrer` that `down` does not answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DownHint {
    pub(crate) referrer: Peer,
    pub(crate) down: SocketAddrV4,
}

impl Query {
    pub(crate) fn new(mut spec: QuerySpec) -> Self {
        let nodes = std::mem::take(&mut spec.nodes);
        let only_nodes = std::mem::replace(&mut spec.only_nodes, false);
        let mut query = Self {
            spec,
            closest: Vec::new(),
            commits: Vec::new(),
            committing: 0,
            awaits_bootstrap: false,
            background: false,
            successes: 0,
            errors: 0,
            pending: Vec::new(),
            seen: HashMap::new(),
            inflight: 0,
            slow: 0,
            cautious: false,
            from_table: false,
            walked: false,
        };
        // The last one is asked first.
        for addr in nodes.into_iter().rev() {
            query.add(Peer::at(addr), None);
        }
        query.spec.only_nodes = only_nodes;
        query.from_table = only_nodes;
        query
    }

    /// How many nodes the table should add before the walk begins.
    pub(crate) fn missing(&self) -> usize {
        if self.spec.only_nodes { 0 } else { K.saturating_sub(self.pending.len()) }
    }

    /// Takes in nodes of the routing table or bootstrap nodes.
    pub(crate) fn seed(&mut self, peers: impl IntoIterator<Item = Peer>) {
        self.from_table = true;
        for peer in peers {
            self.add(peer, None);
        }
    }

    /// Whom to ask next, or what else there is to do.
    pub(crate) fn step(&mut self) -> Step {
        if self.walked {
            return Step::Wait;
        }
        let limit = self.slow + if self.cautious { CAUTIOUS } else { self.spec.concurrency };
        while self.inflight < limit {
            let Some(peer) = self.pending.pop() else { break };
            if peer.id.is_none_or(|id| self.is_closer(&id)) {
                self.inflight += 1;
                return Step::Visit(peer);
            }
        }
        // Given enough nodes to begin with, ask one burst and then only a few until some answer:
        // the nearest may know already.
        if !self.from_table && self.successes + self.errors == 0 {
            self.cautious = true;
        }
        if !self.pending.is_empty() || self.awaits_bootstrap {
            return Step::Wait;
        }
        let only_slow_ones = self.slow == self.inflight && self.closest.len() >= K;
        if self.inflight > 0 && !only_slow_ones {
            return Step::Wait;
        }
        if !self.from_table && self.successes < K / 4 {
            self.from_table = true;
            return Step::Seed(K);
        }
        self.walked = true;
        Step::Walked
    }

    /// Takes in an answer of `asked`; `slow` when it came after its first timeout. `accepts` says
    /// which nodes may be asked at all.
    pub(crate) fn answered(
        &mut self,
        asked: &Peer,
        slow: bool,
        response: &Response,
        accepts: impl Fn(&Peer) -> bool,
    ) -> Vec<DownHint> {
        self.ended(slow);
        self.seen.insert(asked.addr, Seen::Answered);
        if self.walked {
            return Vec::new();
        }
        if response.error == 0 {
            self.successes += 1;
            if response.from.id.is_some_and(|id| self.is_closer(&id)) {
                self.add_closest(response);
            }
        } else {
            self.errors += 1;
        }
        if self.successes + self.errors >= self.spec.concurrency {
            self.cautious = false;
        }
        response
            .closer_nodes
            .iter()
            .map(|addr| Peer::at(*addr))
            .filter(accepts)
            .filter_map(|peer| self.add(peer, Some(response.from)))
            .collect()
    }

    /// `asked` did not answer.
    pub(crate) fn timed_out(&mut self, asked: &Peer, slow: bool) -> Vec<DownHint> {
        self.ended(slow);
        self.errors += 1;
        match self.seen.insert(asked.addr, Seen::Down) {
            Some(Seen::Named(referrers)) => referrers
                .into_iter()
                .map(|referrer| DownHint { referrer, down: asked.addr })
                .collect(),
            Some(Seen::Answered | Seen::Down) | None => Vec::new(),
        }
    }

    /// A node could not be asked.
    pub(crate) fn not_sent(&mut self) {
        self.ended(false);
        self.errors += 1;
    }

    /// A first wait was in vain: the request no longer counts against the concurrency.
    pub(crate) fn slowed(&mut self) {
        self.slow += 1;
    }

    fn ended(&mut self, slow: bool) {
        self.inflight = self.inflight.saturating_sub(1);
        if slow {
            self.slow = self.slow.saturating_sub(1);
        }
    }

    /// Whether it would be among the nearest.
    fn is_closer(&self, id: &NodeId) -> bool {
        match self.closest.last().and_then(|last| last.from.id) {
            Some(last) if self.closest.len() >= K => {
                id.cmp_distance(&last, &self.spec.target).is_lt()
            }
            _ => true,
        }
    }

    /// Notes a node that `referrer` named, and asks it in time if it helps. Gives the hint for a
    /// referrer that names a node which is down.
    fn add(&mut self, peer: Peer, referrer: Option<Peer>) -> Option<DownHint> {
        if self.spec.only_nodes || !is_reachable(peer.addr) {
            return None;
        }
        match self.seen.get_mut(&peer.addr) {
            Some(Seen::Answered) => {}
            Some(Seen::Down) => {
                return referrer.map(|referrer| DownHint { referrer, down: peer.addr });
            }
            Some(Seen::Named(referrers)) => {
                if referrers.len() < MAX_REFERRERS {
                    referrers.extend(referrer);
                }
            }
            None => {
                let helps = peer.id.is_none_or(|id| self.is_closer(&id));
                if helps && self.seen.len() < MAX_SEEN {
                    self.seen.insert(peer.addr, Seen::Named(referrer.into_iter().collect()));
                    self.pending.push(peer);
                }
            }
        }
        None
    }

    fn add_closest(&mut self, response: &Response) {
        let Some(id) = response.from.id else { return };
        let at = self.closest.partition_point(|other| {
            other.from.id.is_some_and(|other| other.cmp_distance(&id, &self.spec.target).is_lt())
        });
        if self.closest.get(at).and_then(|other| other.from.id) != Some(id) {
            let mut response = response.clone();
            response.closer_nodes = Vec::new();
            self.closest.insert(at, response);
            self.closest.truncate(K);
        }
    }
}

/// Nodes asked at a time.
pub(crate) const CONCURRENCY: usize = 10;

/// Nodes asked at a time while the first answers of a seeded query are awaited.
const CAUTIOUS: usize = 3;

/// Addresses that one query remembers. A walk through a network of a million nodes sees some 200.
pub(crate) const MAX_SEEN: usize = 2048;

/// Nodes that are told when a node they named turns out to be down.
pub(crate) const MAX_REFERRERS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{SocketId, testnet::addr};

    fn response(from: SocketAddrV4, error: u64, closer_nodes: Vec<SocketAddrV4>) -> Response {
        Response {
            from: Peer::at(from),
            to: addr(0),
            socket: SocketId::Client,
            token: None,
            closer_nodes,
            error,
            value: None,
            rtt: std::time::Duration::ZERO,
        }
    }

    fn query(nodes: Vec<SocketAddrV4>) -> Query {
        Query::new(QuerySpec { nodes, ..QuerySpec::new([0; 32], 2) })
    }

    fn visits(query: &mut Query) -> Vec<SocketAddrV4> {
        std::iter::from_fn(|| match query.step() {
            Step::Visit(peer) => Some(peer.addr),
            Step::Seed(_) | Step::Wait | Step::Walked => None,
        })
        .collect()
    }

    fn by_distance(range: std::ops::Range<u32>) -> Vec<SocketAddrV4> {
        let mut all: Vec<_> = range.map(addr).collect();
        all.sort_by(|a, b| NodeId::of(*a).cmp_distance(&NodeId::of(*b), &[0; 32]));
        all
    }

    #[test]
    fn the_nearest_twenty_are_kept_in_order() {
        let mut query = query(Vec::new());
        query.seed(vec![Peer::at(addr(1))]);
        assert_eq!(visits(&mut query), [addr(1)]);
        query.answered(
            &Peer::at(addr(1)),
            false,
            &response(addr(1), 0, (2..34).map(addr).collect()),
            |_| true,
        );
        let mut asked = visits(&mut query);
        while let Some(next) = asked.pop() {
            query.answered(&Peer::at(next), false, &response(next, 0, vec![]), |_| true);
            asked.extend(visits(&mut query));
        }
        let closest: Vec<_> = query.closest.iter().map(|r| r.from.addr).collect();
        let mut answered = by_distance(1..34);
        answered.truncate(K);
        assert_eq!(closest, answered);
        assert!(query.walked);
    }

    #[test]
    fn an_error_reply_is_no_result_but_its_nodes_are_asked() {
        let mut query = query(Vec::new());
        query.seed(vec![Peer::at(addr(1))]);
        visits(&mut query);
        query.answered(&Peer::at(addr(1)), false, &response(addr(1), 1, vec![addr(2)]), |_| true);
        assert_eq!(visits(&mut query), [addr(2)]);
        assert!(query.closest.is_empty());
    }

    #[test]
    fn whoever_names_a_dead_node_is_told() {
        let mut query = query(Vec::new());
        query.seed(vec![Peer::at(addr(1)), Peer::at(addr(2))]);
        visits(&mut query);
        let dead = Peer::at(addr(9));
        assert_eq!(
            query.answered(&Peer::at(addr(1)), false, &response(addr(1), 0, vec![addr(9)]), |_| {
                true
            }),
            []
        );
        visits(&mut query);
        let hint = |referrer| DownHint { referrer: Peer::at(addr(referrer)), down: addr(9) };
        query.slowed();
        assert_eq!(query.timed_out(&dead, true), [hint(1)]);
        assert_eq!(
            query.answered(&Peer::at(addr(2)), false, &response(addr(2), 0, vec![addr(9)]), |_| {
                true
            }),
            [hint(2)]
        );
    }

    #[test]
    fn a_slow_node_makes_room_for_another() {
        let mut query = query(Vec::new());
        query.seed((0..20).map(|n| Peer::at(addr(n))));
        assert_eq!(visits(&mut query).len(), CONCURRENCY);
        query.slowed();
        assert_eq!(visits(&mut query).len(), 1);
    }

    #[test]
    fn enough_given_nodes_are_asked_with_caution_and_the_table_is_the_way_out() {
        let mut query = query(by_distance(0..20));
        assert_eq!(query.missing(), 0);
        let asked = visits(&mut query);
        assert_eq!(asked, by_distance(0..20)[..10]);
        query.timed_out(&Peer::at(asked[0]), false);
        assert_eq!(visits(&mut query).len(), 0, "three at a time after the first burst");
        for peer in &asked[1..] {
            query.timed_out(&Peer::at(*peer), false);
        }
        loop {
            let asked = visits(&mut query);
            if asked.is_empty() {
                break;
            }
            assert!(asked.len() <= CAUTIOUS);
            for peer in asked {
                query.timed_out(&Peer::at(peer), false);
            }
        }
        query.walked = false;
        query.from_table = false;
        assert_eq!(query.step(), Step::Seed(K));
        assert_eq!(query.step(), Step::Walked);
    }

    #[test]
    fn only_the_given_nodes_are_asked_when_told_so() {
        let mut query = Query::new(QuerySpec {
            nodes: vec![addr(1)],
            only_nodes: true,
            ..QuerySpec::new([0; 32], 2)
        });
        assert_eq!(query.missing(), 0);
        assert_eq!(visits(&mut query), [addr(1)]);
        query.answered(&Peer::at(addr(1)), false, &response(addr(1), 0, vec![addr(2)]), |_| true);
        assert_eq!(query.step(), Step::Walked);
    }

    #[test]
    fn invented_nodes_do_not_grow_a_query_beyond_its_bound() {
        let mut query = query(Vec::new());
        query.seed(vec![Peer::at(addr(0))]);
        for n in 0..400 {
            let nodes = (1..33).map(|m| addr(1000 + 32 * n + m)).collect();
            query.answered(&Peer::at(addr(0)), false, &response(addr(0), 0, nodes), |_| true);
        }
        assert_eq!(query.seen.len(), MAX_SEEN);
        assert!(query.pending.len() <= MAX_SEEN);
    }
}
