//! What a stream promises, packet by packet, on a clock moved by hand.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hyperdht_proto::udx::{
    AckPolicy, CallError, Config, Endpoint, Firewall, Flags, HEADER_LEN, Handled, Header,
    OpenError, Path, Reading, SackBlock, Seq, SocketId, StreamError, StreamKey, StreamOptions,
    Verdict,
};

/// An endpoint with one connected stream, and a peer that is played by the test.
struct Bench {
    endpoint: Endpoint,
    key: StreamKey,
    now: Instant,
}

const LOCAL_ID: u32 = 5;
const REMOTE_ID: u32 = 6;

fn path(socket: u32, port: u16) -> Path {
    Path { socket: SocketId(socket), peer: SocketAddr::from(([192, 0, 2, 1], port)) }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A packet as it left.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    path: Path,
    header: Header,
    body: Vec<u8>,
}

impl Sent {
    fn kind(&self) -> u8 {
        self.header.flags.bits()
    }

    fn seq(&self) -> u32 {
        self.header.seq.value()
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(Config::default(), StreamOptions::default())
    }

    #[expect(clippy::disallowed_methods, reason = "only differences to it count")]
    fn with(config: Config, options: StreamOptions) -> Self {
        let now = Instant::now();
        let mut endpoint = Endpoint::new(now, config);
        let key = endpoint.open(LOCAL_ID, options).unwrap();
        endpoint.connect(now, key, path(0, 1000), REMOTE_ID).unwrap();
        Self { endpoint, key, now }
    }

    fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        let mut wire = Vec::new();
        while let Some(transmit) = self.endpoint.poll_transmit(self.now, &mut wire, 64) {
            for packet in wire.chunks(transmit.segment_len) {
                let (header, rest) = Header::decode(packet).unwrap();
                sent.push(Sent { path: transmit.path, header, body: rest.to_vec() });
            }
        }
        sent
    }

    fn kinds(&mut self) -> Vec<u8> {
        self.sent().iter().map(Sent::kind).collect()
    }

    fn write(&mut self, bytes: &[u8]) {
        assert_eq!(self.endpoint.write_slice(self.key, bytes), Ok(bytes.len()));
    }

    fn receive(&mut self, flags: Flags, seq: u32, ack: u32, body: &[u8]) -> Handled {
        self.receive_with(flags, seq, ack, 4 << 20, body, path(0, 1000))
    }

    fn receive_with(
        &mut self,
        flags: Flags,
        seq: u32,
        ack: u32,
        window: u32,
        body: &[u8],
        from: Path,
    ) -> Handled {
        self.receive_for(LOCAL_ID, flags, seq, ack, window, body, from)
    }

    #[expect(clippy::too_many_arguments, reason = "a packet has that many parts")]
    fn receive_for(
        &mut self,
        stream_id: u32,
        flags: Flags,
        seq: u32,
        ack: u32,
        window: u32,
        body: &[u8],
        from: Path,
    ) -> Handled {
        let header = Header {
            flags,
            data_offset: 0,
            stream_id,
            window,
            seq: Seq::new(seq),
            ack: Seq::new(ack),
        };
        let mut packet = header.to_bytes().to_vec();
        packet.extend(body);
        self.endpoint.handle_datagram(self.now, from, &packet)
    }

    fn acknowledge(&mut self, ack: u32) {
        self.receive(Flags::ACK, 0, ack, &[]);
    }

    fn sack(&mut self, ack: u32, start: u32, end: u32) {
        let mut body = Vec::new();
        SackBlock { start: Seq::new(start), end: Seq::new(end) }.encode(&mut body);
        self.receive(Flags::SACK, 0, ack, &body);
    }

    /// Moves the clock; acts on every deadline on the way and gives back what left, and when.
    fn pass(&mut self, time: Duration) -> Vec<(Duration, Sent)> {
        let (from, until) = (self.now, self.now + time);
        let mut sent: Vec<_> =
            self.sent().into_iter().map(|packet| (Duration::ZERO, packet)).collect();
        while let Some(at) = self.endpoint.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.endpoint.handle_timeout(self.now);
            let after = self.now - from;
            sent.extend(self.sent().into_iter().map(|packet| (after, packet)));
        }
        self.now = until;
        sent
    }

    fn read(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        while let Some(chunk) = self.endpoint.read(self.key) {
            read.extend(chunk);
        }
        read
    }

    fn closed(&self) -> Option<Result<(), StreamError>> {
        self.endpoint.closed(self.key)
    }
}

