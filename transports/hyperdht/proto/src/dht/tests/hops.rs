//! Every hop of real handshakes and holepunches, byte for byte as the reference sends it.

use super::*;
use crate::{
    dht::hop::{HandshakeHop, HolepunchHop},
    rpc::{Message, Request},
    test_vectors::{HANDSHAKE, address, bytes, vectors},
};

struct Hop {
    from: SocketAddrV4,
    to: SocketAddrV4,
    datagram: Vec<u8>,
}

fn hop(name: &str) -> Hop {
    let vector = vectors(HANDSHAKE, name).remove(0);
    Hop {
        from: address(&vector["from"]),
        to: address(&vector["to"]),
        datagram: bytes(&vector["hex"]),
    }
}

fn request(hop: &Hop) -> Request {
    match Message::decode(&hop.datagram) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// A node of the network at the address to which a hop goes.
fn node(hop: &Hop) -> Dht {
    first(epoch(), StdRng::seed_from_u64(1), hop.to)
}

/// A node that nobody can name.
fn server(hop: &Hop) -> Dht {
    let mut config = config(Role::Ephemeral);
    config.rpc.bootstrap = Vec::new();
    config.rpc.server_port = hop.to.port();
    Dht::new(config, epoch(), StdRng::seed_from_u64(1))
}

fn arrive(dht: &mut Dht, hop: &Hop) {
    while dht.poll_transmit().is_some() {}
    while dht.poll_event().is_some() {}
    dht.handle_datagram(epoch(), SocketId::Server, hop.from, &hop.datagram);
}

#[track_caller]
fn assert_sent(dht: &mut Dht, hop: &Hop) {
    let sent = dht.poll_transmit();
    let expected =
        Transmit { socket: SocketId::Server, to: hop.to, payload: hop.datagram.clone().into() };
    assert_eq!(sent, Some(expected));
    assert_eq!(dht.poll_transmit(), None);
}

fn forward(dht: &mut Dht, hop: &Hop) {
    let target = request(hop).target.unwrap();
    dht.router.set_forward(epoch(), target, hop.to, Bytes::new());
}

/// Has the server take in `incoming` and answer with the Noise message that is in `answer`.
fn assert_answered(incoming: &Hop, answer: &Hop, direct: bool, noise: Bytes) {
    let mut dht = server(incoming);
    let target = request(incoming).target.unwrap();
    dht.router.add_server(target, ServerId(0), Bytes::new());
    arrive(&mut dht, incoming);
    let Some(Event::Handshake(handshake)) = dht.poll_event() else { panic!("no handshake") };
    assert_eq!(handshake.direct, direct);
    assert_eq!(handshake.client, "10.0.0.9:1111".parse().unwrap());
    assert_eq!(handshake.own_address, incoming.to);
    let answered = HandshakeAnswer { noise, socket: None };
    dht.answer_handshake(epoch(), handshake.id, Some(answered));
    assert_sent(&mut dht, answer);
}

fn noise(hop: &Hop) -> Bytes {
    let value = match Message::decode(&hop.datagram) {
        Ok(Message::Request(request)) => request.value,
        Ok(Message::Reply(reply)) => reply.value,
        Err(error) => panic!("{error}"),
    };
    HandshakeHop::decode(&value.unwrap()).unwrap().noise
}

#[test]
fn a_handshake_over_one_relay() {
    let (there, on) = (hop("one relay: client -> relay"), hop("one relay: relay -> server"));
    let (back, reply) = (hop("one relay: server -> relay"), hop("one relay: relay -> client"));
    let mut relay = node(&there);
    forward(&mut relay, &on);
    arrive(&mut relay, &there);
    assert_sent(&mut relay, &on);
    assert_answered(&on, &back, false, noise(&back));
    arrive(&mut relay, &back);
    assert_sent(&mut relay, &reply);
}

#[test]
fn a_handshake_over_two_relays() {
    let there = hop("two relays: client -> relay");
    let between = hop("two relays: relay -> relay2");
    let on = hop("two relays: relay2 -> server");
    let back = hop("two relays: server -> relay");
    let reply = hop("two relays: relay -> client");
    let mut relay = node(&there);
    forward(&mut relay, &between);
    arrive(&mut relay, &there);
    assert_sent(&mut relay, &between);
    let mut second = node(&between);
    forward(&mut second, &on);
    arrive(&mut second, &between);
    assert_sent(&mut second, &on);
    assert_answered(&on, &back, false, noise(&back));
    arrive(&mut relay, &back);
    assert_sent(&mut relay, &reply);
}

#[test]
fn a_handshake_straight_to_the_server() {
    let (there, back) = (hop("direct: client -> server"), hop("direct: server -> client"));
    assert_answered(&there, &back, true, noise(&back));
}

#[test]
fn a_handshake_for_nobody() {
    let there = hop("unknown target: client -> relay");
    let mut relay = node(&there);
    arrive(&mut relay, &there);
    assert_sent(&mut relay, &hop("unknown target: relay -> client"));
}

#[test]
fn a_holepunch_over_the_relay() {
    let (there, on) = (hop("holepunch: client -> relay"), hop("holepunch: relay -> server"));
    let (back, reply) = (hop("holepunch: server -> relay"), hop("holepunch: relay -> client"));
    let mut relay = node(&there);
    arrive(&mut relay, &there);
    assert_sent(&mut relay, &on);
    let mut dht = server(&on);
    dht.router.add_server(request(&on).target.unwrap(), ServerId(0), Bytes::new());
    arrive(&mut dht, &on);
    let Some(Event::Holepunch(punch)) = dht.poll_event() else { panic!("no holepunch") };
    let value = request(&back).value.unwrap();
    let payload = HolepunchHop::decode(&value).unwrap().payload;
    dht.answer_holepunch(epoch(), &punch, payload, None);
    assert_sent(&mut dht, &back);
    arrive(&mut relay, &back);
    assert_sent(&mut relay, &reply);
}
