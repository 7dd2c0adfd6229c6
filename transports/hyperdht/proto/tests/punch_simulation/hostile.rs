//! Peers that do not play by the rules, and what they cost: bounded time, bounded state, and nothing to
//! anybody else.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use hyperdht_proto::{
    connect::{DialError, MAX_EXPECTED_PER_HOST, PunchError},
    dht::{Event, HandshakeCall, HandshakeReply, HolepunchCall},
    handshake::{
        ErrorCode, Firewall, HolepunchCipher, HolepunchPayload, NoisePayload, RelayInfo, UdxInfo,
    },
    hash::Namespace,
    keys::PublicKey,
    noise::Initiator,
    rpc::Ask,
    sim::{Dependence, HostId, Link, Nat},
};

use crate::{
    SCRAPE, fails_within, opens_within,
    peer::{Failure, Outcome},
    world::{Place, World},
};

/// A server and a client behind cones, and somebody else in the open.
struct Scene {
    world: World,
    server: HostId,
    client: HostId,
    stranger: HostId,
    key: PublicKey,
}

const SERVER: u8 = 1;
const CLIENT: u8 = 3;

fn scene(client: Nat) -> Scene {
    scene_of(Nat::CONE, client)
}

fn scene_of(server: Nat, client: Nat) -> Scene {
    let mut world = World::new(1, Link::default());
    let server = world.add(&Place::Behind(server));
    let client = world.add(&Place::Behind(client));
    let stranger = world.add(&Place::Public);
    let key = world.serve(server);
    Scene { world, server, client, stranger, key }
}

/// What a handshake has given somebody who goes on as it pleases.
struct Offer {
    cipher: HolepunchCipher,
    slot: u64,
    relay: RelayInfo,
}

impl Scene {
    fn dial(&mut self) -> Outcome {
        self.world.dial(self.client, self.key, &[])
    }

    fn relay(&self) -> RelayInfo {
        let server = self.world.net.host(self.server);
        let id = server.server.as_ref().unwrap().id;
        let relay = &server.dht.relays(id)[0];
        RelayInfo { relay_address: relay.relay_address, peer_address: relay.peer_address }
    }

    /// A handshake message that the server will answer.
    fn introduction(&mut self) -> (Initiator, Vec<u8>) {
        let key = self.key;
        self.world.net.with(self.stranger, |peer, _| {
            let udx = Some(UdxInfo { reusable_socket: false, id: 1, seq: 0 });
            let payload = NoisePayload { udx, secret_stream: true, ..NoisePayload::default() };
            let prologue = Namespace::PeerHandshake.bytes();
            let [me, ephemeral] = [(); 2].map(|()| peer.key_pair());
            Initiator::send(&me, key, ephemeral, &prologue, &payload.encode()).unwrap()
        })
    }

    /// The stranger shakes hands by the book.
    fn shake(&mut self) -> Offer {
        let (initiator, noise) = self.introduction();
        let (to, target) = (self.relay().relay_address, self.key.target());
        self.world.net.with(self.stranger, |peer, now| {
            let call = HandshakeCall { target, noise: noise.into(), to, via: None, socket: None };
            peer.act(now, |peer, now| peer.dht.handshake(now, call));
        });
        let reply = self.reply();
        let (payload, keys) = initiator.recv(&reply.noise).unwrap();
        let punch = NoisePayload::decode(&payload).unwrap().holepunch.unwrap();
        let cipher = HolepunchCipher::new(&keys.handshake_hash);
        Offer { cipher, slot: punch.id, relay: punch.relays[0] }
    }

    fn reply(&mut self) -> HandshakeReply {
        let stranger = self.stranger;
        let reply = self.world.run_until(SCRAPE, |net| {
            net.host(stranger).unclaimed.iter().rev().find_map(|event| match event {
                Event::HandshakeDone { outcome: Ok(reply), .. } => Some(reply.clone()),
                _ => None,
            })
        });
        reply.expect("the server answers")
    }

    /// The stranger sends a holepunch message, as sealed already.
    fn tell(&mut self, slot: u64, relay: RelayInfo, payload: Vec<u8>) {
        let call = HolepunchCall {
            target: self.key.target(),
            id: slot,
            payload: payload.into(),
            to: relay.relay_address,
            server: Some(relay.peer_address),
            socket: None,
        };
        self.world.net.with(self.stranger, |peer, now| {
            peer.act(now, |peer, now| peer.dht.holepunch(now, call));
        });
    }

