//! `keygen`: secrets and keys.

use std::io::{Read, stdin};

use clap::{Arg, ArgMatches, Command};
use dht_prom_transport::{PublicKey, decode_key};
use dht_prometheus::{config::Seed, transport::public_key};
use zeroize::Zeroizing;

use super::{Failure, say};

pub(super) fn command() -> Command {
    Command::new("keygen")
        .about("Print a fresh secret and seed with its public key, or the public key of a seed")
        .arg(
            Arg::new("seed")
                .value_name("SEED")
                .help("Print the public key of this seed instead; `-` reads it from stdin"),
        )
}

pub(super) fn main(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.get_one::<String>("seed") {
        Some(seed) => Ok(say(public_key(&read_seed(seed)?))?),
        None => fresh(),
    }
}

fn read_seed(text: &str) -> Result<Seed, Failure> {
    let mut text = Zeroizing::new(text.to_owned());
    if text.as_str() == "-" {
        text.clear();
        stdin().take(1024).read_to_string(&mut text)?;
    }
    Ok(Seed::from_bytes(decode_key(text.trim())?))
}

fn fresh() -> Result<(), Failure> {
    let (secret, seed) = (Seed::random(), Seed::random());
    // Secrets have the text form of keys.
    let text = |bytes: &Seed| PublicKey::from_bytes(*bytes.expose()).to_string();
    say(format_args!("DHT_PROM_SHARED_SECRET={}", text(&secret)))?;
    say(format_args!("DHT_PROM_KEY_PAIR_SEED={}", text(&seed)))?;
    say("# Services need the shared secret and the bridge's public key:")?;
    say(format_args!("# {}", public_key(&seed)))?;
    Ok(())
}
