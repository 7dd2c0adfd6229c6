//! Reads the vectors recorded from the npm packages, for the tests beside the code.

use std::net::SocketAddrV4;

use data_encoding::HEXLOWER;
use serde_json::Value;

pub(crate) const KEYS: &str = include_str!("../tests/vectors/keys.json");
pub(crate) const NOISE: &str = include_str!("../tests/vectors/noise.json");
pub(crate) const HANDSHAKE: &str = include_str!("../tests/vectors/handshake.json");
pub(crate) const SECRET_STREAM: &str = include_str!("../tests/vectors/secret-stream.json");
pub(crate) const DHT_PROM: &str = include_str!("../tests/vectors/dht-prom.json");
pub(crate) const NAT: &str = include_str!("../tests/vectors/nat.json");
pub(crate) const HYPERDHT: &str = include_str!("../tests/vectors/hyperdht.json");

/// Every vector of a file.
pub(crate) fn all(file: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(file).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

/// The vectors of a file that bear this name; at least one.
pub(crate) fn vectors(file: &str, name: &str) -> Vec<Value> {
    let found: Vec<Value> = all(file).into_iter().filter(|vector| vector["name"] == name).collect();
    assert!(!found.is_empty(), "no vector is named {name}");
    found
}

/// The only vector of a file that bears this name.
pub(crate) fn vector(file: &str, name: &str) -> Value {
    let [vector]: [Value; 1] = vectors(file, name).try_into().unwrap();
    vector
}

/// Bytes written as hexadecimal text, alone or under `hex`.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().or_else(|| value["hex"].as_str()).unwrap();
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// As many bytes as the caller's type holds.
pub(crate) fn fixed<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

/// An address written as `host` and `port`.
pub(crate) fn address(value: &Value) -> SocketAddrV4 {
    let host = value["host"].as_str().unwrap().parse().unwrap();
    let port = value["port"].as_u64().unwrap().try_into().unwrap();
    SocketAddrV4::new(host, port)
}
