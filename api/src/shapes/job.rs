//! A job as users read it.

use super::Reader;
use crate::problem::type_uri;
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;
use rhyzome_model::place::HostVerdict;
use rhyzome_model::problem::{FieldError, JobError};
use rhyzome_store::rows::{JobRow, StepRow, Waiting};
use serde::Serialize;
use serde_json::Value;

/// A job that was just accepted moves: it waits for its turn only after this.
const QUEUED_MOMENT: TimeDelta = TimeDelta::seconds(2);

/// A job.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct JobDoc<'a> {
    /// UUIDv7.
    #[schema(value_type = uuid::Uuid)]
    id: JobId,
    /// `instance.create`.
    kind: String,
    /// Where it is.
    state: JobState,
    /// Whether it has ended.
    done: bool,
    /// What it changes.
    target: Target<'a>,
    /// In order.
    steps: Vec<StepDoc<'a>>,
    /// How many steps are done.
    progress: Progress,
    /// What a job that doesn't move waits for.
    waiting_on: Option<WaitingDoc<'a>>,
    /// Dispatches so far.
    attempt: i32,
    /// Going forward ends then.
    deadline_at: Option<DateTime<Utc>>,
    /// When its cancel was asked for.
    cancel_requested_at: Option<DateTime<Utc>>,
    /// Why it failed, once it is done, or is being undone for that.
    error: Option<ErrorDoc<'a>>,
    /// Who asked for it.
    actor: &'a str,
    /// W3C trace id.
    trace_id: &'a str,
    /// Accepted.
    created_at: DateTime<Utc>,
    /// First dispatched.
    started_at: Option<DateTime<Utc>>,
    /// Ended.
    ended_at: Option<DateTime<Utc>>,
    /// The job that it tries again.
    #[schema(value_type = Option<uuid::Uuid>)]
    retry_of: Option<JobId>,
    /// Where it runs; for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
}

/// What a job changes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Target<'a> {
    /// Kind of resource.
    kind: Kind,
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    id: ResourceId,
    /// Its name when the job was accepted.
    name: &'a str,
    /// The intent that the job makes so.
    generation: i64,
}

/// A step.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StepDoc<'a> {
    /// `ensure_disk`.
    name: &'a str,
    /// `pending running succeeded failed undone`.
    state: &'a str,
    /// Began.
    started_at: Option<DateTime<Utc>>,
    /// Ended.
    ended_at: Option<DateTime<Utc>>,
    /// A sentence.
    detail: Option<&'a str>,
}

/// How far a job is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Progress {
    /// Steps that succeeded.
    done: usize,
    /// Steps in all.
    total: usize,
}

/// What a job waits for.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct WaitingDoc<'a> {
    /// `earlier_job reference turn capacity host_unreachable retry undo`.
    reason: &'a str,
    /// A sentence.
    detail: &'a str,
    /// Since when it has this reason.
    since: DateTime<Utc>,
    /// When it is looked at again.
    until: Option<DateTime<Utc>>,
    /// For `capacity`: `{total, excluded}`.
    #[schema(value_type = Option<Object>)]
    hosts: Option<&'a Value>,
    /// For `capacity`: the smallest change that would fit.
    #[schema(value_type = Option<Object>)]
    fits_with: Option<&'a Value>,
    /// For `capacity`, of one job, for operators: what each host has to say to it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    by_host: Option<Vec<HostVerdict>>,
}

impl JobDoc<'_> {
    /// With what each host has to say to a job that waits.
    #[must_use]
    pub fn with_hosts(mut self, by_host: Option<Vec<HostVerdict>>) -> Self {
        if let Some(waiting) = &mut self.waiting_on {
            waiting.by_host = by_host;
        }
        self
    }
}

/// Why a job failed: the members of a problem (RFC 9457), with the step.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ErrorDoc<'a> {
    /// By code.
    r#type: String,
    /// A few words.
    title: &'static str,
    /// 503 where the same can succeed another time, else 422.
    status: u16,
    /// A sentence that a user can act on.
    detail: &'a str,
    /// The job.
    instance: String,
    /// Stable.
    code: &'a str,
    /// Always empty here.
    errors: [FieldError; 0],
    /// Whether the same request can succeed another time.
    retryable: bool,
    /// The trace of the request.
    request_id: &'a str,
    /// The step that failed.
    step: Option<&'a str>,
    /// For operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
}

