//! From a public key to a connection: what a client and a server of HyperDHT do around the
//! [handshake](crate::handshake).
//!
//! [`Dial`] is the client's half: it finds nodes that know the server, has them pass a handshake on,
//! and decides by the answer [how to connect](Plan). [`Knock`] is the server's half: it says who wants to
//! connect, and, once the caller lets the peer in, what to answer and where to expect its stream.
//! Where NATs are in between, a [`Puncher`] makes holes into them for both, and a [`Rendezvous`] says at
//! which blind relay they meet meanwhile, or if that comes to nothing. None of them moves a
//! stream's bytes: UDX streams are opened by the caller, who gives their ids.
//!
//! The order of the decisions is that of the npm package hyperdht 6.34 (`lib/connect.js`,
//! `lib/server.js`).

pub mod address;
mod dial;
mod knock;
mod punch;
mod relay_cache;
mod rendezvous;
#[cfg(test)]
mod tests;

use std::{net::SocketAddrV4, time::Duration};

pub use self::{
    dial::{Answered, Dial, DialError, DialEvent, DialSpec, MAX_CANDIDATES, Plan},
    knock::{Admission, Knock, KnockError, Meeting, Welcome},
    punch::{
        Invitation, MAX_DIALLED, MAX_EXPECTED, MAX_EXPECTED_PER_HOST, PUNCH_BYTE, PunchCommand,
        PunchError, PunchEvent, PunchId, Puncher,
    },
    relay_cache::RelayCache,
    rendezvous::Rendezvous,
};
use crate::{
    dht::Dht,
    handshake::{Firewall, NoisePayload, RelayThrough, UdxInfo},
};

/// How long either side waits for the other's first packet (`lib/connect.js`, `lib/server.js`).
pub const FIRST_PACKET_WAIT: Duration = Duration::from_secs(10);

/// What a peer says about itself in its handshake, whether it dials or is dialled. One that wants no
/// direct path says nothing of where it is.
fn introduction(
    dht: &Dht,
    local: &[SocketAddrV4],
    stream_id: u32,
    relay_through: Option<RelayThrough>,
    direct: bool,
) -> NoisePayload {
    let public = dht.rpc().public_address().filter(|_| direct);
    let local = if direct { local } else { &[] };
    NoisePayload {
        firewall: if public.is_some() { Firewall::Open } else { Firewall::Unknown },
        addresses4: public.into_iter().chain(local.iter().copied()).collect(),
        relay_through,
        udx: Some(UdxInfo { reusable_socket: true, id: stream_id, seq: 0 }),
        secret_stream: true,
        ..NoisePayload::default()
    }
}
