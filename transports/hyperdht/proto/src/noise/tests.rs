use noise_protocol::{Hash, U8Array};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    hash::Namespace,
    test_vectors::{HANDSHAKE, NOISE, all, bytes, fixed, vector},
};

/// A recorded handshake: keys and everything that both sides say.
struct Transcript {
    keys: [KeyPair; 4],
    prologue: Vec<u8>,
    payloads: [Vec<u8>; 2],
    messages: [Vec<u8>; 2],
    hash: Vec<u8>,
    initiator_tx: Vec<u8>,
    initiator_rx: Vec<u8>,
}

impl Transcript {
    fn of_noise(vector: &Value) -> Self {
        let key = |name: &str| KeyPair::from_seed(&fixed(&vector[name]));
        Self {
            keys: [
                key("initiatorSeed"),
                key("responderSeed"),
                key("initiatorEphemeralSeed"),
                key("responderEphemeralSeed"),
            ],
            prologue: bytes(&vector["prologue"]),
            payloads: [bytes(&vector["payload1"]), bytes(&vector["payload2"])],
            messages: [bytes(&vector["message1"]), bytes(&vector["message2"])],
            hash: bytes(&vector["handshakeHash"]),
            initiator_tx: bytes(&vector["initiatorTx"]),
            initiator_rx: bytes(&vector["initiatorRx"]),
        }
    }

    fn of_hyperdht(vector: &Value) -> Self {
        let key = |name: &str| KeyPair::from_seed(&fixed(&vector[name]));
        Self {
            keys: [
                key("clientSeed"),
                key("serverSeed"),
                key("clientEphemeralSeed"),
                key("serverEphemeralSeed"),
            ],
            prologue: Namespace::PeerHandshake.bytes().to_vec(),
            payloads: [bytes(&vector["payload1Hex"]), bytes(&vector["payload2Hex"])],
            messages: [bytes(&vector["message1"]), bytes(&vector["message2"])],
            hash: bytes(&vector["handshakeHash"]),
            initiator_tx: bytes(&vector["clientTx"]),
            initiator_rx: bytes(&vector["clientRx"]),
        }
    }

    fn all() -> Vec<Self> {
        let mut transcripts: Vec<Self> = all(NOISE)
            .iter()
            .filter(|vector| vector["message1"].is_string())
            .map(Self::of_noise)
            .collect();
        let exchange = vector(HANDSHAKE, "PEER_HANDSHAKE noise exchange");
        transcripts.push(Self::of_hyperdht(&exchange));
        assert_eq!(transcripts.len(), 3);
        transcripts
    }

    fn initiator(&self) -> (Initiator, Vec<u8>) {
        let [local, remote, ephemeral, _] = self.keys.clone();
        let [payload, _] = &self.payloads;
        Initiator::send(&local, remote.public_key(), ephemeral, &self.prologue, payload).unwrap()
    }

    fn responder(&self, message: &[u8]) -> Result<(Responder, Vec<u8>), NoiseError> {
        let [_, local, _, ephemeral] = self.keys.clone();
        Responder::recv(&local, ephemeral, &self.prologue, message)
    }
}

#[test]
fn the_initiator_says_what_was_recorded() {
    for transcript in Transcript::all() {
        let (initiator, message1) = transcript.initiator();
        assert_eq!(message1, transcript.messages[0]);
        assert_eq!(initiator.state.get_re(), None);
        let (payload, keys) = initiator.recv(&transcript.messages[1]).unwrap();
        assert_eq!(payload, transcript.payloads[1]);
        assert_eq!(keys.role, Role::Initiator);
        assert_eq!(keys.remote, transcript.keys[1].public_key());
        assert_eq!(keys.tx.expose()[..], transcript.initiator_tx);
        assert_eq!(keys.rx.expose()[..], transcript.initiator_rx);
        assert_eq!(keys.handshake_hash.expose()[..], transcript.hash);
    }
}

