//! Where a stream's packets come from: the peer itself, or a relay.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::udx::{Firewall, Path, Verdict};

/// The firewall of a stream whose peer may come on several ways: directly from anywhere, since only
/// the peer and its relay know the stream's id, or through a relay.
#[derive(Debug, Default)]
pub(super) struct Gate {
    seen: Mutex<Seen>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    /// The peer's id of the stream, once its handshake has told it.
    remote_id: Option<u32>,
    /// Whence the first packet came that came directly.
    direct: Option<Path>,
    relay: Relay,
    /// Whether no direct path is wanted.
    relay_only: bool,
    /// Whether nobody looks for a direct path any more.
    given_up: bool,
}

#[derive(Debug, Default)]
enum Relay {
    #[default]
    None,
    /// The stream began over it.
    Used(Path),
    /// The stream has gone over to a direct path for good.
    Left(Path),
}

impl Gate {
    /// A gate for direct packets, or for those through a relay only.
    pub(super) fn new(direct: bool) -> Arc<Self> {
        let seen = Seen { relay_only: !direct, ..Seen::default() };
        Arc::new(Self { seen: Mutex::new(seen), changed: Notify::new() })
    }

    /// Whether direct packets pass.
    pub(super) fn is_direct(&self) -> bool {
        !self.seen().relay_only
    }

    pub(super) fn firewall(self: &Arc<Self>) -> Firewall {
        let gate = Arc::clone(self);
        Firewall::new(move |from| {
            let mut seen = gate.seen();
            let before = seen.direct;
            let verdict = seen.judge(from);
            let news = seen.direct != before;
            drop(seen);
            if news {
                gate.changed.notify_waiters();
            }
            verdict
        })
    }

    /// The peer's id of the stream is known; says whence its first packet came, if that was earlier.
    pub(super) fn open(&self, remote_id: u32) -> Option<Path> {
        let mut seen = self.seen();
        seen.remote_id = Some(remote_id);
        seen.direct
    }

    /// The stream is to begin over a relay; refused when the peer has come directly.
    pub(super) fn begin_relay(&self, path: Path) -> bool {
        let mut seen = self.seen();
        if seen.direct.is_none() {
            seen.relay = Relay::Used(path);
        }
        seen.direct.is_none()
    }

    /// The stream has gone over to a direct path: what a relay says of its end is not to be believed.
    pub(super) fn leave_relay(&self) {
        let mut seen = self.seen();
        if let Relay::Used(path) = seen.relay {
            seen.relay = Relay::Left(path);
        }
    }

    /// Waits until the peer has come directly, and says from where. Cancel-safe.
    pub(super) async fn direct(&self) -> Path {
        self.until(|seen| seen.direct).await
    }

    /// The direct path has come to nothing; another packet may show one that does not.
    pub(super) fn forget_direct(&self) {
        self.seen().direct = None;
    }

    /// Nobody looks for a direct path any more.
    pub(super) fn give_up(&self) {
        self.seen().given_up = true;
        self.changed.notify_waiters();
    }

    /// Waits until nobody looks for a direct path any more. Cancel-safe.
    pub(super) async fn given_up(&self) {
        self.until(|seen| seen.given_up.then_some(())).await;
    }

    async fn until<T>(&self, check: impl Fn(&Seen) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = check(&self.seen()) {
                return found;
            }
            changed.await;
        }
    }

    /// Locked for moments, never across an await.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn judge(&mut self, from: Path) -> Verdict {
        match self.relay {
            Relay::Used(path) if path == from => return Verdict::Accept,
            Relay::Left(path) if path == from => return Verdict::Drop,
            Relay::None | Relay::Used(_) | Relay::Left(_) => {}
        }
        if self.relay_only || self.direct.is_some_and(|direct| direct != from) {
            return Verdict::Drop;
        }
        let is_first = self.direct.is_none();
        self.direct = Some(from);
        match (self.remote_id, &self.relay) {
            (Some(remote_id), Relay::None) if is_first => Verdict::Connect { remote_id },
            _ => Verdict::Accept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udx::SocketId;

    fn path(n: u8) -> Path {
        Path { socket: SocketId(0), peer: ([192, 0, 2, n], 1).into() }
    }

    fn ask(gate: &Gate, n: u8) -> Verdict {
        gate.seen().judge(path(n))
    }

    #[test]
    fn the_first_packet_connects_and_others_senders_are_kept_out() {
        let gate = Gate::new(true);
        assert_eq!(gate.open(7), None);
        assert_eq!(ask(&gate, 1), Verdict::Connect { remote_id: 7 });
        assert_eq!(ask(&gate, 1), Verdict::Accept);
        assert_eq!(ask(&gate, 2), Verdict::Drop);
    }

    #[test]
    fn a_packet_that_overtakes_the_answer_shows_the_path() {
        let gate = Gate::new(true);
        assert_eq!(ask(&gate, 1), Verdict::Accept);
        assert_eq!(ask(&gate, 2), Verdict::Drop);
        assert_eq!(gate.open(7), Some(path(1)));
        assert!(!gate.begin_relay(path(9)), "there is a better way");
    }

    #[tokio::test]
    async fn what_comes_through_the_relay_shows_no_direct_path() {
        let gate = Gate::new(true);
        gate.open(7);
        assert!(gate.begin_relay(path(9)));
        assert_eq!(ask(&gate, 9), Verdict::Accept);
        assert_eq!(gate.seen().direct, None);
        assert_eq!(ask(&gate, 1), Verdict::Accept);
        assert_eq!(gate.direct().await, path(1));
        gate.leave_relay();
        assert_eq!(ask(&gate, 9), Verdict::Drop);
        assert_eq!(ask(&gate, 1), Verdict::Accept);
    }

    #[test]
    fn no_direct_packet_passes_where_none_is_wanted() {
        let gate = Gate::new(false);
        gate.open(7);
        assert_eq!(ask(&gate, 1), Verdict::Drop);
        assert!(gate.begin_relay(path(9)));
        assert_eq!((ask(&gate, 9), ask(&gate, 1)), (Verdict::Accept, Verdict::Drop));
    }
}
