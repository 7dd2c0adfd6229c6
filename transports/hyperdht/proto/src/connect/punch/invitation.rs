//! What a server's answer to a handshake offers.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::context::Context;
use crate::{
    dht::HolepunchCall,
    handshake::{ErrorCode, Firewall, HolepunchCipher, HolepunchPayload, RelayInfo},
    rpc::Target,
};

/// A server's offer to punch a hole, as its answer to our handshake made it.
#[derive(Debug)]
pub struct Invitation {
    /// The hash of the server's public key.
    pub(in crate::connect) target: Target,
    /// The server's number for the attempt.
    pub(in crate::connect) slot: u64,
    pub(in crate::connect) cipher: HolepunchCipher,
    /// The node through which the handshake went.
    pub(in crate::connect) relay: SocketAddrV4,
    /// The server, as that node saw it.
    pub(in crate::connect) server: SocketAddrV4,
    /// The node through which the server wants to be asked.
    pub(in crate::connect) server_relay: RelayInfo,
    pub(in crate::connect) firewall: Firewall,
    /// Where the server says it may be.
    pub(in crate::connect) hosts: Vec<Ipv4Addr>,
    pub(in crate::connect) neighbour: Option<SocketAddrV4>,
}

impl Invitation {
    /// An address of the server that may be on our own network: to be pinged beside the punch, and if
    /// it answers, to connect the stream to out of the server socket.
    pub const fn neighbour(&self) -> Option<SocketAddrV4> {
        self.neighbour
    }

    /// Tells the server that nothing will come of it.
    pub(super) fn decline(&self, cx: &mut Context<'_>, round: u64) {
        let error = ErrorCode::Aborted;
        let call = self.message(cx, &HolepunchPayload { error, round, ..Default::default() });
        // Nobody waits for an answer.
        cx.dht.holepunch(cx.now, call);
    }

    /// A message to the server, over the node through which it wants to be asked.
    pub(super) fn message(
        &self,
        cx: &mut Context<'_>,
        payload: &HolepunchPayload,
    ) -> HolepunchCall {
        HolepunchCall {
            target: self.target,
            id: self.slot,
            payload: self.cipher.seal(payload, cx.random()).into(),
            to: self.server_relay.relay_address,
            server: Some(self.server_relay.peer_address),
            socket: None,
        }
    }
}