#[test]
fn the_responder_says_what_was_recorded() {
    for transcript in Transcript::all() {
        let (responder, payload) = transcript.responder(&transcript.messages[0]).unwrap();
        assert_eq!(payload, transcript.payloads[0]);
        assert_eq!(responder.remote(), transcript.keys[0].public_key());
        let (message2, keys) = responder.send(&transcript.payloads[1]).unwrap();
        assert_eq!(message2, transcript.messages[1]);
        assert_eq!(keys.role, Role::Responder);
        assert_eq!(keys.remote, transcript.keys[0].public_key());
        assert_eq!(keys.rx.expose()[..], transcript.initiator_tx);
        assert_eq!(keys.tx.expose()[..], transcript.initiator_rx);
        assert_eq!(keys.handshake_hash.expose()[..], transcript.hash);
    }
}

/// The hash is read from the state; the chaining key, which the state keeps to itself, is computed
/// from the recorded products with the same HKDF.
#[test]
fn hash_and_chaining_key_pass_through_the_recorded_values() {
    for vector in all(NOISE) {
        if !vector["message1"].is_string() {
            continue;
        }
        let transcript = Transcript::of_noise(&vector);
        let [local, remote, ephemeral, _] = &transcript.keys;
        let initial = [
            initial_state(local, ephemeral, Some(remote.public_key()), &transcript.prologue),
            initial_state(remote, ephemeral, None, &transcript.prologue),
        ];
        for state in initial {
            assert_eq!(state.get_hash(), bytes(&vector["afterInitialise"]["h"]));
        }

        let (initiator, message1) = transcript.initiator();
        let (responder, _) = transcript.responder(&message1).unwrap();
        for state in [&initiator.state, &responder.state] {
            assert_eq!(state.get_hash(), bytes(&vector["afterMessage1"]["h"]));
        }

        let mut chaining_key = bytes(&vector["afterInitialise"]["ck"]);
        for product in ["es", "ss"] {
            let product = bytes(&vector["dh"][product]);
            let (next, _) = Blake2b512::hkdf(&chaining_key, &product);
            chaining_key = next.as_slice().to_vec();
        }
        assert_eq!(chaining_key, bytes(&vector["afterMessage1"]["ck"]));
    }
}

#[test]
fn a_false_answer_leaves_the_initiator_waiting_for_the_genuine_one() {
    let transcript = &Transcript::all()[1];
    let (initiator, _) = transcript.initiator();
    let genuine = &transcript.messages[1];
    let mut forged = genuine.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(initiator.recv(&forged).unwrap_err(), NoiseError::Forged);
    assert!(initiator.recv(genuine).is_ok());
}

#[test]
fn a_point_outside_the_group_ends_the_handshake() {
    let transcript = &Transcript::all()[1];
    let [local, _, ephemeral, _] = transcript.keys.clone();
    for vector in crate::test_vectors::vectors(NOISE, "dh invalid point") {
        let invalid: [u8; 32] = fixed(&vector["remotePublicKey"]);
        let dialled = Initiator::send(&local, invalid.into(), ephemeral.clone(), b"", b"");
        assert_eq!(dialled.unwrap_err(), NoiseError::InvalidKey);

        let mut message1 = transcript.messages[0].clone();
        message1[..32].copy_from_slice(&invalid);
        let read = transcript.responder(&message1);
        assert_eq!(read.unwrap_err(), NoiseError::InvalidKey);

        let mut message2 = transcript.messages[1].clone();
        message2[..32].copy_from_slice(&invalid);
        let read = transcript.initiator().0.recv(&message2);
        assert_eq!(read.unwrap_err(), NoiseError::InvalidKey);
    }
}

