//! What one report comes to. Pure: the job as locked, the report, and the time in; a settlement, or nothing where the report is
//! stale or changes nothing, out.
//!
//! A report counts only while an order of the job is out, and with that order's fence. Ends and `undoing` are the agent's word; the worker hands it on.

mod effect;
mod steps;

use crate::backoff;
use crate::config::SchedulerConfig;
use crate::late;
use chrono::{DateTime, TimeDelta, Utc};
use effect::{applied, came_to_nothing, elsewhere, networks};
use rhyzome_model::ids::Fence;
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::PlanError;
use rhyzome_model::problem::JobError;
use rhyzome_proto::convert::WireError;
use rhyzome_proto::event::{OutcomeKind, Report};
use rhyzome_runtime::fault::{self, Mutant};
use rhyzome_store::dispatch::Exclusion;
use rhyzome_store::rows::{StepRow, Waiting};
use rhyzome_store::settle::{Effect, End, OpenJob, Settlement};
use steps::steps_of;

/// Why a report can't be judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// It can't be read.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It says what no worker may say.
    #[error("a report can't say {0:?}")]
    NotForReports(OutcomeKind),
    /// The stored spec.
    #[error(transparent)]
    Spec(#[from] PlanError),
}

/// When, and how lucky: what a judgement depends on beside job and report.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The database's time.
    pub now: DateTime<Utc>,
    /// For jitter, `0.0..1.0`.
    pub roll: f64,
    /// `[scheduler]`.
    pub config: &'a SchedulerConfig,
}

/// Whether the job's order with this fence is out, and the newest: only then does a word on it count.
fn is_out(job: &OpenJob, fence: Fence) -> bool {
    job.order_out && job.fence == Some(fence)
}

/// Judges one report of an open job. `None`: stale.
pub fn judge(job: &OpenJob, report: &Report, moment: Moment<'_>) -> Result<Option<Settlement>, JudgeError> {
    if !is_out(job, Fence(report.fence)) {
        return Ok(None);
    }
    let steps = steps_of(job, report);
    let Some(outcome) = &report.outcome else {
        return Ok(Some(Settlement::Progress {
            job: job.id,
            state: phase(job, report),
            steps,
        }));
    };
    let error = outcome.model_error()?;
    let settlement = match outcome.kind() {
        OutcomeKind::Unspecified => Settlement::Progress {
            job: job.id,
            state: phase(job, report),
            steps,
        },
        OutcomeKind::Succeeded => {
            let effect = if job.action == Action::Delete {
                Effect::Removed
            } else if job.pinned {
                elsewhere()
            } else {
                applied(job, report)?
            };
            Settlement::End(End {
                networks: networks(report),
                ..end(job, JobState::Succeeded, None, steps, effect)
            })
        }
        // These only go forward: whatever ended the order, they are tried again.
        OutcomeKind::Failed | OutcomeKind::Cancelled | OutcomeKind::Released if job.action.forward_only() => {
            again(job, phase(job, report), Some(steps), error, moment)
        }
        OutcomeKind::Failed => {
            let error = error.unwrap_or_else(|| JobError::new("FAILED", "It failed."));
            let effect = came_to_nothing(job, Some(&error))?;
            Settlement::End(end(job, JobState::Failed, Some(error), steps, effect))
        }
        OutcomeKind::Cancelled => {
            let effect = came_to_nothing(job, None)?;
            Settlement::End(end(job, JobState::Cancelled, None, steps, effect))
        }
        OutcomeKind::Released if job.cancel_requested_at.is_some() => {
            let effect = came_to_nothing(job, None)?;
            Settlement::End(end(job, JobState::Cancelled, None, steps, effect))
        }
        OutcomeKind::Released => match not_placed_anew(job, error.clone()) {
            Some(error) => {
                let effect = came_to_nothing(job, Some(&error))?;
                Settlement::End(end(job, JobState::Failed, Some(error), steps, effect))
            }
            None => released(job, error.as_ref(), moment),
        },
        OutcomeKind::Suspended
            if job.action == Action::Create && fault::is_mutant(Mutant::ReservationFreedEarly) =>
        {
            released(job, error.as_ref(), moment)
        }
        OutcomeKind::Suspended => again(job, phase(job, report), Some(steps), error, moment),
        OutcomeKind::Stale => again(job, phase(job, report), None, None, moment),
        kind @ (OutcomeKind::StepFailed | OutcomeKind::TurnToUndo) => {
            return Err(JudgeError::NotForReports(kind));
        }
    };
    Ok(Some(settlement))
}

