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
        let mut bits = 0;
        for (a, b) in self.0.iter().zip(other) {
            let zeros = (a ^ b).leading_zeros();
            bits += zeros;
            if zeros < u8::BITS {
                break;
            }
        }
        bits as usize
    }

    /// Which of two nodes is nearer to `target`, by XOR distance: [`Ordering::Less`] when it is
    /// this one.
    pub fn cmp_distance(&self, other: &Self, target: &Target) -> Ordering {
        let distance = |id: &Self| {
            let mut distance = id.0;
            for (byte, target) in distance.iter_mut().zip(target) {
                *byte ^= target;
            }
            distance
        };
        distance(self).cmp(&distance(other))
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
