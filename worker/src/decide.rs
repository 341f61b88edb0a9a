//! What a worker does after an agent's answer. A pure function to a closed enum; the table is job-protocol.md, "When a step fails".
//!
//! The worker never infers that something didn't happen, and never ends a job itself: it asks again, has it undone, or gives it
//! back to Postgres with what it knows.

use crate::words::Word;
use rhyzome_model::job::{Action, ErrorClass, Mode, Verdict};
use rhyzome_proto::event::{Outcome, OutcomeKind};

/// Whether a job may be undone, and what becomes of it when its host can't take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Undone and then placed elsewhere: a create.
    AndPlaceAnew,
    /// Undone; what it changes lives on this host, so that no other can take it.
    InPlace,
    /// It only goes forward: a delete, and what this version doesn't know.
    Never,
}

impl Undo {
    /// Of an order's action.
    pub fn of(action: &str) -> Self {
        match Action::parse(action) {
            Some(Action::Create) => Self::AndPlaceAnew,
            Some(Action::Update | Action::Start | Action::Stop | Action::Reboot | Action::Repair) => {
                Self::InPlace
            }
            Some(Action::Delete) | None => Self::Never,
        }
    }
}

/// Whether the order's time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// It isn't, or it has no end.
    Left,
    /// It is.
    Over,
}

/// Whether somebody wants the job undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Not that we heard.
    None,
    /// Said on the control subject: an order in mode undo is on its way.
    Undo,
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Which way it goes now.
    pub mode: Mode,
    /// Whether it may turn.
    pub undo: Undo,
    /// Further tries left where the host can't be reached or is busy.
    pub quick: u32,
    /// Further tries left where it is unknown what happened.
    pub unknown: u32,
    /// Whether there is time for another try.
    pub time: Time,
    /// Whether another try is worth it.
    pub hint: Hint,
}

/// What an agent, or the lack of one, answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The job's phase on this host is finished, durably: succeeded, failed, cancelled or released.
    Finished(Outcome),
    /// A step can't go on.
    StepFailed(ErrorClass, Outcome),
    /// The job's phase is undoing.
    TurnToUndo,
    /// The agent knows better.
    Stale(Outcome),
    /// There was no call.
    Unreachable,
    /// The agent can't take calls now.
    Busy,
    /// The call broke off.
    Broke,
    /// The agent refuses such a call.
    Refused,
    /// An answer that makes no sense.
    Nonsense,
}

/// What an answer says about the job's phase at the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Forward, or ended by having gone forward.
    Forward,
    /// Undoing, or ended by it.
    Undoing,
}

/// The phase that an answer to a call in this mode gives away, if it does.
pub fn phase(mode: Mode, answer: &Answer) -> Option<Phase> {
    match (answer, mode) {
        (Answer::Finished(outcome), _) => match outcome.kind() {
            OutcomeKind::Succeeded => Some(Phase::Forward),
            OutcomeKind::Failed | OutcomeKind::Cancelled | OutcomeKind::Released => Some(Phase::Undoing),
            OutcomeKind::Unspecified
            | OutcomeKind::Suspended
            | OutcomeKind::Stale
            | OutcomeKind::StepFailed
            | OutcomeKind::TurnToUndo => None,
        },
        (Answer::TurnToUndo, _) | (Answer::StepFailed(..), Mode::Undo) => Some(Phase::Undoing),
        (Answer::StepFailed(..), Mode::Forward) => Some(Phase::Forward),
        (
            Answer::Stale(_)
            | Answer::Unreachable
            | Answer::Busy
            | Answer::Broke
            | Answer::Refused
            | Answer::Nonsense,
            _,
        ) => None,
    }
}

/// What the worker does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The same call, after a pause. `spent` says from which budget.
    Again(Budget),
    /// The call in mode undo, with the same fence.
    TurnToUndo {
        /// What it ends in, unless the agent decided before.
        verdict: Verdict,
        /// `JobError` as JSON: what led to it.
        cause: Vec<u8>,
    },
    /// Report it, then ack.
    Report(Outcome),
}

/// What a further try is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// [`State::quick`].
    Quick,
    /// [`State::unknown`].
    Unknown,
}

