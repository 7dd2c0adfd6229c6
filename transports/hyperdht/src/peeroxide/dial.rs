//! The initiator's half of a PEER_HANDSHAKE (`hyperdht` 6.34, `lib/connect.js`).
//!
//! The crate's own dial says that it does not know whether it can be reached, and then punches a
//! hole, which fails with NATs and with small networks. A node that takes part in the DHT as we do
//! is reachable, so we say that: the peer then opens the stream towards us, whatever is in front of
//! it. Only a peer that is reachable itself is left to wait for our first packet.

use std::{net::SocketAddr, time::Duration};

use dht_prom_transport::{PublicKey, TransportError};
use futures_util::{StreamExt, stream::FuturesUnordered};
use libudx::{UdxAsyncStream, UdxRuntime};
use peeroxide_dht::{
    Router,
    hyperdht::{HyperDhtError, HyperDhtHandle, alloc_stream_id},
    hyperdht_messages::{ERROR_NONE, FIREWALL_OPEN, NoisePayload, PEER_HANDSHAKE},
    messages::Ipv4Peer,
    noise_wrap::{NoiseWrap, NoiseWrapResult},
    rpc::UserRequestParams,
    secret_stream::SecretStream,
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    door, error,
    handshake::{self, Identity, Socket},
};

/// Asks the DHT who keeps a record of `peer`, and opens a stream to it through these nodes.
pub(super) async fn dial(
    dht: &HyperDhtHandle,
    socket: &Socket,
    identity: &Identity,
    peer: PublicKey,
) -> Result<(SecretStream<UdxAsyncStream>, SocketAddr), TransportError> {
    let target = door::target(peer.as_bytes());
    let replies = dht.query_find_peer(target).await.map_err(error::dial)?;
    let relays = replies.into_iter().filter(|reply| reply.value.is_some()).map(|reply| reply.from);
    let relays: Vec<Ipv4Peer> = relays.take(MOST_RELAYS).collect();
    if relays.is_empty() {
        return Err(TransportError::NotFound);
    }
    let local_id = alloc_stream_id();
    let mut wrap = NoiseWrap::new_initiator(handshake::noise_keys(identity), *peer.as_bytes());
    let noise = wrap.send(&handshake::hello(local_id)).map_err(|e| error::dial(e.into()))?;
    let (answer, address) = ask(dht, target, &relays, noise).await?;
    let payload = wrap.recv(&answer).map_err(|e| error::dial(e.into()))?;
    if payload.error != ERROR_NONE {
        return Err(TransportError::Refused);
    }
    let keys = wrap.finalize().map_err(|e| error::dial(e.into()))?;
    let opening = open(socket, local_id, &payload, keys, address);
    timeout(OPEN_TIMEOUT, opening).await.unwrap_or(Err(UNREACHABLE)).map_err(|error| {
        tracing::debug!(peer = %peer.short(), %error, "the stream does not open");
        error
    })
}

/// Sends the first message through all relays at once: the peer knows the copies by their bytes. The
/// first answer counts, and with it comes the peer's address as the relay saw it.
async fn ask(
    dht: &HyperDhtHandle,
    target: [u8; 32],
    relays: &[Ipv4Peer],
    noise: Vec<u8>,
) -> Result<(Vec<u8>, SocketAddr), TransportError> {
    let value = Router::encode_client_handshake(noise, None, None);
    let value = value.map_err(|error| error::dial(error.into()))?;
    let mut answers: FuturesUnordered<_> =
        relays.iter().map(|relay| ask_through(dht, target, relay, value.clone())).collect();
    let mut failure = UNREACHABLE;
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => failure = error::dial(error),
        }
    }
    Err(failure)
}

async fn ask_through(
    dht: &HyperDhtHandle,
    target: [u8; 32],
    relay: &Ipv4Peer,
    value: Vec<u8>,
) -> Result<(Vec<u8>, SocketAddr), HyperDhtError> {
    let mut request = UserRequestParams::default();
    request.command = PEER_HANDSHAKE;
    request.target = Some(target);
    request.value = Some(value);
    let response = dht.dht().request(request, &relay.host, relay.port).await?;
    let failed = |reason: &str| HyperDhtError::HandshakeFailed(reason.to_owned());
    let value = response.value.ok_or_else(|| failed("the relay has no answer"))?;
    let router = dht.router().lock().map_err(|_| HyperDhtError::ChannelClosed)?;
    let answer = router.validate_handshake_reply(&value, relay, &response.from)?;
    let Ipv4Peer { host, port } = answer.server_address;
    let host = host.parse().map_err(|_| failed("the peer has no address"))?;
    Ok((answer.noise, SocketAddr::new(host, port)))
}

/// Opens the stream: towards a peer that can be reached, or by waiting for the other's first packet.
async fn open(
    socket: &Socket,
    local_id: u32,
    payload: &NoisePayload,
    keys: NoiseWrapResult,
    address: SocketAddr,
) -> Result<(SecretStream<UdxAsyncStream>, SocketAddr), TransportError> {
    let remote_id = payload.udx.as_ref().and_then(|udx| u32::try_from(udx.id).ok());
    let remote_id = remote_id.ok_or(TransportError::Misbehaved { reason: "no stream number" })?;
    let failed = |error| error::dial(HyperDhtError::Udx(error));
    let runtime = UdxRuntime::new().map_err(failed)?;
    let stream = runtime.create_stream(local_id).await.map_err(failed)?;
    let address = if payload.firewall == FIREWALL_OPEN {
        stream.connect(&socket.0, remote_id, address).await.map_err(failed)?;
        address
    } else {
        let (arrived, arrival) = oneshot::channel();
        let hook = stream.set_firewall_hook(&socket.0, remote_id, move |_, port, ip| {
            arrived.send(SocketAddr::new(ip, port)).is_ok()
        });
        hook.map_err(failed)?;
        arrival.await.map_err(|_| UNREACHABLE)?
    };
    let stream = SecretStream::from_session(
        true,
        stream.into_async_stream(),
        keys.tx,
        keys.rx,
        keys.handshake_hash,
        keys.remote_public_key,
    );
    let stream = stream.await.map_err(|error| error::dial(error.into()))?;
    Ok((stream, address))
}

const UNREACHABLE: TransportError = TransportError::Unreachable { source: None };
/// Nodes through which one dial goes. About twenty keep a record; each of them leads to the peer.
const MOST_RELAYS: usize = 3;
/// How long the stream may take to open once the peer has answered. Its first packet is lost if it
/// overtakes the answer, and comes again after a second.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
