//! BBR, version 1.
//!
//! Written from draft-cardwell-iccrg-bbr-congestion-control-00 and Cardwell et al., "BBR:
//! Congestion-Based Congestion Control", ACM Queue 14(5), 2016. Names in capitals are states of
//! the draft. Where libudx chose other constants than the draft, libudx's are taken, so that both
//! ends of a mixed pair behave alike on a shared bottleneck. Losses are taken otherwise: few of them say
//! nothing of congestion and cut nothing, many end STARTUP, as in version 3 of BBR
//! (draft-ietf-ccwg-bbr), which draws the line lower.

use super::{AckSample, Congestion, Recovery};
use crate::udx::{
    Time,
    time::{MILLISECOND, SECOND},
    window::SlidingMax,
};

/// A model of the path, its bandwidth and its shortest round trip, and a state machine that probes
/// for both.
#[derive(Debug, Clone)]
pub struct Bbr {
    state: State,
    window: u32,
    /// The window as it was before losses or PROBE_RTT cut it.
    saved_window: u32,
    pacing_rate: u64,
    rounds: Rounds,
    bandwidth: SlidingMax<BANDWIDTH_ROUNDS>,
    path: MinRtt,
    pipe: FullPipe,
    aggregation: Aggregation,
    losses: Losses,
    recovery: Recovery,
    /// Packets in equal packets out: the first round of recovery.
    conserving: bool,
    idle_restart: bool,
    packet_len: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Doubles the rate each round until the bandwidth stops growing.
    Startup,
    /// Lets the queue go that STARTUP built.
    Drain,
    /// Cruises; every eighth phase asks for more, the next gives back.
    ProbeBw { phase: usize, since: Time },
    /// Empties the path to see its true length.
    ProbeRtt { done_at: Option<Time>, round: u64 },
}

impl State {
    fn pacing_gain(self) -> f64 {
        match self {
            Self::Startup => HIGH_GAIN,
            Self::Drain => 1.0 / HIGH_GAIN,
            Self::ProbeBw { phase, .. } => CYCLE.get(phase).copied().unwrap_or(1.0),
            Self::ProbeRtt { .. } => 1.0,
        }
    }

    const fn window_gain(self) -> f64 {
        match self {
            Self::Startup | Self::Drain => HIGH_GAIN,
            Self::ProbeBw { .. } => 2.0,
            Self::ProbeRtt { .. } => 1.0,
        }
    }
}

impl Bbr {
    /// A controller that knows nothing of the path.
    pub fn new() -> Self {
        Self {
            state: State::Startup,
            window: INITIAL_WINDOW,
            saved_window: 0,
            pacing_rate: 0,
            rounds: Rounds::default(),
            bandwidth: SlidingMax::new(),
            path: MinRtt::default(),
            pipe: FullPipe::default(),
            aggregation: Aggregation::default(),
            losses: Losses::default(),
            recovery: Recovery::Open,
            conserving: false,
            idle_restart: false,
            packet_len: 1152,
        }
    }

    /// A new controller behind the seam; see [`super::CongestionFactory`].
    pub fn boxed() -> Box<dyn Congestion> {
        Box::new(Self::new())
    }

    /// Packets that fill the path `gain` times, and some for the bursts that segmentation
    /// offload and delayed wake-ups make.
    fn target(&self, gain: f64) -> u32 {
        let Some(min_rtt) = self.path.micros else {
            return INITIAL_WINDOW;
        };
        let product = self.bandwidth.max() as f64 * min_rtt as f64 / SECOND as f64;
        let burst = (self.pacing_rate / 1000 / self.packet_len).clamp(1, MAX_BURST);
        whole(product * gain + (3 * burst) as f64)
    }

    fn update_bandwidth(&mut self, sample: &AckSample) {
        self.bandwidth.advance(self.rounds.count);
        if let Some(rate) = sample.rate
            && (rate >= self.bandwidth.max() || !sample.app_limited)
        {
            self.bandwidth.insert(self.rounds.count, rate);
        }
    }

    fn update_state(&mut self, sample: &AckSample) {
        self.advance_cycle(sample);
        if self.rounds.started && !sample.app_limited {
            self.pipe.check(self.bandwidth.max());
        }
        // It would ask for three times what the path holds again and again: after each pause, samples
        // tell the application's pace.
        self.pipe.full |= self.state == State::Startup && self.losses.overflow();
        if self.state == State::Startup && self.pipe.full {
            self.state = State::Drain;
        }
        if self.state == State::Drain && sample.in_flight <= self.target(1.0) {
            self.enter_probe_bw(sample.now);
        }
        self.probe_rtt(sample);
    }

