//! Ed25519 keys, signatures and what else a peer keeps to itself.
//!
//! Keys are those of libsodium's `crypto_sign`, which the reference uses: a 32-byte seed makes the
//! pair. The same pair signs DHT records and takes part in the Noise handshake.
//!
//! ```
//! use hyperdht_proto::keys::KeyPair;
//!
//! let pair = KeyPair::from_seed(&[7; 32]);
//! let signature = pair.sign(b"message");
//! assert!(pair.public_key().verify(b"message", &signature).is_ok());
//! assert!(pair.public_key().verify(b"another", &signature).is_err());
//! ```

use std::fmt;

use curve25519_dalek::Scalar;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

pub use self::{
    secret::Secret,
    signable::{announce_signable, mutable_signable},
};
use crate::hash::hash;

mod secret;
mod signable;

/// Identifies a peer: 32 bytes, a compressed point on the Ed25519 curve.
///
/// Made of any 32 bytes; whether they are a point shows when they are used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key made of these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Where in the DHT a server with this key is announced: the key's hash.
    pub fn target(&self) -> [u8; 32] {
        hash(&[&self.0])
    }

    /// Whether the holder of this key signed `message`.
    ///
    /// # Errors
    /// [`BadSignature`] if not, and for weak keys and malleable signatures, which libsodium refuses
    /// too.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        VerifyingKey::from_bytes(&self.0)
            .and_then(|key| key.verify_strict(message, &signature.into()))
            .map_err(|_| BadSignature)
    }
}

impl From<[u8; 32]> for PublicKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// Prints 64 hexadecimal digits.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The message was not signed by the holder of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bad signature")]
pub struct BadSignature;

/// A peer's key pair. Wiped from memory when dropped; its `Debug` form shows the public half only.
#[derive(Clone)]
pub struct KeyPair(SigningKey);

impl KeyPair {
    /// The pair that grows from `seed`, 32 bytes that nobody can guess: kept ones for a lasting
    /// identity, fresh random ones for an ephemeral key.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The half that others may know.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`; always the same signature for the same message.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// The number that Diffie-Hellman multiplies by: the clamped lower half of SHA-512 of the seed,
    /// reduced modulo the group's order.
    pub(crate) fn scalar(&self) -> Scalar {
        self.0.to_scalar()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyPair").field(&self.public_key()).finish()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::Verifier;

    use super::*;
    use crate::test_vectors::{KEYS, bytes, fixed, vectors};

    #[test]
    fn pairs_grow_from_seeds_as_recorded() {
        for vector in vectors(KEYS, "keyPair from seed") {
            let pair = KeyPair::from_seed(&fixed(&vector["seed"]));
            assert_eq!(pair.0.to_keypair_bytes()[..], bytes(&vector["secretKey"]));
            assert_eq!(pair.public_key().as_bytes()[..], bytes(&vector["publicKey"]));
            assert_eq!(pair.public_key().target()[..], bytes(&vector["target"]));
        }
    }

    #[test]
    fn weak_keys_verify_nothing() {
        // Under the identity as public key, anybody makes signatures that a lenient check takes.
        let pair = KeyPair::from_seed(&[1; 32]);
        let (point, scalar) = (*pair.public_key().as_bytes(), pair.scalar().to_bytes());
        let signature: [u8; 64] = [point, scalar].concat().try_into().unwrap();
        let mut identity = [0; 32];
        identity[0] = 1;
        let lenient = VerifyingKey::from_bytes(&identity).unwrap();
        assert!(lenient.verify(b"message", &signature.into()).is_ok());
        assert_eq!(PublicKey(identity).verify(b"message", &signature), Err(BadSignature));
    }

    #[test]
    fn bytes_that_are_no_point_verify_nothing() {
        let signature = KeyPair::from_seed(&[1; 32]).sign(b"message");
        assert_eq!(PublicKey([2; 32]).verify(b"message", &signature), Err(BadSignature));
    }

    #[test]
    fn debug_shows_the_public_half_only() {
        let pair = KeyPair::from_seed(&[0xab; 32]);
        let text = format!("{pair:?}");
        assert!(!text.contains("abababab"), "{text}");
        assert!(!text.contains("171, 171"), "{text}");
        assert!(text.starts_with("KeyPair(PublicKey("), "{text}");
    }
}
