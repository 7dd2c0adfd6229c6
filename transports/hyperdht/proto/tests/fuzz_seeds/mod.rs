//! Inputs for the fuzz targets that get far: what was recorded from the npm packages.

use serde_json::Value;

/// What a target runs.
type Run = fn(&[u8]);

/// The targets' names, and what each runs.
pub(crate) const TARGETS: [(&str, Run); 10] = [
    ("encoding", hyperdht_proto::fuzz::encoding),
    ("rpc_message", hyperdht_proto::fuzz::rpc_message),
    ("payloads", hyperdht_proto::fuzz::payloads),
    ("dht_values", hyperdht_proto::fuzz::dht_values),
    ("dht_node", hyperdht_proto::fuzz::dht_node),
    ("handshake", hyperdht_proto::fuzz::handshake),
    ("secret_stream", hyperdht_proto::fuzz::secret_stream),
    ("blind_relay", hyperdht_proto::fuzz::blind_relay),
    ("udx_packet", hyperdht_proto::fuzz::udx_packet),
    ("udx_stream", hyperdht_proto::fuzz::udx_stream),
];

/// Recorded inputs for the target of this name.
pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "rpc_message" => {
            [recorded(RPC, "re"), recorded(HANDSHAKE, "one"), recorded(HANDSHAKE, "hole")].concat()
        }
        "payloads" => [
            chosen(0, recorded(HYPERDHT, "noisePayload")),
            chosen(1, recorded(HYPERDHT, "holepunchPayload")),
        ]
        .concat(),
        "dht_values" => [
            chosen(0, recorded(HYPERDHT, "peer")),
            chosen(1, recorded(HYPERDHT, "lookupReply")),
            chosen(2, recorded(HYPERDHT, "announce")),
            chosen(3, recorded(HYPERDHT, "mutable")),
            chosen(4, recorded(HYPERDHT, "mutable")),
            chosen(5, recorded(HYPERDHT, "handshake")),
            chosen(6, recorded(HYPERDHT, "holepunch")),
        ]
        .concat(),
        // A datagram that comes in at a node, behind what chooses that.
        "dht_node" => {
            let datagrams = [recorded(RPC, "re"), recorded(HANDSHAKE, "one")].concat();
            let arrives = |datagram: Vec<u8>| {
                let halves = u8::try_from(datagram.len().div_ceil(2)).unwrap_or(u8::MAX);
                [vec![1, 0, halves], datagram, vec![0, 0]].concat()
            };
            datagrams.into_iter().map(arrives).collect()
        }
        "handshake" => recorded(HANDSHAKE, "PEER_HANDSHAKE noise exchange"),
        "secret_stream" => recorded(SECRET_STREAM, "push"),
        // A client joins and sends it, and another one does.
        "blind_relay" => {
            let pairs = recorded(HYPERDHT, "blind-relay");
            let comes = |client: u8, message: &[u8]| {
                let len = u8::try_from(message.len()).unwrap_or(u8::MAX);
                [&[0, client, 3, client, u8::from(len < 34), len], message].concat()
            };
            pairs.iter().map(|pair| [comes(1, pair), comes(2, pair)].concat()).collect()
        }
        "udx_packet" => recorded(UDX, ""),
        _ => Vec::new(),
    }
}

fn chosen(kind: u8, seeds: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    seeds.into_iter().map(|seed| [vec![kind], seed].concat()).collect()
}

/// All bytes in the vectors of a file whose names begin so.
fn recorded(file: &str, name: &str) -> Vec<Vec<u8>> {
    let file: Value = serde_json::from_str(file).expect("the vectors are JSON");
    let vectors = file["vectors"].as_array().into_iter().flatten();
    let named =
        vectors.filter(|vector| vector["name"].as_str().is_some_and(|text| text.starts_with(name)));
    let mut found = Vec::new();
    named.for_each(|vector| texts(vector, &mut found));
    assert!(!found.is_empty(), "nothing is recorded under {name}");
    found
}

fn texts(value: &Value, found: &mut Vec<Vec<u8>>) {
    match value {
        Value::String(text) => found.extend(hex(text)),
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    let bytes = digits.map(|two| u8::from_str_radix(two?, 16).ok()).collect::<Option<Vec<_>>>()?;
    (!bytes.is_empty()).then_some(bytes)
}

const RPC: &str = include_str!("../vectors/dht-rpc.json");
const HANDSHAKE: &str = include_str!("../vectors/handshake.json");
const HYPERDHT: &str = include_str!("../vectors/hyperdht.json");
const SECRET_STREAM: &str = include_str!("../vectors/secret-stream.json");
const UDX: &str = include_str!("../vectors/udx.json");
