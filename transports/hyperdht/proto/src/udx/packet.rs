//! The UDX packet: a header of 20 bytes, SACK blocks or padding, a payload.
//!
//! All integers are little-endian. Layout and rules are those of libudx (`udx.h` and
//! `process_packet` in `src/udx.c`); `tests/vectors/udx.json` holds packets captured from it.

use std::fmt;

use bytes::BufMut;
use hyperdht_encoding::Decoder;

use super::Seq;

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 20;

/// Bytes of one SACK block.
pub const SACK_BLOCK_LEN: usize = 8;

/// SACK blocks that a packet carries at most.
pub const MAX_SACK_BLOCKS: usize = 50;

/// The longest datagram that a UDX receiver reads (libudx, `UDX_MAX_DATA_SIZE` and its buffers).
pub const MAX_DATAGRAM_LEN: usize = 2048;

const MAGIC: u8 = 0xff;
const VERSION: u8 = 1;

/// Why bytes are not a packet that can be worked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// Too short, another magic or another version: some other protocol on the same socket.
    #[error("not a UDX packet")]
    NotUdx,
    /// The header points behind the end of the packet.
    #[error("data offset behind the end of the packet")]
    DataOffset,
}

/// The type byte: what a packet carries. Unknown bits are kept and ignored.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// Nothing but header fields: an acknowledgement.
    pub const ACK: Self = Self(0);
    /// Ordered bytes; uses up a sequence number.
    pub const DATA: Self = Self(0x01);
    /// The last packet of this direction; uses up a sequence number, alone or with data.
    pub const END: Self = Self(0x02);
    /// SACK blocks follow the header.
    pub const SACK: Self = Self(0x04);
    /// One unordered, unreliable message.
    pub const MESSAGE: Self = Self(0x08);
    /// The stream is gone.
    pub const DESTROY: Self = Self(0x10);
    /// Asks for an acknowledgement.
    pub const HEARTBEAT: Self = Self(0x20);

    /// The byte on the wire.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether every flag of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any flag of `other` is set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The flags of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl From<u8> for Flags {
    fn from(bits: u8) -> Self {
        Self(bits)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({:#04x})", self.0)
    }
}

/// The fixed part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the packet carries.
    pub flags: Flags,
    /// Bytes between header and payload: SACK blocks, or the padding of an MTU probe.
    pub data_offset: u8,
    /// The receiver's id of the stream.
    pub stream_id: u32,
    /// Bytes that the sender of this packet is ready to receive beyond `ack`.
    pub window: u32,
    /// Number of this packet, or of the next reliable one when this packet uses up none.
    pub seq: Seq,
    /// The next packet expected from the receiver.
    pub ack: Seq,
}

impl Header {
    /// Reads the header; gives back what follows it.
    ///
    /// # Errors
    /// [`PacketError::NotUdx`] for anything that libudx would hand to another protocol.
    pub fn decode(datagram: &[u8]) -> Result<(Self, &[u8]), PacketError> {
        let mut decoder = Decoder::new(datagram);
        let header: [u8; HEADER_LEN] = decoder.fixed().map_err(|_| PacketError::NotUdx)?;
        let [MAGIC, VERSION, flags, data_offset, fields @ ..] = header else {
            return Err(PacketError::NotUdx);
        };
        let mut fields = Decoder::new(&fields);
        let mut field = || fields.uint32().map_err(|_| PacketError::NotUdx);
        let header = Self {
            flags: Flags(flags),
            data_offset,
            stream_id: field()?,
            window: field()?,
            seq: Seq::new(field()?),
            ack: Seq::new(field()?),
        };
        Ok((header, decoder.rest()))
    }

    /// Splits what follows the header into SACK blocks and payload.
    ///
    /// libudx sends SACK blocks with a data offset of 0, so that they reach to the end of the
    /// packet; with an offset inside the packet they end there and a payload may follow.
    ///
    /// # Errors
    /// [`PacketError::DataOffset`] when the offset lies behind the end.
    pub fn body<'a>(&self, rest: &'a [u8]) -> Result<Body<'a>, PacketError> {
        let offset = usize::from(self.data_offset);
        let (before, payload) = rest.split_at_checked(offset).ok_or(PacketError::DataOffset)?;
        let sacks = match self.flags.contains(Flags::SACK) {
            true if before.is_empty() || payload.is_empty() => Sacks { rest },
            true => Sacks { rest: before },
            false => Sacks { rest: &[] },
        };
        Ok(Body { sacks, payload })
    }

    /// Writes the header; [`HEADER_LEN`] bytes.
    pub fn encode(&self, wire: &mut impl BufMut) {
        wire.put_slice(&self.to_bytes());
    }

    /// The header as bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let [i0, i1, i2, i3] = self.stream_id.to_le_bytes();
        let [w0, w1, w2, w3] = self.window.to_le_bytes();
        let [s0, s1, s2, s3] = self.seq.value().to_le_bytes();
        let [a0, a1, a2, a3] = self.ack.value().to_le_bytes();
        [
            MAGIC,
            VERSION,
            self.flags.0,
            self.data_offset,
            i0,
            i1,
            i2,
            i3,
            w0,
            w1,
            w2,
            w3,
            s0,
            s1,
            s2,
            s3,
            a0,
            a1,
            a2,
            a3,
        ]
    }
}

