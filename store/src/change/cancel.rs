//! Cancel: at once where no host has the job, else by a mark that dispatch turns to undo.

use super::rows::{Kept, audit_cancel, keep_reply, read_resource};
use super::types::Cancelled;
use crate::accept::{Accepted, AcceptedNow, IdempotencyKey, Origin, Refusal, Reply};
use crate::changes::{self, Change};
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::change::What;
use rhyzome_model::ids::{JobId, TenantId};
use rhyzome_model::job::{Action, JobState};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

impl Store {
    /// Cancels a job: at once where it was never dispatched, else by an order in mode undo. Asking twice is the same.
    pub async fn accept_cancel(
        &self,
        tenant: &TenantId,
        job: JobId,
        idempotency: Option<&IdempotencyKey>,
        origin: &Origin,
    ) -> Result<Result<Reply, Refusal>, StoreError> {
        if let Some(key) = idempotency
            && let Some(earlier) = self.idempotency_find(tenant, key).await?
        {
            return Ok(earlier);
        }
        let answer = self.cancel_once(tenant, job, idempotency, origin).await?;
        // The same request, sent twice, may have been refused because of itself: then its first answer counts.
        if let (Err(_), Some(key)) = (&answer, idempotency)
            && let Some(earlier) = self.idempotency_find(tenant, key).await?
        {
            return Ok(earlier);
        }
        Ok(answer)
    }

    async fn cancel_once(
        &self,
        tenant: &TenantId,
        job: JobId,
        idempotency: Option<&IdempotencyKey>,
        origin: &Origin,
    ) -> Result<Result<Reply, Refusal>, StoreError> {
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
        let state = match cancel_locked(&mut tx, &[job.0], now).await?.pop() {
            Some(Ok(cancelled)) => cancelled.state,
            Some(Err(refusal)) => return Ok(Err(refusal)),
            // Forgotten since it was read: it was done.
            None => return Ok(Err(Refusal::NotFound)),
        };
        audit_cancel(&mut tx, tenant, origin, row.resource_id, job, now).await?;
        let accepted = Accepted {
            resource: read_resource(&mut tx, row.resource_id).await?,
            job: crate::jobs::job_in(&mut tx, job).await?,
            addresses: None,
        };
        if let Some(key) = idempotency
            && matches!(
                keep_reply(&mut tx, tenant, key, &accepted).await?,
                Kept::TakenMeanwhile
            )
        {
            return self.answer_of_the_first(tx, tenant, key).await;
        }
        let told = vec![
            Change::job(tenant, job, state, What::Updated),
            Change::resource(tenant, row.kind, row.resource_id, What::Updated),
        ];
        changes::write(&mut tx, told).await?;
        tx.commit().await?;
        Ok(Ok(Reply {
            accepted,
            now: AcceptedNow::Now,
        }))
    }
}

/// Cancels the open jobs of one resource, whose row is locked, all together; says how that leaves each.
pub(super) async fn cancel_locked(
    tx: &mut Transaction<'_, Postgres>,
    jobs: &[Uuid],
    now: DateTime<Utc>,
) -> Result<Vec<Result<Cancelled, Refusal>>, StoreError> {
    let rows = sqlx::query!(
        "SELECT id, seq, state, action, host, resource_id, created_at FROM jobs WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE",
        jobs
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut answers = Vec::with_capacity(rows.len());
    let mut nowhere = Nowhere::default();
    let mut marked = Vec::new();
    for row in &rows {
        let state = crate::rows::parse("jobs", &row.state, JobState::parse)?;
        let action = crate::rows::parse("jobs", &row.action, Action::parse)?;
        let answer = if state.is_done() {
            Err(Refusal::JobDone)
        } else if row.host.is_some() {
            if action.forward_only() {
                Err(Refusal::NotCancellable)
            } else {
                marked.push(row.id);
                Ok(state)
            }
        } else if action == Action::Delete {
            Err(Refusal::NotCancellable)
        } else {
            nowhere.take(row.id, row.seq, action);
            Ok(JobState::Cancelled)
        };
        answers.push(answer.map(|state| Cancelled {
            job: JobId(row.id),
            action,
            state,
            created_at: row.created_at,
        }));
    }
    if let Some(row) = rows.first().filter(|_| !nowhere.ids.is_empty()) {
        nowhere.end(tx, row.resource_id, now).await?;
    }
    if marked.is_empty() {
        return Ok(answers);
    }
    sqlx::query!(
        "UPDATE jobs SET cancel_requested_at = $2, due = CASE WHEN mode = 'undo' THEN due ELSE now() END
         WHERE id = ANY($1) AND cancel_requested_at IS NULL",
        &marked,
        now
    )
    .execute(&mut **tx)
    .await?;
    Ok(answers)
}

/// Jobs of one resource that no host has: never dispatched, or their last order was reported released. They end at once.
#[derive(Default)]
struct Nowhere {
    ids: Vec<Uuid>,
    /// The last in line, and the last update: what the resource gives as its reason.
    last: Option<(i64, Uuid)>,
    last_update: Option<(i64, Uuid)>,
}

impl Nowhere {
    fn take(&mut self, id: Uuid, seq: i64, action: Action) {
        self.ids.push(id);
        self.last = self.last.max(Some((seq, id)));
        if action == Action::Update {
            self.last_update = self.last_update.max(Some((seq, id)));
        }
    }

    async fn end(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        resource: Uuid,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE jobs SET state = 'cancelled', cancel_requested_at = coalesce(cancel_requested_at, $2), ended_at = $2,
                    due = NULL, waiting = NULL
             WHERE id = ANY($1)",
            &self.ids,
            now
        )
        .execute(&mut **tx)
        .await?;
        sqlx::query!("DELETE FROM job_resources WHERE job_id = ANY($1)", &self.ids)
            .execute(&mut **tx)
            .await?;
        let reason = |job: Option<(i64, Uuid)>| {
            job.map(|(_, job)| {
                serde_json::json!({
                    "code": "CANCELLED", "detail": "The request was cancelled before anything was done.", "job": job
                })
            })
        };
        sqlx::query!(
            "UPDATE resources SET reason = CASE WHEN applied IS NULL THEN $2 ELSE $3 END, updated_at = $4
             WHERE id = $1 AND (applied IS NULL OR $3::jsonb IS NOT NULL) AND stand_in IS NULL",
            resource,
            reason(self.last),
            reason(self.last_update),
            now
        )
        .execute(&mut **tx)
        .await?;
        crate::quotas::jobs_ended(tx, &[resource]).await?;
        crate::settle::wake(tx, &[resource], &[]).await
    }
}
