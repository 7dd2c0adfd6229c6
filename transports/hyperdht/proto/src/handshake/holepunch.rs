use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
};

use crypto_secretbox::{AeadInPlace, KeyInit, Nonce, Tag, XSalsa20Poly1305};
use hyperdht_encoding::{DecodeError, Decoder, Encode};
use subtle::ConstantTimeEq;

use super::{ErrorCode, Firewall, PayloadError, addresses, flags, put_addresses};
use crate::{
    hash::{Namespace, keyed_hash},
    keys::Secret,
};

/// What a peer tells the other about its side of a hole, round by round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HolepunchPayload {
    /// Why the peer gives up, if it does.
    pub error: ErrorCode,
    /// What the peer has found out about its NAT.
    pub firewall: Firewall,
    /// The round that this belongs to; answers bear the number of what they answer.
    pub round: u64,
    /// Whether the peer is connected already.
    pub connected: bool,
    /// Whether the peer is sending through the hole from now on.
    pub punching: bool,
    /// The addresses at which others see the peer, once it knows. At most
    /// [`MAX_LIST`](super::MAX_LIST).
    pub addresses: Option<Vec<SocketAddrV4>>,
    /// Where the peer believes us to be.
    pub remote_address: Option<SocketAddrV4>,
    /// What we are to send back, to prove that we are where the token was sent.
    pub token: Option<[u8; 32]>,
    /// The token that we sent, sent back.
    pub remote_token: Option<[u8; 32]>,
}

impl HolepunchPayload {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(flags([
            (CONNECTED, self.connected),
            (PUNCHING, self.punching),
            (ADDRESSES, self.addresses.is_some()),
            (REMOTE_ADDRESS, self.remote_address.is_some()),
            (TOKEN, self.token.is_some()),
            (REMOTE_TOKEN, self.remote_token.is_some()),
        ]));
        out.put_varint(self.error.code());
        out.put_varint(self.firewall.code());
        out.put_varint(self.round);
        if let Some(addresses) = &self.addresses {
            put_addresses(out, addresses);
        }
        if let Some(address) = self.remote_address {
            out.put_ipv4_address(address);
        }
        for token in [self.token, self.remote_token].into_iter().flatten() {
            out.extend_from_slice(&token);
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(bytes);
        let flags = input.varint()?;
        let has = |flag| flags & flag != 0;
        Ok(Self {
            connected: has(CONNECTED),
            punching: has(PUNCHING),
            error: ErrorCode::from_code(input.varint()?),
            firewall: Firewall::from_code(input.varint()?),
            round: input.varint()?,
            addresses: has(ADDRESSES).then(|| addresses(&mut input)).transpose()?,
            remote_address: has(REMOTE_ADDRESS).then(|| input.ipv4_address()).transpose()?,
            token: has(TOKEN).then(|| input.fixed()).transpose()?,
            remote_token: has(REMOTE_TOKEN).then(|| input.fixed()).transpose()?,
        })
    }
}

/// Seals the holepunch payloads of one handshake, both ways: `nonce (24 bytes) ‖ secretbox`.
pub struct HolepunchCipher(XSalsa20Poly1305);

impl HolepunchCipher {
    /// The cipher that follows from a handshake
    /// ([`SessionKeys::handshake_hash`](crate::noise::SessionKeys)).
    pub fn new(handshake_hash: &Secret<64>) -> Self {
        let namespace = Namespace::PeerHolepunch.bytes();
        Self::from_key(keyed_hash(handshake_hash.expose(), &[&namespace]))
    }

    fn from_key(key: [u8; 32]) -> Self {
        Self(XSalsa20Poly1305::new(&key.into()))
    }

    /// The payload of a PEER_HOLEPUNCH message. `nonce` is 24 fresh
    /// random bytes.
    pub fn seal(&self, payload: &HolepunchPayload, nonce: [u8; 24]) -> Vec<u8> {
        let mut sealed = nonce.to_vec();
        let tag_at = sealed.len();
        sealed.extend_from_slice(&[0; MAC]);
        payload.encode(&mut sealed);
        let (_, boxed) = sealed.split_at_mut(tag_at);
        let (tag_out, text) = boxed.split_at_mut(MAC);
        let tag = self
            .0
            .encrypt_in_place_detached(&nonce.into(), &[], text)
            .expect("secretbox limits no length");
        tag_out.copy_from_slice(&tag);
        sealed
    }

    /// Reads what the peer sealed.
    ///
    /// # Errors
    /// [`PayloadError::Forged`] when it was not the peer; [`PayloadError::Malformed`] when what it
    /// sealed is no payload.
    pub fn open(&self, sealed: &[u8]) -> Result<HolepunchPayload, PayloadError> {
        let (nonce, boxed) = sealed.split_first_chunk::<24>().ok_or(PayloadError::Forged)?;
        let (tag, text) = boxed.split_first_chunk::<MAC>().ok_or(PayloadError::Forged)?;
        let (nonce, tag): (&Nonce, &Tag) = (nonce.into(), tag.into());
        let mut text = text.to_vec();
        self.0
            .decrypt_in_place_detached(nonce, &[], &mut text, tag)
            .map_err(|_| PayloadError::Forged)?;
        Ok(HolepunchPayload::decode(&text)?)
    }
}

