//! Requests on their way: retransmission, matching of replies, and the promise that each one ends.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{SocketId, Transmit, id::Peer, window::Window};

/// Names a request until it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Every transmission was in vain.
    #[error("request timed out")]
    TimedOut,
    /// It was called off.
    #[error("request cancelled")]
    Cancelled,
    /// Too many requests are running.
    #[error("too many requests are running")]
    Overloaded,
}

/// A request that has ended.
#[derive(Debug)]
pub(crate) struct Ended<P> {
    pub(crate) to: Peer,
    /// Why it was made.
    pub(crate) purpose: P,
    /// Whether the first wait was in vain.
    pub(crate) slow: bool,
}

/// A request that has not ended.
#[derive(Debug)]
struct Inflight<P> {
    to: Peer,
    purpose: P,
    slow: bool,
    socket: SocketId,
    tid: u16,
    payload: Bytes,
    transmissions: u8,
    max_transmissions: u8,
    timeout: Duration,
    first_sent: Option<Instant>,
    deadline: Option<Instant>,
}

/// What is asked of the table: the datagram is encoded by the caller, who gets the tid from
/// [`Requests::free_tid`].
#[derive(Debug)]
pub(crate) struct Outgoing<P> {
    pub(crate) to: Peer,
    pub(crate) socket: SocketId,
    pub(crate) tid: u16,
    pub(crate) payload: Bytes,
    pub(crate) retries: u8,
    pub(crate) timeout: Duration,
    pub(crate) purpose: P,
}

/// What a due timer means.
#[derive(Debug)]
pub(crate) enum Due<P> {
    /// The first wait was in vain; it is sent again.
    Slow(RequestId),
    /// It was sent for the last time and has ended.
    TimedOut(RequestId, Ended<P>),
}

/// All requests that have not ended.
///
/// At most [`MAX_INFLIGHT`] of about 300 bytes each, which is 5 MiB. Only our own doings add to it:
/// what a peer can make us ask is bounded where it is asked.
#[derive(Debug)]
pub(crate) struct Requests<P> {
    next_id: u64,
    next_tid: u16,
    inflight: BTreeMap<RequestId, Inflight<P>>,
    by_reply: HashMap<(u16, SocketAddrV4), RequestId>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// Waiting for room in the window, first come first served.
    waiting: VecDeque<RequestId>,
    window: Window,
}

impl<P> Requests<P> {
    pub(crate) fn new(now: Instant, first_tid: u16, max_window: usize) -> Self {
        Self {
            next_id: 0,
            next_tid: first_tid,
            inflight: BTreeMap::new(),
            by_reply: HashMap::new(),
            deadlines: BTreeSet::new(),
            waiting: VecDeque::new(),
            window: Window::new(now, max_window),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.inflight.len()
    }

    /// The next tid that no running request to `addr` uses; none when there is no room.
    pub(crate) fn free_tid(&mut self, addr: SocketAddrV4) -> Option<u16> {
        if self.inflight.len() >= MAX_INFLIGHT {
            return None;
        }
        // At most MAX_INFLIGHT of 65536 are taken, so this ends.
        loop {
            let tid = self.next_tid;
            self.next_tid = tid.wrapping_add(1);
            if !self.by_reply.contains_key(&(tid, addr)) {
                return Some(tid);
            }
        }
    }

    /// Sends a request, or keeps it until there is room in the window.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        outgoing: Outgoing<P>,
        out: &mut VecDeque<Transmit>,
    ) -> RequestId {
        let id = self.spent_id();
        self.by_reply.insert((outgoing.tid, outgoing.to.addr), id);
        self.inflight.insert(
            id,
            Inflight {
                to: outgoing.to,
                purpose: outgoing.purpose,
                slow: false,
                socket: outgoing.socket,
                tid: outgoing.tid,
                payload: outgoing.payload,
                transmissions: 0,
                max_transmissions: outgoing.retries.saturating_add(1),
                timeout: outgoing.timeout,
                first_sent: None,
                deadline: None,
            },
        );
        self.send(now, id, out);
        id
    }

    /// Why a running request was made.
    pub(crate) fn purpose(&self, id: RequestId) -> Option<&P> {
        self.inflight.get(&id).map(|request| &request.purpose)
    }

