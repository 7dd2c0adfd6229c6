//! `cargo +nightly fuzz run -O -s none secret_stream`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hyperdht_proto::fuzz::secret_stream(input));
