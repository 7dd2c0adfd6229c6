//! DHT RPC messages and the NAT sampler against what the reference implementation wrote.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::SocketAddrV4;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hyperdht_proto::rpc::{Message, NatSampler, NodeId, Reply, Request, Token};
use serde_json::Value;

fn vectors(text: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

fn dht_rpc() -> Vec<Value> {
    vectors(include_str!("vectors/dht-rpc.json"))
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().or_else(|| value["hex"].as_str());
    HEXLOWER.decode(text.unwrap().as_bytes()).unwrap()
}

fn fixed(value: &Value) -> Option<[u8; 32]> {
    (!value.is_null()).then(|| hex(value).try_into().unwrap())
}

fn addr(value: &Value) -> SocketAddrV4 {
    let port = u16::try_from(value["port"].as_u64().unwrap()).unwrap();
    SocketAddrV4::new(value["host"].as_str().unwrap().parse().unwrap(), port)
}

#[test]
fn node_ids() {
    let mut checked = 0;
    for vector in dht_rpc().iter().filter(|v| v["name"] == "node id") {
        assert_eq!(NodeId::of(addr(vector)).0.to_vec(), hex(&vector["hex"]));
        checked += 1;
    }
    assert_eq!(checked, 3);
}

#[test]
fn requests_both_ways() {
    let mut checked = 0;
    for vector in dht_rpc() {
        let name = vector["name"].as_str().unwrap();
        if !name.starts_with("request: ") {
            continue;
        }
        let input = &vector["input"];
        let request = Request {
            tid: u16::try_from(input["tid"].as_u64().unwrap()).unwrap(),
            to: addr(&input["to"]),
            id: fixed(&input["id"]).map(NodeId),
            token: fixed(&input["token"]).map(Token),
            internal: input["internal"].as_bool().unwrap(),
            command: input["command"].as_u64().unwrap(),
            target: fixed(&input["target"]),
            value: (!input["value"].is_null()).then(|| hex(&input["value"]).into()),
        };
        let wire = hex(&vector["hex"]);
        assert_eq!(request.encode(), wire, "{name}");
        assert_eq!(Message::decode(&wire).unwrap(), Message::Request(request), "{name}");
        checked += 1;
    }
    assert_eq!(checked, 8);
}

/// What the reply of a vector has, by its name: token, closer nodes, error, value.
fn content(name: &str) -> (bool, bool, u64, Option<&'static str>) {
    match name {
        "reply: PING pong, ephemeral"
        | "reply: PING pong, persistent"
        | "reply: application reply null, no token, no closer" => (false, false, 0, None),
        "reply: FIND_NODE reply with closer nodes" => (false, true, 0, None),
        "reply: application reply value+token+closer" => (true, true, 0, Some("hello")),
        "reply: application reply, no target (no closer nodes)" => (true, false, 0, Some("hello")),
        "reply: error UNKNOWN_COMMAND with closer nodes" => (false, true, 1, None),
        "reply: error 16" => (false, true, 16, None),
        "reply: invalid token" => (true, true, 2, None),
        other => panic!("unknown vector {other}"),
    }
}

#[test]
fn replies_both_ways() {
    let mut checked = 0;
    for vector in dht_rpc() {
        let name = vector["name"].as_str().unwrap();
        if !name.starts_with("reply: ") {
            continue;
        }
        let input = &vector["input"];
        let Message::Request(request) = Message::decode(&hex(&input["request"])).unwrap() else {
            panic!("{name}: not a request")
        };
        let (token, closer_nodes, error, value) = content(name);
        let issued = "bbef11ffe1253f40189b0bffd7813f392b9bcc905767f0acb2ed65fd5469c7cc";
        let nodes = input["closerNodes"].as_array().unwrap();
        let reply = Reply {
            tid: request.tid,
            to: addr(&input["source"]),
            id: fixed(&input["id"]).filter(|_| input["ephemeral"] != true).map(NodeId),
            token: token.then(|| Token(fixed(&issued.into()).unwrap())),
            closer_nodes: nodes.iter().filter(|_| closer_nodes).map(addr).collect(),
            error,
            value: value.map(Bytes::from),
        };
        let wire = hex(&vector["hex"]);
        assert_eq!(reply.encode(), wire, "{name}");
        assert_eq!(Message::decode(&wire).unwrap(), Message::Reply(reply), "{name}");
        checked += 1;
    }
    assert_eq!(checked, 9);
}

#[test]
fn a_relayed_request_keeps_tid_and_target() {
    let vector =
        dht_rpc().into_iter().find(|v| v["name"] == "relay: same tid to another address").unwrap();
    let input = &vector["input"];
    let Message::Request(request) = Message::decode(&hex(&input["request"])).unwrap() else {
        panic!("not a request")
    };
    let relayed = Request {
        to: addr(&input["to"]),
        id: fixed(&input["id"]).map(NodeId),
        value: Some(hex(&input["value"]).into()),
        ..request
    };
    assert_eq!(relayed.encode(), hex(&vector["hex"]));
}

#[test]
fn datagrams_of_real_handshakes_are_read_and_written_again() {
    let mut checked = 0;
    for vector in vectors(include_str!("vectors/handshake.json")) {
        if vector["type"].is_null() {
            continue;
        }
        let wire = hex(&vector["hex"]);
        let again = match Message::decode(&wire).unwrap() {
            Message::Request(request) => {
                assert_eq!(vector["type"], "request");
                assert_eq!(request.to, addr(&vector["to"]));
                request.encode()
            }
            Message::Reply(reply) => {
                assert_eq!(vector["type"], "response");
                assert_eq!(reply.to, addr(&vector["to"]));
                reply.encode()
            }
        };
        assert_eq!(again, wire);
        checked += 1;
    }
    assert!(checked >= 15, "{checked}");
}

#[test]
fn the_nat_sampler_decides_step_by_step_as_recorded() {
    let mut checked = 0;
    for vector in vectors(include_str!("vectors/nat.json")) {
        let name = vector["name"].as_str().unwrap();
        if !name.starts_with("node sampler") {
            continue;
        }
        let mut sampler = NatSampler::default();
        for step in vector["steps"].as_array().unwrap() {
            sampler.add(addr(&step["add"]));
            let expected = (!step["host"].is_null()).then(|| addr(step));
            assert_eq!(sampler.address(), expected, "{name}");
            checked += 1;
        }
    }
    assert_eq!(checked, 36);
}
