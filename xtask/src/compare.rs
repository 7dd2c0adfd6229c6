//! `cargo xtask compare`: the Node bridge and ours, measured in turns by the same Node clients.

use std::{
    any::Any,
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::Command,
};

use case::Case;
use lab::{Lab, Side};
use table::Rounds;

use crate::{Failure, cargo, install, step};

mod case;
mod lab;
mod load;
mod table;
mod usage;

pub(crate) const HELP: &str = "\
Usage: cargo xtask compare [OPTIONS]

Measures the Node bridge (hyperdht-prometheus-bridge 2.1.1, pinned in xtask/compare) and ours
(built here with --release) side by side, and prints one table with the median of three rounds.
Both sides get the same Node clients (dht-prom-client 2.1.0), the same load, and the default log
level; who goes first changes with every round. Each measurement starts its own local DHT of Node
nodes, bridge and clients.

  CPU per scrape  utime + stime of the bridge process over a fixed count of scrapes, after a
                  warm-up of half a full round; the kernel counts in ticks of 10 ms
  rate, p50, p99  as the load generator sees them; on a small machine it, the clients and the bridge
                  share the processors, which flatters the slower side
  resident memory of the bridge process, in 10^6 bytes
  registered      from when all clients' processes have loaded their packages to the last success
  cold start      from the start of the process to the log line `DHT RPC ready`

A side that fails a row says so in its cell, and the run goes on. Figures of a busy machine mean
little: the load averages are printed with the table.

Options:
  --quick         One round, a tenth of the scrapes: a check of the tool more than of the bridges
  --only <WHAT>   cpu, latency, memory, register or start; several with commas
  --processes <N> Node processes that the clients are spread over, 1 by default, at most 50; the CPU
                  rows have one client in each. With one, its thread is what everybody waits for, and
                  its garbage collections stop all services at once
  --rate <N>      Scrapes that begin in a second, at most 500, evenly spaced as Prometheus spreads its
                  targets over their interval, for at most 20 s a round; the warm-up stays as it is.
                  Without it, as many as the bridge answers
  --sizes <LIST>  Bodies of the CPU rows, such as 1k,10k,100k,1m (the default) or 5000
  --no-install    Install nothing
  -h, --help      Print this help
";

/// What to measure, as the command line says.
#[derive(Debug)]
pub(crate) struct Options {
    cases: Vec<Case>,
    processes: usize,
    rate: Option<u32>,
    quick: bool,
}

impl Options {
    /// Takes its options from the command line.
    pub(crate) fn parse(arguments: &mut pico_args::Arguments) -> Result<Self, String> {
        let quick = arguments.contains("--quick");
        let only: Option<String> =
            arguments.opt_value_from_str("--only").map_err(|error| error.to_string())?;
        let sizes: Option<String> =
            arguments.opt_value_from_str("--sizes").map_err(|error| error.to_string())?;
        let sizes = sizes.as_deref().unwrap_or("1k,10k,100k,1m");
        let sizes = sizes.split(',').map(bytes).collect::<Result<Vec<_>, _>>()?;
        let processes: Option<usize> =
            arguments.opt_value_from_str("--processes").map_err(|error| error.to_string())?;
        let processes = processes.unwrap_or(1);
        // The smallest crowd is to have a client for each.
        if !(1..=case::CROWD).contains(&processes) {
            return Err(format!("--processes: {processes} is not from 1 to {}", case::CROWD));
        }
        let rate: Option<u32> =
            arguments.opt_value_from_str("--rate").map_err(|error| error.to_string())?;
        if let Some(rate) = rate.filter(|rate| !(1..=LARGEST_RATE).contains(rate)) {
            return Err(format!("--rate: {rate} is not from 1 to {LARGEST_RATE}"));
        }
        let only = only.as_deref().unwrap_or("cpu,latency,memory,register,start");
        let mut cases = Vec::new();
        for what in only.split(',') {
            match what {
                "cpu" => cases.extend(sizes.iter().copied().map(Case::Single)),
                "latency" => cases.push(Case::Crowd),
                "memory" => cases.push(Case::Memory),
                "register" => cases.push(Case::Register),
                "start" => cases.push(Case::Start),
                other => return Err(format!("--only does not know {other}")),
            }
        }
        Ok(Self { cases, processes, rate, quick })
    }
}

