//! Whatever strangers send.

use proptest::prelude::*;

use super::*;
use crate::{
    dht::{hop::HandshakeHop, hop::Mode, router::MAX_HANDSHAKES},
    rpc::{Request, Token},
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
                dht.handle_datagram(epoch(), SocketId::Server, addr(1), &request.encode());
                told += std::iter::from_fn(|| dht.poll_event())
                    .filter(|event| matches!(event, Event::Handshake(_)))
                    .count();
            }
        }
        prop_assert!(told <= MAX_HANDSHAKES);
    }
}
