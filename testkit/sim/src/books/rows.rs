//! The rows, as far as the path reads them.

use chrono::{DateTime, Utc};
use rhyzome_model::check::HostInventory;
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::{Demand, Kind};
use rhyzome_model::problem::JobError;
use rhyzome_model::step::Step;
use rhyzome_store::amiss::Standing;
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
    /// Where it goes whatever host its resource is on.
    pub pinned_host: Option<HostName>,
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
    /// Its undo was given up: its host may go on with it for a while.
    pub given_up: bool,
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
    /// It is none, but stands in for this.
    pub stand_in: Option<Pinned>,
}

impl Resource {
    /// One that is asked for, and nothing is done of it.
    pub fn new(id: ResourceId, tenant: TenantId, kind: Kind, name: String, spec: Value) -> Self {
        Self {
            id,
            tenant,
            kind,
            name,
            spec,
            generation: 1,
            observed_generation: 0,
            deleting: false,
            applied: None,
            facts: None,
            host: None,
            fence: 0,
            stand_in: None,
        }
    }
}

/// A host, and what is done there.
#[derive(Clone, Debug, PartialEq)]
pub struct Pinned {
    /// Which.
    pub host: HostName,
    /// What.
    pub steps: Vec<Step>,
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
    /// Of its ledger.
    pub ledger_id: Option<String>,
    /// The highest fence of its epoch that its agent has answered with an end.
    pub answered_fence: i64,
    /// When it was seen to be older than it was.
    pub put_back_at: Option<DateTime<Utc>>,
    /// What it holds, and a moment before its agent looked.
    pub inventory: Option<HostInventory>,
}

/// Something that the checks find amiss.
#[derive(Clone, Copy, Debug)]
pub struct AmissRow {
    /// In a word.
    pub wrong: &'static str,
    /// Since when, and what was tried.
    pub standing: Standing,
}

/// Who checks, and what came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckRun {
    /// Somebody is at it until then.
    pub taken_until: Option<DateTime<Utc>>,
    /// When the last one was done.
    pub checked_at: Option<DateTime<Utc>>,
    /// By what was found last, every host was as it is to be since then.
    pub well_since: Option<DateTime<Utc>>,
}

/// What a job that was abandoned may have left on its host.
#[derive(Clone, Debug)]
pub struct Rest {
    /// Of what.
    pub resource: ResourceId,
    /// Where.
    pub host: HostName,
    /// Of its first order there.
    pub first_fence: i64,
    /// Of its last.
    pub fence: i64,
    /// When.
    pub at: DateTime<Utc>,
}

impl Pinned {
    /// The steps as JSON texts.
    pub fn frozen(&self) -> Vec<String> {
        let text = |step| serde_json::to_string(step).unwrap_or_default();
        self.steps.iter().map(text).collect()
    }
}
