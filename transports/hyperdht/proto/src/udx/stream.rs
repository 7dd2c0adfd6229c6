//! One stream: ordered bytes both ways, unordered messages beside them.
//!
//! | concern | where |
//! |---|---|
//! | state, the application's side, the end | here |
//! | packets out | `send`, from `send_buffer` through `in_flight` |
//! | packets in | `recv`, through `reassembly` into `inbox` |
//! | acknowledgements | `sack` |
//! | losses | `loss`; round trips in `rtt` |
//! | timers | `timer` |
//! | size of packets | `mtu` |

mod acks;
mod in_flight;
mod inbox;
mod loss;
mod mtu;
mod reassembly;
mod recv;
mod rtt;
mod sack;
mod send;
mod send_buffer;
mod timer;

use std::{collections::VecDeque, time::Duration};

use bytes::{Bytes, BytesMut};

use self::{
    acks::Acks,
    in_flight::InFlight,
    inbox::{FRAME_PREFIX_LEN, Inbox},
    loss::Rack,
    mtu::Mtu,
    reassembly::Reassembly,
    recv::MAX_MESSAGES,
    rtt::Rtt,
    send_buffer::SendBuffer,
    timer::Timers,
};
use super::{
    CallError, Firewall, Flags, HEADER_LEN, Header, Path, Reading, Seq, StreamError, StreamOptions,
    Time,
    config::Shared,
    congestion::{Congestion, Delivery, Pacer, Recovery},
    time::micros,
};

pub(crate) use self::inbox::MAX_FRAME_LEN;

/// What happened to a stream since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Ready {
    /// The firewall connected it.
    pub connected: bool,
    /// There are bytes to read, or the peer's end was reached.
    pub readable: bool,
    /// There is room again after a refused write, or all is acknowledged that was waited for.
    pub writable: bool,
    /// There is an unordered message to read.
    pub message: bool,
    /// All that was sent before [`Endpoint::change_remote`](super::Endpoint::change_remote) is
    /// acknowledged.
    pub remote_changed: bool,
    /// After [`Endpoint::change_remote`](super::Endpoint::change_remote), all that the peer had sent
    /// over the old path is here and more has come over the new one: nothing will come over the old
    /// path that is still needed.
    pub remote_confirmed: bool,
    /// It is closed: see [`Endpoint::closed`](super::Endpoint::closed).
    pub closed: bool,
}

impl Ready {
    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }
}

/// What a stream has come to know and done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StreamInfo {
    /// Smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// Packets that may be under way.
    pub window: u32,
    /// Packets under way.
    pub in_flight: u32,
    /// Link MTU known to pass, IP and UDP headers included.
    pub mtu: u16,
    /// Bytes that the application wrote and the peer has not acknowledged.
    pub unacknowledged: u64,
    /// Bytes that the application wrote and the peer has acknowledged.
    pub acknowledged: u64,
    /// Where packets go, once connected.
    pub path: Option<Path>,
    /// Whether anything has come over a path that it was moved to.
    pub path_answers: bool,
    /// What it has done so far.
    pub counts: StreamCounts,
}

/// What a stream has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StreamCounts {
    /// Ordered payload bytes sent, again ones included.
    pub bytes_sent: u64,
    /// Packets of any kind sent.
    pub packets_sent: u64,
    /// Data packets sent again.
    pub retransmissions: u64,
    /// Ordered payload bytes received, each counted once.
    pub bytes_received: u64,
    /// Packets of any kind received.
    pub packets_received: u64,
    /// Those among them that came from elsewhere than where ours go: the peer may have moved.
    pub packets_astray: u64,
    /// Bytes of packets that came for this stream and were forwarded to that which it relays to.
    pub bytes_relayed: u64,
}

/// The state machine of one stream. The endpoint owns it, finds it by id and keeps its timers.
#[derive(Debug)]
pub(crate) struct Stream {
    config: Shared,
    pub(crate) firewall: Option<Firewall>,
    pub(crate) remote: Option<Remote>,
    pub(crate) closed: Option<Result<(), StreamError>>,
    pub(crate) ready: Ready,
    pub(crate) counts: StreamCounts,
    /// What goes out when the stream is closed.
    partings: [Option<Flags>; 2],
    /// Whether everything was acknowledged when the stream closed.
    flushed: bool,
    /// Packets before this one went to the previous remote.
    change_done_at: Option<u64>,
    /// What has come over the new path, until that is enough.
    moved: Option<Moved>,
    /// The number behind the last packet that was relayed to the peer.
    passed: u64,

