//! A node with a server or a dial, as a host of the simulation.
//!
//! Streams are no part of punching. In their place the client sends a *hello* over the path it was
//! given, again each second as UDX would, until the server's comes back: then both ways work.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use hyperdht_proto::{
    connect::{
        Dial, DialError, DialEvent, DialSpec, FIRST_PACKET_WAIT, Knock, PUNCH_BYTE, Plan,
        PunchCommand, PunchError, PunchEvent, PunchId, Puncher, Welcome,
    },
    dht::{self, Dht, Event, HolepunchReply, ServerId},
    keys::{KeyPair, PublicKey},
    rpc::{self, BootstrapNode, RequestId, Role, SocketId},
    sim::{Departure, Host},
};
use rand::{Rng as _, SeedableRng, rngs::StdRng};

/// What is behind an address.
pub(crate) struct Peer {
    pub(crate) dht: Dht,
    pub(crate) puncher: Puncher,
    pub(crate) server: Option<Serving>,
    pub(crate) dialling: Option<Dialling>,
    /// Sockets that were open at one time at most.
    pub(crate) most_sockets: usize,
    /// Single bytes that came in on any socket.
    pub(crate) bytes_seen: usize,
    /// Answers to holepunch messages.
    pub(crate) punch_replies: Vec<HolepunchReply>,
    /// Events that neither punches nor dials nor servers took.
    pub(crate) unclaimed: Vec<Event>,
    ip: Ipv4Addr,
    rng: StdRng,
    pool: BTreeMap<u32, u16>,
    next_port: u16,
    held: BTreeSet<u32>,
    departures: VecDeque<Departing>,
}

struct Departing {
    socket: SocketId,
    to: SocketAddrV4,
    bytes: Vec<u8>,
    hops: u8,
}

/// A server and those who came to it.
pub(crate) struct Serving {
    pub(crate) key_pair: KeyPair,
    pub(crate) id: ServerId,
    pub(crate) announced: bool,
    guests: BTreeMap<u32, Guest>,
    hellos_at: Instant,
    /// Who was met, by our stream's id.
    pub(crate) met: BTreeMap<u32, (SocketId, SocketAddrV4)>,
    pub(crate) failures: Vec<PunchError>,
}

impl Serving {
    fn poll_timeout(&self) -> Option<Instant> {
        self.guests.values().any(|guest| guest.connect.is_some()).then_some(self.hellos_at)
    }
}

struct Guest {
    remote_id: u32,
    punch: Option<PunchId>,
    connect: Option<(SocketId, SocketAddrV4)>,
    until: Instant,
}

/// A dial and what it came to.
pub(crate) struct Dialling {
    began: Instant,
    stream_id: u32,
    dial: Option<Dial>,
    remote_id: u32,
    pub(crate) punch: Option<PunchId>,
    failure: Option<PunchError>,
    neighbour: Option<(RequestId, SocketAddrV4)>,
    path: Option<(SocketId, SocketAddrV4)>,
    /// When to say hello again, or to give up waiting for the server's.
    next: Option<Instant>,
    pub(crate) relays: Vec<SocketAddrV4>,
    pub(crate) outcome: Option<Outcome>,
}

/// What a dial has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The path works, both ways.
    Open {
        socket: SocketId,
        took: Duration,
    },
    Failed {
        why: Failure,
        took: Duration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Dial(DialError),
    Punch(PunchError),
    /// The other side never wrote.
    Silence,
    Unreachable,
}

/// How a node is set up.
pub(crate) fn config(
    bootstrap: &[SocketAddrV4],
    role: Role,
    public: Option<SocketAddrV4>,
) -> dht::Config {
    dht::Config {
        rpc: rpc::Config {
            server_port: SERVER_PORT,
            bootstrap: bootstrap.iter().copied().map(BootstrapNode::Address).collect(),
            role,
            firewalled: public.is_none(),
            public_address: public,
            ..rpc::Config::default()
        },
        unix_ms: 1_700_000_000_000,
    }
}

