//! Configuration in layers: a flag over the environment over one TOML file.
//!
//! - The file is the one named, else `./rhyzome.toml`, else `/etc/rhyzome/rhyzome.toml`, else none.
//! - The environment is `RHYZOME_SECTION__KEY`. Other variables that begin with `RHYZOME_` are no configuration; [`variables`] knows which
//!   of them anybody reads.
//! - A flag is `section.key=value`, given by the command line's own flags or by `--set`.
//!
//! In environment and flags a value that begins with `[`, `{` or `"` is read as TOML. An unknown key and a wrong value are refused
//! by name, with where they came from. Keys that hold a secret are refused as flags: those are seen by everybody on the machine.

mod explain;
pub mod variables;

use self::explain::explain;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError as Inner, File, FileFormat, Value, ValueKind};
use serde::de::DeserializeOwned;

/// Where a file is looked for when none is named.
pub const DEFAULT_FILES: [&str; 2] = ["rhyzome.toml", "/etc/rhyzome/rhyzome.toml"];
const PREFIX: &str = "RHYZOME_";
/// A key whose last part is one of these holds a secret.
const SECRETS: [&str; 5] = ["password", "secret", "token", "key_pem", "url_with_password"];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Environment(name) => write!(f, "the environment variable {name}"),
            Self::Flag(flag) => write!(f, "the flag {flag}"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration file {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text isn't TOML.
    #[error("{origin} isn't TOML: {what}")]
    Syntax {
        /// Where it stands.
        origin: Origin,
        /// What is wrong.
        what: String,
    },
    /// A key is unknown or its value wrong.
    #[error("configuration key `{key}`{}: {what}", from(.origin.as_ref()))]
    Value {
        /// Which, with dots.
        key: String,
        /// Where it came from; none where it is missing altogether.
        origin: Option<Origin>,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// A variable of the environment that nobody reads.
    #[error("the environment variable {name} is read by nobody{}", meant(.nearest.as_deref()))]
    Variable {
        /// Its name.
        name: String,
        /// One that is read, and is like it.
        nearest: Option<String>,
    },
    /// Not `section.key=value`.
    #[error("the flag --set {0}: SECTION.KEY=VALUE is what it takes")]
    Flag(String),
    /// A secret in a flag.
    #[error(
        "configuration key `{0}` holds a secret, and a flag is seen by everybody on the machine: name a file with `{0}_file`, or use the environment"
    )]
    SecretInFlag(String),
    /// A URL with a password in a flag.
    #[error(
        "configuration key `{0}` has a password in it, and a flag is seen by everybody on the machine: write it in the file or in the environment, or give the password by a file of its own"
    )]
    PasswordInFlag(String),
}

fn from(origin: Option<&Origin>) -> String {
    origin
        .map(|origin| format!(" (from {origin})"))
        .unwrap_or_default()
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || {
            format!(
                ": RHYZOME_SECTION__KEY is what a key of the configuration is named, and others are {}",
                variables::OTHERS.join(", ")
            )
        },
        |nearest| format!("; did you mean {nearest}?"),
    )
}

/// What the layers are made from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    flags: Vec<(String, String, String)>,
}

/// Those whose names may be ours. Of other programs' not even UTF-8 is asked; a value of ours that isn't is refused as what it reads like.
fn variables_of_process() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

impl Sources {
    /// The file named (or the usual one), and the process's environment.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        Self {
            file,
            environment: variables_of_process(),
            flags: Vec::new(),
        }
    }

    /// Only what is given; for tests.
    pub fn only(file: Option<PathBuf>, environment: Vec<(String, String)>) -> Self {
        Self {
            file,
            environment,
            flags: Vec::new(),
        }
    }

    /// Adds a value given by a flag of its own: `flag("scheduler.batch", "--batch", value)`. Later ones win.
    #[must_use]
    pub fn flag(mut self, key: &str, flag: &str, value: Option<impl fmt::Display>) -> Self {
        if let Some(value) = value {
            self.flags
                .push((key.to_owned(), flag.to_owned(), value.to_string()));
        }
        self
    }

    /// Adds `SECTION.KEY=VALUE` as `--set` takes it.
    ///
    /// # Errors
    /// It has another shape.
    pub fn set(mut self, text: &str) -> Result<Self, ConfigError> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| ConfigError::Flag(text.to_owned()))?;
        let key = key.trim();
        if !key.contains('.') || key.split('.').any(str::is_empty) {
            return Err(ConfigError::Flag(text.to_owned()));
        }
        self.flags
            .push((key.to_owned(), format!("--set {key}"), value.trim().to_owned()));
        Ok(self)
    }
}

/// Reads all layers into `T`, which should refuse unknown fields everywhere.
///
/// # Errors
/// See [`ConfigError`]; the first fault is told.
pub fn load<T: DeserializeOwned>(sources: &Sources) -> Result<T, ConfigError> {
    layers(sources)?.read()
}

