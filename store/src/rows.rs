//! Rows as the other crates read them.

use crate::StoreError;
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode};
use rhyzome_model::kinds::{Kind, PlanError};
use rhyzome_model::problem::JobError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use std::collections::BTreeMap;

/// A resource, with the job that is first on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResourceRow {
    /// Id.
    pub id: ResourceId,
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub kind: Kind,
    /// A DNS label.
    pub name: String,
    /// Of the user.
    pub tags: BTreeMap<String, String>,
    /// Intent.
    pub spec: Value,
    /// Raised with every change of intent.
    pub generation: i64,
    /// A delete was accepted.
    pub deleting: bool,
    /// Others may refer to it.
    pub public: bool,
    /// The spec of the last success.
    pub applied: Option<Value>,
    /// The generation that `applied` is of.
    pub observed_generation: i64,
    /// What the last success found out.
    pub facts: Option<Value>,
    /// What an agent last reported.
    pub observed: Option<Value>,
    /// When.
    pub observed_at: Option<DateTime<Utc>>,
    /// Why it failed: `{code, detail, job}`.
    pub reason: Option<Value>,
    /// The host that holds it.
    pub host: Option<HostName>,
    /// Since when nobody hears that host, where it is so long that what was observed is not known to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unheard_since: Option<DateTime<Utc>>,
    /// It is no resource, but stands in for what a host holds and nobody owns.
    #[serde(default)]
    pub in_quarantine: bool,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When intent or status last changed.
    pub updated_at: DateTime<Utc>,
    /// The open job that is first on it.
    pub active_job: Option<ActiveJob>,
}

/// The open job that is first on a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveJob {
    /// Id.
    pub id: JobId,
    /// What it does.
    pub action: Action,
    /// Where it is.
    pub state: JobState,
}

/// What a job waits for, as shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// `earlier_job`, `reference`, `turn`, `capacity`, `host_unreachable`, `retry`, `undo`.
    pub reason: String,
    /// A sentence.
    pub detail: String,
    /// Since when it has this reason.
    pub since: DateTime<Utc>,
    /// When it is looked at again.
    pub until: Option<DateTime<Utc>>,
    /// For `capacity`: `{total, excluded: {reason: count}}`.
    pub hosts: Option<Value>,
    /// For `capacity`: the smallest change that would fit.
    pub fits_with: Option<Value>,
}

/// A step as shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    /// `ensure_disk`; `undo_ensure_disk`.
    pub name: String,
    /// `pending`, `running`, `succeeded`, `failed`, `undone`.
    pub state: String,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// A sentence.
    pub detail: Option<String>,
}

impl StepRow {
    /// A step that has not begun.
    pub fn pending(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: "pending".to_owned(),
            ..Self::default()
        }
    }
}

/// A job as users read it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobRow {
    /// Id.
    pub id: JobId,
    /// Whose.
    pub tenant: TenantId,
    /// Of what kind of resource.
    pub kind: Kind,
    /// What is done.
    pub action: Action,
    /// To which.
    pub resource_id: ResourceId,
    /// Its name at acceptance.
    pub resource_name: String,
    /// Of the intent that it makes so.
    pub generation: i64,
    /// Where it is.
    pub state: JobState,
    /// Which way it goes.
    pub mode: Mode,
    /// Steps as shown.
    pub steps: Vec<StepRow>,
    /// Dispatches so far.
    pub attempt: i32,
    /// On which host.
    pub host: Option<HostName>,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// Ends as failed after this, going forward.
    pub deadline_at: Option<DateTime<Utc>>,
    /// When its cancel was asked for.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// Why it failed.
    pub error: Option<JobError>,
    /// Who asked for it.
    pub actor: String,
    /// W3C trace id, 32 hex digits.
    pub trace_id: String,
    /// The job that it tries again.
    pub retry_of: Option<JobId>,
    /// Accepted.
    pub created_at: DateTime<Utc>,
    /// First dispatched.
    pub started_at: Option<DateTime<Utc>>,
    /// Ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Text of a column as an enum of the model.
pub(crate) fn parse<T>(table: &'static str, text: &str, of: fn(&str) -> Option<T>) -> Result<T, StoreError> {
    of(text).ok_or_else(|| StoreError::LaterVersion {
        table,
        value: text.to_owned(),
    })
}

/// The same of a column that may be NULL.
pub(crate) fn parse_some<T>(
    table: &'static str,
    text: Option<&str>,
    of: fn(&str) -> Option<T>,
) -> Result<Option<T>, StoreError> {
    text.map(|text| parse(table, text, of)).transpose()
}

/// Those rows that this version can read, for who must go on without the others.
pub(crate) fn readable<Raw, Row: TryFrom<Raw, Error = StoreError>>(rows: Vec<Raw>) -> Vec<Row> {
    rows.into_iter()
        .filter_map(|raw| Row::try_from(raw).ok())
        .collect()
}

/// JSON of a column as a type of ours.
pub(crate) fn json<T: serde::de::DeserializeOwned>(
    table: &'static str,
    value: Value,
) -> Result<T, StoreError> {
    serde_json::from_value(value).map_err(|e| StoreError::row(table, e))
}

