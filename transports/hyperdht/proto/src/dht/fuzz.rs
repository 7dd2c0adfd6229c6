//! A node of HyperDHT to which strangers send what the input says. See [`crate::fuzz`].

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyperdht_encoding::{DecodeError, Decoder};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    AnnounceOptions, Config, Dht, Event, FindOptions, LookupReply, MutableRecord, PeerRecord,
    ServerId, commands,
    hop::{HandshakeHop, HolepunchHop, Mode},
    records::{Announce, MutablePut, Place},
    router::{HandshakeAnswer, MAX_HANDSHAKES},
};
use crate::{
    connect::{Knock, Puncher, Welcome},
    fuzz::epoch,
    handshake::{HolepunchCipher, HolepunchPayload},
    hash::{Namespace, hash},
    keys::KeyPair,
    noise::Initiator,
    rpc::{self, BootstrapNode, Message, NodeId, Reply, Request, Role, SocketId, Target, Token},
};

/// Reads the values that requests and replies carry, chosen by the first byte.
///
/// # Panics
/// When one is not written and read back the same.
pub fn dht_values(input: &[u8]) {
    let Some((kind, wire)) = input.split_first() else { return };
    match kind % 7 {
        0 => {
            let Ok(record) = PeerRecord::decode(wire) else { return };
            assert_eq!(PeerRecord::decode(&record.encode()), Ok(record));
        }
        1 => {
            let Ok(reply) = LookupReply::decode(wire) else { return };
            let records: Vec<_> = reply.peers.iter().map(PeerRecord::encode).collect();
            let again = LookupReply::decode(&LookupReply::encode(&records, reply.bump));
            assert_eq!(again, Ok(reply));
        }
        2 => {
            let Ok(announce) = Announce::decode(wire) else { return };
            assert_eq!(Announce::decode(&announce.encode()), Ok(announce));
        }
        3 => {
            let Ok(record) = MutableRecord::decode(wire) else { return };
            // Nobody has made a signature with this key.
            assert!(!record.is_signed_by(&pair(0xee).public_key()));
            assert_eq!(MutableRecord::decode(&record.encode()), Ok(record));
        }
        4 => {
            let Ok(put) = MutablePut::decode(wire) else { return };
            assert_eq!(MutablePut::decode(&put.encode()), Ok(put));
        }
        5 => {
            let Some(hop) = HandshakeHop::decode(wire) else { return };
            assert_eq!(HandshakeHop::decode(&hop.encode()), Some(hop));
        }
        _ => {
            let Some(hop) = HolepunchHop::decode(wire) else { return };
            assert_eq!(HolepunchHop::decode(&hop.encode()), Some(hop));
        }
    }
}

/// Has a node, which stores for others, runs a server and asks the network itself, meet strangers,
/// nodes that answer anything, clients that hold a valid key, and time.
///
/// # Panics
/// When the node breaks a bound, or answers more than it is asked.
pub fn dht_node(input: &[u8]) {
    let mut decoder = Decoder::new(input);
    let mut world = World::new(decoder.uint8().is_ok_and(|byte| byte % 2 == 1));
    while !decoder.is_empty() && world.act(&mut decoder).is_ok() {
        world.settle();
    }
}

struct World {
    dht: Dht,
    puncher: Puncher,
    now: Instant,
    /// What the node gave last to whoever asked.
    token: Option<Token>,
    /// Requests of the node's that can be answered.
    asked: Vec<(SocketAddrV4, SocketId, Request)>,
    /// The cipher of the last client that was let in.
    cipher: Option<HolepunchCipher>,
    /// Number of the next client.
    client: u8,
    server: Option<ServerId>,
}

