//! `cargo xtask nat`: how long connections take across NATs, Node's and ours in the same lab.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, time::Duration};

use dht_prom_test_support::lab::{Dial, Nat, NatLab, Network, Peers, Place, Side, Stack};

use crate::{Failure, install};

pub(crate) const HELP: &str = "\
Usage: cargo xtask nat [OPTIONS]

Builds the NAT lab (network namespaces, as root), with a DHT of Node nodes on nine public hosts, and
dials an echo server behind one NAT from behind another, Node (hyperdht 6.34) and ours in all four
combinations. In each round every server and client is a fresh process, which dials twice. Prints a
Markdown table: milliseconds from the dial to the open stream, first / second dial, medians over the
rounds in which it opened; behind them, in how many rounds it did where that is not all.

Options:
  --rounds <N>   Rounds, 1 to 99; an odd number has a round in the middle [default: 5]
  --pairs <LIST> Pairs of NATs, server/client, such as cone/cone,open/symmetric [default: all nine of
                 open, cone and symmetric]
  --ways <LIST>  Who serves / who dials, such as rust/node,rust/rust [default: all four]
  --relay        Have all peers name a blind relay, ours, on a public host
  --no-install   Install nothing
  -h, --help     Print this help
";

/// What to measure, as the command line says.
#[derive(Debug)]
pub(crate) struct Options {
    rounds: usize,
    pairs: Vec<(Nat, Nat)>,
    ways: Vec<(Stack, Stack)>,
    relay: bool,
}

impl Options {
    /// Takes its options from the command line.
    pub(crate) fn parse(arguments: &mut pico_args::Arguments) -> Result<Self, String> {
        let rounds: Option<usize> =
            arguments.opt_value_from_str("--rounds").map_err(|error| error.to_string())?;
        let rounds = rounds.unwrap_or(5);
        if !(1..=99).contains(&rounds) {
            return Err("--rounds takes 1 to 99".to_owned());
        }
        let mut list = |option: &'static str| -> Result<Option<String>, String> {
            arguments.opt_value_from_str(option).map_err(|error| error.to_string())
        };
        let pairs = list("--pairs")?.map(|list| parse_list(&list, &Nat::CROSSABLE, Nat::name));
        let ways = list("--ways")?.map(|list| parse_list(&list, &STACKS, name));
        Ok(Self {
            rounds,
            pairs: pairs.unwrap_or_else(|| Ok(all(&Nat::CROSSABLE)))?,
            ways: ways.unwrap_or_else(|| Ok(all(&STACKS)))?,
            relay: arguments.contains("--relay"),
        })
    }
}

/// Builds the lab, measures, and prints the table.
pub(crate) fn run(options: &Options, install: bool, root: &Path) -> Result<(), Failure> {
    if install {
        install::packages(root, &["transports/hyperdht/tests/interop"])?;
        install::lab();
    }
    NatLab::possible()?;
    let lab = NatLab::build_anyway(PUBLIC_HOSTS);
    let mut peers = Peers::find(true);
    let network = Network::start(&lab, &peers, &[Stack::Node], PUBLIC_HOSTS);
    let beside_a_node = Place::Public(PUBLIC_HOSTS);
    let relay = options.relay.then(|| peers.relay(&lab, &network, beside_a_node, Stack::Rust));
    if let Some((_, key)) = &relay {
        peers = peers.naming(key);
    }
    let mut cells: BTreeMap<(usize, usize), Vec<Vec<Dial>>> = BTreeMap::new();
    for round in 1..=options.rounds {
        for (row, pair) in options.pairs.iter().enumerate() {
            for (column, way) in options.ways.iter().enumerate() {
                lab.put(Side::A, pair.0);
                lab.put(Side::B, pair.1);
                let dials = measure(&lab, &peers, &network, *way);
                let (server, client) = (pair.0.name(), pair.1.name());
                eprintln!(
                    "xtask: round {round}: {} behind {server}, {} behind {client}: {dials:?}",
                    name(way.0),
                    name(way.1),
                );
                cells.entry((row, column)).or_default().push(dials);
            }
        }
    }
    let table = render(options, &cells);
    #[expect(clippy::print_stdout, reason = "the table was asked for")]
    {
        print!("{table}");
    }
    Ok(())
}

fn measure(lab: &NatLab, peers: &Peers, network: &Network, way: (Stack, Stack)) -> Vec<Dial> {
    let (_server, key) = peers.serve(lab, network, Place::Host(Side::A), way.0);
    let place = Place::Host(Side::B);
    peers.dial((lab, network), place, way.1, &key, (DIALS, LIMIT))
}

