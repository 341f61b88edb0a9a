//! Dispatch: takes due jobs where nobody else has them, and writes what was decided of them, in one transaction a batch.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `begin` | locks and reads a batch |
//! | `commit` | writes what was decided: waits, ends, homes, turns |
//! | `orders` | writes the orders: room, reservations, fences, slots |
//! | `changed` | what that changed for those who watch |
//!
//! [`Store::dispatch_begin`] locks and reads; the scheduler decides (purely, on what was read and on its view of the hosts);
//! [`DispatchTx::commit`] judges turn, capacity and a network's home once more under their locks, draws the fences and writes. A
//! decision that no longer holds is left out: its job stays due, and the next round decides anew.
//!
//! [`Store::dispatch_begin`]: crate::Store::dispatch_begin

mod begin;
mod changed;
mod commit;
mod orders;

use crate::StoreError;
use crate::changes::Change;
use crate::leases::LeaseView;
use crate::rows::Waiting;
use crate::settle::End;
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::{Demand, Kind};
use rhyzome_model::problem::JobError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::BTreeMap;

/// How much one batch takes.
#[derive(Clone, Copy, Debug)]
pub struct DispatchLimits {
    /// Jobs in all.
    pub batch: i64,
    /// Slots of each tenant.
    pub tenant_cap: i32,
    /// Orders that may be out per host.
    pub host_cap: i32,
}

/// Why a host is left out for a job, until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// `no_room`, or `image`: it could not fetch it.
    pub reason: String,
    /// Exclusions lapse.
    pub until: DateTime<Utc>,
}

/// What is intended with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It stays.
    Kept,
    /// Its deletion was accepted.
    Gone,
}

/// A job that something is due with, locked.
#[derive(Clone, Debug)]
pub struct DueJob {
    /// Id.
    pub id: JobId,
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub kind: Kind,
    /// What is done.
    pub action: Action,
    /// To which.
    pub resource: ResourceId,
    /// Its name.
    pub name: String,
    /// Of the intent.
    pub generation: i64,
    /// The intent.
    pub spec: Value,
    /// The spec of the last success.
    pub applied: Option<Value>,
    /// As its host last saw it.
    pub observed: Option<Value>,
    /// The resource's facts.
    pub facts: Option<Value>,
    /// Where it is.
    pub state: JobState,
    /// The host that has the job, from its first dispatch until it was released.
    pub host: Option<HostName>,
    /// The host that it goes to with its frozen steps, whatever host its resource is on.
    pub pinned_host: Option<HostName>,
    /// The host that holds the resource.
    pub resource_host: Option<HostName>,
    /// What it has reserved on that host.
    pub reserved: Demand,
    /// For a network: where it lives.
    pub home: Option<HostName>,
    /// Frozen steps, JSON texts.
    pub frozen: Option<Vec<String>>,
    /// Which way.
    pub mode: Mode,
    /// Why the undo.
    pub verdict: Option<Verdict>,
    /// What led to the undo.
    pub cause: Option<JobError>,
    /// Dispatches so far.
    pub attempt: i32,
    /// Failures in a row.
    pub failures: i32,
    /// Hosts that are left out.
    pub excluded: BTreeMap<HostName, Exclusion>,
    /// Going forward, it ends after this.
    pub deadline_at: Option<DateTime<Utc>>,
    /// When its cancel was asked for.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// Whether it counts as running.
    pub holds_slot: bool,
    /// Whether an order of it may be out (its outcome has not come).
    pub order_out: bool,
    /// What it waited for.
    pub waiting: Option<Waiting>,
    /// W3C.
    pub traceparent: String,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// An earlier job on the same resource is open.
    pub earlier_open: bool,
    /// What is intended with its resource.
    pub wanted: Wanted,
    /// Resources that refer to this one, still.
    pub referrers: i64,
}

/// A resource that a due job's resource refers to.
#[derive(Clone, Debug)]
pub struct RefRow {
    /// Id.
    pub id: ResourceId,
    /// What.
    pub kind: Kind,
    /// Whose.
    pub tenant: TenantId,
    /// Name.
    pub name: String,
    /// Its generation.
    pub generation: i64,
    /// Its intent.
    pub spec: Value,
    /// It was made.
    pub applied: bool,
    /// What making it found out.
    pub facts: Option<Value>,
    /// A job is open on it.
    pub open: bool,
}

