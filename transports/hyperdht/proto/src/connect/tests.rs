//! Clients and servers on a simulated network, up to the point where their streams would meet.

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    dht::{Config, Event, HandshakeAnswer, ServerId},
    handshake::ErrorCode,
    keys::{KeyPair, PublicKey},
    rpc::{
        self, BootstrapNode, Role, SocketId,
        testnet::{HostId, SERVER_PORT, Testnet, addr},
    },
};

const MINUTE: Duration = Duration::from_secs(60);
const CLIENT_STREAM: u32 = 17;
const SERVER_STREAM: u32 = 0xffff_0001;

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

fn network() -> Net {
    let mut net = Net::new(7);
    net.add(false, |now, rng, addr| {
        let mut config = config(Role::Persistent);
        config.rpc.bootstrap = Vec::new();
        config.rpc.firewalled = false;
        config.rpc.public_address = Some(addr);
        Dht::new(config, now, rng)
    });
    for _ in 0..9 {
        join(&mut net, Role::Persistent, false);
    }
    net.run_for(MINUTE);
    net
}

fn join(net: &mut Net, role: Role, hidden: bool) -> HostId {
    let host = net.add(hidden, |now, rng, _| Dht::new(config(role), now, rng));
    net.run_for(Duration::from_secs(10));
    host
}

fn pair(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n; 32])
}

/// Somebody who waits behind a key.
struct Serving {
    host: HostId,
    id: ServerId,
    lets_in: bool,
    relay_through: Option<RelayThrough>,
    follows: bool,
    puncher: Puncher,
    meetings: Vec<Meeting>,
    knocks: Vec<PublicKey>,
}

const SERVER: u8 = 2;

fn serve(net: &mut Net, host: HostId) -> Serving {
    let id = net.with(host, |dht, now| dht.listen(now, pair(SERVER)).unwrap());
    let announced = net.run_until(MINUTE, |net| {
        let events = events(net, host);
        events
            .iter()
            .any(|event| matches!(event, Event::Announced { nodes: 1.., .. }))
            .then_some(())
    });
    announced.expect("somebody takes the announcement");
    let puncher = Puncher::new(StdRng::seed_from_u64(8));
    Serving {
        host,
        id,
        lets_in: true,
        relay_through: None,
        follows: true,
        puncher,
        meetings: Vec::new(),
        knocks: Vec::new(),
    }
}

fn events(net: &mut Net, host: HostId) -> Vec<Event> {
    net.with(host, |dht, _| std::iter::from_fn(|| dht.poll_event()).collect())
}

impl Serving {
    /// Answers those who knock.
    fn run(&mut self, net: &mut Net) {
        for event in events(net, self.host) {
            let Event::Handshake(handshake) = event else { continue };
            assert_eq!(handshake.server, self.id);
            let id = handshake.id;
            let knock = Knock::read(handshake, &pair(SERVER), pair(102)).unwrap();
            self.knocks.push(knock.remote());
            net.with(self.host, |dht, now| {
                if !self.lets_in {
                    return dht.answer_handshake(now, id, None);
                }
                let welcome = Welcome {
                    stream_id: SERVER_STREAM,
                    local: &[],
                    relay_through: self.relay_through,
                    follow: self.follows,
                    direct: true,
                };
                let admission = knock.admit(dht, &mut self.puncher, now, welcome).unwrap();
                dht.answer_handshake(now, id, Some(admission.answer));
                self.meetings.extend(admission.meeting);
            });
        }
    }
}

fn spec(server: PublicKey) -> DialSpec {
    DialSpec {
        key_pair: pair(1),
        server,
        ephemeral: pair(101),
        stream_id: CLIENT_STREAM,
        relays: Vec::new(),
        route: None,
        local: Vec::new(),
        relay_through: None,
        direct: true,
        tells_open: true,
    }
}

fn begin(net: &mut Net, host: HostId, server: PublicKey, relays: Vec<SocketAddrV4>) -> Dial {
    let spec = DialSpec { relays, ..spec(server) };
    net.with(host, |dht, now| Dial::new(dht, now, spec).unwrap())
}

type Outcome = Result<Box<Answered>, DialError>;

/// Runs a dial to its end; `each` looks at it after every step.
fn run(
    net: &mut Net,
    host: HostId,
    mut dial: Dial,
    mut server: Option<&mut Serving>,
    mut each: impl FnMut(&mut Dial, &mut Dht, Instant),
) -> (Outcome, Duration) {
    let began = net.now();
    let outcome = net.run_until(MINUTE, |net| {
        for event in events(net, host) {
            if DialEvent::of(&event).is_some_and(|event| dial.owns(event)) {
                net.with(host, |dht, now| dial.handle(dht, now, event));
            }
        }
        if let Some(server) = &mut server {
            server.run(net);
        }
        net.with(host, |dht, now| each(&mut dial, dht, now));
        dial.poll()
    });
    (outcome.expect("a dial ends"), net.now() - began)
}

