//! `cargo +nightly fuzz run -O -s none protomux_frames`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| protomux::fuzz::frames(input));