impl Peer {
    pub(crate) fn new(now: Instant, ip: Ipv4Addr, seed: u64, config: dht::Config) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let dht = Dht::new(config, now, StdRng::from_rng(&mut rng));
        Self {
            dht,
            puncher: Puncher::new(StdRng::from_rng(&mut rng)),
            server: None,
            dialling: None,
            most_sockets: 0,
            bytes_seen: 0,
            punch_replies: Vec::new(),
            unclaimed: Vec::new(),
            ip,
            rng,
            pool: BTreeMap::new(),
            next_port: FIRST_POOL_PORT,
            held: BTreeSet::new(),
            departures: VecDeque::new(),
        }
    }

    pub(crate) fn listen(&mut self, now: Instant) -> PublicKey {
        let key_pair = self.key_pair();
        let key = key_pair.public_key();
        let id = self.dht.listen(now, key_pair.clone()).unwrap();
        self.server = Some(Serving {
            key_pair,
            id,
            announced: false,
            guests: BTreeMap::new(),
            hellos_at: now,
            met: BTreeMap::new(),
            failures: Vec::new(),
        });
        self.work(now);
        key
    }

    pub(crate) fn dial(&mut self, now: Instant, server: PublicKey, relays: Vec<SocketAddrV4>) {
        let stream_id = self.rng.next_u32();
        let spec = DialSpec {
            key_pair: self.key_pair(),
            server,
            ephemeral: self.key_pair(),
            stream_id,
            relays,
            route: self.dialling.as_ref().and_then(|before| before.path),
            local: self.local(),
            relay_through: None,
            direct: true,
            tells_open: true,
        };
        let dial = Dial::new(&mut self.dht, now, spec).unwrap();
        self.dialling = Some(Dialling {
            began: now,
            stream_id,
            dial: Some(dial),
            remote_id: 0,
            punch: None,
            failure: None,
            neighbour: None,
            path: None,
            next: None,
            relays: Vec::new(),
            outcome: None,
        });
        self.work(now);
    }

    /// Does something to the state machines and what follows from it.
    pub(crate) fn act<T>(&mut self, now: Instant, act: impl FnOnce(&mut Self, Instant) -> T) -> T {
        let result = act(self, now);
        self.work(now);
        result
    }

    /// Sockets of punches that are open.
    pub(crate) fn sockets(&self) -> usize {
        self.pool.len()
    }

    pub(crate) fn key_pair(&mut self) -> KeyPair {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        KeyPair::from_seed(&seed)
    }

    fn local(&self) -> Vec<SocketAddrV4> {
        vec![SocketAddrV4::new(self.ip, SERVER_PORT)]
    }

    fn work(&mut self, now: Instant) {
        loop {
            while let Some(event) = self.dht.poll_event() {
                if let Event::HolepunchDone { outcome: Ok(reply), .. } = &event {
                    self.punch_replies.push(reply.clone());
                }
                if let Some(event) = self.puncher.handle(&mut self.dht, now, event) {
                    self.on_event(now, event);
                }
            }
            while let Some(command) = self.puncher.poll_command() {
                self.obey(command);
            }
            let Some(event) = self.puncher.poll_event() else { return };
            self.on_punch(now, event);
        }
    }

    fn obey(&mut self, command: PunchCommand) {
        match command {
            PunchCommand::Open(number) => {
                self.pool.insert(number, self.next_port);
                self.next_port = self.next_port.wrapping_add(1).max(FIRST_POOL_PORT);
                self.most_sockets = self.most_sockets.max(self.pool.len());
            }
            PunchCommand::Close(number) => {
                if !self.held.contains(&number) {
                    self.pool.remove(&number);
                }
            }
            PunchCommand::Send { socket, to, ttl } => self.departures.push_back(Departing {
                socket: SocketId::Pool(socket),
                to,
                bytes: PUNCH_BYTE.to_vec(),
                hops: ttl,
            }),
        }
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Handshake(_) if self.server.is_some() => self.on_handshake(now, event),
            Event::Announced { nodes: 1.., .. } => {
                if let Some(server) = &mut self.server {
                    server.announced = true;
                }
            }
            Event::Rpc(rpc::Event::Response { request, ref outcome }) => {
                if let Some(dialling) = &mut self.dialling
                    && let Some((_, address)) =
                        dialling.neighbour.take_if(|(ping, _)| *ping == request)
                {
                    let answered = outcome.is_ok();
                    self.on_neighbour(now, answered.then_some(address));
                } else {
                    self.unclaimed.push(event);
                }
            }
            event => {
                if let Some(dialling) = &mut self.dialling
                    && let Some(dial) = &mut dialling.dial
                    && DialEvent::of(&event).is_some_and(|event| dial.owns(event))
                {
                    dial.handle(&mut self.dht, now, event);
                    if let Some(outcome) = dial.poll() {
                        dialling.dial = None;
                        self.on_answered(now, outcome);
                    }
                } else if !matches!(event, Event::Rpc(_)) {
                    self.unclaimed.push(event);
                }
            }
        }
    }

    fn on_handshake(&mut self, now: Instant, event: Event) {
        let Event::Handshake(handshake) = event else { return };
        let (ephemeral, stream_id) = (self.key_pair(), self.rng.next_u32());
        let local = self.local();
        let Some(server) = &mut self.server else { return };
        let id = handshake.id;
        let Ok(knock) = Knock::read(handshake, &server.key_pair, ephemeral) else {
            return self.dht.answer_handshake(now, id, None);
        };
        let welcome =
            Welcome { stream_id, local: &local, relay_through: None, follow: false, direct: true };
        let admission = knock.admit(&mut self.dht, &mut self.puncher, now, welcome).unwrap();
        self.dht.answer_handshake(now, id, Some(admission.answer));
        let Some(meeting) = admission.meeting else { return };
        let guest = Guest {
            remote_id: meeting.remote_id,
            punch: meeting.punch,
            connect: meeting.connect,
            until: now + FIRST_PACKET_WAIT,
        };
        server.guests.insert(stream_id, guest);
        if let Some((socket, to)) = meeting.connect {
            self.hello(socket, to, meeting.remote_id, Kind::Hello);
        }
    }

    fn on_answered(
        &mut self,
        now: Instant,
        outcome: Result<Box<hyperdht_proto::connect::Answered>, DialError>,
    ) {
        let answered = match outcome {
            Ok(answered) => answered,
            Err(error) => return self.conclude(now, Err(Failure::Dial(error))),
        };
        let Some(dialling) = &mut self.dialling else { return };
        dialling.remote_id = answered.remote_id;
        dialling.relays = answered.relays;
        match answered.plan {
            Plan::Connect(socket, to) => self.say_hello(now, (socket, to)),
            Plan::AwaitServer => dialling.next = Some(now + FIRST_PACKET_WAIT),
            Plan::Lan(neighbour) => self.ask_neighbour(now, Some(neighbour)),
            Plan::Punch(invitation) => {
                let neighbour = invitation.neighbour();
                dialling.punch = self.puncher.dial(&mut self.dht, now, invitation, false);
                self.ask_neighbour(now, neighbour);
            }
            Plan::Unreachable => self.conclude(now, Err(Failure::Unreachable)),
        }
    }

    fn ask_neighbour(&mut self, now: Instant, neighbour: Option<SocketAddrV4>) {
        if let (Some(dialling), Some(neighbour)) = (&mut self.dialling, neighbour) {
            dialling.neighbour = Some((self.dht.ping(now, neighbour, None, 3), neighbour));
        }
    }

    fn on_neighbour(&mut self, now: Instant, neighbour: Option<SocketAddrV4>) {
        let Some(dialling) = &mut self.dialling else { return };
        match neighbour {
            Some(neighbour) if dialling.path.is_none() => {
                self.say_hello(now, (SocketId::Server, neighbour));
            }
            Some(_) => {}
            None => self.give_up(now),
        }
    }

    /// Fails when there is no way left.
    fn give_up(&mut self, now: Instant) {
        let Some(dialling) = &mut self.dialling else { return };
        if dialling.path.is_some() || dialling.neighbour.is_some() {
            return;
        }
        match (dialling.punch, dialling.failure) {
            (_, Some(failure)) => self.conclude(now, Err(Failure::Punch(failure))),
            (None, None) => self.conclude(now, Err(Failure::Unreachable)),
            (Some(_), None) => {}
        }
    }

    fn on_punch(&mut self, now: Instant, event: PunchEvent) {
        if let Some(dialling) = &mut self.dialling {
            match event {
                PunchEvent::Open { punch, socket, address } if dialling.punch == Some(punch) => {
                    if dialling.path.is_none() {
                        self.say_hello(now, (SocketId::Pool(socket), address));
                    }
                    return;
                }
                PunchEvent::Failed { punch, error } if dialling.punch == Some(punch) => {
                    dialling.failure = Some(error);
                    return self.give_up(now);
                }
                _ => {}
            }
        }
        if let (Some(server), PunchEvent::Failed { punch, error }) = (&mut self.server, event) {
            server.failures.push(error);
            server.guests.retain(|_, guest| guest.punch != Some(punch));
            self.puncher.end(&mut self.dht, now, punch, false);
        }
    }

    fn say_hello(&mut self, now: Instant, path: (SocketId, SocketAddrV4)) {
        let Some(dialling) = &mut self.dialling else { return };
        if dialling.outcome.is_some() {
            return;
        }
        dialling.path = Some(path);
        dialling.next = Some(now + RETRANSMISSION);
        let remote_id = dialling.remote_id;
        if let SocketId::Pool(number) = path.0 {
            self.held.insert(number);
        }
        self.hello(path.0, path.1, remote_id, Kind::Hello);
    }

    fn hello(&mut self, socket: SocketId, to: SocketAddrV4, id: u32, kind: Kind) {
        let mut bytes = vec![MAGIC, kind as u8];
        bytes.extend(id.to_le_bytes());
        self.departures.push_back(Departing { socket, to, bytes, hops: u8::MAX });
    }

    /// A packet of a stream.
    fn on_packet(&mut self, now: Instant, socket: SocketId, from: SocketAddrV4, packet: &[u8]) {
        let [_, kind, id @ ..] = packet else { return };
        let id = u32::from_le_bytes(id.try_into().unwrap());
        let is_hello = *kind == Kind::Hello as u8;
        if let Some(dialling) = &self.dialling
            && dialling.stream_id == id
        {
            let (remote_id, known) = (dialling.remote_id, dialling.path.is_some());
            if is_hello && remote_id != 0 {
                self.hello(socket, from, remote_id, Kind::Answer);
            }
            if known || is_hello {
                self.conclude(now, Ok(socket));
            }
            return;
        }
        let Some(server) = &mut self.server else { return };
        let Some(guest) = server.guests.get_mut(&id) else { return };
        let (remote_id, punch) = (guest.remote_id, guest.punch.take());
        guest.connect = None;
        server.met.insert(id, (socket, from));
        if let SocketId::Pool(number) = socket {
            self.held.insert(number);
        }
        if let Some(punch) = punch {
            self.puncher.end(&mut self.dht, now, punch, true);
        }
        if is_hello {
            self.hello(socket, from, remote_id, Kind::Answer);
        }
    }

    fn conclude(&mut self, now: Instant, outcome: Result<SocketId, Failure>) {
        let Some(dialling) = &mut self.dialling else { return };
        if dialling.outcome.is_some() {
            return;
        }
        let took = now - dialling.began;
        dialling.outcome = Some(match outcome {
            Ok(socket) => Outcome::Open { socket, took },
            Err(why) => Outcome::Failed { why, took },
        });
        dialling.next = None;
        if let Some(punch) = dialling.punch.take() {
            self.puncher.end(&mut self.dht, now, punch, outcome.is_ok());
        }
    }

    fn keep_time(&mut self, now: Instant) {
        if let Some(dialling) = &mut self.dialling
            && dialling.next.take_if(|at| *at <= now).is_some()
        {
            match dialling.path {
                Some(path) if now < dialling.began + STREAM_PATIENCE => self.say_hello(now, path),
                Some(_) | None => self.conclude(now, Err(Failure::Silence)),
            }
        }
        if let Some(server) = &mut self.server {
            let mut again = Vec::new();
            server.guests.retain(|_, guest| {
                again.extend(guest.connect.map(|path| (path, guest.remote_id)));
                guest.connect.is_none() || now < guest.until
            });
            if server.hellos_at <= now {
                server.hellos_at = now + RETRANSMISSION;
                for ((socket, to), id) in again {
                    self.hello(socket, to, id, Kind::Hello);
                }
            }
        }
    }
}

