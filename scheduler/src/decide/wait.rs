//! Waits: what a job that does not move says it waits for.

use super::types::Around;
use chrono::{DateTime, Utc};
use rhyzome_model::job::JobState;
use rhyzome_model::place::Refusal;
use rhyzome_store::dispatch::{Decision, DueJob};
use rhyzome_store::rows::Waiting;

/// It waits for room: says what excluded how many hosts.
pub fn wait_for_room(job: &DueJob, refusal: &Refusal, due: DateTime<Utc>, now: DateTime<Utc>) -> Decision {
    wait_as_capacity(job, refusal, room_sentence(refusal), due, now)
}

/// It waits for room on the host that holds its resource.
pub fn wait_to_grow(job: &DueJob, refusal: &Refusal, due: DateTime<Utc>, now: DateTime<Utc>) -> Decision {
    let short: Vec<&str> = refusal.excluded.keys().map(|reason| reason.as_str()).collect();
    let detail = format!(
        "The host that holds it has too little free for the change ({}); it goes on by itself when there is enough.",
        short.join(", ")
    );
    wait_as_capacity(job, refusal, detail, due, now)
}

fn wait_as_capacity(
    job: &DueJob,
    refusal: &Refusal,
    detail: String,
    due: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Decision {
    let hosts = serde_json::json!({ "total": refusal.total, "excluded": refusal.excluded });
    let waiting = Waiting {
        reason: "capacity".to_owned(),
        since: since(job, "capacity", now),
        detail,
        until: Some(due),
        hosts: Some(hosts),
        fits_with: refusal.fits_with.and_then(|f| serde_json::to_value(f).ok()),
    };
    Decision::Wait {
        job: job.id,
        state: JobState::Queued,
        waiting,
        due: Some(due),
    }
}

fn room_sentence(refusal: &Refusal) -> String {
    if refusal.total == 0 {
        return "There is no host yet; it starts by itself when one joins.".to_owned();
    }
    let causes: Vec<String> = refusal
        .excluded
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(reason, n)| format!("{n} by {reason}"))
        .collect();
    format!(
        "None of {} hosts can take it ({}); it starts by itself when one can.",
        refusal.total,
        causes.join(", ")
    )
}

pub(super) fn since(job: &DueJob, reason: &str, now: DateTime<Utc>) -> DateTime<Utc> {
    job.waiting
        .as_ref()
        .filter(|w| w.reason == reason)
        .map_or(now, |w| w.since)
}

pub(super) fn wait(
    job: &DueJob,
    around: &Around<'_>,
    reason: &str,
    detail: &str,
    state: JobState,
    due: Option<DateTime<Utc>>,
) -> Decision {
    let waiting = Waiting {
        reason: reason.to_owned(),
        detail: detail.to_owned(),
        since: since(job, reason, around.now),
        until: due.filter(|_| reason == "host_unreachable"),
        hosts: None,
        fits_with: None,
    };
    Decision::Wait {
        job: job.id,
        state,
        waiting,
        due,
    }
}
