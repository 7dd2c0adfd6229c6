//! A transport whose peers live in one process.
//!
//! It keeps every promise of [`dht_prom_transport`] and nothing more, which makes it the model for a
//! new transport and the ground on which the bridge is tested and measured. A message is handed
//! over as the [`Bytes`](bytes::Bytes) it came in: no byte is copied.
//!
//! ```
//! use dht_prom_transport::{PublicKey, Transport};
//! use dht_prom_transport_memory::MemoryNetwork;
//! use futures_util::{SinkExt, StreamExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), dht_prom_transport::TransportError> {
//! let network = MemoryNetwork::default();
//! let (alice, bob) = (network.join([1; 32].into()), network.join([2; 32].into()));
//!
//! let mut listener = bob.listen().await?;
//! let (dialled, accepted) = tokio::join!(alice.dial(bob.local_key()), async {
//!     listener.accept().await?.accept().await
//! });
//! dialled?.tx.send("hello".into()).await?;
//! assert_eq!(accepted?.rx.next().await.transpose()?, Some("hello".into()));
//! # Ok(())
//! # }
//! ```

mod listener;
mod network;
mod session;

pub use network::{Memory, MemoryNetwork};
