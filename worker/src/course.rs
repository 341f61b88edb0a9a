//! One order's way: which call is made next, given what was answered. No calls, no clock and no pauses: these are the driver's.

use crate::config::WorkerConfig;
use crate::decide::{Answer, Budget, Hint, Next, State, Time, Undo, decide};
use crate::words::Word;
use rhyzome_model::job::{Mode, Verdict};
use rhyzome_proto::convert::WireError;
use rhyzome_proto::event::Outcome;
use rhyzome_proto::job::{self, Order};

/// See the module.
#[derive(Clone, Debug)]
pub struct Course {
    order: Order,
    state: State,
    quick: u32,
    unknown: u32,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    /// The order as it now is, in mode undo, at once.
    ToUndo(Verdict),
    /// The same call, after a pause.
    Pause,
    /// Nothing more: this is reported, then the order acked.
    Report(Outcome),
}

impl Course {
    /// An order as it came.
    ///
    /// # Errors
    /// Its mode is none.
    pub fn new(order: Order, config: &WorkerConfig, now_ms: i64) -> Result<Self, WireError> {
        let state = State {
            mode: order.model_mode()?,
            undo: Undo::of(&order.action),
            quick: config.quick_tries,
            unknown: config.unknown_tries,
            time: time(&order, now_ms),
            hint: Hint::None,
        };
        Ok(Self {
            order,
            state,
            quick: config.quick_tries,
            unknown: config.unknown_tries,
        })
    }

    /// The order as it is called now.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Which way it goes now.
    pub fn mode(&self) -> Mode {
        self.state.mode
    }

    /// What is reported without any call: its time was over before it began.
    pub fn over(&self) -> Option<Outcome> {
        ((self.state.mode, self.state.time) == (Mode::Forward, Time::Over))
            .then(|| Word::Expired.suspended(&self.order.host))
    }

    /// What is reported where the worker has to end now.
    pub fn stopped(&self) -> Outcome {
        Word::Stopped.suspended(&self.order.host)
    }

    /// Takes in an answer, at a time, with what was heard of a wish to undo.
    pub fn after(&mut self, answer: Answer, now_ms: i64, hint: Hint) -> Turn {
        self.state.time = time(&self.order, now_ms);
        self.state.hint = hint;
        match decide(self.state, answer, &self.order.host) {
            Next::Report(outcome) => Turn::Report(outcome),
            Next::TurnToUndo { verdict, cause } => {
                self.order.mode = job::Mode::Undo.into();
                self.order.verdict = job::Verdict::from(verdict).into();
                self.order.cause = cause;
                self.state.mode = Mode::Undo;
                self.state.quick = self.quick;
                self.state.unknown = self.unknown;
                Turn::ToUndo(verdict)
            }
            Next::Again(budget) => {
                match budget {
                    Budget::Quick => self.state.quick = self.state.quick.saturating_sub(1),
                    Budget::Unknown => self.state.unknown = self.state.unknown.saturating_sub(1),
                }
                Turn::Pause
            }
        }
    }
}

fn time(order: &Order, now_ms: i64) -> Time {
    if order.expires_at_ms != 0 && now_ms >= order.expires_at_ms {
        Time::Over
    } else {
        Time::Left
    }
}