    buffer: SendBuffer,
    /// Offset of the first byte that never left.
    sent_offset: u64,
    in_flight: InFlight,
    finish: Finish,
    peer_window: PeerWindow,
    messages_out: VecDeque<Bytes>,
    heartbeat_due: bool,
    /// One packet may leave whatever the window says.
    forced: bool,
    tail_probe_due: bool,
    /// A write was refused for want of room.
    write_blocked: bool,
    /// The application waits until all is acknowledged.
    flush_wanted: bool,

    reassembly: Reassembly,
    messages_in: VecDeque<Bytes>,
    acks: Acks,
    /// The receive window that the peer was told last.
    advertised: u32,

    rtt: Rtt,
    rack: Rack,
    recovery: Recovery,
    /// The repair is over when all before this is acknowledged.
    repaired_at: u64,
    unreported_losses: u32,
    timers: Timers,

    congestion: Box<dyn Congestion>,
    delivery: Delivery,
    pacer: Pacer,
    mtu: Mtu,
}

/// The other end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote {
    pub(crate) path: Path,
    /// The peer's id of the stream.
    pub(crate) id: u32,
}

/// What has come over a stream's new path.
#[derive(Debug, Clone, Copy)]
struct Moved {
    /// Whether there was any packet.
    answers: bool,
    /// The lowest number among its packets that may not be here in order yet.
    first: Option<u64>,
}

/// How far this side's END has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    No,
    /// It leaves behind the last byte.
    Queued,
    Sent,
    Acknowledged,
}

/// What the peer is ready to receive, and the packet that said so.
#[derive(Debug, Clone, Copy)]
struct PeerWindow {
    bytes: u32,
    seq: u64,
    ack: u64,
}

impl Stream {
    pub(crate) fn new(config: Shared, options: StreamOptions) -> Self {
        let inbox = match options.reading {
            Reading::Bytes => Inbox::bytes(),
            Reading::Frames { max_len } => Inbox::frames(max_len.min(MAX_FRAME_LEN)),
        };
        let window = config.receive_window;
        Self {
            firewall: options.firewall,
            remote: None,
            closed: None,
            ready: Ready::default(),
            counts: StreamCounts::default(),
            partings: [None; 2],
            flushed: false,
            change_done_at: None,
            moved: None,
            passed: 0,
            buffer: SendBuffer::default(),
            sent_offset: 0,
            in_flight: InFlight::default(),
            finish: Finish::No,
            peer_window: PeerWindow { bytes: INITIAL_PEER_WINDOW, seq: 0, ack: 0 },
            messages_out: VecDeque::new(),
            heartbeat_due: false,
            forced: false,
            tail_probe_due: false,
            write_blocked: false,
            flush_wanted: false,
            reassembly: Reassembly::new(inbox, window as usize),
            messages_in: VecDeque::new(),
            acks: Acks::new(config.acks),
            advertised: window,
            rtt: Rtt::new(),
            rack: Rack::default(),
            recovery: Recovery::Open,
            repaired_at: 0,
            unreported_losses: 0,
            timers: Timers {
                keep_alive: options.keep_alive.map_or(0, micros),
                ..Timers::default()
            },
            congestion: (config.congestion)(),
            delivery: Delivery::default(),
            pacer: Pacer::new(),
            mtu: Mtu::new(config.max_mtu),
            config,
        }
    }

    /// Gives the stream its other end. What it wrote and owes leaves from now on.
    pub(crate) fn connect(&mut self, now: Time, remote: Remote) -> Result<(), CallError> {
        self.check_open()?;
        if self.remote.is_some() {
            return Err(CallError::AlreadyConnected);
        }
        self.timers.sent_at = now;
        self.mtu.restart(remote.path.peer);
        self.remote = Some(remote);
        Ok(())
    }

