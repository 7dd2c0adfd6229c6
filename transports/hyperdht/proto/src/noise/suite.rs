//! The cipher and the hash of the handshake, as the crate `noise-protocol` wants them.

use std::ops::Deref;

use blake2::digest::Digest;
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit, Nonce, Tag};
use noise_protocol::{Cipher, Hash, U8Array};
use zeroize::Zeroizing;

/// Bytes of the handshake that are wiped from memory when dropped.
pub(super) struct Sensitive<const N: usize>(pub(super) Zeroizing<[u8; N]>);

impl<const N: usize> Deref for Sensitive<N> {
    type Target = [u8; N];

    fn deref(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> U8Array for Sensitive<N> {
    fn new() -> Self {
        Self::new_with(0)
    }

    fn new_with(byte: u8) -> Self {
        Self(Zeroizing::new([byte; N]))
    }

    fn from_slice(bytes: &[u8]) -> Self {
        let mut array = Self::new();
        array.0.copy_from_slice(bytes);
        array
    }

    fn len() -> usize {
        N
    }

    fn as_slice(&self) -> &[u8] {
        &*self.0
    }

    fn as_mut(&mut self) -> &mut [u8] {
        &mut *self.0
    }
}

/// ChaCha20-Poly1305 of RFC 8439.
pub(super) enum ChaChaPoly {}

impl ChaChaPoly {
    fn with_key(key: &Sensitive<32>) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new((&**key).into())
    }
}

impl Cipher for ChaChaPoly {
    type Key = Sensitive<32>;

    fn name() -> &'static str {
        "ChaChaPoly"
    }

    fn encrypt(key: &Self::Key, nonce: u64, ad: &[u8], plaintext: &[u8], out: &mut [u8]) {
        let (text, _) = out.split_at_mut(plaintext.len());
        text.copy_from_slice(plaintext);
        Self::encrypt_in_place(key, nonce, ad, out, plaintext.len());
    }

    fn encrypt_in_place(
        key: &Self::Key,
        nonce: u64,
        ad: &[u8],
        in_out: &mut [u8],
        plaintext_len: usize,
    ) -> usize {
        let (text, rest) = in_out.split_at_mut(plaintext_len);
        let tag = Self::with_key(key)
            .encrypt_inout_detached(&full_nonce(nonce), ad, text.into())
            .expect("a handshake message is far below the cipher's 256 GiB");
        let (tag_out, _) = rest.split_at_mut(tag.len());
        tag_out.copy_from_slice(&tag);
        plaintext_len + tag.len()
    }

    fn decrypt(
        key: &Self::Key,
        nonce: u64,
        ad: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<(), ()> {
        let (text, tag) = ciphertext.split_last_chunk::<16>().ok_or(())?;
        out.copy_from_slice(text);
        Self::with_key(key)
            .decrypt_inout_detached(&full_nonce(nonce), ad, out.into(), &Tag::from(*tag))
            .map_err(|_| ())
    }

    fn decrypt_in_place(
        key: &Self::Key,
        nonce: u64,
        ad: &[u8],
        in_out: &mut [u8],
        ciphertext_len: usize,
    ) -> Result<usize, ()> {
        let (sealed, _) = in_out.split_at_mut_checked(ciphertext_len).ok_or(())?;
        let (text, tag) = sealed.split_last_chunk_mut::<16>().ok_or(())?;
        let len = text.len();
        Self::with_key(key)
            .decrypt_inout_detached(&full_nonce(nonce), ad, text.into(), &Tag::from(*tag))
            .map_err(|_| ())?;
        Ok(len)
    }
}

/// Four zero bytes and the counter in little-endian (Noise, section 12.3).
fn full_nonce(counter: u64) -> Nonce {
    let mut nonce = Nonce::default();
    let (_, back) = nonce.split_at_mut(4);
    back.copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// BLAKE2b with 64 bytes of output, as everywhere inside Noise; 32 bytes everywhere else.
#[derive(Default)]
pub(super) struct Blake2b512(blake2::Blake2b512);

impl Hash for Blake2b512 {
    type Block = Sensitive<128>;
    type Output = Sensitive<64>;

    fn name() -> &'static str {
        "BLAKE2b"
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self) -> Self::Output {
        let digest = std::mem::take(&mut self.0).finalize();
        Sensitive(Zeroizing::new(digest.into()))
    }
}
