//! Keeping the routing table true, tick by tick.

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use rand::{Rng, rngs::StdRng};

use super::{
    super::{
        Event, Network, NodeId, Peer, Role, SocketId, commands,
        table::{Added, K, Node},
    },
    Purpose, Rpc,
    outbound::Call,
};

/// The node's clock: ticks of five seconds, and what is due at which (dht-rpc `index.js`).
#[derive(Debug)]
pub(super) struct Clock {
    tick: u64,
    last: Instant,
    /// Ticks until the table is refreshed.
    refresh: u64,
    /// Ticks until it is tried to join the network.
    stable: u64,
}

impl Clock {
    /// Begins anywhere, so that the nodes of a network do not all tick alike.
    pub(super) fn new(now: Instant, role: Role, rng: &mut StdRng) -> Self {
        let mut offset = |ticks: u64| ticks - u64::from(rng.next_u32()) % (ticks / 2);
        let mut clock =
            Self { tick: offset(100), last: now, refresh: offset(REFRESH_TICKS), stable: 0 };
        clock.begin_again(role);
        clock
    }

    pub(super) const fn tick(&self) -> u64 {
        self.tick
    }

    pub(super) fn next_tick(&self) -> Instant {
        self.last + TICK
    }

    /// Refreshes the table with the next tick.
    pub(super) const fn refresh_soon(&mut self) {
        self.refresh = 1;
    }

    pub(super) const fn put_off_refresh(&mut self) {
        self.refresh = REFRESH_TICKS;
    }

    /// Counts a tick towards joining; true when it is time.
    pub(super) const fn is_stable(&mut self) -> bool {
        self.stable = self.stable.saturating_sub(1);
        self.stable == 0
    }

    /// Waits as a new node does before it tries to join.
    pub(super) const fn begin_again(&mut self, role: Role) {
        self.stable = match role {
            Role::Adaptive => STABLE_TICKS,
            Role::Persistent | Role::Ephemeral => RETRY_TICKS,
        };
    }

    /// Waits for a longer time before joining is tried again.
    pub(super) const fn put_off_joining(&mut self, role: Role) {
        self.stable = match role {
            Role::Adaptive => MORE_STABLE_TICKS,
            Role::Persistent | Role::Ephemeral => RETRY_TICKS,
        };
    }

    /// Skips ahead so far that everything known seems old, to a tick from which it is two more
    /// until nodes are pinged.
    const fn wake_up(&mut self, now: Instant) {
        self.last = now;
        self.tick += 2 * OLD_NODE + PING_TICKS;
        self.tick -= self.tick % PING_TICKS + 2;
        self.stable = MORE_STABLE_TICKS;
        self.refresh = 1;
    }
}

impl Rpc {
    /// Does what is due each five seconds.
    pub(super) fn tick(&mut self, now: Instant) {
        if now < self.clock.next_tick() {
            return;
        }
        if now.saturating_duration_since(self.clock.last) > SLEEPING {
            self.woke_up(now);
        } else {
            self.clock.tick += 1;
        }
        self.clock.last = now;
        if !self.is_ready() {
            return;
        }
        if self.clock.tick.is_multiple_of(RECENT_NODE) {
            self.check_id(now);
        }
        if !self.check_firewall(now) {
            self.try_to_join(now);
        }
        if self.clock.tick.is_multiple_of(FORWARDING_TICKS) {
            self.check_forwarding(now);
        }
        if self.clock.tick.is_multiple_of(PING_TICKS) {
            self.ping_some(now);
        }
        let lonely = self.table.len() < K && self.clock.tick.is_multiple_of(LONELY_REFRESH_TICKS);
        self.clock.refresh = self.clock.refresh.saturating_sub(1);
        let offline = self.health.network() == Network::Offline;
        let searches = offline && self.clock.tick.is_multiple_of(OFFLINE_REFRESH_TICKS);
        if lonely || searches || self.clock.refresh == 0 {
            self.refresh(now);
        }
        self.down_hints_this_tick = 0;
        let before = self.health.network();
        let network = self.health.update(self.responses, self.timeouts);
        if network != before {
            self.events.push_back(Event::Network(network));
        }
    }

