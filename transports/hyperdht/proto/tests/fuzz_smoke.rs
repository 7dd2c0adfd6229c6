//! The fuzz targets on random bytes and on mutated recordings, so that they keep building and holding.

mod fuzz_seeds;

use fuzz_seeds::{TARGETS, seeds};
use hyperdht_proto::fuzz;
use proptest::{prelude::*, sample::Index};

fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..1500)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_packet_is_answered(input: Vec<u8>, type_byte: u8, offset: u8) {
        fuzz::udx_packet(&input);
        let mut packet = vec![0xff, 1, type_byte, offset];
        packet.extend(input);
        fuzz::udx_packet(&packet);
    }

    #[test]
    fn a_stream_survives_anything(input in some_bytes()) {
        fuzz::udx_stream(&input);
    }

    #[test]
    fn decoders_survive_anything(input: Vec<u8>, first: u8) {
        for target in [fuzz::encoding, fuzz::rpc_message, fuzz::payloads, fuzz::dht_values] {
            target(&input);
            target(&[&[first], &input[..]].concat());
        }
    }

    #[test]
    fn a_relay_survives_its_clients(input in some_bytes()) {
        fuzz::blind_relay(&input);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_node_survives_strangers(input in some_bytes()) {
        fuzz::dht_node(&input);
    }

    #[test]
    fn handshakes_and_streams_survive_forgeries(input in some_bytes()) {
        fuzz::handshake(&input);
        fuzz::secret_stream(&input);
    }

    #[test]
    fn recordings_survive_what_is_done_to_them(
        which: Index,
        changes in prop::collection::vec(any::<(Index, u8)>(), 0..4),
        cut in any::<Option<Index>>(),
        tail: Vec<u8>,
    ) {
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            if seeds.is_empty() {
                continue;
            }
            let mut input = which.get(&seeds).clone();
            for (at, byte) in &changes {
                let at = at.index(input.len());
                input[at] = *byte;
            }
            if let Some(cut) = cut {
                input.truncate(cut.index(input.len()));
            }
            input.extend(&tail);
            target(&input);
        }
    }
}

#[test]
fn every_target_of_libfuzzer_is_one_of_these() {
    let manifest = include_str!("../fuzz/Cargo.toml");
    let bins: Vec<_> = manifest.lines().filter_map(|line| line.strip_prefix("path = ")).collect();
    for (name, _) in TARGETS {
        let path = format!("\"fuzz_targets/{name}.rs\"");
        assert!(bins.contains(&&path[..]), "fuzz/Cargo.toml lacks {name}");
    }
    // Protomux' frames have their smoke test in their own crate; "seeds.rs" writes the seeds.
    assert_eq!(bins.len(), TARGETS.len() + 2, "{bins:?}");
}