    const fn enter_probe_bw(&mut self, now: Time) {
        self.state = State::ProbeBw { phase: FIRST_PHASE, since: now };
    }

    fn advance_cycle(&mut self, sample: &AckSample) {
        let State::ProbeBw { phase, since } = self.state else {
            return;
        };
        let gain = self.state.pacing_gain();
        let full_length = sample.now.since(since) > self.path.micros.unwrap_or(0);
        let next = if gain > 1.0 {
            full_length && (sample.lost > 0 || sample.prior_in_flight >= self.target(gain))
        } else if gain < 1.0 {
            full_length || sample.prior_in_flight <= self.target(1.0)
        } else {
            full_length
        };
        if next {
            self.state = State::ProbeBw { phase: (phase + 1) % CYCLE.len(), since: sample.now };
        }
    }

    fn probe_rtt(&mut self, sample: &AckSample) {
        let expired = self.path.update(sample);
        if expired && !self.idle_restart && !matches!(self.state, State::ProbeRtt { .. }) {
            self.save_window();
            self.state = State::ProbeRtt { done_at: None, round: 0 };
        }
        if let State::ProbeRtt { done_at, round } = self.state {
            match done_at {
                None if sample.in_flight <= MIN_WINDOW => {
                    self.rounds.restart(sample.delivered);
                    self.state = State::ProbeRtt {
                        done_at: Some(sample.now.after(PROBE_RTT_TIME)),
                        round: self.rounds.count,
                    };
                }
                Some(done_at) if self.rounds.count > round && sample.now >= done_at => {
                    self.leave_probe_rtt(sample.now);
                }
                _ => {}
            }
        }
        self.idle_restart = false;
    }

    fn leave_probe_rtt(&mut self, now: Time) {
        self.path.seen_at = now;
        self.window = self.window.max(self.saved_window);
        if self.pipe.full {
            self.enter_probe_bw(now);
        } else {
            self.state = State::Startup;
        }
    }

    fn save_window(&mut self) {
        let cut = self.recovery != Recovery::Open || matches!(self.state, State::ProbeRtt { .. });
        self.saved_window = if cut { self.saved_window.max(self.window) } else { self.window };
    }

    fn update_pacing(&mut self) {
        let rate = self.bandwidth.max() as f64
            * self.packet_len as f64
            * self.state.pacing_gain()
            * PACING_MARGIN;
        let rate = per_second(rate).max(self.packet_len);
        if self.pipe.full || rate > self.pacing_rate {
            self.pacing_rate = rate;
        }
    }

    fn update_window(&mut self, sample: &AckSample) {
        let conserved = self.follow_recovery(sample);
        if conserved {
            self.window = self.window.max(sample.in_flight + sample.acked);
        } else {
            let target = self.target(self.state.window_gain()) + self.aggregation.extra(&self.pipe);
            if self.pipe.full {
                self.window = (self.window + sample.acked).min(target);
            } else if self.window < target || sample.delivered < u64::from(INITIAL_WINDOW) {
                self.window += sample.acked;
            }
        }
        self.window = self.window.max(MIN_WINDOW);
        if matches!(self.state, State::ProbeRtt { .. }) {
            self.window = MIN_WINDOW;
        }
    }

    /// Follows the start and the end of a repair; says whether packets are conserved for now.
    fn follow_recovery(&mut self, sample: &AckSample) -> bool {
        let heavy = self.losses.are_heavy();
        if heavy {
            self.window = self.window.saturating_sub(sample.lost).max(1);
        }
        let before = std::mem::replace(&mut self.recovery, sample.recovery);
        if heavy && sample.recovery == Recovery::Repairing && before == Recovery::Open {
            self.conserving = true;
            self.rounds.restart(sample.delivered);
            self.window = sample.in_flight + sample.acked;
        } else if sample.recovery == Recovery::Open && before != Recovery::Open {
            self.conserving = false;
            self.window = self.window.max(self.saved_window);
        }
        self.conserving
    }
}

impl Default for Bbr {
    fn default() -> Self {
        Self::new()
    }
}

impl Congestion for Bbr {
    fn on_send(&mut self, _now: Time, in_flight: u32, app_limited: bool) {
        if in_flight == 0 && app_limited {
            self.idle_restart = true;
            self.aggregation.restart();
        }
    }

