//! Keeps punches into the blue rare.

use std::time::{Duration, Instant};

use super::strategy::{BIRTHDAY_SOCKETS, RANDOM_PROBES};

/// Allows one punch with random ports at a time, and a pause after it, since the NATs on the way
/// remember every probe for a while.
///
/// The reference pauses for 20 seconds in any case. Here the pause is in proportion to the probes
/// that were sent, and those 20 seconds after a whole punch: a hole that opened early costs little, and
/// no sequence of punches sends more than a sequence of whole ones in the reference, but for [`CREDIT`]
/// probes in advance: peers that come one after another and are reached by the first few do not wait
/// for each other.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    busy: bool,
    /// When all that was sent has been paused for.
    even_at: Option<Instant>,
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
        if let Some(at) = self.even_at.filter(|at| *at > now + pause(CREDIT)) {
            return Err(Busy::Until(at - pause(CREDIT)));
        }
        self.busy = true;
        Ok(())
    }

    /// A punch is over that has sent so many probes.
    pub(super) fn finish(&mut self, now: Instant, probes: u32) {
        self.busy = false;
        let before = self.even_at.map_or(now, |at| at.max(now));
        self.even_at = Some(before + pause(probes));
    }
}

/// What so many probes cost.
fn pause(probes: u32) -> Duration {
    PAUSE * probes / u32::from(RANDOM_PROBES)
}

/// Probes that need not be paused for before the next punch: those by which a side behind a NAT with
/// random ports opens its sockets, as it does for each peer.
#[expect(clippy::cast_possible_truncation, reason = "256 are few")]
const CREDIT: u32 = BIRTHDAY_SOCKETS as u32;

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
        limiter.finish(now, u32::from(RANDOM_PROBES) + CREDIT);
        assert_eq!(limiter.begin(now), Err(Busy::Until(now + PAUSE)));
        limiter.begin(now + PAUSE).unwrap();
        let tenth = u32::from(RANDOM_PROBES) / 10;
        limiter.finish(now + PAUSE, tenth);
        let free = now + PAUSE + PAUSE / 10;
        assert_eq!(limiter.begin(now + PAUSE), Err(Busy::Until(free)));
        limiter.begin(free).unwrap();
    }

    #[test]
    fn punches_that_are_over_early_follow_at_once_and_no_faster_than_whole_ones_for_long() {
        let (mut limiter, begun) = (Limiter::default(), epoch());
        let (mut now, mut sent, few) = (begun, 0, 32);
        while limiter.begin(now).is_ok() {
            sent += few;
            limiter.finish(now, few);
        }
        assert_eq!(sent, CREDIT + few);
        while now < begun + 10 * PAUSE {
            match limiter.begin(now) {
                Ok(()) => {
                    sent += few;
                    limiter.finish(now, few);
                }
                Err(Busy::Until(at)) => now = at,
                Err(Busy::Punching) => unreachable!("each is finished"),
            }
        }
        let whole = 10 * u32::from(RANDOM_PROBES);
        assert!(sent <= whole + CREDIT + 2 * few, "{sent} beside {whole}");
    }
}