#[test]
fn the_first_window_is_ten_packets_and_leaves_at_once() {
    let mut bench = Bench::new();
    bench.write(&[1; 100_000]);
    let sent = bench.sent();
    assert_eq!(sent.len(), 10);
    assert!(sent.iter().all(|packet| packet.body.len() == 1152));
    assert_eq!(sent.last().unwrap().seq(), 9);
}

#[test]
fn small_writes_of_one_turn_share_a_packet() {
    let mut bench = Bench::new();
    bench.write(b"a");
    bench.write(b"b");
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].body, b"ab");
}

#[test]
fn the_end_rides_on_the_last_bytes_or_goes_alone() {
    let mut bench = Bench::new();
    bench.write(b"a");
    bench.endpoint.finish(bench.key).unwrap();
    assert_eq!(bench.kinds(), [0x03]);
    let mut bench = Bench::new();
    bench.endpoint.finish(bench.key).unwrap();
    assert_eq!(bench.kinds(), [0x02]);
    assert_eq!(bench.endpoint.write_slice(bench.key, b"x"), Err(CallError::Ended));
}

#[test]
fn retransmissions_keep_their_boundaries() {
    let mut bench = Bench::new();
    bench.write(b"first");
    bench.sent();
    bench.write(b"second");
    bench.sent();
    bench.write(b"third");
    let third = bench.sent();
    bench.now += ms(10);
    bench.sack(1, 2, 3);
    // A hole below a delivered packet is repaired at once or after the reordering window.
    let mut again = bench.sent();
    again.extend(bench.pass(ms(5)).into_iter().map(|(_, packet)| packet));
    let again: Vec<_> = again.iter().map(|packet| (packet.seq(), &packet.body[..])).collect();
    assert_eq!(again, [(1, &b"second"[..])]);
    assert_eq!(third[0].seq(), 2);
}

#[test]
fn a_silent_peer_is_asked_by_probe_and_timeouts_and_then_given_up() {
    let mut bench = Bench::new();
    bench.write(b"hello");
    bench.sent();
    let sent = bench.pass(ms(20_000));
    let times: Vec<u128> = sent.iter().map(|(at, _)| at.as_millis()).collect();
    // The tail-loss probe and the first timeout fall together without a sample.
    assert_eq!(times, [1000, 3000, 5000, 7000, 9000, 11_000]);
    assert!(sent.iter().all(|(_, packet)| packet.body == b"hello"));
    assert_eq!(bench.closed(), Some(Err(StreamError::TimedOut)));
    assert_eq!(bench.endpoint.poll_timeout(), None);
}

#[test]
fn the_last_packet_of_a_flight_is_probed_after_two_round_trips() {
    let mut bench = Bench::new();
    bench.write(b"a");
    bench.sent();
    bench.now += ms(50);
    bench.acknowledge(1);
    bench.write(b"b");
    bench.sent();
    let sent = bench.pass(ms(200));
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, ms(102));
    assert_eq!(sent[0].1.body, b"b");
}

#[test]
fn where_all_is_acknowledged_nothing_is_waited_for() {
    let mut bench = Bench::new();
    bench.write(b"x");
    bench.sent();
    assert!(bench.endpoint.poll_timeout().is_some());
    bench.acknowledge(1);
    bench.sent();
    assert_eq!(bench.endpoint.poll_timeout(), None);

    bench.endpoint.set_keep_alive(bench.key, Some(ms(5000))).unwrap();
    bench.write(b"y");
    bench.sent();
    assert!(bench.endpoint.poll_timeout() <= Some(bench.now + ms(1000)));
    bench.acknowledge(2);
    bench.sent();
    assert_eq!(bench.endpoint.poll_timeout(), Some(bench.now + ms(5000)));
}

#[test]
fn a_closed_window_is_probed_by_heartbeats_until_it_opens() {
    let mut bench = Bench::new();
    bench.write(b"a");
    bench.sent();
    bench.receive_with(Flags::ACK, 0, 1, 0, &[], path(0, 1000));
    bench.write(b"blocked");
    assert_eq!(bench.kinds(), [0x20]);
    let sent = bench.pass(ms(3500));
    let probes: Vec<_> = sent.iter().map(|(at, packet)| (*at, packet.kind())).collect();
    assert_eq!(probes, [(ms(1000), 0x20), (ms(3000), 0x20)]);
    bench.acknowledge(1);
    let sent = bench.sent();
    assert_eq!(sent[0].body, b"blocked");
}