/// The document of a row.
pub fn document(row: &JobRow, reader: Reader, now: DateTime<Utc>) -> JobDoc<'_> {
    let forward = || row.steps.iter().filter(|s| !s.name.starts_with("undo_"));
    JobDoc {
        id: row.id,
        kind: format!("{}.{}", row.kind, row.action),
        state: row.state.shown(),
        done: row.state.is_done(),
        target: Target {
            kind: row.kind,
            id: row.resource_id,
            name: &row.resource_name,
            generation: row.generation,
        },
        steps: row.steps.iter().map(step).collect(),
        progress: Progress {
            done: forward().filter(|s| s.state == "succeeded").count(),
            total: forward().count(),
        },
        waiting_on: waiting_on(row, now),
        attempt: row.attempt,
        deadline_at: row.deadline_at,
        cancel_requested_at: row.cancel_requested_at,
        error: cause(row).map(|error| error_doc(row, error, reader)),
        actor: &row.actor,
        trace_id: &row.trace_id,
        created_at: row.created_at,
        started_at: row.started_at,
        ended_at: row.ended_at,
        retry_of: row.retry_of,
        host: row
            .host
            .as_ref()
            .filter(|_| reader == Reader::Operator)
            .map(rhyzome_model::ids::HostName::as_str),
    }
}

/// Why it failed. A row keeps the error of its last try while it is tried again, or is undone since somebody cancelled it: no job has
/// failed by that.
fn cause(row: &JobRow) -> Option<&JobError> {
    let told = match row.state {
        JobState::Undoing => row.cancel_requested_at.is_none(),
        JobState::Blocked | JobState::Queued | JobState::Running => false,
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => true,
    };
    row.error.as_ref().filter(|_| told)
}

fn step(row: &StepRow) -> StepDoc<'_> {
    StepDoc {
        name: &row.name,
        state: &row.state,
        started_at: row.started_at,
        ended_at: row.ended_at,
        detail: row.detail.as_deref(),
    }
}

/// What the scheduler wrote, or what the state alone says.
fn waiting_on(row: &JobRow, now: DateTime<Utc>) -> Option<WaitingDoc<'_>> {
    let of_state = |reason, detail| WaitingDoc {
        reason,
        detail,
        since: row.created_at,
        until: None,
        hosts: None,
        fits_with: None,
        by_host: None,
    };
    if row.state.is_done() {
        return None;
    }
    match (row.state, &row.waiting) {
        (_, Some(written)) => Some(waiting(written)),
        (JobState::Blocked, None) if row.action == Action::Create => Some(of_state(
            "reference",
            "A resource that it refers to is still being made.",
        )),
        (JobState::Blocked, None) => Some(of_state(
            "earlier_job",
            "An earlier job on the same resource has not ended.",
        )),
        (JobState::Queued, None) if now - row.created_at > QUEUED_MOMENT => {
            Some(of_state("turn", "Other jobs come first."))
        }
        (
            JobState::Queued
            | JobState::Running
            | JobState::Undoing
            | JobState::Succeeded
            | JobState::Failed
            | JobState::Cancelled,
            None,
        ) => None,
    }
}

fn waiting(row: &Waiting) -> WaitingDoc<'_> {
    WaitingDoc {
        reason: &row.reason,
        detail: &row.detail,
        since: row.since,
        until: row.until,
        hosts: row.hosts.as_ref(),
        fits_with: row.fits_with.as_ref(),
        by_host: None,
    }
}

