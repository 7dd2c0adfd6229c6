//! Answering a bridge's scrapes.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dht_prom_transport::{Incoming, Listener, PublicKey, Session, Transport, TransportError};
use protomux::{Limits, Mux, Protocol, Reply, RpcFault, RpcHandler};
use tokio::task::JoinSet;

use crate::message::{METRICS_METHOD, METRICS_PROTOCOL, MetricsRequest, MetricsResponse};

/// Gathers a service's metrics.
#[async_trait]
pub trait Collect: Send + Sync + 'static {
    /// The metrics now, in Prometheus' text format or OpenMetrics.
    ///
    /// # Errors
    /// A reason that the bridge passes on to Prometheus.
    async fn collect(&self) -> Result<Bytes, String>;
}

/// For metrics that are at hand.
#[async_trait]
impl<F: Fn() -> Bytes + Send + Sync + 'static> Collect for F {
    async fn collect(&self) -> Result<Bytes, String> {
        Ok(self())
    }
}

/// Serves metrics to one bridge under the key of a transport.
#[derive(Debug)]
pub struct MetricsServer {
    listener: Box<dyn Listener>,
    bridge: PublicKey,
}

/// Sessions a bridge may have with us at once; one is what it needs.
const MAX_SESSIONS: usize = 16;

impl MetricsServer {
    /// Makes us reachable for `bridge`, and for nobody else.
    ///
    /// # Errors
    /// See [`Transport::listen`].
    pub async fn listen(
        transport: &dyn Transport,
        bridge: PublicKey,
    ) -> Result<Self, TransportError> {
        Ok(Self { listener: transport.listen().await?, bridge })
    }

    /// Answers scrapes with what `collect` gathers, until the transport stops.
    ///
    /// Cancel-safe: dropping it ends the sessions.
    pub async fn run(mut self, collect: impl Collect) {
        let handler = Arc::new(Handler { collect });
        let mut sessions = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                incoming = self.listener.accept() => incoming,
                Some(_ended) = sessions.join_next() => continue,
            };
            match incoming {
                Ok(incoming) if incoming.peer() != self.bridge => {
                    let peer = incoming.peer();
                    tracing::info!(%peer, "Firewall blocked unauthorised connection attempt");
                    incoming.refuse();
                }
                Ok(incoming) if sessions.len() >= MAX_SESSIONS => incoming.refuse(),
                Ok(incoming) => {
                    let handler: Arc<dyn RpcHandler> = Arc::clone(&handler) as _;
                    sessions.spawn(serve(incoming, handler));
                }
                Err(TransportError::Closed { .. }) => return,
                Err(error) => tracing::debug!(%error, "a connection attempt failed"),
            }
        }
    }
}

async fn serve(incoming: Box<dyn Incoming>, handler: Arc<dyn RpcHandler>) {
    let Ok(Session { peer, tx, rx, .. }) = incoming.accept().await else { return };
    tracing::info!(%peer, "Prom client opened connection");
    let (mux, driver) = Mux::new(tx, rx, Limits::default());
    mux.serve(Protocol::new(METRICS_PROTOCOL), handler);
    let ended = driver.await;
    tracing::info!(%peer, ?ended, "Prom client closed connection");
}

struct Handler<C> {
    collect: C,
}

#[async_trait]
impl<C: Collect> RpcHandler for Handler<C> {
    async fn request(&self, method: &str, value: Bytes) -> Result<Reply, RpcFault> {
        if method != METRICS_METHOD {
            return Err(RpcFault::unknown_method(method));
        }
        MetricsRequest::decode(&value).map_err(|error| RpcFault::decode(error.to_string()))?;
        Ok(Reply::new(match self.collect.collect().await {
            Ok(metrics) => MetricsResponse::Metrics(metrics),
            Err(reason) => MetricsResponse::Failed(reason),
        }))
    }
}
