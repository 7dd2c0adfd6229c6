//! Our UDX beside `udx-native`, each end in a process of its own, from one run on one machine.
//!
//! ```text
//! (cd transports/hyperdht/tests/interop && npm ci)
//! cargo bench -p hyperdht-rs --bench udx            # all rows
//! cargo bench -p hyperdht-rs --bench udx -- 1KB     # rows whose name contains a text
//! ```
//!
//! The `lossy` rows put a forwarder in between, which delays and drops packets; there, `OursEach`
//! acknowledges every packet as libudx does, to show what coalescing does to a libudx sender. A timeout of a second decides about a mean of a
//! dozen answers: compare medians.
//!
//! CPU time is user and system, by getrusage, of each end alone, warm-up left out.

#![expect(clippy::print_stdout, reason = "the table is the result")]
#![expect(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

#[path = "../tests/interop/forwarder.rs"]
mod forwarder;

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyperdht_rs::{
    moderate_wakeups,
    udx::{AckPolicy, Config, Firewall, StreamOptions, Udx, UdxStream},
};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Runtime,
};

use self::forwarder::{Forwarder, Impairment};

/// Whose ends talk to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stack {
    Libudx,
    Ours,
    OursEach,
}

/// Loss and one-way delay of the forwarder, and the pairs that are measured over it.
const LOSSES: [f64; 3] = [0.0, 0.01, 0.05];
const DELAYS_MS: [u64; 2] = [10, 50];
const PAIRS: [(Stack, Stack); 5] = [
    (Stack::Libudx, Stack::Libudx),
    (Stack::Libudx, Stack::Ours),
    (Stack::Libudx, Stack::OursEach),
    (Stack::Ours, Stack::Libudx),
    (Stack::Ours, Stack::Ours),
];

/// One kind of work: requests of one length and answers of another, one after another.
struct Row {
    name: &'static str,
    request_len: usize,
    answer_len: usize,
    count: usize,
}

const ROWS: [Row; 4] = [
    Row { name: "50B-1KB", request_len: 50, answer_len: 1024, count: 20_000 },
    Row { name: "100KB", request_len: 50, answer_len: 100 * 1024, count: 2_000 },
    Row { name: "1MB", request_len: 50, answer_len: 1024 * 1024, count: 400 },
    Row { name: "bulk-1GB", request_len: 50, answer_len: 1024 * 1024 * 1024, count: 1 },
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> =
        args.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    match words[..] {
        ["answer", request_len] => run(answerer(request_len.parse().unwrap())),
        ["ask", port, request_len, answer_len, count] => run(asker(
            port.parse().unwrap(),
            request_len.parse().unwrap(),
            answer_len.parse().unwrap(),
            count.parse().unwrap(),
        )),
        ["idle-child"] => run(idle()),
        _ => table(words.first().copied().unwrap_or("")),
    }
}

/// Runs `work` as a task, which is where streams are used in programs that have more than one: the
/// future of `block_on` costs a look at all sockets whenever it is woken.
fn run(work: impl Future<Output = ()> + Send + 'static) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = moderate_wakeups(builder.enable_all()).build().unwrap();
    runtime.block_on(async { tokio::spawn(work).await.unwrap() });
}

fn table(filter: &str) {
    println!(
        "| work | sender -> receiver | p50 us | p99 us | MB/s | CPU us per answer: sender | receiver | both | answers per CPU s |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|");
    for row in ROWS.iter().filter(|row| row.name.contains(filter)) {
        for sender in [Stack::Libudx, Stack::Ours] {
            for receiver in [Stack::Libudx, Stack::Ours] {
                println!("{}", measure(row, sender, receiver, None));
            }
        }
    }
    if "lossy".contains(filter) {
        lossy();
    }
    if "idle".contains(filter) {
        let exe = std::env::current_exe().unwrap();
        Command::new(exe).arg("idle-child").status().unwrap();
    }
}

fn lossy() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for delay in DELAYS_MS.map(Duration::from_millis) {
        for loss in LOSSES {
            let row = Row { name: "4MB", request_len: 50, answer_len: 4 * 1024 * 1024, count: 12 };
            for (sender, receiver) in PAIRS {
                let impairment = Impairment { loss, delay, ..Impairment::default() };
                let line = measure(&row, sender, receiver, Some((&runtime, impairment)));
                println!(
                    "| {:.0} % loss, {} ms round trip {}",
                    loss * 100.0,
                    2 * delay.as_millis(),
                    line
                );
            }
        }
    }
}

/// Measures one row; gives back its line of the table.
fn measure(
    row: &Row,
    sender: Stack,
    receiver: Stack,
    network: Option<(&Runtime, Impairment)>,
) -> String {
    let (mut answering, mut lines) = start(sender, &["answer", &row.request_len.to_string()]);
    let mut port = line(&mut lines)["port"].as_u64().unwrap();
    let forwarder = network.map(|(runtime, impairment)| {
        let target = ([127, 0, 0, 1], u16::try_from(port).unwrap()).into();
        runtime.block_on(Forwarder::start(target, impairment))
    });
    if let Some(forwarder) = &forwarder {
        port = forwarder.address().port().into();
    }
    let numbers = [port as usize, row.request_len, row.answer_len, row.count];
    let numbers = numbers.map(|number| number.to_string());
    let args: Vec<&str> =
        std::iter::once("ask").chain(numbers.iter().map(String::as_str)).collect();
    let (mut asking, mut asked) = start(receiver, &args);
    let result = line(&mut asked);
    asking.wait().unwrap();
    drop(answering.stdin.take());
    let sender_cpu = line(&mut lines)["cpu"].as_f64().unwrap();
    answering.wait().unwrap();

    // The answerer cannot tell where the warm-up ended; it did that much more.
    let warmup = (row.count >> 2).min(200);
    let count = row.count as f64;
    let sender_cpu = sender_cpu / (count + warmup as f64);
    let receiver_cpu = result["cpu"].as_f64().unwrap() / count;
    let both = sender_cpu + receiver_cpu;
    let megabytes = row.answer_len as f64 * count / 1e6;
    format!(
        "| {} | {sender:?} -> {receiver:?} | {:.0} | {:.0} | {:.1} | {sender_cpu:.1} | {receiver_cpu:.1} | {both:.1} | {:.0} |",
        row.name,
        result["p50"].as_f64().unwrap(),
        result["p99"].as_f64().unwrap(),
        megabytes / result["seconds"].as_f64().unwrap(),
        1e6 / both,
    )
}