#[test]
fn a_peer_that_answers_no_window_probe_is_given_up() {
    let mut bench = Bench::new();
    bench.receive_with(Flags::ACK, 0, 0, 0, &[], path(0, 1000));
    bench.write(b"blocked");
    bench.pass(ms(30_000));
    assert_eq!(bench.closed(), Some(Err(StreamError::TimedOut)));
}

#[test]
fn an_older_packet_does_not_move_the_window_back() {
    let mut bench = Bench::new();
    bench.receive_with(Flags::DATA, 0, 0, 1000, b"x", path(0, 1000));
    bench.receive_with(Flags::DATA, 1, 0, 5, b"y", path(0, 1000));
    bench.receive_with(Flags::DATA, 0, 0, 1000, b"x", path(0, 1000));
    bench.write(b"0123456789");
    assert_eq!(bench.sent()[0].body, b"01234");
}

#[test]
fn data_in_order_is_acknowledged_once_per_batch_and_gaps_at_once() {
    let mut bench = Bench::new();
    for seq in 0..3 {
        bench.receive(Flags::DATA, seq, 0, b"x");
        assert!(!bench.endpoint.is_urgent() && bench.endpoint.owes_acks());
    }
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].kind(), sent[0].header.ack), (0, Seq::new(3)));
    bench.receive(Flags::DATA, 5, 0, b"x");
    assert!(bench.endpoint.is_urgent());
    let sent = bench.sent();
    assert_eq!(sent[0].kind(), 0x04);
    assert_eq!(sent[0].body, [5, 0, 0, 0, 6, 0, 0, 0]);
    bench.receive(Flags::END, 3, 0, b"");
    assert!(bench.endpoint.is_urgent());
}

#[test]
fn after_a_gap_each_packet_has_an_acknowledgement_of_its_own() {
    let mut bench = Bench::new();
    bench.receive(Flags::DATA, 1, 0, b"later");
    let mut wire = Vec::new();
    for (seq, acknowledged) in [(0, 2), (2, 3), (3, 4)] {
        bench.receive(Flags::DATA, seq, 0, b"x");
        let transmit = bench.endpoint.poll_ack(bench.now, &mut wire).unwrap();
        assert_eq!(transmit.path, path(0, 1000));
        let (header, _) = Header::decode(&wire).unwrap();
        assert_eq!((header.flags, header.ack), (Flags::ACK, Seq::new(acknowledged)));
        assert_eq!(bench.endpoint.poll_ack(bench.now, &mut wire), None);
    }
    assert!(bench.sent().is_empty());
}

#[test]
fn a_sixteenth_packet_does_not_wait() {
    let mut bench = Bench::new();
    for seq in 0..15 {
        bench.receive(Flags::DATA, seq, 0, b"x");
    }
    assert!(!bench.endpoint.is_urgent());
    bench.receive(Flags::DATA, 15, 0, b"x");
    assert!(bench.endpoint.is_urgent());
}

#[test]
fn each_packet_is_acknowledged_by_itself_when_asked_for() {
    let config = Config { acks: AckPolicy::EveryPacket, ..Config::default() };
    let mut bench = Bench::with(config, StreamOptions::default());
    bench.receive(Flags::DATA, 0, 0, b"x");
    assert!(bench.endpoint.is_urgent());
    bench.write(b"answer");
    assert_eq!(bench.kinds(), [0x00, 0x01]);
}

#[test]
fn an_answer_carries_the_acknowledgement() {
    let mut bench = Bench::new();
    bench.receive(Flags::DATA, 0, 0, b"x");
    bench.write(b"answer");
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].kind(), sent[0].header.ack), (1, Seq::new(1)));
}

#[test]
fn a_heartbeat_is_answered_and_nothing_else_of_it_counts() {
    let mut bench = Bench::new();
    bench.write(b"x");
    bench.sent();
    bench.receive_with(Flags::HEARTBEAT, 0, 1, 0, &[], path(0, 1000));
    assert_eq!(bench.kinds(), [0x00]);
    assert_eq!(bench.endpoint.info(bench.key).unwrap().in_flight, 1);
}

