//! UDX streams for tokio.
//!
//! [`Udx`] is one node's UDX: a task owns its sockets, its timers and the state machine of
//! `hyperdht_proto::udx`; everything else is a handle. Dropping the last handle ends the task.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use hyperdht_rs::udx::{Config, Firewall, StreamOptions, Udx};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! let (client, server) = (Udx::new(Config::default()), Udx::new(Config::default()));
//! let (client_socket, _) = client.bind("127.0.0.1:0".parse()?)?;
//! let (server_socket, _) = server.bind("127.0.0.1:0".parse()?)?;
//!
//! let waiting = StreamOptions { firewall: Some(Firewall::connect_to_first(1)), ..Default::default() };
//! let mut accepted = server.open(2, waiting)?;
//! let mut dialled = client.open(1, StreamOptions::default())?;
//! dialled.connect(&client_socket, 2, server_socket.local_addr())?;
//!
//! dialled.write_all(b"hello").await?;
//! dialled.shutdown().await?;
//! let mut text = String::new();
//! accepted.read_to_string(&mut text).await?;
//! assert_eq!(text, "hello");
//! # Ok(()) }
//! ```

mod driver;
mod shared;
mod stream;

use std::{fmt, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::sync::mpsc;

pub use hyperdht_proto::udx::{
    AckPolicy, CallError, Config, Counters, Firewall, OpenError, Path, Reading, SocketId,
    StreamCounts, StreamError, StreamInfo, StreamOptions, Verdict, congestion,
};

pub use self::stream::UdxStream;
use self::{driver::Driver, shared::Handle};
use crate::socket::Socket;

/// One node's UDX. Clones are the same node.
#[derive(Debug, Clone)]
pub struct Udx {
    handle: Handle,
}

impl Udx {
    /// Starts the task, on the runtime that this is called in.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(config: Config) -> Self {
        let each_packet = config.acks == AckPolicy::EveryPacket;
        let (handle, shared) = Handle::new(config);
        tokio::spawn(Driver::new(shared, each_packet));
        Self { handle }
    }

    /// Binds a socket; port 0 lets the system choose. What comes in there and is for no stream is
    /// found in [`Datagrams`].
    ///
    /// # Errors
    /// Those of the system.
    pub fn bind(&self, addr: SocketAddr) -> io::Result<(UdxSocket, Datagrams)> {
        let socket = Arc::new(Socket::bind(addr)?);
        let (sender, receiver) = mpsc::channel(MAX_DATAGRAMS);
        let id = self.handle.add_socket(Arc::clone(&socket), sender);
        let socket = UdxSocket { handle: self.handle.clone(), id, socket };
        Ok((socket, Datagrams { receiver }))
    }

    /// Makes a stream that peers address as `id`, over whichever socket they reach this node.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, id: u32, options: StreamOptions) -> Result<UdxStream, OpenError> {
        let key = self.handle.lock().endpoint.open(id, options)?;
        Ok(UdxStream::new(self.handle.clone(), id, key))
    }

    /// What came in and was not worked with.
    pub fn counters(&self) -> Counters {
        *self.handle.lock().endpoint.counters()
    }
}

/// A socket of a [`Udx`]. When it is dropped, what is queued is sent, and then it is closed.
pub struct UdxSocket {
    handle: Handle,
    id: SocketId,
    socket: Arc<Socket>,
}

impl UdxSocket {
    /// The address that it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Its number, as firewalls see it.
    pub const fn id(&self) -> SocketId {
        self.id
    }

    /// Sends a datagram that is no stream's. Cancel-safe.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn send_to(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to(to, datagram).await
    }

    /// The socket below.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }
}

impl fmt::Debug for UdxSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdxSocket")
            .field("id", &self.id)
            .field("local", &self.local_addr())
            .finish_non_exhaustive()
    }
}

impl Drop for UdxSocket {
    fn drop(&mut self) {
        self.handle.remove_socket(self.id);
    }
}

/// Datagrams of other protocols that came in on a socket, in order. What exceeds 1,024 waiting
/// ones is dropped, as the network would.
#[derive(Debug)]
pub struct Datagrams {
    receiver: mpsc::Receiver<Datagram>,
}

/// A datagram of another protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// What it says.
    pub bytes: Bytes,
}

impl Datagrams {
    /// The next datagram; `None` when the socket is gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Datagram> {
        self.receiver.recv().await
    }
}

/// Datagrams that wait for [`Datagrams::recv`]: 2 MiB per socket at most.
const MAX_DATAGRAMS: usize = 1024;
