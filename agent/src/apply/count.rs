//! The steps' metrics: `rhyzome_steps_total` and `rhyzome_step_duration_seconds`, by step and outcome. The handles are made once.

use crate::driver::Direction;
use metrics::{Counter, Histogram, counter, histogram};
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::Action;
use std::sync::OnceLock;
use std::time::Duration;

const OUTCOMES: [&str; 9] = [
    "succeeded",
    "cancelled",
    "unavailable",
    "busy",
    "timeout",
    "no_room",
    "permanent",
    "not_here",
    "not_here_now",
];

/// How a step's call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepOutcome {
    Succeeded,
    Cancelled,
    Failed(ErrorClass),
}

impl StepOutcome {
    fn index(self) -> usize {
        match self {
            Self::Succeeded => 0,
            Self::Cancelled => 1,
            Self::Failed(ErrorClass::Unavailable) => 2,
            Self::Failed(ErrorClass::Busy) => 3,
            Self::Failed(ErrorClass::Timeout) => 4,
            Self::Failed(ErrorClass::NoRoom) => 5,
            Self::Failed(ErrorClass::Permanent) => 6,
            Self::Failed(ErrorClass::NotHere) => 7,
            Self::Failed(ErrorClass::NotHereNow) => 8,
        }
    }
}

/// All handles.
pub(super) struct StepCounts {
    rows: Vec<[Cell; OUTCOMES.len()]>,
}

struct Cell {
    step: &'static str,
    outcome: &'static str,
    count: Counter,
    seconds: OnceLock<Histogram>,
}

/// A step's name with its direction: `undo_` before the name of an undo.
pub(super) fn full_name(name: &'static str, direction: Direction) -> &'static str {
    match direction {
        Direction::Forward => name,
        Direction::Undo => undo_names()[position(name)],
    }
}

fn position(name: &str) -> usize {
    Action::NAMES
        .iter()
        .position(|known| *known == name)
        .unwrap_or_default()
}

fn undo_names() -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        Action::NAMES
            .iter()
            .map(|name| &*format!("undo_{name}").leak())
            .collect()
    })
}

impl StepCounts {
    /// Registers every counter, at 0.
    pub(super) fn register() -> Self {
        let names = Action::NAMES.iter().copied().chain(undo_names().iter().copied());
        let row = |step| {
            OUTCOMES.map(|outcome| {
                let count = counter!("rhyzome_steps_total", "step" => step, "outcome" => outcome);
                count.increment(0);
                Cell {
                    step,
                    outcome,
                    count,
                    seconds: OnceLock::new(),
                }
            })
        };
        Self {
            rows: names.map(row).collect(),
        }
    }

    /// Counts one call.
    pub(super) fn count(
        &self,
        name: &'static str,
        direction: Direction,
        outcome: StepOutcome,
        took: Duration,
    ) {
        let row = match direction {
            Direction::Forward => position(name),
            Direction::Undo => Action::NAMES.len() + position(name),
        };
        if let Some(cell) = self.rows.get(row).and_then(|row| row.get(outcome.index())) {
            cell.count.increment(1);
            let register = || histogram!("rhyzome_step_duration_seconds", "step" => cell.step, "outcome" => cell.outcome);
            cell.seconds.get_or_init(register).record(took);
        }
    }
}
