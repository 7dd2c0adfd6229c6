//! The registry at its sizes, and the messages that services and the bridge exchange.
#![expect(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

use std::{hint::black_box, time::Instant};

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dht_prom_client::message::{AliasRequest, MetricsResponse};
use dht_prometheus::{
    name::Alias,
    registry::{
        EXPIRY, Registry, Target,
        targets::{TargetsFormat, parse, render, render_http_sd},
    },
};
use protomux::Payload;

/// Aliases; the last is as many as there may be.
const SIZES: [usize; 3] = [1, 1_000, 20_000];
/// Bytes of metrics.
const BODIES: [(&str, usize); 2] = [("1KB", 1 << 10), ("1MB", 1 << 20)];
/// The bridge as targets files name it.
const BRIDGE: &str = "127.0.0.1:30000";

fn alias(number: usize) -> Alias {
    format!("service-{number}.example").parse().unwrap()
}

fn target(number: usize) -> Target {
    let mut key = [1; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    Target { key: key.into(), hostname: "host-1".into(), service: "service".into() }
}

fn filled(size: usize, now: Instant) -> Registry {
    let mut registry = Registry::default();
    for number in 0..size {
        registry.register(now, alias(number), target(number)).unwrap();
    }
    registry
}

fn registry(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut group = criterion.benchmark_group("registry");
    for size in SIZES {
        let id = |name: &str| BenchmarkId::new(name, size);
        let names: Vec<_> = (0..size).map(|number| (alias(number), target(number))).collect();
        group.bench_function(id("fill"), |bencher| {
            let fill = |names: Vec<(Alias, Target)>| {
                let mut registry = Registry::default();
                for (alias, target) in names {
                    registry.register(now, alias, target).unwrap();
                }
                registry
            };
            bencher.iter_batched(|| names.clone(), fill, BatchSize::LargeInput);
        });
        let mut registry = filled(size, now);
        let (last, last_target) = names.last().unwrap().clone();
        group.bench_function(id("renew"), |bencher| {
            bencher.iter(|| registry.register(now, last.clone(), last_target.clone()));
        });
        group.bench_function(id("find"), |bencher| {
            bencher.iter(|| registry.find(black_box(last.as_str())).unwrap().1.key);
        });
        group.bench_function(id("expire none"), |bencher| bencher.iter(|| registry.expire(now)));
        group.bench_function(id("expire all"), |bencher| {
            let expire = |mut registry: Registry| registry.expire(now + EXPIRY);
            bencher.iter_batched(|| filled(size, now), expire, BatchSize::LargeInput);
        });
        for (name, format) in
            [("classic", TargetsFormat::Classic), ("labels", TargetsFormat::Labels)]
        {
            group.bench_function(id(&format!("render {name}")), |bencher| {
                bencher.iter(|| render(&registry, format, BRIDGE));
            });
        }
        group.bench_function(id("render http_sd"), |bencher| {
            bencher.iter(|| render_http_sd(&registry, BRIDGE));
        });
        let file = render(&registry, TargetsFormat::Classic, BRIDGE);
        group.bench_function(id("parse"), |bencher| bencher.iter(|| parse(&file).unwrap()));
    }
}

fn written(message: &impl Payload) -> BytesMut {
    let mut wire = BytesMut::with_capacity(message.encoded_len());
    message.encode(&mut wire);
    wire
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let request = AliasRequest {
        secret: [5; 32].into(),
        alias: "service-1.example".to_owned(),
        target: [1; 32].into(),
        hostname: "host-1".to_owned(),
        service: "service".to_owned(),
    };
    let wire = written(&request);
    group.bench_function("alias request/decode", |bencher| {
        bencher.iter(|| AliasRequest::decode(black_box(&wire)).unwrap());
    });
    for (name, bytes) in BODIES {
        let response = MetricsResponse::Metrics(vec![b'm'; bytes].into());
        let wire: Bytes = written(&response).freeze();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("metrics response/encode", name), |bencher| {
            bencher.iter(|| written(black_box(&response)));
        });
        group.bench_function(BenchmarkId::new("metrics response/decode", name), |bencher| {
            bencher.iter(|| MetricsResponse::decode(black_box(&wire)).unwrap());
        });
    }
}

criterion_group!(benches, registry, codec);
criterion_main!(benches);
