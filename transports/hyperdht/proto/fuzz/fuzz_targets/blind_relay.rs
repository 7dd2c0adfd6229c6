//! `cargo +nightly fuzz run -O -s none blind_relay`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hyperdht_proto::fuzz::blind_relay(input));
