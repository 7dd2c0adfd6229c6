//! Is the network there, and is it any good?

use std::collections::VecDeque;

/// The verdict on the network, from what became of our requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// Requests are answered. Also the verdict as long as nothing speaks against it.
    #[default]
    Online,
    /// More than half of the requests time out.
    Degraded,
    /// Nobody answers.
    Offline,
}

/// Looks at responses and timeouts once per tick (dht-rpc `lib/health.js`). Ticks with fewer than
/// [`IDLE`] of both say nothing.
#[derive(Debug, Default)]
pub(crate) struct Health {
    window: VecDeque<Tick>,
    offline_ticks: usize,
    network: Network,
}

#[derive(Debug, Clone, Copy)]
struct Tick {
    responses: u64,
    timeouts: u64,
    degraded: Option<bool>,
}

impl Health {
    /// Takes in the running totals and gives the verdict.
    pub(crate) fn update(&mut self, responses: u64, timeouts: u64) -> Network {
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        let before = self.window.back().copied();
        let mut tick = Tick { responses, timeouts, degraded: None };
        let new_responses = before.map_or(0, |before| responses - before.responses);
        let new_timeouts = before.map_or(0, |before| timeouts - before.timeouts);
        let cold = self.window.len() + 1 < WINDOW;
        if cold || new_responses + new_timeouts < IDLE {
            self.window.push_back(tick);
            return self.network;
        }
        let offline = new_responses == 0;
        if !offline {
            tick.degraded = Some(new_timeouts > new_responses);
        }
        self.window.push_back(tick);
        self.offline_ticks = if offline { self.offline_ticks + 1 } else { 0 };
        self.network = self.judge(offline);
        self.network
    }

    /// Takes in that somebody has answered; true when that ends being offline.
    pub(crate) fn answered(&mut self) -> bool {
        let back = self.network == Network::Offline;
        if back {
            self.network = Network::Online;
            self.offline_ticks = 0;
        }
        back
    }

    /// Forgets everything, as after a sleep.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(crate) const fn network(&self) -> Network {
        self.network
    }

    fn judge(&self, offline: bool) -> Network {
        let all = |verdict| self.window.iter().all(|tick| tick.degraded == Some(verdict));
        if offline {
            if self.offline_ticks >= OFFLINE { Network::Offline } else { self.network }
        } else if all(true) {
            Network::Degraded
        } else if all(false) || self.network == Network::Offline {
            Network::Online
        } else {
            self.network
        }
    }
}

/// Ticks that are looked at together.
const WINDOW: usize = 4;
/// Ticks without a single response that mean offline.
const OFFLINE: usize = 2;
/// Events that make a tick count.
const IDLE: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs ticks of (responses, timeouts) and gives the verdicts.
    fn run(health: &mut Health, ticks: &[(u64, u64)]) -> Vec<Network> {
        let mut total = health.window.back().map_or((0, 0), |tick| (tick.responses, tick.timeouts));
        ticks
            .iter()
            .map(|(responses, timeouts)| {
                total = (total.0 + responses, total.1 + timeouts);
                health.update(total.0, total.1)
            })
            .collect()
    }

    #[test]
    fn two_ticks_of_silence_are_offline_and_one_answer_ends_it() {
        let mut health = Health::default();
        run(&mut health, &[(9, 0); 4]);
        assert_eq!(
            run(&mut health, &[(0, 9), (0, 9), (9, 0)]),
            [Network::Online, Network::Offline, Network::Online]
        );
    }

    #[test]
    fn four_bad_ticks_are_degraded_and_four_good_ones_end_it() {
        let mut health = Health::default();
        run(&mut health, &[(9, 0); 4]);
        assert_eq!(run(&mut health, &[(4, 5); 4])[2..], [Network::Online, Network::Degraded]);
        assert_eq!(run(&mut health, &[(9, 0); 4])[2..], [Network::Degraded, Network::Online]);
    }

    #[test]
    fn idle_ticks_say_nothing() {
        let mut health = Health::default();
        run(&mut health, &[(9, 0); 4]);
        assert_eq!(run(&mut health, &[(0, 3); 9])[8], Network::Online);
    }
}
