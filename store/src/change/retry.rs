//! Retry: a new job that tries a failed or cancelled one again.

use super::rows::{Kept, NewJob, delete_job, insert_job, keep_reply, lock_resource, read_resource, stand_in};
use crate::accept::{Accepted, AcceptedNow, IdempotencyKey, Origin, Refusal, Reply};
use crate::changes;
use crate::rows::StepRow;
use crate::{Store, StoreError};
use chrono::TimeDelta;
use rhyzome_model::ids::{JobId, TenantId};
use rhyzome_model::job::{Action, JobState};

impl Store {
    /// A new job that tries a failed or cancelled one again, where its resource has not moved on since.
    pub async fn accept_retry(
        &self,
        tenant: &TenantId,
        job: JobId,
        new_job: JobId,
        step_names: &[&'static str],
        idempotency: Option<&IdempotencyKey>,
        origin: &Origin,
    ) -> Result<Result<Reply, Refusal>, StoreError> {
        if let Some(key) = idempotency
            && let Some(earlier) = self.idempotency_find(tenant, key).await?
        {
            return Ok(earlier);
        }
        let answer = self
            .retry_once(tenant, job, new_job, step_names, idempotency, origin)
            .await?;
        if let (Err(_), Some(key)) = (&answer, idempotency)
            && let Some(earlier) = self.idempotency_find(tenant, key).await?
        {
            return Ok(earlier);
        }
        Ok(answer)
    }

    async fn retry_once(
        &self,
        tenant: &TenantId,
        job: JobId,
        new_job: JobId,
        step_names: &[&'static str],
        idempotency: Option<&IdempotencyKey>,
        origin: &Origin,
    ) -> Result<Result<Reply, Refusal>, StoreError> {
        let Some(old) = self.job_get(job).await?.filter(|j| j.tenant == *tenant) else {
            return Ok(Err(Refusal::NotFound));
        };
        let mut tx = self.pool.begin().await?;
        let Some((before, now)) = lock_resource(&mut tx, tenant, old.kind, old.resource_id).await? else {
            return Ok(Err(Refusal::NotRetryable {
                detail: format!("the {} is gone", old.kind),
            }));
        };
        if !matches!(old.state, JobState::Failed | JobState::Cancelled) {
            return Ok(Err(Refusal::NotRetryable {
                detail: format!("the job is {}", old.state.shown()),
            }));
        }
        if old.action == Action::Repair || stand_in(&mut tx, before.id).await?.is_some() {
            return Ok(Err(Refusal::NotRetryable {
                detail: "it is made anew by itself, for as long as what it mends is found amiss".to_owned(),
            }));
        }
        if before.deleting {
            let job = delete_job(&mut tx, before.id).await?;
            return Ok(Err(Refusal::Deleting { job }));
        }
        if let Some(open) = before.active_job {
            return Ok(Err(Refusal::NotRetryable {
                detail: format!("the {}'s job {} is not done yet", old.kind, open.id),
            }));
        }
        // Of what was never made every job left the same undone: it is made as it is wanted by now.
        if before.applied.is_some()
            && (before.generation != old.generation || before.observed_generation >= old.generation)
        {
            let detail = if before.generation == old.generation {
                format!(
                    "a later job has made generation {} of the {} so",
                    old.generation, old.kind
                )
            } else {
                format!(
                    "the {} has moved on since: it is at generation {}",
                    old.kind, before.generation
                )
            };
            return Ok(Err(Refusal::NotRetryable { detail }));
        }
        sqlx::query!(
            "UPDATE resources SET reason = NULL, updated_at = $2 WHERE id = $1",
            before.id.0,
            now
        )
        .execute(&mut *tx)
        .await?;
        let job = insert_job(
            &mut tx,
            NewJob {
                id: new_job,
                resource: &before,
                action: before.retried(old.action),
                spec: &before.spec,
                generation: before.generation,
                // Whether it waits for a reference, dispatch judges.
                state: JobState::Queued,
                steps: step_names.iter().map(|s| StepRow::pending(s)).collect(),
                deadline: Some(now + TimeDelta::seconds(origin.deadline_s)),
                origin,
                retry_of: Some(old.id),
                pinned: None,
                now,
            },
        )
        .await?;
        let resource = read_resource(&mut tx, before.id).await?;
        let accepted = Accepted {
            resource,
            job: Some(job),
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
        changes::write(
            &mut tx,
            changes::accepted(&accepted.resource, accepted.job.as_ref()),
        )
        .await?;
        tx.commit().await?;
        Ok(Ok(Reply {
            accepted,
            now: AcceptedNow::Now,
        }))
    }
}
