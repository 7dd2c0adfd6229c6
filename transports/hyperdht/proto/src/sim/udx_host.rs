//! A host that speaks UDX and nothing else.

use std::{net::SocketAddr, time::Instant};

use super::{Departure, Host};
use crate::udx::{Config, Endpoint, Path, SocketId};

/// An endpoint with one socket.
#[derive(Debug)]
pub struct UdxHost {
    /// The state machine, to call.
    pub endpoint: Endpoint,
    address: SocketAddr,
}

impl UdxHost {
    /// An endpoint at `address`.
    pub fn new(now: Instant, address: SocketAddr, config: Config) -> Self {
        Self { endpoint: Endpoint::new(now, config), address }
    }

    /// The path from here to `peer`.
    pub const fn path_to(&self, peer: SocketAddr) -> Path {
        Path { socket: SOCKET, peer }
    }
}

impl Host for UdxHost {
    fn handle_datagram(
        &mut self,
        now: Instant,
        _local: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
    ) {
        self.endpoint.handle_datagram(now, self.path_to(from), datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.endpoint.poll_timeout()
    }

    fn poll_transmit(&mut self, now: Instant, datagram: &mut Vec<u8>) -> Option<Departure> {
        let transmit = self.endpoint.poll_transmit(now, datagram, 1)?;
        Some(Departure { from: self.address, to: transmit.path.peer, hops: HOPS })
    }
}

const SOCKET: SocketId = SocketId(0);

/// What systems start with.
const HOPS: u8 = 64;
