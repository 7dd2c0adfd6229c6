//! `doctor`: whether services can reach a bridge on this host, why not, and what to change.

mod diagnosis;
mod examination;

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use dht_prometheus::config;

use self::diagnosis::{Diagnosis, State, diagnose};
use super::{Failure, layers, runtime, say, settings};

pub(super) fn command() -> Command {
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue);
    settings(Command::new("doctor"))
        .about("Find out whether services can reach a bridge on this host, and what to change")
        .long_about(
            "Finds out whether services can reach a bridge on this host: whether the DHT's nodes answer, \
             what kind of NAT stands before the host, whether the DHT port can be reached from outside, \
             and whether a second node finds a key announced here and connects to it. Takes the \
             bridge's settings, of which it uses those of the DHT and the seed. Stop the bridge for a \
             full examination: it holds the port. Takes some seconds, and up to a minute where nobody \
             answers.\n\n\
             The exit code is 0 when services can reach the bridge, and 1 when not.",
        )
        .arg(json.help("Print one JSON object, for programs"))
}

pub(super) fn main(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let layers = layers(matches)?;
    let (dht, seed) = (config::dht(&layers)?, config::key_pair_seed(&layers)?);
    let findings = runtime()?.block_on(examination::examine(&dht, seed.as_ref()));
    let diagnosis = diagnose(&findings);
    if matches.get_flag("json") {
        say(serde_json::to_string_pretty(&diagnosis)?)?;
    } else {
        print(&diagnosis)?;
    }
    Ok(if diagnosis.reachable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(diagnosis: &Diagnosis) -> Result<(), Failure> {
    for check in &diagnosis.checks {
        let state = match check.state {
            State::Ok => "ok  ",
            State::Warning => "warn",
            State::Failure => "FAIL",
        };
        say(format_args!("{state}  {}", check.finding))?;
        if let Some(advice) = &check.advice {
            say(format_args!("      {advice}"))?;
        }
    }
    let verdict = if diagnosis.reachable { "can" } else { "cannot" };
    say(format_args!("\nServices {verdict} reach a bridge on this host."))?;
    Ok(())
}
