//! libsodium's `crypto_secretstream_xchacha20poly1305`, from the stream cipher and the MAC that it
//! consists of. Everything that knows a cipher crate is in this file.
//!
//! The construction, as far as it is used here (no associated data), is libsodium's
//! `crypto_secretstream_xchacha20poly1305.c`. The keystream is ChaCha20 with a 12-byte nonce, a
//! message counter and an inner nonce that each MAC stirs. Its block 0 keys Poly1305, block 1 covers
//! the tag byte (padded to a block in the MAC's eyes), and the message begins at block 2. The MAC
//! runs over that block, the ciphertext, `len % 16` zero bytes (`16 - len % 16` was meant; too late to
//! mend) and both lengths.
//!
//! # Why these crates
//!
//! No AEAD interface computes a MAC of this shape. What does, in microseconds to decrypt one message
//! that lies in the cache (one core, rustc 1.95, November 2026; the first figure on an EPYC with AVX2,
//! the second on one with AVX-512, where this workspace's `--cfg chacha20_avx512` counts):
//!
//! | | 1 KB | 10 KB | 64 KB | 1 MB | |
//! |---|--:|--:|--:|--:|---|
//! | `chacha20` 0.10 and Poly1305 of `dryoc` 2.0, here | 1.5 | 8.5 | 52 | 870 | in place |
//! | `chacha20` 0.10 and `poly1305` 0.9 | 2.9, 1.6 | 10.4, 5.0 | 57, 29 | 920, 461 | in place |
//! | `libsodium-rs` 0.3 (libsodium 1.0.22) | -, 0.95 | -, 4.3 | -, 26 | -, 442 | the reference, audited; built from C; a new `Vec` for each message |
//! | `dryoc` 2.0 | 1.2, 0.58 | 6.9, 2.2 | 48, 13 | 655, 192 | into another buffer |
//!
//! The stream cipher is RustCrypto's, which is reviewed and decrypts where the message was received.
//! RustCrypto's Poly1305 takes 1.7 us for any message, however short, where AVX2 is found at run time:
//! its vector functions are not inlined then. `dryoc`'s takes 0.06 us for 64 bytes, and a third of the
//! other's time for 10 KB; a scrape, which is a short message and a long one, saves 3.5 us at 1 KB and 5
//! at 10 KB of about 50 and 70. No audit of it is known: libsodium's recorded messages and RustCrypto's
//! implementation check it in the tests. `benches/secret_stream.rs` measures this and all of `dryoc`.

use bytes::BufMut;
use chacha20::{
    ChaCha20, R20,
    cipher::{KeyIvInit, StreamCipher},
    hchacha,
};
use dryoc::classic::crypto_onetimeauth::{
    OnetimeauthState as Mac, crypto_onetimeauth_final as finish, crypto_onetimeauth_init as init,
    crypto_onetimeauth_update as update,
};
use subtle::ConstantTimeEq;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::NONCE;
use crate::keys::Secret;

/// What a sealed message is longer than its plaintext: the tag byte and the MAC.
pub(super) const OVERHEAD: usize = 1 + MAC;

/// The bytes of the MAC behind a sealed message.
pub(super) const MAC: usize = 16;

/// The tag of every message that the reference sends. It ignores all others but [`TAG_REKEY`].
pub(super) const TAG_MESSAGE: u8 = 0;

/// The tag bit upon which both sides change their key.
const TAG_REKEY: u8 = 2;

/// The state of one direction: a key, and a nonce that no two messages share.
#[derive(ZeroizeOnDrop)]
pub(super) struct Cipher {
    key: [u8; 32],
    counter: u32,
    inner_nonce: [u8; 8],
}

impl Cipher {
    pub(super) fn new(key: &Secret<32>, nonce: &[u8; NONCE]) -> Self {
        let (front, back) = nonce.split_at(16);
        let front = front.try_into().expect("split at 16 bytes");
        let mut inner_nonce = [0; 8];
        inner_nonce.copy_from_slice(back);
        Self { key: hchacha::<R20>(key.expose().into(), front).into(), counter: 1, inner_nonce }
    }

    /// Encrypts `message` in place; returns the encrypted tag byte to write before it and the MAC to
    /// write behind it.
    pub(super) fn seal(&mut self, tag: u8, message: &mut [u8]) -> (u8, [u8; MAC]) {
        let mut pads = self.pads();
        let [pad, ..] = pads.tag_block();
        *pad ^= tag;
        let sealed_tag = *pad;
        pads.apply(message);
        let mac = authenticate(pads.mac(), pads.tag_block(), message);
        self.advance(tag, &mac);
        (sealed_tag, mac)
    }

