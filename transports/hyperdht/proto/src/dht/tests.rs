//! HyperDHT nodes among each other, on virtual time.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one event among all there are"
)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    keys::KeyPair,
    rpc::{
        BootstrapNode, Role, SocketId, Target, Transmit,
        testnet::{HostId, SERVER_PORT, Testnet, addr, epoch},
    },
};

mod hops;
mod hostile;
mod network_changes;
mod suspension;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

type Net = Testnet<Dht>;

fn config(role: Role) -> Config {
    Config {
        rpc: rpc::Config {
            server_port: SERVER_PORT,
            bootstrap: vec![BootstrapNode::Address(addr(0))],
            role,
            ..rpc::Config::default()
        },
        unix_ms: 1_700_000_000_000,
    }
}

/// The node that knows its address and needs nobody.
fn first(now: Instant, rng: StdRng, addr: SocketAddrV4) -> Dht {
    let mut config = config(Role::Persistent);
    config.rpc.bootstrap = Vec::new();
    config.rpc.firewalled = false;
    config.rpc.public_address = Some(addr);
    config.rpc.server_port = addr.port();
    Dht::new(config, now, rng)
}

fn network(seed: u64, size: usize) -> Net {
    let mut net = Net::new(seed);
    net.add(false, first);
    for _ in 1..size {
        join(&mut net, Role::Persistent);
        net.run_for(Duration::from_millis(50));
    }
    net.run_for(MINUTE);
    net
}

fn join(net: &mut Net, role: Role) -> HostId {
    net.add(false, |now, rng, _| Dht::new(config(role), now, rng))
}

/// A host behind a firewall.
fn hide(net: &mut Net) -> HostId {
    net.add(true, |now, rng, _| Dht::new(config(Role::Adaptive), now, rng))
}

fn pair(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n; 32])
}

fn target(n: u8) -> Target {
    pair(n).public_key().target()
}

fn events(net: &mut Net, id: HostId) -> Vec<Event> {
    net.with(id, |dht, _| std::iter::from_fn(|| dht.poll_event()).collect())
}

/// Waits for something among the events of a host.
fn wait<T>(net: &mut Net, id: HostId, mut what: impl FnMut(&Event) -> Option<T>) -> T {
    let found = net.run_until(10 * MINUTE, |net| events(net, id).iter().find_map(&mut what));
    found.expect("it happens within ten minutes")
}

/// Runs a query to its end: what it found, and where, and what it came to.
fn run(
    net: &mut Net,
    id: HostId,
    begin: impl FnOnce(&mut Dht, Instant) -> QueryId,
) -> (Vec<(SocketAddrV4, Found)>, QueryReport) {
    let query = net.with(id, begin);
    let mut all = Vec::new();
    let report = wait(net, id, |event| match event {
        Event::Found { query: q, from, found, .. } if *q == query => {
            all.push((from.addr, found.clone()));
            None
        }
        Event::Done { query: q, report } if *q == query => Some(report.clone()),
        _ => None,
    });
    (all, report)
}

/// The nodes that say they know a server.
fn find_peer(net: &mut Net, id: HostId, n: u8) -> BTreeSet<SocketAddrV4> {
    search_peer(net, id, n).0
}

/// The same, and how many nodes were asked for it.
fn search_peer(net: &mut Net, id: HostId, n: u8) -> (BTreeSet<SocketAddrV4>, usize) {
    let find = |dht: &mut Dht, now| dht.find_peer(now, target(n), FindOptions::default());
    let (found, report) = run(net, id, find);
    for (_, found) in &found {
        assert!(matches!(found, Found::Peer(peer) if peer.public_key == pair(n).public_key()));
    }
    let nodes = found.into_iter().map(|(from, _)| from).collect();
    (nodes, report.successes + report.errors)
}

fn serve(net: &mut Net, id: HostId, n: u8) -> ServerId {
    let server = net.with(id, |dht, now| dht.listen(now, pair(n)).unwrap());
    wait(net, id, |event| match event {
        Event::Announced { server: s, nodes: 3 } if *s == server => Some(()),
        _ => None,
    });
    server
}