impl World {
    fn new(persistent: bool) -> Self {
        let now = epoch();
        let config = Config {
            rpc: rpc::Config {
                server_port: NODE.port(),
                bootstrap: match persistent {
                    true => Vec::new(),
                    false => vec![BootstrapNode::Address(stranger(1))],
                },
                role: if persistent { Role::Persistent } else { Role::Adaptive },
                firewalled: !persistent,
                public_address: persistent.then_some(NODE),
                ..rpc::Config::default()
            },
            unix_ms: 1_700_000_000_000,
        };
        let mut dht = Dht::new(config, now, StdRng::seed_from_u64(1));
        let server = dht.listen(now, pair(1)).ok();
        let puncher = Puncher::new(StdRng::seed_from_u64(2));
        let mut world = Self {
            dht,
            puncher,
            now,
            token: None,
            asked: Vec::new(),
            cipher: None,
            client: 10,
            server,
        };
        world.settle();
        world
    }

    fn act(&mut self, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        match decoder.uint8()? % 16 {
            0 => {
                let bytes = some(decoder)?;
                self.receive(decoder.uint8()?, bytes);
            }
            1..=4 => {
                let command = u64::from(decoder.uint8()? % 14);
                let value = decoder.bool()?.then(|| some(decoder)).transpose()?;
                let from = decoder.uint8()?;
                self.request(from, command, target(decoder)?, value.map(Bytes::copy_from_slice));
            }
            5 | 6 => self.store(decoder)?,
            7..=9 => self.reply(decoder)?,
            10 => {
                self.now += Duration::from_millis(10 * u64::from(decoder.uint16()?));
                self.dht.handle_timeout(self.now);
                self.puncher.handle_timeout(&mut self.dht, self.now);
            }
            11 | 12 => self.knock(decoder)?,
            13 => self.holepunch(decoder)?,
            14 => {
                let (socket, from) = (u32::from(decoder.uint8()? % 4), stranger(decoder.uint8()?));
                self.puncher.handle_byte(&mut self.dht, self.now, socket, from);
            }
            _ => self.ask(decoder)?,
        }
        Ok(())
    }

    fn receive(&mut self, from: u8, datagram: &[u8]) {
        let socket = match from % 3 {
            0 => SocketId::Server,
            1 => SocketId::Client,
            _ => SocketId::Pool(0),
        };
        self.dht.handle_datagram(self.now, socket, stranger(from), datagram);
    }

    fn request(&mut self, from: u8, command: u64, target: Option<Target>, value: Option<Bytes>) {
        let request = Request {
            tid: from.into(),
            to: NODE,
            id: from.is_multiple_of(4).then(|| NodeId::of(stranger(from))),
            token: self.token.filter(|_| !from.is_multiple_of(3)),
            internal: from.is_multiple_of(5),
            command,
            target,
            value,
        };
        self.receive(from, &request.encode());
    }

    /// Records that are signed as they should be, at times with a flaw.
    fn store(&mut self, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        let (kind, who, from) = (decoder.uint8()?, decoder.uint8()? % 4, decoder.uint8()?);
        let key_pair = pair(who);
        let own = key_pair.public_key();
        let topic = target(decoder)?.unwrap_or_else(|| own.target());
        match kind % 4 {
            kind @ (0 | 1) => {
                let Some((node, token)) = self.dht.rpc().id().zip(self.token) else {
                    return Ok(());
                };
                let place = Place { target: &topic, node, token };
                let namespace = if kind == 0 { Namespace::Announce } else { Namespace::Unannounce };
                let relays = vec![stranger(from); usize::from(decoder.uint8()? % 70)];
                let bump = decoder.varint()?;
                let value = Announce::sign(namespace, &key_pair, &place, relays, bump).encode();
                let command = if kind == 0 { commands::ANNOUNCE } else { commands::UNANNOUNCE };
                self.request(from, command, Some(topic), Some(value));
            }
            2 => {
                let (seq, value) = (decoder.varint()?, some(decoder)?);
                let record = MutableRecord::sign(&key_pair, seq, Bytes::copy_from_slice(value));
                let put = MutablePut { public_key: own, record }.encode();
                self.request(from, commands::MUTABLE_PUT, Some(own.target()), Some(put));
            }
            _ => {
                let value = Bytes::copy_from_slice(some(decoder)?);
                let target = hash(&[&value]);
                self.request(from, commands::IMMUTABLE_PUT, Some(target), Some(value));
            }
        }
        Ok(())
    }

