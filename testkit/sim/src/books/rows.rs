//! The rows, as far as the path reads them.

use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::{Demand, Kind};
use rhyzome_model::problem::JobError;
use rhyzome_store::dispatch::Exclusion;
use rhyzome_store::rows::{StepRow, Waiting};
use serde_json::Value;
use std::collections::BTreeMap;

/// A job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Id.
    pub id: JobId,
    /// Its number: the order of acceptance.
    pub seq: i64,
    /// Whose.
    pub tenant: TenantId,
    /// Of what.
    pub kind: Kind,
    /// What is done.
    pub action: Action,
    /// To which.
    pub resource: ResourceId,
    /// Of the intent.
    pub generation: i64,
    /// The intent.
    pub spec: Value,
    /// Where it is.
    pub state: JobState,
    /// As shown.
    pub steps: Vec<StepRow>,
    /// Which host has it.
    pub host: Option<HostName>,
    /// Of its first order there.
    pub first_fence: Option<i64>,
    /// Of its newest order.
    pub fence: Option<i64>,
    /// Of the host then.
    pub epoch: i64,
    /// Which way.
    pub mode: Mode,
    /// Why the undo.
    pub verdict: Option<Verdict>,
    /// Frozen steps.
    pub frozen: Option<Vec<String>>,
    /// What led to the undo, or failed last.
    pub error: Option<JobError>,
    /// Dispatches so far.
    pub attempt: i32,
    /// Failures in a row.
    pub failures: i32,
    /// Hosts that are left out.
    pub excluded: BTreeMap<HostName, Exclusion>,
    /// When it is looked at.
    pub due: Option<DateTime<Utc>>,
    /// Going forward, it ends after this.
    pub deadline_at: Option<DateTime<Utc>>,
    /// When its cancel was asked for.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// Whether it counts as running.
    pub holds_slot: bool,
    /// When its order went out, while it is out.
    pub dispatched_at: Option<DateTime<Utc>>,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// A resource.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Id.
    pub id: ResourceId,
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The intent.
    pub spec: Value,
    /// Counts intents.
    pub generation: i64,
    /// The last that was made so.
    pub observed_generation: i64,
    /// It goes.
    pub deleting: bool,
    /// The spec of the last success.
    pub applied: Option<Value>,
    /// What making it found out.
    pub facts: Option<Value>,
    /// Where it is.
    pub host: Option<HostName>,
    /// Of its newest order.
    pub fence: i64,
}

/// A host.
#[derive(Clone, Debug)]
pub struct HostRec {
    /// What it offers.
    pub offered: Demand,
    /// What is reserved of it.
    pub used: Demand,
    /// Orders without an outcome.
    pub orders_out: i32,
    /// Of its life.
    pub epoch: i64,
    /// Whether its watch is up.
    pub up: bool,
}
