//! What the bridge is told: flags over environment over file over defaults, checked once.

use std::{
    fmt, fs,
    net::Ipv4Addr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    str::FromStr,
};

use dht_prom_client::SharedSecret;
use dht_prom_transport::{PublicKey, decode_key};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

mod knob;
mod layer;

pub use knob::{Knob, PREFIXES, Spec};
pub use layer::{Environment, Layers};

use self::{knob::KEY_FORMS, layer::Setting};
use crate::registry::targets::TargetsFormat;

/// Settings that make sense, each on its own.
#[derive(Debug, Clone)]
pub struct Config {
    /// What services prove to know.
    pub shared_secret: SharedSecret,
    /// Decides the bridge's key; `None` for a new one.
    pub key_pair_seed: Option<Seed>,
    /// The targets file and its form.
    pub targets: TargetsConfig,
    /// The HTTP side.
    pub http: HttpConfig,
    /// The HyperDHT side.
    pub dht: DhtConfig,
    /// Logging.
    pub log: LogConfig,
}

/// See [`Knob::PrometheusTargetsLoc`] and [`Knob::TargetsFormat`].
#[derive(Debug, Clone)]
pub struct TargetsConfig {
    /// Where the targets file is.
    pub path: PathBuf,
    /// How it is written.
    pub format: TargetsFormat,
}

/// Where and how HTTP is served.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The address or host name to bind.
    pub host: String,
    /// The port to bind, 0 for any.
    pub port: u16,
    /// Where Prometheus reaches us, if not there.
    pub advertise: Option<String>,
    /// When answers are compressed.
    pub gzip: Gzip,
}

/// When to compress, for clients that ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gzip {
    /// Always, but for scrapes from this host: Prometheus asks each time, and on the loopback
    /// interface the bytes saved cost more than they are worth.
    #[default]
    Auto,
    /// Whenever asked.
    Always,
    /// Not even then.
    Never,
}

/// Where the HyperDHT node binds, and whom it asks first.
#[derive(Debug, Clone)]
pub struct DhtConfig {
    /// The address to bind.
    pub host: Ipv4Addr,
    /// The port to bind; 0 for the usual ones and then any.
    pub port: u16,
    /// The port under which others reach that one, where a router forwards one.
    pub forwarded_port: Option<NonZeroU16>,
    /// `host:port` of the nodes to start from; empty for the public DHT.
    pub bootstrap: Vec<String>,
    /// Blind relays to meet peers at, when no direct path to them opens.
    pub relays: Vec<PublicKey>,
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy)]
pub struct LogConfig {
    /// The least urgent level that is logged; `None` for silence.
    pub level: Option<tracing::Level>,
    /// The form; `None` to choose by what stdout is.
    pub format: Option<LogFormat>,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One object per line.
    Json,
    /// For people.
    Text,
}

/// The 32 bytes that decide a key pair. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl Seed {
    /// The seed made of these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A new one from the system's random source.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The 32 bytes.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(redacted)")
    }
}

/// A setting that does not make sense: one line that names it and says what it takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    fn new(line: String) -> Self {
        Self(line)
    }
}

impl Config {
    /// Checks the settings and fills in defaults. Reads the files that hold secrets.
    ///
    /// # Errors
    /// For the first setting that is missing or makes no sense.
    pub fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        Ok(Self {
            shared_secret: shared_secret(layers)?,
            key_pair_seed: key_pair_seed(layers)?,
            targets: targets(layers)?,
            http: http(layers)?,
            dht: dht(layers)?,
            log: log(layers)?,
        })
    }
}

const TARGETS_FORMATS: [(&str, TargetsFormat); 2] =
    [("classic", TargetsFormat::Classic), ("labels", TargetsFormat::Labels)];
const GZIPS: [(&str, Gzip); 3] =
    [("auto", Gzip::Auto), ("always", Gzip::Always), ("never", Gzip::Never)];
