//! How many requests may be on the way at once.

use std::time::{Duration, Instant};

/// The reference's congestion window (dht-rpc `lib/io.js`): four slots of 750 ms. A transmission
/// counts in its slot until an answer is taken off the slot that is current then, or until the slot
/// falls out after three seconds.
#[derive(Debug)]
pub(crate) struct Window {
    slots: [usize; 4],
    current: usize,
    max_per_slot: usize,
    next_drain: Instant,
}

impl Window {
    pub(crate) fn new(now: Instant, max_per_slot: usize) -> Self {
        Self { slots: [0; 4], current: 0, max_per_slot, next_drain: now + SLOT }
    }

    /// Whether the next transmission has to wait.
    pub(crate) fn is_full(&self) -> bool {
        self.total() >= 2 * self.max_per_slot
            || self.slots.get(self.current) >= Some(&self.max_per_slot)
    }

    /// One more on the way.
    pub(crate) fn sent(&mut self) {
        if let Some(slot) = self.slots.get_mut(self.current) {
            *slot += 1;
        }
    }

    /// One answered or given up.
    pub(crate) fn settled(&mut self) {
        if let Some(slot) = self.slots.get_mut(self.current) {
            *slot = slot.saturating_sub(1);
        }
    }

    /// Begins the slots that are due.
    pub(crate) fn drain(&mut self, now: Instant) {
        for _ in 0..self.slots.len() {
            if now < self.next_drain {
                return;
            }
            self.current = (self.current + 1) % self.slots.len();
            if let Some(slot) = self.slots.get_mut(self.current) {
                *slot = 0;
            }
            self.next_drain += SLOT;
        }
        if self.next_drain <= now {
            self.next_drain = now + SLOT;
        }
    }

    /// When the current slot ends.
    pub(crate) const fn next_drain(&self) -> Instant {
        self.next_drain
    }

    fn total(&self) -> usize {
        self.slots.iter().sum()
    }
}

const SLOT: Duration = Duration::from_millis(750);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::testnet::epoch;

    #[test]
    fn a_slot_takes_its_share_and_all_slots_twice_that() {
        let now = epoch();
        let mut window = Window::new(now, 80);
        (0..79).for_each(|_| window.sent());
        assert!(!window.is_full());
        window.sent();
        assert!(window.is_full());
        window.drain(now + SLOT);
        assert!(!window.is_full());
        (0..80).for_each(|_| window.sent());
        window.drain(now + 2 * SLOT);
        assert!(window.is_full(), "160 are on the way");
        window.drain(now + 4 * SLOT);
        assert!(!window.is_full(), "the first slot fell out");
    }

    #[test]
    fn an_answer_makes_room() {
        let mut window = Window::new(epoch(), 1);
        window.sent();
        assert!(window.is_full());
        window.settled();
        assert!(!window.is_full());
        window.settled();
        window.sent();
        assert!(window.is_full(), "an early answer is no credit");
    }
}
