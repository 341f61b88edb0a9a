//! What is asked when something is changed, and what a delete answers.

use crate::accept::{AcceptedNow, IdempotencyKey, Origin, StaticLeaseRequest};
use crate::rows::{JobRow, ResourceRow};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;
use serde_json::Value;
use std::collections::BTreeMap;

/// New intent for a resource, judged by the API against the generation that it read.
#[derive(Clone, Debug)]
pub struct ChangeRequest {
    /// Made by the API; the id of the job, if one is needed.
    pub job: JobId,
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub kind: Kind,
    /// Which.
    pub id: ResourceId,
    /// The generation that the new intent was made from.
    pub from_generation: i64,
    /// `Update`, `Start`, `Stop`, `Reboot`.
    pub action: Action,
    /// New name.
    pub name: String,
    /// New tags.
    pub tags: BTreeMap<String, String>,
    /// New spec.
    pub spec: Value,
    /// Others may refer to it.
    pub public: bool,
    /// A network's static leases as they shall be; none for other kinds.
    pub static_leases: Option<Vec<StaticLeaseRequest>>,
    /// Whether a job has to make it so.
    pub work: Work,
    /// As shown from the acceptance on.
    pub step_names: Vec<&'static str>,
    /// Header of that name.
    pub idempotency: Option<IdempotencyKey>,
    /// Who asks.
    pub origin: Origin,
}

/// Whether a change needs a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Tags or name alone: written, and done.
    None,
    /// A job makes it so.
    Job,
}

/// A job that was cancelled.
#[derive(Clone, Copy, Debug)]
pub struct Cancelled {
    /// Which.
    pub job: JobId,
    /// What it was to do.
    pub action: Action,
    /// How that leaves it: cancelled, or as it was until it is undone.
    pub state: JobState,
    /// Accepted.
    pub created_at: DateTime<Utc>,
}

/// What `DELETE` did.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// As it is.
    pub resource: ResourceRow,
    /// The delete's job.
    pub job: JobRow,
    /// Jobs that were cancelled with it: those that never were dispatched are done, the others are told.
    pub cancelled: Vec<Cancelled>,
    /// Of now, or of an earlier `DELETE`.
    pub now: AcceptedNow,
}