/// Sends a handshake through `relay`, has it answered, and gives the client's view of it.
fn shake(
    net: &mut Net,
    client: HostId,
    host: HostId,
    relay: SocketAddrV4,
    n: u8,
) -> HandshakeReply {
    let call = HandshakeCall {
        target: target(n),
        noise: Bytes::from_static(b"message 1"),
        to: relay,
        via: None,
        socket: None,
    };
    let request = net.with(client, |dht, now| dht.handshake(now, call));
    let incoming = wait(net, host, |event| match event {
        Event::Handshake(incoming) => Some(incoming.clone()),
        _ => None,
    });
    assert_eq!(incoming.noise, "message 1");
    let answer = HandshakeAnswer { noise: Bytes::from_static(b"message 2"), socket: None };
    net.with(host, |dht, now| dht.answer_handshake(now, incoming.id, Some(answer)));
    wait(net, client, |event| match event {
        Event::HandshakeDone { request: r, outcome } if *r == request => Some(outcome.clone()),
        _ => None,
    })
    .unwrap()
}

#[test]
fn a_server_behind_a_firewall_is_found_and_its_handshakes_pass_through_any_relay() {
    let mut net = network(1, 40);
    let (host, client) = (hide(&mut net), hide(&mut net));
    let server = serve(&mut net, host, 1);
    let knowing = find_peer(&mut net, client, 1);
    assert_eq!(knowing.len(), 3);
    assert!(knowing.iter().all(|node| net.machine(host).is_relay(server, *node)));
    assert_eq!(net.machine(host).relay_addresses(server).len(), 3);
    for relay in knowing {
        let reply = shake(&mut net, client, host, relay, 1);
        assert_eq!(reply.noise, "message 2");
        assert!(reply.relayed);
        assert_eq!(reply.relay, relay);
        let seen = net.machine(host).relays(server)[0].peer_address;
        assert_eq!(reply.server, seen, "the relay names the server's address");
        net.run_for(11 * SECOND);
    }
}

#[test]
fn an_open_server_names_itself_first_and_answers_handshakes_directly() {
    let mut net = network(2, 20);
    let (host, client) = (join(&mut net, Role::Persistent), hide(&mut net));
    net.run_for(MINUTE);
    let server = serve(&mut net, host, 1);
    let own = net.addr_of(host);
    assert_eq!(net.machine(host).relay_addresses(server)[0], own);
    let reply = shake(&mut net, client, host, own, 1);
    assert!(!reply.relayed);
    assert_eq!(reply.server, own);
}

#[test]
fn a_node_without_the_server_says_so() {
    let mut net = network(3, 10);
    let client = hide(&mut net);
    let call = HandshakeCall {
        target: target(1),
        noise: Bytes::from_static(b"message 1"),
        to: addr(3),
        via: None,
        socket: None,
    };
    net.with(client, |dht, now| dht.handshake(now, call));
    let outcome = wait(&mut net, client, |event| match event {
        Event::HandshakeDone { outcome, .. } => Some(outcome.clone()),
        _ => None,
    });
    assert_eq!(outcome, Err(HopError::NoRoute));
}

#[test]
fn holepunch_messages_pass_through_the_relay_and_back() {
    let mut net = network(4, 20);
    let (host, client) = (hide(&mut net), hide(&mut net));
    let server = serve(&mut net, host, 1);
    let relay = net.machine(host).relays(server)[0];
    let call = HolepunchCall {
        target: target(1),
        id: 5,
        payload: Bytes::from_static(b"ping"),
        to: relay.relay_address,
        server: Some(relay.peer_address),
        socket: None,
    };
    net.with(client, |dht, now| dht.holepunch(now, call));
    let punch = wait(&mut net, host, |event| match event {
        Event::Holepunch(punch) => Some(punch.clone()),
        _ => None,
    });
    assert_eq!((punch.server, punch.id, &punch.payload[..]), (server, 5, &b"ping"[..]));
    assert!(net.machine(host).is_relay(server, punch.request.from.addr));
    net.with(host, |dht, now| {
        dht.answer_holepunch(now, &punch, Bytes::from_static(b"pong"), None);
    });
    let outcome = wait(&mut net, client, |event| match event {
        Event::HolepunchDone { outcome, .. } => Some(outcome.clone()),
        _ => None,
    });
    let reply = outcome.unwrap();
    assert_eq!((&reply.payload[..], reply.server), (&b"pong"[..], relay.peer_address));
    assert_eq!(reply.client, punch.client);
}

#[test]
fn a_closed_server_is_forgotten_everywhere_and_its_key_free_again() {
    let mut net = network(5, 30);
    let (host, client) = (hide(&mut net), hide(&mut net));
    let server = serve(&mut net, host, 1);
    net.with(host, |dht, now| {
        assert_eq!(dht.listen(now, pair(1)), Err(KeyInUse));
        dht.close(now, server);
        assert_eq!(dht.listen(now, pair(1)), Err(KeyInUse));
    });
    wait(&mut net, host, |event| matches!(event, Event::Closed(_)).then_some(()));
    assert_eq!(find_peer(&mut net, client, 1).len(), 0);
    serve(&mut net, host, 1);
    assert_eq!(find_peer(&mut net, client, 1).len(), 3);
}

