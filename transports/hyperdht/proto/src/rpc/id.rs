//! Where nodes live in the key space, and what is near to what.

use std::{cmp::Ordering, fmt, net::SocketAddrV4};

use hyperdht_encoding::Encode;

use crate::hash::hash;

/// A point in the 256-bit key space: what a query walks towards.
pub type Target = [u8; 32];

/// A node's place in the key space.
///
/// A node does not choose it: it is the BLAKE2b-256 of its public address, so that whoever receives
/// it can compute it again from the datagram's source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// The id of the node at `addr`: the hash of its four address bytes and its little-endian port
    /// (dht-rpc `lib/peer.js`).
    pub fn of(addr: SocketAddrV4) -> Self {
        let mut wire = Vec::with_capacity(6);
        wire.put_ipv4_address(addr);
        Self(hash(&[&wire]))
    }

    /// How many leading bits it shares with `other`; 256 when they are equal.
    pub fn common_bits(&self, other: &[u8; 32]) -> usize {
        let [high, low] = self.distance(other);
        let bits = if high == 0 { 128 + low.leading_zeros() } else { high.leading_zeros() };
        bits as usize
    }

    /// Which of two nodes is nearer to `target`, by XOR distance: [`Ordering::Less`] when it is
    /// this one.
    pub fn cmp_distance(&self, other: &Self, target: &Target) -> Ordering {
        self.distance(target).cmp(&other.distance(target))
    }

    /// How far it is from `target`, by XOR: two halves of one number.
    pub(super) fn distance(&self, target: &Target) -> [u128; 2] {
        let [high, low] = halves(&self.0);
        let [target_high, target_low] = halves(target);
        [high ^ target_high, low ^ target_low]
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.iter().take(4) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…")
    }
}

/// A node that may be asked: where it is, and its place in the key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its place, when it is known to be part of the table.
    pub id: Option<NodeId>,
    /// Its address.
    pub addr: SocketAddrV4,
}

impl Peer {
    /// A node that is known by its address only.
    pub const fn unidentified(addr: SocketAddrV4) -> Self {
        Self { id: None, addr }
    }

    /// The node at `addr`, with the id that it has if it is persistent.
    pub fn at(addr: SocketAddrV4) -> Self {
        Self { id: Some(NodeId::of(addr)), addr }
    }
}

/// Whether a datagram can be sent there at all: a hostile list must not make us write to port 0, to
/// everybody on the local network or to a group.
pub fn is_reachable(addr: SocketAddrV4) -> bool {
    let ip = addr.ip();
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast()
}

fn halves(id: &[u8; 32]) -> [u128; 2] {
    let half = |chunk: Option<&[u8; 16]>| chunk.map_or(0, |half| u128::from_be_bytes(*half));
    [half(id.first_chunk()), half(id.last_chunk())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_decided_by_the_first_differing_bit() {
        let target = [0; 32];
        let near = NodeId([1; 32]);
        let far = NodeId([2; 32]);
        assert_eq!(near.cmp_distance(&far, &target), Ordering::Less);
        assert_eq!(near.cmp_distance(&far, &far.0), Ordering::Greater);
        assert_eq!(near.cmp_distance(&near, &target), Ordering::Equal);
        assert_eq!(near.common_bits(&far.0), 6);
        assert_eq!(near.common_bits(&near.0), 256);
    }

    #[test]
    fn addresses_for_nobody_or_everybody_are_not_reachable() {
        for text in ["1.2.3.4:0", "0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1"] {
            assert!(!is_reachable(text.parse().unwrap()), "{text}");
        }
        assert!(is_reachable("127.0.0.1:1".parse().unwrap()));
    }
}