    /// Somebody wrote from `peer` to `socket` and named `to` as our address.
    pub(super) fn heard_from(
        &mut self,
        now: Instant,
        socket: SocketId,
        peer: Peer,
        to: SocketAddrV4,
    ) {
        if !(self.accepts)(peer.addr) {
            return;
        }
        // What arrives on another socket than requests leave from tells of another mapping.
        let may_sample = socket == self.default_socket();
        let due = match peer.id {
            Some(id) => self.keep(now, id, peer.addr, may_sample),
            None => may_sample && self.may_sample_stranger(peer.addr),
        };
        if due && may_sample {
            self.sample(to);
        }
    }

    /// Notes that a node is alive, and adds it where it is new. True when what it says about our
    /// address counts, which `sampled` notes too: when it is new, and each half hour.
    fn keep(&mut self, now: Instant, id: NodeId, addr: SocketAddrV4, sampled: bool) -> bool {
        let tick = self.clock.tick;
        let Some(node) = self.table.node_mut(&id) else {
            let mut node = Node::new(id, addr, tick);
            node.sampled = if sampled { tick } else { 0 };
            return self.add_node(now, node);
        };
        let due = node.sampled == 0 || tick - node.sampled >= OLD_NODE;
        if due && sampled {
            node.sampled = tick;
        }
        node.pinged = tick;
        self.table.touch(&id);
        due
    }

    /// Adds a node to the table; where its bucket is full, finds out if it may take a place there.
    pub(super) fn add_node(&mut self, now: Instant, node: Node) -> bool {
        match self.table.add(node.clone()) {
            Added::Yes => true,
            Added::Known => false,
            Added::Full => {
                self.challenge_oldest(now, node);
                false
            }
        }
    }

    /// Takes a node out that has not answered.
    pub(super) fn forget_silent(&mut self, peer: Peer) {
        if let Some(id) = peer.id {
            self.table.remove(&id);
        }
    }

    /// Somebody calls a node dead: sees for itself.
    pub(super) fn on_down_hint(&mut self, now: Instant, id: NodeId) {
        if self.checks >= MAX_HINTED_CHECKS {
            return;
        }
        let tick = self.clock.tick;
        let Some(node) = self.table.node_mut(&id) else {
            return;
        };
        if node.pinged < tick || !node.hinted_down {
            node.hinted_down = true;
            let node = node.clone();
            self.check(now, &node);
        }
    }

    /// A check has ended. It keeps the node only if the node was heard from, whatever the answer.
    /// (The reference looks at ticks, and drops a node that was heard from in the same one before.)
    pub(super) fn on_checked(&mut self, id: NodeId, last_heard: u64) {
        self.checks = self.checks.saturating_sub(1);
        self.remove_if_silent(id, last_heard);
    }

    /// The challenged node has answered, or gives way.
    pub(super) fn on_swap_checked(
        &mut self,
        now: Instant,
        old: NodeId,
        last_heard: u64,
        new: Node,
    ) {
        self.swaps = self.swaps.saturating_sub(1);
        if self.remove_if_silent(old, last_heard) || self.table.node(&old).is_none() {
            self.add_node(now, new);
        }
    }

    /// Walks to some known neighbourhood, or to our own, to hear of nodes.
    pub(super) fn refresh(&mut self, now: Instant) {
        let n = usize::try_from(self.rng.next_u32()).unwrap_or(0) % self.table.len().max(1);
        let target = self.table.nth(n).map_or(self.table.id(), |node| node.id);
        self.background_query(now, target.0);
    }

    /// Pings the nodes not heard from for longest.
    fn ping_some(&mut self, now: Instant) {
        if self.table.is_empty() {
            self.refresh(now);
            return;
        }
        let tick = self.clock.tick;
        let recent = self
            .table
            .oldest_first()
            .next()
            .is_some_and(|oldest| tick - oldest.pinged < RECENT_NODE);
        let count = match self.requests.len() {
            _ if recent => 2,
            0..=2 => 5,
            _ => 3,
        };
        let oldest: Vec<_> = self
            .table
            .oldest_first()
            .take_while(|node| node.pinged != tick)
            .take(count)
            .cloned()
            .collect();
        for node in oldest {
            self.check(now, &node);
        }
    }

    fn check(&mut self, now: Instant, node: &Node) {
        self.checks += 1;
        let purpose = Purpose::Check { node: node.id, last_heard: node.heard() };
        self.ping_node(now, node, purpose);
    }

