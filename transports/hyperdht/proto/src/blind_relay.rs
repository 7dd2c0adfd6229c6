//! Blind relays: what two peers say to a node that both can reach, so that it passes the packets of
//! their UDX stream on, and what that node remembers about them.
//!
//! Each peer has a connection of its own to the relay, and on it the protomux channel [`PROTOCOL`]
//! whose id is the peer's public key *on that connection*. Both send a [`Pair`] with the same token,
//! one of them as the initiator. The relay makes a UDX stream for either, each forwarding to the
//! other, and answers with their ids. It learns a peer's address from the stream's first packet, and
//! never sees more than ciphertext.
//!
//! The layouts are those of the npm package blind-relay 1.6.1 (`index.js`), checked against recorded
//! values. [`Pairings`] is the relay's table; the pairing itself is the caller's to carry out.

mod pairings;
#[cfg(test)]
mod tests;

use hyperdht_encoding::{DecodeError, Decoder, Encode};

pub use self::pairings::{
    ClientId, EndReason, Event, LINGER, Limits, Matched, Outcome, Pairings, Refusal, SessionId,
    Side,
};

/// The name of the channel.
pub const PROTOCOL: &str = "blind-relay";

/// How long a peer waits for the other one at the relay (`hyperdht/lib/connect.js`).
pub const PAIR_WAIT: std::time::Duration = std::time::Duration::from_secs(15);

/// What both peers of a pair show to the relay, and nobody else knows.
pub type Token = [u8; 32];

/// Asks to be paired; or, from the relay, says that it has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Whether the peer it is sent by or to is the one whose choice the relay was.
    pub initiator: bool,
    /// What makes two peers a pair.
    pub token: Token,
    /// The sender's UDX stream.
    pub stream_id: u32,
}

/// A message on the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// See [`Pair`].
    Pair(Pair),
    /// Takes a [`Pair`] back.
    Unpair(Token),
}

impl Message {
    /// The type under which it travels in the channel.
    pub const fn kind(&self) -> u64 {
        match self {
            Self::Pair(_) => PAIR,
            Self::Unpair(_) => UNPAIR,
        }
    }

    /// Its content.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_LEN);
        match self {
            Self::Pair(Pair { initiator, token, stream_id }) => {
                out.push(u8::from(*initiator));
                out.extend_from_slice(token);
                out.put_varint(u64::from(*stream_id));
                out.put_varint(FIRST_SEQ);
            }
            Self::Unpair(token) => {
                out.push(NO_FLAGS);
                out.extend_from_slice(token);
            }
        }
        out
    }

    /// Reads a message of this type; nothing for a type that has no meaning, which is to be ignored.
    ///
    /// # Errors
    /// [`DecodeError`] when the content is not that of the type.
    pub fn decode(kind: u64, content: &[u8]) -> Result<Option<Self>, DecodeError> {
        let mut input = Decoder::new(content);
        Ok(match kind {
            PAIR => {
                let initiator = input.bitfield()? & INITIATOR != 0;
                let token = input.fixed()?;
                let stream_id = u32::try_from(input.varint()?).map_err(|_| DecodeError::TooBig)?;
                let _seq = input.varint()?;
                Some(Self::Pair(Pair { initiator, token, stream_id }))
            }
            UNPAIR => {
                let _flags = input.bitfield()?;
                Some(Self::Unpair(input.fixed()?))
            }
            _ => None,
        })
    }
}

const PAIR: u64 = 0;
const UNPAIR: u64 = 1;

/// The longest message: flags, token, stream id, sequence.
const MAX_LEN: usize = 1 + 32 + 5 + 1;

const NO_FLAGS: u8 = 0;
const INITIATOR: u8 = 1;

/// Where the stream's sequence begins; always 0, and ignored.
const FIRST_SEQ: u64 = 0;
