//! Ways through NATs that are kept for the next dial.
//!
//! A hole costs several round trips, and seconds where ports have to be guessed. Both sides therefore
//! keep the socket of a connection for a while after it: a client that comes back writes its handshake
//! straight through the hole (`hyperdht/lib/socket-pool.js`, `reusableSocket`).

use std::{
    collections::BTreeMap,
    net::SocketAddrV4,
    sync::Arc,
    time::{Duration, Instant},
};

use hyperdht_proto::{keys::PublicKey, rpc};

use super::sockets::PoolSocket;

/// Sockets whose connections may be over, and where servers were reached through them.
///
/// [`MAX_KEPT`] sockets at most beside those of running connections; a route takes some 100 bytes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    kept: Vec<Kept>,
    servers: BTreeMap<PublicKey, (u32, SocketAddrV4)>,
    next_look: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    socket: Arc<PoolSocket>,
    /// Since when no connection has been seen on it.
    unused: Option<Instant>,
}

impl Routes {
    /// Keeps a connection's socket open until a while after the connection.
    pub(super) fn keep(&mut self, now: Instant, socket: &Arc<PoolSocket>) {
        let known = self.kept.iter().any(|kept| Arc::ptr_eq(&kept.socket, socket));
        if !known && self.kept.len() < MAX_KEPT {
            self.kept.push(Kept { socket: Arc::clone(socket), unused: None });
            self.next_look.get_or_insert(now + LOOK);
        }
    }

    /// Remembers where a server was reached, through a socket that is kept.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        server: PublicKey,
        socket: &Arc<PoolSocket>,
        address: SocketAddrV4,
    ) {
        self.keep(now, socket);
        if self.kept.iter().any(|kept| Arc::ptr_eq(&kept.socket, socket)) {
            self.servers.insert(server, (socket.number(), address));
        }
    }

    /// Where a server was reached the last time.
    pub(super) fn to(&self, server: &PublicKey) -> Option<(rpc::SocketId, SocketAddrV4)> {
        let (number, address) = self.servers.get(server)?;
        Some((rpc::SocketId::Pool(*number), *address))
    }

    /// A server was not found where it was.
    pub(super) fn remove(&mut self, server: &PublicKey) {
        self.servers.remove(server);
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.next_look
    }

    /// Closes what has not been used for some time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for kept in &mut self.kept {
            let used = Arc::strong_count(&kept.socket) > 1;
            kept.unused = if used { None } else { kept.unused.or(Some(now)) };
        }
        self.kept.retain(|kept| kept.unused.is_none_or(|since| now < since + LINGER));
        let kept = &self.kept;
        self.servers.retain(|_, (number, _)| kept.iter().any(|one| one.socket.number() == *number));
        self.next_look = (!self.kept.is_empty()).then(|| now + LOOK);
    }
}

/// How long a socket stays after its connection (`hyperdht/lib/socket-pool.js`).
const LINGER: Duration = Duration::from_secs(3);

/// How often it is looked whether connections are over.
const LOOK: Duration = Duration::from_secs(1);

/// Sockets that are kept, of running connections and of those that are over.
const MAX_KEPT: usize = 256;
