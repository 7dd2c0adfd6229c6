//! Programs in the lab: public DHT nodes, echo servers and clients, in Node and in Rust.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{NatLab, Place};
use crate::Process;

/// Whose HyperDHT a peer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// The npm package.
    Node,
    /// Ours.
    Rust,
}

/// How peers of both stacks are started: `nat-peer.mjs` and the example `echo`, which print alike.
#[derive(Clone, Debug)]
pub struct Peers {
    node: PathBuf,
    rust: PathBuf,
    /// What servers and clients are told of relays.
    relays: Option<String>,
    /// Whether they are told that they can be reached.
    open: bool,
}

impl Peers {
    /// Builds the example, with the options that cargo knows as `--release` if asked for.
    ///
    /// # Panics
    /// When the Node packages are missing or the example does not build.
    #[must_use]
    pub fn find(release: bool) -> Self {
        static DEBUG: OnceLock<PathBuf> = OnceLock::new();
        static RELEASE: OnceLock<PathBuf> = OnceLock::new();
        let interop =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../transports/hyperdht/tests/interop");
        let packages = interop.join("node_modules");
        assert!(packages.is_dir(), "{}: `cargo xtask test` installs it", packages.display());
        let built = if release { &RELEASE } else { &DEBUG };
        let rust = built.get_or_init(|| build_example("echo", release)).clone();
        Self { node: interop.join("nat-peer.mjs"), rust, relays: None, open: false }
    }

    /// The same, told that their hosts can be reached from everywhere. Ours find that out at once, Node's
    /// after some time.
    #[must_use]
    pub fn open(self) -> Self {
        Self { open: true, ..self }
    }

    /// The same, with servers and clients that name these relays: keys with commas between.
    #[must_use]
    pub fn naming(&self, relays: &str) -> Self {
        Self { relays: Some(relays.to_owned()), ..self.clone() }
    }

    /// Starts a blind relay and waits until it is announced; gives its key, too.
    ///
    /// # Panics
    /// When it is not in time.
    #[must_use]
    pub fn relay(
        &self,
        lab: &NatLab,
        network: &Network,
        place: Place,
        stack: Stack,
    ) -> (Process, String) {
        let seed = network.next_seed();
        let relay = self.start(lab, place, stack, &["relay", network.bootstrap(), &seed]);
        let key = expect_key(&relay);
        (relay, key)
    }

    /// Has a client connect and keep the connection, within which messages are echoed all the time.
    ///
    /// # Panics
    /// When the process does not join the network.
    #[must_use]
    pub fn hold(
        &self,
        (lab, network): (&NatLab, &Network),
        place: Place,
        stack: Stack,
        key: &str,
    ) -> Process {
        let mut args = vec!["hold", network.bootstrap(), key];
        args.extend(self.relays.as_deref());
        let client = self.start(lab, place, stack, &args);
        client.expect_line("`joined`", |line| (line == "joined").then_some(()));
        client
    }

    /// Starts a peer in a place, with the arguments that both kinds take.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(&self, lab: &NatLab, place: Place, stack: Stack, args: &[&str]) -> Process {
        let mut words = lab.words(place);
        match stack {
            Stack::Node => words.extend(["node".to_owned(), self.node.display().to_string()]),
            Stack::Rust => words.push(self.rust.display().to_string()),
        }
        let name = format!("a {stack:?} peer ({})", args.join(" "));
        let mut command = command(&words, args);
        if self.open {
            command.env("OPEN", "1");
        }
        Process::spawn(&name, command)
    }

    /// Starts a service in Rust that registers with a bridge, known by its key, with a shared secret.
    /// Node's are [`Client`](crate::Client).
    ///
    /// # Panics
    /// When it does not build or cannot be started.
    #[must_use]
    pub fn service(
        (lab, network): (&NatLab, &Network),
        place: Place,
        (bridge, secret): (&str, &str),
        alias: &str,
    ) -> Process {
        static SERVICE: OnceLock<PathBuf> = OnceLock::new();
        let service = SERVICE.get_or_init(|| build_example("service", false));
        let mut words = lab.words(place);
        words.push(service.display().to_string());
        let mut command = command(&words, &[bridge, alias, network.bootstrap()]);
        command.env("DHT_PROM_SHARED_SECRET", secret);
        Process::spawn(&format!("the service {alias}"), command)
    }

    /// Starts an echo server and waits until it is announced; gives its key, too.
    ///
    /// # Panics
    /// When it is not in time.
    #[must_use]
    pub fn serve(
        &self,
        lab: &NatLab,
        network: &Network,
        place: Place,
        stack: Stack,
    ) -> (Process, String) {
        let seed = network.next_seed();
        let mut args = vec!["serve", network.bootstrap(), &seed];
        args.extend(self.relays.as_deref());
        let server = self.start(lab, place, stack, &args);
        let key = expect_key(&server);
        (server, key)
    }

    /// Dials an echo server so many times from one fresh process, each within `limit`; what is not
    /// done by then counts as failed.
    ///
    /// # Panics
    /// When the process does not join the network.
    #[must_use]
    pub fn dial(
        &self,
        (lab, network): (&NatLab, &Network),
        place: Place,
        stack: Stack,
        key: &str,
        (dials, limit): (u8, Duration),
    ) -> Vec<Dial> {
        let count = dials.to_string();
        let mut args = vec!["dial", network.bootstrap(), key, &count];
        args.extend(self.relays.as_deref());
        let client = self.start(lab, place, stack, &args);
        client.expect_line("`joined`", |line| (line == "joined").then_some(()));
        (0..dials).map(|number| Dial::read(&client, number.into(), limit)).collect()
    }
}