    /// Answers something that the node asked.
    fn reply(&mut self, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        let (which, flags, more) = (decoder.uint8()?, decoder.uint8()?, decoder.uint8()?);
        let value = if flags & 1 != 0 { Some(some(decoder)?) } else { None };
        let at = usize::from(which) % self.asked.len().max(1);
        let Some((to, socket, request)) = self.asked.get(at) else { return Ok(()) };
        let (from, socket) = (*to, *socket);
        let closer = (0..more % 40).map(|n| stranger(n.wrapping_add(which)));
        let reply = Reply {
            tid: request.tid,
            to: if flags & 2 != 0 { NODE } else { stranger(more) },
            id: (flags & 4 != 0).then(|| NodeId::of(from)),
            token: (flags & 8 != 0).then_some(Token([which; 32])),
            closer_nodes: closer.collect(),
            error: u64::from(flags >> 6),
            value: value.map(Bytes::copy_from_slice),
        };
        self.asked.swap_remove(at);
        self.dht.handle_datagram(self.now, socket, from, &reply.encode());
        Ok(())
    }

    /// A client that has the server's key and says anything in its handshake.
    fn knock(&mut self, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        let (from, mode, payload) = (decoder.uint8()?, decoder.uint8()?, some(decoder)?);
        self.client = self.client.wrapping_add(1);
        let own = pair(self.client);
        let prologue = Namespace::PeerHandshake.bytes();
        let server = pair(1).public_key();
        let Ok((initiator, noise)) =
            Initiator::send(&own, server, pair(self.client ^ 0x80), &prologue, payload)
        else {
            return Ok(());
        };
        let hop = HandshakeHop {
            mode: match mode % 3 {
                0 => Mode::FromClient,
                1 => Mode::FromRelay,
                _ => Mode::FromSecondRelay,
            },
            noise: noise.into(),
            peer_address: Some(stranger(from)),
            relay_address: (mode & 4 != 0).then(|| stranger(mode)),
        };
        let request = (commands::PEER_HANDSHAKE, Some(server.target()), Some(hop.encode()));
        self.request(from, request.0, request.1, request.2);
        self.settle_with(Some(&initiator));
        Ok(())
    }

    /// A client that was let in says anything about its side of the hole.
    fn holepunch(&mut self, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        let (from, id, nonce) = (decoder.uint8()?, decoder.uint8()?, decoder.uint8()?);
        let bytes = some(decoder)?;
        let sealed = match (&self.cipher, HolepunchPayload::decode(bytes)) {
            (Some(cipher), Ok(payload)) => cipher.seal(&payload, [nonce; 24]),
            _ => bytes.to_vec(),
        };
        let hop = HolepunchHop {
            mode: if nonce % 8 == 0 { Mode::FromClient } else { Mode::FromRelay },
            id: (id % 4).into(),
            payload: sealed.into(),
            peer_address: Some(stranger(from)),
        };
        let server = Some(pair(1).public_key().target());
        self.request(from, commands::PEER_HOLEPUNCH, server, Some(hop.encode()));
        Ok(())
    }

    /// The application asks.
    fn ask(&mut self, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        let (now, dht) = (self.now, &mut self.dht);
        let what = decoder.uint8()?;
        let topic = target(decoder)?.unwrap_or([3; 32]);
        if dht.rpc().stats().running_queries >= MAX_QUERIES {
            return Ok(());
        }
        match what % 8 {
            0 => drop(dht.find_peer(now, topic, FindOptions::default())),
            1 => drop(dht.lookup(now, topic, FindOptions::default())),
            2 => drop(dht.announce(now, topic, pair(2), AnnounceOptions::default())),
            3 => drop(dht.unannounce(now, topic, pair(2))),
            4 => drop(dht.immutable_find(now, topic)),
            5 => drop(dht.mutable_find(now, pair(what % 4).public_key(), 0)),
            6 => drop(dht.mutable_put(now, &pair(2), what.into(), Bytes::from_static(b"v"))),
            _ => match self.server.take() {
                Some(server) => dht.close(now, server),
                None => self.server = dht.listen(now, pair(1)).ok(),
            },
        }
        Ok(())
    }

