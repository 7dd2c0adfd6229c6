//! Stores values in the DHT: one under its hash, for ever the same, and one under a key, whose owner
//! replaces it by a later version.
//!
//! ```text
//! cargo run --example records -- BOOTSTRAP TEXT
//! ```
//!
//! BOOTSTRAP is `public`, or HOST:PORT of a node (several with commas between). A value has at most about
//! 1000 bytes; nodes forget it after some two days unless it is stored again.
#![expect(clippy::print_stdout, reason = "what it prints is its purpose")]

use std::error::Error;

use bytes::Bytes;
use hyperdht_rs::{KeyPair, Node, NodeOptions, hash};
use rand::{RngExt as _, rngs::StdRng};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, text] = &words[..] else {
        return Err("usage: records BOOTSTRAP TEXT".into());
    };
    let options = NodeOptions { bootstrap: bootstrap.parse()?, ..NodeOptions::default() };
    let node = Node::start(options).await?;

    let value = Bytes::from(text.clone());
    node.immutable_put(value.clone()).await?;
    // Whoever knows the hash gets the value, and can tell that it is the right one.
    let found = node.immutable_get(hash(&[&value])).await?.ok_or("nobody has the value")?;
    println!("immutable: {}", String::from_utf8_lossy(&found));

    let owner = KeyPair::from_seed(&rand::make_rng::<StdRng>().random());
    for seq in 1..=2 {
        node.mutable_put(&owner, seq, format!("{text}, version {seq}").into()).await?;
    }
    let latest = node.mutable_get(owner.public_key(), 0).await?.ok_or("nobody has the record")?;
    println!("mutable: {}", String::from_utf8_lossy(&latest.value));
    // Nodes that know a later version refuse an earlier one.
    if let Err(error) = node.mutable_put(&owner, 1, "late".into()).await {
        println!("refused: {error}");
    }
    node.shutdown().await;
    Ok(())
}
