//! Sends every message back to the peer that it came from.
//!
//! ```text
//! cargo run --example echo_server -- BOOTSTRAP [SEED]
//! ```
//!
//! BOOTSTRAP is `public`, or HOST:PORT of a node (several with commas between). SEED is 64 hexadecimal
//! digits that nobody can guess, and decides the key; without it the key is a new one. It prints
//! `listening KEY` when others can find it. Ctrl-C takes the key back from the network.
#![expect(clippy::print_stdout, reason = "what it prints is its purpose")]

use std::error::Error;

use hyperdht_rs::{KeyPair, Node, NodeOptions, decode_key, node::Incoming};
use rand::{RngExt as _, rngs::StdRng};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (bootstrap, seed) = match &words[..] {
        [bootstrap] => (bootstrap, rand::make_rng::<StdRng>().random()),
        [bootstrap, seed] => (bootstrap, decode_key(seed)?),
        _ => return Err("usage: echo_server BOOTSTRAP [SEED]".into()),
    };
    let options = NodeOptions { bootstrap: bootstrap.parse()?, ..NodeOptions::default() };
    let node = Node::start(options).await?;
    let mut server = node.listen(KeyPair::from_seed(&seed)).await?;
    println!("listening {}", server.public_key());
    loop {
        tokio::select! {
            Some(incoming) = server.accept() => drop(tokio::spawn(echo(incoming))),
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    node.shutdown().await;
    Ok(())
}

async fn echo(incoming: Incoming) {
    let peer = incoming.peer();
    // A peer that goes away is nothing to an echo.
    let Ok(mut connection) = incoming.accept().await else { return };
    let mut messages = 0;
    while let Ok(Some(message)) = connection.recv().await {
        messages += 1;
        if connection.send(message).await.is_err() {
            break;
        }
    }
    let _ = connection.finish().await;
    println!("echoed {messages} for {peer}");
}
