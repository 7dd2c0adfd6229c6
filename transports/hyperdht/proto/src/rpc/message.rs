//! The two datagrams of DHT RPC.
//!
//! Layout: dht-rpc 6.27 `lib/io.js`; checked against `tests/vectors/dht-rpc.json`, both ways.

use std::net::SocketAddrV4;

use bytes::{BufMut, Bytes};
use hyperdht_encoding::{DecodeError, Decoder, Encode};

use super::{
    id::{NodeId, Target},
    token::Token,
};

/// A request or a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Somebody asks, or passes on what somebody asked.
    Request(Request),
    /// Somebody answers.
    Reply(Reply),
}

impl Message {
    /// Reads a datagram; bytes after the message are ignored, as the reference does. The id is
    /// only a claim: it counts when it equals [`NodeId::of`] the source.
    ///
    /// # Errors
    /// [`MessageError`], for which the rule is silence.
    pub fn decode(datagram: &[u8]) -> Result<Self, MessageError> {
        let mut decoder = Decoder::new(datagram);
        match decoder.uint8()? {
            REQUEST => Request::decode(&mut decoder).map(Self::Request),
            REPLY => Reply::decode(&mut decoder).map(Self::Reply),
            _ => Err(MessageError::Foreign),
        }
    }
}

/// Why a datagram is not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The first byte belongs to another protocol: UDX starts with `ff`, a punch is one byte.
    #[error("not a DHT RPC datagram")]
    Foreign,
    /// It starts like a message and then breaks off.
    #[error("malformed message")]
    Malformed(#[from] DecodeError),
}

/// A question to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Names the exchange; the reply carries the same.
    pub tid: u16,
    /// Where it goes, as the sender sees it: the receiver learns an address of its own.
    pub to: SocketAddrV4,
    /// The sender's id: present when it is persistent and writes from its server socket.
    pub id: Option<NodeId>,
    /// Proof that the sender receives at the address it writes from; commands that store ask it.
    pub token: Option<Token>,
    /// Whether the command is one of DHT RPC's own rather than the application's.
    pub internal: bool,
    /// What is asked.
    pub command: u64,
    /// The point in the key space that the command is about.
    pub target: Option<Target>,
    /// Whatever the command takes.
    pub value: Option<Bytes>,
}

