//! The secret that services and the bridge share.

use std::{fmt, str::FromStr};

use dht_prom_transport::{Key32Error, decode_key};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 bytes that prove a service may register.
///
/// Compared in constant time, wiped when dropped, and never printed. Reads the forms that
/// [`decode_key`] reads.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SharedSecret([u8; 32]);

impl SharedSecret {
    /// The secret made of these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, to be put on the wire and nowhere else.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for SharedSecret {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for SharedSecret {
    type Err = Key32Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode_key(text).map(Self)
    }
}

impl PartialEq for SharedSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SharedSecret {}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_never_printed() {
        let secret: SharedSecret = "07".repeat(32).parse().unwrap();
        assert_eq!(format!("{secret:?}"), "SharedSecret(redacted)");
    }

    #[test]
    fn equal_bytes_are_equal() {
        assert_eq!(SharedSecret::from([7; 32]), "07".repeat(32).parse().unwrap());
        assert_ne!(SharedSecret::from([7; 32]), SharedSecret::from([8; 32]));
    }
}
