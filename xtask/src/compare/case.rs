//! What is measured: each case starts a bridge, does one thing with it, and gives its rows.
//!
//! Every measurement has a DHT of its own: nodes that ended without a word linger in the routing
//! tables of the others, and would slow whoever comes next.

use std::{
    fmt,
    time::{Duration, Instant},
};

use dht_prom_test_support::{Bridge, Testnet};

use super::{
    lab::{self, Lab, Side},
    load::{Load, Timing},
    table::{Bar, Row, median, percentile},
    usage::Usage,
};

/// One measurement, done for each side in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// One client in each process, with a body of so many bytes, 8 connections.
    Single(usize),
    /// 50 clients, 16 connections.
    Crowd,
    /// Resident memory, idle and with 200 clients.
    Memory,
    /// 100 clients that all come at once.
    Register,
    /// How soon a fresh process is announced.
    Start,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(bytes) if bytes % (1 << 20) == 0 => write!(f, "{} MB", bytes >> 20),
            Self::Single(bytes) if bytes % (1 << 10) == 0 => write!(f, "{} KB", bytes >> 10),
            Self::Single(bytes) => write!(f, "{bytes} B"),
            Self::Crowd => write!(f, "{CROWD} clients"),
            Self::Memory => write!(f, "memory"),
            Self::Register => write!(f, "registration"),
            Self::Start => write!(f, "cold start"),
        }
    }
}

impl Case {
    /// The rows that [`Self::measure`] fills, in its order.
    pub(crate) fn rows(self) -> Vec<Row> {
        match self {
            Self::Single(_) => load_rows(&self.to_string(), Bar::Ratio(A_THIRD), Bar::None),
            Self::Crowd => {
                let name = format!("{CROWD} clients, {CROWD_CONNECTIONS} connections, 10 KB");
                load_rows(&name, Bar::None, Bar::Ratio(A_THIRD))
            }
            Self::Memory => vec![
                Row::new("resident memory, idle (MB)".to_owned(), Bar::None),
                Row::new(format!("resident memory, {MANY} clients (MB)"), Bar::Value(25.0)),
            ],
            Self::Register => vec![
                Row::new(format!("{HUNDRED} clients registered (s)"), Bar::Ratio(1.0)),
                Row::new(format!("first scrape of all {HUNDRED} (s)"), Bar::Ratio(1.0)),
            ],
            Self::Start => vec![Row::new("cold start (s)".to_owned(), Bar::Value(0.2))],
        }
    }

    /// Measures one side once.
    pub(crate) fn measure(self, lab: &Lab, side: Side) -> Result<Vec<f64>, String> {
        match self {
            Self::Single(bytes) => {
                under_load(lab, side, (lab.processes, SINGLE_CONNECTIONS), bytes)
            }
            Self::Crowd => under_load(lab, side, (CROWD, CROWD_CONNECTIONS), BODY),
            Self::Memory => memory(lab, side),
            Self::Register => registration(lab, side),
            Self::Start => Ok(cold_start(lab, side)),
        }
    }
}

/// How many scrapes of this size a round counts, where `rate` of them begin in a second.
pub(crate) fn scrapes(body_bytes: usize, rate: Option<u32>, quick: bool) -> usize {
    let full = (BYTES_PER_ROUND / body_bytes).clamp(400, 40_000);
    let full = rate.map_or(full, |rate| full.min(rate as usize * SECONDS_PER_ROUND));
    if quick { full / 10 } else { full }
}

fn load_rows(name: &str, cpu: Bar, p99: Bar) -> Vec<Row> {
    vec![
        Row::new(format!("CPU per scrape, {name} (us)"), cpu),
        Row::new(format!("rate, {name} (1/s)"), Bar::None),
        Row::new(format!("p50, {name} (ms)"), Bar::None),
        Row::new(format!("p99, {name} (ms)"), p99),
    ]
}

