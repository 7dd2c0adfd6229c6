//! The delivery rate, as draft-cheng-iccrg-delivery-rate-estimation measures it.

use crate::udx::Time;

/// Counts of one stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delivery {
    /// Packets delivered so far.
    delivered: u64,
    /// When the last of them was acknowledged.
    delivered_at: Time,
    /// When the first packet of the current flight left.
    first_sent_at: Time,
    /// While `delivered` has not passed this, samples tell the application's pace, not the path's.
    app_limited_until: u64,
}

/// The counts at the moment a packet left; kept with the packet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SendRecord {
    delivered: u64,
    delivered_at: Time,
    first_sent_at: Time,
    app_limited: bool,
}

/// Gathers the packets that one acknowledgement covers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RateSampling {
    newest: Option<(Time, SendRecord)>,
    packets: u32,
}

impl RateSampling {
    /// Packets gathered.
    pub(crate) const fn packets(&self) -> u32 {
        self.packets
    }

    /// Packets that had been delivered when the newest of the gathered ones left.
    pub(crate) fn prior_delivered(&self) -> u64 {
        self.newest.map_or(0, |(_, record)| record.delivered)
    }

    /// Whether the newest packet left while there was nothing more to send.
    pub(crate) fn app_limited(&self) -> bool {
        self.newest.is_some_and(|(_, record)| record.app_limited)
    }
}

impl Delivery {
    /// A packet leaves while `in_flight` others are under way.
    pub(crate) const fn on_send(&mut self, now: Time, in_flight: u32) -> SendRecord {
        if in_flight == 0 {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        SendRecord {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            app_limited: self.app_limited_until > 0,
        }
    }

    /// A packet that left at `sent_at` was delivered.
    pub(crate) fn on_delivered(
        &mut self,
        now: Time,
        sent_at: Time,
        record: SendRecord,
        sampling: &mut RateSampling,
    ) {
        self.delivered += 1;
        self.delivered_at = now;
        sampling.packets += 1;
        let newer = sampling.newest.is_none_or(|(_, newest)| record.delivered > newest.delivered)
            || sampling.newest.is_some_and(|(newest_at, newest)| {
                record.delivered == newest.delivered && sent_at > newest_at
            });
        if newer {
            sampling.newest = Some((sent_at, record));
            self.first_sent_at = sent_at;
        }
        if self.delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
    }

    /// Packets per second over the sampled flight; `None` if it was shorter than a round trip can
    /// be, which means that acknowledgements were held up and came at once.
    pub(crate) fn rate(&self, sampling: &RateSampling, min_rtt: u64) -> Option<u64> {
        let (sent_at, record) = sampling.newest?;
        let send_elapsed = sent_at.since(record.first_sent_at);
        let ack_elapsed = self.delivered_at.since(record.delivered_at);
        let interval = send_elapsed.max(ack_elapsed);
        if interval == 0 || interval < min_rtt {
            return None;
        }
        Some((self.delivered - record.delivered) * 1_000_000 / interval)
    }

    /// There is nothing more to send although the window would allow it.
    pub(crate) fn set_app_limited(&mut self, in_flight: u32) {
        self.app_limited_until = (self.delivered + u64::from(in_flight)).max(1);
    }

    /// Whether the application sets the pace.
    pub(crate) const fn is_app_limited(&self) -> bool {
        self.app_limited_until > 0
    }

    /// Packets delivered so far.
    pub(crate) const fn delivered(&self) -> u64 {
        self.delivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    #[test]
    fn a_flight_of_ten_acknowledged_over_ten_milliseconds_is_a_thousand_per_second() {
        let mut delivery = Delivery::default();
        let records: Vec<SendRecord> = (0..10).map(|n| delivery.on_send(at(0), n)).collect();
        let mut rate = None;
        for (n, record) in (1..).zip(records) {
            let mut sampling = RateSampling::default();
            delivery.on_delivered(at(n), at(0), record, &mut sampling);
            rate = delivery.rate(&sampling, 1);
        }
        assert_eq!(rate, Some(1000));
    }

    #[test]
    fn a_flight_sent_slowly_is_not_made_fast_by_acks_at_once() {
        let mut delivery = Delivery::default();
        let records: Vec<SendRecord> =
            (0..10u32).map(|n| delivery.on_send(at(n.into()), n)).collect();
        let mut sampling = RateSampling::default();
        for (n, record) in (0..).zip(records) {
            delivery.on_delivered(at(10), at(n), record, &mut sampling);
        }
        assert_eq!(delivery.rate(&sampling, 1), Some(1000));
        assert_eq!(delivery.rate(&sampling, 20_000), None);
    }

    #[test]
    fn an_idle_application_marks_samples_until_its_flight_is_delivered() {
        let mut delivery = Delivery::default();
        delivery.set_app_limited(1);
        let record = delivery.on_send(at(0), 0);
        let mut sampling = RateSampling::default();
        delivery.on_delivered(at(1), at(0), record, &mut sampling);
        assert!(sampling.app_limited() && delivery.is_app_limited());
        delivery.on_delivered(at(1), at(0), record, &mut sampling);
        assert!(!delivery.is_app_limited());
    }
}