    /// Checks the MAC and decrypts `message` in place. When the MAC is wrong, neither the message
    /// nor the state has changed.
    pub(super) fn open(
        &mut self,
        sealed_tag: u8,
        message: &mut [u8],
        mac: &[u8; MAC],
    ) -> Result<(), Forged> {
        let mut pads = self.pads();
        let [pad, ..] = pads.tag_block();
        let tag = *pad ^ sealed_tag;
        *pad = sealed_tag;
        let expected = authenticate(pads.mac(), pads.tag_block(), message);
        if !bool::from(expected.ct_eq(mac)) {
            return Err(Forged);
        }
        pads.apply(message);
        self.advance(tag, mac);
        Ok(())
    }

    /// The keystream of the next message.
    fn pads(&self) -> Pads {
        let mut rest = self.keystream();
        let mut blocks = Zeroizing::new([[0; BLOCK]; 4]);
        rest.apply_keystream(blocks.as_flattened_mut());
        Pads { blocks, rest }
    }

    fn keystream(&self) -> ChaCha20 {
        let mut nonce = [0; 12];
        let (counter, inner) = nonce.split_at_mut(4);
        counter.copy_from_slice(&self.counter.to_le_bytes());
        inner.copy_from_slice(&self.inner_nonce);
        ChaCha20::new(&self.key.into(), &nonce.into())
    }

    fn advance(&mut self, tag: u8, mac: &[u8; MAC]) {
        for (nonce, mac) in self.inner_nonce.iter_mut().zip(mac) {
            *nonce ^= mac;
        }
        self.counter = self.counter.wrapping_add(1);
        if self.counter == 0 || tag & TAG_REKEY != 0 {
            self.rekey();
        }
    }

    fn rekey(&mut self) {
        let mut keystream = self.keystream();
        keystream.apply_keystream(&mut self.key);
        keystream.apply_keystream(&mut self.inner_nonce);
        self.counter = 1;
    }
}

/// The keystream of one message.
///
/// A vector unit makes four blocks in the time of one: the first two that the message needs are made
/// together with the two before them, and a short message needs no others.
struct Pads {
    blocks: Zeroizing<[[u8; BLOCK]; 4]>,
    /// From block 4 on.
    rest: ChaCha20,
}

impl Pads {
    /// The MAC, keyed.
    fn mac(&self) -> Mac {
        let [block, ..] = &*self.blocks;
        init(block.first_chunk().expect("a block is longer than a key"))
    }

    /// What the tag byte is hidden with, at its front.
    fn tag_block(&mut self) -> &mut [u8; BLOCK] {
        let [_, block, ..] = &mut *self.blocks;
        block
    }

    /// Encrypts or decrypts the message.
    fn apply(&mut self, message: &mut [u8]) {
        let [_, _, front @ ..] = &*self.blocks;
        let front = front.as_flattened();
        let (start, rest) = message.split_at_mut(front.len().min(message.len()));
        for (byte, pad) in start.iter_mut().zip(front) {
            *byte ^= pad;
        }
        self.rest.apply_keystream(rest);
    }
}

/// The bytes of a block of ChaCha20's keystream.
const BLOCK: usize = 64;

/// The message does not bear the MAC that its key and place in the stream give it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forged;

fn authenticate(mut mac: Mac, tag_block: &[u8; BLOCK], ciphertext: &[u8]) -> [u8; MAC] {
    update(&mut mac, tag_block);
    update(&mut mac, ciphertext);

    const ASSOCIATED_DATA: u64 = 0;
    let rest = ciphertext.len() % 16;
    let mut tail = [0; 15 + 16];
    let mut cursor = &mut tail[..];
    cursor.put_bytes(0, rest);
    cursor.put_u64_le(ASSOCIATED_DATA);
    cursor.put_u64_le((tag_block.len() + ciphertext.len()) as u64);
    let (tail, _) = tail.split_at(rest + 16);
    update(&mut mac, tail);

    let mut code = [0; MAC];
    finish(mac, &mut code);
    code
}

#[cfg(test)]
mod tests {
    use dryoc::classic::crypto_secretstream_xchacha20poly1305::{
        Header, Key, State, crypto_secretstream_xchacha20poly1305_init_pull as init_pull,
        crypto_secretstream_xchacha20poly1305_pull as pull,
        crypto_secretstream_xchacha20poly1305_push as push,
    };
    use poly1305::{Poly1305, universal_hash::KeyInit};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::test_vectors::{SECRET_STREAM, bytes, fixed, vector, vectors};

    fn cipher(vector: &Value) -> Cipher {
        let key = Secret::from_bytes(fixed(&vector["key"]));
        Cipher::new(&key, &fixed(&vector["header"]))
    }

    fn nonce(cipher: &Cipher) -> Vec<u8> {
        [&cipher.counter.to_le_bytes()[..], &cipher.inner_nonce].concat()
    }

    /// A whole frame body, made by the cipher.
    fn seal(cipher: &mut Cipher, tag: u8, message: &[u8]) -> Vec<u8> {
        let mut sealed = message.to_vec();
        let (tag, mac) = cipher.seal(tag, &mut sealed);
        [&[tag][..], &sealed, &mac].concat()
    }

