//! Finding out whether we can be reached, and joining the network if so.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddrV4},
    time::Instant,
};

use bytes::Bytes;
use rand::seq::index;

use super::{
    super::{
        Event, NatSampler, NodeId, Peer, QueryId, Response, Role,
        bootstrap::{BootstrapKey, Find},
        commands,
    },
    Purpose, Rpc,
    outbound::Call,
};

/// How far the start has come (dht-rpc `index.js`, `_bootstrap`): a walk to our own place, a look
/// at the network if there is reason for it, and if that changed our place, another walk.
#[derive(Debug)]
pub(super) struct Startup {
    step: Step,
    /// Whether the first node that answers is to be asked if it reaches the server socket.
    quick_check: bool,
    /// Whether to look at the network.
    check: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Walking { query: QueryId, again: bool },
    Walked { again: bool },
    Checking,
    Over,
}

impl Startup {
    pub(super) fn new(role: &Role, quick_check: bool, forwarded: bool) -> Self {
        let persistent = *role == Role::Persistent;
        Self {
            step: Step::Begin,
            quick_check: quick_check && !persistent,
            check: persistent || forwarded,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.step, Step::Over)
    }

    pub(super) const fn query(&self) -> Option<QueryId> {
        match self.step {
            Step::Walking { query, .. } => Some(query),
            Step::Begin | Step::Walked { .. } | Step::Checking | Step::Over => None,
        }
    }

    pub(super) const fn on_quick_check(&mut self, answered: bool) {
        self.check |= answered;
    }

    pub(super) fn on_walked(&mut self, walked: QueryId) {
        if let Step::Walking { query, again } = self.step
            && query == walked
        {
            self.step = Step::Walked { again };
        }
    }
}

/// A look at our own address that is under way: do others see us where they did?
#[derive(Debug)]
pub(super) struct AddressCheck {
    running: usize,
    asked: usize,
    here: usize,
    /// Where those see us who do not see us there; at most [`PONGS`].
    elsewhere: Vec<SocketAddrV4>,
    /// Whether there was reason for another one meanwhile.
    again: bool,
}

/// A look at the network that is under way: do others reach our server socket?
#[derive(Debug)]
pub(super) struct NetworkCheck {
    /// Find out and no more: do not join.
    only_firewall: bool,
    /// Our address when it began.
    address: SocketAddrV4,
    /// Our address as seen by those who reached the server socket.
    seen: NatSampler,
    asked: usize,
    running: usize,
    reached: usize,
    /// Hosts that have written to the server socket meanwhile.
    hosts: BTreeSet<Ipv4Addr>,
    awaits_bootstrap: bool,
}

impl Rpc {
    /// Begins the start.
    pub(super) fn start(&mut self, now: Instant) {
        self.walk_home(now, false);
    }

    pub(super) fn walk_home(&mut self, now: Instant, again: bool) {
        let target = self.table.id().0;
        // The walk may be over before its id is known: a network's first node asks nobody.
        self.startup.step = Step::Walked { again };
        let query = self.background_query(now, target);
        if self.queries.contains_key(&query) {
            self.startup.step = Step::Walking { query, again };
        } else {
            self.continue_startup(now);
        }
    }

    /// Goes on after a walk that has ended.
    pub(super) fn continue_startup(&mut self, now: Instant) {
        let Step::Walked { again } = self.startup.step else {
            return;
        };
        if self.starts_with_forwarding(now) {
            return;
        }
        if again || !self.startup.check {
            self.finish_startup();
        } else {
            self.startup.step = Step::Checking;
            self.check_network(now, self.role != Role::Persistent);
        }
    }

    fn finish_startup(&mut self) {
        self.startup.step = Step::Over;
        self.events.push_back(Event::Ready);
    }

    /// Asks the first node that answers to write to the server socket. If its answer is there
    /// before the walk is over, it is worth to look closer at once.
    pub(super) fn on_startup_found(&mut self, now: Instant, response: &Response) {
        if std::mem::take(&mut self.startup.quick_check) {
            self.ask_for_pong(now, response.from, Purpose::QuickFirewallCheck);
        }
    }

