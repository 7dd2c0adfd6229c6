//! Queries: many questions on the way to one target.

use std::time::Instant;

use hyperdht_encoding::Encode;

use super::{
    super::{
        Commit, CommitResult, Event, Peer, QueryError, QueryId, QueryReport, QuerySpec,
        RequestError, RequestId, Response, Target, commands,
        query::{DownHint, Query, Step},
    },
    Ask, Purpose, Rpc,
    outbound::{Call, TIMEOUT},
};

impl Rpc {
    /// Begins a walk. [`Event::Found`] streams the answers, [`Event::QueryDone`] tells the end,
    /// which comes in any case.
    pub fn query(&mut self, now: Instant, spec: QuerySpec) -> QueryId {
        self.clock.put_off_refresh();
        self.begin_query(now, Query::new(spec))
    }

    /// Begins a walk to the nodes nearest to `target`.
    pub fn find_node(&mut self, now: Instant, target: Target) -> QueryId {
        self.query(now, QuerySpec { internal: true, ..QuerySpec::new(target, commands::FIND_NODE) })
    }

    /// Calls a query off, with all that it has asked; it ends with [`QueryError::Cancelled`].
    pub fn cancel_query(&mut self, now: Instant, id: QueryId) {
        self.finish_query(now, id, Some(QueryError::Cancelled));
    }

    /// Answers [`Event::Closest`]: sends one request to each of the nodes to commit to. The query
    /// is done when all have ended, and has succeeded when one was answered without an error. With
    /// nothing to send it is done at once.
    pub fn commit(&mut self, now: Instant, id: QueryId, asks: Vec<Ask>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        query.committing = asks.len();
        if asks.is_empty() {
            self.finish_query(now, id, None);
        }
        for ask in asks {
            let call =
                Call { to: Peer::unidentified(ask.to), internal: false, timeout: TIMEOUT, ask };
            self.call(now, call, Purpose::Commit(id));
        }
    }

    /// A walk of the node's own, which steps back when there is other traffic.
    pub(super) fn background_query(&mut self, now: Instant, target: Target) -> QueryId {
        self.clock.put_off_refresh();
        let mut query = Query::new(QuerySpec {
            internal: true,
            concurrency: BACKGROUND_CONCURRENCY,
            ..QuerySpec::new(target, commands::FIND_NODE)
        });
        query.background = true;
        self.begin_query(now, query)
    }

    fn begin_query(&mut self, now: Instant, mut query: Query) -> QueryId {
        let id = QueryId(self.next_query);
        self.next_query += 1;
        let missing = query.missing();
        if missing > 0 {
            self.seed_query(now, &mut query, missing);
        }
        self.queries.insert(id, query);
        self.pump_query(now, id);
        id
    }

    /// Adds nodes of the table, and the bootstrap nodes where it does not have enough.
    fn seed_query(&mut self, now: Instant, query: &mut Query, missing: usize) {
        // Pending nodes are asked from the end.
        let nearest = self.table.closest(&query.spec.target, missing);
        let enough = nearest.len() >= missing;
        query.seed(nearest.into_iter().rev());
        if !enough {
            match self.bootstrap_addresses(now) {
                Some(addresses) => query.seed(addresses.into_iter().map(Peer::at)),
                None => query.awaits_bootstrap = true,
            }
        }
    }

    /// Gives the bootstrap nodes to the queries that wait for them.
    pub(super) fn seed_waiting_queries(&mut self, now: Instant) {
        let waiting: Vec<_> = self
            .queries
            .iter()
            .filter(|(_, query)| query.awaits_bootstrap)
            .map(|(id, _)| *id)
            .collect();
        let addresses = self.bootstrap.addresses(now).unwrap_or_default();
        for id in waiting {
            if let Some(query) = self.queries.get_mut(&id) {
                query.awaits_bootstrap = false;
                query.seed(addresses.iter().copied().map(Peer::at));
            }
            self.pump_query(now, id);
        }
    }

    /// Does whatever a query wants next.
    fn pump_query(&mut self, now: Instant, id: QueryId) {
        loop {
            let Some(query) = self.queries.get_mut(&id) else {
                return;
            };
            match query.step() {
                Step::Visit(to) => {
                    let call = visit(query, to);
                    self.call(now, call, Purpose::Walk(id));
                }
                Step::Seed(missing) => {
                    if let Some(mut query) = self.queries.remove(&id) {
                        self.seed_query(now, &mut query, missing);
                        self.queries.insert(id, query);
                    }
                }
                Step::Wait => return,
                Step::Walked => return self.on_walked(now, id),
            }
        }
    }