    /// What the server has answered to the stranger's holepunch messages.
    fn answers(&self, offer: &Offer) -> Vec<HolepunchPayload> {
        let replies = &self.world.net.host(self.stranger).punch_replies;
        replies.iter().filter_map(|reply| offer.cipher.open(&reply.payload).ok()).collect()
    }

    fn failures(&self) -> &[PunchError] {
        &self.world.net.host(self.server).server.as_ref().unwrap().failures
    }

    fn assert_tidy(&mut self) {
        self.world.assert_tidy([self.server, self.client]);
    }
}

fn wait(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn forged_messages_change_nothing_for_the_client_they_pretend_to_be_from() {
    let undisturbed = scene(Nat::CONE).dial();
    let mut scene = scene(Nat::CONE);
    let relay = scene.relay();
    for n in 0..400_u32 {
        let payload = vec![n.to_le_bytes()[0]; 80];
        scene.tell(u64::from(n % 4), relay, payload);
    }
    let outcome = scene.dial();
    assert!(opens_within(&undisturbed, SCRAPE) && opens_within(&outcome, SCRAPE), "{outcome:?}");
    assert_eq!(scene.failures(), []);
    scene.assert_tidy();
}

#[test]
fn a_message_that_is_repeated_is_answered_some_times_and_ends_with_its_attempt() {
    let mut scene = scene(Nat::CONE);
    let offer = scene.shake();
    let sealed = offer.cipher.seal(&HolepunchPayload::default(), [7; 24]);
    for _ in 0..600 {
        scene.tell(offer.slot, offer.relay, sealed.clone());
    }
    scene.world.net.advance(wait(40));
    let answers = scene.answers(&offer).len();
    assert!((1..=128).contains(&answers), "{answers}");
    assert_eq!(scene.failures(), [PunchError::Unanswered]);
    assert!(opens_within(&scene.dial(), SCRAPE));
    scene.assert_tidy();
}

#[test]
fn wrong_tokens_buy_no_probes_at_a_host_that_never_asked() {
    for firewall in [Firewall::Random, Firewall::Consistent] {
        let mut scene = scene(Nat::CONE);
        let victim = scene.world.add(&Place::Public);
        let address = SocketAddrV4::new(Ipv4Addr::new(5, 5, 6, 1), 40_000);
        let offer = scene.shake();
        let payload = HolepunchPayload {
            firewall,
            round: 1,
            punching: true,
            addresses: Some(vec![address; 64]),
            remote_token: Some([0x5a; 32]),
            ..HolepunchPayload::default()
        };
        let sealed = offer.cipher.seal(&payload, [7; 24]);
        scene.tell(offer.slot, offer.relay, sealed);
        scene.world.net.advance(wait(60));
        let seen = scene.world.net.host(victim).bytes_seen;
        let [answer] = &scene.answers(&offer)[..] else { panic!("one answer") };
        if firewall == Firewall::Random {
            assert_eq!((seen, answer.error), (0, ErrorCode::Aborted));
            assert_eq!(scene.failures(), [PunchError::NoWay]);
        } else {
            // Eight addresses are kept, and tried in the fourth and the eighth round.
            assert!((1..=16).contains(&seen), "{seen}");
            assert_eq!(scene.failures(), [PunchError::Exhausted]);
        }
        scene.assert_tidy();
    }
}

#[test]
fn a_client_that_falls_silent_costs_a_server_one_socket_for_ten_seconds() {
    let mut scene = scene(Nat::CONE);
    scene.shake();
    let server = scene.world.net.host(scene.server);
    assert_eq!((server.puncher.len(), server.sockets()), (1, 1));
    scene.world.net.advance(wait(10));
    assert_eq!(scene.failures(), [PunchError::Unanswered]);
    scene.assert_tidy();
}

#[test]
fn a_server_that_falls_silent_is_given_up_within_a_scrapes_deadline() {
    let mut scene = scene(Nat::CONE);
    let (client, key) = (scene.client, scene.key);
    scene.world.net.with(client, |peer, now| peer.dial(now, key, Vec::new()));
    let invited = scene.world.run_until(SCRAPE, |net| {
        net.host(client).dialling.as_ref().and_then(|dialling| dialling.punch)
    });
    assert!(invited.is_some());
    scene.world.cut_off(SERVER);
    let outcome = scene.world.outcome(client);
    assert!(fails_within(&outcome, PunchError::Unanswered, SCRAPE), "{outcome:?}");
    scene.assert_tidy();
}

#[test]
fn a_flood_from_one_host_leaves_room_for_others() {
    let mut scene = scene(Nat::CONE);
    let (target, to) = (scene.key.target(), scene.relay().relay_address);
    for _ in 0..200 {
        let (_, noise) = scene.introduction();
        let call = HandshakeCall { target, noise: noise.into(), to, via: None, socket: None };
        scene.world.net.with(scene.stranger, |peer, now| {
            peer.act(now, |peer, now| peer.dht.handshake(now, call));
        });
    }
    scene.world.net.advance(wait(2));
    let expected = scene.world.net.host(scene.server).puncher.len();
    assert_eq!(expected, MAX_EXPECTED_PER_HOST);
    let outcome = scene.dial();
    assert!(opens_within(&outcome, SCRAPE), "{outcome:?}");
    scene.assert_tidy();
}

#[test]
fn a_flood_that_names_many_hosts_keeps_nobody_out_and_ends_nobody_who_is_punching() {
    // Anybody can reach the server, and say that others want to.
    let full_cone = Nat { filtering: Dependence::Endpoint, ..Nat::CONE };
    let mut scene = scene_of(full_cone, Nat::SYMMETRIC);
    let (client, key) = (scene.client, scene.key);
    let other = scene.world.add(&Place::Behind(Nat::CONE));
    // One client is guessing ports meanwhile.
    scene.world.net.with(client, |peer, now| peer.dial(now, key, Vec::new()));
    scene.world.net.advance(wait(1));
    let (target, to) = (scene.key.target(), scene.relay().peer_address);
    for n in 0..700_u32 {
        let (_, noise) = scene.introduction();
        let value = from_relay(&noise, SocketAddrV4::new(Ipv4Addr::from(0x0901_0000 + n), 1000));
        scene.world.net.with(scene.stranger, |peer, now| {
            let ask = Ask { target: Some(target), value: Some(value.into()), ..Ask::new(to, 0) };
            peer.act(now, |peer, now| peer.dht.request(now, ask));
        });
    }
    scene.world.net.advance(wait(4));
    let server = scene.world.net.host(scene.server);
    // All of them are on the stranger's account, and perhaps one is not its.
    let expected = server.puncher.len();
    assert!((MAX_EXPECTED_PER_HOST..=MAX_EXPECTED_PER_HOST + 1).contains(&expected), "{expected}");
    let outcome = scene.world.dial(other, key, &[]);
    assert!(opens_within(&outcome, SCRAPE), "{outcome:?}");
    let outcome = scene.world.outcome(client);
    assert!(opens_within(&outcome, crate::GUESSING), "{outcome:?}");
    scene.world.assert_tidy([client, other]);
    let server = scene.world.net.host(scene.server);
    assert!(server.puncher.is_empty() && server.sockets() == 2, "{:?}", server.puncher);
}

#[test]
fn who_is_cut_off_learns_it_within_a_scrapes_deadline() {
    let mut cut_client = scene(Nat::CONE);
    cut_client.world.cut_off(CLIENT);
    assert_failed(&cut_client.dial(), DialError::NoNetwork);

    let mut cut_server = scene(Nat::CONE);
    cut_server.world.cut_off(SERVER);
    assert_failed(&cut_server.dial(), DialError::ConnectionFailed);
}

fn assert_failed(outcome: &Outcome, error: DialError) {
    let Outcome::Failed { why, took } = outcome else { panic!("{outcome:?}") };
    assert!(*why == Failure::Dial(error) && *took <= SCRAPE, "{outcome:?}");
}

/// A handshake as a node passes it on for a client (`hyperdht/lib/messages.js`).
fn from_relay(noise: &[u8], client: SocketAddrV4) -> Vec<u8> {
    let len = u8::try_from(noise.len()).unwrap();
    let mut value = vec![1, 2, len];
    value.extend_from_slice(noise);
    value.extend(client.ip().octets());
    value.extend(client.port().to_le_bytes());
    value
}