    fn on_ack(&mut self, sample: &AckSample) {
        self.packet_len = u64::from(sample.packet_len.max(1));
        if sample.recovery != Recovery::Open && self.recovery == Recovery::Open {
            self.save_window();
        }
        if self.pacing_rate == 0
            && let Some(rtt) = sample.rtt
        {
            self.pacing_rate = initial_rate(self.window, self.packet_len, rtt);
        }
        self.rounds.update(sample);
        self.conserving &= !self.rounds.started;
        self.losses.update(sample, self.rounds.started);
        self.update_bandwidth(sample);
        self.aggregation.update(sample, self.bandwidth.max(), self.window, self.rounds.started);
        self.update_state(sample);
        self.update_pacing();
        self.update_window(sample);
    }

    fn on_timeout(&mut self) {
        if self.recovery == Recovery::Open {
            self.save_window();
        }
        self.recovery = Recovery::TimedOut;
        self.conserving = false;
        self.pipe.growth_from = 0;
        self.rounds.next_delivered = 0;
    }

    fn window(&self) -> u32 {
        self.window
    }

    fn pacing_rate(&self) -> u64 {
        match self.pacing_rate {
            0 => initial_rate(self.window, self.packet_len, MILLISECOND),
            rate => rate,
        }
    }
}

/// Counts round trips by what was delivered when the acknowledged packet left.
#[derive(Debug, Clone, Default)]
struct Rounds {
    count: u64,
    next_delivered: u64,
    /// Whether the last sample began a round.
    started: bool,
}

impl Rounds {
    const fn update(&mut self, sample: &AckSample) {
        self.started = sample.prior_delivered >= self.next_delivered;
        if self.started {
            self.next_delivered = sample.delivered;
            self.count += 1;
        }
    }

    const fn restart(&mut self, delivered: u64) {
        self.next_delivered = delivered;
    }
}

/// The shortest round trip of the last ten seconds.
#[derive(Debug, Clone, Default)]
struct MinRtt {
    micros: Option<u64>,
    seen_at: Time,
}

impl MinRtt {
    /// Takes the sample; says whether the old minimum had expired.
    fn update(&mut self, sample: &AckSample) -> bool {
        let expired = self.micros.is_some() && sample.now.since(self.seen_at) > MIN_RTT_LIFETIME;
        if let Some(rtt) = sample.rtt.map(|rtt| rtt.max(MIN_RTT_FLOOR))
            && (expired || self.micros.is_none_or(|minimum| rtt <= minimum))
        {
            self.micros = Some(rtt);
            self.seen_at = sample.now;
        }
        expired && self.micros.is_some_and(|minimum| minimum > MIN_RTT_FLOOR)
    }
}

/// Notices that the bandwidth has stopped growing.
#[derive(Debug, Clone, Default)]
struct FullPipe {
    growth_from: u64,
    rounds_without: u8,
    full: bool,
}

impl FullPipe {
    const fn check(&mut self, bandwidth: u64) {
        if self.full {
            return;
        }
        if bandwidth * 4 >= self.growth_from * 5 {
            self.growth_from = bandwidth;
            self.rounds_without = 0;
            return;
        }
        self.rounds_without += 1;
        self.full = self.rounds_without >= FULL_PIPE_ROUNDS;
    }
}

/// What was lost in this round and in the one before.
#[derive(Debug, Clone, Default)]
struct Losses {
    lost: [u32; 2],
    acked: [u32; 2],
}

impl Losses {
    fn update(&mut self, sample: &AckSample, round_started: bool) {
        if round_started {
            self.lost = [0, self.lost[0]];
            self.acked = [0, self.acked[0]];
        }
        self.lost[0] = self.lost[0].saturating_add(sample.lost);
        self.acked[0] = self.acked[0].saturating_add(sample.acked);
    }

    /// Whether they may come from congestion.
    fn are_heavy(&self) -> bool {
        self.exceed_one_in(HEAVY_LOSS)
    }

    /// Whether a queue has run over.
    fn overflow(&self) -> bool {
        self.exceed_one_in(OVERFLOW) && self.lost() > OVERFLOW_PACKETS
    }

    fn exceed_one_in(&self, share: u64) -> bool {
        let acked: u64 = self.acked.into_iter().map(u64::from).sum();
        self.lost() * share > self.lost() + acked
    }

    fn lost(&self) -> u64 {
        self.lost.into_iter().map(u64::from).sum()
    }
}

/// Allows for paths and receivers that acknowledge in bursts.
#[derive(Debug, Clone, Default)]
struct Aggregation {
    epoch_at: Option<Time>,
    epoch_acked: u64,
    extra: [u32; 2],
    rounds: u8,
    cap: u32,
}

impl Aggregation {
    const fn restart(&mut self) {
        self.epoch_at = None;
        self.epoch_acked = 0;
    }