impl Host for Peer {
    fn handle_datagram(
        &mut self,
        now: Instant,
        local: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
    ) {
        let SocketAddr::V4(from) = from else { return };
        let socket = match local.port() {
            SERVER_PORT => SocketId::Server,
            CLIENT_PORT => SocketId::Client,
            port => match self.pool.iter().find(|(_, other)| **other == port) {
                Some((number, _)) => SocketId::Pool(*number),
                None => return,
            },
        };
        self.bytes_seen += usize::from(datagram.len() == PUNCH_BYTE.len());
        match (socket, datagram) {
            (SocketId::Pool(number), [_]) => {
                self.puncher.handle_byte(&mut self.dht, now, number, from);
            }
            (_, [MAGIC, ..]) => self.on_packet(now, socket, from, datagram),
            _ => self.dht.handle_datagram(now, socket, from, datagram),
        }
        self.work(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.dht.handle_timeout(now);
        self.puncher.handle_timeout(&mut self.dht, now);
        self.keep_time(now);
        self.work(now);
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let dial = self.dialling.as_ref().and_then(|dialling| dialling.next);
        let server = self.server.as_ref().and_then(Serving::poll_timeout);
        [self.dht.poll_timeout(), self.puncher.poll_timeout(), dial, server]
            .into_iter()
            .flatten()
            .min()
    }

    fn poll_transmit(&mut self, _now: Instant, datagram: &mut Vec<u8>) -> Option<Departure> {
        loop {
            let next = self.departures.pop_front().or_else(|| {
                let transmit = self.dht.poll_transmit()?;
                let (socket, to, bytes) = (transmit.socket, transmit.to, transmit.payload.to_vec());
                Some(Departing { socket, to, bytes, hops: u8::MAX })
            })?;
            let port = match next.socket {
                SocketId::Server => SERVER_PORT,
                SocketId::Client => CLIENT_PORT,
                SocketId::Pool(number) => match self.pool.get(&number) {
                    Some(port) => *port,
                    None => continue,
                },
            };
            *datagram = next.bytes;
            let from = SocketAddr::new(IpAddr::V4(self.ip), port);
            return Some(Departure { from, to: next.to.into(), hops: next.hops });
        }
    }
}

/// What a packet of a stream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hello,
    Answer,
}

/// How packets of streams begin.
const MAGIC: u8 = 0xff;

/// UDX waits so long at first.
const RETRANSMISSION: Duration = Duration::from_secs(1);

/// A path that does not work is one no longer after this.
const STREAM_PATIENCE: Duration = Duration::from_secs(90);

pub(crate) const SERVER_PORT: u16 = 49737;
const CLIENT_PORT: u16 = 40000;
const FIRST_POOL_PORT: u16 = 20000;