fn under_load(
    lab: &Lab,
    side: Side,
    (clients, connections): (usize, usize),
    body_bytes: usize,
) -> Result<Vec<f64>, String> {
    let testnet = Testnet::start();
    let bridge = lab.bridge(&testnet, side);
    let running = lab.clients(&testnet, &bridge, clients, body_bytes);
    running.expect_all_registered();
    let urls = lab::urls(&bridge, clients);
    let usage = usage(&bridge)?;
    let count = scrapes(body_bytes, lab.rate, lab.quick);
    let scrape = |scrapes, spacing| {
        let deadline = Instant::now() + LOAD_LIMIT;
        Load { urls: &urls, body_bytes, connections, scrapes, spacing, deadline }.run()
    };
    scrape(scrapes(body_bytes, None, false) / WARM_UP, None)?;
    let before = usage.cpu()?;
    let spacing = lab.rate.map(|rate| Duration::from_secs(1) / rate);
    let Timing { elapsed, latencies } = scrape(count, spacing)?;
    let cpu = usage.cpu()?.saturating_sub(before);
    let milliseconds = |share| percentile(&latencies, share).as_secs_f64() * 1e3;
    Ok(vec![
        cpu.as_secs_f64() * 1e6 / count as f64,
        count as f64 / elapsed.as_secs_f64(),
        milliseconds(0.5),
        milliseconds(0.99),
    ])
}

fn memory(lab: &Lab, side: Side) -> Result<Vec<f64>, String> {
    let testnet = Testnet::start();
    let bridge = lab.bridge(&testnet, side);
    let usage = usage(&bridge)?;
    let idle = usage.resident_bytes()?;
    let running = lab.clients(&testnet, &bridge, MANY, BODY);
    running.expect_all_registered();
    scrape_each_once(&bridge, MANY)?;
    let busy = usage.resident_bytes()?;
    Ok(vec![idle as f64 / 1e6, busy as f64 / 1e6])
}

fn registration(lab: &Lab, side: Side) -> Result<Vec<f64>, String> {
    let testnet = Testnet::start();
    let bridge = lab.bridge(&testnet, side);
    let running = lab.clients(&testnet, &bridge, HUNDRED, BODY);
    running.expect_starting();
    let begin = Instant::now();
    running.expect_all_registered();
    let registered = begin.elapsed();
    let scraped = scrape_each_once(&bridge, HUNDRED)?;
    Ok(vec![registered.as_secs_f64(), scraped.as_secs_f64()])
}

fn cold_start(lab: &Lab, side: Side) -> Vec<f64> {
    let mut times: Vec<f64> = (0..STARTS)
        .map(|_| {
            let testnet = Testnet::start();
            let begin = Instant::now();
            let _bridge = lab.bridge(&testnet, side);
            begin.elapsed().as_secs_f64()
        })
        .collect();
    median(&mut times).into_iter().collect()
}

fn scrape_each_once(bridge: &Bridge, clients: usize) -> Result<Duration, String> {
    let load = Load {
        urls: &lab::urls(bridge, clients),
        body_bytes: BODY,
        connections: CROWD_CONNECTIONS,
        scrapes: clients,
        spacing: None,
        deadline: Instant::now() + LOAD_LIMIT,
    };
    load.run().map(|timing| timing.elapsed)
}

fn usage(bridge: &Bridge) -> Result<Usage, String> {
    Usage::of(bridge.process().id())
}

/// What each of several clients answers.
const BODY: usize = 10 << 10;

/// A body needs room for its line's end, and fits into what the load generator reads.
pub(crate) const SMALLEST_BODY: usize = 2;
pub(crate) const LARGEST_BODY: usize = 8 << 20;

/// Enough scrapes for many clock ticks of CPU, few enough for seconds.
const BYTES_PER_ROUND: usize = 400 << 20;

/// How long a round at a steady rate takes at most.
const SECONDS_PER_ROUND: usize = 20;

/// By how much the warm-up is shorter than a full round. A quick round has the same: until Node has
/// compiled what is hot, a scrape costs it several times as much.
const WARM_UP: usize = 2;

const SINGLE_CONNECTIONS: usize = 8;
pub(crate) const CROWD: usize = 50;
const CROWD_CONNECTIONS: usize = 16;
const MANY: usize = 200;
const HUNDRED: usize = 100;
const STARTS: usize = 3;
const A_THIRD: f64 = 1.0 / 3.0;

/// How long the scrapes of one measurement may take. The waits for starts and registrations have
/// the limit of the test support.
const LOAD_LIMIT: Duration = Duration::from_secs(90);
