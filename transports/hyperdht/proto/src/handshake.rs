//! What two peers tell each other to come together, as values: no state, no sending.
//!
//! - [`NoisePayload`] rides inside both messages of the [Noise handshake](crate::noise): how to
//!   reach this peer.
//! - [`HolepunchPayload`] rides inside the DHT command PEER_HOLEPUNCH, sealed by a [`HolepunchCipher`]
//!   that only the two peers have; a [`TokenKey`] makes the tokens in it.
//!
//! The layouts are those of `hyperdht` 6.34, `lib/messages.js` and `lib/secure-payload.js`, checked
//! against recorded values. Lists are read whole but kept up to a bound, so that a peer with many
//! addresses is still understood.

use std::net::{SocketAddrV4, SocketAddrV6};

use hyperdht_encoding::{DecodeError, Decoder, Encode, MAX_ARRAY};

pub use self::holepunch::{HolepunchCipher, HolepunchPayload, TokenKey};
use crate::keys::PublicKey;

mod holepunch;

/// How many items of a list are kept; a longer list is cut. Addresses take 8 to 28 bytes each, a
/// payload's lists together some 5 KB.
pub const MAX_LIST: usize = 64;

/// What a peer tells about itself inside its handshake message: whether it takes the connection, and
/// how to reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoisePayload {
    /// Why the connection is refused, if it is.
    pub error: ErrorCode,
    /// What stands between the peer and the network.
    pub firewall: Firewall,
    /// A server's offer to punch a hole; absent when it can be reached without.
    pub holepunch: Option<HolepunchInfo>,
    /// Where the peer may be reached: its public address if it knows one, then local ones. At most
    /// [`MAX_LIST`].
    pub addresses4: Vec<SocketAddrV4>,
    /// The same for IPv6, which the reference neither fills nor reads.
    pub addresses6: Vec<SocketAddrV6>,
    /// The UDX stream to talk to; a handshake without it cannot succeed.
    pub udx: Option<UdxInfo>,
    /// Whether the stream is to carry a [secret stream](crate::secret_stream), version 1. Always so.
    pub secret_stream: bool,
    /// The blind relay through which the peer wants to be reached.
    pub relay_through: Option<RelayThrough>,
    /// The nodes at which a server can be reached the next time.
    pub relay_addresses: Vec<SocketAddrV4>,
}

/// A server's slot for the holepunch of one handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HolepunchInfo {
    /// The slot, to be named in the PEER_HOLEPUNCH messages that follow.
    pub id: u64,
    /// The nodes through which to arrange it. At most [`MAX_LIST`].
    pub relays: Vec<RelayInfo>,
}

/// A node that passes messages on to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayInfo {
    /// The node's address.
    pub relay_address: SocketAddrV4,
    /// The server's address as that node sees it.
    pub peer_address: SocketAddrV4,
}

/// The UDX stream that a peer has made for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdxInfo {
    /// Whether the socket may serve for a later connection.
    pub reusable_socket: bool,
    /// The id to put into packets for this stream.
    pub id: u32,
    /// Where the stream's sequence begins; always 0, and ignored.
    pub seq: u64,
}

/// A blind relay, and what identifies a pair of peers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayThrough {
    /// The relay's key.
    pub public_key: PublicKey,
    /// What both peers show to the relay.
    pub token: [u8; 32],
}

/// What stands between a peer and the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Firewall {
    /// Not known yet. Numbers that nobody has given a meaning are read as this.
    #[default]
    Unknown,
    /// Nothing: the peer can be reached at its address.
    Open,
    /// A NAT that shows the same address to everybody.
    Consistent,
    /// A NAT that shows another port to each.
    Random,
}

impl Firewall {
    const fn code(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Open => 1,
            Self::Consistent => 2,
            Self::Random => 3,
        }
    }

    const fn from_code(code: u64) -> Self {
        match code {
            1 => Self::Open,
            2 => Self::Consistent,
            3 => Self::Random,
            _ => Self::Unknown,
        }
    }
}

/// Why a peer does not go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// It does go on.
    #[default]
    None,
    /// It gave up.
    Aborted,
    /// It does not speak our version.
    VersionMismatch,
    /// It is busy punching other holes.
    TryLater,
    /// A code of 4 or more.
    Other(u64),
}

impl ErrorCode {
    const fn code(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Aborted => 1,
            Self::VersionMismatch => 2,
            Self::TryLater => 3,
            Self::Other(code) => code,
        }
    }

    const fn from_code(code: u64) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Aborted,
            2 => Self::VersionMismatch,
            3 => Self::TryLater,
            code => Self::Other(code),
        }
    }
}

/// Bytes from a peer that mean nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The bytes end inside a field, or a field is out of range.
    #[error("malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// A Noise payload of a later protocol. A server answers it with
    /// [`ErrorCode::VersionMismatch`].
    #[error("version {version} where {VERSION} is spoken")]
    OtherVersion {
        /// The payload's version.
        version: u64,
    },
    /// A holepunch payload that does not open with the handshake's key.
    #[error("sealed by somebody else")]
    Forged,
}

