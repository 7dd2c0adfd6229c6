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

//!
//! # Cost
//!
//! Beside `udx-native` 1.21.3 on one machine (2 vCPU Xeon under KVM, Linux 6.18, November 2026),
//! each end a process of its own on loopback, CPU in microseconds per answer, user and system;
//! `cargo bench -p hyperdht-rs --bench udx` repeats it. Absolute figures move with the machine and
//! its load, ratios of one run count.
//!
//! | work | sender -> receiver | p50 | MB/s | CPU of sender | of receiver |
//! |---|---|--:|--:|--:|--:|
//! | 50 bytes for 1 KB | libudx -> libudx | 33 us | 18 | 20 | 20 |
//! | | ours -> ours | 32 us | 20 | 19 | 19 |
//! | 50 bytes for 100 KB | libudx -> libudx | 718 us | 99 | 404 | 401 |
//! | | ours -> ours | 58 us | 1177 | 38 | 38 |
//! | 50 bytes for 1 MB | libudx -> libudx | 7.9 ms | 122 | 3902 | 3942 |
//! | | libudx -> ours | 5.4 ms | 173 | 3128 | 2214 |
//! | | ours -> libudx | 7.6 ms | 126 | 3123 | 4712 |
//! | | ours -> ours | 0.66 ms | 1385 | 186 | 489 |
//! | 1 GB one way | libudx -> libudx | | 104 | 4.45 s | 4.39 s |
//! | | libudx -> ours | | 125 | 3.25 s | 2.28 s |
//! | | ours -> libudx | | 117 | 2.73 s | 4.20 s |
//! | | ours -> ours | | 773 | 0.24 s | 0.61 s |
//!
//! A libudx sender sends packet by packet, more slowly than we receive: a third of our CPU there is
//! the system putting the process to sleep and waking it. Ours to ours, a third of the receiver's
//! is the allocator handing memory back and forth; an allocator that keeps it saves most of that.
//!
//! Over a forwarder that delays and drops (4 MB answers, MB/s):
//!
//! | round trip, loss | libudx -> libudx | libudx -> ours | same, an ack per packet | ours -> libudx | ours -> ours |
//! |---|--:|--:|--:|--:|--:|
//! | 20 ms, 0 % | 37 | 51 | 41 | 39 | 49 |
//! | 20 ms, 1 % | 31 | 44 | 31 | 24 | 44 |
//! | 20 ms, 5 % | 21 | 10 | 19 | 25 | 24 |
//! | 100 ms, 0 % | 13 | 18 | 18 | 17 | 23 |
//! | 100 ms, 1 % | 12 | 14 | 13 | 10 | 12 |
//! | 100 ms, 5 % | 8 | 7 | 9 | 6 | 7 |
//!
//! One run of four answers each, so a single timeout of a second shows (the 10 in the third row has
//! one, with a median as good as its neighbours'). Acknowledging in batches costs a libudx sender
//! nothing; it is the default, [`AckPolicy::EveryPacket`] the alternative.
//!
//! An idle stream costs 2 KB, buffers and handle included, and no CPU.

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
    ///
    /// # Panics
    /// Outside of a tokio runtime.
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
    /// The next datagram, if one is there.
    pub fn try_recv(&mut self) -> Option<Datagram> {
        self.receiver.try_recv().ok()
    }

    /// The next datagram; `None` when the socket is gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Datagram> {
        self.receiver.recv().await
    }
}

/// Datagrams that wait for [`Datagrams::recv`]: 2 MiB per socket at most.
const MAX_DATAGRAMS: usize = 1024;
