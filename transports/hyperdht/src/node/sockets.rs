//! The sockets of a node.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use hyperdht_proto::{connect::PUNCH_BYTE, rpc};
use tokio::sync::mpsc;

use super::options::{NodeOptions, StartError};
use crate::udx::{self, Datagram, Datagrams, MAX_DATAGRAMS, Udx, UdxSocket};

/// The two sockets that are always there, and those for crossing NATs: DHT messages and UDX streams go
/// over all of them.
#[derive(Debug)]
pub(super) struct Sockets {
    udx: Udx,
    server: UdxSocket,
    client: UdxSocket,
    server_addr: SocketAddrV4,
    pool: Arc<Pool>,
}

/// The sockets for crossing NATs that are open, by their numbers.
#[derive(Debug)]
struct Pool {
    queue: mpsc::Sender<(u32, Datagram)>,
    sockets: Mutex<BTreeMap<u32, Weak<PoolSocket>>>,
}

impl Pool {
    fn sockets(&self) -> MutexGuard<'_, BTreeMap<u32, Weak<PoolSocket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self, number: u32) -> Option<Arc<PoolSocket>> {
        self.sockets().get(&number)?.upgrade()
    }
}

/// A socket for crossing NATs. It is open as long as a punch or a connection holds it.
#[derive(Debug)]
pub(crate) struct PoolSocket {
    number: u32,
    socket: UdxSocket,
    pool: Arc<Pool>,
}

impl PoolSocket {
    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// Sends a datagram; `ttl` is how many hops it may take, where that is not the usual number. One
    /// that the system does not take is lost, as on the way.
    pub(super) fn send(&self, to: SocketAddrV4, datagram: &[u8], ttl: Option<u8>) {
        let socket = self.socket.socket();
        let sent = match ttl {
            Some(ttl) => socket.try_send_with_ttl(to.into(), datagram, ttl),
            None => socket.try_send(to.into(), datagram, datagram.len()),
        };
        if let Err(error) = sent {
            tracing::trace!(%error, "a datagram is lost");
        }
    }
}

impl Drop for PoolSocket {
    fn drop(&mut self) {
        self.pool.sockets().remove(&self.number);
    }
}

/// What comes in on them for the DHT.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) server: Datagrams,
    pub(super) client: Datagrams,
    /// With the number of the socket.
    pub(super) pool: mpsc::Receiver<(u32, Datagram)>,
}

impl Sockets {
    pub(super) fn bind(udx: &Udx, options: &NodeOptions) -> Result<(Self, Inbound), StartError> {
        let (server, server_datagrams) = bind_server(udx, options)?;
        let (client, client_datagrams) = bind(udx, options.host, 0)?;
        let server_addr = SocketAddrV4::new(options.host, server.local_addr().port());
        let (queue, pool_datagrams) = mpsc::channel(MAX_DATAGRAMS);
        let pool = Arc::new(Pool { queue, sockets: Mutex::default() });
        let sockets = Self { udx: udx.clone(), server, client, server_addr, pool };
        let inbound =
            Inbound { server: server_datagrams, client: client_datagrams, pool: pool_datagrams };
        Ok((sockets, inbound))
    }

    /// Binds a socket for crossing NATs, to any port.
    pub(super) fn open(&self, number: u32) -> io::Result<Arc<PoolSocket>> {
        let host = IpAddr::V4(*self.server_addr.ip());
        let socket = self.udx.bind_to_pool(host, number, &self.pool.queue)?;
        let socket = Arc::new(PoolSocket { number, socket, pool: Arc::clone(&self.pool) });
        self.pool.sockets().insert(number, Arc::downgrade(&socket));
        Ok(socket)
    }

    /// The socket that UDX knows by this number, if it is one for crossing NATs: whoever has a stream
    /// over it has to hold it.
    pub(super) fn hold(&self, id: udx::SocketId) -> Option<Arc<PoolSocket>> {
        // Collected first: the last holder's drop wants the lock, too.
        let open: Vec<_> = self.pool.sockets().values().filter_map(Weak::upgrade).collect();
        open.into_iter().find(|socket| socket.socket.id() == id)
    }

    pub(super) const fn server_addr(&self) -> SocketAddrV4 {
        self.server_addr
    }

    /// The number that UDX knows a socket by; that of the default one when it is closed.
    pub(super) fn udx_id(&self, socket: rpc::SocketId) -> udx::SocketId {
        match socket {
            rpc::SocketId::Server => self.server.id(),
            rpc::SocketId::Client => self.client.id(),
            rpc::SocketId::Pool(number) => {
                let socket = self.pool.socket(number);
                socket.map_or(self.client.id(), |socket| socket.socket.id())
            }
        }
    }

    /// Sends a datagram. One that the system does not take is lost, as on the way.
    pub(super) fn send(&self, transmit: &rpc::Transmit) {
        let (to, payload) = (transmit.to, &transmit.payload);
        let sent = match transmit.socket {
            rpc::SocketId::Server => {
                self.server.socket().try_send(to.into(), payload, payload.len())
            }
            rpc::SocketId::Client => {
                self.client.socket().try_send(to.into(), payload, payload.len())
            }
            rpc::SocketId::Pool(number) => {
                if let Some(socket) = self.pool.socket(number) {
                    socket.send(to, payload, None);
                }
                return;
            }
        };
        if let Err(error) = sent {
            tracing::trace!(%error, "a datagram is lost");
        }
    }

    /// Sends a byte from a socket for crossing NATs.
    pub(super) fn punch(&self, socket: u32, to: SocketAddrV4, ttl: u8) {
        if let Some(socket) = self.pool.socket(socket) {
            socket.send(to, &PUNCH_BYTE, Some(ttl));
        }
    }
}

fn bind_server(udx: &Udx, options: &NodeOptions) -> Result<(UdxSocket, Datagrams), StartError> {
    let mut ports = options.server_ports();
    loop {
        let port = ports.next();
        match bind(udx, options.host, port.unwrap_or(0)) {
            Err(StartError::Bind { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && ports.len() > 0 => {}
            outcome => return outcome,
        }
    }
}

fn bind(udx: &Udx, host: Ipv4Addr, port: u16) -> Result<(UdxSocket, Datagrams), StartError> {
    let address = SocketAddr::from((host, port));
    udx.bind(address).map_err(|source| StartError::Bind { address, source })
}
