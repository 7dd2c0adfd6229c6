//! What others want of us.

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyperdht_encoding::Decoder;

use super::{
    super::{
        ERROR_INVALID_TOKEN, ERROR_UNKNOWN_COMMAND, Event, IncomingRequest, Message, NodeId, Peer,
        Reply, Request, Response, SocketId, Target, Transmit, commands, table::K,
    },
    MAX_DATAGRAM, MAX_DELAYED_PINGS, MAX_EVENTS, MAX_PING_DELAY, Rpc,
};

/// How a reply differs from the ordinary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyOptions {
    /// The socket to answer from, when it is not the one the request came in on.
    pub socket: Option<SocketId>,
    /// Where to answer, when it is not where the request came from.
    pub to: Option<SocketAddrV4>,
    /// Whether to give a token.
    pub token: bool,
    /// Whether to name nodes nearer to the target, if there is one.
    pub closer_nodes: bool,
}

impl ReplyOptions {
    /// With a token and closer nodes: what an application's reply has.
    pub const FULL: Self = Self { socket: None, to: None, token: true, closer_nodes: true };

    /// Closer nodes and no token: what an error reply has.
    pub const ROUTE: Self = Self { token: false, ..Self::FULL };

    /// The value and nothing else.
    pub const BARE: Self = Self { closer_nodes: false, ..Self::ROUTE };
}

/// Where an answer goes.
struct Asker {
    socket: SocketId,
    tid: u16,
    addr: SocketAddrV4,
    target: Option<Target>,
}