    /// A node on the way has answered, or has not.
    pub(super) fn on_visited(
        &mut self,
        now: Instant,
        id: QueryId,
        asked: Peer,
        slow: bool,
        outcome: Result<Response, RequestError>,
    ) {
        let (own_id, accepts) = (self.table.id(), self.accepts);
        let others = self.requests.len();
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let hints = match &outcome {
            Ok(response) => query.answered(&asked, slow, response, |peer| {
                peer.id != Some(own_id) && accepts(peer.addr)
            }),
            Err(RequestError::TimedOut) => query.timed_out(&asked, slow),
            Err(RequestError::Cancelled | RequestError::Overloaded) => {
                query.not_sent();
                Vec::new()
            }
        };
        if query.background {
            query.spec.concurrency = if others < QUIET {
                super::super::query::CONCURRENCY
            } else {
                BACKGROUND_CONCURRENCY
            };
        }
        for hint in hints {
            self.send_down_hint(now, &hint);
        }
        if let Ok(response) = outcome
            && response.error == 0
        {
            self.on_found(now, id, response);
        }
        self.pump_query(now, id);
    }

    /// A request of a query was not answered within its first second.
    pub(super) fn on_slow(&mut self, now: Instant, request: RequestId) {
        let Some(Purpose::Walk(id)) = self.requests.purpose(request) else {
            return;
        };
        let id = *id;
        if let Some(query) = self.queries.get_mut(&id) {
            query.slowed();
            self.pump_query(now, id);
        }
    }

    fn on_found(&mut self, now: Instant, query: QueryId, response: Response) {
        if self.startup.query() == Some(query) {
            self.on_startup_found(now, &response);
        } else if self.queries.get(&query).is_some_and(|q| !q.background) {
            self.events.push_back(Event::Found { query, response });
        }
    }

    /// The nearest nodes are found: commit, or be done.
    fn on_walked(&mut self, now: Instant, id: QueryId) {
        let Some(query) = self.queries.get(&id) else {
            return;
        };
        match query.spec.commit {
            Commit::None => self.finish_query(now, id, None),
            Commit::Same | Commit::Ask if query.closest.is_empty() => {
                self.finish_query(now, id, Some(QueryError::TooFewNodes));
            }
            Commit::Ask => {
                let closest = query.closest.clone();
                self.events.push_back(Event::Closest { query: id, closest });
            }
            Commit::Same => {
                let asks: Vec<_> = query
                    .closest
                    .iter()
                    .filter(|response| response.token.is_some())
                    .map(|response| commit_same(&query.spec, response))
                    .collect();
                if asks.is_empty() {
                    self.finish_query(now, id, Some(QueryError::CommitRefused));
                } else {
                    self.commit(now, id, asks);
                }
            }
        }
    }

    /// A commit has ended.
    pub(super) fn on_committed(
        &mut self,
        now: Instant,
        id: QueryId,
        peer: Peer,
        outcome: Result<Response, RequestError>,
    ) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        query.commits.push(CommitResult { peer, outcome });
        query.committing = query.committing.saturating_sub(1);
        if query.committing > 0 {
            return;
        }
        let accepted = |commit: &CommitResult| commit.outcome.as_ref().is_ok_and(|r| r.error == 0);
        let failure = (!query.commits.iter().any(accepted)).then_some(QueryError::CommitRefused);
        self.finish_query(now, id, failure);
    }

    /// Ends a query and whatever it still asks.
    fn finish_query(&mut self, now: Instant, id: QueryId, failure: Option<QueryError>) {
        let Some(query) = self.queries.remove(&id) else {
            return;
        };
        let of_query = |purpose: &Purpose| matches!(purpose, Purpose::Walk(query) | Purpose::Commit(query) if *query == id);
        for request in self.requests.matching(of_query) {
            self.requests.end(request);
        }
        self.requests.drain(now, &mut self.out);
        if query.background {
            self.startup.on_walked(id);
            self.continue_startup(now);
            return;
        }
        self.events.push_back(Event::QueryDone {
            query: id,
            report: QueryReport {
                closest: query.closest,
                commits: query.commits,
                successes: query.successes,
                errors: query.errors,
                failure,
            },
        });
    }

    fn send_down_hint(&mut self, now: Instant, hint: &DownHint) {
        if self.down_hints_this_tick >= MAX_DOWN_HINTS {
            return;
        }
        self.down_hints_this_tick += 1;
        let mut value = Vec::with_capacity(6);
        value.put_ipv4_address(hint.down);
        let call = Call::internal(hint.referrer, commands::DOWN_HINT, Some(value.into()));
        self.call(now, call, Purpose::DownHint);
    }
}

/// Nodes that a background query asks at a time when there is other traffic.
const BACKGROUND_CONCURRENCY: usize = 2;

/// Fewer running requests than this count as no other traffic.
const QUIET: usize = 3;

/// Down hints sent per tick of five seconds (dht-rpc `index.js`).
const MAX_DOWN_HINTS: usize = 50;

fn visit(query: &Query, to: Peer) -> Call {
    let spec = &query.spec;
    Call {
        to,
        internal: spec.internal,
        timeout: TIMEOUT,
        ask: Ask {
            target: Some(spec.target),
            value: spec.value.clone(),
            retries: spec.retries,
            ..Ask::new(to.addr, spec.command)
        },
    }
}

fn commit_same(spec: &QuerySpec, response: &Response) -> Ask {
    Ask {
        token: response.token,
        target: Some(spec.target),
        value: spec.value.clone(),
        ..Ask::new(response.from.addr, spec.command)
    }
}
