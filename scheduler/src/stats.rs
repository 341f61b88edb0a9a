//! Metrics of the scheduler. Counters whose labels are known are there from the start.

use rhyzome_model::check::Invariant;
use rhyzome_model::job::{Action, JobState, Mode};
use rhyzome_model::kinds::Kind;
use rhyzome_model::place::Reason;
use rhyzome_store::settle::End;

/// Every reason that a job can wait for.
pub const WAITS: [&str; 7] = [
    "earlier_job",
    "reference",
    "turn",
    "capacity",
    "host_unreachable",
    "retry",
    "undo",
];

/// The label of hosts whose agents know a fence above the sequence.
pub const SET_BACK: &str = "set_back";

/// Registers what is known at the start, at 0.
pub fn register() {
    for kind in Kind::ALL {
        let actions = [Action::Create, Action::Update, Action::Delete, Action::Repair]
            .into_iter()
            .chain(kind.ops().actions().iter().copied());
        for action in actions {
            for outcome in [JobState::Succeeded, JobState::Failed, JobState::Cancelled] {
                metrics::counter!("rhyzome_jobs_total", "kind" => format!("{kind}.{action}"), "outcome" => outcome.as_str())
                    .increment(0);
            }
        }
    }
    for reason in Reason::ALL {
        metrics::counter!("rhyzome_placement_refusals_total", "reason" => reason.as_str()).increment(0);
    }
    for reason in WAITS {
        metrics::gauge!("rhyzome_jobs_waiting", "reason" => reason).set(0.0);
    }
    metrics::gauge!("rhyzome_jobs_oldest_waiting_seconds").set(0.0);
    metrics::gauge!("rhyzome_jobs_undoing").set(0.0);
    for state in ["ready", "cordoned", "unreachable"] {
        metrics::gauge!("rhyzome_host_state", "state" => state).set(0.0);
    }
    metrics::gauge!("rhyzome_invariant_violations", "invariant" => SET_BACK).set(0.0);
    for mode in [Mode::Forward, Mode::Undo] {
        metrics::counter!("rhyzome_orders_poisoned_total", "mode" => mode.as_str()).increment(0);
    }
    for invariant in Invariant::all() {
        metrics::gauge!("rhyzome_invariant_violations", "invariant" => invariant.number().to_string())
            .set(0.0);
    }
}

/// Counts ends.
pub fn ended(ends: &[End]) {
    let now = chrono::Utc::now();
    for end in ends {
        let kind = format!("{}.{}", end.kind, end.action);
        let seconds = (now - end.created_at).as_seconds_f64().max(0.0);
        metrics::counter!("rhyzome_jobs_total", "kind" => kind.clone(), "outcome" => end.state.as_str())
            .increment(1);
        metrics::histogram!("rhyzome_job_duration_seconds", "kind" => kind, "outcome" => end.state.as_str())
            .record(seconds);
    }
}
