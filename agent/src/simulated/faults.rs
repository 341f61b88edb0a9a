//! `faults.toml`: what shall go wrong on simulated hosts. Re-read within a second of a change; the first entry that fits counts.
//!
//! An entry fits when its step and host do, its dice say so (`rate`) and it isn't used up (`times`, counted across the agent's starts
//! for as long as the file isn't changed). A file that can't be understood is logged, with line and key, and the last good one stays.

mod used;

use crate::driver::StepError;
use rhyzome_model::ids::HostName;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::Action;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use toml::Spanned;
use used::Used;

/// How often the file is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// What an entry may be about, beside the steps and their undo.
const OTHERS: [&str; 3] = ["*", "heartbeat", "inventory"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    fault: Vec<Spanned<Written>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    step: Spanned<String>,
    host: Option<String>,
    #[serde(default)]
    delay_ms: u64,
    error: Option<FaultError>,
    when: Option<When>,
    #[serde(default)]
    crash: bool,
    rate: Option<Spanned<f64>>,
    times: Option<u64>,
}

/// The error that a step answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultError {
    /// Again later.
    Unavailable,
    /// Again later.
    Busy,
    /// The effect is made, and nobody is told.
    Timeout,
    /// Not on this host.
    NoRoom,
    /// Never.
    Permanent,
}

impl FaultError {
    /// As a step's error.
    pub fn at(self, step: &str) -> StepError {
        let (class, code) = match self {
            Self::Unavailable => (ErrorClass::Unavailable, "INJECTED_UNAVAILABLE"),
            Self::Busy => (ErrorClass::Busy, "INJECTED_BUSY"),
            Self::Timeout => (ErrorClass::Timeout, "INJECTED_TIMEOUT"),
            Self::NoRoom => (ErrorClass::NoRoom, "NO_ROOM"),
            Self::Permanent => (ErrorClass::Permanent, "INJECTED_FAULT"),
        };
        StepError::new(class, code, format!("A fault was injected into {step}."))
    }
}

/// Which side of the effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before it, instead of it.
    #[default]
    Before,
    /// After it.
    After,
}

/// What shall go wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Before everything.
    pub delay: Duration,
    /// The answer, if it shall be an error.
    pub error: Option<FaultError>,
    /// Which side of the effect error and crash are on.
    pub when: When,
    /// Of the agent's process.
    pub crash: bool,
}

#[derive(Debug)]
struct Entry {
    step: String,
    host: Option<String>,
    fault: Fault,
    rate: f64,
    times: Option<Times>,
}

/// How often an entry may be used, and was.
#[derive(Debug)]
struct Times {
    most: u64,
    used: AtomicU64,
}

impl Times {
    fn take(&self) -> bool {
        let next = |used| (used < self.most).then_some(used + 1);
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .is_ok()
    }
}

impl Entry {
    fn fits(&self, step: &str, host: &HostName) -> bool {
        (self.step == step || (self.step == "*" && !OTHERS.contains(&step)))
            && self.host.as_ref().is_none_or(|own| own == host.as_str())
            && (self.rate >= 1.0 || rand::random::<f64>() < self.rate)
            && self.times.as_ref().is_none_or(Times::take)
    }
}

/// Why a file isn't one of faults.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FaultsError(String);

fn wrong(text: &str, at: usize, what: &str) -> FaultsError {
    let line = text
        .get(..at)
        .map_or(1, |before| before.matches('\n').count() + 1);
    FaultsError(format!("line {line}: {what}"))
}

fn known_step(step: &str) -> bool {
    let forward = step.strip_prefix("undo_").unwrap_or(step);
    OTHERS.contains(&step) || Action::NAMES.contains(&forward)
}

fn parse(text: &str) -> Result<Vec<Entry>, FaultsError> {
    let file: File = toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        wrong(text, at, &e.to_string())
    })?;
    file.fault
        .into_iter()
        .map(|written| entry(text, written))
        .collect()
}

