//! The target list as Prometheus reads it: the `file_sd` file, and its groups as JSON.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use dht_prom_transport::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::ser::PrettyFormatter;

use super::{Registry, Target};
use crate::name::{Alias, Label};

/// The value of the `job` label of every target, as the Node bridges write it.
pub const JOB: &str = "aliases";

/// The largest file that is loaded, in bytes: [`MAX_TARGETS`](super::MAX_TARGETS) of the longest
/// entries take less.
const MAX_FILE_BYTES: u64 = 32 << 20;

/// How the targets file is written. Both are read, whichever is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetsFormat {
    /// One group of `alias:key:hostname:service`, as the Node bridges write; needs relabel rules.
    #[default]
    Classic,
    /// One group per alias with its labels; needs no relabel rules.
    Labels,
}

/// A group of `file_sd` and HTTP SD.
#[derive(Debug, Serialize, Deserialize)]
struct Group {
    labels: Labels,
    targets: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Labels {
    #[serde(default)]
    job: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    instance: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    hostname: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    service: String,
    #[serde(default, rename = "__metrics_path__", skip_serializing_if = "String::is_empty")]
    metrics_path: String,
    /// Lets the file be loaded again. Prometheus drops labels that begin with `__` once it has
    /// relabelled a target.
    #[serde(
        default,
        rename = "__meta_dht_prom_public_key",
        skip_serializing_if = "String::is_empty"
    )]
    key: String,
}

/// The targets file for `registry`, to be scraped at `bridge`, the bridge's `host:port`.
///
/// One space of indent, as the Node bridges write.
pub fn render(registry: &Registry, format: TargetsFormat, bridge: &str) -> Vec<u8> {
    let groups = match format {
        TargetsFormat::Classic => vec![classic_group(registry)],
        TargetsFormat::Labels => registry
            .iter()
            .map(|(alias, target)| {
                let mut group = label_group(alias, target, bridge);
                group.labels.key = target.key.to_string();
                group
            })
            .collect(),
    };
    json(&groups)
}

/// The answer to HTTP service discovery: one group per alias, which needs no relabel rules.
pub fn render_http_sd(registry: &Registry, bridge: &str) -> Vec<u8> {
    let groups = registry.iter().map(|(alias, target)| label_group(alias, target, bridge));
    json(&groups.collect::<Vec<_>>())
}

fn json(groups: &[Group]) -> Vec<u8> {
    let mut json = Vec::new();
    let formatter = PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, formatter);
    groups.serialize(&mut serializer).expect("strings in a growing buffer always serialise");
    json
}

fn classic_group(registry: &Registry) -> Group {
    let entry = |(alias, target): (&Alias, &Target)| {
        format!("{alias}:{}:{}:{}", target.key, target.hostname, target.service)
    };
    Group {
        labels: Labels { job: JOB.to_owned(), ..Labels::default() },
        targets: registry.iter().map(entry).collect(),
    }
}

fn label_group(alias: &Alias, target: &Target, bridge: &str) -> Group {
    Group {
        labels: Labels {
            job: JOB.to_owned(),
            instance: alias.to_string(),
            hostname: target.hostname.to_string(),
            service: target.service.to_string(),
            metrics_path: metrics_path(alias),
            key: String::new(),
        },
        targets: vec![bridge.to_owned()],
    }
}

/// The path under which `alias` is scraped.
pub fn metrics_path(alias: &Alias) -> String {
    format!("/scrape/{alias}/metrics")
}

/// What a targets file held.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The entries that make sense, in order.
    pub targets: Vec<(Alias, Target)>,
    /// Why the others do not.
    pub rejected: Vec<String>,
}

/// Reads a targets file of either format, each entry on its own.
///
/// # Errors
/// When it is not JSON of the shape that `file_sd` has.
pub fn parse(json: &[u8]) -> Result<Parsed, serde_json::Error> {
    let groups: Vec<Group> = serde_json::from_slice(json)?;
    let mut parsed = Parsed::default();
    for group in &groups {
        if group.labels.key.is_empty() {
            for entry in &group.targets {
                parsed.take(parse_classic(entry));
            }
        } else {
            parsed.take(parse_labels(&group.labels));
        }
    }
    Ok(parsed)
}

