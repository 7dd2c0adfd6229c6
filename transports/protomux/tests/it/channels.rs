//! The channel table, both ends in one thread.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;
use protomux::{
    ChannelId, Channels, Event, IncomingId, Limits, OpenError, Protocol, UNDECIDED_MESSAGE_COST,
    Violation,
};

pub(crate) fn channels() -> Channels {
    Channels::new(Limits::default())
}

pub(crate) fn hex(text: &str) -> Bytes {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().into()
}

/// Everything that `channels` has to send, in hexadecimal.
pub(crate) fn sent(channels: &mut Channels) -> Vec<String> {
    std::iter::from_fn(|| channels.poll_transmit())
        .map(|frame| data_encoding::HEXLOWER.encode(&frame))
        .collect()
}

/// What a frame leads to.
fn receive(channels: &mut Channels, frame: &str) -> Result<Vec<Event>, Violation> {
    assert!(channels.wants_frame());
    channels.receive(hex(frame))?;
    drain(channels)
}

pub(crate) fn drain(channels: &mut Channels) -> Result<Vec<Event>, Violation> {
    std::iter::from_fn(|| channels.poll_event().transpose()).collect()
}

fn incoming(events: &[Event]) -> IncomingId {
    match events {
        [Event::Incoming { id, .. }] => *id,
        other => panic!("{other:?}"),
    }
}

fn send(channels: &mut Channels, channel: ChannelId, payload: &'static [u8]) -> bool {
    channels.send(channel.message(0, payload.len(), |out| out.extend_from_slice(payload)))
}

fn opened(channel: ChannelId) -> Event {
    Event::Opened { channel, handshake: Bytes::new() }
}

#[test]
fn messages_carry_the_id_of_their_sender() {
    let mut table = channels();
    let other = table.open(&Protocol::new("other"), b"").unwrap();
    let p = table.open(&Protocol::new("p"), b"").unwrap();
    sent(&mut table);
    // The peer calls by 1 what we call 2.
    assert_eq!(receive(&mut table, "000101017000"), Ok(vec![opened(p)]));
    assert!(send(&mut table, p, b"x"));
    assert_eq!(sent(&mut table), ["020078"]);
    let events = receive(&mut table, "010079").unwrap();
    assert!(matches!(&events[..], [Event::Message { channel, .. }] if *channel == p));
    assert_eq!(
        receive(&mut table, "000201"),
        Ok(vec![Event::Closed { channel: other, rejected: true }])
    );
}

#[test]
fn freed_ids_are_taken_again_last_freed_first() {
    let mut table = channels();
    for name in ["a", "b", "c"] {
        table.open(&Protocol::new(name), b"").unwrap();
    }
    sent(&mut table);
    receive(&mut table, "000201").unwrap();
    receive(&mut table, "000203").unwrap();
    for (name, frame) in [("d", "000103016400"), ("e", "000101016500"), ("f", "000104016600")] {
        table.open(&Protocol::new(name), b"").unwrap();
        assert_eq!(sent(&mut table), [frame]);
    }
}

#[test]
fn an_id_closed_early_is_kept_until_the_peer_answers() {
    for (answer, reuse) in [("000101017000", "000101017100"), ("000201", "000101017100")] {
        let mut table = channels();
        let p = table.open(&Protocol::new("p"), b"").unwrap();
        table.close(p);
        assert_eq!(sent(&mut table), ["000101017000", "000301"]);
        table.open(&Protocol::new("r"), b"").unwrap();
        assert_eq!(sent(&mut table), ["000102017200"], "id 1 is taken");
        assert_eq!(receive(&mut table, answer), Ok(vec![]));
        table.open(&Protocol::new("q"), b"").unwrap();
        assert_eq!(sent(&mut table), [reuse]);
    }
}

#[test]
fn opens_of_one_key_pair_in_order() {
    let mut table = channels();
    let first = table.open(&Protocol::new("p"), b"").unwrap();
    let second = table.open(&Protocol::new("p"), b"").unwrap();
    assert_eq!(receive(&mut table, "000101017000"), Ok(vec![opened(first)]));
    assert_eq!(receive(&mut table, "000102017000"), Ok(vec![opened(second)]));

    let mut table = channels();
    receive(&mut table, "000101017000").unwrap();
    receive(&mut table, "000102017000").unwrap();
    let first = table.open(&Protocol::new("p"), b"").unwrap();
    let second = table.open(&Protocol::new("p"), b"").unwrap();
    assert_eq!(drain(&mut table), Ok(vec![opened(first), opened(second)]));
    receive(&mut table, "010061").unwrap();
    table.close(second);
    assert_eq!(
        receive(&mut table, "000301"),
        Ok(vec![Event::Closed { channel: first, rejected: false }])
    );
}

