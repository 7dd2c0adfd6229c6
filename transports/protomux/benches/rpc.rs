//! One request and its answer between two muxes in memory: what the mux itself costs a scrape.
#![expect(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

use std::{hint::black_box, sync::Arc};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_channel::mpsc;
use futures_util::{StreamExt, future::join_all};
use protomux::{Limits, Mux, Protocol, Reply, Rpc, RpcFault, RpcHandler};
use tokio::runtime::{Builder, Runtime};

/// Answers with a body made beforehand.
struct Body(Bytes);

#[async_trait::async_trait]
impl RpcHandler for Body {
    async fn request(&self, _: &str, _: Bytes) -> Result<Reply, RpcFault> {
        Ok(Reply::new(self.0.clone()))
    }
}

/// A channel to a handler of `bytes` large answers, driven by `runtime`.
fn connect(runtime: &Runtime, bytes: usize) -> Rpc {
    let (tx_a, rx_b) = mpsc::channel::<Bytes>(16);
    let (tx_b, rx_a) = mpsc::channel::<Bytes>(16);
    let (a, driver_a) = Mux::new(tx_a, rx_a.map(Ok), Limits::default());
    let (b, driver_b) = Mux::new(tx_b, rx_b.map(Ok), Limits::default());
    let protocol = Protocol::new("prometheus-metrics");
    b.serve(protocol.clone(), Arc::new(Body(vec![b'm'; bytes].into())));
    runtime.spawn(driver_a);
    runtime.spawn(driver_b);
    a.open(&protocol, None).unwrap()
}

fn requests(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().build().unwrap();
    let mut group = criterion.benchmark_group("request");
    for (name, bytes) in
        [("1KB", 1 << 10), ("10KB", 10 << 10), ("100KB", 100 << 10), ("1MB", 1 << 20)]
    {
        let rpc = connect(&runtime, bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(runtime.block_on(rpc.request("metrics", [1, 1])).unwrap()));
        });
    }
    let rpc = connect(&runtime, 1 << 10);
    group.throughput(Throughput::Elements(64));
    group.bench_function("64 at once, 1KB", |bencher| {
        bencher.iter(|| {
            let requests = (0..64).map(|_| rpc.request("metrics", [1, 1]));
            black_box(runtime.block_on(join_all(requests)))
        });
    });
}

/// What the same body costs to copy once, which one side has to.
fn baseline(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one copy");
    for (name, bytes) in
        [("1KB", 1 << 10), ("10KB", 10 << 10), ("100KB", 100 << 10), ("1MB", 1 << 20)]
    {
        let body = vec![b'm'; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(Bytes::copy_from_slice(black_box(&body))));
        });
    }
}

criterion_group!(benches, requests, baseline);
criterion_main!(benches);
