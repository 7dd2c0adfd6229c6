//! An echo server and its client, over any HyperDHT network.
//!
//! ```text
//! cargo run -p hyperdht-rs --example echo -- node HOST PORT [BOOTSTRAP]
//! cargo run -p hyperdht-rs --example echo -- relay BOOTSTRAP SEED
//! cargo run -p hyperdht-rs --example echo -- serve BOOTSTRAP SEED [RELAYS]
//! cargo run -p hyperdht-rs --example echo -- dial BOOTSTRAP KEY DIALS [RELAYS]
//! cargo run -p hyperdht-rs --example echo -- hold BOOTSTRAP KEY [RELAYS]
//! ```
//!
//! `node` is a public node of the DHT, a network's first one without BOOTSTRAP, and prints
//! `ready HOST:PORT`. `serve` prints `listening KEY`. `dial` connects so many times, one after
//! another, and has a message echoed each time; it prints `joined`, then for each dial `open MS` and
//! `echoed MS`, or `failed MS REASON`; times count from the dial.
//!
//! `relay` is a blind relay and prints `listening KEY`, too. `hold` connects once and has a message
//! echoed five times a second; it prints `joined`, `open MS`, `path HOST:PORT` for each place that the
//! server's packets come from, `echoed COUNT`, and at the end `ended MS REASON`, or `failed MS REASON`.
//!
//! BOOTSTRAP is HOST:PORT, several with commas, or `public`; keys and seeds are 64 hexadecimal digits.
//! RELAYS are the keys of relays to name to the other side, with commas between.
//! It ends when its standard input does. The NAT lab of the tests runs it beside `nat-peer.mjs`,
//! which is the same in Node.
#![expect(clippy::print_stdout, reason = "what it prints is its purpose")]

use std::{
    error::Error,
    io, process,
    time::{Duration, Instant},
};

use hyperdht_rs::{
    Connection, KeyPair, Node, NodeOptions, PublicKey,
    connection::ConnectionError,
    decode_key,
    node::{Incoming, Role},
    relay::{RelayLimits, RelayServer},
};
use rand::{RngExt as _, rngs::StdRng};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    match words[..] {
        ["node", host, port] => node(host, port, "").await,
        ["node", host, port, bootstrap] => node(host, port, bootstrap).await,
        ["relay", bootstrap, seed] => relay(bootstrap, seed).await,
        ["serve", bootstrap, seed] => serve(options(bootstrap)?, seed).await,
        ["serve", bootstrap, seed, relays] => serve(naming(bootstrap, relays)?, seed).await,
        ["dial", bootstrap, key, dials] => dial(options(bootstrap)?, key, dials).await,
        ["dial", bootstrap, key, dials, relays] => {
            dial(naming(bootstrap, relays)?, key, dials).await
        }
        ["hold", bootstrap, key] => hold(options(bootstrap)?, key).await,
        ["hold", bootstrap, key, relays] => hold(naming(bootstrap, relays)?, key).await,
        _ => {
            Err("node, relay, serve, dial or hold, with the arguments that the source tells".into())
        }
    }
}

async fn node(host: &str, port: &str, bootstrap: &str) -> Result<(), Failure> {
    let options = NodeOptions {
        host: host.parse()?,
        port: Some(port.parse()?),
        role: Role::Persistent,
        firewalled: false,
        ..options(bootstrap)?
    };
    let node = Node::start(options).await?;
    println!("ready {}", node.local_addr());
    std::future::pending().await
}

async fn relay(bootstrap: &str, seed: &str) -> Result<(), Failure> {
    let options = NodeOptions { role: Role::Persistent, ..options(bootstrap)? };
    let node = Node::start(options).await?;
    let key_pair = KeyPair::from_seed(&decode_key(seed)?);
    let relay = RelayServer::start(&node, key_pair, RelayLimits::default()).await?;
    println!("listening {}", relay.public_key());
    std::future::pending().await
}

async fn serve(options: NodeOptions, seed: &str) -> Result<(), Failure> {
    let node = Node::start(options).await?;
    let mut server = node.listen(KeyPair::from_seed(&decode_key(seed)?)).await?;
    println!("listening {}", server.public_key());
    while let Some(incoming) = server.accept().await {
        tokio::spawn(async {
            // A peer that goes away is nothing to an echo.
            let _ = echo(incoming).await;
        });
    }
    Ok(())
}

async fn echo(incoming: Incoming) -> Result<(), Failure> {
    let mut connection = incoming.accept().await?;
    while let Some(message) = connection.recv().await? {
        connection.send(message).await?;
    }
    Ok(connection.finish().await?)
}

async fn dial(options: NodeOptions, key: &str, dials: &str) -> Result<(), Failure> {
    let node = Node::start(options).await?;
    println!("joined");
    let me = KeyPair::from_seed(&rand::make_rng::<StdRng>().random());
    let server = PublicKey::from_bytes(decode_key(key)?);
    for _ in 0..dials.parse()? {
        let began = Instant::now();
        match node.connect(&me, server).await {
            Ok(connection) => talk(connection, began).await?,
            Err(error) => println!("failed {:.1} {error}", ms(began)),
        }
    }
    node.shutdown().await;
    Ok(())
}

async fn talk(mut connection: Connection, began: Instant) -> Result<(), ConnectionError> {
    println!("open {:.1}", ms(began));
    connection.send("a message to be echoed".into()).await?;
    connection.recv().await?;
    println!("echoed {:.1}", ms(began));
    connection.finish().await?;
    // The server ends its half, too, unless it was lost meanwhile.
    let _ = tokio::time::timeout(PARTING, connection.recv()).await;
    Ok(())
}

async fn hold(options: NodeOptions, key: &str) -> Result<(), Failure> {
    let node = Node::start(options).await?;
    println!("joined");
    let me = KeyPair::from_seed(&rand::make_rng::<StdRng>().random());
    let began = Instant::now();
    let mut connection = match node.connect(&me, PublicKey::from_bytes(decode_key(key)?)).await {
        Ok(connection) => connection,
        Err(error) => {
            println!("failed {:.1} {error}", ms(began));
            return Ok(());
        }
    };
    println!("open {:.1}", ms(began));
    let error = keep_talking(&mut connection).await;
    println!("ended {:.1} {error}", ms(began));
    Ok(())
}

async fn keep_talking(connection: &mut Connection) -> ConnectionError {
    let mut path = None;
    for count in 1.. {
        if let Err(error) = connection.send("a message to be echoed".into()).await {
            return error;
        }
        match connection.recv().await {
            Ok(Some(_)) => println!("echoed {count}"),
            Ok(None) => break,
            Err(error) => return error,
        }
        let before = std::mem::replace(&mut path, connection.remote_addr());
        if let (true, Some(now)) = (before != path, path) {
            println!("path {now}");
        }
        tokio::time::sleep(PAUSE).await;
    }
    ConnectionError::Ended
}

fn naming(bootstrap: &str, relays: &str) -> Result<NodeOptions, Failure> {
    let relays = relays.split(',').map(|key| Ok(PublicKey::from_bytes(decode_key(key)?)));
    Ok(NodeOptions { relays: relays.collect::<Result<_, Failure>>()?, ..options(bootstrap)? })
}

fn options(bootstrap: &str) -> Result<NodeOptions, Failure> {
    Ok(NodeOptions { bootstrap: bootstrap.parse()?, ..NodeOptions::default() })
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Between one message and the next.
const PAUSE: Duration = Duration::from_millis(200);

/// How long the end of a connection is waited for.
const PARTING: Duration = Duration::from_secs(2);
