//! Writes the recorded inputs of each fuzz target into its corpus, where libFuzzer begins.
//!
//! ```text
//! cd transports/hyperdht/proto/fuzz
//! cargo run --no-default-features --example seeds
//! cargo +nightly fuzz run -O -s none rpc_message -- -max_len=4096
//! ```
//!
//! No sanitizer: none of these crates has unsafe code. `-O` leaves assertions on where they are ours.

#[path = "../tests/fuzz_seeds/mod.rs"]
mod fuzz_seeds;

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let targets = fuzz_seeds::TARGETS.map(|(target, _)| target);
    for target in targets.into_iter().chain(["protomux_frames"]) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&corpus)?;
        for (number, seed) in fuzz_seeds::seeds(target).iter().enumerate() {
            fs::write(corpus.join(format!("recorded-{number}")), seed)?;
        }
    }
    Ok(())
}