/// What follows from an answer. `host` only for the texts.
pub fn decide(state: State, answer: Answer, host: &str) -> Next {
    match answer {
        Answer::Finished(outcome) | Answer::Stale(outcome) => Next::Report(outcome),
        Answer::TurnToUndo => turn(state, host),
        Answer::StepFailed(class, outcome) => step_failed(state, class, outcome, host),
        Answer::Unreachable => again(state, Budget::Quick, Word::Unreachable.suspended(host), host),
        Answer::Busy => again(state, Budget::Quick, Word::Busy.suspended(host), host),
        Answer::Broke => again(state, Budget::Unknown, Word::Unknown.suspended(host), host),
        Answer::Nonsense => again(state, Budget::Unknown, Word::Nonsense.suspended(host), host),
        Answer::Refused => Next::Report(Word::Refused.suspended(host)),
    }
}

fn turn(state: State, host: &str) -> Next {
    match (state.mode, state.undo) {
        // The agent's own verdict and cause count; these are only there should it have lost them since.
        (Mode::Forward, Undo::AndPlaceAnew | Undo::InPlace) => Next::TurnToUndo {
            verdict: Verdict::Failed,
            cause: rhyzome_proto::convert::error_bytes(Some(&Word::Turned.error(host))),
        },
        (Mode::Forward, Undo::Never) | (Mode::Undo, _) => {
            again(state, Budget::Unknown, Word::Nonsense.suspended(host), host)
        }
    }
}

fn step_failed(state: State, class: ErrorClass, outcome: Outcome, host: &str) -> Next {
    let suspended = Outcome {
        kind: OutcomeKind::Suspended.into(),
        ..outcome
    };
    match (state.mode, class, state.undo) {
        (Mode::Forward, ErrorClass::Unavailable | ErrorClass::Busy, _)
        | (Mode::Forward, ErrorClass::NotHereNow, Undo::InPlace | Undo::Never) => {
            again(state, Budget::Quick, suspended, host)
        }
        (Mode::Forward, ErrorClass::Timeout, _) => again(state, Budget::Unknown, suspended, host),
        (Mode::Forward, ErrorClass::NotHereNow, Undo::AndPlaceAnew) => {
            let cause = suspended.error.clone();
            match again(state, Budget::Quick, suspended, host) {
                // Nobody wants it undone, there is time, and the tries are used up: another host may get it.
                Next::Report(_) if (state.hint, state.time) == (Hint::None, Time::Left) => Next::TurnToUndo {
                    verdict: Verdict::Released,
                    cause,
                },
                next => next,
            }
        }
        (Mode::Forward, ErrorClass::NoRoom | ErrorClass::NotHere, Undo::AndPlaceAnew) => Next::TurnToUndo {
            verdict: Verdict::Released,
            cause: suspended.error,
        },
        (Mode::Forward, ErrorClass::NoRoom | ErrorClass::NotHere, Undo::InPlace)
        | (Mode::Forward, ErrorClass::Permanent, Undo::AndPlaceAnew | Undo::InPlace) => Next::TurnToUndo {
            verdict: Verdict::Failed,
            cause: suspended.error,
        },
        (Mode::Undo, _, _)
        | (Mode::Forward, ErrorClass::NoRoom | ErrorClass::NotHere | ErrorClass::Permanent, Undo::Never) => {
            Next::Report(suspended)
        }
    }
}

fn again(state: State, budget: Budget, otherwise: Outcome, host: &str) -> Next {
    let left = match budget {
        Budget::Quick => state.quick,
        Budget::Unknown => state.unknown,
    };
    match (state.hint, state.mode, state.time) {
        (Hint::None, Mode::Forward, Time::Over) => Next::Report(Word::Expired.suspended(host)),
        (Hint::None, Mode::Forward, Time::Left) | (_, Mode::Undo, _) if left > 0 => Next::Again(budget),
        // Hinted, an order in mode undo, with a higher fence, is on its way: this one would only hold the slot.
        (Hint::Undo, Mode::Forward, _) | (Hint::None, Mode::Forward, Time::Left) | (_, Mode::Undo, _) => {
            Next::Report(otherwise)
        }
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
