//! `cargo +nightly fuzz run -O -s none rpc_message`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hyperdht_proto::fuzz::rpc_message(input));
