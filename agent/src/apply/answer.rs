//! Outcomes as they go on the wire.

use crate::driver::StepError;
use crate::ledger::record::Ending;
use crate::ledger::state::{JobEntry, Phase};
use rhyzome_model::ids::HostName;
use rhyzome_model::job::{ErrorClass, Verdict};
use rhyzome_model::problem::JobError;
use rhyzome_proto::agent::ApplyOutcome;
use rhyzome_proto::convert::error_bytes;
use rhyzome_proto::event::{self, Outcome, OutcomeKind, StepResult};

fn outcome(kind: OutcomeKind, error: Vec<u8>, steps: Vec<StepResult>) -> ApplyOutcome {
    let outcome = Outcome {
        kind: kind.into(),
        error,
        class: event::ErrorClass::Unspecified.into(),
    };
    ApplyOutcome {
        outcome: Some(outcome),
        steps,
    }
}

/// A recorded end.
pub(super) fn ended(ending: Ending, error: Vec<u8>, steps: Vec<StepResult>) -> ApplyOutcome {
    let kind = match ending {
        Ending::Succeeded => OutcomeKind::Succeeded,
        Ending::Failed => OutcomeKind::Failed,
        Ending::Cancelled => OutcomeKind::Cancelled,
        Ending::Released => OutcomeKind::Released,
    };
    outcome(kind, error, steps)
}

/// The end of a job that ended; none of another.
pub(super) fn of_entry(entry: &JobEntry) -> Option<ApplyOutcome> {
    match &entry.phase {
        Phase::Finished { ending, error } => Some(ended(*ending, error.clone(), entry.results())),
        Phase::Forward | Phase::Undoing { .. } => None,
    }
}

/// Stale.
pub(super) fn stale(code: &str, detail: &str) -> ApplyOutcome {
    outcome(
        OutcomeKind::Stale,
        error_bytes(Some(&JobError::new(code, detail))),
        Vec::new(),
    )
}

/// The phase is undoing.
pub(super) fn turn_to_undo(steps: Vec<StepResult>) -> ApplyOutcome {
    outcome(OutcomeKind::TurnToUndo, Vec::new(), steps)
}

/// A step can't go on.
pub(super) fn step_failed(
    error: &StepError,
    step: Option<&str>,
    host: &HostName,
    steps: Vec<StepResult>,
) -> ApplyOutcome {
    let told = JobError {
        code: error.code.clone(),
        detail: error.detail.clone(),
        step: step.map(str::to_owned),
        host: Some(host.to_string()),
        retryable: match error.class {
            ErrorClass::Unavailable
            | ErrorClass::Busy
            | ErrorClass::Timeout
            | ErrorClass::NoRoom
            | ErrorClass::NotHere
            | ErrorClass::NotHereNow => true,
            ErrorClass::Permanent => false,
        },
    };
    let class = event::ErrorClass::from(error.class).into();
    let outcome = Outcome {
        kind: OutcomeKind::StepFailed.into(),
        error: error_bytes(Some(&told)),
        class,
    };
    ApplyOutcome {
        outcome: Some(outcome),
        steps,
    }
}

/// The error that an undone job ends with: its cause, or what its verdict says where none was told.
pub(super) fn error_of(verdict: Verdict, cause: &[u8]) -> Vec<u8> {
    if !cause.is_empty() {
        return cause.to_vec();
    }
    let error = match verdict {
        Verdict::Failed => JobError::new("FAILED", "The request could not be carried out and was undone."),
        Verdict::Cancelled => JobError::new("CANCELLED", "The request was cancelled and undone."),
        Verdict::Deadline => JobError {
            retryable: true,
            ..JobError::new(
                "DEADLINE_EXCEEDED",
                "The request took longer than it may and was undone.",
            )
        },
        Verdict::Released => JobError {
            retryable: true,
            ..JobError::new(
                "NO_ROOM",
                "The host had no room for it after all; another is looked for.",
            )
        },
    };
    error_bytes(Some(&error))
}
