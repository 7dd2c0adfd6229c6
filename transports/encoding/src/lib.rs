//! The subset of [compact-encoding](https://github.com/compact-encoding/compact-encoding) 3.5 that
//! HyperDHT, protomux and their applications put on the wire.
//!
//! Integers are little-endian; every structure is its fields one after another. [`Decoder`] reads
//! from a slice and never reads past it, never allocates by a length it was told and never panics;
//! [`Encode`] adds the writing half to any [`BufMut`]. Every byte is checked against
//! `tests/vectors/compact-encoding.json`, which was recorded from the npm package.
//!
//! ```
//! use hyperdht_encoding::{Decoder, Encode};
//!
//! let mut wire = Vec::new();
//! wire.put_varint(300);
//! wire.put_string("alias");
//!
//! let mut decoder = Decoder::new(&wire);
//! assert_eq!(decoder.varint()?, 300);
//! assert_eq!(decoder.string()?, "alias");
//! # Ok::<(), hyperdht_encoding::DecodeError>(())
//! ```
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
};

use bytes::BufMut;

/// The largest integer that the reference reads: JavaScript's `Number.MAX_SAFE_INTEGER`.
pub const MAX_UINT: u64 = (1 << 53) - 1;

/// The largest array count that the reference reads.
pub const MAX_ARRAY: usize = 0x0010_0000;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends inside a field.
    #[error("Out of bounds")]
    OutOfBounds,
    /// An integer is larger than [`MAX_UINT`].
    #[error("Integer is too big")]
    TooBig,
    /// An array announces more items than the reader allows.
    #[error("Array is too big")]
    TooMany,
}

/// Reads fields from the front of a slice. A failed read consumes an unspecified part of it.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Reads `input` from its start.
    pub const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// What has not been read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`DecodeError::OutOfBounds`] when fewer are left; so for every other read.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::OutOfBounds)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next `N` bytes, as in `fixed32` and `fixed64`.
    ///
    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeError::OutOfBounds)?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// One byte.
    ///
    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn uint8(&mut self) -> Result<u8, DecodeError> {
        self.fixed().map(u8::from_le_bytes)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn uint16(&mut self) -> Result<u16, DecodeError> {
        self.fixed().map(u16::from_le_bytes)
    }

    /// Three bytes.
    ///
    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn uint24(&mut self) -> Result<u32, DecodeError> {
        let [a, b, c] = self.fixed()?;
        Ok(u32::from_le_bytes([a, b, c, 0]))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn uint32(&mut self) -> Result<u32, DecodeError> {
        self.fixed().map(u32::from_le_bytes)
    }

    /// A variable-length integer, `uint` in the reference. Longer forms than needed are read too,
    /// as the reference does.
    ///
    /// # Errors
    /// [`DecodeError::TooBig`] above [`MAX_UINT`]; see also [`Decoder::bytes`].
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let value = match self.uint8()? {
            0xfd => u64::from(self.uint16()?),
            0xfe => u64::from(self.uint32()?),
            0xff => self.fixed().map(u64::from_le_bytes)?,
            small => u64::from(small),
        };
        if value > MAX_UINT { Err(DecodeError::TooBig) } else { Ok(value) }
    }

    /// A `buffer` or `optionalBuffer`: its length and bytes. Absent and empty are the same bytes.
    ///
    /// # Errors
    /// See [`Decoder::varint`].
    pub fn buffer(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::OutOfBounds)?;
        self.bytes(len)
    }

    /// Text; what is not UTF-8 becomes U+FFFD, as the reference does.
    ///
    /// # Errors
    /// See [`Decoder::varint`].
    pub fn string(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        self.buffer().map(String::from_utf8_lossy)
    }

    /// A byte of which only `01` means true.
    ///
    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.uint8()? == 1)
    }

    /// A bit field of at most eight flags, also in the widened forms that the reference accepts.
    ///
    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn bitfield(&mut self) -> Result<u8, DecodeError> {
        match self.uint8()? {
            0xfd => self.fixed().map(|[flags, _]: [u8; 2]| flags),
            0xfe => self.fixed().map(|[flags, ..]: [u8; 4]| flags),
            0xff => self.fixed().map(|[flags, ..]: [u8; 8]| flags),
            flags => Ok(flags),
        }
    }

    /// An array's count, which is to be read before as many items.
    ///
    /// # Errors
    /// [`DecodeError::TooMany`] above `max` or [`MAX_ARRAY`]; see also [`Decoder::varint`].
    pub fn count(&mut self, max: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint()?).map_err(|_| DecodeError::TooMany)?;
        if count > max.min(MAX_ARRAY) { Err(DecodeError::TooMany) } else { Ok(count) }
    }

    /// An IPv4 address and its port.
    ///
    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn ipv4_address(&mut self) -> Result<SocketAddrV4, DecodeError> {
        let ip: [u8; 4] = self.fixed()?;
        Ok(SocketAddrV4::new(Ipv4Addr::from(ip), self.uint16()?))
    }

    /// An IPv6 address and its port.
    ///
    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn ipv6_address(&mut self) -> Result<SocketAddrV6, DecodeError> {
        let ip: [u8; 16] = self.fixed()?;
        Ok(SocketAddrV6::new(Ipv6Addr::from(ip), self.uint16()?, 0, 0))
    }
}

