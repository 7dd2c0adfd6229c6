//! `cargo +nightly fuzz run -O -s none encoding`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hyperdht_proto::fuzz::encoding(input));