    fn challenge_oldest(&mut self, now: Instant, new: Node) {
        if !self.is_ready() || self.swaps >= MAX_SWAPS {
            return;
        }
        let tick = self.clock.tick;
        let Some(oldest) = self
            .table
            .neighbours_in_bucket(&new.id)
            .iter()
            .filter(|node| node.pinged != tick)
            .min_by_key(|node| (node.pinged, node.added))
            .cloned()
        else {
            return;
        };
        if tick - oldest.pinged < RECENT_NODE && tick - oldest.added > OLD_NODE {
            return;
        }
        self.swaps += 1;
        let purpose = Purpose::Swap { old: oldest.id, last_heard: oldest.heard(), new };
        self.ping_node(now, &oldest, purpose);
    }

    fn ping_node(&mut self, now: Instant, node: &Node, purpose: Purpose) {
        let tick = self.clock.tick;
        if let Some(node) = self.table.node_mut(&node.id) {
            node.pinged = tick;
        }
        // By its address alone: a timeout is judged by whoever asked.
        let call = Call::internal(Peer::unidentified(node.addr), commands::PING, None);
        self.call(now, call, purpose);
    }

    fn remove_if_silent(&mut self, id: NodeId, last_heard: u64) -> bool {
        let silent = self.table.node(&id).is_some_and(|node| node.heard() <= last_heard);
        silent && self.table.remove(&id)
    }

    /// Whether to believe what a node without an id says our address is: at first there are no
    /// others. No more of them are believed than there are bootstrap nodes.
    fn may_sample_stranger(&mut self, from: SocketAddrV4) -> bool {
        let room = self.sampled_strangers.len() < self.bootstrap.len().max(1);
        let believed = room && !self.sampled_strangers.contains(&from);
        if believed {
            self.sampled_strangers.push(from);
        }
        believed
    }

    /// Asks from now on without an id.
    pub(super) fn leave(&mut self) {
        if !self.ephemeral {
            self.ephemeral = true;
            self.events.push_back(Event::Ephemeral);
        }
    }

    /// The machine slept, and everything known may be stale. A late [`Rpc::handle_timeout`] says as
    /// much; this is for clocks that stand still meanwhile, as Linux' monotonic one does.
    pub fn woke_up(&mut self, now: Instant) {
        self.clock.wake_up(now);
        self.health.reset();
        if self.role == Role::Adaptive {
            self.leave();
        }
        self.network_changed(now);
        self.events.push_back(Event::WokeUp);
    }

    /// A node has answered: whoever was offline is not any more.
    pub(super) fn on_answered(&mut self) {
        self.responses += 1;
        if self.health.answered() {
            self.events.push_back(Event::Network(self.health.network()));
        }
    }
}

const TICK: Duration = Duration::from_secs(5);
/// A tick that comes later than this after the one before means that the machine slept.
const SLEEPING: Duration = Duration::from_secs(15);
/// 20 minutes without trouble make a node stable.
const STABLE_TICKS: u64 = 240;
const MORE_STABLE_TICKS: u64 = 3 * STABLE_TICKS;
/// A node that is to be persistent in any case tries each minute. (The reference tries once.)
const RETRY_TICKS: u64 = 12;
/// Ticks between refreshes of a table that nobody uses.
const REFRESH_TICKS: u64 = 60;
/// Ticks between refreshes of a table with fewer than K nodes.
const LONELY_REFRESH_TICKS: u64 = 64;
/// Ticks between refreshes while nobody answers, which may empty the table. (The reference waits for
/// the next one in turn.)
const OFFLINE_REFRESH_TICKS: u64 = 2;
/// Ticks between pings of the oldest nodes.
const PING_TICKS: u64 = 8;
/// A node asked less than a minute ago is recent.
const RECENT_NODE: u64 = 12;
/// A node known for more than half an hour is old.
const OLD_NODE: u64 = 360;
/// Checks beyond which down hints are not followed.
const MAX_HINTED_CHECKS: usize = 10;
/// Challenges in full buckets at a time.
const MAX_SWAPS: usize = 3;

/// From one look at a forwarded port to the next: a minute.
const FORWARDING_TICKS: u64 = 12;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::rpc::testnet::epoch;

    #[test]
    fn waking_up_makes_everything_old_and_leaves_two_ticks_until_the_pings() {
        for tick in 0..16 {
            let mut clock = Clock::new(epoch(), Role::Adaptive, &mut StdRng::seed_from_u64(1));
            clock.tick = tick;
            clock.wake_up(epoch());
            assert!(clock.tick >= tick + 2 * OLD_NODE - 1);
            assert!((clock.tick + 2).is_multiple_of(PING_TICKS));
            assert_eq!((clock.refresh, clock.stable), (1, MORE_STABLE_TICKS));
        }
    }
}
