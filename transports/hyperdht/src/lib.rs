//! HyperDHT for tokio: the sockets, timers and tasks around `hyperdht-proto`.
//!
//! A [`Node`] joins a network, finds peers by their public keys and connects to them, and takes in
//! connections under as many keys of its own as wanted. It speaks the protocol of the npm package
//! hyperdht 6.34. Where both sides are behind NATs, holes are punched; where both NATs give each
//! destination another port, and until a hole is open, peers meet at a [relay] that one of them
//! [names](NodeOptions::relays).
//!
//! [`ConnectionPool`] keeps one connection to each peer of those that the two sides dial. It is no
//! [hyperswarm](https://github.com/holepunchto/hyperswarm): it does not keep connections to all who
//! announce a topic. IPv4 only, as the network is.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use hyperdht_rs::{KeyPair, Testnet};
//!
//! let testnet = Testnet::start(3).await?;
//! let (alice, bob) = (testnet.join().await?, testnet.join().await?);
//! let mut server = bob.listen(KeyPair::from_seed(&[2; 32])).await?;
//! let key = server.public_key();
//!
//! let answering = tokio::spawn(async move {
//!     let mut connection = server.accept().await?.accept().await.ok()?;
//!     let message = connection.recv().await.ok()??;
//!     connection.send(message).await.ok()?;
//!     connection.finish().await.ok()
//! });
//!
//! let mut connection = alice.connect(&KeyPair::from_seed(&[1; 32]), key).await?;
//! connection.send("hello"[..].into()).await?;
//! assert_eq!(connection.recv().await?.as_deref(), Some(&b"hello"[..]));
//! # answering.await?;
//! # Ok(()) }
//! ```
//!
//! [`HyperDht`] is one identity on a node as a [`Transport`](dht_prom_transport::Transport).

pub mod connection;
mod moderation;
pub mod nat;
pub mod node;
mod pool;
pub mod relay;
pub mod socket;
mod testnet;
mod transport;
pub mod udx;

pub use dht_prom_transport::{Key32Error, decode_key};
pub use hyperdht_proto::{
    dht::{MutableRecord, PeerRecord},
    hash::hash,
    keys::{KeyPair, PublicKey},
    rpc::Target,
};

pub use self::{
    connection::Connection,
    moderation::moderate_wakeups,
    node::{Bootstrap, Node, NodeOptions, Role, Server},
    pool::ConnectionPool,
    testnet::Testnet,
    transport::{HyperDht, public_key},
};

/// README.md's program is compiled and run by `cargo test --doc`.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
