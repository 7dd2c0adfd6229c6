//! What DHT records are signed over (`hyperdht/lib/persistent.js`: `annSignable`,
//! `signMutable`).

use hyperdht_encoding::Encode;

use crate::hash::{Namespace, hash};

/// What the announcer of a record signs, and the node that stores it verifies.
///
/// `namespace` is [`Namespace::Announce`] or [`Namespace::Unannounce`]; `node_id` and `token` are
/// those of the storing node's own reply, so that the signature serves at that node only; `peer` is
/// the record as encoded on the wire, with the relay list as received, however long; `refresh` may be
/// empty.
pub fn announce_signable(
    namespace: Namespace,
    target: &[u8; 32],
    node_id: &[u8; 32],
    token: &[u8; 32],
    peer: &[u8],
    refresh: &[u8],
) -> [u8; 64] {
    signable(namespace, &hash(&[target, node_id, token, peer, refresh]))
}

/// What the owner of a mutable record signs: its sequence number and value.
pub fn mutable_signable(seq: u64, value: &[u8]) -> [u8; 64] {
    let mut prefix = Vec::with_capacity(18);
    prefix.put_varint(seq);
    prefix.put_varint(value.len() as u64);
    signable(Namespace::MutablePut, &hash(&[&prefix, value]))
}

fn signable(namespace: Namespace, hash: &[u8; 32]) -> [u8; 64] {
    let mut signable = [0; 64];
    let (front, back) = signable.split_at_mut(32);
    front.copy_from_slice(&namespace.bytes());
    back.copy_from_slice(hash);
    signable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        keys::KeyPair,
        test_vectors::{HYPERDHT, address, bytes, fixed, vectors},
    };

    #[test]
    fn announcements_are_signed_as_recorded() {
        for (name, namespace) in
            [("announce signed", Namespace::Announce), ("unannounce signed", Namespace::Unannounce)]
        {
            for vector in vectors(HYPERDHT, name) {
                let input = &vector["input"];
                let pair = KeyPair::from_seed(&fixed(&input["seed"]));
                let relays = input["relayAddresses"].as_array().unwrap();
                let mut peer = pair.public_key().as_bytes().to_vec();
                peer.put_varint(relays.len() as u64);
                for relay in relays {
                    peer.put_ipv4_address(address(relay));
                }
                let signable = announce_signable(
                    namespace,
                    &fixed(&input["target"]),
                    &fixed(&input["nodeId"]),
                    &fixed(&input["token"]),
                    &peer,
                    &[],
                );
                assert_eq!(signable[..], bytes(&vector["signable"]));
                let signature = pair.sign(&signable);
                assert_eq!(signature[..], bytes(&vector["signature"]));
                assert_eq!(pair.public_key().verify(&signable, &signature), Ok(()));
            }
        }
    }

    #[test]
    fn mutable_records_are_signed_as_recorded() {
        for vector in vectors(HYPERDHT, "mutable") {
            let input = &vector["input"];
            let pair = KeyPair::from_seed(&fixed(&input["seed"]));
            let signable =
                mutable_signable(input["seq"].as_u64().unwrap(), &bytes(&input["value"]));
            assert_eq!(signable[..], bytes(&vector["signable"]));
            assert_eq!(pair.sign(&signable)[..], bytes(&vector["signature"]));
        }
    }
}
