//! Every packet captured from libudx, read and written.

use data_encoding::HEXLOWER;
use hyperdht_proto::udx::{Flags, Header, SackBlock};
use serde_json::{Value, json};

#[test]
fn every_captured_packet_is_read_and_written() {
    let file: Value = serde_json::from_str(include_str!("vectors/udx.json")).unwrap();
    let mut packets = 0;
    for vector in file["vectors"].as_array().unwrap() {
        let Some(hex) = vector["hex"].as_str() else {
            continue;
        };
        let wire = HEXLOWER.decode(hex.as_bytes()).unwrap();
        let (header, rest) = Header::decode(&wire).unwrap();
        let body = header.body(rest).unwrap();
        let sacks: Vec<SackBlock> = body.sacks.iter().collect();

        let mut decoded = json!({
            "magic": 255,
            "version": 1,
            "type": header.flags.bits(),
            "dataOffset": header.data_offset,
            "id": header.stream_id,
            "rwnd": header.window,
            "seq": header.seq.value(),
            "ack": header.ack.value(),
        });
        let mut written = header.to_bytes().to_vec();
        if header.flags.contains(Flags::SACK) {
            decoded["sacks"] =
                sacks.iter().map(|block| json!([block.start.value(), block.end.value()])).collect();
            sacks.iter().for_each(|block| block.encode(&mut written));
        } else {
            decoded["payload"] = HEXLOWER.encode(body.payload).into();
            written.extend(body.payload);
        }
        assert_eq!(decoded, vector["decoded"], "{vector}");
        assert_eq!(written, wire, "{vector}");
        packets += 1;
    }
    assert!(packets >= 20, "the vector file is cut");
}

#[test]
fn the_padding_of_a_captured_mtu_probe_is_skipped() {
    let file: Value = serde_json::from_str(include_str!("vectors/udx.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    let probe = vectors.iter().find(|vector| vector["name"] == "mtu probes").unwrap();
    let wire = HEXLOWER.decode(probe["padded"]["headerHex"].as_str().unwrap().as_bytes()).unwrap();
    let (header, rest) = Header::decode(&wire).unwrap();
    assert_eq!(u64::from(header.data_offset), probe["padded"]["dataOffset"]);
    let payload = header.body(rest).unwrap().payload;
    assert!(payload.iter().all(|&byte| byte == 3) && !payload.is_empty());
}
