//! The peer's channel ids: which are paired, which wait for a decision.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::{ChannelId, IncomingId};
use crate::{Protocol, UNDECIDED_MESSAGE_COST};

/// The peer's side of the channel table. It holds only ids in use, whatever the peer has used before.
#[derive(Debug, Default)]
pub(super) struct RemoteIds {
    slots: HashMap<u64, Remote>,
    /// The highest id so far; the peer may use a free one up to it, or the next.
    highest: u64,
    undecided: HashMap<Protocol, VecDeque<u64>>,
    undecided_count: usize,
    undecided_bytes: usize,
    serial: u64,
}

/// What an id of the peer's stands for.
#[derive(Debug)]
enum Remote {
    Paired(ChannelId),
    Undecided(Undecided),
}

/// An open of the peer's that nobody has accepted or rejected, and what came behind it.
#[derive(Debug)]
pub(super) struct Undecided {
    serial: u64,
    pub(super) protocol: Protocol,
    pub(super) handshake: Bytes,
    pub(super) messages: Vec<(u64, Bytes)>,
    bytes: usize,
}

/// What became of an id that the peer closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Unknown,
    Paired(ChannelId),
    Undecided(IncomingId),
}

/// Where a message goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Nowhere,
    Channel(ChannelId),
    Undecided,
}

impl RemoteIds {
    /// Notes that the peer uses `remote`; `false` when it must not.
    pub(super) fn claim(&mut self, remote: u64) -> bool {
        let free = remote != 0 && remote <= self.highest + 1 && !self.slots.contains_key(&remote);
        if free {
            self.highest = self.highest.max(remote);
        }
        free
    }

    pub(super) fn pair(&mut self, remote: u64, channel: ChannelId) {
        self.slots.insert(remote, Remote::Paired(channel));
    }

    pub(super) const fn undecided_count(&self) -> usize {
        self.undecided_count
    }

    pub(super) const fn undecided_bytes(&self) -> usize {
        self.undecided_bytes
    }

    /// Keeps an open until it is decided.
    pub(super) fn wait(&mut self, remote: u64, protocol: Protocol, handshake: &[u8]) -> IncomingId {
        self.serial += 1;
        let queue = self.undecided.entry(protocol.clone()).or_default();
        queue.push_back(remote);
        self.undecided_count += 1;
        self.undecided_bytes += handshake.len();
        let undecided = Undecided {
            serial: self.serial,
            protocol,
            handshake: Bytes::copy_from_slice(handshake),
            messages: Vec::new(),
            bytes: handshake.len(),
        };
        self.slots.insert(remote, Remote::Undecided(undecided));
        IncomingId { remote, serial: self.serial }
    }

    /// The first open of this protocol that waits.
    pub(super) fn first_undecided(&self, protocol: &Protocol) -> Option<IncomingId> {
        let remote = *self.undecided.get(protocol)?.front()?;
        match self.slots.get(&remote)? {
            Remote::Undecided(undecided) => Some(IncomingId { remote, serial: undecided.serial }),
            Remote::Paired(_) => None,
        }
    }

    pub(super) fn undecided(&self, incoming: IncomingId) -> Option<&Undecided> {
        match self.slots.get(&incoming.remote)? {
            Remote::Undecided(undecided) if undecided.serial == incoming.serial => Some(undecided),
            Remote::Undecided(_) | Remote::Paired(_) => None,
        }
    }

    /// Takes an open that waited off the table.
    pub(super) fn decide(&mut self, incoming: IncomingId) -> Option<Undecided> {
        self.undecided(incoming)?;
        let Some(Remote::Undecided(undecided)) = self.slots.remove(&incoming.remote) else {
            return None;
        };
        self.undecided_count -= 1;
        self.undecided_bytes -= undecided.bytes;
        if let Some(queue) = self.undecided.get_mut(&undecided.protocol) {
            queue.retain(|remote| *remote != incoming.remote);
            if queue.is_empty() {
                self.undecided.remove(&undecided.protocol);
            }
        }
        Some(undecided)
    }

    /// Finds where a message goes; one for an undecided channel is kept, copied so that it does not
    /// hold on to a larger frame.
    pub(super) fn deliver(&mut self, remote: u64, kind: u64, payload: &[u8]) -> Target {
        match self.slots.get_mut(&remote) {
            None => Target::Nowhere,
            Some(Remote::Paired(channel)) => Target::Channel(*channel),
            Some(Remote::Undecided(undecided)) => {
                let cost = UNDECIDED_MESSAGE_COST + payload.len();
                undecided.bytes += cost;
                self.undecided_bytes += cost;
                undecided.messages.push((kind, Bytes::copy_from_slice(payload)));
                Target::Undecided
            }
        }
    }

    /// The peer closed `remote`; a paired id is free at once.
    pub(super) fn close(&mut self, remote: u64) -> Ended {
        match self.slots.get(&remote) {
            None => Ended::Unknown,
            Some(Remote::Undecided(undecided)) => {
                Ended::Undecided(IncomingId { remote, serial: undecided.serial })
            }
            Some(Remote::Paired(channel)) => {
                let channel = *channel;
                self.slots.remove(&remote);
                Ended::Paired(channel)
            }
        }
    }
}
