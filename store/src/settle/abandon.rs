//! Abandoning: an operator gives an undo up. The job ends; what it holds on its host stays held until that host is known to hold
//! nothing of it.
//!
//! ```text
//! undoing ──abandoned──▶ failed | cancelled, and a row here ──▶ (row gone) when a later job of the resource ended on its host's word,
//!                                                               or the host's inventory shows nothing of it
//! ```
//!
//! While the row is there the resource keeps its host, so that a retry or a delete goes there and nowhere else; it keeps its
//! reservation and its leases; and the host's floor does not pass the job's first fence, so that the host goes on knowing whose rest
//! it has, and orders of that undo that are still about may finish it.

use super::batch::OpenJob;
use super::books::Books;
use super::ends::{Effect, End, apply_ends_with};
use crate::changes::{self, Change};
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::change::What;
use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{JobState, Verdict};
use rhyzome_model::kinds::Kind;
use rhyzome_model::problem::JobError;
use serde::Serialize;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

/// A job that was abandoned, and of which something may be on its host.
#[derive(Clone, Debug, Serialize)]
pub struct Abandoned {
    /// The job.
    pub job: JobId,
    /// Of what.
    pub resource: ResourceId,
    /// Whose.
    pub tenant: TenantId,
    /// Where its rest may be.
    pub host: HostName,
    /// Of its last order.
    pub fence: Fence,
    /// The host's epoch at that order.
    pub epoch: Epoch,
    /// Whether the resource was made by an earlier job: then it is there, and only the change may be half undone.
    pub made: bool,
    /// When.
    pub at: DateTime<Utc>,
}

