//! Faults of simulated hosts, as `faults.toml` says them: written whole and put in place in one go.
//!
//! Agents read the file again within a second of a change; a test that needs a fault in force waits until it shows.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// What goes wrong: the first entry that fits counts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Fault {
    step: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crash: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u32>,
}

/// What a step answers instead of what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// The host or a part of it can't be reached now.
    Unavailable,
    /// Something else holds it.
    Busy,
    /// The effect is made, and no answer comes.
    Timeout,
    /// No room on this host after all.
    NoRoom,
    /// Can't succeed.
    Permanent,
}

impl FaultError {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::NoRoom => "no_room",
            Self::Permanent => "permanent",
        }
    }
}

impl Fault {
    /// At a step (`ensure_disk`), an undo (`undo_ensure_disk`), all of them (`*`), `heartbeat` or `inventory`.
    pub fn at(step: &str) -> Self {
        Self {
            step: step.to_owned(),
            ..Self::default()
        }
    }

    /// On this host only.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// It takes longer.
    #[must_use]
    pub fn delay_ms(mut self, delay: u64) -> Self {
        self.delay_ms = Some(delay);
        self
    }

    /// It fails.
    #[must_use]
    pub fn error(mut self, error: FaultError) -> Self {
        self.error = Some(error.as_str());
        self
    }

    /// The agent's process ends.
    #[must_use]
    pub fn crash(mut self) -> Self {
        self.crash = Some(true);
        self
    }

    /// The error or crash comes after the effect.
    #[must_use]
    pub fn after(mut self) -> Self {
        self.when = Some("after");
        self
    }

    /// With this probability, 0 to 1.
    #[must_use]
    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = Some(rate);
        self
    }

    /// So many times, and then no more.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }
}

/// A `faults.toml`.
#[derive(Clone, Debug)]
pub struct FaultsFile(PathBuf);

#[derive(Serialize)]
struct Document<'a> {
    fault: &'a [Fault],
}

impl FaultsFile {
    /// The file in this folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self(folder.join("faults.toml"))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Replaces all faults by these.
    ///
    /// # Panics
    /// Where the file can't be written.
    pub fn set(&self, faults: &[Fault]) {
        let text = match toml::to_string(&Document { fault: faults }) {
            Ok(text) => text,
            Err(error) => panic!("faults as TOML: {error}"),
        };
        let beside = self.0.with_extension("new");
        let put = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &self.0));
        if let Err(error) = put {
            panic!("writing {}: {error}", self.0.display());
        }
    }

    /// No fault any more.
    pub fn clear(&self) {
        self.set(&[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_was_asked_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = FaultsFile::in_folder(dir.path());
        file.set(&[
            Fault::at("ensure_disk")
                .host("sim-3")
                .delay_ms(500)
                .error(FaultError::NoRoom)
                .after()
                .times(3),
            Fault::at("*").crash().rate(0.1),
        ]);
        let read: toml::Table = std::fs::read_to_string(file.path()).unwrap().parse().unwrap();
        let expected: toml::Table = r#"
            [[fault]]
            step = "ensure_disk"
            host = "sim-3"
            delay_ms = 500
            error = "no_room"
            when = "after"
            times = 3
            [[fault]]
            step = "*"
            crash = true
            rate = 0.1
        "#
        .parse()
        .unwrap();
        assert_eq!(read, expected);
    }
}
