//! What every transport must do, as tests that any of them runs.
//!
//! A transport's tests implement [`Lab`] and call the macro, which makes one `#[tokio::test]` of
//! each promise:
//!
//! ```ignore
//! dht_prom_transport::conformance_tests!(MyLab::default());
//! ```
//!
//! A known difference is stated by the lab ([`Lab::quirks`]), never by leaving a test out.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, future::join_all};

use crate::{
    ClosedBy, ErrorKind, Incoming, Listener, MAX_MESSAGE_BYTES, PublicKey, Session, Transport,
    TransportError,
};

/// Makes transports that can reach each other and nobody else.
#[async_trait]
pub trait Lab: Send + Sync {
    /// Two transports with keys of their own.
    async fn pair(&self) -> (Arc<dyn Transport>, Arc<dyn Transport>);

    /// Where this transport differs.
    fn quirks(&self) -> Quirks {
        Quirks::default()
    }
}

/// Known differences between transports.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Quirks {
    /// A refused dialler hears nothing or sees the session end at once, instead of
    /// [`TransportError::Refused`].
    pub refuses_silently: bool,
}

/// How long a promise may take to come true before its test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Turns each promise into a `#[tokio::test]` on the lab that the expression makes.
#[macro_export]
macro_rules! conformance_tests {
    ($lab:expr) => {
        $crate::conformance_tests!($lab;
            messages_arrive_whole_and_in_order,
            both_sides_know_whom_they_talk_to,
            empty_messages_are_not_delivered,
            a_message_over_the_limit_is_misuse_and_the_session_lives_on,
            a_refused_peer_gets_no_session,
            dialling_nobody_fails,
            dialling_after_the_listener_left_fails,
            a_dropped_dial_frees_both_sides,
            a_dropped_accept_loses_nobody,
            closing_delivers_what_was_sent_and_then_the_end,
            dropping_a_session_ends_it_for_the_peer,
            a_slow_reader_makes_the_sender_wait,
            many_sessions_do_not_disturb_each_other,
            a_second_listener_is_misuse_until_the_first_is_dropped,
            shutdown_ends_everything_and_may_be_repeated,
        );
    };
    ($lab:expr; $($promise:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $promise() {
            $crate::conformance::$promise(&$lab).await;
        }
    )*};
}

/// Messages of many sizes, both ways at once.
pub async fn messages_arrive_whole_and_in_order(lab: &dyn Lab) {
    let (mut dialler, mut listener, _ends) = connected(lab).await;
    let sizes = [1, 2, 1_000, 1_152, 16_384, 65_536, 1_048_576, 3];
    let messages: Vec<Bytes> = (0..).zip(sizes).map(|(seed, size)| pattern(seed, size)).collect();
    let there = exchange(&mut dialler, &mut listener, &messages);
    in_time(there).await;
    in_time(exchange(&mut listener, &mut dialler, &messages)).await;
}

/// The keys that sessions report are those of the transports.
pub async fn both_sides_know_whom_they_talk_to(lab: &dyn Lab) {
    let (dialler, listener, ends) = connected(lab).await;
    assert_eq!(dialler.peer, ends.b.local_key());
    assert_eq!(listener.peer, ends.a.local_key());
}

/// Empty messages are keep-alives on some transports and therefore nothing on all.
pub async fn empty_messages_are_not_delivered(lab: &dyn Lab) {
    let (mut dialler, mut listener, _ends) = connected(lab).await;
    for message in [Bytes::new(), pattern(1, 10), Bytes::new(), pattern(2, 10)] {
        in_time(dialler.tx.send(message)).await.expect("the session is open");
    }
    assert_eq!(receive(&mut listener).await, pattern(1, 10));
    assert_eq!(receive(&mut listener).await, pattern(2, 10));
}