/// What follows a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body<'a> {
    /// Blocks that the peer has received beyond its cumulative acknowledgement.
    pub sacks: Sacks<'a>,
    /// Bytes for the reader; meaningful with [`Flags::DATA`] and [`Flags::MESSAGE`] only.
    pub payload: &'a [u8],
}

/// The SACK blocks of a packet, in the order of the wire, at most [`MAX_SACK_BLOCKS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sacks<'a> {
    rest: &'a [u8],
}

impl<'a> Sacks<'a> {
    /// The blocks, unchecked against any stream.
    pub fn iter(&self) -> impl Iterator<Item = SackBlock> + use<'a> {
        let mut decoder = Decoder::new(self.rest);
        std::iter::from_fn(move || {
            Some(SackBlock {
                start: Seq::new(decoder.uint32().ok()?),
                end: Seq::new(decoder.uint32().ok()?),
            })
        })
        .take(MAX_SACK_BLOCKS)
    }
}

/// A run of received packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SackBlock {
    /// The first received packet.
    pub start: Seq,
    /// The packet after the last received one.
    pub end: Seq,
}

impl SackBlock {
    /// Writes the block; [`SACK_BLOCK_LEN`] bytes.
    pub fn encode(&self, wire: &mut impl BufMut) {
        wire.put_u32_le(self.start.value());
        wire.put_u32_le(self.end.value());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(flags: u8, data_offset: u8) -> Header {
        Header {
            flags: Flags(flags),
            data_offset,
            stream_id: 7,
            window: 1000,
            seq: Seq::new(3),
            ack: Seq::new(u32::MAX),
        }
    }

    #[test]
    fn foreign_datagrams_are_told_apart() {
        let wire = header(1, 0).to_bytes();
        assert!(Header::decode(&wire).is_ok());
        assert_eq!(Header::decode(&wire[..19]), Err(PacketError::NotUdx));
        for (at, value) in [(0, 0xfe), (1, 2)] {
            let mut other = wire;
            other[at] = value;
            assert_eq!(Header::decode(&other), Err(PacketError::NotUdx));
        }
    }

    #[test]
    fn padding_is_skipped_and_never_overruns() {
        let probe = header(1, 3);
        assert_eq!(probe.body(&[0, 0, 0, 9]).unwrap().payload, [9]);
        assert_eq!(probe.body(&[0, 0]), Err(PacketError::DataOffset));
        assert_eq!(probe.body(&[0, 0, 0]).unwrap().payload, [0_u8; 0]);
    }

    #[test]
    fn sack_blocks_end_at_the_data_offset_when_a_payload_follows() {
        let mut wire = Vec::new();
        let block = SackBlock { start: Seq::new(5), end: Seq::new(6) };
        block.encode(&mut wire);
        wire.push(0xaa);
        let body = header(5, 8).body(&wire).unwrap();
        assert_eq!(body.sacks.iter().collect::<Vec<_>>(), [block]);
        assert_eq!(body.payload, [0xaa]);
        assert_eq!(header(4, 8).body(&wire[..8]).unwrap().sacks.iter().count(), 1);
    }

    #[test]
    fn no_more_than_fifty_blocks_are_read() {
        let wire = [0; 100 * SACK_BLOCK_LEN];
        assert_eq!(header(4, 0).body(&wire).unwrap().sacks.iter().count(), MAX_SACK_BLOCKS);
    }

    proptest! {
        #[test]
        fn headers_round_trip(flags: u8, data_offset: u8, stream_id: u32, window: u32, seq: u32, ack: u32) {
            let header = Header {
                flags: Flags(flags), data_offset, stream_id, window,
                seq: Seq::new(seq), ack: Seq::new(ack),
            };
            let mut wire = Vec::new();
            header.encode(&mut wire);
            prop_assert_eq!(Header::decode(&wire), Ok((header, &[][..])));
        }

        #[test]
        fn any_input_is_answered(input: Vec<u8>) {
            if let Ok((header, rest)) = Header::decode(&input)
                && let Ok(body) = header.body(rest)
            {
                prop_assert!(body.payload.len() <= rest.len());
                prop_assert!(body.sacks.iter().count() * SACK_BLOCK_LEN <= rest.len());
            }
        }
    }
}
