//! What a stack's components logged while a test ran: a WARN or ERROR line that nobody expects fails the test.

use super::{Logs, Stack};
use crate::logs::{self, Line};

/// What every stack may say, for a reason that is no fault.
const ALWAYS: &[&str] = &[
    // Timings of a machine that does other things too.
    "acquired connection, but time to acquire exceeded slow threshold",
    "slow statement",
];

impl Stack {
    /// Lines that nobody expects, where this value judges them and the test has not failed already.
    pub(super) fn unexpected(&self) -> Vec<Line> {
        if self.options.logs == Logs::Left || std::thread::panicking() {
            return Vec::new();
        }
        let folder = self.data().join("logs");
        match logs::read_after(&folder, &self.begun) {
            Ok(lines) => logs::unexpected(logs::unexpected(lines, ALWAYS), &self.options.expected),
            Err(error) => panic!("reading the logs in {}: {error}", folder.display()),
        }
    }

    pub(super) fn judge_logs(&self) {
        fail_on(&self.unexpected());
    }
}

pub(super) fn fail_on(lines: &[Line]) {
    if lines.is_empty() {
        return;
    }
    let said: Vec<String> = lines
        .iter()
        .map(|line| format!("{}: {}", line.file, line.text))
        .collect();
    panic!(
        "the logs have what this test doesn't expect:\n{}",
        said.join("\n")
    );
}
