//! The encrypted message stream that two peers write to each other after their
//! [handshake](crate::noise): `@hyperswarm/secret-stream` 6.9 over an ordered byte stream, and the
//! unordered datagrams beside it.
//!
//! Each direction is a sequence of frames, `length (3 bytes, little-endian) ‖ body`, whose borders
//! have nothing to do with those of packets. The first body is the stream's header: 32 bytes that say
//! which half of which handshake this is, and 24 from which the cipher starts. Every later body is one
//! message in libsodium's `crypto_secretstream_xchacha20poly1305` layout: an encrypted tag byte, the
//! message, a MAC of 16 bytes. An empty message is a keep-alive. A stream ends with the byte stream
//! below it; no frame says so.
//!
//! The directions do not wait for each other: the header and the first messages leave before
//! anything has arrived, and messages may follow the peer's header in the same read. [`open`] hence
//! gives two halves that share nothing.
//!
//! On processors with AVX-512 a message is decrypted twice as fast (29 instead of 57 microseconds for
//! 64 KB) when the program is built with `RUSTFLAGS="--cfg chacha20_avx512"`, as this repository's
//! own builds are; `cipher.rs` has the figures, and those of other ciphers.
//!
//! ```
//! use bytes::BytesMut;
//! use hyperdht_proto::secret_stream::{self, Options};
//! # use hyperdht_proto::{keys::KeyPair, noise::{Initiator, Responder}};
//! # let (a, b) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
//! # let (i, m) = Initiator::send(&a, b.public_key(), KeyPair::from_seed(&[3; 32]), b"", b"")?;
//! # let (r, _) = Responder::recv(&b, KeyPair::from_seed(&[4; 32]), b"", &m)?;
//! # let (m, server_keys) = r.send(b"")?;
//! # let (_, client_keys) = i.recv(&m)?;
//! // The nonces are 24 random bytes each.
//! let (mut client, _) = secret_stream::open(&client_keys, [5; 24], Options::default());
//! let (_, mut server) = secret_stream::open(&server_keys, [6; 24], Options::default());
//!
//! let mut wire = BytesMut::new();
//! client.write_header(&mut wire);
//! client.seal(&b"hello"[..], &mut wire)?;
//!
//! let mut input = &wire[..];
//! assert_eq!(server.read(&mut input)?.as_deref(), Some(&b"hello"[..]));
//! assert_eq!(server.read(&mut input)?, None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::time::Duration;

use self::cipher::OVERHEAD;
pub use self::{
    datagram::{DatagramOpener, DatagramSealer, datagrams},
    keep_alive::KeepAlive,
    reader::{Reader, StreamError},
    writer::{MessageTooLong, Writer},
};
use crate::{
    hash::{Namespace, keyed_hash},
    keys::Secret,
    noise::{Role, SessionKeys},
};

mod cipher;
mod datagram;
mod keep_alive;
mod reader;
mod writer;

/// The longest message that a frame's three-byte length leaves room for: 16,777,198 bytes.
pub const MAX_MESSAGE: usize = 0x00ff_ffff - OVERHEAD;

/// After so long a silence of ours, HyperDHT writes an empty message (`hyperdht`'s
/// `connectionKeepAlive`).
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The bytes of the first frame's body: the stream's id, then the cipher's nonce.
const HEADER_BODY: usize = 32 + NONCE;

const NONCE: usize = 24;

/// What a peer lets the other do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The longest message to accept, in bytes; [`MAX_MESSAGE`] by default, as the reference does,
    /// and at most. As much memory is reserved for a stream as soon as a frame of that length begins,
    /// though pages are only touched as its bytes arrive.
    pub max_message: usize,
    /// Whether empty messages are handed out. By default they are not: they are the peer's
    /// keep-alives.
    pub deliver_empty: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_message: MAX_MESSAGE, deliver_empty: false }
    }
}

/// Starts a stream with the keys of a handshake: what we write, and what we read.
///
/// `nonce` is 24 fresh random bytes, which the peer learns from the header.
pub fn open(keys: &SessionKeys, nonce: [u8; 24], options: Options) -> (Writer, Reader) {
    let peer = keys.role.peer();
    let writer = Writer::new(&keys.tx, nonce, stream_id(keys.role, &keys.handshake_hash));
    let reader = Reader::new(keys.rx.clone(), stream_id(peer, &keys.handshake_hash), options);
    (writer, reader)
}

/// Names the half of a stream that the peer in this role writes.
fn stream_id(writer: Role, handshake_hash: &Secret<64>) -> [u8; 32] {
    keyed_hash(handshake_hash.expose(), &[&role_namespace(writer).bytes()])
}

fn role_namespace(role: Role) -> Namespace {
    match role {
        Role::Initiator => Namespace::StreamInitiator,
        Role::Responder => Namespace::StreamResponder,
    }
}

#[cfg(test)]
mod tests;
