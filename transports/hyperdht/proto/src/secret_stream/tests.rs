use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    keys::KeyPair,
    test_vectors::{DHT_PROM, HANDSHAKE, SECRET_STREAM, all, bytes, fixed, vector},
};

/// The keys that the recorded handshake left its client with, or its server.
fn recorded_keys(role: Role) -> SessionKeys {
    let exchange = vector(HANDSHAKE, "PEER_HANDSHAKE noise exchange");
    let key = |name: &str| Secret::from_bytes(fixed(&exchange[name]));
    let seed = match role {
        Role::Initiator => &exchange["serverSeed"],
        Role::Responder => &exchange["clientSeed"],
    };
    let (tx, rx) = match role {
        Role::Initiator => ("clientTx", "clientRx"),
        Role::Responder => ("clientRx", "clientTx"),
    };
    SessionKeys {
        role,
        remote: KeyPair::from_seed(&fixed(seed)).public_key(),
        tx: key(tx),
        rx: key(rx),
        handshake_hash: Secret::from_bytes(fixed(&exchange["handshakeHash"])),
    }
}

/// Keys that cost no curve arithmetic, for properties that are tried often.
fn test_keys(role: Role) -> SessionKeys {
    let keys = [Secret::from_bytes([1; 32]), Secret::from_bytes([2; 32])];
    let [tx, rx] = match role {
        Role::Initiator => keys,
        Role::Responder => {
            let [one, two] = keys;
            [two, one]
        }
    };
    let handshake_hash = Secret::from_bytes([3; 64]);
    SessionKeys { role, remote: [4; 32].into(), tx, rx, handshake_hash }
}

fn writer() -> Writer {
    open(&test_keys(Role::Initiator), [5; NONCE], Options::default()).0
}

fn reader(options: Options) -> Reader {
    open(&test_keys(Role::Responder), [6; NONCE], options).1
}

/// The stream that carries these messages.
fn stream(messages: &[Vec<u8>]) -> BytesMut {
    let (mut writer, mut wire) = (writer(), BytesMut::new());
    writer.write_header(&mut wire);
    for message in messages {
        writer.seal(&message[..], &mut wire).unwrap();
    }
    wire
}

fn read_all(reader: &mut Reader, mut input: &[u8]) -> Result<Vec<Bytes>, StreamError> {
    let mut messages = Vec::new();
    while let Some(message) = reader.read(&mut input)? {
        messages.push(message);
    }
    assert!(input.is_empty());
    Ok(messages)
}

/// Reads as a driver does that receives into the reader's own room, `step` bytes at a time.
fn receive_all(
    reader: &mut Reader,
    mut input: &[u8],
    step: usize,
) -> Result<Vec<Bytes>, StreamError> {
    let mut messages = Vec::new();
    while !input.is_empty() {
        let room = reader.writable();
        assert!(!room.is_empty());
        let (front, rest) = input.split_at(step.min(room.len()).min(input.len()));
        room[..front.len()].copy_from_slice(front);
        input = rest;
        messages.extend(reader.advance(front.len())?);
    }
    Ok(messages)
}

/// The recorded streams: who wrote them and what they carry.
fn recorded_streams() -> [(Role, Value); 2] {
    [
        (Role::Initiator, vector(SECRET_STREAM, "stream client to peer")),
        (Role::Responder, vector(SECRET_STREAM, "stream server to peer")),
    ]
}

#[test]
fn frames_are_the_recorded_ones() {
    for (role, vector) in recorded_streams() {
        let nonce = fixed(&vector["header"]);
        let (mut writer, _) = open(&recorded_keys(role), nonce, Options::default());
        let mut frames = vector["frames"].as_array().unwrap().iter().map(bytes);

        let mut wire = BytesMut::new();
        writer.write_header(&mut wire);
        assert_eq!(wire, frames.next().unwrap()[..]);
        for plain in vector["plains"].as_array().unwrap() {
            wire.clear();
            writer.seal(&bytes(plain)[..], &mut wire).unwrap();
            assert_eq!(wire, frames.next().unwrap()[..]);
        }
        assert_eq!(frames.next(), None);
    }
}

#[test]
fn recorded_frames_are_read_without_their_keep_alive() {
    for (role, vector) in recorded_streams() {
        let frames: Vec<u8> = vector["frames"].as_array().unwrap().iter().flat_map(bytes).collect();
        let plains: Vec<Vec<u8>> = vector["plains"].as_array().unwrap().iter().map(bytes).collect();
        for deliver_empty in [false, true] {
            let options = Options { deliver_empty, ..Options::default() };
            let (_, mut reader) = open(&recorded_keys(role.peer()), [0; NONCE], options);
            let expected = plains.iter().filter(|plain| deliver_empty || !plain.is_empty());
            let messages = read_all(&mut reader, &frames).unwrap();
            assert!(messages.iter().eq(expected));
        }
    }
}

