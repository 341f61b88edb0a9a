//! One batch of reports: locked, judged by the scheduler, written.

use super::books::Books;
use super::ends::{End, apply_ends_with, forget_abandoned};
use super::open::{Again, write_agains, write_poisoned, write_progress, write_releases};
use crate::changes::{self, Change};
use crate::dispatch::Exclusion;
use crate::rows::{StepRow, Waiting, json, json_some, parse, parse_some};
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::change::What;
use rhyzome_model::ids::{Fence, HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::Kind;
use rhyzome_model::problem::JobError;
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A job that a report is about, locked, not ended.
#[derive(Clone, Debug)]
pub struct OpenJob {
    /// Id.
    pub id: JobId,
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
    /// The spec of the last success.
    pub applied: Option<Value>,
    /// Where it is.
    pub state: JobState,
    /// Of its last order; reports of others are stale.
    pub fence: Option<Fence>,
    /// Where its order went.
    pub host: Option<HostName>,
    /// Whether it went there whatever host its resource is on.
    pub pinned: bool,
    /// Which way.
    pub mode: Mode,
    /// Why the undo.
    pub verdict: Option<Verdict>,
    /// What led to the undo, or failed last.
    pub cause: Option<JobError>,
    /// Failures in a row.
    pub failures: i32,
    /// Hosts that are left out.
    pub excluded: BTreeMap<HostName, Exclusion>,
    /// Whether it counts as running.
    pub holds_slot: bool,
    /// Of its host, when its newest order was made.
    pub epoch: Option<i64>,
    /// Whether an order of it is out.
    pub order_out: bool,
    /// As shown.
    pub steps: Vec<StepRow>,
    /// What it waited for.
    pub waiting: Option<Waiting>,
    /// When its cancel was asked for.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
}

/// What a report comes to.
#[derive(Clone, Debug)]
pub enum Settlement {
    /// It goes on: steps as shown, and the phase by the agent's word.
    Progress {
        /// The job.
        job: JobId,
        /// `Running` or `Undoing`.
        state: JobState,
        /// As reported.
        steps: Vec<StepRow>,
    },
    /// The order is over without an end: again at a time, on the same host.
    Again {
        /// The job.
        job: JobId,
        /// `Queued` going forward, `Undoing` in undo.
        state: JobState,
        /// As reported.
        steps: Option<Vec<StepRow>>,
        /// When.
        due: DateTime<Utc>,
        /// Failures in a row from now on.
        failures: i32,
        /// Shown.
        waiting: Option<Waiting>,
        /// The last error, kept as the job's.
        error: Option<JobError>,
    },
    /// Undone, nothing left on the host: placed anew.
    Released {
        /// The job.
        job: JobId,
        /// As reported.
        steps: Vec<StepRow>,
        /// From now on.
        excluded: BTreeMap<HostName, Exclusion>,
        /// When to look for a host again.
        due: DateTime<Utc>,
    },
    /// Its workers died of the order: what was done is taken back, by an order in mode undo on the same host.
    Poisoned {
        /// The job.
        job: JobId,
        /// What it ends with.
        error: JobError,
        /// When.
        due: DateTime<Utc>,
        /// Shown.
        waiting: Waiting,
    },
    /// It ends.
    End(End),
}

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Settled {
    /// Jobs that ended.
    pub ended: Vec<End>,
    /// All that changed, as it was written for those who watch.
    pub changes: Vec<Change>,
}

/// A batch of jobs, locked.
pub struct SettleTx {
    pub(super) tx: Transaction<'static, Postgres>,
    /// The open ones among those asked for.
    pub jobs: Vec<OpenJob>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

impl Store {
    /// Locks and reads the open jobs among these.
    pub async fn settle_begin(&self, jobs: &[JobId]) -> Result<SettleTx, StoreError> {
        let ids: Vec<Uuid> = jobs.iter().map(|j| j.0).collect();
        let mut tx = self.pool.begin().await?;
        // Resources before jobs, ids ascending: the order of all locks.
        let now = sqlx::query_scalar!(
            r#"WITH l AS (
                   SELECT r.id FROM resources r WHERE r.id = ANY(ARRAY(SELECT resource_id FROM jobs WHERE id = ANY($1)))
                   ORDER BY r.id FOR NO KEY UPDATE
               ) SELECT now() AS "now!" FROM (SELECT count(*) FROM l) c"#,
            &ids
        )
        .fetch_one(&mut *tx)
        .await?;
        // Not `ended_at IS NULL`: indices of all open jobs answer to that.
        let rows = sqlx::query!(
            r#"SELECT j.id, j.tenant, j.kind, j.action, j.resource_id, j.generation, j.spec, r.applied, j.state, j.fence, j.epoch, j.host, j.pinned_host IS NOT NULL AS "pinned!", j.mode,
                      j.verdict, j.error, j.failures, j.excluded, j.holds_slot, j.dispatched_at IS NOT NULL AS "order_out!", j.steps, j.waiting,
                      j.cancel_requested_at, j.created_at
               FROM jobs j JOIN resources r ON r.id = j.resource_id
               WHERE j.id = ANY($1) AND j.state NOT IN ('succeeded', 'failed', 'cancelled') ORDER BY j.id FOR NO KEY UPDATE OF j"#,
            &ids
        )
        .fetch_all(&mut *tx)
        .await?;
        let jobs = rows
            .into_iter()
            .map(|r| {
                Ok(OpenJob {
                    id: JobId(r.id),
                    tenant: TenantId(r.tenant),
                    kind: parse("jobs", &r.kind, Kind::parse)?,
                    action: parse("jobs", &r.action, Action::parse)?,
                    resource: ResourceId(r.resource_id),
                    generation: r.generation,
                    spec: r.spec,
                    applied: r.applied,
                    state: parse("jobs", &r.state, JobState::parse)?,
                    fence: r.fence.map(Fence),
                    host: r.host.map(HostName),
                    pinned: r.pinned,
                    mode: parse("jobs", &r.mode, Mode::parse)?,
                    verdict: parse_some("jobs", r.verdict.as_deref(), Verdict::parse)?,
                    cause: json_some("jobs", r.error)?,
                    failures: r.failures,
                    excluded: json("jobs", r.excluded)?,
                    holds_slot: r.holds_slot,
                    epoch: r.epoch,
                    order_out: r.order_out,
                    steps: json("jobs", r.steps)?,
                    waiting: json_some("jobs", r.waiting)?,
                    cancel_requested_at: r.cancel_requested_at,
                    created_at: r.created_at,
                })
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(SettleTx { tx, jobs, now })
    }
}

impl SettleTx {
    /// Writes the settlements and commits.
    pub async fn commit(mut self, settlements: Vec<Settlement>) -> Result<Settled, StoreError> {
        let mut changes = Vec::new();
        let mut ends = Vec::new();
        let mut books = Books::default();
        let mut progress = Vec::new();
        let mut agains = Vec::new();
        let mut releases = Vec::new();
        let mut poisoned = Vec::new();
        for settlement in settlements {
            match settlement {
                Settlement::Poisoned {
                    job,
                    error,
                    due,
                    waiting,
                } => {
                    let left_in = match self.job(job)?.state {
                        JobState::Running => JobState::Queued,
                        other => other,
                    };
                    changes.push(self.changed(job, left_in)?);
                    self.give_back(job, &mut books)?;
                    poisoned.push((job, error, due, waiting));
                }
                Settlement::End(end) => ends.push(end),
                Settlement::Progress { job, state, steps } => {
                    changes.push(self.changed(job, state)?);
                    progress.push((job, state, steps));
                }
                Settlement::Again { job, state, .. } => {
                    changes.push(self.changed(job, state)?);
                    self.give_back(job, &mut books)?;
                    agains.push(Again::of(settlement)?);
                }
                Settlement::Released {
                    job,
                    steps,
                    excluded,
                    due,
                } => {
                    changes.push(self.changed(job, JobState::Queued)?);
                    changes.push(self.left_its_host(job)?);
                    self.give_back(job, &mut books)?;
                    let released = self.job(job)?;
                    if let (Some(host), Some(fence)) = (&released.host, released.fence) {
                        books.answered(host.as_str(), fence.0, released.epoch);
                    }
                    books.leave(released.resource.0);
                    releases.push((job, steps, excluded, due));
                }
            }
        }
        write_progress(&mut self.tx, &progress).await?;
        write_agains(&mut self.tx, &agains).await?;
        write_releases(&mut self.tx, &releases).await?;
        write_poisoned(&mut self.tx, &poisoned).await?;
        let released: Vec<Uuid> = releases
            .iter()
            .map(|r| self.job(r.0).map(|j| j.resource.0))
            .collect::<Result<_, _>>()?;
        forget_abandoned(&mut self.tx, &released).await?;
        changes.extend(apply_ends_with(&mut self.tx, &ends, books, self.now).await?);
        let changes = changes::write(&mut self.tx, changes).await?;
        self.tx.commit().await?;
        Ok(Settled { ended: ends, changes })
    }

    fn job(&self, id: JobId) -> Result<&OpenJob, StoreError> {
        // They were read in this order.
        self.jobs
            .binary_search_by_key(&id, |j| j.id)
            .ok()
            .and_then(|n| self.jobs.get(n))
            .ok_or_else(|| StoreError::row("jobs", format!("settlement of {id}, which is not in the batch")))
    }

    fn changed(&self, id: JobId, left_in: JobState) -> Result<Change, StoreError> {
        Ok(Change::job(&self.job(id)?.tenant, id, left_in, What::Updated))
    }

    fn left_its_host(&self, id: JobId) -> Result<Change, StoreError> {
        let job = self.job(id)?;
        Ok(Change::resource(
            &job.tenant,
            job.kind,
            job.resource,
            What::Updated,
        ))
    }

    /// The order is over: its slot and its place on the host go back.
    fn give_back(&self, id: JobId, books: &mut Books) -> Result<(), StoreError> {
        let job = self.job(id)?;
        if job.holds_slot {
            books.slot(job.tenant.as_str());
        }
        if job.order_out
            && let Some(host) = &job.host
        {
            books.order(host.as_str());
        }
        Ok(())
    }
}
