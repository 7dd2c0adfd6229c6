use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use crypto_secretbox::{AeadInPlace, KeyInit, Nonce, Tag, XSalsa20Poly1305};

use super::role_namespace;
use crate::{
    hash::{Namespace, keyed_hash},
    noise::{Role, SessionKeys},
};

/// What a datagram is longer than its message: a counter and a MAC.
const DATAGRAM_OVERHEAD: usize = COUNTER + MAC;

const COUNTER: usize = 8;
const MAC: usize = 16;

/// The encryption of the datagrams that may pass beside a stream, in no order and without promise to
/// arrive. Each is `counter (8 bytes) ‖ secretbox`, libsodium's `crypto_secretbox` with the counter,
/// filled up with zeros, as its nonce.
///
/// `counter` is 8 random bytes. Whoever sees a datagram can send it again; the reference does not
/// notice that either.
pub fn datagrams(keys: &SessionKeys, counter: [u8; 8]) -> (DatagramSealer, DatagramOpener) {
    let sealer =
        DatagramSealer { cipher: cipher(keys, keys.role), counter: u64::from_le_bytes(counter) };
    (sealer, DatagramOpener { cipher: cipher(keys, keys.role.peer()) })
}

/// Encrypts the datagrams that we send.
pub struct DatagramSealer {
    cipher: XSalsa20Poly1305,
    counter: u64,
}

impl DatagramSealer {
    /// Appends `message` as a datagram, which is 24 bytes longer.
    pub fn seal(&mut self, message: &[u8], out: &mut BytesMut) {
        self.counter = self.counter.wrapping_add(1);
        let counter = self.counter.to_le_bytes();
        out.reserve(DATAGRAM_OVERHEAD + message.len());
        out.put_slice(&counter);
        let tag_at = out.len();
        out.put_bytes(0, MAC);
        out.put_slice(message);
        let (_, sealed) = out.split_at_mut(tag_at);
        let (tag_out, text) = sealed.split_at_mut(MAC);
        let tag = self
            .cipher
            .encrypt_in_place_detached(&nonce(counter), &[], text)
            .expect("secretbox limits no length");
        tag_out.copy_from_slice(&tag);
    }
}

/// Decrypts the datagrams that the peer sends.
pub struct DatagramOpener {
    cipher: XSalsa20Poly1305,
}

impl DatagramOpener {
    /// The message in `datagram`, decrypted in place; nothing when the peer did not make it, which is
    /// to be ignored: a stray or nudging datagram is no failure of the stream.
    pub fn open(&self, mut datagram: BytesMut) -> Option<Bytes> {
        let (counter, sealed) = datagram.split_first_chunk_mut::<COUNTER>()?;
        let (tag, text) = sealed.split_first_chunk_mut::<MAC>()?;
        let tag: &Tag = (&*tag).into();
        self.cipher.decrypt_in_place_detached(&nonce(*counter), &[], text, tag).ok()?;
        Some(datagram.split_off(DATAGRAM_OVERHEAD).freeze())
    }
}

impl fmt::Debug for DatagramSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSealer").finish_non_exhaustive()
    }
}

impl fmt::Debug for DatagramOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramOpener").finish_non_exhaustive()
    }
}

/// The cipher of the datagrams that the peer in this role sends.
fn cipher(keys: &SessionKeys, sender: Role) -> XSalsa20Poly1305 {
    let namespaces = [role_namespace(sender).bytes(), Namespace::StreamSend.bytes()];
    let [role, send] = &namespaces;
    XSalsa20Poly1305::new(&keyed_hash(keys.handshake_hash.expose(), &[role, send]).into())
}

fn nonce(counter: [u8; COUNTER]) -> Nonce {
    let mut nonce = Nonce::default();
    let (front, _) = nonce.split_at_mut(COUNTER);
    front.copy_from_slice(&counter);
    nonce
}
