//! Diffie-Hellman in the prime-order group of Ed25519 (`noise-curve-ed` 2.1, which calls libsodium's
//! `crypto_scalarmult_ed25519_noclamp`).

use curve25519_dalek::{EdwardsPoint, Scalar, edwards::CompressedEdwardsY, traits::IsIdentity};
use noise_protocol::{DH, U8Array};
use zeroize::Zeroizing;

use super::suite::Sensitive;
use crate::keys::KeyPair;

pub(super) enum Ed25519 {}

impl DH for Ed25519 {
    type Key = DhKey;
    type Pubkey = [u8; 32];
    type Output = Sensitive<32>;

    fn name() -> &'static str {
        "Ed25519"
    }

    fn genkey() -> Self::Key {
        unreachable!(
            "every handshake is given its ephemeral key, since this crate draws no numbers"
        )
    }

    fn pubkey(key: &Self::Key) -> Self::Pubkey {
        let [_, public] = *key.0;
        public
    }

    fn dh(key: &Self::Key, remote: &Self::Pubkey) -> Result<Self::Output, ()> {
        let shared = diffie_hellman(&key.scalar(), remote).ok_or(())?;
        Ok(Sensitive(Zeroizing::new(shared)))
    }
}

/// A local key as the handshake holds it: the scalar, and the public key that it would otherwise
/// have to compute again at each use.
pub(super) struct DhKey(Zeroizing<[[u8; 32]; 2]>);

impl DhKey {
    pub(super) fn new(pair: &KeyPair) -> Self {
        Self(Zeroizing::new([pair.scalar().to_bytes(), *pair.public_key().as_bytes()]))
    }

    fn scalar(&self) -> Zeroizing<Scalar> {
        let [scalar, _] = *self.0;
        Zeroizing::new(Scalar::from_bytes_mod_order(scalar))
    }
}

impl U8Array for DhKey {
    fn new() -> Self {
        Self::new_with(0)
    }

    fn new_with(byte: u8) -> Self {
        Self(Zeroizing::new([[byte; 32]; 2]))
    }

    fn from_slice(bytes: &[u8]) -> Self {
        let mut key = <Self as U8Array>::new();
        key.as_mut().copy_from_slice(bytes);
        key
    }

    fn len() -> usize {
        64
    }

    fn as_slice(&self) -> &[u8] {
        self.0.as_flattened()
    }

    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_flattened_mut()
    }
}

/// The product of our scalar and their point, or nothing when their bytes are not a point of the
/// prime-order group in its one canonical form, or the product is the identity.
///
/// The reference multiplies by the clamped scalar as it is, we by its remainder modulo the group's
/// order: in this group, and only in it, the products are the same.
fn diffie_hellman(scalar: &Scalar, remote: &[u8; 32]) -> Option<[u8; 32]> {
    let product = point(remote)? * scalar;
    (!product.is_identity()).then(|| product.compress().to_bytes())
}

fn point(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    let point = CompressedEdwardsY(*bytes).decompress()?;
    let usable = point.compress().as_bytes() == bytes // non-canonical bytes decompress as well
        && !point.is_small_order()
        && point.is_torsion_free();
    usable.then_some(point)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vectors::{NOISE, bytes, fixed, vectors};

    #[test]
    fn products_are_the_recorded_ones() {
        for vector in vectors(NOISE, "dh") {
            let pair = KeyPair::from_seed(&fixed(&vector["seed"]));
            let clamped = Scalar::from_bytes_mod_order(fixed(&vector["scalar"]));
            assert_eq!(pair.scalar(), clamped);
            let shared = diffie_hellman(&pair.scalar(), &fixed(&vector["remotePublicKey"]));
            assert_eq!(shared.unwrap()[..], bytes(&vector["hex"]));
        }
    }

    #[test]
    fn the_four_products_of_a_handshake_are_the_recorded_ones() {
        for vector in crate::test_vectors::all(NOISE) {
            let Some(products) = vector["dh"].as_object() else {
                continue;
            };
            let pair = |name: &str| KeyPair::from_seed(&fixed(&vector[name]));
            let (i, r) = (pair("initiatorSeed"), pair("responderSeed"));
            let (ei, er) = (pair("initiatorEphemeralSeed"), pair("responderEphemeralSeed"));
            for (name, one, other) in
                [("es", &ei, &r), ("ss", &i, &r), ("ee", &ei, &er), ("se", &i, &er)]
            {
                for (one, other) in [(one, other), (other, one)] {
                    let shared =
                        Ed25519::dh(&DhKey::new(one), other.public_key().as_bytes()).unwrap();
                    assert_eq!(shared.as_slice(), bytes(&products[name]), "{name}");
                }
            }
        }
    }

    #[test]
    fn points_outside_the_group_are_refused() {
        let rejected = vectors(NOISE, "dh invalid point");
        assert!(rejected.len() >= 6);
        for vector in rejected {
            let pair = KeyPair::from_seed(&fixed(&vector["seed"]));
            let remote = fixed(&vector["remotePublicKey"]);
            assert_eq!(diffie_hellman(&pair.scalar(), &remote), None, "{vector}");
        }
    }

    #[test]
    fn every_point_of_mixed_order_is_refused() {
        let honest = KeyPair::from_seed(&[5; 32]);
        let point = CompressedEdwardsY(*honest.public_key().as_bytes()).decompress().unwrap();
        for torsion in curve25519_dalek::constants::EIGHT_TORSION {
            let mixed = (point + torsion).compress().to_bytes();
            let expected = torsion.is_identity();
            let shared = diffie_hellman(&honest.scalar(), &mixed);
            assert_eq!(shared.is_some(), expected, "{torsion:?}");
        }
    }

    #[test]
    fn a_scalar_of_zero_is_refused() {
        let honest = KeyPair::from_seed(&[5; 32]);
        let remote = honest.public_key();
        assert_eq!(diffie_hellman(&Scalar::ZERO, remote.as_bytes()), None);
    }
}
