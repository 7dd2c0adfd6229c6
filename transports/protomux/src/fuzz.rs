//! What the fuzz targets run: any frames in, no panic and no broken bound out.

use bytes::Bytes;
use hyperdht_encoding::{DecodeError, Decoder};

use crate::{
    ChannelId, Channels, Event, IncomingId, Limits, Protocol, UNDECIDED_MESSAGE_COST,
    rpc::message::{Request, Response},
};

/// Reads `input` as frames of a peer and what the application does in between; what comes on a
/// channel is read as a message of protomux-rpc, too.
///
/// # Panics
/// When the table breaks a bound, which is what a fuzzer looks for.
pub fn frames(input: &[u8]) {
    let mut decoder = Decoder::new(input);
    let mut world = World {
        limits: limits(),
        table: Channels::new(limits()),
        channels: Vec::new(),
        undecided: Vec::new(),
    };
    while !decoder.is_empty() && world.act(&mut decoder).is_ok() && world.check().is_ok() {}
}

/// The input is over, or the peer broke a rule.
struct Over;

impl From<DecodeError> for Over {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

struct World {
    limits: Limits,
    table: Channels,
    channels: Vec<ChannelId>,
    undecided: Vec<IncomingId>,
}

impl World {
    fn act(&mut self, decoder: &mut Decoder<'_>) -> Result<(), Over> {
        match decoder.uint8()? % 12 {
            0..=5 => {
                let len = usize::from(decoder.uint8()?) * 4;
                let frame = decoder.bytes(len.min(decoder.rest().len()))?;
                self.receive(Bytes::copy_from_slice(frame))?;
            }
            6 => {
                if let Ok(channel) = self.table.open(&protocol(decoder.uint8()?), b"hello") {
                    self.keep(channel);
                }
            }
            7 => {
                if let Some(id) = self.undecided.pop()
                    && let Ok(channel) = self.table.accept(id, b"")
                {
                    self.keep(channel);
                }
            }
            8 => {
                if let Some(id) = self.undecided.pop() {
                    self.table.reject(id);
                }
            }
            9 => {
                if let Some(channel) = self.channels.pop() {
                    self.table.close(channel);
                }
            }
            10 => {
                let len = usize::from(decoder.uint8()?);
                if let Some(channel) = self.channels.first()
                    && self.table.has_room()
                {
                    let message = channel.message(1, len, |frame| {
                        frame.extend_from_slice(&vec![7; len]);
                    });
                    self.table.send(message);
                }
            }
            _ => while self.table.poll_transmit().is_some() {},
        }
        Ok(())
    }

    fn receive(&mut self, frame: Bytes) -> Result<(), Over> {
        if !self.table.wants_frame() {
            // An open waits for room, or messages for a decision.
            while self.table.poll_transmit().is_some() {}
            for id in self.undecided.drain(..) {
                self.table.reject(id);
            }
            self.events()?;
        }
        if self.table.wants_frame() {
            self.table.receive(frame).map_err(|_| Over)
        } else {
            Err(Over)
        }
    }

    fn events(&mut self) -> Result<(), Over> {
        while let Some(event) = self.table.poll_event().map_err(|_| Over)? {
            match event {
                Event::Incoming { id, protocol, .. } => {
                    assert!(protocol.name().len() <= 3 * self.limits.name_bytes);
                    self.undecided.push(id);
                }
                Event::Withdrawn { id } => self.undecided.retain(|other| *other != id),
                Event::Closed { channel, .. } => self.channels.retain(|other| *other != channel),
                Event::Message { payload, frame_bytes, .. } => {
                    assert!(payload.len() <= frame_bytes);
                    let _ = Request::read(payload.clone(), &self.limits);
                    let _ = Response::read(payload, &self.limits);
                }
                Event::Opened { .. } => {}
            }
        }
        Ok(())
    }

    fn keep(&mut self, channel: ChannelId) {
        self.channels.push(channel);
    }

    fn check(&mut self) -> Result<(), Over> {
        self.events()?;
        let Limits { undecided, channels, transmit_frames, .. } = self.limits;
        assert!(self.undecided.len() <= undecided, "too much undecided");
        assert!(self.channels.len() <= channels, "too many channels");
        // What the application did above its bound, and one answer for each thing undecided.
        let queued = std::iter::from_fn(|| self.table.poll_transmit()).take(MAX_QUEUED + 1);
        let queued = queued.count();
        assert!(queued <= transmit_frames + undecided + channels + 2, "{queued} frames");
        Ok(())
    }
}

const fn limits() -> Limits {
    Limits {
        frame_bytes: 1 << 20,
        transmit_bytes: 1 << 16,
        transmit_frames: 8,
        channels: 4,
        undecided: 3,
        undecided_bytes: 4 * UNDECIDED_MESSAGE_COST,
        outstanding: 8,
        handlers: 4,
        handler_bytes: 1 << 16,
        name_bytes: 8,
        method_bytes: 8,
        error_text_bytes: 64,
    }
}

/// Few protocols, with and without an id.
fn protocol(n: u8) -> Protocol {
    let name = if n.is_multiple_of(2) { "a" } else { "b" };
    match n % 3 {
        0 => Protocol::new(name),
        n => Protocol::new(name).with_id(vec![n]),
    }
}

const MAX_QUEUED: usize = 1000;
