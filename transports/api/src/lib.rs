//! The seam between dht-prometheus and whatever carries its bytes.
//!
//! A [`Transport`] reaches a peer by its [`PublicKey`] and yields a [`Session`]: an ordered,
//! authenticated, encrypted duplex that keeps message boundaries. Nothing else. How peers are
//! found, NATs crossed and bytes encrypted is a transport's affair; channels, requests, retries,
//! deadlines and HTTP stand above the seam and are the same for every transport.
//!
//! A transport value is *one identity*. Where several keys share one node (a bridge and a service in
//! one process, say), the transport's own constructor hands out one value per key.
//!
//! Implementing one: `dht-prom-transport-memory` is the model. Map foreign errors to
//! [`TransportError`] in one place, run the suite of its feature
//! `conformance`, and you are done.
//!
//! ```
//! use bytes::Bytes;
//! use dht_prom_transport::{Transport, TransportError};
//! use futures_util::{SinkExt, StreamExt};
//!
//! /// Sends one message to the peer and waits for one back.
//! async fn ask(
//!     transport: &dyn Transport,
//!     peer: dht_prom_transport::PublicKey,
//!     question: Bytes,
//! ) -> Result<Option<Bytes>, TransportError> {
//!     let mut session = transport.dial(peer).await?;
//!     session.tx.send(question).await?;
//!     session.rx.next().await.transpose()
//! }
//! ```

#[cfg(feature = "conformance")]
pub mod conformance;
mod delayed;
mod error;
mod faulty;
mod key;
mod metered;
mod session;
mod transport;

pub use delayed::Delayed;
pub use error::{ClosedBy, ErrorKind, TransportError};
pub use faulty::{Fault, Faulty};
pub use key::{Key32Error, PublicKey, decode_key};
pub use metered::{Meter, Metered, Role};
pub use session::{MAX_MESSAGE_BYTES, MessageSink, MessageStream, Session, SessionInfo};
pub use transport::{ACCEPT_BACKLOG, Incoming, Listener, Transport};
