//! HyperDHT without I/O: state machines that compute and nothing else.
//!
//! No tokio, no sockets, no clock, no random source of its own: time and randomness are arguments,
//! datagrams come in by a call and go out by another. A whole network of nodes therefore runs in
//! one thread of a test, with loss and reordering, reproducibly.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

pub mod blind_relay;
pub mod connect;
pub mod dht;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod handshake;
pub mod hash;
pub mod keys;
pub mod noise;
pub mod rpc;
pub mod secret_stream;
#[cfg(feature = "sim")]
pub mod sim;
pub mod udx;

#[cfg(test)]
mod test_vectors;

/// README.md's program is compiled and run by `cargo test --doc`.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
