//! Messages of a PEER_HANDSHAKE (`hyperdht` 6.34, `lib/server.js` and `lib/noise-wrap.js`).

use libudx::UdxSocket;
use peeroxide_dht::{
    hyperdht::{KeyPair, alloc_stream_id},
    hyperdht_messages::{
        ERROR_NONE, FIREWALL_OPEN, HandshakeMessage, MODE_FROM_RELAY, MODE_FROM_SECOND_RELAY,
        MODE_FROM_SERVER, MODE_REPLY, NoisePayload, SecretStreamInfo, UdxInfo,
        encode_handshake_to_bytes,
    },
    messages::Ipv4Peer,
    noise::Keypair,
    noise_wrap::{NoiseWrap, NoiseWrapResult},
};
use zeroize::Zeroize;

/// The secret of an identity, wiped when the last user drops it.
pub(super) struct Identity(KeyPair);

impl Identity {
    pub(super) fn from_seed(seed: &[u8; 32]) -> Self {
        Self(KeyPair::from_seed(*seed))
    }

    pub(super) fn key_pair(&self) -> &KeyPair {
        &self.0
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.0.secret_key.zeroize();
    }
}

/// A dialler's first message, understood, and our answer should we let it in.
pub(super) struct Offer {
    /// The answer, as Noise bytes.
    pub(super) reply: Vec<u8>,
    /// What the exchange yields: the dialler's key and the keys of the stream.
    pub(super) keys: NoiseWrapResult,
    /// The number of our UDX stream.
    pub(super) local_id: u32,
    /// The number of the dialler's UDX stream.
    pub(super) remote_id: u32,
}

/// Reads a dialler's first message; `None` if it is not meant for us or makes no sense.
///
/// The answer is made at once because the crate tells the dialler's key only after it: two or three
/// scalar multiplications, about 0.3 ms, for anyone who knows our public key.
pub(super) fn read(identity: &Identity, noise: &[u8]) -> Option<Offer> {
    let mut wrap = NoiseWrap::new_responder(noise_keys(identity));
    let payload = wrap.recv(noise).ok()?;
    if payload.error != ERROR_NONE {
        return None;
    }
    let remote_id = u32::try_from(payload.udx?.id).ok()?;
    let local_id = alloc_stream_id();
    let reply = wrap.send(&payload_of(ERROR_NONE, Some(local_id))).ok()?;
    let keys = wrap.finalize().ok()?;
    Some(Offer { reply, keys, local_id, remote_id })
}

/// The answer that sends the dialler away, as Noise bytes.
pub(super) fn refusal(identity: &Identity, noise: &[u8], error: u64) -> Option<Vec<u8>> {
    let mut wrap = NoiseWrap::new_responder(noise_keys(identity));
    wrap.recv(noise).ok()?;
    wrap.send(&payload_of(error, None)).ok()
}

/// Wraps our answer for the way that the dialler's message came: straight, or through a relay.
pub(super) fn envelope(noise: Vec<u8>, mode: u64, dialler: Option<Ipv4Peer>) -> Option<Vec<u8>> {
    let relayed = mode == MODE_FROM_RELAY || mode == MODE_FROM_SECOND_RELAY;
    let (mode, peer_address) =
        if relayed { (MODE_FROM_SERVER, dialler) } else { (MODE_REPLY, None) };
    let message = HandshakeMessage { mode, noise, peer_address, relay_address: None };
    encode_handshake_to_bytes(&message).ok()
}

/// What a dialler says whose UDX stream has this number.
pub(super) fn hello(local_id: u32) -> NoisePayload {
    payload_of(ERROR_NONE, Some(local_id))
}

/// We name no address of ours: peers then use the one that the relay saw, which is right on
/// loopback, in a LAN and on a public host alike.
fn payload_of(error: u64, local_id: Option<u32>) -> NoisePayload {
    let udx = |id: u32| UdxInfo { version: 1, reusable_socket: true, id: id.into(), seq: 0 };
    NoisePayload {
        version: 1,
        error,
        firewall: FIREWALL_OPEN,
        holepunch: None,
        addresses4: vec![],
        addresses6: vec![],
        udx: local_id.map(udx),
        secret_stream: local_id.map(|_| SecretStreamInfo { version: 1 }),
        relay_through: None,
        relay_addresses: None,
    }
}

pub(super) fn noise_keys(identity: &Identity) -> Keypair {
    let KeyPair { public_key, secret_key } = *identity.key_pair();
    Keypair { public_key, secret_key }
}

/// The socket on which peers reach us and streams run.
#[derive(Clone)]
pub(super) struct Socket(pub(super) UdxSocket);

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").finish_non_exhaustive()
    }
}