/// The same of a column that may be NULL.
pub(crate) fn json_some<T: serde::de::DeserializeOwned>(
    table: &'static str,
    value: Option<Value>,
) -> Result<Option<T>, StoreError> {
    value.map(|value| json(table, value)).transpose()
}

/// Columns of a resource with its first open job, as Postgres gives them.
pub(crate) struct RawResource {
    pub id: uuid::Uuid,
    pub tenant: String,
    pub kind: String,
    pub name: String,
    pub tags: Value,
    pub spec: Value,
    pub generation: i64,
    pub deleting: bool,
    pub public: bool,
    pub applied: Option<Value>,
    pub observed_generation: i64,
    pub facts: Option<Value>,
    pub observed: Option<Value>,
    pub observed_at: Option<DateTime<Utc>>,
    pub reason: Option<Value>,
    pub host: Option<String>,
    pub unheard_since: Option<DateTime<Utc>>,
    pub in_quarantine: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub job_id: Option<uuid::Uuid>,
    pub job_action: Option<String>,
    pub job_state: Option<String>,
}

impl ResourceRow {
    /// What trying a job on it again does: what was never made must be made first, whatever the job was.
    pub fn retried(&self, before: Action) -> Action {
        if self.applied.is_none() {
            Action::Create
        } else {
            before
        }
    }

    /// What an action on it is planned against.
    pub fn planned_against(&self, action: Action) -> Result<Option<Value>, PlanError> {
        self.kind
            .ops()
            .planned_against(action, self.applied.as_ref(), self.observed.as_ref())
    }
}

impl TryFrom<RawResource> for ResourceRow {
    type Error = StoreError;
    fn try_from(r: RawResource) -> Result<Self, StoreError> {
        let active_job = match (r.job_id, r.job_action, r.job_state) {
            (Some(id), Some(action), Some(state)) => Some(ActiveJob {
                id: JobId(id),
                action: parse("jobs", &action, Action::parse)?,
                state: parse("jobs", &state, JobState::parse)?,
            }),
            _ => None,
        };
        Ok(Self {
            id: ResourceId(r.id),
            tenant: TenantId(r.tenant),
            kind: parse("resources", &r.kind, Kind::parse)?,
            name: r.name,
            tags: json("resources", r.tags)?,
            spec: r.spec,
            generation: r.generation,
            deleting: r.deleting,
            public: r.public,
            applied: r.applied,
            observed_generation: r.observed_generation,
            facts: r.facts,
            observed: r.observed,
            observed_at: r.observed_at,
            reason: r.reason,
            host: r.host.map(HostName),
            unheard_since: r.unheard_since,
            in_quarantine: r.in_quarantine,
            created_at: r.created_at,
            updated_at: r.updated_at,
            active_job,
        })
    }
}

/// Columns of a job, as Postgres gives them.
pub(crate) struct RawJob {
    pub id: uuid::Uuid,
    pub tenant: String,
    pub kind: String,
    pub action: String,
    pub resource_id: uuid::Uuid,
    pub resource_name: String,
    pub generation: i64,
    pub state: String,
    pub mode: String,
    pub steps: Value,
    pub attempt: i32,
    pub host: Option<String>,
    pub waiting: Option<Value>,
    pub deadline_at: Option<DateTime<Utc>>,
    pub cancel_requested_at: Option<DateTime<Utc>>,
    pub error: Option<Value>,
    pub actor: String,
    pub trace_id: String,
    pub retry_of: Option<uuid::Uuid>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl TryFrom<RawJob> for JobRow {
    type Error = StoreError;
    fn try_from(r: RawJob) -> Result<Self, StoreError> {
        Ok(Self {
            id: JobId(r.id),
            tenant: TenantId(r.tenant),
            kind: parse("jobs", &r.kind, Kind::parse)?,
            action: parse("jobs", &r.action, Action::parse)?,
            resource_id: ResourceId(r.resource_id),
            resource_name: r.resource_name,
            generation: r.generation,
            state: parse("jobs", &r.state, JobState::parse)?,
            mode: parse("jobs", &r.mode, Mode::parse)?,
            steps: json("jobs", r.steps)?,
            attempt: r.attempt,
            host: r.host.map(HostName),
            waiting: json_some("jobs", r.waiting)?,
            deadline_at: r.deadline_at,
            cancel_requested_at: r.cancel_requested_at,
            error: json_some("jobs", r.error)?,
            actor: r.actor,
            trace_id: r.trace_id,
            retry_of: r.retry_of.map(JobId),
            created_at: r.created_at,
            started_at: r.started_at,
            ended_at: r.ended_at,
        })
    }
}

/// Tags as a JSON object.
pub(crate) fn tags_json(tags: &BTreeMap<String, String>) -> Value {
    Value::Object(
        tags.iter()
            .map(|(k, v)| (k.clone(), Value::String(v.clone())))
            .collect(),
    )
}

/// Steps as a parameter: written as JSON at once, with no tree of values between.
pub(crate) type Steps<'a> = Json<&'a [StepRow]>;
