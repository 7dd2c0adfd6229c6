//! UDX: its packets, and a stream to which anything happens.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use hyperdht_encoding::{DecodeError, Decoder};

use super::epoch;
use crate::udx::{
    Config, Endpoint, Firewall, Flags, Header, MAX_DATAGRAM_LEN, MAX_SACK_BLOCKS, Path, Reading,
    Seq, SocketId, StreamKey, StreamOptions,
};

/// Reads `input` as a packet; what is read is written back the same.
///
/// # Panics
/// When it is not, which is what a fuzzer looks for.
pub fn udx_packet(input: &[u8]) {
    let Ok((header, rest)) = Header::decode(input) else {
        return;
    };
    assert_eq!(input.split_at(input.len() - rest.len()).0, header.to_bytes());
    if let Ok(body) = header.body(rest) {
        assert!(body.payload.len() + usize::from(header.data_offset) == rest.len());
        assert!(body.sacks.iter().count() <= MAX_SACK_BLOCKS);
    }
}

/// Reads `input` as what happens to a stream, application and clock included.
///
/// # Panics
/// When the stream breaks a bound, which is what a fuzzer looks for.
pub fn udx_stream(input: &[u8]) {
    let mut decoder = Decoder::new(input);
    let mut world = World::new(decoder.uint8().is_ok_and(|byte| byte % 2 == 1));
    while !decoder.is_empty() && world.act(&mut decoder).is_ok() {
        world.check();
    }
    world.endpoint.remove(world.key);
    world.check();
}

struct World {
    endpoint: Endpoint,
    key: StreamKey,
    now: Instant,
    wire: Vec<u8>,
}

const LOCAL_ID: u32 = 1;

impl World {
    fn new(framed: bool) -> Self {
        let now = epoch();
        let mut endpoint = Endpoint::new(now, Config::default());
        let reading = match framed {
            true => Reading::Frames { max_len: 100_000 },
            false => Reading::Bytes,
        };
        let options = StreamOptions {
            reading,
            firewall: Some(Firewall::connect_to_first(2)),
            ..StreamOptions::default()
        };
        let key = endpoint.open(LOCAL_ID, options);
        Self {
            endpoint,
            key: key.unwrap_or_else(|error| panic!("the first stream: {error}")),
            now,
            wire: Vec::new(),
        }
    }

    fn act(&mut self, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        let (now, key) = (self.now, self.key);
        match decoder.uint8()? % 12 {
            0 => {
                let len = usize::from(decoder.uint8()? % 40);
                let datagram = decoder.bytes(len)?;
                self.endpoint.handle_datagram(now, path(1), datagram);
            }
            1..=4 => self.packet(decoder)?,
            5 => {
                self.now += Duration::from_millis(decoder.uint16()?.into());
                self.endpoint.handle_timeout(self.now);
            }
            6 => {
                let bytes = vec![7; decoder.uint16()?.into()];
                let _ = self.endpoint.write_slice(key, &bytes);
            }
            7 => {
                let body = vec![7; decoder.uint16()?.into()];
                let _ = self.endpoint.write_frame(key, body.into());
            }
            8 => while self.endpoint.read(key).is_some() {},
            9 => {
                let _ = self.endpoint.finish(key);
                while self.endpoint.receive_message(key).is_some() {}
            }
            10 => {
                let _ = self.endpoint.send_message(key, vec![7; 100].into());
                let _ = self.endpoint.flush(key);
            }
            _ => {
                let _ = self.endpoint.change_remote(now, key, path(2), 3);
            }
        }
        Ok(())
    }

    /// A packet whose numbers are near those that matter.
    fn packet(&mut self, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        // Few of them end the stream, so that most inputs get far.
        let flags = match decoder.uint8()? % 16 {
            0..=5 => Flags::DATA,
            6 => Flags::DATA.with(Flags::END),
            7..=9 => Flags::ACK,
            10..=12 => Flags::SACK,
            13 => Flags::MESSAGE,
            14 => Flags::HEARTBEAT,
            _ => Flags::from(decoder.uint8()?),
        };
        let near = |byte: u8| Seq::new(i32::from(byte.cast_signed() / 4).cast_unsigned());
        let header = Header {
            flags,
            data_offset: decoder.uint8()? % 8,
            stream_id: LOCAL_ID,
            window: decoder.uint16()?.into(),
            seq: near(decoder.uint8()?),
            ack: near(decoder.uint8()?),
        };
        let mut datagram = header.to_bytes().to_vec();
        let len = usize::from(decoder.uint8()? % 40);
        datagram.extend_from_slice(decoder.bytes(len)?);
        self.endpoint.handle_datagram(self.now, path(1), &datagram);
        Ok(())
    }

    /// Drains the endpoint, which must come to an end, and looks at its bounds.
    fn check(&mut self) {
        let mut datagrams = 0;
        let mut wire = std::mem::take(&mut self.wire);
        while let Some(transmit) = self.endpoint.poll_transmit(self.now, &mut wire, 16) {
            assert!(!wire.is_empty() && transmit.segment_len <= MAX_DATAGRAM_LEN);
            datagrams += wire.len().div_ceil(transmit.segment_len);
            assert!(datagrams < MAX_DATAGRAMS, "sends without end");
        }
        self.wire = wire;
        while self.endpoint.poll_event().is_some() {}
        if let Some(info) = self.endpoint.info(self.key) {
            assert!(info.unacknowledged < MAX_UNACKNOWLEDGED, "keeps too much");
        }
    }
}

fn path(socket: u32) -> Path {
    Path { socket: SocketId(socket), peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)) }
}

/// More than any one step can cause.
const MAX_DATAGRAMS: usize = 50_000;
/// The window that a peer is believed, the queue behind it and a frame on top.
const MAX_UNACKNOWLEDGED: u64 = 34 * 1024 * 1024;
