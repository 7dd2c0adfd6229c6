//! What attempts act on: sockets, requests, and the random source that all of them share.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddrV4,
    time::Instant,
};

use rand::{Rng, rngs::StdRng};

use super::{PunchCommand, PunchId, limiter::Limiter};
use crate::{
    dht::{Dht, HolepunchCall},
    handshake::TokenKey,
    keys::Secret,
    rpc::{RequestId, SocketId},
};

/// What all attempts share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) commands: VecDeque<PunchCommand>,
    pub(super) sockets: BTreeMap<u32, PunchId>,
    pub(super) next_socket: u32,
    pub(super) requests: BTreeMap<RequestId, PunchId>,
    pub(super) limiter: Limiter,
    pub(super) rng: StdRng,
}

impl Shared {
    pub(super) fn new(rng: StdRng) -> Self {
        Self {
            commands: VecDeque::new(),
            sockets: BTreeMap::new(),
            next_socket: 0,
            requests: BTreeMap::new(),
            limiter: Limiter::default(),
            rng,
        }
    }
}

/// What an attempt works with while it is called.
pub(super) struct Context<'a> {
    pub(super) dht: &'a mut Dht,
    pub(super) now: Instant,
    pub(super) id: PunchId,
    pub(super) shared: &'a mut Shared,
}

impl Context<'_> {
    pub(super) fn open(&mut self) -> u32 {
        let socket = self.shared.next_socket;
        self.shared.next_socket = socket.wrapping_add(1);
        self.shared.sockets.insert(socket, self.id);
        self.shared.commands.push_back(PunchCommand::Open(socket));
        socket
    }

    pub(super) fn close(&mut self, socket: u32) {
        self.shared.sockets.remove(&socket);
        self.shared.commands.push_back(PunchCommand::Close(socket));
    }

    pub(super) fn send(&mut self, socket: u32, to: SocketAddrV4, ttl: u8) {
        self.shared.commands.push_back(PunchCommand::Send { socket, to, ttl });
    }

    pub(super) fn ping(&mut self, to: SocketAddrV4, socket: SocketId) -> RequestId {
        let request = self.dht.ping(self.now, to, Some(socket), 0);
        self.shared.requests.insert(request, self.id);
        request
    }

    pub(super) fn holepunch(&mut self, call: HolepunchCall) -> RequestId {
        let request = self.dht.holepunch(self.now, call);
        self.shared.requests.insert(request, self.id);
        request
    }

    pub(super) fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.shared.rng.fill_bytes(&mut bytes);
        bytes
    }

    pub(super) fn token_key(&mut self) -> TokenKey {
        TokenKey::new(Secret::from_bytes(self.random()))
    }
}
