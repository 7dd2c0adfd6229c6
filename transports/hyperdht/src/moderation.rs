//! When to let events gather before a runtime looks at them.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use tokio::runtime::Builder;

/// Has a `current_thread` runtime moderate its wake-ups as network cards moderate interrupts.
///
/// Where datagrams come one by one in quick succession, as from a sender without segmentation
/// offload, waking a thread for each costs more than all that is done with it, most of all on a
/// virtual machine. Such a runtime, when it has nothing to do, sleeps for the shortest while that the
/// system has (50 to 80 us on Linux, most of it timer slack) before it looks at its events again,
/// and then finds several. Events that are rare, and those that come one at a time because each answers
/// the one before, are looked at as ever: a pause that gathered nothing is not soon repeated.
///
/// Replaces the builder's [`Builder::on_thread_park`] and [`Builder::on_thread_unpark`]. Does nothing
/// on other systems than Linux, whose shortest sleep may be long.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let mut builder = tokio::runtime::Builder::new_current_thread();
/// let runtime = hyperdht_rs::moderate_wakeups(builder.enable_all()).build()?;
/// # runtime.block_on(async {});
/// # Ok(()) }
/// ```
pub fn moderate_wakeups(builder: &mut Builder) -> &mut Builder {
    if !cfg!(target_os = "linux") {
        return builder;
    }
    thread_local! {
        static MODERATION: Cell<Moderation> = const { Cell::new(Moderation::new()) };
    }
    let woken = || {
        let mut moderation = MODERATION.get();
        moderation.woken(Instant::now());
        MODERATION.set(moderation);
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "to block a runtime that is idle is what is wanted"
    )]
    let idle = || {
        let mut moderation = MODERATION.get();
        if moderation.wants_pause(Instant::now()) {
            std::thread::sleep(SHORTEST_SLEEP);
            moderation.resumed(Instant::now());
        }
        MODERATION.set(moderation);
    };
    builder.on_thread_unpark(woken).on_thread_park(idle)
}

/// Decides about pauses.
#[derive(Debug, Clone, Copy)]
struct Moderation {
    /// When there was something to do last, or a pause ended.
    since: Option<Instant>,
    /// Wake-ups in a row that came soon after the one before, without a pause between.
    quick: u32,
    /// What was worked after those, together.
    worked: Duration,
    /// Wake-ups that there are to be before a pause.
    patience: u32,
    /// What is usually worked after a wake-up, where this one follows a pause.
    paused: Option<Duration>,
}

impl Moderation {
    const fn new() -> Self {
        Self { since: None, quick: 0, worked: Duration::ZERO, patience: PATIENCE, paused: None }
    }

    /// There is something to do.
    fn woken(&mut self, now: Instant) {
        let before = self.since.replace(now);
        if before.is_none_or(|before| now.saturating_duration_since(before) >= SOON) {
            self.forget();
        } else if self.paused.is_none() {
            self.quick = self.quick.saturating_add(1);
        }
    }

    /// All is done: says whether events are to gather for a while before they are looked at.
    fn wants_pause(&mut self, now: Instant) -> bool {
        let Some(since) = self.since else {
            return false;
        };
        let worked = now.saturating_duration_since(since);
        let usual = match self.paused.take() {
            Some(usual) if worked < usual * WORTHWHILE => {
                self.forget();
                self.patience = MAX_PATIENCE.min(self.patience * 2);
                return false;
            }
            Some(usual) => {
                self.patience = PATIENCE;
                usual
            }
            None => {
                self.worked += worked;
                self.worked / self.quick.max(1)
            }
        };
        if self.quick < self.patience || worked >= ENOUGH {
            return false;
        }
        self.paused = Some(usual);
        true
    }

    /// A pause is over.
    const fn resumed(&mut self, now: Instant) {
        self.since = Some(now);
    }

    const fn forget(&mut self) {
        self.quick = 0;
        self.worked = Duration::ZERO;
        self.paused = None;
    }
}

/// The system makes what it can of it.
const SHORTEST_SLEEP: Duration = Duration::from_micros(1);
/// Wake-ups that come within less than this of one another are those of a stream of packets: libudx
/// sends one every 4 to 8 us, in groups, while a round trip to another process takes 30 and more.
const SOON: Duration = Duration::from_micros(40);
/// So many of them in a row are no coincidence.
const PATIENCE: u32 = 8;
/// So many are asked for where pauses were in vain: one wake-up in a thousand is late then.
const MAX_PATIENCE: u32 = 1024;
/// A pause was worth while when so many times as much was there to do after it as after a wake-up.
const WORTHWHILE: u32 = 2;
/// Who has so much to do each time is not woken too often.
const ENOUGH: Duration = Duration::from_micros(80);

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_micros(75);

    const fn us(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// A thread on a clock of its own.
    struct Thread {
        moderation: Moderation,
        now: Instant,
    }

    impl Thread {
        fn new() -> Self {
            Self { moderation: Moderation::new(), now: Instant::now() }
        }

        /// Is woken after `idle`, works, and says whether it pauses then.
        fn turn(&mut self, idle: Duration, work: Duration) -> bool {
            self.now += idle;
            self.moderation.woken(self.now);
            self.now += work;
            let pauses = self.moderation.wants_pause(self.now);
            if pauses {
                self.now += PAUSE;
                self.moderation.resumed(self.now);
            }
            pauses
        }

        fn pauses(&mut self, turns: usize, idle: Duration, work: Duration) -> usize {
            (0..turns).filter(|_| self.turn(idle, work)).count()
        }
    }

    #[test]
    fn packets_in_quick_succession_gather() {
        let mut thread = Thread::new();
        assert_eq!(thread.pauses(8, us(10), us(5)), 0);
        assert!(thread.turn(us(10), us(5)));
        // A pause brings several, after which there is another, and so on.
        assert_eq!(thread.pauses(1000, us(0), us(30)), 1000);
    }

    #[test]
    fn rare_events_are_looked_at_at_once() {
        let mut thread = Thread::new();
        assert_eq!(thread.pauses(10_000, us(40), us(5)), 0);
    }

    #[test]
    fn events_that_answer_one_another_are_seldom_kept_waiting() {
        let mut thread = Thread::new();
        let pauses = thread.pauses(100_000, us(20), us(10));
        assert!((1..200).contains(&pauses), "{pauses}");
    }

    #[test]
    fn a_pause_that_gathers_ends_the_doubts() {
        let mut thread = Thread::new();
        thread.pauses(10_000, us(20), us(10));
        while !thread.turn(us(20), us(10)) {}
        assert!(thread.turn(us(0), us(30)), "worth while");
        assert!(!thread.turn(us(20), us(10)), "in vain");
        let pauses = thread.pauses(17, us(20), us(10));
        assert_eq!(pauses, 1, "the patience of the beginning, doubled once");
    }

    #[test]
    fn who_has_enough_to_do_does_not_pause() {
        let mut thread = Thread::new();
        assert_eq!(thread.pauses(1000, us(0), us(100)), 0);
    }

    #[test]
    fn a_quiet_moment_ends_a_stream() {
        let mut thread = Thread::new();
        while !thread.turn(us(10), us(5)) {}
        assert!(!thread.turn(us(1000), us(500)));
        assert_eq!(thread.pauses(8, us(10), us(5)), 0);
    }
}
