//! Where settings come from: flags, then environment, then a file.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use zeroize::Zeroizing;

use super::{
    ConfigError,
    knob::{Knob, PREFIXES},
};

/// The values found for each setting, the strongest source having won.
#[derive(Debug, Default)]
pub struct Layers {
    values: BTreeMap<Knob, Setting>,
}

/// A value and where it stands. Wiped when dropped, since it may be a secret.
#[derive(Clone)]
pub(super) struct Setting {
    /// The value as written.
    pub(super) text: Zeroizing<String>,
    /// Names the source in an error, as in `DHT_PROM_HTTP_PORT env var`.
    pub(super) origin: String,
}

/// The text may be a secret.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Setting({})", self.origin)
    }
}

/// Looks up environment variables. Tests pass a map and leave the process's own alone.
pub trait Environment {
    /// The variable's value, if it is set.
    fn var(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Environment for F {
    fn var(&self, name: &str) -> Option<String> {
        self(name)
    }
}

impl Layers {
    /// Whether anything sets this.
    pub fn is_set(&self, knob: Knob) -> bool {
        self.values.contains_key(&knob)
    }

    /// The value of a setting.
    pub(super) fn find(&self, knob: Knob) -> Option<&Setting> {
        self.values.get(&knob)
    }

    /// Adds a flag's value.
    pub fn add_flag(&mut self, knob: Knob, text: String) {
        self.add(knob, text, || format!("--{} flag", knob.flag()));
    }

    /// Adds what the environment sets and no flag did. Empty variables count as unset.
    pub fn add_environment(&mut self, environment: &dyn Environment) {
        for knob in Knob::ALL {
            for prefix in PREFIXES {
                let variable = knob.variable(prefix);
                if let Some(text) = environment.var(&variable).filter(|text| !text.is_empty()) {
                    self.add(knob, text, || format!("{variable} env var"));
                }
            }
        }
    }

    /// Variables of the Node bridges that are set and change nothing here, with the reason.
    pub fn ignored(environment: &dyn Environment) -> Vec<String> {
        let ignored = [("EXPOSE_REPL_SWARM", "true", "there is no debugging swarm")];
        let mut lines = Vec::new();
        for (name, value, reason) in ignored {
            for variable in PREFIXES.map(|prefix| format!("{prefix}{name}")) {
                if environment.var(&variable).is_some_and(|set| set == value) {
                    lines.push(format!("{variable} is ignored: {reason}"));
                }
            }
        }
        lines
    }

    /// Adds what a TOML file sets and nothing stronger did.
    ///
    /// # Errors
    /// When the file cannot be read, is no TOML, or has a key that is no setting.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let name = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| ConfigError::new(format!("cannot read {name}: {error}")))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            ConfigError::new(format!("{name} is not TOML: {}", error.message()))
        })?;
        for (key, value) in table {
            let knob = Knob::ALL.into_iter().find(|knob| knob.spec().name == key);
            let knob =
                knob.filter(|knob| !knob.spec().secret).ok_or_else(|| unknown(&name, &key))?;
            let text = scalar(value).ok_or_else(|| {
                ConfigError::new(format!("{key} in {name} must be {}", knob.spec().accepts))
            })?;
            self.add(knob, text, || format!("{key} in {name}"));
        }
        Ok(())
    }

    fn add(&mut self, knob: Knob, text: String, origin: impl FnOnce() -> String) {
        let text = Zeroizing::new(text);
        self.values.entry(knob).or_insert_with(|| Setting { text, origin: origin() });
    }
}

fn unknown(file: &dyn fmt::Display, key: &str) -> ConfigError {
    let names = Knob::ALL.map(Knob::spec).into_iter().filter(|spec| !spec.secret);
    let names: Vec<_> = names.map(|spec| spec.name).collect();
    ConfigError::new(format!("{key} in {file} is no setting; settings are {}", names.join(", ")))
}

/// Text and numbers as written, a list of texts as one with commas.
fn scalar(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<_>> = items.into_iter().map(scalar).collect();
            Some(items?.join(","))
        }
        toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_)
        | toml::Value::Table(_) => None,
    }
}
