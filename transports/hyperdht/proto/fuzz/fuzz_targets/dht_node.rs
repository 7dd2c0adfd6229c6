//! `cargo +nightly fuzz run -O -s none dht_node`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hyperdht_proto::fuzz::dht_node(input));
