//! What a caller may choose.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    congestion::{Bbr, CongestionFactory},
    stream::MAX_FRAME_LEN,
};

/// Settings of an endpoint; the same for all of its streams.
#[derive(Debug, Clone)]
pub struct Config {
    /// Streams that may be open at once. An idle one costs about 1.5 KB.
    pub max_streams: usize,
    /// Bytes that a peer may send ahead of the reader of a stream; as many again are kept while
    /// an earlier packet is missing. The default, 4 MiB, is what libudx advertises.
    pub receive_window: u32,
    /// Bytes that a stream takes from the application ahead of what it could send.
    pub send_queue: usize,
    /// When data is acknowledged.
    pub acks: AckPolicy,
    /// The largest link MTU to search for, IP and UDP headers included; 1200 turns the search off.
    pub max_mtu: u16,
    /// The congestion controller of new streams.
    pub congestion: CongestionFactory,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 65_536,
            receive_window: 4 * 1024 * 1024,
            send_queue: 256 * 1024,
            acks: AckPolicy::default(),
            max_mtu: 1500,
            congestion: Bbr::boxed,
        }
    }
}

/// When data is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckPolicy {
    /// Each packet at once, as libudx does.
    EveryPacket,
    /// Once per batch of datagrams that the socket had ready, and at once when `packets` are owed
    /// and at an END. For 1 ms at most, full packets in a row wait for the fourth, or for the eighth
    /// where bursts have ended by themselves, and the end of a burst waits for data that carries the
    /// acknowledgement where such data has been following. Each packet at once while one is missing
    /// and for four round trips after, and what had come already.
    Batched {
        /// Packets that one acknowledgement may cover.
        packets: u16,
    },
}

impl Default for AckPolicy {
    fn default() -> Self {
        Self::Batched { packets: 16 }
    }
}

/// Settings of one stream.
#[derive(Debug, Default)]
pub struct StreamOptions {
    /// How the reader gets the ordered bytes.
    pub reading: Reading,
    /// Decides about packets that come in on another socket than the stream's own, which before
    /// connect is every packet. Without it they are dropped.
    pub firewall: Option<Firewall>,
    /// Sends a heartbeat after each such time without anything under way.
    pub keep_alive: Option<Duration>,
}

/// How the reader gets the ordered bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// As they come.
    #[default]
    Bytes,
    /// Cut at the 3-byte lengths in front of each frame, as secret streams write them.
    Frames {
        /// A longer frame ends the stream; at most [`Reading::MAX_FRAME_LEN`].
        max_len: usize,
    },
}

impl Reading {
    /// The longest frame that a 3-byte length can announce.
    pub const MAX_FRAME_LEN: usize = MAX_FRAME_LEN;
}

/// The caller's number for one of its sockets. Streams are found whichever socket a packet came in
/// on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

/// Where packets of a stream go: out of which socket, to which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The socket on this side.
    pub socket: SocketId,
    /// The address of the peer.
    pub peer: SocketAddr,
}

/// What the firewall says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Ignore it.
    Drop,
    /// Work it through; the stream stays as it is.
    Accept,
    /// Work it through and, if the stream is not connected yet, connect it to the sender.
    Connect {
        /// The peer's id of the stream.
        remote_id: u32,
    },
}

/// A hook that sees where a packet came from before the packet is looked at.
///
/// It is called for each such packet, in the middle of working it through: it should be quick, and
/// must not call the endpoint or any handle of it, only note what it saw.
pub struct Firewall(Box<dyn FnMut(Path) -> Verdict + Send>);

impl Firewall {
    /// Asks `hook`.
    pub fn new(hook: impl FnMut(Path) -> Verdict + Send + 'static) -> Self {
        Self(Box::new(hook))
    }

    /// Connects to the sender of the first packet, whoever that is.
    pub fn connect_to_first(remote_id: u32) -> Self {
        let mut connected = false;
        Self::new(move |_| {
            if std::mem::replace(&mut connected, true) {
                Verdict::Drop
            } else {
                Verdict::Connect { remote_id }
            }
        })
    }

    pub(crate) fn ask(&mut self, path: Path) -> Verdict {
        (self.0)(path)
    }
}

impl fmt::Debug for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Firewall")
    }
}

/// The endpoint's settings, shared by its streams.
pub(crate) type Shared = Arc<Config>;
