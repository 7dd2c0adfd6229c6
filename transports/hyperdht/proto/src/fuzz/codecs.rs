//! Decoders without state: what is read is written and read back the same.

use hyperdht_encoding::{
    DecodeError, Decoder, Encode, MAX_ARRAY, MAX_UINT, buffer_len, varint_len,
};

use crate::{
    handshake::{HolepunchPayload, NoisePayload, PayloadError},
    rpc::Message,
};

/// Reads one compact encoding after another, each kind chosen by a byte.
///
/// # Panics
/// When a decoder reads past its input or takes what it should refuse.
pub fn encoding(input: &[u8]) {
    let mut decoder = Decoder::new(input);
    while !decoder.is_empty() {
        let before = decoder.rest().len();
        if one(&mut decoder).is_err() {
            break;
        }
        assert!(decoder.rest().len() < before, "a field of no bytes");
        assert!(input.ends_with(decoder.rest()));
    }
}

fn one(decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
    match decoder.uint8()? % 12 {
        0 => {
            let value = decoder.varint()?;
            assert!(value <= MAX_UINT);
            let len = round_trip(&value, |wire, value| wire.put_varint(*value), |d| d.varint());
            assert_eq!(len, varint_len(value));
        }
        1 => {
            let bytes = decoder.buffer()?.to_vec();
            let len = round_trip(
                &bytes,
                |wire, bytes| wire.put_buffer(bytes),
                |d| Ok(d.buffer()?.to_vec()),
            );
            assert_eq!(len, buffer_len(bytes.len()));
        }
        2 => {
            let text = decoder.string()?.into_owned();
            let read = |d: &mut Decoder<'_>| Ok(d.string()?.into_owned());
            round_trip(&text, |wire, text| wire.put_string(text), read);
        }
        3 => assert!(decoder.count(usize::MAX)? <= MAX_ARRAY),
        4 => {
            let address = decoder.ipv4_address()?;
            round_trip(&address, |wire, at| wire.put_ipv4_address(*at), |d| d.ipv4_address());
        }
        5 => {
            let address = decoder.ipv6_address()?;
            round_trip(&address, |wire, at| wire.put_ipv6_address(*at), |d| d.ipv6_address());
        }
        6 => {
            let value = decoder.uint24()?;
            round_trip(&value, |wire, value| wire.put_uint24(*value), |d| d.uint24());
        }
        7 => drop(decoder.bool()?),
        8 => drop(decoder.bitfield()?),
        9 => drop(decoder.fixed::<32>()?),
        10 => drop(decoder.uint32()?),
        _ => drop(decoder.uint16()?),
    }
    Ok(())
}

/// Writes a value, reads the same, and gives its length.
fn round_trip<T: PartialEq + std::fmt::Debug>(
    value: &T,
    put: impl FnOnce(&mut Vec<u8>, &T),
    read: impl FnOnce(&mut Decoder<'_>) -> Result<T, DecodeError>,
) -> usize {
    let mut wire = Vec::new();
    put(&mut wire, value);
    let mut decoder = Decoder::new(&wire);
    assert_eq!(read(&mut decoder).as_ref(), Ok(value));
    assert!(decoder.is_empty());
    wire.len()
}

/// Reads a DHT RPC datagram.
///
/// # Panics
/// When it is not written and read back the same.
pub fn rpc_message(input: &[u8]) {
    let Ok(message) = Message::decode(input) else { return };
    let wire = match &message {
        Message::Request(request) => request.encode(),
        Message::Reply(reply) => reply.encode(),
    };
    assert_eq!(Message::decode(&wire), Ok(message));
}

/// Reads what peers tell each other inside handshakes and holepunch messages, chosen by the first
/// byte.
///
/// # Panics
/// When it is not written and read back the same.
pub fn payloads(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    if kind % 2 == 0 {
        let payload = match NoisePayload::decode(bytes) {
            Ok(payload) => payload,
            Err(PayloadError::OtherVersion { version }) => return assert_ne!(version, 1),
            Err(_) => return,
        };
        assert_eq!(NoisePayload::decode(&payload.encode()), Ok(payload));
    } else if let Ok(payload) = HolepunchPayload::decode(bytes) {
        let mut wire = Vec::new();
        payload.encode(&mut wire);
        assert_eq!(HolepunchPayload::decode(&wire), Ok(payload));
    }
}
