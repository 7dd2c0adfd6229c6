//! How much may be under way, and how fast it may leave.
//!
//! [`Congestion`] is the seam; [`Bbr`] is what libudx runs too. Nothing of the choice shows on the
//! wire. `delivery` measures the rate that BBR is fed with, `pacer` spreads departures.

mod bbr;
mod delivery;
mod pacer;

use std::fmt;

pub use bbr::Bbr;
pub(crate) use delivery::{Delivery, RateSampling, SendRecord};
pub(crate) use pacer::Pacer;

use super::Time;

/// A congestion controller of one stream. All windows are in packets, all rates per second.
pub trait Congestion: fmt::Debug + Send {
    /// A packet is about to leave while `in_flight` others are under way.
    fn on_send(&mut self, now: Time, in_flight: u32, app_limited: bool);

    /// An acknowledgement was worked through, losses that it revealed included.
    fn on_ack(&mut self, sample: &AckSample);

    /// The retransmission timer ran out.
    fn on_timeout(&mut self);

    /// Packets that may be under way.
    fn window(&self) -> u32;

    /// Bytes per second at which packets may leave.
    fn pacing_rate(&self) -> u64;
}

/// Makes the controller of a new stream, or of a stream that moved to a new path.
pub type CongestionFactory = fn() -> Box<dyn Congestion>;

/// What one acknowledgement told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AckSample {
    /// When it came.
    pub now: Time,
    /// Packets that it newly reported as delivered.
    pub acked: u32,
    /// Packets newly deemed lost since the last sample.
    pub lost: u32,
    /// Packets under way before it came.
    pub prior_in_flight: u32,
    /// Packets under way now.
    pub in_flight: u32,
    /// Packets delivered in the life of the stream.
    pub delivered: u64,
    /// [`AckSample::delivered`] as it was when the newest of the acknowledged packets left.
    pub prior_delivered: u64,
    /// Packets delivered per second between those two moments; `None` if too short to tell.
    pub rate: Option<u64>,
    /// Whether the sender had nothing more to send in that time.
    pub app_limited: bool,
    /// Round trip of the newest packet that was sent once only, in microseconds.
    pub rtt: Option<u64>,
    /// Payload bytes of a full packet.
    pub packet_len: u32,
    /// Whether losses are being repaired.
    pub recovery: Recovery,
}

/// Whether losses are being repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing is known to be lost.
    Open,
    /// A packet was seen missing; lasts until all that was sent by then is acknowledged.
    Repairing,
    /// The retransmission timer ran out; lasts as long.
    TimedOut,
}
