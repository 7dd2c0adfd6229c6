//! A stream that begins over a blind relay and moves to a direct path, over networks that lose,
//! delay, reorder and repeat. Whatever the seed, every byte arrives once and in order, both sides
//! find out that the move is done, and the relay may be gone from then on.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hyperdht_proto::{
    sim::{HostId, Link, Network, Rng, UdxHost, seeds},
    udx::{Config, Firewall, Path, StreamKey, StreamOptions, Verdict},
};

const RELAY: &str = "10.0.0.9:9000";

/// One end of the stream.
struct End {
    host: HostId,
    key: StreamKey,
    peer: Path,
    peer_id: u32,
    relay_leg: StreamKey,
    /// Set by the firewall when a packet came directly.
    direct_seen: Arc<AtomicBool>,
    outgoing: Vec<u8>,
    written: usize,
    finished: bool,
    expected: Vec<u8>,
    received: usize,
    moved: bool,
    changed: bool,
    confirmed: bool,
    relay_left: bool,
    ended: bool,
}

fn link(rng: &mut Rng) -> Link {
    Link {
        delay: Duration::from_millis(rng.u64(1..=80)),
        loss: if rng.bool() { rng.f64() * 0.15 } else { 0.0 },
        jitter: Duration::from_millis(rng.u64(0..=30)),
        reordering: if rng.bool() { rng.f64() * 0.2 } else { 0.0 },
        duplication: if rng.bool() { rng.f64() * 0.1 } else { 0.0 },
        ..Link::default()
    }
}

struct Run {
    net: Network<UdxHost>,
    relay: HostId,
    ends: [End; 2],
    rng: Rng,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(!seed);
        let mut net = Network::new(seed, Link::default());
        let addresses = ["10.0.0.1:1000", "10.0.0.2:2000", RELAY];
        let [a_addr, b_addr, relay_addr] =
            addresses.map(|addr| addr.parse::<SocketAddr>().unwrap());
        for from in [a_addr, b_addr, relay_addr] {
            for to in [a_addr, b_addr, relay_addr] {
                net.link(from.ip(), to.ip(), link(&mut rng));
            }
        }
        let [a, b, relay] = [a_addr, b_addr, relay_addr]
            .map(|addr| net.add([addr], |now| UdxHost::new(now, addr, Config::default())));
        let legs = net.with(relay, |host, _| {
            let legs = [(101, 11), (102, 22)].map(|(id, remote)| {
                let firewall = Some(Firewall::connect_to_first(remote));
                host.endpoint.open(id, StreamOptions { firewall, ..Default::default() }).unwrap()
            });
            host.endpoint.relay(legs[0], legs[1]).unwrap();
            host.endpoint.relay(legs[1], legs[0]).unwrap();
            legs
        });
        let messages = [(); 2].map(|()| {
            let mut bytes = vec![0; rng.usize(0..200_000)];
            rng.fill(&mut bytes);
            bytes
        });
        let sides = [(a, b_addr, 11, 22, 101), (b, a_addr, 22, 11, 102)];
        let ends = [0, 1].map(|index| {
            let (host, peer_addr, id, peer_id, leg_id) = sides[index];
            let direct_seen = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&direct_seen);
            let firewall = Firewall::new(move |from| {
                let direct = from.peer == peer_addr;
                seen.fetch_or(direct, Ordering::Relaxed);
                if direct || from.peer == relay_addr { Verdict::Accept } else { Verdict::Drop }
            });
            let (key, peer) = net.with(host, |host, now| {
                let options = StreamOptions { firewall: Some(firewall), ..Default::default() };
                let key = host.endpoint.open(id, options).unwrap();
                host.endpoint.connect(now, key, host.path_to(relay_addr), leg_id).unwrap();
                host.endpoint.watch_senders(key).unwrap();
                (key, host.path_to(peer_addr))
            });
            End {
                host,
                key,
                peer,
                peer_id,
                relay_leg: legs[index],
                direct_seen,
                outgoing: messages[index].clone(),
                written: 0,
                finished: false,
                expected: messages[1 - index].clone(),
                received: 0,
                moved: false,
                changed: false,
                confirmed: false,
                relay_left: false,
                ended: false,
            }
        });
        Self { net, relay, ends, rng }
    }

    /// Moves the first end, as a client does whose punch has come through; the other follows.
    fn punch(&mut self) {
        self.ends[0].direct_seen.store(true, Ordering::Relaxed);
    }

    fn act(&mut self) {
        for end in &mut self.ends {
            let chunk = self.rng.usize(1..20_000);
            self.net.with(end.host, |host, now| {
                let rest = &end.outgoing[end.written..];
                let rest = &rest[..rest.len().min(chunk)];
                if !rest.is_empty() {
                    end.written += host.endpoint.write_slice(end.key, rest).unwrap();
                }
                while let Some(bytes) = host.endpoint.read(end.key) {
                    let until = end.received + bytes.len();
                    assert!(end.expected[end.received..until] == bytes[..], "not what was sent");
                    end.received = until;
                }
                if end.direct_seen.load(Ordering::Relaxed) && !end.moved {
                    end.moved = true;
                    host.endpoint.change_remote(now, end.key, end.peer, end.peer_id).unwrap();
                }
                while let Some((_, ready)) = host.endpoint.poll_event() {
                    if ready.remote_changed {
                        end.changed = true;
                        host.endpoint.send_message(end.key, Bytes::new()).unwrap();
                    }
                    end.confirmed |= ready.remote_confirmed;
                    end.ended |= ready.closed;
                }
            });
            if end.changed && end.confirmed && !end.relay_left {
                end.relay_left = true;
                self.net.with(self.relay, |host, _| host.endpoint.forget(end.relay_leg));
            }
        }
    }

    fn is_delivered(&self) -> bool {
        self.ends
            .iter()
            .all(|end| end.written == end.outgoing.len() && end.received == end.expected.len())
    }
}

