//! A real Prometheus, and its `promtool`.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Output, Stdio},
    time::Instant,
};

use serde_json::Value;

use crate::{PATIENCE, Process, http_get, poll};

/// A Prometheus server with a folder and a port of its own.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: String,
}

/// One element of an instant query's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// All labels, `__name__` among them.
    pub labels: BTreeMap<String, String>,
    /// The value as Prometheus prints it.
    pub value: String,
}

impl Prometheus {
    /// Starts Prometheus with this configuration, its data in `folder`, and waits until it serves.
    ///
    /// # Panics
    /// When it is missing or refuses the configuration.
    #[must_use]
    pub fn start(config: &str, folder: &Path) -> Self {
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config).expect("the test's folder can be written");
        let mut command = Process::bound_command("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0");
        let process = Process::spawn("prometheus", command);
        let deadline = Instant::now() + PATIENCE;
        let address = process.stderr().find_from(0, deadline, |line| {
            let (_, rest) = line.split_once("msg=\"Listening on\" address=")?;
            rest.split_whitespace().next().map(str::to_owned)
        });
        let ready = process.stderr().find_from(0, deadline, |line| {
            line.contains("Server is ready to receive web requests").then_some(())
        });
        assert_eq!(ready, Some(()), "prometheus did not come up");
        Self { process, address: address.expect("prometheus prints its address") }
    }

    /// The running server, for its logs.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The answer to an instant query.
    ///
    /// # Panics
    /// When Prometheus does not answer as its API promises.
    #[must_use]
    pub fn query(&self, expression: &str) -> Vec<Sample> {
        let query = percent_encode(expression);
        let url = format!("http://{}/api/v1/query?query={query}", self.address);
        let answer = http_get(&url, &[]).json();
        assert_eq!(answer["status"], "success", "{answer}");
        let samples = answer["data"]["result"].as_array().expect("a vector");
        samples.iter().map(sample).collect()
    }

    /// Why the last scrape of the target with this `instance` failed, as Prometheus tells its operator;
    /// empty when it did not.
    ///
    /// # Panics
    /// When there is no such target, or Prometheus does not answer as its API promises.
    #[must_use]
    pub fn last_error(&self, instance: &str) -> String {
        let answer = http_get(&format!("http://{}/api/v1/targets", self.address), &[]).json();
        let targets = answer["data"]["activeTargets"].as_array().expect("a list of targets");
        let target = targets.iter().find(|target| target["labels"]["instance"] == instance);
        let error = &target.unwrap_or_else(|| panic!("no {instance} in {answer}"))["lastError"];
        error.as_str().expect("text").to_owned()
    }

    /// Waits until an instant query gives `count` samples.
    ///
    /// # Panics
    /// When it does not in time.
    #[must_use]
    pub fn expect_samples(&self, expression: &str, count: usize) -> Vec<Sample> {
        poll(expression, || {
            let samples = self.query(expression);
            if samples.len() == count { Ok(samples) } else { Err(format!("{samples:?}")) }
        })
    }
}

/// Runs `promtool` with `input` on its stdin; gives its exit and output.
///
/// # Panics
/// When it is missing.
#[must_use]
pub fn promtool(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot start promtool: {error}; `cargo xtask test` installs it")
        });
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A promtool that does not want its input closes the pipe; its exit code tells the rest.
    let _ = std::io::Write::write_all(&mut stdin, input);
    drop(stdin);
    child.wait_with_output().expect("a child can be waited for")
}

fn sample(sample: &Value) -> Sample {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let labels = sample["metric"].as_object().expect("labels");
    Sample {
        labels: labels.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        value: text(&sample["value"][1]),
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
