//! All streams of one node, over however many sockets it has.

mod linger;
mod relay;
mod table;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

pub use self::table::StreamKey;
use self::{linger::Lingering, relay::RelayQueue, table::Table};
use super::{
    CallError, Config, HEADER_LEN, Header, OpenError, Path, Ready, StreamError, StreamInfo,
    StreamOptions, Time, Verdict,
    stream::{Remote, Stream},
    time::{Clock, MILLISECOND},
};

/// UDX without sockets: datagrams and the time in, datagrams and events out.
///
/// A caller hands every datagram to [`Endpoint::handle_datagram`] and calls
/// [`Endpoint::handle_timeout`] at [`Endpoint::poll_timeout`]; after either, and after calls on
/// streams, it drains [`Endpoint::poll_transmit`] and [`Endpoint::poll_event`].
#[derive(Debug)]
pub struct Endpoint {
    config: Arc<Config>,
    clock: Clock,
    /// The latest moment that a call told of.
    now: Time,
    table: Table<Entry>,
    /// Streams that may have something to send.
    sending: VecDeque<StreamKey>,
    /// Streams that have something to tell.
    telling: VecDeque<StreamKey>,
    timers: BTreeSet<(Time, StreamKey)>,
    lingering: Lingering,
    /// Packets of streams that are gone.
    partings: VecDeque<(Path, [u8; HEADER_LEN])>,
    relayed: RelayQueue,
    counters: Counters,
    /// The stream that must acknowledge before more datagrams are taken in.
    urgent: Option<StreamKey>,
    owing: bool,
}

#[derive(Debug)]
struct Entry {
    id: u32,
    stream: Stream,
    relay_to: Option<StreamKey>,
    /// Packets relayed to this stream before its peer was known.
    held: Vec<Box<[u8]>>,
    /// Whether packets of other senders on the stream's own socket meet the firewall, too.
    watches_senders: bool,
    /// Whether it is in [`Endpoint::sending`].
    sending: bool,
    /// Whether it is in [`Endpoint::telling`].
    telling: bool,
    /// Its place in [`Endpoint::timers`]; at or before its deadline.
    timer: Option<Time>,
    /// Whether its end was dealt with.
    buried: bool,
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// It was for a stream of this endpoint.
    Stream,
    /// It is another protocol's, or for a stream that nobody knows.
    Foreign,
}

/// Datagrams to send, in the buffer that was handed to [`Endpoint::poll_transmit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// Out of which socket, to whom.
    pub path: Path,
    /// Length of each datagram; the last may be shorter.
    pub segment_len: usize,
}

/// What came in and was not worked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Packets that the firewall kept out.
    pub firewalled: u64,
    /// Packets whose data offset lies behind their end.
    pub malformed: u64,
    /// Acknowledgements of what was never sent.
    pub bad_acks: u64,
    /// SACK blocks outside of what is under way.
    pub bad_sack_blocks: u64,
    /// Data packets that had come before.
    pub duplicates: u64,
    /// Data packets beyond the receive window, too far ahead, or behind the END.
    pub beyond_window: u64,
    /// DESTROY packets numbered below what has arrived.
    pub stale_destroys: u64,
    /// Unordered messages that found the queue full.
    pub dropped_messages: u64,
    /// Relayed packets that found the queue full.
    pub dropped_relayed: u64,
}

impl Endpoint {
    /// An endpoint without streams, at the moment `now`.
    pub fn new(now: Instant, config: Config) -> Self {
        Self {
            config: Arc::new(config),
            clock: Clock::new(now),
            now: Time::default(),
            table: Table::default(),
            sending: VecDeque::new(),
            telling: VecDeque::new(),
            timers: BTreeSet::new(),
            lingering: Lingering::default(),
            partings: VecDeque::new(),
            relayed: RelayQueue::default(),
            counters: Counters::default(),
            urgent: None,
            owing: false,
        }
    }