impl fmt::Debug for HolepunchCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HolepunchCipher").finish_non_exhaustive()
    }
}

/// Makes tokens that prove a peer to be at the host that a message was sent to: only who receives
/// there can send them back. The port is not part of it, since it is what NATs change.
#[derive(Debug)]
pub struct TokenKey(Secret<32>);

impl TokenKey {
    /// Tokens under this key, 32 fresh random bytes for each handshake.
    pub const fn new(key: Secret<32>) -> Self {
        Self(key)
    }

    /// The token for a host.
    pub fn token(&self, host: Ipv4Addr) -> [u8; 32] {
        keyed_hash(self.0.expose(), &[host.to_string().as_bytes()])
    }

    /// Whether `token` is the one for this host; in constant time.
    pub fn verify(&self, host: Ipv4Addr, token: &[u8; 32]) -> bool {
        self.token(host).ct_eq(token).into()
    }
}

const MAC: usize = 16;

const CONNECTED: u64 = 1;
const PUNCHING: u64 = 2;
const ADDRESSES: u64 = 4;
const REMOTE_ADDRESS: u64 = 8;
const TOKEN: u64 = 16;
const REMOTE_TOKEN: u64 = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_vectors::{HANDSHAKE, HYPERDHT, address, bytes, fixed, vector};

    const NONCE: [u8; 24] = [9; 24];

    fn cipher() -> HolepunchCipher {
        HolepunchCipher::from_key([7; 32])
    }

    /// The payloads that the vector file calls by these names.
    fn recorded() -> [(&'static str, HolepunchPayload); 3] {
        let at = |host: [u8; 4], port| SocketAddrV4::new(host.into(), port);
        [
            (
                "holepunchPayload probe",
                HolepunchPayload {
                    remote_address: Some(at([10, 0, 0, 1], 1001)),
                    ..HolepunchPayload::default()
                },
            ),
            (
                "holepunchPayload punch",
                HolepunchPayload {
                    firewall: Firewall::Consistent,
                    round: 1,
                    punching: true,
                    addresses: Some(vec![at([10, 0, 0, 1], 1001), at([10, 0, 0, 2], 1002)]),
                    token: Some([0x71; 32]),
                    remote_token: Some([0x72; 32]),
                    ..HolepunchPayload::default()
                },
            ),
            (
                "holepunchPayload abort",
                HolepunchPayload {
                    error: ErrorCode::Aborted,
                    round: 2,
                    ..HolepunchPayload::default()
                },
            ),
        ]
    }

    #[test]
    fn payloads_are_sealed_and_opened_as_recorded() {
        for (name, payload) in recorded() {
            let vector = vector(HYPERDHT, name);
            let mut plain = Vec::new();
            payload.encode(&mut plain);
            assert_eq!(plain, bytes(&vector["plainHex"]), "{name}");

            let cipher = HolepunchCipher::from_key(fixed(&vector["secret"]));
            let sealed = bytes(&vector["hex"]);
            assert_eq!(cipher.seal(&payload, fixed(&vector["nonce"])), sealed, "{name}");
            assert_eq!(cipher.open(&sealed), Ok(payload), "{name}");
        }
        let remote = &vector(HYPERDHT, "holepunchPayload probe")["input"]["remoteAddress"];
        assert_eq!(recorded()[0].1.remote_address, Some(address(remote)));
    }

    #[test]
    fn the_key_follows_from_the_handshake() {
        let exchange = vector(HANDSHAKE, "PEER_HANDSHAKE noise exchange");
        let hash = Secret::from_bytes(fixed(&exchange["handshakeHash"]));
        let same = HolepunchCipher::from_key(fixed(&exchange["holepunchSecret"]));
        let [_, (_, payload), _] = recorded();
        let sealed = HolepunchCipher::new(&hash).seal(&payload, NONCE);
        assert_eq!(same.open(&sealed), Ok(payload));
    }

    #[test]
    fn tokens_are_the_recorded_ones_and_bound_to_the_host() {
        let vector = vector(HYPERDHT, "holepunch token");
        let key = TokenKey::new(Secret::from_bytes(fixed(&vector["localSecret"])));
        let host = vector["host"].as_str().unwrap().parse().unwrap();
        let token = fixed(&vector["hex"]);
        assert_eq!(key.token(host), token);
        assert!(key.verify(host, &token));
        assert!(!key.verify(Ipv4Addr::LOCALHOST, &token));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            let _ = HolepunchPayload::decode(&bytes);
            prop_assert_eq!(cipher().open(&bytes), Err(PayloadError::Forged));
        }

        #[test]
        fn any_flipped_bit_is_noticed(place: usize, bit in 0..8_u8) {
            let [_, (_, payload), _] = recorded();
            let mut sealed = cipher().seal(&payload, NONCE);
            let place = place % sealed.len();
            sealed[place] ^= 1 << bit;
            prop_assert_eq!(cipher().open(&sealed), Err(PayloadError::Forged));
        }
    }
}
