//! `cargo +nightly fuzz run -O -s none udx_packet`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hyperdht_proto::fuzz::udx_packet(input));
