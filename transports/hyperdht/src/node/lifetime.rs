//! The end of a node.

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::core::Core;

/// Says when a node is to stop, and when it has stopped.
#[derive(Debug)]
pub(super) struct Lifetime {
    closing: CancellationToken,
    stopped: CancellationToken,
    tasks: TaskTracker,
}

impl Lifetime {
    /// With the work of the end, which waits for it.
    pub(super) fn new(core: Arc<Core>) -> (Self, impl Future<Output = ()> + Send) {
        let lifetime = Self {
            closing: CancellationToken::new(),
            stopped: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (closing, stopped, tasks) =
            (lifetime.closing.clone(), lifetime.stopped.clone(), lifetime.tasks.clone());
        let run = async move {
            closing.cancelled().await;
            let _ = tokio::time::timeout(UNANNOUNCING, close(&core)).await;
            tasks.close();
            tasks.wait().await;
            stopped.cancel();
        };
        (lifetime, run)
    }

    pub(super) fn stopped(&self) -> CancellationToken {
        self.stopped.clone()
    }

    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    pub(super) fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    pub(super) fn begin_shutdown(&self) {
        self.closing.cancel();
    }

    pub(super) async fn shutdown(&self) {
        self.closing.cancel();
        self.stopped.cancelled().await;
    }
}

/// Ends everything that is open, and waits until servers are taken back from the network.
async fn close(core: &Core) {
    let doors = core.with(|state, now| {
        state.closing = true;
        state.end_links();
        state.queries.clear();
        state.close_doors(now)
    });
    for door in doors {
        let _ = door.await;
    }
}

/// How long nodes are asked to drop our records; they forget them anyway.
const UNANNOUNCING: Duration = Duration::from_secs(4);
