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
//! Beside `udx-native` 1.21.3 on one machine (2 vCPU AMD EPYC, Zen 4, under Firecracker, Linux 6.18,
//! November 2026), each end a process of its own on loopback, with
//! [moderated wake-ups](crate::moderate_wakeups) at our ends, CPU in microseconds per answer, user and
//! system; `cargo bench -p hyperdht-rs --bench udx` repeats it and gave all of this in one run. Absolute
//! figures move with the machine and its load, ratios of one run count.
//!
//! | work | sender -> receiver | p50 | MB/s | CPU of sender | of receiver |
//! |---|---|--:|--:|--:|--:|
//! | 50 bytes for 1 KB | libudx -> libudx | 129 us | 7.5 | 71 | 68 |
//! | | ours -> ours | 102 us | 9.9 | 48 | 50 |
//! | 50 bytes for 100 KB | libudx -> libudx | 886 us | 102 | 817 | 795 |
//! | | libudx -> ours | 715 us | 104 | 691 | 472 |
//! | | ours -> libudx | 950 us | 106 | 548 | 838 |
//! | | ours -> ours | 176 us | 520 | 103 | 109 |
//! | 50 bytes for 1 MB | libudx -> libudx | 8.2 ms | 128 | 7784 | 7666 |
//! | | libudx -> ours | 5.3 ms | 197 | 5455 | 2805 |
//! | | ours -> libudx | 8.0 ms | 131 | 4741 | 7850 |
//! | | ours -> ours | 1.0 ms | 1012 | 538 | 937 |
//! | 1 GiB one way | libudx -> libudx | | 153 | 6.46 s | 6.99 s |
//! | | libudx -> ours | | 235 | 4.60 s | 2.37 s |
//! | | ours -> libudx | | 172 | 3.62 s | 6.30 s |
//! | | ours -> ours | | 1005 | 0.46 s | 1.06 s |
//!
//! The first row is mostly waiting to be woken: two processes that pass the same datagrams to and fro
//! over plain blocking sockets take 95 to 98 us on this machine. On a Xeon under KVM the row took 33 and
//! 32 us.
//!
//! A libudx sender sends packet by packet, more slowly than we receive. Without moderation our receiver
//! is woken for every one or two of them: in three rounds, taken in turns, it took 3991 to 4264 us for
//! 1 MB without (0.53 to 0.57 of what libudx took beside it), and 2533 to 2953 with (0.34 to 0.37).
//!
//! The floor: receiving the 725 packets of 1 MB costs the system calls alone 170 us on a faster machine,
//! one acknowledgement per 16 of them 38 us, 208 us together. In bulk our receiver takes 1034 us per MiB
//! from a sender of ours, 5 times that floor, and 2316 us from libudx, 11 times, because packets come one
//! by one. Our sender takes 450 us, acknowledgements included.
//!
//! Over a forwarder that delays and drops (4 MB answers, MB/s at the median of twelve; in brackets
//! the slowest in seconds), on a Xeon under KVM:
//!
//! | round trip, loss | libudx -> libudx | libudx -> ours | same, an ack per packet | ours -> libudx | ours -> ours |
//! |---|--:|--:|--:|--:|--:|
//! | 20 ms, 0 % | 55 (0.2) | 74 (0.1) | 79 (0.1) | 81 (0.1) | 105 (0.0) |
//! | 20 ms, 1 % | 45 (0.2) | 41 (0.1) | 46 (1.1) | 45 (0.1) | 55 (0.2) |
//! | 20 ms, 5 % | 27 (0.2) | 36 (0.3) | 34 (1.1) | 20 (0.4) | 19 (0.3) |
//! | 100 ms, 0 % | 17 (0.4) | 20 (0.2) | 19 (0.3) | 26 (0.3) | 26 (0.2) |
//! | 100 ms, 1 % | 12 (0.4) | 13 (0.4) | 13 (0.4) | 13 (0.6) | 17 (0.3) |
//! | 100 ms, 5 % | 8 (0.9) | 10 (0.6) | 10 (1.5) | 5 (1.4) | 5 (1.6) |
//!
//! A libudx sender is as fast with the default, [`AckPolicy::Batched`], as with [`AckPolicy::EveryPacket`]
//! where packets are lost, because both do the same there: batches are for clean paths, and four round
//! trips after a gap each packet still has its own acknowledgement. Batches there too gave 10 MB/s against
//! 19 at 20 ms and 5 %, in means of four answers. A single timeout of a second, which libudx to libudx
//! meets as well, decides about the slowest.
//!
//! At 5 % our sender is slower than libudx here, and why is not known: with the 4 MiB of buffer that the
//! forwarder asks for, instead of 208 KiB, it came to 24 and 4 MB/s. On a simulated gigabit with 5 %, 2 ms of
//! jitter and a queue of 2 ms, ours to ours gives 30 MB/s at 20 ms and 10 at 100 ms (`udx_simulation`).
//!
//! An idle stream costs 2 KB, buffers and handle included, and no CPU.

mod bell;
mod driver;
mod shared;
mod stream;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::mpsc;

pub use hyperdht_proto::udx::{
    AckPolicy, CallError, Config, Counters, Firewall, OpenError, Path, Reading, SocketId,
    StreamCounts, StreamError, StreamInfo, StreamOptions, Verdict, congestion,
};

pub(crate) use self::stream::Moved;
pub use self::stream::UdxStream;
use self::{
    driver::Driver,
    shared::{Foreign, Handle},
};
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
        let (handle, shared) = Handle::new(config);
        tokio::spawn(Driver::new(shared));
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
        let id = self.handle.add_socket(Arc::clone(&socket), Foreign::Own(sender));
        let socket = UdxSocket { handle: self.handle.clone(), id, socket };
        Ok((socket, Datagrams { receiver }))
    }

    /// Binds one of many sockets to any port of `host`. Such sockets cost the task nothing while
    /// they are quiet, and what comes in there for no stream goes into one queue, with a number of the
    /// caller's.
    pub(crate) fn bind_to_pool(
        &self,
        host: IpAddr,
        number: u32,
        queue: &mpsc::Sender<(u32, Datagram)>,
    ) -> io::Result<UdxSocket> {
        let socket = Arc::new(Socket::bind(SocketAddr::new(host, 0))?);
        let foreign = Foreign::Pool(number, queue.clone());
        let id = self.handle.add_socket(Arc::clone(&socket), foreign);
        Ok(UdxSocket { handle: self.handle.clone(), id, socket })
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
pub(crate) const MAX_DATAGRAMS: usize = 1024;
