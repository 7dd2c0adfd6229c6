//! HyperDHT: peers reached by public key, over UDP, compatible with the Node packages.

#[cfg(feature = "peeroxide")]
pub mod peeroxide;
