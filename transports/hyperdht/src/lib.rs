//! HyperDHT for tokio: the sockets, timers and tasks around `hyperdht-proto`.

pub mod socket;
pub mod udx;
