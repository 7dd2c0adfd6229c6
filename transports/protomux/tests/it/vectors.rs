//! Frames recorded from the npm packages, in both directions.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use protomux::{
    Cause, ChannelId, Channels, Event, Limits, Protocol, Reply, Rpc, RpcError, RpcFault, RpcHandler,
};
use serde_json::Value;

use crate::{
    channels::{channels, drain, hex, sent},
    pipe::{Log, Pair, pair},
};

fn vector(file: &str, name: &str) -> Value {
    let file: Value = serde_json::from_str(file).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    vectors.iter().find(|vector| vector["name"] == name).unwrap().clone()
}

/// The frames that `side` sent.
fn frames(vector: &Value, side: &str) -> Vec<String> {
    ["opens", "frames"]
        .into_iter()
        .filter_map(|list| vector[list].as_array())
        .flatten()
        .filter(|frame| frame["from"] == side)
        .map(|frame| frame["hex"].as_str().unwrap().to_owned())
        .collect()
}

/// Two tables side by side, and what each has sent.
struct Tables {
    a: Channels,
    b: Channels,
    from_a: Vec<String>,
    from_b: Vec<String>,
}

impl Tables {
    fn new() -> Self {
        Self { a: channels(), b: channels(), from_a: vec![], from_b: vec![] }
    }

    /// Hands over every frame; gives the events of both ends.
    fn exchange(&mut self) -> (Vec<Event>, Vec<Event>) {
        let (from_a, from_b) = (sent(&mut self.a), sent(&mut self.b));
        let deliver = |table: &mut Channels, frames: &[String]| -> Vec<Event> {
            frames
                .iter()
                .flat_map(|frame| {
                    table.receive(hex(frame)).unwrap();
                    drain(table).unwrap()
                })
                .collect()
        };
        let events = (deliver(&mut self.a, &from_b), deliver(&mut self.b, &from_a));
        self.from_a.extend(from_a);
        self.from_b.extend(from_b);
        events
    }

    fn check(&mut self, name: &str) {
        self.exchange();
        let vector = vector(PROTOMUX, name);
        assert_eq!(self.from_a, frames(&vector, "a"), "{name}: a");
        assert_eq!(self.from_b, frames(&vector, "b"), "{name}: b");
    }
}

const PROTOMUX: &str = include_str!("../vectors/protomux.json");
const PROTOMUX_RPC: &str = include_str!("../vectors/protomux-rpc.json");
const DHT_PROM: &str = include_str!("../vectors/dht-prom.json");

fn send(table: &mut Channels, channel: ChannelId, kind: u64, payload: &[u8]) {
    assert!(table.send(channel.message(kind, payload.len(), |out| out.extend_from_slice(payload))));
}

fn messages(events: Vec<Event>) -> Vec<(ChannelId, u64, Bytes)> {
    let message = |event| {
        let Event::Message { channel, kind, payload, .. } = event else { return None };
        Some((channel, kind, payload))
    };
    events.into_iter().filter_map(message).collect()
}

#[test]
fn both_open_messages_close() {
    let mut tables = Tables::new();
    let protocol = Protocol::new("proto").with_id(&b"id"[..]);
    let x = tables.a.open(&protocol, b"").unwrap();
    let y = tables.b.open(&protocol, b"").unwrap();
    tables.exchange();
    send(&mut tables.a, x, 0, b"hi");
    send(&mut tables.b, y, 1, b"\x05there");
    let (at_a, at_b) = tables.exchange();
    assert_eq!(messages(at_a), [(x, 1, Bytes::from("\x05there"))]);
    assert_eq!(messages(at_b), [(y, 0, Bytes::from("hi"))]);
    tables.a.close(x);
    let (_, at_b) = tables.exchange();
    assert_eq!(at_b, [Event::Closed { channel: y, rejected: false }]);
    tables.check("both open, messages, close");
}

