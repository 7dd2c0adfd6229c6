//! Questions to many nodes at once, out of a node's two sockets.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyperdht_proto::rpc::{Message, Reply, Request, commands};
use rand::{RngExt as _, rngs::StdRng};
use tokio::{net::UdpSocket, time::timeout_at};

use crate::node::{NodeOptions, StartError};

/// One of the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Socket {
    Client,
    Server,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask {
    Ping,
    /// For nodes near to a random place.
    FindNode,
    /// To answer to this port. What comes counts only when it comes to the server socket.
    PingNat(u16),
}

/// A node's answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// Whose.
    pub(super) from: SocketAddrV4,
    /// Where it sees us.
    pub(super) seen: SocketAddrV4,
    /// From the last transmission before it.
    pub(super) rtt: Duration,
    pub(super) closer_nodes: Vec<SocketAddrV4>,
}

#[derive(Debug)]
pub(super) struct Prober {
    server: UdpSocket,
    client: UdpSocket,
    server_port: u16,
    client_port: u16,
    rng: StdRng,
    refused: Option<io::ErrorKind>,
}

impl Prober {
    /// Binds the sockets as a node does.
    pub(super) async fn bind(options: &NodeOptions) -> Result<Self, StartError> {
        let server = bind_server(options).await?;
        let client = bind(options.host, 0).await?;
        let port = |socket: &UdpSocket| socket.local_addr().map_or(0, |address| address.port());
        Ok(Self {
            server_port: port(&server),
            client_port: port(&client),
            server,
            client,
            rng: rand::make_rng(),
            refused: None,
        })
    }

    pub(super) const fn port(&self, socket: Socket) -> u16 {
        match socket {
            Socket::Client => self.client_port,
            Socket::Server => self.server_port,
        }
    }

    /// Why the system did not take a datagram, if it did not.
    pub(super) const fn refused(&self) -> Option<io::ErrorKind> {
        self.refused
    }

    /// Asks these nodes, those who do not answer up to four times, a second apart; gives the answers
    /// in the order of the nodes.
    pub(super) async fn ask(
        &mut self,
        socket: Socket,
        ask: Ask,
        nodes: &[SocketAddrV4],
    ) -> Vec<Answer> {
        let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
        let first: u16 = self.rng.random();
        let tid = |index: usize| first.wrapping_add(u16::try_from(index).unwrap_or(u16::MAX));
        let target = self.rng.random();
        for _ in 0..ATTEMPTS {
            let sent = Instant::now();
            for (index, node) in nodes.iter().enumerate() {
                if !answers.contains_key(&index) {
                    self.send(socket, &request(ask, tid(index), *node, target)).await;
                }
            }
            let deadline = sent + PATIENCE;
            while answers.len() < nodes.len()
                && let Ok(Some((from, to, reply))) =
                    timeout_at(deadline.into(), self.receive()).await
            {
                let index = usize::from(reply.tid.wrapping_sub(first));
                let expected = nodes.get(index).is_some_and(|node| *node == from);
                let wanted = if matches!(ask, Ask::PingNat(_)) { Socket::Server } else { socket };
                if expected && to == wanted {
                    let (seen, closer_nodes) = (reply.to, reply.closer_nodes);
                    let answer = Answer { from, seen, rtt: sent.elapsed(), closer_nodes };
                    answers.entry(index).or_insert(answer);
                }
            }
            if answers.len() == nodes.len() {
                break;
            }
        }
        answers.into_values().collect()
    }

    async fn send(&mut self, socket: Socket, request: &Request) {
        let to = SocketAddr::V4(request.to);
        let socket = match socket {
            Socket::Client => &self.client,
            Socket::Server => &self.server,
        };
        if let Err(error) = socket.send_to(&request.encode(), to).await {
            self.refused.get_or_insert(error.kind());
        }
    }

    /// The next reply, and the socket that it came to; nothing when the sockets do not work. Cancel-safe.
    async fn receive(&self) -> Option<(SocketAddrV4, Socket, Reply)> {
        let (mut at_client, mut at_server) = ([0; MAX_DATAGRAM], [0; MAX_DATAGRAM]);
        loop {
            let (received, socket) = tokio::select! {
                received = self.client.recv_from(&mut at_client) => (received, Socket::Client),
                received = self.server.recv_from(&mut at_server) => (received, Socket::Server),
            };
            let (len, from) = received.ok()?;
            let datagram = match socket {
                Socket::Client => at_client.get(..len),
                Socket::Server => at_server.get(..len),
            };
            let message = datagram.and_then(|datagram| Message::decode(datagram).ok());
            if let (Some(Message::Reply(reply)), SocketAddr::V4(from)) = (message, from) {
                return Some((from, socket, reply));
            }
        }
    }
}

fn request(ask: Ask, tid: u16, to: SocketAddrV4, target: [u8; 32]) -> Request {
    let (command, target, value) = match ask {
        Ask::Ping => (commands::PING, None, None),
        Ask::FindNode => (commands::FIND_NODE, Some(target), None),
        Ask::PingNat(port) => {
            (commands::PING_NAT, None, Some(Bytes::copy_from_slice(&port.to_le_bytes())))
        }
    };
    Request { tid, to, id: None, token: None, internal: true, command, target, value }
}

async fn bind_server(options: &NodeOptions) -> Result<UdpSocket, StartError> {
    let mut ports = options.server_ports();
    loop {
        let port = ports.next();
        match bind(options.host, port.unwrap_or(0)).await {
            Err(StartError::Bind { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && ports.len() > 0 => {}
            outcome => return outcome,
        }
    }
}

async fn bind(host: Ipv4Addr, port: u16) -> Result<UdpSocket, StartError> {
    let address = SocketAddr::from((host, port));
    UdpSocket::bind(address).await.map_err(|source| StartError::Bind { address, source })
}

/// Transmissions of one question.
const ATTEMPTS: usize = 4;

/// How long each is waited for (dht-rpc's own timeout).
const PATIENCE: Duration = Duration::from_secs(1);

/// No message of DHT RPC is longer.
const MAX_DATAGRAM: usize = 1500;
