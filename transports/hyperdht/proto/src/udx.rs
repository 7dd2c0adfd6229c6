//! UDX: ordered, reliable streams and unordered messages over UDP, as libudx speaks it.
//!
//! [`Endpoint`] is the whole of it: a table of streams that computes on datagrams and the time.
//! Read on in `endpoint` for how packets find their stream, `stream` for the state machine, and
//! [`congestion`] for how fast it may send. The wire format is in `packet`.
//!
//! ```
//! use std::time::Instant;
//! use hyperdht_proto::udx::{Config, Endpoint, Firewall, Path, SocketId, StreamOptions};
//!
//! let now = Instant::now();
//! let mut client = Endpoint::new(now, Config::default());
//! let mut server = Endpoint::new(now, Config::default());
//! let [client_addr, server_addr] = ["192.0.2.1:1", "192.0.2.2:2"].map(|a| a.parse().unwrap());
//!
//! let waiting = StreamOptions { firewall: Some(Firewall::connect_to_first(7)), ..Default::default() };
//! let accepted = server.open(8, waiting)?;
//! let dialled = client.open(7, StreamOptions::default())?;
//! client.connect(now, dialled, Path { socket: SocketId(0), peer: server_addr }, 8)?;
//! client.write_slice(dialled, b"hello")?;
//!
//! let mut wire = Vec::new();
//! while let Some(transmit) = client.poll_transmit(now, &mut wire, 1) {
//!     assert_eq!(transmit.path.peer, server_addr);
//!     server.handle_datagram(now, Path { socket: SocketId(0), peer: client_addr }, &wire);
//! }
//! assert_eq!(&server.read(accepted).unwrap()[..], b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
pub mod congestion;
mod endpoint;
mod error;
mod packet;
mod seq;
mod stream;
mod time;
mod window;

pub use config::{AckPolicy, Config, Firewall, Path, Reading, SocketId, StreamOptions, Verdict};
pub use endpoint::{Counters, Endpoint, Handled, StreamKey, Transmit};
pub use error::{CallError, OpenError, StreamError};
pub use packet::{
    Body, Flags, HEADER_LEN, Header, MAX_DATAGRAM_LEN, MAX_SACK_BLOCKS, PacketError,
    SACK_BLOCK_LEN, SackBlock, Sacks,
};
pub use seq::Seq;
pub use stream::{Ready, StreamCounts, StreamInfo};
pub use time::Time;
