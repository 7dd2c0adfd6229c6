//! What we want of others.

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    super::{
        Event, Peer, Request, RequestError, RequestId, Response, SocketId, Target, Token, commands,
        requests::{Ended, Outgoing},
    },
    MAX_PING_DELAY, Purpose, Rpc,
};

/// A question to one node.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Whom.
    pub to: SocketAddrV4,
    /// From which socket, when it is not [`Rpc::default_socket`].
    pub socket: Option<SocketId>,
    /// What proves that we receive where we write from.
    pub token: Option<Token>,
    /// What.
    pub command: u64,
    /// About what.
    pub target: Option<Target>,
    /// What goes with it.
    pub value: Option<Bytes>,
    /// How often it is sent again when there is no answer, a second apart.
    pub retries: u8,
}

impl Ask {
    /// A question with the reference's three retries.
    pub const fn new(to: SocketAddrV4, command: u64) -> Self {
        Self { to, socket: None, token: None, command, target: None, value: None, retries: RETRIES }
    }
}

/// A request to be encoded and sent.
pub(super) struct Call {
    pub(super) to: Peer,
    pub(super) internal: bool,
    pub(super) timeout: Duration,
    pub(super) ask: Ask,
}

impl Call {
    /// One of DHT RPC's own commands.
    pub(super) fn internal(to: Peer, command: u64, value: Option<Bytes>) -> Self {
        Self {
            to,
            internal: true,
            timeout: TIMEOUT,
            ask: Ask { value, ..Ask::new(to.addr, command) },
        }
    }
}

impl Rpc {
    /// Asks one node. [`Event::Response`] tells the end, which comes in any case.
    pub fn request(&mut self, now: Instant, ask: Ask) -> RequestId {
        let call = Call { to: Peer::unidentified(ask.to), internal: false, timeout: TIMEOUT, ask };
        self.call(now, call, Purpose::Application)
    }

    /// Asks a node for a sign of life, from `socket` or the default one. [`Event::Response`] tells
    /// the end.
    pub fn ping(
        &mut self,
        now: Instant,
        to: SocketAddrV4,
        socket: Option<SocketId>,
        retries: u8,
    ) -> RequestId {
        let mut call = Call::internal(Peer::unidentified(to), commands::PING, None);
        call.ask.socket = socket;
        call.ask.retries = retries;
        self.call(now, call, Purpose::Application)
    }

    /// Asks a node to answer to another port of this host.
    pub fn ping_nat(&mut self, now: Instant, to: SocketAddrV4, port: u16) -> RequestId {
        let value = Bytes::copy_from_slice(&port.to_le_bytes());
        let call = Call::internal(Peer::unidentified(to), commands::PING_NAT, Some(value));
        self.call(now, call, Purpose::Application)
    }

    /// Asks a node to answer after `delay`, of at most [`MAX_PING_DELAY`].
    pub fn delayed_ping(&mut self, now: Instant, to: SocketAddrV4, delay: Duration) -> RequestId {
        let delay = delay.min(MAX_PING_DELAY);
        let delay_ms = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
        let value = Bytes::copy_from_slice(&delay_ms.to_le_bytes());
        let mut call = Call::internal(Peer::unidentified(to), commands::DELAYED_PING, Some(value));
        call.timeout = delay + TIMEOUT;
        self.call(now, call, Purpose::Application)
    }

    /// Calls a request off; it ends with [`RequestError::Cancelled`]. Ended ones are left alone.
    pub fn cancel(&mut self, now: Instant, id: RequestId) {
        if let Some(request) = self.requests.end(id) {
            self.requests.drain(now, &mut self.out);
            self.on_ended(now, id, request, Err(RequestError::Cancelled));
        }
    }

    /// Sends a request, which ends in [`Rpc::on_ended`], later than now in any case.
    pub(super) fn call(&mut self, now: Instant, call: Call, purpose: Purpose) -> RequestId {
        let Some(tid) = self.requests.free_tid(call.to.addr) else {
            let id = self.requests.spent_id();
            let refused = Ended { to: call.to, purpose, slow: false };
            self.refused.push_back((now, id, refused));
            return id;
        };
        let ask = call.ask;
        let socket = ask.socket.unwrap_or_else(|| self.default_socket());
        let request = Request {
            tid,
            to: ask.to,
            id: self.id_on(socket),
            token: ask.token,
            internal: call.internal,
            command: ask.command,
            target: ask.target,
            value: ask.value,
        };
        let outgoing = Outgoing {
            to: call.to,
            socket,
            tid,
            payload: request.encode(),
            retries: ask.retries,
            timeout: call.timeout,
            purpose,
        };
        self.requests.start(now, outgoing, &mut self.out)
    }

    /// A request has ended: does what follows for whoever made it.
    pub(super) fn on_ended(
        &mut self,
        now: Instant,
        id: RequestId,
        request: Ended<Purpose>,
        outcome: Result<Response, RequestError>,
    ) {
        match request.purpose {
            Purpose::Application => self.events.push_back(Event::Response { request: id, outcome }),
            Purpose::Walk(query) => {
                self.on_visited(now, query, request.to, request.slow, outcome);
            }
            Purpose::Commit(query) => self.on_committed(now, query, request.to, outcome),
            Purpose::Check { node, last_heard } => self.on_checked(node, last_heard),
            Purpose::Swap { old, last_heard, new } => {
                self.on_swap_checked(now, old, last_heard, new)
            }
            Purpose::Forwarding => self.on_forwarding_pong(now, outcome.as_ref().ok()),
            Purpose::QuickFirewallCheck => self.startup.on_quick_check(outcome.is_ok()),
            Purpose::AddressCheck => self.on_address_pong(now, outcome.ok()),
            Purpose::FirewallCheck => self.on_firewall_pong(now, outcome.ok()),
            Purpose::Bootstrap(key) => self.on_bootstrap_pinged(now, key, outcome.is_ok()),
            Purpose::DownHint => {}
        }
    }
}

/// Transmissions after the first one (dht-rpc `lib/io.js`).
const RETRIES: u8 = 3;

/// How long each transmission is waited for. Fixed: HyperDHT does not switch on the adaptive one.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