#[test]
fn no_id_and_an_empty_id_are_one_key_and_another_id_is_not() {
    let mut table = channels();
    let p = table.open(&Protocol::new("p").with_id(Bytes::new()), b"").unwrap();
    let events = receive(&mut table, "00010101700141").unwrap();
    incoming(&events);
    assert_eq!(receive(&mut table, "000102017000"), Ok(vec![opened(p)]));
}

#[test]
fn what_comes_before_the_decision_is_delivered_after_it() {
    let mut table = channels();
    let id = incoming(&receive(&mut table, "000101017000").unwrap());
    assert_eq!(receive(&mut table, "01006869"), Ok(vec![]));
    let channel = table.accept(id, b"").unwrap();
    let events = drain(&mut table).unwrap();
    assert!(
        matches!(
            &events[..],
            [Event::Opened { .. }, Event::Message { channel: on, kind: 0, payload, .. }]
                if *on == channel && payload == "hi"
        ),
        "{events:?}"
    );
    assert_eq!(table.accept(id, b""), Err(OpenError::Withdrawn));
}

#[test]
fn what_came_before_the_decision_goes_with_a_channel_closed_at_once() {
    let mut table = channels();
    let id = incoming(&receive(&mut table, "000101017000").unwrap());
    receive(&mut table, "01006869").unwrap();
    let channel = table.accept(id, b"").unwrap();
    table.close(channel);
    assert_eq!(drain(&mut table), Ok(vec![]));
}

#[test]
fn a_rejected_open_leaves_nothing_behind() {
    let mut table = channels();
    // Each may be the next id, or one that was rejected before.
    for id in ["01", "02", "01", "03"] {
        let id_of = incoming(&receive(&mut table, &format!("0001{id}017000")).unwrap());
        table.reject(id_of);
        table.reject(id_of);
        assert_eq!(sent(&mut table), [format!("0002{id}")]);
        assert_eq!(receive(&mut table, &format!("{id}00aa")), Ok(vec![]));
    }
}

#[test]
fn an_open_closed_before_the_decision_is_withdrawn() {
    let mut table = channels();
    let id = incoming(&receive(&mut table, "000101017000").unwrap());
    assert_eq!(receive(&mut table, "000301"), Ok(vec![Event::Withdrawn { id }]));
    assert_eq!(sent(&mut table), ["000201"], "the peer waits for an answer to free its id");
    assert_eq!(table.accept(id, b""), Err(OpenError::Withdrawn));
    incoming(&receive(&mut table, "000101017000").unwrap());
}

#[test]
fn a_closed_channel_ignores_what_is_still_on_its_way() {
    let mut table = channels();
    let p = table.open(&Protocol::new("p"), b"").unwrap();
    receive(&mut table, "000101017000").unwrap();
    table.close(p);
    table.close(p);
    assert_eq!(sent(&mut table), ["000101017000", "000301"]);
    assert_eq!(receive(&mut table, "0100aa"), Ok(vec![]));
    assert_eq!(receive(&mut table, "000301"), Ok(vec![]));
    assert_eq!(receive(&mut table, "000309"), Ok(vec![]), "nor is an unknown id minded");
    assert!(!send(&mut table, p, b"late"));
    let again = table.open(&Protocol::new("p"), b"").unwrap();
    assert_ne!(again, p);
    assert_eq!(sent(&mut table), ["000101017000"]);
}

#[test]
fn opens_of_ids_that_are_not_free_break_the_protocol() {
    for (frames, id) in [
        (&["000100017000"][..], 0),
        (&["000102017000"], 2),
        (&["000101017000", "000101017100"], 1),
        (&["000101017000", "000103017100"], 3),
    ] {
        let mut table = channels();
        let outcome = frames.iter().try_for_each(|frame| receive(&mut table, frame).map(drop));
        assert_eq!(outcome, Err(Violation::InvalidOpen { id }));
    }
}

#[test]
fn rejects_of_channels_that_do_not_wait_break_the_protocol() {
    let mut table = channels();
    assert_eq!(receive(&mut table, "000200"), Err(Violation::InvalidReject { id: 0 }));
    assert_eq!(receive(&mut table, "000201"), Err(Violation::InvalidReject { id: 1 }));
    table.open(&Protocol::new("p"), b"").unwrap();
    receive(&mut table, "000101017000").unwrap();
    assert_eq!(receive(&mut table, "000201"), Err(Violation::InvalidReject { id: 1 }));
}