impl NoisePayload {
    /// The payload's bytes, to be sent in a handshake message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(VERSION);
        out.put_varint(self.flags());
        out.put_varint(self.error.code());
        out.put_varint(self.firewall.code());
        if let Some(holepunch) = &self.holepunch {
            holepunch.encode(&mut out);
        }
        if !self.addresses4.is_empty() {
            put_addresses(&mut out, &self.addresses4);
        }
        if !self.addresses6.is_empty() {
            out.put_varint(self.addresses6.len() as u64);
            self.addresses6.iter().for_each(|address| out.put_ipv6_address(*address));
        }
        if let Some(udx) = &self.udx {
            udx.encode(&mut out);
        }
        if self.secret_stream {
            out.put_varint(PART_VERSION);
        }
        if let Some(relay) = &self.relay_through {
            relay.encode(&mut out);
        }
        if !self.relay_addresses.is_empty() {
            put_addresses(&mut out, &self.relay_addresses);
        }
        out
    }

    fn flags(&self) -> u64 {
        flags([
            (HOLEPUNCH, self.holepunch.is_some()),
            (ADDRESSES4, !self.addresses4.is_empty()),
            (ADDRESSES6, !self.addresses6.is_empty()),
            (UDX, self.udx.is_some()),
            (SECRET_STREAM, self.secret_stream),
            (RELAY_THROUGH, self.relay_through.is_some()),
            (RELAY_ADDRESSES, !self.relay_addresses.is_empty()),
        ])
    }

    /// Reads what came in a handshake message.
    ///
    /// # Errors
    /// [`PayloadError::OtherVersion`] and [`PayloadError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PayloadError> {
        let mut input = Decoder::new(bytes);
        let version = input.varint()?;
        if version != VERSION {
            return Err(PayloadError::OtherVersion { version });
        }
        Ok(Self::decode_version_1(&mut input)?)
    }

    fn decode_version_1(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let flags = input.varint()?;
        let has = |flag| flags & flag != 0;
        Ok(Self {
            error: ErrorCode::from_code(input.varint()?),
            firewall: Firewall::from_code(input.varint()?),
            holepunch: has(HOLEPUNCH).then(|| HolepunchInfo::decode(input)).transpose()?,
            addresses4: if has(ADDRESSES4) { addresses(input)? } else { Vec::new() },
            addresses6: if has(ADDRESSES6) {
                list(input, Decoder::ipv6_address)?
            } else {
                Vec::new()
            },
            udx: has(UDX).then(|| UdxInfo::decode(input)).transpose()?,
            secret_stream: has(SECRET_STREAM) && input.varint().map(|_version| true)?,
            relay_through: has(RELAY_THROUGH).then(|| RelayThrough::decode(input)).transpose()?,
            relay_addresses: if has(RELAY_ADDRESSES) { addresses(input)? } else { Vec::new() },
        })
    }
}

impl HolepunchInfo {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.id);
        out.put_varint(self.relays.len() as u64);
        for relay in &self.relays {
            out.put_ipv4_address(relay.relay_address);
            out.put_ipv4_address(relay.peer_address);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let id = input.varint()?;
        let relays = list(input, |input| {
            Ok(RelayInfo {
                relay_address: input.ipv4_address()?,
                peer_address: input.ipv4_address()?,
            })
        })?;
        Ok(Self { id, relays })
    }
}

impl UdxInfo {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(PART_VERSION);
        out.put_varint(flags([(REUSABLE_SOCKET, self.reusable_socket)]));
        out.put_varint(self.id.into());
        out.put_varint(self.seq);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let _version = input.varint()?;
        let features = input.varint()?;
        Ok(Self {
            reusable_socket: features & REUSABLE_SOCKET != 0,
            id: u32::try_from(input.varint()?).map_err(|_| DecodeError::TooBig)?,
            seq: input.varint()?,
        })
    }
}

impl RelayThrough {
    fn encode(&self, out: &mut Vec<u8>) {
        const NO_FLAGS: u64 = 0;
        out.put_varint(PART_VERSION);
        out.put_varint(NO_FLAGS);
        out.extend_from_slice(self.public_key.as_bytes());
        out.extend_from_slice(&self.token);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let _version = input.varint()?;
        let _flags = input.varint()?;
        Ok(Self { public_key: PublicKey::from_bytes(input.fixed()?), token: input.fixed()? })
    }
}

/// The bits that are set.
fn flags<const N: usize>(bits: [(u64, bool); N]) -> u64 {
    bits.into_iter().filter_map(|(bit, set)| set.then_some(bit)).sum()
}

/// Reads a list whole and keeps its first [`MAX_LIST`] items.
fn list<'a, T>(
    input: &mut Decoder<'a>,
    mut item: impl FnMut(&mut Decoder<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = input.count(MAX_ARRAY)?;
    let mut items = Vec::new();
    for _ in 0..count {
        let item = item(input)?;
        if items.len() < MAX_LIST {
            items.push(item);
        }
    }
    Ok(items)
}

fn addresses(input: &mut Decoder<'_>) -> Result<Vec<SocketAddrV4>, DecodeError> {
    list(input, Decoder::ipv4_address)
}

fn put_addresses(out: &mut Vec<u8>, addresses: &[SocketAddrV4]) {
    out.put_varint(addresses.len() as u64);
    addresses.iter().for_each(|address| out.put_ipv4_address(*address));
}

/// The only version of [`NoisePayload`] there is.
const VERSION: u64 = 1;

/// The only version of each of its parts, written and not looked at.
const PART_VERSION: u64 = 1;

const HOLEPUNCH: u64 = 1;
const ADDRESSES4: u64 = 2;
const ADDRESSES6: u64 = 4;
const UDX: u64 = 8;
const SECRET_STREAM: u64 = 16;
const RELAY_THROUGH: u64 = 32;
const RELAY_ADDRESSES: u64 = 64;

const REUSABLE_SOCKET: u64 = 1;

#[cfg(test)]
mod tests;
