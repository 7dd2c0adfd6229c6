//! Blind relays: nodes that join two peers whose NATs cannot be crossed, and see ciphertext only.
//!
//! [`RelayServer`] is such a node's service. It runs on a [`Node`](crate::Node) that can be reached from
//! everywhere, and is found by its public key like any other server. Peers name relays by that key in
//! [`NodeOptions`](crate::NodeOptions), and use those that the other side names.

mod channel;
mod client;
mod server;
#[cfg(test)]
mod tests;

pub use hyperdht_proto::blind_relay::{EndReason, Limits as RelayLimits};

pub(crate) use self::client::Relayed;
pub use self::{
    client::RelayError,
    server::{RelayCounters, RelayServer},
};
