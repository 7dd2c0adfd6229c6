//! BLAKE2b with 32 bytes of output, as libsodium's `crypto_generichash` computes it, and the
//! namespaces that keep its uses apart.

use blake2::{
    Blake2b, Blake2bMac,
    digest::{Digest, KeyInit, Mac, consts::U32},
};

/// The hash of `parts`, one after another.
///
/// A server's place in the DHT is the hash of its public key, an immutable record's the hash of its
/// bytes.
pub fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2b::<U32>::new();
    for part in parts {
        state.update(part);
    }
    state.finalize().into()
}

/// The hash of `parts`, one after another, under a key of 1 to 64 bytes.
pub fn keyed_hash<const N: usize>(key: &[u8; N], parts: &[&[u8]]) -> [u8; 32] {
    const { assert!(N >= 1 && N <= 64, "BLAKE2b takes keys of 1 to 64 bytes") };
    let mut state = Blake2bMac::<U32>::new_from_slice(key).expect("the length is checked above");
    for part in parts {
        state.update(part);
    }
    state.finalize().into_bytes().into()
}

/// A purpose of a hash or signature, mixed into it so that it serves for nothing else.
///
/// Thirty-two bytes: the hash of a protocol's hashed name and the purpose's number in it
/// (`hypercore-crypto`'s `namespace`, with the names and numbers of `hyperdht/lib/constants.js` and
/// `@hyperswarm/secret-stream/index.js`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Namespace {
    /// The prologue of the Noise handshake between peers.
    PeerHandshake,
    /// The key of the messages that arrange holepunching.
    PeerHolepunch,
    /// The signature of an announced record.
    Announce,
    /// The signature that takes an announced record back.
    Unannounce,
    /// The signature of a mutable record.
    MutablePut,
    /// Messages of plugins.
    Plugin,
    /// The secret stream's half that the Noise initiator writes.
    StreamInitiator,
    /// The secret stream's half that the Noise responder writes.
    StreamResponder,
    /// The keys of the unordered datagrams beside a secret stream.
    StreamSend,
}

impl Namespace {
    /// The bytes to mix in. Two hashes are computed to make them, some 0.3 microseconds.
    pub fn bytes(self) -> [u8; 32] {
        const DHT: &[u8] = b"hyperswarm/dht";
        const STREAM: &[u8] = b"hyperswarm/secret-stream";
        let (protocol, number) = match self {
            Self::PeerHandshake => (DHT, 0),
            Self::PeerHolepunch => (DHT, 1),
            Self::Announce => (DHT, 4),
            Self::Unannounce => (DHT, 5),
            Self::MutablePut => (DHT, 6),
            Self::Plugin => (DHT, 10),
            Self::StreamInitiator => (STREAM, 0),
            Self::StreamResponder => (STREAM, 1),
            Self::StreamSend => (STREAM, 2),
        };
        hash(&[&hash(&[protocol]), &[number]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vectors::{KEYS, bytes, vectors};

    #[test]
    fn hashes_are_the_recorded_ones() {
        for vector in vectors(KEYS, "BLAKE2b-256") {
            assert_eq!(hash(&[&bytes(&vector["message"])])[..], bytes(&vector["hex"]));
        }
        for vector in vectors(KEYS, "BLAKE2b-256 keyed") {
            let key: [u8; 32] = bytes(&vector["key"]).try_into().unwrap();
            let message = bytes(&vector["message"]);
            let (front, back) = message.split_at(message.len() / 2);
            assert_eq!(keyed_hash(&key, &[front, back])[..], bytes(&vector["hex"]));
        }
    }

    #[test]
    fn namespaces_are_the_recorded_ones() {
        let recorded = |name: &str, number: usize| {
            let vector = &vectors(KEYS, name)[number];
            bytes(&vector["hex"])
        };
        for (name, namespace) in [
            ("ANNOUNCE", Namespace::Announce),
            ("UNANNOUNCE", Namespace::Unannounce),
            ("MUTABLE_PUT", Namespace::MutablePut),
            ("PEER_HANDSHAKE", Namespace::PeerHandshake),
            ("PEER_HOLEPUNCH", Namespace::PeerHolepunch),
            ("PLUGIN", Namespace::Plugin),
        ] {
            let name = format!("namespace hyperswarm/dht {name}");
            assert_eq!(namespace.bytes()[..], recorded(&name, 0), "{name}");
        }
        for (number, namespace) in
            [Namespace::StreamInitiator, Namespace::StreamResponder, Namespace::StreamSend]
                .into_iter()
                .enumerate()
        {
            let name = "namespace hyperswarm/secret-stream";
            assert_eq!(namespace.bytes()[..], recorded(name, number), "{number}");
        }
    }
}
