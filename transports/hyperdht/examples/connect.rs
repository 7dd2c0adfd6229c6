//! Connects to a server by its key, sends it a message and prints what comes back.
//!
//! ```text
//! cargo run --example connect -- BOOTSTRAP KEY MESSAGE
//! ```
//!
//! BOOTSTRAP is `public`, or HOST:PORT of a node (several with commas between). KEY is what the server
//! prints: 64 hexadecimal digits, or 52 characters of z-base-32.
#![expect(clippy::print_stdout, reason = "what it prints is its purpose")]

use std::error::Error;

use hyperdht_rs::{KeyPair, Node, NodeOptions, PublicKey, decode_key};
use rand::{RngExt as _, rngs::StdRng};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, key, message] = &words[..] else {
        return Err("usage: connect BOOTSTRAP KEY MESSAGE".into());
    };
    let options = NodeOptions { bootstrap: bootstrap.parse()?, ..NodeOptions::default() };
    let node = Node::start(options).await?;
    let own = KeyPair::from_seed(&rand::make_rng::<StdRng>().random());
    let server = PublicKey::from_bytes(decode_key(key)?);
    let mut connection = node.connect(&own, server).await?;
    connection.send(message.clone().into()).await?;
    if let Some(answer) = connection.recv().await? {
        println!("{}", String::from_utf8_lossy(&answer));
    }
    connection.finish().await?;
    node.shutdown().await;
    Ok(())
}
