//! Sequence numbers of packets.

use std::fmt;

/// The number of a packet on the wire: 32 bits that wrap.
///
/// Streams count in 64 bits inside, which never wrap, and meet the wire here.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Seq(u32);

impl Seq {
    /// A number as read from the wire.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The number as written to the wire.
    pub const fn value(self) -> u32 {
        self.0
    }

    /// The low half of an unwrapped number.
    #[expect(clippy::cast_possible_truncation, reason = "the wire carries the low half")]
    pub(crate) const fn wrap(full: u64) -> Self {
        Self(full as u32)
    }

    /// The unwrapped number next to `reference` that looks like this one on the wire; `None` for
    /// one before the first packet of all.
    pub(crate) const fn near(self, reference: u64) -> Option<u64> {
        let distance = self.0.wrapping_sub(Self::wrap(reference).0).cast_signed();
        reference.checked_add_signed(distance as i64)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_unwrap_to_the_nearest() {
        let wrapped = (1 << 32) + 5;
        assert_eq!(Seq::new(5).near(wrapped), Some(wrapped));
        assert_eq!(Seq::new(u32::MAX).near(wrapped), Some((1 << 32) - 1));
        assert_eq!(Seq::new(u32::MAX).near(0), None);
        assert_eq!(Seq::new(9).near(0), Some(9));
        assert_eq!(Seq::wrap(wrapped), Seq::new(5));
    }
}
