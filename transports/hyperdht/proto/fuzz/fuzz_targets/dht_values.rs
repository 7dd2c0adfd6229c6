//! `cargo +nightly fuzz run -O -s none dht_values`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hyperdht_proto::fuzz::dht_values(input));
