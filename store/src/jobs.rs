//! Jobs as they are read: one, many by id (for waiters), or a page of a list.

mod list;

use crate::dispatch::Exclusion;
use crate::resources::Scope;
use crate::rows::{JobRow, RawJob, Waiting, json, readable};
use crate::{Store, StoreError};
use rhyzome_model::ids::{HostName, JobId, ResourceId};
use rhyzome_model::job::JobState;
use sqlx::{Postgres, Transaction};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A worker says within so many seconds how far an order is, where it takes that long at all.
const UNTAKEN_AFTER: f64 = 5.0;

/// What a list of jobs is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Of this resource.
    pub target: Option<ResourceId>,
    /// In this shown state.
    pub state: Option<JobState>,
}

impl Store {
    /// One job.
    pub async fn job_get(&self, id: JobId) -> Result<Option<JobRow>, StoreError> {
        Ok(self.jobs_get(&[id]).await?.pop())
    }

    /// One job, if the reader may know of it.
    pub async fn job_seen_by(&self, scope: &Scope, id: JobId) -> Result<Option<JobRow>, StoreError> {
        let mut found = self.jobs_raw(&[id]).await?;
        found.retain(|raw| scope.has(&raw.tenant));
        found.pop().map(JobRow::try_from).transpose()
    }

    /// The hosts that refused a job, with until when they are left out for it.
    pub async fn job_exclusions(&self, id: JobId) -> Result<BTreeMap<HostName, Exclusion>, StoreError> {
        let excluded = sqlx::query_scalar!("SELECT excluded FROM jobs WHERE id = $1", id.0)
            .fetch_optional(&self.pool)
            .await?;
        excluded.map_or_else(|| Ok(BTreeMap::new()), |e| json("jobs", e))
    }

    /// Those of the ids that are there, in no order.
    pub async fn jobs_get(&self, ids: &[JobId]) -> Result<Vec<JobRow>, StoreError> {
        self.jobs_raw(ids)
            .await?
            .into_iter()
            .map(JobRow::try_from)
            .collect()
    }

    /// The same without those that only a later version can read.
    pub async fn jobs_readable(&self, ids: &[JobId]) -> Result<Vec<JobRow>, StoreError> {
        Ok(readable(self.jobs_raw(ids).await?))
    }

    async fn jobs_raw(&self, ids: &[JobId]) -> Result<Vec<RawJob>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|i| i.0).collect();
        let rows = sqlx::query_as!(
            RawJob,
            "SELECT id, tenant, kind, action, resource_id, resource_name, generation, state, mode, steps, attempt, host, waiting,
                    deadline_at, cancel_requested_at, error, actor, trace_id, retry_of, created_at, started_at, ended_at
             FROM jobs WHERE id = ANY($1)",
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Says of open jobs that nothing is written of what they wait for all the same: for their host, which can't be reached; for a
    /// worker's first word; for an operator, after the database was set back.
    pub async fn job_stalls(&self, rows: &mut [JobRow]) -> Result<(), StoreError> {
        let quiet = |row: &&mut JobRow| {
            !row.state.is_done() && row.state != JobState::Blocked && row.waiting.is_none()
        };
        let ids: Vec<Uuid> = rows.iter_mut().filter(quiet).map(|row| row.id.0).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let found = sqlx::query!(
            r#"SELECT j.id, j.dispatched_at, h.seen_at AS "seen_at?", EXISTS (SELECT FROM set_backs) AS "halted!",
                      coalesce(NOT (h.watch_up AND coalesce(h.watch_until > now(), false)), false) AS "lost!",
                      coalesce(j.dispatched_at < now() - make_interval(secs => $2), false) AS "late!", j.created_at
               FROM jobs j LEFT JOIN hosts h ON h.name = j.host WHERE j.id = ANY($1) AND j.ended_at IS NULL AND j.waiting IS NULL"#,
            &ids,
            UNTAKEN_AFTER
        )
        .fetch_all(&self.pool)
        .await?;
        for of in found {
            let Some(row) = rows.iter_mut().find(|row| row.id.0 == of.id) else {
                continue;
            };
            let untaken = row.steps.iter().all(|step| step.state == "pending");
            let (reason, detail, since) = match of.dispatched_at {
                None if of.halted => (
                    "turn",
                    "No job is begun until an operator has looked at the database, which was set back.",
                    of.created_at,
                ),
                Some(at) if of.lost => (
                    "host_unreachable",
                    "Its host can't be reached at the moment; it goes on once it can.",
                    of.seen_at.unwrap_or(at),
                ),
                Some(at) if of.late && untaken => {
                    ("turn", "It was sent out, and nothing was heard of it yet.", at)
                }
                None | Some(_) => continue,
            };
            row.waiting = Some(Waiting {
                reason: reason.to_owned(),
                detail: detail.to_owned(),
                since,
                until: None,
                hosts: None,
                fits_with: None,
            });
        }
        Ok(())
    }
}

pub(crate) async fn job_in(
    tx: &mut Transaction<'_, Postgres>,
    id: JobId,
) -> Result<Option<JobRow>, StoreError> {
    sqlx::query_as!(
        RawJob,
        "SELECT id, tenant, kind, action, resource_id, resource_name, generation, state, mode, steps, attempt, host, waiting,
                deadline_at, cancel_requested_at, error, actor, trace_id, retry_of, created_at, started_at, ended_at
         FROM jobs WHERE id = $1",
        id.0
    )
    .fetch_optional(&mut **tx)
    .await?
    .map(JobRow::try_from)
    .transpose()
}
