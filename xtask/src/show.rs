//! Shows that long work moves: a spinner on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The least time between two plain lines of the same work.
const PLAIN_EVERY: Duration = Duration::from_secs(3);

/// One piece of long work that is under way.
pub(crate) struct Progress {
    what: String,
    started: Instant,
    spinner: Option<ProgressBar>,
    last_plain: Cell<Instant>,
}

impl Progress {
    /// Begins to show `what` ("building the image tiny").
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let spinner = stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}") {
                spinner.set_style(style);
            }
            spinner.set_prefix(what.clone());
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner
        });
        if spinner.is_none() {
            eprintln!("{what} …");
        }
        Self {
            what,
            started: Instant::now(),
            spinner,
            last_plain: Cell::new(Instant::now()),
        }
    }

    /// Shows a line of what the work says.
    pub(crate) fn line(&self, line: &str) {
        let line = line.trim();
        if line.is_empty() {
            return;
        }
        if let Some(spinner) = &self.spinner {
            spinner.set_message(line.to_owned());
        } else if self.last_plain.get().elapsed() >= PLAIN_EVERY {
            self.last_plain.set(Instant::now());
            eprintln!("  {line}");
        }
    }

    /// Ends the show with `outcome`.
    pub(crate) fn done(self, outcome: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        eprintln!(
            "{}: {outcome} ({:.1} s)",
            self.what,
            self.started.elapsed().as_secs_f64()
        );
    }
}

/// Says one thing that needs no movement.
pub(crate) fn say(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}