/// What plans say, without the secrets in them.
fn assert_plan(answered: &Answered, expected: Plan) {
    assert_eq!(format!("{:?}", answered.plan), format!("{expected:?}"));
}

fn dial(net: &mut Net, host: HostId, server: &mut Serving) -> Outcome {
    let dial = begin(net, host, pair(SERVER).public_key(), Vec::new());
    run(net, host, dial, Some(server), |_, _, _| {}).0
}

#[test]
fn a_client_connects_to_an_open_server_at_its_address() {
    let mut net = network();
    let host = join(&mut net, Role::Adaptive, false);
    let mut server = serve(&mut net, host);
    let client = join(&mut net, Role::Adaptive, true);
    let answered = dial(&mut net, client, &mut server).unwrap();
    assert_plan(&answered, Plan::Connect(SocketId::Client, net.addr_of(host)));
    assert_eq!(answered.remote_id, SERVER_STREAM);
    assert_eq!(answered.keys.remote, pair(SERVER).public_key());

    let [meeting] = &server.meetings[..] else { panic!("one client is one meeting") };
    assert_eq!(server.knocks, [pair(1).public_key()]);
    assert_eq!((meeting.remote_id, meeting.connect), (CLIENT_STREAM, None));
    assert_eq!(meeting.keys.tx, answered.keys.rx);
    assert_eq!(meeting.keys.rx, answered.keys.tx);
}

#[test]
fn a_server_that_is_part_of_the_network_answers_for_itself() {
    let mut net = network();
    let host = join(&mut net, Role::Persistent, false);
    let mut server = serve(&mut net, host);
    let client = join(&mut net, Role::Adaptive, true);
    let addr = net.addr_of(host);
    let dial = begin(&mut net, client, pair(SERVER).public_key(), vec![addr]);
    let (outcome, _) = run(&mut net, client, dial, Some(&mut server), |_, _, _| {});
    assert_plan(&outcome.unwrap(), Plan::Connect(SocketId::Client, addr));
    let connect = server.meetings[0].connect;
    assert!(matches!(connect, Some((SocketId::Server, _))), "back to where it wrote from");
}

#[test]
fn an_open_client_waits_for_a_server_that_is_hidden() {
    let mut net = network();
    let host = join(&mut net, Role::Adaptive, true);
    let mut server = serve(&mut net, host);
    let client = join(&mut net, Role::Persistent, false);
    let answered = dial(&mut net, client, &mut server).unwrap();
    assert_plan(&answered, Plan::AwaitServer);
    let connect = server.meetings[0].connect;
    assert_eq!(connect, Some((SocketId::Client, net.addr_of(client))));
}

#[test]
fn an_open_client_that_does_not_say_so_is_not_connected_to() {
    let mut net = network();
    let host = join(&mut net, Role::Adaptive, true);
    let mut server = serve(&mut net, host);
    let client = join(&mut net, Role::Persistent, false);
    let spec = DialSpec { tells_open: false, ..spec(pair(SERVER).public_key()) };
    let dial = net.with(client, |dht, now| Dial::new(dht, now, spec).unwrap());
    let (answered, _) = run(&mut net, client, dial, Some(&mut server), |_, _, _| {});
    assert!(matches!(answered.unwrap().plan, Plan::Punch(_)));
    let meeting = server.meetings.pop().unwrap();
    assert_eq!(meeting.connect, None);
    assert!(meeting.punch.is_some());
}

#[test]
fn two_hidden_peers_are_to_punch_a_hole() {
    let mut net = network();
    let host = join(&mut net, Role::Adaptive, true);
    let mut server = serve(&mut net, host);
    let client = join(&mut net, Role::Adaptive, true);
    let answered = dial(&mut net, client, &mut server).unwrap();
    assert!(matches!(answered.plan, Plan::Punch(_)), "{:?}", answered.plan);
    let [meeting] = &server.meetings[..] else { panic!("one client is one meeting") };
    assert!(meeting.punch.is_some());
}