/// What has come of a dial.
#[derive(Clone, Debug, PartialEq)]
pub enum Dial {
    /// A message went there and back.
    Echoed {
        /// Milliseconds until the stream was open.
        open_ms: f64,
        /// Milliseconds until the echo was there.
        echoed_ms: f64,
    },
    /// It failed.
    Failed {
        /// Milliseconds until then.
        after_ms: f64,
        /// What the client says.
        reason: String,
    },
    /// Nothing, within the time that it had.
    Late,
}

impl Dial {
    /// Reads the lines of the dial of this number.
    fn read(client: &Process, number: usize, limit: Duration) -> Self {
        let deadline = Instant::now() + limit;
        let mut ended = 0;
        let mut open_ms = None;
        let ending = client.stdout().find_from(0, deadline, |line| {
            let mut words = line.splitn(3, ' ');
            let (word, ms) = (words.next()?, words.next()?.parse().ok()?);
            if word == "open" && ended == number {
                open_ms = Some(ms);
            }
            if word != "echoed" && word != "failed" {
                return None;
            }
            ended += 1;
            let reason = words.next().unwrap_or_default().to_owned();
            (ended == number + 1).then(|| (word == "echoed", ms, reason))
        });
        match (ending, open_ms) {
            (Some((true, echoed_ms, _)), Some(open_ms)) => Self::Echoed { open_ms, echoed_ms },
            (Some((_, after_ms, reason)), _) => Self::Failed { after_ms, reason },
            (None, _) => Self::Late,
        }
    }
}

/// A DHT on the public hosts of a lab.
#[derive(Debug)]
pub struct Network {
    bootstrap: String,
    nodes: Vec<Process>,
    seeds: AtomicU64,
}

impl Network {
    /// Starts a node on each of so many public hosts: the first one, which all others start from, in
    /// Node, and the others by turns as `stacks` says.
    ///
    /// # Panics
    /// When one does not come up.
    #[must_use]
    pub fn start(lab: &NatLab, peers: &Peers, stacks: &[Stack], hosts: u8) -> Self {
        let bootstrap = format!("5.5.0.11:{PORT}");
        let first = peers.start(lab, Place::Public(1), Stack::Node, &["node", "5.5.0.11", PORT]);
        expect_ready(&first);
        let further = (2..=hosts).zip(stacks.iter().cycle()).map(|(host, stack)| {
            let address = format!("5.5.0.{}", 10 + host);
            peers.start(lab, Place::Public(host), *stack, &["node", &address, PORT, &bootstrap])
        });
        let nodes: Vec<_> = further.collect();
        nodes.iter().for_each(expect_ready);
        let nodes = std::iter::once(first).chain(nodes).collect();
        Self { bootstrap, nodes, seeds: AtomicU64::new(0) }
    }

    /// The address of the first node.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The running nodes, for their logs.
    #[must_use]
    pub fn nodes(&self) -> &[Process] {
        &self.nodes
    }

    /// A seed that no server of this network has had, in hexadecimal.
    fn next_seed(&self) -> String {
        format!("{:064x}", self.seeds.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn expect_ready(node: &Process) {
    node.expect_line("`ready`", |line| line.starts_with("ready").then_some(()));
}

/// A program behind others that run it, bound to the test.
fn command(words: &[String], args: &[&str]) -> Command {
    let (program, before) = words.split_first().expect("there are words");
    let mut command = Process::bound_command(program);
    command.args(before).args(args);
    command
}

fn expect_key(server: &Process) -> String {
    server.expect_line("`listening`", |line| line.strip_prefix("listening ").map(str::to_owned))
}

fn build_example(name: &str, release: bool) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // All of the workspace, since fewer packages would have dependencies built with other features.
    build.args(["build", "--quiet", "--locked", "--workspace", "--example", name]);
    build.args(["--message-format", "json"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if release {
        build.arg("--release");
    }
    let output = build.output().expect("cargo runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the example {name} does not build: {stderr}");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut built = lines.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let target = &message["target"];
        let example = target["name"] == name && target["kind"][0] == "example";
        message["executable"].as_str().filter(|_| example).map(PathBuf::from)
    });
    built.next_back().expect("cargo says where the example is")
}

/// The usual port of DHT nodes.
const PORT: &str = "49737";
