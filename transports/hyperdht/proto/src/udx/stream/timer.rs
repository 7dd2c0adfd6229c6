//! Everything a stream waits for.

use super::Stream;
use crate::udx::{StreamError, Time};

/// The moments at which a stream acts by itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timers {
    /// Since when the first packet in flight waits for its acknowledgement.
    pub(crate) waiting_since: Time,
    /// Retransmission timeouts since the last progress.
    pub(crate) timeouts: u8,
    /// When an overtaken packet counts as lost.
    pub(crate) reorder_at: Option<Time>,
    /// When the tail-loss probe goes out.
    pub(crate) tail_probe_at: Option<Time>,
    /// Whether one went out that no sample of the round-trip time has answered.
    pub(crate) tail_probe_out: bool,
    /// When the peer is asked again whether its window has opened.
    pub(crate) window_probe: Option<WindowProbe>,
    /// When the pacer lets the next burst go.
    pub(crate) pace_at: Option<Time>,
    /// When something left last.
    pub(crate) sent_at: Time,
    /// Heartbeat interval while nothing is in flight; 0 for never.
    pub(crate) keep_alive: u64,
}

/// Asking a peer that has no room whether it has some by now.
#[derive(Debug, Clone)]
pub(crate) struct WindowProbe {
    at: Time,
    unanswered: u8,
}

impl Stream {
    /// When [`Stream::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        if self.closed.is_some() || self.remote.is_none() {
            return None;
        }
        let timers = &self.timers;
        [
            self.retransmission_at(),
            timers.reorder_at,
            timers.tail_probe_at,
            timers.window_probe.as_ref().map(|probe| probe.at),
            timers.pace_at,
            self.keep_alive_at(),
            self.acks.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Acts on all that is due.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if due(self.timers.pace_at) {
            self.timers.pace_at = None;
        }
        if due(self.timers.reorder_at) && self.detect_losses(now) > 0 {
            self.arm_tail_probe(now);
        }
        if due(self.retransmission_at()) {
            self.on_retransmission_timeout(now);
        } else if due(self.timers.tail_probe_at) {
            self.on_tail_probe();
        }
        if due(self.timers.window_probe.as_ref().map(|probe| probe.at)) {
            self.probe_window(now);
        }
        if due(self.keep_alive_at()) {
            self.timers.sent_at = now;
            self.heartbeat_due = true;
        }
    }

    /// libudx waits one timeout, then two for each further one.
    fn retransmission_at(&self) -> Option<Time> {
        if self.in_flight.is_empty() {
            return None;
        }
        let wait = self.rtt.timeout() * if self.timers.timeouts == 0 { 1 } else { 2 };
        Some(self.timers.waiting_since.after(wait))
    }

    fn keep_alive_at(&self) -> Option<Time> {
        let active = self.timers.keep_alive > 0 && self.in_flight.is_empty();
        active.then(|| self.timers.sent_at.after(self.timers.keep_alive))
    }

    /// The peer has no room for data that is ready: asks now, after one timeout, and after every
    /// two from then on.
    pub(crate) fn probe_window(&mut self, now: Time) {
        let timeout = self.rtt.timeout();
        self.timers.window_probe = match &self.timers.window_probe {
            None => Some(WindowProbe { at: now.after(timeout), unanswered: 1 }),
            Some(probe) if probe.unanswered > MAX_UNANSWERED => {
                return self.close(Err(StreamError::TimedOut));
            }
            Some(probe) => {
                Some(WindowProbe { at: now.after(2 * timeout), unanswered: probe.unanswered + 1 })
            }
        };
        self.heartbeat_due = true;
    }

    /// The peer is alive.
    pub(crate) const fn on_sign_of_life(&mut self) {
        if let Some(probe) = &mut self.timers.window_probe {
            probe.unanswered = 0;
        }
    }
}

/// Window probes without any packet of the peer before it is given up; as many as timeouts.
const MAX_UNANSWERED: u8 = 6;
