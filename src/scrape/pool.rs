//! A session with each target, opened unasked and kept.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dht_prom_transport::{PublicKey, Transport};
use tokio::sync::Semaphore;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::line::{DialError, Line, Link};

/// Dials in progress at once; each costs a transport a handshake's state. More targets than that
/// wait for their turn, as after a restart with thousands of them.
const MAX_DIALS: usize = 64;

/// One session per target key, however many aliases point at it.
pub struct Pool {
    transport: Arc<dyn Transport>,
    /// As many as the registry has keys, which is bounded.
    kept: Mutex<HashMap<PublicKey, Kept>>,
    dials: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Kept {
    /// Aliases that point at the key.
    uses: usize,
    line: Arc<Line>,
    /// Ends the line's task.
    _running: DropGuard,
}

impl Pool {
    /// An empty pool that dials over `transport`.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self {
            transport,
            kept: Mutex::default(),
            dials: Arc::new(Semaphore::new(MAX_DIALS)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Adds a use of `key`. After the first one it is dialled soon, after others at once.
    pub fn keep(&self, key: PublicKey) {
        match self.lock().entry(key) {
            Entry::Occupied(mut kept) => {
                kept.get_mut().uses += 1;
                kept.get().line.hurry();
            }
            Entry::Vacant(vacant) => {
                let line = Arc::new(Line::new(key));
                let stop = self.stop.child_token();
                let (transport, dials) = (Arc::clone(&self.transport), Arc::clone(&self.dials));
                let (running, stopped) = (Arc::clone(&line), stop.clone());
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        () = running.run(&*transport, &dials) => {}
                    }
                    running.end();
                });
                vacant.insert(Kept { uses: 1, line, _running: stop.drop_guard() });
            }
        }
    }

    /// Takes a use of `key` back; with the last one its session ends.
    pub fn release(&self, key: PublicKey) {
        if let Entry::Occupied(mut kept) = self.lock().entry(key) {
            kept.get_mut().uses -= 1;
            if kept.get().uses == 0 {
                kept.remove();
            }
        }
    }

    /// Cuts the wait for the next dial to `key` short.
    pub fn hurry(&self, key: PublicKey) {
        if let Some(line) = self.line(key) {
            line.hurry();
        }
    }

    /// Dials at once whoever waits to be dialled, each time when the network has changed. Never
    /// returns.
    pub async fn follow_network(&self) {
        loop {
            self.transport.network_changed().await;
            tracing::debug!("the network has changed");
            let lines: Vec<_> = self.lock().values().map(|kept| Arc::clone(&kept.line)).collect();
            lines.iter().for_each(|line| line.begin_again());
        }
    }

    /// The session with `key`. Waits for a dial when there is none: for the one in progress, or for
    /// one that starts now.
    ///
    /// Has no time limit of its own. Cancel-safe.
    ///
    /// # Errors
    /// What the dial failed with; [`DialError::Released`] when the key is kept no more.
    pub async fn link(&self, key: PublicKey) -> Result<Link, Arc<DialError>> {
        let line = self.line(key).ok_or(DialError::Released)?;
        line.link().await
    }

    /// Why there is no session with `key` yet, for whoever cannot wait any longer.
    pub fn timeout(&self, key: PublicKey) -> DialError {
        self.line(key).map_or(DialError::Released, |line| line.timeout())
    }

    /// Begins to end every session. Nothing is dialled afterwards.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends every session and waits until that is done.
    pub async fn close(&self) {
        self.stop();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn line(&self, key: PublicKey) -> Option<Arc<Line>> {
        self.lock().get(&key).map(|kept| Arc::clone(&kept.line))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PublicKey, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("kept", &self.lock().len()).finish_non_exhaustive()
    }
}
