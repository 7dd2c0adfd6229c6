//! The lines a process has written so far, and waiting for the next one of interest.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// One output stream of a process, collected line by line by a thread that ends with the stream.
///
/// Cheap to clone; all clones see the same lines.
#[derive(Clone, Debug)]
pub struct Lines {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Starts collecting `stream`.
    pub(crate) fn collect(stream: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                writer.lock().lines.push(String::from_utf8_lossy(&line).into_owned());
                writer.changed.notify_all();
            }
            writer.lock().ended = true;
            writer.changed.notify_all();
        });
        Self { shared }
    }

    /// Everything written so far.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.shared.lock().lines.clone()
    }

    /// How many lines were written so far: a bookmark for [`Self::find_from`].
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.lock().lines.len()
    }

    /// Waits until the process has closed this stream; false when `deadline` comes first.
    pub(crate) fn wait_end(&self, deadline: Instant) -> bool {
        let mut state = self.shared.lock();
        while !state.ended {
            let Some(left) = remaining(deadline) else { return false };
            state = self.shared.wait(state, left);
        }
        true
    }

    /// What `pick` makes of the first line, past and future, that it accepts, looking from line
    /// number `start` on; `None` when the stream ends or `deadline` comes first.
    pub fn find_from<T>(
        &self,
        start: usize,
        deadline: Instant,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let mut next = start;
        let mut state = self.shared.lock();
        loop {
            while let Some(line) = state.lines.get(next) {
                if let Some(found) = pick(line) {
                    return Some(found);
                }
                next += 1;
            }
            if state.ended {
                return None;
            }
            state = self.shared.wait(state, remaining(deadline)?);
        }
    }
}

impl Shared {
    // A panic of another thread leaves whole lines behind: there is nothing to protect from it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, left);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn remaining(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn finds_lines_of_the_past_from_the_bookmark_on() {
        let lines = Lines::collect(&b"one\ntwo\none more"[..]);
        assert!(lines.wait_end(soon()));
        let found = |start| {
            lines.find_from(start, soon(), |line| line.contains("one").then(|| line.to_owned()))
        };
        assert_eq!(found(0).as_deref(), Some("one"));
        assert_eq!(found(1).as_deref(), Some("one more"));
        assert_eq!(found(lines.count()), None);
    }

    #[test]
    fn waits_for_lines_of_the_future() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let lines = Lines::collect(reader);
        let waiting = std::thread::spawn({
            let lines = lines.clone();
            move || lines.find_from(0, soon(), |line| (line == "ready").then_some(()))
        });
        std::io::Write::write_all(&mut writer, b"starting\nready\n").expect("the reader lives");
        assert_eq!(waiting.join().expect("no panic"), Some(()));
        assert_eq!(lines.find_from(0, Instant::now(), |line| (line == "x").then_some(())), None);
    }
}
