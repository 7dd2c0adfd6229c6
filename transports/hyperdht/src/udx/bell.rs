//! Which of many quiet sockets have something to say.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

/// The sockets of a pool that have become ready: the task looks at these and not at all of them each
/// time it runs.
#[derive(Debug, Default)]
pub(crate) struct Bells {
    /// Whether `rung` has something: a turn without costs one look at this.
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Places of sockets; each at most once for each bell.
    rung: Vec<usize>,
    task: Option<Waker>,
}

/// The bell of one socket, rung by the runtime.
#[derive(Debug)]
pub(crate) struct Bell {
    bells: Arc<Bells>,
    place: usize,
    rung: AtomicBool,
}

impl Bells {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the places of the sockets whose bells were rung into `places`, and has `task` woken when
    /// others are.
    pub(crate) fn take(&self, places: &mut Vec<usize>, task: &Waker) {
        if !self.any.swap(false, Ordering::Acquire) {
            return;
        }
        let mut state = self.state();
        if !state.task.as_ref().is_some_and(|known| known.will_wake(task)) {
            state.task = Some(task.clone());
        }
        places.append(&mut state.rung);
    }
}

impl Bell {
    /// A bell for the socket at `place`, rung for the first look at it.
    pub(crate) fn new(bells: &Arc<Bells>, place: usize) -> Arc<Self> {
        let bell = Self { bells: Arc::clone(bells), place, rung: AtomicBool::new(false) };
        let bell = Arc::new(bell);
        bell.wake_by_ref();
        bell
    }

    /// From now on it can be rung again.
    pub(crate) fn rest(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = self.bells.state();
        state.rung.push(self.place);
        self.bells.any.store(true, Ordering::Release);
        if let Some(task) = &state.task {
            task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_is_heard_once_however_often_it_is_rung_and_again_after_a_rest() {
        let bells = Arc::new(Bells::default());
        let heard = || {
            let mut places = Vec::new();
            bells.take(&mut places, Waker::noop());
            places
        };
        let [first, second] = [3, 5].map(|place| Bell::new(&bells, place));
        assert_eq!(heard(), [3, 5], "a new socket is looked at");
        first.wake_by_ref();
        assert!(heard().is_empty(), "it has not been looked at since");
        first.rest();
        first.wake_by_ref();
        first.wake_by_ref();
        assert_eq!(heard(), [3]);
        second.rest();
        Waker::from(second).wake();
        assert_eq!(heard(), [5]);
    }
}
