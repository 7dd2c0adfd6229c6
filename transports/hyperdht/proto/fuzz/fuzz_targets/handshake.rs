//! `cargo +nightly fuzz run -O -s none handshake`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hyperdht_proto::fuzz::handshake(input));