impl Rpc {
    /// Takes in a datagram that arrived on `socket`. What is not for DHT RPC, or longer than
    /// [`MAX_DATAGRAM`], is ignored.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddrV4,
        datagram: &[u8],
    ) {
        if from.port() == 0 || datagram.len() > MAX_DATAGRAM {
            return;
        }
        if socket == SocketId::Server {
            self.on_server_socket(from);
        }
        match Message::decode(datagram) {
            Ok(Message::Request(request)) => self.on_request(now, socket, from, request),
            Ok(Message::Reply(reply)) => self.on_reply(now, socket, from, reply),
            Err(_) => {}
        }
    }

    /// Answers a request of the application's kind.
    pub fn reply(
        &mut self,
        now: Instant,
        request: &IncomingRequest,
        value: Option<Bytes>,
        options: ReplyOptions,
    ) {
        self.send_reply(now, request.asker(), 0, value, options);
    }

    /// Refuses a request with an error `code`.
    pub fn error(
        &mut self,
        now: Instant,
        request: &IncomingRequest,
        code: u64,
        options: ReplyOptions,
    ) {
        self.send_reply(now, request.asker(), code, None, options);
    }

    /// Passes a request on: the same tid, command and target with another value, to another node.
    /// No reply comes of it; the next node passes it on itself, or answers whoever it concerns.
    pub fn relay(
        &mut self,
        request: &IncomingRequest,
        value: Bytes,
        to: SocketAddrV4,
        socket: Option<SocketId>,
    ) {
        let socket = socket.unwrap_or(request.socket);
        let relayed = Request {
            tid: request.tid,
            to,
            id: self.id_on(socket),
            token: None,
            internal: false,
            command: request.command,
            target: request.target,
            value: Some(value),
        };
        self.transmit(Transmit { socket, to, payload: relayed.encode() });
    }

    /// The id that is sent from `socket`: a promise that this address answers anybody.
    pub(super) fn id_on(&self, socket: SocketId) -> Option<NodeId> {
        self.id().filter(|_| socket == SocketId::Server)
    }

    fn on_request(&mut self, now: Instant, socket: SocketId, from: SocketAddrV4, request: Request) {
        let peer = identified(from, request.id);
        let asker = Asker { socket, tid: request.tid, addr: from, target: request.target };
        if let Some(token) = &request.token
            && !self.tokens.accepts(now, *from.ip(), token)
        {
            self.send_reply(now, asker, ERROR_INVALID_TOKEN, None, ReplyOptions::FULL);
            return;
        }
        if peer.id.is_some() {
            self.heard_from(now, socket, peer, request.to);
        }
        if request.internal {
            self.on_command(now, asker, request.command, request.value);
        } else if self.events.len() < MAX_EVENTS {
            self.events.push_back(Event::Request(IncomingRequest {
                socket,
                from: peer,
                to: request.to,
                tid: request.tid,
                token: request.token,
                command: request.command,
                target: request.target,
                value: request.value,
            }));
        }
    }

    /// Answers the commands that every node knows.
    fn on_command(&mut self, now: Instant, mut asker: Asker, command: u64, value: Option<Bytes>) {
        let value = value.unwrap_or_default();
        let mut decoder = Decoder::new(&value);
        match command {
            commands::PING => self.send_reply(now, asker, 0, None, ReplyOptions::BARE),
            commands::PING_NAT => {
                let Ok(port @ 1..) = decoder.uint16() else { return };
                asker.addr.set_port(port);
                self.send_reply(now, asker, 0, None, ReplyOptions::BARE);
            }
            commands::FIND_NODE => {
                if asker.target.is_some() {
                    self.send_reply(now, asker, 0, None, ReplyOptions::ROUTE);
                }
            }
            commands::DOWN_HINT => {
                let Ok(down) = decoder.ipv4_address() else { return };
                self.on_down_hint(now, NodeId::of(down));
                self.send_reply(now, asker, 0, None, ReplyOptions::BARE);
            }
            commands::DELAYED_PING => {
                let Ok(delay_ms) = decoder.uint32() else { return };
                self.on_delayed_ping(now, asker, Duration::from_millis(delay_ms.into()));
            }
            _ => {
                self.send_reply(now, asker, ERROR_UNKNOWN_COMMAND, None, ReplyOptions::ROUTE);
            }
        }
    }

    fn on_delayed_ping(&mut self, now: Instant, asker: Asker, delay: Duration) {
        if delay > MAX_PING_DELAY || self.delayed_pings.len() >= MAX_DELAYED_PINGS {
            return;
        }
        let reply = self.encode_reply(now, asker, 0, None, ReplyOptions::BARE);
        let key = (now + delay, self.next_delayed_ping);
        self.next_delayed_ping += 1;
        self.delayed_pings.insert(key, reply);
    }

    fn on_reply(&mut self, now: Instant, socket: SocketId, from: SocketAddrV4, reply: Reply) {
        let Some((id, request, rtt)) = self.requests.answered(now, reply.tid, from) else {
            return;
        };
        self.requests.drain(now, &mut self.out);
        self.on_answered();
        let peer = identified(from, reply.id);
        self.heard_from(now, socket, peer, reply.to);
        let response = Response {
            from: peer,
            to: reply.to,
            socket,
            token: reply.token,
            closer_nodes: reply.closer_nodes,
            error: reply.error,
            value: reply.value,
            rtt,
        };
        self.on_ended(now, id, request, Ok(response));
    }

    fn send_reply(
        &mut self,
        now: Instant,
        asker: Asker,
        error: u64,
        value: Option<Bytes>,
        options: ReplyOptions,
    ) {
        let reply = self.encode_reply(now, asker, error, value, options);
        self.transmit(reply);
    }

    fn encode_reply(
        &mut self,
        now: Instant,
        asker: Asker,
        error: u64,
        value: Option<Bytes>,
        options: ReplyOptions,
    ) -> Transmit {
        let socket = options.socket.unwrap_or(asker.socket);
        let to = options.to.unwrap_or(asker.addr);
        let target = asker.target.filter(|_| options.closer_nodes);
        let closest = target.map_or_else(Vec::new, |target| self.table.closest(&target, K));
        let reply = Reply {
            tid: asker.tid,
            to,
            id: self.id_on(socket),
            token: options.token.then(|| self.tokens.issue(now, *to.ip())),
            closer_nodes: closest.into_iter().map(|peer| peer.addr).collect(),
            error,
            value,
        };
        Transmit { socket, to, payload: reply.encode() }
    }
}

impl IncomingRequest {
    const fn asker(&self) -> Asker {
        Asker { socket: self.socket, tid: self.tid, addr: self.from.addr, target: self.target }
    }
}

/// An id counts when it is the one that follows from the address.
fn identified(addr: SocketAddrV4, claimed: Option<NodeId>) -> Peer {
    Peer { id: claimed.filter(|id| *id == NodeId::of(addr)), addr }
}
