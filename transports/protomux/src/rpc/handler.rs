//! Who answers the peer's requests.

use async_trait::async_trait;
use bytes::Bytes;

use super::{Reply, RpcFault};

/// Answers the requests that come on a channel.
///
/// It runs inside the [`MuxDriver`](crate::MuxDriver), so that an answer costs no task: it must not
/// block, and what computes for long belongs into a task of its own that it awaits. It may call the
/// mux. When the driver is dropped, so is every request being handled.
#[async_trait]
pub trait RpcHandler: Send + Sync {
    /// Answers one request. `value` is a slice of the received frame.
    ///
    /// # Errors
    /// What the peer's caller is to see: [`RpcFault::unknown_method`] for a method that is not
    /// answered, [`RpcFault::decode`] for a value that cannot be read, [`RpcFault::request`] or a
    /// fault of its own for a failure.
    async fn request(&self, method: &str, value: Bytes) -> Result<Reply, RpcFault>;

    /// Takes note of an event, a request without an answer. Ignores it unless implemented.
    fn event(&self, method: &str, value: Bytes) {
        let _ = (method, value);
    }

    /// A channel that this handler answered has closed, by either side or with the mux.
    fn closed(&self) {}
}
