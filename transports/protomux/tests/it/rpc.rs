//! Requests between two muxes, over a stream in memory that holds few frames.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes};
use futures_util::{FutureExt, future::join_all};
use protomux::{
    Limits, Mux, MuxError, OpenError, Protocol, Reply, Rpc, RpcError, RpcFault, RpcHandler,
    Violation,
};
use tokio::sync::{Notify, Semaphore};

use crate::pipe::{Ended, Lone, Pair, lone, pair};

/// `echo` gives its value back, `wait` does so once it is let go.
#[derive(Default)]
struct Echo {
    gate: Option<Semaphore>,
    began: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    events: Mutex<Vec<Bytes>>,
    closed: Notify,
}

impl Echo {
    fn gated() -> Arc<Self> {
        Arc::new(Self { gate: Some(Semaphore::new(0)), ..Self::default() })
    }

    fn let_go(&self, requests: usize) {
        self.gate.as_ref().unwrap().add_permits(requests);
    }
}

#[async_trait::async_trait]
impl RpcHandler for Echo {
    async fn request(&self, method: &str, value: Bytes) -> Result<Reply, RpcFault> {
        self.began.fetch_add(1, Ordering::SeqCst);
        let running = 1 + self.running.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(running, Ordering::SeqCst);
        if let ("wait", Some(gate)) = (method, &self.gate) {
            gate.acquire().await.unwrap().forget();
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        match method {
            "echo" | "wait" => Ok(Reply::new(value)),
            "huge" => Ok(Reply::new(vec![0; 4096])),
            _ => Err(RpcFault::unknown_method(method)),
        }
    }

    fn event(&self, _method: &str, value: Bytes) {
        self.events.lock().unwrap().push(value);
    }

    fn closed(&self) {
        self.closed.notify_one();
    }
}

struct Running {
    a: Mux,
    b: Mux,
    rpc: Rpc,
    driver_a: Ended,
    driver_b: Ended,
}

/// `b` serves, `a` has a channel to it, both drivers run.
fn run(limits: &Limits, handler: Arc<Echo>) -> Running {
    let Pair { a, b, driver_a, driver_b, .. } = pair(limits);
    b.serve(echo(), handler);
    let rpc = a.open(&echo(), None).unwrap();
    Running { a, b, rpc, driver_a: tokio::spawn(driver_a), driver_b: tokio::spawn(driver_b) }
}

fn echo() -> Protocol {
    Protocol::new("echo")
}

/// Lets every other task run until it waits. Tests with one thread only.
async fn quiesce() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Polls once.
fn pending(future: &mut (impl Future + Unpin)) -> bool {
    future.now_or_never().is_none()
}

#[tokio::test]
async fn a_hundred_requests_at_once_each_get_their_answer() {
    let running = run(&Limits { handlers: 8, ..Limits::default() }, Arc::default());
    let requests = (0..100_u32).map(|n| {
        let rpc = running.rpc.clone();
        async move { rpc.request("echo", n.to_le_bytes()).await }
    });
    for (n, answer) in (0..).zip(join_all(requests).await) {
        assert_eq!(answer.unwrap(), u32::to_le_bytes(n)[..]);
    }
}

#[tokio::test]
async fn bodies_of_a_megabyte_pass_in_both_directions() {
    let Pair { a, b, driver_a, driver_b, .. } = pair(&Limits::default());
    let of_b = b.open(&echo(), Some(Arc::new(Echo::default()))).unwrap();
    let of_a = a.open(&echo(), Some(Arc::new(Echo::default()))).unwrap();
    let _drivers = (tokio::spawn(driver_a), tokio::spawn(driver_b));
    let body = Bytes::from(vec![7; 1 << 20]);
    let requests = (0..8).flat_map(|_| [of_a.clone(), of_b.clone()]).map(|rpc| {
        let body = body.clone();
        async move { rpc.request("echo", body).await }
    });
    for answer in join_all(requests).await {
        assert_eq!(answer.unwrap(), body);
    }
}

#[tokio::test]
async fn an_answer_is_a_slice_of_the_received_frame() {
    let Lone { mux, driver, tx, mut rx } = lone(Limits::default());
    let rpc = mux.open(&echo(), None).unwrap();
    let _driver = tokio::spawn(driver);
    // A plain frame, and two answers in one batch.
    for frame in [&b"\x01\x01\0\x01answer"[..], b"\0\0\x01\x09\x01\0\x02answer\x09\x01\0\x02answer"]
    {
        let frame = Bytes::copy_from_slice(frame);
        let request = rpc.request("echo", ());
        let answer = async {
            while !rx.recv().await.unwrap().starts_with(b"\x01\0") {}
            if pending(&mut Box::pin(rpc.opened())) {
                tx.send(Bytes::from_static(b"\0\x01\x01\x04echo\0")).await.unwrap();
            }
            tx.send(frame.clone()).await.unwrap();
        };
        let (answer, ()) = tokio::join!(request, answer);
        let answer = answer.unwrap();
        assert_eq!(answer, "answer");
        let whole = frame.as_ptr_range();
        assert!(whole.contains(&answer.as_ptr()), "the body was copied");
    }
}

#[tokio::test]
async fn a_dropped_request_is_forgotten_and_its_late_answer_ignored() {
    let handler = Echo::gated();
    let limits = Limits { outstanding: 1, ..Limits::default() };
    let running = run(&limits, Arc::clone(&handler));
    let mut request = Box::pin(running.rpc.request("wait", "first"));
    assert!(pending(&mut request));
    quiesce().await;
    assert_eq!(handler.began.load(Ordering::SeqCst), 1);
    // Its place is taken until it is dropped.
    let mut second = Box::pin(running.rpc.request("wait", "second"));
    assert!(pending(&mut second));
    quiesce().await;
    assert_eq!(handler.began.load(Ordering::SeqCst), 1);
    drop(request);
    assert!(pending(&mut second));
    handler.let_go(2);
    assert_eq!(second.await.unwrap(), "second");
    assert!(!running.driver_a.is_finished());
}

#[tokio::test]
async fn dropping_a_request_that_waits_for_room_sends_nothing() {
    let limits = Limits { transmit_frames: 1, ..Limits::default() };
    let Lone { mux, driver, mut rx, tx } = lone(limits);
    let rpc = mux.open(&echo(), None).unwrap();
    let mut request = Box::pin(rpc.request("echo", ()));
    assert!(pending(&mut request), "the open takes the only place");
    drop(request);
    let driver = tokio::spawn(driver);
    assert_eq!(rx.recv().await.unwrap(), &b"\0\x01\x01\x04echo\0"[..]);
    rpc.event("tick", ()).await.unwrap();
    assert_eq!(rx.recv().await.unwrap(), &b"\x01\0\0\x04tick"[..]);
    drop(tx);
    driver.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_times_out() {
    let handler = Echo::gated();
    let running = run(&Limits::default(), Arc::clone(&handler));
    let timeout = Duration::from_millis(1500);
    let error = running.rpc.request_timeout("wait", (), timeout).await.unwrap_err();
    assert_eq!(error, RpcError::Timeout(timeout));
    assert_eq!(error.to_string(), "TIMEOUT_EXCEEDED: timeout of 1500ms exceeded");
    handler.let_go(1);
    assert_eq!(running.rpc.request("echo", "still").await.unwrap(), "still");
}

#[tokio::test]
async fn a_peer_that_does_not_read_slows_requests_down() {
    let limits = Limits { transmit_bytes: 4096, transmit_frames: 16, ..Limits::default() };
    let Lone { mux, driver, mut rx, tx: _tx } = lone(limits);
    let rpc = mux.open(&echo(), None).unwrap();
    let _driver = tokio::spawn(driver);
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let sender = rpc.clone();
    let events = tokio::spawn(async move {
        for _ in 0..100 {
            sender.event("tick", vec![0; 1000]).await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    quiesce().await;
    let stalled = sent.load(Ordering::SeqCst);
    assert!(stalled <= 12, "{stalled} kilobytes were taken with nobody reading");
    for _ in 0..=100 {
        rx.recv().await.unwrap();
    }
    events.await.unwrap();
}

#[tokio::test]
async fn no_more_requests_are_read_than_there_are_handlers() {
    let handler = Echo::gated();
    let limits = Limits { handlers: 3, ..Limits::default() };
    let running = run(&limits, Arc::clone(&handler));
    let requests = (0..50).map(|_| running.rpc.request("wait", "x"));
    let requests = join_all(requests);
    let releases = async {
        quiesce().await;
        assert_eq!(handler.began.load(Ordering::SeqCst), 3);
        handler.let_go(50);
    };
    let (answers, ()) = tokio::join!(requests, releases);
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(handler.most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn no_more_request_bytes_are_held_than_allowed() {
    let handler = Echo::gated();
    let limits = Limits { handler_bytes: 1500, ..Limits::default() };
    let running = run(&limits, Arc::clone(&handler));
    let requests = join_all((0..10).map(|_| running.rpc.request("wait", vec![0; 1000])));
    let releases = async {
        quiesce().await;
        assert_eq!(handler.began.load(Ordering::SeqCst), 2);
        handler.let_go(10);
    };
    let (answers, ()) = tokio::join!(requests, releases);
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(handler.most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn dropping_the_driver_fails_what_is_outstanding_and_ends_the_peer() {
    let handler = Echo::gated();
    let running = run(&Limits::default(), Arc::clone(&handler));
    let mut request = Box::pin(running.rpc.request("wait", ()));
    assert!(pending(&mut request));
    quiesce().await;
    running.driver_a.abort();
    assert_eq!(request.await, Err(RpcError::Closed));
    running.rpc.closed().await;
    running.a.closed().await;
    assert_eq!(running.rpc.request("echo", ()).await, Err(RpcError::Closed));
    assert_eq!(running.a.open(&echo(), None).unwrap_err(), OpenError::Closed);
    running.driver_b.await.unwrap().unwrap();
    handler.closed.notified().await;
    assert!(running.b.is_closed());
}

#[tokio::test]
async fn destroying_a_channel_fails_its_requests_and_frees_its_name() {
    let handler = Echo::gated();
    let running = run(&Limits::default(), Arc::clone(&handler));
    let mut request = Box::pin(running.rpc.request("wait", ()));
    assert!(pending(&mut request));
    quiesce().await;
    assert_eq!(running.a.open(&echo(), None).unwrap_err(), OpenError::Duplicate);
    running.rpc.destroy();
    assert_eq!(request.await, Err(RpcError::Destroyed));
    assert_eq!(running.rpc.opened().await, Err(RpcError::Destroyed));
    handler.closed.notified().await;
    let again = running.a.open(&echo(), None).unwrap();
    assert_eq!(again.request("echo", "again").await.unwrap(), "again");
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_channel() {
    let handler = Arc::new(Echo::default());
    let running = run(&Limits::default(), Arc::clone(&handler));
    running.rpc.opened().await.unwrap();
    drop(running.rpc.clone());
    assert!(!running.rpc.is_closed());
    drop(running.rpc);
    handler.closed.notified().await;
}

#[tokio::test]
async fn end_waits_for_what_is_outstanding() {
    let handler = Echo::gated();
    let running = run(&Limits::default(), Arc::clone(&handler));
    let mut request = Box::pin(running.rpc.request("wait", "x"));
    assert!(pending(&mut request));
    let mut end = Box::pin(running.rpc.end());
    assert!(pending(&mut end));
    assert_eq!(running.rpc.request("echo", ()).await, Err(RpcError::Closed));
    quiesce().await;
    assert!(pending(&mut end));
    handler.let_go(1);
    assert_eq!(request.await.unwrap(), "x");
    end.await;
    handler.closed.notified().await;
}

#[tokio::test]
async fn closing_a_mux_finishes_what_either_side_has_begun() {
    let handler = Echo::gated();
    let running = run(&Limits::default(), Arc::clone(&handler));
    let mut request = Box::pin(running.rpc.request("wait", "x"));
    assert!(pending(&mut request));
    quiesce().await;
    let mut close = Box::pin(running.b.close());
    assert!(pending(&mut close));
    assert_eq!(running.b.open(&echo(), None).unwrap_err(), OpenError::Closed);
    handler.let_go(1);
    assert_eq!(request.await.unwrap(), "x");
    close.await;
    running.driver_b.await.unwrap().unwrap();
    running.driver_a.await.unwrap().unwrap();
    running.a.closed().await;
}

#[tokio::test]
async fn destroying_a_mux_ends_its_driver() {
    let running = run(&Limits::default(), Arc::default());
    running.rpc.opened().await.unwrap();
    running.a.destroy();
    running.driver_a.await.unwrap().unwrap();
    running.driver_b.await.unwrap().unwrap();
    assert_eq!(running.rpc.request("echo", ()).await, Err(RpcError::Closed));
}

#[tokio::test]
async fn several_channels_of_a_served_protocol_live_side_by_side() {
    let Pair { a, b, driver_a, driver_b, .. } = pair(&Limits::default());
    let handlers: HashMap<_, _> =
        ["x", "y"].into_iter().map(|id| (id, Arc::new(Echo::default()))).collect();
    for (id, handler) in &handlers {
        b.serve(echo().with_id(*id), Arc::clone(handler) as _);
    }
    let _drivers = (tokio::spawn(driver_a), tokio::spawn(driver_b));
    let x = a.open(&echo().with_id("x"), None).unwrap();
    let y = a.open(&echo().with_id("y"), None).unwrap();
    let z = a.open(&echo().with_id("z"), None).unwrap();
    assert_eq!(z.opened().await, Err(RpcError::Rejected));
    assert_eq!(z.request("echo", ()).await.unwrap_err().code(), Some("CHANNEL_CLOSED"));
    y.request("echo", ()).await.unwrap();
    y.event("tick", "tock").await.unwrap();
    y.request("echo", ()).await.unwrap();
    x.request("echo", ()).await.unwrap();
    assert_eq!(handlers["x"].began.load(Ordering::SeqCst), 1);
    assert_eq!(handlers["y"].began.load(Ordering::SeqCst), 2);
    assert_eq!(*handlers["y"].events.lock().unwrap(), ["tock"]);
}

#[tokio::test]
async fn a_side_without_a_handler_knows_no_method() {
    let Pair { a, b, driver_a, driver_b, .. } = pair(&Limits::default());
    let (of_a, of_b) = (a.open(&echo(), None).unwrap(), b.open(&echo(), None).unwrap());
    let _drivers = (tokio::spawn(driver_a), tokio::spawn(driver_b));
    of_b.event("nope", ()).await.unwrap();
    let error = of_a.request("nope", ()).await.unwrap_err();
    assert_eq!(error, RpcError::Remote(RpcFault::unknown_method("nope")));
    assert_eq!(error.to_string(), "UNKNOWN_METHOD: Unknown method 'nope'");
}

#[tokio::test]
async fn what_does_not_fit_a_frame_fails_alone() {
    let limits = Limits { frame_bytes: 1024, ..Limits::default() };
    let running = run(&limits, Arc::default());
    assert!(matches!(
        running.rpc.request("echo", vec![0; 1024]).await,
        Err(RpcError::TooLong { .. })
    ));
    let error = running.rpc.request("huge", ()).await.unwrap_err();
    assert_eq!(error.code(), Some("ENCODE_ERROR"));
    assert_eq!(running.rpc.request("echo", "fits").await.unwrap(), "fits");
}

#[tokio::test]
async fn a_payload_that_misjudges_its_length_still_arrives() {
    struct Liar;
    impl protomux::Payload for Liar {
        fn encoded_len(&self) -> usize {
            0
        }
        fn encode(&self, out: &mut bytes::BytesMut) {
            out.put_bytes(1, 100);
        }
    }
    let running = run(&Limits::default(), Arc::default());
    assert_eq!(running.rpc.request("echo", Liar).await.unwrap(), [1; 100][..]);
}

/// The rule that a peer breaks by sending `frame` on a channel that is open.
async fn violation(frame: &'static [u8]) -> Violation {
    let limits = Limits { method_bytes: 8, frame_bytes: 64, ..Limits::default() };
    let Lone { mux, driver, tx, mut rx } = lone(limits);
    let rpc = mux.open(&echo(), None).unwrap();
    let driver = tokio::spawn(driver);
    rx.recv().await.unwrap();
    tx.send(Bytes::from_static(b"\0\x01\x01\x04echo\0")).await.unwrap();
    rpc.opened().await.unwrap();
    tx.send(Bytes::from_static(frame)).await.unwrap();
    rpc.closed().await;
    assert_eq!(rpc.request("echo", ()).await, Err(RpcError::Closed));
    match driver.await.unwrap() {
        Err(MuxError::Violation(violation)) => violation,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_broken_rule_ends_the_mux_and_is_named() {
    assert_eq!(violation(&[1; 65]).await, Violation::FrameTooLong { len: 65 });
    assert_eq!(violation(b"\0\x02\x01").await, Violation::InvalidReject { id: 1 });
    assert_eq!(violation(b"\0\x01\x01\x01p\0").await, Violation::InvalidOpen { id: 1 });
    assert_eq!(violation(b"\x01\0\x01\x09123456789").await, Violation::MethodTooLong { len: 9 });
    for malformed in [&b"\x01"[..], b"\x01\0", b"\x01\0\x01\x05", b"\x01\x01", b"\x01\x01\x03\x01"]
    {
        let violation = violation(malformed).await;
        assert!(matches!(violation, Violation::Malformed { .. }), "{violation}");
    }
}

#[tokio::test]
async fn unknown_answers_and_message_types_are_ignored() {
    let Lone { mux, driver, tx, mut rx } = lone(Limits::default());
    let rpc = mux.open(&echo(), None).unwrap();
    let _driver = tokio::spawn(driver);
    rx.recv().await.unwrap();
    for frame in
        [&b"\0\x01\x01\x04echo\0"[..], b"\x01\x01\0\x63late", b"\x01\x09what", b"\x07\0what", b""]
    {
        tx.send(Bytes::from_static(frame)).await.unwrap();
    }
    let answer = async {
        assert_eq!(rx.recv().await.unwrap(), &b"\x01\0\x01\x04echo"[..]);
        // A bit field in its widened form.
        tx.send(Bytes::from_static(b"\x01\x01\xfd\0\0\x01ok")).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(rpc.request("echo", ()), answer);
    assert_eq!(outcome.unwrap(), "ok");
}

#[tokio::test]
async fn long_error_texts_are_cut_at_a_character() {
    struct Verbose;
    #[async_trait::async_trait]
    impl RpcHandler for Verbose {
        async fn request(&self, _: &str, _: Bytes) -> Result<Reply, RpcFault> {
            Err(RpcFault::new("é".repeat(100)))
        }
    }
    let limits = Limits { error_text_bytes: 9, ..Limits::default() };
    let Pair { a, b, driver_a, driver_b, .. } = pair(&limits);
    b.serve(echo(), Arc::new(Verbose));
    let rpc = a.open(&echo(), None).unwrap();
    let _drivers = (tokio::spawn(driver_a), tokio::spawn(driver_b));
    let Err(RpcError::Remote(fault)) = rpc.request("x", ()).await else { panic!() };
    assert_eq!(fault.message(), "éééé");
    assert_eq!(fault.code(), None);
}

#[tokio::test]
async fn a_handler_may_use_its_mux() {
    struct Relay(Mutex<Option<Rpc>>);
    #[async_trait::async_trait]
    impl RpcHandler for Relay {
        async fn request(&self, _: &str, value: Bytes) -> Result<Reply, RpcFault> {
            let rpc = self.0.lock().unwrap().clone().unwrap();
            let answer = rpc.request("echo", value).await;
            answer.map(Reply::new).map_err(|error| RpcFault::request(error.to_string()))
        }

        fn event(&self, _: &str, _: Bytes) {
            self.0.lock().unwrap().take();
        }
    }
    let Pair { a, b, driver_a, driver_b, .. } = pair(&Limits::default());
    let back = b.open(&Protocol::new("back"), None).unwrap();
    b.serve(Protocol::new("relay"), Arc::new(Relay(Mutex::new(Some(back)))));
    let handler = Arc::new(Echo::default());
    a.serve(Protocol::new("back"), Arc::clone(&handler) as _);
    let relay = a.open(&Protocol::new("relay"), None).unwrap();
    let _drivers = (tokio::spawn(driver_a), tokio::spawn(driver_b));
    assert_eq!(relay.request("x", "round").await.unwrap(), "round");
    // The last handle of a channel goes inside the handler, which the driver runs.
    relay.event("forget", ()).await.unwrap();
    handler.closed.notified().await;
}

#[tokio::test]
async fn a_handler_that_owns_a_channel_of_its_mux_ends_with_it() {
    struct Owner(Rpc);
    #[async_trait::async_trait]
    impl RpcHandler for Owner {
        async fn request(&self, _: &str, _: Bytes) -> Result<Reply, RpcFault> {
            self.0.request("x", ()).await.map(Reply::new).map_err(|_| RpcFault::new("gone"))
        }
    }
    let Lone { mux, driver, .. } = lone(Limits::default());
    for name in ["a", "b"] {
        // The second takes the place of the first.
        let owned = mux.open(&Protocol::new(name), None).unwrap();
        mux.serve(echo(), Arc::new(Owner(owned)));
    }
    drop(driver);
    mux.closed().await;
    assert!(mux.is_closed());
}
