use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::test_vectors::{HANDSHAKE, HYPERDHT, bytes, vector};

fn at(last: u8, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), port)
}

fn relay(relay_address: SocketAddrV4, peer_address: SocketAddrV4) -> RelayInfo {
    RelayInfo { relay_address, peer_address }
}

fn udx(id: u32) -> Option<UdxInfo> {
    Some(UdxInfo { reusable_socket: false, id, seq: 0 })
}

/// The payloads that the vector file calls by these names.
fn recorded_payloads() -> [(&'static str, NoisePayload); 5] {
    let public = SocketAddrV4::new(Ipv4Addr::new(1, 2, 3, 4), 49737);
    let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let all_fields = NoisePayload {
        holepunch: Some(HolepunchInfo {
            id: 2,
            relays: vec![relay(at(1, 1001), at(2, 1002)), relay(at(3, 1003), at(4, 1004))],
        }),
        addresses4: vec![at(7, 1007), at(8, 1008)],
        addresses6: vec![SocketAddrV6::new(ipv6, 9, 0, 0)],
        udx: Some(UdxInfo { reusable_socket: true, id: 0xdead_beef, seq: 0 }),
        secret_stream: true,
        relay_through: Some(RelayThrough { public_key: [0x61; 32].into(), token: [0x62; 32] }),
        relay_addresses: vec![at(9, 1009)],
        ..NoisePayload::default()
    };
    let client = NoisePayload {
        addresses4: vec![SocketAddrV4::new(Ipv4Addr::LOCALHOST, 49737)],
        udx: udx(1),
        secret_stream: true,
        ..NoisePayload::default()
    };
    let server = NoisePayload {
        firewall: Firewall::Open,
        addresses4: vec![public],
        udx: udx(70_000),
        secret_stream: true,
        relay_addresses: vec![public],
        ..NoisePayload::default()
    };
    let error = NoisePayload {
        error: ErrorCode::VersionMismatch,
        udx: udx(0),
        secret_stream: true,
        ..NoisePayload::default()
    };
    [
        ("noisePayload all fields", all_fields),
        ("noisePayload minimal", NoisePayload::default()),
        ("noisePayload typical client", client),
        ("noisePayload typical server", server),
        ("noisePayload error", error),
    ]
}

#[test]
fn noise_payloads_are_the_recorded_ones() {
    for (name, payload) in recorded_payloads() {
        let wire = bytes(&vector(HYPERDHT, name)["hex"]);
        assert_eq!(payload.encode(), wire, "{name}");
        assert_eq!(NoisePayload::decode(&wire), Ok(payload), "{name}");
    }
}

#[test]
fn the_payloads_of_a_whole_handshake_are_the_recorded_ones() {
    let exchange = vector(HANDSHAKE, "PEER_HANDSHAKE noise exchange");
    let at = |text: &str| text.parse().unwrap();
    let client = NoisePayload {
        addresses4: vec![at("192.168.0.2:50000")],
        udx: udx(16_909_060),
        secret_stream: true,
        ..NoisePayload::default()
    };
    let server = NoisePayload {
        holepunch: Some(HolepunchInfo {
            id: 0,
            relays: vec![relay(at("10.0.0.1:49737"), at("10.0.0.2:40000"))],
        }),
        addresses4: vec![at("192.168.0.3:49737")],
        udx: udx(168_496_141),
        secret_stream: true,
        relay_addresses: vec![at("10.0.0.1:49737")],
        ..NoisePayload::default()
    };
    for (name, payload) in [("payload1Hex", client), ("payload2Hex", server)] {
        let wire = bytes(&exchange[name]);
        assert_eq!(payload.encode(), wire, "{name}");
        assert_eq!(NoisePayload::decode(&wire), Ok(payload), "{name}");
    }
}

#[test]
fn a_payload_of_another_version_says_so_and_is_not_read_on() {
    let wire =
        bytes(&vector(HYPERDHT, "noisePayload other version decodes to version only")["hex"]);
    assert_eq!(NoisePayload::decode(&wire), Err(PayloadError::OtherVersion { version: 2 }));
}

#[test]
fn a_longer_list_than_we_keep_is_cut_and_what_follows_is_read() {
    let many = u16::try_from(MAX_LIST).unwrap() + 10;
    let payload = NoisePayload {
        addresses4: (0..many).map(|port| at(1, port)).collect(),
        udx: udx(5),
        ..NoisePayload::default()
    };
    let read = NoisePayload::decode(&payload.encode()).unwrap();
    assert_eq!(read.addresses4, payload.addresses4[..MAX_LIST]);
    assert_eq!(read.udx, payload.udx);
}

#[test]
fn a_list_longer_than_the_message_is_malformed() {
    let wire = [1, 2, 0, 0, 0xfe, 0, 0, 0x10, 0, 1, 2, 3];
    let malformed = PayloadError::Malformed(DecodeError::OutOfBounds);
    assert_eq!(NoisePayload::decode(&wire), Err(malformed));
}

#[test]
fn unnamed_codes_are_understood_as_far_as_possible() {
    let payload = NoisePayload::decode(&[1, 0, 9, 9]).unwrap();
    assert_eq!(payload.error, ErrorCode::Other(9));
    assert_eq!(payload.firewall, Firewall::Unknown);
}

fn any_address() -> impl Strategy<Value = SocketAddrV4> {
    any::<([u8; 4], u16)>().prop_map(|(host, port)| SocketAddrV4::new(host.into(), port))
}

prop_compose! {
    fn any_payload()(
        (error, firewall) in (0..10_u64, 0..4_u64),
        holepunch in proptest::option::of((0..1000_u64, proptest::collection::vec((any_address(), any_address()), 0..5))),
        addresses4 in proptest::collection::vec(any_address(), 0..5),
        udx in proptest::option::of((any::<bool>(), any::<u32>(), 0..1000_u64)),
        secret_stream: bool,
        relay_through in proptest::option::of(any::<([u8; 32], [u8; 32])>()),
        relay_addresses in proptest::collection::vec(any_address(), 0..5),
    ) -> NoisePayload {
        NoisePayload {
            error: ErrorCode::from_code(error),
            firewall: Firewall::from_code(firewall),
            holepunch: holepunch.map(|(id, relays)| HolepunchInfo {
                id,
                relays: relays.into_iter().map(|(one, other)| relay(one, other)).collect(),
            }),
            addresses4,
            addresses6: Vec::new(),
            udx: udx.map(|(reusable_socket, id, seq)| UdxInfo { reusable_socket, id, seq }),
            secret_stream,
            relay_through: relay_through.map(|(key, token)| RelayThrough {
                public_key: key.into(),
                token,
            }),
            relay_addresses,
        }
    }
}

proptest! {
    #[test]
    fn payloads_round_trip_and_every_shorter_form_is_malformed(payload in any_payload(), cut: usize) {
        let wire = payload.encode();
        let cut = cut % wire.len();
        prop_assert!(matches!(
            NoisePayload::decode(&wire[..cut]),
            Err(PayloadError::Malformed(_))
        ));
        prop_assert_eq!(NoisePayload::decode(&wire), Ok(payload));
    }

    #[test]
    fn any_bytes_are_answered(mut bytes: Vec<u8>) {
        let _ = NoisePayload::decode(&bytes);
        // And past the version.
        bytes.insert(0, 1);
        let _ = NoisePayload::decode(&bytes);
    }
}