    /// Tries to join when it is time, unless it has been tried at this address.
    pub(super) fn try_to_join(&mut self, now: Instant) {
        if !self.ephemeral || self.role == Role::Ephemeral || !self.clock.is_stable() {
            return;
        }
        let host = self.nat.address().map(|addr| *addr.ip());
        if self.role == Role::Adaptive && self.checked_host == Some(host) {
            self.clock.put_off_joining(self.role);
        } else {
            self.check_network(now, false);
        }
    }

    /// The network may be another one: this host's interfaces have changed, somebody sees us
    /// elsewhere, or nodes answer that did not. Finds out where we are seen now.
    ///
    /// Costs at most five pings at a time, however often it is called.
    pub fn network_changed(&mut self, now: Instant) {
        self.forget_checked_host();
        self.clock.refresh_soon();
        match &mut self.address_check {
            Some(check) => check.again = true,
            None => self.check_address(now),
        }
    }

    /// Looks at the address of a node that is part of the network, when most say that it is no
    /// longer where its id says.
    pub(super) fn check_id(&mut self, now: Instant) {
        let moved = |addr| NodeId::of(addr) != self.table.id();
        if !self.ephemeral && self.address_check.is_none() && self.nat.address().is_some_and(moved)
        {
            self.check_address(now);
        }
    }

    /// Asks some nodes, any of them, where they see us.
    fn check_address(&mut self, now: Instant) {
        let picked = index::sample(&mut self.rng, self.table.len(), PONGS.min(self.table.len()));
        let peers: Vec<_> = picked.into_iter().filter_map(|n| self.table.nth(n)).collect();
        let peers: Vec<_> = peers.into_iter().map(|node| Peer::unidentified(node.addr)).collect();
        if !peers.is_empty() {
            self.address_check = Some(AddressCheck {
                running: peers.len(),
                asked: peers.len(),
                here: 0,
                elsewhere: Vec::new(),
                again: false,
            });
        }
        for peer in peers {
            self.call(now, Call::internal(peer, commands::PING, None), Purpose::AddressCheck);
        }
    }

    /// A node has said where it sees us, or has not.
    pub(super) fn on_address_pong(&mut self, now: Instant, pong: Option<Response>) {
        let here = pong.as_ref().is_some_and(|pong| self.is_seen_here(pong.to));
        let Some(check) = &mut self.address_check else { return };
        check.running = check.running.saturating_sub(1);
        match pong {
            Some(_) if here => check.here += 1,
            Some(pong) => check.elsewhere.push(pong.to),
            None => {}
        }
        if check.running > 0 {
            return;
        }
        let Some(check) = self.address_check.take() else { return };
        if check.here == 0 && check.elsewhere.len() >= ENOUGH_PONGS.min(check.asked) {
            self.on_moved(&check.elsewhere);
        } else if check.again {
            self.check_address(now);
        }
    }

    fn is_seen_here(&self, seen: SocketAddrV4) -> bool {
        if !self.ephemeral {
            return NodeId::of(seen) == self.table.id();
        }
        let is_here = |own: SocketAddrV4| own == seen || (own.port() == 0 && own.ip() == seen.ip());
        self.nat.address().is_some_and(is_here)
    }

    /// Several see us elsewhere and none where we were: what was known of our address counts no
    /// more. An id of the old one helps nobody: leaves the network, to join it at the new place.
    /// (The reference stays under its old id, and for a while goes on telling its old address.)
    fn on_moved(&mut self, seen: &[SocketAddrV4]) {
        let before = self.nat.address();
        self.nat = NatSampler::default();
        self.sampled_strangers.clear();
        self.table.forget_samples();
        if !self.ephemeral {
            self.leave();
            self.forget_checked_host();
            self.clock.begin_again(self.role);
        }
        if self.may_be_firewalled && !self.firewalled {
            // They saw the server socket, and requests leave from the other one again.
            self.firewalled = true;
            self.firewall_check_in = PINHOLE_TICKS;
        } else {
            seen.iter().for_each(|seen| self.nat.add(*seen));
        }
        self.tell_nat(before);
    }