const LOG_FORMATS: [(&str, LogFormat); 2] = [("json", LogFormat::Json), ("text", LogFormat::Text)];
/// The names that pino, which the Node bridges log with, gives its levels.
const LOG_LEVELS: [(&str, Option<tracing::Level>); 7] = [
    ("trace", Some(tracing::Level::TRACE)),
    ("debug", Some(tracing::Level::DEBUG)),
    ("info", Some(tracing::Level::INFO)),
    ("warn", Some(tracing::Level::WARN)),
    ("error", Some(tracing::Level::ERROR)),
    ("fatal", Some(tracing::Level::ERROR)),
    ("silent", None),
];

/// The settings for the targets file alone, for commands that need no secret.
///
/// # Errors
/// When one of them makes no sense.
pub fn targets(layers: &Layers) -> Result<TargetsConfig, ConfigError> {
    Ok(TargetsConfig {
        path: text(layers, Knob::PrometheusTargetsLoc, "./prometheus/targets.json").into(),
        format: choice(layers, Knob::TargetsFormat, &TARGETS_FORMATS)?.unwrap_or_default(),
    })
}

/// The settings for HTTP alone, for commands that need no secret.
///
/// # Errors
/// When one of them makes no sense.
pub fn http(layers: &Layers) -> Result<HttpConfig, ConfigError> {
    Ok(HttpConfig {
        host: text(layers, Knob::HttpHost, "127.0.0.1"),
        port: parse(layers, Knob::HttpPort)?.unwrap_or(0),
        advertise: checked(layers, Knob::HttpAdvertise, is_host_port)?,
        gzip: choice(layers, Knob::HttpGzip, &GZIPS)?.unwrap_or_default(),
    })
}

/// The settings for HyperDHT alone, for commands that need no secret.
///
/// # Errors
/// When one of them makes no sense.
pub fn dht(layers: &Layers) -> Result<DhtConfig, ConfigError> {
    let forwarded_port: Option<NonZeroU16> = parse(layers, Knob::DhtForwardedPort)?;
    let port = parse(layers, Knob::DhtPort)?.filter(|port| *port != 0);
    Ok(DhtConfig {
        host: parse(layers, Knob::DhtHost)?.unwrap_or(Ipv4Addr::UNSPECIFIED),
        // A router forwards to one port, and cannot know of a random one.
        port: port.or(forwarded_port.map(NonZeroU16::get)).unwrap_or(0),
        forwarded_port,
        bootstrap: bootstrap(layers)?,
        relays: relays(layers)?,
    })
}

/// The settings for logging alone, for commands that need no secret.
///
/// # Errors
/// When one of them makes no sense.
pub fn log(layers: &Layers) -> Result<LogConfig, ConfigError> {
    Ok(LogConfig {
        level: choice(layers, Knob::LogLevel, &LOG_LEVELS)?.unwrap_or(Some(tracing::Level::INFO)),
        format: choice(layers, Knob::LogFormat, &LOG_FORMATS)?,
    })
}

fn shared_secret(layers: &Layers) -> Result<SharedSecret, ConfigError> {
    let secret = key(layers, Knob::SharedSecret, Knob::SharedSecretFile, |origin| {
        format!("{origin} must be set to a valid hypercore key ({KEY_FORMS})")
    })?;
    let missing = || {
        let variable = Knob::SharedSecret.variable(PREFIXES[0]);
        ConfigError::new(format!(
            "{variable} env var must be set to a valid hypercore key ({KEY_FORMS})"
        ))
    };
    secret.map(|secret| SharedSecret::from(*secret)).ok_or_else(missing)
}

/// The seed of the key pair, if one is set. Reads the file that holds it.
///
/// # Errors
/// When it makes no sense.
pub fn key_pair_seed(layers: &Layers) -> Result<Option<Seed>, ConfigError> {
    let seed = key(layers, Knob::KeyPairSeed, Knob::KeyPairSeedFile, |origin| {
        format!("{origin}, if set, must be set to a valid hypercore key ({KEY_FORMS})")
    })?;
    Ok(seed.map(|seed| Seed(*seed)))
}

