//! Ends without an order: the job did nothing on any host.

use super::job::{EARLIER_JOB, still_coming};
use super::types::Around;
use crate::late;
use crate::made::made_so;
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::{KindOps, PlanError};
use rhyzome_model::problem::JobError;
use rhyzome_store::dispatch::{Decision, DueJob};
use rhyzome_store::settle::{Effect, End};

pub(super) fn cancelled() -> JobError {
    JobError::new("CANCELLED", "It was cancelled before anything was done.")
}

/// What it waited for is what was written of it, or else what stands before it now.
pub(super) fn too_late(job: &DueJob, around: &Around<'_>) -> JobError {
    let waited = job
        .waiting
        .as_ref()
        .map(|w| w.detail.clone())
        .or_else(|| job.earlier_open.then(|| EARLIER_JOB.to_owned()))
        .or_else(|| still_coming(around))
        .or_else(|| (job.attempt == 0).then(|| "Other jobs came first.".to_owned()));
    late::waiting(waited.as_deref())
}

/// An end without an order: it did nothing on any host.
pub(super) fn ended(job: &DueJob, state: JobState, error: JobError) -> End {
    // What was never made says why, also where that was a cancel.
    let told = state == JobState::Failed || (job.applied.is_none() && job.action != Action::Delete);
    // Nothing is given back: what an abandoned job may have left on a host keeps what it holds there.
    let effect = Effect::NotChanged {
        reason: told.then(|| error.reason(job.id)),
        reserve: None,
    };
    End {
        error: (state == JobState::Failed).then_some(error),
        ..end(job, state, effect)
    }
}

/// It isn't taken back any further: the delete that comes next removes all of it, and until then its host is known to hold something.
pub(super) fn given_up(job: &DueJob) -> End {
    let cancelled = job.cancel_requested_at.is_some();
    let error = JobError::new(
        "ABANDONED",
        "Taking it back didn't work, and is not gone on with: what it changed is being deleted.",
    );
    let reason = error.reason(job.id);
    let state = if cancelled {
        JobState::Cancelled
    } else {
        JobState::Failed
    };
    End {
        error: (!cancelled).then_some(error),
        ..end(job, state, Effect::LeftBehind { reason })
    }
}

/// What is stored of it can't be planned: a fault of ours, which looking again doesn't mend.
pub fn unplannable(job: &DueJob) -> Decision {
    let error = JobError::new(
        "INTERNAL",
        "It could not be planned, because of a fault of the service.",
    );
    Decision::End(ended(job, JobState::Failed, error))
}

pub(super) fn succeeded(job: &DueJob, ops: &dyn KindOps) -> Result<End, PlanError> {
    let effect = if job.action == Action::Delete {
        Effect::Removed
    } else {
        let (spec, generation) = made_so(
            job.kind,
            job.action,
            &job.spec,
            job.applied.as_ref(),
            job.generation,
        )?;
        Effect::Applied {
            metered: Some(ops.demand(&spec)?),
            spec,
            generation,
            facts: None,
            reserve: None,
            observed: None,
        }
    };
    Ok(End {
        steps: Some(Vec::new()),
        ..end(job, JobState::Succeeded, effect)
    })
}

fn end(job: &DueJob, state: JobState, effect: Effect) -> End {
    End {
        job: job.id,
        tenant: job.tenant.clone(),
        kind: job.kind,
        action: job.action,
        resource: job.resource,
        state,
        error: None,
        steps: None,
        host: job.host.clone(),
        held_slot: job.holds_slot,
        order_out: job.order_out,
        answered: None,
        created_at: job.created_at,
        networks: Vec::new(),
        effect,
    }
}
