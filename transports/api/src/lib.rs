//! The seam between dht-prometheus and whatever carries its bytes.

mod error;
mod key;

pub use error::{ClosedBy, ErrorKind, TransportError};
pub use key::{Key32Error, PublicKey, decode_key};