#[test]
fn a_flood_of_opens_is_rejected_from_the_bound_on() {
    let limits = Limits { undecided: 2, channels: 3, ..Limits::default() };
    let mut table = Channels::new(limits);
    let mut waiting = VecDeque::new();
    for remote in 1..=2 {
        waiting.push_back(incoming(&receive(&mut table, &format!("00010{remote}017000")).unwrap()));
    }
    assert_eq!(receive(&mut table, "000103017000"), Ok(vec![]));
    assert_eq!(sent(&mut table), ["000203"]);
    for id in waiting {
        table.accept(id, b"").unwrap();
    }
    table.open(&Protocol::new("q"), b"").unwrap();
    assert_eq!(table.open(&Protocol::new("r"), b""), Err(OpenError::TooManyChannels));
    drain(&mut table).unwrap();
    sent(&mut table);
    assert_eq!(receive(&mut table, "000103017000"), Ok(vec![]));
    assert_eq!(sent(&mut table), ["000203"]);
}

#[test]
fn a_name_or_id_beyond_its_bound_is_rejected() {
    let mut table = Channels::new(Limits { name_bytes: 2, ..Limits::default() });
    assert_eq!(receive(&mut table, "0001010361616100"), Ok(vec![]));
    assert_eq!(receive(&mut table, "00010101610361616100"), Ok(vec![]));
    assert_eq!(drain(&mut table), Ok(vec![]));
    assert_eq!(sent(&mut table), ["000201", "000201"]);
    assert_eq!(table.open(&Protocol::new("abc"), b""), Err(OpenError::NameTooLong));
}

#[test]
fn a_frame_beyond_its_bound_breaks_the_protocol() {
    let mut table = Channels::new(Limits { frame_bytes: 3, ..Limits::default() });
    assert_eq!(receive(&mut table, "010000"), Ok(vec![]));
    assert_eq!(receive(&mut table, "01000000"), Err(Violation::FrameTooLong { len: 4 }));
}

#[test]
fn too_much_behind_an_undecided_open_pauses_reading() {
    let limits = Limits { undecided_bytes: 2 * UNDECIDED_MESSAGE_COST, ..Limits::default() };
    let mut table = Channels::new(limits);
    let id = incoming(&receive(&mut table, "000101017000").unwrap());
    receive(&mut table, "010001").unwrap();
    assert!(table.wants_frame());
    receive(&mut table, "010002").unwrap();
    assert!(!table.wants_frame());
    assert_eq!(drain(&mut table), Ok(vec![]));
    table.accept(id, b"").unwrap();
    assert_eq!(drain(&mut table).unwrap().len(), 3);
    assert!(table.wants_frame());
}

#[test]
fn an_open_waits_for_room_to_answer_it() {
    let mut table = Channels::new(Limits { transmit_frames: 1, ..Limits::default() });
    table.open(&Protocol::new("p"), b"").unwrap();
    assert!(!table.has_room());
    assert_eq!(receive(&mut table, "000101017100"), Ok(vec![]));
    assert!(!table.wants_frame());
    sent(&mut table);
    incoming(&drain(&mut table).unwrap());
}

#[test]
fn a_batch_is_split_before_it_passes_the_bound_of_a_frame() {
    let mut table = Channels::new(Limits { frame_bytes: 16, ..Limits::default() });
    let p = table.open(&Protocol::new("p"), b"").unwrap();
    sent(&mut table);
    table.cork();
    table.cork();
    for _ in 0..4 {
        assert!(send(&mut table, p, b"1234"));
    }
    table.uncork();
    assert!(!table.is_flushed(), "corks nest");
    table.uncork();
    let frames = sent(&mut table);
    assert!(frames.iter().all(|frame| frame.len() <= 2 * 16), "{frames:?}");
    let mut peer = channels();
    let accepted = incoming(&receive(&mut peer, "000101017000").unwrap());
    peer.accept(accepted, b"").unwrap();
    let messages: usize = frames
        .iter()
        .map(|frame| {
            drain(&mut peer).unwrap();
            receive(&mut peer, frame).unwrap().len()
        })
        .sum();
    assert_eq!(messages, 4);
    table.cork();
    table.uncork();
    assert!(table.is_flushed(), "an empty batch is not sent");
}

/// What a schedule does to one end of a pair.
#[derive(Debug, Clone)]
enum Step {
    Open(u8),
    Send(prop::sample::Index),
    Close(prop::sample::Index),
    Deliver(u8),
    Cork,
    Uncork,
}

