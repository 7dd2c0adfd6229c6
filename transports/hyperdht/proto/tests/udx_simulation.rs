//! Streams over links that lose, copy, reorder, delay and fall silent.
//!
//! 2,000 seeds by default; `HYPERDHT_SIM_SEEDS=100000` for a long run.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hyperdht_proto::{
    sim::{HostId, Link, Network, Rng, UdxHost, seeds},
    udx::{AckPolicy, CallError, Config, Firewall, Reading, StreamError, StreamKey, StreamOptions},
};

/// The longest wait between two deliveries on a link that is up: the first timeout after a
/// repeated loss, and the two-timeout waits that follow.
const STALL_BOUND: Duration = Duration::from_secs(12);
/// When a stream without progress must have failed: seven timeouts of one packet, with round trips
/// of up to two seconds.
const GIVE_UP_BOUND: Duration = Duration::from_secs(150);

/// Bytes in each direction at most; half of all transfers are shorter than a thousand.
const MAX_TRANSFER: usize = 1024 * 1024;

/// One end of a transfer.
struct End {
    host: HostId,
    key: StreamKey,
    outgoing: Vec<u8>,
    written: usize,
    expected: Vec<u8>,
    received: usize,
    finished: bool,
    read_size: usize,
}

struct Run {
    net: Network<UdxHost>,
    ends: [End; 2],
    rng: Rng,
}