    /// Sends everything to another place from now on, and again what is not acknowledged: the old path
    /// is about to go away or leads nowhere, and the peer puts packets together by number wherever they
    /// come from. What was learnt about the old path is forgotten.
    ///
    /// The reference keeps the old address on packets that it repeats, and waits for their timeout.
    pub(crate) fn change_remote(&mut self, now: Time, remote: Remote) -> Result<(), CallError> {
        self.check_open()?;
        if self.remote.is_none() {
            return Err(CallError::NotConnected);
        }
        self.remote = Some(remote);
        self.moved = Some(Moved { answers: false, first: None });
        self.timers.sent_at = now;
        self.mtu.restart(remote.path.peer);
        self.start_over(now);
        self.congestion = (self.config.congestion)();
        self.pacer = Pacer::new();
        self.rtt = Rtt::new();
        if self.in_flight.is_empty() {
            self.ready.remote_changed = true;
        } else {
            self.change_done_at = Some(self.in_flight.next());
        }
        Ok(())
    }

    /// Takes as much of `bytes` as there is room for.
    pub(crate) fn write(&mut self, bytes: &mut Bytes) -> Result<usize, CallError> {
        let room = self.room()?.min(bytes.len());
        self.buffer.push(bytes.split_to(room));
        self.write_blocked |= !bytes.is_empty();
        Ok(room)
    }

    /// Copies as much of `bytes` as there is room for.
    pub(crate) fn write_slice(&mut self, bytes: &[u8]) -> Result<usize, CallError> {
        let room = self.room()?.min(bytes.len());
        self.buffer.push_slice(bytes.get(..room).unwrap_or(bytes));
        self.write_blocked |= room < bytes.len();
        Ok(room)
    }

    /// Takes a whole frame, its length in front, if there is any room at all.
    pub(crate) fn write_frame(&mut self, body: Bytes) -> Result<(), CallError> {
        if body.len() > MAX_FRAME_LEN {
            return Err(CallError::TooLong);
        }
        if self.room()? == 0 {
            self.write_blocked = true;
            return Err(CallError::Full);
        }
        let [a, b, c, ..] = body.len().to_le_bytes();
        let prefix: [u8; FRAME_PREFIX_LEN] = [a, b, c];
        self.buffer.push_slice(&prefix);
        self.buffer.push(body);
        Ok(())
    }

    fn room(&self) -> Result<usize, CallError> {
        self.check_open()?;
        if self.finish != Finish::No {
            return Err(CallError::Ended);
        }
        let unsent = usize::try_from(self.unsent()).unwrap_or(usize::MAX);
        Ok(self.config.send_queue.saturating_sub(unsent))
    }

    /// Bytes that never left.
    const fn unsent(&self) -> u64 {
        self.buffer.end() - self.sent_offset
    }

    /// Wakes writers for whom there is room now.
    fn note_room(&mut self) {
        let half = self.config.send_queue as u64 / 2;
        let room = self.write_blocked && self.unsent() <= half;
        let flushed = self.flush_wanted && self.is_flushed();
        if room || flushed {
            self.write_blocked &= !room;
            self.flush_wanted &= !flushed;
            self.ready.writable = true;
        }
    }

    /// Whether the peer has acknowledged everything; if not, [`Ready::writable`] will tell.
    pub(crate) fn flush(&mut self) -> Result<bool, CallError> {
        if self.flushed {
            return Ok(true);
        }
        self.check_open()?;
        let flushed = self.is_flushed();
        self.flush_wanted |= !flushed;
        Ok(flushed)
    }

    fn is_flushed(&self) -> bool {
        self.unsent() == 0 && self.in_flight.is_empty() && self.finish != Finish::Queued
    }

    /// Ends this direction behind what was written.
    pub(crate) fn finish(&mut self) -> Result<(), CallError> {
        self.check_open()?;
        if self.finish == Finish::No {
            self.finish = Finish::Queued;
        }
        Ok(())
    }

    /// Queues one unordered message.
    pub(crate) fn send_message(&mut self, message: Bytes) -> Result<(), CallError> {
        self.check_open()?;
        if self.remote.is_none() {
            return Err(CallError::NotConnected);
        }
        if message.len() > self.mtu.payload() {
            return Err(CallError::TooLong);
        }
        if self.messages_out.len() >= MAX_MESSAGES {
            return Err(CallError::Full);
        }
        self.messages_out.push_back(message);
        Ok(())
    }

