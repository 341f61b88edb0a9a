//! What the components of a stack log: lines with their level, and which of them nobody expects.
//!
//! The logs of Postgres and nats-server have levels of their own, and are left out.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Somebody should look at it.
    Error,
    /// Something went wrong that mends itself.
    Warn,
}

/// A line of level WARN or ERROR, or of a panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The log's name, as `worker-1.log`.
    pub file: String,
    /// Of a panic, [`Level::Error`].
    pub level: Level,
    /// What it says, without time, level, spans and target.
    pub said: String,
    /// The whole line.
    pub text: String,
}

/// All such lines of all logs in a folder, file by file.
///
/// # Errors
/// A log can't be read.
pub fn read(folder: &Path) -> io::Result<Vec<Line>> {
    read_after(folder, &Lengths::default())
}

/// How long each log was at some time, bytes by name.
pub type Lengths = BTreeMap<String, u64>;

/// How long each log in a folder is now.
///
/// # Errors
/// The folder can't be read.
pub fn lengths(folder: &Path) -> io::Result<Lengths> {
    let mut lengths = Lengths::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        lengths.insert(name, entry.metadata()?.len());
    }
    Ok(lengths)
}

/// As [`read`], of what was written since then.
///
/// # Errors
/// A log can't be read.
pub fn read_after(folder: &Path, since: &Lengths) -> io::Result<Vec<Line>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?.flatten().collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    let mut lines = Vec::new();
    for entry in files {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("postgres") || name.starts_with("nats") {
            continue;
        }
        let log = std::fs::read(entry.path())?;
        let from = since
            .get(&name)
            .map_or(0, |n| usize::try_from(*n).unwrap_or(usize::MAX));
        let text = String::from_utf8_lossy(log.get(from..).unwrap_or(&log)).into_owned();
        lines.extend(text.lines().filter_map(|line| Line::of(&name, line)));
    }
    Ok(lines)
}

/// What the others say while a part of the stack is away, or when it comes back: for tests that take one away.
pub const OUTAGE: &[&str] = &[
    "NATS: ",
    "a batch failed, each of its requests is accepted alone",
    "a job notice was not sent",
    "a report was not stored",
    "ack could not be sent",
    "an order that nobody will get; published again",
    "can't pull orders",
    "change notices can't be heard",
    "change notices were not sent",
    "dispatch failed; again",
    "error occurred while testing the connection on-release",
    "events can't be pulled yet",
    "loads not written",
    "no hint to the worker",
    "no wake-ups; the scan goes on",
    "not all was finished when the grace period ended",
    "orders were not published",
    "orders without an outcome are not in the stream",
    "progress was not stored",
    "publish failed, again",
    "pulling events failed; again",
    "settle failed; again",
    "streams can't be made",
    "sweep failed; again",
    "the books can't be checked now; again",
    "the broken watch is not written",
    "the database can't serve a request",
    "the last effect was torn",
    "the ledger's last write was torn by a crash",
    "watch broke off",
    "watches not given back",
    "watches not renewed",
    "what changed can't be looked for",
    "what guests do is not written; again",
    "who waits for capacity was not woken",
];

/// Those that begin with none of what is expected.
pub fn unexpected(lines: Vec<Line>, expected: &[&str]) -> Vec<Line> {
    let mut lines = lines;
    lines.retain(|line| !expected.iter().any(|prefix| line.said.starts_with(prefix)));
    lines
}

impl Line {
    fn of(file: &str, text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let level = match (words.next(), words.next()) {
            _ if text.contains("panicked at") => Level::Error,
            (Some(_), Some("ERROR")) => Level::Error,
            (Some(_), Some("WARN")) => Level::Warn,
            (Some(_) | None, Some(_) | None) => return None,
        };
        Some(Self {
            file: file.to_owned(),
            level,
            said: said(text).to_owned(),
            text: text.to_owned(),
        })
    }

    /// Which role's log it is in: the file's name without its number.
    pub fn role(&self) -> &str {
        self.file
            .trim_end_matches(".log")
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .trim_end_matches('-')
    }

    /// What it says, without what differs from line to line: numbers and ids.
    pub fn in_general(&self) -> String {
        let words: Vec<String> = self.said.split_whitespace().map(general).collect();
        words.join(" ").chars().take(150).collect()
    }
}

/// What stands behind the target: the first part that is the path of a module.
fn said(text: &str) -> &str {
    let mut from = 0;
    while let Some(length) = text[from..].find(": ") {
        let part = &text[from..from + length];
        let target = part.rsplit(' ').next().unwrap_or(part);
        let after = &text[from + length + 2..];
        let is_target = !target.is_empty()
            && target
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':');
        if is_target {
            return after;
        }
        from += length + 2;
    }
    text
}

/// A word without what differs from line to line.
fn general(word: &str) -> String {
    if word.chars().any(|c| c.is_ascii_digit()) {
        match word.split_once('=') {
            Some((name, _)) => format!("{name}=…"),
            None => "…".to_owned(),
        }
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARN: &str = "2026-01-01T00:00:00Z  WARN request{route=/v1/x status=1}: rhyzome_api::problem: the database: it is away job=1";

    #[test]
    fn a_line_is_told_by_what_it_says_whatever_stands_before() {
        let line = Line::of("api-1.log", WARN).unwrap();
        assert_eq!((line.level, line.role()), (Level::Warn, "api"));
        assert_eq!(line.said, "the database: it is away job=1");
        assert_eq!(line.in_general(), "the database: it is away job=…");
        assert_eq!(unexpected(vec![line.clone()], &["the database:"]), []);
        assert_eq!(unexpected(vec![line.clone()], &["it is away"]), [line]);
    }

    #[test]
    fn panics_are_errors_and_other_lines_are_nothing() {
        let panic = Line::of("worker-1.log", "thread 'main' panicked at src/x.rs:1:1:").unwrap();
        assert_eq!(panic.level, Level::Error);
        for other in [
            "",
            "x",
            "2026-01-01T00:00:00Z  INFO rhyzome_api: a WARN of others",
        ] {
            assert_eq!(Line::of("worker-1.log", other), None);
        }
    }
}