#[test]
fn two_hidden_peers_meet_at_the_relay_that_one_of_them_names() {
    let through = |n| RelayThrough { public_key: pair(n).public_key(), token: [n; 32] };
    for (ours, theirs, at) in [(Some(3), None, 3), (None, Some(4), 4), (Some(3), Some(4), 4)] {
        let mut net = network();
        let host = join(&mut net, Role::Adaptive, true);
        let mut server = serve(&mut net, host);
        server.relay_through = theirs.map(through);
        let client = join(&mut net, Role::Adaptive, true);
        let relay_through = ours.map(through);
        let spec = DialSpec { relay_through, ..spec(pair(SERVER).public_key()) };
        let dial = net.with(client, |dht, now| Dial::new(dht, now, spec).unwrap());
        let (outcome, _) = run(&mut net, client, dial, Some(&mut server), |_, _, _| {});
        let met = outcome.unwrap().rendezvous.unwrap();
        let meeting = server.meetings.pop().unwrap();
        let expected = meeting.rendezvous.unwrap();
        assert_eq!((met.relay, met.pair.token), (pair(at).public_key(), [at; 32]));
        assert_eq!((expected.relay, expected.pair.token), (met.relay, met.pair.token));
        assert_ne!(met.is_ours(), expected.is_ours());
        assert!(meeting.punch.is_some(), "a direct path is looked for all the same");
    }
}

#[test]
fn a_relay_stands_by_where_the_client_says_that_it_can_be_reached() {
    let mut net = network();
    let host = join(&mut net, Role::Adaptive, true);
    let mut server = serve(&mut net, host);
    server.relay_through = Some(RelayThrough { public_key: pair(3).public_key(), token: [3; 32] });
    let client = join(&mut net, Role::Persistent, false);
    let answered = dial(&mut net, client, &mut server).unwrap();
    assert!(matches!(answered.plan, Plan::AwaitServer), "{:?}", answered.plan);
    assert!(answered.rendezvous.is_some());
    let meeting = server.meetings.pop().unwrap();
    assert!(meeting.rendezvous.is_some() && meeting.connect.is_some());
}

#[test]
fn two_open_peers_come_to_the_relay_that_one_of_them_names() {
    for named in [false, true] {
        let mut net = network();
        let host = join(&mut net, Role::Adaptive, false);
        let mut server = serve(&mut net, host);
        let relay = RelayThrough { public_key: pair(3).public_key(), token: [3; 32] };
        server.relay_through = named.then_some(relay);
        let client = join(&mut net, Role::Persistent, false);
        let answered = dial(&mut net, client, &mut server).unwrap();
        // A client that connects by itself looks at nothing else, if it is Node's.
        let waits = matches!(answered.plan, Plan::AwaitServer);
        assert_eq!((waits, answered.rendezvous.is_some()), (named, named), "{:?}", answered.plan);
        let meeting = server.meetings.pop().unwrap();
        assert!(meeting.connect.is_some(), "the server connects in any case");
        assert_eq!(meeting.rendezvous.is_some(), named);
    }
}

#[test]
fn nobody_is_found_under_an_unknown_key() {
    let mut net = network();
    let client = join(&mut net, Role::Adaptive, true);
    let dial = begin(&mut net, client, pair(3).public_key(), Vec::new());
    let (outcome, _) = run(&mut net, client, dial, None, |_, _, _| {});
    assert_eq!(outcome.unwrap_err(), DialError::NotFound);
}

#[test]
fn a_host_without_a_way_out_is_told_so_and_not_that_nobody_has_the_key() {
    let mut net = network();
    let client = join(&mut net, Role::Adaptive, true);
    let others: Vec<_> = net.alive().into_iter().filter(|host| *host != client).collect();
    let relay = net.addr_of(others[1]);
    others.into_iter().for_each(|host| net.kill(host));
    for relays in [Vec::new(), vec![relay]] {
        let dial = begin(&mut net, client, pair(3).public_key(), relays);
        let (outcome, _) = run(&mut net, client, dial, None, |_, _, _| {});
        assert_eq!(outcome.unwrap_err(), DialError::NoNetwork);
    }
}

#[test]
fn a_key_that_is_no_point_is_refused_at_once() {
    let mut net = network();
    let spec = spec(PublicKey::from_bytes([0x5a; 32]));
    let refused = net.with(HostId::nth(1), |dht, now| Dial::new(dht, now, spec).map(drop));
    assert!(matches!(refused, Err(DialError::Handshake(_))), "{refused:?}");
}