#[test]
fn message_before_the_remote_opened_is_buffered() {
    let mut tables = Tables::new();
    let x = tables.a.open(&Protocol::new("p"), b"").unwrap();
    send(&mut tables.a, x, 0, b"early");
    let (_, at_b) = tables.exchange();
    let [Event::Incoming { id, .. }] = at_b[..] else { panic!("{at_b:?}") };
    let y = tables.b.accept(id, b"").unwrap();
    assert_eq!(messages(drain(&mut tables.b).unwrap()), [(y, 0, Bytes::from("early"))]);
    let (at_a, _) = tables.exchange();
    assert_eq!(at_a, [Event::Opened { channel: x, handshake: Bytes::new() }]);
    tables.check("message before the remote opened is buffered");
}

#[test]
fn reject_unknown_protocol() {
    let mut tables = Tables::new();
    let x = tables.a.open(&Protocol::new("nobody"), b"").unwrap();
    let (_, at_b) = tables.exchange();
    let [Event::Incoming { id, .. }] = at_b[..] else { panic!("{at_b:?}") };
    tables.b.reject(id);
    let (at_a, _) = tables.exchange();
    assert_eq!(at_a, [Event::Closed { channel: x, rejected: true }]);
    tables.check("reject unknown protocol");
}

#[test]
fn handshake() {
    let mut tables = Tables::new();
    let x = tables.a.open(&Protocol::new("h"), b"AA").unwrap();
    let y = tables.b.open(&Protocol::new("h"), b"BB").unwrap();
    let (at_a, at_b) = tables.exchange();
    assert_eq!(at_a, [Event::Opened { channel: x, handshake: Bytes::from("BB") }]);
    assert_eq!(at_b, [Event::Opened { channel: y, handshake: Bytes::from("AA") }]);
    tables.check("handshake");
}

#[test]
fn asymmetric_ids() {
    let mut tables = Tables::new();
    tables.b.open(&Protocol::new("other"), b"").unwrap();
    let y = tables.b.open(&Protocol::new("p"), b"").unwrap();
    let x = tables.a.open(&Protocol::new("p"), b"").unwrap();
    let (at_a, _) = tables.exchange();
    let Event::Incoming { id, .. } = at_a[0] else { panic!("{at_a:?}") };
    tables.a.reject(id);
    tables.exchange();
    send(&mut tables.a, x, 0, b"from a");
    send(&mut tables.b, y, 0, b"from b");
    let (at_a, at_b) = tables.exchange();
    assert_eq!(messages(at_a), [(x, 0, Bytes::from("from b"))]);
    assert_eq!(messages(at_b), [(y, 0, Bytes::from("from a"))]);
    tables.check("asymmetric ids: b has two channels first");
}

#[test]
fn batch() {
    let mut tables = Tables::new();
    let y = tables.b.open(&Protocol::new("p"), b"").unwrap();
    let y2 = tables.b.open(&Protocol::new("q"), b"").unwrap();
    tables.a.cork();
    let x = tables.a.open(&Protocol::new("p"), b"").unwrap();
    let x2 = tables.a.open(&Protocol::new("q"), b"").unwrap();
    for (channel, kind, payload) in
        [(x, 0, &b"1"[..]), (x, 0, b"2"), (x2, 1, b"\x05three"), (x, 0, b"")]
    {
        send(&mut tables.a, channel, kind, payload);
    }
    tables.a.uncork();
    let (at_a, at_b) = tables.exchange();
    assert_eq!(at_a.len(), 2);
    assert_eq!(
        messages(at_b),
        [
            (y, 0, Bytes::from("1")),
            (y, 0, Bytes::from("2")),
            (y2, 1, Bytes::from("\x05three")),
            (y, 0, Bytes::new()),
        ]
    );
    tables.check("batch");
}

#[test]
fn empty_frame_ignored() {
    let mut table = channels();
    let x = table.open(&Protocol::new("p"), b"").unwrap();
    let mut events = Vec::new();
    for frame in frames(&vector(PROTOMUX, "empty frame ignored"), "a") {
        table.receive(hex(&frame)).unwrap();
        events.extend(drain(&mut table).unwrap());
    }
    assert_eq!(events[0], Event::Opened { channel: x, handshake: Bytes::new() });
    assert_eq!(messages(events), [(x, 0, Bytes::from("ok"))]);
}

