//! What HyperDHT nodes store for others (`hyperdht/lib/messages.js`), checked against
//! `tests/vectors/hyperdht.json`.

use std::net::SocketAddrV4;

use bytes::{BufMut, Bytes};
use hyperdht_encoding::{DecodeError, Decoder, Encode};

use crate::{
    hash::Namespace,
    keys::{KeyPair, PublicKey, announce_signable, mutable_signable},
    rpc::{NodeId, Target, Token},
};

/// Says that a peer exists, and which nodes may help to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRecord {
    /// Whom to connect to.
    pub public_key: PublicKey,
    /// Nodes that pass a handshake on to it; none in the record that a server announces under its
    /// own key, where the nodes that store it are meant.
    pub relay_addresses: Vec<SocketAddrV4>,
}

impl PeerRecord {
    /// The record on the wire.
    pub fn encode(&self) -> Bytes {
        let mut wire = Vec::with_capacity(32 + 3 + 6 * self.relay_addresses.len());
        wire.put_slice(self.public_key.as_bytes());
        put_addresses(&mut wire, &self.relay_addresses);
        wire.into()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// When it is malformed or lists more than [`MAX_ADDRESSES`].
    pub fn decode(wire: &[u8]) -> Result<Self, DecodeError> {
        Self::read(&mut Decoder::new(wire))
    }

    fn read(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self { public_key: decoder.fixed()?.into(), relay_addresses: addresses(decoder)? })
    }
}

/// What a node knows about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupReply {
    /// Some of the peers that are announced there; at most [`MAX_LOOKUP_PEERS`].
    pub peers: Vec<PeerRecord>,
    /// The latest time, in milliseconds since 1970, at which somebody announced anew on purpose;
    /// 0 for never.
    pub bump: u64,
}

impl LookupReply {
    /// Reads a node's answer.
    ///
    /// # Errors
    /// When it is malformed or lists more than [`MAX_LOOKUP_PEERS`].
    pub fn decode(wire: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(wire);
        let count = decoder.count(MAX_LOOKUP_PEERS)?;
        let peers = (0..count).map(|_| PeerRecord::read(&mut decoder));
        Ok(Self {
            peers: peers.collect::<Result<_, _>>()?,
            // Nodes from before there were bumps end here.
            bump: if decoder.is_empty() { 0 } else { decoder.varint()? },
        })
    }

    /// The answer made of records as they are stored.
    pub(super) fn encode(records: &[Bytes], bump: u64) -> Bytes {
        let mut wire = Vec::new();
        wire.put_varint(records.len() as u64);
        for record in records {
            wire.put_slice(record);
        }
        wire.put_varint(bump);
        wire.into()
    }
}

/// Asks a node to store a record, or to drop it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Announce {
    pub(super) peer: Option<PeerRecord>,
    /// With a record: the hash of a secret that later extends its life. Alone: that secret.
    pub(super) refresh: Option<[u8; 32]>,
    pub(super) signature: Option<[u8; 64]>,
    pub(super) bump: u64,
}

impl Announce {
    /// Signs a record for the node whose id and token these are.
    pub(super) fn sign(
        namespace: Namespace,
        key_pair: &KeyPair,
        place: &Place<'_>,
        relay_addresses: Vec<SocketAddrV4>,
        bump: u64,
    ) -> Self {
        let peer = PeerRecord { public_key: key_pair.public_key(), relay_addresses };
        let signable = place.signable(namespace, &peer, None);
        Self { peer: Some(peer), refresh: None, signature: Some(key_pair.sign(&signable)), bump }
    }

    pub(super) fn encode(&self) -> Bytes {
        let flags = u64::from(self.peer.is_some())
            | u64::from(self.refresh.is_some()) << 1
            | u64::from(self.signature.is_some()) << 2
            | u64::from(self.bump != 0) << 3;
        let mut wire = Vec::with_capacity(160);
        wire.put_varint(flags);
        if let Some(peer) = &self.peer {
            wire.put_slice(&peer.encode());
        }
        if let Some(refresh) = &self.refresh {
            wire.put_slice(refresh);
        }
        if let Some(signature) = &self.signature {
            wire.put_slice(signature);
        }
        if self.bump != 0 {
            wire.put_varint(self.bump);
        }
        wire.into()
    }

    pub(super) fn decode(wire: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(wire);
        let flags = decoder.varint()?;
        let has = |flag: u64| flags & flag != 0;
        Ok(Self {
            peer: has(1).then(|| PeerRecord::read(&mut decoder)).transpose()?,
            refresh: has(2).then(|| decoder.fixed()).transpose()?,
            signature: has(4).then(|| decoder.fixed()).transpose()?,
            bump: has(8).then(|| decoder.varint()).transpose()?.unwrap_or(0),
        })
    }

