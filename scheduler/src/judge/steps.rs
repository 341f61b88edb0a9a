//! A job's steps, as users are shown them after a report.

use chrono::DateTime;
use rhyzome_proto::event::{Report, StepResult, StepState};
use rhyzome_store::rows::StepRow;
use rhyzome_store::settle::OpenJob;

/// Steps as shown: what was reported, over the names of what has not begun. An older report never takes back what a newer one said.
pub(super) fn steps_of(job: &OpenJob, report: &Report) -> Vec<StepRow> {
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