#[test]
fn an_idle_stream_keeps_itself_alive_when_asked_to() {
    let options = StreamOptions { keep_alive: Some(ms(100)), ..StreamOptions::default() };
    let mut bench = Bench::with(Config::default(), options);
    let beats = bench.pass(ms(350));
    assert_eq!(beats.len(), 3);
    assert!(beats.iter().all(|(_, packet)| packet.kind() == 0x20));
    bench.endpoint.set_keep_alive(bench.key, None).unwrap();
    assert!(bench.pass(ms(1000)).is_empty());
}

#[test]
fn forged_packets_are_counted_and_change_nothing() {
    let mut bench = Bench::new();
    bench.write(&[0; 5000]);
    bench.sent();
    // Acknowledges what was never sent.
    bench.acknowledge(6);
    // Blocks behind what was sent, empty, and backwards.
    bench.sack(0, 4, 6);
    bench.sack(0, 2, 2);
    bench.sack(0, 3, 2);
    // A DESTROY below what has arrived.
    bench.receive(Flags::DATA, 0, 0, b"x");
    bench.receive(Flags::DESTROY, 0, 0, b"");
    // Data far beyond the window.
    bench.receive(Flags::DATA, 1_000_000, 0, b"y");
    let counters = *bench.endpoint.counters();
    assert_eq!(counters.bad_acks, 1);
    assert_eq!(counters.bad_sack_blocks, 3);
    assert_eq!(counters.stale_destroys, 1);
    assert_eq!(counters.beyond_window, 1);
    assert_eq!(bench.closed(), None);
    assert_eq!(bench.endpoint.info(bench.key).unwrap().in_flight, 5);
    assert_eq!(bench.read(), b"x");
}

#[test]
fn a_destroy_ahead_of_missing_data_counts() {
    let mut bench = Bench::new();
    bench.receive(Flags::DESTROY, 9, 0, b"");
    assert_eq!(bench.closed(), Some(Err(StreamError::Reset)));
    assert!(bench.sent().is_empty(), "a reset is not answered");
}

#[test]
fn destroying_tells_a_connected_peer_and_answers_latecomers() {
    let mut bench = Bench::new();
    bench.write(b"x");
    bench.sent();
    bench.endpoint.destroy(bench.key);
    let sent = bench.sent();
    assert_eq!((sent[0].kind(), sent[0].seq()), (0x10, 1));
    // The DESTROY was lost: the peer goes on and is told again.
    assert_eq!(bench.receive(Flags::DATA, 0, 0, b"y"), Handled::Stream);
    assert_eq!(bench.kinds(), [0x10]);
    bench.pass(Duration::from_secs(11));
    assert_eq!(bench.receive(Flags::DATA, 0, 0, b"y"), Handled::Foreign);
    assert_eq!(bench.endpoint.poll_timeout(), None);
}

#[test]
fn a_stream_never_connected_vanishes_silently() {
    let mut bench = Bench::new();
    let unconnected = bench.endpoint.open(77, StreamOptions::default()).unwrap();
    bench.endpoint.remove(unconnected);
    assert!(bench.sent().is_empty());
    assert_eq!(bench.endpoint.closed(unconnected), Some(Err(StreamError::Destroyed)));
}

#[test]
fn a_repeated_end_is_acknowledged_after_the_stream_is_gone() {
    let mut bench = Bench::new();
    bench.endpoint.finish(bench.key).unwrap();
    bench.sent();
    bench.receive(Flags::END, 0, 1, b"");
    assert_eq!(bench.closed(), Some(Ok(())));
    assert_eq!(bench.kinds(), [0x00]);
    bench.endpoint.remove(bench.key);
    bench.receive(Flags::END, 0, 1, b"");
    let sent = bench.sent();
    assert_eq!((sent[0].kind(), sent[0].header.ack), (0, Seq::new(1)));
}

