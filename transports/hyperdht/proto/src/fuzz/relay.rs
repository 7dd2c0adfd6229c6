//! What the clients of a blind relay send.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use hyperdht_encoding::{DecodeError, Decoder};

use super::epoch;
use crate::{
    blind_relay::{ClientId, Limits, Matched, Message, Outcome, Pairings},
    keys::PublicKey,
};

/// Reads messages, and has a relay's table do what they say, its clock moved and clients coming and
/// going in between.
///
/// # Panics
/// When a message is not written and read back the same, or the table breaks a bound.
pub fn blind_relay(input: &[u8]) {
    let mut decoder = Decoder::new(input);
    let mut world = World {
        now: epoch(),
        table: Pairings::new(LIMITS),
        joined: BTreeSet::new(),
        sessions: Vec::new(),
    };
    while !decoder.is_empty() && world.act(&mut decoder).is_ok() {
        world.check();
    }
    // Whoever is there leaves, and nothing stays behind.
    for client in std::mem::take(&mut world.joined) {
        world.table.leave(world.now, ClientId(client));
    }
    while let Some(at) = world.table.poll_timeout() {
        world.now = world.now.max(at);
        world.table.handle_timeout(world.now);
        while world.table.poll_event().is_some() {}
    }
    let left = (world.table.clients(), world.table.pending(), world.table.sessions());
    assert_eq!(left, (0, 0, 0));
}

struct World {
    now: Instant,
    table: Pairings,
    joined: BTreeSet<u64>,
    sessions: Vec<Matched>,
}

impl World {
    fn act(&mut self, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        let what = decoder.uint8()?;
        let client = u64::from(decoder.uint8()? % 12);
        match what % 8 {
            0 | 1 => {
                // Several connections of one key.
                let key = PublicKey::from_bytes([u8::try_from(client % 4).unwrap_or(0); 32]);
                if !self.joined.contains(&client)
                    && self.table.join(self.now, ClientId(client), key).is_ok()
                {
                    self.joined.insert(client);
                }
            }
            2 => {
                self.table.leave(self.now, ClientId(client));
                self.joined.remove(&client);
            }
            3..=5 => {
                let kind = u64::from(decoder.uint8()? % 3);
                let len = usize::from(decoder.uint8()?);
                let content = decoder.bytes(len.min(decoder.rest().len()))?;
                self.message(client, kind, content);
            }
            6 => {
                self.now += Duration::from_millis(decoder.uint16()?.into());
                self.table.handle_timeout(self.now);
            }
            _ => {
                let Some(matched) = self.sessions.get(usize::from(decoder.uint8()?)) else {
                    return Ok(());
                };
                self.table.carried(self.now, matched.session, decoder.uint16()?.into());
                if decoder.bool()? {
                    self.table.part(self.now, matched.session);
                }
            }
        }
        Ok(())
    }

    fn message(&mut self, client: u64, kind: u64, content: &[u8]) {
        let Ok(Some(message)) = Message::decode(kind, content) else { return };
        assert_eq!(Message::decode(message.kind(), &message.encode()), Ok(Some(message)));
        // One byte of the token counts, so that others show the same.
        let one = |token: [u8; 32]| token.map(|byte| byte % 2);
        match message {
            Message::Pair(mut pair) => {
                pair.token = one(pair.token);
                if let Ok(Outcome::Matched(matched)) =
                    self.table.pair(self.now, ClientId(client), pair)
                {
                    assert_eq!(matched.token, pair.token);
                    self.sessions.push(matched);
                }
            }
            Message::Unpair(token) => {
                self.table.unpair(self.now, ClientId(client), &one(token));
            }
        }
    }

    fn check(&mut self) {
        while self.table.poll_event().is_some() {}
        assert!(self.table.sessions() <= LIMITS.sessions);
        assert!(self.table.pending() <= LIMITS.pending);
        assert!(self.table.clients() <= 2 * LIMITS.sessions + LIMITS.pending);
        assert!(
            self.table.poll_timeout().is_none_or(|at| at > self.now) || {
                self.table.handle_timeout(self.now);
                self.table.poll_timeout().is_none_or(|at| at > self.now)
            }
        );
    }
}

const LIMITS: Limits = Limits {
    sessions: 3,
    sessions_per_client: 2,
    pending: 3,
    pair_timeout: Duration::from_secs(20),
    session_bytes: 100_000,
    session_lifetime: Duration::from_secs(300),
    session_idle: Duration::from_secs(60),
};