/// What becomes of an order whose outcome can't be judged: it isn't left out for ever with its slot and place, but tried again, and says
/// why. `None`: stale, or no outcome.
pub fn not_understood(job: &OpenJob, report: &Report, moment: Moment<'_>) -> Option<Settlement> {
    if !is_out(job, Fence(report.fence)) || report.outcome.is_none() {
        return None;
    }
    let error = JobError {
        host: job.host.as_ref().map(ToString::to_string),
        ..JobError::new("NOT_UNDERSTOOD", "What its host says of it is not understood.")
    };
    Some(again(job, job.state, None, Some(error), moment))
}

/// Why a job ends that was released: it was marked to end, or its resource lives on that host and can't be placed elsewhere.
fn not_placed_anew(job: &OpenJob, error: Option<JobError>) -> Option<JobError> {
    match job.verdict {
        Some(Verdict::Deadline) => Some(late::after(error.as_ref().or(job.cause.as_ref()))),
        Some(Verdict::Failed) => Some(error.unwrap_or_else(|| JobError::new("FAILED", "It failed."))),
        Some(Verdict::Cancelled | Verdict::Released) | None if job.action == Action::Create => None,
        Some(Verdict::Cancelled | Verdict::Released) | None => Some(error.unwrap_or_else(|| JobError {
            retryable: true,
            ..JobError::new("NO_ROOM", "Its host has no room for the change.")
        })),
    }
}

fn phase(job: &OpenJob, report: &Report) -> JobState {
    if report.undoing || job.state == JobState::Undoing {
        JobState::Undoing
    } else {
        JobState::Running
    }
}

fn released(job: &OpenJob, error: Option<&JobError>, moment: Moment<'_>) -> Settlement {
    let config = moment.config;
    let mut excluded = job.excluded.clone();
    excluded.retain(|_, e| e.until > moment.now);
    if let Some(host) = &job.host {
        let of_image = error.and_then(|e| e.step.as_deref()) == Some("ensure_image")
            && error.is_none_or(|e| e.code != "NO_ROOM");
        let wait = backoff::ceiling(
            job.failures + 1,
            config.exclusion.duration(),
            config.exclusion.duration() * 4,
        );
        let until = moment.now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::seconds(60));
        let reason = if of_image { "image" } else { "no_room" };
        excluded.insert(
            host.clone(),
            Exclusion {
                reason: reason.to_owned(),
                until,
            },
        );
    }
    let steps = job
        .steps
        .iter()
        .filter(|s| !s.name.starts_with("undo_"))
        .map(|s| StepRow::pending(&s.name))
        .collect();
    Settlement::Released {
        job: job.id,
        steps,
        excluded,
        due: moment.now,
    }
}

