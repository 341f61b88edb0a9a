//! Cancel: at once where no host has the job, else by a mark that dispatch turns to undo.

use super::rows::audit_cancel;
use crate::accept::{Origin, Refusal};
use crate::changes::{self, Change};
use crate::rows::JobRow;
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::change::What;
use rhyzome_model::ids::{JobId, TenantId};
use rhyzome_model::job::{Action, JobState};
use sqlx::{Postgres, Transaction};

impl Store {
    /// Cancels a job: at once where it was never dispatched, else by an order in mode undo. Asking twice is the same.
    pub async fn accept_cancel(
        &self,
        tenant: &TenantId,
        job: JobId,
        origin: &Origin,
    ) -> Result<Result<JobRow, Refusal>, StoreError> {
        let Some(row) = self.job_get(job).await?.filter(|j| j.tenant == *tenant) else {
            return Ok(Err(Refusal::NotFound));
        };
        let mut tx = self.pool.begin().await?;
        // The resource of an ended job may be gone.
        let now = sqlx::query_scalar!(
            r#"SELECT now() AS "now!" FROM (SELECT) one LEFT JOIN (SELECT FROM resources WHERE id = $1 FOR NO KEY UPDATE) r ON true"#,
            row.resource_id.0
        )
        .fetch_one(&mut *tx)
        .await?;
        let state = match cancel_locked(&mut tx, job, now).await? {
            Ok(state) => state,
            Err(refusal) => return Ok(Err(refusal)),
        };
        audit_cancel(&mut tx, tenant, origin, row.resource_id, job, now).await?;
        let told = vec![
            Change::job(tenant, job, state, What::Updated),
            Change::resource(tenant, row.kind, row.resource_id, What::Updated),
        ];
        changes::write(&mut tx, told).await?;
        tx.commit().await?;
        self.job_get(job)
            .await?
            .map(Ok)
            .map_or(Ok(Err(Refusal::NotFound)), Ok)
    }
}

/// Cancels an open job whose resource's row is locked; says in which state that leaves it.
pub(super) async fn cancel_locked(
    tx: &mut Transaction<'_, Postgres>,
    job: JobId,
    now: DateTime<Utc>,
) -> Result<Result<JobState, Refusal>, StoreError> {
    let row = sqlx::query!(
        "SELECT state, action, host, resource_id FROM jobs WHERE id = $1 FOR NO KEY UPDATE",
        job.0
    )
    .fetch_one(&mut **tx)
    .await?;
    let state = crate::rows::parse("jobs", &row.state, JobState::parse)?;
    let action = crate::rows::parse("jobs", &row.action, Action::parse)?;
    if state.is_done() {
        return Ok(Err(Refusal::JobDone));
    }
    // No host has it: never dispatched, or its last order was reported released.
    if row.host.is_none() {
        if action == Action::Delete {
            return Ok(Err(Refusal::NotCancellable));
        }
        let reason = serde_json::json!({
            "code": "CANCELLED", "detail": "The request was cancelled before anything was done.", "job": job
        });
        sqlx::query!(
            "UPDATE jobs SET state = 'cancelled', cancel_requested_at = coalesce(cancel_requested_at, $2), ended_at = $2,
                    due = NULL, waiting = NULL
             WHERE id = $1",
            job.0,
            now
        )
        .execute(&mut **tx)
        .await?;
        sqlx::query!("DELETE FROM job_resources WHERE job_id = $1", job.0)
            .execute(&mut **tx)
            .await?;
        sqlx::query!(
            "UPDATE resources SET reason = $2, updated_at = $3 WHERE id = $1 AND (applied IS NULL OR $4 = 'update') AND stand_in IS NULL",
            row.resource_id,
            reason,
            now,
            row.action
        )
        .execute(&mut **tx)
        .await?;
        crate::quotas::jobs_ended(tx, &[row.resource_id]).await?;
        crate::settle::wake(tx, &[row.resource_id], &[]).await?;
        return Ok(Ok(JobState::Cancelled));
    }
    if action.forward_only() {
        return Ok(Err(Refusal::NotCancellable));
    }
    sqlx::query!(
        "UPDATE jobs SET cancel_requested_at = $2, due = CASE WHEN mode = 'undo' THEN due ELSE now() END
         WHERE id = $1 AND cancel_requested_at IS NULL",
        job.0,
        now
    )
    .execute(&mut **tx)
    .await?;
    Ok(Ok(state))
}
