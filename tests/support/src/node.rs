//! The Node side: a DHT of its own, and the published clients on it.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Process,
    lab::{NatLab, Network, Place},
    poll,
};

/// A HyperDHT network on 127.0.0.1, for one test.
#[derive(Debug)]
pub struct Testnet {
    process: Process,
    port: u16,
}

impl Testnet {
    /// Starts the network and waits until it is whole.
    ///
    /// # Panics
    /// When Node or its packages are missing.
    #[must_use]
    pub fn start() -> Self {
        let process = script(&[], "testnet.mjs", &[]);
        let ready = event(&process, "ready", |_| true);
        let port = ready["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Self { process, port: port.expect("the testnet prints its port") }
    }

    /// UDP port of the bootstrap node.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The running network, for its logs.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Which of the published clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// `dht-prom-client` 1.1.1: a fresh connection for each registration.
    One,
    /// `dht-prom-client` 2.1.0: a kept connection through `protomux-rpc-client`.
    Two,
}

impl Generation {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::One, Self::Two];

    /// The number that `client.mjs` and the aliases of the tests use.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

impl Serialize for Generation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

/// What a client answers when it is scraped.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum MetricsSource {
    /// The bytes of this file, read when the client starts.
    File {
        /// Where it is.
        path: PathBuf,
    },
    /// The default metrics of a Node process.
    Process,
    /// Nothing: collecting throws.
    Failing,
}

/// One client.
#[derive(Clone, Debug, Serialize)]
pub struct ClientSpec {
    /// Which published version.
    pub generation: Generation,
    /// The name to register.
    pub alias: String,
    /// The service label to register.
    pub service: String,
    /// The hostname label to register.
    pub hostname: String,
    /// 64 hex digits that give the key pair which serves the metrics; random when absent.
    pub seed: Option<String>,
    /// Whether it keeps its scrapes to itself.
    pub quiet: bool,
    /// What it answers.
    pub metrics: MetricsSource,
}

impl ClientSpec {
    /// A client that answers Node's default metrics, as `service` on `host-<generation>`.
    #[must_use]
    pub fn new(generation: Generation, alias: &str) -> Self {
        Self {
            generation,
            alias: alias.to_owned(),
            service: "shop".to_owned(),
            hostname: format!("host-{}", generation.number()),
            seed: None,
            quiet: false,
            metrics: MetricsSource::Process,
        }
    }
}

/// A Node process with one or more clients.
#[derive(Debug)]
pub struct Client {
    process: Process,
}

impl Client {
    /// Starts clients that register with the bridge of this key and shared secret.
    ///
    /// # Panics
    /// When Node or its packages are missing.
    #[must_use]
    pub fn start(testnet: &Testnet, scraper: &str, secret: &str, clients: &[ClientSpec]) -> Self {
        let bootstrap = format!("127.0.0.1:{}", testnet.port());
        Self::launch(&[], ("127.0.0.1", &bootstrap), (scraper, secret), clients)
    }

    /// The same in a place of a NAT lab.
    ///
    /// # Panics
    /// When Node or its packages are missing.
    #[must_use]
    pub fn start_in(
        (lab, network): (&NatLab, &Network),
        place: Place,
        (scraper, secret): (&str, &str),
        clients: &[ClientSpec],
    ) -> Self {
        let dht = ("0.0.0.0", network.bootstrap());
        Self::launch(&lab.words(place), dht, (scraper, secret), clients)
    }

    /// Starts them behind `words`, on a DHT node bound to `host`.
    fn launch(
        words: &[String],
        (host, bootstrap): (&str, &str),
        (scraper, secret): (&str, &str),
        clients: &[ClientSpec],
    ) -> Self {
        let settings = json!({
            "bootstrap": [bootstrap],
            "host": host,
            "scraper": scraper,
            "secret": secret,
            "clients": clients,
        });
        Self { process: script(words, "client.mjs", &[&settings.to_string()]) }
    }

    /// Waits until `alias` is registered; gives what the bridge said of `updated`.
    ///
    /// # Panics
    /// When it does not happen in time.
    #[must_use = "says whether the bridge called it an update"]
    pub fn expect_registered(&self, alias: &str) -> bool {
        let event = event(&self.process, "registered", |event| event["alias"] == alias);
        event["updated"].as_bool().expect("`updated` is a boolean")
    }

    /// Waits until the process has loaded its packages and is about to start its clients.
    ///
    /// # Panics
    /// When it does not get there in time.
    pub fn expect_starting(&self) {
        event(&self.process, "starting", |_| true);
    }

    /// Waits until `count` different aliases are registered.
    ///
    /// # Panics
    /// When a registration fails, or they are fewer in time.
    pub fn expect_all_registered(&self, count: usize) {
        let mut registered = HashSet::new();
        any_event(&self.process, &format!("the registration of {count} clients"), |event| {
            assert_ne!(event["event"], "register-failed", "{event}");
            if event["event"] == "registered" {
                registered.insert(event["alias"].to_string());
            }
            registered.len() == count
        });
    }

    /// Waits until the registration of `alias` failed; gives the reason the client saw.
    ///
    /// # Panics
    /// When it does not happen in time.
    #[must_use]
    pub fn expect_register_failed(&self, alias: &str) -> String {
        let event = event(&self.process, "register-failed", |event| event["alias"] == alias);
        event["error"].as_str().expect("`error` is text").to_owned()
    }

    /// Waits until `alias` has answered so many scrapes. Its line may come after the bridge's answer.
    ///
    /// # Panics
    /// When it answers fewer or more.
    pub fn expect_scrapes(&self, alias: &str, scrapes: usize) {
        poll(&format!("scrape {scrapes} of {alias}"), || match self.scrapes(alias) {
            seen if seen == scrapes => Ok(()),
            seen => Err(format!("it has answered {seen}")),
        });
    }

    fn scrapes(&self, alias: &str) -> usize {
        let lines = self.process.stdout().all();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["event"] == "metrics-request" && event["alias"] == alias)
            .count()
    }

    /// Ends the clients as a crash of their machine would: nobody is told.
    ///
    /// # Panics
    /// When they have ended already.
    pub fn kill(mut self) {
        self.process.kill();
    }
}

fn event(process: &Process, name: &str, accept: impl Fn(&Value) -> bool) -> Value {
    any_event(process, &format!("the event `{name}`"), |event| {
        event["event"] == name && accept(event)
    })
}

fn any_event(process: &Process, what: &str, mut accept: impl FnMut(&Value) -> bool) -> Value {
    process.expect_line(what, |line| {
        let event: Value = serde_json::from_str(line).ok()?;
        accept(&event).then_some(event)
    })
}

fn script(words: &[String], name: &str, args: &[&str]) -> Process {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../interop");
    assert!(
        folder.join("node_modules").is_dir(),
        "the Node packages are missing: `cargo xtask test` installs them, or `npm ci` in \
         tests/interop",
    );
    let mut words = words.iter().map(String::as_str).chain(["node"]);
    let mut command = Command::new(words.next().expect("there are words"));
    command.args(words).arg(folder.join(name)).args(args);
    Process::spawn(name, command)
}