#[test]
fn the_firewall_decides_about_other_sockets_only() {
    let options = StreamOptions {
        firewall: Some(Firewall::new(|from| match from.peer.port() {
            1 => Verdict::Drop,
            2 => Verdict::Accept,
            _ => Verdict::Connect { remote_id: 60 },
        })),
        ..StreamOptions::default()
    };
    let mut bench = Bench::new();
    bench.key = bench.endpoint.open(LOCAL_ID + 1, options).unwrap();
    let receive = |bench: &mut Bench, seq: u8, from| {
        let body = [b'a' + seq];
        let id = LOCAL_ID + 1;
        bench.receive_for(id, Flags::DATA, seq.into(), 0, 1000, &body, from);
    };
    receive(&mut bench, 0, path(3, 1));
    receive(&mut bench, 0, path(3, 2));
    assert_eq!(bench.read(), b"a", "accepted, though not connected");
    assert!(bench.sent().is_empty(), "the acknowledgement waits for connect");
    receive(&mut bench, 1, path(3, 9));
    // On its own socket nobody is asked, whoever sends.
    receive(&mut bench, 2, path(3, 1));
    receive(&mut bench, 3, path(4, 1));
    assert_eq!(bench.read(), b"bc");
    let sent = bench.sent();
    assert_eq!(sent[0].path, path(3, 9));
    assert_eq!((sent[0].header.stream_id, sent[0].header.ack), (60, Seq::new(3)));
    assert_eq!(bench.endpoint.counters().firewalled, 2);
}

#[test]
fn a_new_remote_gets_everything_and_the_change_is_told_when_the_old_is_acknowledged() {
    let mut bench = Bench::new();
    bench.write(b"old");
    bench.sent();
    bench.endpoint.change_remote(bench.now, bench.key, path(1, 2000), 99).unwrap();
    bench.write(b"new");
    let sent = bench.sent();
    assert_eq!(sent[0].path, path(1, 2000));
    assert_eq!(sent[0].header.stream_id, 99);
    let changed = |bench: &mut Bench| {
        std::iter::from_fn(|| bench.endpoint.poll_event()).any(|(_, ready)| ready.remote_changed)
    };
    assert!(!changed(&mut bench));
    bench.receive_with(Flags::ACK, 0, 1, 1000, &[], path(1, 2000));
    assert!(changed(&mut bench));
}

#[test]
fn what_is_under_way_when_a_stream_moves_is_sent_again_at_once() {
    let mut bench = Bench::new();
    bench.write(b"header");
    bench.sent();
    bench.pass(ms(500));
    bench.endpoint.change_remote(bench.now, bench.key, path(1, 2000), 99).unwrap();
    let again = bench.sent();
    assert_eq!(again.len(), 1, "the old path may be dead");
    assert_eq!((again[0].path, again[0].seq()), (path(1, 2000), 0));
    assert_eq!(again[0].body, b"header");
    // The new path has the time of a first one.
    assert_eq!(bench.pass(ms(999)), []);
    assert_eq!(bench.pass(ms(1)).len(), 1);
    bench.receive_with(Flags::ACK, 0, 1, 1000, &[], path(1, 2000));
    assert_eq!(bench.endpoint.info(bench.key).unwrap().unacknowledged, 0);
    assert_eq!(bench.pass(ms(10_000)), []);
}

#[test]
fn a_stream_that_moves_sends_again_as_much_as_a_first_window_and_not_what_has_arrived() {
    let mut bench = Bench::new();
    bench.write(&[1; 100_000]);
    bench.sent();
    bench.now += ms(1);
    bench.acknowledge(10);
    assert_eq!(bench.sent().len(), 20);
    bench.sack(10, 12, 14);
    bench.sent();
    bench.endpoint.change_remote(bench.now, bench.key, path(1, 2000), 99).unwrap();
    let again = bench.sent();
    assert!(again.iter().all(|packet| packet.path == path(1, 2000)));
    let numbers: Vec<_> = again.iter().map(Sent::seq).collect();
    assert_eq!(numbers, [10, 11, 14, 15, 16, 17, 18, 19, 20, 21]);
}

#[test]
fn what_still_arrives_over_the_old_path_tells_nothing_of_the_new_one() {
    let mut bench = Bench::new();
    bench.write(&[1; 100_000]);
    bench.sent();
    bench.now += ms(1);
    bench.acknowledge(10);
    assert_eq!(bench.sent().len(), 20);
    bench.now += ms(300);
    bench.endpoint.change_remote(bench.now, bench.key, path(1, 2000), 99).unwrap();
    assert_eq!(bench.sent().len(), 10);
    bench.now += ms(5);
    // All of what went over the old path, also what was not repeated yet.
    bench.receive_with(Flags::ACK, 0, 30, 4 << 20, &[], path(1, 2000));
    let info = bench.endpoint.info(bench.key).unwrap();
    assert_eq!((info.rtt, info.in_flight), (None, 0));
    let sent = bench.sent();
    assert_eq!(sent[0].seq(), 30, "nothing of it is sent once more");
    bench.now += ms(20);
    bench.receive_with(Flags::ACK, 0, 31, 4 << 20, &[], path(1, 2000));
    assert_eq!(bench.endpoint.info(bench.key).unwrap().rtt, Some(ms(20)));
}