    fn update(&mut self, sample: &AckSample, bandwidth: u64, window: u32, round_started: bool) {
        if round_started {
            self.rounds += 1;
            if self.rounds >= AGGREGATION_ROUNDS {
                self.rounds = 0;
                self.extra = [0, self.extra[0]];
            }
        }
        let expected =
            self.epoch_at.map_or(0, |at| bandwidth.saturating_mul(sample.now.since(at)) / SECOND);
        if self.epoch_at.is_none() || self.epoch_acked <= expected {
            self.epoch_at = Some(sample.now);
            self.epoch_acked = 0;
        }
        self.epoch_acked += u64::from(sample.acked);
        let expected =
            self.epoch_at.map_or(0, |at| bandwidth.saturating_mul(sample.now.since(at)) / SECOND);
        let extra = self.epoch_acked.saturating_sub(expected);
        let extra = u32::try_from(extra).unwrap_or(u32::MAX).min(window);
        self.extra[0] = self.extra[0].max(extra);
        self.cap = whole(bandwidth as f64 * MAX_AGGREGATION as f64 / SECOND as f64);
    }

    fn extra(&self, pipe: &FullPipe) -> u32 {
        if pipe.full { self.extra[0].max(self.extra[1]).min(self.cap) } else { 0 }
    }
}

fn initial_rate(window: u32, packet_len: u64, rtt: u64) -> u64 {
    let rate = u64::from(window) * packet_len * SECOND / rtt.max(MIN_RTT_FLOOR);
    per_second(rate as f64 * HIGH_GAIN)
}

/// Rounds down into the range of rates.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "such casts saturate, and no rate is negative"
)]
const fn per_second(rate: f64) -> u64 {
    rate as u64
}

/// Rounds up into the range of windows.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
fn whole(packets: f64) -> u32 {
    packets.ceil().clamp(0.0, f64::from(MAX_WINDOW)) as u32
}

/// 2/ln 2, the smallest gain that doubles the rate each round.
const HIGH_GAIN: f64 = 2.88539;
/// Pacing gains of PROBE_BW; libudx enters at the phase after index 3.
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
const FIRST_PHASE: usize = 4;
/// Pace a little below the estimate, so that a queue drains rather than grows (as Linux does).
const PACING_MARGIN: f64 = 0.99;
const INITIAL_WINDOW: u32 = 10;
/// Also the window of PROBE_RTT.
const MIN_WINDOW: u32 = 4;
/// Bounds what one stream keeps for retransmission: 32 MB at 1,452 bytes of payload.
const MAX_WINDOW: u32 = 23_000;
const BANDWIDTH_ROUNDS: usize = 10;
const FULL_PIPE_ROUNDS: u8 = 3;
/// Up to one packet in ten is lost on bad radio links, and to the queues of others. Packets are paced all
/// the while; a cut window would keep a stream from finding out that there is more bandwidth.
const HEAVY_LOSS: u64 = 10;
/// One packet in three: STARTUP sends 2.9 times what arrives.
const OVERFLOW: u64 = 3;
const OVERFLOW_PACKETS: u64 = 20;
const MIN_RTT_LIFETIME: u64 = 10 * SECOND;
/// Round trips below this are the scheduler's, not the path's; libudx counts in milliseconds.
const MIN_RTT_FLOOR: u64 = MILLISECOND;
const PROBE_RTT_TIME: u64 = 200 * MILLISECOND;
/// Packets that one segmentation-offload send holds.
const MAX_BURST: u64 = 44;
const AGGREGATION_ROUNDS: u8 = 5;
/// Aggregation is allowed for up to 100 ms of the bandwidth.
const MAX_AGGREGATION: u64 = 100 * MILLISECOND;

#[cfg(test)]
mod tests {
    use super::*;

    /// A bottleneck of `rate` packets per second on a path of `rtt`, kept as full as the
    /// controller allows and acknowledged each millisecond.
    struct Path {
        bbr: Bbr,
        now: Time,
        delivered: u64,
        in_flight: u32,
        /// Thousandths of a packet that were served and not yet acknowledged.
        served: u64,
        /// Bytes that the pacer has let go and that make no packet yet.
        paced: u64,
        rate: u64,
        rtt: u64,
    }

    impl Path {
        fn new(rate: u64, rtt: u64) -> Self {
            Self {
                bbr: Bbr::new(),
                now: Time::from_micros(1),
                delivered: 0,
                in_flight: 0,
                served: 0,
                paced: 0,
                rate,
                rtt,
            }
        }

