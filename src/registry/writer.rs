//! Keeps the targets file up to date.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::targets::{TargetsFile, TargetsFormat};
use crate::{directory::Directory, metrics::Metrics};

/// The wait after a write that failed; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Writes the targets file when the directory changes: one write at a time, and one for all the
/// changes that came meanwhile.
#[derive(Debug)]
pub struct Writer {
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    file: TargetsFile,
    format: TargetsFormat,
    /// The bridge's `host:port`, for the labels format.
    bridge: String,
    changes: watch::Receiver<u64>,
}

impl Writer {
    /// Writes `file` for changes of `directory` from now on.
    pub fn new(
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
        file: TargetsFile,
        format: TargetsFormat,
        bridge: String,
    ) -> Self {
        let changes = directory.changes();
        Self { directory, metrics, file, format, bridge, changes }
    }

    /// Runs until `stop`, and writes a last time then if anything is unwritten.
    ///
    /// Writes at once if the file is not as it should be: format or address may be others than they
    /// were, Prometheus watches a folder only if it finds it, and an operator wants to hear of a
    /// folder that cannot be written before the first service comes.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut dirty = !self.is_current().await && !self.write().await;
        let mut waits = waits();
        loop {
            let wait = async {
                match dirty {
                    // A write failed: again in a while, sooner when there is something new.
                    true => sleep(waits.next().unwrap_or(LONGEST_WAIT)).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                // The sender lives in `directory`, so that waiting cannot fail.
                _changed = self.changes.changed() => {}
                () = wait => {}
            }
            dirty = !self.write().await;
            if !dirty {
                waits = self::waits();
            }
        }
        if dirty || self.changes.has_changed().unwrap_or(true) {
            self.write().await;
        }
    }

    /// Whether the file holds what [`Writer::write`] would write.
    async fn is_current(&self) -> bool {
        let json = self.directory.render(self.format, &self.bridge);
        let file = self.file.clone();
        tokio::task::spawn_blocking(move || file.holds(&json)).await.unwrap_or(false)
    }

    /// Writes once; false when that failed. The work is done on a thread that may block.
    async fn write(&mut self) -> bool {
        self.changes.mark_unchanged();
        let json = self.directory.render(self.format, &self.bridge);
        let file = self.file.clone();
        let path = self.file.path().display();
        let written = tokio::task::spawn_blocking(move || file.write(&json)).await;
        match written {
            Ok(Ok(())) => {
                self.metrics.targets_file_writes.inc();
                tracing::info!("Updated the aliases file at {path}");
                true
            }
            Ok(Err(error)) => self.failed(&error),
            Err(panicked) => self.failed(&panicked),
        }
    }

    fn failed(&self, error: &dyn std::error::Error) -> bool {
        self.metrics.targets_file_failures.inc();
        let path = self.file.path().display();
        tracing::error!("Failed to write aliases file {path}: {error}");
        false
    }
}

fn waits() -> backon::ExponentialBackoff {
    let waits = ExponentialBuilder::new().with_min_delay(FIRST_WAIT).with_max_delay(LONGEST_WAIT);
    waits.without_max_times().with_jitter().build()
}