impl Request {
    /// The datagram.
    pub fn encode(&self) -> Bytes {
        let value_len = self.value.as_ref().map_or(0, Bytes::len);
        let mut wire = Vec::with_capacity(MAX_FIXED_BYTES + value_len);
        let flags = flag(FLAG_ID, self.id.is_some())
            | flag(FLAG_TOKEN, self.token.is_some())
            | flag(FLAG_INTERNAL, self.internal)
            | flag(FLAG_TARGET, self.target.is_some())
            | flag(FLAG_VALUE, self.value.is_some());
        put_head(&mut wire, REQUEST, flags, self.tid, self.to);
        put_id_and_token(&mut wire, self.id, self.token);
        wire.put_varint(self.command);
        if let Some(target) = &self.target {
            wire.put_slice(target);
        }
        if let Some(value) = &self.value {
            wire.put_buffer(value);
        }
        wire.into()
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, MessageError> {
        let flags = decoder.varint()?;
        Ok(Self {
            tid: decoder.uint16()?,
            to: decoder.ipv4_address()?,
            id: optional(flags, FLAG_ID, || decoder.fixed())?.map(NodeId),
            token: optional(flags, FLAG_TOKEN, || decoder.fixed())?.map(Token),
            internal: flags & FLAG_INTERNAL != 0,
            command: decoder.varint()?,
            target: optional(flags, FLAG_TARGET, || decoder.fixed())?,
            value: optional(flags, FLAG_VALUE, || decoder.buffer())?.map(Bytes::copy_from_slice),
        })
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The request's.
    pub tid: u16,
    /// The requester's address as the answering node sees it: a sample of the requester's NAT.
    pub to: SocketAddrV4,
    /// The answering node's id, under the same rule as [`Request::id`].
    pub id: Option<NodeId>,
    /// Lets the requester store something at this node.
    pub token: Option<Token>,
    /// Nodes that may be nearer to the target. At most [`MAX_CLOSER_NODES`] are read; ids are not
    /// sent, they follow from the addresses.
    pub closer_nodes: Vec<SocketAddrV4>,
    /// 0 when the command succeeded.
    pub error: u64,
    /// Whatever the command gives.
    pub value: Option<Bytes>,
}

impl Reply {
    /// The datagram.
    pub fn encode(&self) -> Bytes {
        let value_len = self.value.as_ref().map_or(0, Bytes::len);
        let nodes_len = 6 * self.closer_nodes.len();
        let mut wire = Vec::with_capacity(MAX_FIXED_BYTES + nodes_len + value_len);
        let flags = flag(FLAG_ID, self.id.is_some())
            | flag(FLAG_TOKEN, self.token.is_some())
            | flag(FLAG_CLOSER_NODES, !self.closer_nodes.is_empty())
            | flag(FLAG_ERROR, self.error != 0)
            | flag(FLAG_VALUE, self.value.is_some());
        put_head(&mut wire, REPLY, flags, self.tid, self.to);
        put_id_and_token(&mut wire, self.id, self.token);
        if !self.closer_nodes.is_empty() {
            wire.put_varint(self.closer_nodes.len() as u64);
            for node in &self.closer_nodes {
                wire.put_ipv4_address(*node);
            }
        }
        if self.error != 0 {
            wire.put_varint(self.error);
        }
        if let Some(value) = &self.value {
            wire.put_buffer(value);
        }
        wire.into()
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, MessageError> {
        let flags = decoder.varint()?;
        Ok(Self {
            tid: decoder.uint16()?,
            to: decoder.ipv4_address()?,
            id: optional(flags, FLAG_ID, || decoder.fixed())?.map(NodeId),
            token: optional(flags, FLAG_TOKEN, || decoder.fixed())?.map(Token),
            closer_nodes: optional(flags, FLAG_CLOSER_NODES, || closer_nodes(decoder))?
                .unwrap_or_default(),
            error: optional(flags, FLAG_ERROR, || decoder.varint())?.unwrap_or(0),
            value: optional(flags, FLAG_VALUE, || decoder.buffer())?.map(Bytes::copy_from_slice),
        })
    }
}

/// Closer nodes that are read from one reply (192 bytes); the rest of a longer list is skipped. The
/// reference sends at most 20.
pub const MAX_CLOSER_NODES: usize = 32;

/// Type in the high half, version in the low one.
const REQUEST: u8 = 0x03;
const REPLY: u8 = 0x13;

const FLAG_ID: u64 = 1;
const FLAG_TOKEN: u64 = 2;
const FLAG_INTERNAL: u64 = 4;
const FLAG_CLOSER_NODES: u64 = 4;
const FLAG_TARGET: u64 = 8;
const FLAG_ERROR: u64 = 8;
const FLAG_VALUE: u64 = 16;

/// Everything but value and closer nodes: head, id, token, target, and three integers.
const MAX_FIXED_BYTES: usize = 10 + 3 * 32 + 3 * 9;

fn closer_nodes(decoder: &mut Decoder<'_>) -> Result<Vec<SocketAddrV4>, DecodeError> {
    let count = decoder.count(usize::MAX)?;
    let mut list = Decoder::new(decoder.bytes(count * 6)?);
    (0..count.min(MAX_CLOSER_NODES)).map(|_| list.ipv4_address()).collect()
}

fn optional<T>(
    flags: u64,
    flag: u64,
    read: impl FnOnce() -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    (flags & flag != 0).then(read).transpose()
}

const fn flag(flag: u64, set: bool) -> u64 {
    if set { flag } else { 0 }
}

fn put_head(wire: &mut Vec<u8>, kind: u8, flags: u64, tid: u16, to: SocketAddrV4) {
    wire.put_u8(kind);
    wire.put_varint(flags);
    wire.put_u16_le(tid);
    wire.put_ipv4_address(to);
}

fn put_id_and_token(wire: &mut Vec<u8>, id: Option<NodeId>, token: Option<Token>) {
    if let Some(id) = id {
        wire.put_slice(&id.0);
    }
    if let Some(token) = token {
        wire.put_slice(&token.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn request()(
            tid: u16,
            to: ([u8; 4], u16),
            id: Option<[u8; 32]>,
            token: Option<[u8; 32]>,
            internal: bool,
            command in 0..hyperdht_encoding::MAX_UINT,
            target: Option<[u8; 32]>,
            value: Option<Vec<u8>>,
        ) -> Request {
            Request {
                tid,
                to: SocketAddrV4::new(to.0.into(), to.1),
                id: id.map(NodeId),
                token: token.map(Token),
                internal,
                command,
                target,
                value: value.map(Bytes::from),
            }
        }
    }

    prop_compose! {
        fn reply()(
            tid: u16,
            to: ([u8; 4], u16),
            id: Option<[u8; 32]>,
            token: Option<[u8; 32]>,
            nodes in prop::collection::vec(any::<([u8; 4], u16)>(), 0..MAX_CLOSER_NODES),
            error in 0..hyperdht_encoding::MAX_UINT,
            value: Option<Vec<u8>>,
        ) -> Reply {
            let address = |(ip, port): ([u8; 4], u16)| SocketAddrV4::new(ip.into(), port);
            Reply {
                tid,
                to: address(to),
                id: id.map(NodeId),
                token: token.map(Token),
                closer_nodes: nodes.into_iter().map(address).collect(),
                error,
                value: value.map(Bytes::from),
            }
        }
    }

    proptest! {
        #[test]
        fn requests_round_trip(request in request()) {
            prop_assert_eq!(Message::decode(&request.encode()), Ok(Message::Request(request)));
        }

        #[test]
        fn replies_round_trip(reply in reply()) {
            prop_assert_eq!(Message::decode(&reply.encode()), Ok(Message::Reply(reply)));
        }

        #[test]
        fn any_datagram_is_read_or_refused(mut datagram: Vec<u8>, reply: bool) {
            let _ = Message::decode(&datagram);
            datagram.insert(0, if reply { REPLY } else { REQUEST });
            let _ = Message::decode(&datagram);
        }
    }

    #[test]
    fn a_long_node_list_is_cut_and_what_follows_is_still_read() {
        let reply = Reply {
            tid: 1,
            to: SocketAddrV4::new([1, 2, 3, 4].into(), 5),
            id: None,
            token: None,
            closer_nodes: vec![SocketAddrV4::new([9; 4].into(), 9); 1000],
            error: 7,
            value: Some(Bytes::from_static(b"after")),
        };
        let Ok(Message::Reply(read)) = Message::decode(&reply.encode()) else {
            panic!("not a reply")
        };
        assert_eq!(read.closer_nodes.len(), MAX_CLOSER_NODES);
        assert_eq!((read.error, read.value), (7, reply.value));
    }

    #[test]
    fn other_protocols_are_told_apart() {
        assert_eq!(Message::decode(&[0xff, 1, 0, 0]), Err(MessageError::Foreign));
        assert_eq!(Message::decode(&[0x04, 1]), Err(MessageError::Foreign));
        assert_eq!(
            Message::decode(&[REQUEST, 0xff]),
            Err(MessageError::Malformed(DecodeError::OutOfBounds))
        );
    }
}
