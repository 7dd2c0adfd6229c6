//! What one message costs between application and wire: sealed into a buffer that is used again,
//! read through the receiving half, and, for comparison, decrypted by `dryoc` into a buffer of its
//! own. Timings depend on `--cfg chacha20_avx512`, which this workspace sets.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dryoc::classic::crypto_secretstream_xchacha20poly1305::{
    Header, Key, State, crypto_secretstream_xchacha20poly1305_init_pull as init_pull,
    crypto_secretstream_xchacha20poly1305_pull as pull,
};
use hyperdht_proto::{
    keys::{PublicKey, Secret},
    noise::{Role, SessionKeys},
    secret_stream::{self, Options, Reader, Writer},
};

const SIZES: [usize; 5] = [64, 1 << 10, 10 << 10, 64 << 10, 1 << 20];
const NONCE: [u8; 24] = [5; 24];
const KEY: [u8; 32] = [1; 32];

fn keys(role: Role) -> SessionKeys {
    SessionKeys {
        role,
        remote: PublicKey::from_bytes([2; 32]),
        tx: Secret::from_bytes(KEY),
        rx: Secret::from_bytes(KEY),
        handshake_hash: Secret::from_bytes([3; 64]),
    }
}

fn writer() -> Writer {
    secret_stream::open(&keys(Role::Initiator), NONCE, Options::default()).0
}

/// A reader that has read the writer's header.
fn reader() -> Reader {
    let mut header = BytesMut::new();
    writer().write_header(&mut header);
    let (_, mut reader) = secret_stream::open(&keys(Role::Responder), [6; 24], Options::default());
    let message = reader.read(&mut &header[..]).expect("the header is genuine");
    assert!(message.is_none());
    reader
}

/// The first frame of a stream.
fn frame(message: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    writer().seal(message, &mut frame).expect("short enough");
    frame
}

fn batch(size: usize) -> BatchSize {
    BatchSize::NumIterations(if size < 100_000 { 64 } else { 4 })
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    for size in SIZES {
        let (message, mut writer) = (vec![b'm'; size], writer());
        let mut out = BytesMut::with_capacity(size + 20);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                out.clear();
                writer.seal(black_box(&message[..]), &mut out)
            });
        });
    }
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    for size in SIZES {
        let frame = frame(&vec![b'm'; size]);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_batched_ref(
                reader,
                |reader| reader.read(&mut black_box(&frame[..])),
                batch(size),
            );
        });
    }
}

fn dryoc(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dryoc");
    for size in SIZES {
        let frame = frame(&vec![b'm'; size]);
        let (_, body) = frame.split_at(3);
        let mut start = State::new();
        init_pull(&mut start, &Header::from(NONCE), &Key::from(KEY));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_batched_ref(
                || start.clone(),
                |state| {
                    let (mut message, mut tag) = (vec![0; size], 0);
                    pull(state, &mut message, &mut tag, black_box(body), None).map(|_| message)
                },
                batch(size),
            );
        });
    }
}

criterion_group!(benches, seal, read, dryoc);
criterion_main!(benches);