impl Parsed {
    fn take(&mut self, entry: Result<(Alias, Target), String>) {
        match entry {
            Ok(entry) => self.targets.push(entry),
            Err(reason) => self.rejected.push(reason),
        }
    }
}

fn parse_classic(entry: &str) -> Result<(Alias, Target), String> {
    let fields: Vec<&str> = entry.split(':').collect();
    let [alias, key, hostname, service] = fields[..] else {
        return Err(format!("{entry:?} is not alias:key:hostname:service"));
    };
    parse_entry(alias, key, hostname, service)
}

fn parse_labels(labels: &Labels) -> Result<(Alias, Target), String> {
    parse_entry(&labels.instance, &labels.key, &labels.hostname, &labels.service)
}

fn parse_entry(
    alias: &str,
    key: &str,
    hostname: &str,
    service: &str,
) -> Result<(Alias, Target), String> {
    let key: PublicKey = key.parse().map_err(|error| format!("key of {alias:?}: {error}"))?;
    let (hostname, service) = (Label::from(hostname), Label::from(service));
    let alias = alias.parse().map_err(|error| format!("{alias:?}: {error}"))?;
    Ok((alias, Target { key, hostname, service }))
}

/// The file that Prometheus watches.
///
/// Blocking: call from a thread that may block.
#[derive(Debug, Clone)]
pub struct TargetsFile {
    path: PathBuf,
}

/// How loading a targets file went.
#[derive(Debug)]
pub enum Loaded {
    /// There is none yet.
    Missing,
    /// All of it was read.
    Whole(Parsed),
    /// Parts of it were not; a copy of the file is kept aside.
    Partly(Parsed, Aside),
    /// Nothing could be read; the file is kept aside.
    Unusable(String, Aside),
}

/// Where a file was kept that could not be used, or why it could not be kept.
pub type Aside = Result<PathBuf, io::Error>;

impl TargetsFile {
    /// The file at `path`, which need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file. What cannot be used is kept as `<name>.bad-<seconds since 1970>`, never
    /// overwritten by a later [`TargetsFile::write`].
    pub fn load(&self) -> Loaded {
        let unusable = |reason: String| {
            Loaded::Unusable(reason, self.keep_aside(|from, to| fs::rename(from, to)))
        };
        let json = match self.read() {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Loaded::Missing,
            Err(error) => return unusable(error.to_string()),
        };
        match parse(&json) {
            Err(error) => unusable(error.to_string()),
            Ok(parsed) if parsed.rejected.is_empty() => Loaded::Whole(parsed),
            Ok(parsed) => {
                Loaded::Partly(parsed, self.keep_aside(|from, to| fs::copy(from, to).map(drop)))
            }
        }
    }

    /// Whether the file is there and holds `json`.
    pub fn holds(&self, json: &[u8]) -> bool {
        self.read().is_ok_and(|held| held == json)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let bytes = fs::metadata(&self.path)?.len();
        if bytes > MAX_FILE_BYTES {
            let reason = format!("{bytes} bytes are more than {MAX_FILE_BYTES}");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        fs::read(&self.path)
    }

    fn keep_aside(&self, keep: impl FnOnce(&Path, &Path) -> io::Result<()>) -> Aside {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let aside = self.beside(&format!(".bad-{seconds}"));
        keep(&self.path, &aside).map(|()| aside)
    }

    /// Replaces the file by `json`, so that a reader sees the old one or the new one whole, also when
    /// we are killed or the power fails in between.
    ///
    /// # Errors
    /// Those of creating, writing, syncing or renaming; the old file is still there then.
    pub fn write(&self, json: &[u8]) -> io::Result<()> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder)?;
        let temporary = self.beside(".tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(json)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        File::open(folder)?.sync_all()
    }

    /// The file's path with `suffix` behind its name.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        path.into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "yryoryoryoryoryoryoryoryoryoryoryoryoryoryoryoryoryo";

    fn registry(entries: &[(&str, &str, &str)]) -> Registry {
        let mut registry = Registry::default();
        for (alias, hostname, service) in entries {
            let key = KEY.parse().unwrap();
            let target = Target { key, hostname: (*hostname).into(), service: (*service).into() };
            registry.register(Instant::now(), alias.parse().unwrap(), target).unwrap();
        }
        registry
    }

