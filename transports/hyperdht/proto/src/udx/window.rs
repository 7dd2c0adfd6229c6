//! The largest value of the last few intervals.

/// A sliding maximum over `N` consecutive buckets, which are numbered by round trip or by time.
///
/// A minimum is the maximum of the inverted values: see [`invert`].
#[derive(Debug, Clone)]
pub(crate) struct SlidingMax<const N: usize> {
    buckets: [u64; N],
    newest: u64,
    max: u64,
}

impl<const N: usize> SlidingMax<N> {
    pub(crate) const fn new() -> Self {
        Self { buckets: [0; N], newest: 0, max: 0 }
    }

    /// Adds `value` to bucket `number`, which empties those that fall out of the window.
    pub(crate) fn insert(&mut self, number: u64, value: u64) {
        self.advance(number);
        if let Some(bucket) = self.bucket(number) {
            *bucket = (*bucket).max(value);
        }
        self.max = self.max.max(value);
    }

    /// Moves the window on to bucket `number`.
    pub(crate) fn advance(&mut self, number: u64) {
        if number <= self.newest {
            return;
        }
        let first = (self.newest + 1).max(number.saturating_sub(N as u64 - 1));
        for emptied in first..=number {
            if let Some(bucket) = self.bucket(emptied) {
                *bucket = 0;
            }
        }
        self.newest = number;
        self.max = self.buckets.iter().copied().max().unwrap_or(0);
    }

    /// The largest value in the window; 0 when there is none.
    pub(crate) const fn max(&self) -> u64 {
        self.max
    }

    fn bucket(&mut self, number: u64) -> Option<&mut u64> {
        let at = usize::try_from(number % N as u64).ok()?;
        self.buckets.get_mut(at)
    }
}

/// Maps small to large and back, and keeps 0 for "none".
pub(crate) const fn invert(value: u64) -> u64 {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_leave_with_their_bucket() {
        let mut window = SlidingMax::<3>::new();
        window.insert(0, 9);
        window.insert(1, 5);
        window.insert(2, 1);
        assert_eq!(window.max(), 9);
        window.advance(3);
        assert_eq!(window.max(), 5);
        window.insert(100, 2);
        assert_eq!(window.max(), 2);
    }

    #[test]
    fn an_inverted_window_keeps_the_minimum() {
        let mut window = SlidingMax::<2>::new();
        window.insert(0, invert(7));
        window.insert(1, invert(8));
        assert_eq!(invert(window.max()), 7);
        window.advance(2);
        assert_eq!(invert(window.max()), 8);
    }
}