fn start(stack: Stack, args: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut command = match stack {
        Stack::Ours | Stack::OursEach => Command::new(std::env::current_exe().unwrap()),
        Stack::Libudx => {
            let mut node = Command::new("node");
            node.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop"));
            node.arg("udx-bench.js");
            node
        }
    };
    if stack == Stack::OursEach {
        command.env(EACH_VARIABLE, "1");
    }
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed");
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

fn line(lines: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// User and system time of this process.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    [usage.user_time(), usage.system_time()]
        .into_iter()
        .map(|time| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64))
        .sum()
}

/// Makes a child acknowledge every packet.
const EACH_VARIABLE: &str = "UDX_BENCH_ACK_EACH";

fn config() -> Config {
    let mut config = Config::default();
    if std::env::var_os(EACH_VARIABLE).is_some() {
        config.acks = AckPolicy::EveryPacket;
    }
    config
}

async fn answerer(request_len: usize) {
    let udx = Udx::new(config());
    let (socket, _datagrams) = udx.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let options =
        StreamOptions { firewall: Some(Firewall::connect_to_first(1)), ..StreamOptions::default() };
    let mut stream = udx.open(2, options).unwrap();
    println!("{}", json!({ "port": socket.local_addr().port() }));
    let started = cpu();
    let ended = tokio::task::spawn_blocking(|| {
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    });
    tokio::select! {
        () = answer_all(&mut stream, request_len) => {}
        _ = ended => {}
    }
    println!("{}", json!({ "cpu": (cpu() - started).as_micros() as u64 }));
    std::process::exit(0);
}

async fn answer_all(stream: &mut UdxStream, request_len: usize) {
    let zeros = Bytes::from(vec![0; 1 << 20]);
    let mut request = vec![0; request_len];
    while stream.read_exact(&mut request).await.is_ok() {
        let mut left = u32::from_le_bytes(request[..4].try_into().unwrap()) as usize;
        while left > 0 {
            let mut chunk = zeros.slice(..left.min(zeros.len()));
            left -= chunk.len();
            stream.write_bytes(&mut chunk).await.unwrap();
        }
    }
    // Stay until told to stop: the CPU time is asked for then.
    std::future::pending::<()>().await;
}

async fn asker(port: u16, request_len: usize, answer_len: usize, count: usize) {
    let udx = Udx::new(config());
    let (socket, _datagrams) = udx.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut stream = udx.open(1, StreamOptions::default()).unwrap();
    stream.connect(&socket, 2, ([127, 0, 0, 1], port).into()).unwrap();
    let mut request = vec![0; request_len];
    request[..4].copy_from_slice(&(answer_len as u32).to_le_bytes());

    let warmup = (count >> 2).min(200);
    let mut times = Vec::with_capacity(count);
    let (mut started, mut begun) = (cpu(), Instant::now());
    for n in 0..count + warmup {
        if n == warmup {
            (started, begun) = (cpu(), Instant::now());
        }
        let asked = Instant::now();
        stream.write_all(&request).await.unwrap();
        let mut missing = answer_len;
        while missing > 0 {
            missing -= stream.read().await.unwrap().unwrap().len();
        }
        if n >= warmup {
            times.push(asked.elapsed());
        }
    }
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu() - started);
    times.sort_unstable();
    let micros = |at: usize| times[at].as_secs_f64() * 1e6;
    println!(
        "{}",
        json!({
            "p50": micros(times.len() / 2),
            "p99": micros(times.len() * 99 / 100),
            "seconds": seconds,
            "cpu": cpu.as_micros() as u64,
        })
    );
}

/// Many open streams that do nothing.
async fn idle() {
    const STREAMS: u32 = 10_000;
    let (client, server) = (Udx::new(Config::default()), Udx::new(Config::default()));
    let (client_socket, _a) = client.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (server_socket, _b) = server.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let before = resident();
    let mut open = Vec::new();
    for id in 0..STREAMS {
        let options = StreamOptions {
            firewall: Some(Firewall::connect_to_first(id)),
            ..StreamOptions::default()
        };
        let mut accepted = server.open(id, options).unwrap();
        let mut dialled = client.open(id, StreamOptions::default()).unwrap();
        let peer = server_socket.local_addr();
        dialled.connect(&client_socket, id, peer).unwrap();
        dialled.write_all(b"hello").await.unwrap();
        accepted.read_exact(&mut [0; 5]).await.unwrap();
        accepted.write_all(b"hello").await.unwrap();
        dialled.read_exact(&mut [0; 5]).await.unwrap();
        open.push((dialled, accepted));
    }
    let each = (resident() - before) / (2 * u64::from(STREAMS));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let started = cpu();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let share = (cpu() - started).as_secs_f64() / 5.0 * 100.0;
    println!(
        "| idle | {STREAMS} streams, both ends | {each} bytes each | CPU {share:.2} % of a core |"
    );
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
