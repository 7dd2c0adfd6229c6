//! HyperDHT for tokio: the sockets, timers and tasks around `hyperdht-proto`.

#[cfg(feature = "peeroxide")]
pub mod peeroxide;
pub mod socket;
pub mod udx;