/// Answers as the handlers of the recording did, and keeps what it was asked.
#[derive(Default)]
struct Recorded {
    suffix: &'static [u8],
    seen: Mutex<Vec<(String, Bytes)>>,
}

#[async_trait::async_trait]
impl RpcHandler for Recorded {
    async fn request(&self, method: &str, value: Bytes) -> Result<Reply, RpcFault> {
        self.event(method, value.clone());
        match method {
            "echo" => {
                let mut reply = vec![value[0] + u8::try_from(self.suffix.len()).unwrap()];
                reply.extend_from_slice(&value[1..]);
                reply.extend_from_slice(self.suffix);
                Ok(Reply::new(reply))
            }
            "buf" | "nul" => Ok(Reply::new(value)),
            "bad" if self.suffix.is_empty() => Err(RpcFault::request("boom")),
            "bad" => {
                Err(RpcFault::request(Cause::new("boom").with_code("E_X").with_context("ctx")))
            }
            "n" => Err(RpcFault::decode("Out of bounds")),
            "alias" if value[0] == 2 => Err(RpcFault::decode(
                "Cannot decode RegisterRequest of other major version 2 (own major: 1)",
            )),
            "alias" if self.suffix.is_empty() => Ok(Reply::new(hex("01010101"))),
            "alias" => Ok(Reply::new(hex("0101000c556e617574686f7269736564"))),
            "metrics" => Ok(Reply::new(hex("0001046120310a"))),
            _ => Err(RpcFault::unknown_method(method)),
        }
    }

    fn event(&self, method: &str, value: Bytes) {
        self.seen.lock().unwrap().push((method.to_owned(), value));
    }
}

fn logged(log: &Log) -> Vec<String> {
    log.lock().unwrap().iter().map(|frame| data_encoding::HEXLOWER.encode(frame)).collect()
}

/// Runs `call` between two muxes that both open `protocol`, and compares every frame.
async fn replay<F: Future>(
    vector: &Value,
    protocol: &str,
    handler: &Arc<Recorded>,
    call: impl FnOnce(Rpc) -> F,
) -> F::Output {
    let Pair { a, b, driver_a, driver_b, from_a, from_b } = pair(&Limits::default());
    let protocol = Protocol::new(protocol);
    let server = b.open(&protocol, Some(Arc::clone(handler) as _)).unwrap();
    let client = a.open(&protocol, None).unwrap();
    let drivers = (tokio::spawn(driver_a), tokio::spawn(driver_b));
    client.opened().await.unwrap();
    server.opened().await.unwrap();
    let outcome = call(client.clone()).await;
    assert_eq!(logged(&from_a), frames(vector, "a"), "a: {vector}");
    assert_eq!(logged(&from_b), frames(vector, "b"), "b: {vector}");
    a.destroy();
    drivers.0.await.unwrap().unwrap();
    drivers.1.await.unwrap().unwrap();
    outcome
}

/// Replays one request, whose bytes are read off the vector.
async fn replay_request(name: &str, method: &str, value: &str, suffix: &'static [u8]) {
    let vector = vector(PROTOMUX_RPC, name);
    let handler = Arc::new(Recorded { suffix, ..Recorded::default() });
    let outcome =
        replay(
            &vector,
            "rpc",
            &handler,
            |rpc| async move { rpc.request(method, hex(value)).await },
        )
        .await;
    let expected = &vector["result"]["error"];
    match outcome {
        Ok(_) => assert!(expected.is_null(), "{name}"),
        Err(RpcError::Remote(fault)) => {
            assert_eq!(fault.to_string(), expected["message"].as_str().unwrap());
            assert_eq!(fault.code(), expected["code"].as_str());
            let cause = fault.cause();
            assert_eq!(cause.map(Cause::message), expected["cause"]["message"].as_str());
            assert_eq!(cause.and_then(Cause::code), expected["cause"]["code"].as_str());
            assert_eq!(cause.and_then(Cause::context), expected["cause"]["context"].as_str());
        }
        Err(other) => panic!("{name}: {other}"),
    }
}

