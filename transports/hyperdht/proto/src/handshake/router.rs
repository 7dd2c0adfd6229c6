use std::net::SocketAddrV4;

use hyperdht_encoding::{DecodeError, Decoder, Encode};

use super::{PayloadError, flags};

/// Which way a router message goes.
///
/// A client asks a node; the node relays to the server it knows, possibly by way of the node that the
/// server announced itself to; the server answers the relay; the relay replies to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// From the client, to a node that may know the server, or to the server itself.
    FromClient,
    /// From the server, back to a relay.
    FromServer,
    /// From a relay, to the server or a second relay.
    FromRelay,
    /// From the second relay, to the server.
    FromSecondRelay,
    /// To the client, from whomever it asked.
    Reply,
}

impl Mode {
    const fn code(self) -> u64 {
        match self {
            Self::FromClient => 0,
            Self::FromServer => 1,
            Self::FromRelay => 2,
            Self::FromSecondRelay => 3,
            Self::Reply => 4,
        }
    }

    const fn from_code(mode: u64) -> Result<Self, PayloadError> {
        Ok(match mode {
            0 => Self::FromClient,
            1 => Self::FromServer,
            2 => Self::FromRelay,
            3 => Self::FromSecondRelay,
            4 => Self::Reply,
            _ => return Err(PayloadError::UnknownMode { mode }),
        })
    }
}

/// The value of the DHT command `PEER_HANDSHAKE`: a handshake message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHandshake<'a> {
    /// Which way it goes.
    pub mode: Mode,
    /// The [Noise](crate::noise) message, which only the peers can read.
    pub noise: &'a [u8],
    /// The peer at the other end, as the relay sees it.
    pub peer_address: Option<SocketAddrV4>,
    /// The first relay, told to a server that is asked by the second.
    pub relay_address: Option<SocketAddrV4>,
}

impl<'a> PeerHandshake<'a> {
    /// The value's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(flags([
            (PEER_ADDRESS, self.peer_address.is_some()),
            (RELAY_ADDRESS, self.relay_address.is_some()),
        ]));
        out.put_varint(self.mode.code());
        out.put_buffer(self.noise);
        for address in [self.peer_address, self.relay_address].into_iter().flatten() {
            out.put_ipv4_address(address);
        }
        out
    }

    /// Reads a value. Nothing is copied: the Noise message stays where it is.
    ///
    /// # Errors
    /// [`PayloadError::Malformed`] and [`PayloadError::UnknownMode`]; neither is worth an answer.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, PayloadError> {
        let mut input = Decoder::new(bytes);
        let flags = input.varint()?;
        Ok(Self {
            mode: Mode::from_code(input.varint()?)?,
            noise: input.buffer()?,
            peer_address: optional_address(&mut input, flags & PEER_ADDRESS)?,
            relay_address: optional_address(&mut input, flags & RELAY_ADDRESS)?,
        })
    }
}

/// The value of the DHT command `PEER_HOLEPUNCH`: a round of holepunching on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHolepunch<'a> {
    /// Which way it goes; never by way of a second relay.
    pub mode: Mode,
    /// The server's slot, as told in [`HolepunchInfo::id`](super::HolepunchInfo::id).
    pub id: u64,
    /// A [`HolepunchPayload`](super::HolepunchPayload), sealed.
    pub payload: &'a [u8],
    /// The peer at the other end, as the relay sees it.
    pub peer_address: Option<SocketAddrV4>,
}

impl<'a> PeerHolepunch<'a> {
    /// The value's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(flags([(PEER_ADDRESS, self.peer_address.is_some())]));
        out.put_varint(self.mode.code());
        out.put_varint(self.id);
        out.put_buffer(self.payload);
        if let Some(address) = self.peer_address {
            out.put_ipv4_address(address);
        }
        out
    }

    /// Reads a value. Nothing is copied: the payload stays where it is.
    ///
    /// # Errors
    /// [`PayloadError::Malformed`] and [`PayloadError::UnknownMode`]; neither is worth an answer.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, PayloadError> {
        let mut input = Decoder::new(bytes);
        let flags = input.varint()?;
        Ok(Self {
            mode: Mode::from_code(input.varint()?)?,
            id: input.varint()?,
            payload: input.buffer()?,
            peer_address: optional_address(&mut input, flags & PEER_ADDRESS)?,
        })
    }
}

fn optional_address(
    input: &mut Decoder<'_>,
    flag: u64,
) -> Result<Option<SocketAddrV4>, DecodeError> {
    (flag != 0).then(|| input.ipv4_address()).transpose()
}

const PEER_ADDRESS: u64 = 1;
const RELAY_ADDRESS: u64 = 2;
