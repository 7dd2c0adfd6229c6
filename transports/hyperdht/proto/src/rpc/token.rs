//! Tokens: who stores something at a node proves first that it receives at the address it claims.

use std::{
    fmt,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use rand::Rng;
use subtle::ConstantTimeEq;

use crate::hash::{hash, keyed_hash};

/// Proof of a round trip with a host. It holds for the host, whatever the port.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub [u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Issues tokens and recognises its own for 7.5 to 15 seconds, without remembering any.
///
/// As in dht-rpc `lib/io.js`: a token is the keyed BLAKE2b-256 of the host as text. Two secrets are
/// live, the newer one signs; the next secret is the hash of the one it replaces.
pub(crate) struct Tokens {
    older: [u8; 32],
    newer: [u8; 32],
    rotated: Instant,
}

impl Tokens {
    pub(crate) fn new(now: Instant, rng: &mut impl Rng) -> Self {
        let mut tokens = Self { older: [0; 32], newer: [0; 32], rotated: now };
        rng.fill_bytes(&mut tokens.older);
        rng.fill_bytes(&mut tokens.newer);
        tokens
    }

    /// A token for `host`.
    pub(crate) fn issue(&mut self, now: Instant, host: Ipv4Addr) -> Token {
        self.rotate(now);
        keyed(&self.newer, host)
    }

    /// Whether `token` was issued to `host` not long ago.
    pub(crate) fn accepts(&mut self, now: Instant, host: Ipv4Addr, token: &Token) -> bool {
        self.rotate(now);
        let is = |secret| keyed(secret, host).0.ct_eq(&token.0);
        (is(&self.newer) | is(&self.older)).into()
    }

    /// Catches up with the rotations that are due. After two nothing old is accepted any more, so
    /// a long sleep costs no more than that.
    fn rotate(&mut self, now: Instant) {
        for _ in 0..2 {
            if now.saturating_duration_since(self.rotated) < ROTATION {
                return;
            }
            let next = hash(&[&self.older]);
            self.older = std::mem::replace(&mut self.newer, next);
            self.rotated += ROTATION;
        }
        if now.saturating_duration_since(self.rotated) >= ROTATION {
            self.rotated = now;
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(..)")
    }
}

/// How long a secret signs: ten drains of 750 ms in the reference.
const ROTATION: Duration = Duration::from_millis(7500);

fn keyed(secret: &[u8; 32], host: Ipv4Addr) -> Token {
    Token(keyed_hash(secret, &[host.to_string().as_bytes()]))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::rpc::testnet::epoch;

    const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    #[test]
    fn the_recorded_token_is_issued() {
        let mut tokens = Tokens::new(epoch(), &mut StdRng::seed_from_u64(1));
        tokens.newer = [0x52; 32];
        let token = tokens.issue(epoch(), HOST);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&token.0),
            "bbef11ffe1253f40189b0bffd7813f392b9bcc905767f0acb2ed65fd5469c7cc"
        );
    }

    #[test]
    fn a_token_lives_between_one_and_two_rotations_for_its_host_only() {
        let now = epoch();
        let mut tokens = Tokens::new(now, &mut StdRng::seed_from_u64(1));
        let token = tokens.issue(now, HOST);
        assert!(tokens.accepts(now, HOST, &token));
        assert!(!tokens.accepts(now, Ipv4Addr::new(10, 0, 0, 8), &token));
        assert!(tokens.accepts(now + 2 * ROTATION - Duration::from_millis(1), HOST, &token));
        assert!(!tokens.accepts(now + 2 * ROTATION, HOST, &token));
    }

    #[test]
    fn a_long_sleep_forgets_every_token() {
        let now = epoch();
        let mut tokens = Tokens::new(now, &mut StdRng::seed_from_u64(1));
        let token = tokens.issue(now, HOST);
        let later = now + Duration::from_secs(86_400);
        assert!(!tokens.accepts(later, HOST, &token));
        let token = tokens.issue(later, HOST);
        assert!(tokens.accepts(later + ROTATION, HOST, &token));
    }
}
