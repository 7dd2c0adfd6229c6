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
///
/// Where there is reason to think that its packets or ours go astray, it is asked at once, and taken
/// for dead after [`PROBE`] without an answer.
#[derive(Debug)]
pub(super) struct Life(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Whether something was written since the last tick.
    wrote: bool,
    wrote_at: Instant,
    seen: Signs,
    heard_at: Instant,
    asked: bool,
    doubt: Doubt,
    dead: bool,
}

/// What has come of a peer so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Signs {
    /// Packets received.
    pub(super) packets: u64,
    /// Those among them that came from elsewhere than where ours go.
    pub(super) astray: u64,
    /// Bytes of ours that it has acknowledged.
    pub(super) acknowledged: u64,
}

impl Signs {
    /// Whether the way there and back works: packets come from where ours go, or ours arrive. A peer
    /// that has moved is heard, and hears nothing.
    fn show_life_since(self, before: Self) -> bool {
        self.packets - self.astray > before.packets - before.astray
            || self.acknowledged > before.acknowledged
    }
}

/// Whether the way to the peer is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    /// It is to be asked.
    Raised,
    /// It has been asked, and answers by then or is dead.
    Asked(Instant),
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
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(State {
            wrote: false,
            wrote_at: now,
            seen: Signs::default(),
            heard_at: now,
            asked: false,
            doubt: Doubt::None,
            dead: false,
        }))
    }

    /// A message was written.
    pub(super) fn wrote(&self) {
        self.state().wrote = true;
    }

    /// The network has changed: the next tick asks the peer, unless none has come yet.
    pub(super) fn doubt(&self) {
        let mut state = self.state();
        if state.seen != Signs::default() && state.doubt == Doubt::None {
            state.doubt = Doubt::Raised;
        }
    }

    /// Whether the peer has been taken for dead.
    pub(super) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// To be called every [`TICK`], with what has come of the peer so far.
    pub(super) fn tick(&self, now: Instant, signs: Signs) -> Verdict {
        let mut state = self.state();
        if std::mem::take(&mut state.wrote) {
            // At any moment since the last tick: the earliest counts.
            state.wrote_at = now.checked_sub(TICK).unwrap_or(now);
        }
        let before = std::mem::replace(&mut state.seen, signs);
        let alive = signs.show_life_since(before);
        if alive {
            state.heard_at = now;
            state.asked = false;
        }
        // What has come before it was asked may have come before the change.
        if alive && matches!(state.doubt, Doubt::Asked(_)) {
            state.doubt = Doubt::None;
        } else if !alive && signs.astray > before.astray && state.doubt == Doubt::None {
            state.doubt = Doubt::Raised;
        }
        let silence = now.saturating_duration_since(state.heard_at);
        let unanswered = matches!(state.doubt, Doubt::Asked(until) if until <= now);
        if unanswered || (silence >= SILENCE && state.asked) {
            state.dead = true;
            return Verdict::Dead;
        }
        let missed = silence >= 2 * KEEP_ALIVE && !state.asked;
        state.asked |= missed;
        let ask = missed || state.doubt == Doubt::Raised;
        if state.doubt == Doubt::Raised {
            state.doubt = Doubt::Asked(now + PROBE);
        }
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

/// How long a peer may take to answer that may be gone: UDX sends the question three times meanwhile.
const PROBE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const fn packets(packets: u64) -> Signs {
        Signs { packets, astray: 0, acknowledged: 0 }
    }

    /// Lets the time pass without a sign until the peer is taken for dead; how long that took.
    fn dies(life: &Life, mut now: Instant, signs: Signs) -> Duration {
        let began = now;
        while life.tick(now, signs) != Verdict::Dead {
            now += TICK;
        }
        assert!(life.is_dead());
        now - began
    }

    #[test]
    fn an_idle_connection_writes_within_every_five_seconds() {
        let start = Instant::now();
        let life = Life::new(start);
        let mut written = start;
        for n in 1..40 {
            let now = start + n * TICK;
            if life.tick(now, packets(n.into())) == Verdict::Write {
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
        assert_ne!(life.tick(start + TICK, packets(1)), Verdict::Dead);
        let mut now = start + TICK;
        let dead = loop {
            now += TICK;
            if life.tick(now, packets(1)) == Verdict::Dead {
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
        assert_eq!(life.tick(woken, packets(0)), Verdict::Write);
        for n in 1..4 {
            assert_ne!(life.tick(woken + n * TICK, packets(1)), Verdict::Dead);
        }
    }

    #[test]
    fn a_peer_in_doubt_is_asked_at_once_and_dead_after_five_seconds() {
        let start = Instant::now();
        let life = Life::new(start);
        life.tick(start, packets(1));
        life.doubt();
        assert_eq!(life.tick(start + TICK, packets(1)), Verdict::Write);
        assert_eq!(dies(&life, start + TICK, packets(1)), PROBE);
    }

    #[test]
    fn a_peer_in_doubt_that_answers_lives_on() {
        for answer in [packets(2), Signs { acknowledged: 20, ..packets(1) }] {
            let start = Instant::now();
            let life = Life::new(start);
            life.tick(start, packets(1));
            life.doubt();
            assert_eq!(life.tick(start, packets(1)), Verdict::Write);
            assert_ne!(life.tick(start + TICK, answer), Verdict::Dead);
            assert!(dies(&life, start + 2 * TICK, answer) > PROBE);
        }
    }

    #[test]
    fn a_peer_that_is_heard_from_elsewhere_and_hears_nothing_is_dead_within_ten_seconds() {
        let start = Instant::now();
        let life = Life::new(start);
        life.tick(start, packets(1));
        let dead = (1..).find(|n| {
            let signs = Signs { packets: 1 + n / 2, astray: n / 2, acknowledged: 0 };
            let now = start + TICK * u32::try_from(*n).unwrap();
            life.tick(now, signs) == Verdict::Dead
        });
        assert_eq!(dead, Some(4), "a keep-alive came after two ticks, the time was up two later");
    }

    #[test]
    fn a_peer_that_answers_from_elsewhere_is_not_given_up() {
        let start = Instant::now();
        let life = Life::new(start);
        for n in 1..40 {
            let signs = Signs { packets: n, astray: n, acknowledged: 20 * n };
            let now = start + TICK * u32::try_from(n).unwrap();
            assert_ne!(life.tick(now, signs), Verdict::Dead);
        }
    }

    #[test]
    fn a_peer_that_has_not_come_yet_is_not_in_doubt() {
        let start = Instant::now();
        let life = Life::new(start);
        life.doubt();
        assert!(dies(&life, start, packets(0)) > PROBE);
    }
}
