//! The server's half of a connection.

use std::{net::SocketAddrV4, time::Instant};

use bytes::Bytes;

use super::{
    MAX_EXPECTED, PunchId, Puncher, Rendezvous,
    address::{is_private, nearest},
    introduction,
    punch::Guest,
};
use crate::{
    dht::{Dht, HandshakeAnswer, IncomingHandshake, ServerId},
    handshake::{
        ErrorCode, Firewall, HolepunchCipher, HolepunchInfo, NoisePayload, PayloadError, RelayInfo,
        RelayThrough,
    },
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
    /// Whether the peer may come back through the same socket: it is to be kept for a while after the
    /// connection.
    pub reusable: bool,
    /// Where to connect the stream to at once; otherwise the first packet that comes for it, within
    /// [`FIRST_PACKET_WAIT`](super::FIRST_PACKET_WAIT), says where the peer is.
    pub connect: Option<(SocketId, SocketAddrV4)>,
    /// A hole that is being made for that packet. As long as it is neither [given
    /// up](super::PunchEvent::Failed) nor [ended](Puncher::end), the packet may still come.
    pub punch: Option<PunchId>,
    /// At which relay to meet the peer, where either side has named one and may need it.
    pub rendezvous: Option<Rendezvous>,
}

/// How a peer that is let in will be met.
#[derive(Debug, Clone, Copy)]
pub struct Welcome<'a> {
    /// The id of a UDX stream that waits for it.
    pub stream_id: u32,
    /// This host's addresses with the port of the server socket, to be told to peers behind the same
    /// NAT.
    pub local: &'a [SocketAddrV4],
    /// The blind relay to meet at, and a token from a fresh random source; before the one that the
    /// peer has named.
    pub relay_through: Option<RelayThrough>,
    /// Whether the one that the peer has named is gone to, where there is none of ours.
    pub follow: bool,
    /// Whether a direct path is wanted.
    pub direct: bool,
}

/// How to meet a client (`lib/server.js`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It can be reached.
    Connect(SocketId, SocketAddrV4),
    /// It reaches us.
    Await,
    /// It is probably on our network, where it finds the server socket; otherwise as below.
    Neighbour,
    /// A hole is needed.
    Punch,
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

    /// Lets the peer in.
    ///
    /// # Errors
    /// [`NoiseError::PayloadTooLong`], which the bounds of the lists in the payload exclude.
    pub fn admit(
        self,
        dht: &mut Dht,
        puncher: &mut Puncher,
        now: Instant,
        welcome: Welcome<'_>,
    ) -> Result<Admission, NoiseError> {
        let way = self.way(dht, &welcome);
        // A client that has asked us itself is there; one that only says that it can be reached may
        // not be by us.
        let needed = !(self.handshake.direct && welcome.direct);
        let own = welcome.relay_through.filter(|_| needed);
        let theirs = self.payload.relay_through.filter(|_| needed && welcome.follow);
        let rendezvous = Rendezvous::of_server(own, theirs, welcome.stream_id);
        let IncomingHandshake { server, account, .. } = self.handshake;
        let punches = self.error == ErrorCode::None && matches!(way, Way::Neighbour | Way::Punch);
        let slot = punches.then(|| puncher.free_slot(dht, now, account)).flatten();
        let welcome = Welcome { relay_through: own, ..welcome };
        let mut payload = self.reply(dht, &welcome, slot.unwrap_or(NO_SLOT));
        if rendezvous.is_some() && matches!(way, Way::Connect(..)) && !self.handshake.direct {
            keep_waiting(&mut payload, relays(dht, self.handshake.server));
        }
        let (noise, keys) = self.responder.send(&payload.encode())?;
        let punch = slot.map(|slot| {
            let guest = Guest {
                server,
                host: account,
                cipher: HolepunchCipher::new(&keys.handshake_hash),
                firewall: self.payload.firewall,
                patient: rendezvous.is_some(),
                neighbour: way == Way::Neighbour,
            };
            puncher.expect(dht, now, slot, guest)
        });
        // The client is to learn the mapping of the puncher's socket.
        let socket = punch.filter(|_| way == Way::Punch).map(|(_, socket)| socket);
        let answer = HandshakeAnswer { noise: Bytes::from(noise), socket };
        let udx = self.payload.udx.filter(|_| self.error == ErrorCode::None);
        let meeting = udx.map(|udx| Meeting {
            keys,
            remote_id: udx.id,
            reusable: udx.reusable_socket,
            connect: if let Way::Connect(socket, to) = way { Some((socket, to)) } else { None },
            punch: punch.map(|(id, _)| id),
            rendezvous,
        });
        Ok(Admission { answer, meeting })
    }

    fn way(&self, dht: &Dht, welcome: &Welcome<'_>) -> Way {
        let IncomingHandshake { client, direct, own_address, socket, .. } = self.handshake;
        if !welcome.direct {
            return Way::Await;
        }
        if direct {
            return Way::Connect(socket, client);
        }
        if self.payload.firewall == Firewall::Open {
            return Way::Connect(dht.rpc().default_socket(), client);
        }
        let private = self.payload.addresses4.iter().filter(|address| is_private(*address.ip()));
        let private: Vec<_> = private.copied().collect();
        if client.ip() == own_address.ip() && nearest(welcome.local, &private).is_some() {
            return Way::Neighbour;
        }
        if dht.rpc().public_address().is_some() { Way::Await } else { Way::Punch }
    }

    fn reply(&self, dht: &Dht, welcome: &Welcome<'_>, slot: u64) -> NoisePayload {
        let server = self.handshake.server;
        let Welcome { stream_id, local, relay_through, direct, .. } = *welcome;
        let mut payload = introduction(dht, local, stream_id, relay_through, direct);
        payload.error = self.error;
        payload.relay_addresses = dht.relay_addresses(server).to_vec();
        if payload.firewall != Firewall::Open {
            payload.holepunch = Some(HolepunchInfo { id: slot, relays: relays(dht, server) });
        }
        if self.error != ErrorCode::None
            && let Some(udx) = &mut payload.udx
        {
            udx.id = 0;
        }
        payload
    }
}

/// Has a client that is connected to at once wait for that, or for the relay, whichever is first.
///
/// Node's would connect to an open server by itself otherwise, and never come to the relay then, though
/// no UDP may pass between the two.
fn keep_waiting(payload: &mut NoisePayload, relays: Vec<RelayInfo>) {
    // Without one of these the client would take us for open all the same.
    if payload.firewall == Firewall::Open && !relays.is_empty() {
        payload.firewall = Firewall::Unknown;
        payload.holepunch = Some(HolepunchInfo { id: NO_SLOT, relays });
    }
}

fn relays(dht: &Dht, server: ServerId) -> Vec<RelayInfo> {
    let relay = |relay: &crate::dht::Relay| RelayInfo {
        relay_address: relay.relay_address,
        peer_address: relay.peer_address,
    };
    dht.relays(server).iter().map(relay).collect()
}

/// The number of no attempt: where no hole is needed, or there is no room for another.
const NO_SLOT: u64 = MAX_EXPECTED as u64;

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