    /// The record, if its owner signed it for this place.
    pub(super) fn verified(&self, namespace: Namespace, place: &Place<'_>) -> Option<&PeerRecord> {
        let peer = self.peer.as_ref()?;
        let signable = place.signable(namespace, peer, self.refresh.as_ref());
        peer.public_key.verify(&signable, self.signature.as_ref()?).ok()?;
        Some(peer)
    }
}

/// Where a record is stored: a signature holds for one target at one node for as long as its token.
pub(super) struct Place<'a> {
    pub(super) target: &'a Target,
    pub(super) node: NodeId,
    pub(super) token: Token,
}

impl Place<'_> {
    fn signable(
        &self,
        namespace: Namespace,
        peer: &PeerRecord,
        refresh: Option<&[u8; 32]>,
    ) -> [u8; 64] {
        let refresh = refresh.map_or(&[][..], |refresh| refresh);
        let peer = peer.encode();
        announce_signable(namespace, self.target, &self.node.0, &self.token.0, &peer, refresh)
    }

    #[cfg(test)]
    pub(super) fn signable_for_tests(
        &self,
        peer: &PeerRecord,
        refresh: Option<&[u8; 32]>,
    ) -> [u8; 64] {
        self.signable(Namespace::Announce, peer, refresh)
    }
}

/// A value that its owner can replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MutableRecord {
    /// Counts up with each version.
    pub seq: u64,
    /// The value.
    pub value: Bytes,
    /// The owner's signature over both.
    pub signature: [u8; 64],
}

impl MutableRecord {
    /// Signs a version of a value.
    pub fn sign(key_pair: &KeyPair, seq: u64, value: Bytes) -> Self {
        let signature = key_pair.sign(&mutable_signable(seq, &value));
        Self { seq, value, signature }
    }

    /// Whether the holder of `owner` signed it.
    pub fn is_signed_by(&self, owner: &PublicKey) -> bool {
        let signable = mutable_signable(self.seq, &self.value);
        owner.verify(&signable, &self.signature).is_ok()
    }

    /// The record on the wire.
    pub fn encode(&self) -> Bytes {
        let mut wire = Vec::with_capacity(self.value.len() + 82);
        self.put(&mut wire);
        wire.into()
    }

    /// Reads a record, which may be signed by anybody.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn decode(wire: &[u8]) -> Result<Self, DecodeError> {
        Self::read(&mut Decoder::new(wire))
    }

    fn put(&self, wire: &mut Vec<u8>) {
        wire.put_varint(self.seq);
        wire.put_buffer(&self.value);
        wire.put_slice(&self.signature);
    }

    fn read(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            seq: decoder.varint()?,
            value: Bytes::copy_from_slice(decoder.buffer()?),
            signature: decoder.fixed()?,
        })
    }
}

/// Asks a node to store a mutable record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MutablePut {
    pub(super) public_key: PublicKey,
    pub(super) record: MutableRecord,
}

impl MutablePut {
    pub(super) fn encode(&self) -> Bytes {
        let mut wire = Vec::with_capacity(self.record.value.len() + 114);
        wire.put_slice(self.public_key.as_bytes());
        self.record.put(&mut wire);
        wire.into()
    }

    pub(super) fn decode(wire: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(wire);
        Ok(Self { public_key: decoder.fixed()?.into(), record: MutableRecord::read(&mut decoder)? })
    }
}

/// Peers in one answer about a topic.
pub const MAX_LOOKUP_PEERS: usize = 20;

/// Addresses that are read from one list (384 bytes). Nodes keep three of them.
pub const MAX_ADDRESSES: usize = 64;

fn put_addresses(wire: &mut Vec<u8>, addresses: &[SocketAddrV4]) {
    wire.put_varint(addresses.len() as u64);
    for address in addresses {
        wire.put_ipv4_address(*address);
    }
}

