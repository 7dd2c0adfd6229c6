//! Finds peers by a name that they share: announces a server at a topic, or looks a topic up.
//!
//! ```text
//! cargo run --example topic -- announce BOOTSTRAP NAME
//! cargo run --example topic -- lookup BOOTSTRAP NAME
//! ```
//!
//! BOOTSTRAP is `public`, or HOST:PORT of a node (several with commas between); the topic is the hash of
//! NAME. `announce` prints `announced KEY at N nodes` and stays until Ctrl-C, when it takes the
//! announcement back; nodes forget it after 20 minutes, so it renews it every ten. `lookup` prints the
//! key of each peer that it finds.
#![expect(clippy::print_stdout, reason = "what it prints is its purpose")]

use std::{collections::BTreeSet, error::Error, time::Duration};

use hyperdht_rs::{KeyPair, Node, NodeOptions, Target, hash};
use rand::{RngExt as _, rngs::StdRng};

type Failure = Box<dyn Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [command, bootstrap, name] = &words[..] else { return Err(USAGE.into()) };
    let options = NodeOptions { bootstrap: bootstrap.parse()?, ..NodeOptions::default() };
    let node = Node::start(options).await?;
    let topic = hash(&[name.as_bytes()]);
    match &command[..] {
        "announce" => announce(&node, topic).await?,
        "lookup" => lookup(&node, topic).await?,
        _ => return Err(USAGE.into()),
    }
    node.shutdown().await;
    Ok(())
}

async fn announce(node: &Node, topic: Target) -> Result<(), Failure> {
    let own = KeyPair::from_seed(&rand::make_rng::<StdRng>().random());
    // Others connect to a server; the topic only tells them its key.
    let server = node.listen(own.clone()).await?;
    let mut renew = tokio::time::interval(Duration::from_secs(600));
    loop {
        tokio::select! {
            _ = renew.tick() => {
                let nodes = node.announce(topic, &own, server.relay_addresses()).await?;
                println!("announced {} at {nodes} nodes", server.public_key());
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    Ok(node.unannounce(topic, &own).await?)
}

async fn lookup(node: &Node, topic: Target) -> Result<(), Failure> {
    let answers = node.lookup(topic).await?;
    let peers = answers.into_iter().flat_map(|answer| answer.peers);
    // Several nodes name the same peers.
    for key in peers.map(|peer| peer.public_key).collect::<BTreeSet<_>>() {
        println!("{key}");
    }
    Ok(())
}

const USAGE: &str = "usage: topic announce|lookup BOOTSTRAP NAME";
