//! How a handshake travels: from the client over one or two nodes to the server, and back
//! (`hyperdht/lib/messages.js`, `router.js`), checked against `tests/vectors/hyperdht.json`.
//!
//! Nodes on the way see who talks to whom and carry opaque bytes.

use std::net::SocketAddrV4;

use bytes::{BufMut, Bytes};
use hyperdht_encoding::{DecodeError, Decoder, Encode};

/// Where on its way a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    FromClient,
    FromServer,
    FromRelay,
    FromSecondRelay,
    Reply,
}

impl Mode {
    const fn number(self) -> u8 {
        match self {
            Self::FromClient => 0,
            Self::FromServer => 1,
            Self::FromRelay => 2,
            Self::FromSecondRelay => 3,
            Self::Reply => 4,
        }
    }

    /// None for a mode from the future: such a message is ignored.
    const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::FromClient,
            1 => Self::FromServer,
            2 => Self::FromRelay,
            3 => Self::FromSecondRelay,
            4 => Self::Reply,
            _ => return None,
        })
    }
}

/// The value of PEER_HANDSHAKE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HandshakeHop {
    pub(super) mode: Mode,
    /// A Noise message.
    pub(super) noise: Bytes,
    /// Who is at the other end, as the first node on the way saw it.
    pub(super) peer_address: Option<SocketAddrV4>,
    /// The first node on the way, where there are two.
    pub(super) relay_address: Option<SocketAddrV4>,
}

impl HandshakeHop {
    pub(super) const fn new(mode: Mode, noise: Bytes, peer: Option<SocketAddrV4>) -> Self {
        Self { mode, noise, peer_address: peer, relay_address: None }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut wire = Vec::with_capacity(self.noise.len() + 19);
        let relay = u8::from(self.relay_address.is_some());
        wire.put_u8(u8::from(self.peer_address.is_some()) | relay << 1);
        wire.put_u8(self.mode.number());
        wire.put_buffer(&self.noise);
        for address in self.peer_address.iter().chain(&self.relay_address) {
            wire.put_ipv4_address(*address);
        }
        wire.into()
    }

    /// None when it is malformed or of an unknown mode.
    pub(super) fn decode(wire: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(wire);
        let flags = decoder.varint().ok()?;
        Some(Self {
            mode: Mode::from_number(decoder.varint().ok()?)?,
            noise: Bytes::copy_from_slice(decoder.buffer().ok()?),
            peer_address: address(&mut decoder, flags & 1 != 0).ok()?,
            relay_address: address(&mut decoder, flags & 2 != 0).ok()?,
        })
    }
}

/// The value of PEER_HOLEPUNCH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HolepunchHop {
    pub(super) mode: Mode,
    /// The server's number for the attempt.
    pub(super) id: u64,
    /// What client and server tell each other, encrypted.
    pub(super) payload: Bytes,
    /// Who is at the other end.
    pub(super) peer_address: Option<SocketAddrV4>,
}

impl HolepunchHop {
    pub(super) fn encode(&self) -> Bytes {
        let mut wire = Vec::with_capacity(self.payload.len() + 22);
        wire.put_u8(u8::from(self.peer_address.is_some()));
        wire.put_u8(self.mode.number());
        wire.put_varint(self.id);
        wire.put_buffer(&self.payload);
        if let Some(address) = self.peer_address {
            wire.put_ipv4_address(address);
        }
        wire.into()
    }

    /// None when it is malformed or of an unknown mode.
    pub(super) fn decode(wire: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(wire);
        let flags = decoder.varint().ok()?;
        Some(Self {
            mode: Mode::from_number(decoder.varint().ok()?)?,
            id: decoder.varint().ok()?,
            payload: Bytes::copy_from_slice(decoder.buffer().ok()?),
            peer_address: address(&mut decoder, flags & 1 != 0).ok()?,
        })
    }
}

fn address(decoder: &mut Decoder<'_>, present: bool) -> Result<Option<SocketAddrV4>, DecodeError> {
    present.then(|| decoder.ipv4_address()).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::test_vectors::{self, HYPERDHT, bytes, vectors};

    fn mode(input: &Value) -> Mode {
        Mode::from_number(input["mode"].as_u64().unwrap()).unwrap()
    }

    fn address(value: &Value) -> Option<SocketAddrV4> {
        (!value.is_null()).then(|| test_vectors::address(value))
    }

    #[test]
    fn handshakes_of_every_mode_both_ways() {
        for vector in [
            vectors(HYPERDHT, "handshake"),
            vectors(HYPERDHT, "handshake REPLY without peerAddress"),
        ]
        .concat()
        {
            let input = &vector["input"];
            let hop = HandshakeHop {
                mode: mode(input),
                noise: bytes(&input["noise"]).into(),
                peer_address: address(&input["peerAddress"]),
                relay_address: address(&input["relayAddress"]),
            };
            assert_eq!(hop.encode(), bytes(&vector["hex"]));
            assert_eq!(HandshakeHop::decode(&bytes(&vector["hex"])), Some(hop));
        }
    }

    #[test]
    fn holepunches_of_every_mode_both_ways() {
        for vector in
            [vectors(HYPERDHT, "holepunch"), vectors(HYPERDHT, "holepunch no address")].concat()
        {
            let input = &vector["input"];
            let hop = HolepunchHop {
                mode: mode(input),
                id: input["id"].as_u64().unwrap(),
                payload: bytes(&input["payload"]).into(),
                peer_address: address(&input["peerAddress"]),
            };
            assert_eq!(hop.encode(), bytes(&vector["hex"]));
            assert_eq!(HolepunchHop::decode(&bytes(&vector["hex"])), Some(hop));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(wire: Vec<u8>) {
            let _ = HandshakeHop::decode(&wire);
            let _ = HolepunchHop::decode(&wire);
        }
    }
}