        fn millisecond(&mut self) {
            self.paced += self.bbr.pacing_rate() / 1000;
            while self.paced >= 1000 && self.in_flight < self.bbr.window() {
                self.in_flight += 1;
                self.paced -= 1000;
            }
            self.paced %= 1000;
            let prior_in_flight = self.in_flight;
            let rate = self.rate.min(u64::from(prior_in_flight) * SECOND / self.rtt);
            let rtt = self.rtt.max(u64::from(prior_in_flight) * SECOND / self.rate);
            self.now = self.now.after(MILLISECOND);
            self.served += rate;
            let acked = u32::try_from(self.served / 1000).unwrap();
            self.served %= 1000;
            if acked == 0 {
                return;
            }
            self.delivered += u64::from(acked);
            self.in_flight -= acked;
            self.bbr.on_ack(&AckSample {
                now: self.now,
                acked,
                lost: 0,
                prior_in_flight,
                in_flight: self.in_flight,
                delivered: self.delivered,
                prior_delivered: self.delivered.saturating_sub(u64::from(prior_in_flight)),
                rate: Some(rate),
                app_limited: false,
                rtt: Some(rtt),
                packet_len: 1000,
                recovery: Recovery::Open,
            });
        }

        fn seconds(&mut self, seconds: u64) {
            (0..seconds * 1000).for_each(|_| self.millisecond());
        }
    }

    #[test]
    fn startup_doubles_until_the_bandwidth_is_found() {
        let mut path = Path::new(10_000, 20 * MILLISECOND);
        let mut waited = 0;
        while !path.bbr.pipe.full {
            path.millisecond();
            waited += 1;
            assert!(waited < 1000, "{:?}", path.bbr);
        }
        assert!((9_000..=10_000).contains(&path.bbr.bandwidth.max()));
    }

    #[test]
    fn cruising_keeps_about_two_bandwidth_delay_products() {
        let mut path = Path::new(10_000, 20 * MILLISECOND);
        path.seconds(2);
        assert!(matches!(path.bbr.state, State::ProbeBw { .. }));
        let product = 10_000 * 20 / 1000;
        let window = path.bbr.window();
        assert!((2 * product..4 * product).contains(&window), "window {window}");
        let rate = path.bbr.pacing_rate();
        assert!((7_000_000..13_000_000).contains(&rate), "rate {rate}");
    }

    #[test]
    fn a_stale_minimum_is_measured_again_with_four_packets() {
        let mut path = Path::new(10_000, 20 * MILLISECOND);
        path.seconds(2);
        path.rtt = 30 * MILLISECOND;
        let mut probed = false;
        for _ in 0..20_000 {
            path.millisecond();
            if matches!(path.bbr.state, State::ProbeRtt { .. }) {
                probed = true;
                assert_eq!(path.bbr.window(), MIN_WINDOW);
            } else if probed {
                break;
            }
        }
        assert!(probed);
        assert_eq!(path.bbr.path.micros, Some(30 * MILLISECOND));
        assert!(path.bbr.window() > MIN_WINDOW, "the window comes back");
    }

    fn loss(path: &Path, lost: u32) -> AckSample {
        AckSample {
            now: path.now,
            acked: 1,
            lost,
            prior_in_flight: path.bbr.window(),
            in_flight: 20,
            delivered: path.delivered + 1,
            prior_delivered: 0,
            rate: None,
            app_limited: false,
            rtt: None,
            packet_len: 1000,
            recovery: Recovery::Repairing,
        }
    }

    #[test]
    fn many_losses_cut_the_window_for_the_repair_only() {
        let mut path = Path::new(10_000, 20 * MILLISECOND);
        path.seconds(2);
        let before = path.bbr.window();
        let mut sample = loss(&path, 100);
        path.bbr.on_ack(&sample);
        assert_eq!(path.bbr.window(), 21);
        sample.lost = 0;
        sample.recovery = Recovery::Open;
        path.bbr.on_ack(&sample);
        assert!(path.bbr.window() >= before - 1);
    }

    #[test]
    fn few_losses_cut_nothing() {
        let mut path = Path::new(10_000, 20 * MILLISECOND);
        path.seconds(2);
        let before = path.bbr.window();
        path.bbr.on_ack(&loss(&path, 10));
        assert!(path.bbr.window() >= before, "{} of {before}", path.bbr.window());
    }

    #[test]
    fn a_queue_that_runs_over_ends_startup_whoever_sets_the_pace() {
        let mut path = Path::new(10_000, 20 * MILLISECOND);
        (0..60).for_each(|_| path.millisecond());
        assert_eq!(path.bbr.state, State::Startup);
        path.bbr.on_ack(&AckSample { app_limited: true, ..loss(&path, 1000) });
        assert!(path.bbr.pipe.full);
    }
}
