//! The channel on which a client and a relay talk, without I/O.

use bytes::Bytes;
use hyperdht_proto::{
    blind_relay::{Message, PROTOCOL},
    keys::PublicKey,
};
use protomux::{ChannelId, Channels, Event, Limits, Protocol, Violation};

/// Either end's half of the channel. Frames of the connection go in and out.
#[derive(Debug)]
pub(super) struct Channel {
    channels: Channels,
    id: ChannelId,
}

/// What came in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A message of the other end's.
    Message(Message),
    /// The other end has closed the channel, or has never had it.
    Closed,
}

/// The other end does not keep to the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChannelError {
    /// Of channels.
    #[error(transparent)]
    Mux(#[from] Violation),
    /// A message that cannot be read.
    #[error("a malformed message")]
    Malformed,
}

impl Channel {
    /// Opens the channel of the client that has this key on the connection.
    pub(super) fn open(client: PublicKey) -> Self {
        let protocol = Protocol::new(PROTOCOL).with_id(client.as_bytes().to_vec());
        let mut channels = Channels::new(limits());
        let id = channels.open(&protocol, b"").expect("the first channel has room");
        Self { channels, id }
    }

    /// Queues a message.
    pub(super) fn send(&mut self, message: &Message) {
        let content = message.encode();
        let frame = self.id.message(message.kind(), content.len(), |frame| {
            frame.extend_from_slice(&content);
        });
        self.channels.send(frame);
    }

    /// Closes our end.
    pub(super) fn close(&mut self) {
        self.channels.close(self.id);
    }

    /// The next frame to send.
    pub(super) fn poll_transmit(&mut self) -> Option<Bytes> {
        self.channels.poll_transmit()
    }

    /// Whether the last frame has been taken apart. If not, what is queued has to be sent first, and
    /// [`Channel::poll`] asked again.
    pub(super) fn wants_frame(&self) -> bool {
        self.channels.wants_frame()
    }

    /// Takes a frame, once one is [wanted](Channel::wants_frame).
    pub(super) fn receive(&mut self, frame: Bytes) -> Result<(), ChannelError> {
        Ok(self.channels.receive(frame)?)
    }

    /// What the frame brought.
    pub(super) fn poll(&mut self) -> Result<Option<Arrival>, ChannelError> {
        while let Some(event) = self.channels.poll_event()? {
            match event {
                Event::Incoming { id, .. } => self.channels.reject(id),
                Event::Message { kind, payload, .. } => {
                    let message =
                        Message::decode(kind, &payload).map_err(|_| ChannelError::Malformed)?;
                    if let Some(message) = message {
                        return Ok(Some(Arrival::Message(message)));
                    }
                }
                Event::Closed { .. } => return Ok(Some(Arrival::Closed)),
                Event::Opened { .. } | Event::Withdrawn { .. } => {}
            }
        }
        Ok(None)
    }
}

/// One channel with messages of 39 bytes; nothing else has a place on such a connection. Memory: some
/// 8 KiB at most, of which the other end can fill half.
fn limits() -> Limits {
    Limits {
        frame_bytes: 4096,
        transmit_bytes: 4096,
        transmit_frames: 32,
        channels: 1,
        undecided: 1,
        undecided_bytes: 1024,
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use hyperdht_proto::blind_relay::Pair;

    use super::*;

    const KEY: PublicKey = PublicKey::from_bytes([5; 32]);
    const PAIR: Message = Message::Pair(Pair { initiator: true, token: [1; 32], stream_id: 7 });

    fn pass(from: &mut Channel, to: &mut Channel) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        while let Some(frame) = from.poll_transmit() {
            to.receive(frame).unwrap();
            while let Some(arrival) = to.poll().unwrap() {
                arrivals.push(arrival);
            }
        }
        arrivals
    }

    #[test]
    fn the_first_message_follows_the_open_without_waiting() {
        let (mut client, mut relay) = (Channel::open(KEY), Channel::open(KEY));
        client.send(&PAIR);
        assert_eq!(pass(&mut client, &mut relay), [Arrival::Message(PAIR)]);
        relay.send(&PAIR);
        assert_eq!(pass(&mut relay, &mut client), [Arrival::Message(PAIR)]);
        relay.close();
        assert_eq!(pass(&mut relay, &mut client), [Arrival::Closed]);
    }

    #[test]
    fn a_channel_for_another_key_is_turned_down() {
        let other = PublicKey::from_bytes([6; 32]);
        let (mut client, mut relay) = (Channel::open(KEY), Channel::open(other));
        client.send(&PAIR);
        assert_eq!(pass(&mut client, &mut relay), []);
        assert_eq!(pass(&mut relay, &mut client), [Arrival::Closed]);
    }

    #[test]
    fn what_is_malformed_or_too_long_is_told() {
        let mut channel = Channel::open(KEY);
        let long = channel.receive(vec![1; 4097].into());
        assert!(matches!(long, Err(ChannelError::Mux(Violation::FrameTooLong { .. }))));
        let mut other = Channel::open(KEY);
        let short = other.id.message(0, 3, |frame| frame.extend_from_slice(b"abc"));
        other.channels.send(short);
        let frames: Vec<_> = std::iter::from_fn(|| other.poll_transmit()).collect();
        let taken = frames.into_iter().try_for_each(|frame| {
            channel.receive(frame)?;
            channel.poll().map(drop)
        });
        assert_eq!(taken, Err(ChannelError::Malformed));
    }
}
