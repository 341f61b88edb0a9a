//! What arms points: a file, looked at again every few milliseconds.
//!
//! A line is `POINT before|after TIMES PROBABILITY [abort|stop]`: the process aborts there, or stops as by SIGSTOP until somebody continues
//! it. TIMES counts over all processes: each hit takes one of the names `POINT-SIDE-N` in the folder `FILE.taken`, which whoever arms
//! empties first. A hit is a line `POINT SIDE ACTION ROLE PID` in `FILE.log`.

use super::{Mutant, Point, Side};
use std::fs::OpenOptions;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Between two looks at the file.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Abort,
    Stop,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Stop => "stop",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    point: Point,
    side: Side,
    times: u32,
    probability: f64,
    action: Action,
}

#[derive(Debug)]
struct Armed {
    path: PathBuf,
    read: Mutex<Read>,
    /// Whether this process must not go on: one hit is enough.
    struck: AtomicBool,
}

#[derive(Debug, Default)]
struct Read {
    looked: Option<Instant>,
    stamp: Option<(SystemTime, u64)>,
    entries: Vec<Entry>,
}

fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let of_environment = || {
        Some(Armed {
            path: std::env::var_os(super::POINTS_FILE)?.into(),
            read: Mutex::default(),
            struck: AtomicBool::new(false),
        })
    };
    ARMED.get_or_init(of_environment).as_ref()
}

/// The mutant that this process is.
pub(super) fn mutant() -> Option<Mutant> {
    static IS: OnceLock<Option<Mutant>> = OnceLock::new();
    *IS.get_or_init(|| {
        let name = std::env::var(super::MUTANT)
            .ok()
            .filter(|name| !name.is_empty())?;
        let mutant = Mutant::parse(&name);
        if mutant.is_none() {
            tracing::error!(name, "no mutant has this name");
        }
        mutant
    })
}

/// Ends or stops the process where this side of this act is armed.
pub(super) fn meet(point: Point, side: Side) {
    let Some(armed) = armed() else { return };
    let Some(entry) = armed.entry(point, side) else {
        return;
    };
    if (entry.probability < 1.0 && chance() >= entry.probability) || !armed.take(&entry) {
        return;
    }
    match entry.action {
        Action::Abort => {
            if armed.struck.swap(true, Ordering::AcqRel) {
                return;
            }
            armed.note(&entry);
            std::process::abort();
        }
        Action::Stop => {
            armed.note(&entry);
            let stop = format!("kill -STOP {}", std::process::id());
            if let Err(error) = Command::new("sh").args(["-c", &stop]).status() {
                tracing::error!(%error, "the process can't stop itself");
            }
        }
    }
}

/// `0.0..1.0`; the standard library's hash keys are its source of chance.
fn chance() -> f64 {
    let drawn = RandomState::new().build_hasher().finish() >> 11;
    drawn as f64 / (1_u64 << 53) as f64
}

impl Armed {
    fn entry(&self, point: Point, side: Side) -> Option<Entry> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            read.looked = Some(Instant::now());
            let metadata = std::fs::metadata(&self.path).ok();
            let stamp = metadata.and_then(|m| Some((m.modified().ok()?, m.len())));
            if stamp != read.stamp {
                read.stamp = stamp;
                read.entries = parse(&std::fs::read_to_string(&self.path).unwrap_or_default());
            }
        }
        let mut entries = read.entries.iter();
        entries
            .find(|entry| entry.point == point && entry.side == side)
            .copied()
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(ending);
        path.into()
    }

    fn take(&self, entry: &Entry) -> bool {
        let folder = self.beside(".taken");
        (0..entry.times).any(|n| claim(&folder, entry, n))
    }

    fn note(&self, entry: &Entry) {
        let role = std::env::args().nth(1).unwrap_or_default();
        let line = format!(
            "{} {} {} {role} {}\n",
            entry.point.as_str(),
            entry.side.as_str(),
            entry.action.as_str(),
            std::process::id()
        );
        let mut options = OpenOptions::new();
        let written = options
            .create(true)
            .append(true)
            .open(self.beside(".log"))
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            tracing::error!(%error, "a hit can't be noted");
        }
    }
}

fn claim(folder: &Path, entry: &Entry, n: u32) -> bool {
    let name = format!("{}-{}-{n}", entry.point.as_str(), entry.side.as_str());
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(folder.join(name))
        .is_ok()
}

fn parse(text: &str) -> Vec<Entry> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .filter_map(|line| {
            let entry = entry(line);
            if entry.is_none() {
                tracing::error!(line, "this arms no fault point");
            }
            entry
        })
        .collect()
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace();
    let entry = Entry {
        point: Point::parse(words.next()?)?,
        side: Side::parse(words.next()?)?,
        times: words.next()?.parse().ok()?,
        probability: words.next()?.parse().ok()?,
        action: match words.next() {
            None | Some("abort") => Action::Abort,
            Some("stop") => Action::Stop,
            Some(_) => return None,
        },
    };
    words.next().is_none().then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whole_or_not_at_all() {
        let wanted = Entry {
            point: Point::OrderAck,
            side: Side::After,
            times: 3,
            probability: 0.5,
            action: Action::Stop,
        };
        assert_eq!(entry("order_ack after 3 0.5 stop"), Some(wanted));
        for wrong in [
            "order_ack after 3",
            "order after 3 1",
            "order_ack after 3 1 stop it",
            "order_ack at 3 1",
        ] {
            assert_eq!(entry(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_count_over_all_who_share_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let armed = || Armed {
            path: dir.path().join("points"),
            read: Mutex::default(),
            struck: AtomicBool::new(false),
        };
        std::fs::create_dir(dir.path().join("points.taken")).unwrap();
        std::fs::write(dir.path().join("points"), "effect before 2 1\n").unwrap();
        let entry = armed().entry(Point::Effect, Side::Before).unwrap();
        assert_eq!(armed().entry(Point::Effect, Side::After), None);
        let taken: Vec<bool> = (0..4).map(|_| armed().take(&entry)).collect();
        assert_eq!(taken, [true, true, false, false]);
    }
}
