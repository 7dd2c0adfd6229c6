//! The channel table: everything of protomux that needs neither I/O nor a clock.

mod local;
mod remote;
mod transmit;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use self::{
    local::{Closed, LocalIds, Waiting},
    remote::{Ended, RemoteIds, Target},
    transmit::Transmit,
};
use crate::{
    Limits, OpenError, Protocol, Violation,
    frame::{
        CONTROL, Frame, Item, Message, Open, close_frame, message_frame, open_frame, reject_frame,
    },
};

/// The sans-IO half of protomux: frames in, events out; calls in, frames out.
///
/// Feed a frame with [`receive`](Self::receive) whenever [`wants_frame`](Self::wants_frame), then take
/// events with [`poll_event`](Self::poll_event) until there is none, and send what
/// [`poll_transmit`](Self::poll_transmit) gives. One frame at a time is taken apart, one message per
/// event, so that memory stays bounded by [`Limits`] whatever the peer sends.
///
/// ```
/// use protomux::{Channels, Event, Limits, Protocol};
///
/// let mut ours = Channels::new(Limits::default());
/// ours.open(&Protocol::new("chat"), b"")?;
/// let open = ours.poll_transmit().expect("an open to send");
/// assert_eq!(open, &b"\x00\x01\x01\x04chat\x00"[..]);
///
/// let mut theirs = Channels::new(Limits::default());
/// theirs.receive(open)?;
/// assert!(matches!(theirs.poll_event()?, Some(Event::Incoming { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Channels {
    limits: Limits,
    local: LocalIds,
    remote: RemoteIds,
    transmit: Transmit,
    /// The frame being taken apart.
    inbound: Option<Frame>,
    /// An open that waits for room to answer it.
    held: Option<Open>,
    /// What accepting a channel has set free: at most what waited for it.
    ready: VecDeque<(ChannelId, Event)>,
}

/// Names a channel open on our side. It is never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId {
    local: u64,
    serial: u64,
}

/// Names an open of the peer's that waits for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IncomingId {
    remote: u64,
    serial: u64,
}

/// What a frame of the peer's means to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer opens a channel that we have not: [`Channels::accept`] or [`Channels::reject`] it.
    Incoming {
        /// What to decide about.
        id: IncomingId,
        /// What the peer opens.
        protocol: Protocol,
        /// What its open carries besides; mostly empty.
        handshake: Bytes,
    },
    /// The peer closed a channel before we decided about it. It needs no answer.
    Withdrawn {
        /// What was to be decided about.
        id: IncomingId,
    },
    /// Both sides have opened the channel.
    Opened {
        /// The channel.
        channel: ChannelId,
        /// What the peer's open carries besides; mostly empty.
        handshake: Bytes,
    },
    /// A message came.
    Message {
        /// The channel it came on.
        channel: ChannelId,
        /// Its type, a number that the protocol of the channel gives a meaning to.
        kind: u64,
        /// Its content, a slice of the received frame.
        payload: Bytes,
        /// Bytes of that frame, which `payload` keeps in memory.
        frame_bytes: usize,
    },
    /// The peer closed or rejected the channel.
    Closed {
        /// The channel.
        channel: ChannelId,
        /// Whether it was rejected rather than closed.
        rejected: bool,
    },
}

impl ChannelId {
    /// A frame with one message on this channel, for [`Channels::send`]: built in one buffer, with
    /// room for `payload_len` bytes that `write` appends.
    pub fn message(
        self,
        kind: u64,
        payload_len: usize,
        write: impl FnOnce(&mut BytesMut),
    ) -> OutgoingMessage {
        OutgoingMessage {
            channel: self,
            frame: message_frame(self.local, kind, payload_len, write),
        }
    }
}

/// A message in its frame, ready to send.
#[derive(Debug, Clone)]
pub struct OutgoingMessage {
    channel: ChannelId,
    frame: Bytes,
}

impl OutgoingMessage {
    /// Bytes of the frame.
    pub fn frame_bytes(&self) -> usize {
        self.frame.len()
    }
}