#[test]
fn a_stream_that_moves_from_a_relay_to_a_direct_path_loses_and_reorders_nothing() {
    seeds(300, |seed| {
        let mut run = Run::new(seed);
        let punch_after = run.rng.usize(0..400);
        let mut steps = 0;
        let limit = Duration::from_secs(600);
        while !(run.is_delivered() && run.ends.iter().all(|end| end.relay_left)) {
            run.act();
            if steps == punch_after {
                run.punch();
            }
            steps += 1;
            let begun = run.ends[0].moved;
            // A living connection says something every few seconds: that is what confirms an idle one.
            let idle = !run.net.step() || (begun && run.is_delivered());
            if idle && !run.ends.iter().all(|end| end.relay_left) {
                run.keep_alive();
            }
            assert!(run.net.elapsed() < limit, "it comes to nothing: {}", run.report());
            assert!(run.ends.iter().all(|end| !end.ended), "the stream has ended");
        }
        run.finish();
    });
}

impl Run {
    fn report(&self) -> String {
        let end = |end: &End| {
            let End { written, received, moved, changed, confirmed, relay_left, .. } = end;
            let (outgoing, expected) = (end.outgoing.len(), end.expected.len());
            format!(
                "wrote {written} of {outgoing}, got {received} of {expected}, moved {moved}, \
                 changed {changed}, confirmed {confirmed}, relay left {relay_left}"
            )
        };
        self.ends.iter().map(end).collect::<Vec<_>>().join("; ")
    }

    fn keep_alive(&mut self) {
        self.net.advance(Duration::from_secs(1));
        for index in [0, 1] {
            self.ends[index].outgoing.push(7);
            self.ends[1 - index].expected.push(7);
        }
    }

    /// Both ends finish in order, over what is left.
    fn finish(&mut self) {
        for end in &mut self.ends {
            end.finished = true;
            self.net.with(end.host, |host, _| host.endpoint.finish(end.key).unwrap());
        }
        while self.net.step() {}
        for end in &self.ends {
            let closed = self.net.host(end.host).endpoint.closed(end.key);
            assert_eq!(closed, Some(Ok(())));
        }
    }
}
