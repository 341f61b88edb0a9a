//! What happened in a schedule, line by line, and its hash: the same seed gives the same.

use std::fmt::Write;

/// See the module.
#[derive(Debug)]
pub(crate) struct Trace {
    lines: Vec<String>,
    hash: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            // FNV-1a, 64 bits.
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }
}

impl Trace {
    /// Adds a line, at milliseconds since the beginning.
    pub(crate) fn add(&mut self, at_ms: i64, what: std::fmt::Arguments<'_>) {
        let mut line = String::with_capacity(96);
        // Writing to a string can't fail.
        let _ = write!(line, "{:>4}.{:03} {what}", at_ms / 1000, at_ms % 1000);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines.push(line);
    }

    /// Of all lines.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines.
    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}