fn error_doc<'a>(row: &'a JobRow, error: &'a JobError, reader: Reader) -> ErrorDoc<'a> {
    ErrorDoc {
        r#type: type_uri(&error.code),
        title: "The job failed",
        status: if error.retryable { 503 } else { 422 },
        detail: &error.detail,
        instance: format!("/v1/jobs/{}", row.id),
        code: &error.code,
        errors: [],
        retryable: error.retryable,
        request_id: &row.trace_id,
        step: error.step.as_deref(),
        host: error.host.as_deref().filter(|_| reader == Reader::Operator),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Reader, document};
    use chrono::{DateTime, Utc};
    use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
    use rhyzome_model::job::{Action, JobState, Mode};
    use rhyzome_model::kinds::Kind;
    use rhyzome_model::problem::JobError;
    use rhyzome_store::rows::{JobRow, StepRow};
    use serde_json::json;

    pub(crate) fn row(state: JobState) -> JobRow {
        let at = DateTime::<Utc>::from_timestamp(1_700_000_000, 0).unwrap();
        JobRow {
            id: JobId::new(),
            tenant: TenantId::from("demo"),
            kind: Kind::Instance,
            action: Action::Create,
            resource_id: ResourceId::new(),
            resource_name: "web-1".to_owned(),
            generation: 1,
            state,
            mode: Mode::Forward,
            steps: vec![
                StepRow {
                    state: "succeeded".to_owned(),
                    ..StepRow::pending("ensure_disk")
                },
                StepRow::pending("set_power"),
                StepRow {
                    state: "succeeded".to_owned(),
                    ..StepRow::pending("undo_ensure_disk")
                },
            ],
            attempt: 1,
            host: Some(HostName::from("host-1")),
            waiting: None,
            deadline_at: None,
            cancel_requested_at: None,
            error: None,
            actor: "a".to_owned(),
            trace_id: "t".to_owned(),
            retry_of: None,
            created_at: at,
            started_at: None,
            ended_at: None,
        }
    }

    #[test]
    fn has_every_field_and_no_other() {
        let row = row(JobState::Blocked);
        let doc = serde_json::to_value(document(&row, Reader::Tenant, row.created_at)).unwrap();
        let mut names: Vec<&str> = doc.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let want = [
            "actor",
            "attempt",
            "cancel_requested_at",
            "created_at",
            "deadline_at",
            "done",
            "ended_at",
            "error",
            "id",
            "kind",
            "progress",
            "retry_of",
            "started_at",
            "state",
            "steps",
            "target",
            "trace_id",
            "waiting_on",
        ];
        assert_eq!(names, want);
        assert_eq!(
            (&doc["kind"], &doc["state"], &doc["done"]),
            (&json!("instance.create"), &json!("queued"), &json!(false))
        );
        assert_eq!(doc["progress"], json!({"done": 1, "total": 2}));
    }

    #[test]
    fn an_error_is_shown_of_what_failed_alone() {
        for (state, cancelled, shown) in [
            (JobState::Queued, false, false),
            (JobState::Running, false, false),
            (JobState::Undoing, false, true),
            (JobState::Undoing, true, false),
            (JobState::Failed, false, true),
            (JobState::Failed, true, true),
        ] {
            let mut row = row(state);
            row.error = Some(JobError::new("UNAVAILABLE", "The last try."));
            row.cancel_requested_at = cancelled.then_some(row.created_at);
            let doc = serde_json::to_value(document(&row, Reader::Tenant, row.created_at)).unwrap();
            assert_eq!(!doc["error"].is_null(), shown, "{state} {cancelled}");
        }
    }

    #[test]
    fn an_error_is_a_problem_with_its_step() {
        let mut row = row(JobState::Failed);
        row.error = Some(JobError {
            step: Some("ensure_image".to_owned()),
            host: Some("host-1".to_owned()),
            ..JobError::new("IMAGE_DIGEST_MISMATCH", "The digest differs.")
        });
        let tenant = serde_json::to_value(document(&row, Reader::Tenant, row.created_at)).unwrap();
        let operator = serde_json::to_value(document(&row, Reader::Operator, row.created_at)).unwrap();
        for member in [
            "type",
            "title",
            "status",
            "detail",
            "instance",
            "code",
            "errors",
            "retryable",
            "request_id",
        ] {
            assert!(tenant["error"].get(member).is_some(), "{member}");
        }
        assert_eq!(tenant["error"]["step"], "ensure_image");
        assert!(!tenant.to_string().contains("host-1"));
        assert_eq!(operator["error"]["host"], "host-1");
    }
}