#[test]
fn whole_recorded_sessions_are_read_and_written() {
    let mut sessions = 0;
    for vector in all(DHT_PROM).iter().filter(|vector| vector["session"].is_object()) {
        sessions += 1;
        for (from, role, nonce) in [("a", Role::Initiator, 0xa1), ("b", Role::Responder, 0xb1)] {
            let wire = bytes(&vector["session"][from]);
            let frames = vector["frames"].as_array().unwrap();
            let frames: Vec<Vec<u8>> =
                frames.iter().filter(|frame| frame["from"] == from).map(bytes).collect();

            let (_, mut reader) = open(&recorded_keys(role.peer()), [0; NONCE], Options::default());
            assert_eq!(read_all(&mut reader, &wire).unwrap(), frames, "{vector}");

            let (mut writer, _) = open(&recorded_keys(role), [nonce; NONCE], Options::default());
            let mut written = BytesMut::new();
            writer.write_header(&mut written);
            for frame in &frames {
                writer.seal(&frame[..], &mut written).unwrap();
            }
            assert_eq!(written, wire, "{vector}");
        }
    }
    assert!(sessions >= 4, "the vector file is cut");
}

#[test]
fn datagrams_are_the_recorded_ones() {
    for (name, role) in [
        ("unordered message from client", Role::Initiator),
        ("unordered message from server", Role::Responder),
    ] {
        let vector = vector(SECRET_STREAM, name);
        let counter = fixed(&vector["counterBefore"]);
        let (mut sealer, _) = datagrams(&recorded_keys(role), counter);
        let mut datagram = BytesMut::new();
        sealer.seal(&bytes(&vector["plain"]), &mut datagram);
        assert_eq!(datagram, bytes(&vector["hex"])[..]);

        let (_, opener) = datagrams(&recorded_keys(role.peer()), [0; 8]);
        assert_eq!(opener.open(datagram.clone()).unwrap(), bytes(&vector["plain"])[..]);
        for place in 0..datagram.len() {
            let mut forged = datagram.clone();
            forged[place] ^= 1;
            assert_eq!(opener.open(forged), None, "byte {place}");
        }
        let (_, own) = datagrams(&recorded_keys(role), [0; 8]);
        assert_eq!(own.open(datagram), None, "a datagram of ours came back");
    }
}

#[test]
fn a_header_other_than_the_peers_ends_the_stream() {
    let options = Options::default();
    let mut own = BytesMut::new();
    open(&test_keys(Role::Responder), [6; NONCE], options).0.write_header(&mut own);
    let mut foreign = BytesMut::new();
    open(&recorded_keys(Role::Initiator), [5; NONCE], options).0.write_header(&mut foreign);
    for header in [own, foreign] {
        let mut reader = reader(options);
        assert_eq!(read_all(&mut reader, &header), Err(StreamError::WrongStream));
        assert_eq!(read_all(&mut reader, &[]), Err(StreamError::WrongStream));
        assert_eq!(reader.advance(0), Err(StreamError::WrongStream));
    }
    for len in [0, 55, 57, 0x00ff_ffff] {
        let prefix = u32::try_from(len).unwrap().to_le_bytes();
        let error = read_all(&mut reader(options), &prefix[..3]).unwrap_err();
        assert_eq!(error, StreamError::HeaderLength { len });
    }
}

#[test]
fn frames_of_forbidden_length_end_the_stream_before_memory_is_taken() {
    let options = Options { max_message: 100, ..Options::default() };
    for (len, expected) in [
        (0, StreamError::FrameTooShort { len: 0 }),
        (16, StreamError::FrameTooShort { len: 16 }),
        (118, StreamError::FrameTooLong { len: 118, max: 117 }),
        (0x00ff_ffff, StreamError::FrameTooLong { len: 0x00ff_ffff, max: 117 }),
    ] {
        let mut wire = stream(&[vec![7; 100]]);
        wire.extend_from_slice(&u32::try_from(len).unwrap().to_le_bytes()[..3]);
        let mut reader = reader(options);
        let mut input = &wire[..];
        assert_eq!(reader.read(&mut input).unwrap().unwrap().len(), 100);
        assert_eq!(reader.read(&mut input), Err(expected));
        assert_eq!(reader.read(&mut &[0; 10][..]), Err(expected));
    }
}

#[test]
fn a_lost_repeated_or_swapped_frame_ends_the_stream() {
    let wire = stream(&[vec![1; 10], vec![2; 10]]);
    let (header, rest) = wire.split_at(59);
    let (one, two) = rest.split_at(30);
    for order in [&[two][..], &[one, one], &[two, one]] {
        let wire = [&[header][..], order].concat().concat();
        assert_eq!(read_all(&mut reader(Options::default()), &wire), Err(StreamError::Forged));
    }
}

#[test]
fn the_longest_message_passes_and_one_byte_more_does_not() {
    let mut wire = BytesMut::new();
    let mut writer = writer();
    writer.write_header(&mut wire);
    writer.seal(&vec![7; MAX_MESSAGE][..], &mut wire).unwrap();
    let before = wire.len();
    let error = writer.seal(&vec![7; MAX_MESSAGE + 1][..], &mut wire).unwrap_err();
    assert_eq!((error, wire.len()), (MessageTooLong { len: MAX_MESSAGE + 1 }, before));
    let messages = receive_all(&mut reader(Options::default()), &wire, 1 << 20).unwrap();
    assert_eq!(messages, [vec![7; MAX_MESSAGE]]);
}