    /// Finds out, some time after a move, whether others reach us there unasked. True while that is
    /// not known.
    pub(super) fn check_firewall(&mut self, now: Instant) -> bool {
        let waits = self.firewall_check_in > 0;
        self.firewall_check_in = self.firewall_check_in.saturating_sub(1);
        if waits && self.firewall_check_in == 0 {
            self.check_network(now, true);
        }
        waits
    }

    /// Another network may be around: the address is worth another try.
    pub(super) const fn forget_checked_host(&mut self) {
        self.checked_host = None;
    }

    fn check_network(&mut self, now: Instant, only_firewall: bool) {
        if self.check.is_some() {
            return;
        }
        if !self.ephemeral || (only_firewall && !self.firewalled) {
            return self.on_network_checked(now, false);
        }
        let nat = self.nat.address();
        if !only_firewall {
            self.clock.put_off_joining(self.role);
            self.checked_host = Some(nat.map(|addr| *addr.ip()));
        }
        let Some(address) = nat.filter(|addr| addr.port() != 0) else {
            return self.on_network_checked(now, false);
        };
        if !self.firewalled {
            let changed = self.settle(now, address, None, only_firewall);
            return self.on_network_checked(now, changed);
        }
        self.check = Some(NetworkCheck {
            only_firewall,
            address,
            seen: NatSampler::default(),
            asked: 0,
            running: 0,
            reached: 0,
            hosts: BTreeSet::new(),
            awaits_bootstrap: false,
        });
        self.ask_for_pongs(now);
    }

    /// Asks the nodes heard from last, and the bootstrap nodes where they are too few.
    fn ask_for_pongs(&mut self, now: Instant) {
        let latest = self.table.oldest_first().rev().take(PONGS);
        let mut peers: Vec<_> = latest.map(|node| node.peer()).collect();
        let mut bootstrap = None;
        if peers.len() < PONGS {
            bootstrap = self.bootstrap_addresses(now);
            if bootstrap.is_none() {
                if let Some(check) = &mut self.check {
                    check.awaits_bootstrap = true;
                }
                return;
            }
        }
        peers.extend(bootstrap.into_iter().flatten().map(Peer::at));
        let Some(check) = &mut self.check else { return };
        check.asked = peers.len();
        check.running = peers.len();
        if peers.is_empty() {
            self.check = None;
            return self.on_network_checked(now, false);
        }
        for peer in peers {
            self.ask_for_pong(now, peer, Purpose::FirewallCheck);
        }
    }

    fn ask_for_pong(&mut self, now: Instant, to: Peer, purpose: Purpose) {
        let port = Bytes::copy_from_slice(&self.server_port.to_le_bytes());
        self.call(now, Call::internal(to, commands::PING_NAT, Some(port)), purpose);
    }

    /// Something arrived on the server socket.
    pub(super) fn on_server_socket(&mut self, from: SocketAddrV4) {
        if let Some(check) = &mut self.check
            && check.hosts.len() < MAX_HOSTS
        {
            check.hosts.insert(*from.ip());
        }
    }

    /// A node that was asked to write to the server socket has answered, or has not.
    pub(super) fn on_firewall_pong(&mut self, now: Instant, pong: Option<Response>) {
        let Some(check) = &mut self.check else { return };
        check.running = check.running.saturating_sub(1);
        if let Some(pong) = pong
            && check.hosts.contains(pong.from.addr.ip())
        {
            check.reached += 1;
            check.seen.add(pong.to);
        }
        if check.running > 0 {
            return;
        }
        let Some(check) = self.check.take() else { return };
        let changed = self.is_reachable(&check)
            && self.settle(now, check.address, Some(check.seen), check.only_firewall);
        self.on_network_checked(now, changed);
    }

    fn is_reachable(&self, check: &NetworkCheck) -> bool {
        let needed = if check.asked >= PONGS { ENOUGH_PONGS } else { 1 };
        let same_host =
            |seen: &SocketAddrV4| self.nat.address().is_some_and(|nat| nat.ip() == seen.ip());
        // A translated port would not do: others must find us at the one we are bound to.
        check.reached >= needed
            && check
                .seen
                .address()
                .is_some_and(|seen| same_host(&seen) && seen.port() == self.server_port)
    }

