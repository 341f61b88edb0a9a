//! One batch of reports: locked, judged by the scheduler, written.

use super::books::Books;
use super::ends::{End, apply_ends_with, forget_abandoned};
use crate::changes::{self, Change};
use crate::dispatch::Exclusion;
use crate::rows::{StepRow, Steps, Waiting, json, parse};
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::change::What;
use rhyzome_model::ids::{Fence, HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::Kind;
use rhyzome_model::problem::JobError;
use serde_json::Value;
use sqlx::types::Json;
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
                    verdict: r
                        .verdict
                        .as_deref()
                        .map(|v| parse("jobs", v, Verdict::parse))
                        .transpose()?,
                    cause: r.error.map(|e| json("jobs", e)).transpose()?,
                    failures: r.failures,
                    excluded: json("jobs", r.excluded)?,
                    holds_slot: r.holds_slot,
                    epoch: r.epoch,
                    order_out: r.order_out,
                    steps: json("jobs", r.steps)?,
                    waiting: r.waiting.map(|w| json("jobs", w)).transpose()?,
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
                    books.leave(self.job(job)?.resource.0);
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

async fn write_progress(
    tx: &mut Transaction<'_, Postgres>,
    progress: &[(JobId, JobState, Vec<StepRow>)],
) -> Result<(), StoreError> {
    if progress.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = progress.iter().map(|p| p.0.0).collect();
    let states: Vec<String> = progress.iter().map(|p| p.1.to_string()).collect();
    let steps: Vec<Steps<'_>> = progress.iter().map(|p| Json(p.2.as_slice())).collect();
    sqlx::query!(
        "UPDATE jobs j SET state = q.state, steps = q.steps
         FROM unnest($1::uuid[], $2::text[], $3::jsonb[]) AS q(id, state, steps) WHERE j.id = q.id",
        &ids,
        &states,
        &steps as &[Steps<'_>]
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Columns of a job that is tried again.
struct Again {
    id: Uuid,
    state: &'static str,
    steps: Option<Vec<StepRow>>,
    due: DateTime<Utc>,
    failures: i32,
    waiting: Option<Value>,
    error: Option<Value>,
}

impl Again {
    fn of(settlement: Settlement) -> Result<Self, StoreError> {
        let Settlement::Again {
            job,
            state,
            steps,
            due,
            failures,
            waiting,
            error,
        } = settlement
        else {
            return Err(StoreError::row("jobs", "not a re-attempt"));
        };
        let value = |v: Result<Value, serde_json::Error>| v.map_err(|e| StoreError::row("jobs", e));
        Ok(Self {
            id: job.0,
            state: state.as_str(),
            steps,
            due,
            failures,
            waiting: waiting.map(|w| value(serde_json::to_value(w))).transpose()?,
            error: error.map(|e| value(serde_json::to_value(e))).transpose()?,
        })
    }
}

async fn write_agains(tx: &mut Transaction<'_, Postgres>, agains: &[Again]) -> Result<(), StoreError> {
    if agains.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = agains.iter().map(|a| a.id).collect();
    let states: Vec<String> = agains.iter().map(|a| a.state.to_owned()).collect();
    let steps: Vec<Option<Steps<'_>>> = agains.iter().map(|a| a.steps.as_deref().map(Json)).collect();
    let dues: Vec<DateTime<Utc>> = agains.iter().map(|a| a.due).collect();
    let failures: Vec<i32> = agains.iter().map(|a| a.failures).collect();
    let waiting: Vec<Option<Value>> = agains.iter().map(|a| a.waiting.clone()).collect();
    let errors: Vec<Option<Value>> = agains.iter().map(|a| a.error.clone()).collect();
    sqlx::query!(
        "UPDATE jobs j SET state = q.state, steps = coalesce(q.steps, j.steps), due = q.due, failures = q.failures,
                waiting = q.waiting, error = coalesce(q.error, j.error), holds_slot = false, dispatched_at = NULL
         FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::timestamptz[], $5::int4[], $6::jsonb[], $7::jsonb[])
              AS q(id, state, steps, due, failures, waiting, error)
         WHERE j.id = q.id",
        &ids,
        &states,
        &steps as &[Option<Steps<'_>>],
        &dues,
        &failures,
        &waiting as &[Option<Value>],
        &errors as &[Option<Value>]
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

type Poison = (JobId, JobError, DateTime<Utc>, Waiting);

async fn write_poisoned(tx: &mut Transaction<'_, Postgres>, poisoned: &[Poison]) -> Result<(), StoreError> {
    if poisoned.is_empty() {
        return Ok(());
    }
    let value = |v: Result<Value, serde_json::Error>| v.map_err(|e| StoreError::row("jobs", e));
    let ids: Vec<Uuid> = poisoned.iter().map(|p| p.0.0).collect();
    let errors: Vec<Value> = poisoned
        .iter()
        .map(|p| value(serde_json::to_value(&p.1)))
        .collect::<Result<_, _>>()?;
    let dues: Vec<DateTime<Utc>> = poisoned.iter().map(|p| p.2).collect();
    let waiting: Vec<Value> = poisoned
        .iter()
        .map(|p| value(serde_json::to_value(&p.3)))
        .collect::<Result<_, _>>()?;
    sqlx::query!(
        "UPDATE jobs j SET state = CASE WHEN j.state = 'running' THEN 'queued' ELSE j.state END, mode = 'undo', verdict = 'failed',
                error = q.error, due = q.due, waiting = q.waiting, holds_slot = false, dispatched_at = NULL
         FROM unnest($1::uuid[], $2::jsonb[], $3::timestamptz[], $4::jsonb[]) AS q(id, error, due, waiting) WHERE j.id = q.id",
        &ids,
        &errors,
        &dues,
        &waiting
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

type Release = (JobId, Vec<StepRow>, BTreeMap<HostName, Exclusion>, DateTime<Utc>);

async fn write_releases(tx: &mut Transaction<'_, Postgres>, releases: &[Release]) -> Result<(), StoreError> {
    if releases.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = releases.iter().map(|r| r.0.0).collect();
    let steps: Vec<Steps<'_>> = releases.iter().map(|r| Json(r.1.as_slice())).collect();
    let excluded: Vec<Value> = releases
        .iter()
        .map(|r| serde_json::to_value(&r.2).map_err(|e| StoreError::row("jobs", e)))
        .collect::<Result<_, _>>()?;
    let dues: Vec<DateTime<Utc>> = releases.iter().map(|r| r.3).collect();
    sqlx::query!(
        "WITH j AS (
             UPDATE jobs j SET state = 'queued', host = NULL, first_fence = NULL, frozen = NULL, mode = 'forward', verdict = NULL,
                    error = NULL, steps = q.steps, excluded = q.excluded, due = q.due, failures = j.failures + 1,
                    holds_slot = false, dispatched_at = NULL, waiting = NULL
             FROM unnest($1::uuid[], $2::jsonb[], $3::jsonb[], $4::timestamptz[]) AS q(id, steps, excluded, due)
             WHERE j.id = q.id RETURNING j.id
         )
         UPDATE job_resources o SET active = false FROM j WHERE o.job_id = j.id",
        &ids,
        &steps as &[Steps<'_>],
        &excluded,
        &dues
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
