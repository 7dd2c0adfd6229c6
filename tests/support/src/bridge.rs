//! The bridge under test, as a process.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{Process, Response, Testnet, http_get, lab::Network};

/// The program that the tests run as the bridge.
#[derive(Clone, Debug)]
pub struct Subject {
    command: Vec<String>,
    foreign: bool,
}

impl Subject {
    /// The binary at `own`, or the command line in `DHT_PROM_TEST_BRIDGE` when that is set (words
    /// apart by blanks, no quoting).
    #[must_use]
    pub fn new(own: &str) -> Self {
        match std::env::var("DHT_PROM_TEST_BRIDGE") {
            Ok(line) => Self {
                command: line.split_whitespace().map(str::to_owned).collect(),
                foreign: true,
            },
            Err(_) => Self::own(own),
        }
    }

    /// The binary at `path`, whatever `DHT_PROM_TEST_BRIDGE` says.
    #[must_use]
    pub fn own(path: &str) -> Self {
        Self { command: vec![path.to_owned()], foreign: false }
    }

    /// Another bridge than ours, by the words of its command line.
    #[must_use]
    pub fn foreign(command: Vec<String>) -> Self {
        Self { command, foreign: true }
    }

    /// Whether this is another bridge than ours: it has the shared behaviour, not our additions.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// A command that runs the bridge with exactly these variables under both prefixes, and none
    /// of the caller's own settings.
    ///
    /// # Panics
    /// When `DHT_PROM_TEST_BRIDGE` is blank.
    #[must_use]
    pub fn command(&self, variables: &[(&str, String)]) -> Command {
        let (program, args) = self.command.split_first().expect("the bridge has a command line");
        let mut command = Process::bound_command(program);
        command.args(args).env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        for (name, value) in variables {
            command.env(format!("DHT_PROM_{name}"), value);
            command.env(format!("HYPERDHT_PROM_{name}"), value);
        }
        command
    }
}

/// How a bridge is started.
#[derive(Clone, Debug)]
pub struct BridgeSettings {
    /// The program.
    pub subject: Subject,
    /// The targets file.
    pub targets: PathBuf,
    /// Shared secret, hex or z-base-32.
    pub secret: String,
    /// Seed of the bridge's key pair, hex or z-base-32.
    pub seed: String,
    /// HTTP port; 0 lets the system choose.
    pub http_port: u16,
    /// Log level.
    pub log_level: String,
    /// Further settings: names without prefix, and values.
    pub others: Vec<(&'static str, String)>,
    /// The settings of its DHT node.
    pub dht: [(&'static str, String); 2],
}

impl BridgeSettings {
    /// A debug-logging bridge on `testnet`, with its targets file in `folder`.
    #[must_use]
    pub fn new(subject: &Subject, testnet: &Testnet, folder: &Path) -> Self {
        let bootstrap = ("BOOTSTRAP_PORT", testnet.port().to_string());
        Self::with_dht(subject, folder, [bootstrap, ("DHT_HOST", "127.0.0.1".to_owned())])
    }

    /// The same in a NAT lab. It is to be started on a thread within one of the lab's places.
    #[must_use]
    pub fn in_lab(subject: &Subject, network: &Network, folder: &Path) -> Self {
        let bootstrap = ("BOOTSTRAP", network.bootstrap().to_owned());
        Self::with_dht(subject, folder, [bootstrap, ("DHT_HOST", "0.0.0.0".to_owned())])
    }

    fn with_dht(subject: &Subject, folder: &Path, dht: [(&'static str, String); 2]) -> Self {
        Self {
            subject: subject.clone(),
            targets: folder.join("targets.json"),
            secret: "5e".repeat(32),
            seed: "a7".repeat(32),
            http_port: 0,
            log_level: "debug".to_owned(),
            others: Vec::new(),
            dht,
        }
    }

    /// Starts the bridge and waits until it serves HTTP and the DHT.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(&self) -> Bridge {
        let mut bridge = self.start_unannounced();
        bridge.public_key = bridge.process.expect_line("`DHT RPC ready at public key`", |line| {
            let (_, key) = line.split_once("DHT RPC ready at public key ")?;
            key.get(..52).map(str::to_owned)
        });
        bridge
    }

    /// Starts the bridge and waits until it serves HTTP. Its key is not known: the log gives it when
    /// the bridge can be found in the DHT, which here may never be.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_unannounced(&self) -> Bridge {
        Bridge::start(self)
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("SHARED_SECRET", self.secret.clone()),
            ("KEY_PAIR_SEED", self.seed.clone()),
            ("PROMETHEUS_TARGETS_LOC", self.targets.display().to_string()),
            ("LOG_LEVEL", self.log_level.clone()),
            ("HTTP_PORT", self.http_port.to_string()),
            ("HTTP_HOST", "127.0.0.1".to_owned()),
        ];
        variables.extend(self.dht.iter().chain(&self.others).cloned());
        variables
    }
}

/// A running bridge.
#[derive(Debug)]
pub struct Bridge {
    process: Process,
    http_port: u16,
    public_key: String,
    clean_exit: i32,
}

impl Bridge {
    fn start(settings: &BridgeSettings) -> Self {
        let command = settings.subject.command(&settings.variables());
        let process = Process::spawn("the bridge", command);
        let http_port = process.expect_line("`Server listening at`", |line| {
            let (_, address) = line.split_once("Server listening at http://127.0.0.1:")?;
            let digits = address.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        });
        // The Node bridges report even an orderly stop as if SIGINT had ended them.
        let clean_exit = if settings.subject.is_foreign() { 130 } else { 0 };
        Self { process, http_port, public_key: String::new(), clean_exit }
    }

    /// The port of its HTTP server on 127.0.0.1.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Its public key in z-base-32, as its log gives it; empty as long as nobody waited for that.
    #[must_use]
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The process, to stop it.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The address of `path` on its HTTP server.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http_port)
    }