    fn settle(&mut self) {
        self.settle_with(None);
    }

    /// Does what the owner of the node does, and looks at its bounds.
    fn settle_with(&mut self, initiator: Option<&Initiator>) {
        let mut sent = 0;
        for _ in 0..4 {
            while let Some(event) = self.dht.poll_event() {
                if let Some(Event::Handshake(incoming)) =
                    self.puncher.handle(&mut self.dht, self.now, event)
                {
                    self.let_in(incoming, initiator);
                }
            }
            while self.puncher.poll_command().is_some() {}
            while self.puncher.poll_event().is_some() {}
            while let Some(transmit) = self.dht.poll_transmit() {
                sent += 1;
                assert!(transmit.payload.len() <= MAX_SENT, "{} bytes", transmit.payload.len());
                self.take_note(transmit.to, transmit.socket, &transmit.payload);
            }
        }
        assert!(sent <= MAX_BURST, "{sent} datagrams at once");
        assert!(self.dht.router.handshakes() <= MAX_HANDSHAKES);
        assert!(self.dht.poll_timeout().is_none_or(|at| at + Duration::from_secs(1) > self.now));
    }

    fn let_in(&mut self, incoming: super::IncomingHandshake, initiator: Option<&Initiator>) {
        let id = incoming.id;
        let answer = Knock::read(incoming, &pair(1), pair(5)).ok().and_then(|knock| {
            let local = [SocketAddrV4::new([10, 0, 0, 1].into(), NODE.port())];
            let welcome = Welcome {
                stream_id: 7,
                local: &local,
                relay_through: None,
                follow: true,
                direct: true,
            };
            knock.admit(&mut self.dht, &mut self.puncher, self.now, welcome).ok()
        });
        let answer = answer.map(|admission| admission.answer);
        if let (Some(HandshakeAnswer { noise, .. }), Some(initiator)) = (&answer, initiator)
            && let Ok((_, keys)) = initiator.recv(noise)
        {
            self.cipher = Some(HolepunchCipher::new(&keys.handshake_hash));
        }
        self.dht.answer_handshake(self.now, id, answer);
    }

    fn take_note(&mut self, to: SocketAddrV4, socket: SocketId, payload: &[u8]) {
        match Message::decode(payload) {
            Ok(Message::Request(request)) => {
                if self.asked.len() < MAX_ASKED {
                    self.asked.push((to, socket, request));
                }
            }
            Ok(Message::Reply(reply)) => self.token = reply.token.or(self.token),
            Err(error) => panic!("a node sends what it cannot read: {error}"),
        }
    }
}

fn pair(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n; 32])
}

/// Few hosts, so that inputs meet the same ones again, of which some share an address.
fn stranger(n: u8) -> SocketAddrV4 {
    let host = if n % 64 == 63 { [127, 0, 0, 1] } else { [1, 1, n % 4, n / 4] };
    SocketAddrV4::new(host.into(), 1000 + u16::from(n % 8))
}

/// Few targets: of the node's server, of others' keys, and some topics.
fn target(decoder: &mut Decoder<'_>) -> Result<Option<Target>, DecodeError> {
    Ok(match decoder.uint8()? % 8 {
        0 => None,
        n @ 1..=4 => Some(pair(n).public_key().target()),
        n => Some([n; 32]),
    })
}

fn some<'a>(decoder: &mut Decoder<'a>) -> Result<&'a [u8], DecodeError> {
    let len = usize::from(decoder.uint8()?) * 2;
    decoder.bytes(len.min(decoder.rest().len()))
}

const NODE: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(9, 9, 9, 9), 49737);

/// More than any one step has a node send: every query asks ten nodes at once.
const MAX_BURST: usize = 20 * MAX_QUERIES;
/// Queries that the application runs at a time.
const MAX_QUERIES: usize = 16;
/// The longest datagram: an answer about a topic with 20 records, or what a stranger had it carry.
const MAX_SENT: usize = 1600;
const MAX_ASKED: usize = 64;