#[test]
fn a_server_closed_before_it_is_announced_is_closed_at_once() {
    let mut net = network(6, 10);
    let host = hide(&mut net);
    net.with(host, |dht, now| {
        let server = dht.listen(now, pair(1)).unwrap();
        dht.close(now, server);
        let closed = std::iter::from_fn(|| dht.poll_event());
        assert!(closed.into_iter().any(|event| matches!(event, Event::Closed(_))));
    });
    assert_eq!(find_peer(&mut net, host, 1).len(), 0);
}

#[test]
fn a_server_moves_on_when_a_relay_dies() {
    let mut net = network(7, 40);
    let host = hide(&mut net);
    let server = serve(&mut net, host, 1);
    let dead = net.machine(host).relays(server)[0].relay_address;
    let dead = net.alive().into_iter().find(|id| net.addr_of(*id) == dead).unwrap();
    net.kill(dead);
    let started = net.now();
    wait(&mut net, host, |event| matches!(event, Event::Announced { nodes: 3, .. }).then_some(()));
    assert!(net.now() - started < 20 * SECOND, "{:?}", net.now() - started);
    let relays = net.machine(host).relays(server);
    assert!(relays.iter().all(|relay| relay.relay_address != net.addr_of(dead)));
}

#[test]
fn a_server_is_announced_again_when_its_nat_gives_it_another_port() {
    let mut net = network(8, 40);
    let (host, client) = (hide(&mut net), hide(&mut net));
    serve(&mut net, host, 1);
    net.remap(host);
    let started = net.now();
    wait(&mut net, host, |event| matches!(event, Event::Announced { nodes: 3, .. }).then_some(()));
    assert!(net.now() - started < 10 * SECOND, "{:?}", net.now() - started);
    let relay = *find_peer(&mut net, client, 1).first().unwrap();
    assert!(shake(&mut net, client, host, relay, 1).relayed);
}

#[test]
fn a_server_is_announced_within_seconds_of_the_network_coming_back() {
    let mut net = network(13, 30);
    let host = hide(&mut net);
    let server = serve(&mut net, host, 1);
    net.loss = 1.0;
    net.run_for(5 * MINUTE);
    assert_eq!(net.machine(host).relays(server).len(), 0);
    net.loss = 0.0;
    let started = net.now();
    wait(&mut net, host, |event| matches!(event, Event::Announced { nodes: 3, .. }).then_some(()));
    assert!(net.now() - started < 20 * SECOND, "{:?}", net.now() - started);
}

#[test]
fn a_server_stays_announced_for_hours_and_at_three_nodes() {
    let mut net = network(9, 30);
    let (host, client) = (hide(&mut net), hide(&mut net));
    let server = serve(&mut net, host, 1);
    for _ in 0..6 {
        net.run_for(20 * MINUTE);
        assert_eq!(find_peer(&mut net, client, 1).len(), 3);
        assert_eq!(net.machine(host).relays(server).len(), 3);
    }
}

#[test]
fn a_topic_is_announced_found_and_taken_back() {
    let mut net = network(10, 40);
    let (host, client) = (hide(&mut net), hide(&mut net));
    let topic = [7; 32];
    let options =
        AnnounceOptions { relay_addresses: vec![addr(1), addr(2)], bump: 99, clear: true };
    let (_, report) = run(&mut net, host, |dht, now| dht.announce(now, topic, pair(1), options));
    assert_eq!((report.failure, report.commits.len()), (None, rpc::K));
    let lookup = |dht: &mut Dht, now| dht.lookup(now, topic, FindOptions::default());
    let (found, _) = run(&mut net, client, lookup);
    assert!(found.len() >= 3 * rpc::K / 4, "{}", found.len());
    for (_, found) in found {
        let Found::Topic(reply) = found else { panic!("{found:?}") };
        assert_eq!(reply.bump, 99);
        assert_eq!(reply.peers[0].public_key, pair(1).public_key());
        assert_eq!(reply.peers[0].relay_addresses, [addr(1), addr(2)]);
    }
    run(&mut net, host, |dht, now| dht.unannounce(now, topic, pair(1)));
    let (found, _) = run(&mut net, client, lookup);
    assert_eq!(found, []);
}