/// Writes fields; the counterpart of [`Decoder`]. Fixed widths are written with [`BufMut`] itself.
pub trait Encode: BufMut {
    /// A variable-length integer, `uint` in the reference, in its shortest form, which is
    /// [`varint_len`] bytes long.
    fn put_varint(&mut self, value: u64) {
        if let Ok(small @ ..=0xfc) = u8::try_from(value) {
            self.put_u8(small);
        } else if let Ok(value) = u16::try_from(value) {
            self.put_u8(0xfd);
            self.put_u16_le(value);
        } else if let Ok(value) = u32::try_from(value) {
            self.put_u8(0xfe);
            self.put_u32_le(value);
        } else {
            self.put_u8(0xff);
            self.put_u64_le(value);
        }
    }

    /// Three bytes.
    ///
    /// # Panics
    /// When `value` needs more than 24 bits.
    fn put_uint24(&mut self, value: u32) {
        let [a, b, c, 0] = value.to_le_bytes() else { panic!("{value} needs more than 24 bits") };
        self.put_slice(&[a, b, c]);
    }

    /// Length and bytes; also an `optionalBuffer`, which writes an absent value as an empty one.
    fn put_buffer(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.put_slice(bytes);
    }

    /// Text as UTF-8.
    fn put_string(&mut self, text: &str) {
        self.put_buffer(text.as_bytes());
    }

    /// `01` or `00`.
    fn put_bool(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }

    /// An IPv4 address, its bytes in order, and the port in little-endian.
    fn put_ipv4_address(&mut self, address: SocketAddrV4) {
        self.put_slice(&address.ip().octets());
        self.put_u16_le(address.port());
    }

    /// An IPv6 address, its bytes in order, and the port in little-endian.
    fn put_ipv6_address(&mut self, address: SocketAddrV6) {
        self.put_slice(&address.ip().octets());
        self.put_u16_le(address.port());
    }
}

impl<B: BufMut + ?Sized> Encode for B {}

/// The bytes that [`Encode::put_varint`] writes for `value`.
pub const fn varint_len(value: u64) -> usize {
    match value {
        0..=0xfc => 1,
        0xfd..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// The bytes that [`Encode::put_buffer`] and [`Encode::put_string`] write for `len` bytes.
pub const fn buffer_len(len: usize) -> usize {
    varint_len(len as u64) + len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_round_trip_in_their_announced_length(value in 0..=MAX_UINT) {
            let mut wire = Vec::new();
            wire.put_varint(value);
            prop_assert_eq!(wire.len(), varint_len(value));
            let mut decoder = Decoder::new(&wire);
            prop_assert_eq!(decoder.varint(), Ok(value));
            prop_assert!(decoder.is_empty());
        }

        #[test]
        fn any_input_is_answered(input: Vec<u8>) {
            let mut decoder = Decoder::new(&input);
            while decoder.string().is_ok() && !decoder.is_empty() {}
            let _ = Decoder::new(&input).bitfield();
            let _ = Decoder::new(&input).count(10);
        }
    }

    #[test]
    fn a_length_near_the_top_of_the_range_is_out_of_bounds() {
        assert_eq!(
            Decoder::new(b"\xff\xff\xff\xff\xff\xff\xff\x1f\0").buffer(),
            Err(DecodeError::OutOfBounds)
        );
        assert_eq!(Decoder::new(&[0xff; 9]).varint(), Err(DecodeError::TooBig));
    }

    #[test]
    fn widened_bit_fields_are_read() {
        assert_eq!(Decoder::new(&[0xfd, 3, 0]).bitfield(), Ok(3));
        assert_eq!(Decoder::new(&[0xfe, 3, 0, 0, 0]).bitfield(), Ok(3));
        assert_eq!(Decoder::new(&[5]).bitfield(), Ok(5));
        assert_eq!(Decoder::new(&[0xfd, 3]).bitfield(), Err(DecodeError::OutOfBounds));
    }

    #[test]
    fn text_that_is_not_utf_8_is_mended() {
        assert_eq!(Decoder::new(&[2, b'a', 0xff]).string().unwrap(), "a\u{fffd}");
    }
}
