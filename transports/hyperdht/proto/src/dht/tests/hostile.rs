//! Whatever strangers send.

use proptest::prelude::*;

use super::*;
use crate::{
    dht::{
        hop::{HandshakeHop, Mode},
        records::{Announce, Place},
        router::MAX_HANDSHAKES,
    },
    hash::{Namespace, hash},
    rpc::{Message, NodeId, Reply, Request, Token},
};

prop_compose! {
    fn value()(
        kind in 0_u8..4,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        mode in prop::sample::select(vec![
            Mode::FromClient,
            Mode::FromServer,
            Mode::FromRelay,
            Mode::FromSecondRelay,
            Mode::Reply,
        ]),
        peer: Option<([u8; 4], u16)>,
        relay: Option<([u8; 4], u16)>,
    ) -> Option<Bytes> {
        let address = |(ip, port): ([u8; 4], u16)| SocketAddrV4::new(ip.into(), port);
        match kind {
            0 => None,
            1 => Some(bytes.into()),
            _ => {
                let hop = HandshakeHop {
                    mode,
                    noise: bytes.into(),
                    peer_address: peer.map(address),
                    relay_address: relay.map(address),
                };
                Some(hop.encode())
            }
        }
    }
}

prop_compose! {
    fn stranger()(
        from in 1_u32..20,
        tid: u16,
        command in 0_u64..12,
        targeted in 0_u8..4,
        token: bool,
        value in value(),
    ) -> (SocketAddrV4, Request) {
        let request = Request {
            tid,
            to: addr(0),
            id: None,
            token: token.then_some(Token([1; 32])),
            internal: false,
            command,
            target: (targeted > 0).then(|| target(targeted)),
            value,
        };
        (addr(from), request)
    }
}