/// Judges an open job of whose order with this fence the workers died, again and again. `None`: it is another order's turn.
///
/// What can be undone is undone, and ends `POISONED`; what only goes forward, or is being undone already, goes on with back-off.
pub fn poisoned(job: &OpenJob, fence: Fence, moment: Moment<'_>) -> Option<Settlement> {
    if !is_out(job, fence) {
        return None;
    }
    // Marked: a later order, in mode undo, is due anyway.
    if job.cancel_requested_at.is_some() && job.mode == Mode::Forward && !job.action.forward_only() {
        return None;
    }
    let error = JobError {
        host: job.host.as_ref().map(ToString::to_string),
        ..JobError::new(
            "POISONED",
            "It was given up: every process that tried to carry it out died of it.",
        )
    };
    let undone = job.mode == Mode::Undo || job.state == JobState::Undoing;
    if job.action.forward_only() || undone {
        return Some(again(job, job.state, None, Some(error), moment));
    }
    let waiting = Waiting {
        reason: "undo".to_owned(),
        detail: format!("{} What was done is taken back.", sentence(&error.detail)),
        since: moment.now,
        until: None,
        hosts: None,
        fits_with: None,
    };
    Some(Settlement::Poisoned {
        job: job.id,
        error,
        due: moment.now,
        waiting,
    })
}

fn again(
    job: &OpenJob,
    phase: JobState,
    steps: Option<Vec<StepRow>>,
    error: Option<JobError>,
    moment: Moment<'_>,
) -> Settlement {
    let state = match phase {
        JobState::Undoing => JobState::Undoing,
        JobState::Blocked
        | JobState::Queued
        | JobState::Running
        | JobState::Succeeded
        | JobState::Failed
        | JobState::Cancelled => JobState::Queued,
    };
    let config = moment.config;
    let code = error.as_ref().map_or("", |e| e.code.as_str());
    // No failure: the next worker takes it up at once.
    let stopped = code == "WORKER_STOPPED";
    let failures = job.failures + i32::from(!stopped);
    let expired = code == "EXPIRED";
    let cancel_waits = job.cancel_requested_at.is_some() && job.mode == Mode::Forward;
    // `EXPIRED` is by the worker's clock, which may be wrong: what is over by the database's is marked by the sweep, and due at once.
    let due = if stopped || cancel_waits {
        moment.now
    } else {
        moment.now
            + backoff::wait(
                failures,
                config.retry_first.duration(),
                config.retry_most.duration(),
                moment.roll,
            )
    };
    let undo = state == JobState::Undoing || job.mode == Mode::Undo;
    let reason = match (undo, code) {
        (_, "HOST_UNREACHABLE") => "host_unreachable",
        (true, _) => "undo",
        (false, _) => "retry",
    };
    let why = error.as_ref().map(|e| sentence(&e.detail));
    let next = match (undo, cancel_waits) {
        (true, _) => "Taking it back is tried again.",
        (false, true) => "It was cancelled, and is taken back next.",
        (false, false) => "It is tried again.",
    };
    let detail = why.map_or_else(|| next.to_owned(), |why| format!("{why} {next}"));
    let since = job
        .waiting
        .as_ref()
        .filter(|w| w.reason == reason)
        .map_or(moment.now, |w| w.since);
    let waiting = Waiting {
        reason: reason.to_owned(),
        detail,
        since,
        until: Some(due),
        hosts: None,
        fits_with: None,
    };
    // The cause of an undo stays the job's error; why a try of the undo failed is what it waits for.
    let error = error.filter(|_| !undo && !expired && !stopped);
    Settlement::Again {
        job: job.id,
        state,
        steps,
        due,
        failures,
        waiting: Some(waiting),
        error,
    }
}

fn sentence(text: &str) -> String {
    if text.ends_with(['.', '!', '?']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

fn end(job: &OpenJob, state: JobState, error: Option<JobError>, steps: Vec<StepRow>, effect: Effect) -> End {
    End {
        job: job.id,
        tenant: job.tenant.clone(),
        kind: job.kind,
        action: job.action,
        resource: job.resource,
        state,
        error,
        steps: Some(steps),
        host: job.host.clone(),
        held_slot: job.holds_slot,
        order_out: job.order_out,
        answered: job.fence.map(|fence| fence.0).zip(job.epoch),
        created_at: job.created_at,
        networks: Vec::new(),
        effect,
    }
}
