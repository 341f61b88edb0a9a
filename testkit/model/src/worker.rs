//! A worker's volatile state: one order, from pull to ack.
//!
//! Guarantees: the worker knows nothing that its order and the agent's answers don't tell.
//!
//! ```text
//! Idle ─pull▶ Apply(forward) ─────────outcome──────────▶ Publish ─▶ Ack ─▶ Idle
//!               │ step failed, turn to undo                  ▲
//!               └──────────▶ Apply(undo, verdict) ──outcome──┘
//! ```

use crate::agent::Answer;
use crate::bus::{Order, Outcome, Report};
use crate::config::Action;
use crate::ledger::Failure;

/// How a worker calls the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// Do the steps and finish.
    Forward,
    /// Undo them, and finish with this outcome.
    Undo(Outcome),
}

/// A worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Worker {
    /// Has a free slot.
    Idle,
    /// Calls, and waits for an answer that ends the call.
    Calls(Order, Call),
    /// Has to publish, and to wait for the publish ack.
    Publishes(Order, Report),
    /// Has to ack the order.
    Acks(Order),
    /// Has acked first, against the rule, and has to publish.
    PublishesLate(Order, Report),
}

/// What a worker does with an answer; nothing, where the call goes on.
pub fn answered(order: Order, call: Call, action: Action, answer: Answer) -> Option<Worker> {
    match answer {
        Answer::Waits => None,
        Answer::Stale => Some(Worker::Publishes(order, Report::Stale)),
        Answer::Ended(outcome, serial) => Some(Worker::Publishes(order, Report::Ended(outcome, serial))),
        Answer::TurnToUndo(verdict) => Some(Worker::Calls(order, Call::Undo(verdict))),
        Answer::StepFailed(_) if matches!(call, Call::Undo(_)) => {
            Some(Worker::Publishes(order, Report::UndoFailed))
        }
        // What lives here goes nowhere else.
        Answer::StepFailed(Failure::NoRoom) if action != Action::Create => {
            Some(Worker::Calls(order, Call::Undo(Outcome::Failed)))
        }
        Answer::StepFailed(Failure::NoRoom) => Some(Worker::Calls(order, Call::Undo(Outcome::Released))),
        Answer::StepFailed(Failure::Broken) => Some(Worker::Calls(order, Call::Undo(Outcome::Failed))),
    }
}