    fn open(cipher: &mut Cipher, body: &[u8]) -> Result<Vec<u8>, Forged> {
        let (tag, rest) = body.split_first().unwrap();
        let (message, mac) = rest.split_last_chunk().unwrap();
        let mut message = message.to_vec();
        cipher.open(*tag, &mut message, mac)?;
        Ok(message)
    }

    #[test]
    fn a_stream_starts_in_the_recorded_state() {
        let vector = vector(SECRET_STREAM, "state after init");
        let cipher = cipher(&vector);
        assert_eq!(cipher.key[..], bytes(&vector["k"]));
        assert_eq!(nonce(&cipher), bytes(&vector["nonce"]));
    }

    #[test]
    fn messages_are_sealed_and_opened_as_recorded() {
        let pushes = vectors(SECRET_STREAM, "push");
        let (mut writer, mut reader) = (cipher(&pushes[0]), cipher(&pushes[0]));
        for vector in pushes {
            let (plain, sealed) = (bytes(&vector["plain"]), bytes(&vector["hex"]));
            assert_eq!(seal(&mut writer, TAG_MESSAGE, &plain), sealed);
            assert_eq!(open(&mut reader, &sealed), Ok(plain));
            assert_eq!(nonce(&writer), bytes(&vector["nonceAfter"]));
            assert_eq!(nonce(&reader), bytes(&vector["nonceAfter"]));
        }
    }

    #[test]
    fn the_key_changes_when_the_counter_wraps() {
        let vector = vector(SECRET_STREAM, "rekey on counter wrap");
        let (mut writer, mut reader) = (cipher(&vector), cipher(&vector));
        let counter = u32::from_le_bytes(fixed(&vector["counterBefore"]));
        (writer.counter, reader.counter) = (counter, counter);
        for (plain, sealed) in [("plain1", "hex1"), ("plain2", "hex2")] {
            let (plain, sealed) = (bytes(&vector[plain]), bytes(&vector[sealed]));
            assert_eq!(seal(&mut writer, TAG_MESSAGE, &plain), sealed);
            assert_eq!(open(&mut reader, &sealed), Ok(plain));
            assert_eq!(writer.key[..], bytes(&vector["kAfter"]));
            if writer.counter == 1 {
                assert_eq!(nonce(&writer), bytes(&vector["nonceAfter"]));
            }
        }
    }

    #[test]
    fn a_forged_message_changes_nothing() {
        let pushes = vectors(SECRET_STREAM, "push");
        let genuine = bytes(&pushes[0]["hex"]);
        let mut reader = cipher(&pushes[0]);
        for place in 0..genuine.len() {
            let mut forged = genuine.clone();
            forged[place] ^= 0x80;
            assert_eq!(open(&mut reader, &forged), Err(Forged), "byte {place}");
        }
        assert_eq!(open(&mut reader, &genuine), Ok(bytes(&pushes[0]["plain"])));
    }

    fn dryoc_state(key: [u8; 32], nonce: [u8; NONCE]) -> State {
        let mut state = State::new();
        init_pull(&mut state, &Header::from(nonce), &Key::from(key));
        state
    }

    proptest! {
        /// The MAC by itself against RustCrypto's.
        #[test]
        fn poly1305_agrees(
            key: [u8; 32],
            tag_block: [u8; 64],
            ciphertext in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            let rest = ciphertext.len() % 16;
            let lengths = [0, 64 + ciphertext.len() as u64].map(u64::to_le_bytes);
            let all = [&tag_block, &ciphertext[..], &[0; 15][..rest], lengths.as_flattened()].concat();
            let theirs: [u8; MAC] = Poly1305::new(&key.into()).compute_unpadded(&all).into();
            prop_assert_eq!(authenticate(init(&key), &tag_block, &ciphertext), theirs);
        }

        /// Both ways against an implementation by other people, key changes included.
        #[test]
        fn dryoc_agrees(
            key: [u8; 32],
            nonce: [u8; NONCE],
            messages in proptest::collection::vec(
                (0..4_u8, proptest::collection::vec(any::<u8>(), 0..600)), 0..6),
        ) {
            let secret = Secret::from_bytes(key);
            let (mut writer, mut reader) =
                (Cipher::new(&secret, &nonce), Cipher::new(&secret, &nonce));
            let mut their_writer = dryoc_state(key, nonce);
            let mut their_reader = dryoc_state(key, nonce);
            for (tag, message) in messages {
                let sealed = seal(&mut writer, tag, &message);
                let mut theirs = vec![0; sealed.len()];
                push(&mut their_writer, &mut theirs, &message, None, tag).unwrap();
                prop_assert_eq!(&sealed, &theirs);

                let (mut opened, mut opened_tag) = (vec![0; message.len()], 0);
                pull(&mut their_reader, &mut opened, &mut opened_tag, &sealed, None).unwrap();
                prop_assert_eq!((&opened, opened_tag), (&message, tag));
                prop_assert_eq!(open(&mut reader, &theirs), Ok(message));
            }
        }
    }
}
