//! A UDP port that a router forwards to the server socket, as the operator says.
//!
//! The reference knows a port of its own only as the one it is bound to, and as one from which what it
//! sends comes, too. A forwarded port may have another number, and be that of a host whose NAT sends
//! everything out from yet other ports. So whether it is open is found out on its own.

use std::{net::SocketAddrV4, time::Instant};

use bytes::Bytes;

use super::{
    super::{Event, Peer, Response, SocketId, commands},
    Purpose, Rpc,
    outbound::Call,
};

/// The port, and what is known of it.
#[derive(Debug)]
pub(super) struct Forwarding {
    port: u16,
    state: State,
    check: Option<Check>,
    /// Whether the start has waited for the first look.
    looked: bool,
    /// [`Rpc::responses`] at the last look.
    responses: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody reaches it, as far as is known.
    Closed,
    /// Others reach the server socket there.
    Open,
    /// Nobody answers the other socket: a firewall lets one port through and no other. What others
    /// see cannot be found out, so that the operator is believed.
    OnlyWay,
}

/// A look that is under way.
#[derive(Debug)]
struct Check {
    asked: usize,
    running: usize,
    /// Nodes that reached the server socket at the port.
    reached: usize,
    /// Nodes that answered the client socket.
    answered: usize,
}

impl Forwarding {
    pub(super) const fn new(port: u16) -> Self {
        Self { port, state: State::Closed, check: None, looked: false, responses: 0 }
    }

    /// Whether all has to leave from the server socket.
    pub(super) const fn is_only_way(&self) -> bool {
        matches!(self.state, State::OnlyWay)
    }
}

impl Rpc {
    /// The forwarded port's address, when it is open.
    pub(super) fn forwarded_address(&self) -> Option<SocketAddrV4> {
        let forwarding = self.forwarding.as_ref();
        let forwarding = forwarding.filter(|forwarding| forwarding.state != State::Closed)?;
        let host = *self.nat.address()?.ip();
        Some(SocketAddrV4::new(host, forwarding.port))
    }

    /// The port at which a node has to be asked to write to us, before we write to it from the server
    /// socket, so that it sees us at [`Rpc::public_address`]: NATs send answers from the port that was
    /// written to. None where it sees us there anyway.
    pub fn entrance(&self) -> Option<u16> {
        self.forwarded_address()
            .filter(|_| !self.is_seen_at_entrance())
            .map(|address| address.port())
    }

    /// Whether others can be made to see us at [`Rpc::public_address`], as who dials must be.
    pub fn can_be_seen_at_entrance(&self) -> bool {
        let only_way = self.forwarding.as_ref().is_some_and(Forwarding::is_only_way);
        !only_way || self.is_seen_at_entrance()
    }

    fn is_seen_at_entrance(&self) -> bool {
        self.forwarded_address() == self.nat.address()
    }

    /// Looks at the port when the first walk is over. True while the start has to wait for that.
    pub(super) fn starts_with_forwarding(&mut self, now: Instant) -> bool {
        let Some(forwarding) = &mut self.forwarding else { return false };
        if std::mem::replace(&mut forwarding.looked, true) {
            return forwarding.check.is_some();
        }
        if self.responses == 0 {
            // The other socket has asked in vain.
            self.set_forwarding(State::OnlyWay);
            self.walk_home(now, false);
            return true;
        }
        self.check_forwarding(now);
        self.forwarding.as_ref().is_some_and(|forwarding| forwarding.check.is_some())
    }

    /// Asks the nodes heard from last to write to the port, and to answer the client socket. To be
    /// called each minute: ten pings.
    pub(super) fn check_forwarding(&mut self, now: Instant) {
        let idle = self.forwarding.as_ref().is_some_and(|forwarding| forwarding.check.is_none());
        if !idle {
            return;
        }
        let mut nodes = self.latest_nodes(PONGS);
        if nodes.is_empty() {
            nodes = self.bootstrap_addresses(now).unwrap_or_default();
            nodes.truncate(PONGS);
        }
        let Some(forwarding) = self.forwarding.as_mut().filter(|_| !nodes.is_empty()) else {
            return;
        };
        let (asked, running) = (nodes.len(), 2 * nodes.len());
        forwarding.check = Some(Check { asked, running, reached: 0, answered: 0 });
        let port = Bytes::copy_from_slice(&forwarding.port.to_le_bytes());
        for node in nodes {
            let asks = [(commands::PING_NAT, Some(port.clone())), (commands::PING, None)];
            for (command, value) in asks {
                let mut call = Call::internal(Peer::unidentified(node), command, value);
                call.ask.socket = Some(SocketId::Client);
                self.call(now, call, Purpose::Forwarding);
            }
        }
    }

    /// A node has answered one of the two, or has not.
    pub(super) fn on_forwarding_pong(&mut self, now: Instant, pong: Option<&Response>) {
        let Some(forwarding) = &mut self.forwarding else { return };
        let Some(check) = &mut forwarding.check else { return };
        check.running = check.running.saturating_sub(1);
        match pong.map(|pong| pong.socket) {
            Some(SocketId::Server) => check.reached += 1,
            Some(SocketId::Client | SocketId::Pool(_)) => check.answered += 1,
            None => {}
        }
        if check.running > 0 {
            return;
        }
        let before = std::mem::replace(&mut forwarding.responses, self.responses);
        let state = if check.reached >= ENOUGH_PONGS.min(check.asked) {
            State::Open
        } else if check.answered > 0 {
            State::Closed
        } else if self.responses > before {
            State::OnlyWay
        } else {
            // Nobody answers at all: that says nothing of the port.
            forwarding.state
        };
        forwarding.check = None;
        self.set_forwarding(state);
        self.continue_startup(now);
    }

    fn set_forwarding(&mut self, state: State) {
        let Some(forwarding) = &mut self.forwarding else { return };
        let first = !self.startup.is_over();
        if std::mem::replace(&mut forwarding.state, state) != state || first {
            let (port, open) = (forwarding.port, state != State::Closed);
            self.events.push_back(Event::Forwarded { port, open });
        }
    }
}

/// Nodes that are asked to write to the port.
const PONGS: usize = 5;

/// How many of [`PONGS`] must have reached it.
const ENOUGH_PONGS: usize = 3;