    #[test]
    fn the_classic_format_is_that_of_the_node_bridges() {
        let registry = registry(&[("dummy", "host:1", "svc"), ("b", "", "s/t")]);
        let json = String::from_utf8(render(&registry, TargetsFormat::Classic, "-")).unwrap();
        let expected = format!(
            "[\n {{\n  \"labels\": {{\n   \"job\": \"aliases\"\n  }},\n  \"targets\": [\n   \
             \"dummy:{KEY}:host-1:svc\",\n   \"b:{KEY}:unknown:s-t\"\n  ]\n }}\n]"
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn the_labels_format_says_all_that_a_scrape_needs() {
        let registry = registry(&[("dummy", "host-1", "svc")]);
        let json = render(&registry, TargetsFormat::Labels, "127.0.0.1:30000");
        let groups: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let expected = serde_json::json!([{
            "labels": {
                "job": "aliases",
                "instance": "dummy",
                "hostname": "host-1",
                "service": "svc",
                "__metrics_path__": "/scrape/dummy/metrics",
                "__meta_dht_prom_public_key": KEY,
            },
            "targets": ["127.0.0.1:30000"],
        }]);
        assert_eq!(groups, expected);
    }

    #[test]
    fn each_entry_loads_on_its_own() {
        let json = serde_json::json!([{ "labels": { "job": "aliases" }, "targets": [
            format!("good:{KEY}:h:s"), "nonsense", format!("bad alias:{KEY}:h:s"), "short:abc:h:s",
            format!("late:{KEY}:h:s"),
        ]}]);
        let parsed = parse(json.to_string().as_bytes()).unwrap();
        let names: Vec<_> = parsed.targets.iter().map(|(alias, _)| alias.as_str()).collect();
        assert_eq!(names, ["good", "late"]);
        assert_eq!(parsed.rejected.len(), 3);
    }

    #[test]
    fn what_cannot_be_used_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let file = TargetsFile::new(folder.path().join("targets.json"));
        assert!(matches!(file.load(), Loaded::Missing));

        fs::write(file.path(), "[{").unwrap();
        let Loaded::Unusable(_, Ok(aside)) = file.load() else { panic!("half a file is no file") };
        assert_eq!(fs::read(&aside).unwrap(), b"[{");
        assert!(aside.file_name().unwrap().to_str().unwrap().starts_with("targets.json.bad-"));
        assert!(!file.path().exists());
        fs::remove_file(aside).unwrap();

        let partly = format!(r#"[{{"labels":{{}},"targets":["a:{KEY}:h:s","b"]}}]"#);
        fs::write(file.path(), &partly).unwrap();
        let Loaded::Partly(parsed, Ok(aside)) = file.load() else { panic!("one entry is bad") };
        assert_eq!((parsed.targets.len(), parsed.rejected.len()), (1, 1));
        file.write(b"[]").unwrap();
        assert_eq!(fs::read_to_string(aside).unwrap(), partly);
    }

    #[test]
    fn writing_replaces_the_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = TargetsFile::new(folder.path().join("new/targets.json"));
        file.write(b"[]").unwrap();
        file.write(b"[1]").unwrap();
        assert_eq!(fs::read(file.path()).unwrap(), b"[1]");
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
    }

    proptest! {
        #[test]
        fn both_formats_load_what_they_wrote(
            entries in prop::collection::vec(("[A-Za-z0-9._~@+-]{1,128}", any::<String>(), any::<String>()), 0..8)
        ) {
            let entries: Vec<_> =
                entries.iter().map(|(a, h, s)| (a.as_str(), h.as_str(), s.as_str())).collect();
            let registry = registry(&entries);
            for format in [TargetsFormat::Classic, TargetsFormat::Labels] {
                let parsed = parse(&render(&registry, format, "localhost:1")).unwrap();
                prop_assert!(parsed.rejected.is_empty());
                let listed: Vec<_> =
                    registry.iter().map(|(a, t)| (a.clone(), t.clone())).collect();
                prop_assert_eq!(parsed.targets, listed);
            }
        }

        #[test]
        fn any_file_is_answered(json: Vec<u8>) {
            let _ = parse(&json);
        }
    }
}