/// The limit is the same everywhere, so that what works in tests works in production.
pub async fn a_message_over_the_limit_is_misuse_and_the_session_lives_on(lab: &dyn Lab) {
    let (mut dialler, mut listener, _ends) = connected(lab).await;
    let long = Bytes::from(vec![0; MAX_MESSAGE_BYTES + 1]);
    let refused = in_time(dialler.tx.send(long)).await.expect_err("the message is too long");
    assert_eq!(refused.kind(), ErrorKind::Misuse);
    in_time(dialler.tx.send(pattern(1, 10))).await.expect("the session lives on");
    assert_eq!(receive(&mut listener).await, pattern(1, 10));
}

/// Refusal comes before any message.
pub async fn a_refused_peer_gets_no_session(lab: &dyn Lab) {
    let (a, b) = lab.pair().await;
    let mut listener = in_time(b.listen()).await.expect("listening works");
    let (key, dialling) = (b.local_key(), Arc::clone(&a));
    let dial = tokio::spawn(async move { dialling.dial(key).await });
    let incoming = knock(&mut *listener).await;
    assert_eq!(incoming.peer(), a.local_key());
    incoming.refuse();
    if lab.quirks().refuses_silently {
        a.shutdown().await;
        if let Ok(mut session) = in_time(dial).await.expect("the dial ends with its transport") {
            assert_ended(&mut session).await;
        }
        return;
    }
    let refused = in_time(dial).await.expect("the dial did not panic");
    assert_eq!(refused.expect_err("the dial was refused").kind(), ErrorKind::Refused);
}

/// A key that nobody holds.
pub async fn dialling_nobody_fails(lab: &dyn Lab) {
    let (a, _b) = lab.pair().await;
    let nobody = PublicKey::from_bytes([0x5a; 32]);
    assert_absent(in_time(a.dial(nobody)).await);
}

/// A key that is no longer listened on.
pub async fn dialling_after_the_listener_left_fails(lab: &dyn Lab) {
    let (a, b) = lab.pair().await;
    drop(in_time(b.listen()).await.expect("listening works"));
    assert_absent(in_time(a.dial(b.local_key())).await);
}

/// A dial that nobody waits for any more is no session and is in nobody's way.
pub async fn a_dropped_dial_frees_both_sides(lab: &dyn Lab) {
    let (a, b) = lab.pair().await;
    let mut listener = in_time(b.listen()).await.expect("listening works");
    for _ in 0..2 {
        let mut dial = a.dial(b.local_key());
        let dropped = tokio::select! {
            biased;
            _ = &mut dial => panic!("nobody accepted"),
            incoming = knock(&mut *listener) => incoming,
        };
        drop(dial);
        match in_time(dropped.accept()).await {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
            Ok(_) => panic!("a session with nobody"),
        }
    }
    let (mut dialler, mut accepted) = join(&*a, &*b, &mut *listener).await;
    in_time(exchange(&mut dialler, &mut accepted, &[pattern(1, 100)])).await;
}

/// A peer that knocks while `accept` is dropped is still there.
pub async fn a_dropped_accept_loses_nobody(lab: &dyn Lab) {
    let (a, b) = lab.pair().await;
    let mut listener = in_time(b.listen()).await.expect("listening works");
    let key = b.local_key();
    let dial = tokio::spawn(async move { a.dial(key).await });
    let mut early = None;
    for _ in 0..100 {
        tokio::select! {
            biased;
            incoming = listener.accept() => {
                early = Some(incoming.expect("listening works"));
                break;
            }
            () = tokio::task::yield_now() => {}
        }
    }
    let incoming = match early {
        Some(incoming) => incoming,
        None => knock(&mut *listener).await,
    };
    let _session = in_time(incoming.accept()).await.expect("it is still there");
    in_time(dial).await.expect("no panic").expect("the dial was accepted");
}