    /// Makes a stream that peers address as `id`. It is not connected yet: packets for it meet its
    /// firewall.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&mut self, id: u32, options: StreamOptions) -> Result<StreamKey, OpenError> {
        if self.table.by_id(id).is_some() {
            return Err(OpenError::IdInUse);
        }
        if self.table.len() >= self.config.max_streams {
            return Err(OpenError::TooManyStreams);
        }
        self.lingering.remove(id);
        Ok(self.table.insert(
            id,
            Entry {
                id,
                stream: Stream::new(Arc::clone(&self.config), options),
                relay_to: None,
                held: Vec::new(),
                watches_senders: false,
                sending: false,
                telling: false,
                timer: None,
                buried: false,
            },
        ))
    }

    /// Gives a stream its other end. There is no handshake: the first data opens the path.
    ///
    /// # Errors
    /// [`CallError::NoStream`], [`CallError::AlreadyConnected`].
    pub fn connect(
        &mut self,
        now: Instant,
        key: StreamKey,
        path: Path,
        remote_id: u32,
    ) -> Result<(), CallError> {
        let now = self.moment(now);
        let remote = Remote { path, id: remote_id };
        self.with(key, |stream| stream.connect(now, remote))?;
        if let Some(entry) = self.table.get_mut(key) {
            entry.pass_on_held(&mut self.relayed, &mut self.counters);
        }
        Ok(())
    }

    /// Moves a connected stream to another path at once, and sends again over it what the peer has not
    /// acknowledged. [`Ready::remote_changed`] tells when it has acknowledged all that was sent before,
    /// [`Ready::remote_confirmed`] when it has moved there as well.
    ///
    /// # Errors
    /// [`CallError::NoStream`], [`CallError::NotConnected`].
    pub fn change_remote(
        &mut self,
        now: Instant,
        key: StreamKey,
        path: Path,
        remote_id: u32,
    ) -> Result<(), CallError> {
        let now = self.moment(now);
        let remote = Remote { path, id: remote_id };
        self.with(key, |stream| stream.change_remote(now, remote))
    }

    /// Sends new data or the last packet that is under way once more, as when its acknowledgement is
    /// overdue; nothing when all is acknowledged. For paths known to lose what is sent before the peer
    /// is there.
    ///
    /// # Errors
    /// [`CallError::NoStream`].
    pub fn probe_tail(&mut self, key: StreamKey) -> Result<(), CallError> {
        self.with(key, |stream| {
            stream.probe_tail();
            Ok(())
        })
    }

    /// From now on packets that come in on the stream's own socket meet its firewall as well, unless
    /// they come from where its own go. For streams whose path may change under way.
    ///
    /// # Errors
    /// [`CallError::NoStream`].
    pub fn watch_senders(&mut self, key: StreamKey) -> Result<(), CallError> {
        let entry = self.table.get_mut(key).ok_or(CallError::NoStream)?;
        entry.watches_senders = true;
        Ok(())
    }

    /// Forwards every packet that comes for `from` unchanged to the other end of `to`, as blind
    /// relays do. Nothing is acknowledged or repeated here. For both directions call it twice. The
    /// first few packets wait until `to` is connected.
    ///
    /// # Errors
    /// [`CallError::NoStream`] when either is not there.
    pub fn relay(&mut self, from: StreamKey, to: StreamKey) -> Result<(), CallError> {
        self.table.get(to).ok_or(CallError::NoStream)?;
        let entry = self.table.get_mut(from).ok_or(CallError::NoStream)?;
        entry.relay_to = Some(to);
        Ok(())
    }

    /// Takes the front of `bytes`, as much as there is room for, and gives back how much that was.
    /// When something is left, [`Ready::writable`] will tell of room.
    ///
    /// # Errors
    /// [`CallError::NoStream`], [`CallError::Ended`].
    pub fn write(&mut self, key: StreamKey, bytes: &mut Bytes) -> Result<usize, CallError> {
        self.with(key, |stream| stream.write(bytes))
    }

    /// Like [`Endpoint::write`], copying from a slice.
    ///
    /// # Errors
    /// See [`Endpoint::write`].
    pub fn write_slice(&mut self, key: StreamKey, bytes: &[u8]) -> Result<usize, CallError> {
        self.with(key, |stream| stream.write_slice(bytes))
    }

    /// Takes a frame: three bytes of length, then `body`. The queue may exceed its bound by one
    /// frame.
    ///
    /// # Errors
    /// [`CallError::Full`] when there is no room at all, after which [`Ready::writable`] will
    /// tell; [`CallError::TooLong`] above [`Reading::MAX_FRAME_LEN`](super::Reading); see also
    /// [`Endpoint::write`].
    pub fn write_frame(&mut self, key: StreamKey, body: Bytes) -> Result<(), CallError> {
        self.with(key, |stream| stream.write_frame(body))
    }

    /// Whether the peer has acknowledged all that was written. If not, [`Ready::writable`] will
    /// tell when it has.
    ///
    /// # Errors
    /// [`CallError::NoStream`] when the stream closed before that.
    pub fn flush(&mut self, key: StreamKey) -> Result<bool, CallError> {
        let entry = self.table.get_mut(key).ok_or(CallError::NoStream)?;
        entry.stream.flush()
    }

    /// Ends this side's direction behind what was written.
    ///
    /// # Errors
    /// [`CallError::NoStream`].
    pub fn finish(&mut self, key: StreamKey) -> Result<(), CallError> {
        self.with(key, Stream::finish)
    }

    /// Queues one unordered, unreliable message of one packet.
    ///
    /// # Errors
    /// [`CallError::TooLong`] when it does not fit a packet, [`CallError::Full`] when 64 are
    /// queued; [`CallError::NoStream`], [`CallError::NotConnected`].
    pub fn send_message(&mut self, key: StreamKey, message: Bytes) -> Result<(), CallError> {
        self.with(key, |stream| stream.send_message(message))
    }

    /// The next bytes of the peer, or its next frame: see [`Reading`](super::Reading). What came
    /// in order can be read even after the stream was closed.
    pub fn read(&mut self, key: StreamKey) -> Option<BytesMut> {
        let entry = self.table.get_mut(key)?;
        let read = entry.stream.read()?;
        if entry.stream.is_urgent() {
            self.settle(key);
        }
        Some(read)
    }

    /// Whether the peer ended its direction and all before that was read.
    pub fn is_read_to_end(&self, key: StreamKey) -> bool {
        self.table.get(key).is_some_and(|entry| entry.stream.is_read_to_end())
    }

    /// Whether the bytes so far end in the middle of a frame.
    pub fn is_cut(&self, key: StreamKey) -> bool {
        self.table.get(key).is_some_and(|entry| entry.stream.is_cut())
    }

    /// The next unordered message of the peer.
    pub fn receive_message(&mut self, key: StreamKey) -> Option<Bytes> {
        self.table.get_mut(key)?.stream.receive_message()
    }

    /// Sets or stops the heartbeat of an idle stream.
    ///
    /// # Errors
    /// [`CallError::NoStream`].
    pub fn set_keep_alive(
        &mut self,
        key: StreamKey,
        interval: Option<Duration>,
    ) -> Result<(), CallError> {
        self.with(key, |stream| {
            stream.set_keep_alive(interval);
            Ok(())
        })
    }

    /// How the stream ended, once it has: `Ok` after both sides ended it.
    pub fn closed(&self, key: StreamKey) -> Option<Result<(), StreamError>> {
        match self.table.get(key) {
            Some(entry) => entry.stream.closed,
            None => Some(Err(StreamError::Destroyed)),
        }
    }

    /// Gives a stream up; the peer is told. What was not acknowledged is dropped.
    pub fn destroy(&mut self, key: StreamKey) {
        let _ = self.with(key, |stream| {
            stream.destroy();
            Ok(())
        });
    }

    /// Frees a stream and its key, destroying it first if it is open.
    pub fn remove(&mut self, key: StreamKey) {
        self.destroy(key);
        if let Some(entry) = self.table.remove(key)
            && let Some(timer) = entry.timer
        {
            self.timers.remove(&(timer, key));
        }
    }

    /// Ends a stream without a word to the peer, and answers none of its later packets. The key is
    /// still to be [removed](Endpoint::remove).
    pub fn forget(&mut self, key: StreamKey) {
        let _ = self.with(key, |stream| {
            stream.close(Err(StreamError::Reset));
            Ok(())
        });
    }

    /// What a stream has come to know.
    pub fn info(&self, key: StreamKey) -> Option<StreamInfo> {
        self.table.get(key).map(|entry| entry.stream.info())
    }

    /// What came in and was not worked with.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes a datagram that came in on `from.socket` from `from.peer`.
    pub fn handle_datagram(&mut self, now: Instant, from: Path, datagram: &[u8]) -> Handled {
        let Ok((header, rest)) = Header::decode(datagram) else {
            return Handled::Foreign;
        };
        let now = self.moment(now);
        let Some(key) = self.table.by_id(header.stream_id) else {
            return self.handle_late(&header);
        };
        let Some(entry) = self.table.get_mut(key) else {
            return Handled::Foreign;
        };
        entry.stream.counts.packets_received += 1;
        if !entry.admits(now, from) {
            self.counters.firewalled += 1;
            return Handled::Stream;
        }
        entry.pass_on_held(&mut self.relayed, &mut self.counters);
        match entry.relay_to {
            Some(to) => self.relay_packet(key, to, &header, datagram),
            None => {
                entry.stream.handle_packet(now, &header, rest, &mut self.counters);
                entry.stream.on_arrival(from, &header);
            }
        }
        self.settle(key);
        Handled::Stream
    }

    /// A packet for a stream that has ended but whose peer may not know.
    fn handle_late(&mut self, header: &Header) -> Handled {
        let Some(answer) = self.lingering.answer(header) else {
            return Handled::Foreign;
        };
        if let Some(packet) = answer {
            self.part(packet);
        }
        Handled::Stream
    }

    /// Whether an acknowledgement should leave before more datagrams are taken in.
    pub const fn is_urgent(&self) -> bool {
        self.urgent.is_some()
    }

    /// Whether acknowledgements are owed. Unless [`Endpoint::is_urgent`], they may wait for
    /// datagrams that are there already, and for answers that could carry them.
    pub const fn owes_acks(&self) -> bool {
        self.owing
    }

    /// Replaces what is in `wire` by the acknowledgement of the datagram just taken in, if it is to
    /// have one of its own because its sender may be repairing losses. To be asked for after each
    /// datagram; [`Endpoint::poll_transmit`] sends what was not asked for here.
    pub fn poll_ack(&mut self, now: Instant, wire: &mut Vec<u8>) -> Option<Transmit> {
        wire.clear();
        let key = self.urgent?;
        let now = self.moment(now);
        let stream = &mut self.table.get_mut(key)?.stream;
        let path = stream.remote?.path;
        let segment_len = stream.poll_ack(now, wire)?;
        self.urgent = None;
        Some(Transmit { path, segment_len })
    }

    /// Acts on all that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.moment(now);
        self.lingering.expire(now);
        while let Some(&(at, key)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(entry) = self.table.get_mut(key) {
                entry.timer = None;
                if entry.stream.deadline().is_some_and(|at| at <= now) {
                    entry.stream.handle_timeout(now);
                }
            }
            self.settle(key);
        }
    }

    /// When [`Endpoint::handle_timeout`] has something to do, at the earliest. Tells the truth once
    /// [`Endpoint::poll_transmit`] has been drained.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stream = self.timers.first().map(|(at, _)| *at);
        let linger = self.lingering.deadline();
        let at = [stream, linger].into_iter().flatten().min()?;
        Some(self.clock.instant(at))
    }

    /// Replaces what is in `wire` by the next datagrams to send: up to `max_segments` of one
    /// length to one destination. To be called until it gives `None`.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        wire: &mut Vec<u8>,
        max_segments: usize,
    ) -> Option<Transmit> {
        wire.clear();
        self.urgent = None;
        self.owing = false;
        if let Some((path, packet)) = self.partings.pop_front() {
            wire.extend_from_slice(&packet);
            return Some(Transmit { path, segment_len: wire.len() });
        }
        if let Some(transmit) = self.relayed.pop(wire, max_segments) {
            return Some(transmit);
        }
        let now = self.moment(now);
        while let Some(key) = self.sending.pop_front() {
            let Some(entry) = self.table.get_mut(key) else {
                continue;
            };
            let segment_len = entry.stream.poll_transmit(now, wire, max_segments);
            entry.sending = segment_len.is_some();
            let path = entry.stream.remote.map(|remote| remote.path);
            if entry.sending {
                self.sending.push_back(key);
            }
            self.settle_after_sending(key);
            if let (Some(segment_len), Some(path)) = (segment_len, path) {
                return Some(Transmit { path, segment_len });
            }
        }
        None
    }

    /// The next stream that something happened to.
    pub fn poll_event(&mut self) -> Option<(StreamKey, Ready)> {
        while let Some(key) = self.telling.pop_front() {
            if let Some(entry) = self.table.get_mut(key) {
                entry.telling = false;
                return Some((key, std::mem::take(&mut entry.stream.ready)));
            }
        }
        None
    }

    /// Time never runs backwards in here, whatever the caller's clock does.
    fn moment(&mut self, now: Instant) -> Time {
        self.now = self.now.max(self.clock.time(now));
        self.now
    }

    /// Calls a stream and follows up on what that changed.
    fn with<T>(
        &mut self,
        key: StreamKey,
        call: impl FnOnce(&mut Stream) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let entry = self.table.get_mut(key).ok_or(CallError::NoStream)?;
        let result = call(&mut entry.stream);
        self.settle(key);
        result
    }

    /// Queues a stream for whatever it may want after something happened to it. Its timer is set
    /// when its turn to send comes: once for all that happened until then.
    fn settle(&mut self, key: StreamKey) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        entry.tell(key, &mut self.telling);
        if entry.stream.closed.is_some() {
            return self.bury(key);
        }
        if entry.stream.is_urgent() {
            self.urgent = Some(key);
        }
        self.owing |= entry.stream.owes_ack(self.now);
        if !entry.sending && entry.stream.remote.is_some() {
            entry.sending = true;
            self.sending.push_back(key);
        }
    }

    /// Follows up on a stream's turn to send.
    fn settle_after_sending(&mut self, key: StreamKey) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        entry.tell(key, &mut self.telling);
        if entry.stream.closed.is_some() {
            return self.bury(key);
        }
        let deadline = entry.stream.deadline();
        if !is_served(entry.timer, deadline) {
            if let Some(before) = std::mem::replace(&mut entry.timer, deadline) {
                self.timers.remove(&(before, key));
            }
            self.timers.extend(deadline.map(|at| (at, key)));
        }
    }

    /// Frees the id of a closed stream and leaves behind what its peer may still ask for.
    fn bury(&mut self, key: StreamKey) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        if std::mem::replace(&mut entry.buried, true) {
            return;
        }
        let id = entry.id;
        let partings = entry.stream.parting_packets();
        if let Some(timer) = entry.timer.take() {
            self.timers.remove(&(timer, key));
        }
        // What is relayed is acknowledged and reset by the peers alone.
        if entry.relay_to.is_none() {
            self.lingering.insert(self.now, id, &entry.stream);
        }
        self.table.forget_id(id, key);
        for packet in partings.into_iter().flatten() {
            self.part(packet);
        }
    }

    fn part(&mut self, packet: (Path, [u8; HEADER_LEN])) {
        if self.partings.len() < MAX_PARTINGS {
            self.partings.push_back(packet);
        }
    }
}

