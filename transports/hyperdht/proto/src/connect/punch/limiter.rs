//! Keeps punches into the blue rare.

use std::time::{Duration, Instant};

use super::strategy::RANDOM_PROBES;

/// Allows one punch with random ports at a time, and a pause after it, since the NATs on the way
/// remember every probe for a while.
///
/// The reference pauses for 20 seconds in any case. Here the pause is in proportion to the probes
/// that were sent, and those 20 seconds after a whole punch: a hole that opened early costs little, and
/// no sequence of punches sends more than a sequence of whole ones in the reference.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    busy: bool,
    free_at: Option<Instant>,
}

/// There is no room for a punch with random ports now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    /// Another one is under way.
    Punching,
    /// There is room from this moment on, unless somebody else takes it.
    Until(Instant),
}

impl Limiter {
    /// Takes the room for a punch, to be given back with [`Limiter::finish`].
    pub(super) fn begin(&mut self, now: Instant) -> Result<(), Busy> {
        if self.busy {
            return Err(Busy::Punching);
        }
        if let Some(at) = self.free_at.filter(|at| *at > now) {
            return Err(Busy::Until(at));
        }
        self.busy = true;
        Ok(())
    }

    /// A punch is over that has sent so many probes.
    pub(super) fn finish(&mut self, now: Instant, probes: u32) {
        self.busy = false;
        self.free_at = Some(now + PAUSE * probes / u32::from(RANDOM_PROBES));
    }
}

/// The pause after all probes of a punch (`hyperdht/index.js`, `randomPunchInterval`).
const PAUSE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::testnet::epoch;

    #[test]
    fn one_at_a_time_and_a_pause_in_proportion_to_what_was_sent() {
        let (mut limiter, now) = (Limiter::default(), epoch());
        limiter.begin(now).unwrap();
        assert_eq!(limiter.begin(now), Err(Busy::Punching));
        limiter.finish(now, RANDOM_PROBES.into());
        assert_eq!(limiter.begin(now), Err(Busy::Until(now + PAUSE)));
        limiter.begin(now + PAUSE).unwrap();
        limiter.finish(now + PAUSE, u32::from(RANDOM_PROBES) / 10);
        let free = now + PAUSE + PAUSE / 10;
        assert_eq!(limiter.begin(now + PAUSE), Err(Busy::Until(free)));
        limiter.begin(free).unwrap();
    }
}
