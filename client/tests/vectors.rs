//! Every message recorded from the npm packages, read and written.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use dht_prom_client::{
    SharedSecret,
    message::{AliasRequest, AliasResponse, MetricsRequest, MetricsResponse},
};
use protomux::Payload;
use serde_json::Value;

#[test]
fn every_message_is_read_and_written() {
    let mut seen = 0;
    for vector in vectors() {
        let name = vector["name"].as_str().unwrap();
        let Some(wire) = vector["hex"].as_str().map(unhex) else { continue };
        seen += 1;
        if let Some(message) = name.strip_prefix("decode-error ") {
            assert_eq!(decode_error(message, &wire), vector["error"].as_str().unwrap());
        } else if vector["decodes"] == false {
            AliasRequest::decode(&wire).unwrap_err();
        } else {
            let written = write(name, &vector["input"]);
            assert_eq!(written, wire, "{name}");
        }
    }
    assert_eq!(seen, 13, "a vector was passed over");
}

fn vectors() -> Vec<Value> {
    let mut file: Value = serde_json::from_str(include_str!("vectors/dht-prom.json")).unwrap();
    serde_json::from_value(file["vectors"].take()).unwrap()
}

fn decode_error(message: &str, wire: &Bytes) -> String {
    match message {
        "metrics request" => MetricsRequest::decode(wire).unwrap_err(),
        "metrics response" => MetricsResponse::decode(wire).unwrap_err(),
        "alias response" => AliasResponse::decode(wire).unwrap_err(),
        other => panic!("unknown message {other}"),
    }
    .to_string()
}

/// Writes the message, and makes sure that it reads back as itself.
fn write(name: &str, input: &Value) -> Bytes {
    let text = |field: &str| input[field].as_str().unwrap().to_owned();
    let key =
        |field: &str| <[u8; 32]>::try_from(&*unhex(input[field]["hex"].as_str().unwrap())).unwrap();
    if name.starts_with("alias request") {
        let request = AliasRequest {
            secret: SharedSecret::from(key("secret")),
            alias: text("alias"),
            target: key("targetPublicKey").into(),
            hostname: text("hostname"),
            service: text("service"),
        };
        assert_eq!(AliasRequest::decode(&written(&request)), Ok(request.clone()));
        written(&request)
    } else if name.starts_with("alias response") {
        let response = match input["success"].as_bool().unwrap() {
            true => AliasResponse::Registered { updated: input["updated"].as_bool().unwrap() },
            false => AliasResponse::Failed(text("errorMessage")),
        };
        assert_eq!(AliasResponse::decode(&written(&response)), Ok(response.clone()));
        written(&response)
    } else if name == "metrics request" {
        written(&MetricsRequest)
    } else {
        let response = match input["success"].as_bool().unwrap() {
            true => MetricsResponse::Metrics(text("metrics").into()),
            false => MetricsResponse::Failed(text("errorMessage")),
        };
        assert_eq!(MetricsResponse::decode(&written(&response)), Ok(response.clone()));
        written(&response)
    }
}

fn unhex(hex: &str) -> Bytes {
    HEXLOWER.decode(hex.as_bytes()).unwrap().into()
}

fn written(message: &impl Payload) -> Bytes {
    let mut wire = BytesMut::new();
    message.encode(&mut wire);
    wire.freeze()
}
