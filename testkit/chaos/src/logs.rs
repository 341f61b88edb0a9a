//! The components' logs: no ERROR line but those that are expected, each for a reason; WARN lines are counted by what they say.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// Lines that a fault brings about: what they contain, and why they are no fault of ours.
const EXPECTED: [(&str, &str); 1] = [(
    "a fault says that the agent crashes now",
    "faults.toml asked the agent to crash, and it says so",
)];

/// What the logs say.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    /// ERROR lines that nobody expects.
    pub(crate) errors: Vec<String>,
    /// ERROR lines that are expected, by why.
    pub(crate) expected: BTreeMap<&'static str, u64>,
    /// WARN lines by what they say, numbers and ids left out.
    pub(crate) warnings: BTreeMap<String, u64>,
}

/// Reads all logs in a folder. Those of Postgres and nats-server have levels of their own, and are left out.
pub(crate) fn read(folder: &Path) -> Result<Logs> {
    let mut logs = Logs::default();
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("postgres") || name.starts_with("nats") {
            continue;
        }
        let text = String::from_utf8_lossy(&std::fs::read(entry.path())?).into_owned();
        for line in text.lines() {
            logs.take(&name, line);
        }
    }
    Ok(logs)
}

impl Logs {
    fn take(&mut self, file: &str, line: &str) {
        let panicked = line.contains("panicked at");
        let level = line.split_whitespace().nth(1);
        if level == Some("ERROR") || panicked {
            match EXPECTED.iter().find(|(text, _)| line.contains(text)) {
                Some((_, why)) => *self.expected.entry(why).or_default() += 1,
                None => self.errors.push(format!("{file}: {line}")),
            }
        } else if level == Some("WARN") {
            let role = file
                .trim_end_matches(".log")
                .trim_end_matches(|c: char| c.is_ascii_digit());
            let said = line
                .split_whitespace()
                .skip(2)
                .map(general)
                .collect::<Vec<_>>()
                .join(" ");
            let said: String = said.chars().take(150).collect();
            *self.warnings.entry(format!("{role} {said}")).or_default() += 1;
        }
    }
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

    #[test]
    fn an_error_is_found_and_warnings_are_counted_by_what_they_say() {
        let mut logs = Logs::default();
        logs.take(
            "worker-1.log",
            "2026-01-01T00:00:00Z ERROR rhyzome_worker: something new job=1",
        );
        logs.take(
            "worker-1.log",
            "2026-01-01T00:00:00Z ERROR rhyzome_agent: a fault says that the agent crashes now step=x",
        );
        for job in 1..3 {
            let line = format!("2026-01-01T00:00:00Z  WARN rhyzome_worker: again job={job}");
            logs.take("worker-2.log", &line);
        }
        assert_eq!((logs.errors.len(), logs.expected.len()), (1, 1));
        assert_eq!(logs.warnings.values().copied().collect::<Vec<_>>(), [2]);
    }
}
