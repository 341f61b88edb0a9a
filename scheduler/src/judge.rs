//! What one report comes to. Pure: the job as locked, the report, and the time in; a settlement, or nothing where the report is
//! stale or changes nothing, out.
//!
//! A report counts only while an order of the job is out, and with that order's fence. Ends and `undoing` are the agent's word; the worker hands it on.

use crate::backoff;
use crate::config::SchedulerConfig;
use crate::made::made_so;
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::ids::{Fence, ResourceId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::{Demand, Kind, PlanError, kept_gib};
use rhyzome_model::problem::JobError;
use rhyzome_model::step::ImageFacts;
use rhyzome_proto::convert::WireError;
use rhyzome_proto::event::{OutcomeKind, Report, StepResult, StepState};
use rhyzome_runtime::fault::{self, Mutant};
use rhyzome_store::dispatch::Exclusion;
use rhyzome_store::rows::{StepRow, Waiting};
use rhyzome_store::settle::{Effect, End, Kept, OpenJob, Settlement};
use serde::Deserialize;
use serde_json::Value;

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

/// Judges one report of an open job. `None`: stale.
pub fn judge(job: &OpenJob, report: &Report, moment: Moment<'_>) -> Result<Option<Settlement>, JudgeError> {
    if job.fence != Some(Fence(report.fence)) || !job.order_out {
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

/// Why a job ends that was released: it was marked to end, or its resource lives on that host and can't be placed elsewhere.
fn not_placed_anew(job: &OpenJob, error: Option<JobError>) -> Option<JobError> {
    match job.verdict {
        Some(Verdict::Deadline) => Some(JobError {
            retryable: true,
            ..JobError::new("DEADLINE_EXCEEDED", "It was not done before its deadline.")
        }),
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

/// Steps as shown: what was reported, over the names of what has not begun. An older report never takes back what a newer one said.
fn steps_of(job: &OpenJob, report: &Report) -> Vec<StepRow> {
    let reported: Vec<StepRow> = report.steps.iter().map(step_row).collect();
    let settled = |steps: &[StepRow]| {
        steps
            .iter()
            .filter(|s| s.state != "pending" && s.state != "running")
            .count()
    };
    if report.outcome.is_none() && settled(&reported) < settled(&job.steps) {
        return job.steps.clone();
    }
    let forward: Vec<&StepRow> = reported.iter().filter(|s| !s.name.starts_with("undo_")).collect();
    let names: Vec<&StepRow> = job
        .steps
        .iter()
        .filter(|s| !s.name.starts_with("undo_"))
        .collect();
    let mut steps: Vec<StepRow> = forward.iter().map(|s| (*s).clone()).collect();
    steps.extend(
        names
            .iter()
            .skip(forward.len())
            .map(|s| StepRow::pending(&s.name)),
    );
    steps.extend(reported.iter().filter(|s| s.name.starts_with("undo_")).cloned());
    steps
}

fn step_row(step: &StepResult) -> StepRow {
    let state = match step.state() {
        StepState::Unspecified => "pending",
        StepState::Running => "running",
        StepState::Succeeded => "succeeded",
        StepState::Failed => "failed",
        StepState::Undone => "undone",
    };
    let time = |ms: i64| (ms > 0).then(|| DateTime::from_timestamp_millis(ms)).flatten();
    StepRow {
        name: step.name.clone(),
        state: state.to_owned(),
        started_at: time(step.started_at_ms),
        ended_at: time(step.ended_at_ms),
        detail: (!step.detail.is_empty()).then(|| step.detail.clone()),
    }
}

fn output<T: for<'a> Deserialize<'a>>(report: &Report, name: &str) -> Option<T> {
    report
        .steps
        .iter()
        .filter(|s| s.name == name && !s.output.is_empty())
        .find_map(|s| serde_json::from_slice(&s.output).ok())
}

fn applied(job: &OpenJob, report: &Report) -> Result<Effect, JudgeError> {
    let (spec, generation) = made_so(
        job.kind,
        job.action,
        &job.spec,
        job.applied.as_ref(),
        job.generation,
    )?;
    let demand = job.kind.ops().demand(&spec)?;
    let facts: Option<ImageFacts> = match job.kind {
        Kind::Image => output(report, "ensure_image"),
        Kind::Network | Kind::Instance => None,
    };
    let reserve = match (job.kind, &facts) {
        (Kind::Image, Some(facts)) => Some(Kept {
            disk_gib: Some(kept_gib(facts)),
            ..Kept::default()
        }),
        (Kind::Image | Kind::Network, _) => None,
        (Kind::Instance, _) => kept_reservation(job, &job.spec)?,
    };
    Ok(Effect::Applied {
        observed: powered(job.action, report, &spec),
        spec,
        generation,
        facts: facts
            .map(serde_json::to_value)
            .transpose()
            .map_err(|e| WireError::Broken(e.to_string()))?,
        reserve,
        metered: Some(demand),
    })
}

/// What an update leaves reserved: its own demand, no longer the larger of before and after. Only what an update can change is judged
/// here; the disk stays as it was reserved.
fn kept_reservation(job: &OpenJob, spec: &Value) -> Result<Option<Kept>, JudgeError> {
    if job.action != Action::Update {
        return Ok(None);
    }
    let demand = job.kind.ops().demand(spec)?;
    let kept = Kept {
        vcpus: Some(demand.vcpus),
        memory_mib: Some(demand.memory_mib),
        disk_gib: None,
    };
    Ok((demand != Demand::default()).then_some(kept))
}

/// A step that set the power saw it set when it ended; what an agent saw since then is newer. What is newly defined is off.
fn powered(action: Action, report: &Report, spec: &Value) -> Option<(Value, DateTime<Utc>)> {
    let power = spec.get("power")?.as_str()?;
    let sets = |step: &&StepResult| match step.name.as_str() {
        "set_power" | "reboot" => true,
        "ensure_instance" => action == Action::Create,
        _ => false,
    };
    let ended_at_ms = report.steps.iter().rev().find(sets)?.ended_at_ms;
    let observed = serde_json::json!({ "power": power, "detail": "", "metrics": {} });
    Some((observed, DateTime::from_timestamp_millis(ended_at_ms)?))
}

/// What was done on a host that isn't its resource's changes nothing of that.
fn elsewhere() -> Effect {
    Effect::NotChanged {
        reason: None,
        reserve: None,
    }
}

fn came_to_nothing(job: &OpenJob, error: Option<&JobError>) -> Result<Effect, JudgeError> {
    if job.pinned {
        return Ok(elsewhere());
    }
    let reason = error.map(|e| e.reason(job.id));
    if job.applied.is_none() {
        let cancelled = || JobError::new("CANCELLED", "Its create was cancelled.").reason(job.id);
        return Ok(Effect::NotMade {
            reason: reason.unwrap_or_else(cancelled),
        });
    }
    let reserve = job
        .applied
        .as_ref()
        .map(|spec| kept_reservation(job, spec))
        .transpose()?
        .flatten();
    Ok(Effect::NotChanged { reason, reserve })
}

/// Networks that the host told something about: `{network, namespace}` as the output of `ensure_network`.
fn networks(report: &Report) -> Vec<(ResourceId, Value)> {
    report
        .steps
        .iter()
        .filter(|s| s.name == "ensure_network" && !s.output.is_empty())
        .filter_map(|s| serde_json::from_slice::<Value>(&s.output).ok())
        .filter_map(|facts| Some((facts.get("network")?.as_str()?.parse().ok()?, facts)))
        .collect()
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
    if job.fence != Some(fence) || !job.order_out {
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
    let due = if expired || stopped || cancel_waits {
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
