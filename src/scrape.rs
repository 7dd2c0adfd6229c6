//! Forwarding one scrape.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dht_prom_client::message::{MessageError, MetricsResponse};
use dht_prom_transport::PublicKey;
use protomux::RpcError;
use tokio::time::{Instant, timeout_at};

use crate::{
    directory::Directory,
    metrics::{Metrics, ScrapeOutcome},
    telemetry::{self, Throttle},
};

mod line;
mod pool;

pub use line::{DialError, Link};
pub use pool::Pool;

/// Asks targets for their metrics on behalf of Prometheus.
#[derive(Debug)]
pub struct Scraper {
    directory: Arc<Directory>,
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    throttle: Throttle,
}

/// Failures per second that are logged at info, as the Node bridges log each; the others at debug.
const FAILURES_PER_SECOND: u32 = 10;

/// Why a scrape brought no metrics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScrapeError {
    /// Nobody registered this alias, or its registration expired.
    #[error("unknown alias")]
    UnknownAlias,
    /// The target cannot be reached.
    #[error("cannot reach the service")]
    Unreachable(#[source] Arc<DialError>),
    /// The deadline passed.
    #[error("no answer within {:.1} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The target did not answer the request as it should.
    #[error("the request failed")]
    Request(#[from] RpcError),
    /// The target's answer makes no sense.
    #[error("the answer cannot be read")]
    Answer(#[from] MessageError),
    /// The target answered that it has no metrics; the reason is its own.
    #[error("the service failed: {0}")]
    Service(String),
}

impl Scraper {
    /// Looks aliases up in `directory` and asks over `pool`.
    pub fn new(directory: Arc<Directory>, pool: Arc<Pool>, metrics: Arc<Metrics>) -> Self {
        Self { directory, pool, metrics, throttle: Throttle::per_second(FAILURES_PER_SECOND) }
    }

    /// The metrics of `alias`, within `limit` in all. They are a part of the message that carried
    /// them, not a copy.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// See [`ScrapeError`].
    pub async fn scrape(&self, alias: &str, limit: Duration) -> Result<Bytes, ScrapeError> {
        let started = Instant::now();
        let (alias, key) = self.directory.find(alias).ok_or(ScrapeError::UnknownAlias)?;
        let scraped = match self.ask(key, started + limit).await {
            Err(ScrapeError::Request(RpcError::Timeout(_))) => Err(ScrapeError::Timeout(limit)),
            scraped => scraped,
        };
        self.metrics.scrape_duration.observe(started.elapsed().as_secs_f64());
        self.metrics.scraped(&alias, outcome(&scraped));
        match &scraped {
            Ok(metrics) => drop(self.metrics.scrape_bytes.inc_by(metrics.len() as u64)),
            Err(error) => {
                let error = telemetry::causes(error);
                if self.throttle.allows() {
                    tracing::info!(%alias, peer = %key, "upstream error: {error}");
                } else {
                    tracing::debug!(%alias, peer = %key, "upstream error: {error}");
                }
            }
        }
        scraped
    }

    async fn ask(&self, key: PublicKey, deadline: Instant) -> Result<Bytes, ScrapeError> {
        let answer = match self.link(key, deadline).await?.metrics(deadline).await {
            // The session had ended without our knowing, as an idle one may. A new one may serve.
            Err(RpcError::Closed | RpcError::Destroyed) => {
                self.link(key, deadline).await?.metrics(deadline).await
            }
            answered => answered,
        };
        match MetricsResponse::decode(&answer?)? {
            MetricsResponse::Metrics(metrics) => Ok(metrics),
            MetricsResponse::Failed(reason) => Err(ScrapeError::Service(reason)),
        }
    }

    async fn link(&self, key: PublicKey, deadline: Instant) -> Result<Link, ScrapeError> {
        match timeout_at(deadline, self.pool.link(key)).await {
            Ok(link) => link.map_err(ScrapeError::Unreachable),
            Err(_) => Err(ScrapeError::Unreachable(Arc::new(self.pool.timeout(key)))),
        }
    }
}

fn outcome(scraped: &Result<Bytes, ScrapeError>) -> ScrapeOutcome {
    match scraped {
        Ok(_) => ScrapeOutcome::Success,
        Err(ScrapeError::Service(_)) => ScrapeOutcome::ServiceError,
        Err(ScrapeError::Timeout(_)) => ScrapeOutcome::Timeout,
        Err(ScrapeError::UnknownAlias | ScrapeError::Unreachable(_)) => ScrapeOutcome::Unreachable,
        Err(ScrapeError::Request(_) | ScrapeError::Answer(_)) => ScrapeOutcome::Broken,
    }
}