    /// Gets `path` from its HTTP server.
    ///
    /// # Panics
    /// When no answer comes.
    #[must_use]
    pub fn http_get(&self, path: &str) -> Response {
        http_get(&self.url(path), &[])
    }

    /// Scrapes `alias` once.
    ///
    /// # Panics
    /// When no answer comes.
    #[must_use]
    pub fn scrape(&self, alias: &str) -> Response {
        self.http_get(&format!("/scrape/{alias}/metrics"))
    }

    /// Waits for the first log line, from line number `start` on, whose `msg` starts with
    /// `phrase`; gives the whole line.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn expect_log_from(&self, start: usize, phrase: &str) -> Value {
        self.process.expect_line_from(start, &format!("`{phrase}`"), |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["msg"].as_str()?.starts_with(phrase).then_some(line)
        })
    }

    /// Waits for the first log line whose `msg` starts with `phrase`.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn expect_log(&self, phrase: &str) -> Value {
        self.expect_log_from(0, phrase)
    }

    /// Every line of its log so far.
    ///
    /// # Panics
    /// When a line is not a JSON object.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        let parse = |line: &String| match serde_json::from_str(line) {
            Ok(Value::Object(line)) => Value::Object(line),
            _ => panic!("a log line is no JSON object: {line}"),
        };
        self.process.stdout().all().iter().map(parse).collect()
    }

    /// Stops it as a service manager does, and checks that it went in order: `Fully shut down` in
    /// its log, exit code 0, nothing on stderr.
    ///
    /// # Panics
    /// When it did not.
    pub fn stop(mut self) {
        self.process.terminate();
        self.expect_log("Fully shut down");
        let status = self.process.expect_exit();
        assert_eq!(status.code(), Some(self.clean_exit), "the exit code after SIGTERM");
        assert_eq!(self.process.stderr().all(), [""; 0], "stderr must stay empty");
    }

    /// Ends it as a power cut does.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn kill(mut self) {
        self.process.kill();
    }
}
