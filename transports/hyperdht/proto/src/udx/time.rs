//! The endpoint's clock, as its streams see it.

use std::time::{Duration, Instant};

/// A moment in microseconds since the endpoint was made.
///
/// Half the size of an [`Instant`] and free to compute with; it is kept for every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(u64);

impl Time {
    /// The moment `micros` after the endpoint was made.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the endpoint was made.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Microseconds since `earlier`; 0 if that lies ahead.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `micros` later.
    #[must_use]
    pub const fn after(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// Turns the caller's clock into [`Time`] and back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(crate) const fn new(epoch: Instant) -> Self {
        Self { epoch }
    }

    pub(crate) fn time(&self, now: Instant) -> Time {
        Time(micros(now.saturating_duration_since(self.epoch)))
    }

    pub(crate) fn instant(&self, time: Time) -> Instant {
        self.epoch + Duration::from_micros(time.0)
    }
}

/// `duration` in whole microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) const MILLISECOND: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000_000;