#[test]
fn a_move_gives_the_peer_new_patience() {
    let mut bench = Bench::new();
    bench.write(b"x");
    bench.pass(ms(12_900));
    assert_eq!(bench.closed(), None, "it would be given up now");
    bench.endpoint.change_remote(bench.now, bench.key, path(1, 2000), 99).unwrap();
    bench.pass(ms(12_900));
    assert_eq!(bench.closed(), None);
    bench.pass(ms(200));
    assert_eq!(bench.closed(), Some(Err(StreamError::TimedOut)));
}

#[test]
fn a_stream_that_is_told_to_probes_with_what_is_under_way() {
    let mut bench = Bench::new();
    bench.endpoint.probe_tail(bench.key).unwrap();
    assert_eq!(bench.sent(), []);
    bench.write(b"header");
    let sent = bench.sent();
    bench.endpoint.probe_tail(bench.key).unwrap();
    assert_eq!(bench.sent(), sent);
    // The timeout is that of the first time.
    assert_eq!(bench.pass(ms(999)), []);
    bench.acknowledge(1);
    bench.endpoint.probe_tail(bench.key).unwrap();
    assert_eq!(bench.pass(ms(10_000)), []);
    bench.write(b"x");
    assert_eq!(bench.sent().len(), 1, "what was told before is done with");
}

#[test]
fn a_relay_forwards_bytes_unchanged_but_for_the_id() {
    let mut bench = Bench::new();
    let to = bench.endpoint.open(50, StreamOptions::default()).unwrap();
    bench.endpoint.connect(bench.now, to, path(2, 3000), 51).unwrap();
    bench.endpoint.relay(bench.key, to).unwrap();
    bench.receive(Flags::DATA, 3, 4, b"through");
    let sent = bench.sent();
    assert_eq!(sent.len(), 1, "a relay acknowledges nothing");
    assert_eq!(sent[0].path, path(2, 3000));
    assert_eq!(sent[0].header.stream_id, 51);
    assert_eq!((sent[0].seq(), sent[0].header.ack), (3, Seq::new(4)));
    assert_eq!(sent[0].body, b"through");
    bench.receive(Flags::DESTROY, 4, 4, b"");
    assert_eq!(bench.kinds(), [0x10]);
    assert_eq!(bench.closed(), Some(Err(StreamError::Reset)));
}

#[test]
fn a_relay_dies_silently_with_its_target() {
    let mut bench = Bench::new();
    let to = bench.endpoint.open(50, StreamOptions::default()).unwrap();
    bench.endpoint.relay(bench.key, to).unwrap();
    bench.endpoint.remove(to);
    bench.receive(Flags::DATA, 0, 0, b"x");
    assert!(bench.closed().is_some());
    assert!(bench.sent().is_empty());
}

#[test]
fn messages_pass_beside_the_order() {
    let mut bench = Bench::new();
    bench.endpoint.send_message(bench.key, b"hi"[..].into()).unwrap();
    let sent = bench.sent();
    assert_eq!((sent[0].kind(), sent[0].seq()), (0x08, 0));
    bench.receive(Flags::MESSAGE, 77, 0, b"");
    bench.receive(Flags::MESSAGE, 77, 0, b"yo");
    assert_eq!(bench.endpoint.receive_message(bench.key).unwrap(), b""[..]);
    assert_eq!(bench.endpoint.receive_message(bench.key).unwrap(), b"yo"[..]);
    assert!(bench.sent().is_empty(), "messages are not acknowledged");
    assert_eq!(
        bench.endpoint.send_message(bench.key, vec![0; 1153].into()),
        Err(CallError::TooLong)
    );
    for _ in 0..100 {
        bench.receive(Flags::MESSAGE, 0, 0, b"flood");
    }
    assert_eq!(bench.endpoint.counters().dropped_messages, 36);
}