    /// Ends the request that a reply with this tid from this source belongs to, and says how long
    /// the answer took since the first transmission.
    ///
    /// The reference looks at the tid alone; all genuine replies come from the node that was asked,
    /// also those of relayed requests, and a guessed tid should not be enough for a stranger.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        tid: u16,
        from: SocketAddrV4,
    ) -> Option<(RequestId, Ended<P>, Duration)> {
        let id = *self.by_reply.get(&(tid, from))?;
        let sent = self.inflight.get(&id)?.first_sent.unwrap_or(now);
        let request = self.end(id)?;
        Some((id, request, now.saturating_duration_since(sent)))
    }

    /// Ends a request early.
    pub(crate) fn end(&mut self, id: RequestId) -> Option<Ended<P>> {
        let request = self.inflight.remove(&id)?;
        self.by_reply.remove(&(request.tid, request.to.addr));
        if let Some(deadline) = request.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        if request.transmissions > 0 {
            self.window.settled();
        }
        Some(Ended { to: request.to, purpose: request.purpose, slow: request.slow })
    }

    /// Sends what waits for room, as far as there is some: when it is time, and whenever a request has
    /// ended. (The reference sends it every 750 ms only, and whatever is new before it.)
    pub(crate) fn drain(&mut self, now: Instant, out: &mut VecDeque<Transmit>) {
        self.window.drain(now);
        while !self.window.is_full() {
            let Some(id) = self.waiting.pop_front() else {
                return;
            };
            self.send_now(now, id, out);
        }
    }

    /// Works off one due timer; none when nothing is due.
    pub(crate) fn next_due(
        &mut self,
        now: Instant,
        out: &mut VecDeque<Transmit>,
    ) -> Option<Due<P>> {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now {
                return None;
            }
            self.deadlines.pop_first();
            let request = self.inflight.get_mut(&id)?;
            request.deadline = None;
            if request.transmissions >= request.max_transmissions {
                return self.end(id).map(|request| Due::TimedOut(id, request));
            }
            let first = request.transmissions == 1;
            request.slow = true;
            self.send(now, id, out);
            if first {
                return Some(Due::Slow(id));
            }
        }
        None
    }

    /// When there is something to do next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        let drain = (!self.waiting.is_empty()).then(|| self.window.next_drain());
        deadline.into_iter().chain(drain).min()
    }

    /// An id for a request that ends before it begins.
    pub(crate) fn spent_id(&mut self) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        id
    }

    /// The running requests for which `matches` holds.
    pub(crate) fn matching(&self, matches: impl Fn(&P) -> bool) -> Vec<RequestId> {
        self.inflight
            .iter()
            .filter(|(_, request)| matches(&request.purpose))
            .map(|(id, _)| *id)
            .collect()
    }

    fn send(&mut self, now: Instant, id: RequestId, out: &mut VecDeque<Transmit>) {
        self.waiting.push_back(id);
        self.drain(now, out);
    }

    /// Does nothing for a request that ended while it waited.
    fn send_now(&mut self, now: Instant, id: RequestId, out: &mut VecDeque<Transmit>) {
        let Some(request) = self.inflight.get_mut(&id) else {
            return;
        };
        request.transmissions += 1;
        request.first_sent.get_or_insert(now);
        let deadline = now + request.timeout;
        request.deadline = Some(deadline);
        self.deadlines.insert((deadline, id));
        self.window.sent();
        out.push_back(Transmit {
            socket: request.socket,
            to: request.to.addr,
            payload: request.payload.clone(),
        });
    }
}

/// Requests that run or wait at once.
pub(crate) const MAX_INFLIGHT: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::testnet::epoch;

    const SECOND: Duration = Duration::from_secs(1);

    fn addr(n: u16) -> SocketAddrV4 {
        SocketAddrV4::new([10, 0, 0, 1].into(), n)
    }

    fn start(requests: &mut Requests<u16>, n: u16, out: &mut VecDeque<Transmit>) -> RequestId {
        let tid = requests.free_tid(addr(n)).unwrap();
        let outgoing = Outgoing {
            to: Peer::unidentified(addr(n)),
            socket: SocketId::Client,
            tid,
            payload: Bytes::from_static(b"request"),
            retries: 3,
            timeout: SECOND,
            purpose: n,
        };
        requests.start(epoch(), outgoing, out)
    }

    #[test]
    fn four_transmissions_a_second_apart_then_the_end() {
        let (mut out, now) = (VecDeque::new(), epoch());
        let mut requests = Requests::new(now, 65535, 80);
        let id = start(&mut requests, 1, &mut out);
        assert_eq!(requests.poll_timeout(), Some(now + SECOND));
        assert!(matches!(
            requests.next_due(now + SECOND, &mut out),
            Some(Due::Slow(due)) if due == id
        ));
        assert!(requests.next_due(now + 2 * SECOND, &mut out).is_none());
        assert!(requests.next_due(now + 3 * SECOND, &mut out).is_none());
        assert_eq!(out.len(), 4);
        assert!(out.iter().all(|t| t.payload == out[0].payload));
        assert!(matches!(
            requests.next_due(now + 4 * SECOND, &mut out),
            Some(Due::TimedOut(_, request)) if request.purpose == 1
        ));
        assert_eq!((requests.len(), out.len()), (0, 4));
        assert_eq!(requests.poll_timeout(), None);
    }

    #[test]
    fn a_reply_counts_only_from_the_node_that_was_asked() {
        let (mut out, now) = (VecDeque::new(), epoch());
        let mut requests = Requests::new(now, 7, 80);
        start(&mut requests, 1, &mut out);
        assert!(requests.answered(now, 7, addr(2)).is_none());
        assert!(requests.answered(now, 8, addr(1)).is_none());
        assert!(requests.answered(now, 7, addr(1)).is_some());
        assert!(requests.answered(now, 7, addr(1)).is_none(), "only once");
    }

    #[test]
    fn what_does_not_fit_waits_for_the_next_slot_without_an_answer() {
        let (mut out, now) = (VecDeque::new(), epoch());
        let mut requests = Requests::new(now, 0, 2);
        (1..=3).for_each(|n| {
            start(&mut requests, n, &mut out);
        });
        assert_eq!(out.len(), 2);
        let drain = requests.poll_timeout().unwrap();
        assert_eq!(drain, now + Duration::from_millis(750));
        requests.drain(drain, &mut out);
        assert_eq!(out.len(), 3);
    }

    #[test]
    fn a_request_that_never_left_can_be_ended() {
        let (mut out, now) = (VecDeque::new(), epoch());
        let mut requests = Requests::new(now, 0, 1);
        start(&mut requests, 1, &mut out);
        let waiting = start(&mut requests, 2, &mut out);
        assert_eq!(requests.end(waiting).map(|r| r.purpose), Some(2));
        requests.drain(now + SECOND, &mut out);
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn running_tids_are_not_given_out_again_and_room_ends() {
        let mut out = VecDeque::new();
        let mut requests = Requests::new(epoch(), 0, 80);
        for _ in 0..MAX_INFLIGHT {
            start(&mut requests, 1, &mut out);
        }
        assert_eq!(requests.free_tid(addr(2)), None);
        assert_eq!(requests.by_reply.len(), MAX_INFLIGHT);
    }
}