/// The 32 bytes that a setting holds itself, or that stand in the file that another one names.
fn key(
    layers: &Layers,
    direct: Knob,
    file: Knob,
    refusal: impl Fn(&str) -> String,
) -> Result<Option<Zeroizing<[u8; 32]>>, ConfigError> {
    let (text, origin) = match (layers.find(direct), layers.find(file)) {
        (Some(_), Some(_)) => {
            let (direct, file) = (direct.spec().name, file.spec().name);
            return Err(ConfigError::new(format!("{direct} and {file} are both set; set one")));
        }
        (Some(setting), None) => (setting.text.clone(), setting.origin.clone()),
        (None, Some(setting)) => (read_key_file(setting)?, setting.origin.clone()),
        (None, None) => return Ok(None),
    };
    match decode_key(text.trim()) {
        Ok(key) => Ok(Some(Zeroizing::new(key))),
        Err(_) => Err(ConfigError::new(refusal(&origin))),
    }
}

fn read_key_file(setting: &Setting) -> Result<Zeroizing<String>, ConfigError> {
    let Setting { text: path, origin } = setting;
    let path = Path::new(path.as_str());
    fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
        let path = path.display();
        ConfigError::new(format!("{origin} names {path}, which cannot be read: {error}"))
    })
}

fn bootstrap(layers: &Layers) -> Result<Vec<String>, ConfigError> {
    let is_list = |list: &str| list.split(',').all(|node| is_host_port(node.trim()));
    if let Some(list) = checked(layers, Knob::Bootstrap, is_list)? {
        return Ok(list.split(',').map(|node| node.trim().to_owned()).collect());
    }
    let local = parse::<u16>(layers, Knob::BootstrapPort)?;
    Ok(local.map(|port| format!("127.0.0.1:{port}")).into_iter().collect())
}

fn relays(layers: &Layers) -> Result<Vec<PublicKey>, ConfigError> {
    let Some(setting) = layers.find(Knob::Relays) else { return Ok(Vec::new()) };
    let keys = setting.text.split(',').map(|key| key.trim().parse());
    let keys: Result<Vec<_>, _> = keys.collect();
    keys.map_err(|_| refuse(Knob::Relays, setting))
}

/// Whether this is `host:port`, an IPv6 host standing in brackets.
fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = !host.is_empty() && !host.contains([':', '/', ' ', '[', ']']);
    let bracketed = host.starts_with('[') && host.ends_with(']');
    (bare || bracketed) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn text(layers: &Layers, knob: Knob, default: &str) -> String {
    layers.find(knob).map_or(default, |setting| setting.text.as_str()).to_owned()
}

fn parse<T: FromStr>(layers: &Layers, knob: Knob) -> Result<Option<T>, ConfigError> {
    let Some(setting) = layers.find(knob) else { return Ok(None) };
    setting.text.trim().parse().map(Some).map_err(|_| refuse(knob, setting))
}

fn checked(
    layers: &Layers,
    knob: Knob,
    is_valid: impl Fn(&str) -> bool,
) -> Result<Option<String>, ConfigError> {
    let Some(setting) = layers.find(knob) else { return Ok(None) };
    if is_valid(&setting.text) {
        Ok(Some(setting.text.to_string()))
    } else {
        Err(refuse(knob, setting))
    }
}

fn choice<T: Copy>(
    layers: &Layers,
    knob: Knob,
    choices: &[(&str, T)],
) -> Result<Option<T>, ConfigError> {
    let Some(setting) = layers.find(knob) else { return Ok(None) };
    let chosen = choices.iter().find(|(name, _)| setting.text.eq_ignore_ascii_case(name));
    chosen.map(|(_, value)| Some(*value)).ok_or_else(|| refuse(knob, setting))
}

fn refuse(knob: Knob, setting: &Setting) -> ConfigError {
    let Setting { text, origin } = setting;
    ConfigError::new(format!("{origin} must be {}, not {:?}", knob.spec().accepts, text.as_str()))
}

#[cfg(test)]
mod tests;