    /// We can be reached: takes our place in the network, and joins it unless it is too early.
    fn settle(
        &mut self,
        now: Instant,
        address: SocketAddrV4,
        seen: Option<NatSampler>,
        only_firewall: bool,
    ) -> bool {
        self.firewalled = false;
        if !self.ephemeral || self.nat.address() != Some(address) {
            return false;
        }
        let public = seen.as_ref().map_or(Some(address), NatSampler::address);
        let Some(public) = public.filter(|p| p.ip() == address.ip() && p.port() != 0) else {
            return false;
        };
        if let Some(seen) = seen {
            let before = self.nat.address();
            self.sampled_strangers.clear();
            self.nat = seen;
            self.tell_nat(before);
        }
        if !only_firewall {
            self.ephemeral = false;
        }
        self.move_to(now, NodeId::of(public));
        if !only_firewall {
            self.events.push_back(Event::Persistent(self.table.id()));
        }
        true
    }

    /// Sorts the known nodes anew around another place.
    fn move_to(&mut self, now: Instant, id: NodeId) {
        if self.table.id() == id {
            return;
        }
        self.table = self.table.moved_to(id);
        if self.is_ready() {
            self.refresh(now);
        }
    }

    /// A look at the network is over; it may have been the one of the start.
    fn on_network_checked(&mut self, now: Instant, changed: bool) {
        if self.startup.step != Step::Checking {
            return;
        }
        if changed {
            self.walk_home(now, true);
        } else {
            self.finish_startup();
        }
    }

    /// The bootstrap nodes' addresses, or none while they are being found;
    /// [`Rpc::on_bootstrap_progress`] goes on then.
    pub(super) fn bootstrap_addresses(&mut self, now: Instant) -> Option<Vec<SocketAddrV4>> {
        if let Some(addresses) = self.bootstrap.addresses(now) {
            return Some(addresses);
        }
        for find in self.bootstrap.search(now) {
            self.find_bootstrap(now, find);
        }
        None
    }

    fn find_bootstrap(&mut self, now: Instant, find: Find) {
        match find {
            Find::Ping(key, addr) => {
                let call = Call::internal(Peer::unidentified(addr), commands::PING, None);
                self.call(now, call, Purpose::Bootstrap(key));
            }
            Find::LookUp(key, name) => self.events.push_back(Event::Resolve { key, name }),
        }
    }

    pub(super) fn on_bootstrap_pinged(&mut self, now: Instant, key: BootstrapKey, answered: bool) {
        if let Some(find) = self.bootstrap.pinged(now, key, answered) {
            self.find_bootstrap(now, find);
        }
        self.on_bootstrap_progress(now);
    }

    pub(super) fn expire_bootstrap(&mut self, now: Instant) {
        if self.bootstrap.poll_timeout().is_some_and(|until| until <= now) {
            self.bootstrap.expire(now);
            self.on_bootstrap_progress(now);
        }
    }

    /// Goes on with whatever waits for the bootstrap nodes, once all are found.
    pub(super) fn on_bootstrap_progress(&mut self, now: Instant) {
        if self.bootstrap.is_searching() {
            return;
        }
        self.seed_waiting_queries(now);
        if let Some(check) = &mut self.check
            && std::mem::take(&mut check.awaits_bootstrap)
        {
            self.ask_for_pongs(now);
        }
    }
}

/// Nodes that are asked to write to the server socket.
const PONGS: usize = 5;

/// Ticks after a move until it is found out whether others reach us: five minutes, since a firewall lets
/// those in for two whom the server socket has written to (RFC 4787, 4.3), which it did before.
const PINHOLE_TICKS: u64 = 60;

/// How many of [`PONGS`] must have reached it.
const ENOUGH_PONGS: usize = 3;

/// Hosts that are remembered during a check: whoever was asked, and some noise.
const MAX_HOSTS: usize = 256;