/// As [`load`], and judges what was read: a key that is wrong, and what would be right.
///
/// # Errors
/// See [`ConfigError`]; the first fault is told.
pub fn load_judged<T: DeserializeOwned>(
    sources: &Sources,
    fault: impl FnOnce(&T) -> Option<(&'static str, String)>,
) -> Result<T, ConfigError> {
    let layers = layers(sources)?;
    let origins = layers.origins.clone();
    let read = layers.read()?;
    match fault(&read) {
        None => Ok(read),
        Some((key, what)) => Err(ConfigError::Value {
            key: key.to_owned(),
            origin: origins.get(key).cloned(),
            what,
        }),
    }
}

fn layers(sources: &Sources) -> Result<Layers, ConfigError> {
    let mut layers = Layers::default();
    if let Some(path) = file_of(sources)? {
        layers.file(&path)?;
    }
    for (name, value) in &sources.environment {
        if let Some(key) = key_of_variable(name) {
            layers.text(&key, value, Origin::Environment(name.clone()))?;
        }
    }
    for (key, flag, value) in &sources.flags {
        if is_secret(key) {
            return Err(ConfigError::SecretInFlag(key.clone()));
        }
        if has_password(value) {
            return Err(ConfigError::PasswordInFlag(key.clone()));
        }
        layers.text(key, value, Origin::Flag(flag.clone()))?;
    }
    Ok(layers)
}

fn is_secret(key: &str) -> bool {
    SECRETS
        .iter()
        .any(|secret| key.rsplit('.').next() == Some(*secret))
}

/// Whether a URL names a user with a password (RFC 3986, 3.2.1).
fn has_password(value: &str) -> bool {
    let authority = value
        .split_once("://")
        .and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    let user = authority.and_then(|authority| authority.rsplit_once('@'));
    user.is_some_and(|(user, _)| user.contains(':'))
}

/// The file that would be read: the one named, or the first usual one there is.
///
/// # Errors
/// The one named isn't there.
pub fn file_of(sources: &Sources) -> Result<Option<PathBuf>, ConfigError> {
    match &sources.file {
        Some(path) => match std::fs::metadata(path) {
            Ok(_) => Ok(Some(path.clone())),
            Err(source) => Err(ConfigError::Unreadable {
                path: path.clone(),
                source,
            }),
        },
        None => Ok(DEFAULT_FILES
            .iter()
            .map(PathBuf::from)
            .find(|path| path.is_file())),
    }
}

/// `RHYZOME_SCHEDULER__JOB_DEADLINE` is `scheduler.job_deadline`.
fn key_of_variable(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?;
    rest.contains("__")
        .then(|| rest.to_ascii_lowercase().replace("__", "."))
}

#[derive(Default)]
struct Layers {
    values: BTreeMap<String, Value>,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let origin = Origin::File(path.to_owned());
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let table = parse_toml(&text, &origin)?;
        self.leaves("", table, &origin);
        Ok(())
    }

    /// Arrays and empty tables are leaves; a list is replaced as a whole by the next layer.
    fn leaves(&mut self, prefix: &str, table: config::Map<String, Value>, origin: &Origin) {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}.{name}")
            };
            match value.kind {
                ValueKind::Table(inner) if !inner.is_empty() => self.leaves(&key, inner, origin),
                kind => self.put(&key, Value::new(None, kind), origin.clone()),
            }
        }
    }

    fn put(&mut self, key: &str, value: Value, origin: Origin) {
        self.values.insert(key.to_owned(), value);
        self.origins.insert(key.to_owned(), origin);
    }

    fn text(&mut self, key: &str, value: &str, origin: Origin) -> Result<(), ConfigError> {
        if value.starts_with(['[', '{', '"']) {
            let mut table = parse_toml(&format!("value = {value}"), &origin)?;
            if let Some(value) = table.remove("value") {
                self.put(key, value, origin);
            }
        } else {
            self.put(key, Value::new(None, ValueKind::String(value.to_owned())), origin);
        }
        Ok(())
    }

    fn read<T: DeserializeOwned>(self) -> Result<T, ConfigError> {
        let mut builder = Config::builder();
        for (key, value) in &self.values {
            builder = builder
                .set_override(key, value.clone())
                .map_err(|error| explain(error, &self))?;
        }
        builder
            .build()
            .and_then(Config::try_deserialize)
            .map_err(|error| explain(error, &self))
    }
}

fn parse_toml(text: &str, origin: &Origin) -> Result<config::Map<String, Value>, ConfigError> {
    config::Source::collect(&File::from_str(text, FileFormat::Toml)).map_err(|error| {
        let what = match error {
            Inner::FileParse { cause, .. } => cause.to_string(),
            other => other.to_string(),
        };
        ConfigError::Syntax {
            origin: origin.clone(),
            what,
        }
    })
}

#[cfg(test)]
mod tests;