/// `close` is an orderly end.
pub async fn closing_delivers_what_was_sent_and_then_the_end(lab: &dyn Lab) {
    let (mut dialler, mut listener, _ends) = connected(lab).await;
    let messages: Vec<Bytes> = (0..5).map(|seed| pattern(seed, 50_000)).collect();
    let send = async {
        for message in &messages {
            dialler.tx.send(message.clone()).await.expect("the session is open");
        }
        dialler.tx.close().await.expect("the session is open");
    };
    let receive = async {
        for message in &messages {
            assert_eq!(listener.rx.next().await.expect("not ended").expect("unbroken"), message);
        }
        assert!(listener.rx.next().await.is_none(), "the stream ends in order");
    };
    in_time(async { tokio::join!(send, receive) }).await;
}

/// The peer of a dropped session learns of it on both halves.
pub async fn dropping_a_session_ends_it_for_the_peer(lab: &dyn Lab) {
    let (dialler, mut listener, _ends) = connected(lab).await;
    drop(dialler);
    assert_ended(&mut listener).await;
    let sending = async { while listener.tx.send(pattern(1, 1_000)).await.is_ok() {} };
    in_time(sending).await;
}

/// What a peer does not read does not pile up here.
pub async fn a_slow_reader_makes_the_sender_wait(lab: &dyn Lab) {
    const MESSAGE_BYTES: usize = 65_536;
    const MOST_MESSAGES: u64 = 1_024;

    let (mut dialler, mut listener, _ends) = connected(lab).await;
    let mut sent = 0;
    loop {
        let message = pattern(sent, MESSAGE_BYTES);
        match tokio::time::timeout(Duration::from_secs(1), dialler.tx.feed(message)).await {
            Ok(outcome) => outcome.expect("the session is open"),
            Err(_) => break,
        }
        sent += 1;
        assert!(sent < MOST_MESSAGES, "{MOST_MESSAGES} messages were buffered for a deaf peer");
    }
    let flush = async { dialler.tx.flush().await.expect("the session is open") };
    let read = async {
        for seed in 0..sent {
            let message = listener.rx.next().await.expect("not ended").expect("unbroken");
            assert_eq!(message, pattern(seed, MESSAGE_BYTES));
        }
    };
    in_time(async { tokio::join!(flush, read) }).await;
}

/// Thirty-two peers' worth of sessions at once, each with its own words.
pub async fn many_sessions_do_not_disturb_each_other(lab: &dyn Lab) {
    const SESSIONS: u64 = 32;

    let (a, b) = lab.pair().await;
    let mut listener = in_time(b.listen()).await.expect("listening works");
    let dials = join_all((0..SESSIONS).map(|_| a.dial(b.local_key())));
    let accepts = async {
        let mut accepted = Vec::new();
        for _ in 0..SESSIONS {
            let incoming = knock(&mut *listener).await;
            accepted.push(incoming.accept());
        }
        join_all(accepted).await
    };
    let (dialled, accepted) = in_time(async { tokio::join!(dials, accepts) }).await;
    let mut dialled: Vec<Session> = dialled.into_iter().map(|s| s.expect("dialled")).collect();
    let echo = join_all(accepted.into_iter().map(|session| async {
        let mut session = session.expect("accepted");
        let message = receive(&mut session).await;
        session.tx.send(message).await.expect("the session is open");
        session
    }));
    let ask = join_all((0..).zip(&mut dialled).map(|(seed, session)| async move {
        session.tx.send(pattern(seed, 5_000)).await.expect("the session is open");
        assert_eq!(receive(session).await, pattern(seed, 5_000));
    }));
    in_time(async { tokio::join!(echo, ask) }).await;
}

/// One identity is listened on once at a time.
pub async fn a_second_listener_is_misuse_until_the_first_is_dropped(lab: &dyn Lab) {
    let (a, b) = lab.pair().await;
    let first = in_time(b.listen()).await.expect("listening works");
    let second = in_time(b.listen()).await.expect_err("there is a listener already");
    assert_eq!(second.kind(), ErrorKind::Misuse);
    drop(first);
    let mut listener = in_time(b.listen()).await.expect("the first listener is gone");
    let (mut dialler, mut accepted) = join(&*a, &*b, &mut *listener).await;
    in_time(exchange(&mut dialler, &mut accepted, &[pattern(1, 100)])).await;
}

