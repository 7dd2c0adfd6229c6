//! How a service and a dht-prometheus bridge talk.
//!
//! [`register`] gives a bridge the name and key of a service; [`MetricsServer`] answers the bridge's
//! scrapes under that key; [`message`] has the bytes of both conversations.
//!
//! A service needs two identities on its transport: a bridge keeps one connection per key, so what
//! dials it must not be what it scrapes.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

pub mod message;
mod register;
mod secret;
mod server;

pub use register::{RegisterError, register};
pub use secret::SharedSecret;
pub use server::{Collect, MetricsServer};
