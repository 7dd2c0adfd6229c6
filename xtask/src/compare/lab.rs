//! Local DHTs, both bridges, and clients with bodies of a given size.

use std::{cell::Cell, fmt, path::Path};

use dht_prom_test_support::{
    Bridge, BridgeSettings, Client, ClientSpec, Generation, MetricsSource, Subject, Testnet,
};
use hyper::Uri;
use tempfile::TempDir;

/// One of the two bridges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Node,
    Ours,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Node, Self::Ours];
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "Node",
            Self::Ours => "ours",
        })
    }
}

/// What all measurements of a run share.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Whether a tenth of the scrapes is enough.
    pub(crate) quick: bool,
    /// Over how many Node processes clients are spread.
    pub(crate) processes: usize,
    /// How many scrapes begin in a second; without, as many as the bridge answers.
    pub(crate) rate: Option<u32>,
    folder: TempDir,
    node: Subject,
    ours: Subject,
    started: Cell<u32>,
}

impl Lab {
    /// Finds both bridges. Panics when the Node packages are missing, as all here does when something
    /// does not come up.
    pub(crate) fn open(root: &Path, quick: bool, processes: usize, rate: Option<u32>) -> Self {
        let script = root.join("xtask/compare/node_modules/hyperdht-prometheus-bridge/run.js");
        assert!(script.is_file(), "{} is missing: `npm ci` brings it", script.display());
        let binary = crate::install::target(root).join("release/dht-prometheus");
        Self {
            quick,
            processes,
            rate,
            folder: TempDir::new().expect("a temporary folder can be made"),
            node: Subject::foreign(vec!["node".to_owned(), script.display().to_string()]),
            ours: Subject::own(&binary.display().to_string()),
            started: Cell::new(0),
        }
    }

    /// Starts a bridge that has no targets yet, and waits until it is announced.
    pub(crate) fn bridge(&self, testnet: &Testnet, side: Side) -> Bridge {
        let number = self.started.get();
        self.started.set(number + 1);
        let subject = match side {
            Side::Node => &self.node,
            Side::Ours => &self.ours,
        };
        let settings = BridgeSettings {
            targets: self.folder.path().join(format!("targets-{number}.json")),
            secret: SECRET.repeat(32),
            log_level: "info".to_owned(),
            ..BridgeSettings::new(subject, testnet, self.folder.path())
        };
        settings.start()
    }

    /// Starts `count` clients of `bridge` that answer bodies of this size.
    pub(crate) fn clients(
        &self,
        testnet: &Testnet,
        bridge: &Bridge,
        count: usize,
        body_bytes: usize,
    ) -> Clients {
        let path = self.folder.path().join(format!("body-{body_bytes}"));
        std::fs::write(&path, exposition(body_bytes)).expect("the folder can be written");
        let spec = |index| ClientSpec {
            metrics: MetricsSource::File { path: path.clone() },
            quiet: true,
            ..ClientSpec::new(Generation::Two, &alias(index))
        };
        let specs: Vec<_> = (0..count).map(spec).collect();
        let start = |specs: &[ClientSpec]| {
            let client = Client::start(testnet, bridge.public_key(), &SECRET.repeat(32), specs);
            (client, specs.len())
        };
        Clients { processes: shares(&specs, self.processes).map(start).collect() }
    }
}

/// So many parts of `all`, as equal as they can be.
fn shares<T>(all: &[T], parts: usize) -> impl Iterator<Item = &[T]> {
    let end = move |part| all.len() * part / parts;
    (0..parts).map(move |part| &all[end(part)..end(part + 1)])
}

/// Running clients.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Each process, and how many clients it has.
    processes: Vec<(Client, usize)>,
}

impl Clients {
    /// Waits until every process has loaded its packages.
    pub(crate) fn expect_starting(&self) {
        self.processes.iter().for_each(|(client, _)| client.expect_starting());
    }

    /// Waits until all are registered.
    pub(crate) fn expect_all_registered(&self) {
        for (client, count) in &self.processes {
            client.expect_all_registered(*count);
        }
    }
}

/// Where the metrics of the first `count` clients are scraped.
pub(crate) fn urls(bridge: &Bridge, count: usize) -> Vec<Uri> {
    let url = |index| bridge.url(&format!("/scrape/{}/metrics", alias(index)));
    (0..count).map(|index| url(index).parse().expect("a bridge has URLs")).collect()
}

fn alias(index: usize) -> String {
    format!("client-{index}")
}

/// Metrics in exactly this many bytes: samples, and a comment that fills what is left.
fn exposition(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes);
    for index in 0.. {
        let sample = format!("requests_total{{path=\"/page/{index}\",code=\"200\"}} {index}\n");
        if text.len() + sample.len() + "#\n".len() > bytes {
            break;
        }
        text += &sample;
    }
    let filling = bytes.saturating_sub(text.len() + "#\n".len());
    text + "#" + &"-".repeat(filling) + "\n"
}

const SECRET: &str = "5e";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_shared_out_evenly() {
        for parts in 1..=50 {
            let sizes: Vec<_> = shares(&[(); 50], parts).map(<[()]>::len).collect();
            assert_eq!((sizes.len(), sizes.iter().sum()), (parts, 50));
            assert!(sizes.iter().all(|size| [50 / parts, 50_usize.div_ceil(parts)].contains(size)));
        }
    }

    #[test]
    fn bodies_have_the_size_asked_for() {
        for bytes in [2, 3, 100, 1024, 10_240] {
            let body = exposition(bytes);
            assert_eq!(body.len(), bytes);
            assert!(body.ends_with('\n') && body.lines().all(|line| !line.is_empty()));
        }
    }
}
