//! The Noise handshake `Noise_IK_Ed25519_ChaChaPoly_BLAKE2b`, by which two peers prove their keys to
//! each other and agree on the keys of a [secret stream](crate::secret_stream).
//!
//! The [Noise](https://noiseprotocol.org/noise.html) state machine is the crate `noise-protocol`'s.
//! What is unusual about HyperDHT's handshake (`noise-handshake` 4.2 with `noise-curve-ed` 2.1), and
//! added here, is the group: points of Ed25519 instead of X25519, so that signing keys serve in it.
//!
//! One message goes each way, and each carries a payload. Every step consumes or borrows what it
//! needs, so that none can be taken out of turn:
//!
//! ```
//! use hyperdht_proto::{hash::Namespace, keys::KeyPair, noise::{Initiator, Responder}};
//!
//! let (client, server) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
//! // Ephemeral keys come from fresh random seeds.
//! let (e1, e2) = (KeyPair::from_seed(&[3; 32]), KeyPair::from_seed(&[4; 32]));
//! let prologue = Namespace::PeerHandshake.bytes();
//!
//! let (initiator, message1) =
//!     Initiator::send(&client, server.public_key(), e1, &prologue, b"hello")?;
//! let (responder, payload1) = Responder::recv(&server, e2, &prologue, &message1)?;
//! assert_eq!(responder.remote(), client.public_key());
//! let (message2, server_keys) = responder.send(b"welcome")?;
//! let (payload2, client_keys) = initiator.recv(&message2)?;
//!
//! assert_eq!((&payload1[..], &payload2[..]), (&b"hello"[..], &b"welcome"[..]));
//! assert_eq!(client_keys.tx, server_keys.rx);
//! # Ok::<(), hyperdht_proto::noise::NoiseError>(())
//! ```
//!
//! Nothing in the first message proves that it is fresh: whoever saw it can send it again, and the
//! responder will answer it again. HyperDHT lets equal messages share one answer.

use std::fmt;

use noise_protocol::{ErrorKind, HandshakeState, patterns::noise_ik};

use self::{
    curve::{DhKey, Ed25519},
    suite::{Blake2b512, ChaChaPoly},
};
use crate::keys::{KeyPair, PublicKey, Secret};

mod curve;
mod suite;

/// The longest payload of either message, so that the message keeps to Noise's 65,535 bytes.
pub const MAX_PAYLOAD: usize = MAX_MESSAGE - MESSAGE1_OVERHEAD;

/// What the first message is longer than its payload: an ephemeral key, a sealed static key, a tag.
pub const MESSAGE1_OVERHEAD: usize = 32 + 48 + 16;

/// What the second message is longer than its payload: an ephemeral key and a tag.
pub const MESSAGE2_OVERHEAD: usize = 32 + 16;

const MAX_MESSAGE: usize = 65_535;

type State = HandshakeState<Ed25519, ChaChaPoly, Blake2b512>;

/// The peer that dials: it knows whom it wants to reach, has sent the first message and awaits the
/// second.
pub struct Initiator {
    state: State,
    remote: PublicKey,
}

impl Initiator {
    /// Makes the first message, which only the holder of `remote` can read.
    ///
    /// `ephemeral` comes from a fresh random seed and serves this one handshake. Both sides must
    /// give the same `prologue`.
    ///
    /// # Errors
    /// [`NoiseError::InvalidKey`] when `remote` is no usable point;
    /// [`NoiseError::PayloadTooLong`] above [`MAX_PAYLOAD`].
    pub fn send(
        local: &KeyPair,
        remote: PublicKey,
        ephemeral: KeyPair,
        prologue: &[u8],
        payload: &[u8],
    ) -> Result<(Self, Vec<u8>), NoiseError> {
        let mut state = initial_state(local, &ephemeral, Some(remote), prologue);
        let message = write(&mut state, payload)?;
        Ok((Self { state, remote }, message))
    }

    /// Reads the second message: its payload, and the keys that both sides now share.
    ///
    /// Whoever carries messages between the peers can put a false one here; it fails and the
    /// genuine one is still welcome afterwards.
    ///
    /// # Errors
    /// [`NoiseError::Length`], [`NoiseError::InvalidKey`] and [`NoiseError::Forged`]: the message
    /// is not an answer of `remote` to ours.
    pub fn recv(&self, message: &[u8]) -> Result<(Vec<u8>, SessionKeys), NoiseError> {
        let mut state = self.state.clone();
        let payload = read(&mut state, message)?;
        let keys = SessionKeys::split(&state, Role::Initiator, self.remote);
        Ok((payload, keys))
    }
}

/// The peer that is dialled: it has read the first message and may answer it.
pub struct Responder {
    state: State,
    remote: PublicKey,
}