proptest! {
    #[test]
    fn strangers_store_nothing_and_get_little(
        requests in prop::collection::vec(stranger(), 1..100),
    ) {
        let mut dht = first(epoch(), StdRng::seed_from_u64(1), addr(0));
        dht.listen(epoch(), pair(1)).unwrap();
        for (from, request) in requests {
            while dht.poll_transmit().is_some() {}
            while dht.poll_event().is_some() {}
            let datagram = request.encode();
            dht.handle_datagram(epoch(), SocketId::Server, from, &datagram);
            let sent: Vec<_> = std::iter::from_fn(|| dht.poll_transmit()).collect();
            prop_assert!(sent.len() <= 1, "{sent:?}");
            // A lone node has neither records nor others to name: an id, a token, an address
            // and the record of its own server are all it can add.
            let bytes: usize = sent.iter().map(|transmit| transmit.payload.len()).sum();
            prop_assert!(bytes <= datagram.len() + 32 + 32 + 12 + 40, "{bytes}");
        }
        for n in 2..4 {
            prop_assert_eq!(dht.known_relay(epoch(), &target(n)), None);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn strangers_cannot_pile_up_handshakes(seeds in prop::collection::vec(any::<u64>(), 1..40)) {
        let mut dht = first(epoch(), StdRng::seed_from_u64(1), addr(0));
        dht.listen(epoch(), pair(1)).unwrap();
        let mut told = 0;
        for seed in seeds {
            for n in 0..100_u64 {
                let noise = [seed.to_le_bytes(), n.to_le_bytes()].concat();
                let peer = SocketAddrV4::new([1, 1, 1, seed.to_le_bytes()[0]].into(), 1);
                let hop = HandshakeHop::new(Mode::FromRelay, noise.into(), Some(peer));
                // Its sender is nobody's relay, and names a client as it likes.
                let from = addr(u32::from(seed.to_le_bytes()[1]));
                let request = Request {
                    tid: 1,
                    to: addr(0),
                    id: None,
                    token: None,
                    internal: false,
                    command: 0,
                    target: Some(target(1)),
                    value: Some(hop.encode()),
                };
                dht.handle_datagram(epoch(), SocketId::Server, from, &request.encode());
                told += std::iter::from_fn(|| dht.poll_event())
                    .filter(|event| matches!(event, Event::Handshake(_)))
                    .count();
            }
        }
        prop_assert!(told <= MAX_HANDSHAKES);
    }
}

/// A node with a full routing table, at which a topic, a server and a value are stored.
fn full_node() -> (Dht, Target) {
    let mut dht = first(epoch(), StdRng::seed_from_u64(1), addr(0));
    for n in 1..200 {
        let ping = Request { id: Some(NodeId::of(addr(n))), ..asks(0, None, None) };
        let ping = Request { internal: true, ..ping };
        dht.handle_datagram(epoch(), SocketId::Server, addr(n), &ping.encode());
    }
    while dht.poll_transmit().is_some() {}
    let token = reply(&mut dht, &asks(commands::LOOKUP, Some(TOPIC), None)).unwrap().token.unwrap();
    let place = Place { target: &TOPIC, node: dht.rpc().id().unwrap(), token };
    for n in 0..40 {
        let relays = vec![addr(1); MAX_ADDRESSES];
        let announce = Announce::sign(Namespace::Announce, &pair(n), &place, relays, 1);
        let announce = asks(commands::ANNOUNCE, Some(TOPIC), Some(announce.encode()));
        assert!(reply(&mut dht, &Request { token: Some(token), ..announce }).is_some());
    }
    // As long a value as a datagram holds.
    let head = Request { token: Some(token), ..asks(commands::IMMUTABLE_PUT, Some(TOPIC), None) };
    let value = Bytes::from(vec![7; rpc::MAX_DATAGRAM - head.encode().len() - 3]);
    let target = hash(&[&value]);
    let put = Request { target: Some(target), value: Some(value), ..head };
    assert_eq!(put.encode().len(), rpc::MAX_DATAGRAM);
    assert!(reply(&mut dht, &put).is_some());
    (dht, target)
}

fn asks(command: u64, target: Option<Target>, value: Option<Bytes>) -> Request {
    let (token, id, internal) = (None, None, false);
    Request { tid: 1, to: addr(0), id, token, internal, command, target, value }
}

/// The only datagram that a request leads to: an answer to where it came from.
fn answer(dht: &mut Dht, request: &Request) -> Option<Bytes> {
    dht.handle_datagram(epoch(), SocketId::Server, addr(500), &request.encode());
    let sent: Vec<_> = std::iter::from_fn(|| dht.poll_transmit()).collect();
    assert!(sent.len() <= 1, "{sent:?}");
    sent.into_iter().next().map(|transmit| {
        assert_eq!(transmit.to, addr(500));
        transmit.payload
    })
}

fn reply(dht: &mut Dht, request: &Request) -> Option<Reply> {
    match Message::decode(&answer(dht, request)?) {
        Ok(Message::Reply(reply)) => Some(reply),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_to_a_stranger_is_one_datagram_of_what_the_reference_sends() {
    let (mut dht, value) = full_node();
    // Head and id; then a token, and twenty nodes.
    let (bare, route) = (10 + 32, 1 + 20 * 6);
    let full = bare + 32 + route;
    // Twenty records with three relay addresses each, and when the topic was last bumped.
    let topic = 3 + 1 + 20 * (32 + 1 + 3 * 6) + 9;
    let longest = [
        (commands::LOOKUP, Some(TOPIC), None, full + topic),
        (commands::FIND_PEER, Some(TOPIC), None, full),
        (commands::IMMUTABLE_GET, Some(value), None, full + rpc::MAX_DATAGRAM),
        (commands::MUTABLE_GET, Some(TOPIC), Some(Bytes::from_static(&[0])), full),
        (commands::PEER_HANDSHAKE, Some(TOPIC), None, bare + route),
        (99, Some(TOPIC), None, bare + route + 1),
    ];
    for (command, target, value, longest) in longest {
        let len = answer(&mut dht, &asks(command, target, value)).map_or(0, |sent| sent.len());
        assert!(len <= longest, "command {command}: {len} bytes of {longest}");
    }
    // Without the proof of a token nothing is stored, and nothing is said.
    for command in [commands::ANNOUNCE, commands::UNANNOUNCE, commands::MUTABLE_PUT] {
        let forged = asks(command, Some(TOPIC), Some(Bytes::from_static(&[5; 200])));
        assert_eq!(answer(&mut dht, &forged), None, "command {command}");
    }
    let lookup = reply(&mut dht, &asks(commands::LOOKUP, Some(TOPIC), None)).unwrap();
    let found = LookupReply::decode(&lookup.value.unwrap()).unwrap();
    assert_eq!((found.peers.len(), lookup.closer_nodes.len()), (MAX_LOOKUP_PEERS, 20));
    assert!(found.peers.iter().all(|peer| peer.relay_addresses.len() == 3));
}

#[test]
fn a_value_that_is_longer_than_the_reference_reads_is_not_stored() {
    let (mut dht, _) = full_node();
    let token = reply(&mut dht, &asks(commands::LOOKUP, Some(TOPIC), None)).unwrap().token;
    for (len, stored) in [(1000, true), (rpc::MAX_DATAGRAM, false), (60_000, false)] {
        let value = Bytes::from(vec![8; len]);
        let target = Some(hash(&[&value]));
        let put = Request { token, ..asks(commands::IMMUTABLE_PUT, target, Some(value.clone())) };
        assert_eq!(answer(&mut dht, &put).is_some(), stored);
        let found = reply(&mut dht, &asks(commands::IMMUTABLE_GET, target, None)).unwrap().value;
        assert_eq!(found, stored.then_some(value));
    }
}

const TOPIC: Target = [3; 32];
