//! Our channel ids: which are in use, which of them wait for the peer.

use std::collections::{HashMap, VecDeque};

use super::ChannelId;
use crate::{OpenError, Protocol};

/// Our side of the channel table. Ids count from 1; a freed one is taken again first, the last freed
/// before others, as in protomux 3.12.
#[derive(Debug, Default)]
pub(super) struct LocalIds {
    slots: Vec<Slot>,
    free: Vec<u64>,
    /// Ids whose open the peer has not answered yet, in the order of sending.
    waiting: HashMap<Protocol, VecDeque<u64>>,
    /// How many channels of a protocol are open on our side.
    open: HashMap<Protocol, usize>,
    serial: u64,
}

#[derive(Debug, Clone)]
enum Slot {
    Free,
    /// Opened by us, not yet by the peer.
    Waiting {
        channel: ChannelId,
        protocol: Protocol,
    },
    /// Closed by us before the peer opened it. The id stays in use until the peer answers the open:
    /// until then it cannot know which channel a new use would mean.
    ClosedEarly {
        protocol: Protocol,
    },
    /// Opened by both; the peer calls it `remote`.
    Open {
        channel: ChannelId,
        protocol: Protocol,
        remote: u64,
    },
}

/// What an answer to one of our opens met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// A channel that still wants it.
    Channel(ChannelId),
    /// A channel that was closed meanwhile.
    ClosedEarly,
}

/// What closing a channel on our side leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// It was not open: nothing to do.
    Not,
    /// The peer has not answered the open.
    Early,
    /// The peer called it by this id.
    Paired { remote: u64 },
}

impl LocalIds {
    pub(super) fn is_full(&self, max: usize) -> bool {
        self.slots.len() - self.free.len() >= max
    }

    pub(super) fn is_open(&self, protocol: &Protocol) -> bool {
        self.open.contains_key(protocol)
    }

    /// Takes an id for a channel that waits for the peer, or that is paired with `remote` already.
    pub(super) fn take(
        &mut self,
        protocol: &Protocol,
        remote: Option<u64>,
        max: usize,
    ) -> Result<ChannelId, OpenError> {
        if self.is_full(max) {
            return Err(OpenError::TooManyChannels);
        }
        let local = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() as u64
        });
        self.serial += 1;
        let channel = ChannelId { local, serial: self.serial };
        let protocol = protocol.clone();
        *self.open.entry(protocol.clone()).or_default() += 1;
        let slot = match remote {
            Some(remote) => Slot::Open { channel, protocol, remote },
            None => {
                let queue = self.waiting.entry(protocol.clone()).or_default();
                queue.push_back(local);
                Slot::Waiting { channel, protocol }
            }
        };
        self.set(local, slot);
        Ok(channel)
    }

    /// Pairs the peer's open with the first of ours that waits for it.
    pub(super) fn pair(&mut self, protocol: &Protocol, remote: u64) -> Option<Waiting> {
        let queue = self.waiting.get_mut(protocol)?;
        let local = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(protocol);
        }
        match self.slot(local).clone() {
            Slot::Waiting { channel, protocol } => {
                self.set(local, Slot::Open { channel, protocol, remote });
                Some(Waiting::Channel(channel))
            }
            Slot::ClosedEarly { .. } | Slot::Free | Slot::Open { .. } => {
                self.release(local);
                Some(Waiting::ClosedEarly)
            }
        }
    }

    /// Takes back an open that the peer rejected; `None` when `local` was not waiting.
    pub(super) fn reject(&mut self, local: u64) -> Option<Waiting> {
        let (protocol, outcome) = match self.slot(local).clone() {
            Slot::Waiting { channel, protocol } => {
                self.count_down(&protocol);
                (protocol, Waiting::Channel(channel))
            }
            Slot::ClosedEarly { protocol } => (protocol, Waiting::ClosedEarly),
            Slot::Free | Slot::Open { .. } => return None,
        };
        if let Some(queue) = self.waiting.get_mut(&protocol) {
            queue.retain(|waiting| *waiting != local);
            if queue.is_empty() {
                self.waiting.remove(&protocol);
            }
        }
        self.release(local);
        Some(outcome)
    }

    /// Closes a channel on our side.
    pub(super) fn close(&mut self, closing: ChannelId) -> Closed {
        match self.slot(closing.local).clone() {
            Slot::Waiting { channel, protocol } if channel == closing => {
                self.count_down(&protocol);
                self.set(closing.local, Slot::ClosedEarly { protocol });
                Closed::Early
            }
            Slot::Open { channel, protocol, remote } if channel == closing => {
                self.count_down(&protocol);
                self.release(closing.local);
                Closed::Paired { remote }
            }
            Slot::Waiting { .. } | Slot::Open { .. } | Slot::ClosedEarly { .. } | Slot::Free => {
                Closed::Not
            }
        }
    }

    /// Whether `channel` is open on our side.
    pub(super) fn contains(&self, asked: ChannelId) -> bool {
        match self.slot(asked.local) {
            Slot::Waiting { channel, .. } | Slot::Open { channel, .. } => *channel == asked,
            Slot::Free | Slot::ClosedEarly { .. } => false,
        }
    }

    fn slot(&self, local: u64) -> &Slot {
        local
            .checked_sub(1)
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| self.slots.get(index))
            .unwrap_or(&Slot::Free)
    }

    fn set(&mut self, local: u64, slot: Slot) {
        let index = local.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        if let Some(place) = index.and_then(|index| self.slots.get_mut(index)) {
            *place = slot;
        }
    }

    fn release(&mut self, local: u64) {
        self.set(local, Slot::Free);
        self.free.push(local);
    }

    fn count_down(&mut self, protocol: &Protocol) {
        if let Some(count) = self.open.get_mut(protocol) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(protocol);
            }
        }
    }
}