impl Channels {
    /// A table without channels.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            local: LocalIds::default(),
            remote: RemoteIds::default(),
            transmit: Transmit::default(),
            inbound: None,
            held: None,
            ready: VecDeque::new(),
        }
    }

    /// The bounds this table keeps.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Opens a channel, which pairs with the first open of the same protocol and id from the peer
    /// that is not paired yet. Several may be open at once: see [`is_open`](Self::is_open) for the
    /// reference's habit of allowing one.
    ///
    /// Messages may be sent at once; the peer keeps them until it decides.
    ///
    /// # Errors
    /// [`OpenError::TooManyChannels`] and [`OpenError::NameTooLong`].
    pub fn open(&mut self, protocol: &Protocol, handshake: &[u8]) -> Result<ChannelId, OpenError> {
        let max = self.limits.name_bytes;
        if protocol.name().len() > max || protocol.id().len() > max {
            return Err(OpenError::NameTooLong);
        }
        if let Some(incoming) = self.remote.first_undecided(protocol) {
            return self.accept(incoming, handshake);
        }
        let channel = self.local.take(protocol, None, self.limits.channels)?;
        self.push(CONTROL, open_frame(channel.local, protocol, handshake));
        Ok(channel)
    }

    /// Whether a channel of this protocol and id is open on our side.
    pub fn is_open(&self, protocol: &Protocol) -> bool {
        self.local.is_open(protocol)
    }

    /// Opens our side of a channel that the peer opened. [`Event::Opened`] follows, then every
    /// message that came meanwhile.
    ///
    /// # Errors
    /// [`OpenError::TooManyChannels`], upon which it still waits, and [`OpenError::Withdrawn`].
    pub fn accept(
        &mut self,
        incoming: IncomingId,
        handshake: &[u8],
    ) -> Result<ChannelId, OpenError> {
        let undecided = self.remote.undecided(incoming).ok_or(OpenError::Withdrawn)?;
        let protocol = undecided.protocol.clone();
        let remote = Some(incoming.remote);
        let channel = self.local.take(&protocol, remote, self.limits.channels)?;
        let undecided = self.remote.decide(incoming).ok_or(OpenError::Withdrawn)?;
        self.remote.pair(incoming.remote, channel);
        self.push(CONTROL, open_frame(channel.local, &protocol, handshake));
        self.ready.push_back((channel, Event::Opened { channel, handshake: undecided.handshake }));
        for (kind, payload) in undecided.messages {
            let frame_bytes = payload.len();
            self.ready.push_back((channel, Event::Message { channel, kind, payload, frame_bytes }));
        }
        Ok(channel)
    }

    /// Turns down a channel that the peer opened, and drops what came on it. Nothing happens when
    /// it does not wait any more.
    pub fn reject(&mut self, incoming: IncomingId) {
        if self.remote.decide(incoming).is_some() {
            self.push(CONTROL, reject_frame(incoming.remote));
        }
    }

    /// Queues a message; `false` when its channel is not open on our side any more. It is queued even
    /// when there is no room: ask [`has_room`](Self::has_room) first.
    pub fn send(&mut self, message: OutgoingMessage) -> bool {
        let OutgoingMessage { channel, frame } = message;
        let open = self.local.contains(channel);
        if open {
            self.push(channel.local, frame);
        }
        open
    }

    /// Closes a channel, at once on our side. What the peer still sends on it is ignored. Nothing
    /// happens when it is not open.
    pub fn close(&mut self, channel: ChannelId) {
        match self.local.close(channel) {
            Closed::Not => return,
            Closed::Early => {}
            Closed::Paired { remote } => {
                self.remote.close(remote);
            }
        }
        self.push(CONTROL, close_frame(channel.local));
    }

    /// From now on messages are kept, to go out as one frame. Calls nest.
    pub fn cork(&mut self) {
        self.transmit.cork();
    }

    /// Ends one [`cork`](Self::cork); the last one queues what was kept as one batch, or as several
    /// when it would pass 8 MiB or the bound of a frame.
    pub fn uncork(&mut self) {
        self.transmit.uncork();
    }

    /// Whether the queue of frames to send is below its bounds. While it is not, opens of the peer's
    /// are not taken either.
    pub fn has_room(&self) -> bool {
        self.transmit.has_room(&self.limits)
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.transmit.pop()
    }

    /// Whether nothing waits to be sent.
    pub fn is_flushed(&self) -> bool {
        self.transmit.is_empty()
    }

    /// Whether the last frame has been taken apart, and more may be read.
    pub fn wants_frame(&self) -> bool {
        self.inbound.is_none() && self.held.is_none() && self.ready.is_empty() && !self.is_paused()
    }

    /// Takes a frame from the peer. One that has not been taken apart yet is lost: ask
    /// [`wants_frame`](Self::wants_frame) first.
    ///
    /// # Errors
    /// [`Violation::FrameTooLong`].
    pub fn receive(&mut self, frame: Bytes) -> Result<(), Violation> {
        if frame.len() > self.limits.frame_bytes {
            return Err(Violation::FrameTooLong { len: frame.len() });
        }
        if !frame.is_empty() {
            self.inbound = Some(Frame::new(frame));
        }
        Ok(())
    }

    /// The next event. `None` when there is none: because another frame is needed, or because the
    /// peer's open needs [room](Self::has_room) for an answer, or because too much waits for channels
    /// that are undecided ([`Limits::undecided_bytes`]).
    ///
    /// # Errors
    /// The rule that the peer broke; the mux is of no more use then.
    pub fn poll_event(&mut self) -> Result<Option<Event>, Violation> {
        loop {
            while let Some((channel, event)) = self.ready.pop_front() {
                // It may have been closed again meanwhile.
                if self.local.contains(channel) {
                    return Ok(Some(event));
                }
            }
            if self.is_paused() {
                return Ok(None);
            }
            let event = if let Some(open) = self.held.take() {
                if !self.has_room() {
                    self.held = Some(open);
                    return Ok(None);
                }
                self.on_open(open)?
            } else if let Some(mut frame) = self.inbound.take() {
                let item = frame.next()?;
                let frame_bytes = frame.len();
                self.inbound = Some(frame).filter(|frame| !frame.is_finished());
                self.on_item(item, frame_bytes)?
            } else {
                return Ok(None);
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn on_item(
        &mut self,
        item: Option<Item>,
        frame_bytes: usize,
    ) -> Result<Option<Event>, Violation> {
        Ok(match item {
            None => None,
            Some(Item::Open(open)) => {
                self.held = Some(open);
                None
            }
            Some(Item::Reject { local }) => self.on_reject(local)?,
            Some(Item::Close { remote }) => self.on_close(remote),
            Some(Item::Message(message)) => self.on_message(message, frame_bytes),
        })
    }

    fn is_paused(&self) -> bool {
        self.remote.undecided_bytes() > self.limits.undecided_bytes
    }

    fn on_open(&mut self, open: Open) -> Result<Option<Event>, Violation> {
        let Open { remote, name, id, handshake } = open;
        if !self.remote.claim(remote) {
            return Err(Violation::InvalidOpen { id: remote });
        }
        let max = self.limits.name_bytes;
        if name.len() > max || id.len() > max {
            self.push(CONTROL, reject_frame(remote));
            return Ok(None);
        }
        let protocol =
            Protocol::new(String::from_utf8_lossy(&name)).with_id(Bytes::copy_from_slice(&id));
        match self.local.pair(&protocol, remote) {
            Some(Waiting::Channel(channel)) => {
                self.remote.pair(remote, channel);
                Ok(Some(Event::Opened { channel, handshake }))
            }
            Some(Waiting::ClosedEarly) => Ok(None),
            None if self.remote.undecided_count() >= self.limits.undecided
                || self.local.is_full(self.limits.channels) =>
            {
                self.push(CONTROL, reject_frame(remote));
                Ok(None)
            }
            None => Ok(Some(Event::Incoming {
                id: self.remote.wait(remote, protocol.clone(), &handshake),
                protocol,
                handshake,
            })),
        }
    }

    fn on_reject(&mut self, local: u64) -> Result<Option<Event>, Violation> {
        match self.local.reject(local) {
            None => Err(Violation::InvalidReject { id: local }),
            Some(Waiting::ClosedEarly) => Ok(None),
            Some(Waiting::Channel(channel)) => Ok(Some(Event::Closed { channel, rejected: true })),
        }
    }

    fn on_close(&mut self, remote: u64) -> Option<Event> {
        match self.remote.close(remote) {
            Ended::Unknown => None,
            Ended::Paired(channel) => {
                self.local.close(channel);
                Some(Event::Closed { channel, rejected: false })
            }
            Ended::Undecided(id) => {
                // The peer keeps its id until its open is answered.
                self.reject(id);
                Some(Event::Withdrawn { id })
            }
        }
    }

    fn on_message(&mut self, message: Message, frame_bytes: usize) -> Option<Event> {
        let Message { remote, kind, payload } = message;
        match self.remote.deliver(remote, kind, &payload) {
            Target::Nowhere | Target::Undecided => None,
            Target::Channel(channel) => {
                Some(Event::Message { channel, kind, payload, frame_bytes })
            }
        }
    }

    fn push(&mut self, channel: u64, frame: Bytes) {
        self.transmit.push(channel, frame, &self.limits);
    }
}