#[test]
fn a_message_is_handed_out_from_where_it_was_put_together() {
    let wire = stream(&[vec![7; 1000]]);
    let mut reader = reader(Options::default());
    let (front, body) = wire.split_at(59 + 3);
    assert_eq!(read_all(&mut reader, front), Ok(vec![]));
    let room = reader.writable();
    room.copy_from_slice(body);
    let place = room[1..].as_ptr();
    let message = reader.advance(body.len()).unwrap().unwrap();
    assert_eq!(message.as_ptr(), place);
}

#[test]
fn an_announced_message_is_given_room_as_it_arrives() {
    let mut wire = stream(&[]);
    wire.extend_from_slice(&[0xff, 0xff, 0xff]);
    let mut reader = reader(Options::default());
    assert_eq!(read_all(&mut reader, &wire), Ok(vec![]));
    assert_eq!(reader.writable().len(), 64 * 1024);
}

#[test]
fn parts_of_a_message_are_sealed_as_one() {
    use bytes::Buf;
    let (mut writer, mut wire) = (writer(), BytesMut::new());
    writer.write_header(&mut wire);
    writer.seal((&b"front"[..]).chain(&b"back"[..]), &mut wire).unwrap();
    assert_eq!(wire, stream(&[b"frontback".to_vec()]));
}

#[test]
fn debug_keeps_the_keys() {
    let (writer, reader) = open(&recorded_keys(Role::Initiator), [5; NONCE], Options::default());
    let (sealer, opener) = datagrams(&recorded_keys(Role::Initiator), [0; 8]);
    let text = format!("{writer:?} {reader:?} {sealer:?} {opener:?}");
    assert!(!text.contains('['), "{text}");
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        proptest::collection::vec(any::<u8>(), 1..40),
        proptest::collection::vec(any::<u8>(), 1000..3000),
    ]
}

proptest! {
    #[test]
    fn any_chunking_yields_the_same_messages(
        messages in proptest::collection::vec(message(), 0..8),
        chunks in proptest::collection::vec(1..700_usize, 1..50),
        direct in any::<bool>(),
    ) {
        let wire = stream(&messages);
        let mut reader = reader(Options { deliver_empty: true, ..Options::default() });
        let (mut rest, mut read) = (&wire[..], Vec::new());
        for chunk in chunks.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (front, back) = rest.split_at((*chunk).min(rest.len()));
            // The two ways in may be mixed.
            if direct && chunk % 2 == 0 {
                read.extend(receive_all(&mut reader, front, *chunk).unwrap());
            } else {
                read.extend(read_all(&mut reader, front).unwrap());
            }
            rest = back;
        }
        prop_assert_eq!(read, messages);
    }

    #[test]
    fn any_bytes_are_answered(wire in proptest::collection::vec(any::<u8>(), 0..400), step in 1..80_usize) {
        let one = read_all(&mut reader(Options::default()), &wire);
        let other = receive_all(&mut reader(Options::default()), &wire, step);
        prop_assert_eq!(one, other);
    }

    #[test]
    fn any_bytes_behind_the_header_are_answered(
        garbage in proptest::collection::vec(any::<u8>(), 0..400),
        step in 1..80_usize,
    ) {
        let mut wire = stream(&[]);
        wire.extend_from_slice(&garbage);
        let one = read_all(&mut reader(Options::default()), &wire);
        let other = receive_all(&mut reader(Options::default()), &wire, step);
        prop_assert_eq!(&one, &other);
        prop_assert!(one.is_err() || one.unwrap().is_empty());
    }

    #[test]
    fn any_flipped_bit_is_noticed(message in message(), place: usize, bit in 0..8_u8) {
        let mut wire = stream(&[message]);
        let place = place % wire.len();
        wire[place] ^= 1 << bit;
        // A longer length only makes the reader wait, and the cipher's nonce is proved by the first
        // message.
        let read = read_all(&mut reader(Options::default()), &wire);
        prop_assert!(read.is_err() || read.unwrap().is_empty());
    }

    #[test]
    fn any_bytes_are_no_datagram(datagram in proptest::collection::vec(any::<u8>(), 0..100)) {
        let (_, opener) = datagrams(&test_keys(Role::Responder), [0; 8]);
        prop_assert_eq!(opener.open(BytesMut::from(&datagram[..])), None);
    }

    #[test]
    fn datagrams_of_any_length_arrive(message in message(), counter: [u8; 8]) {
        let (mut sealer, _) = datagrams(&test_keys(Role::Initiator), counter);
        let (_, opener) = datagrams(&test_keys(Role::Responder), [0; 8]);
        let mut wire = BytesMut::new();
        sealer.seal(&message, &mut wire);
        prop_assert_eq!(wire.len(), message.len() + 24);
        prop_assert_eq!(opener.open(wire), Some(Bytes::from(message)));
    }
}
