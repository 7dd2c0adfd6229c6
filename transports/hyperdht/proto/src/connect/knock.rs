//! The server's half of a connection.

use std::net::SocketAddrV4;

use bytes::Bytes;

use super::introduction;
use crate::{
    dht::{Dht, HandshakeAnswer, IncomingHandshake, ServerId},
    handshake::{ErrorCode, Firewall, HolepunchInfo, NoisePayload, PayloadError, RelayInfo},
    hash::Namespace,
    keys::{KeyPair, PublicKey},
    noise::{NoiseError, Responder, SessionKeys},
    rpc::SocketId,
};

/// A peer at the door of a server of ours: it has proved its key and is not answered yet.
///
/// Dropped without [an answer](Dht::answer_handshake), it hears nothing, as if nobody were there.
#[derive(Debug)]
pub struct Knock {
    handshake: IncomingHandshake,
    responder: Responder,
    payload: NoisePayload,
    error: ErrorCode,
}

/// What letting a peer in comes to.
#[derive(Debug)]
pub struct Admission {
    /// What to answer with [`Dht::answer_handshake`].
    pub answer: HandshakeAnswer,
    /// How the peer will be met; absent when the answer says that it cannot be.
    pub meeting: Option<Meeting>,
}

/// How a server and its client come together after the answer.
#[derive(Debug)]
pub struct Meeting {
    /// The secrets that both sides have from now on.
    pub keys: SessionKeys,
    /// The peer's id of the UDX stream.
    pub remote_id: u32,
    /// Where to connect the stream to at once; otherwise the first packet that comes for it, within
    /// [`FIRST_PACKET_WAIT`](super::FIRST_PACKET_WAIT), says where the peer is.
    pub connect: Option<(SocketId, SocketAddrV4)>,
}

impl Knock {
    /// Reads a handshake that came for the server with this key pair. `ephemeral` comes from a fresh
    /// random seed.
    ///
    /// # Errors
    /// [`KnockError`]; such a handshake is met with silence.
    pub fn read(
        handshake: IncomingHandshake,
        key_pair: &KeyPair,
        ephemeral: KeyPair,
    ) -> Result<Self, KnockError> {
        let prologue = Namespace::PeerHandshake.bytes();
        let (responder, payload) =
            Responder::recv(key_pair, ephemeral, &prologue, &handshake.noise)?;
        let (payload, error) = match NoisePayload::decode(&payload) {
            Ok(payload) if payload.udx.is_some() => (payload, ErrorCode::None),
            Ok(payload) => (payload, ErrorCode::Aborted),
            Err(PayloadError::OtherVersion { .. }) => {
                (NoisePayload::default(), ErrorCode::VersionMismatch)
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { handshake, responder, payload, error })
    }

    /// The handshake, as it came in.
    pub const fn handshake(&self) -> &IncomingHandshake {
        &self.handshake
    }

    /// The peer's key, by which to decide whether to let it in.
    pub const fn remote(&self) -> PublicKey {
        self.responder.remote()
    }

    /// Where the peer is, as the node that passed its handshake on saw it.
    pub const fn client(&self) -> SocketAddrV4 {
        self.handshake.client
    }

    /// Lets the peer in. `stream_id` is that of a UDX stream that waits for it, and `local` are this
    /// host's addresses with the port of the server socket, to be told to peers behind the same NAT.
    ///
    /// # Errors
    /// [`NoiseError::PayloadTooLong`], which the bounds of the lists in the payload exclude.
    pub fn admit(
        self,
        dht: &Dht,
        local: &[SocketAddrV4],
        stream_id: u32,
    ) -> Result<Admission, NoiseError> {
        let payload = self.reply(dht, local, stream_id);
        let (noise, keys) = self.responder.send(&payload.encode())?;
        // A puncher's socket would answer here, so that the client learns its mapping.
        let answer = HandshakeAnswer { noise: Bytes::from(noise), socket: None };
        let udx = self.payload.udx.filter(|_| self.error == ErrorCode::None);
        let open = self.payload.firewall == Firewall::Open;
        let socket =
            if self.handshake.direct { self.handshake.socket } else { dht.rpc().default_socket() };
        let meeting = udx.map(|udx| Meeting {
            keys,
            remote_id: udx.id,
            connect: (open || self.handshake.direct).then_some((socket, self.handshake.client)),
        });
        Ok(Admission { answer, meeting })
    }

    fn reply(&self, dht: &Dht, local: &[SocketAddrV4], stream_id: u32) -> NoisePayload {
        let server = self.handshake.server;
        let mut payload = introduction(dht, local, stream_id);
        payload.error = self.error;
        payload.relay_addresses = dht.relay_addresses(server).to_vec();
        if payload.firewall != Firewall::Open {
            payload.holepunch = Some(HolepunchInfo { id: 0, relays: relays(dht, server) });
        }
        if self.error != ErrorCode::None
            && let Some(udx) = &mut payload.udx
        {
            udx.id = 0;
        }
        payload
    }
}

fn relays(dht: &Dht, server: ServerId) -> Vec<RelayInfo> {
    let relay = |relay: &crate::dht::Relay| RelayInfo {
        relay_address: relay.relay_address,
        peer_address: relay.peer_address,
    };
    dht.relays(server).iter().map(relay).collect()
}

/// Why a handshake is not worth an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KnockError {
    /// It was not made for this server's key.
    #[error(transparent)]
    Noise(#[from] NoiseError),
    /// What it says cannot be read.
    #[error(transparent)]
    Payload(#[from] PayloadError),
}
