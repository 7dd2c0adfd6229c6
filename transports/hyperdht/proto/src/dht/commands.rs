//! The numbers of HyperDHT (`hyperdht/lib/constants.js`).

pub(super) const PEER_HANDSHAKE: u64 = 0;
pub(super) const PEER_HOLEPUNCH: u64 = 1;
pub(super) const FIND_PEER: u64 = 2;
pub(super) const LOOKUP: u64 = 3;
pub(super) const ANNOUNCE: u64 = 4;
pub(super) const UNANNOUNCE: u64 = 5;
pub(super) const MUTABLE_PUT: u64 = 6;
pub(super) const MUTABLE_GET: u64 = 7;
pub(super) const IMMUTABLE_PUT: u64 = 8;
pub(super) const IMMUTABLE_GET: u64 = 9;
pub(super) const PLUGIN: u64 = 10;

/// A node holds another value under the sequence number of a mutable record that it was to store.
pub const ERROR_SEQ_REUSED: u64 = 16;
/// A node holds a later version of a mutable record that it was to store.
pub const ERROR_SEQ_TOO_LOW: u64 = 17;