/// A job whose row, or one that it refers to, holds what this program doesn't know.
#[derive(Debug)]
pub struct Unread {
    /// The job.
    pub job: JobId,
    /// What it holds.
    pub why: String,
}

impl Unread {
    fn new(job: JobId, why: &StoreError) -> Self {
        Self {
            job,
            why: why.to_string(),
        }
    }

    /// Rows of jobs, those apart that can't be read.
    pub(crate) fn apart<T>(
        rows: impl Iterator<Item = (JobId, Result<T, StoreError>)>,
    ) -> (Vec<T>, Vec<Self>) {
        let (mut read, mut unread) = (Vec::new(), Vec::new());
        for (job, row) in rows {
            match row {
                Ok(row) => read.push(row),
                Err(why) => unread.push(Self::new(job, &why)),
            }
        }
        (read, unread)
    }
}

/// A batch of due jobs, locked.
pub struct DispatchTx {
    tx: Transaction<'static, Postgres>,
    limits: DispatchLimits,
    /// A tenant may have had more that was due than its share of the batch.
    pub more: bool,
    /// A tenant has as many jobs in the batch as it has turns left: those of them that take none stood before others.
    pub crowded: bool,
    /// The jobs, in turn.
    pub jobs: Vec<DueJob>,
    /// Those that were due and can't be read here: another program may know what they are. They are put off for some seconds.
    pub unread: Vec<Unread>,
    /// Where each of them stands.
    places: BTreeMap<JobId, usize>,
    /// What their resources refer to, by referrer.
    pub refs: BTreeMap<ResourceId, Vec<RefRow>>,
    /// Their resources' leases, by instance.
    pub leases: BTreeMap<ResourceId, Vec<LeaseView>>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// An order to be written.
#[derive(Clone, Debug)]
pub struct NewOrder {
    /// The job.
    pub job: JobId,
    /// Where.
    pub host: HostName,
    /// Which way.
    pub mode: Mode,
    /// Why the undo.
    pub verdict: Option<Verdict>,
    /// Steps, JSON texts.
    pub frozen: Vec<String>,
    /// Step names as shown, where they are frozen just now.
    pub names: Option<Vec<String>>,
    /// What the resource shall have reserved on the host; none leaves it as it is.
    pub reserve: Option<Demand>,
    /// An image that the host will keep, and the GiB that takes where it doesn't yet.
    pub image: Option<(ResourceId, i64)>,
    /// Networks that it will hold: they live on this host, or come to.
    pub networks: Vec<ResourceId>,
}

/// What was decided of a due job.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one each a job of a batch, made once and taken apart at once"
)]
pub enum Decision {
    /// An order goes out.
    Order(NewOrder),
    /// It ends without one.
    End(End),
    /// It waits.
    Wait {
        /// The job.
        job: JobId,
        /// `Blocked` (woken by an end), or as it is.
        state: JobState,
        /// Why.
        waiting: Waiting,
        /// When to look again; none for blocked.
        due: Option<DateTime<Utc>>,
    },
}

/// An order that was committed and is to be published.
#[derive(Clone, Debug)]
pub struct OrderRow {
    /// The job.
    pub job: JobId,
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub kind: Kind,
    /// What is done.
    pub action: Action,
    /// To which.
    pub resource: ResourceId,
    /// Of the intent.
    pub generation: i64,
    /// Where.
    pub host: HostName,
    /// HOST:PORT of its agent.
    pub address: String,
    /// The host's life.
    pub epoch: i64,
    /// Drawn for it.
    pub fence: i64,
    /// Which way.
    pub mode: Mode,
    /// Why the undo.
    pub verdict: Option<Verdict>,
    /// What led to it.
    pub cause: Option<JobError>,
    /// 1 for the first.
    pub attempt: i32,
    /// Steps, JSON texts.
    pub frozen: Vec<String>,
    /// A forward order isn't begun after this.
    pub deadline_at: Option<DateTime<Utc>>,
    /// W3C.
    pub traceparent: String,
}

/// What a batch came to.
#[derive(Debug, Default)]
pub struct DispatchOutcome {
    /// To be published.
    pub orders: Vec<OrderRow>,
    /// Jobs that ended without an order.
    pub ended: Vec<End>,
    /// Jobs whose decision no longer held: still due.
    pub left: Vec<JobId>,
    /// All that changed, as it was written for those who watch.
    pub changes: Vec<Change>,
}