/// Installs, builds, measures, and prints the table.
pub(crate) fn run(options: &Options, install: bool, root: &Path) -> Result<(), Failure> {
    if install {
        install::packages(root, &["tests/interop", "xtask/compare"])?;
    }
    step(cargo(&["build", "--release", "--locked", "--bin", "dht-prometheus"]))?;
    let before = load_average();
    let lab = Lab::open(root, options.quick, options.processes, options.rate);
    let rounds = if options.quick { 1 } else { ROUNDS };
    let mut results: Vec<(Case, Rounds)> =
        options.cases.iter().map(|case| (*case, Rounds::default())).collect();
    for round in 0..rounds {
        let order = if round % 2 == 0 { Side::BOTH } else { [Side::Ours, Side::Node] };
        for (case, outcomes) in &mut results {
            for side in order {
                eprintln!("xtask: round {} of {rounds}: {case}: {side}", round + 1);
                outcomes.of_mut(side).push(attempt(|| case.measure(&lab, side)));
            }
        }
    }
    let table = table::render(&results);
    let conditions = conditions(rounds, options, &before);
    #[expect(clippy::print_stdout, reason = "the table was asked for")]
    {
        print!("{table}\n{conditions}");
    }
    Ok(())
}

/// What `measure` gives; the panic of a wait that was in vain becomes an error like others.
fn attempt(measure: impl FnOnce() -> Result<Vec<f64>, String>) -> Result<Vec<f64>, String> {
    let result = catch_unwind(AssertUnwindSafe(measure)).unwrap_or_else(|panic| Err(text(&*panic)));
    result.inspect_err(|reason| eprintln!("xtask: failed: {reason}"))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied()).unwrap_or("a panic without words").to_owned()
}

fn conditions(rounds: usize, options: &Options, before: &str) -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let node = Command::new("node").arg("--version").output();
    let node = node.map_or_else(|_| "?".into(), |output| output.stdout);
    let node = String::from_utf8_lossy(&node);
    let after = load_average();
    let mut lines = format!(
        "Median of {rounds} round(s); {processors} processors; clients in {} process(es); Node {}; \
         load average {before} before, {after} after.\n",
        options.processes,
        node.trim(),
    );
    for case in &options.cases {
        if let Case::Single(bytes) = case {
            let scrapes = case::scrapes(*bytes, options.rate, options.quick);
            let _ = writeln!(lines, "{case}: {scrapes} scrapes a round.");
        }
    }
    lines
}

fn load_average() -> String {
    use procfs::Current as _;
    procfs::LoadAverage::current().map_or_else(|_| "?".to_owned(), |load| load.one.to_string())
}

/// A count of bytes, with `k` or `m` for 1024 of them or 1024 times that.
fn bytes(text: &str) -> Result<usize, String> {
    let lower = text.trim().to_ascii_lowercase();
    let (digits, unit) = match lower.strip_suffix('k') {
        Some(digits) => (digits, 1 << 10),
        None => lower.strip_suffix('m').map_or((lower.as_str(), 1), |digits| (digits, 1 << 20)),
    };
    let count: Option<usize> = digits.parse().ok();
    let bytes = count.and_then(|count| count.checked_mul(unit));
    bytes
        .filter(|bytes| (case::SMALLEST_BODY..=case::LARGEST_BODY).contains(bytes))
        .ok_or_else(|| format!("--sizes: {text} is not a size such as 1k, at most 8m"))
}

/// The load generator's timer counts milliseconds.
const LARGEST_RATE: u32 = 500;

/// Odd, so that the median is a round that took place.
const ROUNDS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_with_units() {
        assert_eq!(bytes("1k"), Ok(1024));
        assert_eq!(bytes("1M"), Ok(1 << 20));
        assert_eq!(bytes("5000"), Ok(5000));
        for wrong in ["", "k", "-1", "0", "9m", "1g", "99999999999999999999k"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_and_sizes_choose_the_cases() {
        let parse = |words: &[&str]| {
            let words = words.iter().map(Into::into).collect();
            Options::parse(&mut pico_args::Arguments::from_vec(words))
        };
        assert_eq!(parse(&[]).expect("the defaults").cases.len(), 8);
        let some = parse(&["--only", "start,cpu", "--sizes", "2k"]).expect("known words");
        assert_eq!(some.cases, [Case::Start, Case::Single(2048)]);
        assert!(parse(&["--only", "cpus"]).is_err());
        assert_eq!(parse(&["--processes", "8"]).expect("a few").processes, 8);
        assert!(parse(&["--processes", "0"]).is_err());
        assert!(parse(&["--processes", "51"]).is_err());
        assert_eq!(parse(&["--rate", "100"]).expect("a rate").rate, Some(100));
        assert!(parse(&["--rate", "0"]).is_err() && parse(&["--rate", "501"]).is_err());
    }

    #[test]
    fn a_panic_is_a_failure_with_its_words() {
        let failed = attempt(|| panic!("nobody {}", "came"));
        assert_eq!(failed, Err("nobody came".to_owned()));
        assert_eq!(attempt(|| Ok(vec![1.0])), Ok(vec![1.0]));
    }
}
