//! Keeping still for a while.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;

use super::{
    ConnectError, Node, QueryFailed, Shared,
    core::{Core, State},
    listening::AcceptError,
};

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    Running,
    /// It takes its servers back.
    Suspending,
    Suspended,
}

impl Node {
    /// Ends connections, dials and searches, takes servers back from the network, and keeps still
    /// from then on: nothing is sent, and what comes in is ignored. Returns when that is so, within
    /// four seconds. Cancel-safe: what was begun goes on.
    ///
    /// For hosts that are about to sleep or have to save power, as `dht.suspend()` of the Node
    /// package. Servers stay open, and peers find them again when the node is
    /// [resumed](Node::resume). The sockets stay bound, so that their ports remain.
    pub async fn suspend(&self) {
        let core = &self.shared.core;
        core.with(|state, now| core.suspend(state, now));
        let mut activity = core.activity().subscribe();
        tokio::select! {
            biased;
            () = self.shared.lifetime.closing().cancelled() => {}
            _ = activity.wait_for(|activity| *activity != Activity::Suspending) => {}
        }
    }

    /// Ends a suspension: servers are announced again, and dials and searches are possible at once.
    pub fn resume(&self) {
        let core = &self.shared.core;
        core.with(|state, now| core.resume(state, now));
    }
}

impl Core {
    pub(super) fn is_running(&self) -> bool {
        *self.activity().borrow() == Activity::Running
    }

    /// Waits until the node is not suspended. Cancel-safe.
    pub(super) async fn running(&self) {
        let _ = self.activity().subscribe().wait_for(|now| *now == Activity::Running).await;
    }

    fn suspend(&self, state: &mut State, now: Instant) {
        if state.closing || !self.is_running() {
            return;
        }
        tracing::debug!("the node is to keep still");
        // Dials in progress notice it themselves.
        self.activity().send_replace(Activity::Suspending);
        state.end_links();
        for mut entry in std::mem::take(&mut state.dials).into_values() {
            entry.cancel(&mut state.dht, now);
        }
        for (query, entry) in std::mem::take(&mut state.queries) {
            state.dht.cancel_query(now, query);
            entry.fail(QueryFailed::Suspended);
        }
        for request in std::mem::take(&mut state.pings).into_keys() {
            state.dht.cancel(now, request);
        }
        state.dht.suspend(now);
    }

    /// The state machine keeps still.
    pub(super) fn on_suspended(&self) {
        tracing::debug!("the node keeps still");
        self.activity().send_if_modified(|activity| {
            let suspending = *activity == Activity::Suspending;
            if suspending {
                *activity = Activity::Suspended;
            }
            suspending
        });
    }

    fn resume(&self, state: &mut State, now: Instant) {
        if !self.is_running() {
            tracing::debug!("the node takes part again");
            self.activity().send_replace(Activity::Running);
            state.dht.resume(now);
        }
    }
}

/// Why what is under way has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interruption {
    Stopped,
    Suspended,
}

impl Shared {
    /// Returns when the node stops or is suspended. To be called before what it is to interrupt
    /// begins.
    pub(super) fn interruption(self: &Arc<Self>) -> impl Future<Output = Interruption> + use<> {
        let closing = self.lifetime.closing().clone();
        let mut activity: watch::Receiver<_> = self.core.activity().subscribe();
        async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => Interruption::Stopped,
                _ = activity.wait_for(|now| *now != Activity::Running) => Interruption::Suspended,
            }
        }
    }
}

impl From<Interruption> for ConnectError {
    fn from(interruption: Interruption) -> Self {
        match interruption {
            Interruption::Stopped => Self::Stopped,
            Interruption::Suspended => Self::Suspended,
        }
    }
}

impl From<Interruption> for AcceptError {
    fn from(interruption: Interruption) -> Self {
        match interruption {
            Interruption::Stopped => Self::Stopped,
            Interruption::Suspended => Self::Suspended,
        }
    }
}
