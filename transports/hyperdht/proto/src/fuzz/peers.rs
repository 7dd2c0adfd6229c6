//! What only the other end of a handshake can send, and what others can make of it.

use std::sync::LazyLock;

use bytes::BytesMut;
use hyperdht_encoding::Decoder;

use crate::{
    handshake::HolepunchCipher,
    hash::Namespace,
    keys::KeyPair,
    noise::{Initiator, Responder, SessionKeys},
    secret_stream::{self, Options, Reader},
};

fn pair(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n; 32])
}

/// Both sides' keys after a handshake whose payloads are the two parts of `input`.
fn shaken(input: &[u8]) -> Option<(SessionKeys, SessionKeys)> {
    let prologue = Namespace::PeerHandshake.bytes();
    let (first, second) = input.split_at(input.len() / 2);
    let (client, server) = (pair(1), pair(2));
    let (initiator, message) =
        Initiator::send(&client, server.public_key(), pair(3), &prologue, first).ok()?;
    let (responder, payload) = Responder::recv(&server, pair(4), &prologue, &message).ok()?;
    assert_eq!((&payload[..], responder.remote()), (first, client.public_key()));
    let (message, theirs) = responder.send(second).ok()?;
    let (payload, ours) = initiator.recv(&message).ok()?;
    assert_eq!(payload, second);
    assert_eq!((&ours.tx, &ours.rx), (&theirs.rx, &theirs.tx));
    Some((ours, theirs))
}

/// The first half of a handshake with nothing remarkable in it.
static BEGUN: LazyLock<(Initiator, Vec<u8>)> = LazyLock::new(|| {
    let prologue = Namespace::PeerHandshake.bytes();
    Initiator::send(&pair(1), pair(2).public_key(), pair(3), &prologue, b"payload")
        .unwrap_or_else(|error| panic!("the key is a point: {error}"))
});

/// A whole one.
static SHAKEN: LazyLock<(SessionKeys, SessionKeys)> =
    LazyLock::new(|| shaken(b"").unwrap_or_else(|| panic!("nothing is the matter")));

/// Gives `input` to both sides of a handshake as the other's message, and to a holepunch's cipher; at
/// times both sides say parts of it to each other.
///
/// # Panics
/// When it is taken although nobody with the key made it, or what was said is not what was heard.
pub fn handshake(input: &[u8]) {
    let prologue = Namespace::PeerHandshake.bytes();
    let receive = |message: &[u8]| Responder::recv(&pair(2), pair(4), &prologue, message).is_ok();
    let (initiator, message) = &*BEGUN;
    assert!(!receive(input));
    assert!(initiator.recv(input).is_err());
    // Genuine but for the bytes that the input changes.
    let changes = input.iter().copied().chain(std::iter::repeat(0));
    let changed: Vec<_> = message.iter().zip(changes).map(|(byte, change)| byte ^ change).collect();
    assert_eq!(receive(&changed), changed == *message);
    assert!(HolepunchCipher::new(&SHAKEN.0.handshake_hash).open(input).is_err());
    if input.first().is_some_and(|byte| byte % 16 == 0) {
        shaken(input);
    }
}

/// Gives a reader what the peer would write, cut as the input says, then the input itself; and a
/// datagram opener the input.
///
/// # Panics
/// When a message is lost, or one is read that the peer did not write.
pub fn secret_stream(input: &[u8]) {
    let (ours, theirs) = &*SHAKEN;
    let options = Options { max_message: 4096, ..Options::default() };
    let (mut writer, _) = secret_stream::open(theirs, [7; 24], options);
    let mut wire = BytesMut::new();
    writer.write_header(&mut wire);
    let mut decoder = Decoder::new(input);
    let mut written = Vec::new();
    for _ in 0..decoder.uint8().unwrap_or(0) % 8 {
        let message = vec![9; decoder.uint16().unwrap_or(1).into()];
        if writer.seal(&message[..], &mut wire).is_ok() && !message.is_empty() {
            written.push(message);
        }
    }
    let (_, mut reader) = secret_stream::open(ours, [8; 24], options);
    let cut = usize::from(decoder.uint16().unwrap_or(0)) + 1;
    let mut read = 0;
    let mut ended = false;
    for chunk in wire.chunks(cut) {
        let mut chunk = chunk;
        while !ended {
            match reader.read(&mut chunk) {
                Ok(Some(message)) => {
                    assert_eq!(Some(&message[..]), written.get(read).map(|w| &w[..]));
                    read += 1;
                }
                Ok(None) => break,
                // A message longer than this reader takes.
                Err(_) => ended = true,
            }
        }
    }
    assert!(ended || read == written.len(), "{read} of {} messages", written.len());
    forged(reader, decoder.rest());
    let (_, mut fresh) = secret_stream::open(ours, [8; 24], options);
    assert!(fresh.read_frame(BytesMut::from(input)).is_err());
    let (_, opener) = secret_stream::datagrams(ours, [0; 8]);
    assert!(opener.open(BytesMut::from(input)).is_none());
}

/// Nothing of these bytes is a message.
fn forged(mut reader: Reader, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match reader.read(&mut rest) {
            Ok(message) => assert_eq!(message, None),
            Err(error) => {
                assert_eq!(reader.read(&mut &[1][..]), Err(error), "an error is final");
                return;
            }
        }
    }
}