#[test]
fn a_full_queue_refuses_and_tells_when_there_is_room() {
    let config = Config { send_queue: 20_000, ..Config::default() };
    let mut bench = Bench::with(config, StreamOptions::default());
    let taken = bench.endpoint.write_slice(bench.key, &[0; 50_000]).unwrap();
    assert_eq!(taken, 20_000);
    assert_eq!(bench.endpoint.write_slice(bench.key, b"x"), Ok(0));
    assert_eq!(bench.endpoint.write_frame(bench.key, b"x"[..].into()), Err(CallError::Full));
    bench.sent();
    let writable =
        std::iter::from_fn(|| bench.endpoint.poll_event()).any(|(_, ready)| ready.writable);
    assert!(writable);
}

#[test]
fn a_reader_that_lags_closes_the_window_and_reopens_it_by_an_update() {
    let config = Config { receive_window: 4000, ..Config::default() };
    let mut bench = Bench::with(config, StreamOptions::default());
    for seq in 0..4 {
        bench.receive(Flags::DATA, seq, 0, &[0; 1000]);
    }
    assert_eq!(bench.sent()[0].header.window, 0);
    bench.read();
    let update = bench.sent();
    assert_eq!((update[0].kind(), update[0].header.window), (0, 4000));
}

#[test]
fn a_frame_above_the_limit_destroys_the_stream() {
    let options =
        StreamOptions { reading: Reading::Frames { max_len: 100 }, ..StreamOptions::default() };
    let mut bench = Bench::with(Config::default(), options);
    bench.receive(Flags::DATA, 0, 0, &[101, 0, 0]);
    assert_eq!(bench.closed(), Some(Err(StreamError::FrameTooLong)));
    assert_eq!(bench.kinds(), [0x10]);
}

#[test]
fn an_end_inside_a_frame_is_a_cut() {
    let options =
        StreamOptions { reading: Reading::Frames { max_len: 100 }, ..StreamOptions::default() };
    let mut bench = Bench::with(Config::default(), options);
    bench.receive(Flags::DATA.with(Flags::END), 0, 0, &[3, 0, 0, 1]);
    assert!(bench.endpoint.is_read_to_end(bench.key));
    assert!(bench.endpoint.is_cut(bench.key));
}

#[test]
fn ids_are_free_again_when_a_stream_has_closed() {
    let mut bench = Bench::new();
    let open = |bench: &mut Bench| bench.endpoint.open(LOCAL_ID, StreamOptions::default());
    assert_eq!(open(&mut bench), Err(OpenError::IdInUse));
    bench.endpoint.destroy(bench.key);
    assert!(open(&mut bench).is_ok());
    assert_eq!(bench.closed(), Some(Err(StreamError::Destroyed)), "the old key stays its own");
}

#[test]
fn streams_are_limited() {
    let config = Config { max_streams: 1, ..Config::default() };
    let mut bench = Bench::with(config, StreamOptions::default());
    assert_eq!(bench.endpoint.open(1, StreamOptions::default()), Err(OpenError::TooManyStreams));
}

#[test]
fn a_probe_is_padded_in_front_and_repeated_plain_when_lost() {
    let mut bench = Bench::new();
    bench.write(&[3; 1152]);
    bench.sent();
    bench.now += ms(10);
    bench.acknowledge(1);
    bench.write(&[3; 3456]);
    let sent = bench.sent();
    assert_eq!(sent[0].header.data_offset, 32);
    assert_eq!(sent[0].body.len() + HEADER_LEN, 1204);
    assert_eq!(sent[0].body[..32], [0; 32]);
    assert_eq!(sent[1].header.data_offset, 0, "one probe at a time");
    bench.now += ms(10);
    bench.sack(1, 2, 4);
    let mut again = bench.sent();
    again.extend(bench.pass(ms(10)).into_iter().map(|(_, packet)| packet));
    assert_eq!(again[0].seq(), 1);
    assert_eq!(again[0].header.data_offset, 0);
    assert_eq!(again[0].body, [3; 1152]);
}

