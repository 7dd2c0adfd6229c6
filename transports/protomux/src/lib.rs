//! Protomux 3.12 and protomux-rpc 1.10: channels over any stream of whole messages, and requests on
//! a channel.
//!
//! [`Mux`] and [`Rpc`] are what an application uses; a [`MuxDriver`], which the caller spawns, moves
//! frames between them and the stream. Below is [`Channels`], which computes and does no I/O. This
//! crate does not encrypt, does not know peers, and never spawns a task. On HyperDHT one message of
//! the stream is one secret-stream message.
//!
//! ```
//! use std::sync::Arc;
//!
//! use bytes::Bytes;
//! use protomux::{Limits, Mux, Protocol, Reply, RpcFault, RpcHandler};
//! # use futures_util::{Sink, Stream};
//! # type Error = Box<dyn std::error::Error + Send + Sync>;
//! # type PipeError = tokio::sync::mpsc::error::SendError<Bytes>;
//! # fn pipe() -> (impl Sink<Bytes, Error = PipeError> + Unpin, impl Stream<Item = Result<Bytes, PipeError>> + Unpin) {
//! #     let (tx, rx) = tokio::sync::mpsc::channel::<Bytes>(8);
//! #     let tx = futures_util::sink::unfold(tx, |tx, frame| async move { tx.send(frame).await?; Ok(tx) });
//! #     let rx = futures_util::stream::unfold(rx, |mut rx| async move { Some((Ok(rx.recv().await?), rx)) });
//! #     (Box::pin(tx), Box::pin(rx))
//! # }
//!
//! struct Greeter;
//!
//! #[async_trait::async_trait]
//! impl RpcHandler for Greeter {
//!     async fn request(&self, method: &str, value: Bytes) -> Result<Reply, RpcFault> {
//!         match method {
//!             "greet" => Ok(Reply::new([b"hello ", &value[..]].concat())),
//!             _ => Err(RpcFault::unknown_method(method)),
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Error> {
//! # let ((tx_a, rx_b), (tx_b, rx_a)) = (pipe(), pipe());
//! let (server, server_driver) = Mux::new(tx_b, rx_b, Limits::default());
//! server.serve(Protocol::new("greeting"), Arc::new(Greeter));
//!
//! let (client, client_driver) = Mux::new(tx_a, rx_a, Limits::default());
//! let greet = async {
//!     let rpc = client.open(&Protocol::new("greeting"), None)?;
//!     let answer = rpc.request("greet", "world").await?;
//!     assert_eq!(answer, "hello world");
//!     client.close().await;
//!     Ok::<_, Error>(())
//! };
//! let (served, called, greeted) = tokio::join!(server_driver, client_driver, greet);
//! # (served?, called?, greeted?);
//! # Ok(())
//! # }
//! ```
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod channels;
mod driver;
mod error;
mod frame;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod limits;
mod mux;
mod protocol;
mod rpc;
mod state;

pub use channels::{ChannelId, Channels, Event, IncomingId, OutgoingMessage};
pub use driver::MuxDriver;
pub use error::{MuxError, OpenError, Violation};
pub use limits::{Limits, UNDECIDED_MESSAGE_COST};
pub use mux::Mux;
pub use protocol::Protocol;
pub use rpc::{
    Cause, DECODE_ERROR, ENCODE_ERROR, Payload, REQUEST_ERROR, Reply, Rpc, RpcError, RpcFault,
    RpcHandler, UNKNOWN_METHOD,
};
