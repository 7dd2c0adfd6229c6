//! The registry as the running bridge shares it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use dht_prom_transport::PublicKey;
use tokio::sync::watch;

use crate::{
    metrics::Metrics,
    name::Alias,
    registry::{
        Change, Full, Registry, Target,
        targets::{self, TargetsFormat},
    },
    scrape::Pool,
};

/// The registry, and who is told when it changes: the pool, which keeps a session with each target,
/// the metrics, and whoever watches [`Directory::changes`].
#[derive(Debug)]
pub struct Directory {
    registry: Mutex<Registry>,
    /// Counts the changes of what [`Directory::render`] gives.
    revision: watch::Sender<u64>,
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
}

impl Directory {
    /// An empty one.
    pub fn new(pool: Arc<Pool>, metrics: Arc<Metrics>) -> Self {
        let (registry, revision) = (Mutex::default(), watch::Sender::new(0));
        Self { registry, revision, pool, metrics }
    }

    /// Takes over what an earlier run left. It expires as if it had registered just now, and is no
    /// change. Returns how many there was no room for.
    pub fn load(&self, targets: Vec<(Alias, Target)>) -> usize {
        let now = Instant::now();
        let loaded = targets.into_iter().map(|(alias, target)| self.put(now, alias, target));
        let refused = loaded.filter(Result::is_err).count();
        self.count();
        refused
    }

    /// Points `alias` at `target`. One that was known before is dialled at once, should it be waiting.
    ///
    /// # Errors
    /// [`Full`] when there is no room for another alias.
    pub fn register(&self, alias: Alias, target: Target) -> Result<Change, Full> {
        let change = self.put(Instant::now(), alias, target)?;
        if change.is_update() {
            self.changed();
        }
        Ok(change)
    }

    fn put(&self, now: Instant, alias: Alias, target: Target) -> Result<Change, Full> {
        let key = target.key;
        let mut registry = self.lock();
        let change = registry.register(now, alias, target)?;
        // Under the lock, so that the pool hears of changes in their order.
        match change {
            Change::Added => self.pool.keep(key),
            Change::Replaced { old } => {
                self.pool.keep(key);
                self.pool.release(old);
            }
            Change::Renewed | Change::Relabelled => self.pool.hurry(key),
        }
        Ok(change)
    }

    /// Drops the aliases that expired by `now`.
    pub fn expire(&self, now: Instant) {
        let mut registry = self.lock();
        let expired = registry.expire(now);
        for (_, target) in &expired {
            self.pool.release(target.key);
        }
        drop(registry);
        for (alias, target) in &expired {
            self.metrics.forget(alias);
            tracing::info!("Alias entry expired: {alias} -> {}", target.key);
        }
        if !expired.is_empty() {
            self.changed();
        }
    }

    /// Where `alias` points.
    pub fn find(&self, alias: &str) -> Option<(Alias, PublicKey)> {
        self.lock().find(alias).map(|(alias, target)| (alias.clone(), target.key))
    }

    /// How many aliases there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// See [`targets::render`].
    pub fn render(&self, format: TargetsFormat, bridge: &str) -> Vec<u8> {
        targets::render(&self.lock(), format, bridge)
    }

    /// See [`targets::render_http_sd`].
    pub fn render_http_sd(&self, bridge: &str) -> Vec<u8> {
        targets::render_http_sd(&self.lock(), bridge)
    }

    /// Wakes when [`Directory::render`] would give something else.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn changed(&self) {
        self.count();
        self.revision.send_modify(|revision| *revision += 1);
    }

    fn count(&self) {
        self.metrics.targets.set(i64::try_from(self.len()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
