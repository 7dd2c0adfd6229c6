//! Nodes among nodes, on virtual time.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one event among all there are"
)]

use std::collections::BTreeMap;

use rand::SeedableRng;

use super::*;
use crate::rpc::{
    Ask, BootstrapNode, Commit, ERROR_INVALID_TOKEN, ERROR_UNKNOWN_COMMAND, IncomingRequest,
    Message, QueryError, QueryReport, QuerySpec, Reply, ReplyOptions, Request, Token, commands,
    query::{MAX_REFERRERS, MAX_SEEN},
    requests::MAX_INFLIGHT,
    testnet::{HostId, SERVER_PORT, Testnet, addr, epoch},
};

const MINUTE: Duration = Duration::from_secs(60);

type Net = Testnet<Rpc>;

fn config(role: Role) -> Config {
    Config {
        server_port: SERVER_PORT,
        bootstrap: vec![BootstrapNode::Address(addr(0))],
        role,
        ..Config::default()
    }
}

/// A network whose first node is told its address, and `size - 1` that join it.
fn network(seed: u64, size: usize) -> Net {
    let mut net = Net::new(seed);
    net.add(false, |now, rng, addr| {
        let config = Config {
            bootstrap: Vec::new(),
            firewalled: false,
            public_address: Some(addr),
            ..config(Role::Persistent)
        };
        Rpc::new(config, now, rng)
    });
    for _ in 1..size {
        join(&mut net, Role::Persistent);
        net.run_for(Duration::from_millis(50));
    }
    net.run_for(MINUTE);
    net
}

fn join(net: &mut Net, role: Role) -> HostId {
    net.add(false, |now, rng, _| Rpc::new(config(role), now, rng))
}

fn events(net: &mut Net, id: HostId) -> Vec<Event> {
    net.with(id, |rpc, _| std::iter::from_fn(|| rpc.poll_event()).collect())
}

fn walk(net: &mut Net, id: HostId, spec: QuerySpec) -> QueryReport {
    let query = net.with(id, |rpc, now| rpc.query(now, spec));
    let done = net.run_until(10 * MINUTE, |net| {
        events(net, id).into_iter().find_map(|event| match event {
            Event::QueryDone { query: done, report } if done == query => Some(report),
            _ => None,
        })
    });
    done.expect("every query ends")
}

fn find_node(net: &mut Net, id: HostId, target: Target) -> QueryReport {
    let spec = QuerySpec { internal: true, ..QuerySpec::new(target, commands::FIND_NODE) };
    walk(net, id, spec)
}

