//! A slower network.

use std::time::Duration;

use async_trait::async_trait;

use crate::{Listener, PublicKey, Session, Transport, TransportError};

/// A transport whose dials take `delay` longer: for tests of deadlines and for benches.
///
/// The delay runs on tokio's clock, so paused time makes it instant.
#[derive(Debug, Clone)]
pub struct Delayed<T> {
    inner: T,
    delay: Duration,
}

impl<T> Delayed<T> {
    /// Makes each dial of `inner` wait for `delay` first.
    pub const fn new(inner: T, delay: Duration) -> Self {
        Self { inner, delay }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Transport> Transport for Delayed<T> {
    fn local_key(&self) -> PublicKey {
        self.inner.local_key()
    }

    async fn dial(&self, peer: PublicKey) -> Result<Session, TransportError> {
        tokio::time::sleep(self.delay).await;
        self.inner.dial(peer).await
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, TransportError> {
        self.inner.listen().await
    }

    async fn network_changed(&self) {
        self.inner.network_changed().await;
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}