/// Stopping reaches sessions, listeners, dials and the peer.
pub async fn shutdown_ends_everything_and_may_be_repeated(lab: &dyn Lab) {
    let (mut dialler, mut accepted, ends) = connected(lab).await;
    let mut listener = in_time(ends.a.listen()).await.expect("listening works");
    in_time(ends.a.shutdown()).await;
    in_time(ends.a.shutdown()).await;
    assert_eq!(
        in_time(listener.accept()).await.expect_err("the listener has ended").kind(),
        ErrorKind::Closed
    );
    assert_ended(&mut dialler).await;
    assert_ended(&mut accepted).await;
    let dial = in_time(ends.a.dial(ends.b.local_key())).await;
    assert!(matches!(dial, Err(TransportError::Closed { by: ClosedBy::Local })), "{dial:?}");
    let listen = in_time(ends.a.listen()).await;
    assert!(matches!(listen, Err(TransportError::Closed { by: ClosedBy::Local })), "{listen:?}");
}

/// The transports behind a connected pair of sessions, kept alive with them.
#[derive(Debug)]
struct Ends {
    a: Arc<dyn Transport>,
    b: Arc<dyn Transport>,
    _listener: Box<dyn Listener>,
}

/// A session from `a` to `b`, seen from both sides.
async fn connected(lab: &dyn Lab) -> (Session, Session, Ends) {
    let (a, b) = lab.pair().await;
    let mut listener = in_time(b.listen()).await.expect("listening works");
    let (dialler, accepted) = join(&*a, &*b, &mut *listener).await;
    (dialler, accepted, Ends { a, b, _listener: listener })
}

async fn join(
    a: &dyn Transport,
    b: &dyn Transport,
    listener: &mut dyn Listener,
) -> (Session, Session) {
    let accept = async { knock(listener).await.accept().await };
    let (dialled, accepted) = in_time(async { tokio::join!(a.dial(b.local_key()), accept) }).await;
    (dialled.expect("the dial is accepted"), accepted.expect("the dialler is there"))
}

async fn knock(listener: &mut dyn Listener) -> Box<dyn Incoming> {
    in_time(listener.accept()).await.expect("listening works")
}

async fn exchange(from: &mut Session, to: &mut Session, messages: &[Bytes]) {
    let send = async {
        for message in messages {
            from.tx.send(message.clone()).await.expect("the session is open");
        }
    };
    let receive = async {
        for message in messages {
            assert_eq!(to.rx.next().await.expect("not ended").expect("unbroken"), message);
        }
    };
    tokio::join!(send, receive);
}

async fn receive(session: &mut Session) -> Bytes {
    in_time(session.rx.next()).await.expect("not ended").expect("unbroken")
}

/// The stream ends: in order, or with one error that says it was closed.
async fn assert_ended(session: &mut Session) {
    match in_time(session.rx.next()).await {
        None => return,
        Some(Err(error)) => assert_eq!(error.kind(), ErrorKind::Closed, "{error}"),
        Some(Ok(message)) => panic!("{} bytes from nobody", message.len()),
    }
    assert!(in_time(session.rx.next()).await.is_none(), "one error, then the end");
}

fn assert_absent(dial: Result<Session, TransportError>) {
    let kind = dial.expect_err("nobody is there").kind();
    assert!(matches!(kind, ErrorKind::NotFound | ErrorKind::Unreachable), "{kind}");
}

async fn in_time<F: Future>(future: F) -> F::Output
where
    F::Output: fmt::Debug,
{
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// Bytes that differ by seed and position, so that a mix-up shows.
fn pattern(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(next());
    }
    bytes.truncate(len);
    bytes.into()
}