fn steps() -> impl Strategy<Value = Vec<(bool, Step)>> {
    let step = prop_oneof![
        3 => (0..3_u8).prop_map(Step::Open),
        3 => any::<prop::sample::Index>().prop_map(Step::Send),
        2 => any::<prop::sample::Index>().prop_map(Step::Close),
        4 => (1..4_u8).prop_map(Step::Deliver),
        1 => Just(Step::Cork),
        1 => Just(Step::Uncork),
    ];
    prop::collection::vec((any::<bool>(), step), 0..120)
}

/// One end: its table, frames on their way to it, and the channels it holds to be open.
struct End {
    table: Channels,
    inbox: VecDeque<Bytes>,
    open: Vec<ChannelId>,
    paired: Vec<ChannelId>,
}

impl End {
    fn new() -> Self {
        Self { table: channels(), inbox: VecDeque::new(), open: Vec::new(), paired: Vec::new() }
    }

    fn deliver(&mut self, frames: usize) {
        for _ in 0..frames {
            let Some(frame) = self.inbox.pop_front() else { break };
            self.table.receive(frame).unwrap();
            while let Some(event) = self.table.poll_event().unwrap() {
                self.on_event(event);
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            // Protocol 2 is never served, so that its opens are rejected unless both open it.
            Event::Incoming { id, protocol, .. } if protocol.name() == "2" => self.table.reject(id),
            Event::Incoming { id, .. } => self.open.push(self.table.accept(id, b"").unwrap()),
            Event::Opened { channel, .. } => {
                assert!(self.open.contains(&channel), "opened twice or after its end");
                self.paired.push(channel);
            }
            Event::Closed { channel, .. } => {
                assert!(self.open.contains(&channel), "closed twice");
                self.forget(channel);
            }
            Event::Message { channel, .. } => {
                assert!(self.paired.contains(&channel), "a message on a channel that is not open");
            }
            Event::Withdrawn { .. } => {}
        }
    }

    fn forget(&mut self, channel: ChannelId) {
        self.open.retain(|open| *open != channel);
        self.paired.retain(|open| *open != channel);
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Open(name) if self.open.len() < 200 => {
                let protocol = Protocol::new(name.to_string());
                self.open.push(self.table.open(&protocol, b"").unwrap());
            }
            Step::Send(index) if !self.open.is_empty() => {
                assert!(send(&mut self.table, *index.get(&self.open), b"payload"));
            }
            Step::Close(index) if !self.open.is_empty() => {
                let channel = *index.get(&self.open);
                self.table.close(channel);
                self.forget(channel);
            }
            Step::Cork => self.table.cork(),
            Step::Uncork => self.table.uncork(),
            Step::Deliver(frames) => self.deliver(frames.into()),
            Step::Open(_) | Step::Send(_) | Step::Close(_) => {}
        }
    }
}

/// Lets everything that is on its way arrive.
fn settle(a: &mut End, b: &mut End) {
    for _ in 0..200 {
        a.table.uncork();
        b.table.uncork();
    }
    loop {
        let (from_a, from_b): (Vec<_>, Vec<_>) = (
            std::iter::from_fn(|| a.table.poll_transmit()).collect(),
            std::iter::from_fn(|| b.table.poll_transmit()).collect(),
        );
        b.inbox.extend(from_a);
        a.inbox.extend(from_b);
        if a.inbox.is_empty() && b.inbox.is_empty() {
            return;
        }
        a.deliver(usize::MAX);
        b.deliver(usize::MAX);
    }
}

proptest! {
    #[test]
    fn two_tables_agree_after_any_schedule(steps in steps()) {
        let (mut a, mut b) = (End::new(), End::new());
        for (first, step) in steps {
            let (end, peer) = if first { (&mut a, &mut b) } else { (&mut b, &mut a) };
            end.act(step);
            peer.inbox.extend(std::iter::from_fn(|| end.table.poll_transmit()));
        }
        settle(&mut a, &mut b);
        for end in [&mut a, &mut b] {
            end.open.sort();
            end.paired.sort();
            prop_assert_eq!(&end.open, &end.paired, "an open without an answer");
        }
        prop_assert_eq!(a.paired.len(), b.paired.len());
        for channel in a.open.clone() {
            a.table.close(channel);
            a.forget(channel);
        }
        settle(&mut a, &mut b);
        prop_assert!(b.open.is_empty(), "a channel open on one side only");
        // Every id is free again on both sides.
        for end in [&mut a, &mut b] {
            let mut fresh = 0;
            while end.table.open(&Protocol::new(format!("fresh {fresh}")), b"").is_ok() {
                fresh += 1;
            }
            prop_assert_eq!(fresh, end.table.limits().channels);
        }
    }
}