#[test]
fn messages_of_impossible_length_are_named_so() {
    let transcript = &Transcript::all()[0];
    let (initiator, message1) = transcript.initiator();
    for len in [0, 1, 32, MESSAGE1_OVERHEAD - 1] {
        let read = transcript.responder(&message1[..len]);
        assert_eq!(read.unwrap_err(), NoiseError::Length { len });
    }
    for len in [0, MESSAGE2_OVERHEAD - 1] {
        let read = initiator.recv(&transcript.messages[1][..len]);
        assert_eq!(read.unwrap_err(), NoiseError::Length { len });
    }
    let long = vec![0; MAX_MESSAGE + 1];
    let len = long.len();
    assert_eq!(transcript.responder(&long).unwrap_err(), NoiseError::Length { len });
}

#[test]
fn the_longest_payload_passes_and_one_byte_more_does_not() {
    let mut transcript = Transcript::all().remove(0);
    transcript.payloads[0] = vec![7; MAX_PAYLOAD];
    let (_, message) = transcript.initiator();
    assert_eq!(message.len(), MAX_MESSAGE);
    assert_eq!(transcript.responder(&message).unwrap().1, transcript.payloads[0]);

    let [local, remote, ephemeral, _] = transcript.keys;
    let len = MAX_PAYLOAD + 1;
    let sent = Initiator::send(&local, remote.public_key(), ephemeral, b"", &vec![7; len]);
    assert_eq!(sent.unwrap_err(), NoiseError::PayloadTooLong { len });
}

#[test]
fn another_prologue_or_another_responder_cannot_read() {
    let transcript = &Transcript::all()[1];
    let [_, server, stranger, ephemeral] = transcript.keys.clone();
    let message = &transcript.messages[0];
    for (local, prologue) in [(&server, &b"other"[..]), (&stranger, &transcript.prologue)] {
        let read = Responder::recv(local, ephemeral.clone(), prologue, message);
        assert_eq!(read.unwrap_err(), NoiseError::Forged);
    }
}

#[test]
fn debug_keeps_the_keys() {
    let transcript = &Transcript::all()[1];
    let (initiator, message1) = transcript.initiator();
    let (responder, _) = transcript.responder(&message1).unwrap();
    let (_, keys) = initiator.recv(&transcript.messages[1]).unwrap();
    let text = format!("{initiator:?} {responder:?} {keys:?}");
    assert_eq!(text.matches("Secret(<").count(), 3, "{text}");
    assert!(!text.contains('['), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_bytes_are_answered(message in proptest::collection::vec(any::<u8>(), 0..300)) {
        let transcript = &Transcript::all()[1];
        prop_assert!(transcript.responder(&message).is_err());
        prop_assert!(transcript.initiator().0.recv(&message).is_err());
    }

    #[test]
    fn any_flipped_bit_is_noticed(place in 0..1000_usize, bit in 0..8) {
        let transcript = &Transcript::all()[1];
        let (initiator, mut message1) = transcript.initiator();
        let mut message2 = transcript.messages[1].clone();
        for message in [&mut message1, &mut message2] {
            let place = place % message.len();
            message[place] ^= 1_u8 << bit;
        }
        prop_assert!(transcript.responder(&message1).is_err());
        prop_assert!(initiator.recv(&message2).is_err());
    }

    #[test]
    fn payloads_of_any_length_arrive(
        first in proptest::collection::vec(any::<u8>(), 0..2000),
        second in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut transcript = Transcript::all().remove(2);
        transcript.payloads = [first, second];
        let (initiator, message1) = transcript.initiator();
        let (responder, payload) = transcript.responder(&message1).unwrap();
        prop_assert_eq!(&payload, &transcript.payloads[0]);
        let (message2, ours) = responder.send(&transcript.payloads[1]).unwrap();
        let (payload, theirs) = initiator.recv(&message2).unwrap();
        prop_assert_eq!(&payload, &transcript.payloads[1]);
        prop_assert_eq!((ours.tx, ours.rx), (theirs.rx, theirs.tx));
        prop_assert_eq!(ours.handshake_hash, theirs.handshake_hash);
    }
}
