//! A HyperDHT network of three nodes on 127.0.0.1, to try the other examples on.
//!
//! ```text
//! cargo run --example testnet
//! ```
//!
//! It prints `bootstrap HOST:PORT`, which the other examples take, and runs until Ctrl-C.
#![expect(clippy::print_stdout, reason = "what it prints is its purpose")]

use hyperdht_rs::Testnet;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let testnet = Testnet::start(3).await?;
    println!("bootstrap {}", testnet.bootstrap()[0]);
    Ok(tokio::signal::ctrl_c().await?)
}