fn entry(text: &str, written: Spanned<Written>) -> Result<Entry, FaultsError> {
    let at = written.span().start;
    let written = written.into_inner();
    if !known_step(written.step.get_ref()) {
        let what = format!(
            "step: `{}` is no step, no `undo_` of one, and not `*`, `heartbeat` or `inventory`",
            written.step.get_ref()
        );
        return Err(wrong(text, written.step.span().start, &what));
    }
    if let Some(rate) = &written.rate
        && !(0.0..=1.0).contains(rate.get_ref())
    {
        return Err(wrong(
            text,
            rate.span().start,
            &format!("rate: {} is not between 0 and 1", rate.get_ref()),
        ));
    }
    if written.delay_ms == 0 && written.error.is_none() && !written.crash {
        return Err(wrong(
            text,
            at,
            "fault: one of delay_ms, error and crash is needed",
        ));
    }
    let fault = Fault {
        delay: Duration::from_millis(written.delay_ms),
        error: written.error,
        when: match written.error {
            Some(FaultError::Timeout) => When::After,
            Some(_) | None => written.when.unwrap_or_default(),
        },
        crash: written.crash,
    };
    Ok(Entry {
        step: written.step.into_inner(),
        host: written.host,
        fault,
        rate: written.rate.map_or(1.0, Spanned::into_inner),
        times: written.times.map(|most| Times {
            most,
            used: AtomicU64::new(0),
        }),
    })
}

/// The faults in force.
#[derive(Debug)]
pub struct Faults {
    path: Option<PathBuf>,
    /// None for hosts in memory alone.
    used: Option<Mutex<Used>>,
    read: RwLock<Arc<Read>>,
}

/// A file as it was read.
#[derive(Debug, Default)]
struct Read {
    stamp: Stamp,
    entries: Vec<Entry>,
}

impl Read {
    fn used(&self) -> Vec<u64> {
        let count = |times: &Times| times.used.load(Ordering::Acquire);
        let counts = self
            .entries
            .iter()
            .map(|entry| entry.times.as_ref().map_or(0, count));
        counts.collect()
    }
}

/// What a file looked like when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(Option<(SystemTime, u64)>);

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok();
    Stamp(metadata.and_then(|m| Some((m.modified().ok()?, m.len()))))
}

impl Faults {
    /// Those of a file, which need not be there; none without one. How often they were used is kept in a folder, where one is given.
    pub fn of(path: Option<PathBuf>, folder: Option<&Path>) -> Self {
        let faults = Self {
            path,
            used: folder.map(|folder| Mutex::new(Used::within(folder))),
            read: RwLock::default(),
        };
        faults.look(&Stamp::default());
        faults
    }

    /// Reads the file again if it isn't as it was.
    pub(super) fn look(&self, before: &Stamp) -> Stamp {
        let Some(path) = &self.path else {
            return Stamp::default();
        };
        let now = stamp(path);
        if now == *before {
            return now;
        }
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the faults can't be read; the last good ones stay");
                return now;
            }
        };
        match parse(&text) {
            Ok(mut entries) => {
                self.recall(&now, &mut entries);
                if !entries.is_empty() || before.0.is_some() {
                    tracing::info!(path = %path.display(), entries = entries.len(), "faults in force");
                }
                *self.read.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Read {
                    stamp: now.clone(),
                    entries,
                });
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the faults are wrong; the last good ones stay");
            }
        }
        now
    }

    /// Counts on from where an earlier process of this agent was.
    fn recall(&self, stamp: &Stamp, entries: &mut [Entry]) {
        let Some(used) = &self.used else {
            return;
        };
        let counts = used.lock().unwrap_or_else(PoisonError::into_inner).of(stamp);
        match counts {
            Ok(counts) => {
                for (entry, count) in entries.iter_mut().zip(counts) {
                    if let Some(times) = &mut entry.times {
                        times.used = AtomicU64::new(count);
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "how often faults were used can't be read; `times` begins anew");
            }
        }
    }

    fn keep(&self, read: &Read) {
        let Some(used) = &self.used else {
            return;
        };
        // Counted under the lock: the newest is written last.
        let used = used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = used.keep(&read.stamp, read.used()) {
            tracing::error!(%error, "how often faults were used can't be kept; `times` begins anew with the agent");
        }
    }

    fn read(&self) -> Arc<Read> {
        self.read.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.read().entries.is_empty()
    }

    /// The first entry that fits.
    pub fn pick(&self, step: &str, host: &HostName) -> Option<Fault> {
        let read = self.read();
        let entry = read.entries.iter().find(|entry| entry.fits(step, host))?;
        if entry.times.is_some() {
            self.keep(&read);
        }
        Some(entry.fault)
    }
}

#[cfg(test)]
mod tests;
