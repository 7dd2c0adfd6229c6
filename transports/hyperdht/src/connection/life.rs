//! Signs of life, ours and the peer's.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hyperdht_proto::secret_stream::KEEP_ALIVE;

/// When something was last written and last heard on a connection.
///
/// A living peer is heard at least every five seconds: its keep-alives come, and ours are
/// acknowledged. After two that are missing it is asked once more, and after another while of silence
/// it is taken for dead, 12.5 to 15 seconds after its last packet. UDX alone would notice after 18.
#[derive(Debug)]
pub(super) struct Life(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Whether something was written since the last tick.
    wrote: bool,
    wrote_at: Instant,
    heard: u64,
    heard_at: Instant,
    asked: bool,
    dead: bool,
}

/// What a moment calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Rest,
    /// A sign of life is due, or to be asked for.
    Write,
    /// The peer has vanished.
    Dead,
}

impl Life {
    pub(super) const fn new(now: Instant) -> Self {
        Self(Mutex::new(State {
            wrote: false,
            wrote_at: now,
            heard: 0,
            heard_at: now,
            asked: false,
            dead: false,
        }))
    }

    /// A message was written.
    pub(super) fn wrote(&self) {
        self.state().wrote = true;
    }

    /// Whether the peer has been taken for dead.
    pub(super) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// To be called every [`TICK`], with the number of packets received so far.
    pub(super) fn tick(&self, now: Instant, heard: u64) -> Verdict {
        let mut state = self.state();
        if std::mem::take(&mut state.wrote) {
            // At any moment since the last tick: the earliest counts.
            state.wrote_at = now.checked_sub(TICK).unwrap_or(now);
        }
        if heard != state.heard {
            state.heard = heard;
            state.heard_at = now;
            state.asked = false;
        }
        let silence = now.saturating_duration_since(state.heard_at);
        if silence >= SILENCE && state.asked {
            state.dead = true;
            return Verdict::Dead;
        }
        let ask = silence >= 2 * KEEP_ALIVE && !state.asked;
        state.asked |= ask;
        if ask || now.saturating_duration_since(state.wrote_at) + TICK > KEEP_ALIVE {
            state.wrote_at = now;
            return Verdict::Write;
        }
        Verdict::Rest
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a connection is looked at.
pub(super) const TICK: Duration = Duration::from_millis(2500);

/// How long a peer may be silent, from the tick that followed its last packet.
const SILENCE: Duration = Duration::from_millis(12_500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_writes_within_every_five_seconds() {
        let start = Instant::now();
        let life = Life::new(start);
        let mut written = start;
        for n in 1..40 {
            let now = start + n * TICK;
            if life.tick(now, n.into()) == Verdict::Write {
                assert!(now - written <= KEEP_ALIVE);
                written = now;
            }
        }
        assert!(written > start + 30 * TICK);
    }

    #[test]
    fn a_silent_peer_is_asked_and_then_taken_for_dead_within_15_seconds() {
        let start = Instant::now();
        let life = Life::new(start);
        assert_ne!(life.tick(start + TICK, 1), Verdict::Dead);
        let mut now = start + TICK;
        let dead = loop {
            now += TICK;
            if life.tick(now, 1) == Verdict::Dead {
                break now;
            }
        };
        // The packet came at any moment between `start` and the first tick.
        assert!(dead - start <= Duration::from_secs(15), "{:?}", dead - start);
        assert!(life.is_dead());
    }

    #[test]
    fn after_a_sleep_of_the_host_the_peer_is_asked_before_it_is_given_up() {
        let start = Instant::now();
        let life = Life::new(start);
        let woken = start + Duration::from_secs(3600);
        assert_eq!(life.tick(woken, 0), Verdict::Write);
        for n in 1..4 {
            assert_ne!(life.tick(woken + n * TICK, 1), Verdict::Dead);
        }
    }
}
