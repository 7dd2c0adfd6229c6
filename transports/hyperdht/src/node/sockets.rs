//! The sockets of a node, and this host's addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
};

use hyperdht_proto::{dht::DEFAULT_PORT, rpc};

use super::options::{NodeOptions, StartError};
use crate::udx::{self, Datagrams, Udx, UdxSocket};

/// The two sockets: DHT messages and UDX streams go over both.
#[derive(Debug)]
pub(super) struct Sockets {
    server: UdxSocket,
    client: UdxSocket,
    server_addr: SocketAddrV4,
}

/// What comes in on them for the DHT.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) server: Datagrams,
    pub(super) client: Datagrams,
}

impl Sockets {
    pub(super) fn bind(udx: &Udx, options: &NodeOptions) -> Result<(Self, Inbound), StartError> {
        let (server, server_datagrams) = bind_server(udx, options)?;
        let (client, client_datagrams) = bind(udx, options.host, 0)?;
        let server_addr = SocketAddrV4::new(options.host, server.local_addr().port());
        let sockets = Self { server, client, server_addr };
        Ok((sockets, Inbound { server: server_datagrams, client: client_datagrams }))
    }

    pub(super) const fn server_addr(&self) -> SocketAddrV4 {
        self.server_addr
    }

    /// The number that UDX knows a socket by.
    pub(super) const fn udx_id(&self, socket: rpc::SocketId) -> udx::SocketId {
        self.of(socket).id()
    }

    /// Waits until both take datagrams.
    pub(super) async fn writable(&self) {
        for socket in [&self.server, &self.client] {
            if let Err(error) = socket.socket().writable().await {
                tracing::warn!(%error, "a UDP socket does not work");
            }
        }
    }

    /// Sends a datagram. One that the system does not take is lost, as on the way.
    pub(super) fn send(&self, transmit: &rpc::Transmit) {
        let socket = self.of(transmit.socket).socket();
        let payload = &transmit.payload;
        if let Err(error) = socket.try_send(transmit.to.into(), payload, payload.len()) {
            tracing::trace!(%error, "a datagram is lost");
        }
    }

    const fn of(&self, socket: rpc::SocketId) -> &UdxSocket {
        match socket {
            rpc::SocketId::Server => &self.server,
            // Sockets for crossing NATs would be found here by their number.
            rpc::SocketId::Client | rpc::SocketId::Pool(_) => &self.client,
        }
    }
}

fn bind_server(udx: &Udx, options: &NodeOptions) -> Result<(UdxSocket, Datagrams), StartError> {
    if let Some(port) = options.port {
        return bind(udx, options.host, port);
    }
    for port in DEFAULT_PORT..DEFAULT_PORT + DEFAULT_PORTS {
        match bind(udx, options.host, port) {
            Err(StartError::Bind { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {}
            outcome => return outcome,
        }
    }
    bind(udx, options.host, 0)
}

fn bind(udx: &Udx, host: Ipv4Addr, port: u16) -> Result<(UdxSocket, Datagrams), StartError> {
    let address = SocketAddr::from((host, port));
    udx.bind(address).map_err(|source| StartError::Bind { address, source })
}

/// Where peers behind the same NAT reach the server socket: the address it is bound to, or those of
/// all interfaces; loopback only when there is no other (`hyperdht/lib/server.js`).
pub(super) fn local_addresses(server: SocketAddrV4) -> Vec<SocketAddrV4> {
    if !server.ip().is_unspecified() {
        return vec![server];
    }
    let with_port = |ip| SocketAddrV4::new(ip, server.port());
    let mut addresses: Vec<_> = interfaces().into_iter().map(with_port).collect();
    addresses.truncate(MAX_LOCAL);
    if addresses.is_empty() {
        addresses.push(with_port(Ipv4Addr::LOCALHOST));
    }
    addresses
}

fn interfaces() -> Vec<Ipv4Addr> {
    let all = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::debug!(%error, "the interfaces of this host are not known");
        Vec::new()
    });
    let outward = all.iter().filter(|interface| !interface.is_loopback());
    outward
        .filter_map(|interface| match interface.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// Ports in a row that are tried (`dht-rpc/index.js`).
const DEFAULT_PORTS: u16 = 5;

/// Addresses told to peers: eight bytes each in a handshake that has to fit a datagram.
const MAX_LOCAL: usize = 8;
