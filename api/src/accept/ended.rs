//! Counts the jobs that end here: those that are cancelled before any host has them. All others end, and are counted, in the scheduler.

use chrono::{DateTime, Utc};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;

/// Registers what is known at the start, at 0.
pub fn register() {
    for kind in Kind::ALL {
        let actions = [Action::Create, Action::Update, Action::Repair]
            .into_iter()
            .chain(kind.ops().actions().iter().copied());
        for action in actions {
            metrics::counter!("rhyzome_jobs_total", "kind" => format!("{kind}.{action}"), "outcome" => JobState::Cancelled.as_str())
                .increment(0);
        }
    }
}

/// Counts a job that was cancelled, if that has ended it.
pub fn cancelled(kind: Kind, action: Action, state: JobState, created_at: DateTime<Utc>) {
    if !state.is_done() {
        return;
    }
    let kind = format!("{kind}.{action}");
    let seconds = (Utc::now() - created_at).as_seconds_f64().max(0.0);
    metrics::counter!("rhyzome_jobs_total", "kind" => kind.clone(), "outcome" => state.as_str()).increment(1);
    metrics::histogram!("rhyzome_job_duration_seconds", "kind" => kind, "outcome" => state.as_str())
        .record(seconds);
}