impl Responder {
    /// Reads the first message: its payload, and [who](Self::remote) sent it.
    ///
    /// `ephemeral` comes from a fresh random seed and serves this one handshake.
    ///
    /// # Errors
    /// [`NoiseError::Length`], [`NoiseError::InvalidKey`] and [`NoiseError::Forged`]: the message
    /// was not made for us, or not with this `prologue`.
    pub fn recv(
        local: &KeyPair,
        ephemeral: KeyPair,
        prologue: &[u8],
        message: &[u8],
    ) -> Result<(Self, Vec<u8>), NoiseError> {
        let mut state = initial_state(local, &ephemeral, None, prologue);
        let payload = read(&mut state, message)?;
        let remote = state.get_rs().ok_or(NoiseError::Forged)?.into();
        Ok((Self { state, remote }, payload))
    }

    /// The key that the initiator holds. A policy may turn it away before anything is answered.
    pub const fn remote(&self) -> PublicKey {
        self.remote
    }

    /// Makes the second message, which ends the handshake: the keys that both sides will share.
    ///
    /// # Errors
    /// [`NoiseError::PayloadTooLong`] above [`MAX_PAYLOAD`].
    pub fn send(mut self, payload: &[u8]) -> Result<(Vec<u8>, SessionKeys), NoiseError> {
        let message = write(&mut self.state, payload)?;
        let keys = SessionKeys::split(&self.state, Role::Responder, self.remote);
        Ok((message, keys))
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// Which end of the handshake a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sent the first message.
    Initiator,
    /// Sent the second message.
    Responder,
}

impl Role {
    /// The other end's role.
    pub const fn peer(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// What a handshake leaves: who the peer is, and secrets that nobody else has.
#[derive(Debug, Clone)]
pub struct SessionKeys {
    /// Which end we are.
    pub role: Role,
    /// The key that the peer has proved to hold.
    pub remote: PublicKey,
    /// Encrypts what we send.
    pub tx: Secret<32>,
    /// Decrypts what we receive.
    pub rx: Secret<32>,
    /// The hash of the whole handshake. HyperDHT derives further keys from it, so it is a secret
    /// here, which it is not in Noise.
    pub handshake_hash: Secret<64>,
}

impl SessionKeys {
    fn split(state: &State, role: Role, remote: PublicKey) -> Self {
        let (initiator, responder) = state.get_ciphers();
        let [initiator, responder] =
            [initiator, responder].map(|cipher| Secret::from_bytes(*cipher.extract().0));
        let (tx, rx) = match role {
            Role::Initiator => (initiator, responder),
            Role::Responder => (responder, initiator),
        };
        let mut handshake_hash = [0; 64];
        handshake_hash.copy_from_slice(state.get_hash());
        Self { role, remote, tx, rx, handshake_hash: Secret::from_bytes(handshake_hash) }
    }
}

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoiseError {
    /// The message is shorter than its fixed parts or longer than Noise allows.
    #[error("a handshake message of {len} bytes")]
    Length {
        /// The message's bytes.
        len: usize,
    },
    /// The payload to send is longer than [`MAX_PAYLOAD`].
    #[error("a handshake payload of {len} bytes")]
    PayloadTooLong {
        /// The payload's bytes.
        len: usize,
    },
    /// A public key is not a point of the prime-order group, or not in its canonical form.
    #[error("a public key is not a usable point")]
    InvalidKey,
    /// The message does not open with our keys.
    #[error("the handshake message was made for another key, prologue or handshake")]
    Forged,
}

fn initial_state(
    local: &KeyPair,
    ephemeral: &KeyPair,
    remote: Option<PublicKey>,
    prologue: &[u8],
) -> State {
    HandshakeState::new(
        noise_ik(),
        remote.is_some(),
        prologue,
        Some(DhKey::new(local)),
        Some(DhKey::new(ephemeral)),
        remote.map(|key| *key.as_bytes()),
        None,
    )
}

fn write(state: &mut State, payload: &[u8]) -> Result<Vec<u8>, NoiseError> {
    let len = payload.len();
    if len > MAX_PAYLOAD {
        return Err(NoiseError::PayloadTooLong { len });
    }
    let mut message = vec![0; len + state.get_next_message_overhead()];
    state.write_message(payload, &mut message).map_err(named)?;
    Ok(message)
}

fn read(state: &mut State, message: &[u8]) -> Result<Vec<u8>, NoiseError> {
    let len = message.len();
    let payload_len = len
        .checked_sub(state.get_next_message_overhead())
        .filter(|_| len <= MAX_MESSAGE)
        .ok_or(NoiseError::Length { len })?;
    let mut payload = vec![0; payload_len];
    state.read_message(message, &mut payload).map_err(named)?;
    Ok(payload)
}

fn named(error: noise_protocol::Error) -> NoiseError {
    match error.kind() {
        ErrorKind::DH => NoiseError::InvalidKey,
        ErrorKind::Decryption | ErrorKind::NeedPSK | ErrorKind::TooShort => NoiseError::Forged,
    }
}

#[cfg(test)]
mod tests;