#[test]
fn large_networks_keep_finding_the_nearest_nodes_under_churn_and_loss() {
    let seeds: u64 =
        std::env::var("HYPERDHT_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(1);
    for seed in 1..=seeds {
        println!("seed {seed}");
        churn(seed, 200);
    }
}

fn churn(seed: u64, size: usize) {
    let mut net = network(seed, size);
    net.loss = 0.05;
    let (mut found, mut lookups) = (0, 0);
    for _ in 0..10 {
        for _ in 0..5 {
            let host = random_host(&mut net);
            net.kill(host);
            join(&mut net, Role::Persistent);
        }
        net.run_for(MINUTE / 2);
        for _ in 0..10 {
            lookups += 1;
            let mut target = [0; 32];
            net.rng().fill_bytes(&mut target);
            let host = random_host(&mut net);
            let report = find_node(&mut net, host, target);
            // What was stored at the nearest nodes must be met by a later walk.
            found += usize::from(common_with_nearest(&net, target, &report) >= 3 * K / 4);
        }
    }
    for host in net.alive() {
        let len = net.machine(host).table_len();
        assert!(len <= 8 * K, "seed {seed}: {len} nodes in a table");
    }
    assert!(found * 100 >= lookups * 99, "seed {seed}: {found} of {lookups}");
}

fn random_host(net: &mut Net) -> HostId {
    let alive = net.alive();
    let n = usize::try_from(net.rng().next_u32()).unwrap() % (alive.len() - 1);
    alive[n + 1]
}

/// How many of the K living nodes nearest to `target` a query has found.
fn common_with_nearest(net: &Net, target: Target, report: &QueryReport) -> usize {
    let alive = net.alive();
    let mut nodes: Vec<_> = alive.iter().filter_map(|id| net.machine(*id).id()).collect();
    nodes.sort_by(|a, b| a.cmp_distance(b, &target));
    nodes.truncate(K);
    let found = report.closest.iter().filter_map(|r| r.from.id);
    found.filter(|id| nodes.contains(id)).count()
}

/// A node that knows nobody, to be written to by hand.
fn lonely(firewalled: bool) -> Rpc {
    let config = Config {
        bootstrap: Vec::new(),
        firewalled,
        public_address: Some(addr(0)),
        ..config(Role::Persistent)
    };
    let mut rpc = Rpc::new(config, epoch(), StdRng::seed_from_u64(1));
    while rpc.poll_event().is_some() {}
    rpc
}

fn question(internal: bool, command: u64) -> Request {
    Request {
        tid: 7,
        to: addr(0),
        id: None,
        token: None,
        internal,
        command,
        target: None,
        value: None,
    }
}

/// What a node sends back to `addr(9)`, and from where.
fn answers(rpc: &mut Rpc, now: Instant, request: &Request) -> Vec<(SocketAddrV4, Reply)> {
    rpc.handle_datagram(now, SocketId::Server, addr(9), &request.encode());
    let sent = std::iter::from_fn(|| rpc.poll_transmit());
    let reply = |transmit: Transmit| match Message::decode(&transmit.payload) {
        Ok(Message::Reply(reply)) => Some((transmit.to, reply)),
        _ => None,
    };
    sent.filter_map(reply).collect()
}

fn answer(rpc: &mut Rpc, request: &Request) -> Option<Reply> {
    answers(rpc, epoch(), request).pop().map(|(_, reply)| reply)
}

#[test]
fn a_first_node_with_a_known_address_is_persistent_and_ready_at_once() {
    let rpc = lonely(false);
    assert!(rpc.is_ready());
    assert_eq!(rpc.id(), Some(NodeId::of(addr(0))));
    assert_eq!(rpc.public_address(), Some(addr(0)));
}

#[test]
fn pings_are_answered_with_the_id_and_nothing_else() {
    let mut rpc = lonely(false);
    let reply = answer(&mut rpc, &question(true, commands::PING)).unwrap();
    assert_eq!(reply.id, rpc.id());
    assert_eq!((reply.tid, reply.to), (7, addr(9)));
    assert_eq!((reply.token, reply.error, reply.value), (None, 0, None));
}

#[test]
fn the_id_is_kept_back_on_any_other_socket() {
    let mut rpc = lonely(false);
    let ping = question(true, commands::PING).encode();
    rpc.handle_datagram(epoch(), SocketId::Client, addr(9), &ping);
    let transmit = rpc.poll_transmit().unwrap();
    assert_eq!(transmit.socket, SocketId::Client);
    let Ok(Message::Reply(reply)) = Message::decode(&transmit.payload) else {
        panic!("not a reply")
    };
    assert_eq!(reply.id, None);
}

#[test]
fn commands_without_what_they_need_are_met_with_silence() {
    let mut rpc = lonely(false);
    for command in
        [commands::PING_NAT, commands::FIND_NODE, commands::DOWN_HINT, commands::DELAYED_PING]
    {
        assert_eq!(answer(&mut rpc, &question(true, command)), None);
    }
    let port_0 = Request { value: Some(vec![0, 0].into()), ..question(true, commands::PING_NAT) };
    assert_eq!(answer(&mut rpc, &port_0), None);
}

#[test]
fn unknown_commands_are_refused_with_directions() {
    let mut rpc = lonely(false);
    let id = Some(NodeId::of(addr(9)));
    answer(&mut rpc, &Request { id, ..question(true, commands::PING) });
    let unknown = Request { target: Some([1; 32]), ..question(true, 99) };
    let reply = answer(&mut rpc, &unknown).unwrap();
    assert_eq!(reply.error, ERROR_UNKNOWN_COMMAND);
    assert_eq!(reply.closer_nodes, [addr(9)]);
}

#[test]
fn a_claimed_id_that_does_not_fit_the_address_is_ignored() {
    let mut rpc = lonely(false);
    let id = Some(NodeId::of(addr(8)));
    let reply = answer(&mut rpc, &Request { id, ..question(true, commands::PING) });
    assert!(reply.is_some());
    assert_eq!(rpc.table_len(), 0);
}

#[test]
fn a_wrong_token_is_refused_with_a_good_one() {
    let mut rpc = lonely(false);
    let forged =
        Request { token: Some(Token([1; 32])), target: Some([2; 32]), ..question(false, 4) };
    let reply = answer(&mut rpc, &forged).unwrap();
    assert_eq!(reply.error, ERROR_INVALID_TOKEN);
    assert!(rpc.poll_event().is_none(), "the application never hears of it");
    let proven = Request { token: reply.token, ..forged };
    assert_eq!(answer(&mut rpc, &proven), None);
    assert!(matches!(rpc.poll_event(), Some(Event::Request(IncomingRequest { command: 4, .. }))));
}

#[test]
fn a_datagram_longer_than_the_reference_reads_is_met_with_silence() {
    let mut rpc = lonely(false);
    let of_len = |len: usize| {
        let find = Request { target: Some([2; 32]), ..question(true, commands::FIND_NODE) };
        let with = |value: usize| Request { value: Some(vec![7; value].into()), ..find.clone() };
        let head = with(1000).encode().len() - 1000;
        let request = with(len - head);
        assert_eq!(request.encode().len(), len);
        request
    };
    assert!(answer(&mut rpc, &of_len(MAX_DATAGRAM)).is_some());
    assert_eq!(answer(&mut rpc, &of_len(MAX_DATAGRAM + 1)), None);
}

#[test]
fn ping_nat_answers_to_the_named_port() {
    let mut rpc = lonely(false);
    let request = Request {
        value: Some(4242_u16.to_le_bytes().to_vec().into()),
        ..question(true, commands::PING_NAT)
    };
    let (to, reply) = answers(&mut rpc, epoch(), &request).pop().unwrap();
    assert_eq!(to, SocketAddrV4::new(*addr(9).ip(), 4242));
    assert_eq!(reply.to, to);
}

#[test]
fn delayed_pings_wait_and_are_bounded() {
    let mut rpc = lonely(false);
    let delayed = |ms: u32| Request {
        value: Some(ms.to_le_bytes().to_vec().into()),
        ..question(true, commands::DELAYED_PING)
    };
    assert_eq!(answer(&mut rpc, &delayed(10_001)), None);
    for _ in 0..=MAX_DELAYED_PINGS {
        assert_eq!(answer(&mut rpc, &delayed(1500)), None);
    }
    assert_eq!(rpc.delayed_pings.len(), MAX_DELAYED_PINGS);
    let due = epoch() + Duration::from_millis(1500);
    assert_eq!(rpc.poll_timeout(), Some(due));
    rpc.handle_timeout(due);
    assert!(rpc.poll_transmit().is_some());
    assert!(rpc.delayed_pings.is_empty());
}

#[test]
fn a_node_called_dead_is_pinged_and_leaves_only_if_it_is() {
    let mut net = network(3, 3);
    let dead = net.addr_of(HostId::nth(2));
    net.kill(HostId::nth(2));
    let mut hint = question(true, commands::DOWN_HINT);
    let mut value = Vec::new();
    hyperdht_encoding::Encode::put_ipv4_address(&mut value, dead);
    hint.value = Some(value.into());
    let first = HostId::nth(0);
    assert!(net.machine(first).table.node(&NodeId::of(dead)).is_some());
    net.with(first, |rpc, now| rpc.handle_datagram(now, SocketId::Server, addr(9), &hint.encode()));
    assert_eq!(net.machine(first).checks, 1);
    net.run_for(Duration::from_secs(5));
    assert_eq!(net.machine(first).checks, 0);
    assert!(net.machine(first).table.node(&NodeId::of(dead)).is_none());
    assert_eq!(net.machine(first).table_len(), 1);
}

#[test]
fn every_request_ends_even_where_nobody_answers_and_where_there_is_no_room() {
    let mut rpc = lonely(true);
    let asked = MAX_INFLIGHT + 10;
    for _ in 0..asked {
        rpc.request(epoch(), Ask::new(addr(5), 2));
    }
    let mut ends = BTreeMap::new();
    let mut now = epoch();
    while ends.values().sum::<usize>() < asked {
        now = rpc.poll_timeout().unwrap().max(now);
        rpc.handle_timeout(now);
        while rpc.poll_transmit().is_some() {}
        while let Some(event) = rpc.poll_event() {
            if let Event::Response { outcome, .. } = event {
                *ends.entry(outcome.unwrap_err().to_string()).or_default() += 1;
            }
        }
    }
    assert_eq!(ends["too many requests are running"], 10);
    assert_eq!(ends["request timed out"], MAX_INFLIGHT);
}

#[test]
fn a_cancelled_request_says_so() {
    let mut rpc = lonely(true);
    let id = rpc.request(epoch(), Ask::new(addr(5), 2));
    rpc.cancel(epoch(), id);
    assert!(matches!(
        rpc.poll_event(),
        Some(Event::Response { outcome: Err(RequestError::Cancelled), .. })
    ));
}

#[test]
fn requests_that_find_no_room_leave_as_soon_as_there_is_some() {
    let mut net = network(5, 2);
    let (first, second) = (HostId::nth(0), HostId::nth(1));
    let (to, asked) = (net.addr_of(first), 10 * Config::default().max_window);
    net.with(second, |rpc, now| {
        for _ in 0..asked {
            rpc.ping(now, to, None, 3);
        }
    });
    let mut answered = 0;
    // Ten times there and back at most, 50 ms each way. In slots of 750 ms it would be seven seconds.
    net.run_until(Duration::from_secs(1), |net| {
        let is_answer =
            |event: &Event| matches!(event, Event::Response { outcome, .. } if outcome.is_ok());
        answered += events(net, second).iter().filter(|event| is_answer(event)).count();
        (answered == asked).then_some(())
    })
    .expect("all are answered");
}

#[test]
fn a_cancelled_request_makes_room() {
    let mut rpc = lonely(true);
    let room = Config::default().max_window;
    let ids: Vec<_> = (0..=room).map(|_| rpc.request(epoch(), Ask::new(addr(5), 2))).collect();
    assert_eq!(std::iter::from_fn(|| rpc.poll_transmit()).count(), room);
    rpc.cancel(epoch(), ids[0]);
    assert_eq!(std::iter::from_fn(|| rpc.poll_transmit()).count(), 1);
}

#[test]
fn pings_of_each_kind_come_back() {
    let mut net = network(4, 2);
    let (first, second) = (HostId::nth(0), HostId::nth(1));
    let to = net.addr_of(first);
    let started = net.now();
    let ids = net.with(second, |rpc, now| {
        [
            rpc.ping(now, to, None, 3),
            rpc.ping_nat(now, to, SERVER_PORT),
            rpc.delayed_ping(now, to, Duration::from_secs(2)),
        ]
    });
    let mut ended = BTreeMap::new();
    net.run_until(MINUTE, |net| {
        for event in events(net, second) {
            if let Event::Response { request, outcome } = event {
                ended.insert(request, (outcome.is_ok(), net.now() - started));
            }
        }
        (ended.len() == 3).then_some(())
    })
    .unwrap();
    assert!(ended.values().all(|(ok, _)| *ok));
    assert!(ended[&ids[2]].1 >= Duration::from_secs(2));
}

#[test]
fn an_open_node_joins_after_twenty_minutes_and_a_firewalled_one_never() {
    let mut net = network(5, 10);
    let open = join(&mut net, Role::Adaptive);
    let shut = net.add(true, |now, rng, _| Rpc::new(config(Role::Adaptive), now, rng));
    net.run_for(MINUTE);
    assert!(net.machine(open).is_ready() && net.machine(shut).is_ready());
    assert!(!net.machine(open).is_firewalled(), "the quick check has seen it");
    assert_eq!(net.machine(open).id(), None);
    net.run_for(20 * MINUTE);
    assert_eq!(net.machine(open).id(), Some(NodeId::of(net.addr_of(open))));
    assert!(net.machine(shut).is_firewalled());
    assert_eq!(net.machine(shut).id(), None);
    assert_eq!(net.machine(shut).default_socket(), SocketId::Client);
}

#[test]
fn a_long_sleep_makes_an_adaptive_node_ephemeral_again() {
    let mut net = network(6, 5);
    let host = join(&mut net, Role::Adaptive);
    net.run_for(25 * MINUTE);
    assert!(net.machine(host).id().is_some());
    let woken = net.with(host, |rpc, now| {
        rpc.handle_timeout(now + MINUTE);
        rpc.id()
    });
    assert_eq!(woken, None);
    assert!(events(&mut net, host).iter().any(|e| matches!(e, Event::WokeUp)));
}

#[test]
fn a_node_whose_address_changed_leaves_and_comes_back_under_another_id() {
    let mut net = network(12, 40);
    let host = HostId::nth(7);
    let before = net.machine(host).id();
    assert_eq!(before, Some(NodeId::of(net.addr_of(host))));
    net.move_to(host, [203, 0, 113, 1].into());
    net.run_for(90 * MINUTE);
    assert!(events(&mut net, host).iter().any(|e| matches!(e, Event::Ephemeral)));
    assert_eq!(net.machine(host).id(), Some(NodeId::of(net.addr_of(host))));
    assert_ne!(net.machine(host).id(), before);
}

#[test]
fn lies_about_our_address_do_not_drive_us_out() {
    let mut net = network(13, 20);
    let host = HostId::nth(7);
    let elsewhere = SocketAddrV4::new([203, 0, 113, 1].into(), SERVER_PORT);
    net.with(host, |rpc, _| (0..16).for_each(|_| rpc.sample(elsewhere)));
    net.run_for(10 * MINUTE);
    assert!(net.machine(host).id().is_some());
}

#[test]
fn a_hint_does_not_drive_out_a_node_that_was_just_heard_from() {
    let mut net = network(14, 3);
    let (first, alive) = (HostId::nth(0), addr(2));
    let mut hint = question(true, commands::DOWN_HINT);
    let mut value = Vec::new();
    hyperdht_encoding::Encode::put_ipv4_address(&mut value, alive);
    hint.value = Some(value.into());
    let ping = question(true, commands::PING);
    let ping = Request { id: Some(NodeId::of(alive)), ..ping }.encode();
    net.with(first, |rpc, now| {
        rpc.handle_datagram(now, SocketId::Server, alive, &ping);
        rpc.handle_datagram(now, SocketId::Server, addr(9), &hint.encode());
        assert_eq!(rpc.checks, 1);
    });
    net.run_for(Duration::from_secs(5));
    assert!(net.machine(first).table.node(&NodeId::of(alive)).is_some());
}

#[test]
fn nodes_that_vanish_leave_the_tables() {
    let mut net = network(7, 30);
    for n in 20..30 {
        net.kill(HostId::nth(n));
    }
    net.run_for(30 * MINUTE);
    for host in net.alive() {
        let rpc = net.machine(host);
        let dead = (20..30).filter(|n| rpc.table.node(&NodeId::of(addr(*n))).is_some());
        assert_eq!(dead.count(), 0);
        assert_eq!(rpc.table_len(), 19);
    }
}

#[test]
fn what_is_committed_goes_with_tokens_to_the_nearest_nodes() {
    let mut net = network(8, 30);
    let asker = join(&mut net, Role::Ephemeral);
    net.run_for(MINUTE);
    let spec = QuerySpec {
        commit: Commit::Same,
        value: Some("value".into()),
        ..QuerySpec::new([7; 32], 40)
    };
    let query = net.with(asker, |rpc, now| rpc.query(now, spec));
    let mut stored = 0;
    let report = net.run_until(MINUTE, |net| {
        for host in net.alive() {
            for event in events(net, host) {
                match event {
                    Event::Request(request) => {
                        stored += usize::from(request.token.is_some());
                        net.with(host, |rpc, now| {
                            rpc.reply(now, &request, None, ReplyOptions::FULL);
                        });
                    }
                    Event::QueryDone { query: done, report } if done == query => {
                        return Some(report);
                    }
                    _ => {}
                }
            }
        }
        None
    });
    let report = report.unwrap();
    assert_eq!(report.failure, None);
    assert_eq!((report.closest.len(), report.commits.len(), stored), (K, K, K));
    assert!(report.commits.iter().all(|commit| commit.outcome.is_ok()));
}

#[test]
fn a_commit_without_anybody_to_take_it_fails() {
    let mut net = Net::new(9);
    let host = net.add(false, |_, _, _| lonely(false));
    let spec = QuerySpec { commit: Commit::Ask, ..QuerySpec::new([7; 32], 40) };
    let report = walk(&mut net, host, spec);
    assert_eq!(report.failure, Some(QueryError::TooFewNodes));
}

#[test]
fn a_cancelled_query_leaves_nothing_running() {
    let mut net = network(10, 20);
    let host = HostId::nth(3);
    let (query, before) = net.with(host, |rpc, now| {
        let before = rpc.requests.len();
        (rpc.find_node(now, [1; 32]), before)
    });
    net.with(host, |rpc, now| rpc.cancel_query(now, query));
    assert_eq!(net.machine(host).requests.len(), before);
    assert!(matches!(
        events(&mut net, host).pop(),
        Some(Event::QueryDone {
            report: QueryReport { failure: Some(QueryError::Cancelled), .. },
            ..
        })
    ));
}

#[test]
fn names_of_bootstrap_nodes_are_asked_for_and_used() {
    let mut net = network(11, 5);
    let host = net.add(false, |now, rng, _| {
        let config = Config {
            bootstrap: vec!["203.0.113.1@first.example:49737".parse().unwrap()],
            ..config(Role::Persistent)
        };
        Rpc::new(config, now, rng)
    });
    let key = net.run_until(MINUTE, |net| {
        events(net, host).into_iter().find_map(|event| match event {
            Event::Resolve { key, name } if name == "first.example" => Some(key),
            _ => None,
        })
    });
    net.with(host, |rpc, now| rpc.resolved(now, key.unwrap(), Some(*addr(0).ip())));
    net.run_for(MINUTE);
    assert_eq!(net.machine(host).table_len(), 5);
    assert!(net.machine(host).id().is_some());
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    struct Arrival {
        socket: SocketId,
        from: SocketAddrV4,
        datagram: Vec<u8>,
        after_ms: u64,
    }

    fn datagram() -> impl Strategy<Value = Vec<u8>> {
        let body = prop::collection::vec(any::<u8>(), 0..120);
        // Mostly well-formed heads, so that the bytes get somewhere.
        (prop::bool::weighted(0.9), any::<bool>(), 0_u8..32, any::<u16>(), body).prop_map(
            |(formed, reply, flags, tid, body)| {
                if !formed {
                    return body;
                }
                let tid = tid.to_le_bytes();
                let head = [if reply { 0x13 } else { 0x03 }, flags, tid[0], tid[1]];
                [head.as_slice(), &[10, 0, 0, 1, 1, 1], &body].concat()
            },
        )
    }

    fn arrival() -> impl Strategy<Value = Arrival> {
        let socket =
            prop_oneof![Just(SocketId::Server), Just(SocketId::Client), Just(SocketId::Pool(3))];
        (socket, 0_u32..50, datagram(), 0_u64..3000).prop_map(
            |(socket, from, datagram, after_ms)| Arrival {
                socket,
                from: addr(from),
                datagram,
                after_ms,
            },
        )
    }

    proptest! {
        #[test]
        fn any_datagrams_leave_a_node_whole_bounded_and_no_amplifier(
            arrivals in prop::collection::vec(arrival(), 1..60),
        ) {
            let mut rpc = lonely(false);
            let mut now = epoch();
            for arrival in arrivals {
                now += Duration::from_millis(arrival.after_ms);
                rpc.handle_timeout(now);
                while rpc.poll_transmit().is_some() {}
                rpc.handle_datagram(now, arrival.socket, arrival.from, &arrival.datagram);
                let sent: Vec<_> = std::iter::from_fn(|| rpc.poll_transmit()).collect();
                // One answer to the host that wrote, and at most one ping of a known node.
                prop_assert!(sent.len() <= 2, "{sent:?}");
                let back = sent.iter().filter(|t| t.to.ip() == arrival.from.ip());
                let back: usize = back.map(|t| t.payload.len()).sum();
                prop_assert!(back <= 10 + 32 + 32 + 1 + 6 * K + 1 + 11, "{back}");
                prop_assert!(rpc.events.len() <= MAX_EVENTS);
                prop_assert!(rpc.checks <= MAX_INFLIGHT && rpc.swaps <= 3);
                while rpc.poll_event().is_some() {}
            }
            prop_assert!(rpc.delayed_pings.len() <= MAX_DELAYED_PINGS);
        }

        #[test]
        fn any_reply_to_a_walk_keeps_it_bounded(
            nodes in prop::collection::vec(any::<([u8; 4], u16)>(), 0..32),
            error in 0_u64..3,
            with_id: bool,
        ) {
            let mut rpc = lonely(false);
            let spec = QuerySpec { nodes: vec![addr(1)], ..QuerySpec::new([1; 32], 2) };
            rpc.query(epoch(), spec);
            for _ in 0..50 {
                let Some(asked) = rpc.poll_transmit() else { break };
                let Ok(Message::Request(request)) = Message::decode(&asked.payload) else {
                    continue;
                };
                let reply = Reply {
                    tid: request.tid,
                    to: addr(0),
                    id: with_id.then(|| NodeId::of(asked.to)),
                    token: None,
                    closer_nodes: nodes
                        .iter()
                        .map(|(ip, port)| SocketAddrV4::new((*ip).into(), *port))
                        .collect(),
                    error,
                    value: None,
                };
                rpc.handle_datagram(epoch(), asked.socket, asked.to, &reply.encode());
            }
            prop_assert!(rpc.requests.len() <= K + MAX_REFERRERS);
            prop_assert!(rpc.out.len() <= MAX_SEEN);
        }
    }
}

#[test]
fn a_forwarded_port_counts_as_open_while_others_reach_it_and_not_longer() {
    const PORT: u16 = 50_000;
    let mut net = network(1, 12);
    let config = Config { forwarded: Some(PORT), ..config(Role::Adaptive) };
    let host = net.add(true, |now, rng, _| Rpc::new(config, now, rng));
    let ip = *net.addr_of(host).ip();
    let expect = |net: &mut Net, open: bool| {
        let told = net.run_until(3 * MINUTE, |net| {
            let told = |event| match event {
                Event::Forwarded { port: PORT, open } => Some(open),
                _ => None,
            };
            events(net, host).into_iter().find_map(told)
        });
        assert_eq!(told, Some(open));
        let rpc = net.machine(host);
        let address = open.then(|| SocketAddrV4::new(ip, PORT));
        assert_eq!((rpc.public_address(), rpc.entrance()), (address, open.then_some(PORT)));
        assert_eq!(rpc.default_socket(), SocketId::Client);
    };
    expect(&mut net, false);
    net.forward(host, Some(PORT));
    expect(&mut net, true);
    net.forward(host, None);
    expect(&mut net, false);
}

#[test]
fn a_port_that_is_forwarded_from_the_start_is_known_when_the_start_is_over() {
    let mut net = network(1, 12);
    let config = Config { forwarded: Some(50_000), ..config(Role::Adaptive) };
    let host = net.add(true, |now, rng, _| Rpc::new(config, now, rng));
    net.forward(host, Some(50_000));
    let ready = net.run_until(MINUTE, |net| net.machine(host).is_ready().then_some(()));
    assert_eq!(ready, Some(()));
    assert!(net.machine(host).public_address().is_some());
}
