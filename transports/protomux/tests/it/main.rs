//! What protomux promises to its users, over its public interface alone.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod channels;
mod hostile;
mod pipe;
mod rpc;
mod vectors;