#[tokio::test]
async fn requests_and_every_kind_of_answer() {
    replay_request("request and response", "echo", "026869", b"!").await;
    replay_request("default buffer value encoding", "buf", "020102", b"").await;
    replay_request("null value", "nul", "00", b"").await;
    replay_request("unknown method", "nope", "0178", b"").await;
    replay_request("handler error", "bad", "0178", b"").await;
    replay_request("handler error with code and context", "bad", "0178", b"!").await;
    replay_request("decode error", "n", "01", b"").await;
}

#[tokio::test]
async fn an_event_is_delivered_and_not_answered() {
    let vector = vector(PROTOMUX_RPC, "event (id 0)");
    let handler = Arc::new(Recorded::default());
    let seen = &handler;
    replay(&vector, "rpc", &handler, |rpc| async move {
        rpc.event("ev", hex("0178")).await.unwrap();
        while seen.seen.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(*handler.seen.lock().unwrap(), [("ev".to_owned(), hex("0178"))]);
}

#[tokio::test]
async fn two_requests_count_their_ids() {
    let vector = vector(PROTOMUX_RPC, "two requests");
    replay(&vector, "rpc", &Arc::default(), |rpc| async move {
        let (first, second) =
            tokio::join!(rpc.request("echo", hex("0161")), rpc.request("echo", hex("0162")));
        assert_eq!((first.unwrap(), second.unwrap()), (hex("0161"), hex("0162")));
    })
    .await;
}

#[tokio::test]
async fn end_closes_the_channel() {
    let vector = vector(PROTOMUX_RPC, "end closes the channel");
    replay(&vector, "rpc", &Arc::default(), |rpc| async move {
        rpc.request("echo", hex("0161")).await.unwrap();
        rpc.end().await;
        assert_eq!(rpc.request("echo", hex("0161")).await, Err(RpcError::Closed));
        tokio::task::yield_now().await;
    })
    .await;
}

#[tokio::test]
async fn both_application_protocols() {
    for (name, protocol, suffix) in [
        ("alias over protomux (a = client)", "register-alias", &b""[..]),
        ("alias unauthorised over protomux", "register-alias", b"!"),
        ("alias with future major over protomux", "register-alias", b""),
        ("metrics over protomux (a = bridge)", "prometheus-metrics", b""),
    ] {
        let vector = vector(DHT_PROM, name);
        let request = hex(frames(&vector, "a").last().unwrap());
        let method = vector["method"].as_str().unwrap().to_owned();
        // Channel, type, id and the method's length come before it.
        let value = request.slice(4 + method.len()..);
        let handler = Arc::new(Recorded { suffix, ..Recorded::default() });
        let call = |rpc: Rpc| async move { rpc.request(&method, value).await };
        let outcome = replay(&vector, protocol, &handler, call).await;
        assert_eq!(outcome.is_err(), vector["result"]["code"].is_string(), "{name}");
    }
}

#[tokio::test]
async fn a_scrape_by_a_bridge_that_also_opens_an_unknown_protocol() {
    let vector = vector(DHT_PROM, "scrape by a v1 bridge (a): asymmetric channel ids and a reject");
    let Pair { a, b, driver_a, driver_b, from_a, from_b } = pair(&Limits::default());
    let metrics = Protocol::new("prometheus-metrics");
    let target = b.open(&metrics, Some(Arc::new(Recorded::default()))).unwrap();
    let alias = a.open(&Protocol::new("register-alias"), None).unwrap();
    let scrape = a.open(&metrics, None).unwrap();
    let _drivers = (tokio::spawn(driver_a), tokio::spawn(driver_b));
    assert_eq!(alias.opened().await, Err(RpcError::Rejected));
    assert_eq!(scrape.request("metrics", [1, 1]).await.unwrap(), hex("0001046120310a"));
    assert!(!target.is_closed());
    assert_eq!(logged(&from_a), frames(&vector, "a"));
    assert_eq!(logged(&from_b), frames(&vector, "b"));
}