fn bytes(rng: &mut Rng, max: usize) -> Vec<u8> {
    // As many short transfers as long ones.
    let magnitude = rng.u32(0..=max.ilog2());
    let len = rng.usize(0..=1 << magnitude).min(max);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

fn millis(rng: &mut Rng, max: u64) -> Duration {
    Duration::from_millis(rng.u64(0..=max))
}

/// A link that works, well or badly.
fn link(rng: &mut Rng) -> Link {
    let mut link = Link { delay: millis(rng, 150) + Duration::from_micros(50), ..Link::default() };
    if rng.bool() {
        link.loss = rng.f64() * 0.15;
    }
    if rng.bool() {
        link.jitter = millis(rng, 30);
    }
    if rng.u8(0..4) == 0 {
        link.reordering = rng.f64() * 0.2;
    }
    if rng.u8(0..4) == 0 {
        link.duplication = rng.f64() * 0.2;
    }
    if rng.u8(0..3) == 0 {
        link.bandwidth = Some(rng.u64(50_000..5_000_000));
        link.queue = rng.usize(10_000..200_000);
    }
    if rng.bool() {
        link.mtu = rng.u16(1200..=1500);
    }
    link
}

fn config(rng: &mut Rng) -> Config {
    let mut config = Config::default();
    if rng.bool() {
        config.acks = AckPolicy::EveryPacket;
    }
    if rng.u8(0..4) == 0 {
        config.receive_window = rng.u32(2_000..100_000);
        config.send_queue = rng.usize(1_000..50_000);
    }
    config
}

impl Run {
    fn new(seed: u64, links: [Link; 2], max_len: usize) -> Self {
        let mut rng = Rng::with_seed(!seed);
        let [there, back] = links;
        let mut net = Network::new(seed, there);
        let [a_addr, b_addr]: [SocketAddr; 2] =
            ["10.0.0.1:1000", "10.0.0.2:2000"].map(|addr| addr.parse().unwrap());
        net.link(b_addr.ip(), a_addr.ip(), back);
        let [a_config, b_config] = [config(&mut rng), config(&mut rng)];
        let a = net.add([a_addr], |now| UdxHost::new(now, a_addr, a_config));
        let b = net.add([b_addr], |now| UdxHost::new(now, b_addr, b_config));
        let b_key = net.with(b, |host, _| {
            let firewall = Some(Firewall::connect_to_first(11));
            let options = StreamOptions { firewall, ..StreamOptions::default() };
            host.endpoint.open(22, options).unwrap()
        });
        let a_key = net.with(a, |host, now| {
            let key = host.endpoint.open(11, StreamOptions::default()).unwrap();
            let path = host.path_to(b_addr);
            host.endpoint.connect(now, key, path, 22).unwrap();
            key
        });
        let [up, down] = [bytes(&mut rng, max_len), bytes(&mut rng, max_len)];
        let mut end = |host, key, outgoing: &Vec<u8>, expected: &Vec<u8>| End {
            host,
            key,
            outgoing: outgoing.clone(),
            written: 0,
            expected: expected.clone(),
            received: 0,
            finished: false,
            read_size: rng.usize(1..20),
        };
        let ends = [end(a, a_key, &up, &down), end(b, b_key, &down, &up)];
        Self { net, ends, rng }
    }

    /// Lets both applications read and write a bit; says whether anything was delivered.
    fn applications(&mut self) -> bool {
        let mut progress = false;
        for end in &mut self.ends {
            let limit = self.rng.usize(1..40_000);
            progress |= self.net.with(end.host, |host, _| end.act(host, limit));
        }
        progress
    }

    fn closed(&self) -> [Option<Result<(), StreamError>>; 2] {
        [0, 1].map(|n| {
            let end: &End = &self.ends[n];
            self.net.host(end.host).endpoint.closed(end.key)
        })
    }

    /// Runs until both ends are closed or nothing can happen any more; gives back the longest time
    /// between two deliveries.
    fn run(&mut self) -> Duration {
        let mut last = self.net.now();
        let mut longest = Duration::ZERO;
        loop {
            if self.applications() {
                longest = longest.max(self.net.now() - last);
                last = self.net.now();
            }
            if self.closed().iter().all(Option::is_some) {
                while self.applications() {}
                return longest.max(self.net.now() - last);
            }
            assert!(
                self.net.now() - last < GIVE_UP_BOUND,
                "neither progress nor failure: {:?}",
                self.closed()
            );
            if !self.net.step() {
                return longest;
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.ends.iter().all(|end| end.received == end.expected.len())
    }
}

impl End {
    fn act(&mut self, host: &mut UdxHost, limit: usize) -> bool {
        let before = self.received;
        let endpoint = &mut host.endpoint;
        while endpoint.poll_event().is_some() {}
        for _ in 0..self.read_size {
            let Some(chunk) = endpoint.read(self.key) else {
                break;
            };
            let expected = &self.expected[self.received..];
            assert!(expected.starts_with(&chunk), "bytes differ");
            self.received += chunk.len();
        }
        let rest = &self.outgoing[self.written..];
        match endpoint.write_slice(self.key, &rest[..limit.min(rest.len())]) {
            Ok(written) => self.written += written,
            Err(CallError::NoStream | CallError::Ended) => {}
            Err(error) => panic!("{error}"),
        }
        let connected = endpoint.info(self.key).unwrap().path.is_some();
        if self.written == self.outgoing.len() && !self.finished && connected {
            self.finished = true;
            let _ = endpoint.finish(self.key);
        }
        if let Some(info) = endpoint.info(self.key) {
            // The peer's window, and what waits behind it.
            let bound = (4 * 1024 + 256) * 1024;
            assert!(info.unacknowledged <= bound, "the send queue grows");
        }
        before != self.received
    }
}

#[test]
fn every_byte_arrives_once_and_in_order_on_links_that_are_up() {
    seeds(2_000, |seed| {
        let mut rng = Rng::with_seed(seed);
        let links = [link(&mut rng), link(&mut rng)];
        let mut run = Run::new(seed, links, MAX_TRANSFER);
        // The server cannot speak before it is spoken to: the dialler always says something.
        if run.ends[0].outgoing.is_empty() {
            run.ends[0].outgoing.push(1);
            run.ends[1].expected.push(1);
        }
        let longest = run.run();
        assert_eq!(run.closed(), [Some(Ok(())); 2], "a link that is up suffices");
        assert!(run.is_complete());
        assert!(longest < STALL_BOUND, "stalled for {longest:?}");
    });
}

#[test]
fn a_stream_over_a_link_that_falls_silent_recovers_or_fails_with_a_reason() {
    seeds(400, |seed| {
        let mut rng = Rng::with_seed(seed);
        let mut links = [link(&mut rng), link(&mut rng)];
        for link in &mut links {
            let from = millis(&mut rng, 3_000);
            let long = millis(&mut rng, 40_000);
            link.blackouts = vec![from..from + long];
        }
        let mut run = Run::new(seed, links, MAX_TRANSFER);
        run.ends[0].outgoing.push(1);
        run.ends[1].expected.push(1);
        run.run();
        for (end, closed) in run.ends.iter().zip(run.closed()) {
            match closed {
                Some(Ok(())) => assert_eq!(end.received, end.expected.len()),
                Some(Err(StreamError::TimedOut)) => {}
                // Whoever has nothing under way cannot know that the other gave up.
                None => {}
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_destroyed_stream_is_reset_at_the_peer_and_gives_no_wrong_bytes() {
    seeds(200, |seed| {
        let mut rng = Rng::with_seed(seed);
        let links = [link(&mut rng), link(&mut rng)];
        let mut run = Run::new(seed, links, MAX_TRANSFER);
        run.ends[0].outgoing.extend([1; 5000]);
        run.ends[1].expected.extend([1; 5000]);
        for _ in 0..rng.u32(1..60) {
            run.applications();
            run.net.step();
        }
        let (host, key) = (run.ends[0].host, run.ends[0].key);
        run.net.with(host, |host, _| host.endpoint.destroy(key));
        run.run();
        match run.closed() {
            [Some(Err(StreamError::Destroyed)), Some(Err(StreamError::Reset))] => {}
            // The DESTROY was lost, and nothing was under way that would have asked for another.
            [Some(Err(StreamError::Destroyed)), None] => {}
            // It was over for the peer, or for both, before the destruction.
            [Some(Err(StreamError::Destroyed)), Some(Ok(()))] => {
                assert_eq!(run.ends[1].received, run.ends[1].expected.len());
            }
            [Some(Ok(())), Some(Ok(()))] => assert!(run.is_complete()),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn frames_arrive_whole_over_a_lossy_link() {
    seeds(100, |seed| {
        let mut rng = Rng::with_seed(seed);
        let link = link(&mut rng);
        let mut net = Network::new(seed, link);
        let [a_addr, b_addr]: [SocketAddr; 2] =
            ["10.0.0.1:1000", "10.0.0.2:2000"].map(|addr| addr.parse().unwrap());
        let host = |addr| move |now: Instant| UdxHost::new(now, addr, Config::default());
        let [a, b] = [(a_addr), (b_addr)].map(|addr| net.add([addr], host(addr)));
        let reader = net.with(b, |host, _| {
            let options = StreamOptions {
                reading: Reading::Frames { max_len: 60_000 },
                firewall: Some(Firewall::connect_to_first(1)),
                ..StreamOptions::default()
            };
            host.endpoint.open(2, options).unwrap()
        });
        let frames: Vec<Vec<u8>> = (0..8).map(|_| bytes(&mut rng, 30_000)).collect();
        net.with(a, |host, now| {
            let key = host.endpoint.open(1, StreamOptions::default()).unwrap();
            let path = host.path_to(b_addr);
            host.endpoint.connect(now, key, path, 2).unwrap();
            for frame in &frames {
                host.endpoint.write_frame(key, frame.clone().into()).unwrap();
            }
            host.endpoint.finish(key).unwrap();
        });
        let mut frames = frames.into_iter();
        while !net.host(b).endpoint.is_read_to_end(reader) {
            assert!(net.step(), "nothing left to happen");
            while let Some(frame) = net.with(b, |host, _| host.endpoint.read(reader)) {
                assert_eq!(frame, frames.next().unwrap());
            }
        }
        assert_eq!(frames.next(), None);
        assert!(!net.host(b).endpoint.is_cut(reader));
    });
}

/// A stream over `link`: the end that has connected, and the one that waits to be spoken to.
fn joined(link: Link) -> (Network<UdxHost>, [(HostId, StreamKey); 2]) {
    let mut net = Network::new(1, link);
    let [a_addr, b_addr]: [SocketAddr; 2] =
        ["10.0.0.1:1000", "10.0.0.2:2000"].map(|addr| addr.parse().unwrap());
    let host = |addr| move |now: Instant| UdxHost::new(now, addr, Config::default());
    let [a, b] = [a_addr, b_addr].map(|addr| net.add([addr], host(addr)));
    let waiting = net.with(b, |host, _| {
        let firewall = Some(Firewall::connect_to_first(1));
        host.endpoint.open(2, StreamOptions { firewall, ..StreamOptions::default() }).unwrap()
    });
    let connected = net.with(a, |host, now| {
        let key = host.endpoint.open(1, StreamOptions::default()).unwrap();
        host.endpoint.connect(now, key, host.path_to(b_addr), 2).unwrap();
        key
    });
    (net, [(a, connected), (b, waiting)])
}

/// Sends `len` bytes over `link`; gives back bytes per second, from the first write to the last
/// acknowledgement.
fn throughput(link: Link, len: usize) -> f64 {
    let (mut net, [(a, writer), (b, reader)]) = joined(link);
    let mut bytes = bytes::Bytes::from(vec![7; len]);
    let mut read = 0;
    while read < len || !net.with(a, |host, _| host.endpoint.flush(writer).unwrap()) {
        net.with(a, |host, _| host.endpoint.write(writer, &mut bytes).unwrap());
        while let Some(chunk) = net.with(b, |host, _| host.endpoint.read(reader)) {
            read += chunk.len();
        }
        assert!(net.step(), "nothing left to happen");
    }
    len as f64 / net.elapsed().as_secs_f64()
}

#[test]
fn a_bottleneck_is_used_well_whatever_its_length_and_loss() {
    for (delay_ms, loss, share) in [
        (1, 0.0, 0.85),
        (10, 0.0, 0.85),
        (10, 0.01, 0.8),
        (50, 0.0, 0.7),
        (50, 0.01, 0.6),
        (50, 0.05, 0.4),
    ] {
        let bandwidth = 2_500_000;
        let link = Link {
            delay: Duration::from_millis(delay_ms),
            loss,
            bandwidth: Some(bandwidth),
            queue: 128 * 1024,
            ..Link::default()
        };
        let used = throughput(link, 8_000_000) / bandwidth as f64;
        println!("{} ms, {loss}: {used:.2} of the bandwidth", 2 * delay_ms);
        assert!(used > share, "{used:.2} of the bandwidth at {delay_ms} ms and {loss}");
    }
}

/// Has `count` answers of `len` bytes asked for over `link`, one after another on one stream; gives back
/// how many bytes per second the one in the middle brought.
fn median_answer(link: Link, count: usize, len: usize) -> f64 {
    let (mut net, [(client, asking), (server, answering)]) = joined(link);
    let mut answer = || {
        let begun = net.elapsed();
        net.with(client, |host, _| host.endpoint.write_slice(asking, b"?").unwrap());
        let (mut bytes, mut is_asked, mut read) = (bytes::Bytes::from(vec![7; len]), false, 0);
        while read < len {
            assert!(net.step(), "nothing left to happen");
            net.with(server, |host, _| {
                is_asked |= host.endpoint.read(answering).is_some();
                if is_asked {
                    host.endpoint.write(answering, &mut bytes).unwrap();
                }
            });
            while let Some(chunk) = net.with(client, |host, _| host.endpoint.read(asking)) {
                read += chunk.len();
            }
        }
        len as f64 / (net.elapsed() - begun).as_secs_f64()
    };
    let mut rates: Vec<_> = (0..count).map(|_| answer()).collect();
    rates.sort_by(f64::total_cmp);
    rates[count / 2]
}

/// A gigabit, with a queue of 2 ms.
fn fast_link() -> Link {
    Link { bandwidth: Some(125_000_000), ..Link::default() }
}

#[test]
fn a_short_queue_that_answers_run_over_is_learned_from() {
    let rate = median_answer(fast_link(), 8, 4 << 20) / 1e6;
    assert!(rate > 50.0, "{rate:.1} MB/s");
}

#[test]
fn losses_by_chance_cost_round_trips_and_no_bandwidth() {
    for (delay_ms, loss, least) in [(10, 0.05, 25.0), (50, 0.01, 12.0), (50, 0.05, 8.0)] {
        let delay = Duration::from_millis(delay_ms);
        let jitter = Duration::from_millis(2);
        let rate = median_answer(Link { delay, jitter, loss, ..fast_link() }, 8, 4 << 20) / 1e6;
        println!("{} ms, {loss}: {rate:.1} MB/s", 2 * delay_ms);
        assert!(rate > least, "{rate:.1} MB/s at {delay_ms} ms and {loss}");
    }
}