/// Why a job can't be abandoned.
#[derive(Debug, thiserror::Error)]
pub enum NotAbandoned {
    /// There is none.
    #[error("there is no job {0}")]
    NotFound(JobId),
    /// It ended.
    #[error("job {job} is done: it is {state}")]
    Done {
        /// Which.
        job: JobId,
        /// How.
        state: JobState,
    },
    /// It isn't being undone.
    #[error(
        "job {job} is {state}, and only an undo can be abandoned: cancel it first, and wait until it is undoing"
    )]
    NotUndoing {
        /// Which.
        job: JobId,
        /// Where it is.
        state: JobState,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for NotAbandoned {
    fn from(e: sqlx::Error) -> Self {
        Self::Store(e.into())
    }
}

impl Store {
    /// Ends a job in `undoing` as its verdict says: cancelled, or failed with `ABANDONED` and the cause. Its slot and its place on the
    /// host go back; reservation, leases and host stay.
    pub async fn job_abandon(&self, id: JobId, actor: &str) -> Result<End, NotAbandoned> {
        let mut tx = self.settle_begin(&[id]).await?;
        let Some(job) = tx.jobs.first().cloned() else {
            return Err(match self.job_get(id).await? {
                Some(row) => NotAbandoned::Done {
                    job: id,
                    state: row.state,
                },
                None => NotAbandoned::NotFound(id),
            });
        };
        if job.state != JobState::Undoing {
            return Err(NotAbandoned::NotUndoing {
                job: id,
                state: job.state,
            });
        }
        let end = end(&job);
        let now = tx.now;
        let changes = apply_ends_with(&mut tx.tx, std::slice::from_ref(&end), Books::default(), now).await?;
        changes::write(&mut tx.tx, changes).await?;
        audit_abandoned(&mut tx.tx, std::slice::from_ref(&end), actor, now).await?;
        tx.tx.commit().await?;
        Ok(end)
    }

    /// What was abandoned and may have left something, oldest first; on one host or on all.
    pub async fn abandoned(&self, host: Option<&HostName>) -> Result<Vec<Abandoned>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT a.job_id, a.resource_id, a.tenant, a.host, a.fence, a.at, coalesce(r.applied IS NOT NULL, false) AS "made!",
                      coalesce((SELECT j.epoch FROM jobs j WHERE j.id = a.job_id), 0) AS "epoch!"
               FROM abandoned a LEFT JOIN resources r ON r.id = a.resource_id
               WHERE $1::text IS NULL OR a.host = $1 ORDER BY a.at, a.job_id"#,
            host.map(HostName::as_str)
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|r| Abandoned {
                job: JobId(r.job_id),
                resource: ResourceId(r.resource_id),
                tenant: TenantId(r.tenant),
                host: HostName(r.host),
                fence: Fence(r.fence),
                epoch: Epoch(r.epoch),
                made: r.made,
                at: r.at,
            })
            .collect())
    }

    /// The host of an abandoned job was seen to hold nothing of it: what is reserved for it there is given back, and the host's
    /// floor is free of it. False where a job is at work on the resource, whose end will tell.
    pub async fn abandoned_gone(&self, gone: &Abandoned) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let resource = sqlx::query!(
            r#"SELECT kind, host, applied IS NOT NULL AS "made!" FROM resources WHERE id = $1 FOR NO KEY UPDATE"#,
            gone.resource.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        let at_work = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM job_resources o JOIN jobs j ON j.id = o.job_id
                              WHERE o.resource_id = $1 AND j.host IS NOT NULL) AS "at_work!""#,
            gone.resource.0
        )
        .fetch_one(&mut *tx)
        .await?;
        if at_work {
            return Ok(false);
        }
        let deleted = sqlx::query!("DELETE FROM abandoned WHERE job_id = $1", gone.job.0)
            .execute(&mut *tx)
            .await?;
        if deleted.rows_affected() == 0 {
            return Ok(false);
        }
        if let Some(resource) = resource
            && !resource.made
            && resource.host.as_deref() == Some(gone.host.as_str())
        {
            let mut books = Books::default();
            books.leave(gone.resource.0);
            let mut changes = books.write(&mut tx).await?;
            let kind = crate::rows::parse("resources", &resource.kind, Kind::parse)?;
            changes.push(Change::resource(&gone.tenant, kind, gone.resource, What::Updated));
            changes::write(&mut tx, changes).await?;
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// Who gave up the undo of jobs that end so.
pub(crate) async fn audit_abandoned(
    tx: &mut Transaction<'_, Postgres>,
    ends: &[End],
    actor: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let jobs: Vec<Uuid> = ends
        .iter()
        .filter(|e| matches!(e.effect, Effect::LeftBehind { .. }))
        .map(|e| e.job.0)
        .collect();
    if jobs.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO audit (at, tenant, actor, action, resource_id, job_id, trace_id)
         SELECT $2, tenant, $3, 'abandon', resource_id, id, trace_id FROM jobs WHERE id = ANY($1)",
        &jobs,
        now,
        actor
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn end(job: &OpenJob) -> End {
    let cancelled = job.verdict == Some(Verdict::Cancelled)
        || (job.verdict.is_none() && job.cancel_requested_at.is_some());
    let cause = job.cause.as_ref();
    let error = JobError {
        step: cause.and_then(|c| c.step.clone()),
        host: job.host.as_ref().map(ToString::to_string),
        retryable: true,
        ..JobError::new(
            "ABANDONED",
            match cause {
                Some(cause) => format!(
                    "Taking it back was given up by an operator; something of it may be left. It had failed with {}: {}",
                    cause.code, cause.detail
                ),
                None => "Taking it back was given up by an operator; something of it may be left.".to_owned(),
            },
        )
    };
    let reason = error.reason(job.id);
    End {
        job: job.id,
        tenant: job.tenant.clone(),
        kind: job.kind,
        action: job.action,
        resource: job.resource,
        state: if cancelled {
            JobState::Cancelled
        } else {
            JobState::Failed
        },
        error: (!cancelled).then_some(error),
        steps: None,
        host: job.host.clone(),
        held_slot: job.holds_slot,
        order_out: job.order_out,
        answered: None,
        created_at: job.created_at,
        networks: Vec::new(),
        effect: Effect::LeftBehind { reason },
    }
}
