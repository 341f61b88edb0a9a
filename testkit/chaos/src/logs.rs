//! The components' logs: no ERROR line but those that are expected, each for a reason; WARN lines are counted by what they say.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use rhyzome_testkit::logs::{self, Level, Line};

/// Lines that a fault brings about: how they begin, and why they are no fault of ours.
const EXPECTED: [(&str, &str); 1] = [(
    "a fault says that the agent crashes now",
    "faults.toml asked the agent to crash, and it says so",
)];

/// The same, of hosts that were put back.
const PUT_BACK: [(&str, &str); 2] = [
    (
        "invariant broken",
        "hosts were put back to an older copy of themselves, and the check says what that broke",
    ),
    (
        "the agent's ledger was set back",
        "hosts were put back to an older copy of themselves, and that is noticed",
    ),
];

/// What the logs say.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    /// ERROR lines that nobody expects.
    pub(crate) errors: Vec<String>,
    /// ERROR lines that are expected, by why.
    pub(crate) expected: BTreeMap<&'static str, u64>,
    /// WARN lines by role and by what they say, numbers and ids left out.
    pub(crate) warnings: BTreeMap<String, u64>,
}

/// Reads all logs in a folder; of a run in which hosts were put back, or not.
pub(crate) fn read(folder: &Path, put_back: bool) -> Result<Logs> {
    let expected: Vec<(&str, &'static str)> = EXPECTED
        .iter()
        .chain(PUT_BACK.iter().filter(|_| put_back))
        .copied()
        .collect();
    let lines = logs::read(folder).with_context(|| format!("reading the logs in {}", folder.display()))?;
    let mut logs = Logs::default();
    for line in lines {
        logs.take(&line, &expected);
    }
    Ok(logs)
}

impl Logs {
    fn take(&mut self, line: &Line, expected: &[(&str, &'static str)]) {
        match line.level {
            Level::Error => match expected.iter().find(|(prefix, _)| line.said.starts_with(prefix)) {
                Some((_, why)) => *self.expected.entry(why).or_default() += 1,
                None => self.errors.push(format!("{}: {}", line.file, line.text)),
            },
            Level::Warn => {
                let what = format!("{} {}", line.role(), line.in_general());
                *self.warnings.entry(what).or_default() += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_found_and_warnings_are_counted_by_what_they_say() {
        let line = |level: Level, said: &str| Line {
            file: "worker-1.log".to_owned(),
            level,
            said: said.to_owned(),
            text: said.to_owned(),
        };
        let mut logs = Logs::default();
        logs.take(&line(Level::Error, "something new job=1"), &EXPECTED);
        let crash = "a fault says that the agent crashes now step=x";
        logs.take(&line(Level::Error, crash), &EXPECTED);
        for job in 1..3 {
            logs.take(&line(Level::Warn, &format!("again job={job}")), &EXPECTED);
        }
        assert_eq!((logs.errors.len(), logs.expected.len()), (1, 1));
        assert_eq!(
            logs.warnings.into_iter().collect::<Vec<_>>(),
            [("worker again job=…".to_owned(), 2)]
        );
    }
}