#[test]
fn a_server_that_refuses_is_asked_once_and_silent() {
    let mut net = network();
    let host = join(&mut net, Role::Persistent, false);
    let mut server = serve(&mut net, host);
    server.lets_in = false;
    let client = join(&mut net, Role::Adaptive, true);
    let dial = begin(&mut net, client, pair(SERVER).public_key(), Vec::new());
    let (outcome, took) = run(&mut net, client, dial, Some(&mut server), |_, _, _| {});
    assert_eq!(outcome.unwrap_err(), DialError::ConnectionFailed);
    assert_eq!(server.knocks.len(), 1);
    // Three nodes, two at a time, four seconds each.
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn nodes_that_led_there_before_need_no_search() {
    let mut net = network();
    let host = join(&mut net, Role::Persistent, false);
    let mut server = serve(&mut net, host);
    let client = join(&mut net, Role::Adaptive, true);
    let relays = dial(&mut net, client, &mut server).unwrap().relays;
    assert!(!relays.is_empty());
    net.delay_ms = 20..21;
    let again = begin(&mut net, client, pair(SERVER).public_key(), relays);
    let (outcome, took) = run(&mut net, client, again, Some(&mut server), |_, _, _| {});
    outcome.unwrap();
    // To the node, to the server, back, and back.
    assert!(took <= Duration::from_millis(90), "{took:?}");
}

#[test]
fn nodes_that_are_gone_do_not_keep_a_dial_from_finding_others() {
    let mut net = network();
    let host = join(&mut net, Role::Persistent, false);
    let mut server = serve(&mut net, host);
    let client = join(&mut net, Role::Adaptive, true);
    let gone = vec![addr(1000), addr(1001)];
    let dial = begin(&mut net, client, pair(SERVER).public_key(), gone);
    let (outcome, _) = run(&mut net, client, dial, Some(&mut server), |_, _, _| {});
    assert_eq!(outcome.unwrap().remote_id, SERVER_STREAM);
}

#[test]
fn a_dial_that_is_given_up_asks_nobody_else_and_still_tells_of_an_answer() {
    let mut net = network();
    let host = join(&mut net, Role::Persistent, false);
    let mut server = serve(&mut net, host);
    let client = join(&mut net, Role::Adaptive, true);
    let key = pair(SERVER).public_key();

    let early = begin(&mut net, client, key, Vec::new());
    let (outcome, _) =
        run(&mut net, client, early, Some(&mut server), |dial, dht, now| dial.abandon(dht, now));
    assert_eq!(outcome.unwrap_err(), DialError::Abandoned);
    assert!(server.knocks.is_empty());

    let relays = dial(&mut net, client, &mut server).unwrap().relays;
    // The first node is asked at once.
    let late = begin(&mut net, client, key, relays);
    let (outcome, _) =
        run(&mut net, client, late, Some(&mut server), |dial, dht, now| dial.abandon(dht, now));
    assert_eq!(outcome.unwrap().remote_id, SERVER_STREAM);
}

#[test]
fn a_server_that_has_failed_says_so() {
    let mut net = network();
    let host = join(&mut net, Role::Persistent, false);
    let server = serve(&mut net, host);
    let client = join(&mut net, Role::Adaptive, true);
    let dial = begin(&mut net, client, pair(SERVER).public_key(), Vec::new());
    let (outcome, _) = run(&mut net, client, dial, None, |_, _, _| {});
    // Nobody answers for the server here, and then somebody who gives up.
    assert_eq!(outcome.unwrap_err(), DialError::ConnectionFailed);

    let mut dial = begin(&mut net, client, pair(SERVER).public_key(), Vec::new());
    let failure = net.run_until(MINUTE, |net| {
        for event in events(net, client) {
            if DialEvent::of(&event).is_some_and(|event| dial.owns(event)) {
                net.with(client, |dht, now| dial.handle(dht, now, event));
            }
        }
        for event in events(net, server.host) {
            let Event::Handshake(handshake) = event else { continue };
            let (id, noise) = (handshake.id, give_up(&handshake.noise));
            let answer = HandshakeAnswer { noise, socket: None };
            net.with(server.host, |dht, now| dht.answer_handshake(now, id, Some(answer)));
        }
        dial.poll()
    });
    let failure = failure.expect("a dial ends").unwrap_err();
    assert_eq!(failure, DialError::Server(ErrorCode::Aborted));
}

/// The answer of a server that cannot.
fn give_up(message: &[u8]) -> bytes::Bytes {
    let prologue = crate::hash::Namespace::PeerHandshake.bytes();
    let (responder, _) =
        crate::noise::Responder::recv(&pair(SERVER), pair(103), &prologue, message).unwrap();
    let payload = NoisePayload { error: ErrorCode::Aborted, ..NoisePayload::default() };
    responder.send(&payload.encode()).unwrap().0.into()
}