#[test]
fn what_is_relayed_before_the_peer_is_known_waits_for_it() {
    let mut bench = Bench::new();
    let waiting =
        StreamOptions { firewall: Some(Firewall::connect_to_first(51)), ..Default::default() };
    let to = bench.endpoint.open(50, waiting).unwrap();
    bench.endpoint.relay(bench.key, to).unwrap();
    bench.endpoint.relay(to, bench.key).unwrap();
    for seq in 0..20 {
        bench.receive(Flags::DATA, seq, 0, b"early");
    }
    assert!(bench.sent().is_empty());
    bench.receive_for(50, Flags::DATA, 0, 0, 1000, b"hello", path(2, 3000));
    let sent = bench.sent();
    assert_eq!(sent.len(), 17, "sixteen that waited, and the one that came now");
    assert!(sent[..16].iter().all(|sent| sent.path == path(2, 3000)));
    assert_eq!(sent[..16].iter().map(|sent| sent.seq()).collect::<Vec<_>>(), Vec::from_iter(0..16));
    assert_eq!(bench.endpoint.counters().dropped_relayed, 4);
}

#[test]
fn a_relay_that_ends_a_stream_is_believed_and_one_that_forgets_it_is_silent() {
    let mut bench = Bench::new();
    let to = bench.endpoint.open(50, StreamOptions::default()).unwrap();
    bench.endpoint.connect(bench.now, to, path(2, 3000), 51).unwrap();
    bench.endpoint.relay(bench.key, to).unwrap();
    bench.endpoint.relay(to, bench.key).unwrap();
    bench.receive(Flags::DATA, 6, 0, b"x");
    bench.sent();
    bench.endpoint.destroy(to);
    let sent = bench.sent();
    assert_eq!((sent[0].kind(), sent[0].path), (0x10, path(2, 3000)));
    assert_eq!(sent[0].seq(), 7, "behind what the peer was sent");
    bench.receive_for(50, Flags::DATA, 9, 0, 1000, b"late", path(2, 3000));
    assert!(bench.sent().is_empty());
    bench.endpoint.forget(bench.key);
    bench.receive(Flags::DATA, 7, 0, b"later");
    assert!(bench.sent().is_empty());
}

#[test]
fn a_stream_that_watches_its_senders_asks_about_those_on_its_own_socket() {
    let options = StreamOptions {
        firewall: Some(Firewall::new(|from| match from.peer.port() {
            1 => Verdict::Drop,
            _ => Verdict::Accept,
        })),
        ..StreamOptions::default()
    };
    let mut bench = Bench::new();
    let id = LOCAL_ID + 1;
    bench.key = bench.endpoint.open(id, options).unwrap();
    bench.endpoint.connect(bench.now, bench.key, path(3, 9), 60).unwrap();
    bench.endpoint.watch_senders(bench.key).unwrap();
    bench.receive_for(id, Flags::DATA, 0, 0, 1000, b"a", path(3, 9));
    bench.receive_for(id, Flags::DATA, 1, 0, 1000, b"x", path(3, 1));
    bench.receive_for(id, Flags::DATA, 1, 0, 1000, b"b", path(3, 2));
    assert_eq!(bench.read(), b"ab");
    assert_eq!(bench.endpoint.counters().firewalled, 1);
}

#[test]
fn a_move_is_confirmed_when_nothing_is_missing_from_the_old_path() {
    let confirmed = |bench: &mut Bench| {
        let events = std::iter::from_fn(|| bench.endpoint.poll_event());
        events.fold(false, |confirmed, (_, ready)| confirmed | ready.remote_confirmed)
    };
    let moved = || {
        let firewall = Some(Firewall::new(|_| Verdict::Accept));
        let mut bench = Bench::new();
        bench.key =
            bench.endpoint.open(90, StreamOptions { firewall, ..Default::default() }).unwrap();
        bench.endpoint.connect(bench.now, bench.key, path(0, 1), 60).unwrap();
        bench.endpoint.change_remote(bench.now, bench.key, path(1, 2), 61).unwrap();
        bench
    };
    let mut bench = moved();
    bench.receive_for(90, Flags::DATA, 0, 0, 1000, b"a", path(0, 1));
    assert!(!confirmed(&mut bench), "that came over the old path");
    bench.receive_for(90, Flags::DATA, 2, 0, 1000, b"c", path(1, 2));
    assert!(!confirmed(&mut bench), "one is missing");
    bench.receive_for(90, Flags::DATA, 1, 0, 1000, b"b", path(0, 1));
    assert!(confirmed(&mut bench));
    let mut bench = moved();
    bench.receive_for(90, Flags::MESSAGE, 0, 0, 1000, b"", path(0, 1));
    assert!(!confirmed(&mut bench));
    bench.receive_for(90, Flags::MESSAGE, 0, 0, 1000, b"", path(1, 2));
    assert!(confirmed(&mut bench));
}