    /// The next chunk or frame.
    pub(crate) fn read(&mut self) -> Option<BytesMut> {
        let read = self.reassembly.inbox_mut().pop()?;
        let window = self.reassembly.window();
        let half = self.config.receive_window / 2;
        if self.advertised < half && window >= half {
            // The peer holds back; it would otherwise learn by asking.
            self.acks.owe_now();
        }
        Some(read)
    }

    /// Whether the peer's end was reached and all before it was read.
    pub(crate) fn is_read_to_end(&self) -> bool {
        self.reassembly.is_ended() && !self.reassembly.inbox().is_readable()
    }

    /// Whether the peer ended in the middle of a frame.
    pub(crate) fn is_cut(&self) -> bool {
        self.reassembly.inbox().is_inside_frame()
    }

    /// The next unordered message.
    pub(crate) fn receive_message(&mut self) -> Option<Bytes> {
        self.messages_in.pop_front()
    }

    /// Sets or stops the heartbeat of an idle stream.
    pub(crate) fn set_keep_alive(&mut self, interval: Option<Duration>) {
        self.timers.keep_alive = interval.map_or(0, micros);
    }

    /// Gives the stream up on this side.
    pub(crate) fn destroy(&mut self) {
        self.destroy_because(StreamError::Destroyed);
    }

    fn destroy_because(&mut self, reason: StreamError) {
        if self.closed.is_none() {
            self.close(Err(reason));
            self.partings[1] = Some(Flags::DESTROY);
        }
    }

    /// Ends the stream without telling the peer, and frees what it holds for sending. What came
    /// in order can still be read.
    pub(crate) fn close(&mut self, reason: Result<(), StreamError>) {
        if self.closed.is_some() {
            return;
        }
        if self.acks.is_owed() && reason != Err(StreamError::Reset) {
            self.partings[0] = Some(Flags::ACK);
        }
        self.flushed = self.is_flushed();
        self.closed = Some(reason);
        self.ready = Ready {
            readable: true,
            writable: true,
            message: self.ready.message,
            closed: true,
            ..self.ready
        };
        self.buffer.release(self.buffer.end());
        self.messages_out = VecDeque::new();
        self.reassembly.forget_early();
    }

    /// The packets that go out when the stream is closed: what is owed, and the news.
    pub(crate) fn parting_packets(&mut self) -> [Option<(Path, [u8; HEADER_LEN])>; 2] {
        let partings = std::mem::take(&mut self.partings);
        partings.map(|flags| {
            let (flags, remote) = flags.zip(self.remote)?;
            Some((remote.path, self.farewell(remote, flags).to_bytes()))
        })
    }

    /// What answers packets that come for the stream after its end.
    pub(crate) fn farewell(&self, remote: Remote, flags: Flags) -> Header {
        Header {
            flags,
            data_offset: 0,
            stream_id: remote.id,
            window: self.config.receive_window,
            seq: Seq::wrap(self.in_flight.next().max(self.passed)),
            ack: Seq::wrap(self.reassembly.next()),
        }
    }

    /// Whether an acknowledgement must not wait for the rest of the batch.
    pub(crate) fn is_urgent(&self) -> bool {
        self.acks.is_urgent() && self.remote.is_some()
    }

    /// Whether an acknowledgement is to leave soon, if nothing else does.
    pub(crate) fn owes_ack(&self, now: Time) -> bool {
        self.acks.is_due(now) && self.remote.is_some()
    }

    /// What the stream has come to know.
    pub(crate) fn info(&self) -> StreamInfo {
        StreamInfo {
            rtt: self.rtt.smoothed().map(Duration::from_micros),
            window: self.congestion.window(),
            in_flight: self.in_flight.count(),
            mtu: self.mtu.current(),
            unacknowledged: self.buffer.len(),
            acknowledged: self.buffer.start(),
            path: self.remote.map(|remote| remote.path),
            path_answers: self.moved.is_none_or(|moved| moved.answers),
            counts: self.counts,
        }
    }

    const fn check_open(&self) -> Result<(), CallError> {
        match self.closed {
            None => Ok(()),
            Some(_) => Err(CallError::NoStream),
        }
    }
}

/// What a peer is assumed to be ready for until it says otherwise (libudx: `UDX_DEFAULT_RWND_MAX`).
const INITIAL_PEER_WINDOW: u32 = 4 * 1024 * 1024;
