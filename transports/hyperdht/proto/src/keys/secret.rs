use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes that only this peer, or this peer and one other, may know.
///
/// Wiped from memory when dropped, left out of `Debug`, and compared in a time that does not depend
/// on where two of them differ.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Takes `bytes` into custody. The caller's copy is the caller's to wipe.
    pub const fn from_bytes(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the moment they are needed.
    pub const fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret(<{N} bytes>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_length_only() {
        let secret = Secret::from_bytes([0xcd; 32]);
        assert_eq!(format!("{secret:?}"), "Secret(<32 bytes>)");
    }

    #[test]
    fn secrets_differ_by_any_byte() {
        for place in 0..32 {
            let mut bytes = [0; 32];
            bytes[place] = 1;
            assert_ne!(Secret::from_bytes(bytes), Secret::from_bytes([0; 32]));
            assert_eq!(Secret::from_bytes(bytes), Secret::from_bytes(bytes));
        }
    }
}
