//! Every vector recorded from the npm package `compact-encoding` 3.5, read and written.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::{SocketAddrV4, SocketAddrV6};

use data_encoding::HEXLOWER;
use hyperdht_encoding::{DecodeError, Decoder, Encode, MAX_ARRAY};
use serde_json::Value;

#[test]
fn every_vector_is_read_and_written() {
    let file: Value = serde_json::from_str(include_str!("vectors/compact-encoding.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert!(vectors.len() > 40, "the vector file is cut");
    for vector in vectors {
        let name = vector["name"].as_str().unwrap();
        let wire = HEXLOWER.decode(vector["hex"].as_str().unwrap().as_bytes()).unwrap();
        if let Some(encoding) = name.strip_prefix("decode-error ") {
            let error = read(encoding, &mut Decoder::new(&wire)).unwrap_err();
            assert_eq!(error.to_string(), vector["error"].as_str().unwrap(), "{vector}");
        } else if let Some(lenient) = name.strip_prefix("decode ") {
            let encoding = lenient.split(' ').next().unwrap();
            assert_eq!(
                read(encoding, &mut Decoder::new(&wire)).as_ref(),
                Ok(&vector["value"]),
                "{vector}"
            );
        } else {
            let mut decoder = Decoder::new(&wire);
            let value = read(name, &mut decoder).unwrap();
            assert!(decoder.is_empty(), "{vector}");
            assert_eq!(write(name, &value), wire, "{vector}");
            assert_eq!(write(name, &vector["input"]), wire, "{vector}");
        }
    }
}

/// Reads one value of the named encoding into the shape that the vector file uses.
fn read(encoding: &str, decoder: &mut Decoder<'_>) -> Result<Value, DecodeError> {
    Ok(match encoding {
        "uint" => decoder.varint()?.into(),
        "uint16" => decoder.uint16()?.into(),
        "uint24" => decoder.uint24()?.into(),
        "uint32" => decoder.uint32()?.into(),
        "string" => decoder.string()?.into(),
        "buffer" | "optionalBuffer" => hex(decoder.buffer()?),
        "fixed32" => hex(&decoder.fixed::<32>()?),
        "fixed64" => hex(&decoder.fixed::<64>()?),
        "bool" => decoder.bool()?.into(),
        "raw" => hex(decoder.bytes(decoder.rest().len())?),
        "ipv4Address" => {
            let address = decoder.ipv4_address()?;
            serde_json::json!({ "host": address.ip().to_string(), "port": address.port() })
        }
        "ipv6Address" => {
            let address = decoder.ipv6_address()?;
            serde_json::json!({ "host": address.ip().to_string(), "port": address.port() })
        }
        array => {
            let item = array.strip_prefix("array<").and_then(|rest| rest.strip_suffix('>'));
            let item = item.unwrap_or_else(|| panic!("unknown encoding {array}"));
            let count = decoder.count(MAX_ARRAY)?;
            (0..count).map(|_| read(item, decoder)).collect::<Result<Vec<_>, _>>()?.into()
        }
    })
}

/// Writes one value of the named encoding.
fn write(encoding: &str, value: &Value) -> Vec<u8> {
    let mut wire = Vec::new();
    match encoding {
        "uint" => wire.put_varint(value.as_u64().unwrap()),
        "uint16" => wire.extend((value.as_u64().unwrap() as u16).to_le_bytes()),
        "uint24" => wire.put_uint24(value.as_u64().unwrap() as u32),
        "uint32" => wire.extend((value.as_u64().unwrap() as u32).to_le_bytes()),
        "string" => wire.put_string(value.as_str().unwrap()),
        "buffer" | "optionalBuffer" => wire.put_buffer(&unhex(value)),
        "fixed32" | "fixed64" | "raw" => wire.extend(unhex(value)),
        "bool" => wire.put_bool(value.as_bool().unwrap()),
        "ipv4Address" => {
            let (host, port) = address(value);
            wire.put_ipv4_address(SocketAddrV4::new(host.parse().unwrap(), port));
        }
        "ipv6Address" => {
            let (host, port) = address(value);
            wire.put_ipv6_address(SocketAddrV6::new(host.parse().unwrap(), port, 0, 0));
        }
        array => {
            let item = &array["array<".len()..array.len() - 1];
            let items = value.as_array().unwrap();
            wire.put_varint(items.len() as u64);
            wire.extend(items.iter().flat_map(|value| write(item, value)));
        }
    }
    wire
}

fn address(value: &Value) -> (&str, u16) {
    (value["host"].as_str().unwrap(), value["port"].as_u64().unwrap() as u16)
}

fn hex(bytes: &[u8]) -> Value {
    serde_json::json!({ "hex": HEXLOWER.encode(bytes) })
}

fn unhex(value: &Value) -> Vec<u8> {
    value["hex"].as_str().map(|hex| HEXLOWER.decode(hex.as_bytes()).unwrap()).unwrap_or_default()
}