fn render(options: &Options, cells: &BTreeMap<(usize, usize), Vec<Vec<Dial>>>) -> String {
    let mut text = String::from("| server behind | client behind |");
    for way in &options.ways {
        let _ = write!(text, " {} serves, {} dials |", name(way.0), name(way.1));
    }
    text += "\n|---|---|";
    text += &"---|".repeat(options.ways.len());
    for (row, pair) in options.pairs.iter().enumerate() {
        let _ = write!(text, "\n| {} | {} |", pair.0.name(), pair.1.name());
        for column in 0..options.ways.len() {
            let rounds = cells.get(&(row, column)).map_or(&[][..], Vec::as_slice);
            let _ = write!(text, " {} |", cell(rounds));
        }
    }
    text.push('\n');
    text
}

/// The first and the second dials of all rounds.
fn cell(rounds: &[Vec<Dial>]) -> String {
    let nth = |number| rounds.iter().filter_map(move |dials| dials.get(number));
    format!("{} / {}", summary(nth(0)), summary(nth(1)))
}

fn summary<'a>(dials: impl Iterator<Item = &'a Dial>) -> String {
    let mut opened = Vec::new();
    let mut reasons = Vec::new();
    let mut count = 0;
    for dial in dials {
        count += 1;
        match dial {
            Dial::Echoed { open_ms, .. } => opened.push(*open_ms),
            Dial::Failed { reason, .. } => reasons.push(reason.as_str()),
            Dial::Late => reasons.push("no answer"),
        }
    }
    opened.sort_by(f64::total_cmp);
    let median = opened.get(opened.len() / 2).copied();
    match (median, reasons.first()) {
        (Some(median), None) => format!("{median:.0}"),
        (Some(median), Some(_)) => format!("{median:.0} ({} of {count})", opened.len()),
        (None, reason) => reason.copied().unwrap_or("-").to_owned(),
    }
}

fn parse_list<T: Copy>(
    list: &str,
    known: &[T],
    name: fn(T) -> &'static str,
) -> Result<Vec<(T, T)>, String> {
    let find = |word: &str| {
        let found = known.iter().copied().find(|one| name(*one) == word.trim().to_lowercase());
        found.ok_or_else(|| format!("{word} in {list} is none of {}", names(known, name)))
    };
    let pairs = list.split(',').map(|pair| match pair.split_once('/') {
        Some((server, client)) => Ok((find(server)?, find(client)?)),
        None => Err(format!("{pair} in {list} is no pair with a / in it")),
    });
    pairs.collect()
}

fn names<T: Copy>(known: &[T], name: fn(T) -> &'static str) -> String {
    known.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ")
}

fn all<T: Copy>(of: &[T]) -> Vec<(T, T)> {
    of.iter().flat_map(|first| of.iter().map(|second| (*first, *second))).collect()
}

fn name(stack: Stack) -> &'static str {
    match stack {
        Stack::Node => "node",
        Stack::Rust => "rust",
    }
}

const STACKS: [Stack; 2] = [Stack::Node, Stack::Rust];

/// As many as a node asks at a time, and one to find the others by.
const PUBLIC_HOSTS: u8 = 9;

/// A first dial, and one with what the first has taught.
const DIALS: u8 = 2;

/// More than ports are guessed for (35 s) with what comes before.
const LIMIT: Duration = Duration::from_secs(45);

#[cfg(test)]
mod tests {
    use super::*;

    fn open(open_ms: f64) -> Dial {
        Dial::Echoed { open_ms, echoed_ms: open_ms + 1.0 }
    }

    fn failed() -> Dial {
        Dial::Failed { after_ms: 5.0, reason: "ABORTED".to_owned() }
    }

    #[test]
    fn cells_are_medians_of_what_opened_and_own_up_to_the_rest() {
        let rounds = [vec![open(30.0), failed()], vec![open(10.0), failed()], vec![open(20.0)]];
        assert_eq!(cell(&rounds), "20 / ABORTED");
        assert_eq!(
            cell(&[vec![open(7.4), Dial::Late], vec![failed(), open(9.0)]]),
            "7 (1 of 2) / 9 (1 of 2)"
        );
    }

    #[test]
    fn pairs_and_ways_are_chosen_by_name() {
        let parse = |words: &[&str]| {
            let words = words.iter().map(Into::into).collect();
            Options::parse(&mut pico_args::Arguments::from_vec(words))
        };
        let default = parse(&[]).expect("the defaults");
        assert_eq!((default.pairs.len(), default.ways.len(), default.rounds), (9, 4, 5));
        assert!(!default.relay && parse(&["--relay"]).is_ok_and(|options| options.relay));
        let some = parse(&["--pairs", "cone/open", "--ways", "Rust/node", "--rounds", "1"]);
        let some = some.expect("known words");
        assert_eq!(some.pairs, [(Nat::Cone, Nat::Open)]);
        assert_eq!(some.ways, [(Stack::Rust, Stack::Node)]);
        for wrong in [["--pairs", "cone"], ["--pairs", "cone/flat"], ["--rounds", "0"]] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