#[test]
fn values_are_put_and_found_by_others() {
    let mut net = network(11, 40);
    let (host, client) = (hide(&mut net), hide(&mut net));
    let value = Bytes::from_static(b"immutable");
    let hash = crate::hash::hash(&[&value]);
    run(&mut net, host, |dht, now| dht.immutable_put(now, value.clone()));
    let (found, _) = run(&mut net, client, |dht, now| dht.immutable_find(now, hash));
    assert!(found.iter().all(|(_, f)| *f == Found::Immutable(value.clone())));
    assert!(found.len() >= rpc::K / 2);
    for (seq, value) in [(1, "one"), (2, "two")] {
        let put = |dht: &mut Dht, now| dht.mutable_put(now, &pair(1), seq, value.into());
        let (_, report) = run(&mut net, host, put);
        assert_eq!(report.failure, None);
    }
    let find = |seq| move |dht: &mut Dht, now| dht.mutable_find(now, pair(1).public_key(), seq);
    let (found, _) = run(&mut net, client, find(0));
    let Some((_, Found::Mutable(latest))) = found.last() else { panic!("{found:?}") };
    assert_eq!((latest.seq, &latest.value[..]), (2, &b"two"[..]));
    assert_eq!(run(&mut net, client, find(3)).0, []);
    let late = |dht: &mut Dht, now| dht.mutable_put(now, &pair(1), 1, "late".into());
    let (_, report) = run(&mut net, host, late);
    assert_eq!(report.failure, Some(rpc::QueryError::CommitRefused));
    let errors = report.commits.iter().filter_map(|commit| commit.outcome.as_ref().ok());
    assert!(errors.map(|response| response.error).all(|error| error == ERROR_SEQ_TOO_LOW));
}

#[test]
fn a_server_of_this_node_is_found_at_this_node() {
    let mut net = network(12, 20);
    let (host, client) = (join(&mut net, Role::Persistent), hide(&mut net));
    net.run_for(MINUTE);
    serve(&mut net, host, 1);
    let own = net.addr_of(host);
    let options = FindOptions { nodes: vec![own], only_nodes: true, ..FindOptions::default() };
    let find = |dht: &mut Dht, now| dht.find_peer(now, target(1), options);
    let (found, _) = run(&mut net, client, find);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, own);
}

#[test]
fn servers_are_found_in_large_networks_under_churn_and_loss() {
    let seeds = std::env::var("HYPERDHT_SIM_SEEDS").ok();
    for seed in 1..=seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(1) {
        churn(seed, 500);
    }
}

/// Nodes that a lookup of Node's asks in a network of 500 of its nodes, none of which is lost or leaves
/// (`hops_interop.rs` in hyperdht-rs counts them).
const NODE_ASKS: usize = 62;

/// Every half minute five nodes leave and five come; every datagram is lost with 5 %.
fn churn(seed: u64, size: usize) {
    let mut net = network(seed, size);
    let servers: Vec<_> = (1..=4).map(|n| (hide(&mut net), n)).collect();
    for (host, n) in &servers {
        serve(&mut net, *host, *n);
    }
    let safe: BTreeSet<_> = servers.iter().map(|(host, _)| *host).chain([HostId::nth(0)]).collect();
    net.loss = 0.05;
    let (mut found, mut lookups, mut asked) = (0, 0, 0);
    for _ in 0..10 {
        for _ in 0..5 {
            let alive: Vec<_> = net.alive().into_iter().filter(|id| !safe.contains(id)).collect();
            let n = usize::try_from(net.rng().next_u32()).unwrap() % alive.len();
            net.kill(alive[n]);
            join(&mut net, Role::Persistent);
        }
        net.run_for(MINUTE / 2);
        for (_, n) in &servers {
            let client = hide(&mut net);
            let (nodes, queries) = search_peer(&mut net, client, *n);
            lookups += 1;
            found += usize::from(!nodes.is_empty());
            asked += queries;
            net.kill(client);
        }
    }
    for host in net.alive() {
        let len = net.machine(host).rpc().table_len();
        assert!(len <= 8 * rpc::K, "seed {seed}: {len} nodes in a table");
    }
    assert!(found * 100 >= lookups * 99, "seed {seed}: {found} of {lookups}");
    assert!(asked <= lookups * NODE_ASKS, "seed {seed}: {asked} queries for {lookups} lookups");
    println!("seed {seed}: {found} of {lookups} found, {asked} queries");
}