fn addresses(decoder: &mut Decoder<'_>) -> Result<Vec<SocketAddrV4>, DecodeError> {
    let count = decoder.count(MAX_ADDRESSES)?;
    (0..count).map(|_| decoder.ipv4_address()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::test_vectors::{HYPERDHT, address, bytes, fixed, vectors};

    fn relays(input: &Value) -> Vec<SocketAddrV4> {
        input["relayAddresses"].as_array().unwrap().iter().map(address).collect()
    }

    fn peer(input: &Value) -> PeerRecord {
        PeerRecord {
            public_key: fixed::<32>(&input["publicKey"]).into(),
            relay_addresses: relays(input),
        }
    }

    #[test]
    fn peer_records_both_ways() {
        for vector in vectors(HYPERDHT, "peer") {
            let record = peer(&vector["input"]);
            let wire = bytes(&vector["hex"]);
            assert_eq!(record.encode(), wire);
            assert_eq!(PeerRecord::decode(&wire), Ok(record));
        }
    }

    #[test]
    fn lookup_replies_both_ways_and_without_a_bump() {
        for vector in vectors(HYPERDHT, "lookupReply") {
            let input = &vector["input"];
            let records: Vec<_> = input["peers"].as_array().unwrap().iter().map(bytes).collect();
            let records: Vec<_> = records.into_iter().map(Bytes::from).collect();
            let bump = input["bump"].as_u64().unwrap();
            let wire = bytes(&vector["hex"]);
            assert_eq!(LookupReply::encode(&records, bump), wire);
            let read = LookupReply::decode(&wire).unwrap();
            assert_eq!(read.bump, bump);
            assert!(read.peers.iter().map(PeerRecord::encode).eq(records));
        }
        assert_eq!(LookupReply::decode(&[0]).unwrap().bump, 0);
        assert_eq!(LookupReply::decode(&[21]), Err(DecodeError::TooMany));
    }

    #[test]
    fn announcements_both_ways() {
        for (name, namespace) in
            [("announce signed", Namespace::Announce), ("unannounce signed", Namespace::Unannounce)]
        {
            for vector in vectors(HYPERDHT, name) {
                let input = &vector["input"];
                let place = Place {
                    target: &fixed(&input["target"]),
                    node: NodeId(fixed(&input["nodeId"])),
                    token: Token(fixed(&input["token"])),
                };
                let key_pair = KeyPair::from_seed(&fixed(&input["seed"]));
                let announce = Announce::sign(namespace, &key_pair, &place, relays(input), 0);
                let wire = bytes(&vector["hex"]);
                assert_eq!(announce.encode(), wire);
                let read = Announce::decode(&wire).unwrap();
                assert!(read.verified(namespace, &place).is_some());
                assert!(read.verified(Namespace::MutablePut, &place).is_none());
                assert_eq!(read, announce);
            }
        }
    }

    #[test]
    fn announcements_with_every_field_and_with_few() {
        let full = &vectors(HYPERDHT, "announce with refresh and bump (unsigned)")[0];
        let input = &full["input"];
        let announce = Announce {
            peer: Some(peer(&input["peer"])),
            refresh: Some(fixed(&input["refresh"])),
            signature: Some(fixed(&input["signature"])),
            bump: input["bump"].as_u64().unwrap(),
        };
        assert_eq!(announce.encode(), bytes(&full["hex"]));
        assert_eq!(Announce::decode(&bytes(&full["hex"])), Ok(announce));
        let short = &vectors(HYPERDHT, "announce refresh only")[0];
        let announce =
            Announce { refresh: Some(fixed(&short["input"]["refresh"])), ..Announce::default() };
        assert_eq!(announce.encode(), bytes(&short["hex"]));
        assert_eq!(Announce::decode(&bytes(&short["hex"])), Ok(announce));
    }

    #[test]
    fn mutable_records_both_ways() {
        for vector in vectors(HYPERDHT, "mutable") {
            let input = &vector["input"];
            let key_pair = KeyPair::from_seed(&fixed(&input["seed"]));
            let seq = input["seq"].as_u64().unwrap();
            let record = MutableRecord::sign(&key_pair, seq, bytes(&input["value"]).into());
            assert!(record.is_signed_by(&key_pair.public_key()));
            assert_eq!(record.encode(), bytes(&vector["getHex"]));
            assert_eq!(MutableRecord::decode(&bytes(&vector["getHex"])), Ok(record.clone()));
            let put = MutablePut { public_key: key_pair.public_key(), record };
            assert_eq!(put.encode(), bytes(&vector["putHex"]));
            assert_eq!(MutablePut::decode(&bytes(&vector["putHex"])), Ok(put));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(wire: Vec<u8>) {
            let _ = PeerRecord::decode(&wire);
            let _ = LookupReply::decode(&wire);
            let _ = Announce::decode(&wire);
            let _ = MutableRecord::decode(&wire);
            let _ = MutablePut::decode(&wire);
        }
    }
}