/// Whether a timer does for a deadline. One that is early costs a look at the stream, and moving it with
/// each packet costs more; but where nothing is under way any more, that look would be all that a
/// thread wakes up for.
fn is_served(timer: Option<Time>, deadline: Option<Time>) -> bool {
    match (timer, deadline) {
        (Some(timer), Some(deadline)) => timer <= deadline && deadline <= timer.after(MOST_EARLY),
        (None, None) => true,
        (None, Some(_)) | (Some(_), None) => false,
    }
}

impl Entry {
    /// Queues the stream to tell what happened to it, once however much it is.
    fn tell(&mut self, key: StreamKey, telling: &mut VecDeque<StreamKey>) {
        if self.stream.ready.any() && !self.telling {
            self.telling = true;
            telling.push_back(key);
        }
    }

    /// Asks the firewall about a packet from elsewhere. Once a stream has its socket, packets that
    /// come in there are its own whoever sent them, unless it watches its senders: the id is what
    /// authenticates in UDX.
    fn admits(&mut self, now: Time, from: Path) -> bool {
        let watches = self.watches_senders;
        let stream = &mut self.stream;
        if let Some(Remote { path, .. }) = stream.remote
            && (path == from || (path.socket == from.socket && !watches))
        {
            stream.counts.packets_astray += u64::from(path.peer != from.peer);
            return true;
        }
        let Some(firewall) = &mut stream.firewall else {
            return false;
        };
        match firewall.ask(from) {
            Verdict::Drop => false,
            Verdict::Accept => true,
            Verdict::Connect { remote_id } => {
                let remote = Remote { path: from, id: remote_id };
                stream.ready.connected |= stream.connect(now, remote).is_ok();
                true
            }
        }
    }
}

/// Packets of ended streams that wait for the socket, of about 60 bytes each.
const MAX_PARTINGS: usize = 4096;
/// By how much a timer may be early.
const MOST_EARLY: u64 = 100 * MILLISECOND;
