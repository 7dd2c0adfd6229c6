//! How a service and a dht-prometheus bridge talk.
//!
//! [`message`] has what they say.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

pub mod message;
mod secret;

pub use secret::SharedSecret;
