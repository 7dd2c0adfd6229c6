//! What the fuzz targets run: any bytes in, no panic and no broken promise out.
//!
//! `fuzz/fuzz_targets` hands these to libFuzzer; `tests/fuzz_smoke.rs` runs them on random bytes and
//! on mutated recordings. A function that panics has found something.

mod codecs;
mod peers;
mod relay;
mod udx;

pub use self::{
    codecs::{encoding, payloads, rpc_message},
    peers::{handshake, secret_stream},
    relay::blind_relay,
    udx::{udx_packet, udx_stream},
};
pub use crate::dht::fuzz::{dht_node, dht_values};

/// Now, in a world in which only differences to it are ever looked at.
#[expect(clippy::disallowed_methods, reason = "the clock is moved from here by hand")]
pub(crate) fn epoch() -> std::time::Instant {
    std::time::Instant::now()
}
