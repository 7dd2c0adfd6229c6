//! Every setting in one table: its names, what it takes, and why one would turn it.

/// A setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knob {
    /// What services prove to know.
    SharedSecret,
    /// A file that holds it.
    SharedSecretFile,
    /// Decides the bridge's key.
    KeyPairSeed,
    /// A file that holds it.
    KeyPairSeedFile,
    /// Where the targets file is.
    PrometheusTargetsLoc,
    /// How it is written.
    TargetsFormat,
    /// The HTTP address to bind.
    HttpHost,
    /// The HTTP port to bind.
    HttpPort,
    /// The HTTP address that Prometheus reaches.
    HttpAdvertise,
    /// When answers are compressed.
    HttpGzip,
    /// The UDP address to bind.
    DhtHost,
    /// The UDP port to bind.
    DhtPort,
    /// The UDP port under which others reach that one.
    DhtForwardedPort,
    /// The DHT nodes to start from.
    Bootstrap,
    /// A local DHT node to start from.
    BootstrapPort,
    /// The blind relays to meet peers at.
    Relays,
    /// How much is logged.
    LogLevel,
    /// How it is logged.
    LogFormat,
}

/// What is to be known of a [`Knob`].
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Its name in a configuration file; in capitals and behind a prefix, in the environment; with
    /// dashes, as a flag.
    pub name: &'static str,
    /// The placeholder of its value.
    pub value: &'static str,
    /// What it takes, to complete the sentence "must be …".
    pub accepts: &'static str,
    /// Its default, in words where there is none in letters.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Whether it may stand in the environment only, because it is a secret itself.
    pub secret: bool,
}

/// The prefixes of environment variables; the first one set wins.
pub const PREFIXES: [&str; 2] = ["DHT_PROM_", "HYPERDHT_PROM_"];

impl Knob {
    /// Every setting, in the order in which one reads about them.
    pub const ALL: [Self; 18] = [
        Self::SharedSecret,
        Self::SharedSecretFile,
        Self::KeyPairSeed,
        Self::KeyPairSeedFile,
        Self::PrometheusTargetsLoc,
        Self::TargetsFormat,
        Self::HttpHost,
        Self::HttpPort,
        Self::HttpAdvertise,
        Self::HttpGzip,
        Self::DhtHost,
        Self::DhtPort,
        Self::DhtForwardedPort,
        Self::Bootstrap,
        Self::BootstrapPort,
        Self::Relays,
        Self::LogLevel,
        Self::LogFormat,
    ];

    /// What is to be known of this setting.
    pub const fn spec(self) -> Spec {
        let (name, value, accepts, default, help) = match self {
            Self::SharedSecret => (
                "shared_secret",
                "KEY",
                KEY_FORMS,
                "none, required",
                "what services prove to know when they register",
            ),
            Self::SharedSecretFile => (
                "shared_secret_file",
                "FILE",
                "a file that holds the shared secret",
                "none",
                "the file to read the shared secret from",
            ),
            Self::KeyPairSeed => (
                "key_pair_seed",
                "KEY",
                KEY_FORMS,
                "a new one at each start",
                "decides the bridge's key; set it, or services lose the bridge when it restarts",
            ),
            Self::KeyPairSeedFile => (
                "key_pair_seed_file",
                "FILE",
                "a file that holds the seed",
                "none",
                "the file to read the seed from",
            ),
            Self::PrometheusTargetsLoc => (
                "prometheus_targets_loc",
                "FILE",
                "a path",
                "./prometheus/targets.json",
                "the targets file that Prometheus watches; also what a restart remembers",
            ),
            Self::TargetsFormat => (
                "targets_format",
                "FORMAT",
                "classic or labels",
                "classic",
                "classic is what the Node bridges write; labels needs no relabel rules",
            ),
            Self::HttpHost => (
                "http_host",
                "HOST",
                "an address or host name",
                "127.0.0.1",
                "the address to serve HTTP on",
            ),
            Self::HttpPort => (
                "http_port",
                "PORT",
                PORT,
                "0, which is any free port",
                "the TCP port to serve HTTP on",
            ),
            Self::HttpAdvertise => (
                "http_advertise",
                "HOST:PORT",
                "host:port",
                "the address served on; for /targets, the one asked at",
                "where Prometheus reaches the bridge, for the labels format and /targets",
            ),
            Self::HttpGzip => (
                "http_gzip",
                "WHEN",
                "auto, always or never",
                "auto",
                "whether to compress for clients that ask; auto leaves scrapes from this host as they are",
            ),
            Self::DhtHost => (
                "dht_host",
                "ADDRESS",
                "an IPv4 address",
                "0.0.0.0",
                "the address to bind the DHT's UDP socket to",
            ),
            Self::DhtPort => (
                "dht_port",
                "PORT",
                PORT,
                "0, which tries 49737 to 49741 and then any",
                "the DHT's UDP port; set it where one port is open",
            ),
            Self::DhtForwardedPort => (
                "dht_forwarded_port",
                "PORT",
                "a port, 1 to 65535",
                "none",
                "the UDP port of the router that it forwards to the DHT's, which is the same unless it is set",
            ),
            Self::Bootstrap => (
                "bootstrap",
                "HOST:PORT,...",
                "host:port, several separated by commas",
                "the public HyperDHT",
                "the DHT nodes to start from, for a DHT of one's own",
            ),
            Self::BootstrapPort => (
                "bootstrap_port",
                "PORT",
                PORT,
                "none",
                "the same as a bootstrap of 127.0.0.1:PORT",
            ),
            Self::Relays => (
                "relays",
                "KEY,...",
                RELAY_FORMS,
                "none",
                "the public keys of blind relays, where services are met whose NATs cannot be crossed",
            ),
            Self::LogLevel => (
                "log_level",
                "LEVEL",
                "trace, debug, info, warn, error, fatal or silent",
                "info",
                "how much to log; debug adds each HTTP request",
            ),
            Self::LogFormat => (
                "log_format",
                "FORMAT",
                "json or text",
                "text on a terminal, else json",
                "json is one object per line, as the Node bridges write",
            ),
        };
        let secret = matches!(self, Self::SharedSecret | Self::KeyPairSeed);
        Spec { name, value, accepts, default, help, secret }
    }

    /// The setting's environment variable under a prefix.
    pub fn variable(self, prefix: &str) -> String {
        format!("{prefix}{}", self.spec().name.to_uppercase())
    }

    /// The setting's flag, without the dashes in front.
    pub fn flag(self) -> String {
        self.spec().name.replace('_', "-")
    }
}

/// The forms of a 32-byte key.
pub(super) const KEY_FORMS: &str = "64 hexadecimal digits or 52 characters of z-base-32";

/// The forms of a list of relays.
const RELAY_FORMS: &str = "64 hexadecimal digits or 52 characters of z-base-32, pear:// in front or \
                           not, several separated by commas";

const PORT: &str = "a port, 0 to 65535";
