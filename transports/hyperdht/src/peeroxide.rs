//! HyperDHT through the published crate `peeroxide-dht` 1.7.3: the first form of the transport.
//!
//! A [`Node`] owns one UDP socket and its place in the DHT; a [`HyperDht`] is one identity on it,
//! and a [`Transport`](dht_prom_transport::Transport). Several identities share a node. The crate's
//! swarm is not used: it accepts each key once in its life, and answers a handshake before anyone
//! was asked. Nor is its dial, which depends on hole punching that fails. Handshakes are made and
//! answered here instead.
//!
//! # Limits
//!
//! They are those of `peeroxide-dht` and `libudx` 1.7.3:
//!
//! - The node must be reachable from outside, on the port it sends from: no hole is punched. Peers
//!   may be behind a NAT.
//! - A dial to a peer that does not know itself to be reachable takes a second more, because the
//!   crate loses packets that overtake the answer to a handshake.
//! - A message takes two round trips and the crate's timers, about 2 ms on loopback; large ones move
//!   at about 1.3 MB/s.
//! - The receive window is never closed. A session that is not read takes [`UNREAD_BYTES`] and is
//!   then cut off, where other transports make the sender wait.
//! - Half-open sessions do not exist: the end of one direction is the end of both.
//! - A query that meets a DHT node which has gone waits 4 seconds for it; the crate forgets such nodes
//!   slowly.
//! - A peer that vanishes without a word is noticed 20 seconds later.
//! - IPv4 only.

mod announce;
mod dial;
mod door;
mod error;
mod handshake;
mod identity;
mod listener;
mod node;
mod pump;
mod session;
mod testnet;

pub use identity::HyperDht;
pub use node::{Bootstrap, Node, NodeOptions, public_key};
pub use pump::UNREAD_BYTES;
pub use testnet::Testnet;

/// The transport's name in sessions and errors.
const NAME: &str = "hyperdht";
